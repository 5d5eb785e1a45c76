"""How well photographs support Gaussians: against the slow way to count, and on scenes where it is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scenes import make_cameras, make_gaussians
from splats import random_splat

from spaceport_lab import evaluation
from spaceport_lab.gaussians import SH_C0, concatenate
from spaceport_lab.inspection import confidence
from spaceport_lab.inspection.confidence import FEW, LEAST_PIXELS, LEAST_SHARE, MARKS, Confidence

NONE, THIN, FLOATER = MARKS


def fills_slowly(gaussians, cameras, index: int) -> np.ndarray:
    """What each Gaussian fills of a view: white alone, all others black but in their places."""
    fills = np.zeros(gaussians.n)
    for i in range(gaussians.n):
        colors = np.full((gaussians.n, 1, 3), -0.5 / SH_C0, np.float32)
        colors[i] = 0.5 / SH_C0
        one = replace(gaussians.with_sh_degree(0), sh0=colors)
        fills[i] = evaluation.render_view(one, cameras, index)[..., 0].sum()
    return fills


def test_what_views_show_is_counted_as_the_slow_way_counts() -> None:
    gaussians = make_gaussians(25, np.random.default_rng(3))
    cameras = make_cameras(5, width=64, height=48)
    fills = np.stack([fills_slowly(gaussians, cameras, index) for index in range(5)])
    quick = np.stack(list(evaluation.fill_views(gaussians, cameras, 64)))
    assert np.allclose(quick, fills, rtol=1e-3, atol=1e-3)
    least = np.maximum(LEAST_SHARE * fills.max(axis=0), LEAST_PIXELS)
    counted = confidence.count_views(gaussians, cameras, "cpu")
    assert counted.tolist() == (fills >= least).sum(axis=0).tolist()
    assert 0 < counted.mean() <= 5


def test_smaller_views_keep_what_they_look_at() -> None:
    gaussians, cameras = make_gaussians(200, np.random.default_rng(3)), make_cameras(1, width=160, height=120)
    (full,) = evaluation.fill_views(gaussians, cameras, 160)
    (half,) = evaluation.fill_views(gaussians, cameras, 80)
    assert half.sum() == pytest.approx(full.sum() / 4, rel=0.1)
    assert np.corrcoef(full, half)[0, 1] > 0.98


def lonely_scene():
    """A mound that all cameras see, one Gaussian behind all of them, and three far from everything."""
    mound = make_gaussians(6000, np.random.default_rng(1))
    few = mound.subset(slice(0, 4))
    means = np.array([[0, 0, -400], [300, 300, 300], [300, 300, 300.1], [300.1, 300, 300]], np.float32)
    return concatenate([mound, replace(few, means=means, scales=np.full((4, 3), -3, np.float32))])


def test_doubtful_gaussians_are_told_apart_and_coloured() -> None:
    gaussians = lonely_scene()
    found = confidence.judge(gaussians, make_cameras(8, width=96, height=72), "cpu")
    kinds = found.kinds()
    assert list(kinds) == [NONE, THIN, FLOATER]
    assert kinds[FLOATER][-4:].all()
    assert kinds[FLOATER][:-4].mean() < 0.01
    assert kinds[NONE][-4]
    assert not (kinds[NONE] & kinds[THIN]).any()
    assert found.n_views == 8
    shown = found.shown_by[found.shown_by > 0]
    assert found.thin_share() == pytest.approx((shown < FEW).mean())
    marked = confidence.mark(gaussians, found)
    assert marked.sh_degree == 0
    assert np.allclose(marked.colors[kinds[FLOATER]], np.array(MARKS[FLOATER]) / 255, atol=1e-5)
    calm = ~np.any(list(kinds.values()), axis=0)
    assert np.ptp(marked.colors[calm], axis=1).max() < 1e-5, "what is not doubtful is grey"
    assert np.array_equal(marked.means, gaussians.means)


def test_without_cameras_only_floaters_are_known() -> None:
    found = confidence.judge(lonely_scene(), None, "cpu")
    assert (list(found.kinds()), found.thin_share(), found.n_views) == ([FLOATER], None, 0)
    two = confidence.judge(random_splat(30, 0), make_cameras(2, width=32, height=32), "cpu")
    assert two.shown_by is None, f"two views cannot tell who is shown by fewer than {FEW}"


@pytest.mark.parametrize("shown_by", [None, np.array([0, 3, 700], np.uint16)])
def test_what_is_kept_is_read_back(tmp_path: Path, shown_by: np.ndarray | None) -> None:
    wanted = Confidence(shown_by, np.array([True, False, True]), 9)
    confidence.write(tmp_path / "c.npz", wanted)
    found = confidence.read(tmp_path / "c.npz", 3)
    assert found.floats.tolist() == wanted.floats.tolist()
    assert found.n_views == 9
    assert (found.shown_by is None) if shown_by is None else found.shown_by.tolist() == shown_by.tolist()


def test_the_mean_in_cells_is_the_weighted_one() -> None:
    rng = np.random.default_rng(0)
    x, y, values, weights = (
        rng.uniform(0, 4, 500),
        rng.uniform(-1, 1, 500),
        rng.normal(size=500),
        rng.random(500),
    )
    x[:2], y[:2] = (0, 4), (-1, 1)
    mean, (left, right, bottom, top) = confidence.mean_in_cells(values, x, y, weights, 8)
    assert mean.shape == (4, 8)
    assert (left, right, bottom, top) == pytest.approx((0, 4, -1, 1), abs=1e-6)
    inside = (x >= 1.0) & (x < 1.5) & (y >= 0) & (y < 0.5)
    assert mean[2, 2] == pytest.approx(np.average(values[inside], weights=weights[inside]))
    lone, _ = confidence.mean_in_cells(np.array([5.0]), np.array([1.0]), np.array([2.0]), np.array([1.0]), 8)
    assert lone.tolist() == [[5.0]]
    gap, _ = confidence.mean_in_cells(np.ones(2), np.array([0.0, 8]), np.zeros(2), np.ones(2), 8)
    assert np.isnan(gap[0, 3])
