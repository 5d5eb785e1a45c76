"""Figures of a finished training that show views: renders, the way there, corrections of photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spaceport_lab.plots.rows import Row, comparison, short
from spaceport_lab.plots.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    RED,
    empty_figure,
    figure,
    labelled,
    picture_axes,
    style,
)
from spaceport_lab.train import Comparison
from spaceport_lab.train.results import Journey

MOST_NAMES = 40
"""Photographs whose names there is room for along an axis."""

LEAST_GAIN, LEAST_OFFSET = 0.02, 0.005
"""Axes of exposures reach at least this far: what is less is nothing, and should look like it."""


def heldout(compared: Sequence[Comparison]) -> Figure:
    """Photograph, render and error of held-out views, one row each."""
    if not compared:
        return empty_figure("no view to compare")
    rows = []
    for view in compared:
        error = 255 * np.abs(view.photo - view.render).mean(axis=2)
        titles = (view.name, f"render, {view.psnr:.1f} dB", f"error, mean {error.mean():.1f}")
        rows.append(Row(view.photo, view.render, error, titles))
    return comparison(rows, 9.6)


def journey(seen: Journey | None) -> Figure | None:
    """One view from the first steps to the last, and its photograph; None where no picture was kept."""
    if seen is None:
        return None
    pictures = [(f"step {step:,}", frame) for step, frame in seen.frames]
    pictures.append((f"photograph {seen.name}", seen.photo))
    columns = min(3, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = seen.photo.shape[:2]
    with style():
        each = 9.4 / columns * height / width + 0.3
        fig, axes = figure(9.6, rows * each, rows=rows, columns=columns)
        for ax in axes.flat:
            picture_axes(ax)
        for ax, (title, picture) in zip(axes.flat, pictures, strict=False):
            ax.imshow(picture)
            ax.set_title(short(title), fontsize=9, weight="normal")
        axes.flat[len(pictures) - 1].title.set_weight("bold")
    return fig


def exposures(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """By how much each photograph is brighter than the set in red, green and blue, and its offset.

    Args:
        rows: as `train.appearance.Appearance.rows` gives them.
    """
    if not rows:
        return empty_figure("no exposures were learned")
    x = np.arange(len(rows))
    with style():
        fig, axes = figure(9.6, 3.4, columns=2, width_ratios=(2, 1))
        gains, offsets = axes[0]
        for shift, (name, color) in zip(
            (-0.2, 0.0, 0.2), {"red": RED, "green": GREEN, "blue": BLUE}.items(), strict=True
        ):
            values = np.array([row[name] for row in rows])
            gains.vlines(x + shift, 1, values, color=color, lw=1, alpha=0.6)
            gains.plot(x + shift, values, ls="", marker="o", markersize=3.5, color=color, label=name)
        all_gains = np.array([[row[name] for name in ("red", "green", "blue")] for row in rows])
        reach = 1.15 * max(LEAST_GAIN, float(np.abs(all_gains - 1).max()))
        gains.axhline(1, color=INK, lw=0.8)
        gains.set_ylim(1 - reach, 1 + reach)
        labelled(gains, f"Gains of {len(rows)} photographs, {all_gains.min():.3f} to {all_gains.max():.3f}")
        gains.legend(ncols=3)
        values = np.array([row["offset"] for row in rows])
        offsets.bar(x, values, color=FAINT, width=0.7)
        reach = 1.15 * max(LEAST_OFFSET, float(np.abs(values).max()))
        offsets.axhline(0, color=INK, lw=0.8)
        offsets.set_ylim(-reach, reach)
        labelled(offsets, "Offsets, 1 is black to white", "photographs in the same order")
        offsets.set_xticks([])
        _name(gains, rows)
    return fig


def camera_moves(rows: Sequence[Mapping[str, Any]], unit: str = "world units") -> Figure:
    """How far each camera was moved and turned.

    Args:
        rows: as `train.poses.CameraRefinement.rows` gives them.
        unit: of the world, for the axis.
    """
    if not rows:
        return empty_figure("no camera was moved")
    x = np.arange(len(rows))
    with style():
        fig, axes = figure(9.6, 3.2, columns=2)
        for ax, field, color, name, what in (
            (axes[0, 0], "moved", BLUE, "moved", unit),
            (axes[0, 1], "turned", ORANGE, "turned", "degrees"),
        ):
            values = np.array([row[field] for row in rows])
            ax.bar(x, values, color=color, width=0.7)
            ax.axhline(np.median(values), color=INK, lw=0.8, ls="--")
            labelled(ax, f"Cameras {name}, median {np.median(values):.3g}", "", what)
            _name(ax, rows)
    return fig


def corrections(
    exposed: Sequence[Mapping[str, Any]], moved: Sequence[Mapping[str, Any]], unit: str = "world units"
) -> list[Figure]:
    """Figures of what was learned about photographs and cameras; none where nothing was."""
    figures = [exposures(exposed)] if exposed else []
    return figures + ([camera_moves(moved, unit)] if moved else [])


def _name(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Every view's name below the axis, or of a few where there are many."""
    shown = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_NAMES)).round().astype(int))
    names = [short(rows[i]["view"], 16) for i in shown]
    ax.set_xticks(shown, names, rotation=90, fontsize=7)
    ax.set_xlim(-0.7, len(rows) - 0.3)
    ax.grid(axis="x", visible=False)
