"""Comparing runs: figures, parameters that differ, PSNR against time, one view side by side."""

from spaceport_lab.comparing.bench import gather
from spaceport_lab.comparing.compared import Comparison, Difference, Shared, compare
from spaceport_lab.comparing.page import (
    curves,
    differences_table,
    html,
    parallel,
    runs_table,
    view_swipe,
    write_html,
    write_json,
)
from spaceport_lab.comparing.reading import Run, View, is_run, read_run

__all__ = [
    "Comparison", "Difference", "Run", "Shared", "View", "compare", "curves", "differences_table", "gather",
    "html", "is_run", "parallel", "read_run", "runs_table", "view_swipe", "write_html", "write_json",
]  # fmt: skip
