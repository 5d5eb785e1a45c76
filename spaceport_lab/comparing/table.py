"""Figures of several runs as rows of a table: which there are, how they are written, which is best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from spaceport_lab.comparing.compared import Comparison
from spaceport_lab.comparing.reading import Run
from spaceport_lab.params import STAGES
from spaceport_lab.report.facts import duration, size


@dataclass(frozen=True)
class Column:
    """A figure.

    Attributes:
        key: in `Run.figures`.
        label: heading, with the unit where the value has none.
        write: the value as text.
        best: "most", "least", or empty where neither is better.
        help: what it is.
    """

    key: str
    label: str
    write: Callable[[Any], str]
    best: str = ""
    help: str = ""


@dataclass(frozen=True)
class Cell:
    """A value as text and as what it is sorted by; `best` where no other run has a better one."""

    text: str
    value: float | str | None
    best: bool = False


def _decimals(n: int) -> Callable[[Any], str]:
    return lambda value: f"{value:,.{n}f}"


COLUMNS: tuple[Column, ...] = (
    Column("psnr", "PSNR [dB]", _decimals(2), "most", "held-out views, before compression"),
    Column("psnr_sog", ".sog PSNR [dB]", _decimals(2), "most", "held-out views, the compressed splat"),
    Column("ssim", "SSIM", _decimals(3), "most", "held-out views, before compression"),
    Column("cc_psnr", "cc-PSNR [dB]", _decimals(2), "most", "held-out views, colours matched first"),
    Column("n_gaussians", "Gaussians", _decimals(0), "", "in the splat"),
    Column("ply_bytes", "PLY", size, "least", "size of the file"),
    Column("sog_bytes", ".sog", size, "least", "size of the file"),
    Column("ratio", "ratio", lambda value: f"{value:.1f} ×", "most", "PLY over .sog"),
    Column("reach", "time to quality", duration, "least", "seconds of training until the PSNR is reached"),
    Column("steps", "steps", _decimals(0), "", "of training"),
    *(Column(f"seconds_{stage}", stage, duration, "least", f"time of stage {stage}") for stage in STAGES),
    Column("seconds", "time", duration, "least", "of all stages this run did itself"),
    Column("peak_rss_mb", "memory", lambda value: f"{value / 1000:,.2f} GB", "least", "peak, of any stage"),
    Column("cost", "cost", _decimals(2), "least", "as on the run card"),
    Column("stopped_by", "stopped by", str, "", "what ended training"),
)
"""Every figure, in the order of the table; those no run has are left out."""


def columns(compared: Comparison) -> list[Column]:
    """The columns that at least one run fills; time to quality says which quality."""
    values = [figures(compared, run) for run in compared.runs]
    shown = [column for column in COLUMNS if any(column.key in row for row in values)]
    target = compared.target()
    return [
        Column("reach", f"time to {target:g} dB", c.write, c.best, c.help) if c.key == "reach" else c
        for c in shown
    ]


def figures(compared: Comparison, run: Run) -> dict[str, Any]:
    """A run's figures, with the seconds of training in which it reached `Comparison.target`."""
    target = compared.target()
    reached = [seconds for seconds, _, psnr in run.curve if target is not None and psnr >= target]
    return {**run.figures, **({"reach": reached[0]} if reached else {})}


def rows(compared: Comparison) -> list[list[Cell]]:
    """One row a run, in the order of `columns`; "–" where a run has no such figure."""
    shown = columns(compared)
    values = [figures(compared, run) for run in compared.runs]
    best = {column.key: _best(column, [row.get(column.key) for row in values]) for column in shown}
    return [[_cell(column, row.get(column.key), best[column.key]) for column in shown] for row in values]


def _best(column: Column, values: Sequence[Any]) -> str | None:
    """How the best value is written; None where runs do not differ or none is better."""
    known = [value for value in values if _is_number(value)]
    if not column.best or len({column.write(value) for value in known}) < 2:
        return None
    return column.write(max(known) if column.best == "most" else min(known))


def _cell(column: Column, value: Any, best: str | None) -> Cell:
    if value is None:
        return Cell("–", None)
    try:
        text = column.write(value)
    except (TypeError, ValueError):
        return Cell(str(value), None)  # a card of another shape: shown as it is
    return Cell(text, float(value) if _is_number(value) else text, text == best)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
