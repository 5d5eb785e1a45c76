from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.spatial.distance import cdist

from spaceport_lab.train.between import add_between


def surface(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Points on a wavy ground with a colour for each place."""
    xy = np.random.default_rng(0).uniform(0, 10, (n, 2))
    return np.column_stack([xy, height(xy)]), np.column_stack([25 * xy, np.full(n, 7)]).astype(np.uint8)


def height(xy: np.ndarray) -> np.ndarray:
    return 0.3 * np.sin(xy[:, 0]) + 0.2 * np.cos(xy[:, 1])


def slow_middles(points: np.ndarray, k: int) -> np.ndarray:
    """The middles of all pairs one of which is among the k nearest of the other, from far to near."""
    distances = cdist(points, points)
    near = distances.argsort(axis=1)[:, 1 : k + 1]
    pairs = sorted({(min(i, j), max(i, j)) for i in range(len(points)) for j in near[i].tolist()})
    lengths = np.array([distances[i, j] for i, j in pairs])
    chosen = (-lengths).argsort(kind="stable")[int(0.1 * len(pairs)) :]
    return np.array([(points[pairs[c][0]] + points[pairs[c][1]]) / 2 for c in chosen])


def test_new_points_are_middles_of_neighbours() -> None:
    points, colors = surface()
    filled, mixed = add_between(points, colors, 800)
    assert len(filled) == len(mixed) == 1200
    np.testing.assert_array_equal(filled[:400], points)
    np.testing.assert_array_equal(mixed[:400], colors)
    np.testing.assert_allclose(filled[400:], slow_middles(points, 8)[:800], atol=1e-12)
    assert len(np.unique(filled, axis=0)) == 1200
    # The colours of this ground are linear, so that those of the middles are known.
    assert np.abs(mixed[400:, :2] - 25 * filled[400:, :2]).max() < 1


def test_they_lie_on_the_surface_and_close_gaps() -> None:
    points, colors = surface()
    filled = add_between(points, colors, 800)[0]
    assert np.abs(filled[:, 2] - height(filled[:, :2])).max() < 0.1
    places = np.random.default_rng(1).uniform(1, 9, (2000, 2))
    before, after = (np.quantile(cdist(places, p[:, :2]).min(axis=1), 0.75) for p in (points, filled))
    assert after < 0.75 * before


def test_two_surfaces_are_not_bridged() -> None:
    points, colors = surface()
    roof = points + np.array([0, 0, 5])
    filled = add_between(np.concatenate([points, roof]), np.tile(colors, (2, 1)), 1600)[0]
    stray = np.append(points, [[5.0, 5.0, 40.0]], axis=0)
    with_stray = add_between(stray, np.append(colors, [[1, 2, 3]], axis=0), 400)[0]
    assert ((filled[:, 2] < 1) | (filled[:, 2] > 4)).all()
    assert (with_stray[:, 2] > 1).sum() == 1


@pytest.mark.parametrize(
    "points", [np.zeros((0, 3)), np.zeros((1, 3)), np.zeros((5, 3)), np.eye(3)[:2]], ids=len
)
def test_few_points_and_twins_get_what_there_is(points: np.ndarray) -> None:
    colors = np.full((len(points), 3), 9)
    filled, mixed = add_between(points, colors, 100)
    n_edges = int(len(np.unique(points, axis=0)) == 2)
    assert len(filled) == len(mixed) == len(points) + n_edges
    assert len(add_between(points, colors, 0)[0]) == len(points)


@given(
    arrays.arrays(
        np.float64, st.tuples(st.integers(1, 30), st.just(3)), elements=st.floats(-1e6, 1e6, width=32)
    ),
    st.integers(0, 200),
)
def test_whatever_the_points_no_more_come_than_wanted(points: np.ndarray, wanted: int) -> None:
    filled, mixed = add_between(points, np.zeros((len(points), 3), np.uint8), wanted)
    assert len(points) <= len(filled) == len(mixed) <= len(points) + wanted
    assert np.isfinite(filled).all()
    assert (filled.min(axis=0) >= points.min(axis=0)).all()
    assert (filled.max(axis=0) <= points.max(axis=0)).all()


def test_points_that_are_not_finite_have_no_neighbours() -> None:
    points, colors = surface()
    bad = np.array([[np.nan, 0, 0], [0, np.inf, 0]])
    filled, mixed = add_between(np.concatenate([bad, points]), np.concatenate([colors[:2], colors]), 800)
    np.testing.assert_array_equal(filled[2:], add_between(points, colors, 800)[0])
    np.testing.assert_array_equal(mixed[2:], add_between(points, colors, 800)[1])
