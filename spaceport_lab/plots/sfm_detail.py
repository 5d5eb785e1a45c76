"""More figures of the sfm stage: who hangs together with whom, and how well the cameras are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from spaceport_lab.cameras import Scene
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
    style,
)

ENOUGH = 15
"""Verified matches that make a pair; COLMAP's threshold."""

_GROUPS = (BLUE, ORANGE, GREEN, INK)
"""Of the largest groups; the others are faint."""

Card = Mapping[str, Any]


def graph(card: Card, scene: Scene) -> Figure:
    """The photographs from above, a line between two that match: thicker with more, a colour for each group.

    Those that were not registered lie where their GPS says, or in a row below when there is none.
    """
    rows, pairs = card["photographs"], [pair for pair in card["pairs"] if pair[2] >= ENOUGH]
    if not card["pairs"]:
        return empty_figure("the model came from elsewhere: its matches are not known")
    places = _places(card, scene)
    groups = np.array([row["component"] for row in rows])
    registered = np.array([row["registered"] for row in rows])
    sizes = Counter(groups.tolist())
    n_groups = sum(size > 1 for size in sizes.values())
    colors = np.array([_color(group, sizes) for group in groups])
    with style():
        fig, axes = figure(9.6, 4.4, columns=2, width_ratios=(1.6, 1))
        ax, bars = axes[0]
        if pairs:
            index = np.array([pair[:2] for pair in pairs])
            strength = np.array([pair[2] for pair in pairs], dtype=float)
            widths = 0.3 + 2.2 * np.sqrt(strength / strength.max())
            links = LineCollection(places[index], colors=colors[index[:, 0]], lw=widths, alpha=0.35)
            ax.add_collection(links)
        ax.scatter(*places[registered].T, s=26, c=colors[registered], zorder=3, label="registered")
        if not registered.all():
            lost = places[~registered]
            ax.scatter(*lost.T, s=40, c=RED, marker="X", lw=0, zorder=4, label="not registered")
            for i in np.flatnonzero(~registered)[:12]:
                ax.annotate(rows[i]["name"], places[i], xytext=(5, 4), textcoords="offset points", fontsize=7)
        ax.set_aspect("equal", adjustable="datalim")
        ax.legend(loc="best")
        words = "one group" if n_groups == 1 else f"{n_groups} groups"
        names = ("east [m]", "north [m]") if scene.georeferenced else ("across", "along")
        labelled(ax, f"{len(pairs)} links, {words}", *names)
        _draw_sizes(bars, sizes, groups, registered)
    return fig


def cameras(card: Card) -> Figure:
    """How far the lens bends the picture, and how well that and the focal lengths are known."""
    rows = card.get("cameras") or []
    if not rows:
        return empty_figure("the record says nothing of the cameras")
    with style():
        fig, axes = figure(9.6, 3.2, columns=2, width_ratios=(1.25, 1))
        bend, focal = axes[0]
        for row, color in zip(rows, [_GROUPS[i % len(_GROUPS)] for i in range(len(rows))], strict=True):
            radius, shift, doubt = distortion(row)
            bend.plot(
                radius, shift, color=color, label=f"camera {row['camera']}, {row['n_images']} photographs"
            )
            bend.fill_between(radius, shift - doubt, shift + doubt, color=color, alpha=0.25, lw=0)
        bend.axhline(0, color=FAINT, lw=0.8)
        bend.legend(loc="best")
        labelled(
            bend, "Distortion, ±1 standard deviation", "from the middle of the picture [px]", "shift [px]"
        )
        _draw_focal(focal, rows)
    return fig


def distortion(row: Card) -> tuple[Float[np.ndarray, "R"], Float[np.ndarray, "R"], Float[np.ndarray, "R"]]:
    """Radial shift of one camera: radius, shift and its standard deviation, all in pixels.

    Only the polynomial terms in r³ and r⁵ count, which all models but the fisheyes have.
    """
    focal, size = float(np.mean(row["focal_px"])), np.array(row["size"], dtype=float)
    radius = np.linspace(0, np.linalg.norm(size) / 2, 60)
    x = radius / focal
    powers = np.stack([x**3, x**5])
    known = np.array(row["distortion"][:2] or [0.0])
    doubts = np.array((row["distortion_sd"] or [])[: len(known)])
    shift = focal * known @ powers[: len(known)]
    doubt = focal * np.sqrt((doubts[:, None] ** 2 * powers[: len(doubts)] ** 2).sum(axis=0))
    return radius, shift, doubt if len(doubts) else np.zeros_like(shift)


def _places(card: Card, scene: Scene) -> Float[np.ndarray, "N 2"]:
    """Of every photograph, seen from above."""
    known = dict(zip(scene.cameras.names, scene.cameras.centers[:, :2], strict=True))
    low, high = scene.cameras.centers[:, :2].min(axis=0), scene.cameras.centers[:, :2].max(axis=0)
    reach = max(float((high - low).max()), 1e-6)
    places, waiting = [], 0
    for row in card["photographs"]:
        place = known.get(row["name"])
        gps = row.get("gps_enu_m") if scene.georeferenced else None
        if place is None and gps and (np.abs(gps[:2] - (low + high) / 2) < 2 * reach).all():
            place = np.array(gps[:2])
        if place is None:
            place = np.array(
                [low[0] + 0.12 * reach * (waiting % 9), low[1] - (0.15 + 0.1 * (waiting // 9)) * reach]
            )
            waiting += 1
        places.append(place)
    return np.array(places)


def _color(group: int, sizes: Mapping[int, int]) -> str:
    return _GROUPS[group] if group < len(_GROUPS) and sizes[group] > 1 else FAINT


def _draw_sizes(ax, sizes: Mapping[int, int], groups: np.ndarray, registered: np.ndarray) -> None:
    """Photographs in each of the largest groups, those left out in red."""
    shown = [group for group, _ in Counter(sizes).most_common(8)]
    order = np.arange(1, len(shown) + 1)
    placed = np.array([(registered & (groups == group)).sum() for group in shown])
    lost = np.array([(~registered & (groups == group)).sum() for group in shown])
    ax.barh(order, placed, color=[_color(group, sizes) for group in shown], height=0.7)
    ax.barh(order, lost, left=placed, color=RED, height=0.7, label="not registered" if lost.any() else None)
    ax.set_ylim(max(4, len(shown)) + 0.7, 0.3)
    ax.set_yticks(order)
    if lost.any():
        ax.legend(loc="lower right")
    labelled(ax, "Groups that hang together", "photographs", "group")


def _draw_focal(ax, rows: list[Card]) -> None:
    order = np.arange(1, len(rows) + 1)
    for place, row in zip(order, rows, strict=True):
        focal, deviation = row["focal_px"][0], row["focal_sd_px"]
        if deviation is None:
            ax.text(0.02, place, "not known", va="center", color=RED, transform=ax.get_yaxis_transform())
            continue
        share = 100 * deviation[0] / focal
        ax.barh(place, share, color=BLUE if share <= 1 else RED, height=0.5)
        ax.text(share, place, f" {focal:,.1f} ± {deviation[0]:.2g} px", va="center")
    ax.axvline(1, color=RED, lw=0.8, ls=":")
    ax.set_xlim(0, max(1.5, 1.6 * max((100 * r["focal_sd_px"][0] / r["focal_px"][0] for r in rows
                                       if r["focal_sd_px"]), default=1)))  # fmt: skip
    ax.set_ylim(max(4, len(rows)) + 0.6, 0.4)
    ax.set_yticks(order, [str(row["camera"]) for row in rows])
    labelled(ax, "Focal lengths", "standard deviation [%]", "camera")
