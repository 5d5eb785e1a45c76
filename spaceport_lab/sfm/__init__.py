"""Stage 02, sfm: photographs to cameras and points, through COLMAP in a process of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spaceport_lab.cameras import pose_rmse, read_ground_truth, read_scene
from spaceport_lab.errors import QualityGateError
from spaceport_lab.params import SfmParams
from spaceport_lab.runcard import usable_cores
from spaceport_lab.sfm.gcp import MIN_POINTS, read_points
from spaceport_lab.sfm.process import LOG_NAME, run_worker
from spaceport_lab.sfm.registration import list_reasons, unsettled, what_to_try
from spaceport_lab.sfm.tables import candidate_rows, effort_rows, place_rows, unregistered_rows
from spaceport_lab.workspace import Progress, StageRun

__all__ = [
    "candidate_rows",
    "effort_rows",
    "place_rows",
    "read_photos",
    "read_registration",
    "run",
    "unregistered_rows",
]

_MADE = ("images", "masks", "sparse", "model", "registration.json", "georeference.json", "normalisation.json")


def run(run: StageRun, p: SfmParams) -> Iterator[Progress]:
    """Reconstruct cameras and points from the ingested photographs, or take over `p.import_path`.

    Writes images/ and sparse/ (undistorted, pinhole), model/ (with distortion, in the same world),
    registration.json, and georeference.json with GPS or normalisation.json without; and masks/, where there
    are masks: no features are sought in what they hide, and they are undistorted like their photographs.

    Raises:
        ReconstructionError: COLMAP made nothing of the photographs, or the model to import is not usable.
        StageError: COLMAP crashed or took longer than `p.time_limit_min`.
        QualityGateError: through `run.gate`: too few points, or too few photographs registered.
    """
    work = run.dir / "work"
    for name in (*_MADE, "work"):
        _remove(run.dir / name)
    (run.dir / LOG_NAME).unlink(missing_ok=True)
    work.mkdir(parents=True)
    photos = [] if p.import_path else read_photos(run)
    job = {
        "out": run.dir,
        "work": work,
        "import_path": str(Path(p.import_path).expanduser().resolve()) if p.import_path else "",
        "images": "" if p.import_path else run.input("ingest", "images"),
        "masks": "" if p.import_path else _masks(run),
        "gcps": [] if p.import_path else _control_points(run),
        "photos": photos,
        "cache": "" if p.import_path else run.scene_dir / "cache" / "sfm",
        "params": p.model_dump(),
        "threads": usable_cores(),
    }
    try:
        result = yield from run_worker(job, work, run.dir / LOG_NAME, 60 * p.time_limit_min)
    finally:
        _remove(work)
    for name in _MADE:
        if (run.dir / name).exists():
            run.output(name)
    run.metrics.update(
        n_images=result.get("n_images", len(photos)),
        n_registered=result["n_registered"],
        n_points=result["n_points"],
        reprojection_error_px=result["reprojection_error_px"],
        gps_rmse_m=result["gps_rmse_m"],
        control_rmse_m=result["control_rmse_m"],
        pose_rmse_m=_against_truth(run, photos),
    )
    known = ("profile", "profile_reason", "camera_reason", "n_points_of_two")
    run.metrics |= {name: result[name] for name in known if name in result}
    if "n_masks" in result:
        run.metrics["n_masks"] = result["n_masks"]
    rows = read_registration(run)["photographs"]
    _warn(run, result, rows)
    _judge(run, p, rows)


def _control_points(run: StageRun) -> list[dict[str, Any]]:
    """The ground control points ingest made out, if any."""
    path = run.input("ingest") / "gcp.json"
    return read_points(path) if path.is_file() else []


def _masks(run: StageRun) -> Path | str:
    """The folder of masks ingest made, or an empty name."""
    folder = run.input("ingest") / "masks"
    return folder if folder.is_dir() else ""


def read_photos(run: StageRun) -> list[dict[str, Any]]:
    """The usable photographs as photos.json has them, in the order they were taken where all say when.

    Each gets `group`: photographs of one size and one lens share a camera.
    """
    content = json.loads(run.input("ingest", "photos.json").read_text())
    photos = [photo for photo in content["photos"] if photo["status"] == "used"]
    timed = all(photo["taken"] for photo in photos)
    photos.sort(key=lambda photo: (photo["taken"] if timed else "", photo["name"]))
    for photo in photos:
        optics = " ".join(str(photo[key]) for key in ("make", "model", "focal_mm", "focal_35mm"))
        photo["group"] = f"{photo['width']}x{photo['height']} {optics}"
    return photos


def read_registration(run: StageRun) -> dict[str, Any]:
    """registration.json of this stage."""
    return json.loads((run.dir / "registration.json").read_text())


def _against_truth(run: StageRun, photos: list[dict[str, Any]]) -> float | None:
    """RMSE of camera centres against ground_truth.json of ingest, where there is one."""
    if not run.has("ingest") or not photos:
        return None
    path = run.dir.parent / "01_ingest" / "ground_truth.json"
    if not path.is_file():
        return None
    truth = read_ground_truth(path)
    by_name = {}
    for photo in photos:
        keys = (photo["source"], Path(photo["source"]).name, photo["name"])
        key = next((k for k in keys if k in truth), None)
        if key is not None:
            by_name[photo["name"]] = truth[key]
    compared = pose_rmse(read_scene(run.dir).cameras, by_name)
    return compared[0] if compared else None


def _warn(run: StageRun, result: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    lost = [row for row in rows if not row["registered"]]
    if lost:
        names = ", ".join(f"{row['name']} ({row['reason']})" for row in lost[:5])
        run.warn(f"{len(lost)} of {len(rows)} photographs not registered: {names}{' …' if lost[5:] else ''}")
    if result.get("badly_placed"):
        names = ", ".join(result["badly_placed"][:5])
        run.warn(f"{len(result['badly_placed'])} photographs fit badly and may be misplaced: {names}")
    for problem in result.get("place_problems", []):
        run.warn(problem if result["is_metric"] else f"{problem}; so nothing is metric")
    _warn_of_world(run, result)
    strays = [
        f"{row['name']} by {sum(x * x for x in row['gps_residual_m']) ** 0.5:.1f} m"
        for row in rows
        if row.get("gps_inlier") is False
    ]
    if strays:
        run.warn(f"GPS that strays was left out of the georeference: {', '.join(strays[:5])}")
    left = result.get("masks_left", [])
    if left and (result["n_masks"] == 0 or "missing" in result):  # ingest has matched its own already
        run.warn(f"{len(left)} masks are of no registered photograph: {', '.join(left[:5])}")
    if result.get("rescaled"):
        run.warn(f"{result['rescaled']} cameras were scaled to the size of their images")


def _warn_of_world(run: StageRun, result: dict[str, Any]) -> None:
    """What a person should know of the place on Earth and of the cameras."""
    path = run.dir / "georeference.json"
    points = json.loads(path.read_text()).get("control_points") if path.is_file() else None
    rows = points["points"] if points else []
    unused = [f"{row['name']} ({row['problem']})" for row in rows if row["problem"]]
    if unused:
        run.warn(f"{len(unused)} ground control points not used: {', '.join(unused[:5])}")
    if points and points["n_used"] == MIN_POINTS:
        run.warn("three ground control points only: nothing is left to notice a wrong one")
    for row in unsettled(read_registration(run).get("cameras", [])):
        run.warn(
            f"the focal length of camera {row['camera']} ({row['n_images']} photographs) is known only to "
            f"{row['focal_sd_px'][0]:.0f} of {row['focal_px'][0]:.0f} px: add photographs from other heights "
            "and angles"
        )


def _judge(run: StageRun, p: SfmParams, rows: list[dict[str, Any]]) -> None:
    points, registered, total = (run.metrics[k] for k in ("n_points", "n_registered", "n_images"))
    reasons = list_reasons(rows)
    enough = registered > p.min_registered * total
    run.gate(
        enough,
        QualityGateError(
            "too few photographs were registered",
            got=f"{registered} of {total}" + (f"\n            {reasons}" if reasons else ""),
            expected=f"more than {p.min_registered:.0%} (sfm.min_registered)",
            hint=what_to_try(rows),
        ),
    )
    run.gate(
        points >= p.min_points,
        QualityGateError(
            "the reconstruction has too few points",
            got=f"{points:,} points from {registered} of {total} photographs"
            + (f"\n            {reasons}" if reasons else ""),
            expected=f"at least {p.min_points:,} (sfm.min_points)",
            hint="set sfm.upsample_below to 5000 or raise sfm.max_num_features; sharper photographs help most"
            if enough
            else what_to_try(rows),
        ),
    )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
