"""The first Gaussians: from sparse points, from a PLY, or from a checkpoint of gsplat or nerfstudio."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from spaceport_lab.cameras import Cameras, Scene
from spaceport_lab.errors import InputError
from spaceport_lab.gaussians import N_COEFFS, Gaussians, concatenate, from_points, read_ply
from spaceport_lab.params import TrainParams
from spaceport_lab.train import schedules
from spaceport_lab.train.backdrop import backdrop
from spaceport_lab.train.between import add_between

FIELDS = ("means", "scales", "quats", "opacities", "sh0", "shN")

FAR = 10.0
"""Times the extent of the sparse points: a splat whose middle lies further away belongs to another world."""

NERFSTUDIO = {
    "means": "means", "scales": "scales", "quats": "quats", "opacities": "opacities", "sh0": "features_dc",
    "shN": "features_rest",
}  # fmt: skip


def first_gaussians(
    scene: Scene, cameras: Cameras, p: TrainParams, cap: int, warn: Callable[[str], None]
) -> Gaussians:
    """What training starts from, with `p.sh_degree` and never more than `cap` of them.

    One Gaussian for each sparse point or for a random `init_points` of them, `init_fill` times as many
    between neighbours, and the ground behind; or those of `init_from`.

    Args:
        scene: for its points.
        cameras: of the training views.
        cap: on the number.
        warn: takes what a person should know.

    Raises:
        InputError: `init_from` does not exist or holds no Gaussians.
    """
    if not p.init_from:
        points, colors = scene.points, scene.colors
        wanted = min(p.init_points or len(points), cap)
        if wanted < len(points):
            chosen = _draw(len(points), wanted, p.seed)
            points, colors = points[chosen], colors[chosen]
        most = min(cap, schedules.aim(p, len(points))) if schedules.is_automatic(p) else cap
        n_between = min(round(p.init_fill * len(points)), max(0, most - len(points)))
        points, colors = add_between(points, colors, n_between)
        first = from_points(
            points, colors, sh_degree=p.sh_degree, opacity=p.init_opacity, scale_factor=p.init_scale
        )
        behind = backdrop(scene, cameras, p.sh_degree) if p.backdrop else None
        return first if behind is None or first.n + behind.n > cap else concatenate([first, behind])
    gaussians = with_degree(read_start(Path(p.init_from)), p.sh_degree)
    middle, extent = (
        np.median(scene.points, axis=0),
        np.ptp(np.percentile(scene.points, [5, 95], axis=0), axis=0),
    )
    if np.linalg.norm(np.median(gaussians.means, axis=0) - middle) > FAR * np.linalg.norm(extent):
        warn(
            f"the Gaussians of {p.init_from} lie far from this scene's points: nerfstudio and others move "
            "and scale their world; start from a splat of this very reconstruction"
        )
    wanted = min(p.init_points or gaussians.n, cap)
    if wanted < gaussians.n:
        warn(f"{wanted:,} of the {gaussians.n:,} Gaussians of {p.init_from} were taken, drawn at random")
        gaussians = gaussians.subset(_draw(gaussians.n, wanted, p.seed))
    return gaussians


def read_start(path: Path) -> Gaussians:
    """A PLY (INRIA, nerfstudio, gsplat, ours) or a checkpoint (.pt of gsplat or ours, .ckpt of nerfstudio).

    Raises:
        InputError: it does not exist, or is a checkpoint without Gaussians.
        SpaceportError: as `read_ply`.
    """
    if not path.is_file():
        raise InputError("train.init_from does not exist", got=path, hint="check the path's spelling")
    if path.suffix.lower() == ".ply":
        return read_ply(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler meets damage with any of them
        raise InputError(
            "train.init_from is neither a PLY nor a checkpoint that can be read safely",
            got=f"{path}: {type(error).__name__}",
            expected="a .ply, gsplat's ckpt_*.pt or nerfstudio's step-*.ckpt",
            hint="export the splat as PLY with the program it came from",
        ) from error
    splats = _splats_of(content)
    missing = [name for name in FIELDS if name not in splats]
    if missing:
        raise InputError(
            "this checkpoint holds no Gaussians", got=f"{path} without {', '.join(missing)}",
            expected="the fields " + ", ".join(FIELDS), hint="give a PLY instead",
        )  # fmt: skip
    arrays = {name: splats[name].float().numpy() for name in FIELDS}
    n = len(arrays["means"])
    return Gaussians(
        **{
            **arrays,
            "opacities": arrays["opacities"].reshape(n),
            "sh0": arrays["sh0"].reshape(n, 1, 3),
            "shN": arrays["shN"].reshape(n, -1, 3),
        }
    )


def with_degree(gaussians: Gaussians, degree: int) -> Gaussians:
    """The same Gaussians with SH bands up to `degree`: missing ones are zero, higher ones are cut."""
    cut = gaussians.with_sh_degree(degree)
    missing = N_COEFFS[degree] - cut.shN.shape[1]
    return replace(cut, shN=np.pad(cut.shN, ((0, 0), (0, missing), (0, 0))))


def _draw(n: int, wanted: int, seed: int) -> Int[np.ndarray, " M"]:
    """`wanted` of `n` indices, rising."""
    return np.sort(np.random.default_rng(seed).choice(n, wanted, replace=False))


def _splats_of(content: Any) -> Mapping[str, torch.Tensor]:
    """The fields by our names, wherever the checkpoint keeps them."""
    if not isinstance(content, Mapping):
        return {}
    if isinstance(content.get("splats"), Mapping):
        return content["splats"]
    pipeline = content.get("pipeline")
    if not isinstance(pipeline, Mapping):
        return {}
    prefix = "_model.gauss_params."
    return {
        ours: pipeline[prefix + theirs] for ours, theirs in NERFSTUDIO.items() if prefix + theirs in pipeline
    }
