"""How often the classifier q(y|x) of a model is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vaelab.batch import Batch
from vaelab.evidence.draws import Draws
from vaelab.evidence.estimates import estimate
from vaelab.evidence.estimator import Estimator, Number

COLUMN = "accuracy"
AT_ONCE = 10_000


@torch.no_grad()
def accuracy(model: Any, batch: Batch) -> dict[str, Tensor]:
    """The column ``accuracy [B]``: 1 where the likeliest class of q(y|x) is the label, else 0. No column of a model without q(y|x)."""
    if not getattr(model, "infers_labels", False):
        return {}
    return {COLUMN: (model.classify(batch.x).argmax(-1) == batch.y).double().cpu()}


def accuracy_numbers(columns: Mapping[str, Tensor]) -> list[Number]:
    """The share of images that are classified rightly; ``se_images`` is binomial. None without the column."""
    if COLUMN not in columns:
        return []
    return [Number(COLUMN, estimate(columns[COLUMN]), "classifier", 1, units="accuracy")]


class AccuracyEstimator(Estimator):
    """The accuracy of q(y|x) and nothing else, of a model whose classifier alone was trained (``objective=classification``), whatever estimator was asked for."""

    name = "accuracy"
    images_at_once = AT_ONCE

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        return accuracy(model, batch)

    def numbers(self, columns: Mapping[str, Tensor]) -> list[Number]:
        return accuracy_numbers(columns)
