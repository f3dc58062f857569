"""From a configuration to objects: the one place where a ``_target_`` is resolved.

A configuration is data, also one that somebody else sent: it can name what is listed here and nothing more. It needs neither Hydra nor Lightning to rebuild a model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from vaelab.errors import SettingError, integer, nearest
from vaelab.noise import Noise

#: rooms whose public names (``__all__``) a configuration may build
ROOMS = (
    "vaelab.networks",
    "vaelab.posteriors",
    "vaelab.priors",
    "vaelab.likelihoods",
    "vaelab.models",
    "vaelab.objectives",
)
#: what else it may build
OTHERS = (
    "vaelab.data.ImageDataModule",
    "vaelab.training.EarlyStoppingAfterWarmup",
    "vaelab.training.TrackerPictures",
    "lightning.pytorch.Trainer",
    "lightning.pytorch.loggers.CSVLogger",
    "lightning.pytorch.loggers.TensorBoardLogger",
    "torch.optim.Adam",
)
#: entry points of installed packages: a configuration names one by its name
ENTRY_POINTS = "vaelab.components"


def resolve(target: object, where: str) -> Callable[..., Any]:
    """The class or function that ``target`` names.

    Args:
        target: dotted name of the allow-list, or the name of an entry point of :data:`ENTRY_POINTS`.
        where: the group, for the message.

    Raises:
        SettingError: it is not allowed.
    """
    if isinstance(target, str):
        room, _, name = target.rpartition(".")
        if target in OTHERS or (room in ROOMS and name in import_module(room).__all__):
            return getattr(import_module(room), name)
        for entry in entry_points(group=ENTRY_POINTS, name=target):
            return entry.load()
    allowed = [f"{room}.{name}" for room in ROOMS for name in import_module(room).__all__]
    guess = nearest(str(target), [*allowed, *OTHERS])
    rule = f"is not among the things a configuration may build (public names of vaelab, or an entry point of {ENTRY_POINTS})"
    raise SettingError(f"{where}._target_", target, rule, nearest=guess)


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
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    arguments = {key: value for key, value in node.items() if key != "_target_"}
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
    """

    image_shape: tuple[int, ...]
    num_levels: int
    pixel_range: tuple[float, float]


def build_model(config: Mapping[str, Any], shape: DataShape) -> nn.Module:
    """The model of a configuration, with the initial weights of its seed.

    Args:
        config: the resolved configuration; read are the groups that make a model, ``latent_dim`` and ``seed``.
        shape: of the data.
    """
    latent_dim = config["latent_dim"]
    integer("latent_dim", latent_dim, 1)
    with Noise(config["seed"]).initialisation():
        likelihood = build_likelihood(config, shape)
        channels, *size = shape.image_shape
        output_shape = (likelihood.params_per_pixel * channels, *size)
        encoder = build(config["encoder"], "encoder", image_shape=shape.image_shape)
        posterior = build(
            config["posterior"], "posterior", num_features=encoder.num_features, latent_dim=latent_dim
        )
        prior = build(config["prior"], "prior", latent_dim=latent_dim)
        decoder = build(config["decoder"], "decoder", latent_dim=latent_dim, output_shape=output_shape)
        return build(
            config["model"],
            "model",
            encoder=encoder,
            posterior=posterior,
            prior=prior,
            decoder=decoder,
            likelihood=likelihood,
        )


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
    return build(
        config["objective"], "objective", schedule=schedule, has_closed_form_kl=model.has_closed_form_kl()
    )


def build_data(config: Mapping[str, Any]) -> Any:
    """The data module, not yet set up."""
    node = {key: value for key, value in config["data"].items() if key != "fallback"}
    return build(
        node, "data",
        data_dir=config["paths"]["data_dir"], noise=Noise(config["seed"]), pixel_noise=Noise(node.get("noise_seed", 0)),
        support=likelihood_support(config), images=None,
    )  # fmt: skip
