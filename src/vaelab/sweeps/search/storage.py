"""Where a study is kept: a database, or a journal file."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaelab.errors import SettingError
from vaelab.runs import Secrets
from vaelab.runs.lock import held

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from optuna.storages import BaseStorage

SETTING = "sweep.storage"
FILE = "study.db"  # in the folder of a sweep
SQLITE = "sqlite:///"
JOURNAL = ".journal"  # how a journal's name ends
#: seconds that another program's lock on a database is waited for, and a server's answer
PATIENCE = 20
ATTEMPTS = 20  # to find tables made that somebody else is making
FORMS = (
    "sqlite:///FILE, postgresql://USER@HOST/NAME, another database of SQLAlchemy's, or a file FILE.journal"
)


def placed(text: str | None, folder: Path) -> str:
    """The storage that is meant by a setting, so that it is found from every current directory.

    >>> placed(None, Path("/logs/sweeps/s"))
    'sqlite:////logs/sweeps/s/study.db'
    >>> placed("postgresql://me@host/studies", Path("/logs"))
    'postgresql+psycopg://me@host/studies'

    Args:
        text: of the setting; None = SQLite in ``folder``.
        folder: of the sweep.

    Raises:
        SettingError: it names no storage.
    """
    if text is None:
        return f"{SQLITE}{folder.absolute() / FILE}"
    if not isinstance(text, str):
        raise SettingError(SETTING, text, f"is no storage; one is {FORMS}")
    if text.startswith("sqlite") and (not text.startswith(SQLITE) or text[len(SQLITE) :] in ("", ":memory:")):
        raise SettingError(SETTING, text, "has no file, and a study outlives its processes: sqlite:///FILE")
    if text.startswith(SQLITE):
        return f"{SQLITE}{_absolute(text.removeprefix(SQLITE))}"
    if "://" not in text:
        if not text.endswith(JOURNAL):
            raise SettingError(SETTING, text, f"is no storage; one is {FORMS}")
        return str(_absolute(text))
    kind, _, rest = text.partition("://")
    return f"postgresql+psycopg://{rest}" if kind in ("postgresql", "postgres") else text


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def shown(storage: str) -> str:
    """A storage without its password.

    >>> shown("postgresql+psycopg://me:secret@host/studies")
    'postgresql+psycopg://me:***@host/studies'
    """
    if "://" not in storage or storage.startswith(SQLITE):
        return storage
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return Secrets({}).redact(
            make_url(storage).render_as_string(hide_password=True)
        )  # its query may hold one, too
    except ArgumentError:  # no URL: where its password begins cannot be told
        return storage.partition("://")[0] + "://..."


def open_storage(storage: str, patience: float | None = None) -> BaseStorage:
    """The storage, made if need be.

    Args:
        storage: as :func:`placed` gives it.
        patience: seconds that a lock, or a server's answer, is waited for; None = :data:`PATIENCE`.

    Raises:
        SettingError: it cannot be had.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    patience = PATIENCE if patience is None else patience
    with explained(storage):
        if "://" not in storage:
            Path(storage).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(storage))
        _require_driver(storage)
        arguments: dict[str, Any] = {}
        if storage.startswith(SQLITE):
            Path(storage.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
            arguments = {"timeout": patience}
        elif storage.startswith("postgresql"):
            arguments = {"connect_timeout": max(2, round(patience))}
        # pre_ping: a connection that the server has closed meanwhile is opened again
        try:
            return _database(storage, {"connect_args": arguments, "pool_pre_ping": True})
        except RuntimeError as error:  # another version of Optuna has made it
            raise SettingError(SETTING, shown(storage), f"cannot be used: {error}") from error


def _database(storage: str, arguments: dict[str, Any]) -> BaseStorage:
    """A database. Of two processes that make its tables at the same moment one finds that they, or their first rows, exist already; it looks again."""
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import DBAPIError, IntegrityError

    for left in range(ATTEMPTS - 1, -1, -1):
        try:
            return RDBStorage(storage, arguments)
        except DBAPIError as error:
            is_made_by_another = isinstance(error, IntegrityError) or "already exists" in str(error.orig)
            if not left or not is_made_by_another:
                raise
            time.sleep(0.2)
    raise AssertionError("the last attempt returns or raises")


def alone(storage: str) -> AbstractContextManager[None]:
    """Within, no other process takes a trial: SQLite alone would give one trial to two that ask at the same moment."""
    return (
        held(Path(storage.removeprefix(SQLITE)).parent, wait=True)
        if storage.startswith(SQLITE)
        else nullcontext()
    )


@contextmanager
def explained(storage: str) -> Iterator[None]:
    """Within, what a database says is wrong with it is raised as a SettingError."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

    try:
        yield
    except (
        StorageInternalError,
        DBAPIError,
        ArgumentError,
        NoSuchModuleError,
        ImportError,
        OSError,
        json.JSONDecodeError,
    ) as error:
        raise SettingError(SETTING, shown(storage), _reason(error)) from error


def _reason(error: BaseException) -> str:
    from optuna.exceptions import StorageInternalError

    cause = error
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        cause = error.__cause__
    original = getattr(cause, "orig", None) or cause
    words = " ".join(str(original).split()) or type(original).__name__
    if isinstance(original, json.JSONDecodeError):
        return f"has a damaged line ({original.msg}: {original.doc[:80]!r}), which has to be removed"
    if isinstance(original, sqlite3.OperationalError) and "locked" in words:
        return "is locked by another program, which was waited for"
    if (isinstance(original, sqlite3.OperationalError) and "full" in words) or getattr(
        original, "errno", None
    ) == 28:
        return "cannot be written: the disk is full"
    return f"cannot be used: {words[:300]}"


def _require_driver(storage: str) -> None:
    if storage.startswith("postgresql+psycopg") and importlib.util.find_spec("psycopg") is None:
        raise SettingError(
            SETTING, shown(storage), "needs psycopg: pip install 'psycopg[binary]', or vaelab[postgresql]"
        )
