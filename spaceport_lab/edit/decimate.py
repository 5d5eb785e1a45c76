"""Fewer Gaussians by merging neighbours, not by dropping: levels of detail that stay whole.

Pairs of neighbours are merged, cheapest first, in passes, until the number asked for is left. A merged
Gaussian has the mean and the covariance of all it was made of, their mean spherical harmonics, and an opacity
that keeps what they cover together. Gaussians that met no partner stay as they are, to the last bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from spaceport_lab.edit import merging
from spaceport_lab.errors import ParamsError, SplatFormatError
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.workspace import Progress

NEIGHBOURS = 8
SHARE = 0.3
"""Of the Gaussians that may be merged in one pass: more would force pairs that do not belong together."""

GRAIN = 2.0
CONTRAST = 4.0
"""A difference in colour of 1 costs as much as this many nats of a difference in shape."""

_ALPHAS = (1e-4, 0.999)
_LEAST = 1e-12  # of a standard deviation's square: a needle thinner than a micrometre


@dataclass
class _Mixture:
    """Gaussians while they are being merged; float64.

    Attributes:
        means: [M, 3] world units.
        covs: [M, 6] xx, xy, xz, yy, yz, zz.
        weights: [M] how much of a picture each fills.
        masses: [M] opacity times area, which a merged one inherits.
        depths: [M] optical depth: a merged one is no more opaque than its parts one behind the other.
        colors: [M, 3] RGB.
        group: [N] which of the M each Gaussian of the input has become a part of.
    """

    means: Float[np.ndarray, "M 3"]
    covs: Float[np.ndarray, "M 6"]
    weights: Float[np.ndarray, " M"]
    masses: Float[np.ndarray, " M"]
    depths: Float[np.ndarray, " M"]
    colors: Float[np.ndarray, "M 3"]
    group: Int[np.ndarray, " N"]


def decimate(
    gaussians: Gaussians, target: int, weights: Float[np.ndarray, " N"] | None = None
) -> Generator[Progress, None, Gaussians]:
    """`target` Gaussians that look like all of them; yields progress, returns them.

    Args:
        gaussians: finite.
        target: how many are to be left; no fewer than 1.
        weights: [N] how much each is seen; opacity times area when None.

    Raises:
        ParamsError: `target` is no number from 1 to N, or weights are negative or not finite.
        SplatFormatError: values that are not finite.
    """
    levels = yield from decimate_levels(gaussians, [target], weights)
    return levels[0]


def decimate_levels(
    gaussians: Gaussians, targets: Sequence[int], weights: Float[np.ndarray, " N"] | None = None
) -> Generator[Progress, None, list[Gaussians]]:
    """One splat for each of `targets`, each made from the one before; yields progress, returns them.

    Args:
        gaussians: finite.
        targets: how many Gaussians each is to have, falling.
        weights: [N] how much each is seen; opacity times area when None.

    Raises:
        ParamsError: targets that are no falling numbers from N to 1, or weights negative or not finite.
        SplatFormatError: values that are not finite.
    """
    counts = [gaussians.n, *targets]
    if min(targets) < 1 or any(after > before for before, after in itertools.pairwise(counts)):
        raise ParamsError(
            "cannot decimate to that many Gaussians",
            got=list(targets),
            expected=f"falling numbers from {gaussians.n:,} to 1",
        )
    mixture, seen = _start(gaussians, weights)
    total = max(1, gaussians.n - min(targets))
    levels = []
    for target in targets:
        while len(mixture.means) > target:
            yield Progress(gaussians.n - len(mixture.means), total, "merging neighbours")
            twins = _twins(mixture)
            mixture = _merge_twins(mixture, twins, target) if len(twins) else _merge(mixture, target)
        levels.append(gaussians if target == gaussians.n else _finish(gaussians, mixture, seen))
    return levels


def level_counts(n: int, shares: Sequence[float] = (1.0, 0.5, 0.25, 0.125)) -> list[int]:
    """How many Gaussians levels of detail have; a level that would equal the one before is left out.

    Raises:
        ParamsError: shares that do not fall from at most 1 to above 0.
    """
    if not shares or any(b >= a for a, b in itertools.pairwise((1.1, *shares))) or min(shares) <= 0:
        raise ParamsError(
            "impossible levels of detail", got=list(shares), expected="falling shares, such as 1 0.5 0.25"
        )
    counts = [max(1, round(n * min(share, 1))) for share in shares]
    return [c for i, c in enumerate(counts) if i == 0 or c < counts[i - 1]]


def covariances(gaussians: Gaussians) -> Float[np.ndarray, "N 6"]:
    """xx, xy, xz, yy, yz, zz of each Gaussian, float64."""
    rotation = Rotation.from_quat(gaussians.rotations[:, [1, 2, 3, 0]].astype(np.float64)).as_matrix()
    axes = rotation * np.exp(gaussians.scales.astype(np.float64))[:, None]
    full = axes @ axes.transpose(0, 2, 1)
    return np.ascontiguousarray(full.reshape(-1, 9)[:, [0, 1, 2, 4, 5, 8]])


def _areas(covs: Float[np.ndarray, "N 6"]) -> Float[np.ndarray, " N"]:
    out = np.empty(len(covs))
    merging.areas(covs, out)
    return np.maximum(out, 1e-30)


def _start(g: Gaussians, weights: Float[np.ndarray, " N"] | None) -> tuple[_Mixture, Float[np.ndarray, " N"]]:
    for name, values in vars(g).items():
        if not np.isfinite(values).all():
            raise SplatFormatError(
                f"{name} holds values that are not finite", hint="clean the splat before it is decimated"
            )
    covs = covariances(g)
    areas, alphas = _areas(covs), np.clip(g.alphas.astype(np.float64), *_ALPHAS)
    if not np.isfinite(areas).all():
        raise SplatFormatError(
            "a Gaussian is too large to be merged", got=f"log scale {g.scales.max():.0f}", expected="below 80"
        )
    seen = alphas * areas if weights is None else np.asarray(weights, np.float64)
    if seen.shape != (g.n,) or not np.isfinite(seen).all() or seen.min() < 0:
        raise ParamsError("impossible weights", got=seen.shape, expected=f"({g.n},) numbers, none negative")
    seen = np.maximum(seen / max(seen.mean(), 1e-300), 1e-12)
    means, colors = g.means.astype(np.float64), g.colors.astype(np.float64)
    mixture = _Mixture(means, covs, seen.copy(), alphas * areas, -np.log1p(-alphas), colors, np.arange(g.n))
    return mixture, seen


def _merge(m: _Mixture, target: int) -> _Mixture:
    """One pass: neighbours are paired off, cheapest first, and each pair becomes one."""
    n = len(m.means)
    k = min(NEIGHBOURS + 1, n)
    neighbours = cKDTree(m.means).query(m.means, k=k, workers=-1)[1].reshape(n, k).astype(np.int64)
    costs = np.empty(neighbours.shape, np.float32)
    merging.merge_costs(m.means, m.covs, m.weights, m.colors, neighbours, GRAIN, CONTRAST, costs)
    wanted = min(n - target, int(SHARE * n) + 1)
    partner = np.full(n, -1, np.int64)
    if not merging.match(_cheapest(costs.ravel(), 6 * wanted), k, neighbours, wanted, partner):
        partner[0], partner[1] = 1, -2  # no cost is a number: any two will do
    kept = np.flatnonzero(partner >= 0)
    return _joined(m, kept, partner[kept])


def _twins(m: _Mixture) -> Int[np.ndarray, " T"]:
    """Gaussians of which more than a few share one centre, in runs: a search for neighbours would drown."""
    order = np.lexsort(m.means.T)
    ends = np.flatnonzero((m.means[order[1:]] != m.means[order[:-1]]).any(axis=1))
    starts = np.concatenate([[0], ends + 1])
    sizes = np.diff(np.concatenate([starts, [len(order)]]))
    return order[np.repeat(sizes > NEIGHBOURS, sizes)]


def _merge_twins(m: _Mixture, twins: Int[np.ndarray, " T"], target: int) -> _Mixture:
    """Merge every second of those that share a centre with its predecessor."""
    first, second = twins[:-1], twins[1:]
    alike = (m.means[first] == m.means[second]).all(axis=1)
    run_starts = np.flatnonzero(np.concatenate([[True], ~alike]))
    place = np.arange(len(twins)) - np.repeat(run_starts, np.diff([*run_starts, len(twins)]))
    pairs = np.flatnonzero(alike & (place[:-1] % 2 == 0))[: len(m.means) - target]
    return _joined(m, twins[pairs], twins[pairs + 1])


def _joined(m: _Mixture, kept: Int[np.ndarray, " P"], gone: Int[np.ndarray, " P"]) -> _Mixture:
    """The mixture in which each of `kept` has taken up its partner of `gone`."""
    n = len(m.means)
    _add(m, kept, gone)
    into = np.arange(n)
    into[gone] = kept
    stays = np.ones(n, bool)
    stays[gone] = False
    group = (np.cumsum(stays) - 1)[into][m.group]
    left = (getattr(m, field.name)[stays] for field in fields(_Mixture) if field.name != "group")
    return _Mixture(*left, group)


def _cheapest(costs: Float[np.ndarray, " E"], most: int) -> Int[np.ndarray, " M"]:
    """Numbers of the `most` cheapest finite edges, by rising cost, equal ones in their order."""
    if most < len(costs):
        limit = np.partition(costs, most)[most]
        index = np.flatnonzero(costs <= limit)
    else:
        index = np.arange(len(costs))
    index = index[np.isfinite(costs[index])]
    return index[np.argsort(costs[index], kind="stable")]


def _add(m: _Mixture, kept: Int[np.ndarray, " P"], gone: Int[np.ndarray, " P"]) -> None:
    """Let each of `kept` take up its partner: mean and covariance of both together."""
    total = m.weights[kept] + m.weights[gone]
    p = (m.weights[kept] / total)[:, None]
    q = 1 - p
    x, y, z = (m.means[kept] - m.means[gone]).T
    between = np.stack([x * x, x * y, x * z, y * y, y * z, z * z], axis=1)
    m.covs[kept] = p * m.covs[kept] + q * m.covs[gone] + p * q * between
    m.means[kept] = p * m.means[kept] + q * m.means[gone]
    m.colors[kept] = p * m.colors[kept] + q * m.colors[gone]
    m.weights[kept] = total
    m.masses[kept] += m.masses[gone]
    m.depths[kept] += m.depths[gone]


def _finish(g: Gaussians, m: _Mixture, seen: Float[np.ndarray, " N"]) -> Gaussians:
    """The mixture as a splat; groups of one are taken from the input as they are."""
    n = len(m.means)
    variances, axes = np.linalg.eigh(m.covs[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(n, 3, 3))
    axes[np.linalg.det(axes) < 0, :, 0] *= -1
    alphas = np.clip(np.minimum(m.masses / _areas(m.covs), -np.expm1(-m.depths)), *_ALPHAS)
    total = np.bincount(m.group, seen, n)

    def mean_of(values: Float[np.ndarray, "N K 3"]) -> Float[np.ndarray, "M K 3"]:
        out = np.empty((n, values.shape[1], 3), np.float32)
        for j in range(values.shape[1]):
            for c in range(3):
                out[:, j, c] = np.bincount(m.group, seen * values[:, j, c], n) / total
        return out

    merged = Gaussians(
        means=m.means.astype(np.float32),
        quats=Rotation.from_matrix(axes).as_quat()[:, [3, 0, 1, 2]].astype(np.float32),
        scales=(0.5 * np.log(np.maximum(variances, _LEAST))).astype(np.float32),
        opacities=np.log(alphas / (1 - alphas)).astype(np.float32),
        sh0=mean_of(g.sh0),
        shN=mean_of(g.shN),
    )
    alone = np.flatnonzero(np.bincount(m.group, minlength=n) == 1)
    source = np.empty(n, np.intp)
    source[m.group] = np.arange(g.n)
    for field in fields(Gaussians):
        getattr(merged, field.name)[alone] = getattr(g, field.name)[source[alone]]
    return merged
