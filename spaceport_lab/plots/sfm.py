"""Figures of the sfm stage: cameras and points, who matched whom, how well it fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

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

MAX_DOTS = 30_000
"""Sparse points drawn; more only make the file larger."""

Card = Mapping[str, Any]


def model(scene: Scene, card: Card) -> Figure:
    """The sparse points in their colours with every camera as a pyramid, from above and from the side.

    Args:
        scene: cameras and points as training will see them.
        card: registration.json, whose GPS positions are drawn where there are any.
    """
    unit = " [m]" if scene.georeferenced else ""
    names = ("east", "north", "up") if scene.georeferenced else ("across", "along", "up")
    keep = np.random.default_rng(0).permutation(len(scene.points))[:MAX_DOTS]
    points, colors = scene.points[keep], scene.colors[keep] / 255
    pyramids = _pyramids(scene.cameras, scene.points)
    gps = np.array([r["gps_enu_m"] for r in card["photographs"] if r["gps_enu_m"]]).reshape(-1, 3)
    limits = _limits(scene)
    with style():
        fig, axes = figure(9.6, 4.9, columns=2)
        for ax, (i, j), title in zip(
            axes[0], ((0, 1), (0, 2)), ("From above", "From the south"), strict=True
        ):
            order = np.argsort(points[:, 2] if j == 1 else -points[:, 1])
            ax.scatter(points[order, i], points[order, j], s=1.6, c=colors[order], lw=0, rasterized=True)
            if scene.georeferenced and len(gps):
                ax.scatter(gps[:, i], gps[:, j], s=26, marker="+", c=ORANGE, lw=1.2, label="GPS")
            ax.add_collection(LineCollection(pyramids[..., [i, j]], colors=BLUE, lw=0.8))
            centers = scene.cameras.centers
            ax.scatter(centers[:, i], centers[:, j], s=9, c=BLUE, lw=0, label="cameras")
            ax.set(xlim=limits[i], ylim=limits[j], aspect="equal")
            labelled(ax, title, names[i] + unit, names[j] + unit)
        axes[0, 0].legend(loc="upper right", markerscale=1.2)
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
        image = ax.imshow(matrix, cmap=SEQUENTIAL, vmin=0, interpolation="nearest")
        ax.grid(False)
        labelled(ax, f"{len(pairs)} verified pairs", "photograph, in order", "photograph, in order")
        fig.colorbar(image, ax=ax, shrink=0.85, label="matches")
        order = np.arange(1, n + 1)
        links = np.array([row["n_pairs"] or 0 for row in rows])
        bars.bar(order, links, color=np.where(registered, BLUE, RED), width=0.75)
        count_axis(bars)
        labelled(bars, "Partners of each photograph", "photograph, in order", "verified pairs")
        if not registered.all():
            bars.bar([0], [0], color=RED, label="not registered")
            bars.legend()
    return fig


def fit(card: Card, scene: Scene) -> Figure:
    """How well it fits: points seen and reprojection error per photograph, and distances to GPS."""
    rows = [row for row in card["photographs"] if row["registered"]]
    if not rows:
        return empty_figure("no photograph was registered")
    order = np.arange(1, len(rows) + 1)
    offsets = np.array([row["gps_residual_m"] for row in rows if row.get("gps_residual_m")]).reshape(-1, 3)
    with style():
        fig, axes = figure(9.6, 2.8, columns=3)
        seen, errors, gps = axes[0]
        seen.bar(order, [row["n_points"] for row in rows], color=BLUE, width=0.75)
        engineering(seen)
        labelled(seen, "Points seen", "photograph, in order")
        values = np.array([row["reprojection_error_px"] or np.nan for row in rows])
        errors.bar(order, values, color=GREEN, width=0.75)
        errors.axhline(np.nanmean(values), color=INK, lw=0.8, ls=":")
        labelled(
            errors, f"Reprojection error, mean {np.nanmean(values):.2f} px", "photograph, in order", "px"
        )
        if len(offsets):
            _draw_offsets(gps, offsets, [row["gps_inlier"] for row in rows if row.get("gps_residual_m")])
        else:
            gps.axis("off")
            gps.text(0.5, 0.5, "no GPS, so no metres", ha="center", va="center", color=FAINT)
        for ax in (seen, errors):
            count_axis(ax)
    return fig


def _draw_offsets(ax, offsets: Float[np.ndarray, "N 3"], inliers: list[bool]) -> None:
    kept = np.array(inliers, dtype=bool)
    ax.axhline(0, color=FAINT, lw=0.8)
    ax.axvline(0, color=FAINT, lw=0.8)
    ax.scatter(offsets[kept, 0], offsets[kept, 1], s=24, c=BLUE, edgecolors="white", lw=0.5)
    ax.scatter(offsets[~kept, 0], offsets[~kept, 1], s=30, c=RED, marker="X", label="left out")
    reach = 1.15 * max(np.abs(offsets[kept, :2]).max(initial=0.1), 0.1)
    if (~kept).any():
        reach = max(reach, min(1.1 * np.abs(offsets[:, :2]).max(), 4 * reach))
        ax.legend()
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
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


def _limits(scene: Scene) -> Float[np.ndarray, "3 2"]:
    """A cube around the middle 96 % of the points and every camera, so that both views are square."""
    low, high = np.percentile(scene.points, (2, 98), axis=0)
    centers = scene.cameras.centers
    low, high = np.minimum(low, centers.min(axis=0)), np.maximum(high, centers.max(axis=0))
    middle, reach = (low + high) / 2, 0.55 * (high - low).max()
    return np.stack([middle - reach, middle + reach], axis=1)
