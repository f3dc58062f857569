"""Whether two runs are the same, number by number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vaelab.runs.cards import read_cards
from vaelab.runs.directory import RunDirectory
from vaelab.runs.files import file_digest
from vaelab.runs.metrics import STEP, read

TIME = "time/"  #: metrics that differ from one execution to the next


@dataclass(frozen=True)
class Difference:
    """One number that two runs do not share.

    Attributes:
        what: ``fingerprint``, ``metrics``, ``cards`` or ``weights``.
        name: of the number: a metric, a card, a file.
        step: where there is one.
        a, b: of each run; None = not there.
    """

    what: str
    name: str
    step: int | None
    a: float | str | None
    b: float | str | None

    def __str__(self) -> str:
        where = "" if self.step is None else f" of step {self.step}"
        return f"{self.what}: {self.name}{where} is {self.a!r} and {self.b!r}"


def differences(a: RunDirectory, b: RunDirectory) -> list[Difference]:
    """Where two runs differ: losses of single steps, every metric outside ``time/``, cards, the bytes of the final weights. Empty = the same, bit for bit.

    Of runs that did not come equally far the numbers that one of them lacks differ.
    """
    found: list[Difference] = []
    for what in ("fingerprint", "metrics"):
        left, right = (rows(getattr(run, f"{what}_file")) for run in (a, b))
        for step in sorted({*left, *right}):
            found += unequal(what, step, left.get(step, {}), right.get(step, {}))
    left, right = (_values_of_cards(run) for run in (a, b))
    found += unequal("cards", None, left, right)
    digests = [file_digest(run.weights_file) if run.weights_file.is_file() else None for run in (a, b)]
    if digests[0] != digests[1]:
        found.append(Difference("weights", a.weights_file.name, None, *digests))
    return found


def unequal(
    what: str, step: int | None, a: Mapping[str, float | None], b: Mapping[str, float | None]
) -> list[Difference]:
    """The numbers of one kind, ``what``, that are not the same bits in both; what one of them lacks differs."""
    return [
        Difference(what, name, step, a.get(name), b.get(name))
        for name in {**a, **b}
        if repr(a.get(name)) != repr(b.get(name))  # nan is nan, and -0.0 is not 0.0
    ]


def rows(path: Path) -> dict[int, dict[str, float]]:
    """Step -> metric -> value, without what is under ``time/``."""
    if not path.is_file():
        return {}
    return {
        int(row[STEP]): {k: v for k, v in row.items() if k != STEP and not k.startswith(TIME)}
        for row in read(path)
    }


def _values_of_cards(run: RunDirectory) -> dict[str, float | None]:
    if not run.evaluation_file.is_file():
        return {}
    return {
        f"{card.split}/{card.metric} {part} ({card.estimator}, K={card.num_samples})": getattr(card, part)
        for card in read_cards(run.evaluation_file)
        for part in ("value", "se_images", "se_mc")
    }
