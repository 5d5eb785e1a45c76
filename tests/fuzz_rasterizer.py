"""Throw wild scenes at the rasterizer until the time is up; run by test_kernels_fuzz.py, with numba's bounds
checks on.

    NUMBA_BOUNDSCHECK=1 python tests/fuzz_rasterizer.py --seconds 45 --seed 1

Prints one line of JSON: how many scenes, how many refused, what went wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time

import numpy as np
import torch

from spaceport_lab.backends import l1_ssim_loss, rasterize
from spaceport_lab.errors import BackendError
from spaceport_lab.kernels import threads
from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.vector import sum_lanes
from spaceport_lab.kernels.vector_memory import gather, load, store

MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")


@kernel()
def touch(array, indices, at, what):
    """Each kind of vector access at a chosen place."""
    if what == 0:
        return sum_lanes(load(array, at))
    if what == 1:
        store(array, at, load(array, 0))
        return np.float32(0)
    return sum_lanes(gather(array, indices, 0, 1, at))


def checks_are_on() -> bool:
    """Whether vector accesses outside an array are caught: without that, this program proves nothing."""
    array, indices = np.zeros(32, np.float32), np.full(16, 3, np.int32)
    for what in range(3):
        touch(array, indices, 16, what)
        for at in (-17, 30, 10**6):
            try:
                touch(array, indices, at, what)
            except IndexError:
                continue
            return False
    return True


def image_size(rng: np.random.Generator) -> tuple[int, int]:
    kind = rng.integers(8)
    if kind == 0:
        return 1, 1
    if kind == 1:
        return int(rng.integers(1, 8000)), int(rng.integers(1, 3))
    if kind == 2:
        return int(rng.integers(1, 3)), int(rng.integers(1, 5000))
    if kind == 3:
        return int(rng.choice([16, 32, 128, 256])), int(rng.choice([16, 48]))
    return int(rng.integers(1, 150)), int(rng.integers(1, 150))


def wild(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Numbers of every size, zero among them."""
    sizes = np.exp(rng.uniform(-80, 80, shape)) if rng.random() < 0.3 else np.exp(rng.normal(0, 6, shape))
    values = np.where(rng.random(shape) < 0.5, -sizes, sizes)
    return np.where(rng.random(shape) < 0.05, 0.0, values)


def partly(rng: np.random.Generator, strange: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """The strange rows alone, or here and there among usual ones."""
    share = rng.choice([0.05, 0.5, 1.0])
    return np.where(rng.random(len(usual)).reshape(-1, *[1] * (usual.ndim - 1)) < share, strange, usual)


def some_scales(rng: np.random.Generator, n: int) -> np.ndarray:
    kind = rng.integers(5)
    if kind == 0:
        return np.abs(wild(rng, n, 3))
    if kind == 1:  # needles
        return np.exp(rng.normal(0, 1, (n, 3))) * np.array([10.0 ** rng.uniform(-1, 3), 1e-6, 1e-6])
    if kind == 2:  # walls before the camera
        return np.full((n, 3), 10.0 ** rng.uniform(0, 6))
    if kind == 3:
        return np.zeros((n, 3))
    return np.exp(rng.normal(-3, 1.5, (n, 3)))


def some_means(rng: np.random.Generator, n: int) -> np.ndarray:
    kind = rng.integers(6)
    if kind == 0:
        return wild(rng, n, 3)
    if kind == 1:  # behind, on and at the camera, which stands at (0, 0, -4) and looks along z
        return rng.normal(0, 0.01, (n, 3)) * rng.integers(0, 2, (n, 1)) + [0, 0, -4.0]
    if kind == 2:  # one ray
        return np.array([[0.1, 0.1, 0.0]]) + rng.uniform(0, 5, (n, 1)) * [[0.0, 0.0, 1.0]]
    if kind == 3:  # just beyond the near plane, far to the side
        return np.stack([rng.normal(0, 50, n), rng.normal(0, 50, n), rng.uniform(-4.0, -3.9, n)], 1)
    return rng.normal(0, 1.2, (n, 3))


def some_opacities(rng: np.random.Generator, n: int) -> np.ndarray:
    kind = rng.integers(5)
    if kind < 3:
        return np.full(n, (0.0, 1.0, 1 / 255)[kind])
    return rng.uniform(0, 1, n)


def make_inputs(rng: np.random.Generator) -> tuple[dict, bool]:
    """Arguments of `rasterize`, and whether some number was made NaN or Inf on purpose."""
    n, cameras = int(rng.choice([0, 1, 2, 15, 16, 17, 100, 300])), int(rng.integers(1, 3))
    width, height = image_size(rng)
    focal = max(width, height) * 10.0 ** rng.uniform(-0.5, 1)
    K = np.array(
        [[focal, 0, width * rng.uniform(-0.5, 1.5)], [0, focal, height * rng.uniform(-0.5, 1.5)], [0, 0, 1]]
    )
    viewmats = np.repeat(np.eye(4)[None], cameras, 0)
    viewmats[:, 2, 3] = 4.0
    viewmats[:, :3, 3] += rng.normal(0, 0.2, (cameras, 3))
    mode, degree = str(rng.choice(MODES)), int(rng.integers(-1, 4))
    colors = (
        rng.normal(0, 1, (n, 16, 3)) if degree >= 0 else rng.normal(0, 1, (n, int(rng.choice([1, 3, 11]))))
    )
    quats = rng.normal(0, 1, (n, 4)) if rng.random() < 0.8 else wild(rng, n, 4)
    inputs = {
        "means": partly(rng, some_means(rng, n), rng.normal(0, 1, (n, 3))), "quats": quats,
        "scales": partly(rng, some_scales(rng, n), np.exp(rng.normal(-2, 1, (n, 3)))),
        "opacities": partly(rng, some_opacities(rng, n), rng.uniform(0, 1, n)),
        "colors": colors, "viewmats": viewmats, "Ks": np.repeat(K[None], cameras, 0),
    }  # fmt: skip
    spoilt = n > 0 and rng.random() < 0.05
    inputs = {name: np.clip(values, -3e38, 3e38).astype(np.float32) for name, values in inputs.items()}
    if spoilt:
        victim = inputs[str(rng.choice(list(inputs)))].reshape(-1)
        victim[rng.integers(victim.size)] = rng.choice([math.nan, math.inf, -math.inf])
    options = {
        "width": width, "height": height, "render_mode": mode, "sh_degree": degree if degree >= 0 else None,
        "rasterize_mode": str(rng.choice(["classic", "antialiased"])),
        "eps2d": float(rng.choice([0.0, 0.3, 5.0])),
        "near_plane": float(rng.choice([0.0, 0.01, 1.0])), "radius_clip": float(rng.choice([0.0, 3.0])),
        "absgrad": bool(rng.integers(2)) and colors.shape[-1] < 8,
    }  # fmt: skip
    tensors = {name: torch.from_numpy(v).requires_grad_(name != "Ks") for name, v in inputs.items()}
    return {**tensors, **options}, spoilt


def one_scene(rng: np.random.Generator) -> str | None:
    """Render one scene forward and backward.

    Returns:
        "refused", "seen" if a Gaussian was, None, or else what went wrong.
    """
    arguments, spoilt = make_inputs(rng)
    try:
        renders, alphas, info = rasterize(**arguments)
    except BackendError as error:
        if spoilt and "NaN or Inf" in str(error):
            return "refused"
        return f"refused a sound scene: {error}"
    if spoilt:
        return "took NaN or Inf"
    if not ((alphas >= 0) & (alphas <= 1)).all():
        return "alpha outside 0 … 1"
    if arguments["render_mode"] == "RGB" and not renders.isfinite().all():
        return "an image that is not finite"
    seen = bool((info["radii"] > 0).any())
    target = torch.rand(renders.shape)
    (l1_ssim_loss(renders.clamp(-10, 10), target) + alphas.mean()).backward()
    for name in ("means", "quats", "scales", "opacities", "viewmats"):
        if arguments[name].grad is None or arguments[name].grad.shape != arguments[name].shape:
            return f"no gradient for {name}"
    if info["means2d"].grad is None:
        return "no gradient for means2d"
    return "seen" if seen else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=45)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=int, default=0, help="scenes, however long they take")
    parser.add_argument("--scenes", type=int, default=10**9)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    result = {"checked": checks_are_on(), "scenes": 0, "refused": 0, "seen": 0, "wrong": []}
    for scene in range(40):  # compiling does not count
        one_scene(np.random.default_rng(10**9 + scene))
    began = time.monotonic()
    while result["scenes"] < wanted.scenes and (
        result["scenes"] < wanted.least or time.monotonic() - began < wanted.seconds
    ):
        scene = wanted.seed * 10**6 + result["scenes"]
        threads.set_thread_count(1 + scene % 3)
        try:
            outcome = one_scene(np.random.default_rng(scene))
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        result["scenes"] += 1
        if outcome in ("refused", "seen"):
            result[outcome] += 1
        elif outcome:
            result["wrong"].append(f"scene {scene}: {outcome}")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
