"""Stopping early."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping


class EarlyStoppingAfterWarmup(EarlyStopping):
    """Lightning's early stopping on the score, not counted while the KL term is still warming up, when the score says little.

    Args:
        score: metric of validation, ``score.name``.
        mode: ``max`` or ``min``.
        patience: validations without an improvement.
        min_delta: what counts as one.
        warmup_steps: optimizer steps before counting begins.
    """

    def __init__(
        self, score: str, mode: str, patience: int = 10, min_delta: float = 0.0, warmup_steps: int = 0
    ) -> None:
        super().__init__(
            monitor=score,
            mode=mode,
            patience=patience,
            min_delta=min_delta,
            check_on_train_epoch_end=False,
            verbose=False,
        )
        self.warmup_steps = warmup_steps

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step >= self.warmup_steps:
            super().on_validation_end(trainer, pl_module)
