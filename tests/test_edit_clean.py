"""Cleaning: each reason against a slow answer, everything counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splats import random_splat, scene_splat

from spaceport_lab.edit.clean import CleanOptions, clean, floaters
from spaceport_lab.errors import ParamsError, SplatFormatError
from spaceport_lab.gaussians import concatenate


def test_what_is_not_finite_goes_without_being_asked() -> None:
    splat = random_splat(30)
    splat.means[3, 1] = np.nan
    splat.shN[4, 2, 1] = np.inf
    splat.opacities[3] = -np.inf
    cleaned = clean(splat)
    assert cleaned.removed == {"not finite": 2}
    assert cleaned.gaussians.n == 28
    assert np.flatnonzero(~cleaned.kept).tolist() == [3, 4]
    assert str(cleaned) == "28 of 30 splats left (removed: not finite 2)"


def test_box_sphere_opacity_size_and_bands() -> None:
    splat = random_splat(500)
    low, high = (-2.0, -3.0, -1.0), (2.5, 3.0, 4.0)
    center, radius = (0.5, 0.0, 0.0), 3.0
    options = CleanOptions((low, high), (center, radius), 0.3, float(np.exp(-3.0)), sh_degree=1)
    expected = [
        all(a <= v <= b for a, v, b in zip(low, mean, high, strict=True))
        and sum((v - c) ** 2 for v, c in zip(mean, center, strict=True)) <= radius**2
        and alpha >= 0.3
        and sigma.max() <= np.exp(-3.0)
        for mean, alpha, sigma in zip(splat.means.tolist(), splat.alphas, splat.sigmas, strict=True)
    ]
    cleaned = clean(splat, options)
    np.testing.assert_array_equal(cleaned.kept, expected)
    assert cleaned.gaussians.sh_degree == 1
    np.testing.assert_array_equal(cleaned.gaussians.means, splat.means[expected])
    assert sum(cleaned.removed.values()) == 500 - sum(expected)
    assert all(cleaned.removed[reason] for reason in ("outside the box", "too faint", "too large"))


def scene_with_dirt() -> tuple:
    """A scene on the ground, 30 specks and a cloud of 20 in the air above it, and a far, sparse backdrop."""
    rng = np.random.default_rng(1)
    ground = scene_splat(8000, 0)
    specks = random_splat(30, 0)
    specks = replace(specks, means=rng.uniform((-15, -15, 6), (15, 15, 18), (30, 3)).astype(np.float32))
    cloud = random_splat(20, 0)
    cloud = replace(cloud, means=(0.1 * rng.normal(size=(20, 3)) + (3, 3, 9)).astype(np.float32))
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    ring = np.column_stack([200 * np.cos(angles), 200 * np.sin(angles), np.zeros(200)]).astype(np.float32)
    backdrop = replace(random_splat(200, 0), means=ring, scales=np.full((200, 3), np.log(8), np.float32))
    return concatenate([ground, specks, cloud, backdrop]), slice(8000, 8050), slice(8050, 8250)


def test_floaters_go_and_the_scene_and_its_backdrop_stay() -> None:
    splat, dirt, backdrop = scene_with_dirt()
    found = floaters(splat, 0.005)
    assert found[dirt].all()
    assert not found[backdrop].any()
    assert found[:8000].mean() < 0.005
    cleaned = clean(splat, CleanOptions(floaters=0.005))
    assert cleaned.removed["floaters"] == found.sum()


def test_with_a_share_of_nearly_all_the_largest_group_stays() -> None:
    splat, _, _ = scene_with_dirt()
    left = clean(splat, CleanOptions(floaters=0.99)).gaussians
    assert left.n > 7900


def test_thousands_in_one_place_are_counted_as_they_are() -> None:
    splat = random_splat(30_000, 0)
    splat.means[:29_000] = 5
    found = floaters(splat, 0.01)
    assert not found[:29_000].any()


@pytest.mark.parametrize("n", [1, 2])
def test_hardly_any_splats_are_no_floaters(n: int) -> None:
    assert clean(random_splat(n), CleanOptions(floaters=0.9)).gaussians.n >= 1


def test_nothing_left_says_why() -> None:
    with pytest.raises(SplatFormatError, match=r"(?s)leave no splat.*of 40: outside the box 40"):
        clean(random_splat(40), CleanOptions(box=((90, 90, 90), (91, 91, 91)), min_opacity=0.9))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"box": ((0, 0, 0), (1, -1, 1))}, "lower one"),
        ({"box": ((0, 0, np.nan), (1, 1, 1))}, "lower one"),
        ({"sphere": ((0, 0, 0), 0.0)}, "radius"),
        ({"min_opacity": 1.5}, "shares"),
        ({"floaters": 1.0}, "shares"),
        ({"max_sigma": np.nan}, "above 0"),
        ({"sh_degree": 4}, "0 to 3"),
    ],
)
def test_impossible_options(wrong: dict, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        CleanOptions(**wrong)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_values_are_counted_once(data) -> None:
    splat = random_splat(data.draw(st.integers(1, 40)), data.draw(st.integers(0, 2)))
    wild = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 3e38, -3e38, 90.0, -90.0])
    for _ in range(data.draw(st.integers(0, 6))):
        values = data.draw(st.sampled_from(list(vars(splat).values())))
        if values.size:
            values.flat[data.draw(st.integers(0, values.size - 1))] = np.float32(data.draw(wild))
    options = CleanOptions(((-3, -3, -3), (3, 3, 3)), ((0, 0, 0), 4.0), 0.2, 1.0, 0.1, 1)
    try:
        cleaned = clean(splat, options)
    except SplatFormatError:
        return
    assert sum(cleaned.removed.values()) + cleaned.gaussians.n == splat.n
    assert all(np.isfinite(values).all() for values in vars(cleaned.gaussians).values())
