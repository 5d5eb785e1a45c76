"""Training photographs in memory, at the resolution of the moment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from spaceport_lab.cameras import Cameras
from spaceport_lab.errors import PhotosError
from spaceport_lab.images import load_rgb, resize_area


@dataclass(frozen=True)
class View:
    """One photograph with its camera, ready for the loss.

    Attributes:
        photo: [H, W, 3] in 0..1.
        viewmat: [1, 4, 4] world to camera.
        K: [1, 3, 3] intrinsics in pixels of `photo`.
    """

    photo: Float[Tensor, "H W 3"]
    viewmat: Float[Tensor, "1 4 4"]
    K: Float[Tensor, "1 3 3"]

    @property
    def height(self) -> int:
        """Pixels."""
        return self.photo.shape[0]

    @property
    def width(self) -> int:
        """Pixels."""
        return self.photo.shape[1]


class Photos:
    """All photographs of `cameras` as 8-bit arrays; smaller versions are made when first asked for.

    Raises:
        PhotosError: a photograph is missing or broken, or all of them together do not fit in memory.
    """

    def __init__(self, cameras: Cameras, image_dir: Path, free_bytes: float) -> None:
        needed = int(sum(int(w) * int(h) * 3 for w, h in cameras.sizes))
        if needed > 0.7 * free_bytes:
            raise PhotosError(
                f"{len(cameras)} photographs do not fit in memory",
                got=f"{needed / 1e9:.1f} GB of pixels, {free_bytes / 1e9:.1f} GB of memory free",
                hint="make sfm.train_size smaller, or take a machine with more memory",
            )
        self.cameras = cameras
        sizes = [(int(w), int(h)) for w, h in cameras.sizes]
        self.full: list[UInt8[np.ndarray, "H W 3"]] = [
            load_rgb(image_dir / name, size) for name, size in zip(cameras.names, sizes, strict=True)
        ]
        self._factor, self._smaller = 1, self.full

    def at(self, index: int, factor: int, device: torch.device) -> View:
        """View `index` with its sides divided by `factor` (rounded); intrinsics follow exactly."""
        photo = self._photo(index, factor)
        height, width = self.full[index].shape[:2]
        K = self.cameras.Ks[index].astype(np.float32).copy()
        K[0] *= photo.shape[1] / width
        K[1] *= photo.shape[0] / height
        return View(
            torch.from_numpy(photo).to(device).float() / 255,
            torch.from_numpy(self.cameras.viewmats[index : index + 1].astype(np.float32)).to(device),
            torch.from_numpy(K[None]).to(device),
        )

    def _photo(self, index: int, factor: int) -> UInt8[np.ndarray, "H W 3"]:
        if factor == 1:
            return self.full[index]
        if factor != self._factor:  # factors only fall, so one set of smaller versions is enough
            self._factor, self._smaller = factor, [None] * len(self.full)
        if self._smaller[index] is None:
            height, width = self.full[index].shape[:2]
            size = (max(1, round(width / factor)), max(1, round(height / factor)))
            self._smaller[index] = np.ascontiguousarray(resize_area(self.full[index], size))
        return self._smaller[index]


def drawn(step: int, n: int, seed: int) -> int:
    """Which of `n` views step `step` trains on: every view once in each round, shuffled anew each round.

    Depends on nothing but its arguments, so a resumed training goes on in the same order.
    """
    round_, place = divmod(step, n)
    return int(np.random.default_rng((seed, round_)).permutation(n)[place])


def scene_scale(cameras: Cameras, points: Float[np.ndarray, "P 3"]) -> float:
    """Radius of the camera positions, times 1.1 as in the 3DGS code, in world units.

    Where all cameras stand in one place: the median distance of the points from there.
    """
    centers = cameras.centers
    radius = float(np.linalg.norm(centers - centers.mean(axis=0), axis=1).max()) * 1.1
    distance = float(np.median(np.linalg.norm(points - centers.mean(axis=0), axis=1)))
    return radius if radius > 1e-3 * distance else max(distance, 1e-6)
