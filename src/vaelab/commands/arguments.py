"""What the commands without Hydra have in common."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from vaelab.errors import nearest


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, with the flag that was meant."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, allow_abbrev=False, **named)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            meant = nearest(unknown[0], options)
            hint = f"did you mean {meant!r}?" if meant else f"see {self.prog} --help"
            what = "unknown flag" if unknown[0].startswith("-") else "one more than it takes"
            self.error(f"{unknown[0]}: {what} ({hint})")
        return found

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")
