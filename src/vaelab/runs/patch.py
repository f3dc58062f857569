"""The patch of a working tree in a run directory, ``code/changes.patch``: applied as data from somebody else."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from vaelab.errors import SettingError
from vaelab.runs.archive import parts_of
from vaelab.runs.files import read_regular

MOST = 64 << 20  #: bytes of a patch, and of a file that it makes
_SECONDS = 60.0
_MODES = ("100644", "100755")
#: lines of a patch that say what kind of file one is; within the text of a change a line begins with another character
_KIND = re.compile(
    rb"^(?:old mode|new mode|deleted file mode|new file mode|index [0-9a-f]+\.\.[0-9a-f]+ )(.*)$", re.M
)


def safe_git(folder: Path) -> tuple[list[str], dict[str, str]]:
    """How git is called in the working tree ``folder`` where the files in it are somebody else's: the words before those of the command, and the environment.

    Hooks, the file system monitor and filters (``.gitattributes`` names one, the configuration says what it runs) are off, and so are submodules.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {
        "GIT_ATTR_NOSYSTEM": "1", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C",
    }  # fmt: skip
    words = ["git", "-C", str(folder)]
    for setting in (
        f"core.hooksPath={os.devnull}", "core.fsmonitor=false", f"core.attributesFile={os.devnull}", "submodule.recurse=false",
    ):  # fmt: skip
        words += ["-c", setting]
    listed = subprocess.run(
        [*words, "config", "--name-only", "-z", "--get-regexp", r"^filter\."],
        capture_output=True, env=environment, timeout=_SECONDS, check=False,
    )  # fmt: skip
    drivers = {
        name.rpartition(".")[0] for name in listed.stdout.decode(errors="surrogateescape").split("\0") if name
    }
    for driver in sorted(drivers):
        for setting in ("smudge=", "clean=", "process=", "required=false"):
            words += ["-c", f"{driver}.{setting}"]
    return words, environment


def apply_patch(patch: Path, folder: Path) -> None:
    """Apply a patch to the files of the working tree ``folder``: all of it, or nothing.

    Raises:
        SettingError: a path that is absolute, leads upwards, through a link or into ``.git``; a file that is no regular file afterwards (a link, a submodule); a
            patch that is too large or does not fit. Nothing was changed, but for one that makes a file larger than :data:`MOST`, which stops there.
    """

    def refused(reason: str) -> SettingError:
        return SettingError("run", patch, f"is not applied: {' '.join(reason.split())[:500]}")

    try:
        content = read_regular(patch, MOST)
    except FileNotFoundError:
        raise SettingError("run", patch, "no such file") from None
    if not content:
        return
    for found in _KIND.finditer(content):
        mode = found[1].decode(errors="replace").strip()
        if mode not in _MODES:
            raise refused(f"{found[0].decode(errors='replace')!r} is of no regular file")
    words, environment = safe_git(folder)
    # what git makes of it, in the words of git: of two readings of a patch only this one counts
    listed = _git([*words, "apply", "--numstat", "-z", "-"], content, environment)
    if listed.returncode != 0:
        raise refused(listed.stderr.decode(errors="replace"))
    fields = [
        record.split("\t", 2)
        for record in listed.stdout.decode(errors="surrogateescape").split("\0")
        if record
    ]
    try:
        for *_, name in fields:
            parts_of(name)
    except ValueError as error:
        raise refused(str(error)) from None
    done = _git([*words, "apply", "--whitespace=nowarn", "-"], content, environment)
    if done.returncode != 0:
        raise refused(done.stderr.decode(errors="replace"))


def _git(words: list[str], content: bytes, environment: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """Runs git with a bound on the size of a file that it writes: a binary change of a few bytes can make any."""
    limited = ["sh", "-c", 'ulimit -f "$0" && exec "$@"', str(MOST // 512), *words]
    return subprocess.run(
        limited, input=content, capture_output=True, env=environment, timeout=_SECONDS, check=False
    )
