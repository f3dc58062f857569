"""Secrets: what must not enter a record, wherever it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

T = TypeVar("T")

#: a variable whose name contains one of these holds a secret ...
NAMES = ("KEY", "TOKEN", "SECRET", "PASSWORD")
#: ... and so does a setting whose own name is like this. Narrower: label_key, mask_token and tokenizer are a model's, and their values stand elsewhere too
SETTING = re.compile(
    r"^token$|(?:api|access|auth|bearer|private|hf|wandb|user)[_-]?(?:key|token)s?$|secret|passw(?:or)?d|passphrase",
    re.IGNORECASE,
)
#: a password in a URL, as in postgresql://user:password@host/name; one of any length
IN_URL = re.compile(r"\b([a-z][a-z0-9+.-]*://[^\s/:@<>]*):(?!<secret|\*\*\*@)[^\s@]+@", re.IGNORECASE)
#: ... or in its query
IN_QUERY = re.compile(
    r"([?&](?:pass(?:word|wd)?|pwd|secret|token|api_?key)=)(?!<secret)[^&\s]+", re.IGNORECASE
)
#: characters; a shorter value would be found everywhere
SHORTEST = 6
#: of a line of a value that has several (a private key); it is looked for by itself, since a patch puts a sign before each
SHORTEST_LINE = 16


class Secrets:
    """The secrets that are known here, and how they are left out of what is written.

    In text a value is replaced by ``<secret NAME>``.

    >>> secrets = Secrets.of({"WANDB_API_KEY": "abcdef123", "HOME": "/home/me"}, {"logger": {"token": "xyz-789"}})
    >>> secrets.redact({"argv": ["key=abcdef123"], "logger": {"token": "xyz-789"}})
    {'argv': ['key=<secret WANDB_API_KEY>'], 'logger': {'token': '<secret logger.token>'}}
    >>> sorted(secrets.replaced)
    ['WANDB_API_KEY', 'logger.token']
    >>> secrets.redact("sweep.storage=postgresql://me:1234@host/studies")
    'sweep.storage=postgresql://me:<secret in a URL>@host/studies'
    >>> secrets.redact(["postgresql://me:a/b@host/db", "postgresql://host/db?user=me&password=1234"])
    ['postgresql://me:<secret in a URL>@host/db', 'postgresql://host/db?user=me&password=<secret in a URL>']

    Args:
        values: value -> name of the variable or setting that holds it.

    Attributes:
        replaced: the names of those that :meth:`redact` and :meth:`words` have left out so far.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        spelled = {form: name for value, name in values.items() for form in _forms(value)}
        self._names = dict(sorted(spelled.items(), key=lambda item: -len(item[0])))  # the longest first
        self._bytes = {value.encode(errors="surrogateescape"): name for value, name in self._names.items()}
        self.replaced: set[str] = set()

    @classmethod
    def of(cls, environment: Mapping[str, str], config: Mapping[str, Any] | None = None) -> Secrets:
        """The values of variables and of settings that are named as secrets, of at least six characters."""
        values = {value: path for path, value in _settings(config or {}) if isinstance(value, str)}
        values |= {
            value: name for name, value in environment.items() if any(word in name.upper() for word in NAMES)
        }
        return cls({value: name for value, name in values.items() if len(value.strip()) >= SHORTEST})

    def names_in(self, content: bytes | str) -> list[str]:
        """The names of the secrets whose values stand in ``content``."""
        if isinstance(content, str):
            return sorted({name for value, name in self._names.items() if value in content})
        return sorted({name for value, name in self._bytes.items() if value in content})

    def redact(self, value: T) -> T:
        """``value`` with every secret in its text replaced, in mappings and lists too, and under a key that is named as a secret."""
        return self._redact(value, "")

    def words(self, words: Iterable[str]) -> list[str]:
        """A command line without secrets: also the whole value of ``logger.api_key=...``, known or not (in a sweep it is several values)."""
        return [self._word(self._redact(word, "")) for word in words]

    def _word(self, word: str) -> str:
        key, equals, value = word.partition("=")
        path = key.lstrip("+~-").partition("@")[0]
        is_left_out = re.fullmatch("<secret [^<>]*>", value) is not None
        if not equals or is_left_out or len(value) < SHORTEST or not SETTING.search(path.rpartition(".")[2]):
            return word
        return f"{key}={self._marker(path)}"

    def _redact(self, value: Any, path: str) -> Any:
        if isinstance(value, str):
            for secret, name in self._names.items():
                if secret in value:
                    value = value.replace(secret, self._marker(name))
            value = IN_URL.sub(lambda found: f"{found[1]}:{self._marker('in a URL')}@", value)
            return IN_QUERY.sub(lambda found: found[1] + self._marker("in a URL"), value)
        if isinstance(value, Mapping):
            return {
                self._redact(key, ""): self._marker(_join(path, key))
                if _is_secret_number(key, item)
                else self._redact(item, _join(path, key))
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return type(value)(self._redact(item, path) for item in value)
        return value

    def _marker(self, name: str) -> str:
        self.replaced.add(name)
        return f"<secret {name}>"


def _forms(value: str) -> Iterator[str]:
    """The ways in which a value may be written: in JSON, in an address, its lines one by one."""
    value = value.strip()
    yield from (value, json.dumps(value)[1:-1], quote(value, safe=""))
    lines = [line.strip() for line in value.splitlines()]
    yield from (line for line in lines if len(line) >= SHORTEST_LINE and line != value)


def _settings(node: Any, path: str = "", is_secret: bool = False) -> Iterator[tuple[str, Any]]:
    """The leaves below keys that are named as secrets, by path."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _settings(value, _join(path, key), SETTING.search(str(key)) is not None)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _settings(value, path, is_secret)
    elif is_secret:
        yield path, node


def _is_secret_number(key: Any, value: Any) -> bool:
    """A password of digits is read as a number."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and len(str(value)) >= SHORTEST
    return is_number and SETTING.search(str(key)) is not None


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
