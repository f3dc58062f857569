"""A recorded run is made again from its record, wherever that lies, and the verdict is right."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from vaelab.commands.reproduce import main
from vaelab.errors import RunFailed, SettingError
from vaelab.experiments import reproduce as reproducing
from vaelab.experiments.reproduce import environment, reproduce
from vaelab.experiments.train import train
from vaelab.runs import RunDirectory, Status, read_json, read_manifest, write_json, write_yaml
from vaelab.runs.identity import config_hash
from vaelab.runs.metrics import read
from vaelab.runs.record import TRACKER_MANIFEST, Record
from vaelab.runs.verdict import Agreement

REPOSITORY = Path(__file__).resolve().parents[2]
Compose = Callable[..., dict[str, Any]]
#: 144 steps an epoch, and something with a state
SETTINGS = (
    "data=digits", "data.batch_size=8", "data.val_size=285", "data.binarize=dynamic", "latent_dim=2", "trainer=cpu", "encoder.hidden=[16]", "decoder.hidden=[16]",
    "trainer.max_steps=250", "estimator.num_samples=10", "optimizer.schedule=staircase", "optimizer.ema_decay=0.9", "schedule=linear",
    "schedule.warmup_epochs=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    logs = tmp_path_factory.mktemp("logs")
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        cfg = compose("train", overrides=[*SETTINGS, "logger=none", f"paths.log_dir={logs}"])
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return RunDirectory(train(config).directory)


@pytest.fixture
def copied(made: RunDirectory, tmp_path: Path) -> RunDirectory:
    """The run directory, as it is on another machine: elsewhere, and nothing lies where it lay."""
    path = tmp_path / "copied" / made.name
    shutil.copytree(made.path, path)
    run = RunDirectory(path)
    config = run.config_file.read_text()
    assert str(made.path.parents[1]) in config
    run.config_file.write_text(config.replace(str(made.path.parents[1]), "/nowhere"))
    return run


def files(run: RunDirectory) -> dict[str, bytes]:
    return {str(path.relative_to(run.path)): path.read_bytes() for path in run.path.rglob("*") if path.is_file()}  # fmt: skip


def yes(question: str) -> bool:
    pytest.fail(f"asked: {question}")


def test_a_copied_run_directory_is_reproduced_bit_for_bit(
    copied: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VAELAB_LOG_DIR", str(tmp_path / "logs"))
    before = files(copied)
    assert main([str(copied.path), "--keep"]) == 0
    said = capfd.readouterr().out
    assert said.splitlines()[-1] == "bitwise"
    assert "22 losses up to step 200" in said
    assert "SHA-256 of the weights" in said
    assert "code" in said
    assert "threads" in said
    assert "epoch 2/2  step 250" in said, "how far it is"
    after = files(copied)
    noted = json.loads(after.pop("reproductions.json"))
    assert after == before, "nothing else was touched"
    (entry,) = noted["reproductions"]
    assert (entry["verdict"], entry["agreement"], entry["steps"], entry["code"]) == ("bitwise", "bitwise", None, "here")  # fmt: skip
    kept = RunDirectory(tmp_path / "logs" / "reproductions" / copied.name)
    assert entry["kept"] == str(kept.path)
    assert kept.weights_file.read_bytes() == copied.weights_file.read_bytes()
    assert read_manifest(kept)["identity"] == read_manifest(copied)["identity"]


def test_the_first_steps_of_the_same_schedule(
    copied: RunDirectory, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Steps of the second stair of the learning rate come out the same, though the run stops soon after them; and what is kept can go on."""
    found = reproduce(copied.path, confirm=yes, steps=200, keep=tmp_path / "kept")
    assert found.verdict.agreement is Agreement.BITWISE
    assert found.verdict.compared == ("22 losses up to step 200",)
    assert found.kept is not None
    kept = RunDirectory(found.kept)
    assert read(kept.fingerprint_file)[-1]["step"] == 200
    assert read_manifest(kept)["status"] == "interrupted"
    assert not kept.evaluation_file.exists()
    assert not kept.weights_file.exists()
    (entry,) = read_json(copied.path / "reproductions.json")["reproductions"]
    assert (entry["steps"], entry["agreement"]) == (200, "bitwise")


def test_refused_before_anything_runs(
    copied: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_child(*_: Any, **__: Any) -> None:
        pytest.fail("a run was started")

    monkeypatch.setattr(reproducing, "_carry_out", no_child)
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "no such run directory" in capsys.readouterr().err
    assert main([str(copied.path), "--steps", "0"]) == 2
    assert "--steps=0: must be a positive integer" in capsys.readouterr().err
    manifest = read_manifest(copied)
    other = {**manifest, "data": {**manifest["data"], "digests": {"digits": "0" * 64}}}
    write_json(copied.manifest_file, other)
    assert main([str(copied.path)]) == 2
    assert "other data than the run was trained on" in capsys.readouterr().err
    changed = {**manifest, "code": {**manifest["code"], "package": {**manifest["code"]["package"], "source": "0"}}}  # fmt: skip
    write_json(copied.manifest_file, {**changed, "git": {**manifest["git"], "commit": "1" * 40}})
    assert main([str(copied.path)]) == 2
    said = capsys.readouterr().err
    assert f"code={'1' * 40}: is no commit of the repository" in said
    assert "--here" in said
    copied.fingerprint_file.unlink()
    write_json(copied.manifest_file, {**manifest, "fingerprint": None})
    assert main([str(copied.path)]) == 2
    assert "has no fingerprint on record" in capsys.readouterr().err
    assert not (copied.path / "reproductions.json").exists()


def test_foreign_code_is_asked_about(
    copied: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read_manifest(copied)
    code = {"package": {**manifest["code"]["package"], "source": "0"}, "patch": None, "untracked": None, "left_out": [], "num_left_out": 0}  # fmt: skip
    write_json(copied.manifest_file, {**manifest, "code": code})
    asked: list[str] = []
    foreign = reproducing.Recorded(REPOSITORY, "1" * 40, Path("src"), {}, "carries a patch in the record")
    monkeypatch.setattr(reproducing, "recorded_code", lambda record: foreign)
    monkeypatch.setattr(reproducing, "checked_out", lambda *_: pytest.fail("it was checked out"))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main([str(copied.path)]) == 2
    assert "--yes: has to be given where nobody can be asked: The code of" in capsys.readouterr().err
    with pytest.raises(SettingError, match="was not agreed to"):
        reproduce(copied.path, confirm=lambda question: bool(asked.append(question)))
    assert "carries a patch in the record" in asked[0]
    with pytest.raises(pytest.fail.Exception, match="checked out"):
        main([str(copied.path), "--yes"])


@pytest.mark.parametrize(
    "change, said",
    [
        (("latent_dim: 2", "latent_dim: -1"), "latent_dim=-1: must be a positive integer"),
        (("latent_dim: 2", "latent_dim: ${oc.env:HOME}"), "holds an interpolation in latent_dim"),
        (("vaelab.models.VAE", "os.system"), "os.system"),
        (("paths:", "other:"), "has no settings of paths"),
    ],
)
def test_settings_that_the_code_here_does_not_take(
    copied: RunDirectory, change: tuple[str, str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """Refused here; of other code a person is asked, as it may build what today's refuses."""
    monkeypatch.setattr(reproducing, "_carry_out", lambda *_: pytest.fail("a run was started"))
    text = copied.config_file.read_text()
    assert change[0] in text
    copied.config_file.write_text(text.replace(*change))
    assert main([str(copied.path)]) == 2
    assert said in capsys.readouterr().err
    own = reproducing.Recorded(REPOSITORY, "1" * 40, Path("src"), {}, None)
    monkeypatch.setattr(reproducing, "is_here", lambda *_: False)
    monkeypatch.setattr(reproducing, "recorded_code", lambda record: own)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main([str(copied.path)]) == 2
    assert said in capsys.readouterr().err


def test_the_child_has_the_variables_of_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_DYNAMIC", "TRUE")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    recorded = {"OMP_NUM_THREADS": "7", "CUDA_VISIBLE_DEVICES": "0", "OMP_TOOL_LIBRARIES": "evil", "MKL_X": "/a/b", "LD_PRELOAD": "x", "PATH": "x"}  # fmt: skip
    found = environment({"variables": recorded}, Path("/source"))
    assert found["OMP_NUM_THREADS"] == "7"
    assert "OMP_DYNAMIC" not in found
    assert found["CUDA_VISIBLE_DEVICES"] == "3"
    assert not {"OMP_TOOL_LIBRARIES", "MKL_X", "LD_PRELOAD"} & set(found)
    assert found["PATH"] == os.environ["PATH"]
    assert found["PYTHONPATH"] == f"/source{os.pathsep}/mine"
    assert environment({}, Path("/source"))["OMP_DYNAMIC"] == "TRUE", "an early record says nothing of them"


def test_devices_that_are_not_here_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    settle = reproducing._settle_devices
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    for device, expected in (
        ({"kind": "cpu", "number": 2}, {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}),
        ({"kind": "cuda", "number": 4}, {"accelerator": "gpu", "devices": 1, "strategy": "ddp"}),
        ({"kind": "mps", "number": 1}, {"accelerator": "cpu", "devices": 1, "strategy": "auto"}),
    ):
        trainer: dict[str, Any] = {"accelerator": "auto", "devices": "auto", "strategy": "ddp"}
        if device["kind"] == "mps":
            monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
        settle(trainer, device)
        assert trainer == {**expected, "num_nodes": 1}


def test_of_the_settings_only_those_of_a_machine_are_replaced(made: RunDirectory) -> None:
    record = Record.open(made.path)
    record.config["logger"] = {"name": "wandb", "project": "p", "entity": None, "group": None}
    config = reproducing._config(record, str(made.path))
    assert config["logger"] == {"name": "none"}
    assert config["paths"]["data_dir"] == str(made.path)
    changed = {key for key in record.config if config[key] != record.config[key]}
    assert changed == {"logger", "paths"}
    assert config_hash(config) == config_hash(record.config)


def test_ones_own_data_are_found_where_they_lie_now(made: RunDirectory, tmp_path: Path) -> None:
    record = Record.open(made.path)
    record.config["data"] |= {"name": "arrays", "path": "/nowhere/mine.npz"}
    assert reproducing._config(record, str(tmp_path / "other.npz"))["data"]["path"] == str(tmp_path / "other.npz")  # fmt: skip
    (tmp_path / "mine.npz").touch()
    assert reproducing._config(record, str(tmp_path))["data"]["path"] == str(tmp_path / "mine.npz")
    assert reproducing._config(record, None)["data"]["path"] == "/nowhere/mine.npz"


def test_a_parent_is_found_beside_it_and_known_by_its_weights(
    made: RunDirectory, copied: RunDirectory
) -> None:
    parent = copied.path.parent / "parent"
    shutil.copytree(made.path, parent)
    config = json.loads(json.dumps(Record.open(copied.path).config)) | {"init_from": "/nowhere/vae/parent"}
    write_yaml(copied.config_file, config)
    manifest = read_manifest(copied)
    weights = manifest["weights"]
    write_json(copied.manifest_file, {**manifest, "parent": {"weights": weights}})
    assert reproducing._config(Record.open(copied.path), None)["init_from"] == str(parent)
    write_json(copied.manifest_file, {**manifest, "parent": {"weights": "0" * 64}})
    record = Record.open(copied.path)
    config = reproducing._config(record, None)
    with pytest.raises(SettingError, match="its weights are no longer those that the run began with"):
        reproducing._assembled(record, config)


def test_a_run_that_fails_here_diverged_only_where_its_losses_did(made: RunDirectory, tmp_path: Path) -> None:
    record, judge = Record.open(made.path), reproducing._judge
    again = RunDirectory(tmp_path / "again")
    shutil.copytree(made.path, again.path)
    rows = made.fingerprint_file.read_text().splitlines()
    again.fingerprint_file.write_text("\n".join(rows[:22]) + "\n")
    with pytest.raises(RunFailed, match="failed here; its losses agree as far as it came, step 100"):
        judge(record, again.path, None, 1)
    again.fingerprint_file.write_text("\n".join([*rows[:21], "100,nan"]) + "\n")
    verdict, _ = judge(record, again.path, None, 1)
    assert str(verdict) == "diverged between steps 20 and 100"
    for status, exit_status in ((-9, 1), (75, 75), (2, 2)):
        with pytest.raises(RunFailed) as caught:
            judge(record, again.path, None, status)
        assert caught.value.exit_status == exit_status


def test_a_record_that_cannot_be_written_to_gets_a_verdict_all_the_same(
    copied: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied.path / "reproductions.json").write_text("{")
    verdict, again = reproducing._judge(Record.open(copied.path), copied.path, None, 0)
    assert again.run is not None
    found = reproducing.Reproduction(verdict, (), None)
    reproducing._note(Record.open(copied.path), found, None, "here")
    assert "not noted in" in capsys.readouterr().out
    assert (copied.path / "reproductions.json").read_text() == "{"


def test_an_interrupted_run_as_far_as_its_fingerprint_goes(
    copied: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a killed one the manifest says running, and has no fingerprint; the file has."""
    manifest = read_manifest(copied)
    del manifest["fingerprint"]
    write_json(copied.manifest_file, {**manifest, "status": Status.RUNNING.value})
    rows = copied.fingerprint_file.read_text().splitlines()
    copied.fingerprint_file.write_text("\n".join(rows[:22]) + "\n")
    assert reproducing._limit(Record.open(copied.path), None) == 100
    assert "compared up to step 100 of its fingerprint" in capsys.readouterr().out
    assert reproducing._limit(Record.open(copied.path), 50) == 50
    assert reproducing._limit(Record.open(copied.path), 500) == 100


# -- in real processes, with a repository of their own ---------------------------------------------------------------


class Clone:
    """The project's files in a repository of their own, whose code is run."""

    def __init__(self, folder: Path) -> None:
        self.top, self.logs, self.temporary = folder / "project", folder / "logs", folder / "tmp"
        self.temporary.mkdir()
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=True
        ).stdout  # fmt: skip
        for name in listed.splitlines():
            if (REPOSITORY / name).is_file():
                (self.top / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / name, self.top / name)
        self.git("init", "-b", "main")
        self.commit("first")

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "core.hooksPath=/dev/null"]
        done = subprocess.run(["git", *identity, *arguments], cwd=self.top, check=True, capture_output=True, text=True)  # fmt: skip
        return done.stdout

    def commit(self, message: str) -> None:
        self.git("add", ".")
        self.git("commit", "-m", message)

    def change(self, file: str, before: str, after: str) -> None:
        path = self.top / "src" / "vaelab" / file
        text = path.read_text()
        assert text.count(before) == 1
        path.write_text(text.replace(before, after))

    def command(self, name: str, *arguments: str) -> tuple[list[str], Mapping[str, str]]:
        code = f"import sys; from vaelab.commands.{name} import main; sys.argv[0] = 'vae-{name}'; sys.exit(main())"
        variables = {"PYTHONPATH": str(self.top / "src"), "TMPDIR": str(self.temporary), "VAELAB_LOG_DIR": str(self.logs)}  # fmt: skip
        return [sys.executable, "-P", "-c", code, *arguments], {**os.environ, **variables}

    def call(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        words, variables = self.command(name, *arguments)
        return subprocess.run(words, env=variables, cwd=self.top.parent, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600, check=False)  # fmt: skip

    def train(self, *overrides: str) -> Path:
        done = self.call("train", *overrides)
        assert done.returncode == 0, done.stdout + done.stderr
        (directory,) = re.findall(r"^\d+ s  (\S+)$", done.stdout, re.MULTILINE)
        return Path(directory)

    def left(self) -> list[str]:
        """What is left of reproductions."""
        return [path.name for path in self.temporary.iterdir() if path.name.startswith("vae-reproduce")] + self.git("worktree", "list").splitlines()[1:]  # fmt: skip


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return Clone(tmp_path_factory.mktemp("clone"))


@pytest.mark.slow
def test_in_real_processes_with_changed_code(clone: Clone) -> None:
    """The second stair of the learning rate begins with step 145; a change of all rates shows with the second step."""
    run = clone.train(*SETTINGS, "logger=none")
    done = clone.call("reproduce", str(run))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "bitwise"
    clone.change("training/rates.py", "return lr * 10 ** (-stair / 7)", "return lr * 10 ** (-stair / 6)")
    clone.commit("other stairs")
    done = clone.call("reproduce", str(run), "--here")
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "diverged between steps 100 and 150"
    done = clone.call("reproduce", str(run), "--here", "--steps", "150")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "bitwise up to step 100")
    clone.change("training/rates.py", "return lr * 10 ** (-stair / 6)", "return 1.01 * lr * 10 ** (-stair / 7)")  # fmt: skip
    done = clone.call("reproduce", str(run), "--here", "--steps", "20")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (3, "diverged between steps 1 and 2")
    done = clone.call(
        "reproduce", str(run)
    )  # a worktree of the commit: it is of this history, nobody is asked
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "bitwise"
    entries = read_json(run / "reproductions.json")["reproductions"]
    assert [entry["agreement"] for entry in entries] == ["bitwise", "diverged", "bitwise", "diverged", "bitwise"]  # fmt: skip
    assert entries[-1]["code"] == read_manifest(RunDirectory(run))["git"]["commit"]
    assert clone.left() == []


@pytest.mark.slow
def test_in_real_processes_with_changes_that_were_never_committed(clone: Clone) -> None:
    clone.git("checkout", ".")
    rates = (clone.top / "src" / "vaelab" / "training" / "rates.py").read_text()
    clone.change("training/rates.py", "return lr * 10 ** (-stair /", "return SLOWER * lr * 10 ** (-stair /")
    clone.change("training/rates.py", "STAIRS = 8", "from vaelab.training.slower import SLOWER\n\nSTAIRS = 8")
    (clone.top / "src" / "vaelab" / "training" / "slower.py").write_text("SLOWER = 0.5\n")
    run = clone.train(*SETTINGS, "logger=none")
    clone.git("checkout", ".")
    clone.git("clean", "-fd", "src")
    assert (clone.top / "src" / "vaelab" / "training" / "rates.py").read_text() == rates
    done = clone.call("reproduce", str(run))
    assert done.returncode == 2
    assert "carries a patch and an archive of files in the record" in done.stderr
    done = clone.call("reproduce", str(run), "--yes", "--keep")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "bitwise"
    kept = read_manifest(RunDirectory(clone.logs / "reproductions" / run.name))
    assert kept["code"]["package"]["source"] == read_manifest(RunDirectory(run))["code"]["package"]["source"]
    done = clone.call("reproduce", str(run), "--here", "--steps", "2")
    assert done.returncode == 3
    assert clone.left() == []


@pytest.mark.slow
@pytest.mark.parametrize("signum, exit_status", [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_in_real_processes_stopped_leaves_nothing_behind(clone: Clone, signum: int, exit_status: int) -> None:
    clone.git("checkout", ".")
    run = clone.train(*SETTINGS, "logger=none")
    with (clone.top / "src" / "vaelab" / "training" / "rates.py").open("a") as file:
        file.write("\n# so that it takes a worktree\n")
    words, variables = clone.command("reproduce", str(run), "--keep")
    process = subprocess.Popen(words, env=variables, cwd=clone.top.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    kept, deadline = RunDirectory(clone.logs / "reproductions" / run.name), time.monotonic() + 120
    while not kept.manifest_file.exists():
        assert process.poll() is None and time.monotonic() < deadline  # noqa: PT018
        time.sleep(0.05)
    process.send_signal(signum)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == exit_status, said
    assert "Traceback" not in said
    assert clone.left() == []
    assert not (run / "reproductions.json").exists()
    assert read_manifest(kept)["status"] == "interrupted", "it was told, and not killed"


@pytest.mark.slow
def test_in_real_processes_the_record_among_the_files_of_wandb(clone: Clone, tmp_path: Path) -> None:
    clone.git("checkout", ".")
    run = clone.train(*SETTINGS)
    (offline,) = (run / "wandb").glob("offline-run-*")
    elsewhere = tmp_path / offline.name
    shutil.copytree(offline, elsewhere)
    assert (elsewhere / "files" / TRACKER_MANIFEST).is_file()
    done = clone.call("reproduce", str(elsewhere))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "bitwise"
    assert "not on record: metrics\n" in done.stdout
    assert "cards test/elbo" in done.stdout
    assert "SHA-256 of the weights" in done.stdout
    assert not list(elsewhere.rglob("reproductions.json"))


@pytest.mark.slow
def test_in_real_processes_the_quickstart_on_digits_is_bitwise(clone: Clone) -> None:
    clone.git("checkout", ".")
    run = clone.train("experiment=quickstart", "data=digits", "logger=none")
    done = clone.call("reproduce", str(run))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "bitwise"
