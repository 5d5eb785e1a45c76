"""Photographs for training: decoded when needed, reduced, low-pass filtered, kept within a bound."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, UnidentifiedImageError
from scipy import sparse
from torch import Tensor

from spaceport_lab.cameras import Cameras
from spaceport_lab.errors import ParamsError, PhotosError
from spaceport_lab.images import find_masks, load_mask, load_rgb

MAX_AHEAD = 4
"""Pictures asked of the background thread and not yet made; more would only wait in memory."""

GAUSSIAN_RADIUS = 3.0
"""Standard deviations: 0.3 % of the weight lies beyond."""

Key = tuple[int, tuple[int, int], float]
"""Index, (width, height) and blur of one version of a photograph."""


@dataclass(frozen=True)
class View:
    """One photograph, or a strip of it, with its camera, ready for the loss.

    Attributes:
        photo: [H, W, 3] as it was decoded; on the CPU it is what is kept, so not to be written to.
        mask: [H, W] True where the photograph counts; None where all of it does.
        viewmat: [1, 4, 4] world to camera.
        K: [1, 3, 3] intrinsics in pixels of `photo`.
        whole: width and height of the whole photograph at this resolution, pixels.
    """

    photo: UInt8[Tensor, "H W 3"]
    mask: Bool[Tensor, "H W"] | None
    viewmat: Float[Tensor, "1 4 4"]
    K: Float[Tensor, "1 3 3"]
    whole: tuple[int, int]

    @property
    def height(self) -> int:
        """Pixels."""
        return self.photo.shape[0]

    @property
    def width(self) -> int:
        """Pixels."""
        return self.photo.shape[1]

    def strip(self, which: int, of: int) -> View:
        """One of `of` equal strips, numbered from 0, cut across the longer side."""
        if of == 1:
            return self
        axis = 1 if self.width >= self.height else 0
        side = self.photo.shape[axis]
        first = side * which // of
        cut = (slice(None),) * axis + (slice(first, side * (which + 1) // of),)
        K = self.K.clone()
        K[:, 1 - axis, 2] -= first
        mask = None if self.mask is None else self.mask[cut].contiguous()
        return View(self.photo[cut].contiguous(), mask, self.viewmat, K, self.whole)


@dataclass(frozen=True)
class Picture:
    """One version of a photograph in memory: [H, W, 3] pixels, and the [H, W] mask where it has one."""

    photo: UInt8[np.ndarray, "H W 3"]
    mask: Bool[np.ndarray, "H W"] | None

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, bytes."""
        return self.photo.nbytes + (self.mask.nbytes if self.mask is not None else 0)


class Photos:
    """The photographs of `cameras`, each decoded when it is first needed.

    What was decoded or made stays in memory up to `cache_bytes`; then what was not used for longest goes. One
    background thread makes what `prefetch` names. What `at` returns depends on neither.

    Args:
        cameras: whose names are files of `image_dir`.
        image_dir: a photograph of another size than its camera's is resized to that.
        mask_dir: masks named NAME.png as COLMAP has them (a.jpg.png), or like the photograph, with its own
            ending or .png. Black is ignored. A photograph without one counts everywhere.
        cache_bytes: of all pictures kept. The one or two being made or in use come on top.

    Attributes:
        cameras: as given.
        unmatched_masks: files of `mask_dir` that belong to none of these cameras.
        fully_masked: photographs of which nothing counts.
        decoded: how many times a photograph has been decoded.

    Raises:
        PhotosError: a photograph is missing, is no image, or has not its camera's shape; or a mask is broken.
            A photograph whose header is sound and whose pixels are not is found when it is needed.
    """

    def __init__(
        self, cameras: Cameras, image_dir: Path, *, mask_dir: Path | None = None, cache_bytes: float
    ) -> None:
        self.cameras = cameras
        self.decoded = 0
        self._sizes = [(int(w), int(h)) for w, h in cameras.sizes]
        self._paths = [Path(image_dir) / name for name in cameras.names]
        for path, size in zip(self._paths, self._sizes, strict=True):
            _check_header(path, size)
        found, self.unmatched_masks = ({}, []) if mask_dir is None else find_masks(mask_dir, cameras.names)
        self._masks = {i: found[name] for i, name in enumerate(cameras.names) if name in found}
        self.fully_masked = [
            name for i, name in enumerate(cameras.names) if i in self._masks and not self.mask(i).any()
        ]
        self._kept = _Kept(cache_bytes)
        self._making: dict[Key, Future[Picture]] = {}
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="photos")

    def at(self, index: int, factor: float, blur: float, device: torch.device | str) -> View:
        """View `index`, reduced and low-pass filtered; the intrinsics follow the exact ratio of the sides.

        Args:
            index: of the camera.
            factor: at least 1; both sides are divided by it and rounded, to 1 pixel at least.
            blur: standard deviation of a Gaussian in pixels of the full photograph; 0 for none.
            device: where the tensors go.

        Raises:
            PhotosError: the photograph is broken.
            ParamsError: `factor` or `blur` is out of range.
        """
        picture = self._picture(self._key(index, factor, blur))
        height, width = picture.photo.shape[:2]
        K = self.cameras.Ks[index].astype(np.float32)
        K[0] *= width / self._sizes[index][0]
        K[1] *= height / self._sizes[index][1]
        mask = picture.mask
        return View(
            torch.from_numpy(picture.photo).to(device),
            None if mask is None else torch.from_numpy(mask.copy()).to(device),
            torch.from_numpy(self.cameras.viewmats[index : index + 1].astype(np.float32)).to(device),
            torch.from_numpy(K[None]).to(device),
            (width, height),
        )

    def full(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """The photograph at its full size, a copy.

        Raises:
            PhotosError: it is broken.
        """
        return self._picture(self._key(index, 1, 0)).photo.copy()

    def mask(self, index: int) -> Bool[np.ndarray, "H W"] | None:
        """Where the photograph counts, at full size; None: everywhere.

        Raises:
            PhotosError: the mask is broken.
        """
        path, size = self._masks.get(index), self._sizes[index]
        if path is None:
            return None
        return load_mask(path, size)

    def prefetch(self, upcoming: Sequence[tuple[int, float, float]]) -> None:
        """Have the next pictures made in the background, in this order; returns at once.

        Args:
            upcoming: (index, factor, blur) as `at` will be asked for them. A few are begun, and never more
                than fit in memory together; call again as training goes on.
        """
        with self._lock:
            if self._pool is None:
                return
            room, begun = self._kept.limit, sum(not f.done() for f in self._making.values())
            for key in dict.fromkeys(self._key(*version) for version in upcoming):
                room -= self._bytes(key)
                if room < 0 or begun >= MAX_AHEAD:
                    break
                if self._kept.get(key) is None and key not in self._making:
                    self._making[key] = self._pool.submit(self._make_ahead, key)
                    begun += 1

    def close(self) -> None:
        """End the background thread; `at` goes on working without it."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
            self._making.clear()

    def _key(self, index: int, factor: float, blur: float) -> Key:
        if not (factor >= 1 and blur >= 0 and np.isfinite([factor, blur]).all()):
            raise ParamsError(
                "a photograph cannot be enlarged or sharpened",
                got=f"factor {factor:g}, blur {blur:g}",
                expected="factor of at least 1, blur of at least 0",
            )
        width, height = self._sizes[index]
        return index, (max(1, round(width / factor)), max(1, round(height / factor))), float(blur)

    def _bytes(self, key: Key) -> int:
        (width, height), masked = key[1], key[0] in self._masks
        return width * height * (4 if masked else 3)

    def _picture(self, key: Key) -> Picture:
        with self._lock:
            picture, begun = self._kept.get(key), self._making.pop(key, None)
        if picture is not None:
            return picture
        if begun is not None and not begun.cancel():
            return begun.result()  # raises here what the background met
        return self._make(key)

    def _make_ahead(self, key: Key) -> Picture:
        picture = self._make(key)
        with self._lock:  # only what failed stays, for the call that needs it
            self._making.pop(key, None)
        return picture

    def _make(self, key: Key) -> Picture:
        """Always from the 8-bit full photograph, so that it never matters what was in memory."""
        index, size, blur = key
        full_key = (index, self._sizes[index], 0.0)
        with self._lock:
            full = self._kept.get(full_key, cold=key != full_key)
        if full is None:
            full = Picture(load_rgb(self._paths[index], self._sizes[index]), self.mask(index))
            with self._lock:
                self.decoded += 1
                self._kept.put(full_key, full, cold=key != full_key)
        if key == full_key:
            return full
        picture = version(full, size, blur)
        with self._lock:
            self._kept.put(key, picture)
        return picture


def version(full: Picture, size: tuple[int, int], blur: float) -> Picture:
    """A photograph low-pass filtered, then reduced to `size` (width, height), rounded to 8 bits once.

    A reduced pixel is the mean of the area it covers, and counts only where all of that area counts. The
    filter does not look at pixels that do not count: what is masked must not reach its neighbours. Where
    nothing near counts, a filtered photograph is black.

    Args:
        full: the photograph at full size.
        size: at most that of `full`, on both sides.
        blur: standard deviation of the Gaussian in pixels of `full`.
    """
    height, width = full.photo.shape[:2]
    photo, mask = full.photo.astype(np.float32), full.mask
    if mask is not None and blur > 0:
        weight = _averaged(mask[:, :, None].astype(np.float32), size, blur)
        photo = _averaged(photo * mask[:, :, None], size, blur) / np.maximum(weight, 1e-6)
    else:
        photo = _averaged(photo, size, blur)
    if mask is not None and size != (width, height):
        mask = _reduced(mask, size)
    return Picture(np.ascontiguousarray(np.rint(photo).astype(np.uint8)), mask)


def _averaged(
    image: Float[np.ndarray, "H W D"], size: tuple[int, int], blur: float
) -> Float[np.ndarray, "h w D"]:
    """Rows, then columns, each by one sparse matrix: at any ratio and any blur as fast as a copy or two."""
    height, width, depth = image.shape
    rows = _weights(height, size[1], blur) @ image.reshape(height, -1)
    columns = rows.reshape(size[1], width, depth).swapaxes(0, 1).reshape(width, -1)
    return (_weights(width, size[0], blur) @ columns).reshape(size[0], size[1], depth).swapaxes(0, 1)


@lru_cache(maxsize=64)
def _weights(full: int, small: int, blur: float) -> sparse.csr_array:
    """[small, full] share of each of `full` pixels in each of `small`; mirrored at the border."""
    area = _area(full, small)
    reach = int(GAUSSIAN_RADIUS * blur + 0.5)
    if reach == 0:
        return area.astype(np.float32)
    offsets = np.arange(-reach, reach + 1)
    taps = np.exp(-0.5 * (offsets / blur) ** 2)
    row, offset = np.divmod(np.arange(full * len(taps)), len(taps))
    mirrored = (row + offsets[offset]) % (2 * full)
    column = np.minimum(mirrored, 2 * full - 1 - mirrored)
    gaussian = sparse.csr_array(((taps / taps.sum())[offset], (row, column)), shape=(full, full))
    return (area @ gaussian).astype(np.float32)


def _area(full: int, small: int) -> sparse.csr_array:
    """[small, full] of float64; exact at any ratio, where Pillow's box filter takes whole pixels."""
    first, end = _covered(full, small)
    counts = end - first
    row = np.repeat(np.arange(small), counts)
    column = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts) + first[row]
    # In units of 1 / small of a pixel all edges are whole numbers.
    low = np.maximum(column * small, row * full)
    high = np.minimum((column + 1) * small, (row + 1) * full)
    return sparse.csr_array(((high - low) / full, (row, column)), shape=(small, full))


def _covered(full: int, small: int) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last of `full` pixels that each of `small` touches."""
    edges = np.arange(small + 1) * full
    return edges[:-1] // small, -(-edges[1:] // small)


def _reduced(mask: Bool[np.ndarray, "H W"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """True where all pixels that the reduced one touches are True, by a table of how many are not."""
    height, width = mask.shape
    ignored = np.zeros((height + 1, width + 1), np.int32)
    np.cumsum(np.cumsum(~mask, axis=0, dtype=np.int32), axis=1, out=ignored[1:, 1:])
    top, bottom = _covered(height, size[1])
    left, right = _covered(width, size[0])
    rows = ignored[bottom] - ignored[top]
    return rows[:, right] == rows[:, left]


class _Kept:
    """Pictures in the order they were used, the longest unused first; at most `limit` bytes of them."""

    def __init__(self, limit: float) -> None:
        self.limit, self.nbytes = limit, 0
        self._pictures: OrderedDict[Key, Picture] = OrderedDict()

    def get(self, key: Key, *, cold: bool = False) -> Picture | None:
        """The picture, now the last to go; with `cold` the first, as it will hardly be needed again."""
        picture = self._pictures.get(key)
        if picture is not None:
            self._pictures.move_to_end(key, last=not cold)
        return picture

    def put(self, key: Key, picture: Picture, *, cold: bool = False) -> None:
        """Keep the picture; with `cold` only where nothing has to go for it."""
        if key in self._pictures or picture.nbytes > self.limit:
            return
        if cold and self.nbytes + picture.nbytes > self.limit:
            return
        self._pictures[key] = picture
        self._pictures.move_to_end(key, last=not cold)
        self.nbytes += picture.nbytes
        if not cold:
            # Another version of the same photograph belongs to a resolution or a blur that is over.
            for other in [k for k in self._pictures if k[0] == key[0] and k != key]:
                self._pictures.move_to_end(other, last=False)
        while self.nbytes > self.limit:
            self.nbytes -= self._pictures.popitem(last=False)[1].nbytes


def _check_header(path: Path, size: tuple[int, int]) -> None:
    """Open it without decoding it."""
    try:
        with Image.open(path) as image:
            width, height = image.size
    except FileNotFoundError as error:
        raise PhotosError("an image is missing", got=f"no {path}", hint="run the sfm stage again") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise PhotosError(
            f"cannot read {path.name}", got=str(error), expected="a whole image file"
        ) from error
    # Sides that were rounded may be off by a pixel.
    if abs(width * size[1] / size[0] - height) > max(1.0, 0.01 * height):
        raise PhotosError(
            f"{path.name} has not the shape its camera says",
            got=f"{width}×{height}",
            expected=f"{size[0]}×{size[1]}, or the same at another resolution",
            hint="give the images the cameras were made from, not turned or cropped",
        )
