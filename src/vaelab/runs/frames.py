"""The samples of a run over its training: a small picture each now and then, in ``frames/`` of the run directory."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vaelab.errors import SettingError
from vaelab.runs.files import read_regular, write_atomically

if TYPE_CHECKING:  # numpy costs 0.1 s: the table of runs does without
    import numpy as np

MOST = 60  #: frames that are kept, beside the newest
MOST_BYTES = 8 << 20  #: of a frame's file
MOST_PIXELS = 4_000_000  #: of a frame: a few bytes could be made to unpack to any number


def between(step: int, every: int) -> int:
    """Optimizer steps between two moments that are worth a picture after ``step`` steps: ``every``, doubled until there have been fewer than :data:`MOST`.

    >>> [between(step, every=10) for step in (590, 600, 1190, 1200)]
    [10, 20, 20, 40]
    """
    while step // every >= MOST:
        every *= 2
    return every


_NAME = re.compile(r"step_(\d{1,15})\.png")


@dataclass(frozen=True)
class Frame:
    """A picture ``[H, W, 3]``, uint8, after ``step`` optimizer steps."""

    step: int
    picture: np.ndarray


@dataclass(frozen=True)
class Frames:
    """The frames of a run, of which at most :data:`MOST` and the newest are kept.

    Where there would be more, every second one goes. What is there follows from the newest step alone, so that a run that was interrupted and cut back ends with the same frames.

    Attributes:
        folder: where they lie.
    """

    folder: Path

    def steps(self) -> list[int]:
        """After how many optimizer steps there is a frame, in order."""
        if not self.folder.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def add(self, step: int, picture: np.ndarray, every: int) -> None:
        """Keep ``picture [H, W, C]``, uint8, C = 1 or 3.

        Args:
            step: optimizer steps done.
            every: optimizer steps between two frames; step 0 counts as one.
        """
        from PIL import Image

        content = io.BytesIO()
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(content, "PNG")
        self.folder.mkdir(exist_ok=True)
        write_atomically(self._path(step), content.getvalue())
        kept = between(step, every)
        for other in self.steps():
            if other < step and other % kept:
                self._path(other).unlink(missing_ok=True)

    def cut_back(self, step: int) -> None:
        """Remove the frames of later steps."""
        for other in self.steps():
            if other > step:
                self._path(other).unlink(missing_ok=True)

    def read(self) -> list[Frame]:
        """All frames, in order.

        Raises:
            SettingError: one is no picture of ours, or of another size than the first.
        """
        import numpy as np
        from PIL import Image

        found: list[Frame] = []
        for step in self.steps():
            path = self._path(step)
            content = read_regular(path, MOST_BYTES)
            try:
                with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                    if image.width * image.height > MOST_PIXELS:
                        raise ValueError(f"{image.width} x {image.height} pixels are more than a frame has")
                    picture = np.asarray(image.convert("RGB"))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise SettingError("run", path, f"is no frame of a run ({error})") from None
            if found and picture.shape != found[0].picture.shape:
                raise SettingError("run", path, "is no frame of a run: it has another size than the first")
            found.append(Frame(step, picture))
        return found

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step}.png"
