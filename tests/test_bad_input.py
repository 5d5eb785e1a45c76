"""What COLMAP passes over without a word, line by line as it was found out, and what is said here instead."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import exif, good_set, gps_ifd, overwrite_middle, save, texture
from PIL import Image, ImageFilter
from pydantic import ValidationError
from test_ingest_judging import plant
from test_sfm import reconstruct

from spaceport_lab import ingest, sfm
from spaceport_lab.cameras import read_scene
from spaceport_lab.errors import PhotosError, ReconstructionError
from spaceport_lab.params import IngestParams, SfmParams
from spaceport_lab.workspace import StageRun, write_manifest

Plant = Callable[[Path], object]


def take_in(source: Path, root: Path, **settings: object) -> tuple[StageRun, dict[str, dict]]:
    """Ingest a folder; its run and the rows of photos.json by source."""
    run = StageRun(root / "scene" / "runs" / "job", "ingest")
    run.dir.mkdir(parents=True, exist_ok=True)
    list(ingest.run(run, IngestParams(source=str(source), min_side=64, **settings)))
    return run, {photo["source"]: photo for photo in ingest.read_photos(run)}


def jpeg(seed: int = 9) -> bytes:
    held = io.BytesIO()
    Image.fromarray(texture(seed)).save(held, "JPEG", quality=92)
    return held.getvalue()


def cut_off(folder: Path) -> None:
    (folder / "bad.jpg").write_bytes(jpeg()[:9000])


def broken_header(folder: Path) -> None:
    (folder / "bad.jpg").write_bytes(b"\xff\xd8" + bytes(40) + jpeg()[42:])


def corrupt_mid_stream(folder: Path) -> None:
    overwrite_middle(save(folder / "bad.jpg", texture(9)))


LEFT_OUT: dict[str, tuple[str, Plant, str]] = {
    "truncated": ("bad.jpg", cut_off, "truncated or corrupt"),
    "corrupt header": ("bad.jpg", broken_header, "its JPEG header is broken"),
    "0 bytes": ("bad.jpg", lambda f: (f / "bad.jpg").write_bytes(b""), "empty file (0 bytes)"),
    "text named .jpg": ("bad.jpg", lambda f: (f / "bad.jpg").write_text("words\n" * 99), "text named .jpg"),
    "broken symlink": ("bad.jpg", lambda f: (f / "bad.jpg").symlink_to(f / "gone"), "a link to nothing"),
    "corrupt mid-stream": ("bad.jpg", corrupt_mid_stream, "corrupt"),
    "duplicate": (
        "z.jpg",
        lambda f: shutil.copy(f / "good_0.jpg", f / "z.jpg"),
        "duplicate: the same file as",
    ),
    "flat": ("bad.jpg", lambda f: save(f / "bad.jpg", np.full((300, 400, 3), 128, np.uint8)), "flat: one"),
}
"""Line of the table → file, how it comes about, and what its reason must say."""


@pytest.mark.parametrize("line", LEFT_OUT)
def test_a_file_that_colmap_skips_is_named_with_its_reason(line: str, tmp_path: Path) -> None:
    name, spoil, words = LEFT_OUT[line]
    source = good_set(tmp_path / "in")
    spoil(source)
    run, photos = take_in(source, tmp_path)
    assert photos[name]["status"] == "excluded"
    assert words in photos[name]["reason"]
    assert run.metrics["n_used"] == 3
    assert any("1 left out" in warning and name in warning for warning in run.warnings)


@pytest.mark.parametrize("ending", [".webp", ".gif", ".heic"])
def test_a_format_that_colmap_skips_is_converted(ending: str, tmp_path: Path) -> None:
    source = good_set(tmp_path / "in")
    save(source / f"odd{ending}", texture(9))
    _, photos = take_in(source, tmp_path)
    odd = photos[f"odd{ending}"]
    assert (odd["status"], odd["converted"].split()[0]) == ("used", "from")
    assert Path(odd["name"]).suffix in (".png", ".jpg")


def test_a_system_file_is_counted(tmp_path: Path) -> None:
    source = good_set(tmp_path / "in")
    (source / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    run, photos = take_in(source, tmp_path)
    assert run.metrics["n_ignored"] == 1
    assert len(photos) == 3


def test_names_that_do_not_exist(tmp_path: Path) -> None:
    source = good_set(tmp_path / "in")
    run, _ = take_in(source, tmp_path, keep="nobody.jpg")
    assert "ingest.keep names nobody.jpg, and there is no such photograph" in run.warnings
    with pytest.raises(PhotosError, match="no photographs at this path"):
        take_in(tmp_path / "nowhere", tmp_path)


def test_exif_orientation_is_not_ignored(tmp_path: Path) -> None:
    source = good_set(tmp_path / "in")
    save(source / "turned.jpg", texture(9, 300, 400), exif=exif(orientation=6))
    run, photos = take_in(source, tmp_path)
    with Image.open(run.dir / "images" / "turned.jpg") as image:
        assert image.size == (400, 300)
    assert "turned upright" in photos["turned.jpg"]["converted"]


@pytest.mark.parametrize(
    ("count", "words"), [(0, "there are no photographs"), (1, "one photograph"), (2, "two photographs")]
)
def test_a_folder_that_is_empty_or_nearly(count: int, words: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(PhotosError, match=words) as caught:
        take_in(good_set(tmp_path / "in", count), tmp_path)
    assert "at least 3 usable photographs" in str(caught.value)


def test_identical_photographs_are_no_set(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for k in range(5):
        (tmp_path / "in" / f"{k}.jpg").write_bytes(jpeg())
    with pytest.raises(PhotosError, match=r"4 × duplicate: the same file as 0\.jpg"):
        take_in(tmp_path / "in", tmp_path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (None, r"no verified pair: best partner"),
        (lambda image: image.filter(ImageFilter.GaussianBlur(9)), r"too few features: \d+, under 100"),
    ],
    ids=["unrelated", "blurred"],
)
def test_a_set_that_gives_nothing_says_why_of_each(spoil, words: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for k in range(4):
        image = Image.fromarray(texture(k, 320, 240))
        (spoil(image) if spoil else image).save(tmp_path / "in" / f"{k}.jpg", quality=92)
    with pytest.raises(ReconstructionError, match="give no reconstruction") as caught:
        reconstruct(tmp_path / "in", tmp_path)
    text = str(caught.value)
    assert all(f"{k}.jpg: " in text for k in range(4))
    assert re.search(words, text)


def test_gps_of_999_degrees_is_refused_and_the_photograph_kept(tmp_path: Path) -> None:
    source = good_set(tmp_path / "in")
    save(source / "far.jpg", texture(9), exif=exif(gps=gps_ifd(lat=999.0)))
    _, photos = take_in(source, tmp_path)
    assert (photos["far.jpg"]["status"], photos["far.jpg"]["gps"]) == ("used", None)
    assert "not on the Earth: latitude 999°" in photos["far.jpg"]["gps_problem"]


def test_mixed_sizes_lose_nobody(tmp_path: Path) -> None:
    """With one camera for all COLMAP keeps only those of the size that sorts first."""
    source = good_set(tmp_path / "in", 6)
    save(source / "a_first.jpg", texture(9, 480, 360), exif=exif())
    save(source / "a_second.jpg", texture(10, 480, 360), exif=exif())
    save(source / "a_third.jpg", texture(11, 480, 360), exif=exif())
    run, photos = take_in(source, tmp_path)
    assert {photo["status"] for photo in photos.values()} == {"used"}
    assert any("photographs of 2 sizes: 6 × 400×300, 3 × 480×360" in warning for warning in run.warnings)
    write_manifest(run, IngestParams(source=str(source)))
    groups = {photo["group"].split()[0] for photo in sfm.read_photos(StageRun(run.root, "sfm"))}
    assert groups == {"400x300", "480x360"}


@pytest.mark.parametrize(
    ("name", "value"), [("max_image_size", 5), ("max_image_size", -1), ("camera_model", "TELESCOPE")]
)
def test_settings_without_sense_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        SfmParams(**{name: value})


@pytest.mark.parametrize("spoilt", ["missing", "cut off"])
def test_a_model_that_cannot_be_read_is_said(spoilt: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    if spoilt == "cut off":
        for name in ("cameras.bin", "images.bin", "points3D.bin"):
            (folder / name).write_bytes(b"\3\0\0\0\0\0\0\0\1")
    run = StageRun(tmp_path / "scene" / "runs" / "job", "sfm")
    run.dir.mkdir(parents=True)
    words = "there is no COLMAP model here" if spoilt == "missing" else r"cameras\.bin"
    with pytest.raises(ReconstructionError, match=words):
        list(sfm.run(run, SfmParams(import_path=str(folder))))


def test_planted_bad_photographs_are_named_and_the_rest_reconstructs(
    tiny_flight: Path, tmp_path: Path
) -> None:
    """Blurred, foreign, duplicate, nearly so, corrupt mid-stream, overexposed, and one with wrong GPS."""
    source = Path(shutil.copytree(tiny_flight / "images", tmp_path / "in"))
    wanted = plant(source)
    run, _ = reconstruct(source, tmp_path, mapper="incremental", matching="exhaustive")
    photos = {p["source"]: p for p in ingest.read_photos(run)}
    assert {name for name, photo in photos.items() if photo["status"] == "excluded"} == set(wanted)
    for name, words in wanted.items():
        assert words in photos[name]["reason"], name
    assert "GPS jumps by" in photos["SPL_0007.JPG"]["gps_problem"]
    assert run.metrics["n_registered"] == run.metrics["n_images"] == 11
    truth = json.loads((tiny_flight / "ground_truth.json").read_text())["cameras"]
    scene = read_scene(run.dir)
    assert scene.georeferenced
    true = np.array([truth[name]["center"] for name in scene.cameras.names])
    steps = [np.linalg.norm(np.diff(c, axis=0), axis=1) for c in (scene.cameras.centers, true)]
    assert np.abs(steps[0] / steps[1] - 1).max() < 0.05, "metres, whatever the stray says"
