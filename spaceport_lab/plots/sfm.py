"""Figures of the sfm stage: cameras and points, who matched whom, how well it fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spaceport_lab.cameras import Cameras, Scene
from spaceport_lab.plots.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    RED,
    SEQUENTIAL,
    count_axis,
    empty_figure,
    engineering,
    figure,
    labelled,
    style,
)

MAX_DOTS = 40_000
"""Sparse points drawn; more only make the file larger."""

_FROM_SOUTH = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
_AZIMUTH, _ELEVATION = np.radians(-32), np.radians(28)
_OBLIQUE = np.array(
    [
        [np.cos(_AZIMUTH), -np.sin(_AZIMUTH), 0],
        [np.sin(_AZIMUTH) * np.sin(_ELEVATION), np.cos(_AZIMUTH) * np.sin(_ELEVATION), np.cos(_ELEVATION)],
        [-np.sin(_AZIMUTH) * np.cos(_ELEVATION), -np.cos(_AZIMUTH) * np.cos(_ELEVATION), np.sin(_ELEVATION)],
    ]
)
"""Rotations of the world to the page: x to the right, y up, z towards the eye."""

_ON_PAPER = mpl.colormaps[SEQUENTIAL].with_extremes(bad="#f4f6f8")

Card = Mapping[str, Any]


def model(scene: Scene, card: Card) -> Figure:
    """The sparse points in their colours, every camera a pyramid: from above, obliquely, from the side.

    Args:
        scene: cameras and points as training will see them.
        card: registration.json, whose GPS positions are drawn where there are any.
    """
    unit = " [m]" if scene.georeferenced else ""
    names = ("east", "north", "up") if scene.georeferenced else ("across", "along", "up")
    keep = _some_inside(scene)
    points, colors = scene.points[keep], np.clip(scene.colors[keep] / 255, 0, 1)
    pyramids = _pyramids(scene.cameras, scene.points)
    with style():
        fig = Figure(figsize=(9.6, 5.6), layout="constrained")
        axes = fig.subplot_mosaic("AB;AC", width_ratios=(1, 1.12), height_ratios=(1.45, 1))
        for key, turn, title, labels in (
            ("A", np.eye(3), "From above", (names[0] + unit, names[1] + unit)),
            ("B", _OBLIQUE, "Obliquely, from the south-east", ("", "")),
            ("C", _FROM_SOUTH, "From the south", (names[0] + unit, names[2] + unit)),
        ):
            _draw_model(axes[key], points @ turn.T, colors, pyramids @ turn.T)
            _draw_gps(axes[key], scene, card, turn)
            axes[key].set_aspect("equal", adjustable="datalim")
            labelled(axes[key], title, *labels)
        axes["B"].set(xticks=[], yticks=[])
        axes["B"].grid(False)
        axes["B"].spines[:].set_visible(False)
        handles, texts = axes["A"].get_legend_handles_labels()
        fig.legend(handles, texts, loc="outside lower left", ncols=3)
    return fig


def matches(card: Card) -> Figure:
    """Which photographs share how many verified matches: a matrix, and the links of every photograph."""
    rows, pairs = card["photographs"], card["pairs"]
    if not pairs:
        return empty_figure("the model came from elsewhere: its matches are not known")
    n = len(rows)
    matrix = np.full((n, n), np.nan)
    for i, j, inliers in pairs:
        matrix[i, j] = matrix[j, i] = inliers
    registered = np.array([row["registered"] for row in rows])
    with style():
        fig, axes = figure(9.6, 3.8, columns=2, width_ratios=(1, 1.25))
        ax, bars = axes[0]
        edges = (0.5, n + 0.5, n + 0.5, 0.5)
        image = ax.imshow(matrix, cmap=_ON_PAPER, vmin=0, interpolation="nearest", extent=edges)
        ax.grid(False)
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        count_axis(ax)
        labelled(ax, f"{len(pairs)} verified pairs", "photograph, in order", "photograph, in order")
        fig.colorbar(image, ax=ax, shrink=0.85, label="matches").outline.set_visible(False)
        order = np.arange(1, n + 1)
        links = np.array([row["n_pairs"] or 0 for row in rows])
        # A photograph without partners would leave no bar to be red.
        bars.bar(order, np.maximum(links, 0.15), color=np.where(registered, BLUE, RED), width=0.75)
        bars.set_xlim(0.3, n + 0.7)
        count_axis(bars)
        bars.yaxis.set_major_locator(MaxNLocator(integer=True))
        labelled(bars, "Partners of each photograph", "photograph, in order", "verified pairs")
        if not registered.all():
            bars.bar([0], [0], color=RED, label="not registered")
            bars.legend()
    return fig


def fit(card: Card, scene: Scene) -> Figure:
    """How well it fits: per photograph, per point, and against GPS."""
    rows = [row for row in card["photographs"] if row["registered"]]
    if not rows:
        return empty_figure("no photograph was registered")
    order = np.arange(1, len(rows) + 1)
    with style():
        fig, axes = figure(9.6, 5.0, 2, 3)
        (seen, errors, offsets), (point_errors, tracks, heights) = axes
        seen.bar(order, [row["n_points"] for row in rows], color=BLUE, width=0.75)
        engineering(seen)
        labelled(seen, "Points seen", "photograph, in order")
        values = np.array([row["reprojection_error_px"] or np.nan for row in rows])
        errors.bar(order, values, color=GREEN, width=0.75)
        errors.axhline(np.nanmean(values), color=INK, lw=0.8, ls=":")
        labelled(
            errors, f"Reprojection error, mean {np.nanmean(values):.2f} px", "photograph, in order", "px"
        )
        for ax in (seen, errors):
            ax.set_xlim(0.3, len(rows) + 0.7)
            count_axis(ax)
        _draw_histograms(point_errors, tracks, card.get("histograms"))
        _draw_residuals(offsets, heights, [row for row in rows if row.get("gps_residual_m")])
    return fig


def _draw_model(ax, points: np.ndarray, colors: np.ndarray, pyramids: np.ndarray) -> None:
    """Points [P, 3], far ones first, and pyramids [S, 2, 3], both turned so that +Z is towards the eye."""
    order = np.argsort(points[:, 2])
    size = float(np.clip(30_000 / max(len(points), 1), 1.2, 5))
    ax.scatter(points[order, 0], points[order, 1], s=size, c=colors[order], lw=0, rasterized=True)
    ax.add_collection(LineCollection(pyramids[..., :2], colors=BLUE, lw=0.7))
    ax.autoscale_view()
    tips = pyramids[::8, 0]
    ax.scatter(tips[:, 0], tips[:, 1], s=9, c=BLUE, lw=0, label=f"{len(tips)} cameras")


def _draw_gps(ax, scene: Scene, card: Card, turn: np.ndarray) -> None:
    """A cross at each GPS position and a line from it to the camera."""
    reach = 3 * np.ptp(scene.cameras.centers, axis=0).max()
    places = {
        row["name"]: row["gps_enu_m"]
        for row in card["photographs"]
        if row.get("gps_enu_m") and np.abs(row["gps_enu_m"]).max() < reach
    }
    both = [(c, places[name]) for name, c in zip(scene.cameras.names, scene.cameras.centers, strict=True)
            if name in places]  # fmt: skip
    if not scene.georeferenced or not both:
        return
    lines = np.array(both) @ turn.T
    ax.add_collection(LineCollection(lines[..., :2], colors=ORANGE, lw=0.9))
    ax.scatter(lines[:, 1, 0], lines[:, 1, 1], s=24, marker="+", c=ORANGE, lw=1.2, label="their GPS")


def _draw_histograms(errors, tracks, histograms: Card | None) -> None:
    if histograms is None:
        for ax in (errors, tracks):
            ax.axis("off")
        return
    counts, edges = np.array(histograms["error_px"]["counts"]), np.array(histograms["error_px"]["edges"])
    errors.stairs(counts, edges, fill=True, color=GREEN)
    shown = edges[1:][counts > 0.002 * counts.max()]
    errors.set_xlim(0, max(1.0, shown.max(initial=0)))
    labelled(errors, "Error of the points", "mean reprojection error [px]", "points")
    lengths = np.array(histograms["track_length"])
    tracks.bar(np.arange(len(lengths)), lengths, color=BLUE, width=0.8)
    tracks.set_xlim(1.3, max(4, np.flatnonzero(lengths > 0.001 * lengths.max()).max(initial=0)) + 0.7)
    mean = (np.arange(len(lengths)) * lengths).sum() / max(lengths.sum(), 1)
    labelled(tracks, f"Seen in {mean:.1f} photographs", "photographs that see a point", "points")
    count_axis(tracks)
    for ax in (errors, tracks):
        engineering(ax)


def _draw_residuals(plane, heights, rows: list[Card]) -> None:
    """Cameras minus GPS: in the plane, and in height over the order of flight."""
    if not rows:
        for ax in (plane, heights):
            ax.axis("off")
        plane.text(0.5, 0.5, "no GPS, so no metres", ha="center", va="center", color=FAINT)
        return
    offsets = np.array([row["gps_residual_m"] for row in rows])
    kept = np.array([row["gps_inlier"] for row in rows])
    _draw_offsets(plane, offsets, kept)
    order = np.arange(1, len(rows) + 1)
    heights.axhline(0, color=FAINT, lw=0.8)
    heights.vlines(order, 0, offsets[:, 2], color=np.where(kept, BLUE, RED), lw=1.2)
    heights.scatter(order, offsets[:, 2], s=16, c=np.where(kept, BLUE, RED), zorder=3)
    if (~kept).any():
        reach = 1.3 * np.abs(offsets[kept, 2]).max(initial=0.1)
        heights.set_ylim(-reach, reach)
    count_axis(heights)
    labelled(heights, "The same in height", "photograph, in order", "up [m]")


def _draw_offsets(ax, offsets: Float[np.ndarray, "N 3"], kept: np.ndarray) -> None:
    ax.axhline(0, color=FAINT, lw=0.8)
    ax.axvline(0, color=FAINT, lw=0.8)
    ax.scatter(offsets[kept, 0], offsets[kept, 1], s=24, c=BLUE, edgecolors="white", lw=0.5)
    reach = 1.15 * max(np.abs(offsets[kept, :2]).max(initial=0.1), 0.1)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    if (~kept).any():
        # Strays can be kilometres away: they get a mark on the rim, in their direction.
        outside = offsets[~kept, :2]
        rim = outside * np.minimum(1, 0.93 * reach / np.abs(outside).max(axis=1, keepdims=True))
        ax.scatter(rim[:, 0], rim[:, 1], s=34, c=RED, marker="X", lw=0, label="strays")
        ax.legend(loc="lower right")
    labelled(ax, "Camera minus GPS", "east [m]", "north [m]")


def _pyramids(cameras: Cameras, points: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, "S 2 3"]:
    """Edges of a small pyramid for every camera: [C·8, 2, 3] in world coordinates."""
    centers = cameras.centers
    depth = 0.08 * float(np.median(np.linalg.norm(centers - np.median(points, axis=0), axis=1)))
    edges = []
    for view, k, (width, height), center in zip(
        cameras.viewmats, cameras.Ks, cameras.sizes, centers, strict=True
    ):
        pixels = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], dtype=float)
        corners = depth * (pixels @ np.linalg.inv(k).T) @ view[:3, :3] + center
        edges += [(center, corner) for corner in corners]
        edges += [(corners[i], corners[(i + 1) % 4]) for i in range(4)]
    return np.array(edges).reshape(-1, 2, 3)


def _some_inside(scene: Scene) -> Int[np.ndarray, "K"]:
    """Points to draw, at most MAX_DOTS at random: without those far outside, which would shrink the rest."""
    low, high = np.percentile(scene.points, (1, 99), axis=0)
    centers = scene.cameras.centers
    low, high = np.minimum(low, centers.min(axis=0)), np.maximum(high, centers.max(axis=0))
    margin = 0.03 * (high - low).max()
    inside = ((scene.points > low - margin) & (scene.points < high + margin)).all(axis=1)
    return np.random.default_rng(0).permutation(np.flatnonzero(inside))[:MAX_DOTS]
