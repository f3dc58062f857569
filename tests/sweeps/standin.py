"""What stands in for ``vae-train`` and ``vae-resume`` in the tests of sweeps: a run directory in a tenth of a second, ended as the words say.

    python standin.py train [WORD] identity=<64 hex digits>
    python standin.py resume DIR

WORD: completes (default), raises, is_killed, is_refused, fills (the disk, with a file `ballast`), finds_it_full (refused, as where its directory cannot be
made), waits (until SIGTERM, then interrupted), has_no_record (dies before its manifest), is_deaf (waits, and takes no notice of SIGTERM), is_pruned,
imports_nothing (dies before its directory), goes_on_call (waits for the file go, then completes). A run that is resumed completes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from vaelab.runs import RunDirectory, Status, read_json, write_json, write_status
from vaelab.sweeps.job import Place
from vaelab.sweeps.search.trial import TRIAL

TIMES = Path("started")  # a line for each process that got as far as its run


def train(word: str, identity: str) -> int:
    if word == "imports_nothing":
        print("ImportError: no such library")
        return 1
    if word == "is_refused":
        print("vae-train: model=x: does not go with prior=y")
        return 2
    if word == "finds_it_full":
        print(
            "vae-train: paths.log_dir=logs: must be a directory that can be written to (No space left on device)"
        )
        return 2
    place = Place.told()
    assert place is not None
    run = RunDirectory.create(place.folder, place.directory)
    write_status(run.status_file, Status.RUNNING)
    if word == "has_no_record":
        os.kill(os.getpid(), signal.SIGKILL)
    manifest = {"schema": 2, "identity": {"schema": 1, "sha256": identity}, "sweep": place.sweep}
    write_json(run.manifest_file, manifest)
    return carry_out(run, word)


def carry_out(run: RunDirectory, word: str) -> int:
    with TIMES.open("a") as file:
        file.write(f"{run.name}\n")
    (run.path / "gpus").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "whatever there are"))
    if TRIAL in os.environ:
        with Path("told").open("a") as file:
            file.write(f"{os.environ[TRIAL]}\n")
    if word == "raises":
        write_status(run.status_file, Status.FAILED, exit_status=1, error="ValueError: no good")
        print("vae-train: the run failed: ValueError: no good; the traceback is in console.log")
        return 1
    if word == "is_killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "fills":
        with run.path.with_name("ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
    if word in ("waits", "is_deaf", "goes_on_call"):

        def save(*_: int | FrameType | None) -> None:
            if word == "is_deaf":
                return
            write_status(run.status_file, Status.INTERRUPTED, exit_status=75, error="SIGTERM")
            sys.exit(75)

        signal.signal(signal.SIGTERM, save)
        (run.path / "ready").touch()
        for _ in range(600):  # goes on after a signal that is taken no notice of
            if word == "goes_on_call" and Path("go").exists():
                break
            time.sleep(0.1)
    manifest = read_json(run.manifest_file)
    if word == "is_pruned":
        write_json(run.manifest_file, {**manifest, "best_score": 7.0, "given_up": {"score": 5.0}})
        write_status(run.status_file, Status.PRUNED, exit_status=0, error="at validation 2 of 10")
        return 0
    write_json(run.manifest_file, {**manifest, "best_score": -float(int(manifest["identity"]["sha256"], 16))})
    write_status(run.status_file, Status.COMPLETED, exit_status=0)
    return 0


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what == "resume":
        sys.exit(carry_out(RunDirectory(Path(words[0])), "completes"))
    named = [word.removeprefix("identity=") for word in words if word.startswith("identity=")]
    sys.exit(train(words[0] if not words[0].startswith("identity=") else "completes", named[0]))
