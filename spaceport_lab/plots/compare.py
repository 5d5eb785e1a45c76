"""Figures of several runs: PSNR against training time, and parameters beside what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from spaceport_lab.plots.ablation import label_ends, look
from spaceport_lab.plots.rows import short
from spaceport_lab.plots.style import FAINT, GRID, INK, empty_figure, figure, labelled, style

MOST_LABELLED = 9
"""Lines that can be named at their ends; more go into a legend, without their figures."""

LARGE_SPAN = 20.0
"""Largest over smallest from which an axis is logarithmic."""

MOST_AXES = 10
"""Parameters side by side that can still be read."""

SHADES = ListedColormap(colormaps["viridis"](np.linspace(0.93, 0.0, 256)))
"""Viridis from worst to best: the best is what stands out most, on white and on a page turned dark."""

ZERO_GAP = 0.12
"""Share of a logarithmic axis between its zero, which stands below, and the smallest number."""


@dataclass(frozen=True)
class Curve:
    """A run's way: finite seconds of training, rising, and PSNR in dB."""

    name: str
    seconds: Sequence[float]
    psnr: Sequence[float]


@dataclass(frozen=True)
class Dimension:
    """A parameter, or another number: of each run a number, a word, or None where the run has none."""

    name: str
    values: Sequence[float | str | None]


def curves(runs: Sequence[Curve], target: float | None = None) -> Figure:
    """Held-out PSNR of every run against its seconds of training.

    Args:
        runs: those without an evaluation have no line.
        target: a PSNR in dB to mark, such as the one time to quality is measured at.
    """
    shown = [(number, run) for number, run in enumerate(runs) if len(run.psnr)]
    if not shown:
        return empty_figure("no run has evaluated a view")
    with style():
        fig, axes = figure(9.6, 4.0)
        ax, ends = axes[0, 0], []
        for number, run in shown:
            name = short(run.name, 32)
            ax.plot(run.seconds, run.psnr, marker="o", markersize=2.5, label=name, **look(number))
            ends.append(
                (run.psnr[-1], run.seconds[-1], f"{name} {run.psnr[-1]:.2f} dB", look(number)["color"])
            )
        if target is not None:
            ax.axhline(target, color=FAINT, linewidth=0.9, linestyle=(0, (2, 3)))
        labelled(ax, "Held-out PSNR against training time", "seconds of training", "dB")
        ax.set_xlim(left=0)
        if len(shown) <= MOST_LABELLED:
            label_ends(ax, ends)
        else:
            ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=7.5, ncols=1 + len(shown) // 26)
    return fig


def parallel(dimensions: Sequence[Dimension], psnr: Sequence[float | None]) -> Figure:
    """Parallel coordinates: one line a run through what differs, coloured by its PSNR.

    Axes are logarithmic where numbers span more than LARGE_SPAN times; words stand in order of the alphabet.
    A line breaks at an axis the run has no value for. Runs without a PSNR are grey.

    Args:
        dimensions: parameters, at most MOST_AXES are drawn.
        psnr: of each run, dB; the last axis.
    """
    known = [value for value in psnr if value is not None]
    dimensions = [d for d in dimensions if len({v for v in d.values if v is not None}) > 1][:MOST_AXES]
    if len(known) < 2 or not dimensions:
        return empty_figure("parallel coordinates need two runs with a PSNR and a parameter that differs")
    dimensions = [*dimensions, Dimension("PSNR [dB]", psnr)]
    norm = Normalize(min(known), max(known))
    with style():
        fig, axes = figure(9.6, 4.2)
        ax = axes[0, 0]
        heights = np.array([_draw_axis(ax, x, dimension) for x, dimension in enumerate(dimensions)])
        # The best line is drawn last, on top.
        order = sorted(range(len(psnr)), key=lambda i: -np.inf if psnr[i] is None else psnr[i])
        for i in order:
            best = psnr[i] == max(known)
            color = GRID if psnr[i] is None else SHADES(norm(psnr[i]))
            ax.plot(
                range(len(dimensions)), heights[:, i], color=color, linewidth=2.6 if best else 1.4,
                marker="o", markersize=3, alpha=0.9,
            )  # fmt: skip
        ax.set_xticks(range(len(dimensions)), [_wrapped(d.name) for d in dimensions], fontsize=8)
        ax.set_yticks([])
        ax.set_xlim(-0.3, len(dimensions) - 0.6)
        ax.set_ylim(-0.06, 1.06)
        ax.grid(False)
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.tick_params(length=0)
        ax.set_title("Parameters of every run, coloured by PSNR")
        bar = fig.colorbar(ScalarMappable(norm, SHADES), ax=ax, pad=0.02, shrink=0.85)
        bar.set_label("held-out PSNR [dB]", fontsize=8)
        bar.outline.set_visible(False)
    return fig


def _draw_axis(ax: Axes, x: int, dimension: Dimension) -> Float[np.ndarray, "R"]:
    """Draw one upright axis with its numbers; returns where each run crosses it, NaN for nowhere."""
    ax.plot([x, x], [0, 1], color=FAINT, linewidth=0.8, zorder=0)
    heights, ticks = _placed(dimension.values)
    for height, text in ticks:
        ax.text(
            x + 0.03, height, short(text, 14), fontsize=7.5, color=INK, va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}, zorder=5,
        )  # fmt: skip
    return heights


def _placed(values: Sequence[float | str | None]) -> tuple[Float[np.ndarray, "R"], list[tuple[float, str]]]:
    """Heights of values in 0..1, NaN for None, and (height, text) of the marks beside the axis."""
    if any(isinstance(value, str) for value in values):
        words = sorted({str(value) for value in values if value is not None})
        places = dict(zip(words, np.linspace(0, 1, len(words)), strict=True))
        heights = [np.nan if value is None else places[str(value)] for value in values]
        return np.array(heights), [(place, word) for word, place in places.items()]
    numbers = np.array([np.nan if value is None else float(value) for value in values])
    marks = np.unique(numbers[np.isfinite(numbers)])
    low, high = marks[0], marks[-1]
    positive = marks[marks > 0]
    if low >= 0 and len(positive) and positive[0] * LARGE_SPAN < high:
        return _logarithmic(numbers, positive[0], high, low == 0), _few(
            marks, _logarithmic(marks, positive[0], high, low == 0)
        )
    span = (high - low) or 1.0
    return (numbers - low) / span, _few(marks, (marks - low) / span)


def _logarithmic(
    numbers: Float[np.ndarray, "N"], low: float, high: float, with_zero: bool
) -> Float[np.ndarray, "N"]:
    base = ZERO_GAP if with_zero else 0.0
    share = np.log(np.where(numbers > 0, numbers, low) / low) / np.log(high / low)
    return np.where(numbers == 0, 0.0, base + (1 - base) * share) + 0 * numbers


def _few(marks: Float[np.ndarray, "M"], heights: Float[np.ndarray, "M"]) -> list[tuple[float, str]]:
    """Both ends, and what lies between with room around it."""
    chosen: list[int] = [0, len(marks) - 1]
    for i in range(1, len(marks) - 1):
        if all(abs(heights[i] - heights[j]) > 0.09 for j in chosen):
            chosen.append(i)
    return [(float(heights[i]), _written(marks[i])) for i in sorted(set(chosen))]


def _written(number: float) -> str:
    return f"{number:,.0f}" if float(number).is_integer() and abs(number) < 1e9 else f"{number:.3g}"


def _wrapped(name: str) -> str:
    stage, dot, key = name.partition(".")
    return f"{stage}.\n{key}" if dot else name
