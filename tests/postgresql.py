"""A PostgreSQL server of one's own, on loopback, for as long as a test needs it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: where Debian puts the programs of a server, which are on no PATH
DEBIAN = Path("/usr/lib/postgresql")


def program(name: str) -> str | None:
    """A program of PostgreSQL, of the newest version that is installed."""
    versions = sorted(DEBIAN.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]), reverse=True)
    return str(versions[0]) if versions else shutil.which(name)


@contextmanager
def server() -> Iterator[str]:
    """Within, a server is there; its URL. Skips the test where none is installed."""
    initdb, postgres, pg_ctl = program("initdb"), program("postgres"), program("pg_ctl")
    if initdb is None or postgres is None or pg_ctl is None:
        pytest.skip("PostgreSQL is not installed (on Debian and Ubuntu: apt install postgresql)")
    with tempfile.TemporaryDirectory(prefix="vaelab-postgresql-") as folder:
        data = Path(folder) / "data"
        as_user: list[str] = []
        if os.geteuid() == 0:  # it refuses to be root's
            try:
                user = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder}
        subprocess.run([*as_user, initdb, "-D", data, "-U", "vaelab", "--auth=trust", "--no-sync"], **quiet)
        options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"
        log = Path(folder) / "log"
        subprocess.run([*as_user, pg_ctl, "-D", data, "-l", log, "-w", "-o", options, "start"], **quiet)
        try:
            yield f"postgresql://vaelab@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*as_user, pg_ctl, "-D", data, "-w", "-m", "immediate", "stop"], **quiet)
