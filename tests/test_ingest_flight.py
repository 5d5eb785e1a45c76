"""Drone metadata, footprints and overlap: against brute force, known angles, and planned flights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import piexif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import gps_ifd, texture
from PIL import Image

from spaceport_lab import ingest
from spaceport_lab.ingest import flight
from spaceport_lab.ingest.photos import Photo
from spaceport_lab.ingest.tags import read_drone
from spaceport_lab.params import IngestParams
from spaceport_lab.workspace import StageRun

DJI = "http://www.dji.com/drone-dji/1.0/"


def packet(**fields: object) -> bytes:
    """An XMP packet as DJI writes it: everything in attributes of one element."""
    listed = "\n".join(f'   drone-dji:{name}="{value}"' for name, value in fields.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        f'<rdf:Description rdf:about="" xmlns:drone-dji="{DJI}"\n{listed}>\n</rdf:Description>\n'
        '</rdf:RDF>\n</x:xmpmeta>\n<?xpacket end="w"?>'
    ).encode()


# ---- XMP


def test_what_a_dji_drone_writes_is_read() -> None:
    xmp = packet(
        RelativeAltitude="+75.30", AbsoluteAltitude="+512.1", GimbalYawDegree="-179.90",
        GimbalPitchDegree="-89.90", GimbalRollDegree="+0.00", FlightYawDegree="-178.2", RtkFlag="50",
        RtkStdLon="0.012", RtkStdLat="0.013", RtkStdHgt="0.027", ShutterType="Mechanical",
        CalibratedFocalLength="3666.66",
    )  # fmt: skip
    drone, problem = read_drone(xmp)
    assert problem is None
    assert drone == {
        "relative_alt_m": 75.3, "yaw_deg": -179.9, "pitch_deg": -89.9, "roll_deg": 0.0,
        "flight_yaw_deg": -178.2, "focal_px": 3666.66, "rtk": "fixed", "rtk_std_m": [0.012, 0.013, 0.027],
        "shutter": "mechanical",
    }  # fmt: skip
    assert read_drone(xmp.decode()) == (drone, None)
    assert read_drone(xmp + b"\0" * 50) == (drone, None)


def test_fields_as_elements_are_read_too() -> None:
    xmp = f'<a xmlns:d="{DJI}"><d:RelativeAltitude> 12.5 </d:RelativeAltitude></a>'
    assert read_drone(xmp)[0] == {"relative_alt_m": 12.5}


@pytest.mark.parametrize(
    "fields",
    [
        {"RelativeAltitude": "nan"},
        {"RelativeAltitude": "1e9"},
        {"GimbalPitchDegree": "down"},
        {"RtkFlag": "7"},
    ],
)
def test_impossible_values_are_left_out(fields: dict[str, str]) -> None:
    assert read_drone(packet(**fields)) == (None, None)


def test_hostile_xml_costs_nothing() -> None:
    laughs = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;">]><a>&c;</a>'
    outside = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a RelativeAltitude="3">&b;</a>'
    for bad in (laughs, outside, "<a><b></a>", "\0\1\2", b"\xff\xfe<a/>", "<a>" * 5000):
        drone, problem = read_drone(bad)
        assert drone is None
        assert "XMP cannot be read" in problem
    assert "MB is not read" in read_drone(b"<a>" + b" " * 2_000_000 + b"</a>")[1]
    assert read_drone(None) == read_drone(b"") == (None, None)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_a_crash(content: bytes) -> None:
    assert len(read_drone(content)) == 2


# ---- geometry


def test_axes_of_known_directions() -> None:
    down_north = flight.axes(0, -90)
    assert down_north == pytest.approx(np.array([[1, 0, 0], [0, -1, 0], [0, 0, -1]]), abs=1e-12)
    to_east = flight.axes(90, 0)
    assert to_east == pytest.approx(np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]]), abs=1e-12)
    for angles in ((30, -50, 0), (200, -90, 10), (-40, 5, -170)):
        turned = flight.axes(*angles)
        assert turned @ turned.T == pytest.approx(np.eye(3), abs=1e-12)
        assert np.linalg.det(turned) == pytest.approx(1)
    # Rolled clockwise by 90 degrees, the picture's right side shows what was below.
    assert flight.axes(0, 0, 90)[0] == pytest.approx(flight.axes(0, 0)[1], abs=1e-12)


def test_footprint_straight_down_and_tilted() -> None:
    straight = flight.footprint(np.array([5.0, 7.0]), 100, (4000, 3000), 3000, flight.axes(0, -90))
    half = np.array([4000, 3000]) / 2 / 3000 * 100
    assert straight == pytest.approx(
        np.array([5.0, 7.0]) + half * [(-1, 1), (1, 1), (1, -1), (-1, -1)], abs=1e-9
    )
    east = flight.footprint(np.zeros(2), 100, (4000, 3000), 3000, flight.axes(90, -90))
    assert np.ptp(east, axis=0) == pytest.approx((100, 400 / 3))
    tilted = flight.footprint(np.zeros(2), 100, (4000, 3000), 3000, flight.axes(0, -60))
    half_angle = math.degrees(math.atan(1500 / 3000))
    assert tilted[2, 1] == pytest.approx(100 / math.tan(math.radians(60 + half_angle)))
    assert np.linalg.norm(tilted[:2], axis=1).max() <= 100 * flight.REACH + 1e-9
    horizon = flight.footprint(np.zeros(2), 100, (4000, 3000), 3000, flight.axes(0, 0))
    assert np.isfinite(horizon).all()
    assert np.linalg.norm(horizon, axis=1).max() == pytest.approx(100 * flight.REACH)


@given(st.integers(0, 10_000))
def test_overlap_against_counted_points(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def quad() -> np.ndarray:
        yaw, pitch = rng.uniform(0, 360), rng.uniform(-90, -50)
        return flight.footprint(rng.uniform(-60, 60, 2), 100, (4000, 3000), 3000, flight.axes(yaw, pitch))

    def inside(points: np.ndarray, poly: np.ndarray) -> np.ndarray:
        edges = np.roll(poly, -1, axis=0) - poly
        toward = points[:, None] - poly
        sides = edges[:, 0] * toward[..., 1] - edges[:, 1] * toward[..., 0]
        return (sides >= 0).all(axis=1) | (sides <= 0).all(axis=1)

    one, other = quad(), quad()
    low, high = one.min(axis=0), one.max(axis=0)
    points = rng.uniform(low, high, (20_000, 2))
    mine = inside(points, one)
    counted = inside(points[mine], other).mean()
    assert flight.overlap(one, other) == pytest.approx(counted, abs=0.025)
    assert flight.overlap(one[::-1], other) == pytest.approx(flight.overlap(one, other))
    assert flight.overlap(one, one) == pytest.approx(1)
    assert flight.overlap(one, one + 1000) == 0


# ---- whole flights


def fly(lines: int, each: int, step: float, aside: float, **drone: object) -> list[Photo]:
    """A lawnmower of north-south lines at 100 m, 4000×3000 px of a lens of 24 mm; looking straight down."""
    photos = []
    for line in range(lines):
        for k in range(each):
            north, east = (k if line % 2 == 0 else each - 1 - k) * step, line * aside
            number = len(photos)
            values = {"relative_alt_m": 100.0, "yaw_deg": 180.0 * (line % 2), "pitch_deg": -90.0} | drone
            gps = {"lat": 46 + north / 111_147, "lon": 7 + east / 77_471, "alt": 600.0}
            photos.append(
                Photo(f"{number:03d}.jpg", f"{number:03d}.jpg", width=4000, height=3000, gps=gps,
                      focal_35mm=24, drone=values, exposure_s=1 / 200,
                      taken=f"2026:05:04 12:{number // 30:02d}:{number * 2 % 60:02d}")
            )  # fmt: skip
    return photos


FOCAL = 24 / 43.267 * 5000
WIDE, TALL = 4000 / FOCAL * 100, 3000 / FOCAL * 100


@pytest.mark.parametrize("along", [0.3, 0.65, 0.85])
@pytest.mark.parametrize("across", [0.45, 0.75])
def test_overlap_is_what_the_flight_was_planned_with(along: float, across: float) -> None:
    photos = fly(4, 9, TALL * (1 - along), WIDE * (1 - across))
    about = flight.describe(photos, IngestParams())
    assert about["overlap_along"] == pytest.approx(along, abs=0.01)
    assert about["overlap_across"] == pytest.approx(across, abs=0.03)
    assert about["gsd_cm"] == pytest.approx(100 * 100 / FOCAL)
    assert about["height_from"] == "the drone, above take-off"
    assert about["direction_from"] == "gimbal"
    low = "below 60% registration often fails"
    assert any(low in sentence for sentence in about["words"]) == (min(along, across) < 0.6)


def test_one_line_has_no_overlap_across() -> None:
    about = flight.describe(fly(1, 9, 20, 0), IngestParams())
    assert about["overlap_across"] is None
    assert about["spacing_m"] == pytest.approx(20, rel=0.01)
    assert about["length_m"] == pytest.approx(160, rel=0.01)
    assert about["speed_m_s"] == pytest.approx(10, rel=0.01)
    assert about["blur_px"] == pytest.approx(10 / 200 / (100 / FOCAL), rel=0.01)


def test_views_of_opposite_directions_do_not_overlap() -> None:
    """Both see the same ground, one from the south and one from the north: nothing can be matched."""
    toward = fly(1, 6, 5, 0, pitch_deg=-40.0)
    facing = [
        replace(p, drone={**p.drone, "yaw_deg": 180.0 * (k % 2)}) if p.drone else p
        for k, p in enumerate(toward)
    ]
    assert flight.describe(toward, IngestParams())["overlap_along"] > 0.8
    assert flight.describe(facing, IngestParams())["overlap_along"] == 0


def test_nothing_is_pretended() -> None:
    photos = fly(2, 6, 20, 20)
    bare = [replace(p, drone=None) for p in photos]
    about = flight.describe(bare, IngestParams())
    assert about["gsd_cm"] is about["overlap_along"] is about["height_from"] is None
    assert any("Height above the ground unknown" in sentence for sentence in about["words"])
    assert about["spacing_m"] == pytest.approx(20, rel=0.01)
    nowhere = flight.describe([replace(p, gps=None) for p in photos], IngestParams())
    assert nowhere["views"] == []
    assert "No GPS" in nowhere["words"][0]
    lensless = flight.describe([replace(p, focal_35mm=None) for p in photos], IngestParams())
    assert lensless["gsd_cm"] is lensless["overlap_along"] is None
    assert lensless["height_m"] == 100


def test_height_from_a_parameter_and_from_a_photograph_on_the_ground() -> None:
    bare = [replace(p, drone=None) for p in fly(2, 6, 20, 20)]
    given_height = flight.describe(bare, IngestParams(flying_height=100))
    assert given_height["gsd_cm"] == pytest.approx(100 * 100 / FOCAL)
    assert given_height["direction_from"] == "assumed straight down"
    assert any("if cameras look straight down" in sentence for sentence in given_height["words"])
    ground = replace(bare[0], gps={**bare[0].gps, "alt": 500.0})
    started = flight.describe([ground, *bare[1:]], IngestParams())
    assert started["height_from"] == "GPS, above the lowest photograph"
    assert started["height_m"] == pytest.approx(100)
    assert started["views"][0]["footprint"] is None


def test_focal_length() -> None:
    photo = fly(1, 2, 10, 0)[0]
    assert flight.focal_px(replace(photo, width=6000, height=4000)) == pytest.approx(24 / 36 * 6000, rel=1e-3)
    calibrated = replace(photo, focal_35mm=None, drone={"focal_px": 3000.0})
    assert flight.focal_px(calibrated) == 3000
    assert flight.focal_px(replace(calibrated, width=400, height=300)) is None, "of the original's pixels"
    assert flight.focal_px(replace(photo, focal_35mm=None)) is None


def test_from_files_to_the_record(tmp_path: Path) -> None:
    """Through real JPEG files: overlap is known before a second is spent on matching; too little is said."""
    source = tmp_path / "in"
    source.mkdir()
    for k in range(6):
        tags = {
            "0th": {piexif.ImageIFD.Make: b"DJI", piexif.ImageIFD.Model: b"M3E"},
            "Exif": {piexif.ExifIFD.FocalLengthIn35mmFilm: 24},
            "GPS": gps_ifd(46.5 + k * 60 / 111_150, 7.5),
        }
        xmp = packet(RelativeAltitude="+100.0", GimbalPitchDegree="-90.0", GimbalYawDegree="0", RtkFlag="50")
        image = Image.fromarray(texture(k))
        image.save(source / f"{k}.jpg", exif=piexif.dump(tags), xmp=xmp, quality=92)
    run = StageRun(tmp_path / "scene" / "runs" / "job", "ingest")
    run.dir.mkdir(parents=True)
    list(ingest.run(run, IngestParams(source=str(source))))
    focal = 24 / 43.267 * 500
    assert run.metrics["overlap_along"] == pytest.approx(1 - 60 / (300 / focal * 100), abs=0.01)
    assert run.metrics["gsd_cm"] == pytest.approx(100 * 100 / focal)
    assert run.metrics["flying_height_m"] == 100
    assert any("below 60% registration often fails" in warning for warning in run.warnings)
    assert [view["name"] for view in ingest.read_flight(run)["views"]] == [f"{k}.jpg" for k in range(6)]
    assert "flight.json" in run.outputs
    assert any("RTK was fixed" in row["the flight"] for row in ingest.flight_rows(ingest.read_flight(run)))
