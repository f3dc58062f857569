"""The layers of models of several layers."""

from __future__ import annotations

import torch
from torch.distributions import Independent, Normal

from vaelab.models.hierarchical import product


def test_the_product_of_two_gaussians_is_proportional_to_the_product_of_their_densities() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, stddev = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator), torch.rand(2, 4, 3, dtype=torch.float64, generator=generator) + 0.2  # fmt: skip
    p, q = (Independent(Normal(mean[i], stddev[i]), 1) for i in range(2))
    z = torch.randn(50, 4, 3, dtype=torch.float64, generator=generator)
    log_constant = product(p, q).log_prob(z) - p.log_prob(z) - q.log_prob(z)
    torch.testing.assert_close(log_constant, log_constant[:1].expand(50, 4))
