"""A sweep on a terminal: how far it is, and its trials as a table."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from spaceport_lab.sweep.judging import ENDED, Outcome
from spaceport_lab.workspace import Progress as State


class Display:
    """A bar for the trials and one for the steps of the one at work; lines where there is no terminal."""

    def __init__(self, console: Console, n_trials: int) -> None:
        self.console, self.told = console, set[int]()
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
        self.bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.trials = self.bars.add_task("trials", total=n_trials)
        self.steps = self.bars.add_task("", total=None, visible=False)

    def __enter__(self) -> Display:
        self.bars.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bars.stop()

    def step(self, number: int, state: State) -> None:
        """How far a trial is."""
        psnr = state.values.get("psnr_validation", state.values.get("psnr"))
        reached = f"  {psnr:.2f} dB" if psnr is not None else ""
        said = f"trial {number}  {state.message}{reached}"
        self.bars.update(self.steps, description=said, completed=state.step, total=state.total, visible=True)

    def stands(self, outcome: Outcome) -> None:
        """How the sweep is after another trial; what has been said is not said again."""
        ended = [row for row in outcome.trials if row.state in ENDED]
        self.bars.update(self.trials, completed=len(ended))
        for row in ended:
            if row.number not in self.told:
                self.told.add(row.number)
                psnr = f"{row.psnr:.2f} dB" if row.psnr is not None else "no figure"
                said = f"trial {row.number}: {row.state}, {psnr}  {escape(row.reason)}"
                self.console.print(said, soft_wrap=True)


def table(outcome: Outcome) -> Table:
    """All trials, the best one marked."""
    names = list(dict.fromkeys(name for row in outcome.trials for name in row.changes))
    shown = Table("trial", box=None, pad_edge=False)
    for column in ("PSNR", "held-out", "seconds"):
        shown.add_column(column, justify="right")
    for name in names:
        shown.add_column(name.partition(".")[2], justify="right")
    shown.add_column("")
    for row in outcome.trials:
        figures = ((row.psnr, ".2f"), (row.heldout, ".2f"), (row.seconds, ".1f"))
        cells = ["–" if value is None else format(value, form) for value, form in figures]
        values = [_text(row.changes.get(name)) for name in names]
        remark = (
            "the default" if row.number == 0 else row.reason or ("" if row.state == "done" else row.state)
        )
        best = outcome.best is not None and row.number == outcome.best.number
        style = "bold green" if best else "dim" if row.state != "done" else ""
        shown.add_row(str(row.number), *cells, *values, escape(remark), style=style)
    return shown


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
