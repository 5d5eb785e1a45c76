"""Collects objects (a soup, a material, colours, a frame) into the arrays that ray caster and shader need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from spaceport_lab.sample.shapes import Soup, moved

GROUND, PLAIN, CORRUGATED, WALL, ROCKET, TANK, FOLIAGE, CONCRETE, VEHICLE, GLASS, CONTAINER, STEEL = range(12)
"""Materials; see materials.py for how each looks."""

Colour = tuple[float, float, float]


@dataclass
class Builder:
    """Grows a site object by object. `objects` rows: material, origin xyz, cos and sin of the yaw, size xyz,
    colour rgb, second colour rgb, seed."""

    soups: list[Soup] = field(default_factory=list)
    objects: list[list[float]] = field(default_factory=list)
    openness: list[Float[np.ndarray, "F 3"]] = field(default_factory=list)

    def add(
        self,
        soup: Soup,
        material: int,
        colour: Colour,
        at: Sequence[float] = (0.0, 0.0, 0.0),
        yaw: float = 0.0,
        *,
        scale: float = 1.0,
        size: Sequence[float] = (1.0, 1.0, 1.0),
        second: Colour | None = None,
        openness: Float[np.ndarray, "F 3"] | None = None,
    ) -> None:
        """Add one object whose soup is given in its own frame.

        Args:
            size: lengths in metres that its material needs, such as a rocket's height.
            openness: [F, 3] share of the sky each corner sees; NaN or None where rays shall find out.
        """
        self.soups.append(moved(soup, at, yaw, scale))
        row = [float(material), *at, math.cos(yaw), math.sin(yaw), *size, *colour, *(second or colour)]
        self.objects.append([*row, float(len(self.objects))])
        self.openness.append(np.full((len(soup), 3), np.nan) if openness is None else openness)

    def arrays(
        self,
    ) -> tuple[
        Float[np.ndarray, "F 3 3"],
        Float[np.ndarray, "F 3 3"],
        Float[np.ndarray, "F 3"],
        Int[np.ndarray, "F"],
        Float[np.ndarray, "O 16"],
    ]:
        """Corners, corner normals, corner openness, the object each triangle belongs to, the objects."""
        owner = np.repeat(np.arange(len(self.soups)), [len(s) for s in self.soups])
        return (
            np.concatenate([s.points for s in self.soups]).astype(np.float32),
            np.concatenate([s.normals for s in self.soups]).astype(np.float32),
            np.concatenate(self.openness).astype(np.float32),
            owner.astype(np.int32),
            np.array(self.objects),
        )
