"""Steps of several runs as one, against each of them by itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from given import Given
from test_algebra import B, Choice, illegal, make, name, one_at_a_time
from vaelab.batch import Batch
from vaelab.experiments.assembly import assemble
from vaelab.noise import Noise
from vaelab.objectives import ELBO
from vaelab.objectives.schedules import CapacitySchedule, LinearSchedule
from vaelab.training.stacked import MemberStep, StackedStep, take_apart
from vaelab.training.step import REPORT, OptimisationStep, StepSettings

BETAS = (1.0, 0.3, 2.0)


class Doubled(Noise):
    """The noise of a run, in float64."""

    def step_normal(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().step_normal(*args, **kwargs).double()


def members(choice: Choice, betas: tuple[float, ...] = BETAS, **settings: Any) -> list[MemberStep]:
    """Runs whose weights, betas, images, noise and learning rates differ."""
    found = []
    for seed, beta in enumerate(betas):
        model, objective, batch = make(choice)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            for p in model.parameters():
                p += 0.01 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        objective.beta = objective.beta * beta
        own = torch.randperm(B, generator=generator)

        def data(index: Tensor, rows: slice, batch: Batch = batch, own: Tensor = own) -> Batch:
            mine = own[index[rows]]
            return Batch(batch.x[mine], batch.y[mine], mine)

        step = OptimisationStep(
            model, objective, Given(data), 10 * B, Doubled(seed), StepSettings(**settings)
        )
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3 * (1 + seed), fused=True, weight_decay=0.1)
        found.append(MemberStep(step, 0, torch.arange(B), optimizer, Tensor.backward))
    return found


def carried_out(steps: int, own: list[MemberStep], stack: StackedStep | None) -> list[list[list[float]]]:
    """Step -> member -> report."""
    reports = []
    for number in range(steps):
        now = [replace(one, number=number, index=one.index[: B - number]) for one in own]
        if stack is None:
            found = [one.step(one.index, one.number, one.optimizer, one.backward) for one in now]
        else:
            found = stack(now)
        reports.append([report.tolist() for report in found])
    return reports


def weights(one: MemberStep) -> list[Tensor]:
    return list(one.step.model.state_dict().values())


OF_LABELS = ("semi_supervised", "m1_m2")  # their batches have to be in order
LEGAL = [choice for choice in one_at_a_time() if illegal(choice) is None]


@pytest.mark.parametrize("choice", [c for c in LEGAL if c["model"] not in OF_LABELS], ids=name)
def test_every_variant_is_stacked_as_it_is_by_itself(choice: Choice) -> None:
    alone, together = members(choice), members(choice)
    expected, found = carried_out(3, alone, None), carried_out(3, together, StackedStep())
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-8, atol=1e-9)
    assert expected[0][0] != expected[0][1]
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(weights(one), weights(other), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-7, atol=1e-9)
        for p, q in zip(one.step.parameters, other.step.parameters, strict=True):
            assert (p.grad is None) == (q.grad is None)


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=semi_supervised", "objective=semi_supervised", "data.num_labels=50", "data.labelled_per_batch=8"),
        ("model=semi_supervised", "objective=semi_supervised", "objective.num_samples=3", "data.num_labels=50", "data.labelled_per_batch=8"),
        ("model=semi_supervised", "objective=classification", "data.num_labels=50", "data.labelled_per_batch=40"),
        ("model=m1_m2", "objective=semi_supervised", "data.num_labels=50", "data.labelled_per_batch=8"),
    ],
    ids=str,
)  # fmt: skip
def test_models_of_labels_are_stacked_as_they_are_by_themselves(
    compose: Callable[..., dict[str, Any]], overrides: tuple[str, ...]
) -> None:
    usual = ("data=digits", "data.batch_size=40", "encoder.hidden=[16]", "decoder.hidden=[16]", "latent_dim=4", "trainer=cpu", "trainer.precision=64-true")  # fmt: skip

    def runs() -> list[tuple[MemberStep, Any]]:
        found = []
        for seed in range(3):
            parts = assemble(compose(*usual, *overrides, f"seed={seed}"))
            module, data = parts.module.double(), parts.data
            data.move_to(torch.device("cpu"), torch.float64)
            step, optimizer = module.make_step(data), module.configure_optimizers()
            found.append((MemberStep(step, 0, data.step_index(0), optimizer, Tensor.backward), data))
        return found

    alone, together, stack = runs(), runs(), StackedStep()
    for number in range(5):
        one_by_one = [
            one.step(data.step_index(number), number, one.optimizer, one.backward) for one, data in alone
        ]
        at_once = stack(
            [replace(one, number=number, index=data.step_index(number)) for one, data in together]
        )
        assert stack.apart is None
        torch.testing.assert_close(torch.stack(at_once), torch.stack(one_by_one), rtol=1e-8, atol=1e-8)


DEFAULT = LEGAL[0]


def test_each_member_has_its_own_schedule() -> None:
    """A warm-up beside others in one stack, and a capacity in another."""
    for schedules in (
        [LinearSchedule(warmup_steps=4), LinearSchedule(warmup_steps=2, start=0.1)],
        [CapacitySchedule(end=3.0, warmup_epochs=1, steps_per_epoch=4), CapacitySchedule(0.5, 1.0, 0)],
    ):
        pairs = []
        for own in (members(DEFAULT, (1.0, 1.0)), members(DEFAULT, (1.0, 1.0))):
            for one, schedule in zip(own, schedules, strict=True):
                one.step.objective = ELBO(schedule=schedule, traits=one.step.objective.traits)
            pairs.append(own)
        expected, found = carried_out(3, pairs[0], None), carried_out(3, pairs[1], StackedStep())
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("settings", [{"clip_norm": 0.01}, {"skip_norm": 20.0}, {"ema_decay": 0.5}], ids=str)
def test_clipping_skipping_and_averages_are_those_of_the_member(settings: dict[str, Any]) -> None:
    alone, together = members(DEFAULT, **settings), members(DEFAULT, **settings)
    averages = [[copy.deepcopy(one.step.model) for one in own] for own in (alone, together)]
    for own, models in zip((alone, together), averages, strict=True):
        for one, model in zip(own, models, strict=True):
            one.step.averages = list(zip(model.parameters(), one.step.model.parameters(), strict=True))
    expected, found = carried_out(4, alone, None), carried_out(4, together, StackedStep())
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-9, atol=1e-9)
    for models in zip(*averages, strict=True):
        for a, b in zip(*(model.parameters() for model in models), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_member_that_diverges_moves_no_bit_of_the_others() -> None:
    own, without = members(DEFAULT, (1.0, 1e30, 1.0)), members(DEFAULT, (1.0, 1.0, 1.0))
    with torch.no_grad():
        for p in own[1].step.model.parameters():
            p.fill_(torch.nan)
    del without[1]
    found = [[report[0], report[2]] for report in carried_out(3, own, StackedStep())]
    assert found == carried_out(3, without, StackedStep())
    assert own[1].step.skipped_in_a_row == 3
    assert not own[1].optimizer.state_dict()["state"]


def test_a_member_that_leaves_takes_its_weights_along() -> None:
    own, alone = members(DEFAULT), members(DEFAULT)
    stack = StackedStep()
    carried_out(2, own, stack)
    take_apart(own[0].step.model)
    left = [p.clone() for p in weights(own[0])]
    carried_out(2, own[1:], stack)
    assert all(torch.equal(a, b) for a, b in zip(left, weights(own[0]), strict=True))
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in own[0].step.model.parameters())
    carried_out(2, alone[1:], None)
    carried_out(2, alone[1:], None)
    for one, other in zip(alone[1:], own[1:], strict=True):
        for a, b in zip(weights(one), weights(other), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-12)


def test_a_stack_of_one_is_the_run_by_itself() -> None:
    own, alone = members(DEFAULT, (1.0,)), members(DEFAULT, (1.0,))
    assert carried_out(2, own, StackedStep()) == carried_out(2, alone, None)
    assert len(REPORT) == 5


def test_a_parameter_that_the_loss_does_not_depend_on_is_left_alone() -> None:
    own = members(DEFAULT)
    for one in own:
        one.step.model.register_parameter("of_no_use", torch.nn.Parameter(torch.ones(3)))
        one.optimizer.add_param_group({"params": [one.step.model.of_no_use]})
        one.step.parameters.append(one.step.model.of_no_use)
    carried_out(2, own, StackedStep())
    for one in own:
        assert one.step.model.of_no_use.tolist() == [1, 1, 1], "it has shrunk by the weight decay"
        assert one.step.model.of_no_use.grad is None


def test_what_cannot_be_stacked_is_carried_out_one_by_one() -> None:
    """As a part of somebody's own, of which nobody knew beforehand."""
    own, alone = members(DEFAULT), members(DEFAULT)
    for one in [*own, *alone]:
        encoder = one.step.model.encoder
        encoder.register_forward_hook(lambda module, given, found: found + 0 * found.sum().item())
    stack = StackedStep()
    assert carried_out(2, own, stack) == carried_out(2, alone, None)
    assert stack.apart is not None
    assert "vmap" in stack.apart
