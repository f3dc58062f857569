"""Versions, and the commit."""

from __future__ import annotations

from pathlib import Path

from vaelab.experiments.doctor.finding import Finding, note, ok
from vaelab.runs.environment import LOCK, REPOSITORY, locked, versions
from vaelab.runs.git import git_state

SHOWN = 4  #: versions that are named


def code_findings(repository: Path = REPOSITORY) -> list[Finding]:
    """Args:
    repository: the source tree that the package is run from.
    """
    installed = versions()
    found = [
        ok(
            "versions",
            f"Python {installed['python']}, torch {installed['torch']}, lightning {installed['lightning']}",
        )
    ]
    if (repository / LOCK).is_file():  # not beside an installed wheel
        found.append(_lock(installed, locked((repository / LOCK).read_text(encoding="utf-8"))))
    return [*found, _commit(installed)]


def _lock(installed: dict[str, str], lock: dict[str, set[str]]) -> Finding:
    known = sorted(name for name in installed if name in lock)
    others = [
        f"{name} {installed[name]}, not {' or '.join(sorted(lock[name]))}"
        for name in known
        if installed[name] not in lock[name]
    ]
    if not others:
        return ok("lock", f"{len(known)} packages as in {LOCK}")
    more = f"; and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    return note(
        "lock",
        f"{len(others)} of {len(known)} packages are not those of {LOCK}: {'; '.join(others[:SHOWN])}{more}",
        "numbers may differ in their last bits from those of the locked versions; make clean setup installs these",
    )


def _commit(installed: dict[str, str]) -> Finding:
    state = git_state()
    if state is None or state["commit"] is None:
        return note(
            "commit",
            f"no git repository: a run's record can only name the version, vaelab {installed.get('vaelab', '?')}",
        )
    where = "" if state["repository"] == "package" else " of the current directory"
    words = f"{state['commit'][:9]} on {state['branch'] or 'no branch'}{where}"
    if state["dirty"] is None:
        return note(
            "commit", f"{words}; git took too long to say what has changed", "runs would lack the patch"
        )
    if state["dirty"]:
        return note(
            "commit", f"{words}, with changes that are not committed", "a run keeps them, in its code/"
        )
    return ok("commit", f"{words}, nothing changed")
