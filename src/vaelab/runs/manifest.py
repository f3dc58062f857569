"""What made a run: ``manifest.json``, written before the first step and completed at the end. Schema 2.

Schema 1 had neither ``identity``, ``code``, ``lock``, ``variables``, ``secrets``, nor the digests of the splits, and of the installed versions only a few;
its manifests are read as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vaelab.errors import SettingError
from vaelab.runs import metrics
from vaelab.runs.directory import RunDirectory
from vaelab.runs.environment import lock_record, platform_record, variables, versions
from vaelab.runs.files import read_json, write_json
from vaelab.runs.git import git_state
from vaelab.runs.identity import config_hash
from vaelab.runs.redaction import Secrets
from vaelab.runs.status import Status, utc_now

SCHEMA = 2
READ = (1, 2)  # schemas
#: what it takes to go on with a run or to make it again: in every manifest, of these types
NEEDED = {
    "status": str,
    "data": dict,
    "device": dict,
    "threads": (int, dict),
    "precision": str,
    "git": (dict, type(None)),
    "tracker": (dict, type(None)),
}


def start_manifest(
    run: RunDirectory,
    *,
    argv: Sequence[str],
    overrides: Sequence[str],
    experiment: str | None,
    seed: int,
    device: Mapping[str, Any],
    threads: int | Mapping[str, Any],
    precision: str,
    data: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    code: Mapping[str, Any] | None = None,
    parent: Mapping[str, Any] | None = None,
    tracker: Mapping[str, Any] | None = None,
    secrets: Secrets | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Write the manifest of a run that begins and return it.

    No host name or user name enters the record by itself, of the environment's variables only those of
    :func:`vaelab.runs.environment.variables`, and no secret.

    Args:
        data: requested, actual, fallback_reason, digests, splits, image_shape, num_levels, num_train, num_val, num_test.
        config: the resolved configuration; its hash is the run's ``identity``.
        code: what :func:`vaelab.runs.code.code_record` returned; None = commit and branch alone.
        secrets: what is left out; None = the secrets of the environment.
        more: further keys.

    Raises:
        TypeError: something is no JSON primitive, or a further key is not the caller's to set.
    """
    secrets = Secrets.of(os.environ, config) if secrets is None else secrets
    installed = versions()
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "vaelab": installed.get("vaelab"),
        "argv": secrets.words(argv),
        "overrides": secrets.words(overrides),
        "experiment": experiment,
        "identity": None if config is None else config_hash(config, (parent or {}).get("weights")),
        "seed": seed,
        "created": utc_now(),
        "finished": None,
        "status": Status.RUNNING.value,
        **({"git": git_state(), "code": None} if code is None else code),
        "lock": lock_record(),
        "versions": installed,
        "platform": platform_record(),
        "device": dict(device),
        "threads": threads if isinstance(threads, int) else dict(threads),
        "variables": variables(os.environ),
        "precision": precision,
        "data": dict(data),
        "parent": None if parent is None else dict(parent),
        "tracker": dict(tracker) if tracker is not None else None,
        "secrets": [],
    }
    for key in more:
        if key in manifest:
            raise TypeError(f"the manifest's {key} is not the caller's to set")
    manifest = secrets.redact({**manifest, **more})
    manifest["secrets"] = sorted(secrets.replaced)  # names: in place of their values stands <secret NAME>
    write_json(run.manifest_file, manifest)
    return manifest


def complete_manifest(
    run: RunDirectory, status: Status, secrets: Secrets | None = None, **more: Any
) -> dict[str, Any]:
    """Add what is known at the end (time, status and ``more``: best score, digests, ...) to the manifest and
    return it.

    With a final status, also the ``fingerprint`` of ``fingerprint.csv``, and of a run that did not complete the digests of its checkpoints.
    """
    manifest = read_manifest(run)
    if status not in (Status.RUNNING, Status.COMPLETED):
        manifest["checkpoints"] = _recorded_digests(run)
    if status is not Status.RUNNING and run.fingerprint_file.is_file():
        manifest["fingerprint"] = _fingerprint(run)
    manifest.update((Secrets.of(os.environ) if secrets is None else secrets).redact(more))
    finished = None if status is Status.RUNNING else utc_now()
    manifest.update(finished=finished, status=Status(status).value)
    write_json(run.manifest_file, manifest)
    return manifest


def read_manifest(run: RunDirectory) -> dict[str, Any]:
    """The manifest, of this schema or an earlier one. Raises SettingError("run") if it is missing, damaged or of a later schema."""
    return manifest_at(run.manifest_file)


def recorded_data(run: RunDirectory) -> dict[str, Any]:
    """What the manifest says of the data. Raises SettingError("run") as :func:`read_manifest`, and if it says nothing."""
    data = read_manifest(run).get("data")
    if not isinstance(data, dict):
        raise SettingError("run", run.manifest_file, "does not say which data the run was made of")
    return data


def manifest_at(path: Path) -> dict[str, Any]:
    """The manifest in a file; see :func:`read_manifest`."""
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("schema") not in READ:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        known = " and ".join(map(str, READ))
        raise SettingError("run", path, f"is a manifest of schema {found}; this version reads {known}")
    return manifest


def without_weights(run: RunDirectory) -> str:
    """Why a run has no ``model.safetensors``, in words that end a refusal."""
    if read_manifest(run).get("weights") is not None:
        return "has lost its model.safetensors, which is on record"
    return f"has no model.safetensors: it did not complete; vae-resume {run.path} goes on with it"


def whole_manifest(path: Path) -> dict[str, Any]:
    """The manifest in a file, of which nothing is missing that it takes to go on with a run or to make it again; see :func:`read_manifest`."""
    manifest = manifest_at(path)
    if lacking := [name for name, kind in NEEDED.items() if not isinstance(manifest.get(name, ...), kind)]:
        raise SettingError("run", path, f"lacks {', '.join(lacking)}, or holds something else there")
    return manifest


def missing(manifest: Mapping[str, Any]) -> list[str]:
    """What a person should know that the record of a run has not got, in sentences."""
    lines = []
    if manifest["secrets"]:
        lines.append(f"left out of the record, as a secret: {', '.join(manifest['secrets'])}")
    code = manifest["code"]
    if code is not None and code["left_out"]:
        first = code["left_out"][0]
        more = f" and {code['num_left_out'] - 1} more" if code["num_left_out"] > 1 else ""
        lines.append(f"not in code/: {first['path']} ({first['reason']}){more}; manifest.json says which")
    return lines


def _recorded_digests(run: RunDirectory) -> dict[str, str]:
    """File name -> SHA-256, as it stands beside each checkpoint."""
    found = {}
    for path in sorted(run.checkpoints.glob("*.ckpt.sha256")):
        digest = path.read_text(encoding="utf-8", errors="replace").split()
        if digest and path.with_suffix("").is_file():
            found[path.stem] = digest[0]
    return found


def _fingerprint(run: RunDirectory) -> dict[str, list[float]]:
    """``step`` (optimizer steps done) and ``loss`` (of the batch of that step)."""
    rows = metrics.read(run.fingerprint_file)
    return {"step": [row["step"] for row in rows], "loss": [row.get("loss", float("nan")) for row in rows]}
