"""PLY in other encodings, and PlayCanvas' compressed one as splat-transform writes and reads it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splat_transform import decode, splat_transform
from splats import random_splat, scene_splat
from test_gaussians import assert_same, columns, write_columns

from spaceport_lab.edit.formats import read_splat, write_splat
from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians import Gaussians, read_ply, read_ply_antialias, read_ply_valid, write_ply
from spaceport_lab.sog import SogOptions


@pytest.mark.parametrize("sh_degree", [0, 1, 3])
def test_big_endian_and_text_and_doubles_read_as_well(tmp_path: Path, sh_degree: int) -> None:
    splat = random_splat(7, sh_degree)
    named = columns(splat) | {"label": np.arange(7, dtype="u1")}
    assert_same(splat, read_ply(write_columns(tmp_path / "big.ply", named, byte_order=">")))
    assert_same(splat, read_ply(write_columns(tmp_path / "text.ply", named, text=True)))
    doubles = {name: values.astype("f8") for name, values in named.items() if name != "label"}
    assert_same(splat, read_ply(write_columns(tmp_path / "double.ply", doubles)))


def test_a_double_beyond_float32_counts_as_not_finite(tmp_path: Path) -> None:
    named = columns(random_splat(3, 0))
    named["x"] = np.array([1, 1e300, 2])
    _, dropped = read_ply_valid(write_columns(tmp_path / "a.ply", named))
    assert (dropped.n, dropped.fields) == (1, {"x": 1})


def test_text_with_lists_before_and_more_rows_than_one_block(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("spaceport_lab.gaussians.rows.BLOCK", 4)
    splat = random_splat(10, 0)
    path = write_columns(tmp_path / "a.ply", columns(splat), text=True)
    head, body = path.read_text().split("element vertex")
    body = body.replace("end_header\n", "end_header\n3 0 1 2\n\n4 0 1 2 3\n")
    faces = "element face 2\nproperty list uchar int vertex_indices\n"
    path.write_text(f"{head}{faces}element vertex{body}")
    assert_same(splat, read_ply(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], r"(?s)truncated.*9 whole splats"),
        (lambda rows: [*rows[:4], rows[4] + " 7", *rows[5:]], "cannot be understood|do not fit"),
        (lambda rows: [row.rsplit(" ", 1)[0] for row in rows], r"(?s)do not fit its header.*13 numbers"),
        (lambda rows: [*rows[:4], rows[4].replace(" ", " x", 1), *rows[5:]], "cannot be understood"),
        (lambda rows: [], "truncated"),
    ],
)
def test_text_that_does_not_fit_its_header(tmp_path: Path, change, message: str) -> None:
    path = write_columns(tmp_path / "a.ply", columns(random_splat(10, 0)), text=True)
    head, body = path.read_text().split("end_header\n")
    path.write_text(head + "end_header\n" + "".join(f"{row}\n" for row in change(body.splitlines())))
    with pytest.raises(SplatFormatError, match=message):
        read_ply(path)


@pytest.mark.parametrize(
    ("comments", "expected"),
    [
        ([], False),
        (["SplatRenderMode: mip"], True),
        (["SplatRenderMode: default"], False),
        (["antialiased 1"], True),
        (["antialiased 1", "antialiased 0"], False),
        (["made by hand, not antialiased 1"], False),
    ],
)
def test_antialiasing_is_told_by_a_comment(tmp_path: Path, comments: list[str], expected: bool) -> None:
    write_columns(tmp_path / "a.ply", columns(random_splat(3, 0)), comments=comments)
    assert read_ply_antialias(tmp_path / "a.ply") is expected


def test_antialiasing_is_kept_from_format_to_format(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", random_splat(30, 0), antialias=True)
    assert_same(random_splat(30, 0), read_ply(tmp_path / "a.ply"))
    path = tmp_path / "a.ply"
    for name in ("b.sog", "c/meta.json", "d.ply"):
        loaded = read_splat(path)
        assert loaded.antialias
        options = SogOptions(antialias=loaded.antialias)
        for _ in write_splat(tmp_path / name, loaded.gaussians, options):
            pass
        path = tmp_path / name
        told = splat_transform(path, "--info", "json", "null")
        assert '"antialiased"' in told, told
    splat_transform("-q", "-w", tmp_path / "d.ply", tmp_path / "e.sog")
    assert read_splat(tmp_path / "e.sog").antialias


def compressed(folder: Path, splat: Gaussians) -> Path:
    write_ply(folder / "in.ply", splat)
    splat_transform("-q", "-w", folder / "in.ply", folder / "packed.compressed.ply")
    return folder / "packed.compressed.ply"


@pytest.mark.parametrize(("n", "sh_degree"), [(1, 0), (255, 1), (257, 2), (3000, 3)])
def test_compressed_ply_reads_as_the_peer_reads_it(tmp_path: Path, n: int, sh_degree: int) -> None:
    splat = scene_splat(n, sh_degree)
    path = compressed(tmp_path, splat)
    ours, peer = read_ply(path), decode(path, tmp_path)
    assert (ours.n, ours.sh_degree) == (n, sh_degree)
    for name, values in columns(ours).items():
        inner = np.isfinite(peer[name])  # an opacity byte of 0 or 255 is infinite there
        assert inner.all() or name == "opacity"
        np.testing.assert_array_equal(values[inner], peer[name][inner], name)
    assert np.isfinite(ours.opacities).all()
    order = np.lexsort(np.round(ours.means, 1).T)
    assert len(order) == n


def test_compressed_ply_that_is_damaged(tmp_path: Path) -> None:
    content = compressed(tmp_path, scene_splat(300, 1)).read_bytes()
    cases = {
        "truncated": (content[:-9], "truncated"),
        "no chunks": (content.replace(b"element chunk 2\n", b"element chunk 1\n"), "too few chunks"),
        "other type": (
            content.replace(b"property uint packed_scale", b"property float packed_scale"),
            "are not uint",
        ),
        "no bounds": (content.replace(b"property float max_y\n", b"property float max_q\n"), "max_y missing"),
        "less sh": (content.replace(b"element sh 300\n", b"element sh 200\n"), "impossible element sh"),
        "text": (content.replace(b"binary_little_endian", b"ascii"), "no usable compressed"),
        "none": (content.replace(b"element vertex 300\n", b"element vertex 0\n"), "zero splats"),
    }
    for name, (damaged, message) in cases.items():
        assert damaged != content, name
        (tmp_path / "a.ply").write_bytes(damaged)
        with pytest.raises(SplatFormatError, match=message):
            read_ply(tmp_path / "a.ply")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_of_text_and_compressed(tmp_path_factory: pytest.TempPathFactory, seeds, data) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.ply"
    content = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(SplatFormatError):
        splat = read_ply_valid(path)[0]
        assert splat.n > 0
        assert all(np.isfinite(values).all() for values in vars(splat).values())


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A small text PLY, a big-endian one and a compressed one."""
    folder = tmp_path_factory.mktemp("seeds")
    named = columns(random_splat(2, 0))
    text = write_columns(folder / "text.ply", named, text=True)
    big = write_columns(folder / "big.ply", named, byte_order=">")
    return [path.read_bytes() for path in (text, big, compressed(folder, random_splat(3, 1)))]
