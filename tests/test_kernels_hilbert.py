from __future__ import annotations

import numpy as np

from spaceport_lab.kernels.hilbert import BITS, grid_codes, hilbert_order


def z_order(points: np.ndarray) -> np.ndarray:
    """Morton's order, bit by bit."""
    grid = np.floor((points - points.min(axis=0)) / np.ptp(points, axis=0) * (2**BITS - 1)).astype(int)
    bits = [[f"{v:021b}" for v in row[::-1]] for row in grid.tolist()]
    return np.argsort([int("".join("".join(three) for three in zip(*row, strict=True)), 2) for row in bits])


def test_hilbert_walks_every_cell_of_a_grid_in_single_steps() -> None:
    corner = np.stack(np.meshgrid(*[np.arange(8)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    codes = grid_codes(corner.astype(np.uint32))
    assert sorted(codes.tolist()) == list(range(512))
    steps = np.abs(np.diff(corner[np.argsort(codes)], axis=0)).sum(axis=1)
    assert (steps == 1).all()
    far = np.random.default_rng(0).integers(0, 2**BITS, (50, 3)).astype(np.uint32)
    coarse = grid_codes(far // 4 * 4) // 64
    np.testing.assert_array_equal(grid_codes(far) // 64, coarse)


def test_hilbert_keeps_neighbours_closer_than_the_z_order() -> None:
    points = np.random.default_rng(0).normal(size=(5000, 3))
    order = hilbert_order(points)
    assert sorted(order.tolist()) == list(range(5000))
    steps = [np.linalg.norm(np.diff(points[o], axis=0), axis=1).mean() for o in (order, z_order(points))]
    assert steps[0] < 0.9 * steps[1] < 0.3 * np.linalg.norm(np.diff(points, axis=0), axis=1).mean()
    np.testing.assert_array_equal(hilbert_order(np.zeros((9, 3))), np.arange(9))
