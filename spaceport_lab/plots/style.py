"""One look for every figure: readable on light and on dark pages, safe for colour-blind eyes."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

# Okabe and Ito's palette, which eight kinds of colour vision can tell apart.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PINK, YELLOW = "#56B4E9", "#CC79A7", "#F0E442"
CYCLE = (BLUE, ORANGE, GREEN, RED, SKY, PINK)
INK, FAINT, PAPER, GRID = "#1f2933", "#7b8794", "#ffffff", "#e4e7eb"
SEQUENTIAL, ERROR_MAP = "viridis", "magma"

STYLE = {
    "figure.facecolor": PAPER,
    "figure.dpi": 110,
    "savefig.facecolor": PAPER,
    "savefig.dpi": 110,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.facecolor": PAPER,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": mpl.cycler(color=CYCLE),
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "image.interpolation": "antialiased",
}


def style():
    """Context in which figures get the house's look: `with style(): ...`."""
    return mpl.rc_context(STYLE)


def figure(
    width: float = 9.0, height: float = 3.4, rows: int = 1, columns: int = 1, **kwargs
) -> tuple[Figure, np.ndarray]:
    """A figure in the house's look and its axes as an array [rows, columns].

    The figure belongs to no global state (pyplot), so that batch runs do not collect open figures.

    Args:
        width: inches.
        height: inches.
        rows: rows of axes.
        columns: columns of axes.
        **kwargs: handed to `Figure.subplots`.
    """
    with style():
        fig = Figure(figsize=(width, height), layout="constrained")
        axes = fig.subplots(rows, columns, squeeze=False, **kwargs)
    return fig, axes


def picture_axes(ax) -> None:
    """Make axes hold a picture: no ticks, no grid, no frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def engineering(ax, which: str = "y", unit: str = "") -> None:
    """Write an axis' numbers as 20 k, 1.5 M."""
    axis = ax.yaxis if which == "y" else ax.xaxis
    axis.set_major_formatter(EngFormatter(unit=unit))


def count_axis(ax) -> None:
    """Whole numbers along x and no grid lines there: one bar is one thing."""
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="x", visible=False)


def empty_figure(message: str, width: float = 9.0, height: float = 1.6) -> Figure:
    """A figure that says why there is nothing to see."""
    fig, axes = figure(width, height)
    picture_axes(axes[0, 0])
    axes[0, 0].text(0.5, 0.5, message, ha="center", va="center", color=FAINT, wrap=True)
    return fig


def labelled(ax, title: str, x: str = "", y: str = "", legend: Sequence[str] | bool = False) -> None:
    """Title and axis labels in one call; `legend=True` draws one."""
    ax.set_title(title)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if legend:
        ax.legend()
