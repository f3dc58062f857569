"""The report of scripts/wandb_report.py: what it is made of, and what is said where it cannot be made."""

from __future__ import annotations

import fnmatch
import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from vaelab.training.loggers import AXIS, OVER_STEPS

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("wandb_report")


class Library:
    """Stands in for W&B's: each class gives its name and what it was called with."""

    def __getattr__(self, name: str) -> Any:
        return lambda *values, **settings: SimpleNamespace(kind=name, values=values, settings=settings)


def test_everything_that_is_asked_of_the_runs_is_something_they_log(script: ModuleType) -> None:
    """Of a project, and of a group of it."""
    made = script.report(Library(), "me/vaelab", "sweep_1", "mine")
    assert (made.settings["entity"], made.settings["project"], made.settings["title"]) == (
        "me",
        "vaelab",
        "mine",
    )
    grids = [block for block in made.settings["blocks"] if block.kind == "PanelGrid"]
    assert len(grids) == len(script.SECTIONS)
    for grid in grids:
        (runs,) = grid.settings["runsets"]
        assert runs.settings["filters"] == "Metric('Group') == 'sweep_1'"
        places = [panel.settings["layout"].settings for panel in grid.settings["panels"]]
        assert len({(place["x"], place["y"]) for place in places}) == len(places), "no two in one place"
        assert all(place["x"] + place["w"] <= 24 for place in places)
    panels = [panel for grid in grids for panel in grid.settings["panels"]]
    assert {panel.settings["x"] for panel in panels if panel.kind == "LinePlot"} == {AXIS}
    asked = [
        key
        for panel in panels
        for setting in ("y", "metrics", "media_keys", "x")
        for key in _listed(panel.settings.get(setting))
        if key != AXIS
    ]
    assert {"val/elbo", "test/rate", "test/distortion", "samples"} <= set(asked)
    assert [key for key in asked if not any(fnmatch.fnmatch(key, known) for known in OVER_STEPS)] == []
    assert any(panel.kind == "RunComparer" for panel in panels)


def _listed(value: Any) -> list[str]:
    return [] if value is None else value if isinstance(value, list) else [value]


@pytest.mark.parametrize("place", ["vaelab", "/vaelab", "me/", "me/vaelab/runs"])
def test_what_names_no_project_is_refused(
    script: ModuleType, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([place]) == 2
    assert "must be ENTITY/PROJECT" in capsys.readouterr().err


def test_without_the_package_it_says_what_to_install(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert script.main(["me/vaelab"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install wandb-workspaces" in line


def test_without_a_key_nothing_is_tried(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("wandb_workspaces", "wandb_workspaces.reports", "wandb_workspaces.reports.v2"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["wandb_workspaces"].reports = sys.modules["wandb_workspaces.reports"]  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules["wandb_workspaces.reports"].v2 = sys.modules["wandb_workspaces.reports.v2"]  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    assert script.main(["me/vaelab"]) == 2
    assert "wandb login" in capsys.readouterr().err
