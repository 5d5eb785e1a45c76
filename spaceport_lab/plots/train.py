"""Figures of the train stage: what it starts from, what it plans, how it went, what came out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from spaceport_lab.plots.style import (
    BLUE,
    ERROR_MAP,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PINK,
    RED,
    SKY,
    empty_figure,
    engineering,
    figure,
    labelled,
    picture_axes,
    style,
)
from spaceport_lab.train import Comparison
from spaceport_lab.train.inputs import Views
from spaceport_lab.train.schedules import Plan
from spaceport_lab.workspace import Progress

MAX_DOTS = 20_000
"""Sparse points drawn; more only make the file larger."""

RATE_NAMES = {
    "means": "positions", "scales": "sizes", "opacities": "opacities", "quats": "rotations",
    "sh0": "base colour", "shN": "SH bands",
}  # fmt: skip


def inputs(views: Views) -> Figure:
    """The flight from above and from the side: sparse points, training views, held-out views."""
    keep = np.random.default_rng(0).permutation(len(views.scene.points))[:MAX_DOTS]
    points, colors = views.scene.points[keep], views.scene.colors[keep] / 255
    centre, axes_of_view = _principal_axes(views)
    unit = " [m]" if views.scene.georeferenced else ""
    with style():
        fig, axes = figure(9.6, 4.4, columns=2, width_ratios=(1, 1))
        titles = ("From above", "From the side")
        for ax, (right, up), title in zip(axes[0], ((0, 1), (0, 2)), titles, strict=True):
            flat = axes_of_view[[right, up]]
            x, y = ((points - centre) @ flat.T).T
            ax.scatter(x, y, s=1.2, c=colors, linewidths=0, rasterized=True)
            for cameras, color, marker, label in (
                (views.train, BLUE, "o", f"{len(views.train)} training views"),
                (views.heldout, RED, "D", f"{len(views.heldout)} held out"),
            ):
                if len(cameras):
                    cx, cy = ((cameras.centers - centre) @ flat.T).T
                    ax.scatter(
                        cx, cy, s=26, c=color, marker=marker, edgecolors="white", linewidths=0.6, label=label
                    )
            _frame(ax, points, views, centre, flat)
            labelled(ax, title, f"{'east' if views.scene.georeferenced else 'across'}{unit}")
            ax.set_aspect("equal")
        axes[0, 0].set_ylabel(f"{'north' if views.scene.georeferenced else 'along'}{unit}")
        axes[0, 1].set_ylabel(f"up{unit}")
        fig.legend(
            *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, markerscale=1.1
        )
    return fig


def schedules(plan: Plan) -> Figure:
    """What will change on the way, before the first step: rates, resolution and SH, densification."""
    steps = np.unique(np.linspace(0, plan.steps, 400).astype(int))
    with style():
        fig, axes = figure(9.6, 2.9, columns=3, gridspec_kw={"wspace": 0.08})
        rates, detail, growth = axes[0]
        for (name, label), color in zip(
            RATE_NAMES.items(), (BLUE, ORANGE, GREEN, RED, SKY, PINK), strict=True
        ):
            decay = plan.learning_rates[name]
            rates.plot(steps, [decay.at(s) / decay.start for s in steps], color=color, label=label)
        rates.set_yscale("log")
        rates.set_ylim(plan.learning_rates["means"].final / 2, 2)
        _label_rates(rates, plan)
        labelled(rates, "Learning rates, share of first", "step")

        share = [1 / plan.resolution.at(min(s, plan.steps - 1)) for s in steps]
        detail.step(steps, share, where="post", color=BLUE)
        detail.set_ylim(0, 1.1)
        detail.yaxis.set_major_formatter(PercentFormatter(1))
        bands = detail.twinx()
        bands.step(steps, [plan.sh_degree.at(s) for s in steps], where="post", color=ORANGE)
        bands.set_ylim(0, 3.3)
        bands.set_yticks(range(4))
        bands.grid(False)
        bands.tick_params(axis="y", labelcolor=ORANGE)
        detail.tick_params(axis="y", labelcolor=BLUE)
        labelled(detail, "Image side, SH degree", "step")

        _draw_refinement(growth, plan)
        for ax in axes[0]:
            ax.set_xlim(0, plan.steps)
            engineering(ax, "x")
    return fig


def live_figure(states: Sequence[Progress]) -> Figure:
    """Loss, held-out PSNR and the number of Gaussians so far, while training runs."""
    values = [(s.step, s.values) for s in states if "loss" in s.values]
    if not values:
        return empty_figure(states[-1].message if states else "starting")
    steps = np.array([step for step, _ in values])
    with style():
        fig, axes = figure(9.6, 2.5, columns=3)
        _draw_loss(axes[0, 0], steps, np.array([v["loss"] for _, v in values]))
        psnr = [(step, v["psnr"]) for step, v in values if "psnr" in v]
        # Between two evaluations the figure stands still: only its changes are points of the curve.
        changes = [p for p, before in zip(psnr, [(0, None), *psnr], strict=False) if p[1] != before[1]]
        if changes:
            axes[0, 1].plot(*zip(*changes, strict=True), marker="o", markersize=4, color=GREEN)
        labelled(axes[0, 1], f"Held-out PSNR {changes[-1][1]:.2f} dB" if changes else "Held-out PSNR", "step")
        axes[0, 2].plot(steps, [v["n_gaussians"] for _, v in values], color=BLUE)
        labelled(axes[0, 2], f"Gaussians {values[-1][1]['n_gaussians']:,}", "step")
        engineering(axes[0, 2])
        for ax in axes[0]:
            ax.set_xlim(0, states[-1].total or None)
            engineering(ax, "x")
    return fig


def curves(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Training loss and held-out PSNR over the steps; the best evaluation is marked."""
    taken, evals = _of(records, "step"), _of(records, "eval")
    if not taken:
        return empty_figure("no step has been recorded")
    with style():
        fig, axes = figure(9.6, 3.2, columns=2)
        _draw_loss(axes[0, 0], _column(taken, "step"), _column(taken, "loss"))
        _mark_resolutions(axes[0, 0], taken)
        ax = axes[0, 1]
        if evals:
            steps, psnr = _column(evals, "step"), _column(evals, "psnr")
            lowest = np.array([min(e["views"].values()) for e in evals])
            highest = np.array([max(e["views"].values()) for e in evals])
            ax.fill_between(steps, lowest, highest, color=GREEN, alpha=0.15, lw=0, label="worst to best view")
            ax.plot(steps, psnr, marker="o", markersize=4, color=GREEN, label="mean")
            best = int(psnr.argmax())
            ax.annotate(
                f"{psnr[best]:.2f} dB", (steps[best], psnr[best]), xytext=(0, 9), textcoords="offset points",
                ha="right" if best > len(evals) / 2 else "left", color=INK, weight="bold",
            )  # fmt: skip
            labelled(ax, "PSNR on held-out views", "step", "dB", legend=True)
            ax.legend(loc="lower right")
        else:
            picture_axes(ax)
            ax.text(0.5, 0.5, "no view was held out", ha="center", va="center", color=FAINT)
        for one in axes[0]:
            one.set_xlim(0, taken[-1]["step"] * 1.02)
            engineering(one, "x")
    return fig


def gaussians(records: Sequence[Mapping[str, Any]]) -> Figure:
    """How many Gaussians there were, and what each densification added and took away."""
    taken, refines = _of(records, "step"), _of(records, "refine")
    if not taken:
        return empty_figure("no step has been recorded")
    with style():
        fig, axes = figure(9.6, 3.2, columns=2)
        count, bars = axes[0]
        steps = [0, *_column(taken, "step")]
        first = refines[0]["n_before"] if refines else taken[0]["n_gaussians"]
        count.plot(steps, [first, *_column(taken, "n_gaussians")], color=BLUE)
        count.set_ylim(0, None)
        labelled(count, f"Gaussians: {first:,} to {taken[-1]['n_gaussians']:,}", "step")
        _draw_changes(bars, refines, taken[-1]["step"])
        resets = [r["step"] for r in refines if r["reset"]]
        for number, step in enumerate(resets):
            count.axvline(step, color=RED, lw=1, ls=":", label=None if number else "opacity reset")
        if resets:
            count.legend()
        for ax in axes[0]:
            ax.set_xlim(0, taken[-1]["step"] * 1.02)
            engineering(ax, "x")
            engineering(ax)
    return fig


def gradients(records: Sequence[Mapping[str, Any]]) -> Figure:
    """View-space gradients at each densification against the threshold: does it fire, and for how many?"""
    refines = [r for r in _of(records, "refine") if r.get("gradients")]
    if not refines:
        return empty_figure("no densification looked at gradients: MCMC, or too few steps")
    steps, last = _column(refines, "step"), max(record["step"] for record in records)
    levels = {name: np.array([r["gradients"][name] for r in refines]) for name in refines[0]["gradients"]}
    with style():
        fig, axes = figure(9.6, 3.2, columns=2)
        ax, share = axes[0]
        shades = {"p50": 1.0, "p90": 0.75, "p95": 0.6, "p99": 0.45, "max": 0.3}
        texts = {"p50": "median", "p90": "90 %", "p95": "95 %", "p99": "99 %", "max": "largest"}
        for name, values in levels.items():
            drawn = np.maximum(values, 1e-12)
            ax.plot(steps, drawn, color=BLUE, alpha=shades[name], marker="o", markersize=3, lw=1.4)
            ax.annotate(
                texts[name], (steps[-1], drawn[-1]), xytext=(6, 0), textcoords="offset points", va="center",
                fontsize=8, color=FAINT,
            )  # fmt: skip
        ax.plot(steps, _column(refines, "threshold"), color=RED, ls="--", label="threshold")
        ax.set_yscale("log")
        labelled(ax, "View-space gradients", "step", "NDC", legend=True)

        above = _column(refines, "above") / np.maximum(_column(refines, "n_before"), 1)
        width = _bar_width(steps, last)
        share.bar(steps, above, width=width, color=RED)
        share.yaxis.set_major_formatter(PercentFormatter(1, decimals=None if above.max() > 0.05 else 1))
        labelled(share, "Gaussians above the threshold", "step")
        for one in axes[0]:
            one.set_xlim(0, last * 1.02)
            engineering(one, "x")
        ax.set_xlim(0, last * 1.12)  # room for the labels
    return fig


def heldout(compared: Sequence[Comparison]) -> Figure:
    """Photograph, render and error of held-out views, one row each."""
    if not compared:
        return empty_figure("no view to compare")
    ratio = compared[0].photo.shape[0] / compared[0].photo.shape[1]
    with style():
        fig, axes = figure(9.6, len(compared) * (3.05 * ratio + 0.25) + 0.4, rows=len(compared), columns=3)
        for row, view in zip(axes, compared, strict=True):
            error = np.abs(view.photo - view.render).mean(axis=2)
            row[0].imshow(view.photo)
            row[1].imshow(view.render)
            shown = row[2].imshow(error, cmap=ERROR_MAP, vmin=0, vmax=0.25)
            titles = (view.name, f"render, {view.psnr:.1f} dB", f"error, mean {error.mean():.3f}")
            for ax, title in zip(row, titles, strict=True):
                picture_axes(ax)
                ax.set_title(title, fontsize=9, weight="normal")
        bar = fig.colorbar(shown, ax=axes[:, 2], shrink=0.75, aspect=30, pad=0.02, extend="max")
        bar.outline.set_visible(False)
        bar.set_label("absolute error; 1 is white instead of black", fontsize=8)
    return fig


def _principal_axes(views: Views) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 3"]]:
    """Where to look from: the world's own axes when it is in metres, else those of the cameras' layout."""
    if views.scene.georeferenced:
        return np.zeros(3), np.eye(3)
    cameras = views.scene.cameras
    down = cameras.viewmats[:, 2, :3].mean(axis=0)  # the mean looking direction, into the scene
    sky = -cameras.viewmats[:, 1, :3].mean(axis=0)  # the mean upward direction of the pictures
    # Nadir flights look along the vertical; others show it upright in their pictures.
    nadir = np.linalg.norm(down) > 0.9 and _spread_is_across(cameras.centers, down)
    up = -down if nadir else sky - 0.5 * down
    up /= max(np.linalg.norm(up), 1e-9)
    rest = cameras.centers - cameras.centers.mean(axis=0)
    rest = rest - np.outer(rest @ up, up)
    right = np.linalg.svd(rest)[2][0]
    right = right - up * (right @ up)
    right /= max(np.linalg.norm(right), 1e-9)
    return cameras.centers.mean(axis=0), np.stack([right, np.cross(up, right), up])


def _spread_is_across(centers: np.ndarray, direction: np.ndarray) -> bool:
    rest = centers - centers.mean(axis=0)
    along = np.abs(rest @ direction).mean()
    return bool(along < 0.25 * np.linalg.norm(rest, axis=1).mean())


def _frame(ax: Axes, points: np.ndarray, views: Views, centre: np.ndarray, flat: np.ndarray) -> None:
    """Show all cameras and all but the stray points."""
    seen = (points - centre) @ flat.T
    cameras = (views.scene.cameras.centers - centre) @ flat.T
    low = np.minimum(np.percentile(seen, 2, axis=0), cameras.min(axis=0))
    high = np.maximum(np.percentile(seen, 98, axis=0), cameras.max(axis=0))
    half = 0.56 * max((high - low).max(), 1e-6)
    for limits, middle in zip((ax.set_xlim, ax.set_ylim), (low + high) / 2, strict=True):
        limits(middle - half, middle + half)


def _label_rates(ax: Axes, plan: Plan) -> None:
    """Write what the lines are, once for those that fall alike."""
    alike: dict[float, list[str]] = {}
    for name, label in RATE_NAMES.items():
        alike.setdefault(plan.learning_rates[name].final, []).append(label)
    for final, names in alike.items():
        text = ", ".join(names) if len(names) < 3 else "all else"
        ax.annotate(
            text,
            (plan.steps / 2, final**0.5),
            xytext=(6, 3),
            textcoords="offset points",
            fontsize=8.5,
            color=INK,
        )


def _draw_refinement(ax: Axes, plan: Plan) -> None:
    r = plan.refinement
    refines = [s for s in range(1, plan.steps + 1) if r.refines(s)]
    resets = [s for s in range(1, plan.steps + 1) if r.resets(s)]
    if refines:
        ax.axvspan(r.start, r.stop, color=BLUE, alpha=0.08, lw=0)
        ax.eventplot(refines, lineoffsets=0.5, linelengths=0.5, colors=BLUE, lw=0.9)
    if resets:
        ax.eventplot(resets, lineoffsets=0.5, linelengths=0.8, colors=RED, lw=1.6)
    ax.set_ylim(0, 1)
    ax.set_yticks([])
    ax.grid(False)
    noun = "opacity reset" if len(resets) == 1 else "opacity resets"
    labelled(ax, f"{len(refines)} densification{'' if len(refines) == 1 else 's'}", "step")
    if resets:
        ax.text(resets[-1], 0.92, f" {len(resets)} {noun}", color=RED, fontsize=8.5)


def _draw_loss(ax: Axes, steps: np.ndarray, loss: np.ndarray) -> None:
    """Every value faint, and a running median that can be read: views differ more than steps do."""
    ax.plot(steps, loss, color=BLUE, alpha=0.25, lw=0.8)
    window = max(1, len(loss) // 25)
    smooth = [np.median(loss[max(0, i - window) : i + window + 1]) for i in range(len(loss))]
    ax.plot(steps, smooth, color=BLUE)
    ax.set_ylim(0, min(loss.max() * 1.05, 4 * float(np.median(loss))) or None)
    labelled(ax, f"Loss {smooth[-1]:.3f}", "step")


def _mark_resolutions(ax: Axes, taken: Sequence[Mapping[str, Any]]) -> None:
    for before, after in itertools.pairwise(taken):
        if max(after["resolution"]) > 1.4 * max(before["resolution"]):
            ax.axvline(after["step"], color=FAINT, lw=1, ls=":")
            text = " × ".join(map(str, after["resolution"]))
            ax.text(after["step"], ax.get_ylim()[1], f" {text}", fontsize=8, color=FAINT, va="top")


def _bar_width(steps: np.ndarray, last: int) -> float:
    return 0.7 * min(np.diff(steps).min() if len(steps) > 1 else last, last / 10)


def _draw_changes(ax: Axes, refines: Sequence[Mapping[str, Any]], last: int) -> None:
    kinds = {"cloned": GREEN, "split": BLUE, "added": GREEN, "relocated": SKY, "pruned": RED}
    used = {kind: color for kind, color in kinds.items() if any(r[kind] for r in refines)}
    if not used:
        picture_axes(ax)
        ax.text(0.5, 0.5, "densification changed nothing", ha="center", va="center", color=FAINT)
        return
    steps = _column(refines, "step")
    width = _bar_width(steps, last)
    bottom = np.zeros(len(refines))
    for kind, color in used.items():
        values = _column(refines, kind)
        if kind == "pruned":
            ax.bar(steps, -values, width=width, color=color, label=f"pruned {int(values.sum()):,}")
        else:
            ax.bar(
                steps, values, width=width, bottom=bottom, color=color, label=f"{kind} {int(values.sum()):,}"
            )
            bottom += values
    ax.axhline(0, color=INK, lw=0.8)
    labelled(ax, "Each densification", "step", legend=True)


def _of(records: Sequence[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    return [record for record in records if record["kind"] == kind]


def _column(records: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    return np.array([np.nan if record[name] is None else record[name] for record in records])


__all__ = ["curves", "gaussians", "gradients", "heldout", "inputs", "live_figure", "schedules"]
