"""Figures of the ingest stage: the photographs, where they were taken, how good they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.ticker import PercentFormatter
from PIL import Image

from spaceport_lab.cameras import gps_to_enu
from spaceport_lab.plots.style import (
    BLUE,
    FAINT,
    INK,
    ORANGE,
    RED,
    SEQUENTIAL,
    count_axis,
    empty_figure,
    figure,
    labelled,
    picture_axes,
    style,
)

SHEET_COLUMNS, SHEET_MOST = 6, 60
"""A contact sheet's width in pictures, and the most it shows."""

FAR = 20
"""Positions further out than this many times the usual distance are counted, not drawn."""

Photo = Mapping[str, Any]


def contact_sheet(photos: Sequence[Photo], thumbnails: Path) -> Figure:
    """Every photograph small, excluded ones marked in red with their reason.

    Args:
        photos: rows of photos.json.
        thumbnails: the folder their thumbnails lie in.
    """
    shown = sorted(photos, key=lambda photo: photo["status"] == "used")[:SHEET_MOST]
    shown = sorted(shown, key=lambda photo: photo["source"])
    if not shown:
        return empty_figure("no photographs")
    rows = -(-len(shown) // SHEET_COLUMNS)
    width = 9.6
    tall = float(np.median([photo["height"] / photo["width"] for photo in shown if photo["width"]] or [0.75]))
    captions = 0.45 if any(photo["status"] != "used" for photo in shown) else 0.27
    with style():
        fig, axes = figure(width, (width / SHEET_COLUMNS * tall + captions) * rows, rows, SHEET_COLUMNS)
        for ax, photo in zip(axes.flat, shown, strict=False):
            _thumbnail(ax, photo, thumbnails)
        for ax in axes.flat[len(shown) :]:
            ax.set_visible(False)
        if len(photos) > len(shown):
            fig.supxlabel(f"{len(shown)} of {len(photos)} photographs", color=FAINT, fontsize=9)
    return fig


def masked(photos: Sequence[Photo], folder: Path, most: int = 12) -> Figure:
    """Photographs with the part that their masks hide in orange, its share over each.

    Args:
        photos: rows of photos.json.
        folder: of the stage, with thumbnails/ and masks/.
        most: pictures shown, those of which most is hidden.
    """
    found = [(photo, folder / "masks" / f"{photo['name']}.png") for photo in photos]
    found = [(photo, path) for photo, path in found if photo["status"] == "used" and path.is_file()]
    if not found:
        return empty_figure("no photograph has a mask: all of them counts")
    rows = sorted((_hidden(photo, path, folder) for photo, path in found), key=lambda row: -row[1])[:most]
    columns = min(6, len(rows))
    tall = rows[0][2].shape[0] / rows[0][2].shape[1]
    lines = -(-len(rows) // columns)
    with style():
        fig, axes = figure(9.6, (9.6 / 6 * tall + 0.4) * lines + 0.3, lines, columns)
        for ax, (name, share, pixels) in zip(axes.flat, rows, strict=False):
            picture_axes(ax)
            ax.imshow(pixels)
            ax.set_title(f"{_short(name, 14)}: {share:.0%}", fontsize=7.5, fontweight="normal", pad=3)
        for ax in axes.flat[len(rows) :]:
            ax.set_visible(False)
        fig.supxlabel(
            f"hidden by masks, in {len(found)} of {len(photos)} photographs", color=FAINT, fontsize=9
        )
    return fig


def _hidden(photo: Photo, path: Path, folder: Path) -> tuple[str, float, np.ndarray]:
    """Name, the share that is hidden, and the thumbnail with that part in orange."""
    with Image.open(folder / "thumbnails" / photo["thumbnail"]) as picture, Image.open(path) as mask:
        pixels = np.asarray(picture.convert("RGB"), dtype=float)
        hidden = np.asarray(mask.convert("L").resize(picture.size, Image.Resampling.BOX)) < 128
    pixels[hidden] = 0.4 * pixels[hidden] + 0.6 * 255 * np.array(to_rgb(ORANGE))
    return Path(photo["source"]).name, float(hidden.mean()), pixels.round().astype(np.uint8)


def gps_map(photos: Sequence[Photo]) -> Figure:
    """Where the photographs were taken: from above in flight order, and their heights along the way."""
    located = [photo for photo in photos if photo["gps"]]
    if len(located) < 2:
        return empty_figure("the photographs have no GPS: the model will have no metres")
    located.sort(key=lambda photo: (photo["taken"] or "", photo["source"]))
    enu = _local(located)
    away = np.linalg.norm(enu[:, :2] - np.median(enu[:, :2], axis=0), axis=1)
    near = away <= FAR * max(np.median(away), 1.0)
    outside = int((~near).sum())
    located, enu = [photo for photo, shown in zip(located, near, strict=True) if shown], enu[near]
    enu[:, 2] -= enu[:, 2].min()
    used = np.array([photo["status"] == "used" for photo in located])
    doubted = sum(photo["gps_problem"] is not None for photo in photos)
    with style():
        fig, axes = figure(9.6, 4.0, columns=2, width_ratios=(1.15, 1))
        above, heights = axes[0]
        order = np.arange(1, len(located) + 1)
        above.plot(enu[:, 0], enu[:, 1], color=FAINT, lw=0.9, zorder=1)
        dots = above.scatter(
            enu[used, 0],
            enu[used, 1],
            s=36,
            c=order[used],
            cmap=SEQUENTIAL,
            edgecolors="white",
            lw=0.6,
            zorder=2,
        )
        fig.colorbar(dots, ax=above, shrink=0.7, label="in flight order").outline.set_visible(False)
        above.scatter(enu[~used, 0], enu[~used, 1], s=40, c=RED, marker="X", lw=0.6, zorder=3)
        above.set_aspect("equal", adjustable="datalim")
        above.margins(0.1)
        beyond = f", {outside} far outside" if outside else ""
        beyond += f", {doubted} not believed" if doubted else ""
        labelled(above, f"{len(located)} positions from above{beyond}", "east [m]", "north [m]")
        heights.plot(order, enu[:, 2], color=FAINT, lw=0.9, zorder=1)
        heights.scatter(order[used], enu[used, 2], s=30, c=BLUE, edgecolors="white", lw=0.6, label="used")
        if not used.all():
            heights.scatter(order[~used], enu[~used, 2], s=38, c=RED, marker="X", label="left out")
            heights.legend()
        heights.margins(y=0.3)
        count_axis(heights)
        labelled(heights, "Height above the lowest", "photograph, in flight order", "up [m]")
    return fig


def footprint_map(flight: Mapping[str, Any]) -> Figure:
    """Path and footprints in flight order, and by how many photographs each spot of flat ground is seen.

    Args:
        flight: flight.json. Without footprints the figure says why there are none.
    """
    views = [view for view in flight["views"] if view["footprint"] is not None]
    if len(views) < 2:
        return empty_figure(" ".join(flight["words"]))
    prints = np.array([view["footprint"] for view in views])
    places = np.array([view["enu"] for view in views])[:, :2]
    middle, far = np.median(places, axis=0), np.ptp(places, axis=0).max()
    # Oblique views end far out, and would make the rest small.
    most = 1.05 * float(np.abs(prints - middle).max())
    reach = min(most, 0.6 * far + float(np.median(np.ptp(prints, axis=1))))
    colors = colormaps[SEQUENTIAL](np.linspace(0, 1, len(views)))
    with style():
        fig, axes = figure(9.6, 4.4, columns=2)
        path, seen = axes[0]
        for corners, color in zip(prints, colors, strict=True):
            path.add_patch(
                Polygon(corners, facecolor=(*color[:3], 0.06), edgecolor=(*color[:3], 0.7), lw=0.8)
            )
        path.plot(*places.T, color=INK, lw=0.9, zorder=3)
        path.scatter(*places.T, s=22, c=colors, edgecolors="white", lw=0.5, zorder=4)
        for k in sorted({0, len(views) // 2, len(views) - 1}):
            path.annotate(str(k + 1), places[k], (4, 4), textcoords="offset points", fontsize=8, zorder=5)
        labelled(path, "Flight path and footprints", "east [m]", "north [m]")
        count, extent = _coverage(prints, middle, reach)
        shown = seen.imshow(
            np.ma.masked_equal(count, 0),
            origin="lower",
            extent=extent,
            cmap=SEQUENTIAL,
            interpolation="nearest",
        )
        fig.colorbar(shown, ax=seen, shrink=0.8, label="photographs").outline.set_visible(False)
        seen.plot(*places.T, color="white", lw=0.7, alpha=0.8)
        labelled(seen, f"Seen by, where a pixel covers {flight['gsd_cm']:.1f} cm"
                 if flight["gsd_cm"] is not None else "Seen by", "east [m]", "")  # fmt: skip
        for ax in (path, seen):
            ax.set(aspect="equal", xlim=extent[:2], ylim=extent[2:])
            ax.grid(False)
    return fig


def quality(photos: Sequence[Photo]) -> Figure:
    """Sharpness and exposure of every photograph that could be read, against the set's median."""
    read = [photo for photo in photos if photo["sharpness"] is not None]
    if not read:
        return empty_figure("no photograph could be read")
    used = np.array([photo["status"] == "used" for photo in read])
    median = float(np.median([photo["sharpness"] for photo in read])) or 1.0
    sharpness = np.array([photo["sharpness"] / median for photo in read])
    exposure = np.array([photo["exposure"] for photo in read])
    clipped = np.array([photo["clipped"] for photo in read])
    order = np.arange(1, len(read) + 1)
    colors = np.where(used, BLUE, RED)
    with style():
        fig, axes = figure(9.6, 2.7, columns=2)
        for ax, values, title in (
            (axes[0, 0], sharpness, "Sharpness over the median"),
            (axes[0, 1], exposure, "Mean brightness"),
        ):
            ax.bar(order, values, color=colors, width=0.75)
            labelled(ax, title, "photograph, by name")
            count_axis(ax)
            ax.set_xlim(0.3, len(read) + 0.7)
        axes[0, 0].axhline(1, color=INK, lw=0.8, ls=":")
        if clipped.max() > 0.01:
            axes[0, 1].bar(order, clipped, color=ORANGE, width=0.75, label="black or white")
            axes[0, 1].legend(loc="upper right")
        axes[0, 1].set_ylim(0, 1)
        axes[0, 1].yaxis.set_major_formatter(PercentFormatter(1))
    return fig


def _thumbnail(ax, photo: Photo, thumbnails: Path) -> None:
    picture_axes(ax)
    path = thumbnails / photo["thumbnail"] if photo["thumbnail"] else None
    if path is not None and path.is_file():
        with Image.open(path) as image:
            ax.imshow(np.asarray(image.convert("RGB")))
    else:
        ax.set(xlim=(0, 4), ylim=(0, 3), aspect="equal")
        ax.add_patch(Rectangle((0, 0), 4, 3, color="#f1f3f5"))
        ax.text(2, 1.5, "unreadable", ha="center", va="center", color=FAINT, fontsize=8)
    name = Path(photo["source"]).name
    if photo["status"] == "used":
        ax.set_title(_short(name, 18), fontsize=7.5, fontweight="normal", pad=3)
        return
    ax.set_title(_short(name, 18), fontsize=7.5, color=RED, pad=3)
    ax.add_patch(Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, ec=RED, lw=2.5))
    ax.set_xlabel(_short(photo["reason"].partition(":")[0], 29), fontsize=7, color=RED, labelpad=2)


def _coverage(
    prints: np.ndarray, middle: np.ndarray, reach: float, cells: int = 160
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """[cells, cells] how many footprints cover each cell of a square around `middle`; its extent, metres."""
    extent = (middle[0] - reach, middle[0] + reach, middle[1] - reach, middle[1] + reach)
    east, north = (np.linspace(low, high, cells + 1) for low, high in (extent[:2], extent[2:]))
    spots = np.stack(np.meshgrid((east[1:] + east[:-1]) / 2, (north[1:] + north[:-1]) / 2), axis=-1).reshape(
        -1, 2
    )
    count = sum(Outline(corners).contains_points(spots).astype(int) for corners in prints)
    return np.reshape(count, (cells, cells)), extent


def _local(photos: Sequence[Photo]) -> np.ndarray:
    """[N, 3] east, north, up in metres from the middle."""
    heights = [photo["gps"]["alt"] for photo in photos if photo["gps"]["alt"] is not None]
    usual = float(np.median(heights)) if heights else 0.0
    rows = np.array(
        [
            (g["lat"], g["lon"], usual if g["alt"] is None else g["alt"])
            for g in (photo["gps"] for photo in photos)
        ]
    )
    return gps_to_enu(rows, np.median(rows, axis=0))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
