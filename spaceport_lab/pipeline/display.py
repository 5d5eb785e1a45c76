"""The pipeline on a terminal: one line a stage, the running one moving."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from spaceport_lab.naming import STAGE_SUFFIX

PLAIN_SECONDS = 15.0
"""Without a terminal (a log file, CI) one line this often."""

HEADLINE = {
    "ingest": ("n_used", "n_photos"),
    "sfm": ("n_registered", "n_points", "reprojection_error_px", "pose_rmse_m"),
    "train": ("steps", "n_gaussians", "psnr_heldout", "ssim_heldout"),
    "compress": ("bytes", "ratio", "psnr_heldout"),
    "inspect": ("psnr_heldout", "ssim_heldout"),
}
"""The metrics worth a place on a stage's closing line."""


class Display:
    """Shows what the pipeline does; `quiet` shows nothing."""

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(quiet=quiet, highlight=False)
        self.bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.fields[label]}", table_column=Column(width=12)),
            BarColumn(bar_width=18),
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)),
            TimeElapsedColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
            expand=True,
        )
        self.tasks: dict[str, TaskID] = {}
        self._pace: list[tuple[float, float]] = []
        self._last_line = 0.0

    def start(self, root: Path, stages: Sequence[str]) -> None:
        """Say which job begins and where its folder is."""
        self.console.print(f"job [bold]{root.name}[/]  →  {root}", soft_wrap=True)
        self.bars.start()
        for stage in stages:
            self.tasks[stage] = self.bars.add_task(
                "", label=STAGE_SUFFIX[stage], total=None, start=False, visible=False
            )

    def stop(self) -> None:
        """Leave the terminal as it was."""
        self.bars.stop()

    def begin(self, stage: str) -> None:
        """A stage's notebook starts."""
        self._pace, self._last_line = [], time.monotonic()
        self.bars.start_task(self.tasks[stage])
        self.bars.update(self.tasks[stage], visible=True, description="starting its notebook")
        self._plain(f"{STAGE_SUFFIX[stage]}: started")

    def progress(self, stage: str, state: Mapping[str, Any] | None) -> None:
        """The running stage's newest state: step, numbers, time left."""
        if state is None:
            return
        text = live_line(state, self._seconds_left(state))
        self.bars.update(self.tasks[stage], description=text, completed=state["step"], total=state["total"])
        if not self.console.is_terminal and time.monotonic() - self._last_line > PLAIN_SECONDS:
            self._last_line = time.monotonic()
            where = f" {state['step']:,}/{state['total']:,}" if state["total"] else ""
            self._plain(f"{STAGE_SUFFIX[stage]}:{where} {text}")

    def done(self, stage: str, seconds: float, metrics: Mapping[str, Any], warnings: Sequence[str]) -> None:
        """A stage has finished."""
        self._finish(stage, headline(stage, metrics))
        self._plain(f"{STAGE_SUFFIX[stage]}: done in {seconds:.0f} s  {headline(stage, metrics)}")
        for warning in warnings:
            self.console.print(f"[yellow]{STAGE_SUFFIX[stage]}: {warning}[/]", soft_wrap=True)

    def skipped(self, stage: str, state: str, metrics: Mapping[str, Any]) -> None:
        """A stage need not run: `done` in this run before, or `reused` from another one."""
        why = "already done" if state == "done" else "reused from another run"
        self.bars.start_task(self.tasks[stage])
        self._finish(stage, f"[dim]{why}[/]  {headline(stage, metrics)}")
        self._plain(f"{STAGE_SUFFIX[stage]}: {why}  {headline(stage, metrics)}")

    def failed(self, stage: str) -> None:
        """A stage stopped; the error itself is printed by the caller."""
        self.bars.update(self.tasks[stage], description="[red]stopped[/]")
        self._plain(f"{STAGE_SUFFIX[stage]}: stopped")

    def warn(self, text: str) -> None:
        """Something a person should know that belongs to no stage."""
        self.console.print(f"[yellow]{escape(text)}[/]", soft_wrap=True)

    def _finish(self, stage: str, text: str) -> None:
        self.bars.update(self.tasks[stage], visible=True, total=1, completed=1, description=text)

    def _plain(self, line: str) -> None:
        if not self.console.is_terminal:
            self.console.print(line, soft_wrap=True)

    def _seconds_left(self, state: Mapping[str, Any]) -> float | None:
        if not state["total"]:
            return None
        self._pace.append((state["time"], state["step"]))
        # Pace over the last minute: the first steps and the last ones differ a lot.
        self._pace = [p for p in self._pace if p[0] > state["time"] - 60]
        (t0, s0), (t1, s1) = self._pace[0], self._pace[-1]
        return (state["total"] - s1) * (t1 - t0) / (s1 - s0) if s1 > s0 else None


def live_line(state: Mapping[str, Any], seconds_left: float | None) -> str:
    """`train  loss 0.05  psnr 25.1  n_gaussians 41,210  1:20 left`."""
    parts = [state["message"]] + [f"{k} {_short(v)}" for k, v in state["values"].items() if v is not None]
    if seconds_left is not None:
        minutes, seconds = divmod(int(seconds_left), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    return "  ".join(parts)


def headline(stage: str, metrics: Mapping[str, Any]) -> str:
    """The few numbers of a stage that go on its closing line."""
    names = HEADLINE[stage]
    return "  ".join(f"{n} {_short(metrics[n])}" for n in names if metrics.get(n) is not None)


def _short(value: Any) -> str:
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3g}"
    return f"{int(value):,}" if isinstance(value, (int, float)) else str(value)
