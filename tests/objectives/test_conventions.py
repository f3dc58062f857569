"""What an objective logs and differentiates, written out in NumPy: the bound it is named after, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from oracles import Oracle
from vaelab.models import Terms
from vaelab.objectives import CIWAE, ELBO, IWAE, MIWAE, PIWAE, STL, DReG, FreeBits, LinearSchedule, Objective

K, M = 12, 3  # M bounds of K / M = 4 samples: to exchange the two makes another number
Array = np.ndarray


def log_mean(weights: Array) -> Array:
    """log 1/K sum_k exp of ``[K, ...]``, the plain way: these weights are near one."""
    return np.log(np.exp(weights).mean(0))


def by_hand(terms: Terms, beta: float) -> Array:
    """log p(x|z) - beta (log q - log p) ``[K, B]``."""
    (layer,) = terms.layers
    found = terms.log_px - beta * (layer.log_q - layer.log_p)
    return found.detach().numpy()


def uneven(num_samples: int) -> Terms:
    """Terms of a posterior that is not exact, so that no two samples have the same weight."""
    oracle = Oracle(exact=False)
    terms = oracle.model(oracle.batch, oracle.eps(num_samples))
    if num_samples > 1:
        assert (terms.log_w.std(0) > 0.05).all(), "with even weights every bound is the same"
    return terms


def groups(log_w: Array) -> Array:
    """The mean of M bounds of K / M consecutive samples."""
    return np.mean([log_mean(log_w[start : start + K // M]) for start in range(0, K, K // M)], axis=0)


VALUES: dict[str, tuple[Callable[..., Objective], Callable[[Array], Array]]] = {
    "elbo": (lambda **s: ELBO(num_samples=K, kl="monte_carlo", **s), lambda w: w.mean(0)),
    "stl": (lambda **s: STL(**s), lambda w: w.mean(0)),
    "iwae": (lambda **s: IWAE(K, **s), log_mean),
    "dreg": (lambda **s: DReG(K, **s), log_mean),
    "piwae": (lambda **s: PIWAE(K, M, **s), log_mean),
    "miwae": (lambda **s: MIWAE(K, M, **s), groups),
    "ciwae": (lambda **s: CIWAE(0.3, K, **s), lambda w: 0.3 * w.mean(0) + 0.7 * log_mean(w)),
}
every_value = pytest.mark.parametrize("name", VALUES)


@every_value
@pytest.mark.parametrize(
    "settings, beta",
    [({}, 1.0), ({"beta": 0.4}, 0.4), ({"beta": 0.8, "schedule": LinearSchedule(warmup_steps=10)}, 0.4)],
    ids=["bound", "weighted", "halfway through a warm-up"],
)
def test_the_value_is_the_bound_with_the_rate_weighted_by_beta(
    name: str, settings: dict[str, Any], beta: float
) -> None:
    make, formula = VALUES[name]
    objective = make(**settings)
    terms = uneven(objective.num_samples)
    got = objective(terms, 5, 100).value.detach().numpy()
    np.testing.assert_allclose(got, formula(by_hand(terms, beta)), rtol=1e-12)


@every_value
def test_what_is_differentiated_is_weighted_by_beta_too(name: str) -> None:
    objective = VALUES[name][0](beta=0.4)
    terms = uneven(objective.num_samples)
    log_w = by_hand(terms, 0.4)
    shares = np.exp(log_w) / np.exp(log_w).sum(0)
    for_q = {"piwae": groups, "dreg": lambda w: ((0.6 * shares + 0.4 * shares**2) * w).sum(0)}.get(name)
    result = objective(terms, 0, 100)
    np.testing.assert_allclose(result.surrogate.detach().numpy(), VALUES[name][1](log_w), rtol=1e-12)
    assert (result.inference_surrogate is None) == (for_q is None)
    if result.inference_surrogate is not None and for_q is not None:
        np.testing.assert_allclose(result.inference_surrogate.detach().numpy(), for_q(log_w), rtol=1e-12)


def test_beta_weighs_the_rate_in_closed_form_and_with_free_bits() -> None:
    terms = uneven(1)
    (kl,) = terms.kls
    least = kl.mean().item()
    for objective, rate in ((ELBO(3.0), kl[0]), (FreeBits(least, 3.0), kl[0].clamp(min=least))):
        torch.testing.assert_close(objective(terms, 0, 100).value, terms.log_px[0] - 3 * rate.sum(-1))
