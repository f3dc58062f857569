"""Whether a run that was made again is the recorded one: bit for bit, up to rounding, or not from some step on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vaelab.runs.cards import Card, cards_from, comparable, read_cards
from vaelab.runs.equality import rows, unequal
from vaelab.runs.record import Record

# Training amplifies rounding. Measured between one and two threads of the same machine (the reference on MNIST; a convolutional importance-weighted
# autoencoder on the digits): losses are up to 2e-7 apart within the first 20 steps, 2e-7 to 2e-4 at step 100, and at most 2.3e-2 from some hundred steps on, where the
# trainings are two of one distribution; final cards are up to 0.6 % of the bound apart, which is many times their se_mc. Against that, of the reference on MNIST, Adam's
# eps = 1e-7 in the place of 1e-8: 4e-6 at step 4, 8e-5 at step 10; beta_2 = 0.998: 2e-5 at step 4; a learning rate 1 % larger: 3e-4 at step 2.
FIRST_STEP = 2e-6  #: relative difference of losses that counts as rounding, of the first step ...
DOUBLES_EVERY = 10  #: ... and twice as much after so many steps each ...
LOSSES = 5e-2  #: ... up to this
CARDS = 1e-2  #: of the larger bound of both, in nats; and further ...
ERRORS = 3.0  #: ... so many times the combined se_mc
SETTINGS = ("optim/lr", "optim/beta")  #: metrics that no rounding of a training reaches
EXACT = 1e-6  #: relative difference of those
TOLERANCE = (
    f"losses {FIRST_STEP:g} relative at step 1, twice as much every {DOUBLES_EVERY} steps up to {LOSSES:g}; "
    f"cards {CARDS:.0%} of the bound + {ERRORS:g} se_mc"
)


class Agreement(StrEnum):
    BITWISE = "bitwise"
    TOLERANCE = "within tolerance"
    DIVERGED = "diverged"


@dataclass(frozen=True)
class Verdict:
    """What became of a reproduction.

    Attributes:
        agreement: of all that was compared.
        compared: what was, in words with counts.
        not_compared: what the record has not got, in words.
        last: the last step before ``first`` that agrees: a loss of the fingerprint, or learning rate and beta among the metrics; 0 = none.
        first: the first step that does not; None where all do.
        largest: relative difference of losses, the largest; 0.0 where all are the same bits.
        largest_step: where that is.
        lines: what differs, a line each: bits too, where the agreement is within tolerance.
        losses_only: nothing but the losses of the first steps was compared.
    """

    agreement: Agreement
    compared: tuple[str, ...]
    not_compared: tuple[str, ...]
    last: int
    first: int | None
    largest: float
    largest_step: int | None
    lines: tuple[str, ...]
    losses_only: bool

    def __str__(self) -> str:
        if self.agreement is not Agreement.DIVERGED:
            return f"{self.agreement} up to step {self.last}" if self.losses_only else str(self.agreement)
        if self.first is None:
            return f"diverged in other numbers than the losses up to step {self.last}"
        return f"diverged between steps {self.last} and {self.first}"


def tolerance(step: int) -> float:
    """Relative difference of losses at an optimizer step that rounding accounts for.

    >>> [tolerance(step) for step in (1, 11, 1000)]
    [2e-06, 4e-06, 0.05]
    """
    return min(LOSSES, FIRST_STEP * 2.0 ** min((step - 1) / DOUBLES_EVERY, 64))


def judge(recorded: Record, again: Record, steps: int | None = None) -> Verdict:
    """Compare a run that was made again with the record.

    Args:
        recorded: what is to be had again.
        again: the run that was made.
        steps: compare the fingerprint up to this step and nothing else; None = everything that is on record: fingerprint, every metric outside ``time/``, the cards
            of the training, the digest of the final weights.
    """
    a, b = (
        {step: loss for step, loss in record.fingerprint.items() if steps is None or step <= steps}
        for record in (recorded, again)
    )
    apart = _apart(a, b)
    series = [{step: apart[step] <= tolerance(step) for step in apart}]
    if steps is None:
        series.append(_settings(recorded, again))
    last, first = _between(series)
    largest_step = max((step for step in apart if first is None or step <= first), key=lambda step: apart[step], default=None)  # fmt: skip
    lines = [
        str(one) for step in apart for one in unequal("fingerprint", step, _loss(a, step), _loss(b, step))
    ]
    compared, missing, far = [f"{len(a)} losses up to step {max(a)}"], [], False
    if steps is None:
        for compare in (_metrics, _cards, _weights):
            names, lacking, differing, too_far = compare(recorded, again)
            compared += names
            missing += lacking
            lines += differing
            far = far or too_far
    if first is not None or far:
        agreement = Agreement.DIVERGED
    else:
        agreement = Agreement.TOLERANCE if lines else Agreement.BITWISE
    return Verdict(
        agreement,
        tuple(compared),
        tuple(missing),
        last,
        first,
        0.0 if largest_step is None else apart[largest_step],
        largest_step,
        tuple(lines),
        losses_only=steps is not None,
    )


def _loss(losses: Mapping[int, float], step: int) -> dict[str, float | None]:
    return {"loss": losses[step]} if step in losses else {}


def _between(series: Sequence[Mapping[int, bool]]) -> tuple[int, int | None]:
    """The last step that agrees before the first that does not, in a series where that one is; without such a one the last of all, and None.

    >>> _between([{1: True, 100: True, 200: False}, {50: True, 150: True, 200: True}])
    (100, 200)
    >>> _between([{1: True, 100: True, 200: False}, {50: True, 150: False}])
    (50, 150)
    >>> _between([{1: True, 100: True}, {}])
    (100, None)
    """
    first = min((step for one in series for step in one if not one[step]), default=None)
    if first is None:
        return max(step for one in series for step in one), None
    known = [step for one in series if not one.get(first, True) for step in one if step < first]
    return max(known, default=0), first


def _apart(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    """Step -> relative difference of the losses: 0 = the same bits, infinite where one of them is missing or not finite."""
    known = [abs(loss) for loss in a.values() if math.isfinite(loss)]
    usual = sum(known) / len(known) if known else 0.0  # a loss that happens to be near 0 is no scale
    found = {}
    for step in sorted({*a, *b}):
        x, y = a.get(step, math.nan), b.get(step, math.nan)
        if step in a and step in b and repr(x) == repr(y):
            found[step] = 0.0
        elif math.isfinite(x) and math.isfinite(y):
            found[step] = abs(x - y) / max(abs(x), usual)
        else:
            found[step] = math.inf
    return found


def _settings(recorded: Record, again: Record) -> dict[int, bool]:
    """Step -> whether learning rate and beta are the recorded ones, where both are on record."""
    if recorded.run is None or again.run is None or not recorded.run.metrics_file.is_file():
        return {}
    a, b = rows(recorded.run.metrics_file), rows(again.run.metrics_file)
    found: dict[int, bool] = {}
    for step in sorted({*a} & {*b}):
        for key in SETTINGS:
            if key in a[step] and key in b[step]:
                is_equal = math.isclose(a[step][key], b[step][key], rel_tol=EXACT)
                found[step] = found.get(step, True) and is_equal
    return found


Part = tuple[list[str], list[str], list[str], bool]  # compared, not on record, what differs, too far apart


def _metrics(recorded: Record, again: Record) -> Part:
    """Metrics only decide on bits: what they are up to rounding, losses and cards say."""
    if recorded.run is None or not recorded.run.metrics_file.is_file():
        return [], ["metrics"], [], False
    assert again.run is not None
    a, b = rows(recorded.run.metrics_file), rows(again.run.metrics_file)
    lines = [str(one) for step in sorted({*a, *b}) for one in unequal("metrics", step, a.get(step, {}), b.get(step, {}))]  # fmt: skip
    return [f"{sum(map(len, a.values()))} values of metrics"], [], lines, False


def _cards(recorded: Record, again: Record) -> Part:
    """Those of the run that was made again: what was measured later of the recorded one is none of its training."""
    known, mine = _of_the_training(recorded), _of_the_training(again)
    if known is None or mine is None:
        return [], ["cards"], [], False
    lines, far, compared = [], False, []
    bound = max((abs(card.value) for card in mine if card.metric in ("elbo", "nll")), default=0.0)
    lacking = []
    for card in mine:
        other = next((one for one in known if not comparable(one, card)), None)
        name = f"{card.split}/{card.metric}"
        if other is None:
            lacking.append(f"card {name} (it was measured otherwise)")
            continue
        compared.append(name)
        found = unequal("cards", None, *({f"{name} {part}": getattr(one, part) for part in ("value", "se_images", "se_mc")} for one in (other, card)))  # fmt: skip
        lines += map(str, found)
        far = far or (bool(found) and not _close(other, card, bound))
    return [f"cards {', '.join(compared)}"] if compared else [], lacking, lines, far


def _of_the_training(record: Record) -> list[Card] | None:
    """The cards that the end of a training made, which a later evaluation may have replaced in ``evaluation.json``."""
    if (cards := record.manifest.get("cards")) is not None:
        return cards_from(cards, record.path)
    if record.run is None or not record.run.evaluation_file.is_file():  # an earlier record has no others
        return None
    return read_cards(record.run.evaluation_file)


def _close(a: Card, b: Card, bound: float) -> bool:
    allowed = CARDS * bound + ERRORS * math.hypot(a.se_mc or 0.0, b.se_mc or 0.0)
    return a.units == "nats" and abs(a.value - b.value) <= allowed  # not, if either is nan


def _weights(recorded: Record, again: Record) -> Part:
    if recorded.weights is None:
        return [], ["weights"], [], False
    values: list[dict[str, Any]] = [{"SHA-256": record.weights} for record in (recorded, again)]
    return ["SHA-256 of the weights"], [], [str(one) for one in unequal("weights", None, *values)], False
