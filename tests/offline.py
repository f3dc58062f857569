"""What W&B's file of an offline run says."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

SOON = 10.0  # seconds


@dataclass
class OfflineRun:
    """Values are in JSON, as they stand in the file."""

    rows: list[dict[str, str]] = field(default_factory=list)
    summary: dict[str, str] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    #: metric, or pattern of metrics -> what it is drawn over
    axes: dict[str, str] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)
    run_id: str = ""
    sweep_id: str = ""
    group: str = ""


def ended(folder: Path) -> OfflineRun:
    """The content of the file once its last record is in it: W&B's service writes a moment after it has answered."""
    deadline = time.monotonic() + SOON
    while not (found := content(folder)).exit_codes and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def content(folder: Path) -> OfflineRun:
    """Records in blocks of 32 KiB, as in LevelDB's log."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("*.wandb")
    content, position, record = path.read_bytes(), 7, b""
    found = OfflineRun()
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind not in (1, 4):  # whole, or the last part
            continue
        parsed, record = wandb_internal_pb2.Record.FromString(record), b""  # pyright: ignore[reportAttributeAccessIssue]
        match parsed.WhichOneof("record_type"):
            case "history":
                found.rows.append(_values(parsed.history.item))
            case "summary":
                found.summary |= _values(parsed.summary.update)
            case "metric":
                metric = parsed.metric
                found.axes[metric.name or metric.glob_name] = metric.step_metric
            case "exit":
                found.exit_codes.append(parsed.exit.exit_code)
            case "run":
                found.config |= {item.key: item.value_json for item in parsed.run.config.update}
                found.run_id, found.sweep_id = parsed.run.run_id, parsed.run.sweep_id
                found.group = parsed.run.run_group
    return found


def _values(items: list) -> dict[str, str]:
    return {item.key or ".".join(item.nested_key): item.value_json for item in items}
