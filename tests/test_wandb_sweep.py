"""``scripts/wandb_sweep.yaml`` in the hands of W&B's own agent, without its server: the agent is handed runs as the server would hand them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from offline import ended
from vaelab.commands import entry, train
from vaelab.runs import RunDirectory, Status, find_runs, read_manifest, read_status
from vaelab.training.checkpoints import Checkpoints

FILE = Path(__file__).resolve().parents[1] / "scripts" / "wandb_sweep.yaml"
SWEEP: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
TINY = ("data=digits", "trainer=cpu", "data.train_size=64", "data.val_size=16", "data.batch_size=32", "trainer.limit_test_batches=1",
        "estimator.num_samples=2", "latent_dim=2")  # fmt: skip
#: as some are called: by itself Hydra would take it for a number
SWEEP_ID = "12345e67"

Agent = Callable[..., Any]


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """(parameters, command) -> the agent, which has been told to start ``run1`` of the sweep with these parameters."""
    from wandb.wandb_agent import Agent

    for name in ("WANDB_DIR", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):  # the agent sets them
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_SWEEP_ID", SWEEP_ID)
    monkeypatch.setenv("WANDB_PROJECT", "of-the-sweep")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)

    def _agent(parameters: Mapping[str, Any], command: list[str] = SWEEP["command"]) -> Any:
        one = Agent(api=None, queue=None, sweep_id=SWEEP_ID)
        one._sweep_command = [*command]
        args = {key: {"value": value} for key, value in parameters.items()}
        one._command_run({"run_id": "run1", "program": SWEEP["program"], "args": args})
        return one

    return _agent


def sampled(which: int) -> dict[str, Any]:
    """A value of each parameter of the file: the first or the last."""
    nodes = SWEEP["parameters"].items()
    return {key: (node.get("values") or [node["min"], node["max"]])[which] for key, node in nodes}


@pytest.mark.parametrize(
    "parameters, read",
    [
        (sampled(0), {}),
        (sampled(-1), {}),
        ({"optimizer.lr": 1e-05}, {}),
        ({"optimizer.lr": 0.00031622776601683794, "trainer.deterministic": True}, {}),
        ({"encoder.hidden": [32, 16], "decoder.hidden": "[8]"}, {"decoder.hidden": [8]}),
        ({"optimizer.clip_norm": "null"}, {"optimizer.clip_norm": None}),
        ({"tags": ["a", "b c"]}, {}),
    ],
    ids=["first", "last", "exponent", "digits", "lists", "null", "text"],
)
def test_what_the_agent_types_is_what_vae_train_takes(
    parameters: dict[str, Any], read: dict[str, Any], agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed: list[list[str]] = []
    seen: list[tuple[dict[str, Any], Mapping[str, Any]]] = []

    def start(command: list[str], **_: object) -> SimpleNamespace:
        typed.append(command)
        return SimpleNamespace()

    def task(cfg: DictConfig, typed: entry.Typed) -> None:
        seen.append((train.planned(cfg, typed)[0], typed.choices))

    monkeypatch.setattr("wandb.wandb_agent.AgentProcess", start)
    agent(parameters)
    program, command, *words = typed[0]
    assert (program, command) == ("/usr/bin/env", "vae-train")
    assert entry.run("train", task, argv=[*words, "data=digits"]) == 0
    config, choices = seen[0]
    assert config["name"] == f"wandb_{SWEEP_ID}"
    for key, value in {**parameters, **read}.items():
        assert choices.get(key, OmegaConf.select(OmegaConf.create(config), key)) == value


def test_a_parameter_of_python_s_own_is_refused_and_not_taken_for_another_value(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A null in the file comes as the word None."""
    typed: list[list[str]] = []
    monkeypatch.setattr("wandb.wandb_agent.AgentProcess", lambda command, **_: typed.append(command) or SimpleNamespace())  # fmt: skip
    agent({"optimizer.clip_norm": None})
    assert entry.run("train", train.planned, argv=[*typed[0][2:], "data=digits"]) == 2  # pyright: ignore[reportArgumentType]
    assert "optimizer.clip_norm=None: must be null or a number > 0" in capsys.readouterr().err


def test_the_metric_is_what_selects_the_checkpoint() -> None:
    mode = {"maximize": "max", "minimize": "min"}[SWEEP["metric"]["goal"]]
    usual = Checkpoints(Path())
    assert (SWEEP["metric"]["name"], mode) == (usual.score, usual.mode)


def finished(agent: Any, seconds: float) -> int:
    """The exit status of the run, which is waited for."""
    return agent._run_processes["run1"].wait(timeout=seconds)


@pytest.mark.slow
def test_a_run_of_the_agent_in_a_real_process_is_the_run_of_the_sweep(agent: Agent, tmp_path: Path) -> None:
    """Id, project and sweep are the agent's, and the search is told of the selected checkpoint, which is not the last one."""
    command = [*SWEEP["command"], *TINY, "trainer.max_epochs=3", "score.mode=min"]  # the worst is the first
    started = agent({"encoder": "mlp", "optimizer.lr": 0.002}, command)
    assert finished(started, 300) == 0
    (run,) = find_runs(tmp_path / "logs")
    assert run.path.parent.name == f"wandb_{SWEEP_ID}"
    manifest = read_manifest(run)
    assert manifest["tracker"] == {
        "kind": "wandb", "id": "run1", "project": "of-the-sweep", "sweep": SWEEP_ID,
    }  # fmt: skip
    (folder,) = (run.path / "wandb").glob("offline-run-*")
    told = ended(folder)
    assert (told.run_id, told.sweep_id, told.group) == ("run1", SWEEP_ID, "")
    assert (told.config["encoder"], told.config["optimizer.lr"]) == ('"mlp"', "0.002")
    validated = [float(row["val/elbo"]) for row in told.rows if "val/elbo" in row]
    assert float(told.summary["val/elbo"]) == min(validated) != validated[-1]
    assert manifest["best_score"] == pytest.approx(min(validated), rel=1e-6)


@pytest.mark.slow
def test_a_run_that_the_server_ends_early_in_a_real_process_can_be_gone_on_with(
    agent: Agent, tmp_path: Path
) -> None:
    started = agent({"encoder": "mlp"}, [*SWEEP["command"], *TINY, "trainer.max_epochs=100000"])
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("last.ckpt")):
        assert time.monotonic() < deadline
        assert started._run_processes["run1"].poll() is None
        time.sleep(0.1)
    started._command_stop({"run_id": "run1"})
    assert finished(started, 60) == 75
    (run,) = find_runs(tmp_path / "logs")
    assert read_status(run.status_file).status is Status.INTERRUPTED
    assert isinstance(run, RunDirectory)
    assert run.last_checkpoint.is_file()
