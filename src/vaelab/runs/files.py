"""Reading and writing the small files of a run directory: never half a file, and never a traceback, an endless wait
or a full memory for one that is damaged or made to harm.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from vaelab.errors import SettingError

#: bytes of a file; honest ones have a hundredth of it
MOST_YAML, MOST_JSON = 1 << 20, 8 << 20
#: groups within groups; values, those that an alias repeats counted each time; characters of one value
DEPTH, VALUES, CHARACTERS = 64, 100_000, 10_000


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path`` so that a reader, also after a crash, finds the old file or the new one,
    never a part.

    Written beside the target, flushed to the disk, renamed over it, directory flushed. Text is UTF-8. Raises
    OSError.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_json(path: Path, value: Any) -> None:
    """Strict JSON, indented. Non-finite floats become the strings ``"nan"``, ``"inf"``, ``"-inf"``
    (``float()`` reads them).
    """
    write_atomically(path, to_json(value, Path(path).name) + "\n")


def to_json(value: Any, name: str) -> str:
    """The text of :func:`write_json`; ``name`` is what an error calls the whole."""
    return json.dumps(_strict(value, name), indent=2, ensure_ascii=False, allow_nan=False)


def write_yaml(path: Path, value: Any) -> None:
    write_atomically(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000))


def read_json(path: Path) -> Any:
    """The value in a JSON file; one that is missing, damaged, too large or no regular file raises SettingError("run") naming the file
    and the place.
    """
    text = _read(path, MOST_JSON)
    try:
        value = json.loads(text)
        _check_depth(value)
    except (ValueError, RecursionError) as error:
        raise SettingError(
            "run", path, f"is not valid JSON ({error}); the run directory is damaged"
        ) from None
    return value


def read_yaml(path: Path) -> Any:
    """The value in a YAML file: groups with text for keys, lists, text, numbers, booleans, null; errors as :func:`read_json`.

    Numbers are read as OmegaConf reads them: ``1e-3`` is a float, a date stays text.
    """
    text = _read(path, MOST_YAML)
    try:
        _check_events(text)
        value = yaml.load(text, Loader=_Loader)
        _check_plain(value)
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
        TypeError,
    ) as error:  # TypeError: a list as a key of !!set
        what = " ".join(str(error).split())
        raise SettingError("run", path, f"is not valid YAML ({what}); the run directory is damaged") from None
    return value


def read_regular(path: Path | str, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes.

    A FIFO would be waited for, a device has no end; a file without blocks can say any size.

    Raises:
        SettingError: it is something else, or larger.
        OSError: it cannot be read.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise SettingError("run", path, f"is {kind(mode)} and no regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise SettingError("run", path, f"is larger than the {most:,} bytes that such a file may have")
        return file.read(size)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kind(mode: int) -> str:
    """What a file is by its ``st_mode``, in words."""
    kinds = {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "of an unknown kind")


def _read(path: Path, most: int) -> str:
    try:
        return read_regular(path, most).decode()
    except FileNotFoundError:
        raise SettingError("run", path, "no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError("run", path, f"cannot be read ({error})") from None


def _check_events(text: str) -> None:
    """Raise ValueError for YAML that grows or recurses without bound, before anything is made of it: deep nesting overflows
    the C loader's stack, and aliases of aliases are a few bytes that stand for any number of values.
    """
    sizes: list[int] = [0]  # of the collections that are open: values in each, itself included
    heights: list[int] = [0]  # groups within each
    names: list[str | None] = [None]
    anchors: dict[str, tuple[int, int]] = {}
    for event in yaml.parse(text, Loader=_Safe):
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.append(1)
            heights.append(1)
            names.append(event.anchor)
            if event.anchor is not None:
                anchors.pop(event.anchor, None)  # open: an alias of it here would have no end
        elif isinstance(event, yaml.CollectionEndEvent):
            size, height, name = sizes.pop(), heights.pop(), names.pop()
            if name is not None:
                anchors[name] = size, height
            sizes[-1] += size
            heights[-1] = max(heights[-1], height + 1)
        elif isinstance(event, yaml.ScalarEvent):
            if len(event.value) > CHARACTERS:  # some kinds of numbers take the square of it in time
                raise ValueError(f"a value of more than {CHARACTERS:,} characters")
            if event.anchor is not None:
                anchors[event.anchor] = 1, 0
            sizes[-1] += 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise ValueError(f"the alias {event.anchor!r} stands for nothing, or for what it is part of")
            size, height = anchors[event.anchor]
            sizes[-1] += size
            heights[-1] = max(heights[-1], height + 1)
        if len(sizes) - 1 + heights[-1] > DEPTH:
            raise ValueError(f"nested more than {DEPTH} deep")
        if sum(sizes) > VALUES:
            raise ValueError(f"more than {VALUES:,} values")


def _check_depth(value: Any) -> None:
    depth, level = 0, list(_items([value]))
    while level:
        if depth == DEPTH:
            raise ValueError(f"nested more than {DEPTH} deep")
        depth, level = depth + 1, [item for group in level for item in _items(group)]


def _items(group: Any) -> Iterator[Any]:
    """The groups and lists in a group or list."""
    values = group.values() if isinstance(group, dict) else group if isinstance(group, list) else ()
    return (value for value in values if isinstance(value, dict | list))


def _check_plain(value: Any) -> None:
    """Raise ValueError for what JSON has not got: the standard tags of YAML make sets, bytes, dates and pairs, too."""
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise ValueError(f"the key {key!r} is not text")
            _check_plain(item)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item)
    elif value is not None and type(value) not in (bool, int, float, str):
        raise ValueError(f"{value!r} is {type(value).__name__}: not text, a number, a list or a group")


# the C loader is ten times faster, and vae-runs reads many files
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Safe):
    """Plain types only, without dates."""


_FLOAT = re.compile(r"^[-+]?(?:\d[\d_]*(?:\.[\d_]*)?[eE][-+]?\d+|\.\d[\d_]*(?:[eE][-+]?\d+)?)$")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _strict(value: Any, where: str) -> Any:
    """``value`` as JSON primitives; TypeError naming the key of anything else (an enum's or tensor's text is
    never stored).
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, dict):
        for key in value:
            if type(key) is not str:
                raise TypeError(f"{where}: the key {key!r} is not text")
        return {key: _strict(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise TypeError(f"{where} is {type(value).__name__}, not a JSON primitive: {value!r}")
