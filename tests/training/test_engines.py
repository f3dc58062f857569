"""Engines: the same steps, carried out in other ways."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators.cpu import CPUAccelerator
from torch import Tensor

from vaelab.errors import SettingError
from vaelab.experiments.assembly import Parts, assemble
from vaelab.experiments.resume import resume
from vaelab.experiments.train import Result, train
from vaelab.runs import Status, read_status, write_status
from vaelab.runs.metrics import read
from vaelab.training import read_checkpoint
from vaelab.training.arithmetic import SETTINGS, onednn_is_faster
from vaelab.training.engines import CarryOut, Compiled, Eager, Engine, Graph, check_products, engine_of
from vaelab.training.optimizers import give, settle, settled
from vaelab.training.recording import FIRST_STEPS
from vaelab.training.step import REPORT, StepSettings

Compose = Callable[..., dict[str, Any]]
# 200 images in batches of 32: seven steps an epoch, the last of eight images.
SMALL = ("data=digits", "data.train_size=200", "data.val_size=50", "data.batch_size=32", "encoder.hidden=[16]", "decoder.hidden=[16]", "latent_dim=3",
         "trainer=cpu", "trainer.enable_progress_bar=false", "report=false")  # fmt: skip
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
# what a step is told of its number, and what it has in its memory, one way or another
VARIANTS = {
    "plain": (),
    "dynamic": ("data.binarize=dynamic", "schedule=linear", "schedule.warmup_epochs=1"),
    "mutated density": ("likelihood=gaussian", "data.mutate=0.2", "objective.beta=0.3"),
    "capacity": ("schedule=capacity", "schedule.warmup_epochs=2"),
    "averages": ("optimizer.ema_decay=0.9", "optimizer.clip_norm=5.0", "optimizer.accumulate=2"),
    "importance": ("objective=iwae", "objective.num_samples=3", "data.binarize=dynamic"),
    "two gradients": ("objective=dreg", "objective.num_samples=3", "data.binarize=dynamic"),
    "labels": ("model=semi_supervised", "objective=semi_supervised", "data.num_labels=50", "data.labelled_per_batch=8"),
    "classes": ("model=conditional", "optimizer.schedule=cosine", "trainer.max_epochs=4"),
}  # fmt: skip


class Optimizer:
    """As much of Lightning's as the step looks at; counts its steps."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.steps = optimizer, 0

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def step(self) -> None:
        self.steps += 1
        self.optimizer.step()


def ready(
    parts: Parts, engine: Engine, device: torch.device, count: Callable[[], None]
) -> tuple[CarryOut, Optimizer, list[Tensor]]:
    """What carries out the steps, its optimizer, and the images of the first of them."""
    module, data = parts.module.to(device), parts.data
    data.move_to(device)
    raw = module.configure_optimizers()
    settle(raw, engine.capturable)
    indices = [data.step_index(number).to(device) for number in range(4 * parts.plan.steps_per_epoch)]
    return engine.bind(module.make_step(data), count), Optimizer(raw), indices


def steps_of(
    parts: Parts, engine: Engine, number: int, device: torch.device = CPU
) -> tuple[Tensor, int, Tensor]:
    """What the first steps report ``[number, len(REPORT)]``, how many were counted, and the weights."""
    counted: list[int] = []
    carry_out, optimizer, indices = ready(parts, engine, device, lambda: counted.append(1))
    found = [
        carry_out(index, place, optimizer, Tensor.backward).clone()
        for place, index in enumerate(indices[:number])
    ]
    weights = torch.nn.utils.parameters_to_vector((parts.module.averaged or parts.module.model).parameters())
    return torch.stack(found).cpu(), optimizer.steps + len(counted), weights.detach().cpu()


class OnCPU(Graph):
    """The engine with a recording that is carried out by hand: what it reads and writes is what a CUDA graph would, and nothing else is new at each step."""

    capturable = False
    record = staticmethod(lambda computation: computation)

    def check(self, device: torch.device, processes: int, settings: StepSettings, optimizer: Any) -> None:
        """It does everything."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_recording_reads_from_its_memory_all_that_changes_from_step_to_step(
    compose: Compose, variant: str
) -> None:
    config = compose(*SMALL, *VARIANTS[variant])
    ours, counted, weights = steps_of(assemble(config), OnCPU(), 16)
    eager, also, same = steps_of(assemble(config), Eager(), 16)
    assert counted == also == 16
    # float32 holds what schedules say
    torch.testing.assert_close(ours, eager, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(weights, same, rtol=1e-5, atol=1e-6)
    if variant in ("plain", "importance", "two gradients"):
        assert torch.equal(ours, eager), "where nothing is scheduled it is the same arithmetic"


def test_a_recording_is_made_once_for_each_number_of_images_and_not_of_the_first_steps(
    compose: Compose,
) -> None:
    made: list[int] = []

    class Counting(OnCPU):
        @staticmethod
        def record(computation: Callable[[], None]) -> Callable[[], None]:
            made.append(1)
            return computation

    steps_of(assemble(compose(*SMALL, "trainer.max_epochs=5")), Counting(), FIRST_STEPS)
    assert made == []
    steps_of(assemble(compose(*SMALL, "trainer.max_epochs=5")), Counting(), 7 * FIRST_STEPS)
    assert made == [1], "the last, smaller batch of an epoch has been seen no oftener than that"
    steps_of(assemble(compose(*SMALL, "trainer.max_epochs=5")), Counting(), 7 * (FIRST_STEPS + 1))
    assert made == [1, 1, 1]


@pytest.mark.parametrize("engine", [Eager, OnCPU])
def test_a_step_that_is_not_finite_leaves_all_as_it_was(compose: Compose, engine: type[Engine]) -> None:
    parts = assemble(compose(*SMALL))
    step = parts.module.make_step(parts.data)
    optimizer = Optimizer(parts.module.configure_optimizers())
    carry_out = engine().bind(step, lambda: None)
    for number in range(5):
        carry_out(parts.data.step_index(number), number, optimizer, Tensor.backward)
    with torch.no_grad():
        step.model.decoder.output.bias[0] = torch.nan
        before = [p.clone() for p in step.parameters]
    for number in (5, 7):
        report = dict(zip(REPORT, carry_out(parts.data.step_index(number), number, optimizer, Tensor.backward).tolist(), strict=True))  # fmt: skip
        assert report["skipped"] == 1
    assert step.skipped_in_a_row == 2
    for was, now in zip(before, step.parameters, strict=True):
        assert torch.equal(was, now) or was.isnan().any()


# -- in a run ----------------------------------------------------------------------------------------------------------


def rows(result: Result) -> list[dict[str, float]]:
    return [
        {key: value for key, value in row.items() if not key.startswith("time/")}
        for row in read(result.directory / "metrics.csv")
    ]


def last(result: Result) -> dict[str, Any]:
    return read_checkpoint(result.directory / "checkpoints" / "last.ckpt")


def test_a_run_is_the_same_and_either_engine_goes_on_with_it(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*SMALL, "trainer.max_epochs=3", "trainer.log_every_n_steps=5", "checkpoints.every_n_steps=4", "data.binarize=dynamic", "estimator=elbo")  # fmt: skip
    eager = train(compose(*overrides))
    monkeypatch.setattr("vaelab.experiments.assembly.engine_of", lambda name: OnCPU())
    recorded = train(compose(*overrides))
    assert rows(eager) == rows(recorded)
    assert [card.value for card in eager.cards] == [card.value for card in recorded.cards]
    one, other = last(eager), last(recorded)
    assert one["global_step"] == other["global_step"] == 21
    assert one["optimizer_states"][0]["param_groups"] == other["optimizer_states"][0]["param_groups"]
    stopped = train(compose(*overrides, "trainer.max_epochs=3", "seed=0", "trainer.max_steps=12"))
    assert last(stopped)["global_step"] == 12


def test_a_run_that_was_recorded_is_gone_on_with_where_there_is_no_gpu(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = (*SMALL, "trainer.max_epochs=2", "estimator=elbo")
    whole = train(compose(*overrides))
    monkeypatch.setattr(Graph, "check", OnCPU.check)
    monkeypatch.setattr(Graph, "capturable", False)
    monkeypatch.setattr(Graph, "record", staticmethod(OnCPU.record))
    run = train(compose(*overrides, "engine=graph")).directory
    monkeypatch.undo()
    shutil.rmtree(run / "checkpoints")
    write_status(run / "status.json", Status.INTERRUPTED, exit_status=75)
    capsys.readouterr()
    resumed = resume(run)
    assert "engine=eager in place of graph, which needs an NVIDIA GPU" in capsys.readouterr().out
    assert read_status(run / "status.json").status is Status.COMPLETED
    assert rows(resumed) == rows(whole)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled_steps_are_those_of_the_eager_engine_within_rounding(compose: Compose, variant: str) -> None:
    config = compose(*SMALL, *VARIANTS[variant])
    ours, counted, weights = steps_of(assemble(config), Compiled(), 16)
    eager, _, same = steps_of(assemble(config), Eager(), 16)
    assert counted == 16
    torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(weights, same, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_run_in_16_bits_and_of_frozen_weights(compose: Compose) -> None:
    for more in (("trainer.precision=bf16-mixed",), ("train_only=decoder",)):
        overrides = (*SMALL, "trainer.max_epochs=1", "estimator=elbo", *more)
        values = [
            {card.metric: card.value for card in train(compose(*overrides, f"engine={name}")).cards}
            for name in ("eager", "compiled")
        ]
        assert values[1] == pytest.approx(values[0], rel=1e-3)


def test_what_cannot_be_compiled_is_named(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = assemble(compose(*SMALL))
    forward = type(parts.module.model).forward

    def looking(self: Any, batch: Any, eps: Tensor) -> Any:
        assert batch.x.sum().item() > 0
        return forward(self, batch, eps)

    monkeypatch.setattr(type(parts.module.model), "forward", looking)
    with pytest.raises(RuntimeError, match=r"engine=compiled cannot follow this model.*use engine=eager"):
        steps_of(parts, Compiled(), 1)


@pytest.mark.parametrize("fused", [True, False])
def test_a_gradient_is_handed_over_in_the_order_in_memory_of_its_parameter(fused: bool) -> None:
    transposed = torch.arange(6.0).reshape(3, 2).T
    parameters = [torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(2)]
    for parameter, gradient in zip(parameters, (transposed, transposed.contiguous()), strict=True):
        give(parameter, gradient)
        torch.optim.Adam([parameter], lr=1.0, eps=100.0, fused=fused).step()
    assert torch.equal(*parameters)
    assert parameters[0].grad is not None
    assert torch.equal(parameters[0].grad, transposed)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "engine, device, processes, settings, optimizer, message",
    [
        (Graph(), CPU, 1, {}, torch.optim.Adam, "engine=graph: needs an NVIDIA GPU, and this run would compute on cpu; use engine=eager or engine=compiled"),
        (Graph(), GPU, 2, {}, torch.optim.Adam, "engine=graph: is for one device, and this run has 2; use engine=eager"),
        (Graph(), GPU, 1, {}, torch.optim.Adamax, "optimizer=Adamax: has no fused form"),
        (Graph(), GPU, 1, {"scaled": True}, torch.optim.Adam, "trainer.precision=16-mixed: is not for engine=graph"),
        (Compiled(), CPU, 2, {}, torch.optim.Adam, "engine=compiled: is for one device, and this run has 2; use engine=eager"),
        (Compiled(), CPU, 1, {"samples_at_once": 2}, torch.optim.Adam, "optimizer.samples_at_once=2: passes over the samples twice"),
        (Compiled(), GPU, 1, {"scaled": True}, torch.optim.Adam, "trainer.precision=16-mixed: is not for engine=compiled"),
    ],
)  # fmt: skip
def test_what_an_engine_cannot_do_is_refused_by_name(
    engine: Engine,
    device: torch.device,
    processes: int,
    settings: dict[str, Any],
    optimizer: Any,
    message: str,
) -> None:
    with pytest.raises(SettingError) as caught:
        engine.check(device, processes, StepSettings(**settings), optimizer)
    assert str(caught.value).startswith(message)


def test_what_can_be_done_is_not_refused() -> None:
    for optimizer in (torch.optim.Adam, torch.optim.AdamW):
        Graph().check(GPU, 1, StepSettings(clip_norm=1.0, samples_at_once=5, ema_decay=0.9), optimizer)
    Compiled().check(CPU, 1, StepSettings(accumulate=2), torch.optim.Adamax)
    Eager().check(CPU, 8, StepSettings(samples_at_once=1, scaled=True), torch.optim.Adamax)
    for kind, device in (
        (None, CPU),
        ("auto", CPU),
        ("auto", GPU),
        ("fp32", GPU),
        ("tf32", GPU),
        ("bf16", CPU),
    ):
        check_products(kind, device)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("engine=graph",), "engine=graph: needs an NVIDIA GPU"),
        (
            ("engine=compiled", "model=semi_supervised", "objective=semi_supervised", "data.num_labels=50"),
            "data.labelled_per_batch=null: mixes images with and without a label, which engine=compiled cannot follow",
        ),
        (("engine.name=fast",), "engine.name=fast: must be one of eager, compiled, graph"),
        (("engine.matmul=tf32",), "engine.matmul=tf32: is an arithmetic of GPUs; on a CPU use bf16"),
        (("engine.matmul=fp16",), "engine.matmul=fp16: must be one of null, auto, fp32, tf32, bf16"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(
    compose: Compose, tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SettingError) as caught:
        train(compose(*SMALL, *overrides))
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "logs").exists()


def test_bf16_products_are_for_the_training_alone(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[str]] = {}
    setting: Any = SETTINGS[2]
    forward = torch.nn.Linear.forward

    def noted(self: torch.nn.Linear, x: Tensor) -> Tensor:
        seen.setdefault("train" if torch.is_grad_enabled() else "test", set()).add(setting.fp32_precision)
        return forward(self, x)

    def asked(self: CPUAccelerator, device: torch.device) -> None:
        """As that of a GPU does: torch raises where its settings differ."""
        assert torch.get_float32_matmul_precision() == "highest"

    monkeypatch.setattr(torch.nn.Linear, "forward", noted)
    monkeypatch.setattr(CPUAccelerator, "setup_device", asked)
    train(compose(*SMALL, "trainer.max_epochs=1", "engine.matmul=bf16", "estimator=elbo", "callbacks=none"))
    assert seen["train"] == {"bf16"}
    assert ("bf16" in seen["test"]) == onednn_is_faster(), "by that library, with all bits"


def test_the_state_of_an_optimizer_is_for_any_engine() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=torch.tensor(0.25), capturable=True)
    state = settled(optimizer.state_dict())
    assert state["param_groups"][0]["lr"] == 0.25
    assert isinstance(state["param_groups"][0]["lr"], float)
    assert state["param_groups"][0]["capturable"] is False
    assert isinstance(engine_of("eager"), Eager)


# -- on a GPU ----------------------------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_graph_on_a_gpu_makes_the_steps_of_the_eager_engine(compose: Compose, variant: str) -> None:
    config = compose(*SMALL, *VARIANTS[variant])
    ours, counted, weights = steps_of(assemble(config), Graph(), 16, GPU)
    eager, _, same = steps_of(assemble(config), Eager(), 16, GPU)
    assert counted == 16
    torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weights, same, rtol=1e-4, atol=1e-5)


@needs_gpu
@pytest.mark.parametrize("engine", [Eager, Graph])
@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_on_a_gpu_never_wait_for_it(compose: Compose, engine: type[Engine], variant: str) -> None:
    parts = assemble(compose(*SMALL, *VARIANTS[variant]))
    carry_out, optimizer, indices = ready(parts, engine(), GPU, lambda: None)
    for number in range(6):
        carry_out(indices[number], number, optimizer, Tensor.backward)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(7, 12):
            carry_out(indices[number], number, optimizer, Tensor.backward)
    finally:
        torch.cuda.set_sync_debug_mode("default")
