"""The contract of every part, and of many combinations of parts."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load, save
from torch import Tensor, nn

from given import Given
from vaelab.batch import Batch
from vaelab.build import DataShape, build_model, build_objective, likelihood_support
from vaelab.errors import SettingError
from vaelab.experiments.initial import train_only
from vaelab.models import Model
from vaelab.noise import Noise
from vaelab.training.step import OptimisationStep, StepSettings

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
GROUPS = ("model", "encoder", "posterior", "prior", "decoder", "likelihood", "objective", "schedule")
DEFAULT = dict(
    zip(
        GROUPS,
        ("vae", "mlp", "normal", "standard_normal", "mlp", "bernoulli", "elbo", "constant"),
        strict=True,
    )
)
#: the shipped settings, made small
SMALL: dict[str, dict[str, Any]] = {
    "hidden": {"hidden": [8]}, "channels": {"channels": [4]}, "num_features": {"num_features": 8}, "num_components": {"num_components": 3},
    "num_samples": {"num_samples": 4}, "num_bounds": {"num_bounds": 2}, "lower_dims": {"lower_dims": [4, 3]}, "num_transforms": {"num_transforms": 2},
    "bins": {"bins": 4}, "blocks": {"blocks": 1}, "init": {"init": "random"}, "rank": {"rank": 1}, "free_nats": {"free_nats": 1e-3},
    "second_latent_dim": {"second_latent_dim": 2},
}  # fmt: skip
IMAGE, LEVELS, CLASSES, D, B = (1, 4, 5), 6, 3, 2, 12
#: models with q(y|x)
CLASSIFYING = ("semi_supervised", "m1_m2")

Choice = dict[str, str]
Compose = Callable[..., dict[str, Any]]


def entries(group: str) -> dict[str, dict[str, Any]]:
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CONFIGS / group).glob("*.yaml"))}


ENTRIES = {group: entries(group) for group in GROUPS}


def variants() -> dict[str, dict[str, dict[str, Any]]]:
    """The entries, and the kinds that one of them has."""
    found = copy.deepcopy(ENTRIES)
    found["posterior"]["flow_coupling"] = {**found["posterior"]["flow"], "kind": "coupling"}
    found["posterior"]["flow_inverse_autoregressive"] = {
        **found["posterior"].pop("flow"),
        "kind": "inverse_autoregressive",
    }
    for kind in ("nsf", "maf", "realnvp"):
        found["prior"][f"flow_{kind}"] = {**found["prior"]["flow"], "kind": kind}
    del found["prior"]["flow"]
    for variance in ("learned", "constant"):
        found["likelihood"][f"gaussian_{variance}"] = {
            **found["likelihood"]["gaussian"],
            "variance": variance,
        }
    found["objective"]["beta_tc_weighted"] = {**found["objective"]["beta_tc"], "sampling": "weighted"}
    found["objective"]["dip_i"] = {**found["objective"]["dip"], "kind": "i"}
    return found


VARIANTS = variants()


def config(choice: Choice) -> dict[str, Any]:
    made: dict[str, Any] = {"seed": 0, "latent_dim": D}
    for group in GROUPS:
        node = dict(VARIANTS[group][choice[group]])
        for key, small in SMALL.items():
            if key in node and not (key == "num_samples" and node[key] == 1):
                node |= small
        if choice[group] == "top_down":
            node |= {"channels": [4, 8], "layers": [1, 2], "z_channels": 2}
        made[group] = node
    return made


def pixels(support: str, generator: torch.Generator) -> Tensor:
    levels = torch.randint(0, LEVELS, (B, *IMAGE), generator=generator)
    if support == "binary":
        return (levels > LEVELS // 2).double()
    if support == "levels":
        return levels / (LEVELS - 1)
    return (levels + torch.rand(levels.shape, generator=generator, dtype=torch.float64)) / LEVELS


def make(choice: Choice) -> tuple[Model, Any, Batch]:
    made = config(choice)
    model = build_model(made, DataShape(IMAGE, LEVELS, (0.0, 1.0), CLASSES)).double()
    assert isinstance(model, Model)
    objective = build_objective(made, model, steps_per_epoch=10)
    x = pixels(likelihood_support(made), torch.Generator().manual_seed(0)).double()
    y = torch.arange(B) % CLASSES
    if model.infers_labels:
        y[B // 2 :] = -1  # of the images without, q(y|x) learns
    return model, objective, Batch(x, y, torch.arange(B))


def illegal(choice: Choice) -> str | None:
    """Why a combination is refused: the setting that the message has to name. None = legal."""
    model, posterior, prior, objective = (choice[g] for g in ("model", "posterior", "prior", "objective"))
    layers = model in ("hierarchical", "ladder", "top_down")
    slow = posterior == "flow_inverse_autoregressive" and model != "ladder"
    if prior == "vamp" and (model in ("conditional", "hierarchical", "semi_supervised") or slow):
        return "prior"
    gaussian = model == "ladder" or not posterior.startswith("flow")
    closed_form = (
        gaussian and prior in ("standard_normal", "normal") and model not in ("hierarchical", "m1_m2")
    )
    if choice["schedule"] == "capacity" and (objective != "elbo" or not closed_form):
        return "schedule"
    of_labels = ("semi_supervised", "classification")
    if (model in CLASSIFYING) != (objective in of_labels) and (
        model not in CLASSIFYING or objective != "elbo"
    ):
        return "objective"
    shared = model in ("ladder", "top_down") or prior == "vamp"
    normal = posterior == "normal" or model == "ladder"
    per_dimension = normal and prior in ("standard_normal", "normal") and model != "hierarchical"
    refused = {
        "stl": slow,
        "dreg": slow or shared,
        "piwae": shared,
        "free_bits": not per_dimension,
        "beta_tc": layers or not normal or prior != "standard_normal",
        "dip": layers or not normal,
        "mmd": layers or prior != "standard_normal",
    }
    return "objective" if refused.get(objective.removesuffix("_weighted").removesuffix("_i"), False) else None


def ignored(choice: Choice) -> bool:
    """A part that the model does not take would say nothing."""
    if choice["model"] == "m1_m2" and choice["prior"] != DEFAULT["prior"]:
        return True
    takes = {"ladder": ("encoder", "decoder"), "top_down": ("posterior",)}.get(choice["model"])
    parts = ("encoder", "decoder", "posterior")
    return takes is not None and any(choice[g] != DEFAULT[g] for g in parts if g not in takes)


def one_at_a_time() -> list[Choice]:
    """Every entry of every group, the others at their defaults; what goes with no default gets what it goes with."""
    with_default = [{**DEFAULT, group: entry} for group in GROUPS for entry in VARIANTS[group]]
    return [*with_default, *({**DEFAULT, "model": m, "objective": o} for m in CLASSIFYING for o in ("semi_supervised", "classification"))]  # fmt: skip


def sampled(count: int) -> list[Choice]:
    """Legal combinations, drawn with a fixed seed; every entry of every group is among them."""
    draw, found = random.Random(0), []
    while len(found) < count:
        choice = {group: draw.choice(sorted(VARIANTS[group])) for group in GROUPS}
        if illegal(choice) is None and not ignored(choice):
            found.append(choice)
    return found


def name(choice: Choice) -> str:
    return "-".join(choice[group] for group in GROUPS if choice[group] != DEFAULT[group]) or "default"


SAMPLED = sampled(240)


@pytest.mark.parametrize(
    "choice", [c for c in one_at_a_time() if illegal(c) is None] + SAMPLED[:40], ids=name
)
def test_contract(choice: Choice) -> None:
    keeps_the_contract(choice)


@pytest.mark.slow
@pytest.mark.parametrize("choice", SAMPLED[40:], ids=name)
def test_contract_of_two_hundred_more_combinations(choice: Choice) -> None:
    keeps_the_contract(choice)


def keeps_the_contract(choice: Choice) -> None:
    model, objective, batch = make(choice)
    k = objective.num_samples
    eps = torch.randn(k, B, model.noise_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    terms = model(batch, eps)
    assert terms.log_px.shape == terms.log_w.shape == (k, B)
    for layer in terms.layers:
        assert layer.z.shape[:2] == (k, B)
        assert layer.log_p.shape == layer.log_q.shape == (k, B)
        if layer.kl is not None:
            assert layer.kl.shape[-1] in (1, layer.z.shape[2])
            assert layer.kl.shape[:-1] in ((B,), (k, B))
        assert layer.kl is None or (layer.kl > -1e-9).all()
    result = objective(terms, 3, 100)
    assert result.value.shape == result.surrogate.shape == (B,)
    assert torch.isfinite(result.value).all()
    assert model.traits().closed_form_kl == terms.has_closed_form_kl

    weights = {key: value.clone() for key, value in model.state_dict().items()}
    before, after = descend(model, objective, batch)
    assert after < before
    without = [
        n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    if choice["objective"] == "classification":  # q(y|x), and all that it is of
        assert "classifier.logits.weight" not in {name.removeprefix("second.") for name in without}
    else:
        assert without == []

    model.load_state_dict(load(save(weights)))
    torch.testing.assert_close(model(batch, eps).log_w, terms.log_w, rtol=0, atol=0)
    z = model.sample(torch.randn(5, model.prior_noise_dim, dtype=torch.float64), torch.arange(5) % CLASSES)
    assert z.mean.shape == (5, *IMAGE)
    assert model.encode(batch).z.shape == (1, B, D)
    assert model.decode(model.encode(batch).z[0], batch.y.clamp(min=0)).mean.shape == (B, *IMAGE)
    assert model.reconstruct(batch, eps).mean.shape == (k, B, *IMAGE)
    given = batch.y >= 0  # a sum over classes is no sum of the layers' terms
    every = torch.cat([layer.z for layer in terms.layers], dim=-1)
    joint = terms.log_px + sum(layer.log_p for layer in terms.layers)
    torch.testing.assert_close(model.log_joint(batch, every)[:, given], joint[:, given])


#: what is typed for a variant of an entry
KINDS = {
    "flow_coupling": ("flow", "kind=coupling"), "flow_inverse_autoregressive": ("flow", "kind=inverse_autoregressive"),
    "flow_nsf": ("flow", "kind=nsf"), "flow_maf": ("flow", "kind=maf"), "flow_realnvp": ("flow", "kind=realnvp"),
    "gaussian_learned": ("gaussian", "variance=learned"), "gaussian_constant": ("gaussian", "variance=constant"),
    "beta_tc_weighted": ("beta_tc", "sampling=weighted"), "dip_i": ("dip", "kind=i"),
}  # fmt: skip


def typed(choice: Choice) -> list[str]:
    """The command line of a combination."""
    words = []
    for group in GROUPS:
        entry, setting = KINDS.get(choice[group], (choice[group], None))
        words += [f"{group}={entry}"] + ([f"{group}.{setting}"] if setting else [])
    return words


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_vae_train_composes_and_builds_every_combination(compose: Compose, part: int) -> None:
    for choice in (one_at_a_time() + SAMPLED)[part::8]:
        if illegal(choice) is None and not ignored(choice):
            composed = compose(*typed(choice))
            model = build_model(composed, DataShape((1, 28, 28), 256, (0.0, 1.0), 10))
            build_objective(composed, model, steps_per_epoch=10)


FREEZABLE = [
    {**DEFAULT, g: entry} for g in ("model", "posterior", "prior", "likelihood") for entry in VARIANTS[g]
]


@pytest.mark.parametrize("choice", [*FREEZABLE, {**DEFAULT, "objective": "dreg"}], ids=name)
def test_frozen_weights_get_no_gradient_and_the_others_do(choice: Choice) -> None:
    model, objective, batch = make(choice)
    for part in [name for name, part in model.named_children() if list(part.parameters())]:
        train_only(model, part)
        model.zero_grad()
        before, after = descend(model, objective, batch)
        assert after < before or choice["objective"] == "dreg"  # not the gradient of its bound at fixed noise
        with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
        assert with_gradient == {f"{part}.{name}" for name, _ in getattr(model, part).named_parameters()}


def descend(model: Model, objective: Any, batch: Batch) -> tuple[float, float]:
    """The loss before and after ten small steps down its gradient, always with the same noise."""

    class SameNoise(Noise):
        def step_normal(
            self,
            stream: Any,
            step: int,
            shape: Any,
            device: Any = "cpu",
            dtype: Any = torch.float32,
            out: Any = None,
        ) -> Tensor:
            return super().step_normal(stream, 0, shape, device, torch.float64)

    step = OptimisationStep(
        model, objective, Given(lambda index, rows: batch), 100, SameNoise(0), StepSettings(clip_norm=1.0)
    )
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3)
    losses = [-step(batch.index, 3, optimizer, Tensor.backward)[0].item() / B for _ in range(10)]
    return losses[0], losses[-1]


ILLEGAL = [
    {**DEFAULT, **dict(zip(("model", "posterior", "prior", "objective", "schedule"), chosen, strict=True))}
    for chosen in product(*(VARIANTS[g] for g in ("model", "posterior", "prior", "objective")), ("constant",))
]
ILLEGAL = [c for c in ILLEGAL if illegal(c) is not None and not ignored(c)]
ILLEGAL += [{**DEFAULT, "objective": o, "schedule": "capacity"} for o in VARIANTS["objective"] if o != "elbo"]
ILLEGAL += [{**DEFAULT, "prior": p, "schedule": "capacity"} for p in ("mixture", "vamp", "flow_nsf")]


def test_every_illegal_combination_is_refused_by_name() -> None:
    assert len(ILLEGAL) > 100
    for choice in ILLEGAL:
        with pytest.raises(SettingError) as error:
            make(choice)
        assert error.value.setting == illegal(choice), name(choice)


def test_frozen_weights_with_samples_in_parts() -> None:
    gradients = []
    for at_once in (None, 1):
        model, objective, batch = make({**DEFAULT, "prior": "normal"})
        train_only(model, "prior")
        objective.num_samples = 3
        step = OptimisationStep(
            model, objective, Given(lambda index, rows, batch=batch: batch), 100, Noise(0), StepSettings(samples_at_once=at_once)
        )  # fmt: skip
        step(batch.index, 0, torch.optim.SGD(model.parameters(), 0.0), Tensor.backward)
        gradients.append([p.grad for p in model.get_submodule("prior").parameters()])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-12)


def test_samples_in_parts_have_the_gradient_of_all() -> None:
    for choice in ({}, {"objective": "dip"}, {"objective": "dreg"}, {"objective": "piwae", "model": "hierarchical"}, {"objective": "iwae", "posterior": "flow_coupling", "prior": "vamp"},
                   {"objective": "iwae", "model": "ladder"}, {"objective": "stl", "model": "top_down", "posterior": "full_normal"}, {"objective": "ciwae", "model": "top_down", "prior": "vamp"}, {"objective": "ciwae", "model": "conditional", "prior": "mixture"},
                   {"objective": "semi_supervised", "model": "semi_supervised"}, {"objective": "semi_supervised", "model": "m1_m2"}):  # fmt: skip
        gradients = []
        for at_once in (None, 1, 3):
            model, objective, batch = make({**DEFAULT, **choice})
            if choice.get("objective") in (
                None,
                "dip",
                "semi_supervised",
            ):  # with terms that have no sample dimension
                objective.num_samples = 4
            step = OptimisationStep(
                model,
                objective,
                Given(lambda index, rows, batch=batch: batch),
                100,
                Noise(0),
                StepSettings(samples_at_once=at_once),
            )
            step(batch.index, 0, torch.optim.SGD(model.parameters(), 0.0), Tensor.backward)
            gradients.append(
                nn.utils.parameters_to_vector([p.grad for p in model.parameters() if p.grad is not None])
            )
        for parts in gradients[1:]:
            torch.testing.assert_close(parts, gradients[0], rtol=1e-10, atol=1e-12)
