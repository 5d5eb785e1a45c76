from __future__ import annotations

import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from spaceport_lab.metrics import psnr, ssim


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
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
    return float(((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


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


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.float32, (2, 13, 9, 3), elements=st.floats(0, 1, width=32)))
def test_metrics_are_symmetric_and_bounded(pair: np.ndarray) -> None:
    a, b = pair
    assert ssim(a, b) == pytest.approx(ssim(b, a), abs=1e-6)
    assert -1 - 1e-5 <= ssim(a, b) <= 1 + 1e-5
    assert psnr(a, b) == psnr(b, a)
    assert psnr(a, b) >= 0
