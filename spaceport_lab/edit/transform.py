"""Turn, move and scale a splat. View-dependent colour turns with it: spherical harmonics are rotated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from spaceport_lab.errors import ParamsError
from spaceport_lab.gaussians import N_COEFFS, Gaussians

_BLOCK = 1 << 16


@dataclass(frozen=True)
class Transform:
    """x → scale · R x + translation.

    Attributes:
        rotation: w, x, y, z; normalised when used.
        translation: world units.
        scale: positive.
    """

    rotation: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0

    def __post_init__(self) -> None:
        numbers = (*self.rotation, *self.translation, self.scale)
        if len(numbers) != 8 or not np.isfinite(numbers).all() or not any(self.rotation) or self.scale <= 0:
            raise ParamsError(
                "impossible transform",
                got=f"rotation {self.rotation}, translation {self.translation}, scale {self.scale}",
                expected="finite numbers, a rotation that is not zero, a scale above 0",
            )

    @property
    def matrix(self) -> Float[np.ndarray, "3 3"]:
        """The rotation alone."""
        w, x, y, z = self.rotation
        return Rotation.from_quat([x, y, z, w]).as_matrix()


def euler(degrees: tuple[float, float, float]) -> tuple[float, float, float, float]:
    """Quaternion w, x, y, z of a turn about the fixed axes X, then Y, then Z."""
    x, y, z, w = Rotation.from_euler("xyz", degrees, degrees=True).as_quat()
    return float(w), float(x), float(y), float(z)


def transform(gaussians: Gaussians, t: Transform) -> Gaussians:
    """The splat as it looks after `t`.

    Raises:
        ParamsError: coordinates would leave the range of float32.
    """
    rotation = t.matrix
    turned = not np.array_equal(rotation, np.eye(3))
    with np.errstate(over="ignore"):
        means = gaussians.means.astype(np.float64)
        means = ((means @ rotation.T if turned else means) * t.scale + t.translation).astype(np.float32)
    if not np.isfinite(means).all():
        raise ParamsError("this transform moves the splat beyond what a float32 can say", got=t)
    moved = replace(gaussians, means=means, scales=gaussians.scales + np.float32(np.log(t.scale)))
    if not turned:
        return moved
    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return replace(moved, quats=_turn((w, x, y, z), gaussians.quats), shN=rotate_sh(gaussians.shN, rotation))


def _turn(q: tuple[float, ...], quats: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """The product q · quats, in one matrix; what was not normalised stays so."""
    w, x, y, z = q
    left = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    return (quats.astype(np.float64) @ left.T).astype(np.float32)


def rotate_sh(
    shN: Float[np.ndarray, "N K 3"], rotation: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "N K 3"]:
    """Coefficients of degrees 1 to 3 so that the turned splat shows towards R·d what it showed towards d.

    Each band is turned within itself. Its matrix is found from the basis at some directions before and after
    the turn, which is exact (to rounding), as a band's functions of a turned direction are sums of its own.
    """
    out = np.empty_like(shN)
    directions = np.random.default_rng(0).normal(size=(32, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    after, before = sh_basis(directions), sh_basis(directions @ rotation)
    for degree in range(1, N_COEFFS.index(shN.shape[1]) + 1):
        band = slice(N_COEFFS[degree - 1], N_COEFFS[degree])
        matrix = np.linalg.lstsq(after[:, band], before[:, band], rcond=None)[0]
        for start in range(0, len(shN), _BLOCK):
            part = slice(start, start + _BLOCK)
            out[part, band] = np.einsum("ij,njc->nic", matrix, shN[part, band].astype(np.float64))
    return out


def sh_basis(directions: Float[np.ndarray, "D 3"]) -> Float[np.ndarray, "D 15"]:
    """Real spherical harmonics of degrees 1 to 3 at unit vectors, with the order and signs of 3DGS."""
    x, y, z = directions.T
    xx, yy, zz = x * x, y * y, z * z
    c1, c2a, c2b, c2c = np.sqrt([3, 15, 5, 15]) / np.sqrt(np.pi) / (2, 2, 4, 4)
    c3a, c3b, c3c, c3d = np.sqrt([35 / 2, 105, 21 / 2, 7]) / np.sqrt(np.pi) / (4, 2, 4, 4)
    return np.stack(
        [
            -c1 * y, c1 * z, -c1 * x,
            c2a * x * y, -c2a * y * z, c2b * (3 * zz - 1), -c2a * x * z, c2c * (xx - yy),
            -c3a * y * (3 * xx - yy), c3b * x * y * z, -c3c * y * (5 * zz - 1), c3d * z * (5 * zz - 3),
            -c3c * x * (5 * zz - 1), c3b / 2 * z * (xx - yy), -c3a * x * (xx - 3 * yy),
        ],
        axis=1,
    )  # fmt: skip
