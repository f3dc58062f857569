"""Distances of sets of features against closed forms and brute force; neighbours against brute force."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from vaelab.evidence import SampleQuality, sample_quality
from vaelab.evidence.sample_quality import (
    Neighbours,
    blocks,
    compare,
    features,
    frechet_distance,
    kernel_distance,
    memorisation,
    nearest_neighbours,
    precision,
    recall,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def order(n: int, seed: int = 0) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def with_moments(rows: Tensor, mean: Tensor, root: Tensor) -> Tensor:
    """``rows`` moved and stretched to the sample mean ``mean`` and the sample covariance root root^T, exactly."""
    centred = rows - rows.mean(0)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(centred.T.cov()), centred.T, upper=False)
    return mean + whitened.T @ root.T


class Flat(nn.Module):
    """Pixels as features."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


# -- Frechet distance --------------------------------------------------------------------------------------------------


def test_frechet_distance_of_given_moments_is_the_closed_form() -> None:
    means, roots = normal(2, 5, seed=1), normal(2, 5, 5, seed=2)
    real, generated = (
        with_moments(normal(n, 5, seed=n), mean, root) for n, mean, root in zip((300, 170), means, roots)
    )
    a, b = (root @ root.T for root in roots)
    root_a = scipy.linalg.sqrtm(a.numpy())
    cross = np.trace(scipy.linalg.sqrtm(root_a @ b.numpy() @ root_a)).real
    closed = (means[0] - means[1]).square().sum() + a.trace() + b.trace() - 2 * cross
    assert frechet_distance(real, generated) == pytest.approx(closed.item(), rel=1e-9)
    assert frechet_distance(generated, real) == pytest.approx(closed.item(), rel=1e-9)
    # far from the origin, sums of squares would lose their digits
    assert frechet_distance(real + 1e6, generated + 1e6) == pytest.approx(closed.item(), rel=1e-6)


def test_a_set_is_at_no_distance_from_itself_also_with_features_that_are_dead() -> None:
    real = normal(400, 84).relu()
    real[:, :20] = 0
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(real, real[order(400)]) == pytest.approx(0, abs=1e-6)


def test_float32_features_are_compared_in_float64() -> None:
    real, generated = normal(200, 8).float(), normal(200, 8, seed=1).float()
    assert frechet_distance(real, generated) == frechet_distance(real.double(), generated.double())


# -- kernel distance ---------------------------------------------------------------------------------------------------


def test_kernel_distance_is_the_unbiased_sum_over_pairs() -> None:
    real, generated = normal(12, 3), normal(12, 3, seed=1) + 1
    subsets = order(12).reshape(2, 6), order(12, seed=1).reshape(2, 6)
    values = []
    for r, g in zip(*subsets):
        within, across = 0.0, 0.0
        for i in range(6):
            for j in range(6):
                if i != j:
                    within += (real[r[i]] @ real[r[j]] / 3 + 1).item() ** 3
                    within += (generated[g[i]] @ generated[g[j]] / 3 + 1).item() ** 3
                across += (real[r[i]] @ generated[g[j]] / 3 + 1).item() ** 3
        values.append(within / 30 - 2 * across / 36)
    found = kernel_distance(real, generated, *subsets)
    assert found.value == pytest.approx(np.mean(values), rel=1e-12)
    assert found.se == pytest.approx(np.std(values, ddof=1) / math.sqrt(2), rel=1e-12)
    assert (found.num_subsets, found.subset_size) == (2, 6)


def test_kernel_distance_of_one_distribution_is_zero_within_its_errors() -> None:
    """200 repetitions of ten subsets: two standard errors cover 0 as often as a t distribution says (92.3 %), and the mean is not off."""
    values, covered = [], 0
    for repetition in range(200):
        real, generated = normal(2, 200, 4, seed=repetition)
        found = kernel_distance(real, generated, *[blocks(torch.arange(200), 20)] * 2)
        values.append(found.value)
        covered += abs(found.value) < 2 * found.se
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert 0.86 < covered / 200 < 0.98


def test_kernel_distance_leaves_the_global_generator_alone_and_repeats() -> None:
    real, generated, rows = normal(40, 4), normal(40, 4, seed=1), blocks(order(40), 10)
    before = torch.get_rng_state()
    assert kernel_distance(real, generated, rows, rows) == kernel_distance(real, generated, rows, rows)
    assert torch.equal(torch.get_rng_state(), before)


# -- precision and recall ----------------------------------------------------------------------------------------------


def inside_by_brute_force(real: Tensor, generated: Tensor, k: int) -> float:
    rows, radii = real.numpy(), []
    for i, r in enumerate(rows):
        others = sorted(np.linalg.norm(r - other) for j, other in enumerate(rows) if j != i)
        radii.append(others[k - 1])
    hits = [any(np.linalg.norm(g - r) <= radius for r, radius in zip(rows, radii)) for g in generated.numpy()]
    return sum(hits) / len(hits)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_brute_force(k: int) -> None:
    real, generated = normal(40, 6), 1.2 * normal(30, 6, seed=1)
    expected = inside_by_brute_force(real, generated, k)
    assert 0 < expected < 1
    assert precision(real, generated, k).value == expected
    assert recall(real, generated, k).value == inside_by_brute_force(generated, real, k)
    assert precision(real, generated, k).se == math.sqrt(expected * (1 - expected) / 30)


def test_samples_of_one_mode_are_precise_and_recall_that_mode_alone() -> None:
    centres = 100 * torch.eye(4, dtype=torch.float64)
    real = torch.cat([centre + normal(50, 4, seed=i) for i, centre in enumerate(centres)])
    # a point of the mode a second time: inside a ball whatever the noise
    dropped = compare(real, real[:50].repeat(2, 1), order(200), order(100))
    assert dropped.precision.value == 1
    assert dropped.recall.value == 0.25
    far = compare(real, real + 1000, order(200), order(200))
    assert (far.precision.value, far.recall.value) == (0, 0)


def test_equal_features_lie_in_each_others_manifolds_in_spite_of_rounding() -> None:
    """Five copies of each row: all radii are 0, and only equal rows are inside."""
    rows = 1000 * normal(30, 16)
    real = rows.repeat(5, 1)
    assert all(precision(real, row).value == 1 for row in rows.split(1))
    assert precision(real, rows + 0.1).value == 0


def test_more_rows_than_are_held_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = normal(150, 4), 1.5 * normal(130, 4, seed=1)
    samples, training = uniform(30, 1, 4, 4), [uniform(50, 1, 4, 4, seed=1)]
    whole = precision(real, generated), recall(real, generated), nearest_neighbours(samples, training, 3)
    monkeypatch.setattr(sys.modules[precision.__module__], "ROWS", 7)  # the function hides the module
    parts = precision(real, generated), recall(real, generated), nearest_neighbours(samples, training, 3)
    assert parts[:2] == whole[:2]
    assert torch.equal(parts[2].index, whole[2].index)


# -- neighbours and memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 17, 200])
def test_neighbours_are_those_of_brute_force(batch: int) -> None:
    samples, training = uniform(9, 3, 5, 4), uniform(60, 3, 5, 4, seed=1)
    found = nearest_neighbours(samples, training.split(batch), 4)
    for i, sample in enumerate(samples.double()):
        distances = torch.stack([(sample - image).square().sum().sqrt() for image in training.double()])
        expected = distances.sort()
        assert torch.equal(found.index[i], expected.indices[:4])
        torch.testing.assert_close(found.distance[i], expected.values[:4], rtol=1e-14, atol=0)


def test_a_training_image_among_the_samples_is_its_own_neighbour_at_distance_zero() -> None:
    training = uniform(50, 1, 8, 8)
    samples = torch.cat([training.flip(0), uniform(1, 1, 8, 8, seed=2)])
    found = nearest_neighbours(samples, training.split(20), 3)
    assert found.index[:50, 0].tolist() == list(range(50))[::-1]
    assert (found.distance[:50, 0] == 0).all()
    assert found.distance[50, 0] > 0


def test_the_first_of_two_equal_training_images_comes_first() -> None:
    image = uniform(1, 1, 4, 4)
    training = torch.cat([uniform(3, 1, 4, 4, seed=1), image, image, uniform(3, 1, 4, 4, seed=2), image])
    for batch in (2, 4, 9):
        assert nearest_neighbours(image, training.split(batch), 3).index.tolist() == [[3, 4, 8]]


def test_copies_with_a_little_noise_are_seen_and_fresh_images_are_not() -> None:
    training, test, fresh = (uniform(n, 1, 6, 6, seed=n).split(40) for n in (200, 60, 61))
    copies = [training[0] + 0.01 * uniform(40, 1, 6, 6, seed=3)]
    near = {
        name: nearest_neighbours(torch.cat(list(images)), training, 2)
        for name, images in (("test", test), ("fresh", fresh), ("copies", copies))
    }
    innocent = memorisation(near["fresh"], near["test"], 200)
    assert innocent.median_ratio == pytest.approx(1, abs=0.05)
    assert innocent.copies.value == innocent.test_copies.value == 0
    guilty = memorisation(near["copies"], near["test"], 200)
    assert guilty.median_ratio < 0.1
    assert guilty.copies.value == 1
    assert (guilty.copies.num_images, guilty.test_copies.num_images, guilty.num_training) == (40, 60, 200)


def test_a_copy_is_three_times_nearer_to_one_image_than_to_any_other() -> None:
    distance = torch.tensor([[1.0, 2.9, 9.0], [1.0, 3.1, 3.2], [2.0, 6.1, 7.0], [0.0, 0.0, 1.0]])
    samples = Neighbours(torch.zeros(4, 3, dtype=torch.int64), distance)
    test = Neighbours(torch.zeros(4, 3, dtype=torch.int64), torch.tensor([[2.0, 2.5, 3.0]]).expand(4, 3))
    found = memorisation(samples, test, 9)
    assert found.copies.value == 0.75
    assert found.median_ratio == 0.5
    with pytest.raises(ValueError, match="at least 2"):
        memorisation(Neighbours(samples.index[:, :1], distance[:, :1]), test, 9)


# -- all of it ---------------------------------------------------------------------------------------------------------


def quality(batch: int = 30, permuted: bool = False, **settings: Any) -> SampleQuality:
    real, generated, training = (
        uniform(100, 1, 4, 4),
        uniform(80, 1, 4, 4, seed=1),
        uniform(90, 1, 4, 4, seed=2),
    )
    if permuted:
        generated = torch.cat(generated.split(batch)[::-1])
    return sample_quality(
        Flat().eval(),
        real=real.split(batch), generated=generated.split(batch), reference=training[:80].split(batch), training=training.split(batch),
        orders=(order(100), order(80), order(80)), samples="draws", extractor_digest="d", extractor_accuracy=0.9,
        **settings,
    )  # fmt: skip


def test_the_record_holds_both_comparisons_and_what_they_were_made_with() -> None:
    found = quality(num_neighbours=5, num_searched=40)
    assert (found.generated.num_images, found.generated.num_real, found.num_features) == (80, 100, 16)
    assert found.generated.kernel.subset_size == 8
    assert found.generated.kernel.num_subsets == 10
    assert found.generated != found.floor
    assert found.neighbours.index.shape == (40, 5)
    assert (found.samples, found.extractor, found.extractor_accuracy, found.warning) == (
        "draws",
        "d",
        0.9,
        None,
    )
    rows = uniform(100, 1, 4, 4).flatten(1), uniform(90, 1, 4, 4, seed=2)[:80].flatten(1)
    assert found.floor.frechet == pytest.approx(frechet_distance(*rows), rel=1e-12)


def test_numbers_do_not_depend_on_batches_nor_sets_on_their_order() -> None:
    whole, parts, turned = quality(100), quality(7), quality(40, permuted=True)
    assert parts.generated == whole.generated
    assert parts.memorisation == whole.memorisation
    assert torch.equal(parts.neighbours.index, whole.neighbours.index)
    assert turned.generated.frechet == pytest.approx(whole.generated.frechet, rel=1e-9)
    assert (turned.generated.precision, turned.generated.recall) == (
        whole.generated.precision,
        whole.generated.recall,
    )


def test_fewer_images_than_features_are_warned_of() -> None:
    images = [uniform(20, 1, 8, 8, seed=i).split(20) for i in range(4)]
    real, generated, reference, training = images
    found = sample_quality(
        Flat().eval(), real=real, generated=generated, reference=reference, training=training, orders=(order(20), order(20), order(20)),
        samples="means", extractor_digest="d", extractor_accuracy=0.9,
    )  # fmt: skip
    assert found.warning is not None
    assert "20 images for 64 features" in found.warning


def test_an_extractor_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        features(nn.Dropout(0.5), [uniform(2, 1, 4, 4)])


@pytest.mark.parametrize(
    "call",
    [
        lambda: frechet_distance(normal(1, 3), normal(5, 3)),
        lambda: frechet_distance(normal(5, 3), normal(5, 4)),
        lambda: frechet_distance(normal(5, 3), normal(5, 3) * math.nan),
        lambda: kernel_distance(normal(5, 3), normal(5, 3), order(4).reshape(1, 4), order(4).reshape(2, 2)),
        lambda: kernel_distance(normal(5, 3), normal(5, 3), order(4).reshape(4, 1), order(4).reshape(4, 1)),
        lambda: precision(normal(3, 2), normal(9, 2), 3),
        lambda: nearest_neighbours(uniform(2, 1, 4, 4), [uniform(3, 1, 4, 4)], 4),
    ],
)
def test_what_has_no_answer_is_refused(call) -> None:
    with pytest.raises(ValueError, match=r"image|features|subsets"):
        call()
