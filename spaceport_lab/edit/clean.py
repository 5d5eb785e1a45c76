"""Leave out Gaussians on request, and count what went for which reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from spaceport_lab.errors import ParamsError, SplatFormatError
from spaceport_lab.gaussians import Gaussians

NEIGHBOURS = 12
REACH = 3.0
"""Standard deviations up to which a Gaussian is taken to touch others."""

GAP = 3.0
"""Width of a cell, as a multiple of the usual distance to the last of the neighbours."""

_MOST = 1 << 19  # cells from the middle, in each direction
_ROW = 1 << 21
_STEPS = [
    (z * _ROW + y) * _ROW + x
    for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1) if (z, y, x) > (0, 0, 0)
]  # fmt: skip
"""From a cell to the half of its 26 neighbours that come after it."""


@dataclass(frozen=True)
class CleanOptions:
    """What is to go. Nothing goes by default but what is not finite.

    Attributes:
        box: least and greatest corner; centres outside it go.
        sphere: centre and radius; centres outside it go.
        min_opacity: 0 to 1; fainter ones go.
        max_sigma: world units; those with a larger standard deviation go.
        floaters: share of all Gaussians, 0 to 1; connected groups smaller than that go. 0 keeps all.
        sh_degree: bands above it go.
    """

    box: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    sphere: tuple[tuple[float, float, float], float] | None = None
    min_opacity: float = 0.0
    max_sigma: float = np.inf
    floaters: float = 0.0
    sh_degree: int = 3

    def __post_init__(self) -> None:
        wrong = []
        if self.box is not None and not np.all(np.less_equal(*self.box)):
            wrong.append(f"box {self.box}: the first corner must be the lower one on every axis")
        if self.sphere is not None and not (self.sphere[1] > 0 and np.isfinite(self.sphere[0]).all()):
            wrong.append(f"sphere {self.sphere}: the radius must be above 0")
        if not 0 <= self.min_opacity <= 1 or not 0 <= self.floaters < 1 or not self.max_sigma > 0:
            wrong.append("min_opacity and floaters are shares, 0 to 1; max_sigma is above 0")
        if self.sh_degree not in range(4):
            wrong.append(f"sh_degree {self.sh_degree}: 0 to 3")
        if wrong:
            raise ParamsError("impossible options for cleaning", got="; ".join(wrong))


@dataclass(frozen=True)
class Cleaned:
    """What cleaning left.

    Attributes:
        gaussians: those left, in their order.
        kept: [N] which of the input they are.
        removed: how many went for each reason; one that fits several is counted for the first.
    """

    gaussians: Gaussians
    kept: Bool[np.ndarray, " N"]
    removed: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        each = ", ".join(f"{reason} {count:,}" for reason, count in self.removed.items() if count)
        return f"{self.gaussians.n:,} of {len(self.kept):,} splats left" + (
            f" (removed: {each})" if each else ""
        )


def clean(gaussians: Gaussians, options: CleanOptions = CleanOptions()) -> Cleaned:
    """Leave out what `options` says, and whatever holds NaN or Inf.

    Raises:
        SplatFormatError: nothing would be left.
    """
    g = gaussians
    keep, removed = np.ones(g.n, bool), {}

    def remove(reason: str, bad: Bool[np.ndarray, " N"]) -> None:
        removed[reason] = int((keep & bad).sum())
        keep[bad] = False

    remove("not finite", ~finite(g))
    with np.errstate(invalid="ignore", over="ignore"):
        if options.box is not None:
            low, high = np.array(options.box, np.float64)
            remove("outside the box", ~((g.means >= low) & (g.means <= high)).all(axis=1))
        if options.sphere is not None:
            center, radius = np.array(options.sphere[0], np.float64), options.sphere[1]
            remove("outside the sphere", ~(np.linalg.norm(g.means - center, axis=1) <= radius))
        if options.min_opacity > 0:
            remove("too faint", ~(g.alphas >= options.min_opacity))
        if np.isfinite(options.max_sigma):
            remove("too large", ~(g.sigmas.max(axis=1, initial=0) <= options.max_sigma))
    if options.floaters > 0 and keep.any():
        index = np.flatnonzero(keep)
        bad = np.zeros(g.n, bool)
        bad[index[floaters(g.subset(index), options.floaters)]] = True
        remove("floaters", bad)
    if not keep.any():
        each = ", ".join(f"{reason} {count:,}" for reason, count in removed.items() if count)
        raise SplatFormatError("cleaning would leave no splat", got=f"of {g.n:,}: {each or 'none given'}")
    left = g if keep.all() else g.subset(keep)
    return Cleaned(left.with_sh_degree(options.sh_degree), keep, removed)


def finite(gaussians: Gaussians) -> Bool[np.ndarray, " N"]:
    """Which Gaussians hold neither NaN nor Inf."""
    good = np.ones(gaussians.n, bool)
    for values in vars(gaussians).values():
        good &= np.isfinite(values).reshape(gaussians.n, -1).all(axis=1)
    return good


def floaters(gaussians: Gaussians, share: float) -> Bool[np.ndarray, " N"]:
    """Which Gaussians belong to a group that touches nothing else and holds less than `share` of them all.

    Space is cut into cells a few times as wide as the usual distance to the twelfth neighbour; what lies in
    one cell or in adjoining ones touches. Neighbours also touch when they are nearer to each other than the
    sum of their reaches: so a large Gaussian far out in a sparse background is held by its own size, and a
    small one in empty air is not. The largest group always stays.
    """
    # Those that share a centre are one: a search for neighbours would drown among many of them.
    means, one = np.unique(gaussians.means.astype(np.float64), axis=0, return_inverse=True)
    one = one.reshape(-1)
    reach = np.zeros(len(means))
    np.maximum.at(reach, one, _reach(gaussians))
    k = min(NEIGHBOURS + 1, len(means))
    distances, neighbours = (a.reshape(-1, k) for a in cKDTree(means).query(means, k=k, workers=-1))
    usual = float(np.median(distances[:, -1]))
    keys, cell = np.unique(_cells(means, GAP * usual if usual > 0 else 1.0), return_inverse=True)
    touch = distances <= reach[:, None] + reach[neighbours]
    pairs = [np.stack([np.repeat(cell, k)[touch.ravel()], cell[neighbours[touch]]])]
    for step in _STEPS:
        place = np.minimum(np.searchsorted(keys, keys + step), len(keys) - 1)
        there = np.flatnonzero(keys[place] == keys + step)
        pairs.append(np.stack([there, place[there]]))
    rows, columns = np.concatenate(pairs, axis=1)
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(len(keys), len(keys)))
    group = connected_components(graph, directed=False)[1][cell][one]
    sizes = np.bincount(group)
    small = sizes < share * gaussians.n
    small[sizes.argmax()] = False
    return small[group]


def _cells(means: Float[np.ndarray, "N 3"], size: float) -> Int[np.ndarray, " N"]:
    """The number of the cell each centre lies in; what lies a million cells out shares the outermost ones."""
    middle = np.median(means, axis=0)
    steps = np.clip(np.floor((means - middle) / size), -_MOST, _MOST).astype(np.int64) + _MOST + 1
    return (steps[:, 2] * _ROW + steps[:, 1]) * _ROW + steps[:, 0]


def _reach(gaussians: Gaussians) -> Float[np.ndarray, " N"]:
    """World units up to which each Gaussian is seen, along its longest axis."""
    return REACH * np.exp(np.minimum(gaussians.scales.max(axis=1).astype(np.float64), 50))
