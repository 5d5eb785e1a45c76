"""Splats for tests: random ones of any size, and a scene with the correlations of a trained one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spaceport_lab.gaussians import N_COEFFS, SH_C0, Gaussians


def random_splat(n: int, sh_degree: int = 3, seed: int = 0) -> Gaussians:
    """n unrelated Gaussians in a room of a few metres."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return Gaussians(
        means=3 * normal(n, 3),
        quats=normal(n, 4),
        scales=normal(n, 3) - 4,
        opacities=2 * normal(n),
        sh0=normal(n, 1, 3),
        shN=np.float32(0.1) * normal(n, N_COEFFS[sh_degree], 3),
    )


def scene_splat(n: int, sh_degree: int = 3, seed: int = 0) -> Gaussians:
    """n Gaussians on rolling ground: colours, sizes and view dependence vary smoothly, with noise on top."""
    rng = np.random.default_rng(seed)
    ground = rng.uniform(-20, 20, (n, 2))
    height = np.sin(ground[:, 0] / 4) + 0.7 * np.cos(ground[:, 1] / 3) + 0.05 * rng.normal(size=n)
    means = np.column_stack([ground, height])

    def field(channels: int, wave: float) -> np.ndarray:
        directions = rng.normal(size=(3, 8)) / wave
        return np.cos(means @ directions + rng.uniform(0, 6.3, 8)) @ rng.normal(size=(8, channels)) / 3

    size = np.log(20 / np.sqrt(n)) + 0.3 * field(1, 5) + 0.4 * rng.normal(size=(n, 3))
    size[:, 2] -= 1.5
    rgb = 0.45 + 0.15 * field(3, 3) + 0.03 * rng.laplace(size=(n, 3))
    rest = N_COEFFS[sh_degree]
    shN = 0.08 * field(max(1, 3 * rest), 8)[:, : 3 * rest].reshape(n, rest, 3)
    shN = shN + 0.02 * rng.laplace(size=(n, rest, 3))
    quats = np.column_stack([np.ones(n), 0.2 * rng.normal(size=(n, 3))]) * rng.uniform(0.5, 2, (n, 1))
    splat = random_splat(n, sh_degree, seed)
    return replace(
        splat,
        means=means.astype(np.float32),
        quats=quats.astype(np.float32),
        scales=size.astype(np.float32),
        opacities=(2 + 2 * rng.normal(size=n)).astype(np.float32),
        sh0=((rgb - 0.5) / SH_C0).astype(np.float32)[:, None],
        shN=shN.astype(np.float32),
    )
