"""Somebody else's COLMAP folder, taken over. Only the worker process imports this."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pycolmap
from PIL import Image

from spaceport_lab import colmap, files
from spaceport_lab.errors import ReconstructionError
from spaceport_lab.sfm import finishing, shapes
from spaceport_lab.sfm.reporter import Reporter

MIN_IMAGES = 3


def take_over(job: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Read a COLMAP model with its images and write what the stage hands on. Its world is kept as it is.

    Raises:
        ReconstructionError: no model, a broken one, or too few of its images there.
    """
    source = Path(job["import_path"])
    reporter.progress(0, "reading the COLMAP model")
    model_dir = _find_model(source)
    # Our reader first: it says in words what is broken, and it does not trust sizes in the file.
    known = colmap.read_model(model_dir)
    try:
        model = pycolmap.Reconstruction(model_dir)
    except (ValueError, RuntimeError, OSError) as error:
        raise ReconstructionError(
            "COLMAP cannot read this model", got=f"{model_dir}: {error}", hint="export the model again"
        ) from error
    names = [image.name for image in known.images]
    images, missing = _find_images(job, source, model_dir, names)
    for image_id in list(model.reg_image_ids()):
        if model.image(image_id).name in missing:
            model.deregister_frame(model.image(image_id).frame_id)
    rescaled = _fit_cameras(model, images)
    figures = shapes.image_figures(model)
    rows = [_row(name, figures.get(name), images, name in missing) for name in names]
    card = {"mapper": "imported", "matching": None, "candidates": [], "photographs": rows, "pairs": []}
    reporter.span(20, 100)
    for name in ("georeference.json", "normalisation.json"):
        place = next((p / name for p in (source, model_dir.parent) if (p / name).is_file()), None)
        if place is not None:
            files.write_bytes(Path(job["out"]) / name, place.read_bytes())
    result = finishing.finish(job | {"images": str(images)}, model, None, card, reporter, keep_world=True)
    return result | {"missing": sorted(missing), "rescaled": rescaled, "n_images": len(names)}


def _find_model(source: Path) -> Path:
    model_dir = colmap.find_model(source)
    if model_dir is None:
        raise ReconstructionError(
            "there is no COLMAP model here",
            got=source,
            expected="cameras, images and points3D (.bin or .txt) in this folder, in sparse/ or in sparse/0/",
            hint="set sfm.import_path to the folder that holds sparse/ and images/",
        )
    return model_dir


def _find_images(
    job: dict[str, Any], source: Path, model_dir: Path, names: list[str]
) -> tuple[Path, set[str]]:
    """The folder that holds most of the model's images, and which of them are missing."""
    given = job["params"]["import_images"]
    above = [source, *source.parents[:2], *model_dir.parents[:3]]
    places = [Path(given)] if given else [p for base in above for p in (base / "images", base)]
    counts = {place: sum((place / name).is_file() for name in names) for place in places}
    best = max(counts, key=counts.__getitem__)
    missing = {name for name in names if not (best / name).is_file()}
    if len(names) - len(missing) < MIN_IMAGES:
        raise ReconstructionError(
            "the images of this COLMAP model are not there",
            got=f"{len(names) - len(missing)} of {len(names)} (such as {names[0] if names else 'none'}) in "
            + " or ".join(str(p) for p in dict.fromkeys(places)),
            expected=f"at least {MIN_IMAGES} of them",
            hint="set sfm.import_images to the folder that holds them",
        )
    return best, missing


def _fit_cameras(model: pycolmap.Reconstruction, images: Path) -> int:
    """Scale cameras whose images were resized since; returns how many cameras that were."""
    rescaled = set()
    for image_id in model.reg_image_ids():
        image = model.image(image_id)
        camera = model.camera(image.camera_id)
        with Image.open(images / image.name) as picture:
            width, height = picture.size
        if (width, height) == (camera.width, camera.height):
            continue
        ratio_x, ratio_y = width / camera.width, height / camera.height
        if camera.camera_id in rescaled or abs(ratio_x / ratio_y - 1) > 0.01:
            raise ReconstructionError(
                f"{image.name} is not of the size its camera says",
                got=f"{width}×{height}",
                expected=f"{camera.width}×{camera.height}, or all images of a camera scaled alike",
                hint="give the images the model was made from (sfm.import_images)",
            )
        for other_id in model.reg_image_ids():
            other = model.image(other_id)
            if other.camera_id == camera.camera_id:
                for point in other.points2D:
                    point.xy = point.xy * (ratio_x, ratio_y)
        camera.rescale(width, height)
        rescaled.add(camera.camera_id)
    return len(rescaled)


def _row(name: str, figures: dict[str, Any] | None, images: Path, missing: bool) -> dict[str, Any]:
    return {
        "name": name,
        "registered": figures is not None,
        "reason": f"no such image in {images}" if missing else None,
        "kind": "missing" if missing else None,
        "n_features": None,
        "n_points": figures["n_points"] if figures else None,
        "reprojection_error_px": figures["reprojection_error_px"] if figures else None,
        "n_pairs": None,
        "best_partner": None,
        "best_inliers": None,
        "component": None,
        "gps_enu_m": None,
    }
