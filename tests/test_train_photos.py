"""Photographs for training: what is made of them, what is kept, what is made ahead, and what is masked."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import scenes
import torch
from PIL import Image
from scipy import ndimage

from spaceport_lab import backends
from spaceport_lab.cameras import Cameras
from spaceport_lab.errors import ParamsError, PhotosError
from spaceport_lab.train import photos as module
from spaceport_lab.train.photos import Photos, Picture, View, version

WIDTH, HEIGHT, FULL_BYTES = 64, 48, 64 * 48 * 3
PLENTY = 1e9


@pytest.fixture
def cameras(tmp_path: Path) -> Cameras:
    """Six cameras whose photographs are noise in `images/`."""
    cameras = scenes.make_cameras(6, WIDTH, HEIGHT)
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for name in cameras.names:
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    return cameras


def pixels(tmp_path: Path, cameras: Cameras, index: int) -> np.ndarray:
    return np.asarray(Image.open(tmp_path / "images" / cameras.names[index]))


def write_mask(path: Path, counts: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(counts, 255, 0).astype(np.uint8)).save(path)


def shown(photos: Photos, index: int, factor: float = 1, blur: float = 0) -> np.ndarray:
    return photos.at(index, factor, blur, "cpu").photo.numpy()


def slow_version(image: np.ndarray, size: tuple[int, int], blur: float) -> np.ndarray:
    """Blurred in float64, then every output pixel summed over the input pixels it touches."""
    blurred = ndimage.gaussian_filter(image.astype(float), (blur, blur, 0), mode="reflect", truncate=3)
    height, width = image.shape[:2]
    out = np.zeros((size[1], size[0], 3))
    for y in range(size[1]):
        for x in range(size[0]):
            total = 0.0
            y0, y1 = y * height / size[1], (y + 1) * height / size[1]
            x0, x1 = x * width / size[0], (x + 1) * width / size[0]
            for v in range(height):
                for u in range(width):
                    overlap = max(0, min(v + 1, y1) - max(v, y0)) * max(0, min(u + 1, x1) - max(u, x0))
                    if overlap > 0:
                        out[y, x] += overlap * blurred[v, u]
                        total += overlap
            out[y, x] /= total
    return out


@pytest.mark.parametrize("size", [(20, 14), (10, 7), (13, 9), (7, 3), (1, 1), (19, 14)])
@pytest.mark.parametrize("blur", [0, 0.1, 0.7, 2.4, 9.0])
def test_versions_agree_with_the_slow_way(size: tuple[int, int], blur: float) -> None:
    image = np.random.default_rng(1).integers(0, 256, (14, 20, 3), dtype=np.uint8)
    made = version(Picture(image, None), size, blur).photo
    assert made.shape == (size[1], size[0], 3)
    # Half a level is the rounding.
    np.testing.assert_allclose(made, slow_version(image, size, blur), atol=0.501)


def test_a_flat_photograph_stays_flat() -> None:
    for level in (0, 3, 255):
        flat = np.full((31, 57, 3), level, np.uint8)
        for size, blur in (((57, 31), 3.0), ((23, 17), 0.0), ((23, 17), 3.0)):
            assert (version(Picture(flat, None), size, blur).photo == level).all()


def test_at_gives_tensors_and_intrinsics_of_the_exact_ratio(tmp_path: Path, cameras: Cameras) -> None:
    photos = Photos(cameras, tmp_path / "images", cache_bytes=PLENTY)
    view = photos.at(1, 1.7, 0, torch.device("cpu"))
    assert (view.width, view.height) == (38, 28)
    assert view.photo.dtype == torch.uint8
    assert view.mask is None
    np.testing.assert_allclose(view.K[0, 0], cameras.Ks[1, 0] * 38 / WIDTH, rtol=1e-6)
    np.testing.assert_allclose(view.K[0, 1], cameras.Ks[1, 1] * 28 / HEIGHT, rtol=1e-6)
    np.testing.assert_allclose(view.viewmat[0], cameras.viewmats[1], rtol=1e-6)
    np.testing.assert_array_equal(shown(photos, 1), pixels(tmp_path, cameras, 1))
    np.testing.assert_array_equal(photos.full(1), pixels(tmp_path, cameras, 1))
    assert shown(photos, 1, 1000).shape == (1, 1, 3)
    for wrong in ((0.5, 0), (1, -1), (float("nan"), 0)):
        with pytest.raises(ParamsError, match="enlarged or sharpened"):
            photos.at(1, *wrong, "cpu")


@pytest.mark.parametrize("turned", [False, True])
def test_strips_are_parts_of_the_view(turned: bool) -> None:
    """Rendered strip by strip an image is the one that is rendered at once."""
    width, height = (40, 61) if turned else (61, 40)
    g = scenes.make_gaussians(200, np.random.default_rng(5))
    photo = torch.arange(width * height * 3).reshape(height, width, 3).to(torch.uint8)
    mask = torch.arange(width * height).reshape(height, width) % 3 > 0
    viewmat = torch.from_numpy(scenes.make_cameras(1, width, height).viewmats[:1].astype(np.float32))
    K = torch.tensor([[[55.0, 0, width / 2], [0, 55, height / 2], [0, 0, 1]]])
    whole = View(photo, mask, viewmat, K, (width, height))
    assert whole.strip(0, 1) is whole
    axis = 0 if turned else 1
    strips = [whole.strip(which, 3) for which in range(3)]
    assert torch.equal(torch.cat([strip.photo for strip in strips], axis), photo)
    assert torch.equal(torch.cat([strip.mask for strip in strips], axis), mask)
    assert {strip.whole for strip in strips} == {(width, height)}
    splat = [torch.from_numpy(getattr(g, name)) for name in ("means", "quats", "scales", "opacities")]
    colors = torch.from_numpy(g.sh0), torch.from_numpy(g.shN)

    def render(view: View) -> torch.Tensor:
        means, quats, scales, opacities = splat
        return backends.rasterize(
            means, quats, scales.exp(), opacities.sigmoid(), colors, view.viewmat, view.K, view.width,
            view.height, sh_degree=0,
        )[0][0]  # fmt: skip

    joined = torch.cat([render(strip) for strip in strips], axis)
    # What is centred far outside is projected a little differently: its shape is taken at the margin.
    difference = (joined - render(whole)).abs()
    assert difference.median() < 1e-5
    assert difference.mean() < 1e-3
    assert render(whole).std() > 0.01


def test_a_full_photograph_can_be_written_to(tmp_path: Path, cameras: Cameras) -> None:
    photos = Photos(cameras, tmp_path / "images", cache_bytes=PLENTY)
    photos.full(0)[:] = 0
    np.testing.assert_array_equal(photos.full(0), pixels(tmp_path, cameras, 0))


def test_a_photograph_is_brought_to_the_size_of_its_camera(tmp_path: Path, cameras: Cameras) -> None:
    Image.new("RGB", (2 * WIDTH, 2 * HEIGHT), (9, 9, 9)).save(tmp_path / "images" / cameras.names[0])
    photos = Photos(cameras, tmp_path / "images", cache_bytes=PLENTY)
    assert photos.full(0).shape == (HEIGHT, WIDTH, 3)


def test_with_room_each_photograph_is_decoded_once(tmp_path: Path, cameras: Cameras) -> None:
    photos = Photos(cameras, tmp_path / "images", cache_bytes=PLENTY)
    assert photos.decoded == 0
    for factor, blur in ((4, 2.0), (2, 0.5), (1, 0.0), (2, 0.5)):
        for index in range(6):
            photos.at(index, factor, blur, "cpu")
    assert photos.decoded == 6


def test_reduced_photographs_that_fit_are_not_made_twice(tmp_path: Path, cameras: Cameras) -> None:
    """Full-size ones, not needed any more, must not push them out; nor those of an earlier resolution."""
    photos = Photos(cameras, tmp_path / "images", cache_bytes=2.1 * FULL_BYTES)
    for factor, decoded in ((4, 6), (2, 12)):
        for _ in range(3):
            for index in range(6):
                photos.at(index, factor, 0, "cpu")
        assert photos.decoded <= decoded
        assert photos._kept.nbytes <= photos._kept.limit


@pytest.mark.parametrize("room", [0, 0.5, 1, 2.5, 100])
def test_the_bound_holds_and_changes_nothing(tmp_path: Path, cameras: Cameras, room: float) -> None:
    reference = Photos(cameras, tmp_path / "images", cache_bytes=PLENTY)
    photos = Photos(cameras, tmp_path / "images", cache_bytes=room * FULL_BYTES)
    rng = np.random.default_rng(2)
    plan = [(int(i), 1.0 + f, float(b)) for i, f, b in rng.choice([0, 1, 2, 3], (60, 3))]
    for step, version_ in enumerate(plan):
        photos.prefetch(plan[step : step + 6])
        np.testing.assert_array_equal(shown(photos, *version_), shown(reference, *version_))
        kept = sum(picture.nbytes for picture in photos._kept._pictures.values())
        assert kept <= room * FULL_BYTES
    photos.close()
    assert photos._kept.nbytes == sum(p.nbytes for p in photos._kept._pictures.values())


def test_prefetch_makes_what_is_then_asked_for(
    tmp_path: Path, cameras: Cameras, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, str]] = []

    def noted(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
        made.append((path.name, threading.current_thread().name))
        return load(path, size)

    load = module.load_rgb
    monkeypatch.setattr(module, "load_rgb", noted)
    photos = Photos(cameras, tmp_path / "images", cache_bytes=PLENTY)
    photos.prefetch([(i, 2, 1.0) for i in (3, 1, 5, 0, 2, 4)])
    wait_for(photos)
    assert [name for name, _ in made] == [cameras.names[i] for i in (3, 1, 5, 0)]  # a few, in this order
    assert all(thread.startswith("photos") for _, thread in made)
    photos.at(3, 2, 1.0, "cpu")
    assert photos.decoded == 4
    photos.close()


def test_prefetch_begins_no_more_than_fits(tmp_path: Path, cameras: Cameras) -> None:
    photos = Photos(cameras, tmp_path / "images", cache_bytes=2.5 * FULL_BYTES)
    photos.at(5, 1, 0, "cpu")
    photos.prefetch([(5, 1, 0), (0, 1, 0), (1, 1, 0), (2, 1, 0)])
    wait_for(photos)
    assert [key[0] for key in photos._kept._pictures] == [5, 0]
    photos.close()


def test_no_thread_is_left(tmp_path: Path, cameras: Cameras) -> None:
    before = threading.active_count()
    closed, forgotten = (Photos(cameras, tmp_path / "images", cache_bytes=PLENTY) for _ in range(2))
    for photos in (closed, forgotten):
        photos.prefetch([(0, 1, 0), (1, 1, 0)])
    closed.close()
    closed.close()
    closed.prefetch([(2, 1, 0)])
    np.testing.assert_array_equal(shown(closed, 3), pixels(tmp_path, cameras, 3))
    wait_for(forgotten)
    del photos, forgotten
    gc.collect()
    limit = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < limit:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_missing_misshapen_and_unreadable_are_found_at_once(tmp_path: Path, cameras: Cameras) -> None:
    path = tmp_path / "images" / cameras.names[2]
    for spoil, said in (
        (lambda: Image.new("RGB", (HEIGHT, WIDTH)).save(path), "has not the shape"),
        (lambda: path.write_bytes(b"no image at all"), f"cannot read {path.name}"),
        (path.unlink, "an image is missing"),
    ):
        spoil()
        with pytest.raises(PhotosError, match=said):
            Photos(cameras, tmp_path / "images", cache_bytes=PLENTY)


@pytest.mark.parametrize("ahead", [False, True])
def test_broken_pixels_are_told_where_they_are_needed(tmp_path: Path, cameras: Cameras, ahead: bool) -> None:
    path = tmp_path / "images" / cameras.names[2]
    path.write_bytes(path.read_bytes()[:3000])
    photos = Photos(cameras, tmp_path / "images", cache_bytes=PLENTY)
    if ahead:
        photos.prefetch([(2, 2, 0), (1, 2, 0)])
        wait_for(photos)
    photos.at(1, 2, 0, "cpu")
    for _ in range(2):
        with pytest.raises(PhotosError, match=f"cannot read {path.name}"):
            photos.at(2, 2, 0, "cpu")
    photos.close()


def test_masks_are_found_by_either_name(tmp_path: Path, cameras: Cameras) -> None:
    counts = np.random.default_rng(3).random((HEIGHT, WIDTH)) < 0.7
    names, masks = cameras.names, tmp_path / "masks"
    write_mask(masks / f"{names[0]}.png", counts)
    write_mask(masks / names[1], ~counts)
    write_mask(masks / names[2], np.zeros_like(counts))
    write_mask(masks / "elsewhere.png", counts)
    write_mask(masks / names[3], np.kron(counts[::2, ::2], np.ones((4, 4))) > 0)
    photos = Photos(cameras, tmp_path / "images", mask_dir=masks, cache_bytes=PLENTY)
    np.testing.assert_array_equal(photos.mask(0), counts)
    np.testing.assert_array_equal(photos.at(1, 1, 0, "cpu").mask.numpy(), ~counts)
    np.testing.assert_array_equal(photos.mask(3), np.kron(counts[::2, ::2], np.ones((2, 2))) > 0)
    assert photos.mask(5) is None
    assert photos.at(5, 2, 1, "cpu").mask is None
    assert photos.unmatched_masks == ["elsewhere.png"]
    assert photos.fully_masked == [names[2]]


def test_masks_that_cannot_be_used(tmp_path: Path, cameras: Cameras) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / cameras.names[0]).write_bytes(b"no mask")
    with pytest.raises(PhotosError, match=f"cannot read {cameras.names[0]}"):
        Photos(cameras, tmp_path / "images", mask_dir=tmp_path / "masks", cache_bytes=PLENTY)


@pytest.mark.parametrize("size", [(20, 14), (10, 7), (13, 9), (7, 3)])
def test_a_reduced_pixel_counts_only_with_all_of_its_area(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    counts = rng.random((14, 20)) < 0.9
    made = version(Picture(rng.integers(0, 256, (14, 20, 3), dtype=np.uint8), counts), size, 0).mask
    expected = np.ones((size[1], size[0]), bool)
    for y in range(size[1]):
        for x in range(size[0]):
            rows = slice(y * 14 // size[1], -(-(y + 1) * 14 // size[1]))
            columns = slice(x * 20 // size[0], -(-(x + 1) * 20 // size[0]))
            expected[y, x] = counts[rows, columns].all()
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(("size", "blur"), [((20, 14), 2.0), ((9, 5), 0.0), ((9, 5), 2.0)])
def test_nothing_masked_leaks_into_what_counts(size: tuple[int, int], blur: float) -> None:
    rng = np.random.default_rng(5)
    first = rng.integers(0, 256, (14, 20, 3), dtype=np.uint8)
    counts = np.ones((14, 20), bool)
    counts[3:8, 6:13] = False
    second = np.where(counts[:, :, None], first, 255 - first).astype(np.uint8)
    one, other = (version(Picture(photo, counts), size, blur) for photo in (first, second))
    assert 0 < one.mask.sum() < one.mask.size
    np.testing.assert_array_equal(one.photo[one.mask], other.photo[one.mask])
    flat = version(Picture(np.full_like(first, 90), counts), size, blur)
    assert (flat.photo[flat.mask] == 90).all()


def wait_for(photos: Photos) -> None:
    limit = time.monotonic() + 10
    while any(not future.done() for future in list(photos._making.values())):
        assert time.monotonic() < limit
        time.sleep(0.005)
