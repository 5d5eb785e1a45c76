"""The sample flight: the same bytes each time, EXIF and ground truth that agree with the pictures."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from spaceport_lab.errors import ParamsError, WorkspaceError
from spaceport_lab.ingest import flight as about_flights
from spaceport_lab.ingest.photos import judge
from spaceport_lab.params import IngestParams
from spaceport_lab.sample import flight, ground, layout, make_sample, noise, render, survey
from spaceport_lab.sample.site import Site, build_site

SMALL = {"n_images": 3, "width": 96, "height": 72}


@pytest.fixture(scope="module")
def site() -> Site:
    return build_site(7)


def truth_of(folder: Path) -> dict:
    return json.loads((folder / "ground_truth.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def enu_of(lat: float, lon: float, alt: float, origin: dict[str, float]) -> np.ndarray:
    """Local east-north-up metres of a WGS84 position, straight from the definition of the ellipsoid."""

    def ecef(lat: float, lon: float, alt: float) -> np.ndarray:
        f, (p, q) = 1 / 298.257223563, (math.radians(lat), math.radians(lon))
        e2 = f * (2 - f)
        n = 6378137.0 / math.sqrt(1 - e2 * math.sin(p) ** 2)
        flat = (n + alt) * math.cos(p)
        return np.array([flat * math.cos(q), flat * math.sin(q), (n * (1 - e2) + alt) * math.sin(p)])

    p, q = math.radians(origin["lat"]), math.radians(origin["lon"])
    east = [-math.sin(q), math.cos(q), 0.0]
    up = [math.cos(p) * math.cos(q), math.cos(p) * math.sin(q), math.sin(p)]
    return np.array([east, np.cross(up, east), up]) @ (ecef(lat, lon, alt) - ecef(**origin))


def pixel_of(point: np.ndarray, camera: dict, truth: dict) -> np.ndarray | None:
    """Where a world point falls on a photograph, or None where that is outside."""
    x, y, z = np.array(camera["R"]) @ (np.asarray(point) - camera["center"])
    uv = truth["focal_px"] * np.array([x, y]) / z + truth["principal_point"]
    return uv if z > 0 and (uv > 2).all() and (uv < np.array(truth["image_size"]) - 2).all() else None


def sees(site: Site, camera: dict, point: np.ndarray, slack: float = 0.3) -> bool:
    """Whether nothing stands between the camera and the point."""
    center = np.array(camera["center"])
    towards = np.asarray(point) - center
    depth, _, _ = site.cast(np.concatenate([center, towards])[None].astype(np.float32))
    return abs(depth[0] - 1.0) * np.linalg.norm(towards) < slack


def test_what_a_sample_folder_holds(tiny_flight: Path) -> None:
    truth = truth_of(tiny_flight)
    names = sorted(p.name for p in (tiny_flight / "images").iterdir())
    assert names == [f"SPL_{k:04d}.JPG" for k in range(1, 13)] == sorted(truth["cameras"])
    assert truth["image_size"] == [400, 300]
    assert truth["focal_px"] == pytest.approx(360.0)
    assert truth["principal_point"] == [200.0, 150.0]
    for camera in truth["cameras"].values():
        rotation = np.array(camera["R"])
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(rotation) == pytest.approx(1.0)
        assert rotation[2, 2] < -0.3, "drones look down"
    start, end = (truth["known_distance"][k]["enu"] for k in ("from", "to"))
    assert truth["known_distance"]["metres"] == pytest.approx(float(np.linalg.norm(np.subtract(start, end))))
    assert truth["known_distance"]["metres"] > 30


def test_photographs_are_exposed_as_photographs(tiny_flight: Path) -> None:
    for path in sorted((tiny_flight / "images").iterdir()):
        with Image.open(path) as image:
            assert (image.size, image.mode, image.format) == ((400, 300), "RGB", "JPEG")
            grey = np.asarray(image.convert("L"), float)
        assert 70 < grey.mean() < 180
        assert grey.std() > 20
        assert (grey < 3).mean() < 0.02
        assert (grey > 252).mean() < 0.02
        # Detail of a few pixels everywhere, or there is nothing to match.
        blocks = grey[:288, :384].reshape(36, 8, 48, 8).std(axis=(1, 3))
        assert np.median(blocks) > 4


def test_exif_says_where_gps_believed_the_drone_to_be(tiny_flight: Path) -> None:
    truth = truth_of(tiny_flight)
    errors = []
    for name, camera in truth["cameras"].items():
        with Image.open(tiny_flight / "images" / name) as image:
            exif = image.getexif()
        gps = exif.get_ifd(IFD.GPSInfo)
        sign = {"N": 1, "S": -1, "E": 1, "W": -1}
        lat, lon = (
            sign[gps[ref]] * sum(float(part) / 60**k for k, part in enumerate(gps[value]))
            for ref, value in ((GPS.GPSLatitudeRef, GPS.GPSLatitude), (GPS.GPSLongitudeRef, GPS.GPSLongitude))
        )
        position = enu_of(lat, lon, float(gps[GPS.GPSAltitude]), truth["origin"])
        np.testing.assert_allclose(position, camera["gps_enu"], atol=0.005)
        errors.append(position - camera["center"])
        details = exif.get_ifd(IFD.Exif)
        assert exif[Base.Make]
        assert exif[Base.Model]
        assert exif[Base.DateTime].startswith("2025:")
        assert details[Base.FocalLengthIn35mmFilm] == round(36 * truth["focal_px"] / truth["image_size"][0])
        assert float(details[Base.FocalLength]) > 0
    spread = np.array(errors) / truth["gps_noise_m"]
    assert np.abs(spread).max() < 5
    assert 0.5 < spread.std() < 1.6, "noise of the size that ground_truth.json claims"


def test_xmp_says_how_high_and_where_the_gimbal_looks(tiny_flight: Path) -> None:
    """As ingest reads it, against the true poses; it estimates the overlap of the sample from that."""
    truth = truth_of(tiny_flight)
    photos = []
    for path in sorted((tiny_flight / "images").iterdir()):
        photos.append(judge(path, path.name, path.name, tiny_flight.parent / "thumbnails" / path.name))
        camera, drone = truth["cameras"][path.name], photos[-1].drone
        assert drone["relative_alt_m"] == pytest.approx(camera["center"][2], abs=0.006)
        axes = about_flights.axes(drone["yaw_deg"], drone["pitch_deg"], drone["roll_deg"])
        np.testing.assert_allclose(axes, camera["R"], atol=0.003)
    flown = about_flights.describe(photos, IngestParams())
    assert (flown["direction_from"], flown["height_from"]) == ("gimbal", "the drone, above take-off")
    assert 0.6 < flown["overlap_along"] < 0.95
    assert flown["gsd_cm"] == pytest.approx(100 * 95 / truth["focal_px"], rel=0.15)


def test_known_points_are_where_the_truth_says(tiny_flight: Path, site: Site) -> None:
    """A survey target's white quarters are bright and its black ones dark at the projected pixels."""
    truth = truth_of(tiny_flight)
    seen = 0
    for name, camera in truth["cameras"].items():
        with Image.open(tiny_flight / "images" / name) as image:
            grey = np.asarray(image.convert("L"), float)
        for target, point in truth["points"].items():
            if not target.startswith("GCP"):
                continue
            corners = [
                np.add(point, (0.4 * x, 0.4 * y, 0.0)) for x, y in ((1, 1), (-1, -1), (1, -1), (-1, 1))
            ]
            pixels = [pixel_of(corner, camera, truth) for corner in corners]
            if any(p is None for p in pixels) or not all(sees(site, camera, c) for c in corners):
                continue
            a, b, c, d = (grey[int(v), int(u)] for u, v in pixels)
            assert min(a, b) > max(c, d) + 40, (name, target)
            seen += 1
    assert seen >= 12


def test_the_rocket_tip_stands_where_rays_find_it(site: Site) -> None:
    tip = np.array(layout.known_points()["rocket tip"])
    shots = flight.plan_flight(30, 7)
    hits = 0
    for shot in shots:
        camera = {"center": shot.center, "R": shot.rotation}
        assert not sees(site, camera, tip + np.array([0, 0, 1.0]), slack=0.2), "nothing above the tip"
        hits += sees(site, camera, tip - np.array([0, 0, 0.15]))
    assert hits >= 27, "the tip is hidden from a few views at the most"


def test_rays_go_through_the_pixels_they_are_for() -> None:
    shot = flight.plan_flight(5, 3)[2]
    rays = render.camera_rays(shot.center, shot.rotation, 90.0, 40, 30, 10, 12).reshape(2, 40, 4, 6)
    local = rays[..., 3:].astype(float) @ shot.rotation.T
    pixels = 90.0 * local[..., :2] / local[..., 2:] + [20.0, 15.0]
    np.testing.assert_allclose(local[..., 2], 1.0, atol=1e-5)
    np.testing.assert_allclose(pixels.mean(axis=2)[1, 7], [7.5, 11.5], atol=1e-3)


def test_every_part_of_the_flight_overlaps() -> None:
    for count in (12, 30):
        shots = flight.plan_flight(count, 7)
        axes = np.array([shot.rotation[2] for shot in shots])
        angles = np.degrees(np.arccos(np.clip(axes @ axes.T, -1, 1))) + 360 * np.eye(count)
        assert angles.min(axis=1).max() < 32, "SIFT matches views up to about thirty degrees apart"


def test_the_survey_points_at_what_is_seen_of_the_targets(site: Site, tiny_flight: Path) -> None:
    truth, shots = truth_of(tiny_flight), flight.plan_flight(12, 7)
    first, *lines = survey.gcp_list(site, shots, 360.0, 400, 300, 7).splitlines()
    assert first == "EPSG:4326"
    pointed = {}
    for lon, lat, alt, px, py, photo, name in (line.split() for line in lines):
        place, said = flight.enu_to_wgs84(np.array(truth["points"][name])), (lat, lon, alt)
        assert (np.abs(np.subtract(place, [float(x) for x in said])) < (1e-8, 1e-8, 1e-3)).all()
        pointed[photo, name] = float(px), float(py)
    for photo, camera in truth["cameras"].items():
        for name, point in truth["points"].items():
            x, y, depth = np.array(camera["R"]) @ (np.array(point) - camera["center"])
            px, py = 360 * x / depth + 200, 360 * y / depth + 150
            inside = 4 < px < 396 and 4 < py < 296
            wanted = name in layout.CONTROL_POINTS and name != truth["known_distance"]["to"]["name"]
            assert ((photo, name) in pointed) == (wanted and inside and sees(site, camera, point))
            if (photo, name) in pointed:
                assert np.hypot(*np.subtract(pointed[photo, name], (px, py))) < 1.5
    assert len({name for _, name in pointed}) >= 3


def test_same_settings_same_bytes_on_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_sample(tmp_path / "a", **SMALL)
    monkeypatch.setattr(render, "_workers", lambda: 5)
    make_sample(tmp_path / "b", **SMALL)
    make_sample(tmp_path / "c", **SMALL, seed=8)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a["images/SPL_0001.JPG"] != c["images/SPL_0001.JPG"]
    assert {"gcp_list.txt", "ground_truth.json"} <= set(a)


def test_a_finished_sample_is_left_and_an_unfinished_one_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "scene"
    calls: list[tuple[int, int, str]] = []
    made = make_sample(folder, **SMALL, progress=lambda *state: calls.append(state))
    assert made.created
    assert made.bytes == sum(p.stat().st_size for p in (folder / "images").iterdir())
    assert calls[-1][:2] == (3, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["scene"], "no leftovers beside it"
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert not make_sample(folder, **SMALL).created
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    (folder / "runs").mkdir()
    (folder / "images" / "SPL_0002.JPG").unlink()
    assert make_sample(folder, **SMALL).created
    assert (folder / "images" / "SPL_0002.JPG").is_file()
    assert make_sample(folder, **{**SMALL, "n_images": 4}).n_images == 4
    assert len(list((folder / "images").iterdir())) == 4
    assert make_sample(folder, **SMALL, survey=False).created
    assert not (folder / "gcp_list.txt").exists()
    assert make_sample(folder, **SMALL).created
    assert (folder / "gcp_list.txt").is_file()
    assert (folder / "runs").is_dir(), "runs of the scene stay"


def test_other_photographs_are_never_touched(tmp_path: Path) -> None:
    photo = tmp_path / "images" / "DJI_0001.JPG"
    photo.parent.mkdir()
    photo.write_bytes(b"mine")
    with pytest.raises(WorkspaceError, match="not a sample"):
        make_sample(tmp_path, **SMALL)
    assert contents(tmp_path) == {"images/DJI_0001.JPG": b"mine"}


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(WorkspaceError, match="No space left"):
        make_sample(tmp_path / "scene", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="is a file"):
        make_sample(tmp_path / "file" / "scene", **SMALL)


@pytest.mark.parametrize(("name", "value"), [("n_images", 2), ("width", 10), ("height", 90000), ("seed", -1)])
def test_settings_out_of_range(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(ParamsError, match=name):
        make_sample(tmp_path / "scene", **{**SMALL, name: value})
    assert not (tmp_path / "scene").exists()


def test_noise_is_centred_and_fades_before_it_can_alias() -> None:
    xy = np.random.default_rng(0).uniform(-500, 500, (4000, 2))
    near = np.array([noise.fractal(x, y, 3.0, 4, 0.6, 0.01, 5) for x, y in xy])
    far = np.array([noise.fractal(x, y, 3.0, 4, 0.6, 2.0, 5) for x, y in xy])
    assert abs(near.mean()) < 0.03
    assert 0.1 < near.std() < 0.5
    assert not far.any(), "waves shorter than two samples leave nothing"


def test_the_ground_map_keeps_its_mean_at_every_footprint() -> None:
    image = np.random.default_rng(1).uniform(0, 1, (64, 64, 3)).astype(np.float32)
    pyramid = ground._pyramid(image, 32.0)
    assert pyramid.sizes.tolist() == [64, 32, 16]
    args = (pyramid.half, pyramid.texels, pyramid.starts, pyramid.sizes)
    sharp, blurred = np.zeros(3), np.zeros(3)
    ground.look_up(-32.0 + 10.5, -32.0 + 20.5, 1.0, *args, sharp, 1.0)
    np.testing.assert_allclose(sharp, image[10, 20], atol=1e-5)
    ground.look_up(-32.0 + 10.0, -32.0 + 18.0, 4.0, *args, blurred, 1.0)
    np.testing.assert_allclose(blurred, image[8:12, 16:20].mean(axis=(0, 1)), atol=1e-5)
