"""A run directory: where everything lies that made one number."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from vaelab.errors import SettingError, nearest
from vaelab.runs.containment import check_contained
from vaelab.runs.files import read_json

MARKERS = ("manifest.json", "config.yaml")  # a directory that holds one of these is a run


@dataclass(frozen=True)
class RunDirectory:
    """The paths inside a run directory. Constructing one touches no disk: :meth:`create` and :meth:`open`
    do.
    """

    path: Path

    @property
    def name(self) -> str:
        return Path(os.path.abspath(self.path)).name  # of "." too

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def overrides_file(self) -> Path:
        """What was typed: a list of overrides."""
        return self.path / "overrides.yaml"

    @property
    def defaults_file(self) -> Path:
        """The configuration of the command with nothing typed, to see what is unusual about this one; older runs have none."""
        return self.path / "defaults.yaml"

    @property
    def manifest_file(self) -> Path:
        return self.path / "manifest.json"

    @property
    def status_file(self) -> Path:
        return self.path / "status.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def fingerprint_file(self) -> Path:
        """The losses of single steps: of the first ones, and of one every so often."""
        return self.path / "fingerprint.csv"

    @property
    def skipped_batch_file(self) -> Path:
        """Where a run of skipped steps ended the training: the batch that it began with."""
        return self.path / "skipped_batch.npz"

    @property
    def evaluation_file(self) -> Path:
        """The number cards."""
        return self.path / "evaluation.json"

    @property
    def console_file(self) -> Path:
        return self.path / "console.log"

    @property
    def weights_file(self) -> Path:
        """The selected weights, final."""
        return self.path / "model.safetensors"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def best_checkpoint(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def evaluations(self) -> Path:
        """A folder for each later evaluation."""
        return self.path / "evaluations"

    @property
    def code(self) -> Path:
        """What the working tree had beyond its commit."""
        return self.path / "code"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def frames(self) -> Path:
        """Samples over the training, see :class:`vaelab.runs.frames.Frames`."""
        return self.path / "frames"

    @classmethod
    def create(cls, parent: Path | str, name: str | None = None) -> RunDirectory:
        """Make ``<parent>/<YYYY-MM-DD_HH-MM-SS>_<6 hex>/`` (local time), or ``<parent>/<name>/``, with its
        two subfolders.

        Never an existing directory: two processes get two. Raises SettingError("paths.log_dir") where nothing
        can be written and SettingError("name") for a name that is taken or is not one path component.
        """
        parent = Path(parent)
        if name is not None and (not name or name in (".", "..") or set(name) & {"/", "\\", "\0"}):
            raise SettingError("name", name, "must be one directory name, without separators")
        while True:
            chosen = (
                name if name is not None else f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(3)}"
            )
            run = cls(parent / chosen)
            try:
                parent.mkdir(parents=True, exist_ok=True)
                try:
                    run.path.mkdir()
                except FileExistsError:
                    if name is None:
                        continue
                    raise SettingError("name", name, f"a run of this name exists in {parent}") from None
                run.checkpoints.mkdir()
                run.figures.mkdir()
            except (OSError, ValueError) as error:
                if isinstance(error, SettingError):
                    raise
                raise _unwritable(parent, error) from None
            return run

    @classmethod
    def open(cls, path: Path | str, setting: str = "run") -> RunDirectory:
        """The run directory at ``path``. Raises SettingError, of the ``setting`` that names it, if there is none, with the nearest one; and
        if what is in it leads out of it (:func:`vaelab.runs.containment.check_contained`).
        """
        if not isinstance(path, str | Path) or not str(path):
            raise SettingError(setting, path, "must be a run directory (one has manifest.json)")
        path = Path(path)
        if is_run(path):
            check_contained(path, setting)
            return cls(path)
        if path.is_dir():
            inside = [run.path for run in find_runs(path)]
            if inside:
                rule = f"holds {len(inside)} run{'s' * (len(inside) > 1)}; name one of them"
                raise SettingError(setting, path, rule, nearest=str(find_latest(path).path))
            raise SettingError(setting, path, "is not a run directory (one has manifest.json)")
        if os.path.lexists(path):
            raise SettingError(setting, path, "is not a directory (a run directory has manifest.json)")
        above = next((p for p in path.parents if p.is_dir()), Path())
        depth = len(path.parts) - len(above.parts)
        # a typo in the first of many missing parts is searched for below the part that exists, as deep as was
        # typed
        known = (
            [str(run.path) for run in find_runs(above, depth=max(depth, 2))]
            if str(above) != above.anchor
            else []
        )
        rule = "no such run directory (one has manifest.json)"
        raise SettingError(setting, path, rule, nearest=nearest(str(path), known))


def check_writable(parent: Path | str) -> None:
    """Raise SettingError("paths.log_dir") unless a run directory can be made in ``parent``; leaves nothing
    behind.

    Tried, not asked: permission bits say nothing to root, on read-only file systems or in ``/proc``.
    ``parent`` need not exist.
    """
    if not isinstance(parent, str | Path) or not str(parent):
        raise SettingError("paths.log_dir", parent, "must be the name of a directory")
    parent = Path(parent)
    try:
        # a name that is too long, or holds a null byte, shows only where the file system sees it
        with contextlib.suppress(FileNotFoundError):
            os.lstat(parent / ("x" * 26))
        ancestor = nearest_existing(parent)
        if not ancestor.is_dir():
            raise NotADirectoryError(f"{ancestor} is not a directory")
        trial = ancestor / f".vaelab-{secrets.token_hex(6)}"
        trial.mkdir()
        try:
            (trial / "trial").write_bytes(b"x")
        finally:
            (trial / "trial").unlink(missing_ok=True)
            trial.rmdir()
    except (OSError, ValueError) as error:
        raise _unwritable(parent, error) from None


def nearest_existing(path: Path | str) -> Path:
    """``path`` itself, or the nearest folder above it that is there, absolute."""
    found = Path(os.path.abspath(path))
    while not os.path.lexists(found) and found != found.parent:
        found = found.parent
    return found


def is_run(path: Path) -> bool:
    """Whether a run directory, also one whose files are no files: that is for whoever reads them to refuse."""
    places = [os.path.join(path, marker) for marker in MARKERS]
    return any(os.path.lexists(place) and not os.path.isdir(place) for place in places)


def find_runs(root: Path | str, depth: int = 6) -> Iterator[RunDirectory]:
    """Every run directory at or below ``root``, by name; hidden folders, links and what lies inside a run
    are left out.
    """
    root = Path(root)
    if is_run(root):
        yield RunDirectory(root)
        return
    if depth == 0:
        return
    try:
        with os.scandir(root) as entries:
            names = sorted(
                e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")
            )
    except OSError:
        return
    for name in names:
        yield from find_runs(root / name, depth - 1)


def find_latest(log_dir: Path | str) -> RunDirectory:
    """The run created last below ``log_dir`` (``run=latest``). Raises SettingError("run") if there is
    none.
    """
    runs = list(find_runs(log_dir))
    if not runs:
        raise SettingError("run", "latest", f"there is no run in {log_dir}")
    return max(runs, key=lambda run: (created(run), str(run.path)))


def created(run: RunDirectory) -> float:
    """Seconds since 1970, from the manifest (a copy keeps it), else the directory's time of change."""
    try:
        manifest: Any = read_json(run.manifest_file)
        return datetime.fromisoformat(manifest["created"]).timestamp()
    except (SettingError, KeyError, TypeError, ValueError):
        try:
            return run.path.stat().st_mtime
        except OSError:
            return 0.0


def _unwritable(parent: Path, error: Exception) -> SettingError:
    reason = getattr(error, "strerror", None) or str(error)
    return SettingError("paths.log_dir", parent, f"must be a directory that can be written to ({reason})")
