"""Everything a run is made of, built and found valid before anything is written."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from vaelab.build import (
    PARTS,
    DataShape,
    build,
    build_data,
    build_model,
    build_objective,
    likelihood_support,
    model_takes,
    resolve,
)
from vaelab.data.chunks import ChunkPlan
from vaelab.data.datamodule import ImageDataModule
from vaelab.data.own import settled
from vaelab.errors import SettingError, number
from vaelab.evidence import NLL, AccuracyEstimator, Estimator, label
from vaelab.experiments.diagnostic import Diagnostic
from vaelab.experiments.initial import take_moments, take_weights, train_only, with_moments
from vaelab.experiments.parent import Parent
from vaelab.experiments.ranks import tasks
from vaelab.noise import Noise
from vaelab.runs import Secrets
from vaelab.training import AtomicCheckpointIO, StepSettings, Trainer, VAEModule
from vaelab.training.engines import check_products, engine_of
from vaelab.training.module import code_means
from vaelab.training.optimizers import settle
from vaelab.training.ranks import starter
from vaelab.training.rates import learning_rate

T = TypeVar("T")

#: strategies whose ranks are copies of this process; a tracker's connection does not survive the copying
COPYING = ("ddp_fork", "ddp_notebook", "ddp_spawn")
#: what counts optimizer steps stays with us: Lightning would count chunks
OURS = (
    "log_every_n_steps",
    "val_check_interval",
    "limit_train_batches",
    "max_steps",
    "max_epochs",
    "enable_progress_bar",
)


@dataclass(frozen=True)
class Parts:
    """The parts of a run.

    Attributes:
        config: resolved, primitives only.
        data: set up.
        module: with model, objective and the recipe of the optimizer.
        plan: which steps there are.
        label: what a bound on log p(x) may be called here.
        inherited: the model's parts that were ``loaded`` from another run, and the ``new`` ones; None without another run.
    """

    config: dict[str, Any]
    data: ImageDataModule
    module: VAEModule
    plan: ChunkPlan
    label: str
    inherited: dict[str, list[str]] | None = None


def assemble(config: dict[str, Any], parent: Parent | None = None) -> Parts:
    """Build data, model, objective and module.

    Args:
        config: resolved, primitives only.
        parent: the run whose weights the model starts from, or None.

    Raises:
        SettingError: whatever is wrong with the configuration or with the data.
    """
    config = settled(config)
    noise = Noise(config["seed"])
    if "_target_" in config["logger"]:  # refused now: the one that counts is made in the run directory
        build(config["logger"], "logger", save_dir=config["paths"]["log_dir"])
    support = likelihood_support(config)
    data = build_data(config)
    data.prepare_data()
    data.setup()
    protocol = data.protocol
    shape = DataShape(data.image_shape, protocol.num_levels, protocol.pixel_range, data.num_classes)
    model: Any = build_model(config, shape)
    if data.num_labels is not None and not model.infers_labels:
        rule = "this model does not infer labels; use model=semi_supervised"
        raise SettingError("data.num_labels", data.num_labels, rule)
    data.move_to(data.device, next(model.parameters()).dtype)
    inherited = None if parent is None else take_weights(model, config, parent)
    if inherited is None or "prior" in inherited["new"]:
        _initialise_prior(model, data, noise)
    if inherited is None or "decoder" in inherited["new"]:
        _initialise_decoder(model, config, data)
    if config["score"]["name"] == "val/active_units":
        _check_means(model, data)
    if config["score"]["name"] == "val/accuracy" and not model.infers_labels:
        raise SettingError(
            "score.name", "val/accuracy", "needs a model with q(y|x); use model=semi_supervised"
        )
    train_only(model, config.get("train_only"), new=() if inherited is None else inherited["new"])
    moments: dict[int, dict[str, Any]] = {}
    if config.get("init_from_optimizer") and inherited is not None and parent is not None:
        moments = take_moments(config, parent, inherited)
    trainer, optimizer = config["trainer"], dict(config["optimizer"])
    step_settings = StepSettings(
        **{
            key: optimizer.pop(key)
            for key in ("accumulate", "clip_norm", "skip_norm", "max_skipped", "samples_at_once", "ema_decay")
            if key in optimizer  # an older run has fewer
        },
        scaled=str(trainer["precision"]) in ("16-mixed", "16"),
    )
    schedule, scale = optimizer.pop("schedule"), optimizer.pop("schedule_scale", 1.0)
    number("optimizer.schedule_scale", scale, "must be a number > 0, and at most 1", lambda s: 0 < s <= 1)
    _check_optimizer(optimizer)
    plan = _plan(config, data, step_settings.accumulate, scale)
    rate = learning_rate(schedule, optimizer["lr"], plan.num_steps, plan.steps_per_epoch, scale)
    step_settings = replace(step_settings, learning_rate=rate)
    data.plan = plan
    name = label(support, data.protocol.is_binary, data.protocol.dequantize)
    estimator: Estimator | Diagnostic = build(config["estimator"], "estimator")
    if isinstance(estimator, Diagnostic):
        rule = f"looks at a finished run: vae-evaluate run=DIR estimator={estimator.name}"
        raise SettingError("estimator", estimator.name, rule)
    if name != NLL:
        estimator = estimator.without_evidence()
    estimator.check(model)
    objective = build_objective(config, model, plan.steps_per_epoch)
    if not objective.learns_evidence:
        estimator = AccuracyEstimator()
    engine = engine_of(config["engine"].get("name", "eager"))  # an older run has none

    def make_optimizer(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        own = build(_settled(optimizer, parameters), "optimizer", params=parameters)
        settle(own, engine.capturable)
        return with_moments(own, moments)

    module = VAEModule(
        model,
        objective,
        make_optimizer,
        noise,
        step_settings=step_settings,
        engine=engine,
        matmul=config["engine"].get("matmul"),  # an older run has none
        estimator=estimator,
        config=Secrets.of(os.environ, config).redact(config),  # it goes into every checkpoint
        log_every_n_steps=trainer["log_every_n_steps"],
        val_check_interval=trainer["val_check_interval"],
    )
    return Parts(config, data, module, plan, name, inherited)


def _initialise_prior(model: Any, data: ImageDataModule, noise: Noise) -> None:
    """Hand training images to a prior that starts from some."""
    wanted = getattr(getattr(model, "prior", None), "num_images_wanted", 0)  # m1_m2 has none of its own
    if wanted > data.size("train"):
        raise SettingError(
            "prior.num_components", wanted, f"must be at most the {data.size('train')} training images"
        )
    if wanted:
        index = noise.order(0, data.size("train"))[:wanted]
        model.prior.initialise(data.train_batch(index, 0).x)


def _initialise_decoder(model: Any, config: Mapping[str, Any], data: ImageDataModule) -> None:
    """Hand the mean of the training images to a decoder that starts from it."""
    decoder: Any = getattr(model, "decoder", None)
    if getattr(decoder, "wants_pixel_means", False):
        if likelihood_support(config) != "binary":
            raise SettingError(
                "decoder.output_bias",
                "data",
                "takes the pixels' means for probabilities: likelihood=bernoulli",
            )
        decoder.initialise(data.pixel_means())


@torch.no_grad()
def _check_means(model: Any, data: ImageDataModule) -> None:
    """Refuse to select by active units where a layer's mean of q is not known: there is no count."""
    batch = data.train_batch(torch.zeros(1, dtype=torch.int64), 0)
    means = code_means(model(batch, batch.x.new_zeros(1, 1, model.noise_dim)), 1)
    if means.shape[1] == 0:
        rule = "counts only where q(z|x) of every layer has a known mean (posterior=normal, full_normal or low_rank_normal with model=vae)"
        raise SettingError("score.name", "val/active_units", rule)


def check_takes(config: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuse what was chosen for a part that the model has not got: nobody would read it.

    Args:
        config: resolved, primitives only.
        overrides: what was typed, and what the file of an experiment chose.
    """
    takes = model_takes(config)
    for override in overrides:
        setting, _, value = override.lstrip("+~").partition("=")
        group = re.split(r"[.@/]", setting)[0]
        if group in PARTS and group not in takes:
            name = resolve(config["model"]["_target_"], "model").__name__
            raise SettingError(
                setting, value, f"{name} makes its own {group}; it takes {', '.join(sorted(takes))}"
            )


def build_trainer(parts: Parts) -> Trainer:
    """Lightning's Trainer: devices, precision, strategy.

    Raises:
        SettingError: what Lightning refuses, in its own words.
    """
    config = parts.config
    settings = {
        key: value for key, value in config["trainer"].items() if value is not None and key not in OURS
    }
    if parts.data.size("val") == 0:
        settings["limit_val_batches"] = 0
    strategy = str(settings.get("strategy"))
    if strategy in ("ddp", *COPYING) and not parts.module.objective.learns_evidence:
        # a classifier alone leaves parameters without a gradient, for which the processes would wait
        settings["strategy"] = f"{strategy}_find_unused_parameters_true"
    callbacks = [
        build(
            node,
            f"callbacks.{name}",
            score=config["score"]["name"],
            mode=config["score"]["mode"],
            warmup_steps=parts.module.objective.schedule.warmup_steps,
        )
        for name, node in config["callbacks"].items()
        if node is not None
    ]
    if config["callbacks"].get("early_stopping") is not None and parts.data.size("val") == 0:
        raise SettingError("data.val_size", 0, "callbacks=early_stopping needs validation images")

    def trainer(settings: Mapping[str, Any]) -> Trainer:
        return build(
            settings,
            "trainer",
            max_steps=parts.plan.num_steps,
            max_epochs=-1,
            num_sanity_val_steps=0,
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            # in a job of Slurm's Lightning goes on from what another training may have left in the current directory (hpc_ckpt_1.ckpt); nothing lies here
            default_root_dir=str(Path(config["paths"]["log_dir"]) / ".lightning"),
            inference_mode=False,  # annealed importance sampling takes gradients in a test
            plugins=[AtomicCheckpointIO(), starter(tasks())],
            callbacks=callbacks,
        )

    precision, accelerator = str(config["trainer"]["precision"]), config["trainer"]["accelerator"]
    no_gpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if precision.startswith("16") and (accelerator == "cpu" or (accelerator == "auto" and no_gpu)):
        rule = "needs a GPU; bf16-mixed runs on a CPU, too"  # Lightning would take that in its place
        raise SettingError("trainer.precision", precision, rule)
    # refused: an accelerator that is not there, a precision it does not know, ...
    built = _built("trainer", settings, trainer)
    _check_processes(built, config["trainer"])
    return built


def check_engine(parts: Parts, trainer: Trainer) -> None:
    """Refuse an engine, or an arithmetic, that cannot train these parts on the devices of this Trainer."""
    config, module, device = parts.config, parts.module, trainer.strategy.root_device
    optimizer = resolve(config["optimizer"]["_target_"], "optimizer")
    module.engine.check(device, trainer.world_size, module.step_settings, optimizer)
    if (
        module.engine.fixed
        and module.model.infers_labels
        and parts.data.first_labelled(parts.data.batch_size) is None
    ):
        rule = f"mixes images with and without a label, which engine={module.engine.name} cannot follow from step to step; use a number, or engine=eager"
        raise SettingError("data.labelled_per_batch", None, rule)
    check_products(config["engine"].get("matmul"), device)


def _check_processes(trainer: Trainer, settings: Mapping[str, Any]) -> None:
    """Refuse what would wait for processes that nobody starts, or train once in each of those that srun has started."""
    started, wanted = tasks(), trainer.num_nodes * trainer.num_devices
    if started == 1 and trainer.num_nodes > 1:
        rule = "several nodes need one process a device, started by srun (scripts/slurm/multi_node.sh)"
        raise SettingError("trainer.num_nodes", trainer.num_nodes, rule)
    if started > 1 and started != wanted:
        rule = f"with trainer.num_nodes={trainer.num_nodes} that is {wanted} in all, and srun has started {started}"
        raise SettingError("trainer.devices", settings["devices"], f"{rule} processes: one a device")
    if started > 1 and settings["strategy"] in COPYING:
        rule = f"starts processes, and srun has started {started}; use trainer.strategy=ddp"
        raise SettingError("trainer.strategy", settings["strategy"], rule)


def _plan(config: Mapping[str, Any], data: ImageDataModule, accumulate: int, scale: float) -> ChunkPlan:
    """The steps of the run; ``scale`` shortens its epochs, and not a number of steps that was asked for."""
    trainer = config["trainer"]
    due = [
        trainer["log_every_n_steps"],
        trainer["val_check_interval"],
        config["checkpoints"]["every_n_steps"],
    ]
    plan = ChunkPlan(
        num_images=data.rows.per_epoch,
        batch_size=data.rows.per_batch * accumulate,
        num_steps=sys.maxsize if trainer["max_steps"] in (None, -1) else trainer["max_steps"],
        chunk_steps=config["engine"]["chunk_steps"],
        every=tuple(interval for interval in due if interval is not None),
        limit=trainer["limit_train_batches"],
    )
    if trainer["max_epochs"] in (None, -1):
        return plan
    of_epochs = max(1, round(scale * trainer["max_epochs"] * plan.steps_per_epoch))
    return replace(plan, num_steps=min(plan.num_steps, of_epochs))


def _settled(optimizer: Mapping[str, Any], parameters: list[torch.nn.Parameter]) -> dict[str, Any]:
    """``fused: auto`` settled: one kernel for all weights, where the device has one."""
    fused = optimizer.get("fused")
    return (
        {**optimizer, "fused": parameters[0].device.type in ("cpu", "cuda")}
        if fused == "auto"
        else dict(optimizer)
    )


def _check_optimizer(optimizer: Mapping[str, Any]) -> None:
    lr = optimizer.get("lr")
    if not isinstance(lr, int | float) or isinstance(lr, bool) or not 0 < lr < float("inf"):
        raise SettingError("optimizer.lr", lr, "must be a number > 0")
    betas = optimizer.get("betas", [0, 0])
    if (
        not isinstance(betas, list)
        or len(betas) != 2
        or not all(isinstance(b, int | float) and 0 <= b < 1 for b in betas)
    ):
        raise SettingError("optimizer.betas", betas, "must be two numbers >= 0 and below 1")
    weight = torch.nn.Parameter(torch.zeros(1))
    _built(
        "optimizer",
        optimizer,
        lambda settings: build(_settled(settings, [weight]), "optimizer", params=[weight]),
    )


def _built(group: str, settings: Mapping[str, Any], make: Callable[[Mapping[str, Any]], T]) -> T:
    """``make(settings)``; what a library refuses becomes a refusal, in its words, of the setting that it does not take on its own."""
    try:
        return make(settings)
    except SettingError:
        raise
    except Exception as error:
        for key, value in settings.items():
            try:
                make({"_target_": settings["_target_"], key: value})
            except Exception as own:
                raise SettingError(f"{group}.{key}", value, " ".join(str(own).split())) from own
        shown = {key: value for key, value in settings.items() if key != "_target_"}
        raise SettingError(group, shown, " ".join(str(error).split())) from error
