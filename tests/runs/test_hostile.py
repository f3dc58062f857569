"""A run directory from elsewhere is data: whoever opens one executes nothing of it, waits for nothing, and neither reads nor writes outside of it."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import socket
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

import vaelab
from recorded import Payload
from vaelab.commands import entry
from vaelab.commands import evaluate as evaluate_command
from vaelab.commands import resume as resume_command
from vaelab.commands import sample as sample_command
from vaelab.commands import train as train_command
from vaelab.errors import SettingError
from vaelab.experiments import evaluate as evaluation
from vaelab.experiments import sample as drawing
from vaelab.experiments.assembly import assemble
from vaelab.experiments.parent import Parent, inherited
from vaelab.experiments.resume import resume
from vaelab.experiments.train import train
from vaelab.runs import RunDirectory, read_cards, table

TRAIN = ("data=digits", "data.train_size=100", "data.val_size=20", "latent_dim=2", "encoder.hidden=[8]", "decoder.hidden=[8]", "trainer=cpu",
         "trainer.max_epochs=1", "trainer.enable_progress_bar=false", "estimator=elbo", "callbacks=none", "logger=wandb")  # fmt: skip
SECONDS = 30  # a reader that takes longer hangs; each takes less than one
SECRET = "the value of a variable"

CANARY = "canary"  # what would be executed makes this file in the folder of other people's things


@dataclass(frozen=True)
class World:
    """Where a test takes place: a copy of an honest run, and a folder beside it that is nobody's business."""

    run: Path
    outside: Path

    @property
    def canary(self) -> Path:
        return self.outside / CANARY

    def config(self, change: Callable[[dict[str, Any]], None]) -> None:
        path = self.run / "config.yaml"
        config = yaml.safe_load(path.read_text())
        change(config)
        path.write_text(yaml.safe_dump(config))

    def manifest(self, change: Callable[[dict[str, Any]], None]) -> None:
        path = self.run / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    def state(self) -> dict[str, tuple[int, int, int]]:
        """All that lies in both places, with sizes and times: whether anything was written."""
        return {
            str(path): (path.lstat().st_mode, path.lstat().st_size, path.lstat().st_mtime_ns)
            for root in (self.run, self.outside)
            for path in (root, *root.rglob("*"))
        }


def composed(config_name: str, *overrides: str) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(Path(__file__).resolve().parents[2] / "configs"), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose(config_name, overrides=list(overrides)), resolve=True)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An honest run with the tracker's files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        logs = tmp_path_factory.mktemp("logs")
        run = train(composed("train", *TRAIN, f"paths.log_dir={logs}")).directory
    (inside,) = (run / "wandb").glob("offline-run-*")
    # what W&B leaves where it is not told otherwise: links with absolute targets, which a copy does not move
    (run / "wandb" / "latest-run").symlink_to(inside)
    (run / "wandb" / "debug.log").symlink_to(inside / "logs" / "debug.log")
    (run / "wandb" / "debug-internal.log").symlink_to("/nowhere/debug-internal.log")
    return run


@pytest.fixture
def world(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    run, outside = tmp_path / "copied" / trained.name, tmp_path / "outside"
    shutil.copytree(trained, run, symlinks=True)
    outside.mkdir()
    (outside / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    monkeypatch.setenv("VAELAB_TEST_SECRET", SECRET)

    def hung(*_: object) -> None:
        raise AssertionError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(SECONDS)
    yield World(run, outside)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# -- readers ---------------------------------------------------------------------------------------------------------------------------------------------------


def load(run: Path) -> None:
    vaelab.load(run)


def evaluate(run: Path, checkpoint: str = "selected") -> None:
    options = composed("evaluate", f"run={run}", "estimator=elbo", "num_images=8", f"checkpoint={checkpoint}")
    evaluation.evaluate(options)


def evaluate_last(run: Path) -> None:
    evaluate(run, "last")


def sample(run: Path) -> None:
    drawing.sample(composed("sample", f"run={run}", "num_samples=4"))


def init_from(run: Path) -> None:
    parent = Parent.open(str(run))
    assemble(inherited(parent.config, composed("train", f"init_from={run}", "logger=none"), ()), parent)


def resumed(run: Path) -> None:
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"status": "interrupted"}))
    before = (run / "status.json").lstat()
    try:
        resume(run)
    finally:  # what this function itself has changed is no trace of the reader
        assert (run / "status.json").lstat().st_mtime_ns == before.st_mtime_ns


def shown(run: Path) -> str:
    """What ``vae-runs`` prints of it."""
    console = Console(record=True, width=400, file=open(os.devnull, "w"))  # noqa: SIM115, closed with the console
    console.print(table.render(table.rank([table.read_row(RunDirectory(run))])))
    console.file.close()
    return console.export_text()


BUILDING = (load, evaluate, sample, init_from, resumed)  # all that do more than show it
MEASURING = (evaluate, sample)
WEIGHTS = (load, init_from, *MEASURING)

# -- what is done to a run -------------------------------------------------------------------------------------------------------------------------------------


def signed(path: Path) -> None:
    path.with_name(f"{path.name}.sha256").write_text(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
    )


def pickled(name: str, *, as_zip: bool) -> Callable[[World], None]:
    def change(world: World) -> None:
        path = world.run / name
        if as_zip:
            torch.save({"state_dict": Payload(world.canary), "global_step": 1}, path)
        else:
            path.write_bytes(pickle.dumps(Payload(world.canary)))
        signed(path)

    return change


def compressed_checkpoint(world: World) -> None:
    path = world.run / "checkpoints" / "last.ckpt"
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in members.items():
            new.writestr(name, content)
    signed(path)


def another_models_checkpoint(world: World) -> None:
    path = world.run / "checkpoints" / "last.ckpt"
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, path)
    signed(path)


def setting(key: str, value: Any) -> Callable[[World], None]:
    """``value`` may hold ``{outside}``."""

    def change(world: World) -> None:
        def into(config: dict[str, Any]) -> None:
            *groups, last = key.split(".")
            for group in groups:
                config = config[group]
            text = json.dumps(value).replace("{outside}", str(world.outside))
            config[last] = json.loads(text)

        world.config(into)

    return change


def yaml_text(text: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        path = world.run / "config.yaml"
        path.write_text(path.read_text() + text.replace("{canary}", str(world.canary)))

    return change


def whole(name: str, content: bytes) -> Callable[[World], object]:
    return lambda world: (world.run / name).write_bytes(content)


def sparse(name: str, size: int = 1 << 40) -> Callable[[World], None]:
    """A file without blocks that says it has a tebibyte."""
    return lambda world: os.truncate(world.run / name, size)


def linked(name: str, target: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        path = world.run / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(target.replace("{outside}", str(world.outside)))

    return change


def fifo(name: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        (world.run / name).unlink(missing_ok=True)
        os.mkfifo(world.run / name)

    return change


def a_socket(world: World) -> None:
    here = os.getcwd()
    os.chdir(world.run)  # the address of a socket has a hundred characters
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("evaluations.sock")
    finally:
        os.chdir(here)


LAUGHS = "\nl0: &l0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
TARGET = {"_target_": "os.system", "command": "touch {outside}/canary"}
ANYTHING = ".*"


@dataclass(frozen=True)
class Hostile:
    """What is done to a run, who refuses it, in which words, and what the table of runs says of it (None = it has no reason to look there)."""

    change: Callable[[World], object]
    readers: tuple[Callable[[Path], None], ...]
    words: str
    table: str | None = None


REFUSED, CONFIG = "refused", "config.yaml: unreadable"
HOSTILE: dict[str, Hostile] = {
    # -- a checkpoint runs nothing
    "a pickle for last.ckpt": Hostile(pickled("checkpoints/last.ckpt", as_zip=False), (evaluate_last,), r"last\.ckpt.*cannot be read"),
    "a pickle in last.ckpt": Hostile(pickled("checkpoints/last.ckpt", as_zip=True), (evaluate_last,), r"last\.ckpt.*cannot be read"),
    "a pickle for model.safetensors": Hostile(pickled("model.safetensors", as_zip=False), WEIGHTS, r"model\.safetensors.*read safely"),
    "a pickle in model.safetensors": Hostile(pickled("model.safetensors", as_zip=True), WEIGHTS, r"model\.safetensors.*read safely"),
    "a compressed checkpoint": Hostile(compressed_checkpoint, (evaluate_last,), r"last\.ckpt.*compressed"),
    "a checkpoint of another model": Hostile(another_models_checkpoint, (evaluate_last,), r"last\.ckpt.*weights of another model"),
    "a header of weights without end": Hostile(whole("model.safetensors", b"\xff" * 16), WEIGHTS, r"model\.safetensors"),
    # -- only what is allowed is built
    "os.system": Hostile(setting("encoder", TARGET), BUILDING, r"encoder\._target_=os\.system"),
    "eval": Hostile(setting("decoder._target_", "builtins.eval"), BUILDING, r"decoder\._target_=builtins\.eval"),
    "exec": Hostile(setting("likelihood._target_", "builtins.exec"), BUILDING, r"likelihood\._target_=builtins\.exec"),
    "a module of a room": Hostile(setting("encoder._target_", "vaelab.networks.mlp.torch.load"), BUILDING, "may build"),
    "an attribute of a room": Hostile(setting("encoder._target_", "vaelab.networks.__builtins__"), BUILDING, "may build"),
    "letters that look alike": Hostile(setting("encoder._target_", "vaelab.networks.MLPEnc\u043eder"), BUILDING, "may build"),
    "a list of targets": Hostile(setting("encoder._target_", ["os.system", "true"]), BUILDING, "may build"),
    "a target of another group": Hostile(
        setting("prior", {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "save_dir": "{outside}"}), BUILDING, r"prior\._target_.*may build"),
    "a nested target": Hostile(setting("encoder.hidden", [TARGET]), BUILDING, r"encoder\.hidden\[0\]\._target_.*nothing is built"),
    "nested partials": Hostile(
        setting("encoder.activation", {"a": {"_target_": "functools.partial", "_partial_": True, "_args_": ["os.system"]}}), BUILDING, "nothing is built"),
    "a partial": Hostile(setting("encoder._partial_", True), BUILDING, r"encoder\._partial_"),
    "a callable by its name": Hostile(setting("encoder.activation", "os.system"), BUILDING, "must be one of"),
    "words for the terminal": Hostile(setting("encoder._target_", "\x1b[2Jos.system"), BUILDING, r"encoder\._target_=.\[2Jos\.system"),
    # -- nothing is resolved
    "a variable of the environment": Hostile(setting("name", "${oc.env:VAELAB_TEST_SECRET}"), BUILDING, r"config\.yaml.*interpolation in name"),
    "a resolver in a list": Hostile(setting("tags", ["x", "${oc.decode:${oc.env:HOME}}"]), BUILDING, r"config\.yaml.*interpolation in tags\[1\]"),
    "a resolver in a key": Hostile(setting("paths", {"${oc.env:HOME}": 1}), BUILDING, r"config\.yaml.*interpolation"),
    # -- YAML and JSON are plain, and no larger than they look
    "a tag of Python": Hostile(yaml_text("\nx: !!python/object/apply:os.system ['touch {canary}']\n"), BUILDING, r"config\.yaml.*python", CONFIG),
    "a billion laughs": Hostile(yaml_text(LAUGHS), BUILDING, r"config\.yaml.*more than 100,000 values", CONFIG),
    "an alias of itself": Hostile(yaml_text("\nx: &x [*x]\n"), BUILDING, r"config\.yaml.*alias 'x'", CONFIG),
    "nested by aliases": Hostile(
        yaml_text("\nl0: &l0 [x]\n" + "".join(f"l{i}: &l{i} [*l{i - 1}]\n" for i in range(1, 100))), BUILDING, r"config\.yaml.*nested", CONFIG),
    "nested without end": Hostile(yaml_text("\nx:\n  " + "- " * 200_000 + "x\n"), BUILDING, r"config\.yaml.*nested", CONFIG),
    "brackets without end": Hostile(yaml_text("\nx: " + "[" * 200_000), BUILDING, r"config\.yaml.*nested", CONFIG),
    "a number that takes hours": Hostile(yaml_text("\nx: 1" + ":59" * 300_000), BUILDING, r"config\.yaml.*characters", CONFIG),
    "a set": Hostile(yaml_text("\nx: !!set {a, b}\n"), BUILDING, r"config\.yaml.*is set", CONFIG),
    "a configuration without end": Hostile(sparse("config.yaml"), BUILDING, r"config\.yaml.*larger than", CONFIG),
    "a manifest without end": Hostile(sparse("manifest.json"), (load, *MEASURING, resumed), r"manifest\.json.*larger than", "manifest.json: unreadable"),
    "a nested manifest": Hostile(whole("manifest.json", b'{"a":' * 300 + b"1" + b"}" * 300), (load, *MEASURING), r"manifest\.json.*nested", "manifest.json: unreadable"),
    "a list for a configuration": Hostile(whole("config.yaml", b"- 1\n"), BUILDING, r"config\.yaml", CONFIG),
    "a manifest without data": Hostile(lambda world: world.manifest(lambda m: m.update(data=None)), (load, *MEASURING, resumed), "manifest"),
    "cards of infinitely many images": Hostile(
        lambda world: write_text(world.run / "evaluation.json", '"num_images": 360', '"num_images": Infinity'), (), ANYTHING, "evaluation.json: unreadable"),
    "a field without end": Hostile(whole("metrics.csv", b"step," + b"x" * 200_000 + b"\n"), (), ANYTHING, "metrics.csv: unreadable"),
    "metrics without end": Hostile(sparse("metrics.csv"), (), ANYTHING, "metrics.csv: unreadable"),
    # -- what is in it stays in it
    "a link to another configuration": Hostile(linked("config.yaml", "{outside}/config.yaml"), BUILDING, r"'config\.yaml' in it is a link", REFUSED),
    "a link upwards": Hostile(linked("manifest.json", "figures/../../../outside/config.yaml"), BUILDING, r"'manifest\.json' in it is a link", REFUSED),
    "a folder that is a link": Hostile(linked("evaluations", "{outside}"), BUILDING, "'evaluations' in it is a link", REFUSED),
    "a link to what is not there yet": Hostile(linked("samples", "{outside}/new"), BUILDING, "'samples' in it is a link", REFUSED),
    "a link deep inside": Hostile(linked("figures/samples.png", "{outside}/picture.png"), BUILDING, r"'figures/samples\.png' in it is a link", REFUSED),
    "a link into the tracker's folder": Hostile(linked("evaluations", "wandb"), BUILDING, "'evaluations' in it is a link into the folder of a tracker", REFUSED),
    "a tracker's folder that is a link": Hostile(linked("wandb", "{outside}"), BUILDING, "'wandb' in it", REFUSED),
    "a device": Hostile(linked("evaluation.json", "/dev/zero"), BUILDING, r"'evaluation\.json' in it is a link", REFUSED),
    "a FIFO for config.yaml": Hostile(fifo("config.yaml"), BUILDING, r"'config\.yaml' in it is a FIFO", REFUSED),
    "a FIFO for evaluation.json": Hostile(fifo("evaluation.json"), BUILDING, r"'evaluation\.json' in it is a FIFO", REFUSED),
    "a socket": Hostile(a_socket, BUILDING, "is a socket", REFUSED),
    "a name for the terminal": Hostile(linked("\x1b[2J", "{outside}"), BUILDING, r"'\\x1b\[2J' in it", REFUSED),
    # -- its settings name no place of ours
    "a name that leads away": Hostile(setting("name", "../../outside"), (evaluate, sample, init_from, resumed), r"config\.yaml.*name="),
    "a logger that leads away": Hostile(
        setting("logger", {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "../../outside"}), (evaluate, resumed), r"config\.yaml.*logger\.name"),
    "a Trainer that writes": Hostile(setting("trainer.default_root_dir", "{outside}"), (evaluate, init_from, resumed), r"trainer\.default_root_dir"),
    "a thousand machines": Hostile(setting("trainer.num_nodes", 1000), (resumed,), r"trainer\.num_nodes"),
    "a setting that nobody reads": Hostile(setting("hydra", {"run": {"dir": "{outside}"}}), (evaluate, sample, init_from, resumed), r"hydra"),
    "other people's files for data": Hostile(lambda world: private_images(world), (resumed,), "digests"),
}  # fmt: skip


def write_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def private_images(world: World) -> None:
    images = np.zeros((120, 8, 8), np.uint8)
    np.savez(world.outside / "private.npz", train=images, val=images[:20], test=images)
    data = {"name": "arrays", "path": "{outside}/private.npz"}
    for key, value in data.items():
        setting(f"data.{key}", value)(world)


CASES = [
    pytest.param(case, reader, id=f"{name}-{reader.__name__}")
    for name, case in HOSTILE.items()
    for reader in case.readers
]


@pytest.mark.parametrize("case, reader", CASES)
def test_refused_by_name_and_nothing_done(
    case: Hostile, reader: Callable[[Path], None], world: World
) -> None:
    case.change(world)
    before = world.state()
    with pytest.raises(SettingError, match=case.words) as raised:
        reader(world.run)
    after = world.state()
    mine = (str(world.run / "status.json"), str(world.run)) if reader is resumed else ()
    assert {k: v for k, v in after.items() if k not in mine} == {
        k: v for k, v in before.items() if k not in mine
    }
    assert not world.canary.exists()
    assert SECRET not in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("name", HOSTILE)
def test_the_table_shows_what_it_is_and_goes_on(name: str, world: World) -> None:
    case = HOSTILE[name]
    case.change(world)
    before = world.state()
    text = shown(world.run)
    assert world.state() == before
    assert not world.canary.exists()
    assert SECRET not in text
    assert "\x1b" not in text
    if case.table is not None:
        assert case.table in text


def test_an_honest_run_is_taken_wherever_it_lies(world: World) -> None:
    elsewhere = world.run.with_name("with blanks, and ${dollars}")
    world.run.rename(elsewhere)
    (elsewhere / "checkpoints" / "selected.ckpt").symlink_to(
        "best.ckpt"
    )  # a person's link, that stays inside
    load(elsewhere)
    options = {"run": str(elsewhere), "estimator": {"_target_": "vaelab.evidence.BoundEstimator"}}
    evaluation.evaluate({**composed("evaluate", "num_images=8"), **options})
    drawing.sample({**composed("sample", "run=x", "num_samples=4"), "run": str(elsewhere)})
    parent = Parent.open(str(elsewhere))
    assemble(inherited(parent.config, composed("train", "logger=none"), ()), parent)
    assert "refused" not in shown(elsewhere)
    assert len(read_cards(elsewhere / "evaluation.json")) > 3


def test_a_run_directory_may_be_reached_by_a_link(world: World) -> None:
    latest = world.outside / "latest"
    latest.symlink_to(world.run)
    load(latest)


def test_overrides_are_shown_as_they_were_typed(world: World) -> None:
    (world.run / "overrides.yaml").write_text("- name=${oc.env:VAELAB_TEST_SECRET}\n- latent_dim=${seed}\n")
    row = table.read_row(RunDirectory.open(world.run))
    assert row.overrides == ("name=${oc.env:VAELAB_TEST_SECRET}", "latent_dim=${seed}")
    assert not row.damage


# -- the commands ----------------------------------------------------------------------------------------------------------------------------------------------


COMMANDS: dict[str, Callable[[str], int]] = {
    "vae-evaluate": lambda run: entry.run(
        "evaluate", evaluate_command.task, argv=[f"run={run}", "num_images=8"]
    ),
    "vae-sample": lambda run: entry.run("sample", sample_command.task, argv=[f"run={run}"]),
    "vae-train": lambda run: entry.run("train", train_command.task, argv=[f"init_from={run}", "logger=none"]),
    "vae-resume": lambda run: resume_command.main([run]),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["os.system", "a link upwards", "a variable of the environment"])
def test_a_command_refuses_with_status_2(
    command: str, name: str, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    HOSTILE[name].change(world)
    before = world.state()
    here = world.outside.with_name("here")
    here.mkdir()
    monkeypatch.chdir(here)
    assert COMMANDS[command](str(world.run)) == 2
    assert world.state() == before
    assert not os.listdir(here)
    assert capsys.readouterr().err.startswith(f"{command}: ")


def test_whoever_stands_in_a_run_directory_takes_no_settings_from_it(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (world.run / ".env").write_text("VAELAB_TEST_PLANTED=1\n")
    launcher = world.run / "configs" / "hydra" / "launcher" / "basic.yaml"
    launcher.parent.mkdir(parents=True)
    launcher.write_text("_target_: os.system\ncommand: 'false'\n")
    (world.run / "configs" / "sample.yaml").write_text("planted: true\n")
    monkeypatch.chdir(world.run)
    monkeypatch.delenv("VAELAB_TEST_PLANTED", raising=False)
    assert COMMANDS["vae-sample"](".") == 0, capsys.readouterr().err
    assert "VAELAB_TEST_PLANTED" not in os.environ
    said = capsys.readouterr().err
    for name in (".env", "configs"):
        assert f"{world.run / name} is not used: {world.run} is a run directory" in said


@pytest.mark.parametrize(
    "line, words",
    [
        ("name=${oc.env:VAELAB_TEST_SECRET}", "interpolation"),
        ("hydra.searchpath=[pkg://planted]", "not how vae-evaluate is to run"),
        ("+hydra/launcher=planted", "not how vae-evaluate is to run"),
    ],
)
def test_a_file_that_says_what_a_model_is_says_nothing_else(
    line: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAELAB_TEST_SECRET", SECRET)
    (tmp_path / "mine.yaml").write_text(f"- data=digits\n- {line}\n")
    argv = ["config=mine.yaml", "weights=w.pt"]
    assert entry.run("evaluate", evaluate_command.task, argv=argv) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "mine.yaml" in said
    assert SECRET not in said
