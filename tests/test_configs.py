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

from vaelab.build import build
from vaelab.errors import SettingError
from vaelab.experiments.assembly import assemble, build_trainer
from vaelab.experiments.check import KNOWN, VALIDATION, check
from vaelab.experiments.train import train
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
SMALL = {"mlp": "hidden=[8]", "conv": "channels=[2]"}

Compose = Callable[..., dict[str, Any]]


def made_of_digits(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration on 8x8 images that are always there."""
    changed = copy.deepcopy(config)
    changed["data"] |= {"name": "digits", "val_size": 8, "train_size": None, "binarize": "none"}
    return changed


@pytest.mark.parametrize("group, entry", ENTRIES, ids=["=".join(e) for e in ENTRIES])
def test_every_entry_of_every_group_is_built(
    group: str, entry: str, compose: Compose, tmp_path: Path
) -> None:
    if group in ("paths", "hydra"):
        config = compose()
        assert config["paths"].keys() == set(KNOWN["paths"])
        return
    config = compose(f"{group}={entry}", f"paths.data_dir={tmp_path}/data")
    check(config)
    if group == "data":
        assert config["data"]["name"] == entry
    parts = assemble(made_of_digits(config))
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
    assert evaluate.keys() == {"run", "checkpoint", "seed", "binarize", "estimator", "trainer", "paths"}
    assert evaluate["trainer"] == compose()["trainer"]
    sample = compose("run=somewhere", config_name="sample")
    assert sample.keys() == {"run", "checkpoint", "seed", "num_samples", "paths"}


LIKELIHOODS = {
    "bernoulli": ("likelihood=bernoulli",),
    **{v: ("likelihood=gaussian", f"likelihood.variance={v}") for v in ("decoder", "learned", "constant")},
}
COMBINATIONS = list(product(SMALL, SMALL, LIKELIHOODS, ("constant", "linear")))


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes ten times as long as two steps, and is tested elsewhere."""
    monkeypatch.setattr("vaelab.experiments.train.draw_pictures", lambda *args, **kwargs: [])


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("encoder, decoder, likelihood, schedule", COMBINATIONS)
def test_every_combination_trains(
    encoder: str, decoder: str, likelihood: str, schedule: str, compose: Compose
) -> None:
    config = compose(
        "data=digits",
        "trainer=cpu",
        "callbacks=none",
        f"encoder={encoder}",
        f"encoder.{SMALL[encoder]}",
        f"decoder={decoder}",
        f"decoder.{SMALL[decoder]}",
        *LIKELIHOODS[likelihood],
        f"schedule={schedule}",
        *TINY,
    )
    result = train(config)
    rows = read(result.directory / "metrics.csv")
    values = {key: value for row in rows for key, value in row.items()}
    assert values["step"] == 2
    assert all(abs(values[key]) < 1e6 for key in ("train/loss", "val/elbo", "test/elbo"))
    assert values["optim/skipped_steps"] == 0
    assert values["optim/grad_norm"] > 0
    assert values["optim/beta"] == (1.0 if schedule == "constant" else 1 / 20)  # the second of 20 steps
    assert {key for key in values if key.startswith("val/")} == set(VALIDATION)


@pytest.mark.parametrize("group", ["encoder", "likelihood", "objective", "optimizer", "callbacks.tracker_pictures", "trainer", "data", *KNOWN])
def test_no_setting_hides(group: str, compose: Compose) -> None:
    """A key that no part takes is refused, wherever a yaml file could hold it."""
    config = compose("data=digits")
    node = config
    for part in filter(None, group.split(".")):
        node = node[part]
    node["colour"] = "red"
    with pytest.raises(SettingError, match=rf"^{group}\.?colour=red: unknown".replace("^\\.", "^")):
        check(config)
        build_trainer(assemble(config))


class Recorder(dict[str, Any]):
    """A dictionary that knows which of its keys somebody asked for."""

    def __init__(self, values: dict[str, Any], name: str, seen: set[str]) -> None:
        super().__init__({key: Recorder(v, f"{name}{key}.", seen) if isinstance(v, dict) else v for key, v in values.items()})
        self.name, self.seen = name, seen

    def __getitem__(self, key: str) -> Any:
        self.seen.add(self.name + key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self.get(key, default)

    def items(self) -> Any:  # all arguments of what is built
        self.seen |= {self.name + key for key in self}
        return super().items()

    def __deepcopy__(self, memo: Any) -> dict[str, Any]:
        return copy.deepcopy(dict(self), memo)


@pytest.mark.usefixtures("no_pictures")
def test_no_key_of_train_yaml_is_unread(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose("data=digits", "trainer=cpu", *TINY)
    seen: set[str] = set()
    monkeypatch.setattr("vaelab.experiments.train.write_yaml", lambda *args: None)  # reads everything
    train(Recorder(config, "", seen))
    assert sorted(set(config) - {"data", "tags"} - seen) == []  # tags are for W&B
