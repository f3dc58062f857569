"""What a number may be called."""

from __future__ import annotations

#: labels under which a number is a log-likelihood of the data, and gets an importance-weighted estimate
NLL = "nll"
GREY_BCE = "grey-bce"
RAW_DENSITY = "raw-density"


def label(support: str, binary_data: bool, dequantized: bool) -> str:
    """The label of a bound on log p(x): ``nll`` only where p is a distribution over the data as they are.

    Args:
        support: the likelihood's: ``binary``, ``levels`` or ``density``.
        binary_data: every pixel is 0 or 1, by its nature or by a binarisation.
        dequantized: uniform noise of one level was added to the pixels.

    Returns:
        ``nll``; ``grey-bce`` for a Bernoulli on grey pixels; ``raw-density`` for a density on levels, which has no bound from above.

    >>> label("binary", binary_data=False, dequantized=False)
    'grey-bce'
    """
    if support == "binary":
        return NLL if binary_data else GREY_BCE
    if support == "density":
        return NLL if dequantized else RAW_DENSITY
    return RAW_DENSITY if dequantized else NLL
