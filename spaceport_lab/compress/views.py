"""The cameras of the run: what they see of each Gaussian, and what compressing costs in held-out views."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from spaceport_lab import evaluation
from spaceport_lab.cameras import Cameras, read_scene
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.workspace import StageRun

_VIEWS = 32  # training views that decide what is seen, evenly spaced
_SIDE = 480  # pixels: their longer side, at the most


@dataclass(frozen=True)
class Views:
    """Cameras of one run and where their photographs are.

    Attributes:
        heldout: views that training did not see; None where there are none.
        train: those it saw; None where there are none.
        images: folder of the photographs.
        reason: why there are no held-out views; empty where there are.
    """

    heldout: Cameras | None
    train: Cameras | None
    images: Path | None
    reason: str


def read_views(run: StageRun) -> Views:
    """The run's cameras, or why there are none."""
    missing = [stage for stage in ("sfm", "train") if not run.has(stage)]
    if missing:
        return Views(None, None, None, f"no cameras: stage {' and '.join(missing)} did not run in this job")
    cameras = read_scene(run.input("sfm")).cameras
    split = json.loads(run.input("train", "heldout.json").read_text())
    heldout, train = _named(cameras, split["test"]), _named(cameras, split["train"])
    reason = "" if heldout else "training held out no view"
    return Views(heldout, train, run.input("sfm", "images"), reason)


def _named(cameras: Cameras, names: Sequence[str]) -> Cameras | None:
    wanted = set(names)
    index = [i for i, name in enumerate(cameras.names) if name in wanted]
    return cameras.subset(index) if index else None


def measure(g: Gaussians, views: Views, backend: str) -> list[evaluation.ViewMetrics]:
    """PSNR of every held-out view."""
    return evaluation.evaluate(g, views.heldout, views.images, backend, with_ssim=False)


def verdict(
    before: Sequence[evaluation.ViewMetrics], after: Sequence[evaluation.ViewMetrics]
) -> dict[str, Any]:
    """PSNR before and after, by view and in the mean, in dB."""
    views = [
        {"name": b.name, "psnr_before": b.psnr, "psnr_after": a.psnr}
        for b, a in zip(before, after, strict=True)
    ]
    mean_before, mean_after = evaluation.mean_psnr(before), evaluation.mean_psnr(after)
    # Renders that equal their photographs have infinite PSNR, and inf - inf is no loss.
    loss = mean_before - mean_after if mean_before != mean_after else 0.0
    return {"views": views, "psnr_before": mean_before, "psnr_after": mean_after, "loss": loss}


def no_verdict(reason: str) -> dict[str, Any]:
    """What stands for a verdict where there are no held-out views."""
    return {"views": [], "psnr_before": None, "psnr_after": None, "loss": None, "reason": reason}


def seen(g: Gaussians, cameras: Cameras) -> Float[np.ndarray, "N"]:
    """How much of the pictures each Gaussian fills, summed over evenly spaced views; see `fill_views`.

    On the CPU even where there is a GPU, for the same splat is to give the same file.
    """
    some = cameras.subset(range(0, len(cameras), max(1, len(cameras) // _VIEWS)))
    return np.sum([weights.astype(np.float64) for weights in evaluation.fill_views(g, some, _SIDE)], axis=0)
