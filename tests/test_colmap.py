"""COLMAP models read without COLMAP: what pycolmap writes, and what is broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaceport_lab import colmap
from spaceport_lab.errors import ReconstructionError

_WRITE = """
import zlib, sys, json, pathlib, pycolmap
out = pathlib.Path(sys.argv[1])
pycolmap.set_random_seed(1)
options = pycolmap.SyntheticDatasetOptions()
options.num_rigs, options.num_frames_per_rig, options.num_points3D = 2, 4, 60
options.camera_model_id = pycolmap.CameraModelId.OPENCV
options.camera_params = [1280, 1290, 512, 384, 0.01, 0.02, 0.001, 0.002]
model = pycolmap.synthesize_dataset(options)
for kind in ("bin", "txt"):
    (out / kind).mkdir()
model.write_binary(out / "bin")
model.write_text(out / "txt")
truth = {
    i.name: [i.cam_from_world().rotation.matrix().tolist(), i.cam_from_world().translation.tolist(),
             i.camera.params.tolist(), i.num_points3D]
    for i in model.images.values()
}
points = sorted([*p.xyz.tolist(), *p.color.tolist(), p.track.length()] for p in model.points3D.values())
print(json.dumps([truth, points]))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, list]:
    folder = tmp_path_factory.mktemp("model")
    answer = subprocess.run(
        [sys.executable, "-c", _WRITE, str(folder)], capture_output=True, text=True, check=True
    )
    return folder, *json.loads(answer.stdout)


@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_reads_what_colmap_writes(kind: str, written: tuple[Path, dict, list]) -> None:
    folder, truth, points = written
    model = colmap.read_model(folder / kind)
    assert [image.name for image in model.images] == sorted(truth)
    for image in model.images:
        rotation, translation, params, seen = truth[image.name]
        np.testing.assert_allclose(colmap.rotation_matrix(image.quat), rotation, atol=1e-9)
        np.testing.assert_allclose(image.translation, translation, atol=1e-9)
        camera = model.cameras[image.camera_id]
        assert camera.model == "OPENCV"
        np.testing.assert_allclose(camera.params, params)
        assert image.n_observations == seen
    found = sorted(
        [*xyz, *rgb, length]
        for xyz, rgb, length in zip(
            model.points.xyz.tolist(),
            model.points.rgb.tolist(),
            model.points.track_lengths.tolist(),
            strict=True,
        )
    )
    np.testing.assert_allclose(found, points, rtol=1e-9)
    assert (model.points.errors >= -1).all()


def test_finds_the_model_where_people_put_it(written: tuple[Path, dict, list], tmp_path: Path) -> None:
    source = written[0] / "bin"
    for place in (".", "sparse", "sparse/0", "sparse/1", "model"):
        folder = tmp_path / place.replace("/", "_").replace(".", "root")
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        if place == ".":
            folder.mkdir(exist_ok=True)
            for file in source.iterdir():
                (folder / file.name).symlink_to(file)
        else:
            (folder / place).symlink_to(source)
        assert colmap.find_model(folder) == folder / place
    assert colmap.find_model(tmp_path / "nowhere") is None


@pytest.mark.parametrize("part", ["cameras", "images", "points3D"])
@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_missing_and_cut_off(part: str, kind: str, written: tuple[Path, dict, list], tmp_path: Path) -> None:
    for file in (written[0] / kind).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / f"{part}.{kind}"
    content = path.read_bytes()
    if kind == "bin":
        for length in (0, 5, len(content) // 2, len(content) - 3):
            path.write_bytes(content[:length])
            with pytest.raises(ReconstructionError, match=f"{part}.bin of this COLMAP model cannot be read"):
                colmap.read_model(tmp_path)
    else:
        path.write_text("1 2 what\n")
        with pytest.raises(ReconstructionError, match=f"{part}.txt of this COLMAP model cannot be read"):
            colmap.read_model(tmp_path)
    path.unlink()
    with pytest.raises(ReconstructionError, match=f"no {part}.bin and no {part}.txt"):
        colmap.read_model(tmp_path)


@settings(max_examples=60)
@given(st.binary(max_size=200), st.sampled_from(["cameras", "images", "points3D"]))
def test_any_bytes_are_refused_or_read(content: bytes, part: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for other in colmap.PARTS:
            (folder / f"{other}.bin").write_bytes(bytes(8))
        (folder / f"{part}.bin").write_bytes(content)
        try:
            model = colmap.read_model(folder)
        except ReconstructionError:
            return
        assert len(model.points.xyz) * 51 <= len(content)
