"""Where each data set comes from, and whether it can be had, answered in seconds and without torch.

:func:`require` is asked before torch is imported: it looks into the decoded cache, then for the source files
(their digests are checked), then asks the mirrors, all at once and with a hard deadline.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vaelab import errors
from vaelab.data import cache

PROBE_TIMEOUT = 3.0  # seconds a mirror has to connect, and to answer
# Seconds for all mirrors together, also where the name service hangs, which no timeout reaches.
PROBE_DEADLINE = 4.0
DECODER_VERSION = 1  # part of the cache key: raise it when the decoded arrays change
USER_AGENT = "pytorch/vision"  # torchvision's own, so that the probe meets the same answer


@dataclass(frozen=True)
class DataFile:
    """A source file and what it must be: hexadecimal digests, size in bytes; None = not known.

    Each digest that is known is checked. A file without any is taken as it is; what it was is in the record of the run.
    """

    name: str
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None

    @property
    def is_checked(self) -> bool:
        return self.md5 is not None or self.sha256 is not None

    def __str__(self) -> str:
        """As in a list of what is missing."""
        size = f"{self.size} bytes" if self.size is not None else None
        md5 = f"md5 {self.md5}" if self.md5 is not None else None
        return f"{self.name}  {', '.join(filter(None, (size, md5)))}".rstrip()


@dataclass(frozen=True)
class Source:
    """A data set as it is distributed.

    Args:
        name: as in ``data=<name>``.
        folder: under the data directory, as torchvision lays it out, e.g. ``MNIST/raw``.
        files: what the mirrors hold. For an embedded data set: its arrays, as raw uint8.
        mirrors: base URLs, each ending in a slash; none where the files are placed by hand.
        format: ``idx`` (the MNIST family), ``bits`` (Larochelle's text files or their packed form), ``emnist`` (its archive),
            ``usps`` (libsvm's text), ``frey`` and ``silhouettes`` (MATLAB files) or ``embedded`` (comes with an installed
            package and never needs a network).
        num_levels: pixels are integers 0 .. num_levels - 1.
        or_files: the same data in another form, used in place of ``files`` where it is found; on no mirror.
        origin: the page that describes files without a mirror.
    """

    name: str
    folder: str
    files: tuple[DataFile, ...]
    mirrors: tuple[str, ...]
    format: Literal["idx", "bits", "emnist", "usps", "frey", "silhouettes", "embedded"]
    num_levels: int
    or_files: tuple[DataFile, ...] = ()
    origin: str | None = None

    @property
    def embedded(self) -> bool:
        return self.format == "embedded"

    @property
    def is_checked(self) -> bool:
        """Whether it is known what the files must be. Where it is not, decoded arrays are not kept: nothing would tell of which file."""
        return all(file.is_checked for file in self.files)

    @property
    def key(self) -> str:
        """Names the decoded arrays: a digest of the files' digests and of the decoder's version."""
        digests = [file.sha256 or file.md5 or "" for file in self.files + self.or_files]
        parts = [self.format, str(DECODER_VERSION), *digests]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


SOURCES: dict[str, Source] = {
    "mnist": Source(
        name="mnist",
        folder="MNIST/raw",
        files=(
            DataFile(
                "train-images-idx3-ubyte.gz",
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                9912422,
            ),
            DataFile(
                "train-labels-idx1-ubyte.gz",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                28881,
            ),
            DataFile(
                "t10k-images-idx3-ubyte.gz",
                "9fb629c4189551a2d022fa330f9573f3",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                1648877,
            ),
            DataFile(
                "t10k-labels-idx1-ubyte.gz",
                "ec29112dd5afa0611ce80d1b7f02629c",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                4542,
            ),
        ),
        mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        format="idx",
        num_levels=256,
    ),
    "fashion_mnist": Source(
        name="fashion_mnist",
        folder="FashionMNIST/raw",
        files=(
            DataFile(
                "train-images-idx3-ubyte.gz",
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                26421880,
            ),
            DataFile(
                "train-labels-idx1-ubyte.gz",
                "25c81989df183df01b3e8a0aad5dffbe",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                29515,
            ),
            DataFile(
                "t10k-images-idx3-ubyte.gz",
                "bef4ecab320f06d8554ea6380940ec79",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                4422102,
            ),
            DataFile(
                "t10k-labels-idx1-ubyte.gz",
                "bb300cfdad3c16e7a12a480ee83cd310",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                5148,
            ),
        ),
        mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        format="idx",
        num_levels=256,
    ),
    "binarized_mnist": Source(
        name="binarized_mnist",
        folder="BinarizedMNIST",
        files=(
            DataFile(
                "binarized_mnist_train.amat",
                "db28b1a6ae0fe70cbd3da91acf46e477",
                "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
                78400000,
            ),
            DataFile(
                "binarized_mnist_valid.amat",
                "bf37822a04e94123630de6a7dfd9c9ef",
                "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
                15680000,
            ),
            DataFile(
                "binarized_mnist_test.amat",
                "14e41ae11040adba6ab8cb291eda0dd8",
                "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
                15680000,
            ),
        ),
        or_files=(
            DataFile(
                "binarized_mnist.npz",
                "3af6e13654ec7dcf2f8ce16b5690710c",
                "67feb5327cc5c14db4dffd95cd9bbc7c9ef1a15901dfff55284486adf3ec2974",
                2239663,
            ),
        ),
        mirrors=("http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",),
        format="bits",
        num_levels=2,
    ),
    "kmnist": Source(
        name="kmnist",
        folder="KMNIST/raw",
        files=(
            DataFile(
                "train-images-idx3-ubyte.gz",
                "bdb82020997e1d708af4cf47b453dcf7",
                "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
                18165135,
            ),
            DataFile(
                "train-labels-idx1-ubyte.gz",
                "e144d726b3acfaa3e44228e80efcd344",
                "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
                29497,
            ),
            DataFile(
                "t10k-images-idx3-ubyte.gz",
                "5c965bf0a639b31b8f53240b1b52f4d7",
                "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
                3041136,
            ),
            DataFile(
                "t10k-labels-idx1-ubyte.gz",
                "7320c461ea6c1c855c0b718fb2a4b134",
                "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
                5120,
            ),
        ),
        mirrors=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        format="idx",
        num_levels=256,
    ),
    "emnist": Source(
        name="emnist",
        folder="EMNIST/raw",
        files=(DataFile("gzip.zip", "58c8d27c78d21e728a6bc7b3cc06412e", None, 561753746),),
        mirrors=("https://biometrics.nist.gov/cs_links/EMNIST/",),
        format="emnist",
        num_levels=256,
    ),
    "usps": Source(
        name="usps",
        folder="USPS",
        files=(
            DataFile("usps.bz2", "ec16c51db3855ca6c91edd34d0e9b197"),
            DataFile("usps.t.bz2", "8ea070ee2aca1ac39742fdd1ef5ed118", None, 1831726),
        ),
        mirrors=("https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/",),
        format="usps",
        num_levels=256,
    ),
    "frey_faces": Source(
        name="frey_faces",
        folder="FreyFaces",
        files=(DataFile("frey_rawface.mat"),),
        or_files=(
            DataFile(
                "freyfaces.npz",
                "8e04202506dea573d984467bb83e3fa5",
                "c12a56fa8f3b39089cc1781003ef55b91af3e9c5f6a225256078d4a13aa06dcc",
                996841,
            ),
        ),
        mirrors=(),
        format="frey",
        num_levels=256,
        origin="https://cs.nyu.edu/~roweis/data.html",
    ),
    "caltech_silhouettes": Source(
        name="caltech_silhouettes",
        folder="Caltech101Silhouettes",
        files=(DataFile("caltech101_silhouettes_28_split1.mat"),),
        mirrors=(),
        format="silhouettes",
        num_levels=2,
        origin="https://people.cs.umass.edu/~marlin/data.shtml",
    ),
    "digits": Source(
        name="digits",
        folder="",
        files=(
            DataFile(
                "images",
                "fa70cba135d4cdd4cde65da70dbffde2",
                "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3",
                115008,
            ),
            DataFile(
                "target",
                "96ecbac7ce6c9c7e9f9f82160cffba40",
                "8ba4f891220f5e4c9c819638d1602d74b83618f167043c6da52a2a247841ddf0",
                1797,
            ),
        ),
        mirrors=(),
        format="embedded",
        num_levels=17,
    ),
}


@dataclass(frozen=True)
class Availability:
    """How a data set can be had.

    Args:
        found: ``cache`` (decoded), ``files`` (all source files, verified), ``network`` (a mirror answers) or
            ``embedded``.
        files: the verified source files found; all of them unless ``found`` is ``network``.
        mirrors: base URLs in the order to be tried, the one that answered first.
    """

    name: str
    found: Literal["cache", "files", "network", "embedded"]
    data_dir: Path
    files: tuple[Path, ...] = ()
    mirrors: tuple[str, ...] = ()


class DataUnavailable(errors.SettingError):
    """A data set is neither on this machine nor on a mirror that answers. The message says what to do."""

    def __init__(self, name: str, rule: str) -> None:
        super().__init__("data", name, rule)

    def __reduce__(self) -> tuple[object, ...]:
        return (DataUnavailable, (self.received, self.rule))


class DamagedFile(errors.SettingError):
    """A source file is not the one it should be; it is not used, nor written over.

    Args:
        path: the file.
        expected, found: sha256 digests (md5 where only that differs).
    """

    def __init__(self, name: str, path: Path | str, expected: str, found: str) -> None:
        self.path, self.expected, self.found = path, expected, found
        rule = (
            f"a source file is damaged and is not used: {path}\n"
            f"  digest expected  {expected}\n"
            f"  digest found     {found}\n"
            "  remove it to have it fetched again, or put the right file in its place"
        )
        super().__init__("data", name, rule)

    def __reduce__(self) -> tuple[object, ...]:
        return (DamagedFile, (self.received, self.path, self.expected, self.found))


def require(name: str, data_dir: str | Path, *, download: bool = True) -> Availability:
    """Where data set ``name`` can be had from; settled within 5 s and without importing torch.

    Source files that are present are verified even where the cache would do: damage is never passed over.

    Raises:
        SettingError: ``name`` is not in :data:`SOURCES`, or ``data_dir`` is not a folder.
        DamagedFile: a source file is present and wrong.
        DataUnavailable: neither cache nor files, and no mirror answers (or ``download`` is False).
    """
    source, data_dir = _checked(name, data_dir)
    if source.embedded:
        return Availability(name, "embedded", data_dir)
    present = locate(source, data_dir)
    if cache.folders(name, source.key, data_dir):
        return Availability(name, "cache", data_dir, files=tuple(present.values()))
    return _require_source(source, data_dir, present, download)


def require_source(name: str, data_dir: str | Path, *, download: bool = True) -> Availability:
    """As :func:`require`, but the cache does not count: for rebuilding one that is damaged."""
    source, data_dir = _checked(name, data_dir)
    if source.embedded:
        return Availability(name, "embedded", data_dir)
    return _require_source(source, data_dir, locate(source, data_dir), download)


def _checked(name: str, data_dir: str | Path) -> tuple[Source, Path]:
    source = SOURCES[errors.choice("data", name, SOURCES)]
    if not isinstance(data_dir, str | Path) or not str(data_dir):
        raise errors.SettingError("paths.data_dir", data_dir, "must be the name of a folder")
    folder = Path(data_dir).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise errors.SettingError("paths.data_dir", data_dir, "must be a folder (it is a file)")
    return source, folder


def _require_source(
    source: Source, data_dir: Path, present: Mapping[str, Path], download: bool
) -> Availability:
    for form in (source.or_files, source.files):
        if form and all(file.name in present for file in form):
            paths = tuple(present[file.name] for file in form)
            return Availability(source.name, "files", data_dir, files=paths)
    missing = [file for file in source.files if file.name not in present]
    if not source.mirrors:
        raise unavailable(source, data_dir, missing, ["no server; the file is placed by hand"])
    if not download:
        raise unavailable(source, data_dir, missing, ["downloading is switched off"])
    answered, failures = probe(f"{mirror}{missing[0].name}" for mirror in source.mirrors)
    if answered is None:
        raise unavailable(source, data_dir, missing, failures)
    mirrors = sorted(source.mirrors, key=lambda mirror: not answered.startswith(mirror))
    paths = tuple(present[file.name] for file in source.files if file.name in present)
    return Availability(source.name, "network", data_dir, files=paths, mirrors=tuple(mirrors))


def locate(source: Source, data_dir: Path) -> dict[str, Path]:
    """Source files that are present, by name, each verified; :class:`DamagedFile` if one is wrong."""
    present: dict[str, Path] = {}
    for file in source.files + source.or_files:
        for place in cache.places(data_dir):
            path = place.files / source.folder / file.name
            if path.is_file():
                verify(source, file, path)
                present[file.name] = path
                break
    return present


def verify(source: Source, file: DataFile, path: Path) -> str:
    """The SHA-256 of ``path``; :class:`DamagedFile` unless it has the digests that are known of ``file``."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            sha256.update(chunk)
            md5.update(chunk)
    if file.sha256 not in (None, sha256.hexdigest()):
        raise DamagedFile(source.name, path, f"sha256 {file.sha256}", f"sha256 {sha256.hexdigest()}")
    if file.md5 not in (None, md5.hexdigest()):
        raise DamagedFile(source.name, path, f"md5 {file.md5}", f"md5 {md5.hexdigest()}")
    return sha256.hexdigest()


def probe(urls: Iterable[str]) -> tuple[str | None, list[str]]:
    """The first of ``urls`` that answers, and what went wrong with the others: ``host: reason``.

    All are asked at once through urllib (which honours a proxy of the environment), one byte of each. The
    threads are daemons: one that hangs in the name service is left behind.
    """
    waiting = list(urls)
    answers: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()
    for url in waiting:
        threading.Thread(target=_ask, args=(url, answers), name="probe", daemon=True).start()
    end = time.monotonic() + PROBE_DEADLINE
    failures: dict[str, str] = {}
    while len(failures) < len(waiting):
        try:
            url, failure = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        if failure is None:
            return url, []
        failures[url] = failure
    late = f"no answer within {PROBE_DEADLINE:g} s"
    return None, [f"{host(url)}: {failures.get(url, late)}" for url in waiting]


def _ask(url: str, answers: queue.SimpleQueue[tuple[str, str | None]]) -> None:
    from urllib.request import Request, build_opener  # 60 ms, needed only where nothing is found

    try:
        request = Request(url, headers={"Range": "bytes=0-0", "User-Agent": USER_AGENT})
        with build_opener().open(request, timeout=PROBE_TIMEOUT):  # a new one: it reads the proxy now
            answers.put((url, None))
    except Exception as error:  # whatever it is, this mirror does not answer, and the message says why
        answers.put((url, reason(error, PROBE_TIMEOUT)))


def host(url: str) -> str:
    """The host of ``url``, and the proxy the environment sends it through."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if not proxy or proxy_bypass(parts.netloc):
        return parts.netloc
    return f"{parts.netloc} (through the proxy {urlsplit(proxy).netloc.rpartition('@')[2] or proxy})"


def reason(error: BaseException, timeout: float) -> str:
    """A transfer's failure in a few words."""
    code = getattr(error, "code", None)
    if isinstance(code, int):
        return f"HTTP status {code}"
    inner = getattr(error, "reason", None)
    cause = inner if isinstance(inner, BaseException) else error
    if isinstance(cause, TimeoutError):
        return f"no answer within {timeout:g} s (timed out)"
    return (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).strip().rstrip(".")


def unavailable(
    source: Source, data_dir: Path, missing: Iterable[DataFile], failures: Iterable[str]
) -> DataUnavailable:
    """The one message that a person gets: where it looked, what failed, and three ways on."""
    by_hand = [str(file) for file in missing]
    if source.or_files:
        by_hand += ["or, in their place, " + ", ".join(file.name for file in source.or_files)]
    sections = [
        ("looked in", [str(place.files / source.folder) for place in cache.places(data_dir)]),
        ("tried", list(failures)),
        ("by hand", [f"put into {data_dir / source.folder}", *by_hand]),
        ("from", [source.origin] if source.origin else list(source.mirrors)),
        ("elsewhere", [f"if you have them, set paths.data_dir to the folder that holds {source.folder}"]),
        ("offline", ["data=digits needs no network"]),
    ]
    lines = ["is not on this machine and cannot be downloaded"]
    for title, entries in sections:
        lines += [f"  {title if i == 0 else '':<10} {entry}" for i, entry in enumerate(entries)]
    return DataUnavailable(source.name, "\n".join(lines))
