"""The edge between shell and task: refusals in process, a few real processes for what only they show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from omegaconf import DictConfig

from vaelab.commands import entry
from vaelab.commands.entry import Typed
from vaelab.errors import RunFailed, SettingError

CONFIGS = {
    "train.yaml": """
        defaults:
          [{hydra: default}, _self_, {data: mnist}, {encoder: mlp}, {likelihood: bernoulli},
           {experiment: null}]
        seed: 0
        latent_dim: 64
        name: null
        optimizer: {lr: 1.0e-3}
        """,
    "evaluate.yaml": '{defaults: [{hydra: default}, _self_, {data: mnist}], run: "???"}',
    "data/mnist.yaml": "{name: mnist, batch_size: 128}",
    "encoder/mlp.yaml": "{kind: mlp}",
    "encoder/conv.yaml": "{kind: conv, channels: 32}",
    "likelihood/bernoulli.yaml": "{kind: bernoulli}",
    "likelihood/gaussian.yaml": "{kind: gaussian, variance: learned}",
    "experiment/wide.yaml": """
        # @package _global_
        defaults: [{override /encoder: conv}]
        latent_dim: 128
        """,
    "experiment/broken.yaml": """
        # @package _global_
        defaults: [{override /encoder: res}]
        """,
    "device/gpu.yaml": "{kind: gpu}",  # which no command takes
    "experiment/damaged.yaml": "seed: [1,",
    "hydra/default.yaml": """
        defaults: [{override job_logging: none}, {override hydra_logging: none}]
        output_subdir: null
        run: {dir: .}
        sweep: {dir: "${vaelab.scratch:}", subdir: .}
        help: {template: "${hydra.help.app_name} takes\\n${vaelab.groups:}"}
        """,
}


class Command:
    """``vae-train`` with a task of the test's, standing in an empty folder."""

    def __init__(self, configs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.configs, self.capsys = configs, capsys
        self.seen: list[tuple[DictConfig, Typed]] = []
        self.raises: dict[int, BaseException] = {}  # latent_dim -> what the task raises there

    def task(self, cfg: DictConfig, typed: Typed) -> float | None:
        self.seen.append((cfg, typed))
        if cfg.get("latent_dim") in self.raises:
            raise self.raises[cfg.latent_dim]
        return -float(cfg.get("latent_dim", 0))

    def __call__(self, *argv: str, name: str = "train") -> tuple[int, str, str]:
        status = entry.run(name, self.task, argv=argv, config_dir=self.configs)
        out, err = self.capsys.readouterr()
        assert os.listdir() in ([], [".env"], ["configs"]), "something was written where the person stands"
        return status, out, err


@pytest.fixture
def vae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    for path, text in CONFIGS.items():
        (tmp_path / "own" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / path).write_text(dedent(text))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return Command(tmp_path / "own", capsys)


def test_the_task_gets_the_resolved_configuration_and_what_was_typed(vae: Command) -> None:
    status, _, err = vae("experiment=wide", "name=d${latent_dim}", "hydra.verbose=false")
    ((cfg, typed),) = vae.seen
    assert (status, err) == (0, "")
    assert (cfg.encoder.kind, cfg.latent_dim, cfg.name) == ("conv", 128, "d128")
    assert typed == Typed(
        command="vae-train",
        overrides=("experiment=wide", "name=d${latent_dim}"),
        choices={"data": "mnist", "encoder": "conv", "likelihood": "bernoulli", "experiment": "wide"},
        experiment="wide",
    )


REFUSALS = {
    "encoder=cnv": "no such entry in group 'encoder'; allowed: conv, mlp (did you mean 'conv'?)",
    "encoder=3": "no such entry in group 'encoder'; allowed: conv, mlp",
    "encoder=null": "no such entry in group 'encoder'; allowed: conv, mlp",
    "encodr=conv": "unknown setting (did you mean 'encoder'?)",
    "latent_dmi=3": "unknown setting (did you mean 'latent_dim'?)",
    "lr=0.1": "unknown setting (did you mean 'optimizer.lr'?)",
    "zzz=1": "unknown setting; see vae-train --help",
    "data.batchsize=3": "unknown setting; data has batch_size, name (did you mean 'data.batch_size'?)",
    "likelihood.variance=1": "unknown setting with likelihood=bernoulli; it belongs to likelihood=gaussian",
    "latent_dim": "a setting is typed as name=value",
    "=3": "the name before '=' is missing",
    "latent_dim=[1,2": "cannot be read as name=value; close every bracket and quote, or quote the value: "
    "'latent_dim=\"[1,2\"'",
    "latent_dim=2,8": "several values need the flag -m; a list needs brackets: latent_dim=[2,8]",
    "latent_dim=range(1,3)": "several values need the flag -m",
    "+latent_dim=3": "the setting 'latent_dim' is there already; type latent_dim=3",
    "+encoder=conv": "the group 'encoder' is there already; type encoder=conv",
    "+latent_dmi=3": "vae-train has no setting 'latent_dmi' to read (did you mean 'latent_dim'?)",
    "++latent_dmi=3": "vae-train has no setting 'latent_dmi' to read (did you mean 'latent_dim'?)",
    "~foo": "there is no setting 'foo' to leave out",
    "name=${seeed}": "there is no setting 'seeed' (did you mean 'seed'?)",
    "name=${no:1}": "Unsupported interpolation type no",
    "hydra.job.num=maybe": "Value 'maybe' of type 'str' could not be converted to Integer",
    "--epochs=3": "unknown flag (a setting has no dashes: epochs=3)",
    "--mutlirun": "unknown flag (did you mean '--multirun'?)",
}


@pytest.mark.parametrize("typed", REFUSALS)
def test_refusal_is_one_line_with_setting_value_and_what_is_allowed(vae: Command, typed: str) -> None:
    assert vae(typed) == (2, "", f"vae-train: {typed}: {REFUSALS[typed]}\n")
    assert not vae.seen


NO_CNV = "encoder=cnv: no such entry in group 'encoder'; allowed: conv, mlp (did you mean 'conv'?)"


@pytest.mark.parametrize(
    "argv, message",
    [
        (["seed=1", "seed=2"], "seed=2: seed is given twice (before as seed=1)"),
        (["encoder=conv", "encoder=mlp"], "encoder=mlp: encoder is given twice (before as encoder=conv)"),
        (
            ["-m", "--cfg", "job"],
            "Only one of --run, --multirun, --cfg, --info and --shell_completion can be specified",
        ),
        (["-m", "encoder=conv,cnv"], NO_CNV),
        (
            ["-m", "latent_dim=interval(1,2)"],
            "latent_dim=interval(1,2): an interval needs a search, hydra/sweeper=optuna; otherwise list values: a,b,c",
        ),
        (["-cn", "nope"], "there is no config 'nope'"),
        (
            ["experiment=broken"],
            "experiment/broken.yaml: encoder=res: no such entry in group 'encoder'; allowed: conv, mlp",
        ),
        (["experiment=wide", "latent_dmi=1"], "latent_dmi=1: unknown setting (did you mean 'latent_dim'?)"),
        (["--help", "encoder=cnv"], NO_CNV),
    ],
)
def test_refusal_of_several_words(vae: Command, argv: list[str], message: str) -> None:
    assert vae(*argv) == (2, "", f"vae-train: {message}\n")


def test_a_run_of_a_sweep_is_named_as_it_is_called(vae: Command) -> None:
    run = vae.configs.with_name("latent_dim=2,seed=0_1f3a")
    run.mkdir()
    assert vae(f"run={run}", name="evaluate")[0] == 0
    cfg, typed = vae.seen[-1]
    assert cfg.run == str(run)
    assert typed.overrides == (f"run='{run}'",)
    assert vae(f"run={run}4", name="evaluate")[0] == 2  # there is none


def test_refusal_of_a_damaged_config_names_file_and_line(vae: Command) -> None:
    status, out, err = vae("experiment=damaged")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "damaged.yaml, line 1: not valid YAML: " in err


def test_missing_value_and_a_group_of_another_command(vae: Command) -> None:
    message = "vae-evaluate: run: has to be given, as in vae-evaluate run=VALUE\n"
    assert vae(name="evaluate") == (2, "", message)
    fixed = "the run's own, with which its weights were trained; vae-train makes a run with another\n"
    assert vae("run=x", "encoder=conv", name="evaluate")[2] == f"vae-evaluate: encoder=conv: {fixed}"
    assert vae("run=x", "device=gpu", name="evaluate")[2] == (
        "vae-evaluate: device=gpu: vae-evaluate takes no 'device'; it takes data\n"
    )
    assert vae("run=x", "+encoder=conv", name="evaluate")[2] == (
        "vae-evaluate: +encoder=conv: vae-evaluate has no setting 'encoder' to read\n"
    )
    assert vae("run=x", name="evaluate")[0] == 0


@pytest.mark.parametrize(
    "error, status, err",
    [
        (SettingError("latent_dim", 8, "is too small"), 2, "vae-train: latent_dim=8: is too small\n"),
        (RunFailed("the loss is not finite"), 1, "vae-train: the loss is not finite\n"),
        (RunFailed("interrupted", 75), 75, "vae-train: interrupted\n"),
        (KeyboardInterrupt(), 130, "vae-train: stopped by Ctrl-C\n"),
    ],
)
def test_what_the_task_raises(vae: Command, error: BaseException, status: int, err: str) -> None:
    vae.raises[8] = error
    assert vae("latent_dim=8") == (status, "", err)


def test_a_mistake_of_ours_shows_its_traceback(vae: Command) -> None:
    from hydra.errors import HydraException

    vae.raises[8] = HydraException("raised by the task, not while composing")
    status, _, err = vae("latent_dim=8")
    assert status == 1
    assert err.startswith("Traceback")
    assert err.endswith("HydraException: raised by the task, not while composing\n")


def test_a_person_can_ask_for_tracebacks(vae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    status, _, err = vae("latent_dmi=3")
    assert status == 2
    assert err.startswith("Traceback")
    assert err.endswith("did you mean 'latent_dim'?)\n")
    vae.task = lambda cfg, typed: vae.seen.append((os.environ["HYDRA_FULL_ERROR"], typed))  # type: ignore
    vae()
    assert vae.seen[0][0] == "1"


def test_children_of_the_task_do_not_inherit_what_hydra_needs(vae: Command) -> None:
    vae.task = lambda cfg, typed: vae.seen.append((os.environ.get("HYDRA_FULL_ERROR"), typed))  # type: ignore
    assert vae()[0] == 0
    assert vae.seen[0][0] is None
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_configs_where_the_person_stands_come_first_for_our_apps_only(vae: Command) -> None:
    from hydra import compose, initialize_config_dir

    Path("configs/encoder").mkdir(parents=True)
    Path("configs/encoder/mine.yaml").write_text("kind: mine")
    Path("configs/encoder/mlp.yaml").write_text("kind: mine instead")
    assert vae("encoder=mine")[0] == 0
    assert vae()[0] == 0
    assert [cfg.encoder.kind for cfg, _ in vae.seen] == ["mine", "mine instead"]
    with initialize_config_dir(str(vae.configs), version_base="1.3"):  # any other app of the environment
        assert compose("train").encoder.kind == "mlp"


def test_env_file_up_to_the_repository_and_what_is_set_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "repository" / "deeper" / "still"
    inner.mkdir(parents=True)
    (tmp_path / "repository" / ".git").mkdir()
    (tmp_path / ".env").write_text("VAELAB_A=outside")
    monkeypatch.chdir(inner)
    monkeypatch.setenv("VAELAB_B", "set")
    monkeypatch.setenv("VAELAB_A", "")  # so that it is restored
    monkeypatch.delenv("VAELAB_A")
    entry.load_env_file()
    assert "VAELAB_A" not in os.environ
    (tmp_path / "repository" / ".env").write_text("VAELAB_A=inside\nVAELAB_B=file")
    entry.load_env_file()
    assert (os.environ["VAELAB_A"], os.environ["VAELAB_B"]) == ("inside", "set")


def test_idle_threads_sleep_unless_the_person_says_otherwise(
    vae: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ})
    vae("latent_dim=3")
    assert os.environ["GOMP_SPINCOUNT"] == "10000"
    monkeypatch.setattr(os, "environ", {**os.environ, "GOMP_SPINCOUNT": "7"})
    vae("latent_dim=3")
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_help_and_cfg(vae: Command) -> None:
    assert vae("--help") == (
        0,
        "vae-train takes\n"
        "  data        [mnist]\n"
        "  encoder     conv, [mlp]\n"
        "  experiment  broken, damaged, wide\n"
        "  likelihood  [bernoulli], gaussian\n",
        "",
    )
    assert vae("--help", name="evaluate")[1] == "vae-evaluate takes\n  data  [mnist]\n"
    status, out, _ = vae("--cfg", "job", "--resolve", "name=d${latent_dim}")
    assert status == 0
    assert "name: d64" in out


@pytest.mark.parametrize(
    "argv, environment, status, expected",
    [
        (["--help"], {}, 0, "encoder     conv, [mlp]"),
        (["latent_dmi=3"], {}, 2, "did you mean 'latent_dim'?"),
        (["-sc", "query=bash"], {"COMP_LINE": "vae-train encoder="}, 0, "encoder=conv encoder=mlp"),
    ],
)
def test_answered_without_torch(
    vae: Command, argv: list[str], environment: dict[str, str], status: int, expected: str
) -> None:
    script = dedent(f"""
        import sys
        from pathlib import Path
        from vaelab.commands import entry
        status = entry.run("train", lambda cfg, typed: None, config_dir=Path({str(vae.configs)!r}))
        heavy = {{"torch", "lightning", "numpy", "matplotlib", "wandb"}} & set(sys.modules)
        print("heavy:", sorted(heavy))
        sys.exit(status)
        """)
    source = str(Path(entry.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script, *argv],
        env={**os.environ, "PYTHONPATH": source, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == status
    assert expected in done.stdout
    assert "heavy: []" in done.stdout


def test_a_closed_pipe_is_quiet(vae: Command) -> None:
    script = (
        "import os, sys; from pathlib import Path; from vaelab.commands import entry\n"
        "reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1)\n"
        f"sys.exit(entry.run('train', lambda cfg, typed: None, config_dir=Path({str(vae.configs)!r})))"
    )
    source = str(Path(entry.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script, "--help"],
        env={**os.environ, "PYTHONPATH": source},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("key", entry.NOT_HYDRAS)
def test_what_hydra_would_decide_elsewhere_is_refused_and_not_ignored(
    vae: Command, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    status, out, err = vae(f"{key}=x")
    assert (status, out) == (2, "")
    assert err.startswith(f"vae-train: {key}=x: ")
    monkeypatch.setenv("LOCAL_RANK", "1")
    unchanged = {"hydra.output_subdir": "null", "hydra.job.chdir": "false"}.get(key, ".")
    assert vae(f"{key}={unchanged}")[0] == 0


@pytest.mark.parametrize("name", ["sample", "encode", "detect", "evaluate"])
def test_help_of_a_command_for_a_finished_run_has_all_its_settings(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def task(*_: object) -> None:
        raise AssertionError

    assert entry.run(name, task, argv=["--help"]) == 0
    out = capsys.readouterr().out
    own = (entry.config_directory(name) / f"{name}.yaml").read_text(encoding="utf-8").partition("\n\n")[2]
    assert "  checkpoint: selected # selected | best | last\n" in out
    for line in own.splitlines():
        assert f"  {line}\n" in out
    assert "-m" not in out
