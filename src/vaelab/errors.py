"""What a person is told when a setting is wrong. Every message names the setting, the value received and the rule."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

#: OmegaConf's mark of a setting without a value
MISSING = "???"


class SettingError(ValueError):
    """A setting that a person gave cannot be used; the command ends with exit status 2 before anything is written.

    Args:
        setting: the key as typed on the command line, e.g. ``latent_dim`` or ``data.binarize``.
        received: the value as received; :data:`MISSING` where there is none.
        rule: what would have been right, e.g. ``must be a positive integer``.
        nearest: the nearest valid name, shown as a question, for what looks like a typo.

    >>> print(SettingError("latent_dim", -3, "must be a positive integer"))
    latent_dim=-3: must be a positive integer
    """

    def __init__(self, setting: str, received: object, rule: str, *, nearest: str | None = None) -> None:
        self.setting, self.received, self.rule, self.nearest = setting, received, rule, nearest
        hint = f" (did you mean {nearest!r}?)" if nearest is not None else ""
        typed = setting if received == MISSING else f"{setting}={_typed(received)}"
        message = f"{typed}: {rule}{hint}"
        # it may quote what a file holds, and a terminal obeys some characters
        super().__init__("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in message))

    def __reduce__(
        self,
    ) -> tuple[object, ...]:  # exceptions with keyword arguments do not pickle by themselves
        return (_rebuild, (self.setting, self.received, self.rule, self.nearest))


def _typed(value: object) -> str:
    """A value as it is typed: null, and not None, which would be taken for text; anything else as Python shows it."""
    return "null" if value is None else str(value)


def _rebuild(setting: str, received: object, rule: str, hint: str | None) -> SettingError:
    return SettingError(setting, received, rule, nearest=hint)


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """The name in ``allowed`` that ``word`` most likely meant, or None.

    >>> nearest("latent_dmi", ["latent_dim", "seed"])
    'latent_dim'
    """
    found = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return found[0] if found else None


def choice(setting: str, received: T, allowed: Iterable[T]) -> T:
    """``received`` if it is one of ``allowed``; otherwise a :class:`SettingError` that lists them.

    >>> choice("data.binarize", "dynamic", ["none", "dynamic"])
    'dynamic'
    """
    options = list(allowed)
    if received in options:
        return received
    names = [_typed(option) for option in options]
    raise SettingError(
        setting, received, f"must be one of {', '.join(names)}", nearest=nearest(str(received), names)
    )


def integer(setting: str, received: object, least: int, otherwise: str = "") -> int:
    """``received`` if it is an integer of at least ``least``; otherwise a :class:`SettingError` whose rule ends with ``otherwise``."""
    if isinstance(received, bool) or not isinstance(received, int) or received < least:
        rule = "must be a positive integer" if least == 1 else f"must be an integer >= {least}"
        raise SettingError(setting, received, rule + otherwise)
    return received


def number(setting: str, received: object, rule: str, allowed: Callable[[float], bool]) -> float:
    """``received`` if it is a finite number that is ``allowed``; otherwise a :class:`SettingError` with ``rule``.

    >>> number("objective.beta", 4, "must be a number >= 0", lambda beta: beta >= 0)
    4
    """
    if (
        not isinstance(received, int | float)
        or isinstance(received, bool)
        or not math.isfinite(received)
        or not allowed(received)
    ):
        raise SettingError(setting, received, rule)
    return received


class RunFailed(RuntimeError):
    """A run that had begun did not complete; its directory says why. The command ends with ``exit_status``."""

    def __init__(self, message: str, exit_status: int = 1) -> None:
        self.exit_status = exit_status
        super().__init__(message)
