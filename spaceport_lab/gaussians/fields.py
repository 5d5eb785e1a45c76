"""The six fields of a splat: values, activations, first guess from points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from spaceport_lab.errors import SplatFormatError

SH_C0 = 0.28209479177387814
"""The constant spherical harmonic: colour = 0.5 + SH_C0 · sh0."""

N_COEFFS = (0, 3, 8, 15)
"""Coefficients per channel above the constant one, by SH degree."""


@dataclass(frozen=True)
class Gaussians:
    """N Gaussians, raw as optimised and as stored in PLY; all float32.

    Attributes:
        means: [N, 3] centres in world coordinates.
        quats: [N, 4] rotations w, x, y, z; not normalised.
        scales: [N, 3] natural logarithm of the standard deviations.
        opacities: [N] logit of the opacity.
        sh0: [N, 1, 3] constant spherical harmonic, RGB.
        shN: [N, K-1, 3] the higher ones; K = (degree + 1)², none for degree 0.

    Raises:
        SplatFormatError: shapes that do not belong together, or a dtype other than float32.
    """

    means: Float[np.ndarray, "N 3"]
    quats: Float[np.ndarray, "N 4"]
    scales: Float[np.ndarray, "N 3"]
    opacities: Float[np.ndarray, " N"]
    sh0: Float[np.ndarray, "N 1 3"]
    shN: Float[np.ndarray, "N K 3"]

    def __post_init__(self) -> None:
        n = len(self.means)
        expected = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,), "sh0": (n, 1, 3)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise SplatFormatError(
                    f"{name} has the wrong shape", got=getattr(self, name).shape, expected=shape
                )
        if self.shN.ndim != 3 or self.shN.shape[::2] != (n, 3) or self.shN.shape[1] not in N_COEFFS:
            raise SplatFormatError(
                "shN has the wrong shape", got=self.shN.shape, expected=f"({n}, 0 or 3 or 8 or 15, 3)"
            )
        for name in (*expected, "shN"):
            if getattr(self, name).dtype != np.float32:
                raise SplatFormatError(
                    f"{name} has the wrong type", got=getattr(self, name).dtype, expected="float32"
                )

    @property
    def n(self) -> int:
        """How many Gaussians."""
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """0 to 3."""
        return N_COEFFS.index(self.shN.shape[1])

    @property
    def sigmas(self) -> Float[np.ndarray, "N 3"]:
        """Standard deviations along the Gaussian's own axes, in world units."""
        return np.exp(self.scales)

    @property
    def alphas(self) -> Float[np.ndarray, " N"]:
        """Opacities, 0 to 1."""
        return sigmoid(self.opacities)

    @property
    def rotations(self) -> Float[np.ndarray, "N 4"]:
        """Unit quaternions w, x, y, z; the identity where the raw one is zero."""
        return normalize_quats(self.quats)

    @property
    def colors(self) -> Float[np.ndarray, "N 3"]:
        """View-independent RGB; 0 to 1 is displayable, values outside occur."""
        return 0.5 + SH_C0 * self.sh0[:, 0]

    @property
    def sh(self) -> Float[np.ndarray, "N K 3"]:
        """All SH coefficients, the constant one first."""
        return np.concatenate([self.sh0, self.shN], axis=1)

    def subset(self, index: Int[np.ndarray, " M"] | np.ndarray | slice) -> Gaussians:
        """The Gaussians at `index` (numbers, a mask or a slice)."""
        return Gaussians(
            self.means[index], self.quats[index], self.scales[index],
            self.opacities[index], self.sh0[index], self.shN[index],
        )  # fmt: skip

    def with_sh_degree(self, degree: int) -> Gaussians:
        """The same Gaussians without the SH bands above `degree`; missing bands are not invented."""
        keep = N_COEFFS[min(degree, self.sh_degree)]
        shN = np.ascontiguousarray(self.shN[:, :keep])
        return Gaussians(self.means, self.quats, self.scales, self.opacities, self.sh0, shN)


def sigmoid(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """1 / (1 + e^-x) without overflow; keeps the dtype."""
    half = np.asarray(0.5, x.dtype)
    return half + half * np.tanh(half * x)


def normalize_quats(quats: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """Unit quaternions; the identity where the length is zero. Keeps the dtype."""
    # Scaled by the largest component first: the square of a huge or tiny float32 is inf or 0.
    largest = np.abs(quats).max(axis=1, keepdims=True, initial=0)
    scaled = quats / np.where(largest > 0, largest, 1)
    unit = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12)
    return np.where(largest > 0, unit, np.asarray([1, 0, 0, 0], quats.dtype)).astype(quats.dtype)


def from_points(
    points: Float[np.ndarray, "P 3"],
    colors: Float[np.ndarray, "P 3"],
    sh_degree: int = 3,
    opacity: float = 0.1,
    scale_factor: float = 1.0,
) -> Gaussians:
    """The first guess of 3D Gaussian Splatting (Kerbl et al. 2023, section 5.1) from sparse points.

    Round Gaussians, as large as the root mean square distance to the three nearest points.

    Args:
        points: [P, 3] world coordinates.
        colors: [P, 3] RGB, 0 to 255.
        sh_degree: 0 to 3; coefficients above the constant one start at zero.
        opacity: of every Gaussian, between 0 and 1.
        scale_factor: multiplies the standard deviations.

    Raises:
        SplatFormatError: no points, or coordinates that are not finite.
    """
    n = len(points)
    if n == 0:
        raise SplatFormatError("there are no points to start from", expected="at least one")
    bad = int((~np.isfinite(points).all(axis=1)).sum())
    if bad:
        raise SplatFormatError("points are not finite", got=f"NaN or Inf in {bad} of {n} points")
    if n > 1:
        distances = cKDTree(points).query(points, k=min(4, n), workers=-1)[0][:, 1:]
        # Twins have distance 0, whose logarithm is no number; 1e-7 is the reference implementation's floor.
        sigmas = np.sqrt(np.maximum((distances**2).mean(axis=1), 1e-7)) * scale_factor
    else:
        sigmas = np.full(1, scale_factor)
    quats = np.zeros((n, 4), np.float32)
    quats[:, 0] = 1
    return Gaussians(
        means=np.ascontiguousarray(points, dtype=np.float32),
        quats=quats,
        scales=np.repeat(np.log(sigmas)[:, None], 3, axis=1).astype(np.float32),
        opacities=np.full(n, np.log(opacity / (1 - opacity)), np.float32),
        sh0=((np.asarray(colors, np.float64) / 255 - 0.5) / SH_C0).astype(np.float32)[:, None],
        shN=np.zeros((n, N_COEFFS[sh_degree], 3), np.float32),
    )


def empty(n: int, sh_degree: int) -> Gaussians:
    """n Gaussians whose fields are to be filled in."""
    k = N_COEFFS[sh_degree]
    shapes = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,), "sh0": (n, 1, 3)}
    return Gaussians(**{name: np.empty(s, np.float32) for name, s in (shapes | {"shN": (n, k, 3)}).items()})


def concatenate(splats: Sequence[Gaussians]) -> Gaussians:
    """Gaussians of several splats, one after the other; SH bands that one of them lacks are zero there.

    Raises:
        SplatFormatError: no splat is given.
    """
    if not splats:
        raise SplatFormatError("there are no splats to put together", expected="at least one")
    if len(splats) == 1:
        return splats[0]
    joined = {
        field.name: np.concatenate([getattr(splat, field.name) for splat in splats])
        for field in fields(Gaussians)
        if field.name != "shN"
    }
    shN = np.zeros((len(joined["means"]), max(splat.shN.shape[1] for splat in splats), 3), np.float32)
    start = 0
    for splat in splats:
        shN[start : start + splat.n, : splat.shN.shape[1]] = splat.shN
        start += splat.n
    return Gaussians(**joined, shN=shN)
