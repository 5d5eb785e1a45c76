"""The model into a world that means something: on control points, on GPS, or upright. Worker only."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from jaxtyping import Float

from spaceport_lab import files
from spaceport_lab.cameras import Similarity, gps_to_enu
from spaceport_lab.sfm import control, geodesy
from spaceport_lab.sfm.control import Control
from spaceport_lab.sfm.georeference import GpsFit, fit_gps, normalisation, upright
from spaceport_lab.sfm.shapes import point_positions, poses


@dataclass(frozen=True)
class Placement:
    """Where a model belongs on Earth.

    Attributes:
        origin: [3] of the local frame: latitude, longitude in degrees, height in metres.
        similarity: model's world to local metres.
        gps: residuals of the photographs' GPS under it; None when that means nothing.
        control: of the ground control points; None where there are none.
        by_control: the similarity comes from control points, not from GPS.
    """

    origin: Float[np.ndarray, "3"]
    similarity: Similarity
    gps: GpsFit | None
    control: Control | None
    by_control: bool


def local_gps(
    photos: Sequence[dict[str, Any]],
) -> tuple[Float[np.ndarray, "3"] | None, Float[np.ndarray, "N 3"]]:
    """GPS of the photographs as east, north, up in metres (NaN where there is none), and the origin.

    The origin is near the middle and rounded, to 0.0001° and whole metres: it stays the same when a
    photograph comes or goes or strays.
    """
    known = [photo["gps"] for photo in photos if photo["gps"]]
    if not known:
        return None, np.full((len(photos), 3), np.nan)
    heights = [gps["alt"] for gps in known if gps["alt"] is not None]
    usual = float(np.median(heights)) if heights else 0.0
    rows = np.full((len(photos), 3), np.nan)
    for row, photo in zip(rows, photos, strict=True):
        if photo["gps"]:
            gps = photo["gps"]
            row[:] = gps["lat"], gps["lon"], usual if gps["alt"] is None else gps["alt"]
    lat, lon, height = np.nanmedian(rows, axis=0)
    origin = np.array([round(lat, 4), round(lon, 4), round(height)])
    return origin, gps_to_enu(rows, origin)


def fit_to_gps(
    model: pycolmap.Reconstruction, names: Sequence[str], gps: np.ndarray, params: dict[str, Any]
) -> GpsFit | str:
    """The model on GPS, residuals in the order of its registered photographs that have GPS; or why not."""
    if not params["georeference"]:
        return "sfm.georeference is off"
    if not np.isfinite(gps).any():
        return "the photographs have no GPS"
    placed, rotations, centers = poses(model)
    position = dict(zip(names, gps, strict=True))
    chosen = [i for i, name in enumerate(placed) if np.isfinite(position[name]).all()]
    up = upright(rotations, centers, np.median(point_positions(model), axis=0))
    targets = np.array([position[placed[i]] for i in chosen]).reshape(-1, 3)
    return fit_gps(centers[chosen], targets, up, params["seed"])


def settle(
    model: pycolmap.Reconstruction,
    gps: GpsFit | str,
    origin: Float[np.ndarray, "3"] | None,
    points: Sequence[dict[str, Any]],
    has_gps: Set[str],
    params: dict[str, Any],
) -> tuple[Placement | None, list[str]]:
    """Control points where they fit, else GPS, else nothing; and what went wrong with either, in words.

    Args:
        model: to place.
        gps: its fit onto GPS, or why there is none.
        origin: of the local frame GPS is in; None without GPS.
        points: ground control points as ingest hands them on.
        has_gps: names of the photographs that have GPS.
        params: of the stage.
    """
    problems = [f"not on GPS: {gps}"] if isinstance(gps, str) and origin is not None else []
    if not params["georeference"]:
        return None, []
    by_points = None
    if points:
        where = control.usual_place(points) if origin is None else origin
        _, rotations, centers = poses(model)
        up = upright(rotations, centers, np.median(point_positions(model), axis=0))
        by_points = control.fit_points(model, points, where, up, params["seed"])
        if isinstance(by_points.fit, GpsFit):
            control.fill_residuals(by_points)
            similarity = by_points.fit.similarity
            known = _seen_from(similarity, gps, model, has_gps) if isinstance(gps, GpsFit) else None
            return Placement(where, similarity, known, by_points, True), problems
        problems.append(f"not on the ground control points: {by_points.fit}")
    if isinstance(gps, GpsFit):
        return Placement(origin, gps.similarity, gps, by_points, False), problems
    return None, problems


def _seen_from(
    similarity: Similarity, gps: GpsFit, model: pycolmap.Reconstruction, has_gps: Set[str]
) -> GpsFit:
    """The same photographs' GPS under another similarity."""
    names, _, centers = poses(model)
    centers = centers[[name in has_gps for name in names]]
    residuals = gps.residuals + similarity(centers) - gps.similarity(centers)
    return replace(gps, similarity=similarity, residuals=residuals)


def georeference(
    out: Path, model: pycolmap.Reconstruction, place: Placement, card: dict[str, Any]
) -> dict[str, Any]:
    """Move the model into local metres, write georeference.json, fill the GPS columns of the photographs.

    Returns:
        What was written.
    """
    transform(model, place.similarity)
    # Up is counted from the ground, in whole metres: then the origin means something on site.
    ground = float(np.round(np.median(point_positions(model)[:, 2])))
    lift = Similarity(1.0, np.eye(3), np.array([0.0, 0.0, -ground]))
    transform(model, lift)
    origin = place.origin + np.array([0.0, 0.0, ground])
    rows = {row["name"]: row for row in card["photographs"]}
    for row in rows.values():
        if row["gps_enu_m"] is not None:
            row["gps_enu_m"] = [*row["gps_enu_m"][:2], row["gps_enu_m"][2] - ground]
    names, _, centers = poses(model)
    record = {
        "world": "local east, north, up in metres; the plane touches WGS84 at the origin",
        "source": "ground control points" if place.by_control else "GPS of the photographs",
        "origin": {"lat": origin[0], "lon": origin[1], "alt": origin[2]},
        "transform": lift.matrix @ place.similarity.matrix,
        "scale": place.similarity.scale,
        "ecef_from_enu": geodesy.ecef_from_enu(origin),
        "utm": geodesy.utm_frame(origin, centers),
        "tilt_from_gps": place.gps.tilt_from_gps if place.gps else None,
        **_gps_record(place.gps, names, rows),
        "control_points": _control_record(place.control),
    }
    files.write_json(out / "georeference.json", record)
    return record


def _gps_record(gps: GpsFit | None, names: Sequence[str], rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if gps is None:
        return {"n_positions": 0, "n_inliers": 0, "strays": [], "rmse_m": None, "rmse_horizontal_m": None,
                "rmse_vertical_m": None}  # fmt: skip
    placed = [name for name in names if rows[name]["gps_enu_m"] is not None]
    strays = []
    for name, residual, inlier in zip(placed, gps.residuals, gps.inliers, strict=True):
        rows[name] |= {"gps_residual_m": residual.tolist(), "gps_inlier": bool(inlier)}
        if not inlier:
            strays.append({"name": name, "distance_m": float(np.linalg.norm(residual))})
    return {
        "n_positions": len(placed),
        "n_inliers": int(gps.inliers.sum()),
        "strays": strays,
        "rmse_m": gps.rmse,
        **_parts(gps),
    }


def _control_record(points: Control | None) -> dict[str, Any] | None:
    if points is None:
        return None
    if isinstance(points.fit, str):
        return {"problem": points.fit, "n_used": 0, "points": points.rows}
    return {
        "n_used": int(points.fit.inliers.sum()),
        "rmse_m": points.fit.rmse,
        **_parts(points.fit),
        "points": points.rows,
    }


def _parts(fit: GpsFit) -> dict[str, float]:
    parts = fit.residuals[fit.inliers]
    return {
        "rmse_horizontal_m": float(np.sqrt((parts[:, :2] ** 2).sum(axis=1).mean())),
        "rmse_vertical_m": float(np.sqrt((parts[:, 2] ** 2).mean())),
    }


def normalise(out: Path, model: pycolmap.Reconstruction) -> None:
    """Move a model without GPS into an upright world of unit depth, and write normalisation.json."""
    _, rotations, centers = poses(model)
    similarity = normalisation(rotations, centers, point_positions(model))
    transform(model, similarity)
    files.write_json(
        out / "normalisation.json",
        {
            "world": "no GPS, so not metric: +Z up judging by the cameras, origin at the median point, "
            "1 unit is the median distance of a camera from it",
            "transform": similarity.matrix,
            "scale": similarity.scale,
        },
    )


def transform(model: pycolmap.Reconstruction, similarity: Similarity) -> None:
    """Move a model into another world."""
    rotation = pycolmap.Rotation3d(similarity.rotation)
    model.transform(pycolmap.Sim3d(similarity.scale, rotation, similarity.translation))
