"""HEIC, TIFF, 16 bits, CMYK, transparency, mixed: what comes out is what a viewer shows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from pictures import exif, good_set, gps_ifd, save, texture
from PIL import Image, ImageCms
from test_ingest import photos_of, take_in

PIXELS = texture(9)


def taken(path: Path, tmp_path: Path) -> tuple[dict, Path]:
    """The row of a file that lies with three good photographs, and where it went."""
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    run = take_in(good_set(tmp_path / "in"), tmp_path)
    photo = photos_of(run)[path.name]
    assert photo["status"] == "used", photo["reason"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    return photo, run.dir / "images" / photo["name"]


def difference(path: Path, pixels: np.ndarray) -> float:
    with Image.open(path) as image:
        assert image.mode in ("RGB", "L")
        return float(np.abs(np.asarray(image.convert("RGB")).astype(int) - pixels).mean())


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_heic_is_read_upright_with_its_exif(orientation: int, tmp_path: Path) -> None:
    tags = exif(orientation, gps_ifd(46.7))
    path = save(tmp_path / "in" / "IMG_1.HEIC", PIXELS, format="HEIF", quality=95, exif=tags)
    photo, placed = taken(path, tmp_path)
    assert (photo["format"], photo["name"]) == ("HEIF", "IMG_1.jpg")
    assert "from HEIF" in photo["converted"]
    assert photo["gps"]["lat"] == pytest.approx(46.7)
    expected = {1: PIXELS, 6: np.rot90(PIXELS, -1), 8: np.rot90(PIXELS)}[orientation]
    assert (photo["width"], photo["height"]) == expected.shape[1::-1]
    assert difference(placed, expected) < 8
    with Image.open(placed) as image:
        assert image.getexif()[0x0112] == 1
        assert image.getexif().get_ifd(0x8825)[2][0] == pytest.approx(46.7)
        assert image.getexif().get_ifd(0x8769)[0x920A] == pytest.approx(8.8)


def test_truncated_heic_is_left_out(tmp_path: Path) -> None:
    path = save(tmp_path / "in" / "half.heic", PIXELS, format="HEIF")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    photo = photos_of(take_in(good_set(tmp_path / "in"), tmp_path))["half.heic"]
    assert "truncated or corrupt" in photo["reason"]


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_tiff_stays_as_it_is(compression: str, tmp_path: Path) -> None:
    tags = {"exif": exif()} if compression == "raw" else {}  # Pillow writes both only without compression
    path = save(tmp_path / "in" / "scan.tif", PIXELS, compression=compression, **tags)
    photo, placed = taken(path, tmp_path)
    assert (photo["converted"], photo["format"]) == ("", "TIFF")
    assert photo["focal_35mm"] == (24 if tags else None)
    assert placed.read_bytes() == path.read_bytes()


def test_turned_tiff_and_png_become_upright_without_loss(tmp_path: Path) -> None:
    for name in ("turned.tif", "turned.png"):
        path = save(tmp_path / "in" / name, PIXELS, exif=exif(6, gps_ifd(46.7)))
        photo, placed = taken(path, tmp_path)
        assert (photo["name"], photo["orientation"]) == ("turned.png", 6)
        assert (photo["width"], photo["height"]) == (300, 400)
        assert difference(placed, np.rot90(PIXELS, -1)) == 0
        with Image.open(placed) as image:
            assert image.getexif().get(0x0112, 1) == 1
            assert image.getexif().get_ifd(0x8825)[2][0] == pytest.approx(46.7)
        path.unlink()


@pytest.mark.parametrize("ending", [".tif", ".png"])
def test_sixteen_bits_of_grey_keep_the_high_byte(ending: str, tmp_path: Path) -> None:
    grey = np.asarray(Image.fromarray(PIXELS).convert("L"))
    path = save(tmp_path / "in" / f"deep{ending}", grey.astype(np.uint16) * 257)
    photo, placed = taken(path, tmp_path)
    assert "16" in photo["converted"]
    assert difference(placed, np.repeat(grey[:, :, None], 3, axis=2)) == 0


def test_cmyk_tiff_has_the_colours_a_viewer_shows(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "print.tif"
    Image.fromarray(PIXELS).convert("CMYK").save(path)
    photo, placed = taken(path, tmp_path)
    assert "from CMYK pixels" in photo["converted"]
    assert placed.suffix == ".png"
    assert difference(placed, PIXELS) < 2


def test_transparency_is_dropped_and_colours_and_profile_stay(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "cut.png"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    alpha = np.tile(np.linspace(0, 255, 400).astype(np.uint8), (300, 1))
    Image.fromarray(np.dstack([PIXELS, alpha])).save(path, icc_profile=profile)
    photo, placed = taken(path, tmp_path)
    assert "from RGBA pixels" in photo["converted"]
    assert difference(placed, PIXELS) == 0
    with Image.open(placed) as image:
        assert image.info["icc_profile"] == profile


def test_many_formats_and_sizes_in_one_set(tmp_path: Path) -> None:
    source = good_set(tmp_path / "in")
    save(source / "a.heic", texture(20, 640, 480), format="HEIF")
    save(source / "b.tif", texture(21, 500, 400))
    save(source / "c.webp", texture(22, 300, 400))
    run = take_in(source, tmp_path)
    assert run.metrics["n_used"] == 6
    assert any("photographs of 4 sizes" in warning for warning in run.warnings)
    for photo in photos_of(run).values():
        with Image.open(run.dir / "images" / photo["name"]) as image:
            assert image.size == (photo["width"], photo["height"])
            assert image.format in ("JPEG", "TIFF")
