"""What is on record of a run: its directory, or the copies that a tracker keeps among its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaelab.errors import SettingError
from vaelab.runs import metrics
from vaelab.runs.config import config_at, read_config
from vaelab.runs.directory import RunDirectory
from vaelab.runs.manifest import whole_manifest
from vaelab.runs.status import Status

#: the names of manifest and configuration among a tracker's files
TRACKER_MANIFEST, TRACKER_CONFIG = "vaelab_manifest.json", "vaelab_config.yaml"


@dataclass(frozen=True)
class Record:
    """What a run can be had again from. Nothing in it depends on where it lies.

    Attributes:
        path: the folder that holds it; ``code/`` of the manifest is below.
        run: the run directory; None of a tracker's files, which have no metrics and no cards.
        manifest: as read.
        config: resolved, primitives only.
        fingerprint: optimizer step -> mean loss over the batch of that step.
    """

    path: Path
    run: RunDirectory | None
    manifest: Mapping[str, Any]
    config: dict[str, Any]
    fingerprint: Mapping[int, float]

    @classmethod
    def open(cls, directory: Path | str) -> Record:
        """The record in a run directory, or in the directory of a W&B run (``wandb/offline-run-*``).

        Raises:
            SettingError: there is none, or it is damaged.
        """
        for folder in (Path(directory), Path(directory) / "files"):
            if (folder / TRACKER_MANIFEST).is_file():
                for name in (TRACKER_MANIFEST, TRACKER_CONFIG):
                    if (folder / name).is_symlink():
                        raise SettingError("run", folder / name, "is a link, which no copy of ours is")
                manifest = whole_manifest(folder / TRACKER_MANIFEST)
                config = config_at(folder / TRACKER_CONFIG)
                return cls(folder, None, manifest, config, _in_manifest(manifest))
        run = RunDirectory.open(directory)
        manifest, config = whole_manifest(run.manifest_file), read_config(run)
        written = run.fingerprint_file.is_file()  # by a run that was killed, too
        return cls(run.path, run, manifest, config, _in_file(run) if written else _in_manifest(manifest))

    @property
    def is_complete(self) -> bool:
        return self.manifest["status"] == Status.COMPLETED.value

    @property
    def weights(self) -> str | None:
        """SHA-256 of the final weights; None where the run did not get to them."""
        return self.manifest.get("weights")


def _in_file(run: RunDirectory) -> dict[int, float]:
    rows = metrics.read(run.fingerprint_file)
    if any("loss" not in row for row in rows):
        raise SettingError("run", run.fingerprint_file, "has steps without a loss")
    return {int(row[metrics.STEP]): row["loss"] for row in rows}


def _in_manifest(manifest: Mapping[str, Any]) -> dict[int, float]:
    found = manifest.get("fingerprint") or {"step": [], "loss": []}
    try:  # "nan" and "inf" are stored as text
        return {int(step): float(loss) for step, loss in zip(found["step"], found["loss"], strict=True)}
    except (KeyError, TypeError, ValueError) as error:
        raise SettingError("run", "fingerprint", f"cannot be read in the manifest ({error})") from None
