"""A splat against the photographs: renders of views, PSNR, SSIM and cc-PSNR."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from spaceport_lab import backends, metrics
from spaceport_lab.cameras import Cameras
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.images import load_rgb, mask_beside


@dataclass(frozen=True)
class ViewMetrics:
    """How well one view is reproduced.

    Attributes:
        name: of the photograph.
        psnr: in dB, at the camera's size; infinite where render and photograph are the same.
        ssim: 1 is the same; None where it was not asked for.
        cc_psnr: PSNR in dB once the render's colours are matched to the photograph's by an affine map; None
            where it was not asked for.
    """

    name: str
    psnr: float
    ssim: float | None
    cc_psnr: float | None = None


def render_view(
    gaussians: Gaussians, cameras: Cameras, index: int, backend: str = "cpu"
) -> Float[np.ndarray, "H W 3"]:
    """Render one view over black, clipped to 0..1, at the camera's size.

    Raises:
        BackendError: the rasterizer cannot run here.
    """
    return next(render_views(gaussians, cameras, [index], backend))


def render_views(
    gaussians: Gaussians, cameras: Cameras, indices: Sequence[int] | None = None, backend: str = "cpu"
) -> Iterator[Float[np.ndarray, "H W 3"]]:
    """Render views one after the other, all of them unless `indices` says which; see `render_view`."""
    device = torch.device(backend)
    splat = _activated(gaussians, device)
    for count, index in enumerate(range(len(cameras)) if indices is None else indices):
        width, height = (int(side) for side in cameras.sizes[index])
        viewmat, K = (_tensor(a[index : index + 1], device) for a in (cameras.viewmats, cameras.Ks))
        with torch.no_grad():
            renders, _, _ = backends.rasterize(
                **splat,
                viewmats=viewmat,
                Ks=K,
                width=width,
                height=height,
                sh_degree=gaussians.sh_degree,
                backend=backend,
                check_finite=count == 0,
            )
        yield renders[0].clamp_(0, 1).cpu().numpy()


def fill_views(
    gaussians: Gaussians, cameras: Cameras, longest_side: int, backend: str = "cpu"
) -> Iterator[Float[np.ndarray, " N"]]:
    """How much of each picture every Gaussian fills: its blending weights, summed over the pixels of a view.

    A picture is a sum of colours times these weights, so they are its gradient with respect to the colours.

    Args:
        gaussians: the splat.
        cameras: the views.
        longest_side: pixels; larger views are made this small first.
        backend: on CUDA gradients are added up in any order, so that sums differ in their last digits.

    Yields:
        Pixels, of each view in turn; 0 for what it does not show.

    Raises:
        BackendError: the rasterizer cannot run here.
    """
    device = torch.device(backend)
    splat = _activated(gaussians, device)
    splat["colors"] = torch.zeros(gaussians.n, 1, device=device)
    for index, (width, height) in enumerate(cameras.sizes.tolist()):
        smaller = min(1.0, longest_side / max(width, height))
        size = [max(1, round(side * smaller)) for side in (width, height)]
        Ks = cameras.Ks[index : index + 1].copy()
        Ks[:, :2] *= (np.array(size) / (width, height))[:, None]
        colors = splat["colors"].clone().requires_grad_()
        with torch.enable_grad():
            renders, _, _ = backends.rasterize(
                **splat | {"colors": colors},
                viewmats=_tensor(cameras.viewmats[index : index + 1], device),
                Ks=_tensor(Ks, device),
                width=size[0],
                height=size[1],
                backend=backend,
                check_finite=index == 0,
            )
            renders.sum().backward()
        yield colors.grad[:, 0].cpu().numpy()


def evaluate(
    gaussians: Gaussians,
    cameras: Cameras,
    image_dir: Path | str,
    backend: str = "cpu",
    *,
    with_ssim: bool = True,
    with_cc: bool = False,
) -> list[ViewMetrics]:
    """PSNR, SSIM and cc-PSNR of every view of `cameras` against its photograph in `image_dir`.

    Photographs of another size than their camera are brought to it, area-averaged. What masks in the folder
    `masks` beside it hide does not count; views that are hidden as a whole are left out.

    Raises:
        PhotosError: a photograph is missing or cannot be read.
        BackendError: the rasterizer cannot run here.
    """
    results = []
    for name, size, render in zip(
        cameras.names, cameras.sizes, render_views(gaussians, cameras, backend=backend), strict=True
    ):
        size = (int(size[0]), int(size[1]))
        photo, mask = load_rgb(Path(image_dir) / name, size), mask_beside(Path(image_dir), name, size)
        if mask is None or mask.any():
            results.append(compare(name, render, photo, with_ssim=with_ssim, with_cc=with_cc, mask=mask))
    return results


def compare(
    name: str,
    render: Float[np.ndarray, "H W 3"],
    photo: UInt8[np.ndarray, "H W 3"],
    *,
    with_ssim: bool = True,
    with_cc: bool = False,
    mask: Bool[np.ndarray, "H W"] | None = None,
) -> ViewMetrics:
    """Metrics of one render in 0..1 against its photograph.

    Args:
        name: of the photograph.
        render, photo: the images.
        with_ssim: measure SSIM as well.
        with_cc: measure cc-PSNR as well.
        mask: True where pixels count; None: everywhere. Figures are NaN where it leaves no pixel.
    """
    truth = photo.astype(np.float32) / 255
    return ViewMetrics(
        name,
        metrics.psnr(render, truth, mask),
        metrics.ssim(render, truth, mask) if with_ssim else None,
        metrics.cc_psnr(render, truth, mask) if with_cc else None,
    )


def mean_psnr(views: Sequence[ViewMetrics]) -> float | None:
    """Mean of the views' PSNR in dB, the figure papers report; None without views."""
    return float(np.mean([view.psnr for view in views])) if views else None


def mean_cc_psnr(views: Sequence[ViewMetrics]) -> float | None:
    """Mean of the views' cc-PSNR in dB; None without views or where it was not measured."""
    values = [view.cc_psnr for view in views if view.cc_psnr is not None]
    return float(np.mean(values)) if values else None


def mean_ssim(views: Sequence[ViewMetrics]) -> float | None:
    """Mean of the views' SSIM; None without views or where it was not measured."""
    values = [view.ssim for view in views if view.ssim is not None]
    return float(np.mean(values)) if values else None


def _activated(gaussians: Gaussians, device: torch.device) -> dict[str, Any]:
    """What `backends.rasterize` takes: scales and opacities activated."""
    g = gaussians
    return {
        "means": _tensor(g.means, device),
        "quats": _tensor(g.quats, device),
        "scales": _tensor(g.scales, device).exp(),
        "opacities": _tensor(g.opacities, device).sigmoid(),
        "colors": (_tensor(g.sh0, device), _tensor(g.shN, device)),
    }


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(array, dtype=np.float32), device=device)
