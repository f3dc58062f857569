"""From per-image values to number cards."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaelab.data.protocol import Protocol
from vaelab.evidence import NLL, Estimator, Number
from vaelab.runs import Card, RunDirectory, read_cards, write_cards
from vaelab.runs.cards import comparable
from vaelab.runs.lock import held


def protocol_record(
    config: Mapping[str, Any], protocol: Protocol, label: str, selected_by: str
) -> dict[str, Any]:
    """All that two numbers must share to be compared."""
    precision = str(config["trainer"]["precision"])
    return {
        "data": config["data"]["name"],
        "binarize": protocol.binarize,
        "dequantize": protocol.dequantize,
        "pixel_range": list(protocol.pixel_range),
        "num_levels": protocol.num_levels,
        "noise_seed": protocol.noise_seed if protocol.samples_pixels or protocol.dequantize else None,
        "likelihood": likelihood_name(config),
        "label": label,
        "selected_by": selected_by,
        **({"classes": sorted(config["data"]["classes"])} if config["data"].get("classes") else {}),
        **({"given": "y"} if config["model"].get("conditional") else {}),
        **({} if precision.startswith(("32", "64")) else {"precision": precision}),
    }


def selected_by(config: Mapping[str, Any], best: bool) -> str:
    """How the checkpoint was chosen: by the score of validation, or because it is the last."""
    return f"{config['score']['name']} ({config['score']['mode']})" if best else "last"


def fallback_warning(requested: str | None, actual: str) -> str:
    """The sentence on every card of a run that took other data than asked for."""
    return f"{actual} in place of {requested}"


def likelihood_name(config: Mapping[str, Any]) -> str:
    """``vaelab.likelihoods.BernoulliLikelihood`` -> ``bernoulli``."""
    name = str(config["likelihood"]["_target_"]).rpartition(".")[2].removesuffix("Likelihood")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def cards(
    columns: Mapping[str, np.ndarray],
    estimator: Estimator,
    *,
    split: str,
    protocol: dict[str, Any],
    num_pixels: int,
    checkpoint: str,
    seconds: float,
    closed_form: bool,
    warning: str | None = None,
) -> list[Card]:
    """The cards of a measurement.

    Args:
        columns: values of each image.
        estimator: that made them.
        split: ``test`` or ``val``.
        protocol: from :func:`protocol_record`.
        num_pixels: C * H * W.
        checkpoint: SHA-256 of the weights' file.
        seconds: what it took.
        closed_form: the rate was taken in closed form.
        warning: a sentence that goes on every card.
    """
    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}

    def completed(number: Number) -> Card:
        made = card(number, split, protocol, checkpoint, seconds, warning)
        discrete = protocol["label"] == NLL and number.metric in ("elbo", "nll")
        sign = -1 if number.metric == "elbo" else 1
        return replace(
            made,
            kl=("closed_form" if closed_form else "monte_carlo")
            if number.metric in ("elbo", "rate")
            else None,
            bits_per_dim=bits_per_dim(sign * made.value, protocol, num_pixels) if discrete else None,
        )

    return [completed(number) for number in estimator.numbers(tensors)]


def add_cards(run: RunDirectory, new: Sequence[Card]) -> None:
    """Put cards beside those that a run has; one that a new one can be compared with is replaced."""
    run.evaluations.mkdir(exist_ok=True)
    with held(run.evaluations, wait=True):  # another measurement may end at the same time
        old = read_cards(run.evaluation_file) if run.evaluation_file.is_file() else []
        kept = [one for one in old if all(comparable(one, other) for other in new)]
        write_cards(run.evaluation_file, [*kept, *new])


def card(
    number: Number,
    split: str,
    protocol: Mapping[str, Any],
    checkpoint: str,
    seconds: float,
    warning: str | None = None,
) -> Card:
    """The card of one number; arguments as of :func:`cards`."""
    e, ess = number.estimate, number.ess
    sentences = [sentence for sentence in (warning, number.warning) if sentence]
    return Card(
        metric=number.metric,
        value=e.value,
        se_images=e.se_images,
        se_mc=e.se_mc,
        units=number.units,
        split=number.split or split,
        num_images=e.num_images,
        estimator=number.estimator,
        num_samples=number.num_samples,
        # images that a model makes are no other model's: no two runs have been measured on them
        protocol={**protocol, **number.settings, **({"simulated_by": checkpoint} if number.split else {})},
        checkpoint=checkpoint,
        seconds=seconds,
        ess_median=None if ess is None else ess.median().item(),
        ess_min=None if ess is None else ess.min().item(),
        acceptance=_mean_of_known(number.acceptance),
        bias_hint=number.bias_hint,
        curve=None if number.curve is None else {str(k): value for k, value in number.curve.items()},
        warning="; ".join(sentences) or None,
        floor=number.floor,
    )


def _mean_of_known(values: Tensor | None) -> float | None:
    """Mean of the values that are not nan; None where there are none."""
    known = None if values is None else values[~values.isnan()]
    return None if known is None or len(known) == 0 else known.mean().item()


def bits_per_dim(nll: float, protocol: Mapping[str, Any], num_pixels: int) -> float:
    """Nats per image as bits per dimension, of pixels counted in levels.

    A density over pixels in ``pixel_range`` is first made one over levels: each pixel's density is divided by the number of levels a unit of the range holds.
    """
    nats = nll / num_pixels
    if protocol["dequantize"]:
        low, high = protocol["pixel_range"]
        nats += math.log(protocol["num_levels"] / (high - low))
    return nats / math.log(2)
