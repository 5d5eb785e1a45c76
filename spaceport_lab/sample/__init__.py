"""A sample scene made here: a simulated drone flight over a procedural spaceport, with exact ground truth."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spaceport_lab import files
from spaceport_lab.errors import ParamsError, WorkspaceError
from spaceport_lab.sample import flight, layout

GENERATOR = "spaceport-lab sample 2"
"""Named in ground_truth.json; the number rises when the same settings give other photographs."""

GCP_LIST = "gcp_list.txt"
JPEG_QUALITY = 92


@dataclass(frozen=True)
class SampleInfo:
    """What `make_sample` has made or found.

    Attributes:
        folder: the scene folder, with images/ and ground_truth.json.
        n_images: how many photographs.
        created: False where a complete sample with the same settings was there already.
        bytes: size of all photographs together.
    """

    folder: Path
    n_images: int
    created: bool
    bytes: int


def make_sample(
    folder: Path,
    *,
    n_images: int = 30,
    width: int = 800,
    height: int = 600,
    seed: int = 7,
    survey: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> SampleInfo:
    """Photograph the spaceport into `folder/images`, write `folder/ground_truth.json` and `gcp_list.txt`.

    The same settings give the same bytes, whatever the number of threads. A complete sample with the same
    settings is left as it is; one with other settings is replaced; other photographs are never touched.

    Args:
        folder: the scene folder, made if it is missing.
        n_images: at least 3; under 20 the outer orbit is left out so that overlap stays high.
        width, height: pixels; the focal length is 0.9 widths.
        seed: of plants, traffic, the flight's jitter, and noise.
        survey: leave a gcp_list.txt beside the photographs; see `sample.survey`.
        progress: called with photographs done, photographs in all, and a few words.

    Raises:
        ParamsError: a setting is out of range.
        WorkspaceError: the folder holds other photographs, or cannot be written, or the disk is full.
    """
    settings = _checked(n_images=n_images, width=width, height=height, seed=seed) | {"survey": survey}
    folder = Path(folder)
    if _is_complete(folder, settings):
        return _info(folder, n_images, created=False)
    _refuse_foreign(folder)
    tell = progress or (lambda done, total, message: None)
    with files.clear_os_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _fill(scratch / "scene", settings, tell)
            _put_in_place(scratch / "scene", folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return _info(folder, n_images, created=True)


def _checked(**settings: int) -> dict[str, int]:
    ranges = {"n_images": (3, 500), "width": (64, 8000), "height": (64, 8000), "seed": (0, 2**31 - 1)}
    for name, (low, high) in ranges.items():
        if not low <= settings[name] <= high:
            raise ParamsError(
                f"sample setting {name} is out of range", got=settings[name], expected=f"{low} to {high}"
            )
    return settings


def _fill(folder: Path, settings: dict[str, int], tell: Callable[[int, int, str], None]) -> None:
    """Make the whole sample in `folder`."""
    # Open3D and the kernels take seconds to load: only when photographs are really made.
    from spaceport_lab.sample.render import photograph, set_stage
    from spaceport_lab.sample.survey import gcp_list

    n_images, width, height, seed = (settings[k] for k in ("n_images", "width", "height", "seed"))
    shots = flight.plan_flight(n_images, seed)
    focal = flight.FOCAL_OVER_WIDTH * width
    # Texels a little finer than what a pixel covers at the flight's height.
    stage = set_stage(seed, 75.0 / focal, lambda message: tell(0, n_images, message))
    images = folder / "images"
    images.mkdir(parents=True)
    for index, shot in enumerate(shots):
        rng = np.random.default_rng([seed, 3, index])
        pixels = photograph(stage, shot.center, shot.rotation, focal, width, height, rng)
        Image.fromarray(pixels).save(
            images / shot.name,
            quality=JPEG_QUALITY,
            exif=flight.exif_of(shot, index, width, height),
            xmp=flight.xmp_of(shot),
        )
        tell(index + 1, n_images, f"photograph {shot.name}")
    if settings["survey"]:
        files.write_text(folder / GCP_LIST, gcp_list(stage.site, shots, focal, width, height, seed))
    files.write_json(folder / "ground_truth.json", _ground_truth(shots, settings, focal))


def _ground_truth(shots: list[flight.Shot], settings: dict[str, int], focal: float) -> dict[str, Any]:
    points = layout.known_points()
    start, end = layout.KNOWN_DISTANCE
    return {
        "generator": GENERATOR,
        "settings": settings,
        "image_size": [settings["width"], settings["height"]],
        "focal_px": focal,
        "principal_point": [settings["width"] / 2, settings["height"] / 2],
        "origin": layout.ORIGIN,
        "gps_noise_m": flight.GPS_NOISE_M,
        "cameras": {
            shot.name: {"center": shot.center, "R": shot.rotation, "gps_enu": shot.gps} for shot in shots
        },
        "points": points,
        "known_distance": {
            "from": {"name": start, "enu": points[start]},
            "to": {"name": end, "enu": points[end]},
            "metres": math.dist(points[start], points[end]),
        },
    }


def _put_in_place(made: Path, folder: Path) -> None:
    """Move a finished sample to where it belongs. Whatever interrupts this, the folder is afterwards either a
    complete sample or known as an unfinished one that may be made again."""
    if not folder.exists():
        made.replace(folder)
        return
    if any(folder.iterdir()):
        files.write_json(folder / "ground_truth.json", {"generator": GENERATOR, "settings": None})
    if (folder / "images").exists():
        (folder / "images").replace(made / "replaced")
    (made / "images").replace(folder / "images")
    (folder / GCP_LIST).unlink(missing_ok=True)
    if (made / GCP_LIST).exists():
        (made / GCP_LIST).replace(folder / GCP_LIST)
    (made / "ground_truth.json").replace(folder / "ground_truth.json")


def _read_truth(folder: Path) -> dict[str, Any]:
    """The folder's ground_truth.json, or {} where there is none that can be read as one."""
    try:
        truth = json.loads((folder / "ground_truth.json").read_text())
    except (OSError, ValueError):
        return {}
    return truth if isinstance(truth, dict) else {}


def _is_complete(folder: Path, settings: dict[str, int]) -> bool:
    truth = _read_truth(folder)
    if truth.get("generator") != GENERATOR or truth.get("settings") != settings:
        return False
    if settings["survey"] and not (folder / GCP_LIST).is_file():
        return False
    return all((folder / "images" / name).is_file() for name in truth["cameras"])


def _refuse_foreign(folder: Path) -> None:
    """Never touch photographs that are not a sample of ours; name a file where a folder should be."""
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise WorkspaceError(
            f"cannot write {folder}",
            got=f"{nearest} is a file",
            expected="a folder",
            hint="choose another folder",
        )
    images = folder / "images"
    if not images.exists() or not any(images.iterdir()):
        return
    ours = str(_read_truth(folder).get("generator", "")).startswith(GENERATOR.rsplit(" ", 1)[0])
    others = [p.name for p in images.iterdir() if not re.fullmatch(r"SPL_\d{4}\.JPG", p.name)]
    if not ours or others:
        raise WorkspaceError(
            f"{folder} already holds photographs that are not a sample",
            got=others[0] if others else "no ground_truth.json of a sample beside them",
            expected="a new or empty folder, or an earlier sample",
            hint="choose another folder",
        )


def _info(folder: Path, n_images: int, created: bool) -> SampleInfo:
    size = sum(p.stat().st_size for p in (folder / "images").glob("SPL_*.JPG"))
    return SampleInfo(folder, n_images, created, size)
