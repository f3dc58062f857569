"""What can be seen to be wrong with a configuration before torch is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaelab.data import label_settings
from vaelab.data.own import classes
from vaelab.data.sources import SOURCES
from vaelab.errors import MISSING, SettingError, choice, integer, nearest, number
from vaelab.experiments.ranks import RUN_DIRECTORY
from vaelab.runs import RunDirectory, check_writable, read_config

#: settings of Lightning's Trainer that cannot work here, and what takes their place
REPLACED = {
    "gradient_clip_val": "use optimizer.clip_norm",
    "gradient_clip_algorithm": "use optimizer.clip_norm, which clips by norm",
    "accumulate_grad_batches": "use optimizer.accumulate",
    "fast_dev_run": "use debug=fast",
    "overfit_batches": "use debug=overfit, or data.train_size",
    "reload_dataloaders_every_n_epochs": "the data stay in memory; leave it away",
    "use_distributed_sampler": "the data module shards by itself; leave it away",
}
#: what of a run can be measured, or drawn
CHECKPOINTS = ("selected", "best", "last")
MEASURED_SPLITS = ("test", "val")
#: what vae-sample makes; each is named as its file is, but for ``images`` and ``npz``
SAMPLED = (
    *("samples", "images", "npz", "reconstructions", "traversal", "interpolation", "arithmetic", "analogies"),
    *("manifold", "latents", "learning_curves", "animation"),
)
#: what of it an option is read by
READ_BY = {
    "label": ("samples", "images", "npz", "manifold"),
    "from_image": ("interpolation",),
    "to_image": ("interpolation",),
    "arithmetic": ("arithmetic",),
    "pixels": ("samples", "images", "npz"),
    "temperature": ("samples", "images", "npz"),
    "num_samples": ("npz",),
    "single_images": ("images",),
    "dtype": ("npz",),
}
#: what these are where nobody says anything (configs/sample.yaml); the others are null
UNSAID = {"pixels": "mean", "temperature": 1.0, "num_samples": 64, "single_images": 64, "dtype": "float32"}
#: what validation measures, and so what a checkpoint can be selected by
VALIDATION = ("val/elbo", "val/rate", "val/distortion", "val/active_units", "val/accuracy")

BUILT = (
    "data",
    "encoder",
    "decoder",
    "posterior",
    "prior",
    "likelihood",
    "model",
    "objective",
    "schedule",
    "optimizer",
    "estimator",
    "trainer",
)
#: settings of what has no ``_target_``, whose arguments :func:`vaelab.build.build` would look at; "" = the root
KNOWN = {
    "": (
        *BUILT,
        "engine",
        "logger",
        "callbacks",
        "paths",
        "sweep",
        "seed",
        "latent_dim",
        "name",
        "tags",
        "report",
        "score",
        "checkpoints",
        "init_from",
        "init_from_optimizer",
        "train_only",
    ),
    "engine": ("name", "chunk_steps", "matmul"),
    "paths": ("log_dir", "data_dir"),
    "score": ("name", "mode"),
    "sweep": (
        "name",
        "retry",
        "slots",
        "threads",
        "stack_size",
        "trials",
        "sampler",
        "sampler_options",
        "pruner",
        "pruner_options",
        "objectives",
        "storage",
        "seed",
    ),
    "checkpoints": ("every_n_steps", "keep"),
}
#: settings that earlier versions had not got, as they were then
ADDED: dict[str, Any] = {
    "init_from": None,
    "init_from_optimizer": False,
    "train_only": None,
    "report": False,
    "checkpoints.keep": "best_and_last",
    "sweep.name": None,
    "sweep.retry": 1,
    "sweep.slots": None,
    "sweep.threads": None,
    "sweep.stack_size": None,
}
LOGGERS = {"none": ("name",), "wandb": ("name", "project", "entity", "group")}  # those without a _target_

#: integers, with the least allowed
INTEGERS = {
    "latent_dim": 1,
    "engine.chunk_steps": 1,
    "optimizer.accumulate": 1,
    "trainer.log_every_n_steps": 1,
    "trainer.check_val_every_n_epoch": 1,
    "sweep.retry": 0,
}
INTEGERS_OR_NULL = {
    "checkpoints.every_n_steps": 1,
    "trainer.val_check_interval": 1,
    "trainer.limit_train_batches": 1,
    "sweep.slots": 1,
    "sweep.threads": 1,
    "sweep.stack_size": 1,
}
CHOICES: dict[str, tuple[Any, ...]] = {
    "score.mode": ("max", "min"),
    "checkpoints.keep": ("all", "best_and_last", "weights_only_best"),
    "data.fallback": (None, *SOURCES),
    "trainer.deterministic": (None, True, False, "warn"),
    "trainer.enable_progress_bar": (True, False),
    "init_from_optimizer": (True, False),
    "report": (True, False),
}


def check(config: Mapping[str, Any]) -> None:
    """Refuse what no run could be made of.

    Args:
        config: resolved, primitives only.

    Raises:
        SettingError: what :func:`check_settings` refuses; a log directory that cannot be written.
    """
    check_settings(config)
    check_writable(_at(config, "paths.log_dir"))


def check_settings(config: Mapping[str, Any]) -> None:
    """As :func:`check`, but for the log directory.

    Raises:
        SettingError: a setting that nobody reads, that is missing, or is outside its range.
    """
    _check_settings(config)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and RUN_DIRECTORY not in os.environ:
        raise SettingError(
            "WORLD_SIZE",
            os.environ["WORLD_SIZE"],
            "start one process; trainer=ddp starts the others by itself, or all of them by Slurm's srun",
        )


def stored_config(run: RunDirectory, setting: str = "run") -> dict[str, Any]:
    """The configuration of a run directory, which vae-train could have written.

    Settings that earlier versions had not got are added as they were then.

    Raises:
        SettingError: of the ``setting`` that names the run: it cannot be read, or holds what vae-train refuses.
    """
    return accepted(read_config(run, setting), setting, run.config_file)


def accepted(config: dict[str, Any], setting: str, file: Path) -> dict[str, Any]:
    """The configuration that was read from ``file``, with the settings that earlier versions had not got; see :func:`stored_config`."""
    for added, value in ADDED.items():
        group, _, key = added.rpartition(".")
        node = config.setdefault(group, {}) if group else config
        if isinstance(node, dict):
            node.setdefault(key, value)
    try:
        _check_settings(config)
    except SettingError as error:
        raise SettingError(setting, file, f"holds {error}") from None
    return config


def _check_settings(config: Mapping[str, Any]) -> None:
    for group, known in KNOWN.items():
        node = config if group == "" else _at(config, group)
        _nothing_else(group, node, known)
    _check_logger(_at(config, "logger"))
    for setting, least in INTEGERS.items():
        integer(setting, _at(config, setting), least)
    for setting, least in INTEGERS_OR_NULL.items():
        if _at(config, setting) is not None:
            integer(setting, _at(config, setting), least, " or null")
    for setting, allowed in CHOICES.items():
        choice(setting, _at(config, setting), allowed)
    if "fused" in config["optimizer"]:
        choice("optimizer.fused", config["optimizer"]["fused"], ("auto", True, False))
    for setting in ("seed", "data.noise_seed"):
        seed = _at(config, setting)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise SettingError(setting, seed, "must be an integer from 0 to 2**63 - 1")
    score = _at(config, "score.name")
    if score not in VALIDATION:
        rule = f"must be what validation measures, {', '.join(VALIDATION)}, because it selects the checkpoint"
        raise SettingError("score.name", score, rule, nearest=nearest(str(score), VALIDATION))
    _check_name("name", _at(config, "name"))
    if _at(config, "sweep.name") is not None:
        _check_name("sweep.name", config["sweep"]["name"])
    tags = _at(config, "tags")
    if not isinstance(tags, Sequence) or isinstance(tags, str):
        raise SettingError("tags", tags, f"must be a list, as in tags=[{tags}]")
    if _at(config, "init_from_optimizer") and _at(config, "init_from") is None:
        rule = "needs init_from, whose optimizer is meant"
        raise SettingError("init_from_optimizer", config["init_from_optimizer"], rule)
    if _at(config, "train_only") is not None and _at(config, "init_from") is None:
        rule = "needs init_from: the weights that are not trained would stay random"
        raise SettingError("train_only", config["train_only"], rule)
    if (clip_norm := _at(config, "optimizer.clip_norm")) is not None:
        number("optimizer.clip_norm", clip_norm, "must be null or a number > 0", lambda n: n > 0)
    for group in BUILT:
        _at(config, group)
    _check_labels(config["data"])
    for setting in KNOWN["paths"]:
        if not isinstance(_at(config, f"paths.{setting}"), str):
            raise SettingError(
                f"paths.{setting}", config["paths"][setting], "must be the name of a directory"
            )
    if config["data"].get("classes") is not None:
        classes(config["data"]["classes"])
    _check_trainer(_at(config, "trainer"))
    _check_callbacks(_at(config, "callbacks"))


def _check_labels(data: Mapping[str, Any]) -> None:
    """The first versions had not got these settings."""
    known, seed, rows = (data.get(key) for key in ("num_labels", "label_seed", "labelled_per_batch"))
    label_settings.check(known, seed, rows, _at({"data": data}, "data.batch_size"))


def _check_name(setting: str, name: object) -> None:
    if not isinstance(name, str) or not name or name in (".", "..") or set(name) & {"/", "\\", "\0"}:
        raise SettingError(setting, name, "must be text that can name one directory, without separators")


def _check_logger(logger: Mapping[str, Any]) -> None:
    if "_target_" in logger:  # built
        for key, value in logger.items():  # Lightning's make files in the run directory of these
            ours = str(logger["_target_"]).startswith("lightning.")
            if (
                ours
                and key != "_target_"
                and isinstance(value, str)
                and (set(value) & {"/", "\\", "\0"} or value in (".", ".."))
            ):
                raise SettingError(
                    f"logger.{key}",
                    value,
                    "must be text without separators: it names what lies in the run directory",
                )
        return
    name = choice("logger.name", _at({"logger": logger}, "logger.name"), tuple(LOGGERS))
    _nothing_else("logger", logger, LOGGERS[name])
    for key in LOGGERS[name]:
        value = _at({"logger": logger}, f"logger.{key}")
        optional = key in ("entity", "group")
        if not (isinstance(value, str) and value) and not (value is None and optional):
            raise SettingError(f"logger.{key}", value, f"must be text{' or null' if optional else ''}")


def _check_trainer(trainer: Mapping[str, Any]) -> None:
    if trainer.get("num_nodes") is not None:
        integer("trainer.num_nodes", trainer["num_nodes"], 1)
    for key, instead in REPLACED.items():
        if key in trainer:
            raise SettingError(
                f"trainer.{key}", trainer[key], f"has no effect under manual optimisation: {instead}"
            )
    precision = str(_at({"trainer": trainer}, "trainer.precision"))
    if precision in ("16-true", "bf16-true"):
        rule = "16 bits are too few for pixels and densities; use bf16-mixed"
        raise SettingError("trainer.precision", precision, rule)
    steps, epochs = (_at({"trainer": trainer}, f"trainer.{key}") for key in ("max_steps", "max_epochs"))
    if steps is not None and steps != -1:
        integer("trainer.max_steps", steps, 1, " or -1")
    if epochs is not None and epochs != -1:
        integer("trainer.max_epochs", epochs, 1, " or -1")
    if steps in (None, -1) and epochs in (None, -1):
        raise SettingError("trainer.max_epochs", epochs, "the run has no end: give max_epochs or max_steps")
    if "default_root_dir" in trainer:
        rule = "leave it away: a run writes into its own directory, below paths.log_dir"
        raise SettingError("trainer.default_root_dir", trainer["default_root_dir"], rule)
    limit = _at({"trainer": trainer}, "trainer.limit_test_batches")
    if limit is not None and (
        not _is_number(limit) or not (limit >= 1 if isinstance(limit, int) else 0 < limit <= 1)
    ):
        rule = "must be null, a positive integer or a fraction of the batches: every run is tested"
        raise SettingError("trainer.limit_test_batches", limit, rule)


def _check_callbacks(callbacks: Mapping[str, Any]) -> None:
    for setting, least in {"tracker_pictures.every_n_epochs": 1, "early_stopping.patience": 1}.items():
        name, key = setting.split(".")
        node = callbacks.get(name)
        if isinstance(node, Mapping) and key in node:
            integer(f"callbacks.{setting}", node[key], least)
    stopping = callbacks.get("early_stopping")
    min_delta = stopping.get("min_delta", 0.0) if isinstance(stopping, Mapping) else 0.0
    number("callbacks.early_stopping.min_delta", min_delta, "must be a number >= 0", lambda d: d >= 0)


def _at(config: Mapping[str, Any], setting: str) -> Any:
    """The value of a setting; missing it is when somebody deleted it or set the group around it to null."""
    node: Any = config
    *groups, key = setting.split(".")
    for depth, group in enumerate(groups, 1):
        node = node.get(group)
        if not isinstance(node, Mapping):
            raise SettingError(".".join(groups[:depth]), node, f"must be a group of settings, with {setting}")
    if key not in node:
        raise SettingError(setting, MISSING, "has to be given")
    if setting in (*KNOWN, *BUILT, "logger", "callbacks") and not isinstance(node[key], Mapping):
        raise SettingError(setting, node[key], "must be a group of settings")
    return node[key]


def _nothing_else(group: str, node: Mapping[str, Any], known: Sequence[str]) -> None:
    for key, value in node.items():
        if key not in known:
            rule = f"unknown setting, nobody would read it; {group or 'a run'} has {', '.join(sorted(known))}"
            raise SettingError(f"{group}.{key}".lstrip("."), value, rule, nearest=nearest(str(key), known))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_evaluation(options: dict[str, Any]) -> None:
    """Refuse options of an evaluation, or of drawing, that no run could follow."""
    choice("checkpoint", options["checkpoint"], CHECKPOINTS)
    if options["seed"] is not None:
        integer("seed", options["seed"], 0)
    if "split" in options:
        choice("split", options["split"], MEASURED_SPLITS)
    if options.get("num_images") is not None:
        integer("num_images", options["num_images"], 1)
    if not isinstance(options.get("force", False), bool):
        raise SettingError("force", options["force"], "must be true or false")


def check_sampling(options: dict[str, Any]) -> tuple[str, ...]:
    """Refuse options of vae-sample that no run could follow. Returns what is asked for."""
    check_evaluation(options)
    for setting in ("num_samples", "single_images"):
        integer(setting, options[setting], 1)
    choice("pixels", options["pixels"], ("mean", "drawn"))
    choice("dtype", options["dtype"], ("float32", "uint8"))
    number(
        "temperature",
        options["temperature"],
        "must be a number > 0; 1 = samples of the model",
        lambda t: t > 0,
    )
    asked = options["what"] if isinstance(options["what"], list) else [options["what"]]
    if asked == ["all"]:
        asked = list(SAMPLED)
    if not asked:
        raise SettingError("what", asked, f"must be all, or some of {', '.join(SAMPLED)}")
    for name in asked:
        choice("what", name, SAMPLED)
    for setting in ("label", "from_image", "to_image", "arithmetic"):
        given = options[setting]
        if given is None:
            continue
        numbers = given if isinstance(given, list) else [given]
        if not numbers:
            raise SettingError(setting, given, "must be null, a number or a list of numbers")
        for value in numbers:
            integer(setting, value, 0)
    for setting, readers in READ_BY.items():
        given = options[setting]
        if given != UNSAID.get(setting) and not set(readers) & set(asked):
            rule = f"is read by {', '.join(readers)}, of which what={options['what']} has none"
            raise SettingError(setting, given, rule)
    if (options["from_image"] is None) != (options["to_image"] is None):
        missing = "from_image" if options["from_image"] is None else "to_image"
        raise SettingError(missing, None, "from_image and to_image go together: between them is interpolated")
    ends = [
        value if isinstance(value, list) else [value]
        for value in (options["from_image"], options["to_image"])
    ]
    if len(ends[0]) != len(ends[1]):
        raise SettingError(
            "to_image", options["to_image"], f"must be {len(ends[0])} images, as many as from_image"
        )
    classes = options["arithmetic"]
    if classes is not None and (
        not isinstance(classes, list) or len(classes) != 2 or classes[0] == classes[1]
    ):
        raise SettingError("arithmetic", classes, "must be two classes, as in arithmetic=[4,9]")
    return tuple(dict.fromkeys(asked))
