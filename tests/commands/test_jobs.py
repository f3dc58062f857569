"""A job's configuration, made from what was composed for others, is what Hydra composes for it alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from vaelab.commands.jobs import JobLoader

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

JOBS = [
    (),
    ("latent_dim=2",),
    ("latent_dim=3", "encoder=conv"),
    ("encoder=conv", "latent_dim=3"),
    ("encoder=mlp", "encoder.hidden=[8,8]"),
    ("encoder.hidden=[9]",),
    ("experiment=reference", "latent_dim=4"),
    ("experiment=reference", "optimizer=adamw", "optimizer.lr=1e-05"),
    ("experiment=rate_distortion", "objective.beta=2"),
    ("+trainer.max_time=00:01:00:00", "tags=[a,b]", "name=d${latent_dim}${hydra:runtime.choices.encoder}"),
    ("~checkpoints.keep", "data=digits"),
    ("++optimizer.weight_decay=0.1", "++score.name=val/rate"),
    ("~debug", "latent_dim=2"),
    ("+encoder@decoder2=mlp", "latent_dim=2"),
    ("data={name: x}",),
    ("paths.log_dir='a b=c'", "seed=7"),
    ("hydra.job.config.override_dirname.exclude_keys=[seed]", "seed=1", "latent_dim=5"),
    ("hydra/launcher=basic", "seed=1"),
]
WRONG = [
    ("latent_dmi=2",),
    ("encoder=cnv",),
    ("latent_dim=2,3",),
    ("encoder=mlp,conv",),
    ("encoder.width=2", "encoder=conv"),
    ("+latent_dim=2",),
    ("latent_dim.x=2",),
    ("~latent_dmi",),
    ("latent_dim=[",),
    ("++encoder=mlp",),
]


@pytest.fixture
def loader() -> Iterator[ConfigLoaderImpl]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        found = GlobalHydra.instance().config_loader()
        assert isinstance(found, ConfigLoaderImpl)
        yield found


def content(cfg: DictConfig) -> tuple[object, ...]:
    """All of it, with the order of the settings and what a configuration knows beside them."""
    plain = OmegaConf.to_yaml(cfg, resolve=False)
    return plain, OmegaConf.is_struct(cfg), OmegaConf.is_readonly(cfg.hydra), OmegaConf.get_type(cfg, "hydra")


def test_each_is_what_hydra_composes_and_none_leaves_a_trace_in_another(loader: ConfigLoaderImpl) -> None:
    jobs = JobLoader(loader, "train")
    for overrides in [*JOBS, *reversed(JOBS)]:
        cfg = jobs.load(overrides)
        alone = loader.load_configuration("train", list(overrides), RunMode.RUN)
        assert content(cfg) == content(alone), overrides
        with open_dict(cfg):
            cfg.latent_dim = -1
            cfg.encoder["left"] = cfg.hydra.runtime.choices["left"] = "behind"


def test_what_hydra_refuses_is_refused_in_its_words(loader: ConfigLoaderImpl) -> None:
    jobs = JobLoader(loader, "train")
    for overrides in WRONG:
        jobs.load(("latent_dim=2",))
        with pytest.raises((HydraException, ValueError)) as alone:
            loader.load_configuration("train", list(overrides), RunMode.RUN)
        with pytest.raises(type(alone.value)) as found:
            jobs.load(overrides)
        assert str(found.value) == str(alone.value)
        assert str(found.value.__cause__) == str(alone.value.__cause__)


def test_where_files_are_searched_for_is_each_job_s_own(loader: ConfigLoaderImpl, tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / str(number) / "encoder"
        folder.mkdir(parents=True)
        (folder / "mine.yaml").write_text(f"hidden: [{number}]")
    jobs = JobLoader(loader, "train")
    for number in (1, 2, 1):
        cfg = jobs.load((f"hydra.searchpath=[file://{tmp_path}/{number}]", "encoder=mine"))
        assert cfg.encoder.hidden == [number]


def test_files_are_read_once(loader: ConfigLoaderImpl, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = JobLoader(loader, "train")
    jobs.load(("latent_dim=2",))
    read: list[object] = []
    load = OmegaConf.load
    monkeypatch.setattr(OmegaConf, "load", lambda file: read.append(file.name) or load(file))
    jobs.load(("latent_dim=3", "seed=4"))
    assert read == []
    jobs.load(("encoder=conv", "decoder=conv"))
    assert [Path(str(name)).stem for name in read] == ["conv", "conv"]
