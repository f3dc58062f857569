"""A job of a sweep: one run, known by the settings that make its numbers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vaelab.experiments.request import Request
from vaelab.runs import Secrets

#: the variable that tells the process of a job where it belongs
PLACE = "VAELAB_SWEEP"
LONGEST_JOB, LONGEST_SWEEP = 120, 80  # characters of a directory's name


@dataclass(frozen=True)
class Job:
    """One run that a sweep asks for.

    Attributes:
        overrides: of the single run, as typed.
        swept: the value of each key that is swept over.
        config: that is trained, resolved, primitives only.
        identity: SHA-256 of the settings that make its numbers (:func:`vaelab.runs.identity.config_hash`).
        typed: those of the overrides that are swept over.
        flags: what its command line has beside the overrides.
        environment: variables of its process, which say nothing about its numbers.
        request: how it is asked for; None = only its command says that.
    """

    overrides: tuple[str, ...]
    swept: Mapping[str, Any]
    config: Mapping[str, Any]
    identity: str
    typed: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    request: Request | None = None

    @property
    def name(self) -> str:
        """``latent_dim=2,seed=0``, without secrets."""
        words = Secrets.of(os.environ).words(self.typed or self.overrides)
        return ",".join(word.lstrip("+") for word in words) or "defaults"

    @property
    def directory(self) -> str:
        """``latent_dim=2,seed=0_1f3a90b2``: what it is called, and which run it is."""
        return f"{fit_for_a_name(self.name)[: LONGEST_JOB - 9]}_{self.identity[:8]}"


@dataclass(frozen=True)
class Place:
    """Where the process of a job makes its run.

    Attributes:
        folder: of the sweep.
        directory: name of the run directory in it.
        sweep: what the run's manifest says of it: ``name``, and ``swept``.
    """

    folder: Path
    directory: str
    sweep: dict[str, Any]

    @classmethod
    def told(cls) -> Place | None:
        """What this process was told; None where it is no job of a sweep. Processes that it starts are not told."""
        text = os.environ.pop(PLACE, None)
        if text is None:
            return None
        told = json.loads(text)
        folder = Path(told["folder"])
        return cls(folder, told["directory"], {"name": folder.name, "swept": told["swept"]})

    def asked(self, request: Request, argv: Sequence[str]) -> Request:
        """How the run is asked for here."""
        return replace(
            request, argv=tuple(argv), parent=self.folder, directory=self.directory, sweep=self.sweep
        )

    def variables(self) -> dict[str, str]:
        """The environment that tells it."""
        told = {"folder": str(self.folder), "directory": self.directory, "swept": self.sweep["swept"]}
        return {PLACE: json.dumps(told)}


def sweep_name(name: str, keys: Sequence[str]) -> str:
    """What a sweep is called unless somebody says otherwise.

    >>> sweep_name("vae", ["latent_dim", "+trainer.max_time", "seed"])
    'vae_latent_dim_trainer.max_time_seed'
    """
    return fit_for_a_name("_".join([name, *(key.lstrip("+") for key in keys)]))[:LONGEST_SWEEP]


def fit_for_a_name(text: str) -> str:
    """``text`` with ``-`` for every character that a directory's name should not have.

    >>> fit_for_a_name("encoder.widths=[512, 256]")
    'encoder.widths=-512,-256-'
    """
    return re.sub(r"[^A-Za-z0-9=.,_+-]", "-", text)
