"""What a training has left in its folder, for those who look: records, held-out renders, corrections."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from spaceport_lab import backends, evaluation
from spaceport_lab.gaussians import read_ply
from spaceport_lab.images import load_rgb, mask_beside
from spaceport_lab.params import TrainParams
from spaceport_lab.train import inputs, stream
from spaceport_lab.train.inputs import evenly
from spaceport_lab.train.timelapse import some_frames
from spaceport_lab.workspace import StageRun, read_manifest


def records(run: StageRun) -> list[dict[str, Any]]:
    """The metrics stream so far, one dict a record; readable while training writes it."""
    return stream.read(run.dir / "metrics.jsonl")


@dataclass(frozen=True)
class Comparison:
    """One held-out view: photograph, render [H, W, 3] in 0..1, and the render's PSNR in dB."""

    name: str
    photo: Float[np.ndarray, "H W 3"]
    render: Float[np.ndarray, "H W 3"]
    psnr: float


def heldout_comparisons(run: StageRun, p: TrainParams, most: int = 3) -> list[Comparison]:
    """Render the trained splat from up to `most` held-out views, evenly spaced, or from training views."""
    views = inputs.read_views(run, p)
    cameras = views.heldout if len(views.heldout) else views.train
    gaussians = read_ply(run.dir / "splat.ply")
    compared = []
    chosen = evenly(len(cameras), most)
    renders = evaluation.render_views(gaussians, cameras, chosen, backends.choose_backend(p.backend))
    for index, render in zip(chosen, renders, strict=True):
        size = (render.shape[1], render.shape[0])
        photo = load_rgb(run.input("sfm", "images") / cameras.names[index], size)
        mask = mask_beside(run.input("sfm", "images"), cameras.names[index], size) if p.masks else None
        psnr = evaluation.compare(cameras.names[index], render, photo, with_ssim=False, mask=mask).psnr
        compared.append(Comparison(cameras.names[index], photo.astype(np.float32) / 255, render, psnr))
    return compared


@dataclass(frozen=True)
class Journey:
    """One view on the way.

    Attributes:
        name: of its photograph.
        photo: the photograph, at the size of the frames.
        frames: finished steps and what the view looked like then, rising; may be empty.
    """

    name: str
    photo: UInt8[np.ndarray, "H W 3"]
    frames: list[tuple[int, UInt8[np.ndarray, "H W 3"]]]


def journey(run: StageRun, most: int = 5, longest: int = 480) -> Journey | None:
    """Up to `most` frames of the timelapse with their photograph; None where none were kept.

    Args:
        run: the train stage.
        most: frames.
        longest: pixels of the longer side at the most.

    Raises:
        PhotosError: the photograph is missing or broken.
    """
    split = _output(run, "heldout.json")
    frames = some_frames(run.dir / "timelapse", most, longest) if _made(run, "timelapse.gif") else []
    if not frames or split is None:
        return None
    # As progress.picture: the middle one of the views that are not trained on.
    names = split.get("validation") or split["test"] or split["train"]
    name = names[len(names) // 2]
    height, width = frames[-1][1].shape[:2]
    return Journey(name, load_rgb(run.input("sfm", "images") / name, (width, height)), frames)


def exposures(run: StageRun) -> list[dict[str, Any]]:
    """Gains and offset of each training view, as `Appearance.rows`; empty where none were learned."""
    return _output(run, "exposure.json") or []


def camera_moves(run: StageRun) -> list[dict[str, Any]]:
    """How far each training camera moved, as `CameraRefinement.rows`; empty where they stood still."""
    return _output(run, "cameras.json") or []


def _output(run: StageRun, name: str) -> Any:
    """What a JSON file of this very training holds; None where it made none."""
    return json.loads((run.dir / name).read_text(encoding="utf-8")) if _made(run, name) else None


def _made(run: StageRun, name: str) -> bool:
    """Whether this training made it: a file may be left from an earlier one with other parameters."""
    declared = run.outputs or (read_manifest(run.dir) or {}).get("outputs", {})
    return name in declared and (run.dir / name).is_file()
