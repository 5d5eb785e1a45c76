"""The held-out view of the bench: its photograph, its renders on the way, and how far apart they are."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from spaceport_lab.images import load_rgb
from spaceport_lab.inspection.views import ERROR_CEILING
from spaceport_lab.plots.style import ERROR_MAP
from spaceport_lab.train.inputs import Views
from spaceport_lab.workspace import StageRun

LONGEST = 420
"""Pixels of the longer side at the most: three stand side by side."""

QUALITY = 86


class HeldoutView:
    """Pictures of the view that the time lapse follows.

    Args:
        run: the train stage.
        views: its cameras; the middle one of those that decide, as `train.progress.picture` renders it.
    """

    def __init__(self, run: StageRun, views: Views) -> None:
        self.folder = run.dir / "timelapse"
        cameras = next(c for c in (views.validation, views.heldout, views.train) if len(c))
        self.name = cameras.names[len(cameras) // 2]
        self.kind = (
            "validation" if len(views.validation) else "held out" if len(views.heldout) else "training"
        )
        self._photo = run.input("sfm", "images") / self.name

    def steps(self) -> list[int]:
        """Finished steps of the renders there are, rising."""
        return sorted(int(path.stem.removeprefix("frame_")) for path in self.folder.glob("frame_*.jpg"))

    def at(self, step: int) -> tuple[bytes, bytes, bytes, float] | None:
        """Photograph, render and error map as JPEG, and the mean error in grey levels of 255.

        None where the render has gone or cannot be read.
        """
        try:
            with Image.open(self.folder / f"frame_{step:08d}.jpg") as file:
                render = np.asarray(_small(file.convert("RGB")))
        except (OSError, ValueError):
            return None
        height, width = render.shape[:2]
        photo, encoded = _photograph(self._photo, width, height)
        error = np.abs(photo.astype(np.float32) - render).mean(axis=2)
        return encoded, jpeg(render), jpeg(colored(error)), float(error.mean())

    def captions(self, step: int, error: float) -> list[str]:
        """What stands under the three pictures."""
        return [
            f"{self.name}, {self.kind}",
            f"render at step {step:,}",
            f"error, mean {error:.1f} grey levels; white is {ERROR_CEILING:.0f} and more",
        ]


def jpeg(picture: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """The picture as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def colored(error: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Grey levels of error in the colours of the error maps everywhere else."""
    place = np.clip(error / ERROR_CEILING * 255, 0, 255).astype(np.uint8)
    return _palette()[place]


@lru_cache(maxsize=1)
def _palette() -> UInt8[np.ndarray, "256 3"]:
    return (mpl.colormaps[ERROR_MAP](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


@lru_cache(maxsize=4)
def _photograph(path: Path, width: int, height: int) -> tuple[np.ndarray, bytes]:
    photo = load_rgb(path, (width, height))
    return photo, jpeg(photo)


def _small(picture: Image.Image) -> Image.Image:
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.BOX)
    return picture
