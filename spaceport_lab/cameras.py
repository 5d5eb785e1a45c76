"""Cameras as training sees them: pinhole, OpenCV axes, world to camera; and where they stand on the Earth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from spaceport_lab.colmap import ModelCamera, read_model, rotation_matrix
from spaceport_lab.errors import InputError, ReconstructionError


@dataclass(frozen=True)
class Cameras:
    """C pinhole cameras, sorted by image name.

    Attributes:
        names: [C] image file names, relative to the folder of images.
        viewmats: [C, 4, 4] world to camera; OpenCV axes (+X right, +Y down, +Z forward).
        Ks: [C, 3, 3] intrinsics in pixels; pixel (0, 0) is centred at (0.5, 0.5).
        sizes: [C, 2] width and height in pixels.
    """

    names: tuple[str, ...]
    viewmats: Float[np.ndarray, "C 4 4"]
    Ks: Float[np.ndarray, "C 3 3"]
    sizes: Int[np.ndarray, "C 2"]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def centers(self) -> Float[np.ndarray, "C 3"]:
        """Camera centres in world coordinates, metres where the world is georeferenced."""
        rotation, translation = self.viewmats[:, :3, :3], self.viewmats[:, :3, 3]
        return -np.einsum("cji,cj->ci", rotation, translation)

    def subset(self, indices: Int[np.ndarray, "S"] | list[int]) -> Cameras:
        """The cameras at `indices`, in that order."""
        index = np.asarray(indices, dtype=int)
        return Cameras(
            tuple(self.names[i] for i in index), self.viewmats[index], self.Ks[index], self.sizes[index]
        )


@dataclass(frozen=True)
class Scene:
    """What structure from motion hands to training.

    Attributes:
        cameras: the registered, undistorted views.
        points: [P, 3] sparse points in world coordinates.
        colors: [P, 3] their colours, 0 to 255.
        georeferenced: whether world coordinates are local east-north-up metres.
    """

    cameras: Cameras
    points: Float[np.ndarray, "P 3"]
    colors: Int[np.ndarray, "P 3"]
    georeferenced: bool


def heldout_split(names: tuple[str, ...], test_every: int = 8) -> tuple[list[int], list[int]]:
    """Indices of training and of held-out views: sorted by name, every `test_every`th is held out.

    Fewer than two views cannot be split: then none is held out.
    """
    order = sorted(range(len(names)), key=lambda i: names[i])
    test = [i for rank, i in enumerate(order) if rank % test_every == 0] if len(names) > 1 else []
    held = set(test)
    return [i for i in order if i not in held], test


def read_scene(folder: Path | str) -> Scene:
    """Read a folder that holds sparse/ (a COLMAP model of pinhole cameras) and images/.

    Raises:
        ReconstructionError: the model is missing or broken, a camera is no pinhole, or an image is missing.
    """
    folder = Path(folder)
    model = read_model(folder / "sparse")
    missing = [image.name for image in model.images if not (folder / "images" / image.name).is_file()]
    if missing:
        raise ReconstructionError(
            "images of this scene are missing",
            got=f"{len(missing)} of {len(model.images)} not in {folder / 'images'}: {_some(missing)}",
            hint="run the sfm stage again",
        )
    viewmats = np.tile(np.eye(4), (len(model.images), 1, 1))
    for viewmat, image in zip(viewmats, model.images, strict=True):
        viewmat[:3, :3], viewmat[:3, 3] = rotation_matrix(image.quat), image.translation
    used = [model.cameras[image.camera_id] for image in model.images]
    cameras = Cameras(
        names=tuple(image.name for image in model.images),
        viewmats=viewmats,
        Ks=np.array([_intrinsics(camera) for camera in used]).reshape(-1, 3, 3),
        sizes=np.array([(camera.width, camera.height) for camera in used], dtype=int).reshape(-1, 2),
    )
    georeferenced = (folder / "georeference.json").is_file()
    return Scene(cameras, model.points.xyz, model.points.rgb, georeferenced)


def _intrinsics(camera: ModelCamera) -> Float[np.ndarray, "3 3"]:
    if camera.model == "PINHOLE":
        fx, fy, cx, cy = camera.params
    elif camera.model == "SIMPLE_PINHOLE":
        fx, cx, cy = camera.params
        fy = fx
    else:
        raise ReconstructionError(
            "this camera bends straight lines, and 3DGS knows only pinholes",
            got=f"camera model {camera.model}",
            expected="PINHOLE or SIMPLE_PINHOLE, as the sfm stage makes by undistorting",
            hint="give the folder to the sfm stage (sfm.import_path): it undistorts",
        )
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


@dataclass(frozen=True)
class Similarity:
    """A change of world: `scale * rotation @ x + translation`.

    Attributes:
        scale: target units per source unit.
        rotation: [3, 3].
        translation: [3] in target units.
    """

    scale: float
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]

    def __call__(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        return self.scale * points @ self.rotation.T + self.translation

    @property
    def matrix(self) -> Float[np.ndarray, "4 4"]:
        """As a 4×4 that takes homogeneous points of the old world to the new one."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.scale * self.rotation, self.translation
        return matrix


def align(
    source: Float[np.ndarray, "*B N 3"], target: Float[np.ndarray, "*B N 3"]
) -> tuple[Float[np.ndarray, "*B"], Float[np.ndarray, "*B 3 3"], Float[np.ndarray, "*B 3"]]:
    """Scale, rotation and translation that bring `source` onto `target` with the least squared error.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns" (1991).
    Leading dimensions are separate problems. Three points that are not on one line are the least it needs;
    with coinciding sources the scale is 0.
    """
    source, target = np.asarray(source, dtype=float), np.asarray(target, dtype=float)
    mean_s, mean_t = source.mean(-2, keepdims=True), target.mean(-2, keepdims=True)
    s, t = source - mean_s, target - mean_t
    u, singular, vt = np.linalg.svd(np.swapaxes(t, -1, -2) @ s)
    signs = np.ones_like(singular)
    signs[..., 2] = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    rotation = (u * signs[..., None, :]) @ vt
    spread = (s**2).sum((-1, -2))
    scale = (singular * signs).sum(-1) / np.where(spread > 0, spread, 1.0)
    rotated = np.einsum("...ij,...j->...i", rotation, mean_s[..., 0, :])
    return scale, rotation, mean_t[..., 0, :] - scale[..., None] * rotated


def fit_similarity(source: Float[np.ndarray, "N 3"], target: Float[np.ndarray, "N 3"]) -> Similarity:
    """`align` of one set of points, as a Similarity."""
    scale, rotation, translation = align(source, target)
    return Similarity(float(scale), rotation, translation)


def read_ground_truth(path: Path | str) -> dict[str, Float[np.ndarray, "3"]]:
    """Camera centres of a ground_truth.json: image name → [3] metres, east-north-up.

    Raises:
        InputError: the file is not of that shape.
    """
    try:
        cameras = json.loads(Path(path).read_text())["cameras"]
        centers = {str(name): np.array(entry["center"], dtype=float) for name, entry in cameras.items()}
        if any(c.shape != (3,) or not np.isfinite(c).all() for c in centers.values()):
            raise ValueError("a center is not three finite numbers")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{Path(path).name} cannot be read as ground truth",
            got=f"{type(error).__name__}: {error}",
            expected='{"cameras": {"<file name>": {"center": [x, y, z], "R": 3x3}, ...}}',
            hint="mend the file or remove it; it is optional",
        ) from error
    return centers


def pose_rmse(
    cameras: Cameras, truth: Mapping[str, Float[np.ndarray, "3"]]
) -> tuple[float, dict[str, float]] | None:
    """How far camera centres are from the truth once the best similarity has been taken out.

    Args:
        cameras: as estimated, in any world.
        truth: image name → true centre, metres.

    Returns:
        RMSE over the common cameras and the distance of each, metres; None with fewer than three in common.
    """
    common = [i for i, name in enumerate(cameras.names) if name in truth]
    if len(common) < 3:
        return None
    target = np.array([truth[cameras.names[i]] for i in common])
    source = cameras.centers[common]
    errors = np.linalg.norm(fit_similarity(source, target)(source) - target, axis=1)
    each = {cameras.names[i]: float(e) for i, e in zip(common, errors, strict=True)}
    return float(np.sqrt((errors**2).mean())), each


_WGS84_A, _WGS84_E2 = 6378137.0, 6.69437999014e-3


def frame_in_words(folder: Path | str) -> str:
    """What the coordinates of an sfm stage's folder are, from its georeference.json, for people."""
    path = Path(folder) / "georeference.json"
    try:
        place = json.loads(path.read_text())
    except (OSError, ValueError):
        return "units without a scale: no GPS, no control points"
    words = "metres east, north and up"
    if origin := place.get("origin"):
        words += f" of {origin['lat']:.6f}°, {origin['lon']:.6f}°, {origin['alt']:.1f} m"
    if epsg := (place.get("utm") or {}).get("epsg"):
        words += f" (UTM zone EPSG:{epsg})"
    return words


def gps_to_enu(
    positions: Float[np.ndarray, "N 3"], origin: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "N 3"]:
    """Latitude, longitude (degrees), height (m) on WGS84 → east, north, up in metres from `origin`.

    `origin` is given in the same way. The plane touches the ellipsoid at the origin: exact, not a projection.
    """
    positions, origin = np.atleast_2d(np.asarray(positions, float)), np.asarray(origin, float)
    lat, lon = np.radians(origin[0]), np.radians(origin[1])
    east = [-np.sin(lon), np.cos(lon), 0.0]
    north = [-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)]
    up = [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]
    return (_ecef(positions) - _ecef(origin[None])) @ np.array([east, north, up]).T


def _ecef(positions: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    lat, lon, height = np.radians(positions[:, 0]), np.radians(positions[:, 1]), positions[:, 2]
    n = _WGS84_A / np.sqrt(1 - _WGS84_E2 * np.sin(lat) ** 2)
    return np.stack(
        [
            (n + height) * np.cos(lat) * np.cos(lon),
            (n + height) * np.cos(lat) * np.sin(lon),
            (n * (1 - _WGS84_E2) + height) * np.sin(lat),
        ],
        axis=1,
    )
