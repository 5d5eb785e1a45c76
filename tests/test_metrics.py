from __future__ import annotations

import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from spaceport_lab.metrics import cc_psnr, psnr, ssim


def slow_ssim(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
    """The 3DGS code's formula with one 11×11 convolution, in double precision."""
    offsets = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    line /= line.sum()
    window = (line[:, None] * line[None, :]).expand(3, 1, 11, 11)
    x, y = (torch.from_numpy(i).double().permute(2, 0, 1)[None] for i in (a, b))

    def blur(values: torch.Tensor) -> torch.Tensor:
        return F.conv2d(values, window, padding=5, groups=3)

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float((likeness if mask is None else likeness[:, :, torch.from_numpy(mask)]).mean())


def picture(seed: int, height: int = 40, width: int = 53) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([np.sin(x / 5 + k) * np.cos(y / (4 + k)) for k in range(3)], axis=2)
    return np.clip(0.5 + 0.4 * smooth + rng.normal(0, 0.05, smooth.shape), 0, 1).astype(np.float32)


@pytest.mark.parametrize("shape", [(40, 53), (11, 11), (4, 30), (1, 1)])
def test_ssim_is_that_of_the_3dgs_code(shape: tuple[int, int]) -> None:
    a, b = picture(0, *shape), picture(1, *shape)
    assert ssim(a, b) == pytest.approx(slow_ssim(a, b), abs=1e-5)


def test_ssim_of_flat_bright_images_does_not_lose_its_digits() -> None:
    rng = np.random.default_rng(0)
    a = np.full((64, 64, 3), 0.98, np.float32)
    b = a + rng.normal(0, 1e-3, a.shape).astype(np.float32)
    assert ssim(a, b) == pytest.approx(slow_ssim(a, b), abs=1e-4)


def test_psnr_of_a_known_error() -> None:
    a = np.full((5, 7, 3), 0.5, np.float32)
    assert psnr(a, a + np.float32(0.1)) == pytest.approx(20, abs=1e-4)
    assert psnr(a, a + np.float32(0.01)) == pytest.approx(40, abs=1e-3)


def test_identical_images() -> None:
    a = picture(3)
    assert psnr(a, a) == math.inf
    assert ssim(a, a) == pytest.approx(1, abs=1e-6)


def test_nan_shows() -> None:
    a = picture(3)
    b = a.copy()
    b[0, 0, 0] = np.nan
    assert math.isnan(psnr(a, b))
    assert math.isnan(ssim(a, b))


def test_tensors_are_taken_as_well() -> None:
    a, b = picture(0), picture(1)
    ta, tb = torch.from_numpy(a).requires_grad_(), torch.from_numpy(b)
    assert psnr(ta, tb) == psnr(a, b)
    assert ssim(ta, tb) == ssim(a, b)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_shapes_must_agree(metric) -> None:
    with pytest.raises(ValueError, match=r"got \(40, 53, 3\) and \(20, 53, 3\)"):
        metric(picture(0), picture(0)[:20])
    with pytest.raises(ValueError, match=r"bools \(40, 53\) is needed, got bool of shape \(40, 50\)"):
        metric(picture(0), picture(1), np.ones((40, 50), bool))
    with pytest.raises(ValueError, match="got float32"):
        metric(picture(0), picture(1), np.ones((40, 53), np.float32))


def holes(seed: int, share: float = 0.4) -> np.ndarray:
    return np.random.default_rng(seed).random((40, 53)) > share


def test_masked_pixels_do_not_count() -> None:
    a, b, mask = picture(0), picture(1), holes(2)
    spoilt = b.copy()
    spoilt[~mask] = np.nan
    assert psnr(a, spoilt, mask) == pytest.approx(-10 * np.log10(np.mean((a - b)[mask] ** 2)), abs=1e-4)
    assert cc_psnr(a, spoilt, mask) == pytest.approx(slow_cc_psnr(a[mask], b[mask]), abs=1e-4)
    assert ssim(a, b, mask) == pytest.approx(slow_ssim(a, b, mask), abs=1e-5)
    assert psnr(a, b, torch.from_numpy(mask)) == psnr(a, b, mask)


@pytest.mark.parametrize("metric", [psnr, ssim, cc_psnr])
def test_masks_that_hide_nothing_and_everything(metric) -> None:
    a, b = picture(0), picture(1)
    assert metric(a, b, np.ones((40, 53), bool)) == metric(a, b)
    assert math.isnan(metric(a, b, np.zeros((40, 53), bool)))


def test_no_pixels_have_no_figures() -> None:
    nothing = np.zeros((0, 5, 3), np.float32)
    assert all(math.isnan(metric(nothing, nothing)) for metric in (psnr, ssim, cc_psnr))


def test_ssim_with_and_without_a_mask_are_one_formula() -> None:
    a, b, mask = picture(5), picture(6), holes(7)
    parts = [ssim(a, b, m) * m.sum() for m in (mask, ~mask)]
    assert ssim(a, b) == pytest.approx(sum(parts) / mask.size, abs=1e-5)


def slow_cc_psnr(render: np.ndarray, photo: np.ndarray) -> float:
    """numpy's least squares on all pixels."""
    pixels = np.column_stack([render.reshape(-1, 3), np.ones(render.size // 3)]).astype(np.float64)
    wanted = photo.reshape(-1, 3).astype(np.float64)
    matched = np.clip(pixels @ np.linalg.lstsq(pixels, wanted, rcond=None)[0], 0, 1)
    return -10 * math.log10(np.mean((matched - wanted) ** 2))


def test_cc_psnr_is_psnr_after_least_squares() -> None:
    a, b = (
        picture(0),
        np.clip(picture(0) @ np.array([[0.7, 0.1, 0], [0, 0.8, 0], [0.1, 0, 1.4]]) + 0.05, 0, 1),
    )
    noisy = (b + np.random.default_rng(1).normal(0, 0.03, b.shape)).clip(0, 1).astype(np.float32)
    assert cc_psnr(a, noisy) == pytest.approx(slow_cc_psnr(a, noisy), abs=1e-4)
    assert cc_psnr(a, noisy) > psnr(a, noisy) + 10
    assert cc_psnr(torch.from_numpy(a), torch.from_numpy(noisy)) == cc_psnr(a, noisy)


def test_cc_psnr_of_a_changed_exposure_is_that_of_rounding_alone() -> None:
    photo = 0.2 + 0.5 * picture(4)
    render = photo * np.array([1.3, 0.9, 1.1], np.float32) - 0.1
    assert cc_psnr(render, photo) > 100
    assert psnr(render, photo) < 30


def test_cc_psnr_of_pictures_that_say_nothing_about_colours() -> None:
    flat, grey = np.full((40, 53, 3), 0.3, np.float32), np.repeat(picture(8)[..., :1], 3, axis=2)
    assert cc_psnr(flat, picture(9)) == pytest.approx(slow_cc_psnr(flat, picture(9)), abs=1e-3)
    assert cc_psnr(grey, picture(9)) == pytest.approx(slow_cc_psnr(grey, picture(9)), abs=1e-3)
    assert cc_psnr(grey, grey) == math.inf
    spoilt = grey.copy()
    spoilt[3, 4] = np.nan
    assert math.isnan(cc_psnr(spoilt, grey))


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.float32, (2, 6, 5, 3), elements=st.floats(0, 1, width=32)))
def test_cc_psnr_is_never_below_psnr(pair: np.ndarray) -> None:
    assert cc_psnr(*pair) >= psnr(*pair)


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.float32, (2, 13, 9, 3), elements=st.floats(0, 1, width=32)))
def test_metrics_are_symmetric_and_bounded(pair: np.ndarray) -> None:
    a, b = pair
    assert ssim(a, b) == pytest.approx(ssim(b, a), abs=1e-6)
    assert -1 - 1e-5 <= ssim(a, b) <= 1 + 1e-5
    assert psnr(a, b) == psnr(b, a)
    assert psnr(a, b) >= 0
