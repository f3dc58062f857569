"""The layers of models of several layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from vaelab.models.hierarchical import Conditional, product
from vaelab.posteriors import FlowPosterior, FullNormalPosterior, LowRankNormalPosterior, NormalPosterior


def test_the_product_of_two_gaussians_is_proportional_to_the_product_of_their_densities() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, stddev = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator), torch.rand(2, 4, 3, dtype=torch.float64, generator=generator) + 0.2  # fmt: skip
    p, q = (Independent(Normal(mean[i], stddev[i]), 1) for i in range(2))
    z = torch.randn(50, 4, 3, dtype=torch.float64, generator=generator)
    log_constant = product(p, q).log_prob(z) - p.log_prob(z) - q.log_prob(z)
    torch.testing.assert_close(log_constant, log_constant[:1].expand(50, 4))


@pytest.mark.parametrize("posterior", ["normal", "full_normal", "low_rank_normal", "coupling"])
def test_a_stopped_density_has_its_value_and_no_gradient_in_its_own_parameters(posterior: str) -> None:
    torch.manual_seed(0)
    heads = {"normal": NormalPosterior, "full_normal": FullNormalPosterior, "low_rank_normal": LowRankNormalPosterior}  # fmt: skip
    head: Any = heads[posterior](4, 3) if posterior in heads else FlowPosterior(4, 3, kind=posterior)
    q = Conditional(nn.Linear(2, 4), head)
    parent, z = torch.randn(5, 2), torch.randn(5, 3)
    stopped = q.log_prob_stopped(parent, z)
    torch.testing.assert_close(stopped, q(parent).log_prob(z))
    assert not stopped.requires_grad
    assert q.log_prob_stopped(parent, z.requires_grad_()).requires_grad
    assert q.log_prob_stopped(parent.requires_grad_(), z.detach()).requires_grad
