"""nerfstudio's transforms.json: which images it names, and its cameras as a COLMAP model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float
from plyfile import PlyData
from scipy.spatial.transform import Rotation

from spaceport_lab import files
from spaceport_lab.errors import PhotosError
from spaceport_lab.ingest.photos import Photo

NAME = "transforms.json"

_GL_TO_CV = np.diag([1.0, -1.0, -1.0, 1.0])
"""nerfstudio's cameras look along -Z with +Y up."""

_GUESSES = ("", ".png", ".jpg", ".jpeg", ".JPG", ".PNG")
_DISTORTION = ("k1", "k2", "p1", "p2")


@dataclass(frozen=True)
class Frames:
    """What a transforms.json names.

    Attributes:
        path: the file.
        images: the images that are there, relative to its folder.
        missing: names that are not there → why.
        cameras: image → its entry, with the file's own settings where it has none of its own.
        points: a PLY of points beside it, or None.
    """

    path: Path
    images: tuple[str, ...]
    missing: dict[str, str]
    cameras: dict[str, dict[str, Any]]
    points: Path | None = None


def read(path: Path) -> Frames:
    """Read a transforms.json.

    Raises:
        PhotosError: it is no JSON, or has no frames.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        frames = content["frames"]
        entries = {str(frame["file_path"]): {**content, **frame} for frame in frames}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PhotosError(
            f"{path.name} is not nerfstudio's",
            got=f"{type(error).__name__}: {error}",
            expected='{"frames": [{"file_path": …, "transform_matrix": …}, …]}',
            hint="move it away to take all images of the folder",
        ) from error
    found, missing = {}, {}
    for written, entry in entries.items():
        name = PurePosixPath(written.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or "\0" in written:
            missing[written] = f"{path.name} names it outside its own folder"
            continue
        there = next((f"{name}{end}" for end in _GUESSES if (path.parent / f"{name}{end}").is_file()), None)
        if there is None:
            missing[written] = f"{path.name} names it, and it is not there"
        else:
            found[there] = entry
    points = path.parent / str(content.get("ply_file_path") or "sparse_pc.ply")
    inside = points.is_file() and points.resolve().is_relative_to(path.parent.resolve())
    return Frames(path, tuple(sorted(found)), missing, found, points if inside else None)


def write_model(frames: Frames, photos: Sequence[Photo], folder: Path) -> tuple[int, list[str]]:
    """Write the poses of the used photographs as a COLMAP text model, for `sfm.import_path`.

    The world stays the file's own. Distortion is COLMAP's OPENCV, which is nerfstudio's.

    Args:
        frames: what was read.
        photos: judged ones; their `source` is relative to the folder of transforms.json.
        folder: gets cameras.txt, images.txt and points3D.txt. Nothing is written where no pose is usable.

    Returns:
        How many poses were written, and a sentence for each reason why others were not.
    """
    cameras: dict[str, int] = {}
    lines, problems = [], {}
    for photo in photos:
        entry = frames.cameras.get(photo.source)
        if entry is None or not photo.used:
            continue
        try:
            camera = _camera(entry, photo)
            quat, translation = _pose(entry)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            problems.setdefault(str(error), []).append(photo.source)
            continue
        camera_id = cameras.setdefault(camera, len(cameras) + 1)
        numbers = " ".join(f"{value:.12g}" for value in (*quat, *translation))
        lines.append(f"{len(lines) + 1} {numbers} {camera_id} {photo.name}\n\n")
    if lines:
        files.write_text(folder / "cameras.txt", "".join(f"{k} {camera}\n" for camera, k in cameras.items()))
        files.write_text(folder / "images.txt", "".join(lines))
        files.write_text(folder / "points3D.txt", _points(frames.points))
    said = [f"{len(names)} poses are not usable: {why} ({names[0]})" for why, names in problems.items()]
    return len(lines), said


def _camera(entry: dict[str, Any], photo: Photo) -> str:
    """A line of cameras.txt without its number, scaled to the photograph's size."""
    model = str(entry.get("camera_model", "OPENCV"))
    if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "OPENCV_FISHEYE"):
        raise ValueError(f"camera model {model}")
    if photo.orientation != 1:
        raise ValueError("the photograph was turned upright")
    width, height = float(entry.get("w", photo.width)), float(entry.get("h", photo.height))
    if not (width > 0 and abs(photo.width / width * height / photo.height - 1) < 0.01):
        raise ValueError(f"the image is {photo.width}×{photo.height} where w and h say otherwise")
    scale = photo.width / width
    seen = entry.get("camera_angle_x")
    fx = float(entry["fl_x"]) if seen is None or "fl_x" in entry else width / 2 / math.tan(float(seen) / 2)
    fy = float(entry.get("fl_y", fx))
    cx, cy = float(entry.get("cx", width / 2)), float(entry.get("cy", height / 2))
    names = ("k1", "k2", "k3", "k4") if model == "OPENCV_FISHEYE" else _DISTORTION
    bent = [float(entry.get(name, 0.0)) for name in names]
    if not all(math.isfinite(v) for v in (fx, fy, cx, cy, *bent)) or min(fx, fy) <= 0:
        raise ValueError("intrinsics that are no numbers")
    plain = model != "OPENCV_FISHEYE" and not any(bent)
    kind = "PINHOLE" if plain else model if model == "OPENCV_FISHEYE" else "OPENCV"
    values = [v * scale for v in (fx, fy, cx, cy)] + ([] if plain else bent)
    return f"{kind} {photo.width} {photo.height} " + " ".join(f"{v:.12g}" for v in values)


def _pose(entry: dict[str, Any]) -> tuple[Float[np.ndarray, "4"], Float[np.ndarray, "3"]]:
    """World to camera as COLMAP has it: quaternion wxyz and translation."""
    matrix = np.array(entry["transform_matrix"], dtype=float)
    if matrix.shape == (3, 4):
        matrix = np.vstack([matrix, [0, 0, 0, 1]])
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ValueError("transform_matrix is not 4×4 numbers")
    rotation = matrix[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
        raise ValueError("transform_matrix is no rotation with a shift")
    viewmat = np.linalg.inv(matrix @ _GL_TO_CV)
    return Rotation.from_matrix(viewmat[:3, :3]).as_quat(scalar_first=True), viewmat[:3, 3]


def _points(path: Path | None) -> str:
    """Lines of points3D.txt, without tracks: nobody says which image saw which point."""
    if path is None:
        return ""
    try:
        vertex = PlyData.read(str(path))["vertex"]
        places = np.column_stack([vertex[k] for k in "xyz"]).astype(float)
        colors = np.column_stack([vertex[k] for k in ("red", "green", "blue")]).astype(int)
    except Exception:  # plyfile raises what the bytes lead it to; cameras are worth having without points
        return ""
    kept = np.isfinite(places).all(axis=1)
    rows = zip(places[kept], colors[kept], strict=True)
    return "".join(
        f"{k} {x:.9g} {y:.9g} {z:.9g} {r} {g} {b} 0\n" for k, ((x, y, z), (r, g, b)) in enumerate(rows, 1)
    )
