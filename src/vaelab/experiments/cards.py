"""From per-image values to number cards."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from vaelab.data.protocol import Protocol
from vaelab.evidence import NLL, Estimate, estimate, low_ess_warning
from vaelab.runs import Card

LOW_ESS = 100  # below it the delta method's error bar means little


def protocol_record(
    config: Mapping[str, Any], protocol: Protocol, label: str, closed_form: bool, selected_by: str
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
        "kl": "closed_form" if closed_form else "monte_carlo",
        "selected_by": selected_by,
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
    values: Mapping[str, np.ndarray],
    *,
    split: str,
    num_samples: int,
    protocol: dict[str, Any],
    num_pixels: int,
    checkpoint: str,
    seconds: float,
    warning: str | None = None,
) -> list[Card]:
    """The cards of a test.

    Args:
        values: of each image, from :class:`vaelab.training.VAEModule`.
        split: ``test`` or ``val``.
        num_samples: K of the importance-weighted estimate, if ``values`` hold one.
        protocol: from :func:`protocol_record`.
        num_pixels: C * H * W.
        checkpoint: SHA-256 of the weights' file.
        seconds: what it took.
        warning: a sentence that goes on every card.
    """
    columns = {name: torch.from_numpy(column) for name, column in values.items()}
    is_nll = protocol["label"] == NLL

    def card(metric: str, e: Estimate, estimator: str, k: int, **more: Any) -> Card:
        return Card(
            metric=metric, value=e.value, se_images=e.se_images, se_mc=e.se_mc, units="nats", split=split, num_images=e.num_images,
            estimator=estimator, num_samples=k, protocol=protocol, checkpoint=checkpoint, seconds=seconds,
            **{"warning": warning, **more},
        )  # fmt: skip

    out = []
    for metric in ("elbo", "rate", "distortion"):
        variance = columns.get(f"{metric}_variance")
        if (
            metric == "rate"
            and protocol["kl"] == "closed_form"
            and variance is not None
            and not variance.any()
        ):
            variance = None  # nothing was drawn for it
        e = estimate(columns[metric], variance)
        bits = (
            {"bits_per_dim": bits_per_dim(-e.value, protocol, num_pixels)}
            if metric == "elbo" and is_nll
            else {}
        )
        out.append(card(metric, e, "elbo", 1, **bits))
    if is_nll and "log_px" in columns:
        e = estimate(-columns["log_px"], columns["log_px_variance"])
        ess = columns["ess"]
        low = low_ess_warning(ess, min(LOW_ESS, num_samples / 10))
        sentences = [s for s in (warning, low) if s]
        out.append(
            card(
                "nll",
                e,
                "importance",
                num_samples,
                ess_median=ess.median().item(),
                ess_min=ess.min().item(),
                warning="; ".join(sentences) or None,
                bits_per_dim=bits_per_dim(e.value, protocol, num_pixels),
            )
        )
    return out


def bits_per_dim(nll: float, protocol: Mapping[str, Any], num_pixels: int) -> float:
    """Nats per image as bits per dimension, of pixels counted in levels.

    A density over pixels in ``pixel_range`` is first made one over levels: each pixel's density is divided by the number of levels a unit of the range holds.
    """
    nats = nll / num_pixels
    if protocol["dequantize"]:
        low, high = protocol["pixel_range"]
        nats += math.log(protocol["num_levels"] / (high - low))
    return nats / math.log(2)
