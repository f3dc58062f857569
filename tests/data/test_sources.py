"""Whether a data set can be had: said in seconds, without torch, and damage is never passed over."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from vaelab.data import cache, sources
from vaelab.data.sources import DamagedFile, DataFile, DataUnavailable, Source
from vaelab.errors import SettingError

CONTENT = {"a.gz": b"images", "b.gz": b"labels"}
FILES = tuple(
    DataFile(name, hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest(), len(content))
    for name, content in CONTENT.items()
)
PACKED = DataFile("c.npz", hashlib.md5(b"c").hexdigest(), hashlib.sha256(b"c").hexdigest(), 1)


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the cache nor the proxy of the person who runs the tests, nor any name service."""

    def no_names(host: str, *args: object, **kwargs: object) -> list:
        if host != "127.0.0.1":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *args, **kwargs)  # type: ignore[arg-type]

    resolve = socket.getaddrinfo
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", no_names)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    fake = Source(
        "mnist",
        "MNIST/raw",
        FILES,
        ("http://first.invalid/m/", "http://second.invalid/"),
        "idx",
        256,
        (PACKED,),
    )
    monkeypatch.setitem(sources.SOURCES, "mnist", fake)
    return fake


def place(data_dir: Path, **other: bytes) -> None:
    (data_dir / "MNIST/raw").mkdir(parents=True, exist_ok=True)
    for name, content in CONTENT.items():
        (data_dir / "MNIST/raw" / name).write_bytes(other.get(name[0], content))


@contextmanager
def server(status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """A mirror on the loopback device; its base URL and the request targets it has seen."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "1")
            self.end_headers()
            self.wfile.write(b"x")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}/", seen
        finally:
            httpd.shutdown()
            thread.join()


@contextmanager
def silent_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_files_then_cache(tmp_path: Path, source: Source) -> None:
    place(tmp_path)
    found = sources.require("mnist", tmp_path)
    assert (found.found, [path.name for path in found.files]) == ("files", ["a.gz", "b.gz"])
    cache.write("mnist", source.key, {"train_x": np.zeros(3, np.uint8)}, {}, tmp_path)
    assert sources.require("mnist", str(tmp_path)).found == "cache"
    for path in (tmp_path / "MNIST/raw").iterdir():
        path.unlink()
    assert sources.require("mnist", tmp_path).found == "cache"
    with pytest.raises(DataUnavailable):
        sources.require_source("mnist", tmp_path)


def test_another_form_of_the_same_data_will_do(tmp_path: Path, source: Source) -> None:
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    (tmp_path / "MNIST/raw/c.npz").write_bytes(b"c")
    found = sources.require("mnist", tmp_path)
    assert (found.found, [path.name for path in found.files]) == ("files", ["c.npz"])


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("complete", [False, True])
def test_a_damaged_file_is_named_and_neither_used_nor_fetched(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch, cached: bool, complete: bool
) -> None:
    place(tmp_path, a=b"imagez")
    if not complete:
        (tmp_path / "MNIST/raw/b.gz").unlink()
    if cached:
        cache.write("mnist", source.key, {"train_x": np.zeros(3, np.uint8)}, {}, tmp_path)
    with server() as (url, seen):
        monkeypatch.setitem(sources.SOURCES, "mnist", replace(source, mirrors=(url,)))
        with pytest.raises(DamagedFile) as caught:
            sources.require("mnist", tmp_path)
    message = str(caught.value)
    assert message.startswith("data=mnist: ")
    assert str(tmp_path / "MNIST/raw/a.gz") in message
    assert str(FILES[0].sha256) in message
    assert hashlib.sha256(b"imagez").hexdigest() in message
    assert seen == []
    assert (tmp_path / "MNIST/raw/a.gz").read_bytes() == b"imagez"


def test_a_wrong_md5_alone_is_damage_too(tmp_path: Path, source: Source) -> None:
    place(tmp_path)
    file = replace(FILES[0], md5="0" * 32)
    with pytest.raises(DamagedFile, match=r"md5 0{32}"):
        sources.verify(source, file, tmp_path / "MNIST/raw/a.gz")


def test_digests_that_are_not_known_are_not_checked_and_the_one_seen_is_told(
    tmp_path: Path, source: Source
) -> None:
    place(tmp_path)
    path, right = tmp_path / "MNIST/raw/a.gz", FILES[0].sha256
    for md5, sha256 in ((FILES[0].md5, None), (None, right), (None, None)):
        assert sources.verify(source, DataFile("a.gz", md5, sha256), path) == right
    for md5, sha256 in (("0" * 32, None), (None, "0" * 64)):
        with pytest.raises(DamagedFile):
            sources.verify(source, DataFile("a.gz", md5, sha256), path)
    assert [str(DataFile("a")), str(DataFile("a", md5="0")), str(FILES[0])] == [
        "a",
        "a  md5 0",
        f"a.gz  6 bytes, md5 {FILES[0].md5}",
    ]


@pytest.mark.parametrize("name", ["frey_faces", "caltech_silhouettes"])
def test_what_is_placed_by_hand_is_asked_for(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataUnavailable) as caught:
        sources.require(name, tmp_path)
    source, message = sources.SOURCES[name], str(caught.value)
    assert f"put into {tmp_path / source.folder}\n             {source.files[0].name}\n" in message
    assert f"from       {source.origin}\n" in message
    assert "placed by hand" in message


def test_a_mirror_that_answers_comes_first(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(tmp_path)
    (tmp_path / "MNIST/raw/b.gz").unlink()
    with server() as (url, seen):
        mirrors = ("http://first.invalid/m/", f"{url}mnist/")
        monkeypatch.setitem(sources.SOURCES, "mnist", replace(source, mirrors=mirrors))
        found = sources.require("mnist", tmp_path)
    assert seen == ["/mnist/b.gz"]
    assert (found.found, found.mirrors) == ("network", mirrors[::-1])
    assert [path.name for path in found.files] == ["a.gz"]


def test_the_proxy_of_the_environment_is_used_and_named(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server() as (url, seen):
        monkeypatch.setenv("http_proxy", url)
        assert sources.require("mnist", tmp_path).found == "network"
    assert "http://first.invalid/m/a.gz" in seen
    monkeypatch.setenv("http_proxy", url.replace("http://", "http://user:secret@"))
    with pytest.raises(DataUnavailable) as caught:  # the proxy is gone
        sources.require("mnist", tmp_path)
    assert f"first.invalid (through the proxy {url[7:-1]}): Connection refused" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_refusal_says_where_it_looked_what_failed_and_what_to_do(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(tmp_path)
    (tmp_path / "MNIST/raw/b.gz").unlink()
    with server(status=403) as (url, _), silent_server() as silent:
        monkeypatch.setattr(sources, "PROBE_TIMEOUT", 0.2)
        mirrors = ("http://first.invalid/m/", url, silent)
        monkeypatch.setitem(sources.SOURCES, "mnist", replace(source, mirrors=mirrors))
        with pytest.raises(DataUnavailable) as caught:
            sources.require("mnist", tmp_path)
    message = str(caught.value)
    assert message.startswith("data=mnist: is not on this machine")
    assert f"{tmp_path}/MNIST/raw\n" in message
    assert f"{tmp_path}/user/vaelab/MNIST/raw\n" in message
    assert "first.invalid: Name or service not known\n" in message
    assert f"{url[7:-1]}: HTTP status 403\n" in message
    assert f"{silent[7:-1]}: no answer within 0.2 s (timed out)\n" in message
    assert f"put into {tmp_path}/MNIST/raw\n" in message
    assert f"b.gz  6 bytes, md5 {FILES[1].md5}" in message
    assert "a.gz" not in message
    assert "or, in their place, c.npz" in message
    assert "data=digits needs no network" in message
    assert not (tmp_path / ".vaelab").exists()


def test_a_name_service_that_hangs_is_not_waited_for(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, refused = threading.Event(), threading.Event()

    def hang(*args: object, **kwargs: object) -> list:
        release.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "released")

    def ask() -> None:
        with pytest.raises(DataUnavailable, match=r"first\.invalid: no answer within 0\.2 s\n"):
            sources.require("mnist", tmp_path)
        refused.set()

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(sources, "PROBE_DEADLINE", 0.2)
    threading.Thread(target=ask, daemon=True).start()
    in_time = refused.wait(30)  # for ever, if the probe waited for its threads
    release.set()
    assert in_time


def test_the_bounds_that_ship_keep_the_refusal_within_five_seconds() -> None:
    assert 0 < sources.PROBE_TIMEOUT <= 3.0
    assert sources.PROBE_TIMEOUT <= sources.PROBE_DEADLINE <= 4.5


def test_without_download_nothing_is_asked(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server() as (url, seen):
        monkeypatch.setitem(sources.SOURCES, "mnist", replace(source, mirrors=(url,)))
        with pytest.raises(DataUnavailable, match="downloading is switched off"):
            sources.require("mnist", tmp_path, download=False)
    assert seen == []


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"data=mnits: .*fashion_mnist.*did you mean 'mnist'"):
        sources.require("mnits", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match=r"paths\.data_dir=.*file: must be a folder"):
        sources.require("mnist", tmp_path / "file")


def test_errors_survive_pickling(tmp_path: Path) -> None:
    for error in (
        DataUnavailable("mnist", "is away"),
        DamagedFile("mnist", tmp_path / "a", "sha256 1", "sha256 2"),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (type(error), str(error))


OFFLINE = """
import socket, sys

def offline(*args, **kwargs):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

socket.getaddrinfo = offline
from vaelab import data

assert data.require("digits", sys.argv[1]).found == "embedded"
try:
    data.require("mnist", sys.argv[1])
except data.DataUnavailable as error:
    print(error)
print("imported:", *sorted({"torch", "torchvision", "numpy", "sklearn"} & set(sys.modules)))
"""


def test_the_refusal_needs_no_torch(tmp_path: Path) -> None:
    """A subprocess, because torch is imported here. Importing the package is part of the promise."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "user"), "TMPDIR": str(tmp_path / "tmp")}
    result = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert result.stderr == ""
    *message, imported = result.stdout.splitlines()
    assert message[0].startswith("data=mnist: is not on this machine")
    assert any("ossci-datasets.s3.amazonaws.com: Name or service not known" in line for line in message)
    assert imported == "imported:"
    assert not (tmp_path / "data").exists()


def test_every_source_is_well_formed() -> None:
    for name, source in sources.SOURCES.items():
        assert source.name == name
        by_hand = source.origin is not None
        assert (source.embedded or by_hand) == (not source.mirrors)
        assert source.is_checked != by_hand, "what is downloaded is checked"
        assert all(mirror.endswith("/") for mirror in source.mirrors)
        for file in source.files + source.or_files:
            for digest, length in ((file.md5, 32), (file.sha256, 64)):
                assert digest is None or (len(digest) == length and int(digest, 16) >= 0)
    keys = [source.key for source in sources.SOURCES.values()]
    assert len(set(keys)) == len(keys)
