"""3DGS as in the paper, in one plain loop: what the train stage is measured against.

Same rasterizer, same photographs, same held-out views. Everything else as in gsplat's example trainer: its
`DefaultStrategy` with its defaults, full resolution from the first step, dense Adam over all Gaussians.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from gsplat.strategy import DefaultStrategy

from spaceport_lab import backends, evaluation
from spaceport_lab.cameras import Scene
from spaceport_lab.gaussians import Gaussians, from_points
from spaceport_lab.train.views import drawn, scene_scale

RATES = {"means": 1.6e-4, "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "sh0": 2.5e-3, "shN": 2.5e-3 / 20}
FINAL_MEANS_RATE = 0.01
SH_DEGREE, SH_INTERVAL = 3, 1000
SSIM_LAMBDA = 0.2

YIELD_EVERY = 10
"""Steps between two states, as in the train stage."""


@dataclass
class PlainRun:
    """How it went.

    Attributes:
        setup_seconds: before the first step.
        seconds: training alone, without evaluations.
        cpu_seconds: the same of all cores together.
        curve: (seconds, step, held-out PSNR in dB) of every evaluation.
        gaussians: at the latest evaluation, in the end of all.
    """

    setup_seconds: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    curve: list[tuple[float, int, float]] = field(default_factory=list)
    gaussians: Gaussians | None = None


def train_plainly(
    scene: Scene, photos: list[np.ndarray], train: list[int], heldout: list[int], steps: int, *,
    backend: str = "cpu", seed: int = 42, evaluate_every: int = 250, sh_interval: int = SH_INTERVAL,
) -> Iterator[PlainRun]:  # fmt: skip
    """Train on the views `train` of `scene`; photos are [H, W, 3] uint8, one a camera.

    Yields:
        The same PlainRun every few steps, as far as it is; whole when the iterator ends.
    """
    run, began = PlainRun(), time.perf_counter()
    torch.manual_seed(seed)
    device = torch.device(backend)
    scale = scene_scale(scene.cameras, scene.points)
    rates = {**RATES, "means": RATES["means"] * scale}
    splats, optimizers = _start(scene, rates, device)
    strategy = DefaultStrategy()
    state = strategy.initialize_state(scene_scale=scale)
    views = [_view(scene, photos, index, device) for index in train]
    run.setup_seconds = time.perf_counter() - began
    for step in range(steps):
        began, cpu = time.perf_counter(), time.process_time()
        photo, viewmat, K = views[drawn(step, len(views), seed)]
        optimizers["means"].param_groups[0]["lr"] = rates["means"] * FINAL_MEANS_RATE ** (step / steps)
        render, _, info = backends.rasterize(
            splats["means"], splats["quats"], torch.exp(splats["scales"]), torch.sigmoid(splats["opacities"]),
            (splats["sh0"], splats["shN"]), viewmat, K, photo.shape[1], photo.shape[0],
            sh_degree=min(step // sh_interval, SH_DEGREE), backend=backend,
        )  # fmt: skip
        strategy.step_pre_backward(splats, optimizers, state, step, info)
        backends.l1_ssim_loss(render, photo[None], SSIM_LAMBDA).backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        strategy.step_post_backward(splats, optimizers, state, step, info)
        if device.type == "cuda":
            torch.cuda.synchronize()
        run.seconds += time.perf_counter() - began
        run.cpu_seconds += time.process_time() - cpu
        last = step + 1 == steps
        if (step + 1) % evaluate_every == 0 or last:
            run.gaussians = Gaussians(**{k: v.detach().cpu().numpy() for k, v in splats.items()})
            run.curve.append((run.seconds, step + 1, _psnr(run.gaussians, scene, photos, heldout, backend)))
        if (step + 1) % YIELD_EVERY == 0 or last:
            yield run


def _start(
    scene: Scene, rates: dict[str, float], device: torch.device
) -> tuple[dict[str, torch.nn.Parameter], dict[str, torch.optim.Adam]]:
    """The first Gaussians, and one Adam a field."""
    first = from_points(scene.points, scene.colors, sh_degree=SH_DEGREE, opacity=0.1, scale_factor=1.0)
    splats = {
        name: torch.nn.Parameter(torch.tensor(getattr(first, name), device=device))
        for name in ("means", "scales", "quats", "opacities", "sh0", "shN")
    }
    optimizers = {
        name: torch.optim.Adam([{"params": [splats[name]], "lr": rate, "name": name}], eps=1e-15, fused=True)
        for name, rate in rates.items()
    }
    return splats, optimizers


def _view(scene: Scene, photos: list[np.ndarray], index: int, device: torch.device) -> tuple:
    cameras = scene.cameras
    return (
        torch.from_numpy(photos[index]).to(device).float() / 255,
        torch.from_numpy(cameras.viewmats[index : index + 1].astype(np.float32)).to(device),
        torch.from_numpy(cameras.Ks[index : index + 1].astype(np.float32)).to(device),
    )


def _psnr(
    gaussians: Gaussians, scene: Scene, photos: list[np.ndarray], heldout: list[int], backend: str
) -> float:
    renders = evaluation.render_views(gaussians, scene.cameras, heldout, backend)
    return evaluation.mean_psnr(
        [
            evaluation.compare("", render, photos[i], with_ssim=False)
            for i, render in zip(heldout, renders, strict=True)
        ]
    )
