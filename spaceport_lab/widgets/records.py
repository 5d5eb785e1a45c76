"""From the records of a training to what the charts of the bench show. Plain numbers in, `Drawing` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.ndimage import median_filter

from spaceport_lab.plots.style import BLUE, FAINT, GREEN, ORANGE, RED, SKY
from spaceport_lab.train.schedules import Plan
from spaceport_lab.widgets.drawing import Drawing, Series

MOST_POINTS = 360
"""Of a line: a chart has about as many pixels."""

MOST_DB = 12.0
"""Below the best PSNR a curve is of no interest."""

BARS_SHARE = 0.4
"""Of the height, for the bars under the count of Gaussians."""

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Gradients:
    """View-space gradients at the last densification that looked at them.

    Attributes:
        edges: [B + 1] of the bins, rising, NDC.
        counts: [B] Gaussians in each.
        threshold: in force then, NDC.
        note: step and what became of those above, in words.
    """

    edges: Float[np.ndarray, " B1"]
    counts: Float[np.ndarray, " B"]
    threshold: float
    note: str


def loss(records: Records, total: int) -> Drawing:
    """Loss of single steps, faint, and its running median: views differ more than steps do."""
    steps, values = _column(records, "step", "step"), _column(records, "step", "loss")
    if not len(steps):
        return _nothing("Loss", total, "the first steps are on their way")
    smooth = median_filter(values, size=2 * max(1, len(values) // 25) + 1, mode="reflect")
    top = min(float(values.max()) * 1.05, 4 * float(np.median(values))) or 1.0
    x, faint, clear = _thin(steps, values, smooth)
    return Drawing(
        f"Loss {smooth[-1]:.4f}",
        [
            Series("", "line", BLUE, x, faint, alpha=0.3, thick=1),
            Series("running median", "line", BLUE, x, clear),
        ],
        (0, _reach(steps[-1], total)),
        (0, top),
        alt=f"Training loss over steps, {smooth[-1]:.4f} at step {steps[-1]:.0f}",
    )


def psnr(records: Records, total: int) -> Drawing:
    """PSNR of the views that are not trained on, at every evaluation."""
    lines = []
    for name, field, color in (("held out", "psnr", GREEN), ("validation", "psnr_validation", ORANGE)):
        x, y = _column(records, "eval", "step"), _column(records, "eval", field)
        known = np.isfinite(y)
        if known.any():
            lines.append(Series(name, "points", color, x[known], y[known]))
    if not lines:
        return _nothing("PSNR", total, "not evaluated yet")
    every = np.concatenate([line.y for line in lines])
    high = float(every.max())
    low = max(float(every.min()), high - MOST_DB)
    room = 0.12 * max(high - low, 0.5)
    last = lines[0]
    x = (0, _reach(last.x[-1], total))
    return Drawing(
        f"PSNR {last.y[-1]:.2f} dB, {last.name}", lines, x, (low - room, high + room),
        alt=f"PSNR of views not trained on, {last.name} {last.y[-1]:.2f} dB at step {last.x[-1]:.0f}",
    )  # fmt: skip


def gaussians(records: Records, total: int) -> Drawing:
    """How many Gaussians there are, and what each densification cloned, split and pruned."""
    steps, count = _column(records, "step", "step"), _column(records, "step", "n_gaussians")
    if not len(steps):
        return _nothing("Gaussians", total, "the first steps are on their way")
    refines = [r for r in records if r["kind"] == "refine"]
    bars, reach = _bars(refines, total)
    x, y = _thin(steps, count)
    line = Series("Gaussians", "line", BLUE, x, y)
    changed = sum(r["cloned"] + r["split"] + r["added"] for r in refines)
    alt = (
        f"{count[-1]:,.0f} Gaussians at step {steps[-1]:,.0f}; {len(refines)} checks made {changed:,} "
        f"and pruned {sum(r['pruned'] for r in refines):,}"
    )
    return Drawing(
        f"Gaussians {count[-1]:,.0f}", [*bars, line], (0, _reach(steps[-1], total)),
        (0, 1.15 * float(count.max())), right=reach,
        right_top=None if reach is None else BARS_SHARE * reach[1], right_color=FAINT,
        marks=[r["step"] for r in refines if r["reset"]], alt=alt,
    )  # fmt: skip


def schedule(plan: Plan, total: int, now: int) -> Drawing:
    """Side of the images and blur of the photographs, over all steps, with a marker for now."""
    x = np.unique(np.linspace(0, total, MOST_POINTS + 1).astype(int)).astype(float)
    share = np.array([100 / plan.resolution.stage(int(s)) for s in x])
    lines = [Series("image side %", "steps", BLUE, x, share)]
    right = None
    if plan.blur.start > 0:
        blur = np.array([plan.blur.at(int(s)) for s in x])
        lines.append(Series("blur px", "steps", ORANGE, x, blur, axis="right"))
        right = (0.0, 1.2 * plan.blur.start)
    at = min(now, max(0, total - 1))
    words = f"image side {100 / plan.resolution.stage(at):.0f} %"
    if plan.blur.start > 0:
        words += f", blur {plan.blur.at(at):.1f} px"
    return Drawing(
        f"Resolution: {words}", lines, (0, total), (0, 108), right=right, right_color=ORANGE, now=now,
        alt=f"Schedule of resolution and blur; at step {now:,}: {words}",
    )  # fmt: skip


def gradients(records: Records) -> Gradients | None:
    """Of the last densification that looked at gradients; None before there was one."""
    for record in reversed(records):
        found = record.get("histogram") if record["kind"] == "refine" else None
        if found and sum(found["counts"]):
            made = f"{record['cloned']:,} cloned, {record['split']:,} split"
            return Gradients(
                np.asarray(found["edges"], float), np.asarray(found["counts"], float),
                float(record["threshold"] or 0.0), f"step {record['step']:,}: {made}",
            )  # fmt: skip
    return None


def _bars(refines: Records, total: int) -> tuple[list[Series], tuple[float, float] | None]:
    """Stacked bars of what came, and of what went below zero, with the reach of their axis."""
    if not refines:
        return [], None
    x = np.array([r["step"] for r in refines], float)
    gaps = np.diff(x)
    width = 0.75 * min(float(gaps[gaps > 0].min()) if (gaps > 0).any() else total / 20, total / 20)
    bottom, bars = np.zeros(len(x)), []
    for name, color in (("cloned", GREEN), ("split", SKY), ("added", GREEN), ("pruned", RED)):
        values = np.array([r[name] for r in refines], float)
        if not values.any():
            continue
        if name == "pruned":
            bars.append(Series(name, "bars", color, x, -values, np.zeros(len(x)), width, "right", alpha=0.85))
        else:
            top = bottom + values
            bars.append(Series(name, "bars", color, x, top, bottom, width, "right", alpha=0.85))
            bottom = top
    low = min((float(b.y.min()) for b in bars), default=0.0)
    high = max(float(bottom.max()), -low, 1.0) / BARS_SHARE
    # Below zero there is room for what was pruned, but never more than a quarter of the picture.
    return bars, (max(low * 1.1, -high / 3), high)


def _reach(last: float, total: int) -> float:
    """End of an axis: a half, a quarter … of all steps while there are so few that nothing could be seen."""
    reach = float(total)
    while reach > 2.5 * last and reach > 100:
        reach /= 2
    return reach


def _nothing(title: str, total: int, words: str) -> Drawing:
    return Drawing(title, [], (0, total), (0, 1), say=words, alt=f"{title}: {words}")


def _column(records: Records, kind: str, name: str) -> np.ndarray:
    values = [record.get(name) for record in records if record["kind"] == kind]
    return np.array([np.nan if value is None else value for value in values], float)


def _thin(*columns: np.ndarray) -> list[np.ndarray]:
    """At most about MOST_POINTS rows of all columns, evenly, the last one always."""
    every = -(-len(columns[0]) // MOST_POINTS) or 1
    return [column[::-1][::every][::-1] for column in columns]
