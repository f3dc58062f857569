"""Loggers: ``metrics.csv`` always, and a tracker that can neither stop nor delay a run."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from vaelab.runs import MetricsWriter, RunDirectory, Secrets, write_atomically
from vaelab.runs.wandb import wandb_mode

TRACKER_SECONDS = 4.5  # a tracker may take 5 s to open and 5 s to close; ending one that hangs takes the rest
ONLINE_SECONDS = 3.0  # of which its server may take so long to answer; the rest is for opening it offline
WAITING = 1_000  # records that wait for the tracker's thread: a tracker that far behind hangs
AXIS = "trainer/global_step"
#: what is drawn over the optimizer step: numbers, pictures while it trains, and those of its end; and whatever other callbacks log
OVER_STEPS = (
    "*",
    *("train/*", "val/*", "test/*", "optim/*", "time/*"),
    *("samples", "reconstructions", "traversal", "interpolation", "latents", "figures/*"),
)
#: of which numbers the summary has the least or the greatest of the whole run, beside the last
EXTREMES = {"loss": "min", "distortion": "min", "nll": "min", "elbo": "max"}


class MetricsFile(Logger):
    """Lightning's view of ``metrics.csv``."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._writer: MetricsWriter | None = None

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> int:
        return 0

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._writer is None:
            self._writer = MetricsWriter(self.path)
        self._writer.append(0 if step is None else step, metrics)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The configuration has a file of its own."""

    def save(self) -> None:
        """Have the rows on the disk: a checkpoint that outlives a power cut must not know of more than they do."""
        if self._writer is not None:
            self._writer.flush()

    def finalize(self, status: str) -> None:
        """Every row is in the file already; another process may go on from here (a forked rank 0 and its parent)."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def wandb_sweep(environment: Mapping[str, str]) -> str | None:
    """The sweep of W&B's own whose agent has started this process; None where none has. The agent has said, too, which run of its project this is."""
    return environment.get("WANDB_SWEEP_ID") or None


class WandbTracker(Logger):
    """A W&B run behind a thread of its own, which opens it, writes to it and closes it: none of that can stop or delay the training.

    At the first error it is dropped, with one line on the screen.

    Args:
        start: opens the W&B run.
    """

    def __init__(self, start: Callable[[], Any]) -> None:
        super().__init__()
        self.run: Any = None
        self._start = start
        self._error: str | None = None
        self._said = False
        self._given_up = False
        self._closed = False
        self._setup: Any = None
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self._opened = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        """The id of the run."""
        return str(self.run.id)

    @property
    def offline(self) -> bool:
        return str(self.run.settings.mode) != "online"

    @property
    def folder(self) -> Path:
        """What it keeps on the disk."""
        return Path(self.run.dir).parent

    def open(self, seconds: float) -> str | None:
        """Open the run. Returns why it did not open."""
        self._thread.start()
        if not self._opened.wait(seconds):
            self._error = f"no answer within {seconds:.0f} s"
        if self._error is not None:
            self._given_up = True
            _end_service(self._setup)
        return self._error

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {**metrics, AXIS: step} if step is not None else dict(metrics)
        self._submit(lambda: self.run.log(values))

    @rank_zero_only
    def log_picture(self, key: str, picture: np.ndarray, step: int) -> None:
        def log() -> None:
            import wandb

            self.run.log({key: wandb.Image(picture), AXIS: step})

        self._submit(log)

    @rank_zero_only
    def log_animation(self, key: str, path: Path, step: int) -> None:
        """A GIF, of which W&B copies the file."""

        def log() -> None:
            import wandb

            self.run.log({key: wandb.Video(str(path), format="gif"), AXIS: step})

        self._submit(log)

    @rank_zero_only
    def tag(self, name: str) -> None:
        """Give the run a tag beside those that it has."""

        def add() -> None:
            self.run.tags = (*self.run.tags, name)

        self._submit(add)

    @rank_zero_only
    def summarize(self, metrics: Mapping[str, float]) -> None:
        """Have these stand for the whole run, in tables and for a search, in place of the last values."""
        self._submit(lambda: self.run.summary.update(dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The run was opened with the configuration."""

    def finalize(self, status: str) -> None:
        """Lightning calls this after every stage; how the run ends is known later, by :meth:`close`."""

    @rank_zero_only
    def keep(self, files: Mapping[str, Path]) -> None:
        """Put copies of ``files`` under these names among the run's files, which are uploaded now or when an offline run is."""
        self._submit(lambda: self._copy(files))

    def close(
        self, exit_status: int, seconds: float, files: Callable[[], Mapping[str, Path]] = dict
    ) -> str | None:
        """Write what still waits and the ``files`` as they are now, and end the run with its exit state. Returns why that did not work."""
        if self._closed:
            return None
        self._closed = True
        deadline = time.monotonic() + seconds
        finished = False

        def finish() -> None:
            nonlocal finished
            try:
                self._copy(files())
            except Exception as error:  # how the run ended is said in any case
                self._error = self._error or _one_line(error)
            self.run.finish(exit_code=exit_status)
            finished = True

        try:
            self._jobs.put(finish, timeout=seconds)
            self._jobs.put(None, timeout=max(0.0, deadline - time.monotonic()))
        except queue.Full:
            pass
        if not self._done.wait(max(0.0, deadline - time.monotonic())):
            self._error = self._error or f"no answer within {seconds:.0f} s"
        if not finished:
            self._given_up = True
            _end_service(self._setup)
        self._say()
        return self._error

    def _copy(self, files: Mapping[str, Path]) -> None:
        folder = Path(self.run.dir)
        for name, source in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, source.read_bytes())  # run.save would make a link
            self.run.save(str(target), base_path=str(folder), policy="now")

    def _submit(self, job: Callable[[], None]) -> None:
        if self._error is None and not self._closed:
            try:
                self._jobs.put_nowait(job)
            except queue.Full:
                self._error = "it does not answer"
        self._say()

    def _say(self) -> None:
        if self._error is not None and not self._said:
            self._said = True
            _say(f"W&B is left out from here on ({self._error}); metrics.csv holds every number")

    def _work(self) -> None:
        # A tracker's failure of whatever kind is a sentence, not the end of the run.
        try:
            self._setup = _wandb_setup()
            self.run = self._start()
        except BaseException as error:  # of one that was given up, the end of its service is no reason
            self._error = self._error or _one_line(error)
        self._opened.set()
        if self._given_up:  # it opened after all, too late
            _end_service(self._setup)
        if self._error is not None:
            return
        while not self._given_up and (job := self._jobs.get()) is not None:
            if self._error is None or self._closed:  # the last word, how the run ended, is tried in any case
                try:
                    job()
                except BaseException as error:
                    self._error = self._error or _one_line(error)
        self._done.set()


def open_wandb(
    run_dir: Path,
    *,
    project: str,
    name: str,
    group: str | None,
    tags: Sequence[str],
    config: dict[str, Any],
    run_id: str,
    entity: str | None = None,
    job_type: str | None = None,
) -> WandbTracker | None:
    """A W&B run in ``run_dir/wandb``, opened within :data:`TRACKER_SECONDS`; None, with a line on the screen, where it does not open.

    Online where a key is configured and the server answers, otherwise offline, without a prompt. Under an agent (:func:`wandb_sweep`) it is the agent's run: its id and
    project, whatever is asked for here.
    """
    mode = wandb_mode(os.environ)
    if mode == "disabled":
        return None
    try:
        import wandb  # in this thread: two threads that import at the same time can wait for each other
    except Exception as error:
        _say(f"W&B did not start ({_one_line(error)}); metrics.csv holds every number")
        return None
    with contextlib.suppress(Exception):  # what wandb.init imports, for seconds that are the server's
        import_module("wandb.sdk.launch.inputs.internal")
    _forgo_analytics()
    deadline = time.monotonic() + TRACKER_SECONDS
    secrets = Secrets.of(os.environ, config)
    named = secrets.redact({"name": name, "group": group, "tags": list(tags), "config": config})
    if wandb_sweep(os.environ) is None:
        place = {"project": project, "entity": entity, "id": run_id}
    else:  # the agent's variables say which
        place = {}

    def start(mode: str) -> Any:
        wandb.setup(wandb.Settings(silent=True))  # the screen is the progress bar's
        run = wandb.init(
            dir=run_dir, **place, **named, job_type=job_type,
            resume="allow" if mode == "online" else None, mode=mode,  # pyright: ignore[reportArgumentType]
            settings=wandb.Settings(
                silent=True,
                console="off",
                symlink=False,  # a run directory can be copied
                init_timeout=TRACKER_SECONDS,
                reinit="create_new",  # several runs in one process
                x_disable_stats=True,
                disable_git=True,  # its patch may hold secrets; the manifest has the commit, code/ the patch
                disable_code=True,
                x_disable_meta=secrets.words(sys.argv) != sys.argv,  # it holds the command line
            ),
        )  # fmt: skip
        _forget_import_hooks()
        run.define_metric(AXIS)
        for metric in OVER_STEPS:
            run.define_metric(metric, step_metric=AXIS)
        return run

    reason = None
    if mode == "online":
        tracker = WandbTracker(lambda: start("online"))
        reason = tracker.open(ONLINE_SECONDS)
        if reason is None:
            return tracker
        mode = "offline"
    tracker = WandbTracker(lambda: start(mode))
    error = tracker.open(max(0.0, deadline - time.monotonic()))
    if error is not None:
        _say(f"W&B did not start ({error}); metrics.csv holds every number")
        return None
    if reason is not None:
        _say(f"W&B goes on offline: its server did not take the run ({reason})")
    return tracker


def close_wandb(
    logger: WandbTracker, exit_status: int, files: Callable[[], Mapping[str, Path]] = dict
) -> str | None:
    """Close the run with its exit state, within :data:`TRACKER_SECONDS`; ``files`` are put among its own, see :meth:`WandbTracker.keep`.

    Returns:
        the line that uploads it later, for a run that is not on the server.
    """
    error = logger.close(exit_status, TRACKER_SECONDS, files)
    return upload_line(logger.folder) if logger.offline or error is not None else None


def record_files(run: RunDirectory) -> dict[str, Path]:
    """What made a run, by the names that it has among a tracker's files."""
    code = sorted(run.code.iterdir()) if run.code.is_dir() else []
    return {
        "vaelab_manifest.json": run.manifest_file,
        "vaelab_config.yaml": run.config_file,
        **{f"code/{path.name}": path for path in code},
    }


def upload_line(folder: Path) -> str:
    """What to type, where the run was started, to upload the W&B run in ``folder``."""
    program = Path(sys.executable).parent / "wandb"
    words = [_from_here(program)] if program.is_file() else [_from_here(Path(sys.executable)), "-m", "wandb"]
    return shlex.join([*words, "sync", _from_here(folder)])


def _from_here(path: Path) -> str:
    """The path, relative where it lies below the current directory."""
    path = Path(os.path.abspath(path))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _wandb_setup() -> Any:
    """W&B's state in this process; None where this version of W&B keeps it elsewhere."""
    with contextlib.suppress(Exception):
        from wandb.sdk import wandb_setup

        return wandb_setup.singleton()
    return None


def _forgo_analytics() -> None:
    """W&B measures itself, and at exit waits up to half a minute for a server that does not take the measurements."""
    with contextlib.suppress(Exception):
        from wandb.analytics.opentelemetry import opentelemetry_proxy

        opentelemetry_proxy.disable()


def _forget_import_hooks() -> None:
    """W&B reports every later import to its service, within the import: with a service that died, `import sklearn` would raise."""
    with contextlib.suppress(Exception):
        from wandb.sdk.lib import import_hooks

        import_hooks.unregister_all_post_import_hooks()


def _end_service(setup: Any) -> None:
    """End W&B's service process: it would be waited for when the interpreter exits, and the next run would be given to it."""
    _forget_import_hooks()
    with contextlib.suppress(Exception):
        from wandb.sdk import wandb_setup
        from wandb.sdk.lib.service import service_token

        if wandb_setup._singleton is setup:
            wandb_setup._singleton = None
        connection = setup._connection
        if connection is None or not connection.owns_service or connection._torn_down:
            return
        connection._torn_down = True
        connection._cleanup()
        service_token.clear_service_in_env()
        process = connection._proc._process
        process.terminate()  # it may still have something to write
        try:
            process.wait(0.2)
        except Exception:
            process.kill()
            process.wait(1.0)


def _one_line(error: BaseException) -> str:
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= 200 else text[:197] + "..."


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)


def shows_pictures(logger: Logger) -> bool:
    return isinstance(logger, WandbTracker | TensorBoardLogger)


def mark_pruned(loggers: Sequence[Logger]) -> None:
    """In the loggers that have tags: the run was given up, and is no failure. A run that is gone on with loses the tag."""
    for logger in loggers:
        if isinstance(logger, WandbTracker):
            logger.tag("pruned")


def log_picture(loggers: Sequence[Logger], key: str, picture: np.ndarray, step: int) -> None:
    """A picture ``[H, W, 3]``, uint8, under a stable key in the loggers that show pictures."""
    for logger in loggers:
        if isinstance(logger, WandbTracker):
            logger.log_picture(key, picture, step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, picture, step, dataformats="HWC")


def log_animation(loggers: Sequence[Logger], key: str, path: Path, step: int) -> None:
    """A GIF under a stable key in the loggers that show such."""
    for logger in loggers:
        if isinstance(logger, WandbTracker):
            logger.log_animation(key, path, step)


def extremes(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The best values of a run's training and validation, ``{"min/train/loss": 98.1, "max/val/elbo": -101.2, ...}``.

    W&B's own minima (``define_metric(summary="min")``) would take the place of the plain value, which is that of the selected checkpoint.

    Args:
        rows: of ``metrics.csv``.

    >>> extremes([{"step": 1, "train/loss": 3.0}, {"step": 2, "train/loss": float("nan"), "val/elbo": -2.0}])
    {'min/train/loss': 3.0, 'max/val/elbo': -2.0}
    """
    found: dict[str, float] = {}
    for row in rows:
        for key, value in row.items():
            split, _, metric = key.partition("/")
            which = EXTREMES.get(metric)
            if split not in ("train", "val") or which is None or not math.isfinite(value):
                continue
            name = f"{which}/{key}"
            better = min if which == "min" else max
            found[name] = better(found.get(name, value), value)
    return found
