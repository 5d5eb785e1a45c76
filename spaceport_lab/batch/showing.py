"""A batch on a terminal: a table that moves, and one that stays."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from spaceport_lab.batch.rows import Row

COLOURS = {
    "waiting": "dim", "running": "bold", "succeeded": "green", "failed": "red", "interrupted": "yellow",
}  # fmt: skip


class Display:
    """Shows how the scenes stand; without a terminal one line for each change.

    Args:
        console: where.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._said: dict[str, tuple[str, str]] = {}
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def told(self, rows: Sequence[Row]) -> None:
        """Show how they stand now."""
        if self.console.is_terminal:
            self._live.update(moving(rows, max(5, self.console.height - 4)), refresh=True)
            return
        for row in rows:
            now = (row.state, row.stage if row.state == "running" else "")
            if self._said.get(row.job, ("waiting", "")) != now:
                self._said[row.job] = now
                text = " ".join(part for part in (row.stage, row.code, _first_line(row.reason)) if part)
                self.console.print(f"{row.scene}: {_state(row)}  {escape(text)}".rstrip(), soft_wrap=True)


def moving(rows: Sequence[Row], most: int) -> Table:
    """The scenes at work, then those that failed, then others, as many as there is room for."""
    order = {"running": 0, "failed": 1, "interrupted": 1, "waiting": 2, "succeeded": 3}
    shown = sorted(rows, key=lambda row: order[row.state])[:most]
    counts = ", ".join(f"{n} {state}" for state in COLOURS if (n := sum(row.state == state for row in rows)))
    table = Table("scene", "state", "stage", box=None, pad_edge=False, caption=counts, caption_justify="left")
    table.add_column("done", justify="right")
    table.add_column("")
    for row in shown:
        done = f"{row.progress:.0%}" if row.state == "running" else ""
        text = _first_line(row.reason) or row.message
        table.add_row(row.scene, _state(row), row.stage, done, escape(text))
    return table


def summary(rows: Sequence[Row]) -> Table:
    """How every scene ended: state, stage, number and reason of a failure, PSNR, size, seconds."""
    table = Table("scene", "state", "stage", "error", box=None, pad_edge=False)
    for column in ("PSNR", "MB", "seconds", "attempts"):
        table.add_column(column, justify="right")
    table.add_column("reason")
    for row in rows:
        table.add_row(
            row.scene,
            _state(row),
            row.stage,
            row.code,
            "–" if row.psnr is None else f"{row.psnr:.2f}",
            "–" if row.size is None else f"{row.size / 1e6:.2f}",
            "–" if row.seconds is None else f"{row.seconds:.0f}",
            str(row.attempts or "–"),
            escape(_first_line(row.reason)),
        )
    return table


def _state(row: Row) -> str:
    text = "done before" if row.before else row.state
    return f"[{COLOURS[row.state]}]{text}[/]"


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0] if lines else ""
