"""``vae-doctor``: what is wrong with this machine, these data, this setting."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vaelab.commands import entry
from vaelab.commands.entry import Typed
from vaelab.commands.train import chosen, fallback_config, settings
from vaelab.errors import RunFailed
from vaelab.experiments.check import check_settings
from vaelab.runs.cards import printable
from vaelab.runs.files import to_json
from vaelab.runs.interruption import Interrupted, StopRequest

if TYPE_CHECKING:
    from rich.console import Console

    from vaelab.experiments.doctor.finding import Finding

    Groups = list[tuple[str, list[Finding]]]

DIFFERENT = 3  # exit status
FLAGS = {
    "--quick": "Leave out the training: 20 steps, twice",
    "--json": "What was found, for programs",
}
STYLES = {"ok": "green", "note": "yellow", "wrong": "bold red"}
SCHEMA = 1  # of --json


def main() -> int:
    """Examine and return the exit status: 0 nothing is wrong; 1 something is; 2 refused; 3 a training is not the same twice; 130 Ctrl-C."""
    return entry.run("train", task, command="vae-doctor", flags=FLAGS)


def task(cfg: DictConfig, typed: Typed) -> None:
    config = settings(cfg, typed)
    check_settings(config)
    try:
        with StopRequest().watching():
            groups = _examined(config, typed)
    except Interrupted as error:
        raise RunFailed(f"stopped by {error}", error.exit_status) from error
    found = [finding for _, findings in groups for finding in findings]
    num_wrong = sum(finding.status == "wrong" for finding in found)
    differs = any(finding.is_difference for finding in found)
    status = DIFFERENT if differs else entry.FAILED if num_wrong else entry.DONE
    if "--json" in typed.flags:
        print(_json(groups, status))
    if num_wrong:
        raise RunFailed(f"{num_wrong} {'thing is' if num_wrong == 1 else 'things are'} wrong", status)
    if "--json" not in typed.flags:
        print("nothing is wrong")


def _examined(config: dict[str, Any], typed: Typed) -> Groups:
    """What was found; each group is printed as it comes, unless it is for programs."""
    from rich.console import Console

    from vaelab.experiments.doctor.examine import examine  # seconds to import

    usual = GlobalHydra.instance().config_loader().load_configuration("train", [], RunMode.RUN)
    engine: Any = OmegaConf.to_container(usual.engine, resolve=True)
    for_programs, groups, console = "--json" in typed.flags, [], Console(highlight=False)
    # what the data and libraries have to say is not for programs
    with redirect_stdout(sys.stderr if for_programs else sys.stdout), _progress(console) as progress:
        for group, findings in examine(
            config,
            [*typed.overrides, *chosen(typed)],
            engine=(usual.hydra.runtime.choices["engine"], engine),
            fallback=None if config["data"]["fallback"] is None else lambda: fallback_config(config, typed),
            quick="--quick" in typed.flags,
            progress=progress,
        ):
            groups.append((group, findings))
            if not for_programs:
                _print(console, group, findings)
    return groups


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], None]]:
    """A line at the bottom of a terminal; elsewhere lines on stderr."""
    if console.is_terminal:
        with console.status("") as status:
            yield status.update
    else:
        yield lambda text: print(f"... {text}", file=sys.stderr, flush=True)


def _print(console: Console, group: str, findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    console.print(Text(group, style="bold"))
    for finding in findings:
        grid = Table.grid(padding=(0, 1, 0, 0))
        for width in (1, 5, 13, None):
            grid.add_column(width=width, overflow="fold")
        style, advice = STYLES[finding.status], (finding.advice or "").splitlines()
        grid.add_row("", Text(finding.status, style=style), finding.name, Text(printable(finding.found)))
        laid_out = any(line.startswith(" ") for line in advice)  # in columns of its own
        for line in [] if laid_out else advice:
            grid.add_row("", "", "", Text(f"> {printable(line)}", style=style))
        console.print(grid)
        for line in advice if laid_out else []:
            console.print(Text(" " * 6 + printable(line)), soft_wrap=True)


def _json(groups: Groups, status: int) -> str:
    found = [
        {
            "group": group,
            "status": finding.status.value,
            "name": finding.name,
            "found": finding.found,
            "advice": finding.advice,
        }
        for group, findings in groups
        for finding in findings
    ]
    return to_json({"schema": SCHEMA, "exit_status": status, "findings": found}, "vae-doctor --json")
