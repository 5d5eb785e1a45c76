"""A run's splat in local metres of any origin and in UTM: the same places on Earth, the same pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scenes import make_cameras
from scipy.spatial.transform import Rotation
from splats import random_splat
from typer.testing import CliRunner

from spaceport_lab import evaluation, files, metrics
from spaceport_lab.cameras import Similarity
from spaceport_lab.cli import app
from spaceport_lab.errors import InputError, ParamsError
from spaceport_lab.gaussians import Gaussians, read_ply, write_ply
from spaceport_lab.sfm import geodesy, located
from spaceport_lab.sog import read_sog

HERE = np.array([61.5, 11.9, 240.0])
"""In the north and near the edge of its zone, where the grid is turned by degrees."""


def place_of(origin: np.ndarray, turned: np.ndarray | None = None) -> dict:
    """georeference.json of a run there; its axes `turned` away from east, north, up."""
    ecef = geodesy.ecef_from_enu(origin)
    if turned is not None:
        ecef[:3, :3] = ecef[:3, :3] @ turned
    return {
        "origin": dict(zip(("lat", "lon", "alt"), origin.tolist(), strict=True)),
        "source": "GPS of the photographs",
        "ecef_from_enu": ecef,
        "utm": geodesy.utm_frame(origin, np.zeros((1, 3))),
    }


def splat_of(n: int = 300) -> Gaussians:
    splat = random_splat(n, 3)
    return replace(splat, means=splat.means / 3, scales=splat.scales + np.float32(1.5), shN=3 * splat.shN)


def test_its_own_frame_changes_nothing() -> None:
    splat = splat_of()
    moved, about = located.locate(splat, place_of(HERE), "enu")
    assert moved is splat
    np.testing.assert_allclose(about["from_run"], np.eye(4), atol=1e-6)
    assert about["origin"]["alt"] == 240.0
    assert about["resolution_m"] < 1e-6


def test_another_origin_is_the_same_place_on_earth() -> None:
    """Each mean through geocentric metres, one at a time, against the file's numbers and its record."""
    place, there = place_of(HERE), (61.51, 11.93, 255.5)
    splat = random_splat(50, 1)
    moved, about = located.locate(splat, place, "enu", there)
    for before, after in zip(splat.means, moved.means, strict=True):
        earth = place["ecef_from_enu"] @ [*before.astype(float), 1.0]
        np.testing.assert_allclose(about["ecef_from_file"] @ [*after.astype(float), 1.0], earth, atol=2e-3)
    assert np.linalg.norm(moved.means.mean(axis=0)) == pytest.approx(1940, abs=40)
    assert 1e-5 < about["resolution_m"] < 1e-3


@pytest.mark.parametrize("frame", ["enu", "utm"])
def test_the_camera_that_went_along_sees_the_same_picture(frame: str) -> None:
    turn = Rotation.from_euler("xyz", [20, -40, 130], degrees=True).as_matrix()
    place = place_of(HERE, turn if frame == "enu" else None)
    splat = splat_of()
    change, _ = located.change_of_frame(place, frame)
    moved, _ = located.locate(splat, place, frame)
    cameras = make_cameras(2, 96, 72)
    before = list(evaluation.render_views(splat, cameras))
    after = list(evaluation.render_views(moved, _along(cameras, change)))
    for a, b in zip(before, after, strict=True):
        assert a.std() > 0.1
        assert metrics.psnr(a, b) > 45
    if frame == "enu":
        np.testing.assert_allclose(change.rotation, turn, atol=1e-6)
        unturned = replace(moved, shN=splat.shN)
        wrong = next(evaluation.render_views(unturned, _along(cameras, change)))
        assert metrics.psnr(before[0], wrong) < 40, "without turning SH the picture is another one"


def _along(cameras, change: Similarity):
    viewmats = cameras.viewmats.copy()
    viewmats[:, :3, :3] = cameras.viewmats[:, :3, :3] @ change.rotation.T
    turned = np.einsum("cij,j->ci", viewmats[:, :3, :3], change.translation)
    viewmats[:, :3, 3] = change.scale * cameras.viewmats[:, :3, 3] - turned
    return replace(cameras, viewmats=viewmats)


def test_utm_is_what_proj_says() -> None:
    place = place_of(HERE)
    splat = random_splat(80, 0)
    splat = replace(splat, means=splat.means * 20)
    moved, about = located.locate(splat, place, "utm")
    exact = geodesy.enu_to_utm(splat.means.astype(float), HERE, place["utm"]["epsg"])
    error = moved.means + about["offset"] - exact
    # The grid is not flat and its factor is not that of heights: millimetres over a hundred metres.
    assert np.abs(error[:, :2]).max() < 0.02
    assert np.abs(error[:, 2]).max() < 0.001 * np.abs(splat.means).max()
    assert about["epsg"] == 32632
    assert abs(about["scale"] - 1) < 0.001
    grid_north = np.degrees(np.arctan2(about["from_run"][0, 1], about["from_run"][1, 1]))
    assert abs(grid_north) > 1


def test_from_the_command_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "02_sfm").mkdir(parents=True)
    (run / "03_train").mkdir()
    files.write_json(run / "02_sfm" / "georeference.json", place_of(HERE))
    splat = splat_of(200)
    write_ply(run / "03_train" / "splat.ply", splat)

    def call(*words: object) -> str:
        result = CliRunner().invoke(app, ["splat", "place", str(run), *map(str, words)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    assert "east, north, up from 61.500000°, 11.900000°, 240.0 m" in call(tmp_path / "a.ply")
    np.testing.assert_array_equal(read_ply(tmp_path / "a.ply").means, splat.means)
    assert "EPSG:32632 less" in call(tmp_path / "b.sog", "--frame", "utm")
    record = json.loads((tmp_path / "b.sog.place.json").read_text())
    assert (record["file"], record["epsg"], record["frame"]) == ("b.sog", 32632, "utm")
    assert read_sog(tmp_path / "b.sog").n == 200
    assert "choose a nearer origin" in call(tmp_path / "c.ply", "--origin", "61.9,11.9,0")
    call(tmp_path / "d" / "meta.json")
    assert (tmp_path / "d.place.json").is_file()
    with pytest.raises(InputError, match="is there already"):
        call(tmp_path / "a.ply")


def test_what_is_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere on Earth"):
        located.read_place(tmp_path)
    for content in ("{", "[]", '{"origin": {"lat": 1, "lon": 2, "alt": null}}'):
        (tmp_path / "georeference.json").write_text(content)
        with pytest.raises(InputError, match="does not say where local metres are"):
            located.read_place(tmp_path)
    place = place_of(HERE)
    with pytest.raises(ParamsError, match="no frame"):
        located.change_of_frame(place, "moon")
    with pytest.raises(ParamsError, match="origin of its own"):
        located.change_of_frame(place, "utm", (1.0, 2.0, 3.0))
    with pytest.raises(ParamsError, match="no place on Earth"):
        located.change_of_frame(place, "enu", (100.0, 2.0, 3.0))
