"""The process of several jobs that are trained together (``hydra/launcher=stacked``): ``python -m vaelab.commands.stack FILE``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from vaelab.commands.environment import let_threads_sleep, load_env_file
from vaelab.sweeps.stacks import heard, results_file


def main(task: Path) -> int:
    """Carry out what a file says, and note what came of each member as it ends. Returns the exit status: that of the members where they agree, else 3."""
    load_env_file()
    let_threads_sleep()
    content = json.loads(task.read_text(encoding="utf-8"))
    task.unlink()  # the settings of a run are nobody else's business
    from vaelab.experiments.stack import Member, Outcome, train_together  # seconds to import

    members = []
    for told in content["members"]:
        config, request, directory = heard(told)
        members.append(Member(directory=directory) if request is None else Member(config, request))

    def note(outcome: Outcome) -> None:
        told = {
            "member": outcome.member,
            "pid": os.getpid(),
            "exit_status": outcome.exit_status,
            "cause": outcome.cause,
            "seconds": outcome.seconds,
        }
        with results_file(task).open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(told)}\n")

    statuses = {outcome.exit_status for outcome in train_together(members, note)}
    return statuses.pop() if len(statuses) == 1 else 3


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
