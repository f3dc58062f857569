"""``vae-resume``: an interrupted run goes on in its own directory."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vaelab.commands.arguments import Parser
from vaelab.commands.environment import let_threads_sleep, load_env_file
from vaelab.errors import RunFailed, SettingError
from vaelab.runs import RunDirectory, Status, read_status
from vaelab.runs.companions import companions
from vaelab.runs.status import is_live


def main(argv: Sequence[str] | None = None) -> int:
    """Resume and return the exit status: 0 done, or given up; 1 failed; 2 refused; 3 some of several failed; 75 interrupted again; 130 Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        load_env_file()
        let_threads_sleep()
        from vaelab.sweeps.search.trial import Trial, TrialReport

        trial = Trial.told()
        together = [] if arguments.solo or trial is not None else _together(arguments.directory)
        if len(together) > 1:
            return _go_on_together(together, arguments.data_dir)
        from vaelab.experiments.requeue import go_on  # seconds to import

        go_on(arguments.directory, arguments.data_dir, None if trial is None else TrialReport(trial).report)
    except SettingError as error:
        print(f"vae-resume: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"vae-resume: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("vae-resume: stopped by Ctrl-C", file=sys.stderr)
        return 130
    return 0


def _together(directory: str) -> list[RunDirectory]:
    """The runs that go on together with this one; none where it goes on by itself."""
    run = RunDirectory.open(directory)
    found = companions(run)
    try:
        status = read_status(run.status_file)
    except SettingError:  # damaged: what resumes it by itself knows what to do
        return []
    if status.status in (Status.COMPLETED, Status.FAILED, Status.PRUNED) or is_live(status):
        return []  # refused, or gone on with for a reason of its own
    return found


def _go_on_together(runs: Sequence[RunDirectory], data_dir: str | None) -> int:
    print(f"{len(runs)} runs that were trained together go on together; vae-resume --solo DIR: one alone")
    from vaelab.experiments.stack import Member, Outcome, train_together  # seconds to import

    def say(outcome: Outcome) -> None:
        directory = runs[outcome.member].path
        if outcome.cause is None:
            print(f"{outcome.seconds:.0f} s  {directory}", flush=True)
        else:
            print(f"vae-resume: {directory}: {outcome.cause}", file=sys.stderr, flush=True)

    outcomes = train_together([Member(directory=run.path, data_dir=data_dir) for run in runs], say)
    statuses = {outcome.exit_status for outcome in outcomes}
    return statuses.pop() if len(statuses) == 1 else 3


def _parser() -> Parser:
    parser = Parser(
        prog="vae-resume",
        description="Continue an interrupted run in its own directory, bit for bit.",
    )
    parser.add_argument("directory", metavar="DIR", help="a run directory")
    parser.add_argument(
        "--solo", action="store_true", help="of a run that was trained together with others: it alone"
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="where the data lie, if not where they lay when the run began"
    )
    return parser
