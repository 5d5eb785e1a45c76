"""A .sog from a stranger: damaged or made to harm, it is refused with a reason and nothing else happens."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from splats import random_splat

from spaceport_lab.errors import SplatFormatError
from spaceport_lab.sog import SogOptions, encode, read_sog, write_bundle, write_folder
from spaceport_lab.sog.container import encode_image
from spaceport_lab.sog.meta import texture_size

Contents = dict[str, bytes]


def finish(steps: Any) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


@pytest.fixture(scope="module")
def good() -> Contents:
    return finish(encode(random_splat(70), SogOptions(sh_palette=66, iterations=1))).files


def with_meta(good: Contents, **changes: Any) -> Contents:
    """`good` with entries of meta.json replaced by dotted names ("shN.count" written as shN__count)."""
    meta = json.loads(good["meta.json"])
    for name, value in changes.items():
        *path, last = name.split("__")
        place = meta
        for key in path:
            place = place[key]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return good | {"meta.json": json.dumps(meta).encode()}


def refuse(path: Path, contents: Contents, message: str) -> None:
    """Both forms are refused with `message`, and nothing is written."""
    write_bundle(path / "a.sog", contents)
    write_folder(path / "folder", contents)
    before = sorted(p for p in path.rglob("*"))
    for source in (path / "a.sog", path / "folder", path / "folder" / "meta.json"):
        with pytest.raises(SplatFormatError, match=message):
            read_sog(source)
    assert sorted(p for p in path.rglob("*")) == before


IMPOSSIBLE = {
    "version 1": ({"version": ...}, "lacks means.shape"),
    "version 3": ({"version": 3}, "version 3"),
    "version true": ({"version": True}, "version True"),
    "no count": ({"count": ...}, "lacks count"),
    "count 0": ({"count": 0}, "impossible count"),
    "count text": ({"count": "70"}, "impossible count"),
    "count huge": ({"count": 10**30}, "impossible count"),
    "count beyond the images": ({"count": 90_000}, "means_l.webp has the wrong size"),
    "count beyond memory": ({"count": 268_000_000}, "does not fit into memory|has the wrong size"),
    "no means": ({"means": ...}, "lacks means"),
    "means a list": ({"means": [1]}, "lacks means"),
    "two mins": ({"means__mins": [0, 0]}, "impossible means.mins"),
    "null in mins": ({"means__mins": [0, None, 0]}, "impossible means.mins"),
    "infinite maxs": ({"means__maxs": [0, 1e999, 0]}, "impossible means.maxs"),
    "maxs beyond float32": ({"means__maxs": [0, 89, 0]}, "impossible means.maxs"),
    "no scales codebook": ({"scales__codebook": ...}, r"lacks scales\.codebook"),
    "empty codebook": ({"sh0__codebook": []}, r"impossible sh0\.codebook"),
    "codebook of 257": ({"sh0__codebook": [0.0] * 257}, r"impossible sh0\.codebook"),
    "short codebook": ({"sh0__codebook": [0.0] * 9}, r"sh0\.webp points outside its codebook"),
    "null codebook": ({"shN__codebook": [None] * 256}, r"impossible shN\.codebook"),
    "palette too small": ({"shN__count": 5}, "points outside the palette"),
    "palette beyond 16 bits": ({"shN__count": 65537}, r"impossible shN\.count"),
    "palette beyond its image": ({"shN__count": 6500}, "centroids.webp has the wrong size"),
    "bands 4": ({"shN__bands": 4}, r"impossible shN\.bands"),
    "bands of another width": ({"shN__bands": 2}, "centroids.webp has the wrong size"),
    "one shN file": ({"shN__files": ["a.webp"]}, r"impossible shN\.files"),
    "file missing": ({"quats__files": ["other.webp"]}, "holds no other.webp"),
    "path upward": ({"quats__files": ["../quats.webp"]}, r"impossible quats\.files"),
    "absolute path": ({"quats__files": ["/etc/passwd"]}, r"impossible quats\.files"),
    "windows path": ({"quats__files": ["..\\quats.webp"]}, r"impossible quats\.files"),
    "drive": ({"quats__files": ["C:quats.webp"]}, r"impossible quats\.files"),
    "the folder": ({"quats__files": [".."]}, r"impossible quats\.files"),
    "itself": ({"quats__files": ["meta.json"]}, r"impossible quats\.files"),
    "a number": ({"quats__files": [7]}, r"impossible quats\.files"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_meta_that_cannot_be(tmp_path: Path, good: Contents, name: str) -> None:
    changes, message = IMPOSSIBLE[name]
    refuse(tmp_path, with_meta(good, **changes), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON"),
        (b"\xff\xfe{}", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"version": 2, "count": ' + b"9" * 5000 + b"}", "is no JSON"),
        (b"[2]", "is no JSON object"),
        (b" " * (1 << 20) + b"{}", "larger than it can honestly be"),
    ],
)
def test_meta_that_is_none(tmp_path: Path, good: Contents, content: bytes, message: str) -> None:
    refuse(tmp_path, good | {"meta.json": content}, message)


def lossless(width: int, height: int, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (width, height), (1, 2, 3, 4)).save(buffer, "WEBP", lossless=True, **options)
    return buffer.getvalue()


def test_images_of_the_wrong_kind_or_size(tmp_path: Path, good: Contents) -> None:
    small, bomb = lossless(4, 4), lossless(16383, 1200)
    assert len(bomb) < 20_000  # what unpacks to 79 MB
    refuse(tmp_path, good | {"scales.webp": small}, r"(?s)scales\.webp has the wrong size.*4 × 4")
    refuse(tmp_path, good | {"scales.webp": bomb}, r"(?s)scales\.webp has the wrong size.*16383 × 1200")
    frame = Image.new("RGBA", (12, 12), "red")
    movie = lossless(12, 12, save_all=True, append_images=[frame])
    refuse(tmp_path, good | {"sh0.webp": movie}, r"(?s)sh0\.webp has the wrong size.*2 frames")
    buffer = io.BytesIO()
    Image.new("RGBA", (12, 12)).save(buffer, "PNG")
    refuse(tmp_path, good | {"sh0.webp": buffer.getvalue()}, r"sh0\.webp is no readable WebP")
    refuse(tmp_path, good | {"sh0.webp": good["sh0.webp"][:60]}, r"sh0\.webp is no readable WebP")
    refuse(tmp_path, good | {"sh0.webp": b""}, r"sh0\.webp is no readable WebP")


def test_larger_padding_is_fine(tmp_path: Path, good: Contents) -> None:
    """Other writers pad more than we do: only the first `count` pixels are looked at."""
    image = np.zeros((20, 12, 4), np.uint8)
    image[:8] = np.asarray(Image.open(io.BytesIO(good["quats.webp"])).convert("RGBA"))
    write_bundle(tmp_path / "a.sog", good | {"quats.webp": encode_image(image)})
    write_bundle(tmp_path / "b.sog", good)
    np.testing.assert_array_equal(read_sog(tmp_path / "a.sog").quats, read_sog(tmp_path / "b.sog").quats)


def test_unknown_rotation_tag_is_the_identity(tmp_path: Path, good: Contents) -> None:
    image = np.full((12, 12, 4), 200, np.uint8)
    write_bundle(tmp_path / "a.sog", good | {"quats.webp": encode_image(image)})
    np.testing.assert_array_equal(read_sog(tmp_path / "a.sog").quats, np.tile([1, 0, 0, 0], (70, 1)))


def test_no_zip_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.sog").write_bytes(b"not a zip at all")
    with pytest.raises(SplatFormatError, match=r"is no \.sog"):
        read_sog(tmp_path / "a.sog")
    with pytest.raises(SplatFormatError, match="cannot read"):
        read_sog(tmp_path / "b.sog")
    with pytest.raises(SplatFormatError, match=r"holds no meta\.json"):
        read_sog(tmp_path)
    write_bundle(tmp_path / "a.sog", {"other.txt": b"hello"})
    with pytest.raises(SplatFormatError, match=r"holds no meta\.json"):
        read_sog(tmp_path / "a.sog")


def test_zip_bomb_is_not_unpacked(tmp_path: Path, good: Contents) -> None:
    with zipfile.ZipFile(tmp_path / "a.sog", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in good.items():
            archive.writestr(name, b"\0" * 300_000_000 if name == "scales.webp" else content)
    assert (tmp_path / "a.sog").stat().st_size < 1_000_000
    with pytest.raises(SplatFormatError, match=r"(?s)scales\.webp.*larger than it can honestly be"):
        read_sog(tmp_path / "a.sog")


def test_size_claimed_by_the_directory_is_not_believed(tmp_path: Path, good: Contents) -> None:
    write_bundle(tmp_path / "a.sog", good)
    content = bytearray((tmp_path / "a.sog").read_bytes())
    place = content.rindex(b"PK\x01\x02")  # the last entry of the directory
    struct.pack_into("<II", content, place + 20, 0xFFFFFFF0, 0xFFFFFFF0)
    (tmp_path / "a.sog").write_bytes(content)
    with pytest.raises(SplatFormatError, match=r"a\.sog"):
        read_sog(tmp_path / "a.sog")


def test_encrypted_entry_is_refused(tmp_path: Path, good: Contents) -> None:
    write_bundle(tmp_path / "a.sog", good)
    content = bytearray((tmp_path / "a.sog").read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(mark)
        while place >= 0:
            content[place + offset] |= 1
            place = content.find(mark, place + 4)
    (tmp_path / "a.sog").write_bytes(content)
    with pytest.raises(SplatFormatError, match="encrypted"):
        read_sog(tmp_path / "a.sog")


def test_link_out_of_the_folder_is_not_followed(tmp_path: Path, good: Contents) -> None:
    write_folder(tmp_path / "folder", good)
    (tmp_path / "secret.webp").write_bytes(good["quats.webp"])
    (tmp_path / "folder" / "quats.webp").unlink()
    (tmp_path / "folder" / "quats.webp").symlink_to(tmp_path / "secret.webp")
    with pytest.raises(SplatFormatError, match=r"(?s)quats\.webp.*link that leads out"):
        read_sog(tmp_path / "folder")


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_damaged_bytes_of_a_bundle(tmp_path_factory: pytest.TempPathFactory, good: Contents, data) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.sog"
    write_bundle(path, good)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    read_or_refuse(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_bytes_of_a_folder(tmp_path_factory: pytest.TempPathFactory, good: Contents, data) -> None:
    """Without the checksums of a ZIP damage reaches the image decoder and meta.json's parser."""
    folder = tmp_path_factory.mktemp("fuzz")
    name = data.draw(st.sampled_from(sorted(good)))
    content = bytearray(good[name])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    write_folder(folder, good | {name: bytes(content)})
    read_or_refuse(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_anything_anywhere_in_meta(tmp_path_factory: pytest.TempPathFactory, good: Contents, data) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    meta = copy.deepcopy(json.loads(good["meta.json"]))
    place = meta
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JSON)
    write_folder(folder, good | {"meta.json": json.dumps(meta).encode()})
    read_or_refuse(folder)


def read_or_refuse(path: Path) -> None:
    """Any answer but a clear refusal or a whole, finite splat fails the test."""
    with contextlib.suppress(SplatFormatError):
        splat = read_sog(path)
        assert splat.n > 0
        assert all(np.isfinite(values).all() for values in vars(splat).values())


@pytest.mark.parametrize("n", [1, 4, 15, 16, 17, 63, 65, 1000, 99_999, 10_000_000])
def test_texture_sizes(n: int) -> None:
    width, height = texture_size(n)
    assert width % 4 == height % 4 == 0
    assert width == int(np.ceil(np.sqrt(n) / 4)) * 4
    assert height == int(np.ceil(n / width / 4)) * 4
    assert width * height >= n
    with pytest.raises(SplatFormatError, match="too many"):
        texture_size(300_000_000)
