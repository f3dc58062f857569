"""Trackers: where the numbers and pictures go, and that no tracker can stop or delay a run."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from offline import ended
from vaelab import figures
from vaelab.runs import RunDirectory
from vaelab.runs.wandb import wandb_mode
from vaelab.training import loggers
from vaelab.training.loggers import (
    AXIS,
    OVER_STEPS,
    TRACKER_SECONDS,
    MetricsFile,
    WandbTracker,
    close_wandb,
    extremes,
    log_picture,
    mark_pruned,
    open_wandb,
    record_files,
    upload_line,
)

PICTURE = np.zeros((8, 8, 3), np.uint8)
SOON = TRACKER_SECONDS + 5.0  # the bound, and what a busy machine adds to it


class FakeRun:
    """What a W&B run does, in a list; ``trouble`` is called at each ``log``."""

    def __init__(self, folder: Path, mode: str, run_id: str) -> None:
        self.id, self.dir, self.url = run_id, str(folder / "files"), "https://example.org/run"
        self.settings = SimpleNamespace(mode=mode)
        self.rows: list[dict[str, Any]] = []
        self.metrics: list[tuple[str, str | None]] = []
        self.exit_codes: list[int] = []
        self.saved: list[tuple[str, str, str]] = []
        self.summary: dict[str, float] = {}
        self.trouble: Any = lambda: None
        self.tags: tuple[str, ...] = ()

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.metrics.append((name, step_metric))

    def log(self, row: dict[str, Any]) -> None:
        self.trouble()
        self.rows.append(row)

    def save(self, path: str, base_path: str, policy: str) -> None:
        self.trouble()
        self.saved.append((Path(path).relative_to(base_path).as_posix(), Path(path).read_text(), policy))

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)


class FakeWandb(ModuleType):
    """Stands in for the module wandb; ``server`` is called where an online run is opened, ``disk`` in any case."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.inits: list[dict[str, Any]] = []
        self.runs: list[FakeRun] = []
        self.server: Any = lambda: None
        self.disk: Any = lambda: None

    def Settings(self, **settings: Any) -> dict[str, Any]:  # noqa: N802
        return settings

    def Image(self, picture: np.ndarray) -> np.ndarray:  # noqa: N802
        return picture

    def setup(self, settings: Any) -> None:
        pass

    def init(self, **arguments: Any) -> FakeRun:
        self.inits.append(arguments)
        if arguments["mode"] == "online":
            self.server()
        self.disk()
        name = arguments.get("id", "the agent's")
        self.runs.append(FakeRun(Path(arguments["dir"]) / "wandb" / name, arguments["mode"], name))
        self.runs[-1].tags = tuple(arguments["tags"])
        return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """Waiting for it is hanging; let go when the test is over."""
    event = threading.Event()
    yield event
    event.set()
    for thread in threading.enumerate():  # none goes on into the next test, where wandb is another module
        if thread.name == "tracker":
            thread.join(SOON)
            assert not thread.is_alive()


def opened(folder: Path, **changes: Any) -> WandbTracker | None:
    arguments: dict[str, Any] = {
        "project": "p",
        "name": "n",
        "group": "g",
        "tags": ["t"],
        "config": {"seed": 3},
        "run_id": "abc",
    }
    return open_wandb(folder, **(arguments | changes))


def test_every_row_and_picture_carries_the_optimizer_step_in_order(wandb: FakeWandb, tmp_path: Path) -> None:
    tracker = opened(tmp_path)
    assert tracker is not None
    tracker.log_metrics({"train/loss": 2.5}, 10)
    log_picture([MetricsFile(tmp_path / "metrics.csv"), tracker], "samples", PICTURE, 20)
    close_wandb(tracker, 0)
    run = wandb.runs[0]
    assert run.rows[0] == {"train/loss": 2.5, "trainer/global_step": 10}
    assert run.rows[1]["trainer/global_step"] == 20
    assert run.rows[1]["samples"].shape == PICTURE.shape
    assert {axis for name, axis in run.metrics if name != "trainer/global_step"} == {"trainer/global_step"}
    assert {"*", "train/*", "val/*", "samples", "figures/*"} <= {name for name, _ in run.metrics}
    arguments = wandb.inits[0]
    assert (arguments["group"], arguments["tags"], arguments["config"]) == ("g", ["t"], {"seed": 3})


def test_a_run_that_was_given_up_has_a_tag_and_ends_well(wandb: FakeWandb, tmp_path: Path) -> None:
    tracker = opened(tmp_path)
    assert tracker is not None
    mark_pruned([MetricsFile(tmp_path / "metrics.csv"), tracker])
    close_wandb(tracker, 0)
    assert (wandb.runs[0].tags, wandb.runs[0].exit_codes) == (("t", "pruned"), [0])


def test_the_agent_of_a_sweep_says_which_run_it_is(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was passed besides would be another run than the one that the server waits for."""
    asked = {"id": "abc", "project": "p", "entity": "e"}
    for sweep, told in ((None, asked), ("sweep", {}), ("", asked)):
        if sweep is not None:
            monkeypatch.setenv("WANDB_SWEEP_ID", sweep)
        tracker = opened(tmp_path, entity="e")
        assert tracker is not None
        close_wandb(tracker, 0)
        assert {key: wandb.inits[-1][key] for key in asked if key in wandb.inits[-1]} == told
        assert (wandb.inits[-1]["name"], wandb.inits[-1]["config"]) == ("n", {"seed": 3})


def test_what_stands_for_the_whole_run_is_said_after_its_values(wandb: FakeWandb, tmp_path: Path) -> None:
    tracker = opened(tmp_path)
    assert tracker is not None
    tracker.log_metrics({"val/elbo": -3.0}, 1)
    tracker.summarize({"val/elbo": -2.0})
    close_wandb(tracker, 0)
    assert wandb.runs[0].summary == {"val/elbo": -2.0}


def test_the_summary_has_the_best_values_of_the_whole_run() -> None:
    rows = [
        {"step": 1.0, "train/loss": 9.0, "train/elbo": -9.0, "train/rate": 1.0, "optim/lr": 1.0},
        {"step": 2.0, "train/loss": 7.0, "train/elbo": -7.0, "val/elbo": -8.0, "val/distortion": 5.0},
        {"step": 3.0, "train/loss": 8.0, "train/elbo": float("nan"), "val/elbo": -9.0, "val/distortion": 4.0},
        {"step": 4.0, "test/elbo": -1.0},
    ]
    assert extremes(rows) == {
        "min/train/loss": 7.0,
        "max/train/elbo": -7.0,
        "max/val/elbo": -8.0,
        "min/val/distortion": 4.0,
    }
    assert extremes([]) == {}


def test_how_lightning_ends_is_not_how_the_run_ends(wandb: FakeWandb, tmp_path: Path) -> None:
    tracker = opened(tmp_path)
    assert tracker is not None
    tracker.finalize("success")
    tracker.log_metrics({"test/elbo": -1.0}, 1)
    close_wandb(tracker, 1)
    close_wandb(tracker, 0)
    assert wandb.runs[0].exit_codes == [1]
    assert wandb.runs[0].rows


def test_the_record_is_copied_at_the_start_and_again_as_it_is_in_the_end(
    wandb: FakeWandb, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path)
    run.code.mkdir()
    for path in (run.manifest_file, run.config_file, run.code / "changes.patch"):
        path.write_text("at the start")
    tracker = opened(tmp_path)
    assert tracker is not None
    tracker.keep(record_files(run))
    tracker.log_metrics({"a": 1.0}, 1)
    _wait_for(lambda: len(wandb.runs[0].rows) == 1)
    run.manifest_file.write_text("in the end")
    close_wandb(tracker, 0, lambda: record_files(run))
    names = ["vaelab_manifest.json", "vaelab_config.yaml", "code/changes.patch"]
    assert wandb.runs[0].saved[:3] == [(name, "at the start", "now") for name in names]
    assert wandb.runs[0].saved[3:] == [(names[0], "in the end", "now"), *wandb.runs[0].saved[1:3]]
    assert wandb.runs[0].exit_codes == [0]


def test_a_record_that_cannot_be_copied_ends_no_run(
    wandb: FakeWandb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said, and how the run ended reaches the tracker all the same."""
    tracker = opened(tmp_path)
    assert tracker is not None
    assert close_wandb(tracker, 1, lambda: {"vaelab_manifest.json": tmp_path / "missing"}) is not None
    assert wandb.runs[0].exit_codes == [1]
    assert "W&B is left out from here on (FileNotFoundError" in capsys.readouterr().err


def test_copying_that_hangs_holds_up_neither_the_training_nor_the_end(
    wandb: FakeWandb, tmp_path: Path, never: threading.Event
) -> None:
    run = RunDirectory(tmp_path)
    run.manifest_file.write_text("{}")
    run.config_file.write_text("{}")
    tracker = opened(tmp_path)
    assert tracker is not None
    wandb.runs[0].trouble = never.wait
    started = time.monotonic()
    tracker.keep(record_files(run))
    assert time.monotonic() - started < 1
    close_wandb(tracker, 0, lambda: record_files(run))
    assert time.monotonic() - started < SOON


def test_what_wandb_is_told_holds_no_secret(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it look for itself: its patch of the working tree, and the command line where that holds one."""
    monkeypatch.setenv("PLANTED_PASSWORD", "planted-secret")
    monkeypatch.setattr(sys, "argv", ["vae-train", "seed=1"])
    for argv, is_without in ((["vae-train", "seed=1"], False), (["vae-train", "tags=[planted-secret]"], True)):  # fmt: skip
        monkeypatch.setattr(sys, "argv", argv)
        tracker = opened(tmp_path, tags=["planted-secret"], config={"note": "a planted-secret", "token": "typed-secret"})  # fmt: skip
        assert tracker is not None
        close_wandb(tracker, 0)
        arguments = wandb.inits[-1]
        assert "planted-secret" not in str(arguments)
        assert "typed-secret" not in str(arguments)
        assert arguments["settings"]["disable_git"] is arguments["settings"]["disable_code"] is True
        assert arguments["settings"]["x_disable_meta"] is is_without


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_two_runs_of_one_process_are_two(wandb: FakeWandb, tmp_path: Path) -> None:
    first, second = opened(tmp_path, run_id="one"), opened(tmp_path, run_id="two")
    assert first is not None
    assert second is not None
    second.log_metrics({"a": 1.0}, 1)
    close_wandb(second, 0)
    close_wandb(first, 0)
    assert [len(run.rows) for run in wandb.runs] == [0, 1]
    assert all(arguments["settings"]["reinit"] == "create_new" for arguments in wandb.inits)


def test_a_call_that_raises_drops_the_tracker_with_one_line(
    wandb: FakeWandb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = opened(tmp_path)
    assert tracker is not None
    tried = []

    def fail() -> None:
        tried.append(1)
        raise OSError("No space left on device")

    wandb.runs[0].trouble = fail
    for step in range(5):
        tracker.log_metrics({"a": 1.0}, step)
        while not tried:
            time.sleep(0.01)
    line = close_wandb(tracker, 0)
    assert len(tried) == 1
    said = capsys.readouterr().err
    assert said.count("No space left on device") == 1
    assert "metrics.csv" in said
    assert line is not None
    assert wandb.runs[0].exit_codes == [0]  # how the run ended is on record nevertheless


def test_a_call_that_hangs_delays_neither_the_training_nor_the_end(
    wandb: FakeWandb,
    tmp_path: Path,
    never: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(loggers, "TRACKER_SECONDS", 0.2)
    monkeypatch.setattr(loggers, "WAITING", 10)
    tracker = opened(tmp_path)
    assert tracker is not None
    wandb.runs[0].trouble = never.wait
    for step in range(100):  # would hang here
        tracker.log_metrics({"a": 1.0}, step)
    assert tracker._jobs.qsize() <= 10  # and keeps no more than that in memory
    assert close_wandb(tracker, 0) is not None
    assert capsys.readouterr().err.count("W&B is left out") == 1


@pytest.mark.parametrize("trouble", ["hangs", "refuses"])
def test_without_its_server_the_run_is_recorded_offline(
    trouble: str,
    wandb: FakeWandb,
    tmp_path: Path,
    never: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse() -> None:
        raise ConnectionError("refused")

    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "x")
    monkeypatch.setattr(loggers, "ONLINE_SECONDS", 0.2)
    wandb.server = never.wait if trouble == "hangs" else refuse
    tracker = opened(tmp_path)
    assert tracker is not None
    assert tracker.offline
    assert [arguments["mode"] for arguments in wandb.inits] == ["online", "offline"]
    assert "offline" in capsys.readouterr().err
    line = close_wandb(tracker, 0)
    assert line is not None
    assert line.endswith("abc")


def test_online_nothing_is_left_to_upload(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    tracker = opened(tmp_path)
    assert tracker is not None
    assert not tracker.offline
    assert close_wandb(tracker, 0) is None


@pytest.mark.parametrize("trouble", ["hangs", "raises", "cannot be imported"])
def test_a_tracker_that_does_not_open_is_left_out(
    trouble: str,
    wandb: FakeWandb,
    tmp_path: Path,
    never: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(loggers, "TRACKER_SECONDS", 0.2)
    wandb.disk = never.wait if trouble == "hangs" else fail
    if trouble == "cannot be imported":
        monkeypatch.setitem(sys.modules, "wandb", None)
    assert opened(tmp_path) is None
    assert capsys.readouterr().err.count("W&B did not start") == 1


def test_disabled_opens_nothing(wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert opened(tmp_path) is None
    assert wandb.inits == []


class TestMode:
    @pytest.fixture(autouse=True)
    def _home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        monkeypatch.chdir(tmp_path)

    def test_offline_without_a_key(self) -> None:
        assert wandb_mode({}) == "offline"

    def test_online_with_a_key(self) -> None:
        assert wandb_mode({"WANDB_API_KEY": "x"}) == "online"

    def test_the_variable_decides(self) -> None:
        assert wandb_mode({"WANDB_API_KEY": "x", "WANDB_MODE": "disabled"}) == "disabled"
        assert wandb_mode({"WANDB_MODE": "online"}) == "online"

    def test_a_key_counts_for_the_server_it_belongs_to(self, tmp_path: Path) -> None:
        (tmp_path / ".netrc").write_text("machine wandb.example.com login user password secret\n")
        assert wandb_mode({}) == "offline"
        assert wandb_mode({"WANDB_BASE_URL": "https://wandb.example.com"}) == "online"
        (tmp_path / ".config" / "wandb").mkdir(parents=True)
        (tmp_path / ".config" / "wandb" / "settings").write_text(
            "[default]\nbase_url = https://wandb.example.com\n"
        )
        assert wandb_mode({}) == "online"

    def test_wandb_offline_is_kept_to(self, tmp_path: Path) -> None:
        (tmp_path / "wandb").mkdir()
        (tmp_path / "wandb" / "settings").write_text("[default]\nmode = offline\n")
        assert wandb_mode({"WANDB_API_KEY": "x"}) == "offline"

    def test_a_broken_netrc_is_no_key(self, tmp_path: Path) -> None:
        (tmp_path / ".netrc").write_text("machine\n")
        assert wandb_mode({}) == "offline"


def test_the_upload_line_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program, *words = shlex.split(upload_line(tmp_path / "a folder" / "offline-run-1"))
    assert words == ["sync", "a folder/offline-run-1"]
    assert os.access(program, os.X_OK)


def test_pictures_reach_tensorboard_and_pass_csv_by(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board, table = (
        TensorBoardLogger(tmp_path, name="tensorboard", version=""),
        CSVLogger(tmp_path, name="csv", version=""),
    )
    log_picture([board, table], "samples", PICTURE, 7)
    board.log_metrics({"val/elbo": -3.0}, 7)
    board.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Images("samples")] == [7]
    assert [(event.step, event.value) for event in events.Scalars("val/elbo")] == [(7, -3.0)]


def test_the_real_library_records_offline_and_survives_its_service(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One record complete; then the service is killed in mid-run; then a third run in the same process."""
    before = dict(os.environ)
    first = opened(tmp_path, run_id="first", config={"seed": 3, "nested": {"lr": 0.5}})
    assert first is not None
    first.log_metrics({"val/elbo": -3.5}, 10)
    first.log_picture("samples", PICTURE, 10)
    gif = tmp_path / "samples.gif"
    gif.write_bytes(figures.animation(np.zeros((2, 8, 8, 3), np.uint8), ["one", "two"]))
    first.log_animation("figures/animation", gif, 10)
    first.summarize({"val/elbo": -3.5, "max/val/elbo": -3.0})
    first.tag("pruned")
    close_wandb(first, 1)
    assert first.run.tags == ("t", "pruned")
    on_record = ended(first.folder)
    assert [row["trainer/global_step"] for row in on_record.rows] == ["10", "10", "10"]
    assert on_record.rows[2]["figures/animation._type"] == '"video-file"'
    assert (first.folder / "files" / on_record.rows[2]["figures/animation.path"].strip('"')).read_bytes() == gif.read_bytes()  # fmt: skip
    assert (on_record.summary["val/elbo"], on_record.summary["max/val/elbo"]) == ("-3.5", "-3.0")
    assert {on_record.axes[name] for name in ("*", *OVER_STEPS)} == {AXIS}
    assert on_record.rows[0]["val/elbo"] == "-3.5"
    assert (first.folder / "files" / on_record.rows[1]["samples.path"].strip('"')).is_file()
    assert on_record.exit_codes == [1]
    assert on_record.config["nested"] == '{"lr":0.5}'

    second = opened(tmp_path, run_id="second")
    assert second is not None
    assert second.folder != first.folder
    os.kill(second._setup._connection._proc._process.pid, signal.SIGKILL)
    deadline = time.monotonic() + SOON
    while second._error is None and time.monotonic() < deadline:
        second.log_metrics({"a": 1.0}, 1)
        time.sleep(0.05)
    close_wandb(second, 0)

    third = opened(tmp_path, run_id="third")
    assert third is not None
    third.log_metrics({"a": 2.0}, 1)
    close_wandb(third, 0)
    assert ended(third.folder).exit_codes == [0]
    said = capfd.readouterr()
    assert said.err.count("W&B is left out") == 1
    assert "wandb:" not in said.out + said.err  # the screen is ours
    changed = {name for name in os.environ.keys() | before.keys() if os.environ.get(name) != before.get(name)}
    assert changed <= {"WANDB_SERVICE"}


@pytest.mark.slow
def test_a_real_server_that_never_answers_holds_up_neither_start_nor_exit(tmp_path: Path) -> None:
    """The fast tier has a fake server only; here the process also has to end, though W&B waits for its service."""
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        script = f"""
import time, sys
from pathlib import Path
from vaelab.training.loggers import open_wandb, close_wandb
import wandb, wandb.sdk.launch
started = time.monotonic()
tracker = open_wandb(Path({str(tmp_path)!r}), project="p", name="n", group=None, tags=[], config={{}}, run_id="abc")
print("open", time.monotonic() - started)
import sklearn.decomposition
if tracker is not None:
    tracker.log_metrics({{"a": 1.0}}, 1)
    started = time.monotonic()
    close_wandb(tracker, 0)
    print("close", time.monotonic() - started, flush=True)
sys.stdout.flush()
"""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
        environment |= {
            "WANDB_API_KEY": "a" * 40,
            "WANDB_BASE_URL": f"http://127.0.0.1:{server.getsockname()[1]}",
        }
        with subprocess.Popen(
            [sys.executable, "-c", script],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2)]
            closed = time.monotonic()
            _, errors = process.communicate(timeout=120)
            lines.append(f"exit {time.monotonic() - closed}")
    assert process.returncode == 0, errors
    for line in lines:  # W&B's own wait for its server is longer than that
        assert float(line.split()[1]) < 2 * SOON, lines
    assert "its server did not take the run (no answer within 3 s)" in errors
