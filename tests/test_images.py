from __future__ import annotations

from pathlib import Path

import numpy as np
import piexif
import pytest
from PIL import Image

from spaceport_lab.errors import PhotosError
from spaceport_lab.images import load_rgb, resize_area


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def test_rgb_comes_back_as_it_is(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = load_rgb(tmp_path / "a.png")
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_every_mode_becomes_rgb(tmp_path: Path, pixels: np.ndarray, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image = Image.fromarray(pixels).convert(mode)
    image.save(path)
    np.testing.assert_array_equal(load_rgb(path), np.asarray(image.convert("RGB")))


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 20 * 12).reshape(12, 20).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_allclose(load_rgb(tmp_path / "a.png")[:, :, 1], grey / 257, atol=0.51)


def test_orientation_is_not_applied(tmp_path: Path, pixels: np.ndarray) -> None:
    exif = piexif.dump({"0th": {piexif.ImageIFD.Orientation: 6}})
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    assert load_rgb(tmp_path / "a.jpg").shape == (12, 20, 3)


def test_shrinking_averages_areas(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = pixels.reshape(6, 2, 10, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(load_rgb(tmp_path / "a.png", (10, 6)), expected, atol=1)


def test_enlarging_and_keeping(pixels: np.ndarray) -> None:
    assert resize_area(pixels, (40, 24)).shape == (24, 40, 3)
    assert resize_area(pixels, (20, 12)) is pixels


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(PhotosError, match="an image is missing"):
        load_rgb(tmp_path / "none.jpg")


def test_text_named_jpg(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("this is no picture")
    with pytest.raises(PhotosError, match=r"cannot read a\.jpg"):
        load_rgb(tmp_path / "a.jpg")


def test_truncated_jpeg(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(PhotosError, match=r"cannot read a\.jpg"):
        load_rgb(tmp_path / "a.jpg")


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(PhotosError):
        load_rgb(tmp_path)
