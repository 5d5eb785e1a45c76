"""Figure of an ablation: PSNR against wall time, and what each arm costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spaceport_lab.plots.style import CYCLE, FAINT, INK, empty_figure, engineering, figure, labelled, style

DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
"""Colours come again after six arms; lines are dashed then."""

LABEL_GAP = 0.085
"""Least distance of two labels, share of the axes' height."""


def comparison(arms: Sequence[Mapping[str, Any]]) -> Figure:
    """One line an arm, labelled at its end, and beside it bars of seconds and Gaussians.

    Args:
        arms: each with arm, reason, psnr [dB], seconds, n_gaussians, and curve of (seconds, step, PSNR); see
            `spaceport_lab.ablation.Outcome`. Failed ones have no line, and say so at their bar.
    """
    if not any(arm["seconds"] for arm in arms):
        reasons = "\n".join(f"{arm['arm']}: {arm['reason']}" for arm in arms)
        return empty_figure(reasons.replace("$", r"\$") or "no arm has been trained")
    with style():
        fig, axes = figure(
            10.4, max(3.4, 1.4 + 0.36 * len(arms)), columns=3, gridspec_kw={"width_ratios": (3.4, 1, 1)}
        )
        _draw_curves(axes[0, 0], arms)
        _draw_bars(axes[0, 1], arms, "seconds", "Training time", "seconds", lambda value: f"{value:,.3g} s")
        _draw_bars(axes[0, 2], arms, "n_gaussians", "Gaussians", "", lambda value: f"{value:,}")
        engineering(axes[0, 2], "x")
        axes[0, 2].set_yticklabels([])
    return fig


def look(number: int) -> dict[str, Any]:
    """Colour and dashes of the line with this number, from 0."""
    return {
        "color": CYCLE[number % len(CYCLE)],
        "linestyle": DASHES[number // len(CYCLE) % len(DASHES)],
    }


def _draw_curves(ax: Axes, arms: Sequence[Mapping[str, Any]]) -> None:
    ends = []
    for number, arm in enumerate(arms):
        if arm["curve"]:
            seconds, _, psnr = np.array(arm["curve"], dtype=float).T
            ax.plot(seconds, psnr, marker="o", markersize=2.5, **look(number))
            ends.append((psnr[-1], seconds[-1], f"{arm['arm']} {psnr[-1]:.2f} dB", look(number)["color"]))
    labelled(ax, "Held-out PSNR against training time", "seconds of training", "dB")
    ax.set_xlim(left=0)
    if not ends:
        ax.text(0.5, 0.5, "no view is held out", transform=ax.transAxes, ha="center", color=FAINT)
        return
    label_ends(ax, ends)


def label_ends(ax: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Name lines at their ends, in a column to the right where names cannot cover lines or each other."""
    ends = sorted(ends)
    low, high = ax.get_ylim()
    heights = _apart([(psnr - low) / (high - low) for psnr, *_ in ends], LABEL_GAP)
    for (psnr, seconds, text, color), height in zip(ends, heights, strict=True):
        ax.annotate(
            text, (seconds, psnr), (1.04, height), textcoords="axes fraction", va="center", color=INK,
            fontsize=8.5, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.8, "linestyle": ":", "shrinkB": 2},
        )  # fmt: skip


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights in 0..1 moved as little as makes them at least `gap` apart, from the top down."""
    gap = min(gap, 1 / max(1, len(heights) - 1))
    moved = np.minimum(np.asarray(heights, float), 1 - gap * np.arange(len(heights))[::-1])
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    return (moved - max(0.0, moved[-1] - 1)).tolist()


def _draw_bars(
    ax: Axes, arms: Sequence[Mapping[str, Any]], name: str, title: str, unit: str, written: Any
) -> None:
    values = [arm[name] or 0 for arm in arms]
    rows = np.arange(len(arms))
    ax.barh(rows, values, height=0.62, color=[look(number)["color"] for number in rows])
    for row, arm in zip(rows, arms, strict=True):
        text = written(arm[name]) if arm[name] else "failed"
        ax.text((arm[name] or 0) + 0.03 * max(values), row, text, va="center", fontsize=8.5, color=INK)
    ax.set_yticks(rows, [arm["arm"] for arm in arms])
    ax.set_xlim(0, 1.5 * max(values))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.locator_params(axis="x", nbins=3)
    labelled(ax, title, unit)
