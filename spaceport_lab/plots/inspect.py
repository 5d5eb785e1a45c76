"""Pictures of the inspect stage: held-out views with their errors, and what the splat is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.figure import Figure

from spaceport_lab.gaussians import Gaussians
from spaceport_lab.inspection import Inputs
from spaceport_lab.inspection.confidence import FEW, Confidence, mean_in_cells
from spaceport_lab.inspection.statistics import HUGE, NEEDLE, TRANSPARENT, elongation
from spaceport_lab.inspection.viewpoint import level_axes, robust_bounds, up_direction
from spaceport_lab.inspection.views import ERROR_CEILING, ViewPicture
from spaceport_lab.plots.rows import Row, comparison, short
from spaceport_lab.plots.style import (
    BLUE,
    ERROR_MAP,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    RED,
    SKY,
    empty_figure,
    engineering,
    figure,
    labelled,
    picture_axes,
    style,
)

OPACITY_BINS = (np.arange(0, 257, 5) - 0.5) / 255
"""Five of the format's 256 levels each; bins that cut through levels would show a comb."""

MAX_DOTS = 40_000

MAP_CELLS = 80
"""Along the longer side of the coverage map."""

NO_VIEWS = "There are no held-out views in this job, so there is nothing to compare."


def from_above(given: Inputs) -> Figure:
    """The Gaussians' centres in their colours, seen from the sky, with the cameras around them."""
    gaussians = given.gaussians
    up = up_direction(given.scene.cameras if given.scene else None, given.georeferenced)
    inside = _inside(gaussians)
    across = _map_axes(gaussians.means[inside], up, given.georeferenced)
    shown = np.random.default_rng(0).permutation(np.flatnonzero(inside & (gaussians.alphas > TRANSPARENT)))
    shown = shown[:MAX_DOTS]
    shown = shown[np.argsort(gaussians.means[shown] @ up)]  # what is higher hides what is below
    x, y = across @ gaussians.means[shown].T
    unit = "m" if given.georeferenced else "units"
    names = ("east", "north") if given.georeferenced else ("along", "across")
    with style():
        fig, axes = figure(9, 4.4)
        ax = axes[0, 0]
        ax.scatter(x, y, s=3, c=np.clip(gaussians.colors[shown], 0, 1), linewidths=0)
        if given.scene is not None:
            _cameras(ax, given, across)
            fig.legend(loc="outside lower center", ncols=2)
        ax.set_aspect("equal")
        labelled(ax, f"{gaussians.n:,} Gaussians from above", f"{names[0]} [{unit}]", f"{names[1]} [{unit}]")
    return fig


def coverage(given: Inputs, confidence: Confidence) -> Figure:
    """From above, how many photographs show each place, and where the splat is doubtful."""
    if confidence.shown_by is None:
        return empty_figure("Without training cameras nobody knows how many photographs show each place.")
    gaussians, shown_by = given.gaussians, confidence.shown_by.astype(float)
    up = up_direction(given.scene.cameras, given.georeferenced)
    inside = _inside(gaussians)
    across = _map_axes(gaussians.means[inside], up, given.georeferenced)
    x, y = across @ gaussians.means[inside].T.astype(float)
    mean, extent = mean_in_cells(shown_by[inside], x, y, gaussians.alphas[inside], MAP_CELLS)
    unit = "m" if given.georeferenced else "units"
    names = ("east", "north") if given.georeferenced else ("along", "across")
    with style():
        fig, axes = figure(11, 4.4, columns=2)
        image = axes[0, 0].imshow(mean, extent=extent, origin="lower", cmap="cividis", vmin=0)
        bar = fig.colorbar(image, ax=axes[0, 0], shrink=0.85)
        bar.set_label("photographs that show it")
        few = np.where(np.isnan(mean), np.nan, (mean < FEW).astype(float))
        if np.nanmax(few) > np.nanmin(few):
            axes[0, 0].contour(few, levels=[0.5], extent=extent, colors=[RED], linewidths=0.8)
        labelled(axes[0, 0], "Coverage", f"{names[0]} [{unit}]", f"{names[1]} [{unit}]")
        axes[0, 0].grid(False)
        most = int(np.quantile(shown_by, 0.995)) + 1
        axes[0, 1].hist(np.minimum(shown_by, most), bins=np.arange(most + 2) - 0.5, color=BLUE)
        axes[0, 1].axvspan(-0.5, FEW - 0.5, color=RED, alpha=0.07, linewidth=0)
        axes[0, 1].annotate(f"{_percent(float((shown_by < FEW).mean()))} fewer than {FEW}", (0.02, 0.97),
                            xycoords="axes fraction", color=RED, va="top")  # fmt: skip
        engineering(axes[0, 1])
        looked = f"photographs, of {confidence.n_views:,} looked at"
        labelled(axes[0, 1], "Photographs that show a Gaussian", looked, "Gaussians")
    return fig


def _inside(gaussians: Gaussians) -> Bool[np.ndarray, " N"]:
    low, high = robust_bounds(gaussians, 0.02)
    return ((gaussians.means >= low) & (gaussians.means <= high)).all(axis=1)


def _map_axes(
    means: Float[np.ndarray, "N 3"], up: Float[np.ndarray, "3"], georeferenced: bool
) -> Float[np.ndarray, "2 3"]:
    """A map's right and top: east and north, or where there is no north the longer side across the page."""
    across = level_axes(up)
    if not georeferenced and len(means) > 2:
        _, turn = np.linalg.eigh(np.cov(across @ means.T))
        across = turn[:, ::-1].T @ across
    return across


def _cameras(ax, given: Inputs, across: Float[np.ndarray, "2 3"]) -> None:
    cameras = given.scene.cameras
    held = set(given.heldout.names) if given.heldout else set()
    for label, wanted, color in (("training", False, INK), ("held-out", True, RED)):
        index = [i for i, name in enumerate(cameras.names) if (name in held) == wanted]
        if index:
            x, y = across @ cameras.centers[index].T
            ax.scatter(x, y, s=30, marker="^", color=color, edgecolors="white", linewidths=0.6,
                       label=f"{len(index)} {label} cameras", zorder=3)  # fmt: skip


def heldout_views(pictures: Sequence[ViewPicture]) -> Figure:
    """Photograph, render and error map of each view, one row a view, in the order given."""
    if not pictures:
        return empty_figure(NO_VIEWS)
    rows = []
    for picture in pictures:
        second = f"rendered from the .sog: {picture.psnr:.2f} dB PSNR"
        titles = (picture.name, second, f"error: SSIM {picture.ssim:.3f}")
        rows.append(Row(picture.photo, picture.render, picture.error, titles))
    return comparison(rows, 11)


def error_picture(error: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """An error map in the colours of `heldout_views`, for pages that hold pictures of their own."""
    return mpl.colormaps[ERROR_MAP](error / ERROR_CEILING, bytes=True)[:, :, :3]


def psnr_per_view(views: Sequence[Mapping[str, Any]]) -> Figure:
    """Held-out PSNR of every view, worst on top, with the mean; `views` as in views.json."""
    views = [view for view in views if view["psnr"] is not None]
    if not views:
        return empty_figure(NO_VIEWS)
    values = np.array([view["psnr"] for view in views])
    rows = np.arange(len(views))
    with style():
        fig, axes = figure(9, min(12.0, 1.1 + 0.24 * len(views)))
        ax = axes[0, 0]
        mean = values.mean()
        ax.hlines(rows, mean, values, color=FAINT, linewidth=1.2)
        ax.scatter(values, rows, s=34, color=[RED if v < mean else BLUE for v in values], zorder=3)
        ax.axvline(mean, color=INK, linewidth=1)
        ax.annotate(f" mean {mean:.2f} dB", (mean, 1), xycoords=("data", "axes fraction"), va="bottom")
        if len(views) <= 45:
            ax.set_yticks(rows, [short(view["name"]) for view in views])
        ax.invert_yaxis()
        labelled(ax, "", "PSNR [dB], more is better", "" if len(views) <= 45 else "view, worst first")
        ax.set_title("Held-out views, worst first", pad=18)
    return fig


def histograms(gaussians: Gaussians, statistics: Mapping[str, Any]) -> Figure:
    """Opacity, size, elongation and view dependence of the Gaussians, suspects beyond the marked limits."""
    low, high = (np.array(statistics["bounds"][f"robust_{side}"], dtype=float) for side in ("min", "max"))
    diagonal = float(np.linalg.norm(high - low))
    longest = gaussians.sigmas.max(axis=1)
    suspects, unit = statistics["suspects"], statistics["unit"]
    with style():
        fig, axes = figure(11, 5.6, rows=2, columns=2)
        _histogram(axes[0, 0], gaussians.alphas, OPACITY_BINS, BLUE)
        _limit(axes[0, 0], TRANSPARENT, suspects["nearly transparent"], left=True)
        labelled(axes[0, 0], "Opacity", "opacity [0 to 1]", "Gaussians")
        _histogram(axes[0, 1], longest, _log_bins(longest), SKY)
        _limit(axes[0, 1], HUGE * diagonal, suspects["huge"])
        labelled(axes[0, 1], "Size", f"longest standard deviation [{unit}]", "Gaussians")
        ratio = elongation(gaussians)
        _histogram(axes[1, 0], ratio, np.geomspace(1, max(20.0, float(ratio.max()) * 1.01), 51), ORANGE)
        _limit(axes[1, 0], NEEDLE, suspects["needle"])
        labelled(axes[1, 0], "Elongation", "longest over middle standard deviation [ratio]", "Gaussians")
        _bands(axes[1, 1], statistics["sh_rms"])
    return fig


def _histogram(ax, values: np.ndarray, bins: np.ndarray, color: str) -> None:
    ax.hist(np.clip(values, bins[0], bins[-1]), bins=bins, color=color)
    if not np.allclose(np.diff(bins), bins[1] - bins[0]):
        ax.set_xscale("log")
    ax.margins(y=0.16)
    engineering(ax)


def _limit(ax, at: float, suspect: Mapping[str, Any], left: bool = False) -> None:
    """A line beyond which Gaussians are suspect, with how many are."""
    ax.axvline(at, color=RED, linewidth=1.2, linestyle=(0, (4, 2)))
    ax.annotate(
        f"{suspect['count']:,} ({_percent(suspect['share'])})",
        (at, 0.97),
        (4, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color=RED,
        va="top",
        ha="left",
    )
    low, high = ax.get_xlim()
    ax.axvspan(low if left else at, at if left else max(high, at), color=RED, alpha=0.07, linewidth=0)
    ax.set_xlim(low, max(high, at * (1.0 if left else 1.6)))


def _bands(ax, sh_rms: Mapping[str, float]) -> None:
    if not sh_rms:
        picture_axes(ax)
        ax.text(
            0.5, 0.5, "no spherical harmonics: colours do not depend on the view", ha="center", color=FAINT
        )
        ax.set_title("View dependence")
        return
    bars = ax.bar([f"degree {degree}" for degree in sh_rms], list(sh_rms.values()), 0.5, color=GREEN)
    ax.bar_label(bars, fmt="{:.3g}", padding=2)
    ax.grid(False, axis="x")
    ax.margins(y=0.15)
    labelled(ax, "View dependence", "", "RMS of the SH coefficients [colour]")


def _log_bins(values: np.ndarray) -> np.ndarray:
    low = max(float(values.min()), 1e-9)
    return np.geomspace(low, max(float(values.max()) * 1.01, low * 10), 51)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share == 0 or share >= 0.001 else "<0.1%"
