"""How far a decoded splat is from the one that was encoded, field by field, in units a person knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians import SH_C0, Gaussians, normalize_quats
from spaceport_lab.sog.axes import turned_towards

_BLOCK = 1 << 13  # Gaussians compared at a time: no second splat in memory


@dataclass(frozen=True)
class FieldError:
    """The error of one field over all Gaussians.

    Attributes:
        unit: of the numbers.
        mean: mean of the errors.
        rms: root of the mean square.
        max: the largest.
        values: [N] or [N, ...] the errors themselves, not negative, in the order of the SOG; [0] if not kept.
    """

    unit: str
    mean: float
    rms: float
    max: float
    values: Float[np.ndarray, "N *rest"]


def field_errors(
    reference: Gaussians,
    decoded: Gaussians,
    order: Int[np.ndarray, "N"] | None = None,
    left_out: Int[np.ndarray, "F"] | None = None,
    *,
    values: bool = True,
) -> dict[str, FieldError]:
    """Errors of `decoded` against `reference`.

    SH bands that `decoded` lacks count as zeros. A Gaussian whose axes come in another order is the same
    Gaussian: rotations and scales are compared with axes named alike.

    Args:
        reference: what was written.
        decoded: what came back.
        order: [N] which Gaussian of `reference` is at each place of `decoded`; None: the same one.
        left_out: [F] which Gaussians of `reference` do not count.
        values: keep every single error, which takes as much memory as the splat; otherwise they are empty.

    Raises:
        SplatFormatError: not the same number of Gaussians, or all are left out.
    """
    order = np.arange(reference.n) if order is None else order
    if len(order) != decoded.n:
        raise SplatFormatError("cannot compare splats of different size", got=decoded.n, expected=len(order))
    places = np.arange(decoded.n)
    if left_out is not None and len(left_out):
        places = np.flatnonzero(~np.isin(order, left_out))
    if len(places) == 0:
        raise SplatFormatError("there are no Gaussians to compare")
    low, high = np.percentile(reference.means[order[places]], (0.5, 99.5), axis=0).astype(np.float64)
    extent = max(float((high - low).max()), 1e-12)
    fields: dict[str, _Sums] = {}
    for start in range(0, len(places), _BLOCK):
        at = places[start : start + _BLOCK]
        for name, (unit, errors) in _block(reference.subset(order[at]), decoded.subset(at), extent).items():
            fields.setdefault(name, _Sums(unit, len(places), errors, values)).add(start, errors)
    return {name: sums.result() for name, sums in fields.items()}


def _block(
    reference: Gaussians, decoded: Gaussians, extent: float
) -> dict[str, tuple[str, Float[np.ndarray, "M *rest"]]]:
    """Unit and errors of every field."""
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
    return errors


class _Sums:
    """One field's errors while they are added up, block by block."""

    def __init__(self, unit: str, n: int, first: Float[np.ndarray, "M *rest"], keep: bool) -> None:
        self.unit, self.total, self.squares, self.largest, self.count = unit, 0.0, 0.0, 0.0, 0
        self.values = np.empty((n if keep else 0, *first.shape[1:]), np.float32)

    def add(self, start: int, errors: Float[np.ndarray, "M *rest"]) -> None:
        self.total += float(errors.sum(dtype=np.float64))
        self.squares += float(np.square(errors, dtype=np.float64).sum())
        self.largest = max(self.largest, float(errors.max()))
        self.count += errors.size
        if len(self.values):
            with np.errstate(over="ignore"):  # Inf where a float32 cannot say how far
                self.values[start : start + len(errors)] = errors

    def result(self) -> FieldError:
        rms = float(np.sqrt(self.squares / self.count))
        return FieldError(self.unit, self.total / self.count, rms, self.largest, self.values)


def rotation_degrees(a: Float[np.ndarray, "N 4"], b: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N"]:
    """Angle between rotations, 0 to 180; exact for small ones, where the arc cosine would not be."""
    p, q = normalize_quats(a.astype(np.float64)), normalize_quats(b.astype(np.float64))
    chord = np.minimum(np.linalg.norm(p - q, axis=1), np.linalg.norm(p + q, axis=1))
    return np.degrees(4 * np.arcsin(np.minimum(chord / 2, 1)))
