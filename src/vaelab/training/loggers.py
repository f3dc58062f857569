"""Loggers: ``metrics.csv`` always, and a tracker that can neither stop nor delay a run."""

from __future__ import annotations

import netrc
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlparse

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from vaelab.runs import MetricsWriter

T = TypeVar("T")

TRACKER_SECONDS = 5.0  # a tracker may take so long to open, and so long to close


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

    def finalize(self, status: str) -> None:
        """Every row is in the file already; another process may go on from here (a forked rank 0 and its parent)."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def wandb_mode(environment: Mapping[str, str]) -> str:
    """``online`` where a key is configured, otherwise ``offline``; WANDB_MODE decides where it is set."""
    mode = environment.get("WANDB_MODE")
    if mode:
        return mode
    if environment.get("WANDB_API_KEY"):
        return "online"
    host = urlparse(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    path = Path(environment.get("NETRC") or Path.home() / ".netrc")
    try:
        known = host is not None and path.is_file() and netrc.netrc(str(path)).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):
        known = False
    return "online" if known else "offline"


def open_wandb(
    run_dir: Path, *, project: str, name: str, group: str | None, tags: list[str], config: dict[str, Any], run_id: str, entity: str | None = None
) -> WandbLogger | None:
    """A W&B run in ``run_dir/wandb``, opened within :data:`TRACKER_SECONDS`; None, with a warning, where it does not open.

    Online where a key is configured, otherwise offline, without a prompt.
    """
    mode = wandb_mode(os.environ)
    if mode == "disabled":
        return None
    os.environ.setdefault("WANDB_SILENT", "true")

    import wandb  # seconds to import: not the tracker's fault, so not within its time

    def start() -> WandbLogger:
        run = wandb.init(
            dir=run_dir, project=project, entity=entity, name=name, group=group, tags=tags, config=config, id=run_id, resume="allow", mode=mode,  # pyright: ignore[reportArgumentType]
            settings=wandb.Settings(init_timeout=TRACKER_SECONDS, console="off", x_disable_stats=True),
        )  # fmt: skip
        logger = WandbLogger(experiment=run, project=project, save_dir=run_dir)
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step")
        return logger

    logger, error = _within(TRACKER_SECONDS, start)
    if logger is None:
        warnings.warn(f"W&B did not start ({error}); the run goes on without it, metrics.csv holds every number", stacklevel=2)
    return logger


def close_wandb(logger: WandbLogger, exit_status: int) -> str | None:
    """Close the run with its exit state, within :data:`TRACKER_SECONDS`.

    Returns:
        the line that uploads it later, for an offline run.
    """
    run = logger.experiment
    folder = Path(run.dir).parent
    offline = run.settings.mode == "offline" or bool(getattr(run.settings, "_offline", False))
    _, error = _within(TRACKER_SECONDS, lambda: run.finish(exit_code=exit_status))
    if error is not None:
        warnings.warn(f"W&B did not close ({error}); what it holds stays in {folder}", stacklevel=2)
    return f"wandb sync {folder}" if offline or error is not None else None


def _within(seconds: float, action: Callable[[], T]) -> tuple[T | None, str | None]:
    """The result of ``action``, or why there is none; a daemon thread is left behind when it hangs."""
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(action())
        except BaseException as error:  # a tracker's failure of whatever kind is a sentence, not the end of the run
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if results:
        return results[0], None
    if errors:
        return None, f"{type(errors[0]).__name__}: {errors[0]}"
    return None, f"no answer within {seconds:g} s" if thread.is_alive() else "no result"


def log_picture(loggers: list[Logger], key: str, picture: np.ndarray, step: int) -> None:
    """A picture ``[H, W, 3]``, uint8, under a stable key in the loggers that show pictures."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            logger.experiment.log({key: wandb.Image(picture), "trainer/global_step": step})
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, picture, step, dataformats="HWC")
