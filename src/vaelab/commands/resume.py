"""``vae-resume``: an interrupted run goes on in its own directory."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vaelab.commands.arguments import Parser
from vaelab.commands.environment import let_threads_sleep, load_env_file
from vaelab.errors import RunFailed, SettingError


def main(argv: Sequence[str] | None = None) -> int:
    """Resume and return the exit status: 0 done, or given up; 1 failed; 2 refused; 75 interrupted again; 130 Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        load_env_file()
        let_threads_sleep()
        from vaelab.sweeps.search.trial import Trial, TrialReport

        trial = Trial.told()
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


def _parser() -> Parser:
    parser = Parser(
        prog="vae-resume",
        description="Continue an interrupted run in its own directory, bit for bit.",
    )
    parser.add_argument("directory", metavar="DIR", help="a run directory")
    parser.add_argument(
        "--data-dir", metavar="DIR", help="where the data lie, if not where they lay when the run began"
    )
    return parser
