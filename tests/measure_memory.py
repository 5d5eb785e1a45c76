"""Peak memory of training steps or renders, in a process of its own; run by test_backends_memory.py.

    python measure_memory.py N WIDTH HEIGHT SH_DEGREE train|render

Prints the bytes by which the process grew at its largest.
"""

from __future__ import annotations

import ctypes
import math
import sys
from pathlib import Path

import torch

from spaceport_lab.backends import l1_ssim_loss, rasterize
from spaceport_lab.kernels import threads


def scene(n: int, width: int, height: int, degree: int) -> list[torch.Tensor]:
    """Gaussians that share the image: the more pixels there are for each, the larger they are."""
    random = torch.Generator().manual_seed(0)
    focal = 0.8 * width
    z = torch.rand(n, generator=random) * 8 + 2
    xy = torch.rand(n, 2, generator=random) - 0.5
    size = math.log(0.25 * math.sqrt(width * height / n) * 6 / focal)
    return [
        torch.stack([xy[:, 0] * width / focal * z, xy[:, 1] * height / focal * z, z - 6], 1),
        torch.randn(n, 4, generator=random),
        torch.randn(n, 3, generator=random) * 0.4 + size,
        torch.randn(n, generator=random) * 1.5,
        torch.randn(n, 1, 3, generator=random),
        torch.randn(n, (degree + 1) ** 2 - 1, 3, generator=random) * 0.1,
    ]


def run(n: int, width: int, height: int, degree: int, trains: bool) -> None:
    viewmat = torch.eye(4)[None].clone()
    viewmat[0, 2, 3] = 6
    focal = 0.8 * width
    K = torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]]])
    fields = [field.requires_grad_(trains) for field in scene(n, width, height, degree)]
    adam = torch.optim.Adam(fields, lr=1e-4, fused=True)
    photo = torch.randint(256, (1, height, width, 3), dtype=torch.uint8) if trains else None
    for _ in range(3):
        means, quats, scales, opacities, sh0, shN = fields
        image = rasterize(
            means, quats, scales, opacities, (sh0, shN), viewmat, K, width, height, sh_degree=degree,
            raw=True,
        )[0]  # fmt: skip
        if trains:
            l1_ssim_loss(image, photo).backward()
            adam.step()
            adam.zero_grad(set_to_none=True)


def from_status(name: str) -> int:
    """Bytes of this program: getrusage would count the large process that this one was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name + ":")).split()[1])


def main() -> None:
    n, width, height, degree = map(int, sys.argv[1:5])
    threads.set_thread_count(1)
    run(100, 64, 48, degree, sys.argv[5] == "train")
    ctypes.CDLL(None).malloc_trim(0)
    before = from_status("VmRSS")
    run(n, width, height, degree, sys.argv[5] == "train")
    print(from_status("VmHWM") - before)


if __name__ == "__main__":
    main()
