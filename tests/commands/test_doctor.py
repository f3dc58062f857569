"""vae-doctor: flags, what is printed, exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vaelab.commands import doctor, entry
from vaelab.experiments.doctor import examine as examining
from vaelab.experiments.doctor.finding import Finding, note, ok, wrong
from vaelab.runs.interruption import Interrupted

SMALL = ("data=digits", "debug=fast", "logger=none", "trainer=cpu")
DIFFERENCE = replace(wrong("repeatability", "not the same", "a breaks it"), is_difference=True)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "here"


def run(*argv: str) -> int:
    return entry.run("train", doctor.task, command="vae-doctor", flags=doctor.FLAGS, argv=argv)


@pytest.mark.parametrize(
    "findings, status",
    [
        ([ok("a", "fine"), note("b", "well")], 0),
        ([ok("a", "fine"), wrong("b", "bad", "do this")], 1),
        ([DIFFERENCE], 3),
        ([wrong("b", "bad", "do this"), DIFFERENCE], 3),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_exit_statuses(
    findings: list[Finding],
    status: int,
    flags: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def examine(*_: Any, **__: Any) -> Iterator[Any]:
        print("what a library has to say")
        yield "disk", findings

    monkeypatch.setattr(examining, "examine", examine)
    assert run(*flags) == status
    out, err = capsys.readouterr()
    num_wrong = sum(finding.status == "wrong" for finding in findings)
    assert (f"{num_wrong} thing" in err) == (status != 0)
    if flags:
        content = json.loads(out)
        assert content["exit_status"] == status
        assert [(f["group"], f["found"], f["advice"]) for f in content["findings"]] == [("disk", f.found, f.advice) for f in findings]  # fmt: skip
    else:
        assert all(finding.found in out and (finding.advice or "") in out for finding in findings)
        assert ("nothing is wrong" in out) == (status == 0)


@pytest.mark.parametrize("signum, status", [(2, 130), (15, 75)])
def test_stopped(
    signum: int, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> Iterator[Any]:
        yield "code", [ok("a", "fine")]
        raise Interrupted(signum)

    monkeypatch.setattr(examining, "examine", stopped)
    assert run() == status
    assert "vae-doctor: stopped by" in capsys.readouterr().err


@pytest.mark.parametrize(
    "typed, message",
    [
        ("latent_dmi=3", "vae-doctor: latent_dmi=3: unknown setting (did you mean 'latent_dim'?)\n"),
        ("--quik", "vae-doctor: --quik: unknown flag (did you mean '--quick'?)\n"),
        ("trainer.max_steps=0", "vae-doctor: trainer.max_steps=0: must be a positive integer or -1\n"),
        ("init_from=nowhere", "vae-doctor: init_from=nowhere: "),
    ],
)
def test_refused_as_vae_train_refuses(
    typed: str, message: str, capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    assert run(typed) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)
    assert list(here.iterdir()) == []


def test_what_only_the_parts_know_is_refused_before_anything_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*SMALL, "data.pixel_range=[-1,1]") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "vae-doctor: data.pixel_range=[-1.0, 1.0]: likelihood=bernoulli" in err


def test_the_fallback_is_looked_at(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from vaelab.data import sources

    monkeypatch.setattr(sources, "probe", lambda urls: (None, [f"{url}: no route" for url in urls]))
    assert run("experiment=quickstart", "logger=none", "--quick", "--json") == 0
    found = {f["name"]: f["found"] for f in json.loads(capsys.readouterr().out)["findings"]}
    assert "data=digits is used instead" in found["data set"]
    assert found["splits"].startswith("1,437 train, 0 val, 360 test")


def test_all_of_it_leaves_nothing(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tempfile.tempdir", str(temporary))
        assert run(*SMALL) == 0
    out, err = capsys.readouterr()
    assert "3 steps twice: losses and final weights are the same bit for bit" in " ".join(out.split())
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "... 3 steps, run 2 of 2" in err
    assert list(here.iterdir()) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("argv, status", [(["--help"], 0), (["latent_dmi=3"], 2), (["seed=-1"], 2)])
def test_answered_without_torch(argv: list[str], status: int) -> None:
    script = (
        "import sys; from vaelab.commands.doctor import main; status = main()\n"
        "print('heavy:', sorted({'torch', 'lightning', 'matplotlib', 'wandb'} & {*sys.modules})); sys.exit(status)"
    )
    source = str(Path(entry.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script, *argv], env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert (done.returncode, done.stdout.splitlines()[-1]) == (status, "heavy: []")
    assert ("--quick  " in done.stdout) == (status == 0)
