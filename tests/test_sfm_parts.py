"""The parts of structure from motion that need no COLMAP: pairs, worlds, reasons."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaceport_lab.cameras import Similarity
from spaceport_lab.errors import ReconstructionError
from spaceport_lab.sfm.georeference import GpsFit, fit_gps, normalisation, upright
from spaceport_lab.sfm.pairs import choose_matching, make_pairs
from spaceport_lab.sfm.registration import components, describe, list_reasons, what_to_try

UP = np.array([0.0, 0.0, 1.0])


def flight(rows: int = 5, columns: int = 6, step: float = 20.0) -> np.ndarray:
    """Positions of a lawnmower flight, [N, 3] metres."""
    order = [(c if r % 2 == 0 else columns - 1 - c, r) for r in range(rows) for c in range(columns)]
    return np.array([(c * step, r * step, 60.0) for c, r in order])


# ---- pairs


def test_spatial_pairs_are_the_nearest_and_the_next() -> None:
    gps = flight()
    pairs = set(make_pairs("spatial", gps, 6))
    distance = np.linalg.norm(gps[:, None] - gps[None], axis=2)
    for i in range(len(gps)):
        partners = {j for pair in pairs if i in pair for j in pair} - {i}
        nearer = np.sort(distance[i])[6]
        assert {j for j in range(len(gps)) if 0 < distance[i, j] < nearer} <= partners
        assert {j for j in (i - 1, i + 1, i + 2) if 0 <= j < len(gps)} <= partners
    assert all(i < j for i, j in pairs)
    assert len(pairs) < 0.5 * len(gps) * (len(gps) - 1) / 2


def test_a_stray_or_missing_position_still_has_its_neighbours_in_time() -> None:
    gps = flight()
    gps[7] += (5000, 0, 0)
    gps[20] = np.nan
    pairs = set(make_pairs("spatial", gps, 4))
    assert {(6, 7), (7, 8), (7, 9)} <= pairs
    assert {j for pair in pairs if 20 in pair for j in pair} == set(range(30))


def test_exhaustive_and_sequential_pairs() -> None:
    nowhere = np.full((30, 3), np.nan)
    assert make_pairs("exhaustive", nowhere[:4], 8) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    pairs = set(make_pairs("sequential", nowhere, 8))
    assert {(i, i + k) for i in range(20) for k in range(1, 11)} <= pairs
    assert (0, 16) in pairs
    assert (0, 13) not in pairs


@given(st.integers(0, 30), st.sampled_from(["spatial", "exhaustive", "sequential"]), st.integers(0, 10**6))
def test_pairs_are_valid_whatever_comes(n: int, matching: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    gps = rng.normal(size=(n, 3)) * rng.choice([0, 1, 100])
    gps[rng.random(n) < 0.3] = np.nan
    pairs = make_pairs(matching, gps, 3)
    assert pairs == sorted(set(pairs))
    assert all(0 <= i < j < n for i, j in pairs)


def test_matching_is_chosen_by_what_is_known() -> None:
    gps = flight()
    nowhere = np.full((30, 3), np.nan)
    assert choose_matching("auto", gps) == "spatial"
    assert choose_matching("auto", nowhere) == "exhaustive"
    assert choose_matching("auto", np.full((201, 3), np.nan)) == "sequential"
    assert choose_matching("auto", gps / 100) == "exhaustive"  # all within a receiver's error
    few = gps.copy()
    few[:15] = np.nan
    assert choose_matching("auto", few) == "exhaustive"
    assert choose_matching("sequential", gps) == "sequential"
    with pytest.raises(ReconstructionError, match="spatial matching needs GPS"):
        choose_matching("spatial", nowhere)


# ---- georeference


def world(seed: int) -> Similarity:
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return Similarity(float(rng.uniform(0.01, 5)), q * np.sign(np.linalg.det(q)), rng.normal(size=3) * 10)


def as_model(positions: np.ndarray, seed: int) -> np.ndarray:
    """The positions as COLMAP would have them: in a world of its own."""
    return world(seed)(positions)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_noise_free_gps_is_met_exactly(seed: int) -> None:
    truth = flight(3, 4) + np.random.default_rng(seed).normal(size=(12, 3)) * [1, 1, 5]
    fit = fit_gps(as_model(truth, seed), truth, UP)
    assert isinstance(fit, GpsFit)
    assert fit.inliers.all()
    assert fit.rmse < 1e-6
    assert fit.tilt_from_gps


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("distance", [100.0, 1e5])
def test_one_stray_moves_nothing(seed: int, distance: float) -> None:
    """With it and without it, every camera is at the same place to 10 cm."""
    rng = np.random.default_rng(seed)
    truth = flight() + rng.normal(size=(30, 3)) * [2, 2, 4]
    model = as_model(truth, seed)
    gps = truth + rng.normal(size=truth.shape) * [1, 1, 2]
    stray = gps.copy()
    stray[11] += distance * np.array([0.6, -0.8, 0])
    without = np.delete(np.arange(30), 11)
    clean = fit_gps(model[without], gps[without], UP, seed)
    spoilt = fit_gps(model, stray, UP, seed)
    assert not spoilt.inliers[11]
    assert spoilt.inliers.sum() >= 28
    moved = np.linalg.norm(spoilt.similarity(model) - clean.similarity(model), axis=1)
    assert moved.max() < 0.1
    assert np.linalg.norm(spoilt.residuals[11]) == pytest.approx(distance, rel=0.1)


def test_a_third_of_strays_is_no_harm() -> None:
    rng = np.random.default_rng(0)
    truth = flight() + rng.normal(size=(30, 3)) * [2, 2, 4]
    gps = truth + rng.normal(size=truth.shape)
    gps[::3] += rng.uniform(-300, 300, (10, 3))
    fit = fit_gps(as_model(truth, 4), gps, UP)
    assert not fit.inliers[::3].any()
    assert np.abs(fit.similarity(as_model(truth, 4)) - truth).max() < 2.5


def test_gps_that_means_nothing_is_refused() -> None:
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(20, 3))
    assert "does not fit" in fit_gps(centers, rng.normal(size=(20, 3)) * 30, UP)
    assert "only 3 registered photographs have GPS" in fit_gps(centers[:3], centers[:3], UP)


def test_a_flight_along_one_line_is_kept_upright() -> None:
    """GPS says nothing of the roll about the line: upright comes from the pictures."""
    rng = np.random.default_rng(3)
    truth = np.c_[np.arange(12) * 15.0, np.zeros(12), np.full(12, 50.0)]
    model_world = world(8)
    model = model_world(truth)
    up = model_world.rotation @ UP
    fit = fit_gps(model, truth + rng.normal(size=truth.shape) * 0.8, up)
    assert isinstance(fit, GpsFit)
    assert not fit.tilt_from_gps
    tilt = fit.similarity.rotation @ up
    assert np.degrees(np.arccos(tilt[2])) < 5
    assert np.abs(fit.similarity(model) - truth).max() < 3


def looking(directions: np.ndarray, tops: np.ndarray) -> np.ndarray:
    """World-to-camera rotations that look along `directions` with the picture's top towards `tops`."""
    rotations = []
    for forward, top in zip(directions, tops, strict=True):
        z = forward / np.linalg.norm(forward)
        x = np.cross(z, top)
        x /= np.linalg.norm(x)
        rotations.append([x, np.cross(z, x), z])
    return np.array(rotations)


def rigs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Flights of different kinds: rotations and centres, in a world whose up is +Z."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    circle = np.c_[40 * np.cos(angle), 40 * np.sin(angle), np.full(12, 25.0)]
    nadir = flight(3, 4)
    heading = np.tile([0.0, 1, 0], (12, 1))
    street = np.c_[np.arange(12) * 2.0, rng.normal(size=(12, 2)) * 0.1]
    return {
        "orbit": (looking(-circle, np.tile(UP, (12, 1))), circle),
        "nadir": (looking(np.tile(-UP, (12, 1)), heading), nadir),
        "nadir, turning": (looking(np.tile(-UP, (12, 1)), heading * rng.choice([-1, 1], (12, 1))), nadir),
        "street": (looking(np.tile([1.0, 0.2, 0.0], (12, 1)), np.tile(UP, (12, 1))), street),
    }


@pytest.mark.parametrize("kind", rigs())
def test_upright(kind: str) -> None:
    rotations, centers = rigs()[kind]
    middle = np.array([0.0, 0, 0]) if kind != "street" else np.array([40.0, 8, 0.5])
    turn = world(5).rotation
    up = upright(rotations @ turn.T, centers @ turn.T, turn @ middle)
    assert np.degrees(np.arccos(np.clip(up @ turn @ UP, -1, 1))) < 3


def test_normalisation_is_upright_and_of_unit_depth() -> None:
    rotations, centers = rigs()["orbit"]
    points = np.random.default_rng(1).normal(size=(500, 3)) * [10, 10, 1]
    unknown = world(6)
    similarity = normalisation(rotations @ unknown.rotation.T, unknown(centers), unknown(points))
    placed, seen = similarity(unknown(centers)), similarity(unknown(points))
    np.testing.assert_allclose(np.median(seen, axis=0), 0, atol=0.1)
    assert np.median(np.linalg.norm(placed, axis=1)) == pytest.approx(1, abs=0.05)
    assert np.ptp(placed[:, 2]) < 0.02
    assert placed[:, 2].mean() > 0.4
    assert np.linalg.det(similarity.rotation) == pytest.approx(1)


# ---- reasons


def test_components() -> None:
    assert components(6, [(4, 5), (0, 1), (1, 2)]) == [0, 0, 0, 2, 1, 1]
    assert components(0, []) == []


def test_every_photograph_gets_its_reason() -> None:
    names = [f"{i}.jpg" for i in range(9)]
    inliers = {(0, 1): 200, (1, 2): 90, (2, 8): 60, (0, 7): 40, (3, 4): 50, (5, 0): 14, (2, 6): 9}
    inliers = {tuple(sorted(pair)): count for pair, count in inliers.items()}
    placed = {name: {"n_points": 100, "reprojection_error_px": 0.5} for name in ("0.jpg", "1.jpg", "2.jpg")}
    rows = describe(
        names, [500] * 6 + [40, 500, 500], inliers, placed, elsewhere={}, ties={"7.jpg": 40, "8.jpg": 7}
    )
    kinds = {row["name"]: row["kind"] for row in rows}
    assert kinds == {
        "0.jpg": None, "1.jpg": None, "2.jpg": None, "3.jpg": "component", "4.jpg": "component",
        "5.jpg": "no pairs", "6.jpg": "features", "7.jpg": "rejected", "8.jpg": "held by few",
    }  # fmt: skip
    by_name = {row["name"]: row for row in rows}
    assert (
        by_name["5.jpg"]["reason"]
        == "no verified pair: best partner 0.jpg (14 inliers), 15 inliers are needed"
    )
    assert "shares 7 points with two placed photographs, under 15" in by_name["8.jpg"]["reason"]
    assert by_name["1.jpg"]["n_pairs"] == 2
    assert by_name["1.jpg"]["best_partner"] == "0.jpg"
    assert by_name["1.jpg"]["n_points"] == 100
    assert [row["component"] for row in rows] == [
        0,
        0,
        0,
        1,
        1,
        *[by_name[f"{i}.jpg"]["component"] for i in (5, 6)],
        0,
        0,
    ]
    assert "overlap" in what_to_try(rows) or "link" in what_to_try(rows)
    text = list_reasons(rows, limit=2)
    assert "3.jpg: in a separate group" in text
    assert "… and 4 more" in text


def test_nothing_matched_at_all() -> None:
    rows = describe(["a", "b"], [900, 900], {}, {}, {}, {})
    assert [row["reason"] for row in rows] == [
        "no verified pair: best partner none, 15 inliers are needed"
    ] * 2
    assert "overlap" in what_to_try(rows)
