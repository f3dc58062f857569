"""Which settings make a run's numbers: the hash of a configuration without all others."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

#: of the list below and of the way a configuration is written down: two hashes say something only under the same number
SCHEMA = 1

#: Settings that change no number, with the reason. Everything else counts, what is new too: a difference that is none costs a run, an equality that is none
#: costs a result. What counts though one might think otherwise:
#: ``seed`` (a run, not an experiment, is identified); ``trainer.precision``; ``trainer.deterministic`` (which algorithms); ``trainer.max_time``;
#: ``trainer.log_every_n_steps`` (which numbers metrics.csv has); ``val_check_interval`` and ``limit_*_batches`` (what is selected and measured);
#: ``score``; ``estimator``; ``callbacks`` that can stop a run; ``optimizer.samples_at_once`` (rounding, of which training makes more);
#: ``data.path``, since another file may be other data.
IGNORED = {
    "paths": "where things lie",
    "name": "what the run is called",
    "tags": "what the run is called",
    "logger": "where numbers are shown; metrics.csv has them in any case",
    "checkpoints": "what is kept and how often it is saved, not what is trained or selected",
    "hydra": "how the configuration was composed",
    "report": "whether a page is made of what there is",
    "sweep": "which other runs there are, and how many at a time",
    "trainer.enable_progress_bar": "what the screen shows",
    # A batch is that of the whole step, and noise a function of (seed, step) for the whole batch, whatever the devices: another device, or two, do the same
    # mathematics and round otherwise. Besides, accelerator=auto names none. The device that was used is in the manifest.
    "trainer.accelerator": "where it is computed",
    "trainer.devices": "where it is computed",
    "trainer.num_nodes": "where it is computed",
    "trainer.strategy": "how the work is shared out",
    "engine.name": "how the steps are carried out; an engine rounds otherwise at most",
    "engine.chunk_steps": "how many steps Lightning's loop hands over at once",
    "data.eval_batch_size": "how many images are measured at once",
    "data.fallback": "what is used where the data cannot be had; what was used is data.name",
    "estimator.max_rows": "how many samples the decoder sees at once; memory may halve it in mid-run",
}
#: settings that came later, as a run was before them: with these values they change no number, and no identity either
ADDED = {
    "engine.matmul": None,
    "data.classes": None,
    "data.mutate": 0,
    "data.train_subset": "first",
    "data.num_labels": None,
    "data.label_seed": None,
    "data.labelled_per_batch": None,
}
#: values of these that round otherwise at most
SAME = {"engine.matmul": "auto"}
#: callbacks that only show
SHOWING = ("vaelab.training.TrackerPictures",)


def config_hash(config: Mapping[str, Any], parent_weights: str | None = None) -> dict[str, Any]:
    """The identity of a run: ``{"schema": 1, "sha256": ...}``, over the canonical JSON of all settings that can change a number.

    Two configurations with one hash give the same numbers, up to rounding where devices differ; two hashes may do so too.

    >>> config = {"seed": 0, "latent_dim": 2, "optimizer": {"lr": 1e-3}, "name": "vae", "trainer": {"devices": 1}}
    >>> one = config_hash(config)
    >>> one == config_hash({**config, "name": "other", "trainer": {"devices": 2}})
    True
    >>> one == config_hash({**config, "seed": 1})
    False

    Args:
        config: resolved, primitives only.
        parent_weights: SHA-256 of the weights that the run starts from; it stands for ``init_from``, the directory that they are in.
    """
    found = counted(config)
    if parent_weights is not None:
        found["init_from"] = {"weights": parent_weights}
    return {"schema": SCHEMA, "sha256": hashlib.sha256(canonical(found).encode()).hexdigest()}


def is_recorded(config: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether a configuration that was read is the one that a manifest was begun with, as far as its hash can tell: of another schema, or with secrets left out, it cannot."""
    known = manifest.get("identity")
    if not isinstance(known, Mapping) or known.get("schema") != SCHEMA or manifest.get("secrets"):
        return True
    return config_hash(config, (manifest.get("parent") or {}).get("weights")) == known


def counted(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a configuration that can change a number."""
    found = dict(config)
    if isinstance(found.get("callbacks"), Mapping):
        found["callbacks"] = {
            name: node
            for name, node in found["callbacks"].items()
            if node is not None and not (isinstance(node, Mapping) and node.get("_target_") in SHOWING)
        }
    later = [key for key, value in ADDED.items() if _at(found, key) in (value, SAME.get(key, value))]
    return _without(found, [key.split(".") for key in (*IGNORED, *later)])


def _at(node: Any, key: str) -> Any:
    """The value of a setting by its dotted key; None where there is none."""
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def is_ignored(key: str) -> bool:
    """Whether a setting, by its full name, is one that changes no number.

    >>> is_ignored("logger.project"), is_ignored("trainer.devices"), is_ignored("optimizer.lr")
    (True, True, False)
    """
    return any(key == name or key.startswith(f"{name}.") for name in IGNORED)


def counts(key: str) -> bool:
    """Whether a setting, by its dotted key, can change a number.

    >>> counts("trainer.precision"), counts("trainer.devices"), counts("logger.project")
    (True, False, False)
    """
    parts = key.split(".")
    return not any(".".join(parts[: i + 1]) in IGNORED for i in range(len(parts)))


def canonical(value: Any) -> str:
    """Equal values give one text: keys sorted, no spaces, a whole float as an integer (``lr=1`` is ``lr=1.0``).

    >>> canonical({"b": 1.0, "a": [1e-3, None, True, "é"]})
    '{"a":[0.001,null,true,"é"],"b":1}'
    """
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            return repr(value)
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _without(node: Mapping[str, Any], paths: list[list[str]]) -> dict[str, Any]:
    kept = {}
    for key, value in node.items():
        below = [path[1:] for path in paths if path[0] == key]
        if [] in below:
            continue
        kept[key] = _without(value, below) if below and isinstance(value, Mapping) else value
    return kept
