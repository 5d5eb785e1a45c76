"""The comparison on a terminal: figures, then parameters that differ."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from spaceport_lab.comparing import table
from spaceport_lab.comparing.compared import Comparison

ASIDE = ("ply_bytes", "cc_psnr", "steps")
"""Figures that are only in the page: a terminal has no room for all."""


def tables(compared: Comparison) -> list[Table]:
    """One row a run with its figures, and what differs; times of stages are in the page."""
    columns = table.columns(compared)
    shown = [i for i, c in enumerate(columns) if c.key not in ASIDE and not c.key.startswith("seconds_")]
    figures = Table("run", "status", box=None, pad_edge=False)
    for i in shown:
        figures.add_column(escape(columns[i].label), justify="right")
    figures.add_column("", ratio=1)
    for run, cells in zip(compared.runs, table.rows(compared), strict=True):
        texts = [f"[bold green]{escape(c.text)}[/]" if c.best else escape(c.text) for c in cells]
        style = "" if run.status == "succeeded" else "yellow"
        name = f"{run.scene}/{run.name}" if len(compared.scenes) > 1 and "/" not in run.name else run.name
        cells_shown = [texts[i] for i in shown]
        figures.add_row(escape(name), escape(run.status), *cells_shown, escape(run.reason), style=style)
    return [figures, *_differences(compared)]


def _differences(compared: Comparison) -> list[Table]:
    """No table, or one whose rows are what there is more of: runs or parameters."""
    found = compared.differences()
    if not found:
        return []
    values = [
        [f"[yellow]{escape(v)} *[/]" if c else escape(v) for v, c in zip(d.values, d.changed, strict=True)]
        for d in found
    ]
    runs, names = [escape(run.name) for run in compared.runs], [d.name for d in found]
    if len(runs) > len(names):
        head, side, cells = names, runs, list(zip(*values, strict=True))
    else:
        head, side, cells = runs, names, values
    differing = Table("run" if side is runs else "parameter", box=None, pad_edge=False)
    for title in head:
        differing.add_column(title)
    for title, line in zip(side, cells, strict=True):
        differing.add_row(title, *line)
    if any(any(d.changed) for d in found):
        differing.caption = "* changed while training"
    return [differing]
