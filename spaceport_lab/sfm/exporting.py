"""Cameras and points for other programs: a COLMAP folder, or nerfstudio's transforms.json."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from plyfile import PlyData, PlyElement

from spaceport_lab import files
from spaceport_lab.cameras import Scene, read_scene
from spaceport_lab.errors import InputError
from spaceport_lab.sfm.process import run_worker

KINDS = ("colmap", "colmap-text", "nerfstudio")
_WORLDS = ("georeference.json", "normalisation.json")
_TIME_LIMIT_S = 600.0


def export(folder: Path | str, target: Path | str, to: str = "colmap") -> dict[str, Any]:
    """Write what the sfm stage made for another program; nothing of it is changed, images are linked.

    `colmap` and `colmap-text` make images/ and sparse/0/ as COLMAP, gsplat and most others read them,
    `nerfstudio` transforms.json with images/ and sparse_pc.ply; masks/ go along where there are any, and so
    does georeference.json or normalisation.json, which says what world it is.

    Args:
        folder: of the finished stage (02_sfm), or the run folder above it.
        target: a folder that does not exist or is empty; it appears whole.
        to: one of `KINDS`.

    Returns:
        `to`, `target`, `n_images`, `n_points`.

    Raises:
        InputError: no such kind, nothing to export, or the target is not empty.
        ReconstructionError: the stage's model is missing or broken.
    """
    folder, target = Path(folder), Path(target)
    folder = folder / "02_sfm" if (folder / "02_sfm").is_dir() else folder
    if to not in KINDS:
        raise InputError(f"there is no export to {to!r}", expected=f"one of {', '.join(KINDS)}")
    if not (folder / "sparse").is_dir():
        raise InputError(
            "there are no cameras to export here",
            got=f"no sparse/ in {folder}",
            expected="a run folder whose sfm stage has finished",
        )
    scene = read_scene(folder)
    with _whole_folder(target) as made:
        for name in ("images", "masks"):
            _link(folder / name, made / name)
        for name in _WORLDS:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, made / name)
        if to == "nerfstudio":
            _write_points(made / "sparse_pc.ply", scene)
            files.write_json(made / "transforms.json", transforms(scene, folder / "masks"))
        elif to == "colmap":
            shutil.copytree(folder / "sparse", made / "sparse" / "0")
        else:
            _write_text(folder / "sparse", made / "sparse" / "0")
    return {"to": to, "target": target, "n_images": len(scene.cameras), "n_points": len(scene.points)}


def transforms(scene: Scene, masks: Path | None = None) -> dict[str, Any]:
    """nerfstudio's transforms.json: camera to world with OpenGL axes (+X right, +Y up, −Z forward).

    Args:
        scene: of pinhole cameras.
        masks: folder of NAME.png; named where they are there.
    """
    frames = []
    cameras = scene.cameras
    for name, pose, k, (width, height) in zip(
        cameras.names, to_opengl(cameras.viewmats), cameras.Ks, cameras.sizes, strict=True
    ):
        frame = {
            "file_path": f"images/{name}",
            "w": int(width), "h": int(height),
            "fl_x": k[0, 0], "fl_y": k[1, 1], "cx": k[0, 2], "cy": k[1, 2],
            "transform_matrix": pose,
        }  # fmt: skip
        if masks is not None and (masks / f"{name}.png").is_file():
            frame["mask_path"] = f"masks/{name}.png"
        frames.append(frame)
    return {"camera_model": "OPENCV", "ply_file_path": "sparse_pc.ply", "frames": frames}


def to_opengl(viewmats: Float[np.ndarray, "C 4 4"]) -> Float[np.ndarray, "C 4 4"]:
    """World to camera with OpenCV axes → camera to world with OpenGL axes."""
    return np.linalg.inv(viewmats) * np.array([1.0, -1.0, -1.0, 1.0])


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place at the end; gone when anything fails."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(
            "the folder to export to is not empty", got=target, hint="name one that does not exist"
        )
    with files.clear_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            made.chmod(0o755)
            yield made
            if target.is_dir():
                target.rmdir()
            made.replace(target)
        finally:
            shutil.rmtree(made, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            files.link_or_copy(path, target / path.relative_to(source))


def _write_points(path: Path, scene: Scene) -> None:
    columns = [(axis, "f4") for axis in "xyz"] + [(color, "u1") for color in ("red", "green", "blue")]
    rows = np.empty(len(scene.points), dtype=columns)
    for i, axis in enumerate("xyz"):
        rows[axis] = scene.points[:, i]
    for i, color in enumerate(("red", "green", "blue")):
        rows[color] = np.clip(scene.colors[:, i], 0, 255)
    with files.atomic_path(path) as temporary:
        PlyData([PlyElement.describe(rows, "vertex")]).write(temporary)


def _write_text(model: Path, target: Path) -> None:
    """Through COLMAP, in a process of its own."""
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as work:
        job = {"task": "write_text", "model": model.resolve(), "target": target.resolve()}
        for _ in run_worker(job, Path(work), Path(work) / "colmap.log", _TIME_LIMIT_S):
            pass
