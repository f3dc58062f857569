"""A random number depends on what it is for, and on nothing else."""

from __future__ import annotations

import pytest
import torch

from vaelab.errors import SettingError
from vaelab.noise import A_THREADS_WORTH, ImageDraws, Noise, Split, Stream


def test_a_step_does_not_depend_on_what_was_drawn_before() -> None:
    fresh, used = Noise(5), Noise(5)
    used.step_uniform(Stream.binarize, 3, (100,))
    used.step_normal(Stream.posterior, 8, (7,))
    assert torch.equal(
        used.step_normal(Stream.posterior, 9, (2, 3)), fresh.step_normal(Stream.posterior, 9, (2, 3))
    )


def test_seeds_streams_and_steps_differ() -> None:
    draws = [
        Noise(seed).step_normal(stream, step, (50,))
        for seed in (0, 1)
        for stream in (Stream.posterior, Stream.prior)
        for step in (0, 1)
    ]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert (a - b).abs().min() > 0


def test_no_two_steps_share_a_seed_in_the_bits_that_torch_reads() -> None:
    noise = Noise(0)
    assert len({noise.step_seed(Stream.posterior, step) & 0xFFFFFFFF for step in range(200_000)}) == 200_000


def test_steps_make_independent_standard_normals() -> None:
    x = torch.cat([Noise(2).step_normal(Stream.posterior, step, (1, 50)) for step in range(4000)]).double()
    assert x.mean().abs() < 4 / x.numel() ** 0.5
    assert (x.var() - 1).abs() < 4 * (2 / x.numel()) ** 0.5
    assert (x[1:] * x[:-1]).mean().abs() < 4 / x.numel() ** 0.5


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_an_image_does_not_depend_on_its_batch(kind: str) -> None:
    draw = getattr(Noise(1), f"image_{kind}")
    together = draw(Stream.posterior, Split.test, torch.arange(10), (4, 3))
    for i in (0, 7, 9):
        assert torch.equal(draw(Stream.posterior, Split.test, torch.tensor([i]), (4, 3))[0], together[i])


def test_images_splits_repetitions_and_streams_differ() -> None:
    noise, index = Noise(1), torch.arange(3)
    draws = [
        noise.image_normal(stream, split, index, (20,), repetition)
        for stream in (Stream.posterior, Stream.binarize)
        for split in Split
        for repetition in (0, 1)
    ]
    rows = torch.cat(draws)
    assert len(torch.unique(rows, dim=0)) == len(rows) == 48
    assert len(torch.unique(rows)) == rows.numel(), "two of them overlap"


def test_image_noise_is_standard_normal() -> None:
    x = Noise(4).image_normal(Stream.posterior, Split.test, torch.arange(5000), (64,)).double()
    assert x.mean().abs() < 4 / x.numel() ** 0.5
    assert (x.var() - 1).abs() < 4 * (2 / x.numel()) ** 0.5
    assert (x[1:] * x[:-1]).mean().abs() < 4 / x.numel() ** 0.5


def test_image_noise_is_the_same_on_every_machine() -> None:
    """Recorded numbers rest on these: a change of the generator has to be seen."""
    drawn = Noise(0).image_uniform(Stream.binarize, Split.test, torch.tensor([0, 9_999]), (2,))
    torch.testing.assert_close(drawn, torch.tensor(REFERENCE), rtol=0, atol=1e-7)


REFERENCE = [[0.40128696, 0.78260279], [0.75024247, 0.2698192]]


def test_draws_of_images_depend_on_image_purpose_repetition_and_kind() -> None:
    draws = ImageDraws(Noise(3), Split.test, torch.tensor([4, 1, 8]))
    rows = [
        kind(purpose, (20,), repetition)
        for kind in (draws.normal, lambda *what: torch.special.ndtri(draws.uniform(*what)))
        for purpose in ("annealing", "adaptation")
        for repetition in (0, 1, 2)
    ]
    everything = torch.cat(rows)
    assert len(torch.unique(everything, dim=0)) == len(everything) == 36
    correlation = torch.corrcoef(torch.stack([row.flatten() for row in rows]).double()) - torch.eye(12)
    assert correlation.abs().max() < 5 / 60**0.5
    assert torch.equal(draws[1:].normal("annealing", (20,), 2), draws.normal("annealing", (20,), 2)[1:])
    assert torch.equal(draws[:1].uniform("annealing", (20,), 2), draws.uniform("annealing", (20,), 2)[:1])


def test_normal_and_uniform_draws_do_not_share_random_words() -> None:
    """The momentum of a chain must say nothing about whether it is accepted."""
    draws = ImageDraws(Noise(0), Split.test, torch.arange(20_000))
    normal, uniform = draws.normal("annealing", (1,)).double(), draws.uniform("annealing", (1,)).double()
    for moment in (normal, normal.square(), normal.abs()):
        joined = torch.stack([moment.flatten(), uniform.flatten()])
        assert torch.corrcoef(joined)[0, 1].abs() < 4 / 20_000**0.5


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own() -> None:
    orders = [Noise(0).order(epoch, 1000) for epoch in range(3)]
    assert all(torch.equal(order.sort().values, torch.arange(1000)) for order in orders)
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[2], Noise(0).order(2, 1000))
    assert not torch.equal(orders[0], Noise(1).order(0, 1000))


def test_a_subset_is_drawn_by_words_of_its_own() -> None:
    drawn = Noise(0).subset(1000)
    assert torch.equal(drawn.sort().values, torch.arange(1000))
    assert torch.equal(drawn, Noise(0).subset(1000))
    assert not torch.equal(drawn, Noise(1).subset(1000))
    assert not torch.equal(drawn, Noise(0).order(0, 1000))


def test_repetitions_have_seeds_of_their_own() -> None:
    seeds = [Noise(seed).repetition(number).seed for seed in (0, 1) for number in range(100)]
    assert len(set(seeds)) == 200
    assert Noise(1).repetition(7).seed == seeds[107]


def test_initial_weights_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    with Noise(6).initialisation():
        first = torch.nn.Linear(4, 4).weight
    assert torch.equal(torch.rand(3), expected)
    with Noise(6).initialisation():
        assert torch.equal(torch.nn.Linear(4, 4).weight, first)


@pytest.mark.parametrize("seed", [-1, 1.5, "a", None, True, 2**63])
def test_a_seed_that_is_none_is_refused(seed: object) -> None:
    with pytest.raises(SettingError, match="seed"):
        Noise(seed)  # pyright: ignore[reportArgumentType]


def test_numbers_do_not_depend_on_the_default_dtype() -> None:
    """Lightning changes it around a step, for trainer.precision=64-true."""
    draws = [
        Noise(3).step_uniform(Stream.binarize, 5, (4, 3)),
        Noise(3).step_normal(Stream.posterior, 5, (4, 3)),
    ]
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        again = [
            Noise(3).step_uniform(Stream.binarize, 5, (4, 3)),
            Noise(3).step_normal(Stream.posterior, 5, (4, 3)),
        ]
    finally:
        torch.set_default_dtype(default)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(draws, again, strict=True))


def test_threads_draw_what_one_draws() -> None:
    index, shape = torch.tensor([7, 3, 11, 2, 5]), (A_THREADS_WORTH // 2,)
    before = torch.get_num_threads()
    drawn = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            drawn.append(Noise(5).image_normal(Stream.posterior, Split.test, index, shape))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert drawn[0].std(1).sub(1).abs().max() < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_shorter_call_is_the_start_of_a_longer_one_and_another_repetition_is_not(
    dtype: torch.dtype,
) -> None:
    index = torch.arange(3)

    def normal(num_samples: int, repetition: int = 0) -> torch.Tensor:
        return Noise(0).image_normal(Stream.posterior, Split.test, index, (num_samples, 2), repetition, dtype)

    assert torch.equal(normal(10)[:, :5], normal(5))
    assert not torch.isin(normal(10), normal(5, repetition=1)).any()
