"""What vae-doctor looks at on a machine: each check with what it is there for."""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from vaelab.data import sources
from vaelab.errors import SettingError
from vaelab.experiments.assembly import assemble, build_trainer
from vaelab.experiments.doctor import code, devices, disk
from vaelab.experiments.doctor.code import code_findings
from vaelab.experiments.doctor.data import find_data, splits
from vaelab.experiments.doctor.devices import cores, device_findings, slurm
from vaelab.experiments.doctor.disk import disk_findings, saved_steps, temporary_files
from vaelab.experiments.doctor.examine import examine
from vaelab.experiments.doctor.finding import Finding, Status
from vaelab.experiments.doctor.tracker import tracker_finding
from vaelab.runs.environment import LOCK, versions
from vaelab.training import AtomicCheckpointIO

Compose = Callable[..., dict[str, Any]]
SMALL = ("data=digits", "latent_dim=2", "encoder.hidden=[4]", "decoder.hidden=[4]", "trainer=cpu")


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither caches, keys nor proxies of whoever runs the tests, nor a data server."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(sources, "probe", lambda urls: (None, [f"{url}: no route" for url in urls]))


def named(findings: list[Finding], name: str) -> Finding:
    (found,) = (finding for finding in findings if finding.name == name)
    return found


class TestCode:
    def test_versions_as_locked_and_others(self, tmp_path: Path) -> None:
        installed = versions()
        assert named(code_findings(), "versions").found.startswith(f"Python {installed['python']}, torch")
        lock = tmp_path / LOCK
        lock.parent.mkdir()
        lock.write_text(f"numpy=={installed['numpy']} \\\n    --hash=sha256:0\nnot-installed==1.0\n")
        found = named(code_findings(tmp_path), "lock")
        assert (found.status, found.found) == (Status.OK, f"1 packages as in {LOCK}")
        lock.write_text(f"numpy==0.1 \\\nrich=={installed['rich']}\n")
        found = named(code_findings(tmp_path), "lock")
        assert found.status is Status.NOTE
        assert f"1 of 2 packages are not those of {LOCK}: numpy {installed['numpy']}, not 0.1" in found.found

    def test_an_installed_wheel_has_no_lock(self, tmp_path: Path) -> None:
        assert [finding.name for finding in code_findings(tmp_path)] == ["versions", "commit"]

    @pytest.mark.parametrize(
        "state, status, words",
        [
            (None, Status.NOTE, "no git repository"),
            ({"dirty": False}, Status.OK, "0123456ab on main, nothing changed"),
            ({"dirty": True}, Status.NOTE, "0123456ab on main, with changes that are not committed"),
            ({"dirty": None}, Status.NOTE, "git took too long"),
            ({"dirty": False, "repository": "cwd"}, Status.OK, "of the current directory"),
        ],
    )
    def test_the_commit(
        self, state: dict[str, Any] | None, status: Status, words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usual = {"repository": "package", "commit": "0123456abcdef", "branch": "main"}
        monkeypatch.setattr(code, "git_state", lambda: None if state is None else {**usual, **state})
        found = named(code_findings(), "commit")
        assert found.status is status
        assert words in found.found


class TestData:
    def test_a_data_set_that_is_here(self, compose: Compose) -> None:
        config = compose("data=digits")
        usable, found = find_data(config, None, fetch=True)
        assert usable == config
        assert (found.status, found.found.partition(":")[0]) == (Status.OK, "digits")

    def test_its_splits(self, compose: Compose) -> None:
        (found,) = splits(assemble(compose(*SMALL)).data)
        assert found.found == "1,200 train, 237 val, 360 test images of 1 x 8 x 8, 17 levels"

    def test_no_data_are_wrong_with_what_to_do(self, compose: Compose, tmp_path: Path) -> None:
        config = compose("data=mnist", f"paths.data_dir={tmp_path / 'nowhere'}")
        usable, found = find_data(config, None, fetch=True)
        assert usable is None
        assert found.status is Status.WRONG
        assert found.found == "mnist: is not on this machine and cannot be downloaded"
        assert found.advice is not None
        assert f"looked in  {tmp_path / 'nowhere' / 'MNIST' / 'raw'}" in found.advice

    def test_the_fallback_is_taken_and_said(self, compose: Compose, tmp_path: Path) -> None:
        config = compose("data=mnist", f"paths.data_dir={tmp_path}")
        usable, found = find_data(config, lambda: ({"fallback": 1}, "digits are used"), fetch=True)
        assert usable == {"fallback": 1}
        assert (found.status, found.found) == (Status.NOTE, "digits are used")

    def test_a_damaged_file_is_wrong(self, compose: Compose, tmp_path: Path) -> None:
        file = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"something else")
        config = compose("data=mnist", f"paths.data_dir={tmp_path}")
        usable, found = find_data(config, lambda: pytest.fail("damage is no reason to fall back"), fetch=True)
        assert usable is None
        assert found.status is Status.WRONG
        assert str(file) in found.found

    def test_files_that_are_here(
        self, compose: Compose, mnist_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(mnist_dir.parent)
        found = find_data(compose("data=mnist", f"paths.data_dir={mnist_dir}"), None, fetch=True)[1]
        assert found.status is Status.OK
        assert found.found == f"mnist: 4 files in {mnist_dir.name}/MNIST/raw, with the known digests"

    def test_a_data_directory_that_is_a_file(self, compose: Compose, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        config = compose("data=mnist", f"paths.data_dir={tmp_path / 'file'}")
        usable, found = find_data(config, None, fetch=True)
        assert usable is None
        assert (found.status, found.advice) == (
            Status.WRONG,
            "set paths.data_dir to what is there, or take data=digits",
        )

    def test_without_fetching_nothing_is_fetched(
        self, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sources, "probe", lambda urls: (next(iter(urls)), []))
        config = compose("data=mnist", f"paths.data_dir={tmp_path / 'data'}")
        usable, found = find_data(config, None, fetch=False)
        assert usable is None
        assert found.status is Status.NOTE
        assert "answers, and a run fetches it" in found.found
        assert not (tmp_path / "data").exists()

    def test_own_data_that_are_not_there(self, compose: Compose, tmp_path: Path) -> None:
        config = compose("data=arrays", f"data.path={tmp_path / 'no.npz'}")
        assert find_data(config, None, fetch=True)[1].status is Status.WRONG


class TestDisk:
    def test_a_checkpoint_is_written_and_nothing_is_left(self, compose: Compose, tmp_path: Path) -> None:
        config = compose(*SMALL)
        parts = assemble(config)
        before = sorted(tmp_path.rglob("*"))
        found = disk_findings(config, parts)
        assert [finding.status for finding in found] == [Status.OK] * 3
        num_bytes = sum(p.numel() * 4 for p in parts.module.parameters())
        written = re.search(r"a checkpoint of ([\d,]+) kB was written", named(found, "log_dir").found)
        assert written is not None
        assert (
            3 * num_bytes < 1000 * int(written[1]) < 5 * num_bytes + 50_000
        )  # weights, two moments, the rest
        assert sorted(tmp_path.rglob("*")) == before
        assert not Path(config["paths"]["log_dir"]).exists()

    def test_a_log_directory_that_cannot_be_written_to(self, compose: Compose, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        found = disk_findings(compose(*SMALL, f"paths.log_dir={tmp_path / 'file' / 'logs'}"), None)
        assert named(found, "log_dir").status is Status.WRONG
        assert "must be a directory that can be written to" in named(found, "log_dir").found

    def test_a_disk_on_which_the_write_fails(
        self, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", full)
        before = sorted(tmp_path.rglob("*"))
        found = named(disk_findings(compose(*SMALL), None), "log_dir")
        assert found.status is Status.WRONG
        assert "No space left on device" in found.found
        assert sorted(tmp_path.rglob("*")) == before

    def test_a_disk_that_gives_back_something_else(
        self, compose: Compose, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = AtomicCheckpointIO.save_checkpoint

        def damaged(self: Any, checkpoint: dict[str, Any], path: Path, *_: Any) -> None:
            write(self, checkpoint, path)
            path.write_bytes(path.read_bytes()[:-1] + b"?")

        monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", damaged)
        found = named(disk_findings(compose(*SMALL), None), "log_dir")
        assert found.status is Status.WRONG
        assert "is damaged" in found.found

    def test_no_room_for_a_run(self, compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
        config = compose(*SMALL)
        usage = shutil.disk_usage("/")
        for free, status in ((disk.OTHER_FILES + 1_000_000, Status.OK), (disk.OTHER_FILES, Status.WRONG)):
            monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage._replace(free=free))
            found = named(disk_findings(config, assemble(config)), "room")
            assert found.status is status
            assert found.found.startswith(f"{free / 1e6:.0f} MB free")

    def test_a_run_that_keeps_all_checkpoints_needs_more(self, compose: Compose) -> None:
        settings = (*SMALL, "trainer.max_epochs=3", "checkpoints.every_n_steps=20")
        config = compose(*settings, "checkpoints.keep=all")
        assert saved_steps(config, assemble(config)) == 3 + 225 // 20
        assert saved_steps(compose(*settings), assemble(config)) == 0
        assert f"({4 + 14} checkpoints)" in named(disk_findings(config, assemble(config)), "room").found

    def test_a_tmpdir_that_is_passed_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        assert temporary_files().status is Status.OK
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
        found = temporary_files()
        assert found.status is Status.NOTE
        assert f"TMPDIR={tmp_path / 'nowhere'} cannot be written to" in found.found


class TestDevices:
    @pytest.mark.parametrize(
        "usable, limit, threads, ranks, asked, status, words, advice",
        [
            (2, None, 2, 1, None, Status.OK, "2 cores, 2 threads", None),
            (2, None, 8, 1, None, Status.WRONG, "2 cores, 8 threads", "OMP_NUM_THREADS=2"),
            (2, None, 2, 1, "8", Status.WRONG, "(OMP_NUM_THREADS=8): that asks for more", "OMP_NUM_THREADS=2"),
            (2, None, 1, 1, "1", Status.OK, "2 cores, 1 thread (OMP_NUM_THREADS=1)", None),
            # a container sees all cores of its machine
            (64, 4.0, 64, 1, None, Status.WRONG, "4 cores (64, and a quota of 4), 64 threads", "OMP_NUM_THREADS=4"),
            (64, 0.5, 1, 1, None, Status.OK, "1 core (64, and a quota of 0.5), 1 thread", None),
            (4, 8.0, 4, 1, None, Status.OK, "4 cores, 4 threads", None),
            # several processes: Lightning shares the cores between them, unless the variable is set
            (8, None, 8, 4, None, Status.OK, "8 threads in each of 4 processes", None),
            (8, None, 4, 4, "4", Status.WRONG, "4 threads in each of 4 processes", "OMP_NUM_THREADS=2"),
            (2, None, 1, 4, "1", Status.WRONG, "1 thread in each of 4 processes", "trainer.devices=2"),
        ],
    )  # fmt: skip
    def test_threads_and_the_cores_that_there_are(
        self, usable: int, limit: float | None, threads: int, ranks: int, asked: str | None, status: Status, words: str, advice: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:  # fmt: skip
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if asked is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", asked)
        found = cores(usable, limit, threads, ranks)
        assert (found.status, found.advice) == (status, advice)
        assert words in found.found

    def test_the_device_of_a_run(self, compose: Compose) -> None:
        config = compose(*SMALL, "trainer.precision=bf16-mixed")
        found = named(device_findings(config, build_trainer(assemble(config))), "device")
        assert found.status is Status.OK
        assert found.found.startswith("trainer.accelerator=cpu is 1 x cpu: ")
        assert found.found.endswith("precision bf16-mixed")

    @pytest.mark.parametrize(
        "built, works, driver, hidden, asked, status, words",
        [
            ("13.0", False, None, None, "auto", Status.NOTE, "there is no NVIDIA driver"),
            ("13.0", False, "470.1", None, "auto", Status.WRONG, "does not work with driver 470.1"),
            ("13.0", False, "580.1", "", "auto", Status.NOTE, "CUDA_VISIBLE_DEVICES= hides"),
            (None, False, "580.1", None, "auto", Status.WRONG, "torch is built without CUDA"),
            (None, False, "580.1", None, "cpu", None, ""),
            (None, False, None, None, "auto", None, ""),
            ("13.0", True, "580.1", None, "auto", Status.OK, "torch is built for 13.0; driver 580.1"),
        ],
    )
    def test_cuda_and_its_driver(
        self, built: str | None, works: bool, driver: str | None, hidden: str | None, asked: str, status: Status | None, words: str,
        compose: Compose, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if hidden is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        monkeypatch.setattr(torch.version, "cuda", built)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: works)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: int(works))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (90, 100))
        machine = {**devices.platform_record(), "nvidia_driver": driver}
        monkeypatch.setattr(devices, "platform_record", lambda: machine)
        found = device_findings(compose(f"trainer.accelerator={asked}"), None)
        assert [f.status for f in found if f.name == "CUDA"] == ([] if status is None else [status])
        assert words in " ".join(f.found for f in found)
        assert "memory" not in [f.name for f in found]

    def test_a_card_that_others_use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (40e9, 100e9))
        (found,) = devices._memory()
        assert (found.status, found.found) == (
            Status.NOTE,
            "card 0: 60 GB of 100 GB are in use by others",
        )


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a server that knows no page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    running = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


class TestTracker:
    KEY = "0123456789abcdef"

    def found(self, config: dict[str, Any], **environment: str) -> Finding:
        found = tracker_finding(config, environment)
        assert self.KEY not in f"{found}"
        return found

    def test_what_needs_no_server(self, compose: Compose) -> None:
        for logger in ("none", "csv", "tensorboard"):
            found = self.found(compose(f"logger={logger}"))
            assert found.status is Status.OK
            assert found.found.startswith(f"{logger}: ")

    def test_offline_and_why(self, compose: Compose) -> None:
        config = compose("logger=wandb")
        for environment, words in (
            ({}, "no key is configured"),
            ({"WANDB_MODE": "offline"}, "offline, as it is set"),
            ({"WANDB_MODE": "offline", "WANDB_API_KEY": self.KEY}, "offline, as it is set"),
            ({"WANDB_MODE": "disabled"}, "WANDB_MODE=disabled"),
        ):
            found = self.found(config, **environment)
            assert found.status is Status.OK
            assert words in found.found

    def test_a_server_that_answers(self, compose: Compose, server: str) -> None:
        found = self.found(compose("logger=wandb"), WANDB_API_KEY=self.KEY, WANDB_BASE_URL=server)
        assert found.status is Status.OK
        assert f"key from WANDB_API_KEY; {server.removeprefix('http://')} answers" in found.found

    def test_a_server_that_does_not(self, compose: Compose) -> None:
        with socket.socket() as taken:  # bound, and nobody listens
            taken.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            found = self.found(
                compose("logger=wandb"), WANDB_API_KEY=self.KEY, WANDB_BASE_URL=f"http://{address}"
            )
        assert found.status is Status.WRONG
        assert f"{address} does not answer: Connection refused. Runs go on offline" in found.found

    def test_online_without_a_key(self, compose: Compose) -> None:
        found = self.found(compose("logger=wandb"), WANDB_MODE="online")
        assert (found.status, found.advice) == (Status.WRONG, "wandb login")

    def test_copied_processes(self, compose: Compose) -> None:
        found = self.found(compose("logger=wandb", "trainer=ddp_cpu"), WANDB_API_KEY=self.KEY)
        assert found.status is Status.NOTE
        assert "metrics.csv alone" in found.found


class TestExamine:
    """All of it, but for the training."""

    def examined(self, config: dict[str, Any], *typed: str) -> dict[str, list[Finding]]:
        engine = ("eager", config["engine"])
        return dict(
            examine(config, typed, engine=engine, fallback=None, quick=True, progress=lambda text: None)
        )

    def test_groups_in_order(self, compose: Compose) -> None:
        found = self.examined(compose(*SMALL))
        assert [*found] == ["code and versions", "data", "disk", "devices", "tracker", "repeatability"]
        assert not [f for fs in found.values() for f in fs if f.status is Status.WRONG]
        assert "left out (--quick)" in found["repeatability"][0].found

    def test_without_data_the_rest_is_looked_at(self, compose: Compose, tmp_path: Path) -> None:
        found = self.examined(compose("data=mnist", f"paths.data_dir={tmp_path}"))
        wrong = [f.name for fs in found.values() for f in fs if f.status is Status.WRONG]
        assert wrong == ["data set"]
        assert named(found["disk"], "log_dir").status is Status.OK

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
    def test_a_device_that_is_not_there_is_wrong(self, compose: Compose) -> None:
        found = named(self.examined(compose(*SMALL, "trainer.accelerator=cuda"))["devices"], "device")
        assert found.status is Status.WRONG
        assert found.found.startswith("trainer.accelerator=cuda: ")

    @pytest.mark.parametrize("typed", ["trainer.precision=33", "data.pixel_range=[-1,1]", "latent_dim=0"])
    def test_what_is_wrong_on_any_machine_is_refused_first(self, compose: Compose, typed: str) -> None:
        with pytest.raises(SettingError, match=re.escape(typed.partition("=")[0])):
            next(iter(self.examined(compose(*SMALL, typed))))

    def test_a_group_that_the_model_does_not_take_is_refused(self, compose: Compose) -> None:
        config = compose("data=digits", "model=ladder", "latent_dim=2")
        with pytest.raises(SettingError, match="posterior=flow: LadderVAE makes its own posterior"):
            self.examined(config, "posterior=flow")


@pytest.mark.parametrize(
    "sinfo, status, words",
    [
        ("echo gpu; echo cpu; echo gpu", "ok", "partitions: cpu, gpu"),
        ("echo no controller >&2; exit 1", "note", "does not answer: no controller"),
    ],
)
def test_slurm_is_said_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sinfo: str, status: str, words: str
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name, does in {"sbatch": "exit 0", "sinfo": sinfo}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    (found,) = slurm()
    assert (found.name, found.status) == ("Slurm", status)
    assert words in found.found
    (tmp_path / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm() == []
