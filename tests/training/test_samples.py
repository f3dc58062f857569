"""Samples of a model, by their number: nothing else that is asked for changes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from vaelab.experiments.assembly import Parts, assemble
from vaelab.noise import Noise, Split, Stream
from vaelab.training import samples
from vaelab.training.pictures import Artist, slerp
from vaelab.training.samples import BLOCK, Sampler

Compose = Callable[..., dict[str, Any]]
SMALL = ("data=digits", "trainer=cpu", "latent_dim=3", "encoder.hidden=[8]", "decoder.hidden=[8]")


def make(compose: Compose, *overrides: str) -> Parts:
    parts = assemble(compose(*SMALL, *overrides))
    parts.module.model.eval()
    return parts


def sampler(parts: Parts, **settings: Any) -> Sampler:
    return Sampler(parts.module.model, parts.data, Noise(5), **settings)


@pytest.mark.parametrize("pixels", ["mean", "drawn"])
def test_the_first_images_of_many_are_those_of_few_bit_for_bit(compose: Compose, pixels: str) -> None:
    parts = make(compose)
    many = sampler(parts, pixels=pixels)(BLOCK + 20)
    assert many.shape == (BLOCK + 20, 1, 8, 8)
    assert torch.equal(sampler(parts, pixels=pixels)(7), many[:7])
    assert torch.equal(sampler(parts, pixels=pixels)(BLOCK + 1), many[: BLOCK + 1])
    assert len(torch.unique(many, dim=0)) > BLOCK, "each image is another one"


def test_the_noise_is_that_of_the_number_of_the_image(compose: Compose) -> None:
    parts = make(compose)
    index = torch.arange(BLOCK + 3)
    eps = Noise(5).image_normal(Stream.prior, Split.train, index, (3,))
    with torch.no_grad():
        expected = parts.module.model.decode(eps).mean
    torch.testing.assert_close(sampler(parts)(BLOCK + 3), expected)


def test_drawn_pixels_are_those_of_the_likelihood(compose: Compose) -> None:
    parts = make(compose, "data.binarize=threshold")
    mean, drawn = sampler(parts)(400), sampler(parts, pixels="drawn")(400)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    # 64 pixels of 400 images: the mean of so many Bernoulli variables is within 0.0032 (one standard deviation)
    assert float(drawn.mean()) == pytest.approx(float(mean.mean()), abs=0.015)


def test_temperature_scales_the_noise_of_every_layer(compose: Compose) -> None:
    parts = make(compose, "model=hierarchical", "model.lower_dims=[4]", "model.hidden=[8]")
    model = parts.module.model
    eps = Noise(5).image_normal(Stream.prior, Split.train, torch.arange(6), (model.prior_noise_dim,))
    with torch.no_grad():
        expected, plain = model.sample(0.25 * eps).mean, model.sample(eps).mean
    got = sampler(parts, temperature=0.25)(6)
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(got, plain, atol=1e-4)


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
def test_temperature_leaves_the_choice_of_a_component_alone(compose: Compose, prior: str) -> None:
    """Scaled to almost nothing, the noise would choose the component in the middle every time."""
    parts = make(compose, f"prior={prior}", "prior.num_components=4")
    model, seen = parts.module.model, list[torch.Tensor]()
    sample = model.sample
    model.sample = lambda eps, y=None: (seen.append(eps), sample(eps, y))[1]
    sampler(parts, temperature=1e-6)(200)
    eps = torch.cat(seen)
    assert eps[:, :-1].abs().max() < 1e-4
    assert float(eps[:, -1].std()) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(
    "overrides, chosen",
    [
        (("model=semi_supervised",), 1),
        (("model=semi_supervised", "prior=mixture", "prior.num_components=4"), 2),
        (("model=m1_m2", "model.hidden=[8]"), 1),
    ],
)
def test_temperature_leaves_the_choice_of_a_class_alone(
    compose: Compose, overrides: tuple[str, ...], chosen: int
) -> None:
    parts = make(compose, "objective=semi_supervised", "data.num_labels=100", *overrides)
    hot, cold = (sampler(parts, temperature=t)._noise(0)[0] for t in (1.0, 0.5))
    torch.testing.assert_close(cold[:, :-chosen], 0.5 * hot[:, :-chosen])
    assert torch.equal(cold[:, -chosen:], hot[:, -chosen:])


def test_labels_take_turns_and_make_a_difference(compose: Compose) -> None:
    parts = make(compose, "model=conditional")
    every, some = sampler(parts, in_a_row=8), sampler(parts, classes=(3, 7))
    assert every.labels(torch.tensor([0, 7, 8, 79, 80])).tolist() == [0, 0, 1, 9, 0]  # pyright: ignore[reportOptionalMemberAccess]
    assert some.labels(torch.arange(4)).tolist() == [3, 7, 3, 7]  # pyright: ignore[reportOptionalMemberAccess]
    seven = sampler(parts, classes=(7,))(4)
    assert torch.equal(some(4)[1::2], seven[1::2])
    assert not torch.allclose(some(4)[0], seven[0], atol=1e-5)
    assert sampler(make(compose)).labels(torch.arange(4)) is None


def test_random_numbers_of_the_next_block_are_made_ahead_only_where_there_is_one(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    noise = Sampler._noise
    monkeypatch.setattr(
        samples.Sampler, "_noise", lambda self, start: (made.append(start), noise(self, start))[1]
    )
    sampler(make(compose))(BLOCK)
    assert made == [0]


def test_slerp_keeps_to_the_sphere_and_its_ends_are_the_codes() -> None:
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.normal(size=(5, 1, 6))) for _ in range(2))
    weight = torch.linspace(0, 1, 7, dtype=torch.float64)[None, :, None]
    way = slerp(a, b, weight)
    torch.testing.assert_close(way[:, :1], a)
    torch.testing.assert_close(way[:, -1:], b)
    lengths = torch.lerp(a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True), weight)
    torch.testing.assert_close(way.norm(dim=-1, keepdim=True), lengths)
    # equal angles between neighbours
    units = way / lengths
    cosines = (units[:, 1:] * units[:, :-1]).sum(-1)
    torch.testing.assert_close(cosines, cosines[:, :1].expand_as(cosines))


@pytest.mark.parametrize("factor", [2.0, -2.0, 0.0])
def test_slerp_is_straight_where_there_is_no_arc(factor: float) -> None:
    a = torch.tensor([[3.0, 4.0]])
    half = slerp(a, factor * a, torch.tensor(0.5))
    torch.testing.assert_close(half, (1 + factor) / 2 * a)


# -- pictures ----------------------------------------------------------------------------------------------------------


def artist(parts: Parts, **settings: Any) -> Artist:
    return Artist(parts.module.model, parts.data, Noise(5), **settings)


def test_a_traversal_goes_through_the_priors_own_mean_and_deviations(compose: Compose) -> None:
    parts = make(compose, "prior=normal")
    model, seen = parts.module.model, list[torch.Tensor]()
    with torch.no_grad():
        model.prior.mean.bias.fill_(4.0)
        model.prior.log_variance.bias.fill_(2 * np.log(0.5))
    decode = model.decode
    model.decode = lambda code, y=None: (seen.append(code), decode(code, y))[1]
    drawn = artist(parts)
    drawn.traversed(drawn.codes, [1])
    values, others = seen[0][:, 1], seen[0][:, [0, 2]]
    # a thousand samples: the mean is within 0.016, the deviation within 0.011 (one standard deviation)
    np.testing.assert_allclose(values, torch.linspace(4 - 1.5, 4 + 1.5, 11), atol=0.2)
    assert (others == others[0]).all()


def test_every_active_dimension_is_traversed_and_pages_say_which(compose: Compose) -> None:
    parts = make(compose, "latent_dim=50")
    drawn = artist(parts)
    codes = drawn.codes
    codes.means[:] = 1.0
    codes.means[:, 5:35] = torch.linspace(-1, 1, len(codes.means))[:, None]
    first, second = drawn.traversal()
    rows = [
        int(text.get_text().partition("z_{")[2].partition("}")[0])
        for page in (first, second)
        for text in page.axes[0].texts
        if "z_{" in text.get_text()
    ]
    assert sorted(rows) == list(range(5, 35))
    titles = [max((text.get_text() for text in page.axes[0].texts), key=len) for page in (first, second)]
    for number, title in enumerate(titles, 1):
        assert f"30 active of 50 dimensions (on 360 test images); page {number} of 2" in title


def test_a_model_that_uses_nothing_shows_one_dimension_and_says_so(compose: Compose) -> None:
    drawn = artist(make(compose))
    drawn.codes.means[:] = 0.5
    (page,) = drawn.traversal()
    assert any("no dimension is active" in text.get_text() for text in page.axes[0].texts)


def test_arithmetic_adds_the_difference_of_mean_codes(compose: Compose) -> None:
    parts = make(compose)
    model, seen = parts.module.model, list[torch.Tensor]()
    decode = model.decode
    model.decode = lambda code, y=None: (seen.append(code), decode(code, y))[1]
    drawn = artist(parts)
    codes = drawn.codes
    drawn.arithmetic((4, 9))
    z = seen[0].reshape(8, 7, 3)
    four, nine = (codes.means[codes.y == c] for c in (4, 9))
    torch.testing.assert_close(z[:, 0], four[:8])
    torch.testing.assert_close(z[:, 4], four[:8] + nine.mean(0) - four.mean(0))


@pytest.mark.parametrize(
    "overrides, missing",
    [
        ((), {"manifold"}),
        (("data.classes=[3]", "data.val_size=20"), {"manifold", "arithmetic"}),
        (("latent_dim=2", "prior=mixture", "prior.num_components=3"), set()),
        (("model=conditional", "latent_dim=2"), {"arithmetic"}),
        (("model=ladder", "model.lower_dims=[4]", "model.hidden=[8]"), {"manifold"}),
        (("model=hierarchical", "model.lower_dims=[4]", "model.hidden=[8]", "latent_dim=2"), set()),
        (("posterior=flow", "latent_dim=2"), set()),
    ],
)
def test_what_has_no_meaning_is_left_out_with_a_reason_and_the_rest_is_drawn(
    compose: Compose, overrides: tuple[str, ...], missing: set[str]
) -> None:
    from vaelab.training import draw

    drawn = artist(make(compose, *overrides))
    reasons = drawn.undrawable()
    assert set(reasons) == {*missing, "analogies"}
    assert ("told the class" in reasons["analogies"]) == ("model=conditional" in overrides)
    names = {"samples", "reconstructions", "traversal", "interpolation", "arithmetic", "manifold", "latents"}
    assert draw(drawn, [], None).keys() - {"traversal_2"} == names - missing


def test_spherical_interpolation_needs_the_standard_prior(compose: Compose) -> None:
    assert artist(make(compose)).not_spherical is None
    assert "N(0, I)" in str(artist(make(compose, "prior=normal")).not_spherical)
    assert "one dimension" in str(artist(make(compose, "latent_dim=1")).not_spherical)


def test_the_plane_of_a_learned_prior_is_at_its_own_quantiles(compose: Compose) -> None:
    parts = make(compose, "prior=normal", "latent_dim=2")
    model, seen = parts.module.model, list[torch.Tensor]()
    with torch.no_grad():
        model.prior.mean.bias.fill_(4.0)
        model.prior.log_variance.bias.fill_(2 * np.log(0.5))
    decode = model.decode
    model.decode = lambda code, y=None: (seen.append(code), decode(code, y))[1]
    artist(parts).manifold()
    plane = seen[0].reshape(20, 20, 2)
    expected = 4 + 0.5 * torch.special.ndtri(torch.linspace(0.025, 0.975, 20))
    np.testing.assert_allclose(plane[0, :, 0], expected, atol=0.2)
    np.testing.assert_allclose(plane[:, 0, 1], expected, atol=0.2)


def test_of_a_conditional_model_each_row_of_the_picture_is_a_class(compose: Compose) -> None:
    drawn = artist(make(compose, "model=conditional"))
    assert drawn.num_samples == 80
    side = drawn.samples_picture().axes[0].get_images()[0].get_extent()
    assert round(side[1]) < round(side[2]), "eight columns and ten rows"
