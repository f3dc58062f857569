"""Every shipped config file is composed and built, and every combination of parts trains."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from vaelab.build import build
from vaelab.errors import SettingError
from vaelab.experiments.assembly import assemble, build_trainer
from vaelab.experiments.check import KNOWN, READ_BY, SAMPLED, UNSAID, VALIDATION, check, check_sampling
from vaelab.experiments.check_measured import OF_THE_DETECTOR, check_detection, check_encoding
from vaelab.experiments.diagnostic import Diagnostic
from vaelab.experiments.train import train
from vaelab.runs import Secrets
from vaelab.runs.metrics import read

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
GROUPS = sorted(folder.name for folder in CONFIGS.iterdir() if folder.is_dir() and folder.name != "hydra")
ENTRIES = [
    (group, path.stem)
    for group in GROUPS
    for path in sorted((CONFIGS / group).glob("*.yaml"))
    if (group, path.stem) != ("data", "base")  # what the data sets have in common
]
#: 64 images in batches of 32: two steps
TINY = ("data.train_size=64", "data.val_size=8", "data.batch_size=32", "latent_dim=2", "estimator.repetitions=1", "estimator.num_samples=2",
        "trainer.max_epochs=1", "trainer.limit_test_batches=1", "trainer.enable_progress_bar=false", "data.eval_batch_size=8")  # fmt: skip
SMALL = {
    "mlp": {"hidden": [8]},
    "conv": {"channels": [2], "num_features": 8},
}  # the other parts: test_algebra.py

Compose = Callable[..., dict[str, Any]]


def made_of_digits(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration on 8x8 images that are always there."""
    changed = copy.deepcopy(config)
    for key in ("path", "size", "channels"):  # of a person's own data
        changed["data"].pop(key, None)
    changed["data"] |= {
        "name": "digits",
        "val_size": 8,
        "train_size": None,
        "train_subset": "first",
        "binarize": "none",
    }
    return changed


@pytest.mark.parametrize("group, entry", ENTRIES, ids=["=".join(e) for e in ENTRIES])
def test_every_entry_of_every_group_is_built(
    group: str, entry: str, compose: Compose, tmp_path: Path
) -> None:
    if group in ("paths", "hydra"):
        config = compose()
        assert config["paths"].keys() == set(KNOWN["paths"])
        return
    of_classes = group == "objective" and entry in ("semi_supervised", "classification")
    needed = ["model=semi_supervised"] if of_classes else []
    config = compose(f"{group}={entry}", *needed, f"paths.data_dir={tmp_path}/data")
    check(config)
    if group == "data":
        assert config["data"]["name"] == entry
    made = made_of_digits(config)
    if entry in ("augmentation", "latents", "sample_quality") and group == "estimator":
        assert isinstance(build(config["estimator"], "estimator"), Diagnostic)
        with pytest.raises(
            SettingError, match=f"estimator={entry}: looks at a finished run: vae-evaluate run=DIR"
        ):
            assemble(made)
        return
    if entry in ("ais", "bdmc"):
        with pytest.raises(SettingError, match=f"estimator={entry}: needs a number that may be called nll"):
            assemble(made)
        made["data"]["binarize"] = "threshold"
    parts = assemble(made)
    if group == "logger" and "_target_" in config["logger"]:
        assert build(config["logger"], "logger", save_dir=tmp_path) is not None
    accelerators = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    accelerator = config["trainer"]["accelerator"]
    if not accelerators.get(accelerator, True):
        with pytest.raises(SettingError, match=rf"trainer\.accelerator={accelerator}: "):
            build_trainer(parts)
        return
    trainer = build_trainer(parts)
    assert isinstance(trainer, L.Trainer)
    assert trainer.max_steps == parts.plan.num_steps
    strategies = {"ddp": "DDPStrategy", "ddp_cpu": "DDPStrategy"}
    if group == "trainer":
        assert type(trainer.strategy).__name__ == strategies.get(entry, "SingleDeviceStrategy")
        assert trainer.world_size == 2 or entry != "ddp_cpu"


def test_the_commands_beside_vae_train_compose(compose: Compose) -> None:
    evaluate = compose("run=somewhere", config_name="evaluate")
    assert evaluate.keys() == {
        *("run", "config", "weights", "key_map"),
        *("checkpoint", "split", "num_images", "seed", "force", "binarize"),
        "estimator",
        "trainer",
        "paths",
    }
    defaults = compose()
    for group in ("trainer",):  # null = as the run had it
        assert set(evaluate[group].values()) == {None}
        assert evaluate[group].keys() <= defaults[group].keys()
    sample = compose("run=somewhere", config_name="sample")
    assert sample.keys() == {
        *(
            "run",
            "what",
            "checkpoint",
            "seed",
            "num_samples",
            "single_images",
            "pixels",
            "dtype",
            "temperature",
        ),
        *("label", "from_image", "to_image", "arithmetic", "trainer", "paths"),
    }
    assert check_sampling(sample) == SAMPLED
    assert {setting: sample[setting] for setting in READ_BY} == dict.fromkeys(READ_BY) | UNSAID
    encode, detect = (compose("run=somewhere", config_name=name) for name in ("encode", "detect"))
    check_encoding(encode)
    check_detection(detect)
    assert {key for key in OF_THE_DETECTOR if detect[key] is not None} == set()
    assert encode["trainer"] == detect["trainer"] == evaluate["trainer"]


LIKELIHOODS = ("bernoulli", "gaussian_decoder", "gaussian_learned", "gaussian_constant")
COMBINATIONS = list(product(SMALL, SMALL, LIKELIHOODS, ("constant", "linear")))


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes ten times as long as two steps, and is tested elsewhere."""
    monkeypatch.setattr("vaelab.experiments.train.draw_pictures", lambda *args, **kwargs: [])


@pytest.fixture(scope="module")
def shipped() -> dict[str, dict[str, Any]]:
    """The configuration with every entry of a few groups taken, composed once: composing takes as long as two steps."""
    choices = ["encoder=mlp", "encoder=conv", "decoder=mlp", "decoder=conv", "likelihood=bernoulli", "likelihood=gaussian",
               "schedule=constant", "schedule=linear"]  # fmt: skip
    configs = {}
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for choice in ["", *choices]:
            overrides = [
                "data=digits",
                "trainer=cpu",
                "callbacks=none",
                "logger=none",
                *TINY,
                *filter(None, [choice]),
            ]
            config: Any = OmegaConf.to_container(hydra_compose("train", overrides=overrides), resolve=True)
            configs[choice] = config
    return configs


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("encoder, decoder, likelihood, schedule", COMBINATIONS)
def test_every_combination_trains(
    encoder: str,
    decoder: str,
    likelihood: str,
    schedule: str,
    shipped: dict[str, dict[str, Any]],
    tmp_path: Path,
) -> None:
    config = copy.deepcopy(shipped[""])
    kind, _, variance = likelihood.partition("_")
    for group, entry in {
        "encoder": encoder,
        "decoder": decoder,
        "likelihood": kind,
        "schedule": schedule,
    }.items():
        config[group] = copy.deepcopy(shipped[f"{group}={entry}"][group])
    config["encoder"] |= SMALL[encoder]
    config["decoder"] |= SMALL[decoder]
    config["likelihood"] |= {"variance": variance} if variance else {}
    config["paths"] = {"log_dir": str(tmp_path / "logs"), "data_dir": str(tmp_path / "data")}
    check(config)
    result = train(config)
    rows = read(result.directory / "metrics.csv")
    values = {key: value for row in rows for key, value in row.items()}
    assert values["step"] == 2
    assert all(abs(values[key]) < 1e6 for key in ("train/loss", "val/elbo", "test/elbo"))
    assert values["optim/skipped_steps"] == 0
    assert values["optim/grad_norm"] > 0
    assert values["optim/beta"] == (1.0 if schedule == "constant" else 1 / 20)  # the second of 20 steps
    assert {key for key in values if key.startswith("val/")} == set(VALIDATION) - {"val/accuracy"}


def build_all(config: dict[str, Any]) -> None:
    check(config)
    build_trainer(assemble(config))


@pytest.mark.parametrize(
    "group", ["encoder", "likelihood", "objective", "optimizer", "trainer", "data", *KNOWN]
)
def test_no_setting_hides(group: str, shipped: dict[str, dict[str, Any]]) -> None:
    """A key that no part takes is refused, wherever a yaml file could hold it."""
    config = copy.deepcopy(shipped[""])
    node = config
    for part in filter(None, group.split(".")):
        node = node[part]
    node["colour"] = "red"
    with pytest.raises(SettingError, match=rf"^{f'{group}.' if group else ''}colour=red: unknown"):
        build_all(config)


class Recorder(dict[str, Any]):
    """A dictionary that knows which of its keys somebody asked for."""

    def __init__(self, values: dict[str, Any], name: str, seen: set[str]) -> None:
        super().__init__(
            {
                key: Recorder(v, f"{name}{key}.", seen) if isinstance(v, dict) else v
                for key, v in values.items()
            }
        )
        self.name, self.seen = name, seen

    def __getitem__(self, key: str) -> Any:
        self.seen.add(self.name + key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.seen.add(self.name + key)
        return super().get(key, default)

    def items(self) -> Any:  # all arguments of what is built
        self.seen |= {self.name + key for key in self}
        return super().items()


@pytest.mark.usefixtures("no_pictures")
def test_no_key_of_train_yaml_is_unread(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(
        "data=digits", "data.binarize=threshold", "trainer=cpu", *TINY
    )  # binary: the importance-weighted estimate is made too
    seen: set[str] = set()
    # what takes the configuration as a whole does not count, and a checkpoint holds nothing but primitives
    monkeypatch.setattr("vaelab.experiments.train.write_yaml", lambda *args: None)
    monkeypatch.setattr("vaelab.runs.manifest.config_hash", lambda *args: None)
    monkeypatch.setattr(Secrets, "of", lambda *args: Secrets({}))
    monkeypatch.setattr(Secrets, "redact", lambda self, value: value)
    monkeypatch.setattr(
        "vaelab.training.VAEModule.on_save_checkpoint",
        lambda self, checkpoint: checkpoint.update(progress={"finished": True}),
    )
    train(Recorder(config, "", seen))
    settings = set(config) | {f"{group}.{key}" for group, known in KNOWN.items() if group for key in known}
    of_many_runs = {setting for setting in settings if setting.partition(".")[0] == "sweep"}  # read with -m
    assert sorted(settings - seen - of_many_runs) == ["tags"]  # which W&B gets


@pytest.mark.parametrize("name", ["iwae_vae1", "iwae_vae50", "iwae_iwae5", "iwae_iwae50"])
def test_a_recipe_as_the_text_has_it_differs_from_the_code_in_three_settings(
    name: str, compose: Compose
) -> None:
    code, text = compose(f"experiment={name}"), compose(f"experiment={name}_text")
    assert text["name"] == f"{name}_text"
    assert text["decoder"] == {**code["decoder"], "output_bias": "random"}
    assert text["optimizer"] == {**code["optimizer"], "betas": [0.9, 0.999], "eps": 1e-4}
    same = code.keys() - {"name", "decoder", "optimizer"}
    assert {key: text[key] for key in same} == {key: code[key] for key in same}
