"""Commands from Python: a process of its own that prints here, is told once of an interrupt, and says where its run is."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vaelab
from vaelab.commands import process
from vaelab.errors import RunFailed, SettingError
from vaelab.runs import RunDirectory, read_manifest

StandIn = Callable[[str], None]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Lines of Python -> what runs in the place of vae-train."""

    def _stand_in(lines: str) -> None:
        script = tmp_path / "vae-train"
        script.write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n{lines}\n", encoding="utf-8")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(process, "program", lambda command: str(script))

    return _stand_in


def test_the_directory_is_returned_and_what_is_printed_is_printed_here(
    stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(
        "print(*sys.argv[1:])\nprint('± β', file=sys.stderr)\nopen(os.environ['VAELAB_RUN_FILE'], 'w').write('logs/a/b')"
    )
    assert vaelab.train("latent_dim=2", "seed=1") == Path("logs/a/b")
    assert capsys.readouterr().out == "latent_dim=2 seed=1\n± β\n"
    assert process.RUN_FILE not in os.environ


def test_what_a_kernel_sets_for_its_own_screen_is_not_passed_on(
    stand_in: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in process.OF_A_KERNEL:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("DATA_DIR", "elsewhere")
    stand_in(
        f"print(sorted({{'DATA_DIR', *{process.OF_A_KERNEL!r}}} & {{*os.environ}}))\nopen(os.environ['VAELAB_RUN_FILE'], 'w').write('a')"
    )
    vaelab.train()
    assert capsys.readouterr().out == "['DATA_DIR']\n"


def test_a_refusal_and_a_failure_are_exceptions_with_what_was_said(stand_in: StandIn) -> None:
    stand_in("sys.exit('vae-train: latent_dim=-1: must be a positive integer' * (sys.argv[1] == '1') or 2)")
    with pytest.raises(RunFailed, match=r"^vae-train: latent_dim=-1: must be a positive integer$") as failed:
        vaelab.train("1")
    assert failed.value.exit_status == 1
    stand_in("print('vae-train: latent_dim=-1: must be a positive integer')\nsys.exit(2)")
    with pytest.raises(SettingError, match=r"^vae-train: latent_dim=-1: must be a positive integer$"):
        vaelab.train("latent_dim=-1")


@pytest.mark.parametrize("flag", ["-m", "--help"])
def test_a_flag_is_refused(flag: str, stand_in: StandIn) -> None:
    stand_in("raise AssertionError")
    with pytest.raises(SettingError, match=f"vaelab.train={flag}: is no setting"):
        vaelab.train("seed=1", flag)


@pytest.fixture
def _hears_ctrl_c() -> Iterator[None]:
    """A shell that starts something in the background has it ignore Ctrl-C, these tests too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_hears_ctrl_c")
def test_an_interrupt_reaches_the_command_once_and_waits_for_it(
    stand_in: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "told"
    stand_in(
        f"""def save(*_):
    open({str(told)!r}, "a").write("1")
    time.sleep(0.2)
    print("interrupted by Ctrl-C", flush=True)
    sys.exit(130)
signal.signal(signal.SIGINT, save)
print("begun", flush=True)
open({str(tmp_path / "begun")!r}, "w").close()
time.sleep(60)"""
    )

    def press_ctrl_c() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_ctrl_c).start()
    with pytest.raises(KeyboardInterrupt, match="interrupted by Ctrl-C"):
        vaelab.train()
    assert told.read_text() == "1"
    assert capsys.readouterr().out == "begun\ninterrupted by Ctrl-C\n"


@pytest.mark.slow
def test_a_real_training_from_python_is_the_command_and_its_model_can_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = vaelab.train("data=digits", "debug=fast", "logger=none", "latent_dim=3")
    out = capsys.readouterr().out
    assert str(run) in out
    assert "number card" in out
    assert "\x1b" not in out
    manifest = read_manifest(RunDirectory.open(run))
    assert Path(manifest["argv"][0]).name == "vae-train"
    assert process.RUN_FILE not in str(manifest)
    assert vaelab.load(run).noise_dim == 3
    with pytest.raises(SettingError, match="encoder"):
        vaelab.train("encoder=cnv")
