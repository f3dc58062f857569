"""A run directory: what made a run, how it stands, what it logged, its numbers. Imports no torch."""

from vaelab.runs.arrays import read_arrays
from vaelab.runs.cards import Card, comparable, read_cards, write_cards
from vaelab.runs.code import code_record
from vaelab.runs.config import read_config
from vaelab.runs.console import ConsoleLog
from vaelab.runs.directory import RunDirectory, check_writable, find_latest, find_runs
from vaelab.runs.files import read_json, read_yaml, write_atomically, write_json, write_yaml
from vaelab.runs.manifest import complete_manifest, read_manifest, recorded_data, start_manifest
from vaelab.runs.metrics import MetricsWriter
from vaelab.runs.redaction import Secrets
from vaelab.runs.status import Status, StatusRecord, read_status, write_status

__all__ = [
    "Card",
    "ConsoleLog",
    "MetricsWriter",
    "RunDirectory",
    "Secrets",
    "Status",
    "StatusRecord",
    "check_writable",
    "code_record",
    "comparable",
    "complete_manifest",
    "find_latest",
    "find_runs",
    "read_arrays",
    "read_cards",
    "read_config",
    "read_json",
    "read_manifest",
    "read_status",
    "read_yaml",
    "recorded_data",
    "start_manifest",
    "write_atomically",
    "write_cards",
    "write_json",
    "write_status",
    "write_yaml",
]
