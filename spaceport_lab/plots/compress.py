"""Figures of the compress stage: where the bytes went, what it cost, what it looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from spaceport_lab.compress import ViewPictures
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.plots.style import (
    BLUE,
    ERROR_MAP,
    FAINT,
    INK,
    ORANGE,
    RED,
    empty_figure,
    figure,
    labelled,
    picture_axes,
    style,
)
from spaceport_lab.sog import FieldError
from spaceport_lab.workspace import Progress

TITLES = {
    "position": "Position",
    "rotation": "Rotation",
    "log_scale": "Scale",
    "opacity": "Opacity",
    "color": "Base colour",
    "shN": "View-dependent colour",
}
UNITS = {"natural logarithm": "ln", "coefficient": "SH coefficient"}


def palette_progress(states: Sequence[Progress]) -> Figure:
    """The SH palette's error falling, while k-means runs; of the last palette where several are tried."""
    starts = [i for i, state in enumerate(states) if state.message == "SH palette: coarse cells"]
    states = states[starts[-1] :] if starts else states
    errors = [state.values["sh_rmse"] for state in states if "sh_rmse" in state.values]
    if not errors:
        return empty_figure(states[-1].message if states else "starting")
    with style():
        fig, axes = figure(6, 2.6)
        axes[0, 0].plot(range(1, len(errors) + 1), errors, marker="o", color=BLUE)
        labelled(axes[0, 0], "Error of the SH palette", "k-means iteration", "RMS, SH coefficient")
        axes[0, 0].xaxis.get_major_locator().set_params(integer=True)
    return fig


def input_splat(gaussians: Gaussians) -> Figure:
    """What there is to compress: how opaque, how large, how much colour depends on the view."""
    shift = np.abs(gaussians.shN).max(axis=(1, 2), initial=0)
    panels = {
        "Opacity": (gaussians.alphas, "0 to 1"),
        "Size": (gaussians.scales.max(axis=1) / np.log(10), "largest standard deviation, power of ten"),
        "View dependence": (shift, "largest SH coefficient of a Gaussian"),
    }
    panels = {name: panel for name, panel in panels.items() if panel[0].any()}
    with style():
        fig, axes = figure(10, 2.5, columns=len(panels))
        for ax, (name, (values, unit)) in zip(axes[0], panels.items(), strict=True):
            low, high = np.quantile(values, (0.001, 0.999))
            ax.hist(np.clip(values, low, high), bins=70, color=BLUE, weights=_shares(values))
            ax.yaxis.set_major_formatter(PercentFormatter(1))
            labelled(ax, name, unit)
    return fig


def bytes_per_field(report: Mapping[str, Any]) -> Figure:
    """Left: each field in the PLY and in the SOG. Right: what the .sog is made of."""
    with style():
        fig, axes = figure(10, 3.6, columns=2, width_ratios=(1.25, 1))
        _before_after_bars(axes[0, 0], report)
        _composition(axes[0, 1], report)
    return fig


def _before_after_bars(ax, report: Mapping[str, Any]) -> None:
    fields = {name: f for name, f in report["fields"].items() if f["ply_bytes"]}
    rows = np.arange(len(fields))
    before = np.array([f["ply_bytes"] for f in fields.values()])
    after = np.array([f["sog_bytes"] for f in fields.values()])
    ax.barh(rows - 0.19, before, 0.34, color=FAINT, label=f"PLY  {_bytes(report['input']['bytes'])}")
    ax.barh(rows + 0.19, after, 0.34, color=BLUE, label=f"SOG  {_bytes(report['output']['bytes'])}")
    for row, (b, a) in enumerate(zip(before, after, strict=True)):
        ratio = f"{b / a:.1f} × smaller" if a else "dropped"
        ax.annotate(
            ratio, (max(a, 0), row + 0.19), (5, 0), textcoords="offset points", va="center", fontsize=9
        )
    ax.set_yticks(rows, list(fields))
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(EngFormatter(unit="B"))
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    labelled(ax, f"Bytes of each field, {report['ratio']:.1f} × smaller in all", legend=True)


def _beside(ax, x: float, y: float, text: str) -> None:
    """Text just right of a bar's end."""
    ax.annotate(text, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=9)


def _composition(ax, report: Mapping[str, Any]) -> None:
    sizes = dict(sorted(report["output"]["files"].items(), key=lambda item: -item[1]))
    rows, total = np.arange(len(sizes)), report["output"]["bytes"]
    ax.barh(rows, list(sizes.values()), 0.62, color=BLUE)
    for row, size in enumerate(sizes.values()):
        _beside(ax, size, row, f"{_bytes(size)}  {size / total:.0%}")
    ax.set_yticks(rows, list(sizes))
    ax.invert_yaxis()
    ax.set_xlim(0, max(sizes.values()) * 1.4)
    ax.xaxis.set_major_formatter(EngFormatter(unit="B"))
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    per_splat = report["output"]["bytes_per_gaussian"]
    labelled(ax, f"Inside the .sog, {per_splat:.1f} bytes a Gaussian")


def error_histograms(errors: Mapping[str, FieldError]) -> Figure:
    """How the error of every field is spread, with its mean and its maximum."""
    shown = [name for name in TITLES if name in errors]
    if not shown:
        return empty_figure("sogs does not say which splat became which: there are no errors to show.")
    columns = 3
    rows = -(-len(shown) // columns)
    with style():
        fig, axes = figure(10, 2.35 * rows, rows=rows, columns=columns)
        for ax, name in zip(axes.flat, shown, strict=False):
            _error_histogram(ax, TITLES[name], errors[name])
        for ax in axes.flat[len(shown) :]:
            ax.set_visible(False)
    return fig


def _error_histogram(ax, title: str, error: FieldError) -> None:
    values = error.values.reshape(-1)
    # A few far values would squeeze all others into the first bar: the last bar holds all beyond.
    right = float(np.quantile(values, 0.995)) or error.max or 1.0
    ax.hist(np.minimum(values, right), bins=50, range=(0, right), color=BLUE, weights=_shares(values))
    ax.axvline(error.mean, color=RED, linewidth=1.4)
    ax.annotate(
        f"mean {error.mean:.3g}\nmax {error.max:.3g}", (0.98, 0.95), xycoords="axes fraction",
        ha="right", va="top", color=INK, fontsize=9,
    )  # fmt: skip
    ax.set_ylim(0, ax.get_ylim()[1] * 1.35)
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.xaxis.set_major_locator(MaxNLocator(4))
    labelled(ax, title, UNITS.get(error.unit, error.unit))


def _shares(values: np.ndarray) -> np.ndarray:
    return np.full(values.size, 1 / max(values.size, 1))


def codebooks(original: Gaussians, decoded: Gaussians) -> Figure:
    """Where the codewords of each codebook lie, under the values they stand for."""
    panels = {
        "Scales": (original.scales, decoded.scales, "log of the standard deviation"),
        "Base colours": (original.colors, decoded.colors, "colour; 0 to 1 is displayable"),
        "View dependence": (original.shN[:, : decoded.shN.shape[1]], decoded.shN, "SH coefficient"),
    }
    panels = {name: panel for name, panel in panels.items() if panel[1].size}
    with style():
        fig, axes = figure(10, 2.9, columns=len(panels))
        for ax, (name, (before, after, unit)) in zip(axes[0], panels.items(), strict=True):
            words = np.unique(after)
            margin = 0.03 * max(float(words[-1] - words[0]), 1e-6)
            reach = (float(words[0]) - margin, float(words[-1]) + margin)
            shares, *_ = ax.hist(
                before.reshape(-1), bins=90, range=reach, color=FAINT, weights=_shares(before)
            )
            top = max(shares)
            ax.vlines(words, -0.13 * top, -0.03 * top, ORANGE, linewidth=0.7)
            ax.set_ylim(-0.16 * top, 1.08 * top)
            ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= 1.08 * top])
            ax.yaxis.set_major_formatter(PercentFormatter(1))
            labelled(ax, f"{name}: {len(words)} codewords", unit)
    return fig


def before_after(pictures: ViewPictures | None) -> Figure:
    """A held-out view: the photograph, before, after, and the difference that compressing made."""
    if pictures is None:
        return empty_figure("No cameras in this job, so there is no view to compare.")
    height, width = pictures.photo.shape[:2]
    difference = np.abs(pictures.after - pictures.before).mean(axis=2)
    reach = max(float(np.quantile(difference, 0.999)), 4 / 255)
    with style():
        panel = 5.0
        fig, axes = figure(2 * panel, 2 * panel * height / width * 0.96, rows=2, columns=2)
        titles = {
            f"Photograph {pictures.name}": pictures.photo,
            "Before: the PLY": pictures.before,
            "After: the .sog": pictures.after,
        }
        for ax, (title, image) in zip(axes.flat, titles.items(), strict=False):
            ax.imshow(np.clip(image, 0, 1))
            ax.set_title(title)
        axes[1, 1].imshow(difference, cmap=ERROR_MAP, vmin=0, vmax=reach)
        axes[1, 1].set_title(f"Difference of the two: brightest {reach * 255:.0f} of 255")
        for ax in axes.flat:
            picture_axes(ax)
    return fig


def psnr_per_view(report: Mapping[str, Any]) -> Figure:
    """What every held-out view lost."""
    heldout = report["heldout"]
    if not heldout["views"]:
        return empty_figure(f"Held-out PSNR not measured: {heldout['reason']}.")
    views = sorted(heldout["views"], key=lambda view: view["psnr_after"] - view["psnr_before"])[:30]
    rows = np.arange(len(views))
    lost = np.array([view["psnr_before"] - view["psnr_after"] for view in views])
    tried = report.get("setting", {}).get("tried")  # reports of earlier versions have none
    with style():
        fig, axes = figure(
            12 if tried else 8, max(1.1 + 0.24 * len(views), 2.6 if tried else 0), columns=1 + bool(tried)
        )
        ax = axes[0, 0]
        if tried:
            _tried(axes[0, 1], report["setting"])
        ax.barh(rows, lost, 0.62, color=BLUE)
        for row, view in enumerate(views):
            _beside(ax, max(lost[row], 0), row, f"{view['psnr_before']:.2f} → {view['psnr_after']:.2f} dB")
        ax.set_yticks(rows, [view["name"] for view in views])
        ax.set_xlim(min(0, lost.min()), max(lost.max() * 1.3, 0.05))
        ax.invert_yaxis()
        ax.grid(False, axis="y")
        ax.tick_params(axis="y", length=0)
        mean = f"{heldout['psnr_before']:.2f} → {heldout['psnr_after']:.2f} dB in the mean"
        labelled(ax, f"Held-out views: {mean}", "PSNR lost, dB")
    return fig


def _tried(ax, setting: Mapping[str, Any]) -> None:
    """What every setting that was tried weighs and loses; the one chosen stands out."""
    for name, one in setting["tried"].items():
        chosen = name == setting["name"]
        ax.plot(one["bytes"], one["loss"], "o", color=BLUE if chosen else FAINT, markersize=9)
        ax.annotate(name, (one["bytes"], one["loss"]), (7, 5), textcoords="offset points", fontsize=9)
    ax.margins(0.25)
    ax.xaxis.set_major_formatter(EngFormatter(unit="B"))
    ax.xaxis.set_major_locator(MaxNLocator(4))
    labelled(ax, f"Settings tried: {setting['name']} chosen", "size of the .sog", "PSNR lost, dB")


def _bytes(size: float) -> str:
    return EngFormatter(unit="B", places=1 if size >= 1000 else 0)(size)


__all__ = [
    "before_after",
    "bytes_per_field",
    "codebooks",
    "error_histograms",
    "input_splat",
    "palette_progress",
    "psnr_per_view",
]
