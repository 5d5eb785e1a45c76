"""The 24 ways to name the axes of one Gaussian, and choosing among them.

Turning a Gaussian by a rotation of the cube and swapping its scales accordingly changes nothing about it.
Written with the least possible turn, neighbouring rotations and scales are alike and compress better, and the
largest component of the quaternion is always w.
"""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Float

from spaceport_lab.kernels.compiling import kernel


def _cube_rotations() -> Float[np.ndarray, "24 4"]:
    """Unit quaternions with one, two or four equal components, one of each pair q and -q."""
    found: dict[tuple[float, ...], None] = {}
    for signs in itertools.product((-1, 0, 1), repeat=4):
        count = sum(map(abs, signs))
        if count in (1, 2, 4):
            first = next(sign for sign in signs if sign)
            found[tuple(first * sign / count**0.5 for sign in signs)] = None
    ordered = sorted(found, key=lambda q: (q[0] < 1, q))  # the identity first: ties leave things alone
    return np.array(ordered)


def _swaps(rotations: Float[np.ndarray, "24 4"]) -> np.ndarray:
    """[24, 3] which old axis becomes each new one."""
    w, x, y, z = rotations.T
    matrix = np.array([
        [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
    ])  # fmt: skip
    return np.abs(matrix).argmax(axis=0).T.copy()


ROTATIONS = _cube_rotations()
SWAPS = _swaps(ROTATIONS)
_IDENTITY = np.array([[1, 0, 0, 0]], np.float32)


def least_turn(
    quats: Float[np.ndarray, "N 4"], scales: Float[np.ndarray, "N 3"]
) -> tuple[Float[np.ndarray, "N 4"], Float[np.ndarray, "N 3"]]:
    """The same Gaussians, axes named so that the rotation is the least possible: unit quaternions, w > 0."""
    return turned_towards(quats, scales, _IDENTITY)


def turned_towards(
    quats: Float[np.ndarray, "N 4"], scales: Float[np.ndarray, "N 3"], targets: Float[np.ndarray, "M 4"]
) -> tuple[Float[np.ndarray, "N 4"], Float[np.ndarray, "N 3"]]:
    """The same Gaussians, axes named so that each rotation is as close as can be to its target.

    Args:
        quats: [N, 4] w, x, y, z; any length, zero counts as the identity.
        scales: [N, 3].
        targets: [N, 4] likewise, or one for all.
    """
    new_quats, new_scales = np.empty_like(quats), np.empty_like(scales)
    _turn(quats, scales, targets, ROTATIONS, SWAPS, new_quats, new_scales)
    return new_quats, new_scales


@kernel(inline=True)
def _unit(quat):
    """w, x, y, z of length 1 in double precision."""
    w, x, y, z = np.float64(quat[0]), np.float64(quat[1]), np.float64(quat[2]), np.float64(quat[3])
    length = np.sqrt(w * w + x * x + y * y + z * z)
    if not length > 0:
        return 1.0, 0.0, 0.0, 0.0
    return w / length, x / length, y / length, z / length


@kernel()
def _turn(quats, scales, targets, rotations, swaps, new_quats, new_scales):
    tw, tx, ty, tz = _unit(targets[0])
    for i in range(len(quats)):
        w, x, y, z = _unit(quats[i])
        if len(targets) > 1:
            tw, tx, ty, tz = _unit(targets[i])
        # q⁻¹·t: of all rotations r of the cube, q·r is nearest to t where r is nearest to this.
        dw, dx = w * tw + x * tx + y * ty + z * tz, w * tx - x * tw - y * tz + z * ty
        dy, dz = w * ty + x * tz - y * tw - z * tx, w * tz - x * ty + y * tx - z * tw
        best, sign, most = 0, 1.0, -1.0
        for k in range(len(rotations)):
            likeness = (
                dw * rotations[k, 0] + dx * rotations[k, 1] + dy * rotations[k, 2] + dz * rotations[k, 3]
            )
            if abs(likeness) > most + 1e-9:
                best, sign, most = k, 1.0 if likeness >= 0 else -1.0, abs(likeness)
        a, b, c, d = rotations[best, 0], rotations[best, 1], rotations[best, 2], rotations[best, 3]
        new_quats[i, 0] = sign * (w * a - x * b - y * c - z * d)
        new_quats[i, 1] = sign * (w * b + x * a + y * d - z * c)
        new_quats[i, 2] = sign * (w * c - x * d + y * a + z * b)
        new_quats[i, 3] = sign * (w * d + x * c - y * b + z * a)
        for axis in range(3):
            new_scales[i, axis] = scales[i, swaps[best, axis]]
