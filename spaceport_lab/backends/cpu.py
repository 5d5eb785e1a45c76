"""Our numba kernels behind torch's autograd."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spaceport_lab.backends.activation import draw_seed
from spaceport_lab.backends.checks import Colors, expect_finite
from spaceport_lab.backends.pools import let_torch_sleep
from spaceport_lab.errors import BackendError
from spaceport_lab.kernels import layout, render


def rasterize(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Colors, viewmats: Tensor,
    Ks: Tensor, width: int, height: int, *, backgrounds: Tensor | None, render_mode: str, antialiased: bool,
    near_plane: float, far_plane: float, radius_clip: float, eps2d: float, absgrad: bool, raw: bool,
    left_out: float,
) -> tuple[Tensor, Tensor, dict[str, Any]]:  # fmt: skip
    """As `backends.rasterize`, on CPU tensors."""
    let_torch_sleep()
    _expect_cpu(means=means, quats=quats, scales=scales, opacities=opacities, viewmats=viewmats, Ks=Ks)
    n_cameras, n = viewmats.shape[0], means.shape[0]
    with_rgb, with_depth = "RGB" in render_mode, render_mode.endswith("D")
    # Filled where they lie, before anyone looks at them.
    room = np.empty((n_cameras, layout.padded(n), 2), np.float32)
    means2d = torch.from_numpy(room[:, :n])
    trained = (
        means,
        quats,
        scales,
        opacities,
        viewmats,
        *colors.tensors,
        *([] if backgrounds is None else [backgrounds]),
    )
    means2d.requires_grad_(torch.is_grad_enabled() and any(t.requires_grad for t in trained))
    if viewmats.requires_grad and torch.is_grad_enabled():
        centers = torch.linalg.inv(viewmats.float())[:, :3, 3]
    else:
        centers = torch.from_numpy(
            np.stack([render.center(viewmat) for viewmat in viewmats.detach().numpy()])
        )
    # All cameras leave out the same Gaussians.
    dropout = (left_out, draw_seed() if left_out else 0) if raw else None
    renders, alphas, infos = [], [], []
    cameras = Ks.detach().numpy()
    for c in range(n_cameras):
        view = render.View(
            view=_flat(viewmats[c]), camera=render.intrinsics(cameras[c]), center=_flat(centers[c]),
            width=width, height=height, eps2d=eps2d, near=near_plane, far=far_plane, radius_clip=radius_clip,
            antialiased=antialiased,
        )  # fmt: skip
        background = None if backgrounds is None or not with_rgb else backgrounds[c]
        color_tensors = [
            t[c] if t.dim() == (4 if colors.sh_degree is not None else 3) and not colors.is_split else t
            for t in colors.tensors
        ]
        image, alpha, info = _render_view(
            means, quats, scales, opacities, Colors(tuple(color_tensors),
            colors.sh_degree) if with_rgb else None, viewmats[c], centers[c], background, means2d, c, view,
            with_depth, absgrad, room[c].reshape(-1), dropout,
        )  # fmt: skip
        renders.append(image)
        alphas.append(alpha)
        infos.append(info)
    rendered, alpha = _stack(renders), _stack(alphas)[..., None]
    if render_mode.endswith("ED"):
        expected = rendered[..., -1:] / alpha.clamp(min=1e-10)
        rendered = torch.cat([rendered[..., :-1], expected], dim=-1)
    info = {key: _stack([one[key] for one in infos]) for key in ("radii", "depths")}
    return rendered, alpha, {
        **info, "means2d": means2d, "width": width, "height": height, "n_cameras": n_cameras,
        "gaussian_ids": None, "camera_ids": None, "tile_size": layout.TILE,
    }  # fmt: skip


def _stack(tensors: list[Tensor]) -> Tensor:
    """`torch.stack` without a copy where there is only one."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)


def _render_view(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Colors | None, viewmat: Tensor,
    center: Tensor, background: Tensor | None, means2d: Tensor, index: int, view: render.View,
    with_depth: bool, absgrad: bool, room: np.ndarray, dropout: tuple[float, int] | None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:  # fmt: skip
    """One camera; more channels than the kernels take at once are rendered in groups."""
    most = layout.MAX_CHANNELS
    total = 0 if colors is None else colors.channels
    shape, rest = (means, quats, scales, opacities), (means2d, index, view)
    if total + with_depth <= most:
        return _apply(*shape, colors, viewmat, center, background, *rest, with_depth, absgrad, room, dropout)
    if absgrad:
        raise BackendError(
            "absgrad is summed over at most 8 channels at once", got=f"{total + with_depth} channels"
        )
    images, alpha, info = [], None, {}
    for start in range(0, total, most):
        group = Colors((colors.tensors[0][:, start : start + most],), None)
        behind = None if background is None else background[start : start + most]
        image, group_alpha, info = _apply(
            *shape, group, viewmat, center, behind, *rest, False, False, room, dropout
        )
        images.append(image)
        alpha = group_alpha if alpha is None else alpha
    if with_depth:
        images.append(_apply(*shape, None, viewmat, center, None, *rest, True, False, room, dropout)[0])
    return torch.cat(images, dim=-1), alpha, info


def _apply(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Colors | None, viewmat: Tensor,
    center: Tensor, background: Tensor | None, means2d: Tensor, index: int, view: render.View,
    with_depth: bool, absgrad: bool, room: np.ndarray, dropout: tuple[float, int] | None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:  # fmt: skip
    n_colors = 0 if colors is None else colors.channels
    if n_colors + with_depth == 0:
        raise BackendError("there is nothing to render", got="colours of 0 channels")
    info: dict[str, Tensor] = {}
    color, color_rest = (*colors.tensors, None, None)[:2] if colors is not None else (None, None)
    degree = colors.sh_degree if colors is not None else None
    image, alpha = _Rasterize.apply(
        means, quats, scales, opacities, color, color_rest, viewmat, center, background, means2d, index,
        view, degree, with_depth, absgrad, room, dropout, info,
    )  # fmt: skip
    return image, alpha, info


class _Rasterize(torch.autograd.Function):
    """One camera. The 2D means are an input without influence, there to receive their gradient."""

    @staticmethod
    def forward(
        ctx, means, quats, scales, opacities, color, color_rest, viewmat, center, background, means2d, index,
        view, degree, with_depth, absgrad, room, dropout, info,
    ):  # fmt: skip
        ctx.activated = _activated(scales, opacities, dropout)
        shape = render.Shape(_flat(means), _flat(quats), *ctx.activated)
        colors = _color_source(color, color_rest, degree)
        channels = (0 if colors is None else 3 if degree is not None else color.shape[-1]) + with_depth
        behind = np.zeros(channels, np.float32)
        if background is not None:
            behind[: channels - with_depth] = _flat(background)
        frame = render.forward(
            shape, colors, view, with_depth, behind, for_backward=any(ctx.needs_input_grad), means2d=room
        )
        if not frame.finite:
            expect_finite("scales", scales.exp())
            expect_finite("opacities", opacities)
        n, size = shape.n, (view.height, view.width)
        info["radii"] = _rows(frame.radii, n, 2)
        info["depths"] = _rows(frame.depths, n)
        image = torch.from_numpy(frame.image.reshape(*size, channels))
        alpha = torch.from_numpy(1.0 - frame.transmittance).reshape(size)
        ctx.save_for_backward(means, quats, scales, opacities, color, color_rest, image)
        ctx.frame, ctx.means2d, ctx.index, ctx.absgrad, ctx.degree = frame, means2d, index, absgrad, degree
        ctx.set_materialize_grads(False)  # alpha's is seldom there, and an image of zeros is not for nothing
        return image, alpha

    @staticmethod
    @once_differentiable
    def backward(ctx, g_image, g_alpha):
        # Scales and opacities are among them so that autograd tells of changes in place.
        means, quats, _, _, color, color_rest, image = ctx.saved_tensors
        frame = ctx.frame
        shape = render.Shape(_flat(means), _flat(quats), *ctx.activated)
        colors = _color_source(color, color_rest, ctx.degree)
        needs = ctx.needs_input_grad
        if g_image is None:
            g_image = torch.zeros_like(image)
        g = render.backward(
            frame, shape, colors, _flat(g_image), None if g_alpha is None else _flat(g_alpha),
            with_absolute=ctx.absgrad, with_camera=needs[6] or needs[7], with_rest=needs[4] or needs[5],
        )  # fmt: skip
        n = shape.n
        if ctx.absgrad:
            _add_absolute(ctx.means2d, ctx.index, _rows(g.absolute, n, 2))
        g_color, g_rest = _color_gradients(g, color, color_rest, ctx.degree)
        g_means2d = _rows(g.means2d, n, 2)[None]
        if len(ctx.means2d) > 1:
            g_means2d = torch.zeros(ctx.means2d.shape).index_copy_(0, torch.tensor([ctx.index]), g_means2d)
        g_view = g_center = g_background = None
        if needs[6]:
            g_view = torch.zeros(4, 4)
            g_view[:3] = torch.from_numpy(g.view)
        if needs[7]:
            g_center = torch.from_numpy(g.center).float()
        if needs[8]:
            seen = torch.from_numpy(frame.transmittance).reshape(*image.shape[:2], 1)
            g_background = (g_image * seen).sum((0, 1))[: frame.channels - frame.with_depth]
        return (
            _rows(g.means, n, 3), _rows(g.quats, n, 4), _rows(g.scales, n, 3), _rows(g.opacities, n),
            g_color, g_rest, g_view, g_center, g_background, g_means2d, *(None,) * 8,
        )  # fmt: skip


def _activated(
    scales: Tensor, opacities: Tensor, dropout: tuple[float, int] | None
) -> tuple[np.ndarray, np.ndarray, render.Raw | None]:
    """Scales and opacities, or room for them, and what they will be made of."""
    given = _flat(scales), _flat(opacities)
    if dropout is None:
        return *given, None
    return *map(np.empty_like, given), render.Raw(*given, *dropout)


def _color_source(
    color: Tensor | None, rest: Tensor | None, degree: int | None
) -> render.Harmonics | render.Given | None:
    if color is None:
        return None
    values = _flat(color)
    if degree is None:
        return render.Given(values, color.shape[-1])
    if rest is None:
        row = color.shape[1] * 3
        return render.Harmonics(values, row, values, row, 3, color.shape[1] - 1, degree)
    return render.Harmonics(values, 3, _flat(rest), rest.shape[1] * 3, 0, rest.shape[1], degree)


def _color_gradients(
    g: render.Gradients, color: Tensor | None, rest: Tensor | None, degree: int | None
) -> tuple:
    if color is None:
        return None, None
    if degree is None:
        return _rows(g.colors, *color.shape), None
    g_rest = None if rest is None or not len(g.shn) else torch.from_numpy(g.shn).reshape(rest.shape)
    return torch.from_numpy(g.sh0).reshape(color.shape), g_rest


def _rows(values: np.ndarray, *shape: int) -> Tensor:
    """The array without the rows that only pad it."""
    return torch.from_numpy(values[: math.prod(shape)].reshape(shape))


def _add_absolute(means2d: Tensor, index: int, absolute: Tensor) -> None:
    if not hasattr(means2d, "absgrad"):
        means2d.absgrad = torch.zeros_like(means2d, requires_grad=False)
    means2d.absgrad[index] += absolute


def _flat(tensor: Tensor) -> np.ndarray:
    """The tensor's numbers as a flat float32 array; a view where it is one already."""
    return tensor.detach().to(torch.float32).contiguous().numpy().reshape(-1)


def _expect_cpu(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.device.type != "cpu":
            raise BackendError(
                "the CPU backend needs tensors in main memory", got=f"{name} on {tensor.device}"
            )
