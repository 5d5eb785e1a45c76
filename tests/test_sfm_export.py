"""Cameras for other programs, read back by COLMAP and by nerfstudio's rules."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData

from spaceport_lab import colmap
from spaceport_lab.cameras import read_scene
from spaceport_lab.errors import InputError
from spaceport_lab.sfm.exporting import export, to_opengl

_MAKE = """
import zlib, sys, pathlib, pycolmap
from PIL import Image
folder = pathlib.Path(sys.argv[1])
options = pycolmap.SyntheticDatasetOptions()
options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 2, 1, 3
options.num_points3D, options.camera_model_id = 60, pycolmap.CameraModelId.PINHOLE
options.camera_width, options.camera_height = 160, 120
options.camera_params = [150.0, 151.0, 80.0, 60.0]
model = pycolmap.synthesize_dataset(options)
(folder / "sparse").mkdir(parents=True)
model.write_binary(folder / "sparse")
for image in model.images.values():
    path = folder / "images" / image.name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (160, 120)).save(path)
"""

_READ = """
import zlib, sys, json, pycolmap
model = pycolmap.Reconstruction(sys.argv[1])
print(json.dumps({
    "poses": {i.name: i.cam_from_world().matrix().tolist() for i in model.images.values() if i.has_pose},
    "params": sorted(c.params.tolist() for c in model.cameras.values()),
    "points": sorted(p.xyz.tolist() for p in model.points3D.values()),
    "tracks": sum(p.track.length() for p in model.points3D.values()),
}))
"""


def python(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose sfm stage holds six cameras of two kinds that COLMAP made up; only read."""
    run = tmp_path_factory.mktemp("run")
    python(_MAKE, run / "02_sfm")
    (run / "02_sfm" / "georeference.json").write_text('{"scale": 2.0}')
    (run / "02_sfm" / "masks").mkdir()
    first = read_scene(run / "02_sfm").cameras.names[0]
    mask = run / "02_sfm" / "masks" / f"{first}.png"
    mask.parent.mkdir(parents=True, exist_ok=True)
    mask.write_bytes(b"mask")
    return run


@pytest.mark.parametrize(("kind", "ending"), [("colmap", ".bin"), ("colmap-text", ".txt")])
def test_colmap_folder_reads_back_equal(kind: str, ending: str, made: Path, tmp_path: Path) -> None:
    done = export(made, tmp_path / "out", kind)
    assert done["n_images"] == 6
    assert {p.suffix for p in (tmp_path / "out" / "sparse" / "0").iterdir()} == {ending}
    theirs = json.loads(python(_READ, tmp_path / "out" / "sparse" / "0"))
    ours = json.loads(python(_READ, made / "02_sfm" / "sparse"))
    assert theirs["poses"].keys() == ours["poses"].keys()
    for name, pose in ours["poses"].items():
        np.testing.assert_allclose(theirs["poses"][name], pose, atol=1e-9)
    np.testing.assert_allclose(theirs["params"], ours["params"], atol=1e-9)
    np.testing.assert_allclose(theirs["points"], ours["points"], atol=1e-9)
    assert theirs["tracks"] == ours["tracks"]
    assert len(colmap.read_model(tmp_path / "out" / "sparse" / "0").images) == 6
    assert (tmp_path / "out" / "georeference.json").read_text() == '{"scale": 2.0}'
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_transforms_are_the_same_cameras(made: Path, tmp_path: Path) -> None:
    """By the definition, point by point: what nerfstudio projects is what COLMAP projects."""
    export(made / "02_sfm", tmp_path / "out", "nerfstudio")
    scene = read_scene(made / "02_sfm")
    content = json.loads((tmp_path / "out" / "transforms.json").read_text())
    assert content["camera_model"] == "OPENCV"
    poses = json.loads(python(_READ, made / "02_sfm" / "sparse"))["poses"]
    assert len(content["frames"]) == 6
    for frame in content["frames"]:
        assert (tmp_path / "out" / frame["file_path"]).is_file()
        c2w = np.array(frame["transform_matrix"])
        local = (scene.points - c2w[:3, 3]) @ c2w[:3, :3]
        x = frame["cx"] + frame["fl_x"] * local[:, 0] / -local[:, 2]
        y = frame["cy"] - frame["fl_y"] * local[:, 1] / -local[:, 2]
        pose = np.array(poses[frame["file_path"].removeprefix("images/")])
        theirs = scene.points @ pose[:, :3].T + pose[:, 3]
        np.testing.assert_allclose(-local[:, 2], theirs[:, 2], atol=1e-9)
        np.testing.assert_allclose(x, 80 + 150 * theirs[:, 0] / theirs[:, 2], rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(y, 60 + 151 * theirs[:, 1] / theirs[:, 2], rtol=1e-6, atol=1e-5)
    assert sum("mask_path" in frame for frame in content["frames"]) == 1
    cloud = PlyData.read(tmp_path / "out" / content["ply_file_path"])["vertex"]
    np.testing.assert_allclose(np.c_[cloud["x"], cloud["y"], cloud["z"]], scene.points, rtol=1e-5, atol=1e-5)
    assert cloud["red"].tolist() == scene.colors[:, 0].tolist()


def test_opengl_looks_the_other_way() -> None:
    view = np.eye(4)[None].copy()
    view[0, :3, 3] = 0, 0, 5  # five in front of the camera's zero
    pose = to_opengl(view)[0]
    np.testing.assert_allclose(pose[:3, 3], [0, 0, -5])
    np.testing.assert_allclose(-pose[:3, 2], [0, 0, 1])  # −Z is forward
    np.testing.assert_allclose(pose[:3, 1], [0, -1, 0])  # +Y is up


def test_what_cannot_be_exported(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no export to 'ply'[\s\S]*colmap-text"):
        export(made, tmp_path / "out", "ply")
    with pytest.raises(InputError, match="no cameras to export here"):
        export(tmp_path, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="is not empty"):
        export(made, tmp_path / "full")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]
