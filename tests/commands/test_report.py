from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recorded import a_run, card_of
from vaelab.commands.report import main
from vaelab.report import write


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    a_run(tmp_path / "logs", "a", [card_of([90.0, 92.0])])
    return Path("logs/a")


def test_it_writes_pages_and_says_where(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "logs"]) == 0
    assert capsys.readouterr().out.splitlines() == ["logs/a/report.html", "logs/report.html"]
    assert "<h1>a</h1>" in (run / "report.html").read_text(encoding="utf-8")
    assert 'href="a/report.html"' in Path("logs/report.html").read_text(encoding="utf-8")
    assert main([str(run), "--output", "page.html"]) == 0
    assert Path("page.html").read_bytes() == (run / "report.html").read_bytes()


@pytest.mark.parametrize(
    "words, said",
    [
        (["logs/b"], "DIR=logs/b: no such run directory"),
        (["logs/a", "logs/b"], "DIR=logs/b: no such run directory"),
        (["logs", "logs/a", "--output", "x.html"], "--output=x.html: is one file, and takes one directory"),
        (
            ["logs/a", "--output", "none/x.html"],
            "--output=none/x.html: the page cannot be written (No such file or directory)",
        ),
        (["--opne", "logs/a"], "did you mean '--open'?"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(words)
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not list(Path().rglob("*.html"))


def test_a_page_that_cannot_be_made_is_said_and_raises_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a template\nis missing")

    monkeypatch.setattr(write.page, "render", broken)
    write.try_to_report(run)
    assert (
        capsys.readouterr().out
        == "no report.html: RuntimeError: a template is missing; vae-report logs/a tries again\n"
    )
    assert not (run / "report.html").exists()


def test_answered_without_torch_and_hydra(run: Path) -> None:
    script = (
        "import sys; from vaelab.commands.report import main; status = main()\n"
        "print(sorted({'torch', 'lightning', 'hydra', 'omegaconf', 'matplotlib', 'plotly', 'wandb'} & {*sys.modules})); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(run)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, ["logs/a/report.html", "[]"]), done.stderr
