"""Lay out a report of a W&B project: bounds, rate and distortion, pictures with a step slider, what differs between runs.

    .venv/bin/python scripts/wandb_report.py ENTITY/PROJECT [--group GROUP] [--title TITLE] [--dry-run]

It takes W&B's own package for that, which vaelab does not depend on (`pip install wandb-workspaces`), the network and a key (`wandb login`); the runs have to be on the server
(`wandb sync` uploads those that were kept offline). With --dry-run nothing leaves the machine: what would be saved is printed as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from vaelab.runs.wandb import wandb_key
from vaelab.training.loggers import AXIS

WIDTH, HEIGHT = 12, 8  # of a panel, where the whole page has 24 across

#: kind of panel, its settings, and how much of the page it takes across
Panel = tuple[str, dict[str, Any], int]
CURVES: tuple[Panel, ...] = (
    ("LinePlot", {"title": "ELBO in validation, nats per image", "x": AXIS, "y": ["val/elbo"]}, WIDTH),
    ("LinePlot", {"title": "ELBO in training, nats per image", "x": AXIS, "y": ["train/elbo"]}, WIDTH),
    ("LinePlot", {"title": "rate in validation, nats per image", "x": AXIS, "y": ["val/rate"]}, WIDTH),
    ("LinePlot", {"title": "active units", "x": AXIS, "y": ["val/active_units"]}, WIDTH),
)
TEST: tuple[Panel, ...] = (
    (
        "ScatterPlot",
        {
            "title": "rate and distortion of the test images, nats per image",
            "x": "test/rate",
            "y": "test/distortion",
        },
        WIDTH,
    ),
    ("BarPlot", {"title": "ELBO of the test images, nats per image", "metrics": ["test/elbo"]}, WIDTH),
)
PICTURES: tuple[Panel, ...] = (
    ("MediaBrowser", {"title": "samples over the training", "media_keys": ["samples"], "num_columns": 2}, WIDTH),
    ("MediaBrowser", {"title": "reconstructions under their images", "media_keys": ["reconstructions"], "num_columns": 2}, WIDTH),
    ("MediaBrowser", {"title": "one latent dimension a row", "media_keys": ["traversal"], "num_columns": 2}, WIDTH),
    ("MediaBrowser", {"title": "codes of test images", "media_keys": ["latents"], "num_columns": 2}, WIDTH),
)  # fmt: skip
SETTINGS: tuple[Panel, ...] = (("RunComparer", {"diff_only": "split"}, 2 * WIDTH),)

#: heading, a sentence under it, panels
SECTIONS: tuple[tuple[str, str, tuple[Panel, ...]], ...] = (
    (
        "Bounds",
        "Numbers are comparable where data, binarisation and likelihood are the same: `vae-runs` asks, this page does not.",
        CURVES,
    ),
    ("Test", "Of the selected checkpoint. Left and low is better in rate and distortion.", TEST),
    (
        "Pictures",
        "The same noise and the same images at every step: the slider goes through the training.",
        PICTURES,
    ),
    ("What differs", "Settings in which the chosen runs are not alike.", SETTINGS),
)


def report(wr: Any, place: str, group: str | None, title: str) -> Any:
    """The report, not yet saved.

    Args:
        wr: ``wandb_workspaces.reports.v2``.
        place: ``ENTITY/PROJECT``.
        group: the runs of which are shown (a sweep, an experiment's name); None = all.
        title: of the page.
    """
    entity, _, project = place.partition("/")
    filters = "" if group is None else f"Metric('Group') == '{group}'"
    blocks: list[Any] = []
    for heading, sentence, panels in SECTIONS:
        runs = wr.Runset(name=group or "runs", filters=filters)  # of the report's project
        blocks += [wr.H2(heading), wr.P(sentence), wr.PanelGrid(runsets=[runs], panels=laid_out(wr, panels))]
    return wr.Report(project=project, entity=entity, title=title, blocks=blocks, width="fluid")


def laid_out(wr: Any, panels: Sequence[Panel]) -> list[Any]:
    """The panels, from left to right, in rows."""
    made, x, y = [], 0, 0
    for kind, settings, width in panels:
        if x + width > 2 * WIDTH:
            x, y = 0, y + HEIGHT
        made.append(getattr(wr, kind)(**settings, layout=wr.Layout(x=x, y=y, w=width, h=HEIGHT)))
        x += width
    return made


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("place", metavar="ENTITY/PROJECT")
    parser.add_argument("--group", help="only the runs of this group: a sweep, or an experiment's name")
    parser.add_argument("--title", default="Variational autoencoders")
    parser.add_argument("--dry-run", action="store_true", help="print the report, save nothing")
    arguments = parser.parse_args(argv)
    entity, slash, project = arguments.place.partition("/")
    if not entity or not slash or not project or "/" in project:
        return refused(f"{arguments.place}: must be ENTITY/PROJECT, as in the address of the project's page")
    if "'" in (arguments.group or ""):
        return refused(f"{arguments.group}: the name of a group with a quote cannot be asked for")
    try:
        import wandb_workspaces.reports.v2 as wr  # pyright: ignore[reportMissingImports]
    except ImportError:
        return refused(
            "W&B lays out reports with a package of its own, which is not here: pip install wandb-workspaces "
            "(in .venv: uv pip install wandb-workspaces)"
        )
    if not arguments.dry_run and wandb_key(os.environ) is None:
        return refused(
            "no key is configured, and a report is saved on W&B's server: wandb login, or --dry-run"
        )
    made = report(wr, arguments.place, arguments.group, arguments.title)
    if arguments.dry_run:
        print(
            json.dumps(
                json.loads(made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)), indent=2
            )
        )
        return 0
    try:
        made.save()
    except Exception as error:  # of a library that talks to a server: whatever it is, one line says it
        print(f"the report was not saved: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(made.url)
    return 0


def refused(sentence: str) -> int:
    print(f"wandb_report: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
