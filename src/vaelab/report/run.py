"""What the page of one run shows."""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaelab.errors import SettingError
from vaelab.report import charts, tables
from vaelab.report.charts import Chart, Series
from vaelab.report.page import Content
from vaelab.report.pictures import KNOWN, Picture
from vaelab.report.tables import Table
from vaelab.runs import RunDirectory, metrics, read_manifest, read_yaml
from vaelab.runs.cards import Card, decimals, plus_minus, shown, typed
from vaelab.runs.files import read_regular
from vaelab.runs.identity import canonical, counts
from vaelab.runs.metrics import STEP
from vaelab.runs.per_image import per_image
from vaelab.runs.selection import apart, heading, protocol_line
from vaelab.runs.status import Status, StatusRecord, read_status
from vaelab.runs.table import DEAD, Row, flatten, read_row, score_decimals

#: what a curve shows: title, metrics, unit, and the part of the page
PANELS = (
    ("ELBO", ("train/elbo", "val/elbo"), "nats per image"),
    ("Rate", ("train/rate", "val/rate"), "nats per image"),
    ("Distortion", ("train/distortion", "val/distortion"), "nats per image"),
    ("Loss", ("train/loss",), "loss"),
    ("Active units", ("val/active_units",), "latent dimensions"),
    ("Learning rate", ("optim/lr",), "learning rate"),
    ("Beta", ("optim/beta",), "weight of the rate"),
    ("Gradient norm", ("optim/grad_norm",), "norm"),
    ("Skipped steps", ("optim/skipped_steps",), "steps"),
    ("Throughput", ("time/images_per_second",), "images per second"),
)
LABELS = {
    "nll": "These are bounds or estimates of the log-likelihood of the data.",
    "grey-bce": "This is no log-likelihood: binary cross-entropy on grey pixels, which stands beside none.",
    "raw-density": "This is no log-likelihood: a density on data without dequantisation, which is unbounded.",
}
#: metrics that are compared by their whole protocol
LIKELIHOODS = ("elbo", "nll", "rate", "distortion")
#: of the protocol of other numbers, what those side by side share
OF_THE_DATA = ("data", "binarize", "dequantize", "pixel_range", "num_levels", "noise_seed", "selected_by", "given", "precision")  # fmt: skip
MOST_OTHERS = 24  # charts of metrics that no panel has
MOST_SETTINGS = 2_000
TAIL, TAIL_LINES = 64_000, 80  # bytes and lines of console.log
BINS = 40
SECTIONS = ("git", "code", "platform", "device", "threads", "variables", "data", "parent", "sweep", "tracker", "lock")  # fmt: skip
MAIN = ("python", "vaelab", "torch", "lightning", "hydra-core", "numpy", "wandb")


@dataclass(frozen=True)
class Tile:
    """A number; ``own`` is what its protocol has beyond that of its neighbours."""

    metric: str
    value: str
    errors: str
    how: str
    own: str
    warned: bool


@dataclass(frozen=True)
class Numbers:
    """Cards of one protocol.

    Attributes:
        title: split, images and label.
        protocol: in one line.
        said: what the label means.
        tiles: the numbers, one by one.
        warnings: of which numbers, and what.
        table: of all of them.
        curves: K-curves, a line each.
    """

    title: str
    protocol: str
    said: str
    tiles: tuple[Tile, ...]
    warnings: tuple[tuple[str, str], ...]
    table: Table
    curves: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """A line of the configuration. ``default`` is None where it is not known, or the setting has none."""

    key: str
    value: str
    default: str | None
    changed: bool
    moves_numbers: bool


@dataclass(frozen=True)
class Command:
    """A command line, and what it does."""

    line: str
    does: str


def content(run: RunDirectory, where: str) -> Content:
    """Everything that the page says of a run.

    Args:
        run: that was opened: what is in it stays in it.
        where: the directory, as it is typed in commands.
    """
    row = read_row(run)
    damage = list(row.damage)
    manifest = _manifest(run)
    record = _status(run)
    logged = _metrics(run)
    selected = manifest.get("best_step")
    selected = float(selected) if isinstance(selected, int | float) and not isinstance(selected, bool) else None  # fmt: skip
    constant, drawn = _curves(logged, selected)
    dimensions, rates = _dimensions(run, damage)
    histograms = _per_image(run, row)
    console = _tail(run.console_file)
    changed_known, settings = _settings(run, row, damage)
    values = {
        "title": row.name,
        "kind": "run",
        "status": row.status,
        "facts": _facts(row, manifest, record),
        "error": row.error,
        "damage": damage,
        "numbers": [_numbers(group) for group in _of_one_protocol(row.cards)],
        "constant": constant,
        "dimensions": dimensions,
        "settings": settings[:MOST_SETTINGS],
        "settings_left_out": max(0, len(settings) - MOST_SETTINGS),
        "defaults_known": changed_known,
        "overrides": [charts.short(text, 500) for text in row.overrides[:500]],
        "environment": _environment(manifest),
        "versions": _versions(manifest),
        "patch": _patch(run),
        "commands": _commands(row, where),
        "console": console,
        "traceback": _traceback(console) if row.status == Status.FAILED.value else "",
    }
    return Content("run.html", values, charts.numbered([*drawn, *histograms, *rates]), _pictures(run))


def _manifest(run: RunDirectory) -> dict[str, Any]:
    try:
        return read_manifest(run)
    except SettingError:  # the row has said so
        return {}


def _status(run: RunDirectory) -> StatusRecord | None:
    try:
        return read_status(run.status_file)
    except SettingError:  # the row has said so
        return None


def _metrics(run: RunDirectory) -> list[dict[str, float]]:
    try:
        return metrics.read(run.metrics_file) if run.metrics_file.is_file() else []
    except (SettingError, OSError):  # the row has said so
        return []


def _facts(row: Row, manifest: Mapping[str, Any], record: StatusRecord | None) -> list[tuple[str, str]]:
    """What is said of the run at its head."""
    git = manifest.get("git") if isinstance(manifest.get("git"), dict) else {}
    assert isinstance(git, dict)
    commit = str(git.get("commit") or "")[:9]
    progress = record.progress if record is not None else None
    pairs = [
        ("experiment", row.experiment),
        ("seed", row.seed),
        ("began", str(manifest.get("created") or "").replace("T", " ")[:19] or None),
        ("took", None if row.seconds is None else _span(row.seconds)),
        ("steps", manifest.get("steps") or (None if progress is None else f"{progress[0]} of {progress[1]}")),
        (
            f"best {row.score_name}",
            None if row.score is None else f"{row.score:.{score_decimals(row.score_name)}f}",
        ),
        ("commit", commit + (" with changes" if git.get("dirty") else "") if commit else None),
        ("identity", (row.identity or "")[:12] or None),
        ("weights", str(manifest.get("weights") or "")[:12] or None),
        ("sweep", (row.sweep or {}).get("name")),
    ]
    return [(name, charts.short(str(value), 200)) for name, value in pairs if value is not None]


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _of_one_protocol(cards: Sequence[Card]) -> list[list[Card]]:
    """Cards that may stand side by side: no likelihood stands in the table of another protocol. What an estimator says of one set of images beside likelihoods
    (active units, probes, ...) has settings of its own and is no rival of each other.
    """
    groups: dict[str, list[Card]] = {}
    for card in cards:
        kept = card.protocol if card.metric in LIKELIHOODS else {k: card.protocol.get(k) for k in OF_THE_DATA}
        kind = "" if card.metric in LIKELIHOODS else card.estimator
        groups.setdefault(canonical([kind, kept, card.split, card.num_images]), []).append(card)
    return list(groups.values())


def _numbers(cards: Sequence[Card]) -> Numbers:
    first = cards[0]
    shared, own = apart([card.protocol for card in cards])
    # what a number about codes, samples or classes is, no label of a likelihood says
    label = str(shared.get("label", "")) if any(card.units == "nats" for card in cards) else ""
    title = " · ".join(
        [
            *([] if first.metric in LIKELIHOODS else [first.estimator]),
            heading({"split": first.split, "num_images": first.num_images}),
            *([label] if label else []),
        ]
    )
    texts: dict[str, list[str]] = {}
    tiles = []
    for card, fields in zip(cards, own):
        errors = [
            f"{plus_minus(error, decimals(card))} {of}"
            for error, of in ((card.se_images, "images"), (card.se_mc, "mc"))
            if error is not None
        ]
        units = "nats per image" if card.units == "nats" else card.units
        how = f"{card.estimator}, K = {card.num_samples}" if card.num_samples > 1 else card.estimator
        floor = "" if card.floor is None else f" · floor {shown(card, card.floor)}"
        tiles.append(
            Tile(
                card.metric,
                shown(card, card.value),
                ", ".join(errors),
                f"{units} · {how}{floor}",
                protocol_line({f"protocol.{key}": value for key, value in fields.items()}),
                bool(card.warning),
            )
        )
        if card.warning:
            texts.setdefault(card.warning, []).append(card.metric)
    curves = [
        f"{card.metric} ({card.estimator}) by K: "
        + ", ".join(f"{k}: {value:.2f}" for k, value in sorted(card.curve.items(), key=lambda one: int(one[0])))
        for card in cards
        if card.curve
    ]  # fmt: skip
    return Numbers(
        title,
        protocol_line({f"protocol.{key}": value for key, value in sorted(shared.items())}),
        LABELS.get(label, ""),
        tuple(tiles),
        tuple((", ".join(dict.fromkeys(whose)), text) for text, whose in texts.items()),
        tables.of_cards(title, cards),
        tuple(curves),
    )


def _curves(rows: Sequence[Mapping[str, float]], selected: float | None) -> tuple[list[str], list[Chart]]:
    """Metrics that never change, in words, and charts of the others."""
    series: dict[str, Series] = {}
    for name in dict.fromkeys(name for row in rows for name in row if name != STEP):
        points = [(row[STEP], row[name]) for row in rows if name in row]
        series[name] = Series(name, [x for x, _ in points], [y for _, y in points])
    series = {name: one for name, one in series.items() if len(one.x) > 1}
    constant = [f"{name} is {one.y[0]:g} throughout" for name, one in series.items() if len({*one.y}) == 1]
    drawn = {name: one for name, one in series.items() if len({*map(repr, one.y)}) > 1}
    found = []
    panels = [*PANELS, *((name, (name,), name) for name in drawn if not any(name in p[1] for p in PANELS))]
    for title, names, unit in panels[: len(PANELS) + MOST_OTHERS]:
        own = [drawn[name] for name in names if name in drawn]
        if own:
            ends = "; ".join(f"{one.name} ends at {one.y[-1]:.5g}" for one in own)
            mark = selected if any(one.name.startswith("val/") for one in own) else None
            found.append(charts.curves(title, unit, own, f"{ends}.", mark, "curves"))
    return constant, found


def _per_image(run: RunDirectory, row: Row) -> list[Chart]:
    """How the numbers of single images are spread."""
    found = []
    for card in [card for card in row.cards if card.metric in ("elbo", "nll")][:4]:
        pair = per_image(run.path, card)
        if pair is None or len(pair[0]) < 2:
            continue
        import numpy as np  # the page of a run without values does without

        index, values = pair
        finite = values[np.isfinite(values)]
        if len(finite) < 2 or finite.min() == finite.max():
            continue
        counts, edges = np.histogram(finite, bins=BINS)
        worst = np.argsort(values if card.metric == "elbo" else -values)[:5]
        label = card.protocol.get("label")
        hardest = ", ".join(f"{int(index[i])} ({values[i]:.2f})" for i in worst)
        caption = (
            f"{len(values)} images of {card.split}, mean {card.value:.2f}, standard deviation {finite.std(ddof=1):.2f}, "
            f"median {np.median(finite):.2f}. The hardest, by index: {hardest}."
        )
        title = f"{card.split} {card.metric} of single images ({card.estimator}, {label})"
        found.append(
            charts.histogram(
                title, f"{card.metric} (nats)", edges.tolist(), counts.tolist(), caption, "images"
            )
        )
    return found


def _dimensions(run: RunDirectory, damage: list[str]) -> tuple[list[Table], list[Chart]]:
    """What evaluations of the latent space have measured, dimension by dimension; of more than eight the first by name."""
    found: list[Table] = []
    drawn: list[Chart] = []
    for path in sorted(run.evaluations.glob("*/dimensions.csv"))[:8]:
        name = f"evaluations/{path.parent.name}"
        try:
            rows = list(csv.DictReader(io.StringIO(read_regular(path, 8 << 20).decode())))[:20_000]
            layers: dict[str, list[dict[str, str]]] = {}
            for row in rows:
                layers.setdefault(row["layer"], []).append(row)
            for layer, own in layers.items():
                title = "Rate of each dimension" + (f", layer {layer}" if len(layers) > 1 else "")
                rated = sorted(((float(r["rate"]), r) for r in own if r["rate"]), key=lambda one: -one[0])
                if rated:
                    drawn.append(_rates(title, name, rated))
                columns = [c for c in own[0] if c != "layer" and any(r.get(c) for r in own)]
                cells = [[_csv_cell(r[c]) for c in columns] for r in own]
                heads = [tables.Column(c.replace("_", " "), c != "active") for c in columns]
                found.append(tables.table(f"{title} ({name})", heads, cells))
        except (SettingError, OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error):
            damage.append(f"{name}/dimensions.csv: unreadable")
    return found, drawn


def _rates(title: str, name: str, rated: Sequence[tuple[float, Mapping[str, str]]]) -> Chart:
    x = [row["dimension"] for _, row in rated]
    active = [row.get("active") == "true" for _, row in rated]
    known = any(row.get("active") for _, row in rated)
    series = [Series("rate", x, [rate for rate, _ in rated])]
    if known:
        series = [
            Series(word, x, [rate if on is state else math.nan for (rate, _), on in zip(rated, active)])
            for word, state in (("active", True), ("not active", False))
        ]
    said = f", {sum(active)} of {len(rated)} active" if known else ""
    caption = f"The largest first, from {name}: {sum(rate for rate, _ in rated):.2f} nats in all{said}; the largest is {rated[0][0]:.2f}."
    return charts.bars(title, "rate (nats)", "latent dimension", series, caption, "latents")


def _csv_cell(text: str) -> tables.Cell:
    try:
        value = float(text)
    except ValueError:
        return tables.Cell({"true": "yes", "false": "no"}.get(text, text))
    return tables.Cell(f"{value:.4g}", value if math.isfinite(value) else None)


def _pictures(run: RunDirectory) -> tuple[Picture, ...]:
    found = [Picture(path, f"figures/{path.name}", "figures") for path in sorted(run.figures.glob("*.png"))]
    for path in sorted(run.evaluations.glob("*/*.png")):
        found.append(Picture(path, f"evaluations/{path.parent.name}/{path.name}", path.parent.name))
    place = {name: i for i, name in enumerate(KNOWN)}
    return tuple(sorted(found, key=lambda p: (p.group != "figures", p.group, place.get(p.kind, 99), p.name)))


def _settings(run: RunDirectory, row: Row, damage: list[str]) -> tuple[bool, list[Setting]]:
    """The configuration, what differs from the defaults first. Runs of versions that did not note the defaults say what was typed instead."""
    config = flatten(dict(row.config)) if row.config else {}
    defaults: dict[str, Any] | None = None
    if run.defaults_file.is_file():
        try:
            found = read_yaml(run.defaults_file)
            defaults = flatten(found) if isinstance(found, dict) else None
        except SettingError:
            damage.append(f"{run.defaults_file.name}: unreadable")
    typed_keys = {text.lstrip("+~").partition("=")[0].replace("/", ".") for text in row.overrides}
    settings = []
    for key, value in config.items():
        if defaults is None:
            changed = any(key == one or key.startswith(f"{one}.") for one in typed_keys)
            settings.append(Setting(key, _value(value), None, changed, counts(key)))
        else:
            known = key in defaults
            changed = not known or canonical(defaults[key]) != canonical(value)
            default = _value(defaults[key]) if known else None
            settings.append(Setting(key, _value(value), default, changed, counts(key)))
    settings.sort(key=lambda one: (not one.changed, not one.moves_numbers))
    return defaults is not None, settings


def _value(value: Any) -> str:
    return charts.short(typed(value), 500)


def _environment(manifest: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the manifest says of code, machine and data: a heading, and pairs below it."""
    found = []
    for name in SECTIONS:
        value = manifest.get(name)
        if value in (None, {}, []):
            continue
        flat = flatten(value, depth=6) if isinstance(value, dict) else {name: value}
        found.append((name, [(key, _value(v)) for key, v in list(flat.items())[:100]]))
    plain = [(key, _value(manifest[key])) for key in ("precision", "secrets") if manifest.get(key)]
    return found + ([("other", plain)] if plain else [])


def _versions(manifest: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The versions that matter most, and all others."""
    record = manifest.get("versions")
    versions = {str(k): str(v) for k, v in record.items()} if isinstance(record, dict) else {}
    platform = manifest.get("platform")
    if isinstance(platform, dict) and platform.get("python"):
        versions.setdefault("python", str(platform["python"]))
    return [(n, versions[n]) for n in MAIN if n in versions], [v for v in list(versions.items())[:2000] if v[0] not in MAIN]  # fmt: skip


def _patch(run: RunDirectory) -> str:
    """What the working tree had beyond its commit, as far as it fits."""
    for path in sorted(run.code.glob("*.patch")):
        try:
            text = read_regular(path, 8 << 20).decode(errors="replace")
        except (SettingError, OSError):
            continue
        return text if len(text) <= 100_000 else f"{text[:100_000]}\n... the rest is in code/{path.name}"
    return ""


def _commands(row: Row, where: str) -> list[Command]:
    """What can be typed next; what the run needs first comes first."""
    directory = shlex.quote(where)
    assigned = shlex.quote(f"run={where}")
    resume = Command(f"vae-resume {directory}", "go on with it, from its newest checkpoint that is whole")
    again = Command(f"vae-reproduce {directory}", "run it again from its record, and compare")
    typed_again = Command(
        " ".join(["vae-train", *map(shlex.quote, row.overrides)]), "a new run of the same settings"
    )
    if row.status == Status.COMPLETED.value:
        start = shlex.quote(f"init_from={where}")
        return [
            Command(f"vae-evaluate {assigned}", "measure it again; settings that are typed here differ on its card"),
            Command(f"vae-evaluate {assigned} estimator=latents", "what the code has learned"),
            Command(f"vae-sample {assigned}", "its pictures again, and samples as files; seed=1 for other noise"),
            again,
            Command(f"vae-train {start}", "a new run from its weights"),
            typed_again,
        ]  # fmt: skip
    if row.status == Status.RUNNING.value:
        return [again, typed_again]
    if row.status in (Status.INTERRUPTED.value, Status.PRUNED.value, Status.FAILED.value, DEAD):
        return [resume, again, typed_again]
    return [typed_again]


def _tail(path: Path) -> str:
    """The last lines that the screen showed."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, io.SEEK_END)
            file.seek(max(0, end - TAIL))
            text = file.read(TAIL).decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(charts.short(line, 500) for line in text.splitlines()[-TAIL_LINES:])


def _traceback(console: str) -> str:
    """The last traceback of what the screen showed, with those of its causes; without one the last lines."""
    start = end = len(console)
    while (found := console.rfind("Traceback (most recent call last)", 0, end)) >= 0:
        start = end = found
        before = console[:found].rstrip().rpartition("\n")[2]
        if not (
            "exception" in before and before.endswith(":")
        ):  # "... was the direct cause of the following exception:"
            break
    return console[start:] if start < len(console) else "\n".join(console.splitlines()[-20:])
