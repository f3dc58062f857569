"""What has changed since a run was recorded: code, lock, versions, data, machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from vaelab.runs.cards import printable
from vaelab.runs.environment import intra_op, lock_record, platform_record, variables, versions
from vaelab.runs.git import git_state

#: distributions that compute: another version of one may round otherwise, or do something else
COMPUTING = re.compile(
    r"torch|torchvision|torchmetrics|lightning|pytorch-lightning|numpy|scipy|scikit-learn|zuko|pillow|triton|nvidia-.*|mkl|intel-.*|safetensors"
)


class Drift(StrEnum):
    SAME = "same"
    COMPATIBLE = "compatible"  # the same mathematics; bits may differ
    DIFFERENT = "different"
    UNKNOWN = "not on record"


STYLES = {Drift.SAME: "green", Drift.COMPATIBLE: "yellow", Drift.DIFFERENT: "red", Drift.UNKNOWN: "dim"}


@dataclass(frozen=True)
class Row:
    """One thing that a number can depend on.

    Attributes:
        what: its name.
        recorded: as the record has it, in words.
        here: as it is here.
        drift: how far that is apart.
    """

    what: str
    recorded: str
    here: str
    drift: Drift


def as_of_now() -> dict[str, Any]:
    """What a manifest that was begun here would say of code, lock, versions, machine and variables."""
    installed = versions()
    return {
        "git": git_state(),
        "vaelab": installed.get("vaelab"),
        "lock": lock_record(),
        "versions": installed,
        "platform": platform_record(),
        "variables": variables(os.environ),
    }


def code_row(recorded: Mapping[str, Any], here: Mapping[str, Any], is_same: bool) -> Row:
    return Row("code", code_words(recorded), code_words(here), Drift.SAME if is_same else Drift.DIFFERENT)


def code_words(manifest: Mapping[str, Any]) -> str:
    """``1f0c2ab + patch``, or the version of an installed package."""
    git, code = manifest.get("git"), manifest.get("code") or {}
    if git is None or git["repository"] != "package" or git["commit"] is None:
        return f"vaelab {manifest.get('vaelab') or '?'}, installed"
    parts = [name for name in ("patch", "untracked") if code.get(name)]
    if git["dirty"] and not parts:
        parts = ["other files"] if code else ["changes"]
    return " + ".join([git["commit"][:9], *parts])


def environment_rows(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> list[Row]:
    """Lock, versions, machine, variables, threads. ``here`` holds what a manifest would."""
    rows = [_plain("lock", _digest(recorded.get("lock")), _digest(here.get("lock")), Drift.COMPATIBLE)]
    rows += _versions(recorded.get("versions") or {}, here.get("versions") or {})
    rows += _machine(recorded.get("platform") or {}, here.get("platform") or {})
    return rows


def data_rows(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> list[Row]:
    """The files that the data are read from, and which image is in which split."""
    rows = []
    for what, name in (("digests", "data"), ("splits", "splits")):
        known, found = recorded.get(what), here[what]
        if not known:
            rows.append(Row(name, "", _short(found), Drift.UNKNOWN))
            continue
        changed = sorted(key for key in {**known, **found} if known.get(key) != found.get(key))
        texts = [recorded["actual"], here["actual"]] if what == "digests" else [_short(known), _short(found)]
        if changed:
            texts = [
                ", ".join(f"{key} {str(side.get(key))[:9]}" for key in changed) for side in (known, found)
            ]
        rows.append(Row(name, texts[0], texts[1], Drift.DIFFERENT if changed else Drift.SAME))
    return rows


def device_rows(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> list[Row]:
    """Device, its number, threads, precision, the switches of determinism: of two manifests."""
    rows = []
    for what, known, found in (
        ("device", _device(recorded["device"]), _device(here["device"])),
        ("vector instructions", recorded["device"].get("cpu_capability"), here["device"].get("cpu_capability")),
        ("threads", intra_op(recorded), intra_op(here)),
        ("precision", recorded["precision"], here["precision"]),
    ):  # fmt: skip
        rows.append(_plain(what, known, found, Drift.DIFFERENT if what == "precision" else Drift.COMPATIBLE))
    known, found = (dict(_leaves(m.get("determinism") or {}, "")) for m in (recorded, here))
    changed = sorted(key for key in {**known, **found} if known.get(key) != found.get(key))
    if not known or not found:
        rows.append(Row("determinism", "", "", Drift.UNKNOWN))
    else:
        texts = [", ".join(f"{key}={side.get(key)}" for key in changed) for side in (known, found)]
        texts = texts if changed else [f"{len(known)} switches"] * 2
        rows.append(Row("determinism", texts[0], texts[1], Drift.COMPATIBLE if changed else Drift.SAME))
    known, found = (together(m.get("stack")) for m in (recorded, here))
    if known != found:
        rows.append(Row("trained", known, found, Drift.COMPATIBLE))
    known, found = (m.get("variables") for m in (recorded, here))
    if known is not None and found is not None:
        names = sorted(key for key in {**known, **found} if known.get(key) != found.get(key))
        texts = [" ".join(f"{key}={side[key]}" for key in names if key in side) for side in (known, found)]
        texts = texts if names else [f"{len(known)} that change numbers"] * 2
        rows.append(Row("variables", texts[0], texts[1], Drift.COMPATIBLE if names else Drift.SAME))
    return rows


def together(stack: Mapping[str, Any] | None) -> str:
    """How many runs were trained as one model, in words; a product of several matrices at once rounds otherwise."""
    return "by itself" if stack is None or stack["members"] == 1 else f"{stack['members']} runs together"


def table(rows: Sequence[Row], title: str, names: tuple[str, str] = ("on record", "here")) -> Table:
    """The rows as the screen shows them, with ``names`` for the two sides."""
    grid = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)  # fmt: skip
    for name in ("", *names, ""):
        grid.add_column(name, overflow="fold")
    for row in rows:
        cells = [Text(printable(text)) for text in (row.what, row.recorded, row.here)]
        grid.add_row(*cells, Text(row.drift.value, style=STYLES[row.drift]))
    return grid


def _plain(what: str, recorded: Any, here: Any, otherwise: Drift) -> Row:
    if recorded is None:
        return Row(what, "", _text(here), Drift.UNKNOWN)
    return Row(what, _text(recorded), _text(here), Drift.SAME if recorded == here else otherwise)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _digest(lock: Mapping[str, str] | None) -> str | None:
    return None if lock is None else lock["sha256"][:9]


def _short(digests: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {str(value)[:6]}" for key, value in digests.items())


def _versions(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Row]:
    """A row for Python and for torch, one for each other that computes and differs, and one for the rest."""
    changed = {key for key in recorded if recorded[key] != here.get(key)}
    for name in ("python", "torch"):
        yield _version(name, recorded.get(name), here.get(name))
    computing = sorted(key for key in changed if COMPUTING.fullmatch(key) and key != "torch")
    for name in computing:
        yield _version(name, recorded[name], here.get(name))
    others = sorted(changed - {*computing, "python", "torch", "vaelab"})
    texts = [" ".join(f"{key} {side.get(key)}" for key in others[:4]) for side in (recorded, here)]
    if len(others) > 4:
        texts = [f"{text} and {len(others) - 4} more" for text in texts]
    same = f"{len(recorded) - len(changed)} versions"
    if recorded:
        known, found = texts if others else (same, same)
        yield Row("other packages", known, found, Drift.COMPATIBLE if others else Drift.SAME)


def _version(name: str, recorded: str | None, here: str | None) -> Row:
    """Another release of the same minor version repairs errors; torch promises equal numbers of none but the same."""
    is_minor = recorded is not None and here is not None and recorded.split(".")[:2] == here.split(".")[:2]
    return _plain(name, recorded, here if here is not None else "not installed", Drift.COMPATIBLE if is_minor else Drift.DIFFERENT)  # fmt: skip


def _machine(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Row]:
    for what, keys in (("system", ("system", "machine")), ("processor", ("cpu",))):
        known, found = (" ".join(_text(side.get(key)) for key in keys).strip() or None for side in (recorded, here))  # fmt: skip
        yield _plain(what, known, found, Drift.DIFFERENT if what == "system" else Drift.COMPATIBLE)


def _device(device: Mapping[str, Any]) -> str | None:
    if "kind" not in device:
        return None
    name = f" {device['name']}" if device.get("name") else ""
    return f"{device.get('number', 1)} x {device['kind']}{name}"


def _leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
