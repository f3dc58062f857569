"""Every run ends with its page, which costs nobody the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pages import Page, check_conventions
from vaelab.errors import RunFailed
from vaelab.experiments.evaluate import evaluate
from vaelab.experiments.request import Request
from vaelab.experiments.train import train
from vaelab.report import page
from vaelab.runs import find_runs, read_status, read_yaml

Compose = Callable[..., dict[str, Any]]
TRAIN = ("data=digits", "latent_dim=3", "encoder.hidden=[24]", "decoder.hidden=[24]", "trainer=cpu", "trainer.max_epochs=1",
         "estimator=elbo", "trainer.enable_progress_bar=false")  # fmt: skip


@pytest.fixture(autouse=True)
def _without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two megabytes less to look through."""
    monkeypatch.setattr("vaelab.report.page.plotly", lambda: "H4sI")


def test_a_run_ends_with_its_page_and_an_evaluation_makes_it_anew(compose: Compose) -> None:
    defaults = compose("latent_dim=64")
    run = train(compose(*TRAIN), Request(defaults=defaults)).directory
    assert read_yaml(run / "defaults.yaml") == defaults
    seen = Page.of(run / "report.html")
    check_conventions(seen)
    assert "completed" in seen.text  # made after the status was written
    assert ["latent_dim", "3", "64", "differs"] in seen.table("settings")
    assert len(seen.all("img")) == len(list((run / "figures").glob("*.png"))) > 3
    assert "binarize=threshold" not in seen.text
    evaluate(
        compose(f"run={run}", "estimator=elbo", "binarize=threshold", "num_images=50", config_name="evaluate")
    )
    assert "test · 50 images · nll" in Page.of(run / "report.html").text


def test_without_it_there_is_none_and_an_evaluation_makes_none(compose: Compose) -> None:
    run = train(compose(*TRAIN, "report=false")).directory
    evaluate(compose(f"run={run}", "estimator=elbo", "num_images=50", config_name="evaluate"))
    assert not (run / "report.html").exists()


def test_of_a_run_that_failed_the_page_says_why(compose: Compose, tmp_path: Path) -> None:
    with pytest.raises(RunFailed):
        train(compose(*TRAIN, "optimizer.lr=1e30", "optimizer.max_skipped=2"))
    (run,) = find_runs(tmp_path / "logs")
    text = Page.of(run.path / "report.html").text
    assert "failed" in text
    assert "FloatingPointError" in text
    assert "Traceback (most recent call last)" in text
    assert f"vae-resume {run.path}" in text


def test_a_page_that_cannot_be_made_costs_nobody_the_run(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "render", full)
    run = train(compose(*TRAIN)).directory
    assert read_status(run / "status.json").status == "completed"
    assert (
        capsys.readouterr().out.splitlines()[-1]
        == f"no report.html: OSError: [Errno 28] No space left on device; vae-report {run} tries again"
    )
