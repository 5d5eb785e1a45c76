"""`spaceport-lab splat`: files in, files out, clear words when it cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scenes import make_colmap_scene
from splats import random_splat, scene_splat
from test_sog_v1 import write_v1
from typer.testing import CliRunner

from spaceport_lab.cli import app
from spaceport_lab.edit.formats import kind_of, read_splat, target_kind
from spaceport_lab.errors import InputError, SpaceportError
from spaceport_lab.gaussians import concatenate, read_ply, write_ply
from spaceport_lab.sog import read_sog, write_bundle
from spaceport_lab.sog.read import read_version
from spaceport_lab.sog.stream import read_stream_meta, read_streamed


def splat(*words: str | Path) -> str:
    """What a command prints; its own errors are raised as they are."""
    result = CliRunner().invoke(app, ["splat", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def ply(tmp_path: Path) -> Path:
    write_ply(tmp_path / "in.ply", scene_splat(1200, 1))
    return tmp_path / "in.ply"


def test_convert_to_every_format_and_back(ply: Path, tmp_path: Path) -> None:
    for name in ("a.sog", "folder/meta.json", "streamed/lod-meta.json", "deep/down/again.ply"):
        said = splat("convert", ply, tmp_path / name)
        assert "1,200 splats" in said
        back = read_splat(tmp_path / name)
        assert (back.gaussians.n, back.gaussians.sh_degree) == (1200, 1)
    assert read_stream_meta(tmp_path / "streamed").counts == (1200, 600, 300, 150)
    splat("convert", tmp_path / "streamed", tmp_path / "coarse.ply", "--level", "2")
    assert read_ply(tmp_path / "coarse.ply").n == 300
    splat("convert", ply, tmp_path / "two" / "lod-meta.json", "--levels", "1,0.1", "--setting", "no-sh")
    assert read_stream_meta(tmp_path / "two").counts == (1200, 120)
    assert read_streamed(tmp_path / "two").sh_degree == 0


def test_far_splats_are_told_and_do_not_harm_the_others(tmp_path: Path) -> None:
    scene = scene_splat(1200, 0)
    scene.means[[5, 900]] = [[2e5, 0, 0], [0, -3e6, 9]]
    write_ply(tmp_path / "in.ply", scene)
    said = splat("convert", tmp_path / "in.ply", tmp_path / "a.sog")
    assert "2 splats lie far outside the scene: pulled in" in said
    assert np.abs(read_sog(tmp_path / "a.sog").means).max() < 1000
    said = splat("convert", tmp_path / "in.ply", tmp_path / "streamed" / "lod-meta.json", "--levels", "1,0.1")
    assert "2 splats lie far outside the scene: kept apart, as environment" in said
    near, whole = (read_streamed(tmp_path / "streamed", environment=e) for e in (False, True))
    assert (near.n, whole.n) == (1198, 1200)
    assert np.abs(near.means).max() < 30
    np.testing.assert_allclose(sorted(np.abs(whole.means).max(axis=1))[-2:], [2e5, 3e6], rtol=1e-3)
    assert read_splat(tmp_path / "streamed", level=1).gaussians.n == 120 + 2
    assert "far outside" not in splat("convert", tmp_path / "in.ply", tmp_path / "same.ply")
    assert read_ply(tmp_path / "same.ply").means.min() == np.float32(-3e6)


def test_version_1_becomes_version_2_without_loss_of_place(tmp_path: Path) -> None:
    write_bundle(tmp_path / "old.sog", write_v1(random_splat(144, 1)))
    splat("convert", tmp_path / "old.sog", tmp_path / "new.sog")
    old, new = read_sog(tmp_path / "old.sog"), read_sog(tmp_path / "new.sog")
    assert (read_version(tmp_path / "old.sog"), read_version(tmp_path / "new.sog")) == (1, 2)
    np.testing.assert_array_equal(old.means, new.means)
    np.testing.assert_array_equal(old.shN, new.shN)


def test_clean_transform_merge_decimate(ply: Path, tmp_path: Path) -> None:
    said = splat(
        "clean", ply, tmp_path / "clean.ply", "--box=-10,-10,-9,10,10,9", "--min-opacity", "0.2",
        "--sphere", "0,0,0,9", "--floaters", "0.001", "--sh-degree", "0",
    )  # fmt: skip
    assert "of 1,200 splats left (removed: outside the box" in said
    cleaned = read_ply(tmp_path / "clean.ply")
    assert np.linalg.norm(cleaned.means, axis=1).max() <= 9
    assert cleaned.sh_degree == 0
    splat(
        "transform", ply, tmp_path / "turned.ply", "--rotate", "0,0,90", "--scale", "2", "--translate=0,0,5"
    )
    before, turned = read_ply(ply), read_ply(tmp_path / "turned.ply")
    x, y, z = before.means.T
    np.testing.assert_allclose(turned.means, np.stack([-2 * y, 2 * x, 2 * z + 5], axis=1), atol=1e-4)
    splat("transform", ply, tmp_path / "same.ply", "--quat", "1,0,0,0")
    assert (tmp_path / "same.ply").read_bytes() == ply.read_bytes()
    splat("merge", ply, tmp_path / "clean.ply", tmp_path / "both.ply")
    assert read_ply(tmp_path / "both.ply").n == 1200 + cleaned.n
    splat("decimate", ply, tmp_path / "few.ply", "--to", "30%")
    assert read_ply(tmp_path / "few.ply").n == 360
    splat("decimate", ply, tmp_path / "few.ply", "--to", "77", "--overwrite")
    assert read_ply(tmp_path / "few.ply").n == 77


def test_what_views_see_counts(tmp_path: Path) -> None:
    truth = make_colmap_scene(tmp_path / "sfm", n_gaussians=600)
    hidden = replace(truth, means=truth.means - np.float32([0, 0, 60]))
    write_ply(tmp_path / "in.ply", concatenate([truth, hidden]))
    for name, words in {"blind": [], "seeing": ["--cameras", tmp_path / "sfm"]}.items():
        splat("decimate", tmp_path / "in.ply", tmp_path / f"{name}.ply", "--to", "50%", *words)
    above = {
        name: int((read_ply(tmp_path / f"{name}.ply").means[:, 2] > -20).sum())
        for name in ("blind", "seeing")
    }
    assert above["seeing"] > 1.3 * above["blind"], above
    splat("convert", tmp_path / "in.ply", tmp_path / "s" / "lod-meta.json", "--cameras", tmp_path / "sfm")
    splat("convert", tmp_path / "in.ply", tmp_path / "s.sog", "--cameras", tmp_path / "sfm")
    write_ply(tmp_path / "away.ply", replace(truth, means=truth.means + np.float32(1e5)))
    with pytest.raises(InputError, match="no camera sees any"):
        splat("decimate", tmp_path / "away.ply", tmp_path / "x.ply", "--cameras", tmp_path / "sfm")


def test_info_for_people_and_programs(ply: Path, tmp_path: Path) -> None:
    splat("convert", ply, tmp_path / "s" / "lod-meta.json")
    assert "1,200" in splat("info", ply)
    rows = json.loads(splat("info", ply, tmp_path / "s", "--json"))
    assert [row["kind"] for row in rows] == ["ply", "streamed"]
    assert rows[1]["levels"] == [1200, 600, 300, 150]
    assert rows[0]["sh_degree"] == 1


def test_rows_that_are_not_finite_are_told(ply: Path, tmp_path: Path) -> None:
    broken = scene_splat(20, 0)
    broken.means[3, 1] = np.nan
    write_ply(ply, broken)
    assert "NaN or Inf in 1 of 20 splats (y 1): left out" in splat("convert", ply, tmp_path / "a.sog")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convert", "nowhere.ply", "a.sog"], "does not exist"),
        (["convert", "in.ply", "in.ply"], "same file"),
        (["convert", "in.ply", "there.sog"], "is there already"),
        (["convert", "in.ply", "a.splat"], "in which format"),
        (["convert", "in.ply", "a.compressed.ply"], "read here, not written"),
        (["convert", "there.txt", "a.sog"], "no splat format known"),
        (["convert", "in.ply", "l/lod-meta.json", "--levels", "1,2"], "impossible levels"),
        (["clean", "in.ply", "a.sog", "--box", "1,2,3"], "--box cannot be understood"),
        (["clean", "in.ply", "a.sog", "--min-opacity", "7"], "impossible options"),
        (["transform", "in.ply", "a.sog", "--scale", "0"], "impossible transform"),
        (["transform", "in.ply", "a.sog", "--quat", "1,0,0,0", "--rotate", "1,2,3"], "given twice"),
        (["merge", "in.ply", "a.sog"], "nothing to merge"),
        (["decimate", "in.ply", "a.sog", "--to", "some"], "--to cannot be understood"),
        (["decimate", "in.ply", "a.sog", "--to", "0"], "cannot decimate"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(ply: Path, tmp_path: Path, words, message: str) -> None:
    (tmp_path / "there.sog").write_text("mine")
    (tmp_path / "there.txt").write_text("mine")
    paths = [tmp_path / word if "." in word and not word[0].isdigit() else word for word in words]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SpaceportError, match=message):
        splat(*paths)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.sog").read_text() == "mine"


def test_kinds_by_name_and_by_content(tmp_path: Path) -> None:
    (tmp_path / "lod-meta.json").write_text("{}")
    assert kind_of(tmp_path) == kind_of(tmp_path / "lod-meta.json") == "streamed"
    assert kind_of("a/meta.json") == kind_of("A.SOG") == "sog"
    assert kind_of("a.compressed.ply") == kind_of("A.PLY") == "ply"
    assert [target_kind(n) for n in ("a.PLY", "b.sog", "c/meta.json", "d/lod-meta.json")] == [
        "ply", "sog", "folder", "streamed",
    ]  # fmt: skip
    with pytest.raises(InputError, match="no splat format known"):
        kind_of(tmp_path / "nothing")
