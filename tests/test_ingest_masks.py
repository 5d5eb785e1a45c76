"""Masks at the ingest stage: found by either name, turned like their photograph, all accounted for."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from pictures import exif, good_set, save, texture
from PIL import Image
from test_ingest import photos_of, take_in

from spaceport_lab.workspace import StageRun


def pattern(width: int = 400, height: int = 300) -> np.ndarray:
    """Where it counts, unlike itself in any other orientation."""
    counts = np.ones((height, width), bool)
    counts[: height // 3, : width // 4] = False
    counts[height // 2 :, -width // 8 :] = False
    return counts


def write(path: Path, counts: np.ndarray, **settings: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(counts, 255, 0).astype(np.uint8)).save(path, **settings)
    return path


def written(run: StageRun, name: str) -> np.ndarray:
    with Image.open(run.dir / "masks" / name) as image:
        assert image.mode == "L"
        grey = np.asarray(image)
    assert set(np.unique(grey)) <= {0, 255}
    return grey == 255


@pytest.mark.parametrize("place", ["scene/masks", "scene/images/masks"])
def test_masks_by_either_name(place: str, tmp_path: Path) -> None:
    source = good_set(tmp_path / "scene" / "images", 4)
    for name, counts in (
        ("good_0.jpg.png", pattern()),
        ("good_1.PNG", ~pattern()),
        ("nobody.png", pattern()),
        ("good_2.png", np.zeros((300, 400), bool)),
    ):
        write(tmp_path / place / name, counts)
    run = take_in(source, tmp_path)
    assert run.metrics["n_photos"] == 4
    assert (run.metrics["n_masks"], run.metrics["n_masks_unmatched"]) == (3, 1)
    assert run.outputs["masks"] == run.dir / "masks"
    assert sorted(p.name for p in (run.dir / "masks").iterdir()) == [f"good_{i}.jpg.png" for i in range(3)]
    np.testing.assert_array_equal(written(run, "good_0.jpg.png"), pattern())
    np.testing.assert_array_equal(written(run, "good_1.jpg.png"), ~pattern())
    assert "1 masks match no photograph: nobody.png" in run.warnings
    assert "1 photographs are hidden altogether by their masks: good_2.jpg" in run.warnings


def test_without_masks_nothing_is_declared(tmp_path: Path) -> None:
    write(tmp_path / "in" / "masks" / "good_0.png", pattern())
    source = good_set(tmp_path / "in")
    assert "masks" in take_in(source, tmp_path).outputs
    (tmp_path / "in" / "masks" / "good_0.png").unlink()
    (tmp_path / "in" / "masks").rmdir()
    run = take_in(source, tmp_path)
    assert "masks" not in run.outputs
    assert "n_masks" not in run.metrics
    assert not (run.dir / "masks").exists()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_with_its_photograph(orientation: int, tmp_path: Path) -> None:
    source = good_set(tmp_path / "in")
    colors = np.where(pattern()[:, :, None], texture(7), 0).astype(np.uint8)
    # A photograph that is black where its mask is: after the stage they must still be so together.
    save(
        source / "turned.png",
        np.maximum(colors, pattern()[:, :, None] * np.uint8(40)),
        exif=exif(orientation),
    )
    write(tmp_path / "in" / "masks" / "turned.png", pattern()[::2, ::2])
    run = take_in(source, tmp_path)
    with Image.open(run.dir / "images" / "turned.png") as image:
        expected = np.asarray(image.convert("RGB")).max(axis=2) > 0
    made = written(run, "turned.png.png")
    assert made.shape == expected.shape
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("how", ["upright already", "its own EXIF"])
def test_a_mask_that_says_how_it_lies(how: str, tmp_path: Path) -> None:
    source = good_set(tmp_path / "in")
    save(source / "turned.jpg", texture(7), exif=exif(6))
    upright = pattern(300, 400)
    if how == "upright already":
        write(tmp_path / "in" / "masks" / "turned.jpg.png", upright)
    else:
        write(tmp_path / "in" / "masks" / "turned.jpg.png", np.rot90(upright, 2), exif=exif(3))
    run = take_in(source, tmp_path)
    np.testing.assert_array_equal(written(run, "turned.jpg.png"), upright)


def test_any_kind_of_picture_is_a_mask(tmp_path: Path) -> None:
    source, masks = good_set(tmp_path / "in", 5), tmp_path / "in" / "masks"
    grey = np.where(pattern(), 255, 0).astype(np.uint8)
    write(masks / "good_0.jpg", pattern(), quality=60)
    Image.fromarray(grey).convert("1").save(masks / "good_1.png")
    Image.fromarray((grey // 255).astype(np.uint16)).save(masks / "good_2.png")
    Image.fromarray(np.stack([grey * 0, grey // 255, grey * 0], axis=2)).save(masks / "good_3.png")
    Image.fromarray(np.dstack([grey, grey, grey, grey * 0 + 255])).save(masks / "good_4.png")
    run = take_in(source, tmp_path)
    assert np.mean(written(run, "good_0.jpg.png") != pattern()) < 0.01
    for i in range(1, 5):
        np.testing.assert_array_equal(written(run, f"good_{i}.jpg.png"), pattern())


def test_masks_that_cannot_be_used_are_said(tmp_path: Path) -> None:
    source, masks = good_set(tmp_path / "in"), tmp_path / "in" / "masks"
    write(masks / "good_0.png", pattern(400, 200))
    (masks / "good_1.png").write_bytes(b"no image")
    run = take_in(source, tmp_path)
    assert run.metrics["n_used"] == 3
    assert run.metrics["n_masks"] == 0
    assert "masks" not in run.outputs
    (warning,) = run.warnings
    assert "2 masks cannot be used, their photographs count everywhere" in warning
    assert "mask good_0.png has another shape than its photograph (400×200)" in warning
    assert "mask good_1.png cannot be read" in warning


def test_masks_in_a_zip_and_its_subfolders(tmp_path: Path) -> None:
    for day in ("a", "b"):
        good_set(tmp_path / "in" / "photos" / day, first_seed=10 * ord(day))
    masks = tmp_path / "in" / "masks"
    write(masks / "a" / "good_0.png", pattern())
    write(masks / "b" / "good_0.jpg.png", ~pattern())
    write(masks / "good_1.png", pattern())  # of a or of b? of neither
    archive = tmp_path / "scene.zip"
    with zipfile.ZipFile(archive, "w") as content:
        for path in sorted((tmp_path / "in").rglob("*.*")):
            content.write(path, path.relative_to(tmp_path / "in"))
    run = take_in(archive, tmp_path)
    names = {source: photo["name"] for source, photo in photos_of(run).items()}
    assert len(names) == 6
    np.testing.assert_array_equal(written(run, names["photos/a/good_0.jpg"] + ".png"), pattern())
    np.testing.assert_array_equal(written(run, names["photos/b/good_0.jpg"] + ".png"), ~pattern())
    assert run.metrics["n_masks"] == 2
    assert "1 masks match no photograph: good_1.png" in run.warnings


def test_masks_beside_a_zip(tmp_path: Path) -> None:
    good_set(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "scene.zip", "w") as content:
        for path in (tmp_path / "in").iterdir():
            content.write(path, path.name)
    write(tmp_path / "masks" / "good_1.png", pattern())
    run = take_in(tmp_path / "scene.zip", tmp_path)
    np.testing.assert_array_equal(written(run, "good_1.jpg.png"), pattern())
