import math

import pytest
import torch
from torch.distributions import Normal

from vaelab.latents import decompose, information, rate_per_dimension

NAMES = ("rate", "mutual_information", "aggregate_kl", "total_correlation", "dimension_wise_kl")


def drawn(mean, stddev, per_image, seed=0):
    """Samples of each image's Gaussian, where they come from, and log p(z) under N(0, I)."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.arange(len(mean)).repeat_interleave(per_image)
    eps = torch.randn(len(source), mean.shape[1], generator=generator, dtype=torch.float64)
    z = mean[source] + stddev[source] * eps
    return z, source, Normal(0.0, 1.0).log_prob(z)


def two_dimensional():
    mean = torch.tensor([[-1.5, -1.0], [-0.5, 0.8], [0.3, 0.1], [1.0, 1.4], [1.6, 1.1]], dtype=torch.float64)
    stddev = torch.tensor([[0.5, 0.3], [0.4, 0.6], [0.9, 0.5], [0.3, 0.4], [0.6, 0.5]], dtype=torch.float64)
    return mean, stddev


def by_quadrature(mean, stddev):
    """The terms as integrals over the plane."""
    axis = torch.linspace(-9, 9, 901, dtype=torch.float64)
    cell = (axis[1] - axis[0]) ** 2
    across = Normal(mean[:, :1], stddev[:, :1]).log_prob(axis)  # [N, points]
    up = Normal(mean[:, 1:], stddev[:, 1:]).log_prob(axis)
    log_q_x = across.unsqueeze(2) + up.unsqueeze(1)  # [N, points, points]
    log_N = math.log(len(mean))
    log_q = log_q_x.logsumexp(0) - log_N
    margin = [(part.logsumexp(0) - log_N) for part in (across, up)]
    log_p = Normal(0.0, 1.0).log_prob(axis)
    each = [(m.exp() * (m - log_p)).sum() * cell.sqrt() for m in margin]
    q = log_q.exp()
    found = {
        "mutual_information": (log_q_x.exp() * (log_q_x - log_q)).sum() * cell / len(mean),
        "aggregate_kl": (q * (log_q - log_p.unsqueeze(1) - log_p)).sum() * cell,
        "total_correlation": (q * (log_q - margin[0].unsqueeze(1) - margin[1])).sum() * cell,
        "dimension_wise_kl": each[0] + each[1],
    }
    found["rate"] = found["mutual_information"] + found["aggregate_kl"]
    return {name: value.item() for name, value in found.items()}, torch.stack(each)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_term_is_its_integral(seed):
    mean, stddev = two_dimensional()
    expected, each = by_quadrature(mean, stddev)
    z, source, log_p = drawn(mean, stddev, 4000, seed)
    found = information(mean, stddev, z, source, log_p)
    assert not found.missing
    for name in NAMES:
        term = getattr(found, name)
        assert term.num_samples == 20_000
        assert 0 < term.se < 0.02, name
        assert abs(term.value - expected[name]) < 4 * term.se, name
    assert found.dimension_wise_kls is not None
    torch.testing.assert_close(found.dimension_wise_kls, each, rtol=0, atol=0.03)


def test_the_standard_error_is_that_of_independent_samples():
    """Over repetitions whose images are drawn too, the estimates scatter as the error says."""
    mean, stddev = two_dimensional()
    generator = torch.Generator().manual_seed(3)
    values, errors = [], []
    for _ in range(200):
        source = torch.randint(len(mean), (200,), generator=generator)
        z = mean[source] + stddev[source] * torch.randn(200, 2, generator=generator, dtype=torch.float64)
        found = information(mean, stddev, z, source).mutual_information
        assert found is not None
        values.append(found.value)
        errors.append(found.se)
    scatter, said = torch.tensor(values).std().item(), torch.tensor(errors).mean().item()
    assert 0.85 < scatter / said < 1.15


def test_the_sums_hold_sample_by_sample_and_the_rate_is_the_closed_form():
    mean, stddev = two_dimensional()
    z, source, log_p = drawn(mean, stddev, 3)
    for m in (slice(None), slice(0, 1), slice(7, 9)):
        found = information(mean, stddev, z[m], source[m], log_p[m])
        value = {name: getattr(found, name).value for name in NAMES}
        assert value["rate"] == pytest.approx(value["mutual_information"] + value["aggregate_kl"], abs=1e-12)
        assert value["aggregate_kl"] == pytest.approx(
            value["total_correlation"] + value["dimension_wise_kl"], abs=1e-12
        )
    z, source, log_p = drawn(mean, stddev, 4000)
    rate = information(mean, stddev, z, source, log_p).rate
    assert rate is not None
    assert abs(rate.value - rate_per_dimension(mean, stddev).sum().item()) < 4 * rate.se


def test_a_mixture_that_is_a_product_has_no_total_correlation():
    first, second = torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([-2.0, 1.0])
    mean = torch.cartesian_prod(first, second).double()
    stddev = torch.tensor([[0.5, 0.8]], dtype=torch.float64).expand_as(mean)
    z, source, log_p = drawn(mean, stddev, 10)
    found = information(mean, stddev, z, source, log_p).total_correlation
    assert found is not None
    assert abs(found.value) < 1e-12
    assert found.se < 1e-12


def test_a_prior_that_is_q_of_z_is_at_no_distance():
    mean, stddev = torch.zeros(4, 3, dtype=torch.float64), torch.ones(4, 3, dtype=torch.float64)
    z, source, log_p = drawn(mean, stddev, 5)
    found = information(mean, stddev, z, source, log_p)
    for name in NAMES:
        assert abs(getattr(found, name).value) < 1e-12, name


def test_images_that_occur_several_times_tell_no_more_than_their_number():
    distinct = torch.tensor([[-3.0], [-1.0], [1.0], [3.0]], dtype=torch.float64)
    mean = distinct.repeat(10, 1)
    stddev = torch.full_like(mean, 1e-4)
    z, source, _ = drawn(mean, stddev, 2)
    found = information(mean, stddev, z, source)
    assert found.mutual_information is not None
    assert found.mutual_information.value == pytest.approx(math.log(4), abs=1e-6)
    assert found.warning is None  # log 40 is far


def test_no_sample_says_more_than_log_n_and_the_record_warns():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(300, 20, generator=generator)  # float32, as codes come
    stddev = torch.full_like(mean, 1e-3)
    z = mean + stddev * torch.randn(300, 20, generator=generator)
    for i in (0, 299):
        one = information(mean, stddev, z[i : i + 1], torch.tensor([i])).mutual_information
        assert one is not None
        assert one.value <= math.log(300) + 1e-6
        assert math.isnan(one.se)
    found = information(mean, stddev, z, torch.arange(300))
    assert found.warning is not None
    assert "log N = 5.70" in found.warning
    assert information(mean, 3 * torch.ones_like(mean), z, torch.arange(300)).warning is None


def test_what_is_missing_is_named_with_its_reason():
    mean, stddev = two_dimensional()
    z, source, log_p = drawn(mean, stddev, 2)
    found = information(mean, stddev, z, source, no_log_p="it rains")
    assert found.mutual_information is not None
    assert found.total_correlation is not None
    assert found.missing == dict.fromkeys(("rate", "aggregate_kl", "dimension_wise_kl"), "it rains")
    found = information(mean, stddev, z, source, log_p.sum(-1, keepdim=True))
    assert set(found.missing) == {"dimension_wise_kl"}
    assert "prior whose dimensions are independent" in found.missing["dimension_wise_kl"]
    whole = information(mean, stddev, z, source, log_p)
    assert found.aggregate_kl == whole.aggregate_kl
    found = decompose(torch.zeros(3), torch.ones(3), 9, torch.ones(3, 1))
    assert set(found.missing) == {"total_correlation", "dimension_wise_kl"}
    for name in NAMES:
        assert (getattr(found, name) is None) == (name in found.missing)


def test_what_does_not_go_together_is_refused():
    mean, stddev = two_dimensional()
    z, source, log_p = drawn(mean, stddev, 2)
    with pytest.raises(ValueError, match="source"):
        information(mean, stddev, z, source + 1)
    with pytest.raises(ValueError, match="source"):
        information(mean, stddev, z, source[:-1])
    with pytest.raises(ValueError, match="same M samples"):
        information(mean, stddev, z, source, log_p[:-1])
