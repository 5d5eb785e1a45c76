"""Masks at the sfm stage: no features under them, and undistorted as the photographs are."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_sfm import reconstruct

from spaceport_lab import sfm
from spaceport_lab.errors import PhotosError
from spaceport_lab.params import SfmParams
from spaceport_lab.sfm import masks
from spaceport_lab.workspace import StageRun

WIDTH, HEIGHT = 80, 60
HIDDEN = (slice(200, 300), slice(0, 120))
"""Rows and columns of the flight's photographs that their masks hide."""


def write(path: Path, counts: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(counts, 255, 0).astype(np.uint8)).save(path)
    return path


@dataclass(frozen=True)
class Camera:
    """What is used of pycolmap's, which only the worker may load: a radial camera."""

    focal: float
    bend: float = 0.0
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def focal_length_x(self) -> float:
        return self.focal

    focal_length_y = focal_length_x

    def cam_from_img(self, points: np.ndarray) -> np.ndarray:
        assert not self.bend
        return (points - [self.width / 2, self.height / 2]) / self.focal

    def img_from_cam(self, points: np.ndarray) -> np.ndarray:
        flat = points[..., :2] / points[..., 2:]
        bent = flat * (1 + self.bend * (flat**2).sum(axis=-1, keepdims=True))
        return self.focal * bent + [self.width / 2, self.height / 2]


BENT = Camera(70, -0.2)
STRAIGHT = Camera(70)
REDUCED = Camera(20, width=20, height=16)


def slow_undistorted(counts: np.ndarray, before: Camera, after: Camera) -> np.ndarray:
    """Pixel for pixel; False outside."""
    out = np.zeros((after.height, after.width), bool)
    for y in range(after.height):
        for x in range(after.width):
            ray = after.cam_from_img(np.array([x + 0.5, y + 0.5]))
            u, v = before.img_from_cam(np.array([*ray, 1.0]))
            if -0.5 < u < before.width + 0.5 and -0.5 < v < before.height + 0.5:
                column, row = min(max(int(u // 1), 0), WIDTH - 1), min(max(int(v // 1), 0), HEIGHT - 1)
                out[y, x] = counts[row, column]
    return out


@pytest.mark.parametrize("after", [STRAIGHT, REDUCED], ids=["straight", "reduced"])
def test_lookup_agrees_with_the_slow_way(after: Camera) -> None:
    counts = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.8
    index, _ = masks.lookup(BENT, after)
    expected = slow_undistorted(counts, BENT, after)
    np.testing.assert_array_equal(masks.sampled(counts, index, 0), expected)


def test_what_was_outside_the_photograph_does_not_count() -> None:
    wide = Camera(30)
    index, reach = masks.lookup(STRAIGHT, wide)
    made = masks.sampled(np.ones((HEIGHT, WIDTH), bool), index, reach)
    assert made[30, 40]
    assert not made[:, :20].any()
    assert not made[:15].any()
    assert made.mean() == pytest.approx((30 / 70) ** 2, rel=0.1)


def test_for_colmap_every_photograph_has_a_mask(tmp_path: Path) -> None:
    photos = [{"name": name, "width": WIDTH, "height": HEIGHT} for name in ("a.jpg", "b.jpg")]
    counts = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.8
    write(tmp_path / "masks" / "a.jpg.png", counts)
    for _ in range(2):  # as two attempts do
        out = masks.for_all(tmp_path / "masks", photos, tmp_path / "work" / "masks")
    made = [np.asarray(Image.open(out / f"{name}.jpg.png")) for name in "ab"]
    np.testing.assert_array_equal(made[0], np.where(counts, 255, 0))
    assert (made[1] == 255).all()
    assert made[1].shape == (HEIGHT, WIDTH)


def test_a_camera_that_stays_changes_nothing() -> None:
    counts = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.8
    np.testing.assert_array_equal(masks.sampled(counts, *masks.lookup(STRAIGHT, STRAIGHT)), counts)


def test_a_reduced_mask_hides_whatever_it_touches() -> None:
    quarter = Camera(17.5, width=20, height=15)
    index, reach = masks.lookup(STRAIGHT, quarter)
    for row, column in ((7, 9), (12, 40), (33, 63)):
        counts = np.ones((HEIGHT, WIDTH), bool)
        counts[row, column] = False
        assert not masks.sampled(counts, index, reach)[row // 4, column // 4]
        assert masks.sampled(counts, index, reach).sum() >= 20 * 15 - 4


# ---- with COLMAP


@pytest.fixture(scope="module")
def masked(tiny_flight: Path, tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """Part of the tiny flight; masks hide a corner of all its photographs but the first, which has none."""
    folder = tmp_path_factory.mktemp("masked")
    shutil.copytree(tiny_flight / "images", folder / "flight" / "images")
    counts = np.ones((300, 400), bool)
    counts[HIDDEN] = False
    photographs = sorted((folder / "flight" / "images").iterdir())
    for path in photographs[8:]:
        path.unlink()
    for path in photographs[1:8]:
        write(folder / "flight" / "masks" / f"{path.stem}.png", counts)
    source = folder / "flight" / "images"
    run, _ = reconstruct(source, folder, mapper="incremental", retry=False, min_points=100)
    return run


def test_no_features_under_a_mask(masked: StageRun) -> None:
    assert masked.metrics["n_registered"] == 8
    code = (
        "import zlib, sys, json, pycolmap; m = pycolmap.Reconstruction(sys.argv[1]);"
        "print(json.dumps({i.name: [p.xy.tolist() for p in i.points2D] for i in m.images.values()}))"
    )
    command = [sys.executable, "-c", code, str(masked.dir / "model")]
    points = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    def hidden(name: str) -> int:
        column, row = np.array(points[name]).astype(int).T
        return int(((row >= HIDDEN[0].start) & (column < HIDDEN[1].stop)).sum())

    first, *others = sorted(points)
    assert hidden(first) > 20
    assert [hidden(name) for name in others] == [0] * 7


def test_masks_are_undistorted_with_their_photographs(masked: StageRun) -> None:
    assert masked.outputs["masks"] == masked.dir / "masks"
    assert masked.metrics["n_masks"] == 7
    names = sorted(path.name for path in (masked.dir / "images").iterdir())
    assert sorted(path.name for path in (masked.dir / "masks").iterdir()) == [f"{n}.png" for n in names[1:]]
    for name in names[1:]:
        with Image.open(masked.dir / "masks" / f"{name}.png") as image:
            grey = np.asarray(image)
        with Image.open(masked.dir / "images" / name) as image:
            assert grey.shape == image.size[::-1]
        assert set(np.unique(grey)) == {0, 255}
        height, width = grey.shape
        assert (grey[round(height * 0.72) : -2, 2 : round(width * 0.25)] == 0).all()
        assert (grey[: round(height * 0.6)] == 255).mean() > 0.99
        assert (grey[:, round(width * 0.35) :] == 255).mean() > 0.99


def test_an_imported_model_brings_its_masks(masked: StageRun, tmp_path: Path) -> None:
    """Beside its images, of another size, one of nobody and one that is broken."""
    theirs = tmp_path / "theirs"
    shutil.copytree(masked.dir / "model", theirs / "sparse" / "0")
    shutil.copytree(masked.root / "01_ingest" / "images", theirs / "images")
    name = min((theirs / "images").iterdir()).name
    counts = np.ones((150, 200), bool)
    counts[75:, :100] = False
    write(theirs / "masks" / f"{Path(name).stem}.png", counts)
    write(theirs / "masks" / "nobody.png", counts)
    run = StageRun(tmp_path / "scene" / "runs" / "job", "sfm")
    run.dir.mkdir(parents=True)
    params = SfmParams(import_path=str(theirs), train_size=320, min_points=100)
    list(sfm.run(run, params))
    assert run.metrics["n_masks"] == 1
    assert run.warnings == ["1 masks are of no registered photograph: nobody.png"]
    with Image.open(run.dir / "masks" / f"{name}.png") as image:
        assert 0.2 < (np.asarray(image) == 0).mean() < 0.3
    (theirs / "masks" / f"{Path(name).stem}.png").write_bytes(b"no mask")
    with pytest.raises(PhotosError, match="cannot read"):
        list(sfm.run(run, params))
