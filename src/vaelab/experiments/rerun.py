"""One run, carried out by the code that ``PYTHONPATH`` names: what ``vae-reproduce`` starts, by the path of this file.

The code may be that of an earlier commit. So this imports as little as can be: ``train`` and ``Request`` of ``vaelab.experiments``, ``Callback`` of ``vaelab.training``, and the
two errors.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any


def main(job_file: str) -> int:
    """Carry out the job in a file and return the exit status.

    A job has ``source`` (the folder that the package is to come from), ``config`` (resolved), ``threads``, ``steps`` (after which it stops; null = none), ``folder`` and
    ``name`` of the run directory, ``requested_data`` and ``fallback_reason``.
    """
    job: dict[str, Any] = json.loads(Path(job_file).read_text(encoding="utf-8"))
    import torch

    import vaelab

    found = Path(vaelab.__file__).resolve().parents[1]
    if found != Path(job["source"]).resolve():
        print(f"the code of {found} would run, and not that of {job['source']}", file=sys.stderr)
        return 1
    if job["threads"] is not None:
        torch.set_num_threads(job["threads"])
    from vaelab.errors import RunFailed, SettingError
    from vaelab.experiments.request import Request
    from vaelab.experiments.train import train
    from vaelab.training import Callback

    class StopAfter(Callback):
        """Asks the run to stop, as a scheduler does: everything else goes on as if it went to its end."""

        stopped = False

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if not self.stopped and job["steps"] is not None and trainer.global_step >= job["steps"]:
                self.stopped = True
                signal.raise_signal(signal.SIGTERM)

    stop = StopAfter()
    request = Request(
        argv=tuple(sys.argv),
        requested_data=job["requested_data"],
        fallback_reason=job["fallback_reason"],
        parent=Path(job["folder"]),
        directory=job["name"],
    )
    try:
        train(job["config"], request, [stop])
    except SettingError as error:
        print(f"vae-reproduce: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        if stop.stopped and error.exit_status == 75:
            return 0
        if error.exit_status not in (75, 130):  # who has stopped it says so, and its directory goes
            print(f"vae-reproduce: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
