"""What stands in for ``vae-train`` and ``vae-resume`` in the tests of searches: a run whose number is a function of its settings.

    python objective.py train x=0.3 [word=raises] identity=<64 hex digits>
    python objective.py resume DIR

val/elbo = -(x - 0.3)², val/rate = x, val/distortion = 1 - x. WORD: completes (default), raises, is_nan, waits (until SIGTERM, then interrupted); ``x`` below 0
raises in any case. Where VAELAB_TRIAL tells of a trial, val/elbo is reported three times, ``x`` less at the first and a half of it at the second.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from vaelab.runs import RunDirectory, Status, read_manifest, write_json, write_status
from vaelab.sweeps.job import Place

TIMES = Path(os.environ.get("STARTED", "started"))  # a line for each process that got as far as its run


def main(what: str, *words: str) -> int:
    if what == "resume":
        run = RunDirectory(Path(words[0]))
        settings = read_manifest(run)["settings"]
        return carry_out(run, {**settings, "word": "completes"})
    settings = dict(word.split("=", 1) for word in words)
    place = Place.told()
    assert place is not None
    run = RunDirectory.create(place.folder, place.directory)
    write_status(run.status_file, Status.RUNNING)
    identity = {"schema": 1, "sha256": settings["identity"]}
    manifest = {"schema": 2, "identity": identity, "sweep": place.sweep, "settings": settings}
    write_json(run.manifest_file, manifest)
    return carry_out(run, settings)


def carry_out(run: RunDirectory, settings: dict[str, str]) -> int:
    with TIMES.open("a") as file:
        file.write(f"{run.name}\n")
    x, word = float(settings["x"]), settings.get("word", "completes")
    time.sleep(float(os.environ.get("SECONDS", "0")))
    if word == "raises" or x < 0:
        write_status(run.status_file, Status.FAILED, exit_status=1, error="ValueError: no good")
        return 1
    if word == "waits":

        def save(*_: int | FrameType | None) -> None:
            write_status(run.status_file, Status.INTERRUPTED, exit_status=75, error="SIGTERM")
            sys.exit(75)

        signal.signal(signal.SIGTERM, save)
        (run.path / "ready").touch()
        time.sleep(60)
    elbo = float("nan") if word == "is_nan" else -((x - 0.3) ** 2)
    run.metrics_file.write_text(
        f"step,val/elbo,val/rate,val/distortion,train/loss\n1,-9,9,9,\n2,,,,1.0\n2,{elbo!r},{x!r},{1 - x!r},\n3,-8,8,8,\n"
    )
    score = None if word == "is_nan" else elbo
    write_json(run.manifest_file, {**read_manifest(run), "best_score": score, "best_step": 2})
    write_status(run.status_file, Status.COMPLETED, exit_status=0)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
