"""SOG version 1: read as splat-transform reads it, brought to version 2, the broken layout refused."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from splats import random_splat, scene_splat
from test_sog import assert_peer_reads_the_same

from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.sog import field_errors, read_sog, write_bundle, write_folder
from spaceport_lab.sog.pack import log_coordinates, pack_quats
from spaceport_lab.sog.read import read_antialias
from spaceport_lab.sog.v1 import upgrade


def webp(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()


def linear(
    values: np.ndarray, axis: tuple[int, ...] | None = (0,), top: int = 255
) -> tuple[np.ndarray, dict]:
    """Steps between the least and the greatest value, as version 1 has them, and its meta entry."""
    low, high = values.min(axis=axis), values.max(axis=axis)
    steps = np.rint((values - low) / np.where(high > low, high - low, 1) * top).astype(np.uint16)
    return steps, {"mins": np.asarray(low).tolist(), "maxs": np.asarray(high).tolist(), "dtype": "float32"}


def write_v1(splat: Gaussians, palette: int = 128) -> dict[str, bytes]:
    """A splat as version 1: a square of pixels without alpha where none is needed, the palette 64 wide."""
    side = math.isqrt(splat.n)
    assert side**2 == splat.n, "sogs drops splats down to a perfect square"

    def image(channels: np.ndarray) -> bytes:
        return webp(channels.astype(np.uint8).reshape(side, side, -1))

    steps, means = linear(log_coordinates(splat.means), top=65535)
    scales_steps, scales = linear(splat.scales.astype(np.float64))
    sh0_steps, sh0 = linear(np.column_stack([splat.sh0[:, 0], splat.opacities]).astype(np.float64))
    files = {
        "means_l.webp": image(steps & 255),
        "means_u.webp": image(steps >> 8),
        "scales.webp": image(scales_steps),
        "quats.webp": image(pack_quats(splat.quats)),
        "sh0.webp": image(sh0_steps),
    }
    meta: dict[str, Any] = {
        "means": means | {"shape": [splat.n, 3], "files": ["means_l.webp", "means_u.webp"]},
        "scales": scales | {"shape": [splat.n, 3], "files": ["scales.webp"]},
        "quats": {"shape": [splat.n, 4], "encoding": "quaternion_packed", "files": ["quats.webp"]},
        "sh0": sh0 | {"shape": [splat.n, 1, 4], "files": ["sh0.webp"]},
    }
    if splat.sh_degree:
        entries_steps, shN = linear(splat.shN[:palette].astype(np.float64), axis=None)
        labels = np.arange(splat.n) % palette
        split = np.column_stack([labels & 255, labels >> 8, np.zeros_like(labels)])
        files["shN_centroids.webp"] = webp(entries_steps.astype(np.uint8).reshape(palette // 64, -1, 3))
        files["shN_labels.webp"] = image(split)
        meta["shN"] = shN | {"quantization": 8, "files": ["shN_centroids.webp", "shN_labels.webp"]}
    return files | {"meta.json": json.dumps(meta).encode()}


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ["splat.sog", "folder"])
def test_peer_reads_version_1_as_we_do(tmp_path: Path, sh_degree: int, name: str) -> None:
    splat = scene_splat(1600, sh_degree)
    path = tmp_path / name
    (write_bundle if name == "splat.sog" else write_folder)(path, write_v1(splat))
    path = path if name == "splat.sog" else path / "meta.json"
    back = assert_peer_reads_the_same(path, tmp_path, splat.n)
    assert not read_antialias(path)
    errors = field_errors(splat, back)
    assert back.sh_degree == sh_degree
    assert errors["position_of_extent"].max < 50
    assert errors["log_scale"].max <= 0.5 / 255 * np.ptp(splat.scales, axis=0).max() + 1e-5
    np.testing.assert_allclose(
        back.opacities, splat.opacities, atol=0.5 / 255 * np.ptp(splat.opacities) + 1e-5
    )
    if sh_degree:
        np.testing.assert_allclose(back.shN[:128], splat.shN[:128], atol=0.51 / 255 * np.ptp(splat.shN[:128]))


@pytest.mark.parametrize("sh_degree", [0, 3])
def test_brought_to_version_2(tmp_path: Path, sh_degree: int) -> None:
    splat = scene_splat(2500, sh_degree)
    write_folder(tmp_path / "v1", write_v1(splat))
    before = read_sog(tmp_path / "v1")
    write_bundle(tmp_path / "v2.sog", upgrade(tmp_path / "v1"))
    after = assert_peer_reads_the_same(tmp_path / "v2.sog", tmp_path, splat.n)
    for name in ("means", "quats", "shN"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name), name)
    errors = field_errors(before, after)
    assert errors["log_scale"].max < 0.2
    assert errors["opacity"].max < 0.51
    assert errors["color"].max < 6
    with pytest.raises(SplatFormatError, match=r"is not of version 1"):
        upgrade(tmp_path / "v2.sog")


def test_a_constant_field_and_one_splat(tmp_path: Path) -> None:
    write_folder(tmp_path, write_v1(random_splat(1, 0)))
    one = assert_peer_reads_the_same(tmp_path / "meta.json", tmp_path, 1)
    np.testing.assert_allclose(one.means, random_splat(1, 0).means, rtol=1e-5)


@pytest.fixture(scope="module")
def good() -> dict[str, bytes]:
    return write_v1(random_splat(144, 1))


def test_the_layout_of_sogs_1_0_0_is_refused_with_the_reason(tmp_path: Path, good: dict[str, bytes]) -> None:
    meta = json.loads(good["meta.json"])
    older = meta | {"opacities": {"shape": [144], "mins": 0, "maxs": 1, "files": ["opacities.webp"]}}
    unpacked = json.loads(good["meta.json"])
    del unpacked["quats"]["encoding"]
    for broken in (older, unpacked):
        write_folder(tmp_path, good | {"meta.json": json.dumps(broken).encode()})
        with pytest.raises(SplatFormatError, match=r"(?s)sogs 1\.0\.0.*lost a part of every rotation"):
            read_sog(tmp_path)


IMPOSSIBLE = {
    "no shape": (("means", "shape"), ..., "lacks means.shape"),
    "shape text": (("means", "shape"), "144", "impossible means.shape"),
    "zero": (("means", "shape"), [0, 3], "impossible means.shape"),
    "too many": (("means", "shape"), [10**9, 3], "impossible means.shape"),
    "beyond the images": (("means", "shape"), [90_000, 3], "means_l.webp has the wrong size"),
    "two mins": (("scales", "mins"), [0, 0], "impossible scales.mins"),
    "nan": (("sh0", "maxs"), [float("nan")] * 4, "impossible sh0.maxs"),
    "huge": (("means", "maxs"), [1e9] * 3, "impossible means.maxs"),
    "list for one": (("shN", "mins"), [0], "impossible shN.mins"),
    "path": (("quats", "files"), ["../quats.webp"], "impossible quats.files"),
    "one file": (("shN", "files"), ["shN_labels.webp"], "impossible shN.files"),
    "swapped": (("shN", "files"), ["shN_labels.webp", "shN_centroids.webp"], "wrong size"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_meta_that_cannot_be(tmp_path: Path, good: dict[str, bytes], name: str) -> None:
    (group, key), value, message = IMPOSSIBLE[name]
    meta = json.loads(good["meta.json"])
    if value is ...:
        del meta[group][key]
    else:
        meta[group][key] = value
    write_folder(tmp_path, good | {"meta.json": json.dumps(meta).encode()})
    with pytest.raises(SplatFormatError, match=message):
        read_sog(tmp_path)


def test_labels_outside_the_palette(tmp_path: Path, good: dict[str, bytes]) -> None:
    labels = webp(np.full((12, 12, 3), 255, np.uint8))
    write_folder(tmp_path, good | {"shN_labels.webp": labels})
    with pytest.raises(SplatFormatError, match=r"(?s)points outside the palette.*below 128.*144 of 144"):
        read_sog(tmp_path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes(tmp_path_factory: pytest.TempPathFactory, good: dict[str, bytes], data) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    name = data.draw(st.sampled_from(sorted(good)))
    content = bytearray(good[name])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    write_folder(folder, good | {name: bytes(content)})
    with contextlib.suppress(SplatFormatError):
        splat = read_sog(folder)
        assert splat.n > 0
        assert all(np.isfinite(values).all() for values in vars(splat).values())
