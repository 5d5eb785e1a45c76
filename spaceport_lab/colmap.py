"""COLMAP models as files: cameras, images and points, binary or text, read without COLMAP.

Kernels of notebooks read models through this module because pycolmap belongs in a process of its own.
The layout is COLMAP's documented one (https://colmap.github.io/format.html).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from spaceport_lab.errors import ReconstructionError

CAMERA_MODELS: dict[int, tuple[str, int]] = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
}
"""COLMAP's number of a camera model → its name and how many parameters it has."""

PARTS = ("cameras", "images", "points3D")


@dataclass(frozen=True)
class ModelCamera:
    """Intrinsics as COLMAP keeps them: `params` in the order of its camera `model`, pixels."""

    camera_id: int
    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class ModelImage:
    """A registered image.

    Attributes:
        image_id: COLMAP's number of it.
        name: file name relative to the folder of images.
        camera_id: of its camera.
        quat: [4] wxyz, world to camera.
        translation: [3] world to camera.
        n_observations: keypoints of it that belong to a 3D point.
    """

    image_id: int
    name: str
    camera_id: int
    quat: Float[np.ndarray, "4"]
    translation: Float[np.ndarray, "3"]
    n_observations: int


@dataclass(frozen=True)
class ModelPoints:
    """The sparse points.

    Attributes:
        xyz: [P, 3] world coordinates.
        rgb: [P, 3] 0 to 255.
        errors: [P] mean reprojection error in pixels.
        track_lengths: [P] images each point is seen in.
    """

    xyz: Float[np.ndarray, "P 3"]
    rgb: Int[np.ndarray, "P 3"]
    errors: Float[np.ndarray, "P"]
    track_lengths: Int[np.ndarray, "P"]


@dataclass(frozen=True)
class Model:
    """A COLMAP model; images are sorted by name."""

    cameras: dict[int, ModelCamera]
    images: tuple[ModelImage, ...]
    points: ModelPoints


def find_model(folder: Path) -> Path | None:
    """The folder that holds the model files: `folder`, its sparse/, sparse/0/ or the like; None if none."""
    folder = Path(folder)
    nested = sorted(p for p in folder.glob("sparse/*") if p.is_dir())
    for place in (folder, folder / "sparse", *nested, *sorted(p for p in folder.glob("*") if p.is_dir())):
        if any(all((place / f"{part}{end}").is_file() for part in PARTS) for end in (".bin", ".txt")):
            return place
    return None


def read_model(folder: Path | str) -> Model:
    """Read cameras, images and points3D (.bin before .txt) of a COLMAP model.

    Raises:
        ReconstructionError: a file is missing, truncated, or not of COLMAP's format.
    """
    folder = Path(folder)
    parts = []
    for part in PARTS:
        binary, text = folder / f"{part}.bin", folder / f"{part}.txt"
        path = binary if binary.is_file() else text
        if not path.is_file():
            raise ReconstructionError(
                "this COLMAP model is not whole",
                got=f"no {part}.bin and no {part}.txt in {folder}",
                expected="cameras, images and points3D, all .bin or all .txt",
            )
        reader = _READERS[part, path.suffix]
        try:
            parts.append(reader(path))
        except (struct.error, ValueError, IndexError, KeyError, UnicodeDecodeError, MemoryError) as error:
            raise ReconstructionError(
                f"{path.name} of this COLMAP model cannot be read",
                got=f"{path}: {type(error).__name__}: {error}",
                expected="a whole file as COLMAP writes it",
                hint="it may be truncated: copy or export the model again",
            ) from error
    cameras, images, points = parts
    return Model(cameras, tuple(sorted(images, key=lambda image: image.name)), points)


def rotation_matrix(quat: Float[np.ndarray, "4"]) -> Float[np.ndarray, "3 3"]:
    """Rotation of a quaternion wxyz, which need not be normalised."""
    w, x, y, z = np.asarray(quat, dtype=float) / np.linalg.norm(quat)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


class _Bytes:
    """A file's bytes, taken from the front."""

    def __init__(self, path: Path) -> None:
        self.data, self.at = path.read_bytes(), 0

    def take(self, layout: str) -> tuple:
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def array(self, dtype: str | np.dtype, count: int) -> np.ndarray:
        values = np.frombuffer(self.data, dtype=dtype, count=count, offset=self.at)
        self.at += values.nbytes
        return values

    def name(self) -> str:
        end = self.data.index(b"\0", self.at)
        text = self.data[self.at : end].decode()
        self.at = end + 1
        return text


def _cameras_bin(path: Path) -> dict[int, ModelCamera]:
    file = _Bytes(path)
    cameras = {}
    for _ in range(file.take("Q")[0]):
        camera_id, model_id, width, height = file.take("iiQQ")
        model, n_params = CAMERA_MODELS[model_id]
        params = tuple(file.array("<f8", n_params).tolist())
        cameras[camera_id] = ModelCamera(camera_id, model, width, height, params)
    return cameras


def _images_bin(path: Path) -> list[ModelImage]:
    file = _Bytes(path)
    keypoint = np.dtype([("xy", "<f8", 2), ("point", "<i8")])
    images = []
    for _ in range(file.take("Q")[0]):
        image_id, *pose, camera_id = file.take("i7di")
        name = file.name()
        points = file.array(keypoint, file.take("Q")[0])["point"]
        seen = int((points >= 0).sum())
        images.append(ModelImage(image_id, name, camera_id, np.array(pose[:4]), np.array(pose[4:]), seen))
    return images


def _points_bin(path: Path) -> ModelPoints:
    file = _Bytes(path)
    count = file.take("Q")[0]
    if count * 51 > len(file.data):
        raise ValueError(f"{count} points announced in {len(file.data)} bytes")
    xyz, rgb = np.empty((count, 3)), np.empty((count, 3), dtype=np.int64)
    errors, lengths = np.empty(count), np.empty(count, dtype=np.int64)
    record = struct.Struct("<Q3d3BdQ")
    for i in range(count):
        _, x, y, z, r, g, b, errors[i], length = record.unpack_from(file.data, file.at)
        xyz[i], rgb[i], lengths[i] = (x, y, z), (r, g, b), length
        file.at += record.size + 8 * length
    if file.at > len(file.data):
        raise ValueError("ends in the middle of a track")
    return ModelPoints(xyz, rgb, errors, lengths)


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def _cameras_txt(path: Path) -> dict[int, ModelCamera]:
    cameras = {}
    for line in filter(str.strip, _lines(path)):
        camera_id, model, width, height, *params = line.split()
        cameras[int(camera_id)] = ModelCamera(
            int(camera_id), model, int(width), int(height), tuple(map(float, params))
        )
    return cameras


def _images_txt(path: Path) -> list[ModelImage]:
    # Two lines an image; the second, its keypoints, may be empty, so blank lines count.
    lines = _lines(path)
    images = []
    for head, keypoints in zip(lines[::2], [*lines[1::2], ""], strict=False):
        image_id, qw, qx, qy, qz, tx, ty, tz, camera_id, name = head.split(maxsplit=9)
        quat = np.array([float(q) for q in (qw, qx, qy, qz)])
        translation = np.array([float(t) for t in (tx, ty, tz)])
        seen = sum(int(point) >= 0 for point in keypoints.split()[2::3])
        images.append(ModelImage(int(image_id), name, int(camera_id), quat, translation, seen))
    return images


def _points_txt(path: Path) -> ModelPoints:
    rows = [line.split() for line in filter(str.strip, _lines(path))]
    return ModelPoints(
        np.array([row[1:4] for row in rows], dtype=float).reshape(-1, 3),
        np.array([row[4:7] for row in rows], dtype=np.int64).reshape(-1, 3),
        np.array([row[7] for row in rows], dtype=float),
        np.array([len(row[8:]) // 2 for row in rows], dtype=np.int64),
    )


_READERS = {
    ("cameras", ".bin"): _cameras_bin,
    ("images", ".bin"): _images_bin,
    ("points3D", ".bin"): _points_bin,
    ("cameras", ".txt"): _cameras_txt,
    ("images", ".txt"): _images_txt,
    ("points3D", ".txt"): _points_txt,
}
