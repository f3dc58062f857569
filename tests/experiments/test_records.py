"""The record of a whole run: no secret in it, with it the code can be had again, and trackers have it too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger

import vaelab.build
import vaelab.experiments.train as training
from vaelab.experiments.evaluate import evaluate
from vaelab.experiments.request import Request
from vaelab.experiments.train import Result, train
from vaelab.runs import RunDirectory, read_manifest, read_yaml
from vaelab.runs.identity import config_hash
from vaelab.runs.table import read_row
from vaelab.training import read_checkpoint

Compose = Callable[..., dict[str, Any]]
ROOT = Path(__file__).resolve().parents[2]
TINY = ("data=digits", "trainer=cpu", "latent_dim=2", "encoder.hidden=[16]", "decoder.hidden=[16]", "estimator.num_samples=5", "trainer.max_steps=20",
        "trainer.enable_progress_bar=false", "data.batch_size=100")  # fmt: skip
VARIABLES = {"PLANTED_API_KEY": "planted-in-the-environment", "planted_password": "planted-in-small-letters"}


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def everything(folder: Path) -> bytes:
    """Every byte below a folder, names and what is in archives included."""
    found = []
    for path in folder.rglob("*"):
        found.append(str(path.relative_to(folder)).encode())
        if path.is_file() and not path.is_symlink():
            found.append(path.read_bytes())
        if path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                found += [archive.extractfile(member).read() for member in archive]  # pyright: ignore[reportOptionalMemberAccess]
    return b"\n".join(found)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunDirectory, str]:
    """A run of a copy of this repository, with secrets wherever a person may leave one; W&B offline. Also what the screen showed."""
    folder = tmp_path_factory.mktemp("planted")
    project, logs = folder / "project", folder / "logs"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "configs"):
        shutil.copytree(ROOT / name, project / name, ignore=ignored)
    shutil.copy(ROOT / ".gitignore", project)
    git(project, "init")
    git(project, "add", ".")
    git(project, "commit", "-m", "first")
    key, password = VARIABLES.values()
    with (project / "src" / "vaelab" / "noise.py").open("a") as file:
        file.write(f"# {key}\n")
    with (project / "src" / "vaelab" / "batch.py").open("a") as file:
        file.write("# harmless\n")
    (project / "untracked.py").write_text(f"key = '{key}'\n")
    (project / "mine.py").write_text("harmless = True\n")
    (project / ".env").write_text(f"OTHER=planted-in-env-file\nPLANTED_API_KEY={key}\n")
    words = [*TINY, f"paths.log_dir={logs}", f"tags=[{key},b,{password}]"]
    environment = {**os.environ, **VARIABLES, "PYTHONPATH": str(project / "src"), "WANDB_MODE": "offline"}
    program = "import sys; from vaelab.commands.train import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program, *words], cwd=project, env=environment, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = [RunDirectory(path) for path in (logs / "vae").iterdir()]
    return project, run, done.stdout


def test_no_secret_is_anywhere_in_a_run_directory(planted: tuple[Path, RunDirectory, str]) -> None:
    _, run, _ = planted
    content = everything(run.path)
    for secret in (*VARIABLES.values(), "planted-in-env-file"):
        assert secret.encode() not in content, secret
    assert (run.path / "wandb").is_dir()
    assert read_yaml(run.config_file)["tags"] == [
        "<secret PLANTED_API_KEY>",
        "b",
        "<secret planted_password>",
    ]


def test_what_was_left_out_is_named(planted: tuple[Path, RunDirectory, str]) -> None:
    _, run, screen = planted
    manifest = read_manifest(run)
    assert manifest["secrets"] == ["PLANTED_API_KEY", "planted_password"]
    assert {item["path"]: item["reason"] for item in manifest["code"]["left_out"]} == {
        "src/vaelab/noise.py": "holds the value of PLANTED_API_KEY",
        "untracked.py": "holds the value of PLANTED_API_KEY",
    }
    assert "left out of the record, as a secret: PLANTED_API_KEY, planted_password" in screen
    assert "not in code/: src/vaelab/noise.py" in screen


def test_the_code_is_that_of_the_package_that_ran(planted: tuple[Path, RunDirectory, str]) -> None:
    project, run, _ = planted
    manifest = read_manifest(run)
    assert manifest["git"]["repository"] == "package"
    git(project, "stash", "--include-untracked")
    git(project, "apply", str(run.path / manifest["code"]["patch"]["file"]))
    assert (project / "src" / "vaelab" / "batch.py").read_text().endswith("# harmless\n")
    with tarfile.open(run.path / manifest["code"]["untracked"]["file"]) as archive:
        assert archive.getnames() == ["mine.py"]


def test_the_tracker_has_the_record_as_files_and_not_as_links(
    planted: tuple[Path, RunDirectory, str],
) -> None:
    _, run, _ = planted
    (folder,) = (run.path / "wandb").glob("offline-run-*/files")
    for name, original in {
        "vaelab_manifest.json": run.manifest_file, "vaelab_config.yaml": run.config_file,
        "code/changes.patch": run.code / "changes.patch", "code/untracked.tar.gz": run.code / "untracked.tar.gz",
    }.items():  # fmt: skip
        assert not (folder / name).is_symlink()
        assert (folder / name).read_bytes() == original.read_bytes(), "as it was in the end"
    manifest = json.loads((folder / "vaelab_manifest.json").read_text())
    assert manifest["status"] == "completed"
    assert manifest["tracker"]["id"] in folder.parent.name


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Result:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    logs = tmp_path_factory.mktemp("logs")
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train", overrides=[*TINY, "logger=none", f"paths.log_dir={logs}"])
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return train(config, Request(argv=("vae-train", *TINY), overrides=TINY))


def test_the_manifest_is_whole(finished: Result) -> None:
    run = RunDirectory.open(finished.directory)
    manifest = read_manifest(run)
    assert manifest["schema"] == 2
    assert manifest["identity"] == config_hash(read_yaml(run.config_file))
    assert manifest["threads"]["intra_op"] >= 1
    assert manifest["determinism"]["flush_denormal"] is True
    assert manifest["determinism"]["deterministic_algorithms"] is False
    assert manifest["device"]["kind"] == "cpu"
    assert manifest["variables"]["OMP_NUM_THREADS"] == os.environ["OMP_NUM_THREADS"]
    assert len({*manifest["data"]["splits"].values()}) == 3
    assert manifest["code"]["package"]["editable"] is True
    files = {path.relative_to(run.path).as_posix() for path in run.code.rglob("*")}
    recorded = [manifest["code"][part] for part in ("patch", "untracked")]
    assert files == {part["file"] for part in recorded if part is not None}


def test_the_determinism_flags_are_those_in_force() -> None:
    import torch

    from vaelab.experiments.environment import determinism_record

    before = determinism_record()
    torch.set_flush_denormal(not before["flush_denormal"])
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("medium")
    try:
        now = determinism_record()
    finally:
        torch.set_flush_denormal(before["flush_denormal"])
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision(before["float32_matmul_precision"])
    changed = {key for key in now if now[key] != before[key]}
    assert changed == {
        "flush_denormal",
        "deterministic_algorithms",
        "warn_only",
        "float32_matmul_precision",
        "fp32_precision",
    }


def test_a_logger_gets_the_key_that_was_typed_and_no_record_has_it(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = []

    class Remote(CSVLogger):
        def __init__(self, save_dir: str, name: str, api_key: str) -> None:
            super().__init__(save_dir, name=name, version="")
            got.append(api_key)
            print(f"logged in with {api_key}")

    entry = SimpleNamespace(load=lambda: Remote)
    monkeypatch.setattr(
        vaelab.build, "entry_points", lambda group, name: [entry] if name == "remote.Logger" else []
    )
    config = {**compose(*TINY), "logger": {"name": "remote", "_target_": "remote.Logger", "api_key": "planted-typed"}}  # fmt: skip
    words = (*TINY, "+logger.api_key=planted-typed,planted-for-another-job")
    result = train(config, Request(argv=("vae-train", *words), overrides=words))
    assert set(got) == {"planted-typed"}
    content = everything(result.directory)
    assert b"planted-typed" not in content
    assert b"planted-for-another-job" not in content
    assert b"logged in with <secret logger.api_key>" in content
    checkpoint = read_checkpoint(result.directory / "checkpoints" / "last.ckpt")
    assert checkpoint["config"]["logger"]["api_key"] == "<secret logger.api_key>"


def test_what_is_ignored_changes_no_number(finished: Result, compose: Compose, tmp_path: Path) -> None:
    other = compose(
        *TINY, "name=other", "tags=[x]", "logger=csv", "engine.chunk_steps=3", "checkpoints.every_n_steps=7", "data.eval_batch_size=41",
        "data.fallback=digits", "estimator.max_rows=64", "callbacks=none",
    )  # fmt: skip
    result = train(other)
    before, after = (read_manifest(RunDirectory.open(r.directory)) for r in (finished, result))
    assert after["identity"] == before["identity"]
    assert after["weights"] == before["weights"]
    assert [card.value for card in result.cards] == pytest.approx(
        [card.value for card in finished.cards], rel=1e-6
    )


def test_a_run_of_the_earlier_schema_can_still_be_used(
    finished: Result, compose: Compose, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "old")
    shutil.copytree(finished.directory, run.path)
    manifest = read_manifest(run)
    added = ("identity", "code", "lock", "variables", "secrets", "determinism")
    old = {key: value for key, value in manifest.items() if key not in added}
    old |= {"schema": 1, "threads": 1, "versions": {"torch": "2.11.0", "wandb": None}}
    old["data"] = {key: value for key, value in manifest["data"].items() if key != "splits"}
    run.manifest_file.write_text(json.dumps(old))
    cards = evaluate(compose(f"run={run.path}", "estimator=elbo", config_name="evaluate"))
    assert cards[0].value == pytest.approx(finished.cards[0].value, abs=0.5)
    row = read_row(run)
    assert (row.damage, row.status, row.seed) == ((), "completed", 0)
    child = train(compose(*TINY[:-2], TINY[-2], f"init_from={run.path}"))
    assert read_manifest(RunDirectory.open(child.directory))["parent"]["weights"] == manifest["weights"]


def test_a_job_of_a_sweep_says_so_and_the_tracker_groups_it(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str | None]] = []
    monkeypatch.setattr(
        training, "open_wandb", lambda _, group, job_type, **__: seen.append((group, job_type))
    )
    sweep = {"name": "s", "swept": {"seed": 0}}
    jobs = [(), ("logger.group=mine",)]
    made = [train(compose(*TINY, "logger=wandb", *job), Request(sweep=sweep)) for job in jobs]
    assert read_manifest(RunDirectory(made[0].directory))["sweep"] == sweep
    train(compose(*TINY, "logger=wandb"))
    monkeypatch.setenv("WANDB_SWEEP_ID", "w")
    train(compose(*TINY, "logger=wandb"))  # of W&B's own, which has its runs together without a group
    train(compose(*TINY, "logger=wandb", "logger.group=mine"))
    assert seen == [("s", "sweep"), ("mine", "sweep"), ("vae", None), (None, None), ("mine", None)]


def test_the_error_of_a_run_that_failed_holds_no_secret(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED_TOKEN", "planted-in-an-error")

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("planted-in-an-error and planted-typed were refused")

    monkeypatch.setattr(training, "_fit_and_test", refuse)
    config = {**compose(*TINY), "remote": {"api_key": "planted-typed"}}
    with pytest.raises(Exception, match="the run failed"):
        train(config)
    (path,) = (Path(config["paths"]["log_dir"]) / "vae").iterdir()
    content = everything(path)
    assert b"<secret PLANTED_TOKEN> and <secret remote.api_key> were refused" in content
    for line in content.splitlines():
        assert b"planted-in-an-error" not in line or b"raise RuntimeError(" in line, (
            "but for this file's source"
        )
