"""Which jobs share a process, and what is made of what that process says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vaelab.experiments.request import Request
from vaelab.sweeps.job import PLACE, Place
from vaelab.sweeps.slots import Slots
from vaelab.sweeps.stacking import OF_LABELS, likeness, why_not
from vaelab.sweeps.stacks import Stacks, heard, told
from vaelab.sweeps.workers import Ended, Process, Run

Compose = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    "override, reason",
    [
        ("trainer.devices=2", "trainer.devices=2: a stack computes on one device"),
        ("trainer.strategy=ddp", "trainer.strategy=ddp: a stack computes on one device"),
        ("trainer.precision=bf16-mixed", "trainer.precision=bf16-mixed: only 32-true and 64-true can be stacked"),
        ("optimizer.accumulate=2", "optimizer.accumulate=2: the steps of a stack have one part"),
        ("optimizer.samples_at_once=1", "optimizer.samples_at_once=1: the steps of a stack have one part"),
        ("engine=graph", "engine=graph: only engine=eager can be stacked"),
        ("engine.matmul=bf16", "engine.matmul=bf16: what holds for the whole process cannot be stacked"),
    ],
)  # fmt: skip
def test_what_cannot_be_stacked_is_refused_by_name(compose: Compose, override: str, reason: str) -> None:
    assert why_not(compose("logger=none")) is None
    assert why_not(compose("logger=csv")) is None
    assert why_not(compose("logger=none", override)) == reason


def test_trackers_on_the_disk_can_be_stacked_and_on_a_server_they_cannot(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert why_not(compose("logger=wandb")) is None
    monkeypatch.setenv("WANDB_MODE", "online")
    assert str(why_not(compose("logger=wandb"))).startswith("logger=wandb online: ")


def test_what_the_members_of_a_stack_may_differ_in(compose: Compose) -> None:
    def alike(*overrides: str) -> bool:
        return likeness(compose(*overrides)) == likeness(compose())

    assert alike(
        "seed=1", "name=other", "tags=[a]", "optimizer=adamw", "optimizer.lr=0.1", "optimizer.clip_norm=1.0"
    )
    assert alike("schedule=linear", "objective.beta=2.0", "data.label_seed=3", "sweep.slots=1")
    for override in ("latent_dim=3", "encoder=conv", "data.batch_size=7", "trainer.max_epochs=3", "objective=iwae", "checkpoints.keep=all"):  # fmt: skip
        assert not alike(override), override


class Pretended:
    """A pool that starts nothing."""

    def __init__(self, slots: int) -> None:
        self.slots, self.submitted, self.ended, self.running = slots, [], [], {}

    @property
    def free(self) -> int:
        return self.slots - len(self.submitted)

    @property
    def busy(self) -> bool:
        return bool(self.submitted)

    def submit(self, process: Process) -> None:
        self.submitted.append(process)
        self.running[process.key] = 1.0

    def collect(self, timeout: float) -> list[Ended]:
        found, self.ended = self.ended, []
        return found

    def close(self) -> None:
        pass


def stacks(slots: int, largest: int = 64) -> tuple[Stacks, Pretended]:
    made = Stacks(Slots(slots), largest)
    made.pool = pool = Pretended(slots)  # pyright: ignore[reportAttributeAccessIssue]
    return made, pool


def process(folder: Path, config: dict[str, Any], key: int) -> Process:
    run = Run(f"seed={key}", {**config, "seed": key}, Request(directory=f"seed={key}"))
    environment = {"A": "1", **Place(folder, f"seed={key}", {"swept": {}}).variables()}
    return Process(key, ("vae-train", f"seed={key}"), environment, folder / f"{key}.txt", (100 + key,), run)


def test_jobs_are_shared_out_between_the_free_slots(
    tmp_path: Path, compose: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    config, other = compose("logger=none"), compose("logger=none", "latent_dim=3")
    made, pool = stacks(3, 4)
    for key in range(7):
        assert made.free == 12 - key
        made.submit(process(tmp_path, config, key))
    made.submit(process(tmp_path, other, 7))
    made.submit(process(tmp_path, compose("logger=none", "optimizer.accumulate=2"), 8))
    assert made.free == 0  # one of them has a slot to itself
    assert made.collect() == []
    first, second, *alone = pool.submitted
    assert [one.key for one in alone] == [8, 7]
    assert (first.keep, second.keep) == ((100, 101, 102, 103), (104, 105, 106))
    assert first.environment == {"A": "1"}
    assert PLACE not in first.environment
    assert first.argv[1:3] == ("-m", "vaelab.commands.stack")
    task = Path(first.argv[3])
    assert task.stat().st_mode & 0o077 == 0
    runs = [heard(one) for one in json.loads(task.read_text())["members"]]
    assert [config["seed"] for config, _, _ in runs] == [0, 1, 2, 3]
    assert runs[0][1] == Request(directory="seed=0")
    out = capsys.readouterr().out
    assert "not stacked: optimizer.accumulate=2: " in out
    assert "not stacked: seed=7 has no other job like it" in out
    assert set(made.running) == set(range(9))


def test_each_member_is_collected_as_it_ends_and_the_others_with_their_process(
    tmp_path: Path, compose: Compose
) -> None:
    config = compose("logger=none")
    made, pool = stacks(1)
    for key in range(3):
        made.submit(process(tmp_path, config, key))
    assert made.collect() == []
    (stack,) = pool.submitted
    results = Path(stack.argv[3]).with_suffix(".ended")
    said = {"member": 1, "pid": 17, "exit_status": 2, "cause": "model=x: no", "seconds": 3.0}
    results.write_text(json.dumps(said) + '\n{"member": 2, "pid"')
    assert made.collect() == [Ended(1, 17, 2, 3.0, "vae-train: model=x: no")]
    assert made.collect() == []
    assert set(made.running) == {0, 2}
    assert made.free == 0
    pool.ended = [Ended(stack.key, 17, -9, 4.0, "killed by SIGKILL (out of memory?)")]
    pool.submitted.clear()
    results.write_text(json.dumps(said) + "\n" + json.dumps({**said, "member": 2, "exit_status": 0, "cause": None}) + "\n")  # fmt: skip
    assert made.collect() == [
        Ended(2, 17, 0, 3.0, None),
        Ended(0, 17, -9, 4.0, "killed by SIGKILL (out of memory?)"),
    ]
    assert not made.busy
    assert list(tmp_path.glob("stack_*")) == []


def test_a_run_is_told_and_heard(compose: Compose, tmp_path: Path) -> None:
    asked = Request(("vae-train",), ("seed=1",), "quickstart", ("data=mnist",), "mnist", "why", tmp_path, "it", {"name": "s"})  # fmt: skip
    for run in (Run("a", compose(), asked), Run("b", compose(), directory=tmp_path)):
        heard_of = heard(json.loads(json.dumps(told(run))))
        assert heard_of == (run.config, run.request, run.directory)
    assert replace(asked, stack={"id": "x"}).stack == {"id": "x"}


@pytest.mark.parametrize("model", ["semi_supervised", "m1_m2"])
def test_models_of_labels_are_stacked_where_batches_do_not_mix_them(compose: Compose, model: str) -> None:
    usual = ("logger=none", f"model={model}", "objective=semi_supervised")
    assert compose(*usual)["model"]["_target_"].rpartition(".")[2] in OF_LABELS
    assert why_not(compose(*usual)) is None, "every image has a label"
    assert why_not(compose(*usual, "data.num_labels=100", "data.labelled_per_batch=10")) is None
    reason = str(why_not(compose(*usual, "data.num_labels=100")))
    assert reason.startswith("data.labelled_per_batch=null: batches that mix images")


def test_a_stack_whose_members_have_all_ended_leaves_its_slot(tmp_path: Path, compose: Compose) -> None:
    """A search asks for free slots, and has nothing to collect by then."""
    config = compose("logger=none")
    made, pool = stacks(1, 2)
    for key in range(2):
        made.submit(process(tmp_path, config, key))
    made.collect()
    results = Path(pool.submitted[0].argv[3]).with_suffix(".ended")
    said = [{"member": n, "pid": 17, "exit_status": 0, "cause": None, "seconds": 3.0} for n in range(2)]
    results.write_text("".join(json.dumps(one) + "\n" for one in said))
    assert made.free == 0
    assert [one.key for one in made.collect()] == [0, 1]
    assert made.free == 2
    made.submit(process(tmp_path, config, 2))
    assert made.free == 1
