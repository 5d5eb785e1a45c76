"""What is asked of the inputs of `rasterize`, on either backend."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spaceport_lab.errors import BackendError
from spaceport_lab.kernels.finite import all_finite

RENDER_MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")
RASTERIZE_MODES = ("classic", "antialiased")
MAX_SIDE = 2**16  # pixels; tiles are numbered in 32 bits


@dataclass(frozen=True)
class Colors:
    """Colours in the form the backends take: SH coefficients in one or two tensors, or given values."""

    tensors: tuple[torch.Tensor, ...]
    sh_degree: int | None

    @property
    def is_split(self) -> bool:
        return len(self.tensors) == 2

    @property
    def channels(self) -> int:
        return 3 if self.sh_degree is not None else self.tensors[0].shape[-1]


def expect_shape(name: str, tensor: torch.Tensor, *shapes: tuple) -> None:
    """Refuse a tensor whose shape matches none of `shapes`; a string in a shape stands for any number."""
    if tuple(tensor.shape) in shapes:
        return
    for shape in shapes:
        if len(shape) == tensor.dim() and all(
            isinstance(want, str) or want == have for want, have in zip(shape, tensor.shape, strict=True)
        ):
            return
    wanted = " or ".join("[" + ", ".join(map(str, shape)) + "]" for shape in shapes)
    raise BackendError(f"{name} has the wrong shape", got=list(tensor.shape), expected=wanted)


def expect_finite(name: str, tensor: torch.Tensor) -> None:
    """Refuse NaN and Inf, saying in how many rows they are."""
    if not tensor.is_floating_point():
        raise BackendError(f"{name} must be floating point", got=tensor.dtype)
    if _is_finite(tensor.detach()):
        return
    rows = tensor.detach().reshape(tensor.shape[0], -1) if tensor.dim() else tensor.detach().reshape(1, 1)
    bad = int((~torch.isfinite(rows)).any(dim=1).sum())
    if bad:
        raise BackendError(
            f"{name} holds NaN or Inf",
            got=f"{bad} bad rows of {rows.shape[0]}",
            expected="finite numbers",
            hint="the step before this one diverged or read a damaged file",
        )


def expect_all_finite(named: dict[str, torch.Tensor]) -> None:
    """`expect_finite` for several tensors; on a GPU it waits for the device once, not once for each."""
    on_gpu = [tensor for tensor in named.values() if tensor.is_cuda]
    if on_gpu and bool(torch.stack([torch.isfinite(tensor).all() for tensor in on_gpu]).all()):
        named = {name: tensor for name, tensor in named.items() if not tensor.is_cuda}
    for name, tensor in named.items():
        expect_finite(name, tensor)


def _is_finite(tensor: torch.Tensor) -> bool:
    if tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous():
        return all_finite(tensor.view(-1).numpy())
    return bool(torch.isfinite(tensor).all())


def check_inputs(
    means: torch.Tensor, quats: torch.Tensor, scales: torch.Tensor, opacities: torch.Tensor,
    colors: torch.Tensor | tuple[torch.Tensor, torch.Tensor], viewmats: torch.Tensor, Ks: torch.Tensor,
    width: int, height: int, sh_degree: int | None, backgrounds: torch.Tensor | None,
    render_mode: str, rasterize_mode: str, near_plane: float, far_plane: float, eps2d: float,
    check_finite: bool = True,
) -> Colors:  # fmt: skip
    """Refuse what neither backend could render sensibly.

    Raises:
        BackendError: naming the argument, what it was and what it should be.
    """
    _check_options(width, height, render_mode, rasterize_mode, near_plane, far_plane, eps2d)
    expect_shape("means", means, ("N", 3))
    n = means.shape[0]
    expect_shape("quats", quats, (n, 4))
    expect_shape("scales", scales, (n, 3))
    expect_shape("opacities", opacities, (n,))
    expect_shape("viewmats", viewmats, ("C", 4, 4))
    expect_shape("Ks", Ks, (viewmats.shape[0], 3, 3))
    if viewmats.shape[0] == 0:
        raise BackendError("there is no camera to render", got="viewmats [0, 4, 4]", expected="C >= 1")
    checked = _check_colors(colors, n, viewmats.shape[0], sh_degree)
    named = {"viewmats": viewmats, "Ks": Ks}
    if check_finite:
        named |= {"means": means, "quats": quats, "scales": scales, "opacities": opacities}
        parts = enumerate(checked.tensors)
        named |= {f"colors[{k}]" if checked.is_split else "colors": part for k, part in parts}
    if backgrounds is not None:
        expect_shape("backgrounds", backgrounds, (viewmats.shape[0], checked.channels))
        named["backgrounds"] = backgrounds
    expect_all_finite(named)
    focal = Ks.detach().diagonal(dim1=1, dim2=2)[:, :2].cpu().numpy()
    if (focal <= 0).any():
        raise BackendError("a focal length is not positive", got=focal.tolist())
    return checked


def _check_options(
    width: int,
    height: int,
    render_mode: str,
    rasterize_mode: str,
    near_plane: float,
    far_plane: float,
    eps2d: float,
) -> None:
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise BackendError(
            "the image's size is out of range",
            got=f"{width} x {height}",
            expected=f"1 to {MAX_SIDE} pixels a side",
        )
    if render_mode not in RENDER_MODES:
        raise BackendError("unknown render_mode", got=render_mode, expected=", ".join(RENDER_MODES))
    if rasterize_mode not in RASTERIZE_MODES:
        raise BackendError("unknown rasterize_mode", got=rasterize_mode, expected=", ".join(RASTERIZE_MODES))
    if not 0 <= near_plane < far_plane:
        raise BackendError(
            "near and far plane are not in order", got=(near_plane, far_plane), expected="0 <= near < far"
        )
    if not 0 <= eps2d < 1e6:
        raise BackendError("eps2d is out of range", got=eps2d, expected="0 <= eps2d")


def _check_colors(
    colors: torch.Tensor | tuple[torch.Tensor, torch.Tensor], n: int, n_cameras: int, sh_degree: int | None
) -> Colors:
    if sh_degree is None:
        if isinstance(colors, tuple):
            raise BackendError(
                "colors in two parts are SH coefficients", got="sh_degree=None", expected="0 to 3"
            )
        expect_shape("colors", colors, (n, "D"), (n_cameras, n, "D"))
        return Colors((colors,), None)
    if sh_degree not in (0, 1, 2, 3):
        raise BackendError("sh_degree is out of range", got=sh_degree, expected="0 to 3")
    parts = colors if isinstance(colors, tuple) else (colors,)
    if len(parts) == 2:
        expect_shape("colors[0]", parts[0], (n, 1, 3))
        expect_shape("colors[1]", parts[1], (n, "K-1", 3))
    else:
        expect_shape("colors", parts[0], (n, "K", 3), (n_cameras, n, "K", 3))
    have = sum(part.shape[-2] for part in parts)
    if have < (sh_degree + 1) ** 2:
        raise BackendError(
            "there are too few SH coefficients",
            got=f"K = {have}",
            expected=f"at least {(sh_degree + 1) ** 2} for degree {sh_degree}",
        )
    return Colors(parts, sh_degree)
