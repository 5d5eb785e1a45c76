"""Merging neighbours: moments are kept, and the picture is far closer than when Gaussians are dropped."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import make_cameras
from splats import random_splat, scene_splat

from spaceport_lab import evaluation, metrics
from spaceport_lab.edit.decimate import covariances, decimate, decimate_levels, level_counts
from spaceport_lab.errors import ParamsError, SplatFormatError
from spaceport_lab.gaussians import Gaussians, concatenate


def finish(steps: Generator[Any, None, Any]) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def full(covs: np.ndarray) -> np.ndarray:
    return covs[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)


def test_two_become_the_one_with_their_moments() -> None:
    pair = random_splat(2, 2)
    weights = np.array([1.0, 3.0])
    one = finish(decimate(pair, 1, weights))
    p = (weights / 4)[:, None]
    mean = (p * pair.means).sum(axis=0)
    away = pair.means.astype(float) - mean
    expected = (p[:, :, None] * (full(covariances(pair)) + away[:, :, None] * away[:, None])).sum(axis=0)
    np.testing.assert_allclose(one.means[0], mean, rtol=1e-5)
    np.testing.assert_allclose(full(covariances(one))[0], expected, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(one.sh[0], (p[:, :, None] * pair.sh).sum(axis=0), rtol=1e-4, atol=1e-6)


def test_moments_of_many_are_kept() -> None:
    splat = scene_splat(3000, 1)
    weights = np.random.default_rng(0).uniform(0.1, 2, 3000)
    few = finish(decimate(splat, 1, weights))
    p = weights / weights.sum()
    away = splat.means - p @ splat.means.astype(float)
    expected = np.einsum("n,nij->ij", p, full(covariances(splat)) + away[:, :, None] * away[:, None])
    np.testing.assert_allclose(few.means[0], p @ splat.means.astype(float), atol=1e-4)
    np.testing.assert_allclose(full(covariances(few))[0], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(few.shN[0], np.einsum("n,nkc->kc", p, splat.shN), atol=1e-5)


def test_two_in_the_same_place_are_as_opaque_as_both() -> None:
    one = replace(random_splat(1, 0), opacities=np.zeros(1, np.float32))
    merged = finish(decimate(concatenate([one, one]), 1))
    np.testing.assert_allclose(merged.alphas, 1 - 0.5 * 0.5, atol=1e-4)
    np.testing.assert_allclose(merged.means, one.means, rtol=1e-6)
    np.testing.assert_allclose(full(covariances(merged)), full(covariances(one)), rtol=1e-4, atol=1e-9)


def test_those_without_a_partner_are_left_as_they_are() -> None:
    splat = scene_splat(500)
    left = finish(decimate(splat, 495))
    rows = {row.tobytes() for row in np.concatenate([splat.means, splat.quats, splat.scales], axis=1)}
    same = sum(row.tobytes() in rows for row in np.concatenate([left.means, left.quats, left.scales], axis=1))
    assert left.n == 495
    assert same >= 490


def mean_psnr(a: list[np.ndarray], splat: Gaussians, cameras) -> float:
    b = evaluation.render_views(splat, cameras)
    return float(np.mean([metrics.psnr(x, y) for x, y in zip(a, b, strict=True)]))


def test_a_quarter_merged_looks_better_than_any_quarter_kept() -> None:
    splat = scene_splat(6000, 1)
    splat = replace(splat, means=splat.means / 8, scales=splat.scales - np.float32(np.log(8) - 0.5))
    cameras = make_cameras(3, 160, 120)
    truth = list(evaluation.render_views(splat, cameras))
    merged = mean_psnr(truth, finish(decimate(splat, 1500)), cameras)
    seen = splat.alphas * np.exp(np.sort(splat.scales, axis=1)[:, 1:].sum(axis=1))
    kept = {
        "opacity": np.argsort(-splat.alphas)[:1500],
        "at random": np.random.default_rng(0).permutation(6000)[:1500],
        "visibility": np.argsort(-seen)[:1500],
    }
    dropped = {name: mean_psnr(truth, splat.subset(index), cameras) for name, index in kept.items()}
    assert merged > max(dropped.values()) + 3, (merged, dropped)
    assert merged > max(dropped["opacity"], dropped["at random"]) + 6, (merged, dropped)


def test_what_is_weighed_stays_sharp() -> None:
    """With all weight on one half, that half keeps more Gaussians than the other."""
    splat = scene_splat(2000, 0)
    left = splat.means[:, 0] < 0
    few = finish(decimate(splat, 500, np.where(left, 1.0, 1e-3)))
    assert (few.means[:, 0] < 0).sum() > 2 * (few.means[:, 0] > 0).sum()


def test_levels_are_made_from_one_another_and_the_same_every_time() -> None:
    splat = scene_splat(1000, 0)
    levels = finish(decimate_levels(splat, level_counts(1000)))
    assert [level.n for level in levels] == [1000, 500, 250, 125]
    assert levels[0] is splat
    again = finish(decimate(splat, 250))
    assert again.n == 250
    for name, values in vars(finish(decimate_levels(splat, [500, 250]))[1]).items():
        np.testing.assert_array_equal(values, getattr(levels[2], name))


def test_thousands_in_one_place() -> None:
    many = random_splat(20_000, 0)
    many.means[:15_000] = 1
    colors = many.sh0[:, 0].astype(float)
    few = finish(decimate(many, 2000, np.ones(20_000)))
    assert few.n == 2000
    one = finish(decimate(many, 1, np.ones(20_000)))
    np.testing.assert_allclose(one.sh0[0, 0], colors.mean(axis=0), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_splat_to_any_number(data) -> None:
    n = data.draw(st.integers(1, 60))
    splat = random_splat(n, data.draw(st.integers(0, 1)))
    wild = st.sampled_from([0.0, 1e-30, 3e6, -3e6, 20.0, -90.0])
    for _ in range(data.draw(st.integers(0, 8))):
        values = data.draw(st.sampled_from([splat.means, splat.quats, splat.opacities, splat.sh0]))
        values.flat[data.draw(st.integers(0, values.size - 1))] = np.float32(data.draw(wild))
    splat.means[: data.draw(st.integers(0, n))] = 2
    few = finish(decimate(splat, data.draw(st.integers(1, n))))
    assert 1 <= few.n <= n
    assert all(np.isfinite(values).all() for values in vars(few).values())
    lengths = np.linalg.norm(few.rotations, axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)


def test_twins_and_wild_values() -> None:
    twins = random_splat(64, 0)
    twins.means[:] = 1
    assert finish(decimate(twins, 3)).n == 3
    wild = random_splat(200)
    wild.scales[0], wild.scales[1] = -90, 20
    wild.means[2] = 3e6
    wild.quats[3] = 0
    wild.opacities[4:6] = (-200, 200)
    few = finish(decimate(wild, 20))
    assert few.n == 20
    assert all(np.isfinite(values).all() for values in vars(few).values())


def test_impossible_requests() -> None:
    splat = random_splat(10)
    for target in (0, 11):
        with pytest.raises(ParamsError, match="cannot decimate"):
            finish(decimate(splat, target))
    with pytest.raises(ParamsError, match="impossible weights"):
        finish(decimate(splat, 5, -np.ones(10)))
    with pytest.raises(ParamsError, match="impossible levels"):
        level_counts(10, (0.5, 0.5))
    with pytest.raises(ParamsError, match="impossible levels"):
        level_counts(10, (1.0, 0.0))
    splat.means[2] = np.nan
    with pytest.raises(SplatFormatError, match="means holds values that are not finite"):
        finish(decimate(splat, 5))
    assert level_counts(3) == [3, 2, 1]
