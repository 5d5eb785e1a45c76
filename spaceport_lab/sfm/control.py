"""Ground control points: surveyed places that were pointed at in photographs. Worker only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycolmap
from jaxtyping import Float

from spaceport_lab.cameras import fit_similarity, gps_to_enu
from spaceport_lab.sfm import geodesy
from spaceport_lab.sfm.gcp import MIN_POINTS
from spaceport_lab.sfm.georeference import GpsFit, fit_gps

CLICK_PX = 8.0
"""How far from where a point projects it may have been pointed at, pixels."""


@dataclass(frozen=True)
class Control:
    """What came of the ground control points.

    Attributes:
        rows: one a point, as georeference.json lists them; residuals are filled in once the world is settled.
        fit: of the triangulated points onto the surveyed ones, or in words why there is none.
        names: of the points that took part in `fit`, in its order.
        placed: [N, 3] those points in the model's world.
        targets: [N, 3] and as surveyed, local metres.
    """

    rows: list[dict[str, Any]]
    fit: GpsFit | str
    names: tuple[str, ...] = ()
    placed: Float[np.ndarray, "N 3"] | None = None
    targets: Float[np.ndarray, "N 3"] | None = None


def usual_place(points: Sequence[dict[str, Any]]) -> Float[np.ndarray, "3"]:
    """An origin for scenes without GPS: near the middle of the points, rounded as that of GPS is."""
    lat, lon, height = np.median([_surveyed(point) for point in points], axis=0)
    return np.array([round(lat, 4), round(lon, 4), round(height)])


def fit_points(
    model: pycolmap.Reconstruction,
    points: Sequence[dict[str, Any]],
    origin: Float[np.ndarray, "3"],
    up: Float[np.ndarray, "3"],
    seed: int,
) -> Control:
    """Triangulate the points from where they were pointed at, and fit the model to them robustly.

    Args:
        model: in any world.
        points: as `gcp.read_points` gives them.
        origin: of the local frame: latitude, longitude in degrees, height in metres.
        up: [3] upright in the model's world, for points that lie on a line.
        seed: of robust estimation.
    """
    images = {model.image(i).name: model.image(i) for i in model.reg_image_ids()}
    rows, names, placed, targets = [], [], [], []
    for point in points:
        row, position = _triangulate(point, images, seed)
        rows.append(row)
        if position is not None:
            names.append(point["name"])
            placed.append(position)
            targets.append(gps_to_enu(_surveyed(point)[None], origin)[0])
    if len(names) < MIN_POINTS:
        return Control(rows, f"only {len(names)} of {len(points)} control points could be triangulated, "
                             f"{MIN_POINTS} are needed")  # fmt: skip
    source, target = np.array(placed), np.array(targets)
    if len(names) == MIN_POINTS:
        fit: GpsFit | str = _fit_three(source, target)
    else:
        fit = fit_gps(source, target, up, seed)
        if isinstance(fit, str):
            fit = fit.replace("GPS does not fit the cameras", "the control points do not fit the model")
    return Control(rows, fit, tuple(names), source, target)


def fill_residuals(control: Control) -> None:
    """Put the residuals of the fit into the rows of the points that took part."""
    if isinstance(control.fit, str):
        return
    rows = {row["name"]: row for row in control.rows}
    for name, residual, inlier in zip(control.names, control.fit.residuals, control.fit.inliers, strict=True):
        rows[name] |= {"residual_m": residual.tolist(), "used": bool(inlier)}
        if not inlier:
            rows[name]["problem"] = f"{np.linalg.norm(residual):.2f} m from where the others put it"


def _fit_three(source: np.ndarray, target: np.ndarray) -> GpsFit | str:
    deviations = np.linalg.svd(target - target.mean(axis=0), compute_uv=False)
    if deviations[1] < 0.05 * deviations[0]:
        return "the three control points lie on a line"
    similarity = fit_similarity(source, target)
    residuals = similarity(source) - target
    return GpsFit(similarity, np.ones(len(source), bool), residuals, float(np.sqrt((residuals**2).mean())))


def _surveyed(point: dict[str, Any]) -> Float[np.ndarray, "3"]:
    """Latitude, longitude, height."""
    return geodesy.to_wgs84(np.array([[point["x"], point["y"], point["z"]]], dtype=float), point["crs"])[0]


def _triangulate(
    point: dict[str, Any], images: dict[str, pycolmap.Image], seed: int
) -> tuple[dict[str, Any], np.ndarray | None]:
    """The row of a point, and where it is in the model's world when at least two photographs agree."""
    seen = [o for o in point["observations"] if o["image"] in images]
    row: dict[str, Any] = {
        "name": point["name"], "n_observations": len(point["observations"]), "n_registered": len(seen),
        "n_agreeing": 0, "reprojection_error_px": None, "residual_m": None, "used": False, "problem": None,
    }  # fmt: skip
    if len(seen) < 2:
        row["problem"] = f"pointed at in {len(seen)} registered photographs, 2 are needed"
        return row, None
    options = pycolmap.EstimateTriangulationOptions()
    options.min_tri_angle = np.radians(1.0)
    options.residual_type = pycolmap.TriangulationResidualType.REPROJECTION_ERROR
    options.ransac.max_error, options.ransac.random_seed = CLICK_PX, seed
    pixels = np.array([[o["px"], o["py"]] for o in seen], dtype=float)
    chosen = [images[o["image"]] for o in seen]
    found = pycolmap.estimate_triangulation(
        pixels, [image.cam_from_world() for image in chosen], [image.camera for image in chosen], options
    )
    agreeing = np.array(found["inliers"], dtype=bool) if found else np.zeros(len(seen), bool)
    if agreeing.sum() < 2:
        row["problem"] = "where it was pointed at does not agree between photographs"
        return row, None
    errors = [
        np.linalg.norm(image.project_point(found["xyz"]) - pixel)
        for image, pixel, good in zip(chosen, pixels, agreeing, strict=True)
        if good
    ]
    row |= {"n_agreeing": int(agreeing.sum()), "reprojection_error_px": float(np.mean(errors))}
    return row, found["xyz"]
