"""What a chart of the bench shows, as data: for a canvas while it lives, for matplotlib where it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from spaceport_lab.plots.style import FAINT, INK, RED, engineering, picture_axes


@dataclass(frozen=True)
class Series:
    """One line of a chart, or one kind of bars.

    Attributes:
        name: in the legend; empty for none.
        kind: "line", "points" (a line with dots), "steps" (a value holds until the next), "bars".
        color: of the palette.
        x, y: where it goes.
        base: where bars begin, as `y` where they end; None but for bars.
        width: of bars, in units of x.
        axis: "left" or "right".
        alpha: 0 to 1.
        thick: width of a line in pixels.
        dash: whether a line is dashed.
    """

    name: str
    kind: Literal["line", "points", "steps", "bars"]
    color: str
    x: Float[np.ndarray, " N"]
    y: Float[np.ndarray, " N"]
    base: Float[np.ndarray, " N"] | None = None
    width: float = 1.0
    axis: Literal["left", "right"] = "left"
    alpha: float = 1.0
    thick: float = 2.0
    dash: bool = False


@dataclass(frozen=True)
class Drawing:
    """A whole chart over steps.

    Attributes:
        title: with the present value where there is one.
        series: from back to front.
        x, y, right: reach of the axes; `right` is None where no series is on it.
        right_top: the right axis is labelled up to here; None labels all of it.
        right_color: of those labels.
        y_unit: after the numbers of the left axis.
        marks: steps of dotted lines, such as opacity resets.
        now: the present step as a marker; None for none.
        say: words in the middle where there is nothing to draw.
        alt: the chart in one sentence.
    """

    title: str
    series: Sequence[Series]
    x: tuple[float, float]
    y: tuple[float, float]
    right: tuple[float, float] | None = None
    right_top: float | None = None
    right_color: str = FAINT
    y_unit: str = ""
    marks: Sequence[float] = field(default_factory=tuple)
    now: float | None = None
    say: str = ""
    alt: str = ""

    def spec(self) -> dict[str, Any]:
        """All but the numbers of the series, as JSON knows it."""
        series = [
            {
                "name": s.name, "kind": s.kind, "color": s.color, "n": len(s.x), "width": s.width,
                "axis": s.axis, "alpha": s.alpha, "thick": s.thick, "dash": s.dash,
            }
            for s in self.series
        ]  # fmt: skip
        return {
            "title": self.title, "series": series, "x": list(self.x), "y": list(self.y),
            "right": None if self.right is None else list(self.right), "right_top": self.right_top,
            "right_color": self.right_color, "y_unit": self.y_unit, "marks": list(self.marks),
            "now": self.now, "say": self.say, "alt": self.alt,
        }  # fmt: skip

    def data(self) -> bytes:
        """The columns of all series one after the other, float32: x, y, and the base of bars."""
        columns: list[np.ndarray] = []
        for s in self.series:
            columns += [s.x, s.y]
            if s.kind == "bars":
                columns.append(np.zeros(len(s.x)) if s.base is None else s.base)
        return np.concatenate([np.asarray(c, np.float32) for c in columns] or [np.zeros(0)]).tobytes()


def draw(ax: Axes, drawing: Drawing) -> None:
    """The same chart on matplotlib's axes."""
    ax.set_title(drawing.title)
    if drawing.say:
        picture_axes(ax)
        ax.text(
            0.5, 0.5, drawing.say, transform=ax.transAxes, ha="center", va="center", color=FAINT, wrap=True
        )
        return
    other = ax.twinx() if drawing.right else None
    for s in drawing.series:
        place = other if s.axis == "right" and other is not None else ax
        label = s.name or None
        if s.kind == "bars":
            base = np.zeros(len(s.x)) if s.base is None else s.base
            ends = np.asarray(s.y) - base
            place.bar(s.x, ends, bottom=base, width=s.width, color=s.color, alpha=s.alpha, label=label)
        else:
            place.plot(
                s.x, s.y, color=s.color, alpha=s.alpha, lw=0.9 * s.thick, label=label,
                marker="o" if s.kind == "points" else None, markersize=4, ls="--" if s.dash else "-",
                drawstyle="steps-post" if s.kind == "steps" else "default",
            )  # fmt: skip
    for step in drawing.marks:
        ax.axvline(step, color=RED, lw=1, ls=":")
    if drawing.now is not None:
        ax.axvline(drawing.now, color=INK, lw=1)
    ax.set_xlim(*drawing.x)
    ax.set_ylim(*drawing.y)
    engineering(ax, "x")
    if drawing.y[1] >= 1000:
        engineering(ax)
    if other is not None:
        other.set_ylim(*drawing.right)
        other.grid(False)
        other.tick_params(axis="y", labelcolor=drawing.right_color)
        if drawing.right_top is not None:
            other.set_yticks([t for t in other.get_yticks() if drawing.right[0] <= t <= drawing.right_top])
    handles = [h for a in (ax, other) if a for h in zip(*a.get_legend_handles_labels(), strict=True)]
    if len(handles) > 1:
        ax.legend(*zip(*handles, strict=True), fontsize=7.5, loc="best")
