"""What can be seen to be wrong with a configuration before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vaelab.errors import SettingError, choice
from vaelab.runs import check_writable

#: settings of Lightning's Trainer that cannot work here, and what takes their place
REPLACED = {
    "gradient_clip_val": "use optimizer.clip_norm",
    "gradient_clip_algorithm": "use optimizer.clip_norm, which clips by norm",
    "accumulate_grad_batches": "use optimizer.accumulate",
    "overfit_batches": "use debug=overfit, or data.train_size",
    "reload_dataloaders_every_n_epochs": "the data stay in memory; leave it away",
    "use_distributed_sampler": "the data module shards by itself; leave it away",
}


def check(config: Mapping[str, Any]) -> None:
    """Refuse what no run could be made of.

    Raises:
        SettingError: a plain value outside its range, or a log directory that cannot be written.
    """
    _integer("seed", config["seed"], least=0)
    _integer("latent_dim", config["latent_dim"], least=1)
    choice("score.mode", config["score"]["mode"], ("max", "min"))
    score = config["score"]["name"]
    if not isinstance(score, str) or not score.startswith("val/"):
        raise SettingError("score.name", score, "must be a metric of validation, val/..., because it selects the checkpoint")
    name = config["name"]
    if not isinstance(name, str) or not name or name in (".", "..") or set(name) & {"/", "\\", "\0"}:
        raise SettingError("name", name, "must be one directory name, without separators")
    every = config["checkpoints"]["every_n_steps"]
    if every is not None:
        _integer("checkpoints.every_n_steps", every, least=1)
    _check_trainer(config["trainer"])
    _integer("engine.chunk_steps", config["engine"]["chunk_steps"], least=1)
    estimator = config["estimator"]
    _integer("estimator.num_samples", estimator["num_samples"], least=0)
    _integer("estimator.repetitions", estimator["repetitions"], least=1)
    _integer("estimator.max_rows", estimator["max_rows"], least=1)
    check_writable(config["paths"]["log_dir"])


def _check_trainer(trainer: Mapping[str, Any]) -> None:
    for key, instead in REPLACED.items():
        if key in trainer:
            raise SettingError(f"trainer.{key}", trainer[key], f"has no effect under manual optimisation: {instead}")
    _integer("trainer.log_every_n_steps", trainer["log_every_n_steps"], least=1)
    steps, epochs = trainer["max_steps"], trainer["max_epochs"]
    if steps is not None and steps != -1:
        _integer("trainer.max_steps", steps, least=1)
    if epochs is not None and epochs != -1:
        _integer("trainer.max_epochs", epochs, least=1)
    if steps in (None, -1) and epochs in (None, -1):
        raise SettingError("trainer.max_epochs", epochs, "the run has no end: give max_epochs or max_steps")
    if trainer["val_check_interval"] is not None:
        _integer("trainer.val_check_interval", trainer["val_check_interval"], least=1)
    if trainer["limit_train_batches"] is not None:
        _integer("trainer.limit_train_batches", trainer["limit_train_batches"], least=1)


def _integer(setting: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingError(setting, value, f"must be an integer >= {least}" if least != 1 else "must be a positive integer")
