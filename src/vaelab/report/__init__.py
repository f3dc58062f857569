"""One page of HTML from a run directory, the folder of a sweep, or any folder of runs. Imports no torch."""

from vaelab.report.write import MOST, NAME, opened, report, try_to_report

__all__ = ["MOST", "NAME", "opened", "report", "try_to_report"]
