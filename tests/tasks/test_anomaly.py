"""Anomaly scores against closed forms, and the statistics of detection against exact cases, an independent implementation and simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from oracles import D, LinearGaussian, Oracle
from vaelab.evidence import ImportanceEstimator
from vaelab.experiments.check_measured import SCORES as NAMES
from vaelab.noise import ImageDraws, Noise, Split, Stream
from vaelab.tasks.anomaly import (
    SCORES,
    Reference,
    code_length,
    curve,
    detection,
    least_images,
    p_values,
    refusal,
    regret,
    threshold,
)


def draws(count: int) -> ImageDraws:
    return ImageDraws(Noise(0), Split.test, torch.arange(count), torch.float64)


def uniform(resamples: int, size: int, seed: int = 0) -> np.ndarray:
    return Noise(seed).image_uniform(Stream.bootstrap, Split.test, torch.arange(resamples), (size,)).numpy()


def columns(oracle: Oracle) -> dict[str, np.ndarray]:
    values = ImportanceEstimator(200, 8)(oracle.model, oracle.batch, draws(len(oracle.x)))
    return {name: values[name].numpy() for name in ("elbo", "rate", "distortion", "log_px")}


# -- scores ------------------------------------------------------------------------------------------------------------


def test_every_score_can_be_asked_for() -> None:
    assert tuple(SCORES) == NAMES
    assert all(score.name == name and score.of.__doc__ for name, score in SCORES.items())


def test_with_the_exact_posterior_the_bounds_are_the_evidence() -> None:
    oracle = Oracle(exact=True)
    values, evidence = columns(oracle), oracle.log_px.numpy()
    reference = Reference.of(values)
    # log w is log p(x) whatever z; the ELBO's closed-form rate leaves it noise
    np.testing.assert_allclose(SCORES["importance"].of(values, reference), -evidence, atol=1e-9)
    np.testing.assert_allclose(SCORES["elbo"].of(values, reference), -evidence, atol=2.5)
    assert reference.bound == pytest.approx(evidence.mean(), abs=1e-9)
    typical = SCORES["typicality"].of(values, reference)
    np.testing.assert_allclose(typical, abs(evidence - evidence.mean()), atol=1e-9)


def test_formulas() -> None:
    values = {
        "elbo": np.array([-9.0, -5.0]), "rate": np.array([2.0, 1.0]), "distortion": np.array([7.0, 4.0]), "log_px": np.array([-8.0, -4.0]),
        "code_length": np.array([3.0, 1.0]), "background": np.array([-7.0, -6.0]), "regret": np.array([0.5, 0.25]),
    }  # fmt: skip
    reference = Reference(bound=-5.0, rate=1.5)
    expected = {
        "elbo": [9, 5], "importance": [8, 4], "distortion": [7, 4], "typicality": [3, 1], "rate_typicality": [0.5, 0.5], "complexity": [5, 3],
        "ratio": [1, -2], "regret": [0.5, 0.25],
    }  # fmt: skip
    for name, of in expected.items():
        assert SCORES[name].of(values, reference).tolist() == of, name
    without = {name: column for name, column in values.items() if name != "log_px"}
    assert SCORES["ratio"].of(without, reference).tolist() == [2, -1]  # of the two bounds
    assert Reference.of(without) == Reference(-7.0, 1.5)


def gap(oracle: Oracle) -> np.ndarray:
    """KL(q(z|x) || p(z|x)) of the diagonal Gaussians that an inexact oracle has, by hand."""
    mine, exact = (Oracle(exact=which).model.encode(oracle.batch) for which in (False, True))
    moments = (mine.mean, mine.stddev, exact.mean, exact.stddev)
    mean, stddev, exact_mean, exact_stddev = (moment.detach() for moment in moments if moment is not None)
    ratio = (stddev / exact_stddev) ** 2
    kl = 0.5 * (ratio - 1 - ratio.log() + ((mean - exact_mean) / exact_stddev) ** 2)
    return kl.sum(-1).numpy()


def test_regret_is_the_gap_that_a_posterior_of_the_images_own_closes() -> None:
    oracle = Oracle(exact=False)
    found = regret(oracle.model, oracle.batch, draws(len(oracle.x)), steps=400).numpy()
    # the two bounds share 16 samples, whose noise the difference keeps in part
    np.testing.assert_allclose(found, gap(oracle), atol=0.2)
    np.testing.assert_allclose(found.mean(), gap(oracle).mean(), atol=0.07)


def test_nothing_is_gained_on_an_exact_posterior() -> None:
    oracle = Oracle(exact=True)
    found = regret(oracle.model, oracle.batch, draws(len(oracle.x)), steps=100)
    # what is left is the noise of 16 samples, where the gap of the other oracle is 0.26
    assert found.abs().max() < 0.15
    assert found.mean().abs() < 0.05


def test_regret_of_an_image_does_not_depend_on_the_others_and_leaves_the_model_alone() -> None:
    oracle = Oracle(exact=False)
    together = regret(oracle.model, oracle.batch, draws(7), steps=20)
    alone = regret(oracle.model, oracle.batch[slice(2, 3)], draws(7)[2:3], steps=20)
    torch.testing.assert_close(together[2:3], alone, rtol=1e-9, atol=1e-9)
    assert all(parameter.grad is None for parameter in oracle.model.parameters())


def test_regret_of_a_posterior_with_correlations_is_refused() -> None:
    assert refusal(Oracle(exact=True).model) is None
    assert "no diagonal Gaussian" in str(refusal(LinearGaussian(D, 3).model))


def test_a_code_is_longer_for_noise_than_for_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 1, 16, 16), dtype=np.uint8)
    lengths = code_length(np.concatenate([noise, np.zeros_like(noise)]), 256)
    # 256 bytes of noise cannot be shortened, and nothing is next to nothing but the file's frame
    assert lengths[:3].min() > 256 * 8 * math.log(2)
    assert lengths[3:].max() < 100 * 8 * math.log(2)
    assert len(set(lengths[3:])) == 1
    binary = code_length(noise // 128, 2)
    assert binary.max() < lengths[:3].min() / 2
    assert code_length(noise[:1].repeat(3, axis=1), 256)[0] >= lengths[0]  # colour is taken, too


# -- statistics --------------------------------------------------------------------------------------------------------

CASES: dict[str, tuple[Any, Any, tuple[float, float, float]]] = {
    "apart": ([0.0, 1.0, 2.0], [3.0, 4.0], (1.0, 1.0, 0.0)),
    "the wrong way": ([3.0, 4.0], [1.0, 2.0], (0.0, (1 / 3 + 2 / 4) / 2, 1.0)),
    "all the same": ([1.0, 1.0, 1.0], [1.0], (0.5, 0.25, 1.0)),
    "one among": ([0.0, 2.0], [1.0], (0.5, 0.5, 0.5)),
}


@pytest.mark.parametrize("case", CASES)
def test_exact_cases(case: str) -> None:
    inside, outside, expected = CASES[case]
    found = detection(np.array(inside), np.array(outside), uniform(100, len(inside) + len(outside)))
    values = (found.auroc.value, found.average_precision.value, found.fpr95.value)
    assert values == pytest.approx(expected)


@pytest.mark.parametrize("rounded", [None, 0])
def test_the_numbers_are_those_of_scikit_learn(rounded: int | None) -> None:
    random = np.random.default_rng(1)
    inside, outside = random.normal(size=211), random.normal(0.7, 1.5, size=157)
    if rounded is not None:  # many equal scores
        inside, outside = inside.round(rounded), outside.round(rounded)
    truth, scores = np.repeat([0, 1], [211, 157]), np.concatenate([inside, outside])
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    found = detection(inside, outside, uniform(100, 368))
    assert found.auroc.value == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert found.average_precision.value == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    assert found.fpr95.value == pytest.approx(false[true >= 0.95].min(), abs=1e-12)
    x, y = curve(inside, outside)
    assert np.trapezoid(y, x) == pytest.approx(found.auroc.value, abs=1e-12)


def test_a_resample_is_the_number_of_the_images_that_were_drawn() -> None:
    random = np.random.default_rng(2)
    inside, outside = random.normal(size=30), random.normal(1, 1, size=20)
    chosen = uniform(200, 50)
    again = [
        roc_auc_score(
            np.repeat([0, 1], [30, 20]),
            np.concatenate([inside[(u[:30] * 30).astype(int)], outside[(u[30:] * 20).astype(int)]]),
        )
        for u in chosen
    ]
    found = detection(inside, outside, chosen, level=0.9).auroc
    assert (found.low, found.high) == pytest.approx(np.quantile(again, [0.05, 0.95]), abs=1e-12)
    assert found.se == pytest.approx(np.std(again, ddof=1), abs=1e-12)


def test_intervals_cover_the_true_auroc() -> None:
    """Of two normal distributions whose AUROC is Phi(d / sqrt(2)); 95 % intervals of 300 repetitions."""
    random = np.random.default_rng(3)
    truth, covered = norm.cdf(1 / math.sqrt(2)), 0
    for i in range(300):
        found = detection(
            random.normal(size=80), random.normal(1, 1, size=60), uniform(300, 140, seed=i)
        ).auroc
        covered += found.low <= truth <= found.high
    # 95 % of 300 are 285, with a standard deviation of 3.8; percentile intervals of so few images are a little too narrow
    assert 270 <= covered <= 297


def test_a_score_that_is_not_finite_is_not_ranked() -> None:
    with pytest.raises(ValueError, match="not finite"):
        detection(np.array([0.0, math.nan]), np.array([1.0]), uniform(100, 3))


def test_a_threshold_keeps_its_false_positive_rate() -> None:
    random = np.random.default_rng(4)
    rates = []
    for _ in range(2000):
        limit = threshold(random.normal(size=39), 0.05)
        rates.append(norm.sf(limit))
    # on average exactly 2 of 40: the 38th smallest of 39
    assert np.mean(rates) == pytest.approx(0.05, abs=4 * float(np.std(rates)) / math.sqrt(2000))
    assert least_images(0.05) == 19
    threshold(random.normal(size=19), 0.05)
    with pytest.raises(ValueError, match="too few"):
        threshold(random.normal(size=18), 0.05)


def test_flagged_is_a_p_value_of_at_most_the_rate() -> None:
    random = np.random.default_rng(5)
    calibration, scores = random.normal(size=99), random.normal(size=500)
    flagged = scores > threshold(calibration, 0.05)
    np.testing.assert_array_equal(flagged, p_values(scores, calibration) <= 0.05)
