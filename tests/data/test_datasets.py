"""Data sets as tensors: the right values, whoever comes first and whatever is broken."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import multiprocessing
import shutil
import socket
import struct
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from vaelab.data import cache, datasets, sources
from vaelab.data.sources import DamagedFile, DataFile, DataUnavailable, Source
from vaelab.errors import SettingError

RNG = np.random.default_rng(0)
IMAGES = {
    "train": RNG.integers(0, 256, (5, 4, 3), np.uint8),
    "t10k": RNG.integers(0, 256, (2, 4, 3), np.uint8),
}
LABELS = {"train": np.array([7, 0, 1, 9, 2], np.uint8), "t10k": np.array([3, 8], np.uint8)}


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither the cache nor the proxy of the person who runs the tests, nor the network."""
    resolve = socket.getaddrinfo

    def no_names(host: str, *args: object, **kwargs: object) -> list:
        if host != "127.0.0.1":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *args, **kwargs)  # type: ignore[arg-type]

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    return tmp_path / "user" / "vaelab"


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


CONTENT = {
    f"{split}-{kind}-ubyte.gz": idx(array[split])
    for kind, array in (("images-idx3", IMAGES), ("labels-idx1", LABELS))
    for split in ("train", "t10k")
}


def describe(content: dict[str, bytes]) -> tuple[DataFile, ...]:
    return tuple(
        DataFile(name, hashlib.md5(value).hexdigest(), hashlib.sha256(value).hexdigest(), len(value))
        for name, value in content.items()
    )


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    fake = Source("mnist", "MNIST/raw", describe(CONTENT), ("http://mirror.invalid/",), "idx", 256)
    monkeypatch.setitem(sources.SOURCES, "mnist", fake)
    return fake


@pytest.fixture
def data_dir(tmp_path: Path, source: Source) -> Path:
    raw = tmp_path / "data" / source.folder
    raw.mkdir(parents=True)
    for name, content in CONTENT.items():
        (raw / name).write_bytes(content)
    return tmp_path / "data"


def assert_right(images: datasets.ImageData) -> None:
    for split, prefix in ((images.train, "train"), (images.test, "t10k")):
        assert (split.x.dtype, split.y.dtype) == (torch.uint8, torch.int64)
        assert split.x.is_contiguous()
        np.testing.assert_array_equal(split.x.numpy(), IMAGES[prefix][:, None])
        np.testing.assert_array_equal(split.y.numpy(), LABELS[prefix])
    assert images.val is None
    assert images.digests == {file.name: file.sha256 for file in describe(CONTENT)}
    assert images.image_shape == (1, 4, 3)


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@contextmanager
def mirror(content: dict[str, bytes], stall: bool = False) -> Iterator[tuple[str, list[str]]]:
    """A mirror on the loopback device. One that stalls answers the probe, then sends half a file."""
    seen: list[str] = []
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = content.get(self.path.removeprefix("/"))
            if body is None:
                self.send_error(404)
                return
            probing = self.headers["Range"] is not None
            if not probing:
                seen.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if stall and not probing:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                done.wait(60)
                return
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # the probe leaves before the body is sent

    with Server(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}/", seen
        finally:
            done.set()
            httpd.shutdown()
            thread.join()


def test_files_are_decoded_once_and_nothing_else_is_left(data_dir: Path, source: Source) -> None:
    before = tree(data_dir)
    assert_right(datasets.load("mnist", data_dir))
    (folder,) = cache.folders("mnist", source.key, data_dir)
    assert tree(data_dir) - before == {str((folder / name).relative_to(data_dir)) for name in tree(folder)}
    shutil.rmtree(data_dir / "MNIST")
    again = datasets.load("mnist", data_dir)
    assert_right(again)
    again.train.x[0] = 0  # ordinary memory: the cache does not change with it
    assert_right(datasets.load("mnist", data_dir))


def test_a_read_only_data_dir_is_used_and_left_as_it_is(
    data_dir: Path, user_cache: Path, source: Source
) -> None:
    before = tree(data_dir)
    folders = [data_dir, data_dir / "MNIST", data_dir / "MNIST/raw"]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert_right(datasets.load("mnist", data_dir))
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert tree(data_dir) == before
    assert cache.folders("mnist", source.key, data_dir) == [user_cache / f"mnist-{source.key}"]


def test_a_damaged_cache_is_noticed_and_rebuilt(
    data_dir: Path, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    datasets.load("mnist", data_dir)
    (folder,) = cache.folders("mnist", source.key, data_dir)
    content = bytearray((folder / "train_x.npy").read_bytes())
    content[-1] ^= 255
    (folder / "train_x.npy").write_bytes(content)
    assert_right(datasets.load("mnist", data_dir))
    assert "damaged and will be rebuilt" in caplog.text
    caplog.clear()
    assert_right(datasets.load("mnist", data_dir))
    assert caplog.text == ""


def test_a_damaged_cache_without_source_is_a_refusal(data_dir: Path, source: Source) -> None:
    datasets.load("mnist", data_dir)
    (folder,) = cache.folders("mnist", source.key, data_dir)
    path = folder / "train_x.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    # the sources are gone, and there is no network
    for name in CONTENT:
        (data_dir / source.folder / name).unlink()
    with pytest.raises(DataUnavailable):
        datasets.load("mnist", data_dir)


def test_a_damaged_source_is_never_decoded(data_dir: Path, source: Source) -> None:
    wrong = idx(IMAGES["train"] ^ 1)
    path = data_dir / source.folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(wrong)
    with pytest.raises(DamagedFile, match=source.files[0].sha256):
        datasets.load("mnist", data_dir)
    assert not (data_dir / ".vaelab").exists()


def test_a_file_that_changes_after_the_check_is_not_decoded(
    data_dir: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = sources.require("mnist", data_dir)
    (data_dir / source.folder / "train-images-idx3-ubyte.gz").write_bytes(idx(IMAGES["train"] ^ 1))
    monkeypatch.setattr(sources, "require", lambda *args, **kwargs: found)
    with pytest.raises(DamagedFile):
        datasets.load("mnist", data_dir)


def _first_use(data_dir: Path, barrier, results) -> None:  # type: ignore[no-untyped-def]
    barrier.wait(30)
    try:
        assert_right(datasets.load("mnist", data_dir))
        results.put("right")
    except BaseException as error:
        results.put(repr(error))


@pytest.mark.filterwarnings(
    "ignore:.*fork.*:DeprecationWarning"
)  # from 3.12 on; a spawn would import torch 4 times
def test_several_processes_at_first_use(data_dir: Path) -> None:
    import torchvision  # noqa: F401  before the fork, so that the processes do meet

    before = tree(data_dir)
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_first_use, args=(data_dir, barrier, results)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == ["right"] * 4
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert len(list((data_dir / ".vaelab").iterdir())) == 1
    assert {name.split("/")[0] for name in tree(data_dir) - before} == {".vaelab"}


def test_missing_files_come_from_a_mirror(
    data_dir: Path, source: Source, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("t10k-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        (data_dir / source.folder / name).unlink()
    damaged = {name: value[:-1] for name, value in CONTENT.items()}
    with mirror(CONTENT) as (good, seen), mirror(damaged) as (bad, _):
        monkeypatch.setitem(sources.SOURCES, "mnist", replace(source, mirrors=(bad, good)))
        monkeypatch.setattr(
            sources, "probe", lambda urls: (next(iter(urls)), [])
        )  # the bad one answers first
        assert_right(datasets.load("mnist", data_dir))
    assert set(seen) == {"/t10k-images-idx3-ubyte.gz", "/train-labels-idx1-ubyte.gz"}
    for name, content in CONTENT.items():  # kept where torchvision and other tools look
        assert (data_dir / source.folder / name).read_bytes() == content
    assert len(list((data_dir / ".vaelab").iterdir())) == 1
    assert "downloading t10k-images-idx3-ubyte.gz" in capsys.readouterr().err


def test_a_download_for_a_read_only_data_dir_is_kept_in_the_user_cache(
    tmp_path: Path, source: Source, user_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = tmp_path / "empty"
    data_dir.mkdir(mode=0o555)
    with mirror(CONTENT) as (url, _):
        monkeypatch.setitem(sources.SOURCES, "mnist", replace(source, mirrors=(url,)))
        assert_right(datasets.load("mnist", data_dir, progress=False))
    assert tree(data_dir) == set()
    assert {name for name in tree(user_cache) if name.endswith(".gz")} == {f"MNIST/raw/{n}" for n in CONTENT}
    shutil.rmtree(user_cache / f"mnist-{source.key}")
    assert sources.require("mnist", data_dir, download=False).found == "files"


def test_a_stalled_download_times_out(
    data_dir: Path, source: Source, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = data_dir / source.folder / "train-images-idx3-ubyte.gz"
    missing.unlink()
    before = tree(data_dir)
    with mirror(CONTENT, stall=True) as (url, seen):
        monkeypatch.setitem(sources.SOURCES, "mnist", replace(source, mirrors=(url,)))
        monkeypatch.setattr(datasets, "DOWNLOAD_TIMEOUT", 0.3)
        with pytest.raises(DataUnavailable) as caught:
            datasets.load("mnist", data_dir, progress=False)
    assert seen
    assert f"{url[7:-1]}: no answer within 0.3 s (timed out)" in str(caught.value)
    assert f"{missing.name}  {source.files[0].size} bytes" in str(caught.value)  # to be placed by hand
    assert "data=digits needs no network" in str(caught.value)
    assert socket.getdefaulttimeout() is None
    assert tree(data_dir) == before  # not half a file
    assert capfd.readouterr().err == ""


def test_larochelle_text_and_packed_form_are_the_same_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bits = {
        key: RNG.integers(0, 2, (n, 784), np.uint8) for key, n in (("train", 3), ("valid", 2), ("test", 1))
    }
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **{key: np.packbits(value, axis=1) for key, value in bits.items()})
    forms = {"npz": {"b.npz": packed.getvalue()}}
    forms["amat"] = {
        f"{key}.amat": "".join(" ".join(map(str, row)) + "\n" for row in value).encode()
        for key, value in bits.items()
    }
    fake = replace(
        sources.SOURCES["binarized_mnist"], files=describe(forms["amat"]), or_files=describe(forms["npz"])
    )
    monkeypatch.setitem(sources.SOURCES, "binarized_mnist", fake)
    for form, content in forms.items():
        raw = tmp_path / form / "BinarizedMNIST"
        raw.mkdir(parents=True)
        for name, value in content.items():
            (raw / name).write_bytes(value)
        images = datasets.load("binarized_mnist", tmp_path / form)
        assert images.val is not None
        for split, key in ((images.train, "train"), (images.val, "valid"), (images.test, "test")):
            np.testing.assert_array_equal(split.x.numpy(), bits[key].reshape(-1, 1, 28, 28))
            assert split.y.tolist() == [-1] * len(bits[key])
        assert images.digests.keys() == content.keys()
        assert images.num_levels == 2


def test_digits_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    from sklearn.datasets import load_digits

    data, target = load_digits(return_X_y=True)
    for _ in range(2):  # decoded, then from the cache
        images = datasets.load("digits", tmp_path / "data")
        assert (images.num_levels, images.image_shape, images.val) == (17, (1, 8, 8), None)
        assert (len(images.train), len(images.test)) == (1437, 360)
        x = torch.cat([images.train.x, images.test.x])
        assert (int(x.min()), int(x.max())) == (0, 16)
        np.testing.assert_array_equal(x.reshape(1797, 64).numpy(), np.asarray(data))
        np.testing.assert_array_equal(torch.cat([images.train.y, images.test.y]).numpy(), np.asarray(target))
        assert images.digests == {file.name: file.sha256 for file in sources.SOURCES["digits"].files}
        monkeypatch.setattr("sklearn.datasets.load_digits", refuse)


def placed(tmp_path: Path, name: str, content: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with these files of a source, whose digests are theirs where the source has any."""
    source = sources.SOURCES[name]
    if source.is_checked:
        known = tuple(replace(file, sha256=None) for file in describe(content))  # md5 alone
        monkeypatch.setitem(sources.SOURCES, name, replace(source, files=known))
    (tmp_path / source.folder).mkdir(parents=True, exist_ok=True)
    for file, value in content.items():
        (tmp_path / source.folder / file).write_bytes(value)
    return tmp_path


def digests(content: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(value).hexdigest() for name, value in content.items()}


def test_kmnist_is_read_as_mnist_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = datasets.load("kmnist", placed(tmp_path, "kmnist", CONTENT, monkeypatch))
    np.testing.assert_array_equal(images.train.x[:, 0].numpy(), IMAGES["train"])
    np.testing.assert_array_equal(images.test.y.numpy(), LABELS["t10k"])
    assert images.digests == digests(CONTENT)


def test_emnist_is_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        for split, ours in (("train", "train"), ("test", "t10k")):
            columns = IMAGES[ours].transpose(0, 2, 1)  # as it is distributed
            archive.writestr(f"gzip/emnist-balanced-{split}-images-idx3-ubyte.gz", idx(columns))
            archive.writestr(f"gzip/emnist-balanced-{split}-labels-idx1-ubyte.gz", idx(LABELS[ours]))
            archive.writestr(f"gzip/emnist-letters-{split}-labels-idx1-ubyte.gz", b"not looked at")
    content = {"gzip.zip": stored.getvalue()}
    images = datasets.load("emnist", placed(tmp_path, "emnist", content, monkeypatch))
    for split, ours in ((images.train, "train"), (images.test, "t10k")):
        assert split.x.is_contiguous()
        np.testing.assert_array_equal(split.x[:, 0].numpy(), IMAGES[ours])
        np.testing.assert_array_equal(split.y.numpy(), LABELS[ours])
    assert images.digests == digests(content)
    (tmp_path / "EMNIST/raw/gzip.zip").unlink()
    again = datasets.load("emnist", tmp_path)  # from the cache, whose record knows what was read
    assert again.digests == digests(content)
    assert again.identity == "emnist"


def test_usps_are_the_pixels_of_torchvision(
    tmp_path: Path, mnist_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = mnist_dir / "USPS/usps.t.bz2"
    if not real.is_file():
        pytest.skip("usps.t.bz2 is not in DATA_DIR")
    assert hashlib.md5(real.read_bytes()).hexdigest() == sources.SOURCES["usps"].files[1].md5
    lines = bz2.decompress(real.read_bytes()).splitlines(keepends=True)
    content = {
        "usps.bz2": bz2.compress(b"".join(lines[:50])),
        "usps.t.bz2": bz2.compress(b"".join(lines[50:60])),
    }
    images = datasets.load("usps", placed(tmp_path, "usps", content, monkeypatch))
    assert (len(images.train), len(images.test), images.image_shape) == (50, 10, (1, 16, 16))
    grey = [[float(pixel.split(b":")[1]) for pixel in line.split()[1:]] for line in lines[:50]]
    expected = (np.array(grey).reshape(50, 16, 16) + 1) / 2 * 255
    off = expected - images.train.x[:, 0].numpy()
    assert -1e-4 < off.min() <= off.max() < 1, "rounded down"
    assert images.train.y.tolist() == [int(line.split()[0]) - 1 for line in lines[:50]]


def matlab(**matrices: np.ndarray) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, matrices)
    return file.getvalue()


FACES = RNG.integers(0, 256, (205, 28, 20), np.uint8)


def test_frey_faces_from_either_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, images=FACES)
    monkeypatch.setitem(
        sources.SOURCES,
        "frey_faces",
        replace(sources.SOURCES["frey_faces"], or_files=describe({"freyfaces.npz": packed.getvalue()})),
    )
    forms = {"frey_rawface.mat": matlab(ff=FACES.reshape(205, 560).T), "freyfaces.npz": packed.getvalue()}
    for form, value in forms.items():
        images = datasets.load(
            "frey_faces", placed(tmp_path / form, "frey_faces", {form: value}, monkeypatch)
        )
        np.testing.assert_array_equal(images.train.x[:, 0].numpy(), FACES[:5])
        np.testing.assert_array_equal(images.test.x[:, 0].numpy(), FACES[5:])
        assert images.digests == digests({form: value})


def silhouettes(n: int = 3) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    upright = {split: RNG.integers(0, 2, (n, 28, 28), np.uint8) for split in ("train", "val", "test")}
    stored = {f"{split}_data": 1 - x.transpose(0, 2, 1).reshape(n, 784) for split, x in upright.items()}
    return upright, stored | {f"{split}_labels": np.array([[1], [101], [5]], np.uint8) for split in upright}


def test_silhouettes_are_upright_and_the_object_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upright, stored = silhouettes()
    content = {"caltech101_silhouettes_28_split1.mat": matlab(**stored)}
    images = datasets.load(
        "caltech_silhouettes", placed(tmp_path, "caltech_silhouettes", content, monkeypatch)
    )
    assert images.val is not None
    assert images.num_levels == 2
    for split, found in (("train", images.train), ("val", images.val), ("test", images.test)):
        np.testing.assert_array_equal(found.x[:, 0].numpy(), upright[split])
        assert found.y.tolist() == [0, 100, 4]


def test_a_file_that_nothing_checks_is_read_anew_and_tells_itself_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for _ in range(2):
        upright, stored = silhouettes()
        content = {"caltech101_silhouettes_28_split1.mat": matlab(**stored)}
        images = datasets.load(
            "caltech_silhouettes", placed(tmp_path, "caltech_silhouettes", content, monkeypatch)
        )
        np.testing.assert_array_equal(images.train.x[:, 0].numpy(), upright["train"])
        seen.add(images.identity)
    assert len(seen) == 2
    assert {identity.partition(":")[0] for identity in seen} == {"caltech_silhouettes"}


@pytest.mark.parametrize(
    "content, rule",
    [
        (b"no matrix", "cannot be read as a MATLAB file"),
        (matlab(gg=FACES), "holds no matrix ff of 560 x N bytes"),
        (matlab(ff=FACES.reshape(205, 560)), "holds no matrix ff of 560 x N bytes"),
        (matlab(ff=FACES.reshape(205, 560).T / 255), "holds no matrix ff of 560 x N bytes"),
    ],
)
def test_a_wrong_matlab_file_is_refused(
    tmp_path: Path, content: bytes, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = placed(tmp_path, "frey_faces", {"frey_rawface.mat": content}, monkeypatch)
    with pytest.raises(
        SettingError, match=f"data=frey_faces: {data_dir}/FreyFaces/frey_rawface.mat:? {rule}"
    ):
        datasets.load("frey_faces", data_dir)


def test_real_frey_faces_and_silhouettes(mnist_dir: Path) -> None:
    if not (mnist_dir / "FreyFaces").is_dir() or not (mnist_dir / "Caltech101Silhouettes").is_dir():
        pytest.skip("they are not in DATA_DIR")
    faces = datasets.load("frey_faces", mnist_dir)
    assert (len(faces.train), len(faces.test), faces.image_shape) == (1765, 200, (1, 28, 20))
    shapes = datasets.load("caltech_silhouettes", mnist_dir)
    assert shapes.val is not None
    assert (len(shapes.train), len(shapes.val), len(shapes.test)) == (4100, 2264, 2307)
    assert float(shapes.train.x.double().mean()) == pytest.approx(1 - 0.551, abs=1e-3)
    assert shapes.train.x[:, 0, 13:15, 13:15].double().mean() > 0.8, "the object is in the middle"


def test_mnist_is_mnist(mnist_dir: Path) -> None:
    before = tree(mnist_dir)
    images = datasets.load("mnist", mnist_dir)
    assert (len(images.train), len(images.test), images.image_shape) == (60_000, 10_000, (1, 28, 28))
    pixels = images.train.x.double() / 255
    assert float(pixels.mean()) == pytest.approx(0.130660, abs=1e-6)
    assert float(pixels.std(correction=0)) == pytest.approx(0.308108, abs=1e-6)
    assert float(images.test.x.double().mean() / 255) == pytest.approx(0.132515, abs=1e-6)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(images.train.y).tolist() == counts
    new = tree(mnist_dir) - before
    assert all(name.startswith(".vaelab/") for name in new)


def test_real_binarized_mnist(mnist_dir: Path) -> None:
    if not (mnist_dir / "BinarizedMNIST/binarized_mnist.npz").exists():
        pytest.skip("binarized_mnist.npz is not in DATA_DIR")
    images = datasets.load("binarized_mnist", mnist_dir)
    assert images.val is not None
    for split, size, mean in (
        (images.train, 50_000, 0.130562),
        (images.val, 10_000, 0.131127),
        (images.test, 10_000, 0.132512),
    ):
        assert len(split) == size
        assert int(split.x.max()) == 1
        assert float(split.x.double().mean()) == pytest.approx(mean, abs=1e-6)
