"""What is searched: the values that each setting may take, from Hydra's grammar to Optuna's distributions."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from vaelab.errors import SettingError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Space:
    """A distribution for each setting that is searched, under the name by which an override sets it.

    ``a,b,c``, ``choice(...)`` and ``glob(...)`` are choices (kept as they are typed); ``range(a, b, step)`` is every step from a on that is less than b;
    ``interval(a, b)`` any number between them, ``int(interval(a, b))`` any whole one, both ends included; with ``tag(log, ...)`` evenly in its logarithm.
    """

    distributions: Mapping[str, BaseDistribution]

    @classmethod
    def of(cls, swept: Sequence[Override]) -> Space:
        """The space of the overrides that have more than one value.

        Raises:
            SettingError: there is none, or one has no value, or none that can be searched.
        """
        return cls({override.get_key_element(): _distribution(override) for override in swept})

    def overrides(self, params: Params) -> list[str]:
        """What is typed for these values: ``["optimizer.lr=0.001", "encoder=conv"]``."""
        return [
            f"{name}={_typed(params[name], distribution)}"
            for name, distribution in self.distributions.items()
        ]

    def corners(self) -> list[dict[str, Any]]:
        """Each choice, and both ends of everything else, at least once."""
        ends = {name: _ends(distribution) for name, distribution in self.distributions.items()}
        first = {name: values[0] for name, values in ends.items()}
        found = [first]
        for name, values in ends.items():
            found += [{**first, name: value} for value in values[1:]]
        return found

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of values.

        Raises:
            SettingError: of a setting that may take any number of an interval.
        """
        values = [_all(name, distribution) for name, distribution in self.distributions.items()]
        return [dict(zip(self.distributions, point)) for point in itertools.product(*values)]

    def described(self) -> dict[str, str]:
        """In words, to be compared and shown: ``{"optimizer.lr": "0.0001 to 0.01, log"}``."""
        return {name: describe(distribution) for name, distribution in self.distributions.items()}


def describe(distribution: BaseDistribution) -> str:
    """
    >>> from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    >>> describe(CategoricalDistribution(["mlp", "conv"])), describe(FloatDistribution(1e-4, 1e-2, log=True))
    ('mlp, conv', '0.0001 to 0.01, log')
    >>> describe(IntDistribution(2, 10, step=2))
    'whole, 2 to 10, step 2'
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    words = [f"{distribution.low:g} to {distribution.high:g}"]
    if isinstance(distribution, IntDistribution):
        words = ["whole", f"{distribution.low} to {distribution.high}"]
    if distribution.log:
        words.append("log")
    if distribution.step not in (None, 1):
        words.append(f"step {distribution.step:g}")
    return ", ".join(words)


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    name, typed = override.get_key_element(), override.get_value_string() if override.input_line else ""
    value = override.value()
    try:
        if isinstance(value, IntervalSweep):
            low, high, log = _number(value.start), _number(value.end), _is_log(value.tags)
            if low > high:
                raise ValueError(f"its lower end {low:g} is above its upper end {high:g}")
            if log and low <= 0:
                raise ValueError("a logarithm needs numbers above 0")
            if isinstance(low, int) and isinstance(high, int):
                return IntDistribution(low, high, log=log)
            return FloatDistribution(low, high, log=log)
        if isinstance(value, RangeSweep):
            numbers = sorted(override.sweep_iterator())  # type: ignore[type-var]
            if not numbers:
                raise ValueError("holds no value")
            log, low, high = _is_log(value.tags), numbers[0], numbers[-1]
            if all(type(number) is int for number in numbers):
                return IntDistribution(low, high, log=log, step=abs(int(value.step)))
            if log:
                raise ValueError("a range of fractions cannot be logarithmic: take interval(...)")
            return FloatDistribution(low, high, step=abs(float(value.step)))
        _is_log(getattr(value, "tags", set()), may_be=False)
        choices = list(dict.fromkeys(override.sweep_string_iterator()))
        if not choices:
            raise ValueError("holds no value: there is nothing to try")
        return CategoricalDistribution(choices)
    except ValueError as error:
        raise SettingError(name, typed, str(error)) from None


def _number(end: float | None) -> float | int:
    assert end is not None
    return end


def _is_log(tags: set[str], *, may_be: bool = True) -> bool:
    unknown = sorted(tags - ({"log"} if may_be else set()))
    if unknown:
        allowed = "the tag of a number is log" if may_be else "a choice has no tags"
        raise ValueError(f"the tag {unknown[0]} says nothing here: {allowed}")
    return "log" in tags


def _typed(value: Any, distribution: BaseDistribution) -> str:
    """A value as an override has it; of a range of fractions without the rounding of its steps: 0.3 and not 0.30000000000000004."""
    has_steps = isinstance(value, float) and vars(distribution).get("step") is not None
    return f"{value:.12g}" if has_steps else str(value)


def is_number(distribution: BaseDistribution) -> bool:
    """Whether its values are numbers, rather than choices."""
    return not hasattr(distribution, "choices")


def _ends(distribution: BaseDistribution) -> list[Any]:
    choices = getattr(distribution, "choices", None)
    if choices is not None:
        return list(choices)
    low, high = vars(distribution)["low"], vars(distribution)["high"]
    return [low] if low == high else [low, high]


def _all(name: str, distribution: BaseDistribution) -> list[Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.step is None:
        raise SettingError(name, describe(distribution), "has no grid: give values, or a range(...)")
    count = round((distribution.high - distribution.low) / distribution.step)
    return [distribution.low + i * distribution.step for i in range(count + 1)]


def as_json(space: Space) -> dict[str, Any]:
    """As a study keeps it."""
    from optuna.distributions import distribution_to_json

    return {name: json.loads(distribution_to_json(one)) for name, one in space.distributions.items()}
