"""Masks through structure from motion: undistorted as the photographs are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image
from scipy import ndimage

from spaceport_lab import files
from spaceport_lab.images import find_masks, load_mask

if TYPE_CHECKING:  # imported by nobody but the worker
    import pycolmap


def for_all(folder: Path, photos: list[dict[str, Any]], out: Path) -> Path:
    """A folder with a mask for every photograph, a white one where it has none; returns it.

    COLMAP passes over photographs whose masks are not there as if they could not be read.

    Args:
        folder: of masks NAME.png.
        photos: with `name`, `width` and `height`.
        out: where they go.
    """
    for photo in photos:
        name = f"{photo['name']}.png"
        if (folder / name).is_file():
            files.link_or_copy(folder / name, out / name)
        else:
            _write(np.ones((photo["height"], photo["width"]), bool), out / name)
    return out


def undistort(
    before: pycolmap.Reconstruction, after: pycolmap.Reconstruction, folder: Path, out: Path, threads: int
) -> tuple[int, list[str]]:
    """Write NAME.png for each registered image that has a mask: 8-bit grey, 0 where it does not count.

    Args:
        before: the model of the photographs the masks belong to.
        after: the same images with pinhole cameras, of the size they are handed on in.
        folder: of masks; one of another size than its photograph's camera is brought to that.
        out: where they go; not made when there are none.
        threads: to work with.

    Returns:
        How many were written, and the files of `folder` that belong to no registered image.

    Raises:
        PhotosError: a mask cannot be read.
    """
    images = {before.image(i).name: before.image(i).camera_id for i in before.reg_image_ids()}
    finals = {after.image(i).name: after.image(i).camera_id for i in after.reg_image_ids()}
    found, left = find_masks(folder, sorted(images.keys() & finals.keys()))
    pairs = {name: (images[name], finals[name]) for name in found}

    with ThreadPoolExecutor(threads) as pool:
        # Images of one camera are looked up alike, one camera at a time: a map is as large as a photograph.
        for pair in sorted(set(pairs.values())):
            camera = before.camera(pair[0])
            index, reach = lookup(camera, after.camera(pair[1]))

            def one(name: str, size=(camera.width, camera.height), index=index, reach=reach) -> None:
                _write(sampled(load_mask(found[name], size), index, reach), out / f"{name}.png")

            list(pool.map(one, [name for name in found if pairs[name] == pair]))
    return len(found), left


def _write(counts: Bool[np.ndarray, "h w"], target: Path) -> None:
    with files.atomic_path(target) as temporary:
        Image.fromarray(np.where(counts, 255, 0).astype(np.uint8)).save(temporary)


def lookup(before: pycolmap.Camera, after: pycolmap.Camera) -> tuple[Int[np.ndarray, "h w"], int]:
    """For each pixel of `after` the index of the nearest pixel of `before`, −1 where it lies outside.

    Returns:
        The indices, and how many pixels of `before` on either side of it a pixel of `after` may have seen.
    """
    columns, rows = np.meshgrid(np.arange(after.width) + 0.5, np.arange(after.height) + 0.5)
    centres = np.stack([columns.ravel(), rows.ravel()], axis=1)
    rays = after.cam_from_img(centres)
    seen = np.asarray(before.img_from_cam(np.column_stack([rays, np.ones(len(rays))])))
    size = np.array([before.width, before.height])
    # Half a pixel beyond the edge is still the edge's pixel, for bilinear interpolation as for us.
    inside = ((seen > -0.5) & (seen < size + 0.5)).all(axis=1)  # not a number counts as outside
    column, row = np.clip(np.floor(np.where(inside[:, None], seen, 0)), 0, size - 1).astype(np.int32).T
    index = np.where(inside, row * before.width + column, -1).reshape(after.height, after.width)
    if (before.width, before.height) == (after.width, after.height) and np.abs(seen - centres).max() < 1e-3:
        return index, 0  # nothing was interpolated
    ratio = max(before.focal_length_x / after.focal_length_x, before.focal_length_y / after.focal_length_y)
    return index, int(np.ceil(max(1.0, ratio) / 2))


def sampled(
    counts: Bool[np.ndarray, "H W"], index: Int[np.ndarray, "h w"], reach: int
) -> Bool[np.ndarray, "h w"]:
    """True where nothing within `reach` of the pixel looked up is False: what is masked must not leak."""
    if reach:
        counts = ndimage.minimum_filter(counts, 2 * reach + 1, mode="nearest")
    return counts.ravel()[index] & (index >= 0)
