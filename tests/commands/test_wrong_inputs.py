"""What a person can get wrong: exit status 2, one message with setting, value and rule, and nothing is left behind."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vaelab.commands import entry, evaluate, sample, train
from vaelab.errors import SettingError
from vaelab.experiments.check import check

TASKS = {"train": train.task, "evaluate": evaluate.task, "sample": sample.task}
SMALL = ("data=digits", "logger=none")
REPOSITORY = Path(__file__).resolve().parents[2]

Refused = Callable[..., str]


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory of the tests' own: decoding the digits may leave its cache there."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def refused(
    tmp_path: Path, digits_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """(command, what is typed) -> the one message; everything else that a refusal promises is asserted here."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("DATA_DIR", str(digits_dir))

    def _refused(command: str, *argv: str) -> str:
        def everything() -> set[Path]:
            return {*tmp_path.rglob("*"), *(REPOSITORY / "logs").rglob("*")}

        before = everything()
        plan = train.planned if command == "train" else None
        status = entry.run(command, TASKS[command], planned=plan, argv=argv)
        out, err = capsys.readouterr()
        assert status == 2, out + err
        assert everything() == before, "something was left behind"
        assert "Traceback" not in out + err
        assert err.count(f"vae-{command}: ") == 1
        assert err.startswith(f"vae-{command}: ")
        assert out == ""
        return err.removeprefix(f"vae-{command}: ").removesuffix("\n")

    return _refused


INTEGER, POSITIVE, SEED = (
    "must be an integer >= 0",
    "must be a positive integer",
    "must be an integer from 0 to 2**63 - 1",
)
VALIDATION = "must be what validation measures, val/elbo, val/rate, val/distortion, val/active_units, val/accuracy, because it selects the checkpoint"
NO_EFFECT = "has no effect under manual optimisation: use"
# what is typed -> the message behind it; (setting=value, rule) where what is wrong is called otherwise than it was typed
WRONG: dict[str, str | tuple[str, str]] = {
    # names
    "encoder=mpl": "no such entry in group 'encoder'; allowed: conv, gated_conv, gated_mlp, mlp, resnet (did you mean 'mlp'?)",
    "experiment=refrence": "no such entry in group 'experiment'; allowed: augmentation, comparison, iwae_iwae5, iwae_iwae50, iwae_iwae50_text, iwae_iwae5_text, iwae_vae1, iwae_vae1_text, iwae_vae50, iwae_vae50_text, quickstart, rate_distortion, reference, search, semi_supervised, supervised (did you mean 'reference'?)",
    "latent_dmi=3": "unknown setting (did you mean 'latent_dim'?)",
    "+encoder.hiden=[3]": ("encoder.hiden=[3]", "unknown; allowed: hidden, activation (did you mean 'hidden'?)"),
    "likelihood.variance=pixel": "unknown setting with likelihood=bernoulli; it belongs to likelihood=gaussian",
    "encoder._target_=os.system": "is not among the things a configuration may build (public names of vaelab, or an entry point of vaelab.components)",
    "~latent_dim": ("latent_dim", "has to be given"),
    "data=cifar": "no such entry in group 'data'; allowed: arrays, binarized_mnist, caltech_silhouettes, digits, emnist, fashion_mnist, folder, frey_faces, kmnist, mnist, usps",
    # the run
    "latent_dim=-1": POSITIVE,
    "latent_dim=two": POSITIVE,
    "seed=-1": SEED,
    "name=a/b": "must be text that can name one directory, without separators",
    "paths.log_dir=/proc/x": "must be a directory that can be written to (",
    "score.mode=best": "must be one of max, min",
    "score.name=val/elbow": f"{VALIDATION} (did you mean 'val/elbo'?)",
    "estimator.num_samples=-1": POSITIVE,
    # data and likelihood
    "data.pixel_range=[-1,1]": ("data.pixel_range=[-1.0, 1.0]", "likelihood=bernoulli takes pixels in [0, 1]; use [0, 1], or likelihood=gaussian"),
    "data.val_size=5000": "must be an integer from 0 to 1436, the training images less one, or null",
    "data.batch_size=0": POSITIVE,
    "data.binarize=dynamical": "must be one of none, threshold, fixed, dynamic (did you mean 'dynamic'?)",
    "data.dequantize=True": "only a likelihood that is a density, such as gaussian or laplace, takes dequantised pixels",
    # networks, objective, optimizer
    "decoder.hidden=[]": "must be a list of one or more positive integers, e.g. [512, 256]",
    "objective.beta=-1": "must be a number >= 0",
    "objective.beta=true": ("objective.beta=True", "must be a number >= 0"),
    "objective.kl=analytic": "must be one of auto, closed_form, monte_carlo",
    "optimizer.lr=nan": "must be a number > 0",
    "optimizer.betas=[2,0]": ("optimizer.betas=[2, 0]", "must be two numbers >= 0 and below 1"),
    # trainer
    "+trainer.gradient_clip_val=1": ("trainer.gradient_clip_val=1", f"{NO_EFFECT} optimizer.clip_norm"),
    "trainer.gradient_clip_val=1": f"{NO_EFFECT} optimizer.clip_norm",
    "+trainer.accumulate_grad_batches=2": ("trainer.accumulate_grad_batches=2", f"{NO_EFFECT} optimizer.accumulate"),
    "trainer.precision=12": "Precision 12 is invalid. Allowed precision values: (",
    "trainer.accelerator=gpuu": "You selected an invalid accelerator name: `accelerator='gpuu'`. Available names are: ",
    "trainer.max_epochs=0": f"{POSITIVE} or -1",
}  # fmt: skip


# what is checked without torch, put into a configuration as it stands: composing takes half a second
CHECKED: dict[str, tuple[Any, str]] = {
    "latent_dim": (2.5, POSITIVE),
    "seed": (2**63, SEED),
    "data.noise_seed": (-1, SEED),
    "tags": ("mine", "must be a list, as in tags=[mine]"),
    "name": (3, "must be text that can name one directory, without separators"),
    "paths.log_dir": (None, "must be the name of a directory"),
    "score": (None, "must be a group of settings"),
    "score.name": ("test/elbo", VALIDATION),
    "logger.name": ("wandbb", "must be one of none, wandb (did you mean 'wandb'?)"),
    "logger.project": ("vaelab", "unknown setting, nobody would read it; logger has name"),
    "data.fallback": ("digts", "must be one of null, mnist, fashion_mnist, binarized_mnist, kmnist, emnist, usps, frey_faces, caltech_silhouettes, digits (did you mean 'digits'?)"),
    "optimizer.accumulate": (0, POSITIVE),
    "optimizer.clip_norm": ("tight", "must be null or a number > 0"),
    "optimizer.fused": ("perhaps", "must be one of auto, True, False"),
    "callbacks.tracker_pictures.every_n_epochs": (0, POSITIVE),
    "checkpoints.every_n_steps": (0, f"{POSITIVE} or null"),
    "train_only": ("prior", "needs init_from: the weights that are not trained would stay random"),
    "trainer.precision": ("bf16-true", "16 bits are too few for pixels and densities; use bf16-mixed"),
    "trainer.max_steps": (0, f"{POSITIVE} or -1"),
    "trainer.max_epochs": (-1, "the run has no end: give max_epochs or max_steps"),
    "trainer.check_val_every_n_epoch": (0, POSITIVE),
    "trainer.limit_test_batches": (0, "must be null, a positive integer or a fraction of the batches: every run is tested"),
    "trainer.overfit_batches": (2, f"{NO_EFFECT} debug=overfit, or data.train_size"),
}  # fmt: skip


@pytest.fixture(scope="module")
def valid() -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", overrides=[*SMALL]), resolve=True)
    return config


@pytest.mark.parametrize("setting", CHECKED)
def test_the_check_before_torch(
    valid: dict[str, Any], setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value, rule = CHECKED[setting]
    config = copy.deepcopy(valid)
    check(config)
    *groups, key = setting.split(".")
    node = config
    for group in groups:
        node = node[group]
    node[key] = value
    with pytest.raises(SettingError) as caught:
        check(config)
    assert (caught.value.setting, caught.value.received) == (setting, value)
    assert str(caught.value).partition(": ")[2] == rule
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("typed", WRONG)
def test_one_wrong_setting(refused: Refused, typed: str) -> None:
    wrong = WRONG[typed]
    setting, rule = (typed, wrong) if isinstance(wrong, str) else wrong
    base = [o for o in SMALL if o.partition("=")[0] not in (typed.partition("=")[0], typed.partition(".")[0])]
    if typed.startswith("data."):
        base.append("data=digits")
    message = refused("train", *base, typed)
    assert message.startswith(f"{setting}: {rule}")
    assert message.count("\n") == 0
    if not rule.endswith(("(", ": ")):
        assert message == f"{setting}: {rule}"


@pytest.mark.parametrize(
    "argv, message",
    [
        (("likelihood=gaussian", "likelihood.sigma=0"), "likelihood.sigma=0: must be above likelihood.sigma_floor, here 0.0294118"),
        (
            ("likelihood=gaussian", "likelihood.variance=pixel"),
            "likelihood.variance=pixel: must be one of decoder, learned, constant",
        ),
        (("estimator=latents",), "estimator=latents: looks at a finished run: vae-evaluate run=DIR estimator=latents"),
        (
            ("estimator=ais", "data.binarize=threshold", "latent_dim=201"),
            "estimator=ais: is for models with at most 200 latent dimensions in all, and this one has 201; use estimator=importance",
        ),
        (("callbacks=early_stopping", "data.val_size=0"), "data.val_size=0: callbacks=early_stopping needs validation images"),
        (
            ("callbacks=early_stopping", "callbacks.early_stopping.patience=0"),
            "callbacks.early_stopping.patience=0: must be a positive integer",
        ),
        (("schedule=linear", "schedule.warmup_epochs=ten"), "schedule.warmup_epochs=ten: must be a number of epochs >= 0"),
        (("encoder=conv", "encoder.num_features=-1"), "encoder.num_features=-1: must be a positive integer"),
        (
            ("trainer.precision=16-mixed", "trainer.accelerator=cpu"),
            "trainer.precision=16-mixed: needs a GPU; bf16-mixed runs on a CPU, too",
        ),
        (
            ("optimizer.clip_norm=10", "optimizer.skip_norm=10"),
            "optimizer.skip_norm=10: must be above optimizer.clip_norm=10, or nothing is ever clipped",
        ),
        (
            ("posterior=flow", "score.name=val/active_units"),
            "score.name=val/active_units: counts only where q(z|x) of every layer has a known mean "
            "(posterior=normal, full_normal or low_rank_normal with model=vae)",
        ),
        (
            ("prior=mixture", "schedule=capacity"),
            "schedule=capacity: needs the KL in closed form: |KL - C| of a noisy estimate says little of that of its mean; "
            "use schedule=linear",
        ),
    ],
)  # fmt: skip
def test_settings_that_are_wrong_together(refused: Refused, argv: tuple[str, ...], message: str) -> None:
    assert refused("train", *SMALL, *argv) == message


@pytest.mark.parametrize(
    "argv, message",
    [
        (("latent_dim=2,-3",), "latent_dim=-3: must be a positive integer (in 1 of 2 jobs, as in latent_dim=-3)"),
        (("latent_dim=2,3", "optimizer.accumulate=0"), "optimizer.accumulate=0: must be a positive integer"),
        (
            ("latent_dim=2,3", "seed=0,-1"),
            "seed=-1: must be an integer from 0 to 2**63 - 1 (in 2 of 4 jobs, as in latent_dim=2 seed=-1)",
        ),
        (("latent_dim=range(3,3)",), "latent_dim=range(3,3): holds no value: there is no job"),
        (("latent_dim=",), "latent_dim=: must be a positive integer"),
        (("latent_dim=choice()",), "latent_dim=choice(): holds no value"),
        (("latent_dim=2,",), "latent_dim=2,: a value is missing beside a comma"),
        (("latent_dim=range(1,2,0)",), "latent_dim=range(1,2,0): range() arg 3 must not be zero"),
        (("latent_dimm=2,4",), "latent_dimm=2,4: unknown setting (did you mean 'latent_dim'?)"),
        (("encoder=",), "encoder=: no such entry in group 'encoder'; allowed: conv, gated_conv, gated_mlp, mlp, resnet"),
        (
            ("encoder=mlp,cov",),
            "encoder=cov: no such entry in group 'encoder'; allowed: conv, gated_conv, gated_mlp, mlp, resnet (did you mean 'conv'?)",
        ),
        (("encoder=mlp,conv", "encoder.hidden=[8]"), "encoder.hidden=[8]: unknown setting with encoder=conv; it belongs to encoder=gated_mlp, encoder=mlp (in 1 of 2 jobs, as in encoder=conv)"),
        (("latent_dim=2,3", "latent_dim=4"), "latent_dim=4: latent_dim is given twice (before as latent_dim=2,3)"),
        (("latent_dim=2,3,-4", "hydra/launcher=basic"), "latent_dim=-4: must be a positive integer (in 1 of 3 jobs, as in latent_dim=-4)"),
        (("seed=0,1", "hydra.sweeper.max_batch_size=0"), "hydra.sweeper.max_batch_size=0: must be a positive integer or null"),
        (("score.name=val/foo", "seed=0,1"), f"score.name=val/foo: {VALIDATION} (did you mean 'val/elbo'?)"),
        (
            ("score.name=val/elbo,val/foo",),
            f"score.name=val/foo: {VALIDATION} (did you mean 'val/elbo'?) (in 1 of 2 jobs, as in score.name=val/foo)",
        ),
        (("latent_dim=2,3", "sweep.retries=2"), "sweep.retries=2: unknown setting; sweep has name, objectives, pruner, pruner_options, retry, sampler, sampler_options, seed, slots, stack_size, storage, threads, trials (did you mean 'sweep.retry'?)"),
        (("latent_dim=2,3", "sweep.retry=-1"), "sweep.retry=-1: must be an integer >= 0"),
        (("latent_dim=2,3", "sweep.slots=0"), "sweep.slots=0: must be a positive integer or null"),
        (("latent_dim=2,3", "sweep.name=a/b"), "sweep.name=a/b: must be text that can name one directory, without separators"),
        (("latent_dim=2,3", "score.name=test/elbo"), f"score.name=test/elbo: {VALIDATION}"),
    ],
)  # fmt: skip
def test_a_sweep_is_refused_before_its_first_job(
    refused: Refused, argv: tuple[str, ...], message: str
) -> None:
    assert refused("train", *SMALL, "-m", *argv) == message


def test_a_sweep_where_its_folder_cannot_be(refused: Refused) -> None:
    Path("logs").mkdir()
    rule = "must be a directory that can be written to (Not a directory)"
    for taken in (Path("logs/sweeps"), Path("logs/sweeps/s")):
        taken.touch()
        message = refused("train", *SMALL, "-m", "seed=0,1", "sweep.name=s")
        assert message == f"paths.log_dir=logs/sweeps/s: {rule}"
        taken.unlink()
        taken.mkdir()


def test_a_sweep_of_ours_that_an_agent_of_w_b_asks_for(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    message = refused("train", *SMALL, "-m", "seed=0,1")
    assert message == "WANDB_SWEEP_ID=abc: an agent of W&B asks for one run: leave -m away"


def test_the_name_of_a_group_twice(refused: Refused) -> None:
    message = "experiment=reference: experiment is given twice (before as experiment=quickstart)"
    assert refused("train", "experiment=quickstart", "experiment=reference") == message


def test_loggers(refused: Refused) -> None:
    rule = "no such entry in group 'logger'; allowed: csv, none, tensorboard, wandb (did you mean 'wandb'?)"
    assert refused("train", "logger=wandbb") == f"logger=wandbb: {rule}"
    # what Lightning builds is refused before there is a run directory that it could write to
    message = refused("train", "data=digits", "logger=csv", "logger._target_=os.system")
    assert message.startswith("logger._target_=os.system: is not among the things a configuration may build")
    message = refused("train", "data=digits", "logger=csv", "+logger.colour=red")
    assert message.startswith("logger.colour=red: unknown; allowed: ")


@pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is an accelerator"
)
@pytest.mark.parametrize("typed", ["trainer.accelerator=gpu", "trainer=gpu"])
def test_an_accelerator_that_is_not_there(refused: Refused, typed: str) -> None:
    assert refused("train", *SMALL, typed).startswith(
        "trainer.accelerator=gpu: No supported gpu backend found"
    )


def test_a_log_directory_that_is_a_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refused("train", *SMALL, f"paths.log_dir={tmp_path}/file")
    assert (
        message
        == f"paths.log_dir={tmp_path}/file: must be a directory that can be written to (Not a directory)"
    )


def test_a_typo_in_an_experiment_file(refused: Refused, tmp_path: Path) -> None:
    """Hydra merges whatever such a file says into the configuration."""
    folder = tmp_path / "here" / "configs" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\nlatent_dmi: 3\n")
    message = refused("train", *SMALL, "experiment=mine")
    assert message.startswith("latent_dmi=3: unknown setting, nobody would read it; a run has ")
    assert message.endswith("(did you mean 'latent_dim'?)")


def test_a_part_of_an_experiment_file_that_its_model_does_not_take(refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "here" / "configs" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: ladder\n  - override /posterior: flow\n"
    )
    message = refused("train", *SMALL, "experiment=mine")
    assert message.startswith("posterior=flow: LadderVAE makes its own posterior; it takes ")


def test_a_damaged_data_file(
    refused: Refused, tmp_path: Path, mnist_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (mnist_dir / "MNIST" / "raw").glob("*.gz"):
        (raw / path.name).symlink_to(path)
    damaged = raw / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(damaged.read_bytes())
    content[1000] ^= 1
    damaged.unlink()
    damaged.write_bytes(content)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    message = refused("train", "logger=none", f"paths.data_dir={tmp_path}/data")
    assert message.startswith(f"data=mnist: a source file is damaged and is not used: {damaged}\n")
    assert (
        "digest expected  sha256 f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6\n"
        in message
    )


def test_data_that_are_not_here_and_no_network(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    message = refused("train", "logger=none", f"paths.data_dir={tmp_path}/data")
    assert message.startswith("data=mnist: is not on this machine")
    assert f"{tmp_path}/data/MNIST/raw" in message
    assert "Name or service not known" in message
    assert "data=digits needs no network" in message


def test_binary_data_are_not_binarised_again(refused: Refused, mnist_dir: Path) -> None:
    if not (mnist_dir / "BinarizedMNIST").is_dir():
        pytest.skip("the binarised MNIST is not here: set DATA_DIR")
    message = refused(
        "train", "data=binarized_mnist", "data.binarize=dynamic", "logger=none", f"paths.data_dir={mnist_dir}"
    )
    assert message == "data.binarize=dynamic: the data are binary already; use none"


@pytest.mark.parametrize("command", ["evaluate", "sample"])
def test_a_run_that_is_none(refused: Refused, tmp_path: Path, command: str) -> None:
    (tmp_path / "empty").mkdir()
    typed = {"evaluate": "run=DIR, or vae-evaluate config=FILE weights=FILE", "sample": "run=VALUE"}
    assert refused(command) == f"run: has to be given, as in vae-{command} {typed[command]}"
    assert (
        refused(command, "run=logs/nowhere")
        == "run=logs/nowhere: no such run directory (one has manifest.json)"
    )
    rule = "is not a run directory (one has manifest.json)"
    assert refused(command, f"run={tmp_path}/empty") == f"run={tmp_path}/empty: {rule}"
    nothing = refused(command) if command == "evaluate" else "run=null: must be a run directory (one has manifest.json)"  # fmt: skip
    assert refused(command, "run=null") == nothing


def test_ranks_started_from_outside_are_refused(
    compose: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would make a run of its own."""
    config = compose("data=digits")
    check(config)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingError, match="WORLD_SIZE=2: start one process"):
        check(config)
