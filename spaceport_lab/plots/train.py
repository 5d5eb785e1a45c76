"""Figures of the train stage: how it goes and how it went, from its metrics stream.

What it starts from and plans is drawn in `train_plan`, views and corrections in `train_pictures`; all are
called from here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.ndimage import median_filter

from spaceport_lab.plots.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PAPER,
    RED,
    SKY,
    empty_figure,
    engineering,
    figure,
    labelled,
    picture_axes,
    style,
)
from spaceport_lab.plots.train_pictures import camera_moves, corrections, exposures, heldout, journey
from spaceport_lab.plots.train_plan import inputs, schedules
from spaceport_lab.workspace import Progress

MAX_POINTS = 1_500
"""Of a curve; more than the figure has pixels only take time."""

MOST_DB = 12.0
"""Below the best PSNR a curve is of no interest."""

WHY = {
    "max_steps": "", "patience": "no better for too long", "target_psnr": "target reached",
    "nan": "met a value that is no number", "person": "stopped by hand",
}  # fmt: skip
"""What is written where training ended, by the reason that the run card has."""


def live_figure(states: Sequence[Progress]) -> Figure:
    """Loss, PSNR of views not trained on and the number of Gaussians so far, while training runs."""
    values = [(s.step, s.values) for s in states if "loss" in s.values]
    if not values:
        return empty_figure(states[-1].message if states else "starting")
    values = _thinned(values)
    steps = np.array([step for step, _ in values])
    with style():
        fig, axes = figure(9.6, 2.5, columns=3)
        _draw_loss(axes[0, 0], steps, np.array([v["loss"] for _, v in values]))
        _draw_live_psnr(axes[0, 1], values)
        axes[0, 2].plot(steps, [v["n_gaussians"] for _, v in values], color=BLUE)
        axes[0, 2].set_ylim(0, None)
        labelled(axes[0, 2], f"Gaussians {values[-1][1]['n_gaussians']:,}", "step")
        engineering(axes[0, 2])
        for ax in axes[0]:
            ax.set_xlim(0, states[-1].total or None)
            ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            engineering(ax, "x")
    return fig


def curves(records: Sequence[Mapping[str, Any]], stopped_by: str = "") -> Figure:
    """Training loss, and PSNR of views not trained on, over steps and seconds; the best evaluation is marked.

    Args:
        records: of the metrics stream.
        stopped_by: why training ended, as on the run card; written where it did.
    """
    taken, evals = _of(records, "step"), _of(records, "eval")
    if not taken:
        return empty_figure("no step has been recorded")
    drawn = _thinned(taken)
    with style():
        fig, axes = figure(9.6, 3.5, columns=2)
        _draw_loss(axes[0, 0], _column(drawn, "step"), _column(drawn, "loss"))
        _mark_resolutions(axes[0, 0], taken)
        if evals:
            _draw_psnr(axes[0, 1], evals, WHY.get(stopped_by, stopped_by))
        else:
            _say(axes[0, 1], "no view was held out")
        for ax in axes[0]:
            ax.set_xlim(0, taken[-1]["step"] * 1.02)
            engineering(ax, "x")
        _add_seconds(axes[0, 0], taken)
    return fig


def gaussians(records: Sequence[Mapping[str, Any]]) -> Figure:
    """How many Gaussians there were, were wanted and were shown, and what each densification changed."""
    taken, refines = _of(records, "step"), _of(records, "refine")
    if not taken:
        return empty_figure("no step has been recorded")
    last = taken[-1]["step"]
    with style():
        fig, axes = figure(9.6, 3.4, columns=2)
        count, bars = axes[0]
        _draw_count(count, taken, refines)
        _draw_changes(bars, refines, last)
        for ax in axes[0]:
            ax.set_xlim(0, last * 1.02)
            engineering(ax, "x")
            engineering(ax)
    return fig


def gradients(records: Sequence[Mapping[str, Any]]) -> Figure:
    """View-space gradients at each densification against the threshold: does it fire, and for how many?"""
    refines = [r for r in _of(records, "refine") if r.get("gradients")]
    if not refines:
        return empty_figure("no densification looked at gradients: MCMC, or too few steps")
    steps, last = _column(refines, "step"), max(record["step"] for record in records)
    with style():
        fig, axes = figure(9.6, 3.2, columns=2)
        levels, share = axes[0]
        _draw_levels(levels, refines, steps)
        above = _column(refines, "above")
        shares = above / np.maximum(_column(refines, "n_before"), 1)
        share.bar(steps, shares, width=_bar_width(steps, last), color=RED)
        none = steps[above == 0]
        if len(none):
            share.plot(
                none, np.zeros(len(none)), ls="", marker="x", color=INK, label=f"none at {len(none)} checks"
            )
            share.legend()
        share.set_ylim(-0.02 * max(shares.max(), 0.01), None)
        share.yaxis.set_major_formatter(PercentFormatter(1, decimals=None if shares.max() > 0.05 else 1))
        labelled(share, "Gaussians above the threshold", "step")
        for ax, room in ((levels, 1.12), (share, 1.02)):  # the labels need some
            ax.set_xlim(0, last * room)
            engineering(ax, "x")
    return fig


def _draw_loss(ax: Axes, steps: np.ndarray, loss: np.ndarray) -> None:
    """Every value faint, and a running median that can be read: views differ more than steps do."""
    ax.plot(steps, loss, color=BLUE, alpha=0.25, lw=0.8)
    smooth = _running_median(loss)
    ax.plot(steps, smooth, color=BLUE)
    ax.set_ylim(0, min(loss.max() * 1.05, 4 * float(np.median(loss))) or None)
    labelled(ax, f"Loss {smooth[-1]:.3f}", "step")


def _draw_live_psnr(ax: Axes, values: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
    """Between two evaluations the figure stands still: only its changes are points of the curve."""
    title = "PSNR of held-out views"
    for name, color, label in (("psnr_validation", ORANGE, "validation"), ("psnr", GREEN, "held out")):
        known = [(step, v[name]) for step, v in values if v.get(name) is not None]
        changes = [p for p, before in zip(known, [(0, None), *known], strict=False) if p[1] != before[1]]
        if changes:
            ax.plot(*zip(*changes, strict=True), marker="o", markersize=4, color=color, label=label)
            title = f"Held-out PSNR {changes[-1][1]:.2f} dB"
    if len(ax.lines) > 1:
        ax.legend(loc="lower right")
    labelled(ax, title, "step")


def _draw_psnr(ax: Axes, evals: Sequence[Mapping[str, Any]], why: str) -> None:
    """Held-out and validation views; the best of those that decide has a ring, the end of training a line."""
    steps, psnr = _column(evals, "step"), _column(evals, "psnr")
    lowest, highest = np.array([_reach(e["views"].values()) for e in evals]).T
    ax.fill_between(steps, lowest, highest, color=GREEN, alpha=0.15, lw=0, label="worst to best view")
    ax.plot(steps, psnr, marker="o", markersize=4, color=GREEN, label="held out, mean")
    deciding = psnr
    if any(e.get("psnr_validation") is not None for e in evals):
        deciding = _column(evals, "psnr_validation")
        ax.plot(steps, deciding, marker="s", markersize=4, color=ORANGE, label="validation, mean")
    if np.isfinite(deciding).any():
        _mark_best(ax, steps, deciding, psnr)
    if why:
        ax.axvline(steps[-1], color=RED, lw=1.2, ls="--", label=f"stopped at {steps[-1]:,.0f}: {why}")
    labelled(ax, "PSNR of views not trained on", "step", "dB")
    ax.margins(y=0.12)
    ax.legend(loc="lower right", fontsize=8, frameon=True, facecolor=PAPER, edgecolor="none", framealpha=0.8)


def _mark_best(ax: Axes, steps: np.ndarray, deciding: np.ndarray, psnr: np.ndarray) -> None:
    best = int(np.nanargmax(deciding))
    ax.plot(
        steps[best], deciding[best], ls="", marker="o", markersize=11, markerfacecolor="none",
        markeredgecolor=INK, label="best",
    )  # fmt: skip
    below = deciding[best] < psnr[best]  # the label must not lie on the other curve
    ax.annotate(
        f"{deciding[best]:.2f} dB", (steps[best], deciding[best]), xytext=(0, -19 if below else 11),
        textcoords="offset points", ha="right" if best > len(steps) / 2 else "left", color=INK, weight="bold",
        bbox={"facecolor": PAPER, "alpha": 0.7, "edgecolor": "none", "pad": 1},
    )  # fmt: skip
    # An evaluation just after an opacity reset may run out of the picture.
    ax.set_ylim(max(ax.get_ylim()[0], float(deciding[best]) - MOST_DB), None)


def _reach(values: Iterable[float | None]) -> tuple[float, float]:
    """Lowest and highest of the views that have a figure; one that masks hide or that is perfect has none."""
    known = [value for value in values if value is not None] or [np.nan]
    return min(known), max(known)


def _add_seconds(ax: Axes, taken: Sequence[Mapping[str, Any]]) -> None:
    """Training time above the axes; steps on larger images take longer, so it is no even scale."""
    seconds, steps = _column(taken, "seconds"), _column(taken, "step")
    total = float(seconds[-1])
    if not total > 0:
        return
    unit, name = (1.0, "s") if total < 180 else (60.0, "min") if total < 10_800 else (3600.0, "h")
    above = ax.twiny()
    above.set_xlim(ax.get_xlim())
    ticks: list[tuple[float, str]] = []
    for tick in MaxNLocator(5).tick_values(0, total / unit):
        at = float(np.interp(tick * unit, [0, *seconds], [0, *steps]))
        # The first steps may wait for kernels to compile: labels would lie on each other.
        if 0 <= tick <= total / unit and (not ticks or at - ticks[-1][0] > 0.12 * steps[-1]):
            ticks.append((at, f"{tick:g} {name}"))
    above.set_xticks(*zip(*ticks, strict=True), fontsize=8, color=FAINT)
    above.grid(False)
    above.tick_params(length=3)
    above.spines["top"].set_visible(True)


def _mark_resolutions(ax: Axes, taken: Sequence[Mapping[str, Any]]) -> None:
    """A line at every stage of the resolution, with its size where there is room.

    Single steps see more than their stage, none sees less: the smallest size from a step on is its stage's.
    """
    top, written = ax.get_ylim()[1], -np.inf
    sizes = [record["resolution"] for record in taken]
    stages = list(itertools.accumulate(reversed(sizes), lambda one, other: min(one, other, key=max)))[::-1]
    for record, before, size in zip(taken[1:], stages, stages[1:], strict=False):
        if max(size) > 1.2 * max(before):
            ax.axvline(record["step"], color=FAINT, lw=1, ls=":")
            text = " × ".join(map(str, size))
            if record["step"] - written > 0.24 * taken[-1]["step"]:
                ax.text(record["step"], top, f" {text}", fontsize=8, color=FAINT, va="top")
                written = record["step"]


def _draw_count(ax: Axes, taken: Sequence[Mapping[str, Any]], refines: Sequence[Mapping[str, Any]]) -> None:
    first = refines[0]["n_before"] if refines else taken[0]["n_gaussians"]
    ax.plot([0, *_column(taken, "step")], [first, *_column(taken, "n_gaussians")], color=BLUE, label="all")
    aimed = [r for r in refines if r.get("target") is not None]
    if aimed:
        ax.plot(_column(aimed, "step"), _column(aimed, "target"), color=ORANGE, ls="--", label="aimed at")
    drawn = _thinned([r for r in taken if r.get("n_shown") is not None])
    if any(r["n_shown"] < r["n_gaussians"] for r in drawn):
        steps, shown = _column(drawn, "step"), _column(drawn, "n_shown")
        ax.plot(steps, shown, color=SKY, alpha=0.3, lw=0.8)
        ax.plot(steps, _running_median(shown), color=SKY, label="in view of a step")
    _mark(ax, [r["step"] for r in refines if r["reset"]], "opacity reset", ":")
    _mark(ax, [r["step"] for r in refines if _significance(r)], "pruned by significance", "--")
    ax.set_ylim(0, None)
    labelled(ax, f"Gaussians: {first:,} to {taken[-1]['n_gaussians']:,}", "step")
    if len(ax.get_legend_handles_labels()[1]) > 1:
        ax.legend()


def _mark(ax: Axes, steps: Sequence[int], label: str, dashes: str) -> None:
    for number, step in enumerate(steps):
        ax.axvline(step, color=RED, lw=1, ls=dashes, label=None if number else label)


def _significance(refine: Mapping[str, Any]) -> bool:
    """Whether this is the pruning of what views would miss least, which looks at no gradients."""
    return refine.get("gradients") is None and refine["pruned"] > 0


def _draw_changes(ax: Axes, refines: Sequence[Mapping[str, Any]], last: int) -> None:
    kinds = {"cloned": GREEN, "split": BLUE, "added": GREEN, "relocated": SKY, "pruned": RED}
    used = {kind: color for kind, color in kinds.items() if any(r[kind] for r in refines)}
    if not used:
        _say(ax, "densification changed nothing")
        return
    steps = _column(refines, "step")
    width = _bar_width(steps, last)
    bottom = np.zeros(len(refines))
    for kind, color in used.items():
        values = _column(refines, kind)
        label = f"{kind} {int(values.sum()):,}"
        if kind == "pruned":
            ax.bar(steps, -values, width=width, color=color, label=label)
        else:
            ax.bar(steps, values, width=width, bottom=bottom, color=color, label=label)
            bottom += values
    ax.axhline(0, color=INK, lw=0.8)
    labelled(ax, "Each densification", "step", legend=True)


def _draw_levels(ax: Axes, refines: Sequence[Mapping[str, Any]], steps: np.ndarray) -> None:
    """Quantiles of the gradients, and the threshold, which is found anew each time where it is automatic."""
    shades = {"p50": 1.0, "p90": 0.75, "p95": 0.6, "p99": 0.45, "max": 0.3}
    texts = {"p50": "median", "p90": "90 %", "p95": "95 %", "p99": "99 %", "max": "largest"}
    levels = {name: np.array([r["gradients"][name] for r in refines]) for name in refines[0]["gradients"]}
    positive = np.concatenate([values[values > 0] for values in levels.values()])
    floor = float(positive.min()) / 2 if len(positive) else 1e-12  # zero has no place on a log axis
    for name, values in levels.items():
        drawn = np.maximum(values, floor)
        ax.plot(steps, drawn, color=BLUE, alpha=shades[name], marker="o", markersize=3, lw=1.4)
        ax.annotate(
            texts[name], (steps[-1], drawn[-1]), xytext=(6, 0), textcoords="offset points", va="center",
            fontsize=8, color=FAINT,
        )  # fmt: skip
    threshold = _column(refines, "threshold")
    label = "threshold" if np.ptp(threshold) == 0 else "threshold found each time"
    ax.plot(steps, threshold, color=RED, ls="--", marker="_", label=label)
    ax.set_yscale("log")
    labelled(ax, "View-space gradients", "step", "NDC", legend=True)


def _say(ax: Axes, text: str) -> None:
    """Words in the middle of axes that have nothing to draw."""
    picture_axes(ax)
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=FAINT)


def _running_median(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    return median_filter(values, size=2 * max(1, len(values) // 25) + 1, mode="reflect")


def _bar_width(steps: np.ndarray, last: int) -> float:
    gaps = np.diff(steps)
    return 0.7 * min(gaps[gaps > 0].min() if (gaps > 0).any() else last, last / 10)


def _thinned(values: Sequence[Any]) -> list[Any]:
    """At most about MAX_POINTS of them, evenly, the last one always."""
    every = -(-len(values) // MAX_POINTS) or 1
    return list(values[::-1][::every][::-1])


def _of(records: Sequence[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    return [record for record in records if record["kind"] == kind]


def _column(records: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    return np.array([np.nan if record[name] is None else record[name] for record in records])


__all__ = [
    "camera_moves", "corrections", "curves", "exposures", "gaussians", "gradients", "heldout", "inputs",
    "journey", "live_figure", "schedules",
]  # fmt: skip
