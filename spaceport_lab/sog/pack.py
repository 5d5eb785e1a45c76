"""How SOG puts each field of a Gaussian into bytes, and back: arrays in, arrays out.

Decoding repeats PlayCanvas' formulas operation by operation in double precision, so that our reader and
theirs give the same float32 to the last bit.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8

from spaceport_lab.gaussians import sigmoid
from spaceport_lab.kernels.compiling import kernel

QUAT_TAG = 252
"""Alpha byte of a rotation whose largest component is w; x, y and z follow."""

_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])


def log_coordinates(means: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """sign(v)·ln(1 + |v|), float64: fine near the origin, coarse far away."""
    v = means.astype(np.float64)
    return np.copysign(np.log1p(np.abs(v)), v)


def pack_means(
    means: Float[np.ndarray, "N 3"], every: int = 1
) -> tuple[Int[np.ndarray, "N 3"], Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """16-bit steps between the least and the greatest log coordinate of each axis.

    Args:
        means: world coordinates.
        every: use only every second step, or fourth, …: fewer bytes, larger errors.

    Returns:
        steps [N, 3] uint16, mins [3] and maxs [3] in log coordinates.
    """
    t = log_coordinates(means)
    mins, maxs = t.min(axis=0), t.max(axis=0)
    span = np.where(maxs > mins, maxs - mins, 1)
    return _rounded((t - mins) / span * 65535, every, 65535).astype(np.uint16), mins, maxs


def _rounded(values: Float[np.ndarray, "*shape"], every: int, last: int) -> Float[np.ndarray, "*shape"]:
    """The nearest multiples of `every` from 0 to `last`."""
    if every == 1:
        return np.rint(values).clip(0, last)
    return (np.rint(values / every) * every).clip(0, last // every * every)


def unpack_means(
    steps: Int[np.ndarray, "N 3"], mins: Float[np.ndarray, "3"], maxs: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "N 3"]:
    """World coordinates, float32, of 16-bit steps."""
    span = np.where(maxs - mins == 0, 1, maxs - mins)
    t = mins + span * (steps / 65535)
    # exp(t) - 1 and not expm1(t): the last bit is to be the same as in PlayCanvas' reader.
    magnitude = np.exp(np.abs(t)) - 1
    return np.where(t < 0, -magnitude, magnitude).astype(np.float32)


def pack_quats(quats: Float[np.ndarray, "N 4"], every: int = 1) -> UInt8[np.ndarray, "N 4"]:
    """The three smaller components at 8 bits, `every` as of `pack_means`; and which one was left out."""
    packed = np.empty((len(quats), 4), np.uint8)
    _pack_quats(quats, every, packed)
    return packed


@kernel()
def _pack_quats(quats, every, packed):
    half_root, top = np.sqrt(2.0) / 2, 255 // every * every
    q = np.empty(4)
    for i in range(len(quats)):
        square, largest = 0.0, 0
        for c in range(4):
            q[c] = quats[i, c]
            square += q[c] * q[c]
            if abs(q[c]) > abs(q[largest]):
                largest = c
        if not square > 0:
            q[0], square = 1.0, 1.0
        factor = np.copysign(half_root / np.sqrt(square), q[largest])
        place = 0
        for c in range(4):
            if c != largest:
                value = np.rint(255 * (q[c] * factor + 0.5) / every) * every
                packed[i, place] = min(max(value, 0.0), top)
                place += 1
        packed[i, 3] = QUAT_TAG + largest


def unpack_quats(packed: UInt8[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """Unit quaternions w, x, y, z; a tag under 252 is the identity."""
    others = (packed[:, :3] / 255 * 2 - 1) / np.sqrt(2)
    squares = others * others
    largest = np.sqrt(np.maximum(0, 1 - (squares[:, 0] + squares[:, 1] + squares[:, 2])))
    index = packed[:, 3].astype(np.intp) - QUAT_TAG
    known = index >= 0
    index[~known] = 0
    quats = np.zeros((len(packed), 4))
    np.put_along_axis(quats, _OTHERS[index], others, axis=1)
    np.put_along_axis(quats, index[:, None], largest[:, None], axis=1)
    quats[~known] = (1, 0, 0, 0)
    return quats.astype(np.float32)


def pack_opacities(opacities: Float[np.ndarray, "N"], every: int = 1) -> UInt8[np.ndarray, "N"]:
    """Opacities 0 to 1 in 255 steps, `every` as of `pack_means`; from logits."""
    return _rounded(255 * sigmoid(opacities.astype(np.float64)), every, 255).astype(np.uint8)


def unpack_opacities(packed: UInt8[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """Logits; 0 and 255 stand for 1e-6 and 1 - 1e-6."""
    alphas = np.clip(packed / 255, 1e-6, 1 - 1e-6)
    return np.log(alphas / (1 - alphas)).astype(np.float32)
