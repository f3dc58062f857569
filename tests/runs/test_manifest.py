import json
import subprocess
import sys

import pytest

from vaelab.errors import SettingError
from vaelab.runs import (
    MetricsWriter,
    RunDirectory,
    Status,
    complete_manifest,
    read_manifest,
    read_status,
    start_manifest,
    write_status,
)
from vaelab.runs.manifest import missing

GIVEN = {
    "argv": ["vae-train"],
    "overrides": ["seed=3"],
    "experiment": "reference",
    "seed": 3,
    "device": {"type": "cpu"},
    "threads": 2,
    "precision": "32-true",
    "data": {"requested": "mnist", "actual": "digits", "fallback_reason": "no network"},
}


def test_a_manifest_is_started_completed_and_free_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "planted-secret")
    run = RunDirectory.create(tmp_path)
    manifest = start_manifest(run, **GIVEN)
    assert read_manifest(run) == manifest
    assert manifest["schema"] == 2
    assert manifest["status"] == "running"
    assert manifest["data"]["actual"] == "digits"
    assert manifest["versions"]["torch"]
    complete_manifest(run, Status.COMPLETED, best={"score": -104.0})
    done = read_manifest(run)
    assert done["status"] == "completed"
    assert done["finished"] >= done["created"]
    assert done["best"] == {"score": -104.0}
    assert {k: done[k] for k in GIVEN} == {k: manifest[k] for k in GIVEN}
    assert "planted-secret" not in run.manifest_file.read_text()


def test_what_is_no_primitive_or_not_the_callers_is_refused(tmp_path):
    run = RunDirectory.create(tmp_path)
    with pytest.raises(TypeError, match=r"manifest\.json\.device\.type"):
        start_manifest(run, **{**GIVEN, "device": {"type": object()}})
    with pytest.raises(TypeError, match="created"):
        start_manifest(run, **GIVEN, created="never")
    assert not run.manifest_file.exists()


def test_a_secret_is_in_no_part_of_a_manifest(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "planted-secret")
    run = RunDirectory.create(tmp_path)
    start_manifest(
        run,
        **{**GIVEN, "argv": ["vae-train", "tags=[planted-secret]", "logger.api_key=typed-secret,typed-too"]},
        config={"logger": {"api_key": "typed-secret"}},
        note={"planted-secret": ["x typed-secret"]},
    )
    complete_manifest(run, Status.COMPLETED, tracker={"url": "https://planted-secret@host"})
    text = run.manifest_file.read_text()
    assert not any(secret in text for secret in ("planted-secret", "typed-secret", "typed-too"))
    assert read_manifest(run)["secrets"] == ["HF_TOKEN", "logger.api_key"]
    assert read_manifest(run)["argv"][1] == "tags=[<secret HF_TOKEN>]"


def test_the_end_adds_the_fingerprint_and_what_an_interrupted_run_left(tmp_path):
    run = RunDirectory.create(tmp_path)
    start_manifest(run, **GIVEN)
    with MetricsWriter(run.fingerprint_file) as writer:
        for step, loss in ((1, 5.5), (2, float("nan")), (100, 3.25)):
            writer.append(step, {"loss": loss})
    run.last_checkpoint.write_text("tensors")
    (run.checkpoints / "last.ckpt.sha256").write_text("abc  last.ckpt\n")
    (run.checkpoints / "best.ckpt.sha256").write_text("def  best.ckpt\n")  # its checkpoint is not there
    complete_manifest(run, Status.RUNNING)
    assert "fingerprint" not in read_manifest(run)
    complete_manifest(run, Status.INTERRUPTED)
    done = read_manifest(run)
    assert done["fingerprint"] == {"step": [1, 2, 100], "loss": [5.5, "nan", 3.25]}
    assert done["checkpoints"] == {"last.ckpt": "abc"}


def test_an_earlier_schema_is_read_and_a_later_one_refused_by_name(tmp_path):
    run = RunDirectory.create(tmp_path)
    earlier = {
        "schema": 1,
        "seed": 3,
        "created": "2026-11-22T13:19:09.000+00:00",
        "data": {"actual": "mnist"},
    }
    run.manifest_file.write_text(json.dumps(earlier))
    assert read_manifest(run) == earlier
    complete_manifest(run, Status.COMPLETED)
    assert read_manifest(run)["schema"] == 1
    run.manifest_file.write_text(json.dumps({**earlier, "schema": 3}))
    with pytest.raises(SettingError, match="is a manifest of schema 3; this version reads 1 and 2"):
        read_manifest(run)


def test_what_a_person_should_know_is_said(tmp_path):
    run = RunDirectory.create(tmp_path)
    code = {"git": None, "code": {"left_out": [{"path": "big.py", "reason": "is larger than 1 MB"}], "num_left_out": 3}}  # fmt: skip
    manifest = start_manifest(
        run, **{**GIVEN, "argv": ["password=123456"]}, code=code, config={"password": 123456}
    )
    assert missing(manifest) == [
        "left out of the record, as a secret: password",
        "not in code/: big.py (is larger than 1 MB) and 2 more; manifest.json says which",
    ]
    assert missing(start_manifest(RunDirectory.create(tmp_path), **GIVEN)) == []


def test_a_status_keeps_its_start_and_one_line_of_the_error(tmp_path):
    path = tmp_path / "status.json"
    first = write_status(path, Status.RUNNING)
    last = write_status(path, Status.FAILED, exit_status=1, error="two\nlines")
    assert read_status(path) == last
    assert (last.started, last.error, last.exit_status) == (first.started, "two lines", 1)
    path.write_text("{")
    assert write_status(path, Status.INTERRUPTED, exit_status=75).status == "interrupted"
    for content in (
        {"schema": 2},
        {"schema": 1, "status": "fine"},
        [],
        {"schema": 1, "status": "failed", "x": 1},
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(SettingError, match="status record"):
            read_status(path)


def test_runs_and_its_command_answer_without_torch():
    code = (
        "import sys, vaelab.runs, vaelab.runs.difference, vaelab.runs.side_by_side, vaelab.commands.runs as c;"
        "c.main([sys.argv[1]]); c.main([sys.argv[1], '--metric', 'nll']);"
        "print([m for m in ('torch', 'lightning', 'hydra', 'omegaconf', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, "."], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
