"""Data sets as tensors, binarisation protocols and the LightningDataModule.

Importing this package costs nothing: names are fetched on first use, because the commands look for the data
before torch is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaelab.data.datamodule import ImageDataModule
    from vaelab.data.datasets import ImageData, Split, load
    from vaelab.data.protocol import Protocol
    from vaelab.data.sources import (
        SOURCES,
        Availability,
        DamagedFile,
        DataFile,
        DataUnavailable,
        Source,
        require,
    )

__all__ = [
    "SOURCES",
    "Availability",
    "DamagedFile",
    "DataFile",
    "DataUnavailable",
    "ImageData",
    "ImageDataModule",
    "Protocol",
    "Source",
    "Split",
    "load",
    "require",
]

_MODULES = {
    "ImageData": "datasets",
    "Split": "datasets",
    "load": "datasets",
    "ImageDataModule": "datamodule",
    "Protocol": "protocol",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'sources')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
