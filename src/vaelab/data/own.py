"""A person's own images: ``data=arrays data.path=FILE.npz`` and ``data=folder data.path=DIR``. What can be refused without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaelab.errors import SettingError, choice, integer

#: the kinds, and the settings of ``data`` that each takes beside those common to all data sets
OWN: dict[str, tuple[str, ...]] = {"arrays": ("path",), "folder": ("path", "size", "channels")}
CHANNELS = (1, 3)


def require(name: str, **settings: Any) -> Path:
    """The absolute path of a person's data, which is there.

    Args:
        name: one of :data:`OWN`.
        settings: ``path``; for a folder also ``size`` and ``channels``.

    Raises:
        SettingError: a file or folder that is not there or is the other of the two; a size or number of channels that is none.
    """
    path = settings.get("path")
    kind = "file of arrays (.npz)" if name == "arrays" else "folder of images"
    if not isinstance(path, str | Path) or not str(path):
        raise SettingError("data.path", path, f"must be the name of a {kind}")
    place = Path(path).expanduser().absolute()
    if not place.exists():
        raise SettingError("data.path", path, f"there is no such {kind}")
    if name == "arrays" and not place.is_file():
        raise SettingError("data.path", path, f"must be a {kind}; a folder of images is data=folder")
    if name == "folder":
        if not place.is_dir():
            raise SettingError("data.path", path, f"must be a {kind}; a file of arrays is data=arrays")
        integer("data.size", settings.get("size"), 1)
        choice("data.channels", settings.get("channels"), CHANNELS)
    return place


def classes(received: object) -> tuple[int, ...]:
    """The labels of ``data.classes``, in order. Raises SettingError for what is no list of different labels."""
    if (
        not isinstance(received, list | tuple)
        or not received
        or any(isinstance(label, bool) or not isinstance(label, int) or label < 0 for label in received)
        or len(set(received)) < len(received)
    ):
        raise SettingError(
            "data.classes", received, "must be null or a list of different labels >= 0, as in [0,1,2]"
        )
    return tuple(sorted(received))


def refuse_unread(name: str, **settings: Any) -> None:
    """Raise SettingError for a setting of :data:`OWN` that data set ``name`` does not take."""
    for key, value in settings.items():
        if value is not None and key not in OWN.get(name, ()):
            takers = ", ".join(f"data={kind}" for kind, keys in OWN.items() if key in keys)
            raise SettingError(f"data.{key}", value, f"data={name} does not take it; {takers} does")


def settled(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with ``data.path`` absolute, so that its record means the same wherever it is read."""
    data: Mapping[str, Any] = config["data"]
    if data["name"] not in OWN:
        return config
    options = {key: data.get(key) for key in OWN[data["name"]]}
    return {**config, "data": {**data, "path": str(require(data["name"], **options))}}
