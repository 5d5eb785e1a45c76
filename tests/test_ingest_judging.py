"""Rules over a whole set: planted bad photographs are named for what they are, good ones left alone."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import piexif
import pytest
from pictures import exif, gps_ifd, overwrite_middle, save, texture
from PIL import Image, ImageEnhance, ImageFilter

from spaceport_lab import ingest
from spaceport_lab.ingest.judging import in_order, leave_out
from spaceport_lab.ingest.photos import Photo, signature
from spaceport_lab.params import IngestParams
from spaceport_lab.workspace import StageRun


def take_in(source: Path, root: Path, **settings: object) -> tuple[StageRun, dict[str, dict]]:
    """Run the stage; its run and the rows of photos.json by source."""
    run = StageRun(root / "scene" / "runs" / "job", "ingest")
    run.dir.mkdir(parents=True, exist_ok=True)
    list(ingest.run(run, IngestParams(source=str(source), **settings)))
    return run, {photo["source"]: photo for photo in ingest.read_photos(run)}


def change(path: Path, target: Path, how, quality: int = 92) -> Path:
    """A photograph with its pixels changed and its EXIF kept."""
    with Image.open(path) as image:
        how(image.convert("RGB")).save(target, quality=quality, exif=image.info["exif"])
    return target


def move_gps(path: Path, metres_north: float, moment: str | None = None) -> None:
    tags = piexif.load(str(path))
    (d, _), (m, _), (s, q) = tags["GPS"][piexif.GPSIFD.GPSLatitude]
    total = (d + m / 60 + s / q / 3600) + metres_north / 111_200
    tags["GPS"][piexif.GPSIFD.GPSLatitude] = ((round(total * 1e7), 10_000_000), (0, 1), (0, 1))
    if moment:
        tags["Exif"][piexif.ExifIFD.DateTimeOriginal] = moment.encode()
    piexif.insert(piexif.dump(tags), str(path))


@pytest.fixture
def flight(tiny_flight: Path, tmp_path: Path) -> Path:
    """A copy of the sample's twelve photographs that may be spoilt."""
    return Path(shutil.copytree(tiny_flight / "images", tmp_path / "in"))


def plant(flight: Path) -> dict[str, str]:
    """Spoil the set in every way; file → the words its reason must have."""
    names = [f"SPL_{k:04d}.JPG" for k in range(1, 13)]
    change(flight / names[4], flight / names[4], lambda im: im.filter(ImageFilter.GaussianBlur(3)))
    save(flight / "holiday.jpg", texture(3, 500, 300), exif=exif(gps=gps_ifd()))
    (flight / "z_copy.JPG").write_bytes((flight / names[1]).read_bytes())
    again = ImageEnhance.Brightness
    change(flight / names[7], flight / "z_again.JPG", lambda im: again(im).enhance(1.1), quality=70)
    overwrite_middle(change(flight / names[9], flight / "z_corrupt.JPG", lambda im: im.rotate(9)))
    change(flight / names[2], flight / "z_white.JPG", lambda im: im.rotate(20).point(lambda v: 215 + v))
    move_gps(flight / names[6], 300.0)
    return {
        names[4]: "blurred: sharpness",
        "holiday.jpg": "wrong camera: Maker Flyer 1 500×300 in a set of Spaceport Lab Simulated drone camera",
        "z_copy.JPG": f"duplicate: the same file as {names[1]}",
        "z_again.JPG": f"near-duplicate: almost the same picture as {names[7]}",
        "z_corrupt.JPG": "corrupt",
        "z_white.JPG": "overexposed",
    }


def test_a_good_flight_is_left_alone(tiny_flight: Path, tmp_path: Path) -> None:
    run, photos = take_in(tiny_flight, tmp_path)
    assert {p["reason"] for p in photos.values()} == {p["gps_problem"] for p in photos.values()} == {None}
    assert ingest.excluded_rows(list(photos.values()))[0]["file"] == "none"
    assert not [w for w in run.warnings if "left out" in w or "odd" in w]


def test_planted_photographs_are_named_with_their_reason_and_the_rest_goes_on(
    flight: Path, tmp_path: Path
) -> None:
    wanted = plant(flight)
    run, photos = take_in(flight, tmp_path)
    left = {name: p["reason"] for name, p in photos.items() if p["reason"]}
    assert set(left) == set(wanted)
    for name, words in wanted.items():
        assert words in left[name], name
    assert run.metrics["n_used"] == 11
    stray = photos["SPL_0007.JPG"]
    assert (stray["status"], stray["gps"]) == ("used", None)
    assert "GPS jumps by" in stray["gps_problem"]
    assert sum(p["gps_problem"] is not None for p in photos.values()) == 1
    rows = {(row["file"], row["what"]) for row in ingest.excluded_rows(list(photos.values()))}
    assert rows == {(name, "left out") for name in wanted} | {("SPL_0007.JPG", "used, GPS dropped")}
    assert "signature" not in (run.dir / "photos.json").read_text()
    for kind in ("blurred", "wrong camera", "near-duplicate", "overexposed"):
        assert any(f"1 left out, {kind}" in warning for warning in run.warnings), run.warnings


def test_keep_overrules_by_name_and_says_so(flight: Path, tmp_path: Path) -> None:
    plant(flight)
    run, photos = take_in(flight, tmp_path, keep="spl_0005, holiday.jpg ,z_corrupt.JPG,nobody.jpg,")
    assert photos["SPL_0005.JPG"]["status"] == photos["holiday.jpg"]["status"] == "used"
    assert "blurred" in photos["SPL_0005.JPG"]["overruled"]
    assert photos["z_corrupt.JPG"]["status"] == "excluded"
    assert any("z_corrupt.jpg cannot be kept: truncated or corrupt" in w for w in run.warnings)
    assert any("names nobody.jpg, and there is no such" in w for w in run.warnings)
    rows = {row["file"]: row["what"] for row in ingest.excluded_rows(list(photos.values()))}
    assert rows["SPL_0005.JPG"] == "kept by name"


def test_every_rule_can_be_turned_off(flight: Path, tmp_path: Path) -> None:
    plant(flight)
    settings = {"exclude_duplicates": False, "min_sharpness": 0, "other_cameras": "keep", "max_gps_jump": 0,
                "max_clipped": 1, "max_brightness": 1}  # fmt: skip
    _, photos = take_in(flight, tmp_path, **settings)
    assert [name for name, p in photos.items() if p["reason"]] == ["z_corrupt.JPG"]
    assert photos["SPL_0007.JPG"]["gps"] is not None
    # Copies only: what is nearly the same stays.
    _, photos = take_in(flight, tmp_path, max_similarity=1)
    assert (photos["z_copy.JPG"]["reason"], photos["z_again.JPG"]["reason"]) == (
        "duplicate: the same file as SPL_0002.JPG",
        None,
    )


@pytest.mark.parametrize("rule", ["exclude", "warn"])
def test_a_second_camera_in_numbers_is_meant_and_only_said(rule: str, flight: Path, tmp_path: Path) -> None:
    for k in range(3):
        save(flight / f"other_{k}.jpg", texture(k, 500, 300), exif=exif(gps=gps_ifd()))
    _, photos = take_in(flight, tmp_path, other_cameras=rule)
    others = [p for name, p in photos.items() if name.startswith("other")]
    assert {p["status"] for p in others} == {"used"}
    assert all("wrong camera" in p["remark"] for p in others)


def test_warned_of_a_stray_camera_it_stays(flight: Path, tmp_path: Path) -> None:
    save(flight / "holiday.jpg", texture(3, 500, 300), exif=exif(gps=gps_ifd()))
    run, photos = take_in(flight, tmp_path, other_cameras="warn")
    assert photos["holiday.jpg"]["status"] == "used"
    assert any("1 used though odd: wrong camera" in warning for warning in run.warnings)


def test_a_photograph_that_lost_its_exif_is_not_of_another_camera(flight: Path, tmp_path: Path) -> None:
    with Image.open(flight / "SPL_0003.JPG") as image:
        image.convert("RGB").save(flight / "SPL_0003.JPG", quality=92)
    _, photos = take_in(flight, tmp_path)
    assert (photos["SPL_0003.JPG"]["status"], photos["SPL_0003.JPG"]["remark"]) == ("used", None)


def one(k: int, **changed: object) -> Photo:
    """A photograph that nothing can be said against, 10 m further north than the one before."""
    values = {
        "width": 4000, "height": 3000, "sharpness": 1.0, "contrast": 40.0, "exposure": 0.5, "clipped": 0.0,
        "sha256": f"f{k}", "pixels_sha256": f"p{k}", "make": "DJI", "model": "M3E",
        "taken": f"2026:05:04 12:{k // 30:02d}:{2 * k % 60:02d}",
        "gps": {"lat": 46.0 + 10 * k / 111_200, "lon": 7.0, "alt": 100.0},
        "signature": np.random.default_rng(k).integers(-90, 90, 64 * 48).astype(np.int8).tobytes(),
    }  # fmt: skip
    return Photo(f"{k:03d}.jpg", f"{k:03d}.jpg", **(values | changed))


def left_out(photos: list[Photo], **settings: object) -> dict[str, str]:
    return {p.name: p.reason for p in leave_out(photos, IngestParams(**settings)) if p.reason}


def test_sharpness_is_held_against_neighbours_not_against_the_set() -> None:
    houses = [one(k, sharpness=4.0) for k in range(12)]
    meadow = [one(k, sharpness=1.05) for k in range(12, 24)]
    blurred = replace(houses[4], sharpness=0.8)
    assert set(left_out([*houses[:4], blurred, *houses[5:], *meadow])) == {"004.jpg"}
    # Three blurred in a row are each other's neighbours: what is far under the whole set is still found.
    three = [replace(houses[k], sharpness=0.02) for k in (4, 5, 6)]
    assert set(left_out([*houses[:4], *three, *houses[7:]])) == {"004.jpg", "005.jpg", "006.jpg"}


@pytest.mark.parametrize(("brightness", "words"), [(0.02, "underexposed"), (0.98, "overexposed")])
def test_brightness(brightness: float, words: str) -> None:
    photos = [one(k) for k in range(5)]
    photos[2] = replace(photos[2], exposure=brightness)
    assert words in left_out(photos)["002.jpg"]


def dropped(photos: list[Photo], **settings: object) -> set[str]:
    return {p.name for p in leave_out(photos, IngestParams(**settings)) if p.gps_problem}


def shifted(photo: Photo, metres: float) -> Photo:
    return replace(photo, gps={**photo.gps, "lon": photo.gps["lon"] + metres / 77_000})


@pytest.mark.parametrize("where", [0, 1, 7, 18, 19])
def test_one_stray_position_is_dropped_wherever_it_is(where: int) -> None:
    photos = [one(k) for k in range(20)]
    photos[where] = shifted(photos[where], 100)
    assert dropped(photos) == {photos[where].name}
    assert dropped([replace(p, taken="") for p in photos]) == {photos[where].name}
    assert dropped(photos, max_gps_jump=0) == set()


def test_two_strays_and_another_continent() -> None:
    photos = [one(k) for k in range(20)]
    photos[5], photos[12] = shifted(photos[5], 200), shifted(photos[12], -900)
    photos[15] = shifted(photos[15], 2_000_000)
    photos[16] = shifted(photos[16], 2_000_000)
    assert dropped(photos) == {photos[i].name for i in (5, 12, 15, 16)}


def test_a_flight_to_another_field_is_no_jump() -> None:
    """Far, but flown for as long as that takes; and where both sides are many, nobody is a stray."""
    photos = [one(k) for k in range(20)]
    there = [shifted(p, 400) for p in photos[10:]]
    assert dropped([*photos[:10], *there]) == set()
    alone = replace(shifted(photos[10], 400), taken="2026:05:04 12:10:00")
    later = [replace(p, taken=f"2026:05:04 12:20:{k:02d}") for k, p in enumerate(photos[11:])]
    assert dropped([*photos[:10], alone, *later]) == set()


def test_gps_noise_of_a_hovering_drone_is_no_jump() -> None:
    rng = np.random.default_rng(1)
    photos = [one(k, gps={"lat": 46.0, "lon": 7.0 + rng.normal() * 4e-5, "alt": 9.0}) for k in range(30)]
    assert dropped(photos) == set()


def test_order_is_of_time_where_all_say_when() -> None:
    photos = [one(2), one(0), one(1)]
    assert in_order(photos) == [1, 2, 0]
    photos[0] = replace(photos[0], taken="", source="000.a")
    assert in_order(photos) == [0, 1, 2]


def test_signature_tells_the_same_picture_from_the_next(tiny_flight: Path) -> None:
    """The same picture, coarser and darker, correlates highly; moved by a fiftieth it does not."""

    def rows(image: Image.Image) -> np.ndarray:
        return np.frombuffer(signature(np.asarray(image.convert("L"), np.float32)), np.int8).astype(float)

    with Image.open(tiny_flight / "images" / "SPL_0004.JPG") as file:
        image = file.convert("RGB")
    packed = io.BytesIO()
    image.resize((320, 240)).point(lambda v: 0.8 * v).save(packed, "JPEG", quality=60)
    again = np.corrcoef(rows(image), rows(Image.open(packed)))[0, 1]
    moved = np.corrcoef(rows(image), rows(image.crop((8, 0, 400, 300))))[0, 1]
    assert again > 0.97
    assert moved < 0.9
    assert np.corrcoef(rows(image), rows(image.rotate(180)))[0, 1] < 0.3
    assert set(signature(np.full((40, 60), 7.0))) == {0}


def test_the_order_of_files_and_a_second_run_change_nothing(flight: Path, tmp_path: Path) -> None:
    plant(flight)
    first = json.loads((take_in(flight, tmp_path)[0].dir / "photos.json").read_text())
    assert json.loads((take_in(flight, tmp_path)[0].dir / "photos.json").read_text()) == first
