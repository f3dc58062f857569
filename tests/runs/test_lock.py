"""One process at a time works in a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vaelab.errors import SettingError
from vaelab.runs import lock

SCRIPT = """
import sys
from pathlib import Path
from vaelab.runs.lock import held
with held(Path(sys.argv[1])):
    print("within", flush=True)
    input()
"""


def test_another_process_is_refused_and_the_lock_goes_with_whoever_holds_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"within\n"
        with (
            pytest.raises(SettingError, match="is being measured by another process"),
            lock.held(tmp_path, "measured"),
        ):
            pytest.fail("within")
        other.kill()
        with lock.held(tmp_path, wait=True):
            pass
    with lock.held(tmp_path):
        pass


def test_a_file_system_without_locks_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(number: int) -> None:
        def flock(descriptor: int, operation: int) -> None:
            raise OSError(number, "said by the file system")

        monkeypatch.setattr(lock.fcntl, "flock", flock)

    failing(lock.errno.ENOLCK)
    with lock.held(tmp_path):
        pass
    failing(lock.errno.EIO)
    with pytest.raises(OSError, match="said by"), lock.held(tmp_path):
        pytest.fail("within")
