"""Arrays in a ``.npz`` file of a run directory."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vaelab.errors import SettingError
from vaelab.runs.files import read_regular

if TYPE_CHECKING:  # numpy costs 0.1 s: the table of runs does without
    import numpy as np

MOST = 256 << 20  #: bytes, of the file and of all that it holds; a value of a million images has 8 MiB
_SUFFIX = ".npy"


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of :func:`numpy.savez`: booleans, numbers and text. Nothing of it is executed.

    What a few bytes unpack to is known before they are unpacked, and an array is made of its bytes and not of its shape.

    Raises:
        SettingError: it is missing, damaged, too large, or holds anything else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(read_regular(path, MOST))) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MOST:
                raise ValueError(f"unpacks to more than {MOST:,} bytes")
            found: dict[str, np.ndarray] = {}
            for member in members:
                name = member.filename.removesuffix(_SUFFIX)
                if name in found or name == member.filename:
                    raise ValueError(f"{member.filename!r} is given twice, or is no array")
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError(f"{member.filename!r} is packed in another way than numpy's")
                with archive.open(member) as file:
                    found[name] = _array(file)
            return found
    except FileNotFoundError:
        raise SettingError("run", path, "no such file") from None
    except SettingError:
        raise
    except (  # NotImplementedError is zipfile's word for an archive of a later version, or packed or encrypted in a way that it does not know
        OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, SyntaxError, NotImplementedError, struct.error, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise SettingError("run", path, f"holds no arrays that can be read safely ({error})") from None


def _array(file: IO[bytes]) -> np.ndarray:
    """The array in ``file``: of the values that are there, so that a shape reserves no memory for others."""
    import numpy as np
    from numpy.lib import format as npy

    headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in headers:
        raise ValueError(f"an array of the unknown version {version}")
    shape, is_fortran, dtype = headers[version](file)
    if dtype.kind not in "biufcU":
        raise ValueError(f"an array of {dtype}")
    values = np.frombuffer(file.read(), dtype)
    return values.reshape(shape, order="F" if is_fortran else "C").copy()
