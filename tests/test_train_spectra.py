from __future__ import annotations

import numpy as np
import pytest

from spaceport_lab.train.spectra import FACTORS, GREY, significance


def slow(photo: np.ndarray, factor: float) -> float:
    """Over the whole spectrum, one frequency after the other."""
    grey = photo.astype(np.float32) @ GREY
    spectrum = np.abs(np.fft.fft2(grey - grey.mean()))
    kept = 0.0
    for v, row in zip(np.fft.fftfreq(grey.shape[0]), spectrum, strict=True):
        for u, magnitude in zip(np.fft.fftfreq(grey.shape[1]), row, strict=True):
            kept += magnitude if max(abs(u), abs(v)) <= 0.5 / factor else 0
    return kept / spectrum.sum()


@pytest.mark.parametrize("size", [(24, 33), (31, 40)])
def test_it_is_the_share_of_the_spectrum(size: tuple[int, int]) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    shares = significance([photo])
    for factor in FACTORS:
        assert shares[factor] == pytest.approx(slow(photo, factor), rel=0.03)


def test_soft_pictures_keep_more_than_noise() -> None:
    y, x = np.mgrid[:96, :128]
    soft = np.stack([127 + 120 * np.sin(x / 20) * np.cos(y / 25)] * 3, axis=-1).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    of_soft, of_noise = significance([soft]), significance([noise])
    assert all(of_soft[f] > of_noise[f] for f in FACTORS)
    assert of_noise[2.0] == pytest.approx(0.25, abs=0.02)
    both = significance([soft, noise])
    assert both[4.0] == pytest.approx((of_soft[4.0] + of_noise[4.0]) / 2)
    assert list(of_soft.values()) == sorted(of_soft.values(), reverse=True)


def test_nothing_to_see() -> None:
    assert set(significance([np.full((20, 30, 3), 77, np.uint8)]).values()) == {1.0}
    assert significance([]) == {}
