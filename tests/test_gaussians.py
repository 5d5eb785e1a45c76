"""The six fields: activations, first guess, PLY in and out, and every PLY that is not a splat."""

from __future__ import annotations

import contextlib
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import open3d
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement
from splat_transform import decode
from splats import random_splat

from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians import (
    SH_C0,
    Gaussians,
    concatenate,
    from_points,
    ply_fields,
    read_ply,
    read_ply_valid,
    sigmoid,
    write_ply,
)


def columns(g: Gaussians) -> dict[str, np.ndarray]:
    """The slow way to PLY: one named column after the other, f_rest channel by channel."""
    out = {name: g.means[:, i] for i, name in enumerate("xyz")}
    out |= {f"f_dc_{c}": g.sh0[:, 0, c] for c in range(3)}
    k = g.shN.shape[1]
    for c in range(3):
        for j in range(k):
            out[f"f_rest_{c * k + j}"] = g.shN[:, j, c]
    out["opacity"] = g.opacities
    out |= {f"scale_{i}": g.scales[:, i] for i in range(3)}
    return out | {f"rot_{i}": g.quats[:, i] for i in range(4)}


def write_columns(path: Path, named: dict[str, np.ndarray], **kwargs) -> Path:
    """Write a PLY with plyfile, columns in the order given."""
    n = len(next(iter(named.values())))
    rows = np.zeros(n, [(name, values.dtype) for name, values in named.items()])
    for name, values in named.items():
        rows[name] = values
    PlyData([PlyElement.describe(rows, "vertex")], **kwargs).write(str(path))
    return path


def assert_same(a: Gaussians, b: Gaussians) -> None:
    for field in fields(Gaussians):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), field.name)


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
def test_what_is_written_reads_back(tmp_path: Path, sh_degree: int) -> None:
    splat = random_splat(70, sh_degree)
    write_ply(tmp_path / "splat.ply", splat)
    back = read_ply(tmp_path / "splat.ply")
    assert_same(splat, back)
    assert (back.n, back.sh_degree) == (70, sh_degree)


def test_layout_is_the_reference_implementations(tmp_path: Path) -> None:
    splat = random_splat(5)
    write_ply(tmp_path / "splat.ply", splat)
    vertex = PlyData.read(tmp_path / "splat.ply")["vertex"].data
    assert list(vertex.dtype.names) == ply_fields(3)
    assert len(vertex.dtype.names) == 62
    assert not any(vertex[name].any() for name in ("nx", "ny", "nz"))
    for name, values in columns(splat).items():
        np.testing.assert_array_equal(vertex[name], values, name)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_order_and_any_extra_property(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    splat = random_splat(data.draw(st.integers(1, 9)), data.draw(st.integers(0, 3)))
    named = columns(splat)
    extra = data.draw(st.lists(st.sampled_from(["nx", "red", "label", "time", "f_x"]), unique=True))
    for name in extra:
        kind = data.draw(st.sampled_from(["u1", "i2", "u4", "f4", "f8"]))
        named[name] = np.arange(splat.n).astype(kind)
    order = data.draw(st.permutations(list(named)))
    path = tmp_path_factory.mktemp("ply") / "splat.ply"
    assert_same(splat, read_ply(write_columns(path, {name: named[name] for name in order})))


def test_comments_and_windows_line_ends_and_elements_before(tmp_path: Path) -> None:
    splat = random_splat(3, 0)
    write_ply(tmp_path / "plain.ply", splat)
    header, body = (tmp_path / "plain.ply").read_bytes().split(b"end_header\n")
    head = header.replace(
        b"element vertex", b"comment by hand\nelement camera 2\nproperty double t\nelement vertex"
    )
    crlf = (head + b"end_header\n").replace(b"\n", b"\r\n")
    (tmp_path / "odd.ply").write_bytes(crlf + b"\0" * 16 + body)
    assert_same(splat, read_ply(tmp_path / "odd.ply"))


def test_open3d_and_splat_transform_open_our_ply(tmp_path: Path) -> None:
    splat = random_splat(50)
    write_ply(tmp_path / "splat.ply", splat)
    cloud = open3d.t.io.read_point_cloud(str(tmp_path / "splat.ply"))
    np.testing.assert_array_equal(cloud.point.positions.numpy(), splat.means)
    np.testing.assert_array_equal(cloud.point["opacity"].numpy().reshape(-1), splat.opacities)
    np.testing.assert_array_equal(cloud.point["rot"].numpy(), splat.quats)
    peer = decode(tmp_path / "splat.ply", tmp_path)
    for name, values in columns(splat).items():
        np.testing.assert_array_equal(peer[name], values, name)


LITTLE = "format binary_little_endian 1.0\n"
BAD_HEADERS = {
    "middle": ("format binary_middle_endian 1.0\n", "stored as binary_middle_endian"),
    "no format": ("element vertex 1\n", "stored as nothing known"),
    "text mesh": (
        "format ascii 1.0\nelement vertex 3\nproperty float x\nelement face 1\n",
        "a mesh with 1 f",
    ),
    "nothing": (LITTLE, "another kind of PLY"),
    "cloud": (LITTLE + "element vertex 1\nproperty float x\n", "a point cloud"),
    "mesh": (
        LITTLE + "element vertex 3\nproperty float x\nelement face 12\nproperty list uchar int indices\n",
        "a mesh with 12 faces",
    ),
    "compressed": (
        LITTLE + "element vertex 1\nproperty uint packed_position\n",
        "no usable compressed splat",
    ),
    "negative": (LITTLE + "element vertex -3\n", "cannot be understood"),
    "early": (LITTLE + "property float x\n", "cannot be understood"),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_what_is_no_splat_is_called_by_its_name(tmp_path: Path, name: str) -> None:
    header, message = BAD_HEADERS[name]
    (tmp_path / "in.ply").write_bytes(f"ply\n{header}end_header\n".encode() + b"\0" * 64)
    with pytest.raises(SplatFormatError, match=message):
        read_ply(tmp_path / "in.ply")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"solid cube\n", "is not a PLY file"),
        (b"", "an empty file"),
        (b"ply\n" + b"comment x\n" * 20_000, "has no end"),
    ],
)
def test_what_is_no_ply_at_all(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "in.ply").write_bytes(content)
    with pytest.raises(SplatFormatError, match=message):
        read_ply(tmp_path / "in.ply")


def test_fields_that_are_missing_or_of_another_type(tmp_path: Path) -> None:
    named = columns(random_splat(4))
    without = {name: v for name, v in named.items() if name not in ("opacity", "rot_2")}
    with pytest.raises(SplatFormatError, match=r"(?s)lacks 2 of the fields.*no opacity, rot_2"):
        read_ply(write_columns(tmp_path / "a.ply", without))
    whole = named | {"scale_1": named["scale_1"].astype("i4")}
    with pytest.raises(SplatFormatError, match=r"(?s)1 fields of b\.ply are not float.*scale_1 int"):
        read_ply(write_columns(tmp_path / "b.ply", whole))
    short = {name: v for name, v in named.items() if name != "f_rest_44"}
    with pytest.raises(SplatFormatError, match="44 properties f_rest"):
        read_ply(write_columns(tmp_path / "c.ply", short))
    renamed = {("f_rest_99" if name == "f_rest_7" else name): v for name, v in named.items()}
    with pytest.raises(SplatFormatError, match="no f_rest_7"):
        read_ply(write_columns(tmp_path / "d.ply", renamed))


def test_unknown_type_and_doubled_property(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", random_splat(2, 0))
    content = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "b.ply").write_bytes(content.replace(b"property float nx", b"property half nx"))
    with pytest.raises(SplatFormatError, match=r"(?s)nx .*half"):
        read_ply(tmp_path / "b.ply")
    (tmp_path / "c.ply").write_bytes(content.replace(b"property float ny", b"property float nx"))
    with pytest.raises(SplatFormatError, match=r"(?s)occur twice.*nx"):
        read_ply(tmp_path / "c.ply")
    (tmp_path / "d.ply").write_bytes(
        content.replace(b"element vertex", b"element face 1\nproperty list uchar int i\nelement vertex")
    )
    with pytest.raises(SplatFormatError, match="lists before its splats"):
        read_ply(tmp_path / "d.ply")


def test_truncated_says_how_many_are_left(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", random_splat(10, 0))
    content = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(content[:-69])
    with pytest.raises(SplatFormatError, match=r"(?s)truncated.*10 splats.*8 whole splats"):
        read_ply(tmp_path / "a.ply")
    huge = content.replace(b"element vertex 10\n", b"element vertex 99999999999999\n")
    (tmp_path / "a.ply").write_bytes(huge)
    with pytest.raises(SplatFormatError, match="truncated"):
        read_ply(tmp_path / "a.ply")


def test_missing_file_and_zero_splats(tmp_path: Path) -> None:
    with pytest.raises(SplatFormatError, match="No such file"):
        read_ply(tmp_path / "nowhere.ply")
    with pytest.raises(SplatFormatError, match="Is a directory"):
        read_ply(tmp_path)
    write_ply(tmp_path / "none.ply", random_splat(0))
    with pytest.raises(SplatFormatError, match="zero splats"):
        read_ply(tmp_path / "none.ply")


def test_nan_is_refused_or_dropped_and_counted(tmp_path: Path) -> None:
    splat = random_splat(20)
    splat.means[3, 1] = np.nan
    splat.means[4, 1] = np.inf
    splat.shN[4, 2, 1] = -np.inf
    splat.opacities[9] = np.nan
    write_ply(tmp_path / "a.ply", splat)
    with pytest.raises(
        SplatFormatError, match=r"(?s)3 of 20 splats \(y 2, opacity 1, f_rest_17 1\).*drop_invalid"
    ):
        read_ply(tmp_path / "a.ply")
    with pytest.warns(UserWarning, match="3 of 20 splats"):
        left = read_ply(tmp_path / "a.ply", drop_invalid=True)
    keep = np.setdiff1d(np.arange(20), [3, 4, 9])
    assert_same(left, splat.subset(keep))
    same, dropped = read_ply_valid(tmp_path / "a.ply")
    assert_same(same, left)
    assert (dropped.n, dropped.of, dropped.fields) == (3, 20, {"y": 2, "opacity": 1, "f_rest_17": 1})
    write_ply(tmp_path / "b.ply", replace(splat, opacities=np.full(20, np.nan, np.float32)))
    with pytest.raises(SplatFormatError, match="no usable splat"):
        read_ply(tmp_path / "b.ply", drop_invalid=True)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_never_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.ply"
    write_ply(path, random_splat(2, data.draw(st.integers(0, 1))))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(SplatFormatError):
        assert read_ply_valid(path)[0].n > 0


def test_first_guess_from_points() -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(60, 3))
    colors = rng.integers(0, 256, (60, 3))
    splat = from_points(points, colors, sh_degree=2)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    nearest = np.sort(distances, axis=1)[:, 1:4]
    np.testing.assert_allclose(splat.sigmas[:, 0], np.sqrt((nearest**2).mean(axis=1)), rtol=1e-5)
    np.testing.assert_allclose(splat.colors * 255, colors, atol=1e-3)
    np.testing.assert_allclose(splat.alphas, 0.1, rtol=1e-5)
    np.testing.assert_array_equal(splat.rotations, np.tile([1, 0, 0, 0], (60, 1)))
    assert splat.sh_degree == 2
    assert not splat.shN.any()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_first_guess_from_hardly_any_points(n: int) -> None:
    splat = from_points(np.arange(3 * n).reshape(n, 3).astype(float), np.full((n, 3), 128))
    assert np.isfinite(splat.scales).all()


def test_first_guess_from_twins_and_from_bad_points() -> None:
    twins = from_points(np.zeros((9, 3)), np.zeros((9, 3)))
    np.testing.assert_allclose(twins.scales, np.log(np.sqrt(1e-7)), rtol=1e-6)
    with pytest.raises(SplatFormatError, match="no points"):
        from_points(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(SplatFormatError, match="NaN or Inf in 1 of 2 points"):
        from_points(np.array([[0, 0, np.nan], [1, 1, 1]]), np.zeros((2, 3)))


def test_activations() -> None:
    wild = [[2, 0, 0, 0], [0, 0, 0, 0], [0, 3, 4, 0], [1e30, 0, 0, 1e30], [1e-30, 0, 0, 0], [0, 0, 0, -1]]
    splat = replace(random_splat(6), quats=np.array(wild, np.float32))
    h = np.sqrt(0.5)
    expected = [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0.6, 0.8, 0], [h, 0, 0, h], [1, 0, 0, 0], [0, 0, 0, -1]]
    np.testing.assert_allclose(splat.rotations, expected, atol=1e-6)
    np.testing.assert_allclose(splat.colors, 0.5 + SH_C0 * splat.sh0[:, 0])
    np.testing.assert_array_equal(splat.sh[:, 1:], splat.shN)
    wild = np.array([-1e4, -2, 0, 2, 1e4], np.float32)
    np.testing.assert_allclose(sigmoid(wild), [0, 0.11920292, 0.5, 0.880797, 1], atol=1e-7)


def test_bands_are_dropped_and_never_invented() -> None:
    splat = random_splat(4, 2)
    np.testing.assert_array_equal(splat.with_sh_degree(1).shN, splat.shN[:, :3])
    assert splat.with_sh_degree(0).shN.shape == (4, 0, 3)
    assert splat.with_sh_degree(3).sh_degree == 2


def test_splats_one_after_the_other() -> None:
    a, b = random_splat(3, 1), random_splat(4, 3, seed=1)
    both = concatenate([a, b])
    assert (both.n, both.sh_degree) == (7, 3)
    np.testing.assert_array_equal(both.means, np.concatenate([a.means, b.means]))
    np.testing.assert_array_equal(both.shN[:3, :3], a.shN)
    assert not both.shN[:3, 3:].any()
    np.testing.assert_array_equal(both.shN[3:], b.shN)
    assert concatenate([a]) is a
    with pytest.raises(SplatFormatError, match="no splats to put together"):
        concatenate([])


def test_shapes_and_types_are_checked() -> None:
    splat = random_splat(4)
    with pytest.raises(SplatFormatError, match="scales has the wrong shape"):
        replace(splat, scales=splat.scales[:3])
    with pytest.raises(SplatFormatError, match="shN has the wrong shape"):
        replace(splat, shN=splat.shN[:, :7])
    with pytest.raises(SplatFormatError, match="means has the wrong type"):
        replace(splat, means=splat.means.astype(np.float64))
