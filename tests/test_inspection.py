"""The inspect stage: what it measures, draws and counts, and where it looks from."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inspected import PARAMS, make_run
from PIL import Image
from scenes import make_cameras, make_gaussians
from splats import random_splat, scene_splat

from spaceport_lab import evaluation, inspection, metrics
from spaceport_lab.cameras import Cameras, read_scene
from spaceport_lab.errors import SplatFormatError, WorkspaceError
from spaceport_lab.images import load_rgb
from spaceport_lab.inspection.statistics import NEEDLE, describe, suspects
from spaceport_lab.inspection.viewpoint import (
    Viewpoint,
    first_view,
    level_axes,
    robust_bounds,
    up_direction,
)
from spaceport_lab.inspection.views import ERROR_CEILING, file_stems, fitted, write_pictures
from spaceport_lab.params import InspectParams
from spaceport_lab.sog import read_sog
from spaceport_lab.workspace import StageRun

P = InspectParams(**PARAMS["inspect"])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("data"))


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> StageRun:
    """A run of one's own, its inspect stage not yet done."""
    mine = tmp_path / "mound" / "runs" / "mound-1"
    shutil.copytree(root, mine)
    (mine / "05_inspect" / "stage.json").unlink()
    return StageRun(mine, "inspect")


def work(run: StageRun, p: InspectParams = P) -> list:
    return list(inspection.run(run, p))


def test_views_hold_the_metrics_of_the_compressed_splat_worst_first(root: Path) -> None:
    run = StageRun(root, "inspect")
    scene = read_scene(root / "02_sfm")
    names = json.loads((root / "03_train" / "heldout.json").read_text())["test"]
    views = inspection.results(run, P).views
    assert sorted(view["name"] for view in views) == sorted(names)
    assert [v["psnr"] for v in views] == sorted(v["psnr"] for v in views)
    decoded = read_sog(root / "04_compress" / "splat.sog")
    for view in views:
        index = scene.cameras.names.index(view["name"])
        render = evaluation.render_view(decoded, scene.cameras, index)
        photo = load_rgb(root / "02_sfm" / "images" / view["name"]).astype(np.float32) / 255
        assert view["psnr"] == pytest.approx(metrics.psnr(render, photo), abs=1e-4)
        assert view["ssim"] == pytest.approx(metrics.ssim(render, photo), abs=1e-5)
    card = json.loads((root / "run.json").read_text())["stages"]["inspect"]["metrics"]
    assert card["psnr_heldout"] == pytest.approx(np.mean([v["psnr"] for v in views]))
    assert card["ssim_heldout"] == pytest.approx(np.mean([v["ssim"] for v in views]))


def test_pictures_show_photograph_render_and_their_difference(root: Path) -> None:
    for picture in inspection.results(StageRun(root, "inspect"), P).pictures:
        photo = load_rgb(root / "02_sfm" / "images" / picture.name)
        assert picture.photo.shape == picture.render.shape == photo.shape
        assert np.abs(picture.photo.astype(float) - photo).mean() < 4  # JPEG
        truth = np.abs(picture.photo.astype(float) - picture.render).mean(axis=2)
        assert np.corrcoef(truth.ravel(), picture.error.ravel())[0, 1] > 0.8
        assert picture.error.mean() == pytest.approx(truth.mean(), rel=0.3)


def test_only_the_worst_views_are_kept_as_pictures_and_a_rerun_leaves_nothing_behind(copy: StageRun) -> None:
    (copy.dir / "views" / "old_photo.jpg").write_bytes(b"left over")
    work(copy, InspectParams(max_views=1, picture_size=64))
    views = json.loads((copy.dir / "views.json").read_text())["views"]
    assert [v["pictures"] is not None for v in views] == [True] + [False] * (len(views) - 1)
    assert sorted(p.name for p in (copy.dir / "views").iterdir()) == sorted(
        Path(name).name for name in views[0]["pictures"].values()
    )
    with Image.open(copy.dir / views[0]["pictures"]["photo"]) as photo:
        assert max(photo.size) == 64
    before = {p.name: p.read_bytes() for p in copy.dir.rglob("*") if p.is_file()}
    work(copy, InspectParams(max_views=1, picture_size=64))
    assert {p.name: p.read_bytes() for p in copy.dir.rglob("*") if p.is_file()} == before


def test_without_cameras_there_are_statistics_and_a_first_view(copy: StageRun) -> None:
    for stage in ("02_sfm", "03_train"):
        shutil.rmtree(copy.root / stage)
    states = work(copy)
    assert states[-1].step == states[-1].total
    results = inspection.results(copy, P)
    assert results.views == []
    assert "stage sfm did not run" in results.reason
    assert copy.metrics == {"psnr_heldout": None, "ssim_heldout": None, "thin_share": None}
    assert results.viewpoint.up == (0.0, -1.0, 0.0)
    assert results.statistics["n_gaussians"] == results.gaussians.n
    assert load_rgb(copy.dir / "poster.jpg").std() > 5


def test_with_cameras_but_nothing_held_out_it_says_so(copy: StageRun) -> None:
    (copy.root / "03_train" / "heldout.json").write_text('{"train": [], "test": []}')
    work(copy)
    assert inspection.results(copy, P).reason == "training held out no view"


def test_a_missing_or_broken_sog_is_a_clear_error(copy: StageRun) -> None:
    (copy.root / "04_compress" / "splat.sog").write_bytes(b"PK no zip")
    with pytest.raises(SplatFormatError, match=r"splat\.sog"):
        work(copy)
    (copy.root / "04_compress" / "stage.json").unlink()
    with pytest.raises(WorkspaceError, match="compress has not finished"):
        work(copy)


def test_the_poster_shows_what_the_first_view_sees(root: Path) -> None:
    results = inspection.results(StageRun(root, "inspect"), P)
    poster = load_rgb(root / "05_inspect" / "poster.jpg")
    camera = results.viewpoint.camera(poster.shape[1], poster.shape[0])
    render = evaluation.render_view(results.gaussians, camera, 0)
    assert metrics.psnr(poster / 255, render) > 30
    middle = poster[60:120, 100:220]
    assert middle.mean() > 40, "the splat fills the middle of the picture"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=12, unique=True))
def test_file_stems_are_safe_and_unique_whatever_photographs_are_called(names: list[str]) -> None:
    stems = file_stems(tuple(names))
    assert len({stem.lower() for stem in stems.values()}) == len(names)
    for stem in stems.values():
        assert Path(stem).name == stem
        assert stem not in ("", ".", "..")
        assert stem.isascii()


def test_file_stems_keep_ordinary_names() -> None:
    assert file_stems(("IMG_1.jpg", "a/IMG_1.jpg", "IMG_1.png")) == {
        "IMG_1.jpg": "IMG_1",
        "a/IMG_1.jpg": "a_IMG_1",
        "IMG_1.png": "IMG_1-2",
    }


def test_error_pictures_are_grey_levels_up_to_the_ceiling(tmp_path: Path) -> None:
    photo = np.zeros((8, 40, 3), np.uint8)
    render = np.repeat(np.linspace(0, 0.5, 40, dtype=np.float32)[None, :, None], 8, axis=0).repeat(3, axis=2)
    names = write_pictures(tmp_path, "x", render, photo, 100)
    levels = load_rgb(tmp_path / names["error"])[4, :, 0] * (ERROR_CEILING / 255)
    assert np.abs(levels - np.minimum(render[4, :, 0] * 255, ERROR_CEILING)).max() < 3


@pytest.mark.parametrize(
    ("shape", "size"), [((300, 400, 3), (40, 30)), ((30, 40, 3), (40, 30)), ((4000, 2, 3), (1, 40))]
)
def test_fitted_keeps_the_shape_and_never_enlarges(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    assert fitted(shape, 40) == size


def test_statistics_count_what_was_put_in() -> None:
    splat = scene_splat(500)
    scales, opacities = splat.scales.copy(), np.full(500, 3.0, np.float32)
    scales[:] = np.log(0.1)
    scales[:7, 0] = np.log(0.1 * NEEDLE * 1.5)
    scales[7:10] = np.log(30.0)
    opacities[20:25] = -6
    splat = replace(splat, scales=scales, opacities=opacities)
    found = suspects(splat)
    assert (found.needle.sum(), found.huge.sum(), found.transparent.sum()) == (7, 3, 5)
    stats = describe(splat, georeferenced=True)
    counts = {name: s["count"] for name, s in stats["suspects"].items()}
    assert counts == {"nearly transparent": 5, "huge": 3, "needle": 7}
    assert stats["unit"] == "m"
    assert stats["opacity"]["max"] == pytest.approx(1 / (1 + math.exp(-3)))
    assert set(stats["sh_rms"]) == {"1", "2", "3"}
    second = splat.shN[:, 3:8]
    assert stats["sh_rms"]["2"] == pytest.approx(float(np.sqrt((second.astype(float) ** 2).mean())))


@pytest.mark.parametrize("n", [1, 2])
def test_statistics_and_first_view_bear_the_smallest_splats(n: int) -> None:
    splat = random_splat(n, sh_degree=0)
    stats = describe(splat)
    json.dumps(stats, default=lambda a: a.tolist(), allow_nan=False)
    view = first_view(splat, None, np.array([0.0, 0, 1]))
    assert np.isfinite([*view.position, *view.target]).all()
    assert view.position != view.target


def test_robust_bounds_leave_floaters_out() -> None:
    splat = scene_splat(2000)
    means = splat.means.copy()
    means[:5] = 1e4
    low, high = robust_bounds(replace(splat, means=means, opacities=np.full(2000, 3, np.float32)))
    assert (high - low).max() < 60


def turned(cameras: Cameras, rotation: np.ndarray) -> Cameras:
    """The same cameras in a world turned by `rotation` [3, 3]."""
    viewmats = cameras.viewmats.copy()
    viewmats[:, :3, :3] = viewmats[:, :3, :3] @ rotation.T
    return replace(cameras, viewmats=viewmats)


def turning(seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


@pytest.mark.parametrize("seed", range(4))
def test_up_is_found_from_how_cameras_are_held(seed: int) -> None:
    rotation = turning(seed)
    up = up_direction(turned(make_cameras(12, 64, 48), rotation), georeferenced=False)
    assert up @ rotation @ [0, 0, 1] > 0.999


@pytest.mark.parametrize("seed", range(4))
def test_up_of_a_flight_that_looks_straight_down_is_behind_the_cameras(seed: int) -> None:
    rng, rotation = np.random.default_rng(seed), turning(seed)
    viewmats = np.tile(np.eye(4), (20, 1, 1))
    for viewmat, heading in zip(viewmats, rng.uniform(-0.8, 0.8, 20), strict=True):
        right = np.array([np.cos(heading), np.sin(heading), 0])
        forward = np.array([0, 0, -1.0])
        viewmat[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    cameras = turned(replace(make_cameras(20, 64, 48), viewmats=viewmats), rotation)
    assert up_direction(cameras, georeferenced=False) @ rotation @ [0, 0, 1] > 0.999


def test_up_is_z_where_georeferenced_and_minus_y_without_cameras() -> None:
    assert up_direction(make_cameras(3, 8, 6), georeferenced=True).tolist() == [0, 0, 1]
    assert up_direction(None, georeferenced=False).tolist() == [0, -1, 0]


def test_a_flight_is_first_seen_from_the_side_above_the_horizon() -> None:
    splat = make_gaussians(400, np.random.default_rng(0))
    view = first_view(splat, make_cameras(12, 64, 48), np.array([0.0, 0, 1]))
    offset = np.array(view.position) - view.target
    elevation = math.degrees(math.asin(offset[2] / np.linalg.norm(offset)))
    assert 5 <= elevation <= 52.001
    assert np.linalg.norm(view.target) < 1.5, "it looks at the mound"
    assert np.linalg.norm(offset) >= 0.9 * math.sqrt(41), "from no nearer than the cameras were"
    assert offset[1] > 0, "from the side the cameras stood on"


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1))
def test_level_axes_and_up_are_a_right_handed_frame(direction: tuple[float, float, float]) -> None:
    up = np.array(direction) / np.linalg.norm(direction)
    frame = np.vstack([level_axes(up), up])
    assert np.allclose(frame @ frame.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(frame) == pytest.approx(1)
    assert np.allclose(level_axes(np.array([0.0, 0, 1])), [[1, 0, 0], [0, 1, 0]])


def test_a_viewpoint_s_camera_sees_its_target_in_the_middle_and_up_above() -> None:
    view = Viewpoint((3.0, -4.0, 2.0), (0.0, 0.5, 0.1), (0.0, 0.0, 1.0), 60.0)
    assert Viewpoint.from_json(json.loads(json.dumps(view.json()))) == view
    camera = view.camera(200, 100)
    viewmat, K = camera.viewmats[0], camera.Ks[0]
    points = np.array([view.target, np.add(view.target, [0, 0, 0.2])])
    seen = (points @ viewmat[:3, :3].T + viewmat[:3, 3]) @ K.T
    middle, above = seen[:, :2] / seen[:, 2:]
    assert np.allclose(middle, [100, 50])
    assert above[0] == pytest.approx(100)
    assert above[1] < 50
    assert 2 * math.degrees(math.atan(100 / K[0, 0])) == pytest.approx(60)
    assert np.linalg.det(viewmat[:3, :3]) == pytest.approx(1)
