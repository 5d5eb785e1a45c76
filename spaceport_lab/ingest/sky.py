"""The sky in photographs that look to the horizon, found without a learned model.

Sky has no features to match and no place where a splat could put it. It is what is smooth, blue or bright,
above the horizon that the gimbal's angles give, and joined to the picture's upper border.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy import ndimage

from spaceport_lab import files
from spaceport_lab.ingest.flight import axes, focal_px
from spaceport_lab.ingest.photos import Photo

SIDE = 640
"""The sky is sought in photographs reduced to this many pixels on the longer side."""

BELOW_HORIZON_DEG = 2.0
"""Gimbals err by a degree, and from high up the horizon lies a little lower than level."""

SMOOTH = 9.0
"""Most that grey levels may deviate within 5×5 pixels; clouds stay under it, leaves and facades do not."""

DARKEST, WHITE = 80.0, 165.0
"""Grey levels: sky is not darker than the first; from the second on it need not be blue."""

LEAST_SHARE = 0.005
"""Of the picture: less is no sky worth a mask."""


def above_horizon(photo: Photo, size: tuple[int, int]) -> Bool[np.ndarray, "h w"] | None:
    """Pixels that look above the horizon; None where the photograph does not say how it looks.

    Args:
        photo: with gimbal angles and a focal length.
        size: width and height of the picture asked for, pixels, of the photograph's shape.
    """
    drone, focal = photo.drone or {}, focal_px(photo)
    if "pitch_deg" not in drone or focal is None:
        return None
    width, height = size
    rotation = axes(0.0, drone["pitch_deg"], drone.get("roll_deg", 0.0))
    x = (np.arange(width) + 0.5 - width / 2)[None, :]
    y = (np.arange(height) + 0.5 - height / 2)[:, None]
    scaled = focal * width / photo.width
    rising = x * rotation[0, 2] + y * rotation[1, 2] + scaled * rotation[2, 2]
    return rising > -math.sin(math.radians(BELOW_HORIZON_DEG)) * np.sqrt(x**2 + y**2 + scaled**2)


def find_sky(rgb: UInt8[np.ndarray, "h w 3"], above: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Where the sky is.

    Args:
        rgb: the picture, reduced.
        above: pixels it can be in.
    """
    colors = rgb.astype(np.float32)
    red, green, blue = np.moveaxis(colors, 2, 0)
    grey = colors.mean(axis=2)
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(grey**2, 5) - ndimage.uniform_filter(grey, 5) ** 2, 0))
    is_blue = (blue >= red + 8) & (blue >= green)
    is_white = (grey >= WHITE) & (blue >= red - 12) & (colors.max(axis=2) - colors.min(axis=2) < 60)
    alike = above & (spread < SMOOTH) & (grey >= DARKEST) & (is_blue | is_white)
    # Specks are leaves and waves, not sky; then the edges of clouds, which are neither smooth nor one colour.
    padded = ndimage.binary_opening(np.pad(alike, 6, mode="edge"), np.ones((5, 5)))
    alike = ndimage.binary_closing(padded, iterations=3)[6:-6, 6:-6] & above
    parts, _ = ndimage.label(alike)
    upper = np.unique(parts[0])
    sky = np.isin(parts, upper[upper > 0])
    # Smoothness is of 5×5 pixels, so it ends two before the edge of the sky.
    sky = ndimage.binary_dilation(sky, iterations=2) & above & (is_blue | is_white | sky)
    return sky if sky.mean() >= LEAST_SHARE else np.zeros_like(sky)


def mask_sky(path: Path, photo: Photo, target: Path) -> float | None:
    """Write a mask that hides the sky of a photograph; what a mask that is there hides stays hidden.

    Args:
        path: of the photograph as it lies under images/.
        photo: what is known of it.
        target: the mask, NAME.png, 8-bit grey, 0 where it does not count.

    Returns:
        The share of the picture that is sky; None where the photograph does not say how it looks. Without
        sky nothing is written.

    Raises:
        WorkspaceError: the disk is full or the folder is not writable.
    """
    ratio = min(1.0, SIDE / max(photo.width, photo.height))
    size = (max(1, round(photo.width * ratio)), max(1, round(photo.height * ratio)))
    above = above_horizon(photo, size)
    if above is None:
        return None
    if not above.any():
        return 0.0
    with Image.open(path) as image:
        image.draft("RGB", size)  # JPEG decodes at an eighth of the size as fast as it is read
        small = image.convert("RGB").resize(size, Image.Resampling.BOX)
    sky = find_sky(np.asarray(small), above)
    if not sky.any():
        return 0.0
    counts = Image.fromarray(np.where(sky, 0, 255).astype(np.uint8))
    grey = np.asarray(counts.resize((photo.width, photo.height), Image.Resampling.NEAREST))
    if target.is_file():
        with Image.open(target) as before:
            grey = np.minimum(grey, np.asarray(before.convert("L")))
    with files.atomic_path(target) as temporary:
        Image.fromarray(grey).save(temporary)
    return float(sky.mean())


def coverage(shares: list[float | None]) -> dict[str, float]:
    """How many photographs have sky, its mean share in those, and how many do not say how they look."""
    found = [share for share in shares if share]
    return {
        "n_sky_masks": len(found),
        "sky_share": float(np.mean(found)) if found else 0.0,
        "n_sky_unknown": sum(share is None for share in shares),
    }
