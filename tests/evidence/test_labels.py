"""Which numbers may stand beside likelihoods."""

from __future__ import annotations

import pytest

from vaelab.evidence import GREY_BCE, NLL, RAW_DENSITY, label

LABELS = [
    ("binary", True, False, NLL),
    ("binary", False, False, GREY_BCE),
    ("levels", True, False, NLL),
    ("levels", False, False, NLL),
    ("levels", False, True, RAW_DENSITY),
    ("density", True, False, RAW_DENSITY),
    ("density", False, False, RAW_DENSITY),
    ("density", True, True, NLL),
    ("density", False, True, NLL),
]


@pytest.mark.parametrize("support, binary_data, dequantized, expected", LABELS)
def test_a_bound_is_called_nll_only_where_p_is_a_distribution_over_the_data(
    support: str, binary_data: bool, dequantized: bool, expected: str
) -> None:
    assert label(support, binary_data, dequantized) == expected
