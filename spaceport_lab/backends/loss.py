"""L1 + SSIM, the loss of 3D Gaussian Splatting: fused on the CPU, plain torch elsewhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

from spaceport_lab.errors import BackendError
from spaceport_lab.kernels import loss as kernels

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def l1_ssim_loss(
    render: Float[Tensor, "*batch H W D"],
    target: Float[Tensor, "*batch H W D"] | UInt8[Tensor, "*batch H W D"],
    ssim_lambda: float = 0.2,
) -> Float[Tensor, ""]:
    """(1 - lambda) * mean |render - target| + lambda * (1 - SSIM), as in Kerbl et al. 2023.

    SSIM with an 11 x 11 Gaussian window, sigma 1.5, zeros beyond the border, values in 0 to 1.

    Args:
        render: images of any size and number of channels, on any device.
        target: photographs of the same shape, 0 to 1 or bytes; no gradient flows into them on the fused path.
        ssim_lambda: weight of SSIM, 0 to 1.

    Raises:
        BackendError: the shapes differ or the images are empty.
    """
    if render.shape != target.shape or render.dim() < 3 or render.numel() == 0:
        raise BackendError(
            "render and target must be images of one shape",
            got=f"{list(render.shape)} and {list(target.shape)}",
            expected="[..., H, W, D]",
        )
    on_cpu = render.device.type == target.device.type == "cpu" and render.dtype == torch.float32
    if on_cpu and target.dtype in (torch.float32, torch.uint8) and not target.requires_grad:
        return _FusedLoss.apply(render, target, float(ssim_lambda))
    if target.dtype == torch.uint8:
        target = target.to(render.dtype) / 255
    return torch_l1_ssim_loss(render, target, ssim_lambda)


def torch_l1_ssim_loss(render: Tensor, target: Tensor, ssim_lambda: float = 0.2) -> Tensor:
    """The same in plain torch: the reference, and what runs on CUDA."""
    channels = render.shape[-1]
    l1 = (render - target).abs().mean()
    x, y = (t.reshape(-1, *t.shape[-3:]).movedim(-1, 1) for t in (render, target))
    offsets = torch.arange(WINDOW, dtype=render.dtype, device=render.device) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    window = (weights[:, None] * weights[None, :]).expand(channels, 1, WINDOW, WINDOW)

    def blur(values: Tensor) -> Tensor:
        return F.conv2d(values, window, padding=WINDOW // 2, groups=channels)

    mx, my = blur(x), blur(y)
    xx, yy, xy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    similarity = ((2 * mx * my + C1) * (2 * xy + C2)) / ((mx * mx + my * my + C1) * (xx + yy + C2))
    return (1 - ssim_lambda) * l1 + ssim_lambda * (1 - similarity.mean())


class _FusedLoss(torch.autograd.Function):
    """The gradient comes with the value: backward only scales it."""

    @staticmethod
    def forward(ctx, render: Tensor, target: Tensor, ssim_lambda: float) -> Tensor:
        shape = tuple(render.shape[-3:])
        images, targets = (
            t.detach().contiguous().reshape(-1, shape[0] * shape[1] * shape[2]).numpy()
            for t in (render, target)
        )
        total, gradients = 0.0, []
        for image, wanted in zip(images, targets, strict=True):
            value, gradient = kernels.loss_and_gradient(
                image, wanted, shape, ssim_lambda, render.numel(), ctx.needs_input_grad[0]
            )
            total += value
            gradients.append(torch.from_numpy(gradient))
        if ctx.needs_input_grad[0]:
            joined = gradients[0] if len(gradients) == 1 else torch.stack(gradients)
            ctx.save_for_backward(joined.reshape(render.shape))
        return torch.tensor(total, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple:
        (gradient,) = ctx.saved_tensors
        return (gradient if upstream.item() == 1.0 else gradient * upstream), None, None
