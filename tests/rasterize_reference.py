"""Gaussian splatting written for the eye: float64, one Gaussian after another, torch's own derivatives.

Nothing here is shared with the kernels. Where a hair's breadth decides (alpha against 1/255 and 0.999,
transmittance against 1e-4) float32 may decide otherwise: such pixels are reported as uncertain and left out
of comparisons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Reference:
    image: Tensor  # [H, W, channels]
    alpha: Tensor  # [H, W]
    uncertain: Tensor  # [H, W] bool
    per_pixel: (
        Tensor  # [N, 2, H, W] zeros added to the 2D means; its gradient is the 2D means' pixel by pixel
    )
    means2d: Tensor  # [N, 2]
    depths: Tensor  # [N]
    radii: Tensor  # [N, 2]


def rotation(quats: Tensor) -> Tensor:
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def harmonics(degree: int, directions: Tensor, coefficients: Tensor) -> Tensor:
    """Real spherical harmonics from associated Legendre polynomials, with 3DGS's order and signs."""
    x, y, z = (directions / directions.norm(dim=-1, keepdim=True)).unbind(-1)
    functions = []
    for band in range(degree + 1):
        for order in range(-band, band + 1):
            m = abs(order)
            # (cos m phi, sin m phi) sin^m theta, as polynomials of x and y
            power_c, power_s = torch.ones_like(x), torch.zeros_like(x)
            for _ in range(m):
                power_c, power_s = x * power_c - y * power_s, x * power_s + y * power_c
            legendre = _legendre(band, m, z)
            norm = math.sqrt(
                (2 * band + 1) / (4 * math.pi) * math.factorial(band - m) / math.factorial(band + m)
            )
            if m:
                norm *= math.sqrt(2)
            angular = power_c if order >= 0 else power_s
            # 3DGS keeps the Condon-Shortley sign: odd orders are negative.
            functions.append((-1) ** m * norm * legendre * angular)
    basis = torch.stack(functions, -1)
    return (basis[..., None] * coefficients[:, : basis.shape[-1]]).sum(-2)


def _legendre(band: int, m: int, z: Tensor) -> Tensor:
    """P_band^m / sin^m theta, without the Condon-Shortley sign."""
    previous = torch.full_like(z, float(math.prod(range(1, 2 * m, 2))))
    if band == m:
        return previous
    current = z * (2 * m + 1) * previous
    for n in range(m + 2, band + 1):
        previous, current = current, ((2 * n - 1) * z * current - (n + m - 1) * previous) / (n - m)
    return current


def render(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor | None, viewmat: Tensor,
    K: Tensor, width: int, height: int, *, sh_degree: int | None = None, background: Tensor | None = None,
    with_depth: bool = False, antialiased: bool = False, near: float = 0.01, far: float = 1e10,
    radius_clip: float = 0.0, eps2d: float = 0.3,
) -> Reference:  # fmt: skip
    """One camera, all tensors float64. `colors` None renders depth alone; depth is the last channel."""
    camera = means @ viewmat[:3, :3].T + viewmat[:3, 3]
    x, y, z = camera.unbind(-1)
    safe = torch.where(z.abs() < 1e-12, torch.ones_like(z), z)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    means2d = torch.stack([fx * x / safe + cx, fy * y / safe + cy], -1)
    per_pixel = torch.zeros(len(means), 2, height, width, dtype=means.dtype, requires_grad=True)
    covariance, plain = _covariance(safe, x, y, quats, scales, viewmat, K, width, height, eps2d)
    det = covariance[:, 0] * covariance[:, 2] - covariance[:, 1] ** 2
    plain_det = plain[:, 0] * plain[:, 2] - plain[:, 1] ** 2
    opacity = opacities * torch.sqrt((plain_det / det).clamp(min=0)) if antialiased else opacities
    conics = torch.stack([covariance[:, 2], -covariance[:, 1], covariance[:, 0]], -1) / det[:, None]
    radii = _radii(covariance, opacity, means2d, z, width, height, near, far, radius_clip)
    channels = _channels(means, colors, viewmat, z, sh_degree, with_depth)
    behind = torch.zeros(channels.shape[1], dtype=means.dtype)
    if background is not None:
        behind = torch.cat([background, behind[len(background) :]])

    columns = torch.arange(width, dtype=means.dtype) + 0.5
    rows = torch.arange(height, dtype=means.dtype)[:, None] + 0.5
    through = torch.ones(height, width, dtype=means.dtype)
    image = torch.zeros(height, width, channels.shape[1], dtype=means.dtype)
    finished = torch.zeros(height, width, dtype=torch.bool)
    uncertain = torch.zeros(height, width, dtype=torch.bool)
    for g in torch.argsort(z, stable=True).tolist():
        if radii[g, 0] == 0:
            continue
        dx, dy = means2d[g, 0] + per_pixel[g, 0] - columns, means2d[g, 1] + per_pixel[g, 1] - rows
        sigma = (conics[g, 0] * dx * dx + conics[g, 2] * dy * dy) / 2 + conics[g, 1] * dx * dy
        raw = opacity[g] * torch.exp(-sigma)
        uncertain |= ~finished & (((raw - 1 / 255).abs() < 2e-6) | ((raw - 0.999).abs() < 2e-6))
        alpha = torch.where(raw >= 1 / 255, raw.clamp(max=0.999), torch.zeros_like(raw))
        after = through * (1 - alpha)
        uncertain |= ~finished & ((after - 1e-4).abs() < 1e-7)
        finished = finished | (after <= 1e-4)
        weight = torch.where(finished, torch.zeros_like(alpha), alpha * through)
        image = image + weight[..., None] * channels[g]
        through = torch.where(finished, through, after)
    return Reference(
        image + through[..., None] * behind, 1 - through, uncertain, per_pixel, means2d, z, radii
    )


def _covariance(z, x, y, quats, scales, viewmat, K, width, height, eps2d) -> tuple[Tensor, Tensor]:
    """xx, xy, yy of the 2D covariance with and without eps2d."""
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    tan_x = torch.clamp(x / z, -cx / fx - margin_x, (width - cx) / fx + margin_x)
    tan_y = torch.clamp(y / z, -cy / fy - margin_y, (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [torch.stack([fx / z, zero, -fx * tan_x / z], -1), torch.stack([zero, fy / z, -fy * tan_y / z], -1)],
        -2,
    )
    axes = jacobian @ viewmat[:3, :3] @ (rotation(quats) * scales[:, None, :])
    plain = axes @ axes.transpose(-1, -2)
    entries = torch.stack([plain[:, 0, 0], plain[:, 0, 1], plain[:, 1, 1]], -1)
    return entries + torch.tensor([eps2d, 0, eps2d], dtype=z.dtype), entries


def _radii(covariance, opacity, means2d, z, width, height, near, far, radius_clip) -> Tensor:
    visible = (z >= near) & (z <= far) & (opacity >= 1 / 255)
    reach = torch.sqrt(2 * torch.log(opacity.clamp(min=1 / 255) * 255))
    radii = torch.ceil(reach[:, None] * torch.sqrt(covariance[:, [0, 2]])).detach()
    visible &= ~(radii <= radius_clip).all(-1)
    size = torch.tensor([width, height], dtype=z.dtype)
    visible &= ((means2d + radii > 0) & (means2d - radii < size)).all(-1)
    return torch.where(visible[:, None], radii, torch.zeros_like(radii)).int()


def _channels(means, colors, viewmat, z, sh_degree, with_depth) -> Tensor:
    parts = []
    if colors is not None and sh_degree is not None:
        center = torch.linalg.inv(viewmat)[:3, 3]
        parts.append((harmonics(sh_degree, means - center, colors) + 0.5).clamp(min=0))
    elif colors is not None:
        parts.append(colors)
    if with_depth:
        parts.append(z[:, None])
    return torch.cat(parts, -1)


def l1_ssim(x: Tensor, y: Tensor, ssim_lambda: float) -> Tensor:
    """L1 + SSIM of [H, W, D] images with the window written out pixel by pixel: sums over shifted copies."""
    offsets = torch.arange(-5, 6, dtype=x.dtype)
    weights = torch.exp(-(offsets**2) / (2 * 1.5**2))
    weights = weights / weights.sum()

    def blur(values: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(values, (0, 0, 5, 5, 5, 5))
        height, width = values.shape[:2]
        total = torch.zeros_like(values)
        for i in range(11):
            for j in range(11):
                total = total + weights[i] * weights[j] * padded[i : i + height, j : j + width]
        return total

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return (1 - ssim_lambda) * (x - y).abs().mean() + ssim_lambda * (1 - ssim.mean())
