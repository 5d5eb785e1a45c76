"""How well the photographs support each Gaussian: by how many it is shown, and whether it floats alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt16

from spaceport_lab import evaluation, files
from spaceport_lab.cameras import Cameras
from spaceport_lab.edit.clean import floaters
from spaceport_lab.gaussians import SH_C0, Gaussians

LONGEST_SIDE = 320
"""Pixels at which views are drawn to see what they show."""

MOST_VIEWS = 200
"""At most so many training views are looked at, evenly spaced."""

LEAST_SHARE = 0.1
"""A view shows a Gaussian that fills this share of what it fills in the view that shows it most."""

LEAST_PIXELS = 0.01
"""What fills less than this in every view is shown by none."""

FEW = 3
"""Shown by fewer photographs than this, nothing but chance says how far away a Gaussian is."""

LONE = 0.0005
"""Share of all Gaussians below which a group that touches no other floats."""

MARKS: dict[str, tuple[int, int, int]] = {
    "shown by no photograph": (204, 121, 167),
    f"shown by fewer than {FEW}": (230, 159, 0),
    "floater": (86, 180, 233),
}
"""Kinds of doubtful Gaussians and their colours, which all eyes tell apart (Okabe and Ito)."""


@dataclass(frozen=True)
class Confidence:
    """What is known about each Gaussian.

    Attributes:
        shown_by: [N] photographs that show it, of those looked at; None where there are no cameras.
        floats: [N] whether it belongs to a small group in empty space.
        n_views: photographs looked at.
    """

    shown_by: UInt16[np.ndarray, " N"] | None
    floats: Bool[np.ndarray, " N"]
    n_views: int

    def kinds(self) -> dict[str, Bool[np.ndarray, " N"]]:
        """Which Gaussians are doubtful, by the names of MARKS; what cannot be said is left out."""
        none, few, floater = MARKS
        found = {floater: self.floats}
        if self.shown_by is not None:
            found = {none: self.shown_by == 0, few: (self.shown_by > 0) & (self.shown_by < FEW)} | found
        return found

    def thin_share(self) -> float | None:
        """Share of the Gaussians shown at all that fewer than FEW photographs show; None: not known."""
        if self.shown_by is None or not self.shown_by.any():
            return None
        return float((self.shown_by[self.shown_by > 0] < FEW).mean())


def judge(gaussians: Gaussians, cameras: Cameras | None, backend: str) -> Confidence:
    """Look at every Gaussian through the training views.

    Args:
        gaussians: the splat.
        cameras: views it was trained on; None where there are none.
        backend: rasterizer.

    Raises:
        BackendError: the rasterizer cannot run here.
    """
    floats = floaters(gaussians, LONE)
    if cameras is None or len(cameras) < FEW:
        return Confidence(None, floats, 0 if cameras is None else len(cameras))
    some = cameras.subset(np.unique(np.linspace(0, len(cameras) - 1, MOST_VIEWS).round().astype(int)))
    return Confidence(count_views(gaussians, some, backend), floats, len(some))


def count_views(gaussians: Gaussians, cameras: Cameras, backend: str) -> UInt16[np.ndarray, " N"]:
    """How many views show each Gaussian: fill LEAST_SHARE of the most that any of them fills with it."""
    # All weights of all views would be gigabytes; a first pass finds the most, a second one counts.
    most = np.zeros(gaussians.n, np.float32)
    for weights in evaluation.fill_views(gaussians, cameras, LONGEST_SIDE, backend):
        np.maximum(most, weights, out=most)
    least = np.maximum(LEAST_SHARE * most, LEAST_PIXELS)
    count = np.zeros(gaussians.n, np.uint16)
    for weights in evaluation.fill_views(gaussians, cameras, LONGEST_SIDE, backend):
        count += weights >= least
    return count


def mark(gaussians: Gaussians, confidence: Confidence) -> Gaussians:
    """The splat with doubtful Gaussians in the colours of MARKS, the others grey; no view dependence."""
    grey = gaussians.colors.mean(axis=1, keepdims=True).clip(0, 1)
    colors = np.repeat(0.25 + 0.5 * grey, 3, axis=1)
    for name, doubtful in confidence.kinds().items():
        colors[doubtful] = np.array(MARKS[name]) / 255
    sh0 = ((colors - 0.5) / SH_C0)[:, None].astype(np.float32)
    return replace(gaussians.with_sh_degree(0), sh0=sh0)


def write(path: Path, confidence: Confidence) -> None:
    """Keep it as .npz: `shown_by` (empty where there were no cameras), `floats`, `n_views`.

    Raises:
        WorkspaceError: the folder cannot be written.
    """
    shown_by = np.zeros(0, np.uint16) if confidence.shown_by is None else confidence.shown_by
    with files.clear_os_errors(path), files.atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file, shown_by=shown_by, floats=np.packbits(confidence.floats), n_views=confidence.n_views
        )


def read(path: Path, n: int) -> Confidence:
    """What `write` kept, of a splat of `n` Gaussians."""
    with np.load(path) as kept:
        shown_by = kept["shown_by"] if len(kept["shown_by"]) or n == 0 else None
        floats = np.unpackbits(kept["floats"], count=n).astype(bool)
        return Confidence(shown_by, floats, int(kept["n_views"]))


def mean_in_cells(
    values: Float[np.ndarray, " N"], x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"],
    weights: Float[np.ndarray, " N"], cells: int,
) -> tuple[Float[np.ndarray, "R S"], tuple[float, float, float, float]]:  # fmt: skip
    """The weighted mean of `values` in square cells of a map.

    Args:
        values: of each Gaussian.
        x, y: where it lies on the map.
        weights: how much it counts.
        cells: along the longer side.

    Returns:
        The mean in each cell, rows from low y to high y, NaN where nothing lies; and the map's left, right,
        bottom and top.
    """
    left, right, bottom, top = float(x.min()), float(x.max()), float(y.min()), float(y.max())
    side = max(right - left, top - bottom, 1e-9) / cells
    n_x, n_y = (max(1, int(np.ceil(length / side - 1e-9))) for length in (right - left, top - bottom))
    area = [[bottom, bottom + n_y * side], [left, left + n_x * side]]
    total, _, _ = np.histogram2d(y, x, bins=(n_y, n_x), range=area, weights=weights)
    summed, _, _ = np.histogram2d(y, x, bins=(n_y, n_x), range=area, weights=weights * values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return summed / total, (left, left + n_x * side, bottom, bottom + n_y * side)
