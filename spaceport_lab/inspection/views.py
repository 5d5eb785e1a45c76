"""Held-out views of a splat: metrics of every one, pictures of the worst."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from spaceport_lab import evaluation, files
from spaceport_lab.cameras import Cameras
from spaceport_lab.evaluation import ViewMetrics
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.images import load_rgb, mask_beside, resize_area

ERROR_CEILING = 64.0
"""Grey levels (of 255) of mean absolute error at which an error picture is white."""

JPEG_QUALITY = 88


@dataclass(frozen=True)
class ViewPicture:
    """A held-out view for the eye, all at one size.

    Attributes:
        name: of the photograph.
        psnr: dB, at training size.
        ssim: at training size.
        photo: the photograph.
        render: the splat from the same camera.
        error: absolute difference, mean of the channels, grey levels 0 to ERROR_CEILING.
    """

    name: str
    psnr: float
    ssim: float
    photo: UInt8[np.ndarray, "H W 3"]
    render: UInt8[np.ndarray, "H W 3"]
    error: Float[np.ndarray, "H W"]


def measure(
    gaussians: Gaussians, cameras: Cameras, images: Path, backend: str
) -> Iterator[tuple[ViewMetrics, Float[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W 3"]]]:
    """Render every view that is not masked as a whole; yields metrics, render in 0..1 and photograph."""
    renders = evaluation.render_views(gaussians, cameras, backend=backend)
    for name, (width, height), render in zip(cameras.names, cameras.sizes, renders, strict=True):
        size = (int(width), int(height))
        photo, mask = load_rgb(images / name, size), mask_beside(images, name, size)
        if mask is None or mask.any():
            yield evaluation.compare(name, render, photo, mask=mask), render, photo


def write_pictures(
    folder: Path,
    stem: str,
    render: Float[np.ndarray, "H W 3"],
    photo: UInt8[np.ndarray, "H W 3"],
    longest_side: int,
) -> dict[str, str]:
    """Write STEM_photo.jpg, STEM_render.jpg and STEM_error.jpg; returns their names by kind.

    The error picture is grey: 0 is no difference, 255 is ERROR_CEILING levels or more.
    """
    error = np.abs(render - photo.astype(np.float32) / 255).mean(axis=2) * 255
    grey = (np.clip(error / ERROR_CEILING, 0, 1) * 255).round().astype(np.uint8)
    kinds = {
        "photo": photo,
        "render": (render * 255).round().astype(np.uint8),
        "error": np.repeat(grey[:, :, None], 3, axis=2),
    }
    names = {}
    for kind, pixels in kinds.items():
        names[kind] = f"{stem}_{kind}.jpg"
        image = Image.fromarray(resize_area(pixels, fitted(pixels.shape, longest_side)))
        with files.atomic_path(folder / names[kind]) as path:
            (image.convert("L") if kind == "error" else image).save(path, quality=JPEG_QUALITY)
    return names


def fitted(shape: tuple[int, ...], longest_side: int) -> tuple[int, int]:
    """Width and height of an image of this shape brought to at most `longest_side`; never enlarged."""
    height, width = shape[:2]
    factor = min(1.0, longest_side / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def file_stems(names: tuple[str, ...]) -> dict[str, str]:
    """Image name → a stem that is safe as a file name and unique, whatever the photographs are called."""
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        base = re.sub(r"[^A-Za-z0-9.-]+", "_", name.rpartition(".")[0] or name).strip("._")[:80] or "view"
        stem, number = base, 2
        while stem.lower() in taken:
            stem, number = f"{base}-{number}", number + 1
        taken.add(stem.lower())
        stems[name] = stem
    return stems


def empty_folder(folder: Path) -> Path:
    """`folder`, there and empty."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def read_pictures(stage_dir: Path, limit: int | None = None) -> list[ViewPicture]:
    """The pictures a finished inspect stage wrote, worst view first, at most `limit` of them."""
    entries = [v for v in read_views(stage_dir)["views"] if v["pictures"]][:limit]
    return [_read_picture(stage_dir, entry) for entry in entries]


def read_views(stage_dir: Path) -> dict[str, Any]:
    """views.json of a finished inspect stage."""
    return json.loads((stage_dir / "views.json").read_text())


def _read_picture(stage_dir: Path, entry: dict[str, Any]) -> ViewPicture:
    photo, render, error = (load_rgb(stage_dir / entry["pictures"][k]) for k in ("photo", "render", "error"))
    levels = error[:, :, 0].astype(np.float32) * (ERROR_CEILING / 255)
    psnr = np.inf if entry["psnr"] is None else entry["psnr"]
    return ViewPicture(entry["name"], psnr, entry["ssim"], photo, render, levels)
