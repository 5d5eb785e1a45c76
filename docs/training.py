"""Draws docs/training.png, the schedules of a training: `python docs/training.py`."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from spaceport_lab import files
from spaceport_lab.params import TrainParams
from spaceport_lab.plots import train as plots
from spaceport_lab.train.schedules import plan
from spaceport_lab.train.spectra import significance

P = TrainParams(blur=4.0, lowpass=True, prune_share=0.3, prune_sh=1.0)
"""The defaults, and what else can be drawn."""


def like_a_photograph(side: int = 512) -> np.ndarray:
    """Noise [side, side, 3] whose spectrum falls with the inverse frequency, as that of photographs does."""
    noise = np.fft.rfft2(np.random.default_rng(0).normal(size=(side, side)))
    across, along = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    grey = np.fft.irfft2(noise / np.maximum(np.hypot(across, along), 1 / side), s=(side, side))
    grey = 128 + 40 * (grey - grey.mean()) / grey.std()
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def draw(path: Path) -> None:
    """Write the figure as a PNG of few colours."""
    course = plan(
        P, scene_scale=1.0, shorter_side=768, n_first=12_000, spectrum=significance([like_a_photograph()]),
        n_views=14,
    )  # fmt: skip
    buffer = io.BytesIO()
    plots.schedules(course).savefig(buffer, format="png", dpi=110)
    small = io.BytesIO()
    Image.open(buffer).convert("RGB").quantize(64).save(small, "PNG", optimize=True)
    files.write_bytes(path, small.getvalue())


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".png"))
