from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scenes
from PIL import Image

from spaceport_lab import evaluation
from spaceport_lab.cameras import Cameras
from spaceport_lab.errors import PhotosError
from spaceport_lab.gaussians import Gaussians


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Gaussians, Cameras, Path]:
    folder = tmp_path_factory.mktemp("scene")
    truth = scenes.make_colmap_scene(folder, n_views=3)
    return truth, scenes.make_cameras(3, 64, 48), folder / "images"


def test_the_truth_is_only_rounded(scene: tuple[Gaussians, Cameras, Path]) -> None:
    views = evaluation.evaluate(*scene)
    assert [view.name for view in views] == list(scene[1].names)
    # Rounding to 8 bits is an error of 1/255/√12: 58.9 dB; black pixels are exact and lift it.
    assert all(58 < view.psnr < 65 for view in views)
    assert all(view.ssim > 0.999 for view in views)
    assert evaluation.mean_psnr(views) == pytest.approx(np.mean([view.psnr for view in views]))
    assert evaluation.mean_ssim(views) > 0.999


def test_a_faded_splat_is_worse(scene: tuple[Gaussians, Cameras, Path]) -> None:
    truth, cameras, images = scene
    faded = Gaussians(truth.means, truth.quats, truth.scales, truth.opacities - 3, truth.sh0, truth.shN)
    assert evaluation.mean_psnr(evaluation.evaluate(faded, cameras, images)) < 25


def test_render_view_is_one_of_render_views(scene: tuple[Gaussians, Cameras, Path]) -> None:
    truth, cameras, images = scene
    one = evaluation.render_view(truth, cameras, 2)
    assert one.shape == (48, 64, 3)
    assert one.dtype == np.float32
    assert one.min() >= 0
    assert one.max() <= 1
    np.testing.assert_array_equal(one, list(evaluation.render_views(truth, cameras))[2])
    photo = np.asarray(Image.open(images / cameras.names[2])) / 255
    np.testing.assert_allclose(one, photo, atol=0.51 / 255)


def test_a_lower_sh_degree_renders_as_well(scene: tuple[Gaussians, Cameras, Path]) -> None:
    truth, cameras, _ = scene
    flat = evaluation.render_view(truth.with_sh_degree(0), cameras, 0)
    np.testing.assert_allclose(flat, evaluation.render_view(truth, cameras, 0), atol=1e-5)


def test_photographs_of_another_size_are_brought_to_the_camera(
    scene: tuple[Gaussians, Cameras, Path], tmp_path: Path
) -> None:
    truth, cameras, images = scene
    big = Image.open(images / cameras.names[0]).resize((128, 96), Image.Resampling.NEAREST)
    big.save(tmp_path / cameras.names[0])
    assert evaluation.evaluate(truth, cameras.subset([0]), tmp_path)[0].psnr > 58


def test_a_missing_photograph_is_named(scene: tuple[Gaussians, Cameras, Path], tmp_path: Path) -> None:
    with pytest.raises(PhotosError, match=r"view_000\.png"):
        evaluation.evaluate(scene[0], scene[1], tmp_path)


def test_a_darker_photograph_costs_psnr_but_no_cc_psnr(
    scene: tuple[Gaussians, Cameras, Path], tmp_path: Path
) -> None:
    truth, cameras, images = scene
    photo = np.asarray(Image.open(images / cameras.names[0]))
    Image.fromarray((photo * 0.6 + 20).astype(np.uint8)).save(tmp_path / cameras.names[0])
    (view,) = evaluation.evaluate(truth, cameras.subset([0]), tmp_path, with_ssim=False, with_cc=True)
    assert view.ssim is None
    assert view.psnr < 30
    assert view.cc_psnr > 50
    assert evaluation.mean_cc_psnr([view]) == view.cc_psnr


def test_masked_pixels_do_not_count() -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    render, mask = photo.astype(np.float32) / 255, np.ones((20, 30), bool)
    render[:, 15:], mask[:, 15:] = 0, False
    plain, masked = (evaluation.compare("a", render, photo, with_cc=True, mask=m) for m in (None, mask))
    assert plain.psnr < plain.cc_psnr < 30
    assert masked.psnr == masked.cc_psnr == np.inf
    assert masked.ssim > plain.ssim
    assert np.isnan(evaluation.compare("a", render, photo, mask=np.zeros_like(mask)).psnr)


def test_no_views_have_no_mean() -> None:
    assert evaluation.mean_psnr([]) is None
    assert evaluation.mean_cc_psnr([]) is None
    assert evaluation.mean_cc_psnr([evaluation.ViewMetrics("a", 20.0, None)]) is None
    assert evaluation.mean_ssim([]) is None
