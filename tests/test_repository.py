"""What holds for the repository as a whole: who imports whom, what the lock says, what no file may name."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "vaelab"

# a room imports only rooms above it (errors: every room may import it) ...
ROOMS = [
    "errors",
    "batch",
    "networks",
    "posteriors",
    "priors",
    "likelihoods",
    "models",
    "objectives",
    "evidence",
    "latents",
    "noise",
    "data",
    "figures",
    "runs",
    "report",
    "training",
    "tasks",
    "build",
    "loading",
    "experiments",
    "sweeps",
    "commands",
]
# ... and these only what stands here
ALONE = {
    "batch": {"errors"},
    "noise": {"errors"},
    "data": {"errors", "batch"},
    "figures": {"errors"},
    "runs": {"errors"},
    "report": {"errors", "runs"},
}
TORCH = {"torch", "torchvision", "torchmetrics", "zuko", "lightning", "pytorch_lightning"}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
HYDRA = {"hydra", "omegaconf"}


def imported(source: str, package: str) -> set[str]:
    """Every module that ``source`` imports, anywhere in it; ``package`` is where relative imports start.

    >>> sorted(imported("from ..errors import choice\\nfrom vaelab import noise", "vaelab.data"))
    ['vaelab.errors.choice', 'vaelab.noise']
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            stem = ".".join(part for part in (base, node.module) if part)
            found.update(f"{stem}.{alias.name}" for alias in node.names)
    return found


def violations(path: str, source: str) -> list[str]:
    """What the file at ``path`` below src/ (as ``vaelab/runs/cards.py``) imports against the architecture."""
    top, *inner = path.removesuffix(".py").split("/")
    if path == "vaelab/__init__.py":  # what `import vaelab` does at once; functions in it may import anything
        later = (ast.FunctionDef, ast.If)  # if TYPE_CHECKING:
        body = [node for node in ast.parse(source).body if not isinstance(node, later)]
        source, room, above = ast.unparse(ast.Module(body, [])), "__init__", {"errors"}
    elif top == "hydra_plugins":
        room, above = top, {*ROOMS}
    else:
        room = inner[0]
        if room not in ROOMS:
            return [f"{path}: {room} is no room; give it a place in ROOMS and in docs/architecture.md"]
        above = ALONE.get(room, {*ROOMS[: ROOMS.index(room)]})

    modules = imported(source, ".".join([top, *inner[:-1]]))
    rooms = {module.split(".")[1] for module in modules if module.startswith("vaelab.")} & {*ROOMS}
    forbidden = {f"vaelab.{name}" for name in rooms - above - {room}}
    libraries = {module.split(".")[0] for module in modules}
    if room in {"__init__", "errors", "runs", "report"}:
        forbidden |= libraries & TORCH
    if room != "training" and path != "vaelab/data/datamodule.py":
        forbidden |= libraries & LIGHTNING
    if room not in {"commands", "sweeps", "hydra_plugins"}:
        forbidden |= libraries & HYDRA
    return [f"{path} imports {name}" for name in sorted(forbidden)]


def test_rooms_import_only_what_stands_above_them() -> None:
    sources = sorted((ROOT / "src").rglob("*.py"))
    assert sources
    wrong = [
        line for f in sources for line in violations(f.relative_to(ROOT / "src").as_posix(), f.read_text())
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "path, source, wrong",
    [
        ("vaelab/priors.py", "from vaelab import models", "vaelab.models"),
        ("vaelab/priors.py", "def f():\n    from vaelab.objectives.elbo import ELBO", "vaelab.objectives"),
        ("vaelab/data/cache.py", "from ..noise import draw", "vaelab.noise"),
        ("vaelab/data/cache.py", "import lightning", "lightning"),
        ("vaelab/runs/cards.py", "import torch.nn", "torch"),
        ("vaelab/runs/cards.py", "from vaelab.batch import Batch", "vaelab.batch"),
        ("vaelab/report/page.py", "from vaelab.figures import save", "vaelab.figures"),
        ("vaelab/models/vae.py", "from lightning import LightningModule", "lightning"),
        ("vaelab/build.py", "import omegaconf", "omegaconf"),
        ("vaelab/training/step.py", "from hydra.utils import instantiate", "hydra"),
        ("vaelab/__init__.py", "from vaelab.build import load", "vaelab.build"),
        ("vaelab/__init__.py", "import torch", "torch"),
    ],
)
def test_a_forbidden_import_is_named(path: str, source: str, wrong: str) -> None:
    assert violations(path, source) == [f"{path} imports {wrong}"]


@pytest.mark.parametrize(
    "path, source",
    [
        ("vaelab/models/vae.py", "from vaelab.networks import MLPEncoder\nfrom vaelab.errors import choice"),
        ("vaelab/models/vae.py", "from . import terms\nfrom .terms import Terms"),
        ("vaelab/data/datamodule.py", "import lightning\nfrom vaelab.data.cache import load"),
        ("vaelab/report/page.py", "from vaelab.runs import cards"),
        ("vaelab/commands/train.py", "import hydra, torch\nfrom vaelab import build, training"),
        (
            "vaelab/__init__.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import nn",
        ),
        ("vaelab/__init__.py", "def load(path):\n    from vaelab.build import load_model"),
    ],
)
def test_an_import_of_what_stands_above_passes(path: str, source: str) -> None:
    assert violations(path, source) == []


def tracked_files() -> list[Path]:
    """What a commit of everything would hold."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is the business of the machine they are installed on."""
    hosts = ["py" + "pi.org", "python" + "hosted.org", "download.py" + "torch.org", "registry.npm" + "js.org"]
    pattern = re.compile("|".join(map(re.escape, hosts)).encode(), re.IGNORECASE)
    named = [
        f"{f.relative_to(ROOT)}: {hit[0].decode()}"
        for f in tracked_files()
        for hit in pattern.finditer(f.read_bytes())
    ]
    assert not named, "\n".join(named)


def locked(name: str) -> dict[str, set[str]]:
    """Package -> locked versions (several where they differ between Python versions), each with a hash."""
    versions: dict[str, set[str]] = {}
    entries = re.split(r"\n(?=\S)", "\n" + (ROOT / "requirements" / name).read_text())
    for entry in filter(str.strip, entries):
        match = re.match(r"\n?([a-z0-9-]+)==([^\s;]+)", entry)
        assert match, f"{name}: not a pinned version: {entry.splitlines()[0]}"
        assert "--hash=sha256:" in entry, f"{name}: no hash for {match[1]}"
        versions.setdefault(match[1], set()).add(match[2])
    return versions


def required() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    lines = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    return [Requirement(line) for line in [*lines, *groups["dev"], *groups["bootstrap"]]]


@pytest.mark.parametrize("requirement", required(), ids=str)
def test_the_lock_meets_pyproject(requirement: Requirement) -> None:
    versions = locked("lock.txt").get(canonicalize_name(requirement.name), set())
    assert versions, f"{requirement} is not locked; run: make lock"
    unmet = [version for version in versions if version not in requirement.specifier]
    assert not unmet, f"{requirement} is locked at {unmet}; run: make lock"


def test_bootstrap_and_lock_agree() -> None:
    first, all_ = locked("bootstrap.txt"), locked("lock.txt")
    assert {"uv", "hatchling", "setuptools"} <= first.keys()
    assert {name: all_.get(name) for name in first} == first
