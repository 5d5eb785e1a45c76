"""How far a decoded splat is from the one that was encoded, field by field, in units a person knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians import SH_C0, Gaussians, normalize_quats
from spaceport_lab.sog.axes import turned_towards

_BLOCK = 1 << 20


@dataclass(frozen=True)
class FieldError:
    """The error of one field over all Gaussians.

    Attributes:
        unit: of the numbers.
        mean: mean of the errors.
        rms: root of the mean square.
        max: the largest.
        values: [N] or [N, ...] the errors themselves, not negative.
    """

    unit: str
    mean: float
    rms: float
    max: float
    values: Float[np.ndarray, "N *rest"]


def field_errors(reference: Gaussians, decoded: Gaussians) -> dict[str, FieldError]:
    """Errors of `decoded` against `reference`, both in the same order.

    SH bands that `decoded` lacks count as zeros. A Gaussian whose axes come in another order is the same
    Gaussian: rotations and scales are compared with axes named alike.

    Raises:
        SplatFormatError: not the same number of Gaussians.
    """
    if reference.n != decoded.n:
        raise SplatFormatError("cannot compare splats of different size", got=decoded.n, expected=reference.n)
    low, high = np.percentile(reference.means.astype(np.float64), (0.5, 99.5), axis=0)
    extent = max(float((high - low).max()), 1e-12)
    distance = np.linalg.norm(reference.means.astype(np.float64) - decoded.means, axis=1)
    colors = reference.sh0[:, 0] - decoded.sh0[:, 0]
    quats, scales = turned_towards(reference.quats, reference.scales, decoded.quats)
    errors = {
        "position": ("world units", distance),
        "position_of_extent": ("millionths of the scene's extent", distance / extent * 1e6),
        "rotation": ("degrees", rotation_degrees(quats, decoded.quats)),
        "log_scale": ("natural logarithm", np.abs(scales - decoded.scales)),
        "opacity": ("1/255", 255 * np.abs(reference.alphas.astype(np.float64) - decoded.alphas)),
        "color": ("1/255", 255 * SH_C0 * np.abs(colors)),
    }
    if reference.sh_degree > 0:
        kept = decoded.shN.shape[1]
        rest = reference.shN.copy()
        rest[:, :kept] -= decoded.shN[:, : rest.shape[1]]
        errors["shN"] = ("coefficient", np.abs(rest, out=rest))
    return {name: _summary(unit, values) for name, (unit, values) in errors.items()}


def rotation_degrees(a: Float[np.ndarray, "N 4"], b: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N"]:
    """Angle between rotations, 0 to 180; exact for small ones, where the arc cosine would not be."""
    p, q = normalize_quats(a.astype(np.float64)), normalize_quats(b.astype(np.float64))
    chord = np.minimum(np.linalg.norm(p - q, axis=1), np.linalg.norm(p + q, axis=1))
    return np.degrees(4 * np.arcsin(np.minimum(chord / 2, 1)))


def _summary(unit: str, values: Float[np.ndarray, "N *rest"]) -> FieldError:
    flat, squares = values.reshape(-1), 0.0
    for start in range(0, flat.size, _BLOCK):  # in double precision, yet without a second array of that size
        squares += float(np.square(flat[start : start + _BLOCK], dtype=np.float64).sum())
    rms = float(np.sqrt(squares / flat.size))
    return FieldError(unit, float(values.mean(dtype=np.float64)), rms, float(values.max()), values)
