"""The ingest stage: what it takes in, what it leaves out and why, and what it refuses."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import piexif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import exif, good_set, gps_ifd, overwrite_middle, save, texture
from PIL import Image, ImageFilter

from spaceport_lab import ingest
from spaceport_lab.errors import PhotosError
from spaceport_lab.ingest.photos import judge, sharpness
from spaceport_lab.ingest.sources import flat_names
from spaceport_lab.ingest.tags import read_gps
from spaceport_lab.params import IngestParams
from spaceport_lab.workspace import StageRun


def take_in(source: Path, root: Path, **settings: object) -> StageRun:
    """Run the stage on a source."""
    run = StageRun(root / "scene" / "runs" / "job", "ingest")
    run.dir.mkdir(parents=True, exist_ok=True)
    states = list(ingest.run(run, IngestParams(source=str(source), **settings)))
    assert states
    assert all(0 <= s.step <= s.total for s in states)
    return run


def photos_of(run: StageRun) -> dict[str, dict]:
    content = json.loads((run.dir / "photos.json").read_text())
    return {photo["source"]: photo for photo in content["photos"]}


def reason(tmp_path: Path, name: str, **settings: object) -> str | None:
    """Why a file of this name, put with three good photographs, was left out."""
    run = take_in(good_set(tmp_path / "in"), tmp_path, **settings)
    photo = photos_of(run)[name]
    assert (photo["status"] == "used") == (photo["reason"] is None)
    assert (run.dir / "images" / photo["name"]).exists() == (photo["reason"] is None)
    return photo["reason"]


def test_a_good_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    source = good_set(tmp_path / "in", 4)
    before = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in source.iterdir()}
    run = take_in(source, tmp_path)
    assert run.metrics["n_photos"] == run.metrics["n_used"] == run.metrics["n_gps"] == 4
    assert run.warnings == []
    after = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (run.dir / "images").iterdir()}
    assert after == before
    assert before == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in source.iterdir()}
    photo = photos_of(run)["good_1.jpg"]
    assert (photo["width"], photo["height"], photo["format"], photo["converted"]) == (400, 300, "JPEG", "")
    assert photo["gps"] == pytest.approx({"lat": 46.5001, "lon": 7.5001, "alt": 600.0})
    assert (photo["make"], photo["model"], photo["focal_mm"]) == ("Maker", "Flyer 1", 8.8)
    assert photo["taken"] == "2026:05:04 12:30:00"
    assert photo["sha256"] == before["good_1.jpg"]
    assert set(run.outputs) == {"images", "thumbnails", "photos.json", "flight.json"}
    with Image.open(run.dir / "thumbnails" / photo["thumbnail"]) as thumbnail:
        assert max(thumbnail.size) == 320


def test_a_second_run_leaves_the_same(tmp_path: Path) -> None:
    source = good_set(tmp_path / "in")
    first = (take_in(source, tmp_path).dir / "photos.json").read_bytes()
    (tmp_path / "scene/runs/job/01_ingest/images/left_over.jpg").write_bytes(b"x")
    run = take_in(source, tmp_path)
    assert (run.dir / "photos.json").read_bytes() == first
    assert sorted(p.name for p in (run.dir / "images").iterdir()) == [
        "good_0.jpg",
        "good_1.jpg",
        "good_2.jpg",
    ]


def test_subfolders_unicode_and_blanks(tmp_path: Path) -> None:
    source = tmp_path / "in"
    names = ["a/IMG 1.jpg", "b/IMG 1.jpg", "b/Fähre über Ö.jpg", "b/img_1.JPG", "a_IMG_1.jpg"]
    for seed, name in enumerate(names):
        save(source / name, texture(seed))
    run = take_in(source, tmp_path)
    kept = [p.name for p in (run.dir / "images").iterdir()]
    assert len({name.casefold() for name in kept}) == len(kept) == 5
    assert not any(c in name for name in kept for c in " /\\")
    assert any("Fähre_über_Ö" in name for name in kept)
    assert set(photos_of(run)) == set(names)


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=40).filter(
            lambda s: not s.startswith("/") and s.strip("/. ") and ".." not in s
        ),
        unique=True,
        max_size=12,
    )
)
def test_flat_names_are_unique_and_harmless(names: list[str]) -> None:
    flat = flat_names(tuple(sorted({Path(n).as_posix() for n in names})))
    values = list(flat.values())
    assert len({v.casefold() for v in values}) == len(values)
    for value in values:
        assert value
        assert not value.startswith(".")
        assert len(value.encode()) <= 255
        assert not any(c.isspace() or c in "/\\:\0" or not c.isprintable() for c in value)


def test_names_of_one_folder_stay(tmp_path: Path) -> None:
    assert flat_names(("x/y/DJI_1.JPG", "x/y/DJI_2.JPG")) == {
        "x/y/DJI_1.JPG": "DJI_1.JPG",
        "x/y/DJI_2.JPG": "DJI_2.JPG",
    }


def test_scene_folder_and_default_source(tmp_path: Path) -> None:
    good_set(tmp_path / "scene" / "images")
    good_set(tmp_path / "scene" / "runs" / "old" / "01_ingest" / "images", 5, 40)
    assert take_in(tmp_path / "scene", tmp_path).metrics["n_photos"] == 3
    run = StageRun(tmp_path / "scene" / "runs" / "job", "ingest")
    list(ingest.run(run, IngestParams()))
    assert run.metrics["n_photos"] == 3
    assert take_in(tmp_path / "scene" / "runs" / "old", tmp_path).metrics["n_photos"] == 5


def test_our_own_runs_are_not_photographs(tmp_path: Path) -> None:
    source = good_set(tmp_path / "scene")
    good_set(tmp_path / "scene" / "runs" / "old" / "01_ingest" / "images", 5, 40)
    (tmp_path / "scene" / "runs" / "old" / "run.json").write_text("{}")
    assert take_in(source, tmp_path).metrics["n_photos"] == 3


def test_ground_truth_beside_or_above_is_kept(tmp_path: Path) -> None:
    good_set(tmp_path / "in" / "images")
    (tmp_path / "in" / "ground_truth.json").write_text('{"cameras": {}}')
    run = take_in(tmp_path / "in", tmp_path)
    assert run.output("ground_truth.json").read_text() == '{"cameras": {}}'
    assert "ground_truth.json" in run.outputs
    (tmp_path / "in" / "ground_truth.json").rename(tmp_path / "in" / "images" / "ground_truth.json")
    assert "ground_truth.json" in take_in(tmp_path / "in" / "images", tmp_path).outputs


# ---- too few


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, "there are no photographs here"),
        (1, "one photograph cannot be reconstructed"),
        (2, "two photographs cannot be reconstructed"),
    ],
)
def test_too_few(count: int, message: str, tmp_path: Path) -> None:
    source = good_set(tmp_path / "in", count)
    source.mkdir(exist_ok=True)
    with pytest.raises(PhotosError, match=message) as caught:
        take_in(source, tmp_path)
    assert "at least 3 usable photographs" in str(caught.value)
    assert str(source) in str(caught.value)


def test_too_few_names_what_came(tmp_path: Path) -> None:
    source = good_set(tmp_path / "in", 2)
    (source / "notes.jpg").write_text("no picture at all")
    (source / ".DS_Store").write_bytes(b"\0\1")
    with pytest.raises(PhotosError, match=r"two photographs usable of 3[\s\S]*text named .jpg \(notes.jpg\)"):
        take_in(source, tmp_path)
    (source / "good_0.jpg").unlink()
    (source / "good_1.jpg").unlink()
    with pytest.raises(PhotosError, match="none of the files is a usable photograph"):
        take_in(source, tmp_path)


def test_only_system_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "Thumbs.db").write_bytes(b"x")
    with pytest.raises(PhotosError, match="only 1 files that are none"):
        take_in(tmp_path / "in", tmp_path)


def test_source_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(PhotosError, match="no photographs at this path"):
        take_in(tmp_path / "nowhere", tmp_path)
    single = save(tmp_path / "one.jpg", texture(0))
    with pytest.raises(PhotosError, match=r"folder or a zip[\s\S]*give the folder the file lies in"):
        take_in(single, tmp_path)


# ---- files that cannot be read


def test_truncated(tmp_path: Path) -> None:
    path = save(tmp_path / "in" / "bad.jpg", texture(9))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "truncated" in reason(tmp_path, "bad.jpg")


@pytest.mark.parametrize("seed", range(4))
def test_corrupt_in_the_middle(seed: int, tmp_path: Path) -> None:
    path = save(tmp_path / "in" / "bad.jpg", texture(9))
    overwrite_middle(path, seed)
    assert "corrupt" in reason(tmp_path, "bad.jpg")


def test_corrupt_in_the_middle_is_what_pillow_alone_passes_over(tmp_path: Path) -> None:
    """The reason there is a second decoder: some of these load without a word."""
    silent = 0
    for seed in range(8):
        path = save(tmp_path / "in" / f"bad{seed}.jpg", texture(9))
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 300] = bytes(300)
        content[middle + seed] = seed
        path.write_bytes(content)
        with Image.open(path) as image:
            image.load()
            silent += 1
        photo = judge(path, path.name, path.name, tmp_path / "thumbnail.jpg")
        assert photo.reason is not None
        assert "corrupt" in photo.reason
    assert silent == 8


def test_corrupt_header(tmp_path: Path) -> None:
    path = save(tmp_path / "in" / "bad.jpg", texture(9))
    content = bytearray(path.read_bytes())
    content[2:40] = bytes(38)
    path.write_bytes(content)
    assert "header is broken" in reason(tmp_path, "bad.jpg")


def test_png_with_a_wrong_checksum(tmp_path: Path) -> None:
    path = save(tmp_path / "in" / "bad.png", texture(9, 300, 300))
    overwrite_middle(path, length=20)
    assert "corrupt" in reason(tmp_path, "bad.png")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"just some words, saved under the wrong name\n" * 20, "text named .jpg"),
        (bytes(range(256)) * 8, "not an image"),
        (struct.pack(">I", 24) + b"ftypheic" + bytes(200), "HEIC"),
        (struct.pack(">I", 24) + b"ftypisom" + bytes(200), "a video"),
    ],
)
def test_no_image_at_all(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.jpg").write_bytes(content)
    assert words in reason(tmp_path, "bad.jpg")


def test_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.jpg").symlink_to(tmp_path / "gone.jpg")
    assert reason(tmp_path, "bad.jpg") == "a link to nothing"


def test_folders_linked_in_a_circle(tmp_path: Path) -> None:
    source = good_set(tmp_path / "in")
    (source / "again").symlink_to(source)
    assert take_in(source, tmp_path).metrics["n_photos"] == 3


def test_system_files_and_sidecars_are_counted_not_judged(tmp_path: Path) -> None:
    source = good_set(tmp_path / "in")
    for name in (".DS_Store", "Thumbs.db", "__MACOSX/._good_0.jpg", "DJI_0001.SRT", ".hidden/x.jpg"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"x")
    run = take_in(source, tmp_path)
    assert run.metrics["n_photos"] == 3
    assert run.metrics["n_ignored"] == 5
    listed = json.loads((run.dir / "photos.json").read_text())["ignored"]
    assert {entry["source"] for entry in listed} >= {".DS_Store", "DJI_0001.SRT"}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # the stage silences them for all its threads
@given(st.binary(max_size=400))
def test_any_bytes_are_judged_without_a_crash(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jpg"
        for head in (b"", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"II*\0\x08\0\0\0"):
            path.write_bytes(head + content)
            photo = judge(path, "x.jpg", "x.jpg", Path(folder) / "t.jpg")
            assert photo.reason


# ---- photographs that are not good enough


def test_too_small(tmp_path: Path) -> None:
    save(tmp_path / "in" / "bad.jpg", texture(9, 300, 120))
    assert "too small: 300×120" in reason(tmp_path, "bad.jpg")


def test_blurred_against_its_set(tmp_path: Path) -> None:
    blurred = Image.fromarray(texture(9)).filter(ImageFilter.GaussianBlur(4))
    save(tmp_path / "in" / "bad.jpg", np.asarray(blurred))
    assert "blurred" in reason(tmp_path, "bad.jpg")
    assert reason(tmp_path, "bad.jpg", min_sharpness=0) is None


def test_flat_and_badly_exposed(tmp_path: Path) -> None:
    save(tmp_path / "in" / "flat.jpg", np.full((300, 400, 3), 120, np.uint8))
    save(tmp_path / "in" / "white.png", np.where(texture(8)[:, :, :1] > 60, 255, texture(9)))
    save(tmp_path / "in" / "black.jpg", texture(7) // 255)
    run = take_in(good_set(tmp_path / "in"), tmp_path, max_clipped=0.5)
    photos = photos_of(run)
    assert "flat" in photos["flat.jpg"]["reason"]
    assert "overexposed" in photos["white.png"]["reason"]
    assert "underexposed" in photos["black.jpg"]["reason"]
    assert len(run.warnings) == 3


def test_duplicates(tmp_path: Path) -> None:
    source = good_set(tmp_path / "in")
    (source / "zz_copy.jpg").write_bytes((source / "good_1.jpg").read_bytes())
    retagged = exif(gps=gps_ifd(10.0, 10.0))
    piexif.insert(retagged, str(source / "good_2.jpg"), str(source / "zz_retagged.jpg"))
    photos = photos_of(take_in(source, tmp_path))
    assert photos["zz_copy.jpg"]["reason"] == "duplicate: the same file as good_1.jpg"
    assert photos["zz_retagged.jpg"]["reason"] == "duplicate: the same picture as good_2.jpg"
    kept = take_in(source, tmp_path, exclude_duplicates=False)
    assert kept.metrics["n_used"] == 5


def test_mixed_sizes_are_said(tmp_path: Path) -> None:
    source = good_set(tmp_path / "in")
    save(source / "other.jpg", texture(9, 320, 280))
    assert any("2 sizes" in warning for warning in take_in(source, tmp_path).warnings)


# ---- what has to be changed for COLMAP


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    """Against Pillow's own: the corner that should be top left is, and the tag says so."""
    pixels = np.zeros((300, 400, 3), np.uint8) + texture(3) // 4
    pixels[:60, :60] = (255, 0, 0)
    source = good_set(tmp_path / "in")
    path = save(source / "turned.jpg", pixels, exif=exif(orientation, gps_ifd(46.7)), quality=98)
    photo = photos_of(run := take_in(source, tmp_path))["turned.jpg"]
    with Image.open(path) as original, Image.open(run.dir / "images" / "turned.jpg") as result:
        from PIL import ImageOps

        expected = np.asarray(ImageOps.exif_transpose(original)).astype(int)
        assert result.size == (photo["width"], photo["height"]) == expected.shape[1::-1]
        assert np.abs(np.asarray(result).astype(int) - expected).mean() < 2
        tags = result.getexif()
        assert tags[0x0112] == 1
        assert tags.get_ifd(0x8825)[2][0] == pytest.approx(46.7)
        assert tags.get_ifd(0x8769)[0x920A] == pytest.approx(8.8)
    assert photo["orientation"] == orientation
    assert bool(photo["converted"]) == (orientation != 1)


def test_exif_that_cannot_be_written_does_not_stop_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Image.Exif, offset: int = 8) -> bytes:
        raise struct.error("argument out of range")

    save(tmp_path / "in" / "turned.jpg", texture(9), exif=exif(6))
    source = good_set(tmp_path / "in")
    monkeypatch.setattr(Image.Exif, "tobytes", refuse)
    run = take_in(source, tmp_path)
    with Image.open(run.dir / "images" / "turned.jpg") as image:
        assert image.size == (300, 400)


@pytest.mark.parametrize("ending", [".webp", ".gif", ".png", ".bmp", ".tif"])
def test_other_formats_become_readable(ending: str, tmp_path: Path) -> None:
    pixels = texture(9)
    save(tmp_path / "in" / f"other{ending}", pixels)
    run = take_in(good_set(tmp_path / "in"), tmp_path)
    photo = photos_of(run)[f"other{ending}"]
    assert photo["status"] == "used"
    with Image.open(run.dir / "images" / photo["name"]) as image:
        assert image.format in ("JPEG", "PNG", "BMP", "TIFF")
        assert Path(photo["name"]).suffix in (".jpg", ".png", ".bmp", ".tif")
        error = np.abs(np.asarray(image.convert("RGB")).astype(int) - pixels).mean()
        assert error < (25 if ending in (".webp", ".gif") else 0.01)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "I;16", "L"])
def test_other_pixels_become_eight_bit(mode: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    image = Image.fromarray(texture(9))
    ending = ".jpg" if mode == "CMYK" else ".png"
    if mode == "I;16":
        image = Image.fromarray((np.asarray(image.convert("L")).astype(np.uint16)) * 257)
    else:
        image = image.convert(mode)
    image.save(tmp_path / "in" / f"odd{ending}")
    run = take_in(good_set(tmp_path / "in"), tmp_path)
    photo = photos_of(run)[f"odd{ending}"]
    with Image.open(run.dir / "images" / photo["name"]) as result:
        assert result.mode in ("RGB", "L")
        grey = np.asarray(result.convert("L")).astype(int)
    expected = np.asarray(Image.fromarray(texture(9)).convert("L")).astype(int)
    assert np.abs(grey - expected).mean() < (30 if mode == "P" else 4)


def test_format_counts_not_the_ending(tmp_path: Path) -> None:
    """A PNG named .jpg gets an ending by which COLMAP reads it."""
    (tmp_path / "in").mkdir()
    with open(tmp_path / "in" / "liar.jpg", "wb") as file:
        Image.fromarray(texture(9)).save(file, "PNG")
    save(tmp_path / "in" / "liar.png", texture(10))
    run = take_in(good_set(tmp_path / "in"), tmp_path)
    photos = photos_of(run)
    names = {photos["liar.jpg"]["name"], photos["liar.png"]["name"]}
    assert len(names) == 2
    assert all((run.dir / "images" / name).exists() for name in names)


# ---- GPS


@pytest.mark.parametrize(
    ("lat", "lon", "words"),
    [
        (((999, 1), (0, 1), (0, 1)), 7.5, "not on the Earth"),
        (46.5, ((200, 1), (0, 1), (0, 1)), "not on the Earth"),
        (((0, 0), (0, 0), (0, 0)), ((0, 0), (0, 0), (0, 0)), "not a number"),
        (0.0, 0.0, "no fix"),
    ],
)
def test_implausible_gps_is_refused_and_the_photograph_kept(
    lat: object, lon: object, words: str, tmp_path: Path
) -> None:
    save(tmp_path / "in" / "odd.jpg", texture(9), exif=exif(gps=gps_ifd(lat, lon)))
    run = take_in(good_set(tmp_path / "in"), tmp_path)
    photo = photos_of(run)["odd.jpg"]
    assert photo["status"] == "used"
    assert photo["gps"] is None
    assert words in photo["gps_problem"]
    assert run.metrics["n_gps"] == 3
    assert any(words in warning for warning in run.warnings)


def test_gps_signs_and_heights() -> None:
    south_west = {1: "S", 2: (33.0, 30.0, 36.0), 3: "W", 4: (70.0, 15.0, 0.0), 5: b"\x01", 6: 12.5}
    assert read_gps(south_west) == ({"lat": -33.51, "lon": -70.25, "alt": -12.5}, None)
    assert read_gps({1: "N", 2: (1.0, 0, 0), 3: "E", 4: (2.0, 0, 0)})[0] == {
        "lat": 1.0,
        "lon": 2.0,
        "alt": None,
    }
    assert read_gps({1: "N", 2: (1.0, 0, 0), 3: "E", 4: (2.0, 0, 0), 6: 9e9})[0]["alt"] is None
    assert read_gps({}) == (None, None)
    assert read_gps({2: "garbage", 4: None})[0] is None


def test_sharpness_of_something_known() -> None:
    grey = np.zeros((5, 5), np.float32)
    grey[2, 2] = 10
    laplacian = np.array([[0, 10, 0], [10, -40, 10], [0, 10, 0]])
    assert sharpness(grey) == pytest.approx(laplacian.var() / grey.var())
    assert sharpness(grey / 7 + 3) == pytest.approx(sharpness(grey), rel=1e-5)
    assert sharpness(grey[:2]) == 0
    assert sharpness(np.full((9, 9), 50.0)) == 0


# ---- archives


def pack(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def good_entries(tmp_path: Path) -> dict[str, bytes]:
    folder = good_set(tmp_path / "good")
    return {f"flight/{p.name}": p.read_bytes() for p in sorted(folder.iterdir())}


def test_zip(tmp_path: Path, good_entries: dict[str, bytes]) -> None:
    archive = pack(
        tmp_path / "x.zip", good_entries | {"__MACOSX/flight/._a.jpg": b"x", "flight/.DS_Store": b""}
    )
    run = take_in(archive, tmp_path)
    assert run.metrics["n_used"] == 3
    assert run.metrics["n_ignored"] >= 1
    assert not (run.dir / "work").exists()
    assert (run.dir / "images" / "good_0.jpg").read_bytes() == good_entries["flight/good_0.jpg"]


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "/evil.jpg", "a/../../evil.jpg", "..\\evil.jpg", "C:\\evil.jpg"]
)
def test_zip_with_a_path_that_leads_out(name: str, tmp_path: Path, good_entries: dict[str, bytes]) -> None:
    archive = pack(tmp_path / "x.zip", good_entries | {name: b"x"})
    with pytest.raises(PhotosError, match="points outside the archive"):
        take_in(archive, tmp_path)
    assert not list(tmp_path.rglob("evil.jpg"))
    assert not list((tmp_path / "scene").rglob("*.jpg"))


def test_zip_with_a_link(tmp_path: Path, good_entries: dict[str, bytes]) -> None:
    archive = pack(tmp_path / "x.zip", good_entries)
    with zipfile.ZipFile(archive, "a") as content:
        link = zipfile.ZipInfo("flight/link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        content.writestr(link, "/etc/passwd")
    with pytest.raises(PhotosError, match="symbolic link"):
        take_in(archive, tmp_path)


def test_zip_bombs(tmp_path: Path, good_entries: dict[str, bytes]) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        for i in range(3):
            content.writestr(f"{i}.jpg", bytes(50_000_000))
    with pytest.raises(PhotosError, match="zip bomb"):
        take_in(archive, tmp_path)
    with pytest.raises(PhotosError, match=r"unpacks to too much[\s\S]*ingest.max_archive_gb"):
        take_in(archive, tmp_path, max_archive_gb=0.1)


def test_zip_whose_header_lies_about_the_size(tmp_path: Path, good_entries: dict[str, bytes]) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        for name, data in good_entries.items():
            content.writestr(name, data)
        content.writestr("liar.jpg", bytes(1_000_000))
    raw = archive.read_bytes()
    archive.write_bytes(raw.replace(struct.pack("<I", 1_000_000), struct.pack("<I", 10)))
    photos = photos_of(take_in(archive, tmp_path))
    assert photos["liar.jpg"]["status"] == "excluded"
    assert "cannot be unpacked" in photos["liar.jpg"]["reason"]


def test_zip_with_a_damaged_entry(tmp_path: Path, good_entries: dict[str, bytes]) -> None:
    marker = os.urandom(2000)
    archive = pack(tmp_path / "x.zip", good_entries | {"flight/bad.jpg": marker})
    raw = bytearray(archive.read_bytes())
    raw[raw.index(marker) + 7] ^= 0xFF
    archive.write_bytes(raw)
    photos = photos_of(take_in(archive, tmp_path))
    assert "cannot be unpacked" in photos["flight/bad.jpg"]["reason"]


def test_zip_that_is_encrypted_or_cut_off(tmp_path: Path, good_entries: dict[str, bytes]) -> None:
    archive = pack(tmp_path / "x.zip", good_entries)
    raw = bytearray(archive.read_bytes())
    cut = tmp_path / "cut.zip"
    cut.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(PhotosError, match="folder or a zip"):
        take_in(cut, tmp_path)
    with zipfile.ZipFile(io.BytesIO(raw)) as content:
        first = content.infolist()[0]
    at = raw.rindex(b"PK\1\2" + raw[raw.index(b"PK\1\2") + 4 : raw.index(b"PK\1\2") + 8])
    for signature, offset in ((raw.index(b"PK\1\2"), 8), (first.header_offset, 6), (at, 8)):
        raw[signature + offset] |= 1
    archive.write_bytes(raw)
    with pytest.raises(PhotosError, match="encrypted"):
        take_in(archive, tmp_path)
