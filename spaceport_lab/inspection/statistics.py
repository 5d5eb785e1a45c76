"""What a splat is made of: counts, distributions, and Gaussians that look like trouble."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from spaceport_lab.gaussians import Gaussians
from spaceport_lab.inspection.confidence import LONE, Confidence
from spaceport_lab.inspection.viewpoint import robust_bounds

TRANSPARENT = 0.05
"""Opacity below which a Gaussian hardly shows: it costs bytes and gives next to nothing."""

HUGE = 0.05
"""Longest standard deviation, as a share of the scene's diagonal, from which a Gaussian is a blot."""

NEEDLE = 10.0
"""Longest over middle standard deviation from which a Gaussian is a needle that shows as a spike."""

PERCENTILES = (0, 1, 25, 50, 75, 99, 100)


@dataclass(frozen=True)
class Suspects:
    """Which Gaussians look like trouble, each [N]; one may be several of these."""

    transparent: Bool[np.ndarray, " N"]
    huge: Bool[np.ndarray, " N"]
    needle: Bool[np.ndarray, " N"]


def describe(
    gaussians: Gaussians, georeferenced: bool = False, confidence: Confidence | None = None
) -> dict[str, Any]:
    """Statistics as kept in statistics.json; lengths in metres when georeferenced, else in scene units.

    With `confidence`, Gaussians that the photographs do not support are among the suspects.
    """
    sigmas = np.sort(gaussians.sigmas, axis=1)
    low, high = robust_bounds(gaussians)
    found = suspects(gaussians)
    return {
        "n_gaussians": gaussians.n,
        "sh_degree": gaussians.sh_degree,
        "unit": "m" if georeferenced else "units",
        "bounds": {
            "min": gaussians.means.min(axis=0),
            "max": gaussians.means.max(axis=0),
            "robust_min": low,
            "robust_max": high,
        },
        "opacity": _distribution(gaussians.alphas),
        "longest_sigma": _distribution(sigmas[:, 2]),
        "shortest_sigma": _distribution(sigmas[:, 0]),
        "elongation": _distribution(elongation(gaussians)),
        "color": {
            "mean": gaussians.colors.mean(axis=0),
            "share_out_of_range": float(((gaussians.colors < 0) | (gaussians.colors > 1)).any(axis=1).mean()),
        },
        "sh_rms": sh_rms(gaussians),
        "suspects": {
            name: {"count": int(mask.sum()), "share": float(mask.mean()), "rule": rule}
            for name, mask, rule in (
                ("nearly transparent", found.transparent, f"opacity below {TRANSPARENT:g}"),
                ("huge", found.huge, f"longest standard deviation over {HUGE:.0%} of the scene's diagonal"),
                ("needle", found.needle, f"longest over {NEEDLE:g} times the middle standard deviation"),
                *_doubtful(confidence),
            )
        },
    }


def _doubtful(confidence: Confidence | None) -> Iterator[tuple[str, Bool[np.ndarray, " N"], str]]:
    """Name, which, and rule of each kind of Gaussian that the photographs do not support."""
    if confidence is None:
        return
    looked = f"of the {confidence.n_views:,} training photographs looked at"
    for name, doubtful in confidence.kinds().items():
        if name == "floater":
            rule = f"in a group that touches no other and holds less than {LONE:.2%} of all"
        else:
            rule = looked
        yield name, doubtful, rule


def suspects(gaussians: Gaussians) -> Suspects:
    """Find the Gaussians that look like trouble."""
    low, high = robust_bounds(gaussians)
    diagonal = float(np.linalg.norm(high - low))
    longest = gaussians.sigmas.max(axis=1)
    return Suspects(
        transparent=gaussians.alphas < TRANSPARENT,
        huge=longest > HUGE * diagonal if diagonal > 0 else np.zeros(gaussians.n, dtype=bool),
        needle=elongation(gaussians) > NEEDLE,
    )


def elongation(gaussians: Gaussians) -> Float[np.ndarray, " N"]:
    """Longest over middle standard deviation: 1 for a disc, large for a needle."""
    log_sigmas = np.sort(gaussians.scales, axis=1)
    return np.exp(log_sigmas[:, 2] - log_sigmas[:, 1])


def sh_rms(gaussians: Gaussians) -> dict[str, float]:
    """Root mean square of the SH coefficients of each band above the constant one, by degree."""
    result, start = {}, 0
    for degree in range(1, gaussians.sh_degree + 1):
        band = gaussians.shN[:, start : start + 2 * degree + 1].astype(float)
        result[str(degree)] = float(np.sqrt((band**2).mean()))
        start += 2 * degree + 1
    return result


def _distribution(values: Float[np.ndarray, " N"]) -> dict[str, float]:
    found = np.percentile(values.astype(float), PERCENTILES)
    names = ("min", "p1", "p25", "median", "p75", "p99", "max")
    return {**dict(zip(names, map(float, found), strict=True)), "mean": float(values.mean(dtype=float))}
