"""Where the numbers go beside ``metrics.csv``, and whether they get there."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Mapping
from typing import Any

from vaelab.data.sources import host, reason
from vaelab.experiments.assembly import COPYING
from vaelab.experiments.doctor.finding import Finding, note, ok, wrong
from vaelab.runs.wandb import wandb_key, wandb_mode, wandb_server
from vaelab.training.loggers import ONLINE_SECONDS

ALWAYS = "metrics.csv holds every number in any case"


def tracker_finding(config: dict[str, Any], environment: Mapping[str, str] = os.environ) -> Finding:
    name = config["logger"]["name"]
    if name == "none":
        return ok("logger", "none: metrics.csv alone")
    if name != "wandb":
        return ok("logger", f"{name}: in {name}/ of the run directory; no server")
    if str(config["trainer"]["strategy"]).startswith(COPYING):
        return note(
            "logger",
            "wandb: cannot follow the copied processes of this strategy: metrics.csv alone",
            "trainer=ddp can be followed",
        )
    mode, key = wandb_mode(environment), wandb_key(environment)
    if mode == "disabled":
        return ok("logger", "wandb: switched off by WANDB_MODE=disabled: metrics.csv alone")
    if mode == "offline" and key is None and not environment.get("WANDB_MODE"):
        return ok("logger", "wandb: offline, as no key is configured (wandb login): a run keeps its files, and says how to upload them")  # fmt: skip
    if mode != "online":
        return ok(
            "logger", f"wandb: {mode}, as it is set: a run keeps its files, and says how to upload them"
        )
    if key is None:
        return wrong(
            "logger",
            f"wandb: online, as it is set, and no key is configured: runs go on offline; {ALWAYS}",
            "wandb login",
        )
    server = wandb_server(environment)
    failure = unanswered(server)
    if failure is None:
        return ok("logger", f"wandb: online; key from {key}; {host(server)} answers. Whether it takes the key, the first run shows")  # fmt: skip
    return wrong(
        "logger",
        f"wandb: online (key from {key}), and {host(server)} does not answer: {failure}. Runs go on offline, after {ONLINE_SECONDS:g} s, and say how to upload them",
        "WANDB_MODE=offline asks for that; or see to the network, the proxy, WANDB_BASE_URL",
    )


def unanswered(url: str, seconds: float = ONLINE_SECONDS) -> str | None:
    """Why a server does not answer within so many seconds; None where it does, whatever it says.

    Asked by a thread, which is left behind where the name service hangs: no timeout reaches it.
    """
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask() -> None:
        from urllib.error import HTTPError
        from urllib.request import build_opener

        try:
            build_opener().open(url, timeout=seconds).close()
        except HTTPError:  # an answer
            answers.put(None)
        except Exception as error:  # whatever it is, the server cannot be had, and the line says why
            answers.put(reason(error, seconds))
        else:
            answers.put(None)

    threading.Thread(target=ask, name="tracker-probe", daemon=True).start()
    try:
        return answers.get(timeout=seconds + 1)
    except queue.Empty:
        return f"no answer within {seconds:g} s"
