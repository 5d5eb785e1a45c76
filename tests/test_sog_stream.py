"""Streamed SOG: what we write splat-transform reads, level by level; what cannot be is refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData
from scipy.spatial import cKDTree
from splat_transform import splat_transform
from splats import random_splat, scene_splat
from test_gaussians import columns

from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians import Gaussians, write_ply
from spaceport_lab.sog import SogOptions, read_sog
from spaceport_lab.sog.stream import read_stream_meta, read_streamed
from spaceport_lab.sog.stream_write import StreamOptions, half_extents, write_streamed

SMALL = StreamOptions(chunk_count=700, chunk_extent=9, chunk_min=150, sog=SogOptions(iterations=1))


def write(folder: Path, levels: list[Gaussians], options: StreamOptions = SMALL, **more: Any) -> Path:
    for _ in write_streamed(folder, levels, options, **more):
        pass
    return folder / "lod-meta.json"


def three_levels(n: int = 2400, sh_degree: int = 1) -> list[Gaussians]:
    splat = scene_splat(n, sh_degree)
    return [splat, splat.subset(slice(0, None, 2)), splat.subset(slice(0, None, 4))]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("scene"), three_levels(), environment=random_splat(20, 1)).parent


def peer_level(path: Path, level: int, folder: Path) -> dict[str, np.ndarray]:
    target = folder / f"level{level}.ply"
    splat_transform("-q", "-w", "-L", level, path, target)
    vertex = PlyData.read(target)["vertex"].data
    return {name: np.array(vertex[name]) for name in vertex.dtype.names}


@pytest.mark.parametrize("level", [0, 1, 2])
def test_peer_reads_each_level_as_we_do(scene: Path, tmp_path: Path, level: int) -> None:
    ours, peer = read_streamed(scene, level), peer_level(scene / "lod-meta.json", level, tmp_path)
    assert ours.n == three_levels()[level].n
    for name, values in columns(ours).items():
        np.testing.assert_array_equal(values, peer[name], name)


def test_levels_hold_what_went_in(scene: Path) -> None:
    for level, splat in enumerate(three_levels()):
        back = read_streamed(scene / "lod-meta.json", level)
        assert cKDTree(back.means).query(splat.means)[0].max() < 0.01
        assert cKDTree(splat.means).query(back.means)[0].max() < 0.01
    assert read_streamed(scene, -1).n == 600
    assert read_streamed(scene, 0, environment=True).n == 2420
    with pytest.raises(SplatFormatError, match="no level 3"):
        read_streamed(scene, 3)


def walk(node: dict[str, Any], visit: Callable[[dict[str, Any]], None]) -> None:
    visit(node)
    for child in node.get("children", []):
        walk(child, visit)


def test_leaves_are_small_and_their_bounds_hold_their_gaussians(scene: Path) -> None:
    meta = json.loads((scene / "lod-meta.json").read_text())
    assert (meta["version"], meta["lodLevels"], meta["counts"]) == (1, 3, [2400, 1200, 600])
    units = [read_sog(scene / name) for name in meta["filenames"]]
    leaves: list[int] = []

    def visit(node: dict[str, Any]) -> None:
        low, high = np.array(node["bound"]["min"]), np.array(node["bound"]["max"])
        for child in node.get("children", []):
            assert (np.array(child["bound"]["min"]) >= low).all()
            assert (np.array(child["bound"]["max"]) <= high).all()
        count = sum(run["count"] for run in node.get("lods", {}).values())
        if count:
            leaves.append(count)
            assert count <= SMALL.chunk_count
            centers = [
                units[run["file"]].means[run["offset"] : run["offset"] + run["count"]]
                for run in node["lods"].values()
            ]
            means = np.concatenate(centers)
            assert (means > low - 0.02).all()
            assert (means < high + 0.02).all()
            assert np.ptp(means, axis=0).max() < SMALL.chunk_extent + 0.1 or count <= SMALL.chunk_min

    walk(meta["tree"], visit)
    assert len(leaves) > 10
    assert sum(leaves) == 4200


def test_half_extents_are_those_of_the_rotated_box() -> None:
    splat = random_splat(50)
    w, x, y, z = splat.rotations.astype(float).T
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(2, 0, 1)
    corners = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1)
    boxes = rotation @ (splat.sigmas[:, :, None] * corners)
    np.testing.assert_allclose(half_extents(splat), boxes.max(axis=2), rtol=1e-4)


def test_written_again_it_holds_no_chunk_of_before(tmp_path: Path) -> None:
    write(tmp_path, three_levels(), environment=random_splat(20, 1))
    assert (tmp_path / "env" / "meta.json").exists()
    (tmp_path / "0_1" / "notes.txt").write_text("mine")
    (tmp_path / "2026_11").mkdir()
    (tmp_path / "2026_11" / "meta.json").write_text("mine too")
    write(tmp_path, three_levels(300, 0)[:1], replace(SMALL, chunk_extent=1000))
    assert read_stream_meta(tmp_path).filenames == ("0_0/meta.json",)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0_0", "0_1", "2026_11", "lod-meta.json"]
    assert (tmp_path / "2026_11" / "meta.json").read_text() == "mine too"
    assert [p.name for p in (tmp_path / "0_1").iterdir()] == ["notes.txt"]


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, three_levels(900))
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_nothing_to_write(tmp_path: Path) -> None:
    for levels in ([], [random_splat(0)]):
        with pytest.raises(SplatFormatError, match="needs levels"):
            write(tmp_path, levels)


def test_one_splat_and_twins_without_extent(tmp_path: Path) -> None:
    write(tmp_path / "one", [random_splat(1)])
    assert read_streamed(tmp_path / "one").n == 1
    twins = random_splat(900, 0)
    twins.means[:] = 3
    write(tmp_path / "twins", [twins])
    assert read_streamed(tmp_path / "twins").n == 900


def test_we_read_what_the_peer_streams(tmp_path: Path) -> None:
    for level, splat in enumerate(three_levels(800, 0)):
        write_ply(tmp_path / f"in{level}.ply", splat)
    arguments = [word for level in range(3) for word in (tmp_path / f"in{level}.ply", "-l", level)]
    (tmp_path / "out").mkdir()
    splat_transform("-q", "-w", "-g", "cpu", *arguments, tmp_path / "out" / "lod-meta.json")
    assert read_stream_meta(tmp_path / "out").counts == (800, 400, 200)
    for level in range(3):
        ours = read_streamed(tmp_path / "out", level)
        peer = peer_level(tmp_path / "out" / "lod-meta.json", level, tmp_path)
        for name, values in columns(ours).items():
            np.testing.assert_array_equal(values, peer[name], name)


def first_leaf(meta: dict[str, Any]) -> dict[str, Any]:
    node = meta["tree"]
    while "children" in node:
        node = node["children"][0]
    return node["lods"]["0"]


def damage(name: str) -> Callable[[dict[str, Any]], Any]:
    def deep(meta: dict[str, Any]) -> None:
        for _ in range(400):
            meta["tree"] = {"children": [meta["tree"]]}
        meta["tree"] = {"children": [meta["tree"], {"lods": {"9": {}}}]}

    return {
        "version": lambda m: m.update(version=2),
        "levels": lambda m: m.update(lodLevels=0),
        "levels huge": lambda m: m.update(lodLevels=10**9),
        "counts": lambda m: m.update(counts=[1, 2, 3]),
        "file names": lambda m: m["filenames"].__setitem__(0, "../0_0/meta.json"),
        "absolute": lambda m: m["filenames"].__setitem__(0, "/etc/meta.json"),
        "twice": lambda m: m["filenames"].__setitem__(0, m["filenames"][1]),
        "count beyond memory": lambda m: (m.pop("counts"), first_leaf(m).update(count=268_000_000)),
        "other file": lambda m: m["filenames"].__setitem__(0, "0_0/passwd"),
        "environment": lambda m: m.update(environment="../../env/meta.json"),
        "no tree": lambda m: m.pop("tree"),
        "tree": lambda m: m.update(tree=[]),
        "children": lambda m: m["tree"].update(children={}),
        "file": lambda m: first_leaf(m).update(file=99),
        "offset": lambda m: first_leaf(m).update(offset=-1),
        "count": lambda m: first_leaf(m).update(count=1.5),
        "deep": deep,
    }[name]


IMPOSSIBLE = {
    "version": "version 1",
    "levels": "impossible lodLevels",
    "levels huge": "impossible lodLevels",
    "counts": "counts that its tree",
    "file names": "impossible filenames",
    "absolute": "impossible filenames",
    "twice": "impossible filenames",
    "count beyond memory": "does not fit into memory|holds no",
    "other file": "impossible filenames",
    "environment": "impossible environment",
    "no tree": "lacks tree",
    "tree": "impossible tree",
    "children": "impossible tree",
    "file": "impossible run",
    "offset": "impossible run",
    "count": "impossible run",
    "deep": "impossible run",
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_meta_that_cannot_be(scene: Path, tmp_path: Path, name: str) -> None:
    meta = json.loads((scene / "lod-meta.json").read_text())
    damage(name)(meta)
    (tmp_path / "lod-meta.json").write_text(json.dumps(meta))
    with pytest.raises(SplatFormatError, match=IMPOSSIBLE[name]):
        read_streamed(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run.update(count=run["count"] + 1), "does not fit"),
        (lambda run: run.update(offset=run["offset"] + 1), "does not fit"),
    ],
)
def test_runs_that_do_not_cover_their_chunk(scene: Path, tmp_path: Path, change, message: str) -> None:
    meta = json.loads((scene / "lod-meta.json").read_text())
    change(first_leaf(meta))
    for key in ("counts", "environment"):
        meta.pop(key)
    for name in meta["filenames"]:
        (tmp_path / name).parent.mkdir()
        for image in (scene / name).parent.iterdir():
            (tmp_path / name).parent.joinpath(image.name).write_bytes(image.read_bytes())
    (tmp_path / "lod-meta.json").write_text(json.dumps(meta))
    with pytest.raises(SplatFormatError, match=message):
        read_streamed(tmp_path)


def test_a_link_out_of_the_folder_is_not_followed(scene: Path, tmp_path: Path) -> None:
    (tmp_path / "lod-meta.json").write_text((scene / "lod-meta.json").read_text())
    for name in read_stream_meta(scene).filenames:
        (tmp_path / name).parent.symlink_to((scene / name).parent)
    with pytest.raises(SplatFormatError, match="link that leads out"):
        read_streamed(tmp_path)


def test_missing_pieces(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(SplatFormatError, match=r"holds no lod-meta\.json"):
        read_streamed(tmp_path)
    (tmp_path / "lod-meta.json").write_text((scene / "lod-meta.json").read_text())
    with pytest.raises(SplatFormatError, match=r"holds no meta\.json|cannot read"):
        read_streamed(tmp_path)
    (tmp_path / "lod-meta.json").write_bytes(b"[" * 100_000)
    with pytest.raises(SplatFormatError, match="is no JSON"):
        read_streamed(tmp_path)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_bytes_of_the_tree(scene: Path, data) -> None:
    """A damaged lod-meta.json among whole chunks: a level is read, or it is refused."""
    content = bytearray((scene / "lod-meta.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(32, 126))
    good = (scene / "lod-meta.json").read_bytes()
    try:
        (scene / "lod-meta.json").write_bytes(bytes(content))
        with contextlib.suppress(SplatFormatError):
            assert read_streamed(scene, 2).n > 0
    finally:
        (scene / "lod-meta.json").write_bytes(good)
