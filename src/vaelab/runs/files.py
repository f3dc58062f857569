"""Reading and writing the small files of a run directory: never half a file, and never a traceback for a
damaged one.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
from pathlib import Path
from typing import Any

import yaml

from vaelab.errors import SettingError


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
    """The value in a JSON file; a missing or damaged one raises SettingError("run") naming the file and the
    place.
    """
    text = _read(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingError(
            "run", path, f"is not valid JSON ({error}); the run directory is damaged"
        ) from None


def read_yaml(path: Path) -> Any:
    """The value in a YAML file, with the plain types only; errors as :func:`read_json`.

    Numbers are read as OmegaConf reads them: ``1e-3`` is a float, a date stays text.
    """
    text = _read(path)
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise SettingError("run", path, f"is not valid YAML ({what}); the run directory is damaged") from None


def _read(path: Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingError("run", path, "no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError("run", path, f"cannot be read ({error})") from None


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
