"""From local metres to the Earth's coordinates and back; ground control points."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyproj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sfm import reconstruct

from spaceport_lab import colmap
from spaceport_lab.cameras import gps_to_enu
from spaceport_lab.errors import InputError
from spaceport_lab.sfm import geodesy
from spaceport_lab.sfm.gcp import read_points

ORIGIN = np.array([46.5, 7.5, 600.0])


@pytest.mark.parametrize(
    ("lat", "lon", "epsg"),
    [
        (46.5, 7.5, 32632),
        (-30.96, 136.5, 32753),
        (51.5, -0.1, 32630),
        (0.5, 179.9, 32660),
        (0.5, -179.9, 32601),
        (85, 3, 32661),
        (-82, 3, 32761),
    ],
)
def test_zone(lat: float, lon: float, epsg: int) -> None:
    assert geodesy.utm_epsg(lat, lon) == epsg


@settings(max_examples=25, deadline=None)
@given(st.floats(-79, 83), st.floats(-179.9, 179.9), st.integers(0, 10**6))
def test_local_metres_go_to_utm_and_back(lat: float, lon: float, seed: int) -> None:
    origin = np.array([lat, lon, 300.0])
    points = np.random.default_rng(seed).uniform(-500, 500, (6, 3))
    epsg = geodesy.utm_epsg(lat, lon)
    utm = geodesy.enu_to_utm(points, origin, epsg)
    back = gps_to_enu(geodesy.to_wgs84(utm, f"EPSG:{epsg}"), origin)
    np.testing.assert_allclose(back, points, atol=1e-5)


def test_utm_is_what_proj_says_of_gps() -> None:
    """The long way round: degrees straight to the zone."""
    degrees = ORIGIN + np.random.default_rng(0).uniform(-1, 1, (10, 3)) * [1e-3, 1e-3, 50]
    direct = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32632", always_xy=True)
    easting, northing = direct.transform(degrees[:, 1], degrees[:, 0])
    expected = np.column_stack([easting, northing, degrees[:, 2]])
    found = geodesy.enu_to_utm(gps_to_enu(degrees, ORIGIN), ORIGIN, 32632)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_matrix_is_as_near_as_it_says() -> None:
    points = np.random.default_rng(1).uniform(-200, 200, (50, 3))
    frame = geodesy.utm_frame(ORIGIN, points)
    near = points @ frame["from_enu"][:3, :3].T + frame["from_enu"][:3, 3]
    exact = geodesy.enu_to_utm(points, ORIGIN, frame["epsg"])
    error = np.linalg.norm(near - exact, axis=1).max()
    assert error == pytest.approx(frame["error_m"])
    assert error < 0.02
    # Grid north is turned from true north by the convergence, as PROJ has it.
    convergence = pyproj.Proj("EPSG:32632").get_factors(ORIGIN[1], ORIGIN[0]).meridian_convergence
    assert abs(frame["grid_north_deg"]) == pytest.approx(abs(convergence), abs=1e-6)


def test_geocentric_frame_agrees_with_gps() -> None:
    matrix = geodesy.ecef_from_enu(ORIGIN)
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1)
    degrees = ORIGIN + np.array([[1e-3, -2e-3, 30.0]])
    to_ecef = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)
    expected = to_ecef.transform(degrees[0, 1], degrees[0, 0], degrees[0, 2])
    np.testing.assert_allclose(
        matrix @ np.append(gps_to_enu(degrees, ORIGIN)[0], 1), [*expected, 1], atol=1e-5
    )


def test_systems_by_their_names() -> None:
    utm = geodesy.enu_to_utm(np.zeros((1, 3)), ORIGIN, 32632)
    for crs in ("EPSG:32632", "WGS84 UTM 32N", "wgs84 / utm zone 32n", "+proj=utm +zone=32 +datum=WGS84"):
        np.testing.assert_allclose(geodesy.to_wgs84(utm, crs), ORIGIN[None], atol=1e-7)
    np.testing.assert_allclose(
        geodesy.to_wgs84(np.array([[7.5, 46.5, 3.0]]), "EPSG:4326"), [[46.5, 7.5, 3.0]]
    )
    with pytest.raises(InputError, match="'EPSG:99999' of the control points is not known"):
        geodesy.to_wgs84(utm, "EPSG:99999")
    with pytest.raises(InputError, match="are x and y swapped"):
        geodesy.to_wgs84(np.array([[1e9, 1e9, 0.0]]), "EPSG:32632")


_NO_HEIGHT = '[{"name": "a", "x": 1, "y": 2, "z": null, "crs": "EPSG:4326", "observations": []}]'


@pytest.mark.parametrize("content", ["{", "[{}]", _NO_HEIGHT])
def test_control_points_that_cannot_be_read(content: str, tmp_path: Path) -> None:
    (tmp_path / "gcp.json").write_text(content)
    with pytest.raises(InputError, match=r"ground control points cannot be read[\s\S]*run ingest again"):
        read_points(tmp_path / "gcp.json")


# ---- with COLMAP


def pixels(folder: Path, point: np.ndarray) -> list[dict]:
    """Where a place in the world of a model is seen, by its SIMPLE_RADIAL cameras."""
    model, seen = colmap.read_model(folder), []
    for image in model.images:
        camera = model.cameras[image.camera_id]
        focal, cx, cy, k = camera.params
        x, y, depth = colmap.rotation_matrix(image.quat) @ point + image.translation
        x, y = x / depth, y / depth
        bend = 1 + k * (x * x + y * y)
        px, py = focal * bend * x + cx, focal * bend * y + cy
        if depth > 0 and 0 < px < camera.width and 0 < py < camera.height:
            seen.append({"image": image.name, "px": px, "py": py})
    return seen


def test_control_points_place_the_scene(tiny_flight: Path, tmp_path: Path) -> None:
    """Surveyed 40 m east of and 3 m above where GPS says, one of them wrongly, one pointed at only once."""
    settings = {"mapper": "incremental", "matching": "exhaustive"}
    first, _ = reconstruct(tiny_flight, tmp_path, **settings)
    by_gps = json.loads((first.dir / "georeference.json").read_text())
    assert by_gps["source"] == "GPS of the photographs"
    assert by_gps["utm"]["epsg"] == 32753
    origin = np.array([by_gps["origin"][k] for k in ("lat", "lon", "alt")])
    places = np.array([[0, 0, 0], [15, 5, 0], [-15, 8, 1], [5, -12, 0], [-8, -10, 2], [9, 14, 0.0]])
    surveyed = geodesy.enu_to_utm(places + np.array([40, 0, 3]), origin, 32753)
    surveyed[4, 0] += 5  # a wrong coordinate
    points = [
        {"name": f"P{i}", "x": x, "y": y, "z": z, "crs": "EPSG:32753",
         "observations": pixels(first.dir / "model", place)}
        for i, (place, (x, y, z)) in enumerate(zip(places, surveyed, strict=True))
    ]  # fmt: skip
    points[5]["observations"] = points[5]["observations"][:1]
    points[1]["observations"][0]["px"] += 60  # a wrong click

    def survey(folder: Path) -> None:
        (folder / "gcp.json").write_text(json.dumps(points))

    run, _ = reconstruct(tiny_flight, tmp_path, change=survey, **settings)
    card = json.loads((run.dir / "georeference.json").read_text())
    assert card["source"] == "ground control points"
    rows = {row["name"]: row for row in card["control_points"]["points"]}
    assert [name for name, row in rows.items() if row["used"]] == ["P0", "P1", "P2", "P3"]
    assert np.linalg.norm(rows["P4"]["residual_m"]) == pytest.approx(5, abs=0.3)
    assert rows["P5"]["problem"] == "pointed at in 1 registered photographs, 2 are needed"
    assert rows["P1"]["n_agreeing"] == rows["P1"]["n_registered"] - 1
    assert run.metrics["control_rmse_m"] == card["control_points"]["rmse_m"] < 0.2
    warned = " ".join(run.warnings)
    assert "2 ground control points not used: P4 (" in warned
    # GPS is now as far off as the survey says, and is reported so.
    offsets = np.array(
        [r["gps_residual_m"] for r in json.loads((run.dir / "registration.json").read_text())["photographs"]]
    )
    np.testing.assert_allclose(np.median(offsets, axis=0), [40, 0, 3], atol=1.5)


def test_too_few_control_points_leave_it_to_gps(tiny_flight: Path, tmp_path: Path) -> None:
    point = {"name": "only", "x": 136.5, "y": -30.9, "z": 1.0, "crs": "EPSG:4326", "observations": []}

    def survey(folder: Path) -> None:
        (folder / "gcp.json").write_text(json.dumps([point]))

    run, _ = reconstruct(tiny_flight, tmp_path, change=survey, mapper="incremental", matching="exhaustive")
    card = json.loads((run.dir / "georeference.json").read_text())
    assert card["source"] == "GPS of the photographs"
    assert any("only 0 of 1 control points could be triangulated" in warning for warning in run.warnings)
