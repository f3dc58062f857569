"""The ``.env`` file: what a person keeps out of the command line."""

from __future__ import annotations

from pathlib import Path

from vaelab.errors import SettingError


def load_env_file() -> None:
    """Set the variables of the nearest ``.env``; those that are set already win.

    Looked for from the current directory up to the root of its repository or to the home directory; outside
    both (``/tmp``, where other people write too) only in the current directory.
    """
    here = Path.cwd()
    folders = [here, *here.parents]
    ends = [i for i, folder in enumerate(folders) if folder == Path.home() or (folder / ".git").exists()]
    for folder in folders[: ends[0] + 1 if ends else 1]:
        path = folder / ".env"
        if path.is_file():
            from dotenv import load_dotenv

            try:
                load_dotenv(path, override=False)
            except (OSError, UnicodeDecodeError) as error:
                raise SettingError(".env", path, f"cannot be read ({error})") from error
            return
