import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from vaelab.errors import SettingError
from vaelab.latents import aggregate_moments, log_aggregate, log_aggregate_marginals, log_aggregate_of


def mixture(N, D, smallest=0.2, seed=0):
    """Means, standard deviations, and a sample of each image's Gaussian; float64."""
    generator = torch.Generator().manual_seed(seed)
    mean = 1.5 * torch.randn(N, D, generator=generator, dtype=torch.float64) + 0.7
    stddev = smallest * (1 + 4 * torch.rand(N, D, generator=generator, dtype=torch.float64))
    z = mean + stddev * torch.randn(N, D, generator=generator, dtype=torch.float64)
    return mean, stddev, z


def brute_force(mean, stddev, z):
    """log N(z_m; mu_n, sigma_n^2) of every number, ``[M, N, D]``."""
    return Normal(mean, stddev).log_prob(z.unsqueeze(1))


@pytest.mark.parametrize("at_once", [1, 7, 64, 2**17])
@pytest.mark.parametrize("smallest", [0.2, 1e-6])  # the second cannot go through products of squares
def test_streamed_densities_are_those_of_the_whole_array(smallest, at_once):
    mean, stddev, z = mixture(11, 3, smallest)
    z = torch.cat([z, torch.tensor([[30.0, -30.0, 0.0]], dtype=torch.float64)])  # far from every image
    each = brute_force(mean, stddev, z)
    joint = each.sum(-1).logsumexp(1) - math.log(11)
    torch.testing.assert_close(log_aggregate(mean, stddev, z, at_once), joint, rtol=1e-12, atol=1e-6)
    marginals = each.logsumexp(1) - math.log(11)
    torch.testing.assert_close(
        log_aggregate_marginals(mean, stddev, z, at_once), marginals, rtol=1e-12, atol=1e-6
    )


@pytest.mark.parametrize("smallest", [1e-2, 1e-3, 1e-4, 1e-5, 1e-7])
def test_a_narrow_posterior_far_from_the_origin_loses_no_more_than_it_says(smallest):
    mean, stddev, z = mixture(40, 8, smallest)
    mean, z = mean + 100, z + 100
    expected = brute_force(mean, stddev, z).sum(-1).logsumexp(1) - math.log(40)
    torch.testing.assert_close(log_aggregate(mean, stddev, z), expected, rtol=0, atol=1e-6)


def test_q_of_z_is_a_density_with_the_moments_that_are_told():
    mean, stddev, _ = mixture(5, 1)
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64).unsqueeze(1)
    q = log_aggregate(mean, stddev, grid).exp()
    z = grid.squeeze(1)
    torch.testing.assert_close(torch.trapezoid(q, z).item(), 1.0, rtol=0, atol=1e-9)
    moments = aggregate_moments(mean, stddev)
    first = torch.trapezoid(q * z, z)
    torch.testing.assert_close(moments.mean[0], first, rtol=0, atol=1e-9)
    variance = torch.trapezoid(q * (z - first).square(), z)
    torch.testing.assert_close(moments.covariance[0, 0], variance, rtol=0, atol=1e-9)


def test_moments_of_several_dimensions_are_those_of_the_mixture():
    mean, stddev, _ = mixture(6, 3)
    second = (mean.unsqueeze(2) * mean.unsqueeze(1) + stddev.square().diag_embed()).mean(0)
    centre = mean.mean(0)
    torch.testing.assert_close(
        aggregate_moments(mean, stddev).covariance, second - centre.outer(centre), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("at_once", [1, 10, 2**17])
@pytest.mark.parametrize("parts", [[11], [4, 4, 3], [1, 10]])
def test_posteriors_of_any_kind_in_parts(parts, at_once):
    mean, stddev, z = mixture(11, 3)
    source = torch.tensor([10, 0, 5, 3, 3])
    kinds = [
        lambda m, s: Independent(Normal(m, s), 1),
        lambda m, s: MultivariateNormal(m, s.square().diag_embed()),
    ]
    for kind in kinds:
        qs = [kind(m, s) for m, s in zip(mean.split(parts), stddev.split(parts), strict=True)]
        found = log_aggregate_of(qs, z[source], source, at_once)
        torch.testing.assert_close(found.log_q, log_aggregate(mean, stddev, z[source]))
        own = Normal(mean, stddev).log_prob(z).sum(-1)[source]
        torch.testing.assert_close(found.log_q_own, own)


def test_progress_reaches_its_total():
    mean, stddev, z = mixture(50, 2)
    said = []
    log_aggregate(mean, stddev, z, at_once=100, progress=lambda *what: said.append(what))
    assert [done for _, done, _ in said] == list(range(1, said[-1][2] + 1))
    assert len(said) > 1
    said.clear()
    log_aggregate_marginals(mean, stddev, z, progress=lambda *what: said.append(what))
    assert said == [("log q(z_d)", 1, 2), ("log q(z_d)", 2, 2)]


def test_what_does_not_go_together_is_refused():
    mean, stddev, z = mixture(4, 2)
    with pytest.raises(SettingError, match="at_once=0"):
        log_aggregate(mean, stddev, z, at_once=0)
    with pytest.raises(ValueError, match="stddev"):
        log_aggregate(mean, stddev.clone().fill_(0), z)
    with pytest.raises(ValueError, match="stddev"):
        log_aggregate(mean, stddev[:3], z)
    with pytest.raises(ValueError, match="z "):
        log_aggregate(mean, stddev, z[:, :1])
    with pytest.raises(ValueError, match="source"):
        log_aggregate_of([Independent(Normal(mean, stddev), 1)], z, torch.tensor([0, 1, 2, 4]))
