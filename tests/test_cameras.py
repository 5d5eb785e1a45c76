"""Cameras, worlds, and the way from GPS to metres."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spaceport_lab.cameras import (
    Cameras,
    Similarity,
    align,
    fit_similarity,
    frame_in_words,
    gps_to_enu,
    heldout_split,
    pose_rmse,
    read_ground_truth,
    read_scene,
)
from spaceport_lab.errors import InputError, ReconstructionError


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def some_cameras(count: int, seed: int = 0) -> Cameras:
    rng = np.random.default_rng(seed)
    viewmats = np.tile(np.eye(4), (count, 1, 1))
    for viewmat in viewmats:
        viewmat[:3, :3], viewmat[:3, 3] = random_rotation(rng), rng.normal(size=3) * 5
    names = tuple(f"{i:02d}.jpg" for i in range(count))
    return Cameras(names, viewmats, np.tile(np.eye(3), (count, 1, 1)), np.full((count, 2), 8))


def test_centers_are_what_the_camera_maps_to_zero() -> None:
    cameras = some_cameras(5)
    for viewmat, center in zip(cameras.viewmats, cameras.centers, strict=True):
        np.testing.assert_allclose(viewmat @ [*center, 1], [0, 0, 0, 1], atol=1e-12)
    chosen = cameras.subset([3, 1])
    assert chosen.names == ("03.jpg", "01.jpg")
    np.testing.assert_array_equal(chosen.centers, cameras.centers[[3, 1]])


def test_heldout_split() -> None:
    names = tuple(f"{i:02d}" for i in range(17))
    train, test = heldout_split(names[::-1])
    assert [names[::-1][i] for i in test] == ["00", "08", "16"]
    assert sorted(train + test) == list(range(17))
    assert heldout_split(("a",)) == ([0], [])
    assert heldout_split(()) == ([], [])


@given(st.integers(0, 10**6), st.integers(3, 12), st.floats(1e-3, 1e3))
def test_alignment_recovers_any_similarity(seed: int, count: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(count, 3))
    truth = Similarity(scale, random_rotation(rng), rng.normal(size=3) * 100)
    found = fit_similarity(source, truth(source))
    assert found.scale == pytest.approx(scale, rel=1e-6)
    np.testing.assert_allclose(found(source), truth(source), atol=1e-7 * (100 + scale))
    assert np.linalg.det(found.rotation) == pytest.approx(1)
    homogeneous = np.c_[source, np.ones(count)] @ found.matrix.T
    np.testing.assert_allclose(homogeneous[:, :3], found(source), atol=1e-9 * (100 + scale))


def test_alignment_never_mirrors() -> None:
    source = np.random.default_rng(1).normal(size=(9, 3))
    assert np.linalg.det(fit_similarity(source, source * [1, 1, -1]).rotation) == pytest.approx(1)


def test_alignment_is_the_least_squares_one() -> None:
    """Against scipy's minimiser on the same residuals."""
    from scipy.optimize import least_squares
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(2)
    source, target = rng.normal(size=(2, 8, 3))
    best = fit_similarity(source, target)
    cost = ((best(source) - target) ** 2).sum()

    def residuals(x: np.ndarray) -> np.ndarray:
        return (x[0] * source @ Rotation.from_rotvec(x[1:4]).as_matrix().T + x[4:] - target).ravel()

    starts = [np.r_[1, rng.normal(size=3), 0, 0, 0] for _ in range(8)]
    assert cost == pytest.approx(min(2 * least_squares(residuals, x).cost for x in starts), rel=1e-6)


def test_alignment_of_many_at_once() -> None:
    rng = np.random.default_rng(3)
    source, target = rng.normal(size=(2, 6, 4, 3))
    scale, rotation, translation = align(source, target)
    for i in range(6):
        one = fit_similarity(source[i], target[i])
        assert scale[i] == pytest.approx(one.scale)
        np.testing.assert_allclose(rotation[i], one.rotation)
        np.testing.assert_allclose(translation[i], one.translation)


def test_pose_rmse_is_blind_to_the_world_and_sees_errors() -> None:
    cameras = some_cameras(20)
    world = Similarity(0.1, random_rotation(np.random.default_rng(5)), np.array([3.0, 2, 1]))
    truth = dict(zip(cameras.names, world(cameras.centers), strict=True))
    rmse, each = pose_rmse(cameras, truth)
    assert rmse < 1e-9
    assert set(each) == set(cameras.names)
    truth["07.jpg"] = truth["07.jpg"] + [0.3, 0, 0]
    rmse, each = pose_rmse(cameras, truth)
    assert 0.2 / math.sqrt(20) < rmse < 0.3 / math.sqrt(20)
    assert max(each, key=each.get) == "07.jpg"
    assert pose_rmse(cameras, {"00.jpg": np.zeros(3), "01.jpg": np.zeros(3)}) is None


def test_ground_truth_file(tmp_path: Path) -> None:
    path = tmp_path / "ground_truth.json"
    path.write_text(json.dumps({"cameras": {"a.jpg": {"center": [1, 2, 3], "R": np.eye(3).tolist()}}}))
    np.testing.assert_array_equal(read_ground_truth(path)["a.jpg"], [1, 2, 3])
    for broken in (
        "{",
        "[]",
        '{"cameras": {"a": {}}}',
        '{"cameras": {"a": {"center": [1, 2]}}}',
        '{"cameras": 3}',
    ):
        path.write_text(broken)
        with pytest.raises(InputError, match="cannot be read as ground truth"):
            read_ground_truth(path)


def test_gps_against_colmap() -> None:
    """pycolmap in a process of its own, as everywhere."""
    rng = np.random.default_rng(0)
    origin = np.array([46.5, -7.5, 600.0])
    positions = origin + rng.uniform(-0.02, 0.02, (6, 3)) * [1, 1, 5000]
    code = (
        "import zlib, json, sys, numpy, pycolmap; p, o = json.loads(sys.argv[1]);"
        "t = pycolmap.GPSTransform(); print(json.dumps(t.ellipsoid_to_enu(numpy.array(p), *o).tolist()))"
    )
    text = json.dumps([positions.tolist(), origin.tolist()])
    answer = subprocess.run(
        [sys.executable, "-c", code, text], capture_output=True, text=True, check=True
    ).stdout
    np.testing.assert_allclose(gps_to_enu(positions, origin), json.loads(answer), atol=1e-5)


@given(st.floats(-80, 80), st.floats(-179, 179))
def test_gps_directions(lat: float, lon: float) -> None:
    """A step of 0.0001° is about 11.1 m north, and east as the meridians converge; height is height."""
    origin = np.array([lat, lon, 100.0])
    steps = np.array([[1e-4, 0, 0], [0, 1e-4, 0], [0, 0, 10], [0, 0, 0]])
    north, east, up, nothing = gps_to_enu(origin + steps, origin)
    np.testing.assert_allclose(north, [0, 11.13, 0], atol=0.08)
    np.testing.assert_allclose(east, [11.13 * math.cos(math.radians(lat)), 0, 0], atol=0.08)
    np.testing.assert_allclose(up, [0, 0, 10], atol=1e-6)
    np.testing.assert_allclose(nothing, 0, atol=1e-6)


# ---- scenes


def write_scene(folder: Path, model: str = "PINHOLE 8 6 9 9.5 4 3") -> Path:
    """A scene of two images in COLMAP's text format."""
    (folder / "sparse").mkdir(parents=True)
    (folder / "images").mkdir()
    (folder / "sparse" / "cameras.txt").write_text(f"# comment\n1 {model}\n")
    half = math.sqrt(0.5)
    (folder / "sparse" / "images.txt").write_text(
        f"2 1 0 0 0 0.5 0 2 1 b c.png\n1 1 7 2 2 -1\n1 {half} {half} 0 0 1 2 3 1 a.png\n\n"
    )
    (folder / "sparse" / "points3D.txt").write_text("7 1 2 3 10 20 30 0.5 2 0 1 1\n9 4 5 6 1 2 3 0.25 2 1\n")
    for name in ("a.png", "b c.png"):
        Image.new("RGB", (8, 6)).save(folder / "images" / name)
    return folder


def test_read_scene(tmp_path: Path) -> None:
    scene = read_scene(write_scene(tmp_path / "s"))
    assert scene.cameras.names == ("a.png", "b c.png")
    np.testing.assert_allclose(scene.cameras.Ks[0], [[9, 0, 4], [0, 9.5, 3], [0, 0, 1]])
    np.testing.assert_array_equal(scene.cameras.sizes, [[8, 6], [8, 6]])
    np.testing.assert_allclose(
        scene.cameras.viewmats[0], [[1, 0, 0, 1], [0, 0, -1, 2], [0, 1, 0, 3], [0, 0, 0, 1]], atol=1e-12
    )
    np.testing.assert_array_equal(scene.points, [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(scene.colors, [[10, 20, 30], [1, 2, 3]])
    assert not scene.georeferenced
    (tmp_path / "s" / "georeference.json").write_text("{}")
    assert read_scene(tmp_path / "s").georeferenced


def test_read_scene_simple_pinhole(tmp_path: Path) -> None:
    scene = read_scene(write_scene(tmp_path / "s", "SIMPLE_PINHOLE 8 6 9 4 3"))
    np.testing.assert_allclose(scene.cameras.Ks[1], [[9, 0, 4], [0, 9, 3], [0, 0, 1]])


def test_scenes_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ReconstructionError, match="bends straight lines"):
        read_scene(write_scene(tmp_path / "bent", "SIMPLE_RADIAL 8 6 9 4 3 0.1"))
    folder = write_scene(tmp_path / "s")
    (folder / "images" / "a.png").unlink()
    with pytest.raises(ReconstructionError, match=r"1 of 2 not in .*: a.png"):
        read_scene(folder)
    (folder / "sparse" / "points3D.txt").unlink()
    with pytest.raises(ReconstructionError, match="not whole"):
        read_scene(folder)


def test_the_frame_in_words(tmp_path: Path) -> None:
    assert frame_in_words(tmp_path).startswith("units without a scale")
    place = {"origin": {"lat": -30.9585, "lon": 136.5043, "alt": 165.0}, "utm": {"epsg": 32753}}
    (tmp_path / "georeference.json").write_text(json.dumps(place))
    said = frame_in_words(tmp_path)
    assert "-30.958500°, 136.504300°, 165.0 m" in said
    assert "EPSG:32753" in said
    (tmp_path / "georeference.json").write_text("{}")
    assert frame_in_words(tmp_path) == "metres east, north and up"
