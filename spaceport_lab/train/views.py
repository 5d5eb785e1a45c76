"""Which view a step trains on, and how large the scene is."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float, Int

from spaceport_lab.cameras import Cameras


def drawn(step: int, n: int, seed: int) -> int:
    """Which of `n` views step `step` trains on: every view once in each round, shuffled anew each round.

    Depends on nothing but its arguments, so a resumed training goes on in the same order.
    """
    round_, place = divmod(step, n)
    return int(_shuffled(n, seed, round_)[place])


@functools.lru_cache(maxsize=4)
def _shuffled(n: int, seed: int, round_: int) -> Int[np.ndarray, " n"]:
    return np.random.default_rng((seed, round_)).permutation(n)


def scene_scale(cameras: Cameras, points: Float[np.ndarray, "P 3"]) -> float:
    """Radius of the camera positions, times 1.1 as in the 3DGS code, in world units.

    Where all cameras stand in one place: the median distance of the points from there.
    """
    centers = cameras.centers
    radius = float(np.linalg.norm(centers - centers.mean(axis=0), axis=1).max()) * 1.1
    distance = float(np.median(np.linalg.norm(points - centers.mean(axis=0), axis=1)))
    return radius if radius > 1e-3 * distance else max(distance, 1e-6)
