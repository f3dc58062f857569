"""The optimizer step against a loop written out here."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from given import Given
from vaelab.batch import Batch
from vaelab.build import DataShape, build_model
from vaelab.errors import SettingError
from vaelab.noise import Noise, Stream
from vaelab.objectives import DIP, ELBO, PIWAE, DReG
from vaelab.training.rates import learning_rate
from vaelab.training.step import REPORT, OptimisationStep, StepSettings

N, B, D = 640, 64, 8
SHAPE = DataShape((1, 28, 28), 256, (0.0, 1.0))
CONFIG = {
    "seed": 3,
    "latent_dim": D,
    "encoder": {"_target_": "vaelab.networks.MLPEncoder", "hidden": [32, 16]},
    "decoder": {"_target_": "vaelab.networks.MLPDecoder", "hidden": [16, 32]},
    "posterior": {"_target_": "vaelab.posteriors.NormalPosterior"},
    "prior": {"_target_": "vaelab.priors.StandardNormalPrior"},
    "likelihood": {"_target_": "vaelab.likelihoods.BernoulliLikelihood"},
    "model": {"_target_": "vaelab.models.VAE"},
}


def images() -> Tensor:
    """Grey images with three degrees of freedom."""
    generator = torch.Generator().manual_seed(0)
    factors, loadings = torch.randn(N, 3, generator=generator), torch.randn(3, 784, generator=generator)
    return torch.sigmoid(2 * factors @ loadings).unflatten(1, (1, 28, 28))


def make_step(
    model: nn.Module,
    x: Tensor,
    objective: Any = None,
    noise: Noise | None = None,
    rank: int = 0,
    world_size: int = 1,
    **settings: Any,
) -> OptimisationStep:
    def batch(index: Tensor, rows: slice) -> Batch:
        mine = index[rows]
        return Batch(x[mine], torch.full_like(mine, -1), mine)

    return OptimisationStep(
        model,
        objective or ELBO(),
        Given(batch),
        N,
        noise or Noise(3),
        StepSettings(**settings),
        rank,
        world_size,
    )


def run(
    step: OptimisationStep, optimizer: torch.optim.Optimizer, steps: int, batch_size: int = B
) -> list[dict[str, float]]:
    noise, out = Noise(3), []
    for number in range(steps):
        epoch, position = divmod(number, N // batch_size)
        index = noise.order(epoch, N)[position * batch_size : (position + 1) * batch_size]
        out.append(dict(zip(REPORT, step(index, number, optimizer, Tensor.backward).tolist(), strict=True)))
    return out


def test_equals_a_plain_loop_with_the_same_weights_order_and_noise() -> None:
    x, model = images(), build_model(CONFIG, SHAPE)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    ours = [
        -s["objective"] / B
        for s in run(make_step(model, x), torch.optim.Adam(model.parameters(), 1e-2, fused=True), 50)
    ]

    enc1, enc2, mean, log_variance = (
        nn.Linear(784, 32), nn.Linear(32, 16), nn.Linear(16, D), nn.Linear(16, D)
    )  # fmt: skip
    dec1, dec2, dec3 = nn.Linear(D, 16), nn.Linear(16, 32), nn.Linear(32, 784)
    layers = {
        "encoder.layers.0": enc1, "encoder.layers.2": enc2, "posterior.mean": mean, "posterior.log_variance": log_variance,
        "decoder.layers.0": dec1, "decoder.layers.2": dec2, "decoder.output": dec3,
    }  # fmt: skip
    for name, layer in layers.items():
        layer.load_state_dict({"weight": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]})
    optimizer = torch.optim.Adam([p for layer in layers.values() for p in layer.parameters()], 1e-2)
    noise, theirs = Noise(3), []
    for number in range(50):
        epoch, position = divmod(number, N // B)
        batch = x[noise.order(epoch, N)[position * B : (position + 1) * B]].flatten(1)
        eps = noise.step_normal(Stream.posterior, number, (1, B, D))[0]
        hidden = F.relu(enc2(F.relu(enc1(batch))))
        mu, logvar = mean(hidden), log_variance(hidden)
        logits = dec3(F.relu(dec2(F.relu(dec1(mu + torch.exp(0.5 * logvar) * eps)))))
        distortion = F.binary_cross_entropy_with_logits(logits, batch, reduction="sum")
        rate = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        loss = (distortion + rate) / B
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        theirs.append(loss.item())

    assert ours[0] > 1.05 * ours[-1], "nothing was learned"
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_accumulated_parts_make_the_same_step_as_one_batch() -> None:
    x, models = images().double(), []
    for parts in (1, 3):
        model = build_model(CONFIG, SHAPE).double()
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        run(make_step(model, x, noise=DoubleNoise(3), accumulate=parts), optimizer, 5)
        models.append(model)
    for one, three in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(one, three, rtol=1e-12, atol=1e-14)


def test_two_ranks_together_make_the_gradient_of_one() -> None:
    x = images().double()
    index = torch.arange(B - 1)  # an odd number: the ranks hold different numbers of images

    def gradients(rank: int, world_size: int) -> list[Tensor]:
        model = build_model(CONFIG, SHAPE).double()
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        make_step(model, x, noise=DoubleNoise(3), rank=rank, world_size=world_size)(
            index, 0, optimizer, Tensor.backward
        )
        return [p.grad for p in model.parameters() if p.grad is not None]

    both = zip(gradients(0, 2), gradients(1, 2), strict=True)
    for mean, alone in zip(((a + b) / 2 for a, b in both), gradients(0, 1), strict=True):
        torch.testing.assert_close(mean, alone, rtol=1e-10, atol=1e-13)


def test_clipping_bounds_the_gradient_and_reports_its_norm_before() -> None:
    x, model = images(), build_model(CONFIG, SHAPE)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    before = [p.detach().clone() for p in model.parameters()]
    (sums,) = run(make_step(model, x, clip_norm=0.5), optimizer, 1)
    moved = (
        torch.cat([(a - b).flatten() for a, b in zip(before, model.parameters(), strict=True)]).norm().item()
    )
    assert sums["grad_norm"] > 1
    assert moved == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_leaves_weights_and_moments_alone(where: str) -> None:
    x, model = images(), build_model(CONFIG, SHAPE)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    step = make_step(model, x)
    run(step, optimizer, 2)
    weights = [p.detach().clone() for p in model.parameters()]
    moments = [optimizer.state[p]["exp_avg"].clone() for p in model.parameters()]

    def poisoned(loss: Tensor) -> None:
        (loss * float("nan") if where == "loss" else loss).backward()
        if where == "gradient":
            next(p for p in model.parameters() if p.grad is not None).grad[0, 0] = float("inf")  # pyright: ignore[reportOptionalSubscript]

    sums = dict(zip(REPORT, step(torch.arange(B), 2, optimizer, poisoned).tolist(), strict=True))
    assert sums["skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert all(
        torch.equal(a, optimizer.state[p]["exp_avg"])
        for a, p in zip(moments, model.parameters(), strict=True)
    )


def test_beta_weighs_the_rate_in_the_loss_and_not_in_what_is_reported() -> None:
    x, model = images(), build_model(CONFIG, SHAPE)
    (sums,) = run(make_step(model, x, ELBO(beta=3.0)), torch.optim.SGD(model.parameters(), 0.0), 1)
    assert sums["objective"] == pytest.approx(-(sums["distortion"] + 3 * sums["rate"]), rel=1e-6)
    (unweighted,) = run(make_step(model, x), torch.optim.SGD(model.parameters(), 0.0), 1)
    assert {k: sums[k] for k in ("rate", "distortion")} == {k: unweighted[k] for k in ("rate", "distortion")}


@pytest.mark.parametrize(
    "settings", [{"accumulate": 0}, {"clip_norm": 0.0}, {"clip_norm": 1.0, "scaled": True}]
)
def test_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=r"optimizer\.(accumulate|clip_norm)"):
        StepSettings(**settings)


class DoubleNoise(Noise):
    """The noise of a run, in float64."""

    def step_normal(
        self, stream: Stream, step: int, shape: Any, device: Any = "cpu", dtype: Any = None, out: Any = None
    ) -> Tensor:
        return super().step_normal(stream, step, shape, device, torch.float64)


def test_the_average_follows_the_weights() -> None:
    x, model = images(), build_model(CONFIG, SHAPE)
    averaged = copy.deepcopy(model).requires_grad_(False)
    step = make_step(model, x, ema_decay=0.2)
    step.averages = list(zip(averaged.parameters(), model.parameters(), strict=True))
    expected = [p.detach().clone() for p in model.parameters()]
    optimizer, noise = torch.optim.Adam(model.parameters(), 1e-2), Noise(3)
    for number, decay in enumerate((1 / 10, 2 / 11, 0.2, 0.2)):
        step(noise.order(number, N)[:B], number, optimizer, Tensor.backward)
        expected = [
            decay * a + (1 - decay) * p.detach() for a, p in zip(expected, model.parameters(), strict=True)
        ]
    for a, b in zip(averaged.parameters(), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_gradient_that_is_too_long_is_left_out() -> None:
    x, model = images(), build_model(CONFIG, SHAPE)
    before = [p.detach().clone() for p in model.parameters()]
    (long,) = run(make_step(model, x, skip_norm=1e-3), torch.optim.SGD(model.parameters(), 1.0), 1)
    assert long["skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    (short,) = run(make_step(model, x, skip_norm=1e6), torch.optim.SGD(model.parameters(), 1e-3), 1)
    assert short["skipped"] == 0
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_learning_rate_is_that_of_the_step() -> None:
    x, model = images(), build_model(CONFIG, SHAPE)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    step = make_step(model, x, learning_rate=lambda number: 0.1 / (number + 1))
    for number in (0, 3):
        before = [p.detach().clone() for p in model.parameters()]
        step(torch.arange(B), number, optimizer, Tensor.backward)
        for old, p in zip(before, model.parameters(), strict=True):
            assert p.grad is not None
            torch.testing.assert_close(p, old - 0.1 / (number + 1) * p.grad)


def test_the_cosine_ends_at_nothing() -> None:
    rate = learning_rate("cosine", 2.0, num_steps=100, steps_per_epoch=10)
    assert rate is not None
    assert [rate(step) for step in (0, 50, 100, 120)] == pytest.approx([2.0, 1.0, 0.0, 0.0])
    assert learning_rate("constant", 2.0, 100, 10) is None
    with pytest.raises(SettingError, match=r"optimizer\.schedule=cosin: "):
        learning_rate("cosin", 2.0, 100, 10)


@pytest.mark.parametrize("objective", [DReG(4), PIWAE(4, 2)], ids=["dreg", "piwae"])
@pytest.mark.parametrize("at_once", [None, 3])
def test_q_and_p_each_get_the_gradient_of_their_own_surrogate(objective: Any, at_once: int | None) -> None:
    x, model = images().double(), build_model(CONFIG, SHAPE).double()
    step = make_step(model, x, objective, samples_at_once=at_once)
    run(step, torch.optim.SGD(model.parameters(), 0.0), 1)
    index = Noise(3).order(0, N)[:B]
    eps = Noise(3).step_normal(Stream.posterior, 0, (4, B, D), "cpu").double()
    result = objective(model(Batch(x[index], index, index), eps), 0, N)
    assert result.inference_surrogate is not None
    for surrogate, parts in (
        (result.inference_surrogate, ("encoder", "posterior")),
        (result.surrogate, ("decoder",)),
    ):
        parameters = [p for part in parts for p in model.get_submodule(part).parameters()]
        expected = torch.autograd.grad(-surrogate.mean(), parameters, retain_graph=True)
        for parameter, gradient in zip(parameters, expected, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-14)


def test_the_penalty_of_accumulated_parts_is_their_mean() -> None:
    x, model = images().double(), build_model(CONFIG, SHAPE).double()
    objective = DIP("ii", 50.0, 20.0)
    run(make_step(model, x, objective, accumulate=4), torch.optim.SGD(model.parameters(), 0.0), 1)
    index = Noise(3).order(0, N)[:B]
    eps = Noise(3).step_normal(Stream.posterior, 0, (1, B, D), "cpu").double()
    loss = torch.zeros((), dtype=torch.float64)
    for rows, noise in zip(index.chunk(4), eps.chunk(4, dim=1), strict=True):
        part = objective(model(Batch(x[rows], rows, rows), noise), 0, N)
        assert part.penalty is not None
        loss = loss - part.surrogate.sum() / B + part.penalty / 4
    parameters = list(model.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-14)
