"""Figures of the train stage before it starts: what there is to train on, and what will change on the way."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from spaceport_lab.plots.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PAPER,
    PINK,
    RED,
    SKY,
    engineering,
    figure,
    labelled,
    picture_axes,
    style,
)
from spaceport_lab.train.inputs import Views
from spaceport_lab.train.schedules import Plan

MAX_DOTS = 20_000
"""Sparse points drawn; more only make the file larger."""

SHOWN_PIXELS = 1_000_000
"""Of the image for which the spread of Gaussians is drawn."""

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
                (views.validation, ORANGE, "s", f"{len(views.validation)} for validation"),
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
            *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, markerscale=1.1
        )
    return fig


def schedules(plan: Plan) -> Figure:
    """What will change on the way, before the first step: rates, detail, growth; blur where there is any."""
    # Schedules are asked before their step; the last value holds up to the end of the axis.
    steps = np.unique(np.linspace(0, plan.steps, 401).astype(int))
    softens = plan.blur.start > 0 or plan.low_pass.active
    rows, columns = (2, 2) if softens else (1, 3)
    with style():
        fig, axes = figure(9.6, 2.9 * rows, rows=rows, columns=columns)
        panels = list(axes.flat)
        _draw_rates(panels.pop(0), plan, steps)
        _draw_detail(panels.pop(0), plan, steps)
        if softens:
            _draw_softening(panels.pop(0), plan, steps)
        _draw_growth(panels.pop(0), plan, steps)
        for ax in axes.flat:
            ax.set_xlim(0, plan.steps)
            ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
            engineering(ax, "x")
    return fig


def _draw_rates(ax: Axes, plan: Plan, steps: np.ndarray) -> None:
    colors = (BLUE, ORANGE, GREEN, RED, SKY, PINK)
    for (name, label), color in zip(RATE_NAMES.items(), colors, strict=True):
        decay = plan.learning_rates[name]
        ax.plot(steps, [decay.at(s) / decay.start for s in steps], color=color, label=label)
    ax.set_yscale("log")
    ax.set_ylim(min(0.5, plan.learning_rates["means"].final / 2), 2)
    _label_rates(ax, plan)
    labelled(ax, "Learning rates", "step", "share of the first")


def _label_rates(ax: Axes, plan: Plan) -> None:
    """Write what the lines are, once for those that fall alike."""
    alike: dict[float, list[str]] = {}
    for name, label in RATE_NAMES.items():
        alike.setdefault(plan.learning_rates[name].final, []).append(label)
    for final, names in alike.items():
        text = "all" if len(alike) == 1 else ", ".join(names) if len(names) < 3 else "all others"
        ax.annotate(
            text, (plan.steps / 2, final**0.5), xytext=(6, 3), textcoords="offset points", fontsize=8.5,
            color=INK,
        )  # fmt: skip


def _draw_detail(ax: Axes, plan: Plan, steps: np.ndarray) -> None:
    ax.step(steps, [1 / plan.resolution.stage(s) for s in steps], where="post", color=BLUE)
    ax.set_ylim(0, 1.1)
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    bands = ax.twinx()
    bands.step(steps, [plan.sh_degree.at(s) for s in steps], where="post", color=ORANGE)
    bands.set_ylim(0, 3.3)
    bands.set_yticks(range(4))
    bands.grid(False)
    if plan.drop_bands_at is not None:
        bands.axvline(plan.drop_bands_at, color=ORANGE, lw=1.2, ls="--")
        bands.annotate(
            "idle bands drop ", (plan.drop_bands_at, 0.12), ha="right", fontsize=8.5, color=INK
        )  # fmt: skip
    labelled(ax, "Detail", "step")
    for side, color, text in ((ax, BLUE, "image side"), (bands, ORANGE, "SH degree")):
        side.tick_params(axis="y", labelcolor=color)
        side.set_ylabel(text, color=color)


def _draw_softening(ax: Axes, plan: Plan, steps: np.ndarray) -> None:
    """Both as standard deviations; the low-pass is for an image of a million pixels and planned growth."""
    if plan.blur.start > 0:
        blur = [plan.blur.at(s) for s in steps]
        ax.step(steps, blur, where="post", color=GREEN, label="blur of photographs")
    if plan.low_pass.active:
        spread = [plan.low_pass.at(s, plan.growth.target(s), SHOWN_PIXELS) ** 0.5 for s in steps]
        ax.plot(steps, spread, color=PINK, label="spread of Gaussians, at a megapixel")
    ax.set_ylim(0, None)
    labelled(ax, "Softening", "step", "sigma in pixels", legend=True)


def _draw_growth(ax: Axes, plan: Plan, steps: np.ndarray) -> None:
    """Planned Gaussians with a tick for every densification; ticks alone where a threshold was given."""
    r = plan.refinement
    refines = [s for s in range(1, plan.steps + 1) if r.refines(s)]
    n = f"{len(refines)} densification{'' if len(refines) == 1 else 's'}"
    if refines:
        ax.axvspan(r.start, r.stop, color=BLUE, alpha=0.08, lw=0)
        width = min(0.9, 60 / len(refines))  # ticks that touch would be a bar
        ax.vlines(refines, 0, 0.06, transform=ax.get_xaxis_transform(), color=BLUE, lw=width)
    if plan.growth.automatic and refines:
        _draw_target(ax, plan, steps)
        labelled(ax, "Gaussians aimed at", f"step; {n}")
    else:
        picture_axes(ax)
        text = "as many as exceed the threshold" if refines else ""
        ax.text(
            0.5, 0.5, text or "nothing grows", transform=ax.transAxes, ha="center", va="center", color=FAINT,
            bbox={"facecolor": PAPER, "alpha": 0.8, "edgecolor": "none"},
        )  # fmt: skip
        labelled(ax, n, "step")
        ax.spines["bottom"].set_visible(True)
    for number, step in enumerate(plan.prune_at):
        text = f"{plan.prune_share:.0%} pruned"
        ax.axvline(step, color=RED, lw=1.2, ls="--", label=None if number else text)
    for number, step in enumerate(s for s in range(1, plan.steps + 1) if r.resets(s)):
        ax.axvline(step, color=RED, lw=1, ls=":", label=None if number else "opacity reset")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="upper left", facecolor=PAPER, framealpha=0.8, frameon=True, edgecolor="none")


def _draw_target(ax: Axes, plan: Plan, steps: np.ndarray) -> None:
    left = (1 - plan.prune_each) ** np.searchsorted(plan.prune_at, steps, side="right")
    planned = np.array([plan.growth.target(s) for s in steps]) * left
    ax.step(steps, planned, where="post", color=BLUE)
    if plan.dropout.last:
        taken = planned * [1 - plan.dropout.at(s) for s in steps]
        text = f"up to {plan.dropout.last:.0%} left out of a step"
        ax.fill_between(steps, taken, planned, step="post", color=BLUE, alpha=0.25, lw=0, label=text)
    ax.set_ylim(0, 1.3 * planned.max())
    engineering(ax)


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


__all__ = ["inputs", "schedules"]
