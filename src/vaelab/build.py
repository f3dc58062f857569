"""From a configuration to objects: the one place where a ``_target_`` is resolved.

A configuration is data, also one that somebody else sent: it can name what is listed here and nothing more. It needs neither Hydra nor Lightning to rebuild a model.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from vaelab.errors import SettingError, integer, nearest
from vaelab.noise import Noise

#: the room whose public names (``__all__``) a group of the configuration may build
ROOMS = {
    "encoder": "vaelab.networks",
    "decoder": "vaelab.networks",
    "posterior": "vaelab.posteriors",
    "prior": "vaelab.priors",
    "likelihood": "vaelab.likelihoods",
    "model": "vaelab.models",
    "objective": "vaelab.objectives",
    "schedule": "vaelab.objectives",
}
#: what the others may build
OTHERS = {
    "data": ("vaelab.data.ImageDataModule",),
    "estimator": (
        "vaelab.evidence.AnnealedEstimator",
        "vaelab.evidence.BidirectionalEstimator",
        "vaelab.evidence.BoundEstimator",
        "vaelab.evidence.ImportanceEstimator",
        "vaelab.experiments.augmentation.AugmentationDiagnostic",
        "vaelab.experiments.latents.LatentsDiagnostic",
        "vaelab.experiments.sample_quality.SampleQualityDiagnostic",
    ),
    "callbacks": ("vaelab.training.EarlyStoppingAfterWarmup", "vaelab.training.TrackerPictures"),
    "trainer": ("lightning.pytorch.Trainer",),
    "logger": ("lightning.pytorch.loggers.CSVLogger", "lightning.pytorch.loggers.TensorBoardLogger"),
    "optimizer": ("torch.optim.Adam", "torch.optim.AdamW", "torch.optim.Adamax"),
}
#: what other tools read as an instruction (``_target_``, ``_partial_``, ``_args_``, ...)
_INSTRUCTION = re.compile(r"_\w*_")
#: groups that a model may be made of
PARTS = ("encoder", "posterior", "prior", "decoder", "likelihood")
#: entry points of installed packages: a configuration names one by its name
ENTRY_POINTS = "vaelab.components"


def resolve(target: object, where: str) -> Callable[..., Any]:
    """The class or function that ``target`` names.

    Args:
        target: dotted name of what the group may build, or the name of an entry point of :data:`ENTRY_POINTS`.
        where: the group, or ``group.name``.

    Raises:
        SettingError: it is not allowed.
    """
    allowed = _allowed(where.partition(".")[0])
    if type(target) is str:  # a subclass could be equal to whatever it is compared with
        if target in allowed:
            room, _, name = target.rpartition(".")
            return getattr(import_module(room), name)
        for entry in entry_points(group=ENTRY_POINTS, name=target):
            return entry.load()
    rule = f"is not among the things a configuration may build (public names of vaelab, or an entry point of {ENTRY_POINTS})"
    raise SettingError(f"{where}._target_", target, rule, nearest=nearest(str(target), allowed))


def _allowed(group: str) -> tuple[str, ...]:
    """The names that a group may build, entry points aside."""
    if group in ROOMS:
        room = ROOMS[group]
        return tuple(f"{room}.{name}" for name in import_module(room).__all__)
    return OTHERS.get(group, ())


def _refuse_instructions(value: Any, setting: str) -> None:
    """Nothing is built, called or left half-called inside an argument: what looks as if it should be is refused, not passed on."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, str) and _INSTRUCTION.fullmatch(key):
                raise SettingError(
                    f"{setting}.{key}", item, "an argument is data: nothing is built inside it"
                )
            _refuse_instructions(item, f"{setting}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _refuse_instructions(item, f"{setting}[{i}]")


def build(node: Mapping[str, Any], where: str, **context: Any) -> Any:
    """Build what ``node`` describes.

    Args:
        node: ``_target_`` and the arguments.
        where: the group, for messages.
        context: what the caller offers beside; each is passed if the target takes an argument of that name.

    Raises:
        SettingError: a target that is not allowed, an argument it does not take or lacks, or whatever the target refuses.
    """
    if "_target_" not in node:
        raise SettingError(where, dict(node), "has no _target_, so there is nothing to build")
    target = resolve(node["_target_"], where)
    target = getattr(target, "from_recipe", target)  # a model makes its own parts
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    _refuse_instructions(arguments, where)
    allowed = [name for name in parameters if name not in context]
    for key, value in arguments.items():
        if key not in allowed and not takes_any:
            raise SettingError(
                f"{where}.{key}",
                value,
                f"unknown; allowed: {', '.join(allowed)}",
                nearest=nearest(key, allowed),
            )
    arguments |= {key: value for key, value in context.items() if key in parameters}
    missing = [
        name for name, p in parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and name not in arguments
    ]  # fmt: skip
    if missing:
        raise SettingError(where, node["_target_"], f"lacks the setting {', '.join(missing)}")
    return target(**arguments)


@dataclass(frozen=True)
class DataShape:
    """What a model has to know of the data.

    Attributes:
        image_shape: ``(C, H, W)``.
        num_levels: grey levels of the pixels that the model sees.
        pixel_range: values of the darkest and the brightest pixel.
        num_classes: of the labels; 0 where not every image has one.
    """

    image_shape: tuple[int, ...]
    num_levels: int
    pixel_range: tuple[float, float]
    num_classes: int = 0


class Recipe:
    """How the parts of a model are made from a configuration, as often as the model needs them.

    Args:
        config: the resolved configuration; read are the groups that make a model, and ``latent_dim``.
        shape: of the data.
    """

    def __init__(self, config: Mapping[str, Any], shape: DataShape) -> None:
        self.config = config
        self.shape = shape
        self.latent_dim = integer("latent_dim", config["latent_dim"], 1)
        self.image_shape = shape.image_shape
        self.num_classes = shape.num_classes

    def encoder(self, shape: tuple[int, ...] | None = None, context_dim: int = 0) -> Any:
        """Images of ``shape`` (default: those of the data), or vectors for ``(1, 1, F_in)``, -> features."""
        return build(
            self.config["encoder"], "encoder",
            image_shape=shape or self.image_shape, context_dim=context_dim,
        )  # fmt: skip

    def posterior(self, num_features: int, latent_dim: int | None = None) -> Any:
        """Features -> q of ``latent_dim`` (default: that of the configuration) dimensions."""
        return build(
            self.config["posterior"],
            "posterior",
            num_features=num_features,
            latent_dim=latent_dim or self.latent_dim,
        )

    def prior(self, posterior_noise_dim: int, latent_dim: int | None = None, context_dim: int = 0) -> Any:
        """p(z), perhaps given a context; a prior that needs inference is told how much noise q takes."""
        return build(
            self.config["prior"], "prior",
            latent_dim=latent_dim or self.latent_dim, context_dim=context_dim, posterior_noise_dim=posterior_noise_dim,
            image_shape=self.image_shape, pixel_range=self.shape.pixel_range,
        )  # fmt: skip

    def decoder(self, latent_dim: int | None = None, context_dim: int = 0) -> Any:
        """z -> parameters of the likelihood."""
        channels, *size = self.image_shape
        output_shape = (self.likelihood().params_per_pixel * channels, *size)
        return build(
            self.config["decoder"], "decoder",
            latent_dim=latent_dim or self.latent_dim, output_shape=output_shape, context_dim=context_dim,
        )  # fmt: skip

    def likelihood(self) -> Any:
        """Parameters -> p(x|z)."""
        return build_likelihood(self.config, self.shape)


def build_model(config: Mapping[str, Any], shape: DataShape) -> nn.Module:
    """The model of a configuration, with the initial weights of its seed; in 64 bits, where it computes in them, so that weights loaded into it are not rounded.

    Args:
        config: the resolved configuration; read are the groups that make a model, ``latent_dim``, ``seed`` and ``trainer.precision``.
        shape: of the data.
    """
    with Noise(config["seed"]).initialisation():
        model = build(config["model"], "model", recipe=Recipe(config, shape))
    return model.double() if str(config.get("trainer", {}).get("precision")).startswith("64") else model


def model_takes(config: Mapping[str, Any]) -> frozenset[str]:
    """The groups that the configuration's model is made of."""
    return resolve(config["model"].get("_target_"), "model").takes


def build_likelihood(config: Mapping[str, Any], shape: DataShape) -> Any:
    return build(
        config["likelihood"], "likelihood",
        image_shape=shape.image_shape, pixel_range=shape.pixel_range, num_levels=shape.num_levels,
    )  # fmt: skip


def likelihood_support(config: Mapping[str, Any]) -> str:
    """``binary``, ``levels`` or ``density``: the likelihood's support, before there are data."""
    return resolve(config["likelihood"].get("_target_"), "likelihood").support


def build_objective(config: Mapping[str, Any], model: Any, steps_per_epoch: int) -> Any:
    """The objective with its schedule."""
    schedule = build(config["schedule"], "schedule", steps_per_epoch=steps_per_epoch)
    return build(config["objective"], "objective", schedule=schedule, traits=model.traits())


def build_data(config: Mapping[str, Any]) -> Any:
    """The data module, not yet set up."""
    node = {key: value for key, value in config["data"].items() if key != "fallback"}
    label_seed = node.get("label_seed")
    return build(
        node, "data",
        data_dir=config["paths"]["data_dir"], noise=Noise(config["seed"]), pixel_noise=Noise(node.get("noise_seed", 0)),
        label_noise=Noise(config["seed"] if label_seed is None else label_seed), support=likelihood_support(config), images=None,
    )  # fmt: skip
