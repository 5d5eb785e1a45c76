"""The one entrance: Gaussians and cameras in, images out, differentiable on both backends."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from spaceport_lab.backends.activation import activate
from spaceport_lab.backends.checks import check_inputs
from spaceport_lab.errors import BackendError


def rasterize(
    means: Float[Tensor, "N 3"],
    quats: Float[Tensor, "N 4"],
    scales: Float[Tensor, "N 3"],
    opacities: Float[Tensor, " N"],
    colors: Tensor | tuple[Tensor, Tensor],
    viewmats: Float[Tensor, "C 4 4"],
    Ks: Float[Tensor, "C 3 3"],
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    backgrounds: Float[Tensor, "C D"] | None = None,
    render_mode: str = "RGB",
    rasterize_mode: str = "classic",
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    absgrad: bool = False,
    backend: str = "cpu",
    check_finite: bool = True,
    raw: bool = False,
    left_out: float = 0.0,
) -> tuple[Float[Tensor, "C H W X"], Float[Tensor, "C H W 1"], dict[str, Any]]:
    """Render Gaussians as `gsplat.rasterization(packed=False)` does.

    Args:
        means: centres in world coordinates.
        quats: rotations, wxyz, of any length.
        scales: standard deviations along the rotated axes, in world units (not their logarithms).
        opacities: 0 to 1 (not logits).
        colors: with `sh_degree` the SH coefficients [N, K, 3] or [C, N, K, 3], or a pair (sh0 [N, 1, 3], shN
            [N, K-1, 3]) which saves concatenating them; otherwise colours [N, D] or [C, N, D].
        viewmats: world to camera, OpenCV axes.
        Ks: pinhole intrinsics in pixels; pixel (0, 0) is centred at (0.5, 0.5).
        width, height: image size in pixels.
        sh_degree: degree to evaluate, 0 to 3, at most what `colors` holds.
        backgrounds: colour behind the Gaussians; depth has none.
        render_mode: "RGB" colours, "D" depth along the axis summed with the blending weights, "ED" that
            divided by alpha, "RGB+D" and "RGB+ED" both with depth as the last channel.
        rasterize_mode: "antialiased" scales opacity by what `eps2d` adds to the Gaussian's area.
        near_plane, far_plane: Gaussians centred outside are left out.
        radius_clip: Gaussians whose radii are at most this many pixels are left out.
        eps2d: pixels^2 added to the 2D covariance's axes.
        absgrad: after backward, `info["means2d"].absgrad` holds the summed absolute gradients (AbsGS).
        backend: "cpu" or "cuda", as `choose_backend` returned it.
        check_finite: look for NaN and Inf in the Gaussians. False where the same tensors were looked at
            before, as for the second of many views; on the CPU such numbers then drop out, but for raw
            scales and opacities, which are always looked at there.
        raw: scales are logarithms and opacities logits, as they are trained; see `activate`.
        left_out: where they are raw, share of the Gaussians that are left out of all views, the others raised
            for it; at least 0, below 1. Which ones is drawn from torch's random numbers.

    Returns:
        renders, alphas, and info: "means2d" [C, N, 2] pixels (its .grad is filled by backward), "radii" [C,
        N, 2] int32 pixels (0 where not on the image), "depths" [C, N], "width", "height", "n_cameras",
        "gaussian_ids" (None), as gsplat's strategies read them with packed=False.

    Raises:
        BackendError: an argument has the wrong shape or holds NaN or Inf (its name and how many rows), an
            option is unknown, a view matrix cannot be inverted, the frame needs more memory than there is, or
            the backend is not known.
    """
    checked = check_inputs(
        means, quats, scales, opacities, colors, viewmats, Ks, width, height, sh_degree, backgrounds,
        render_mode, rasterize_mode, near_plane, far_plane, eps2d, check_finite,
    )  # fmt: skip
    if not 0 <= left_out < 1 or (left_out and not raw):
        raise BackendError(
            "left_out is out of range",
            got=f"{left_out}, raw={raw}",
            expected="0 to below 1, 0 unless raw",
        )
    options = {
        "backgrounds": backgrounds, "render_mode": render_mode, "near_plane": near_plane,
        "antialiased": rasterize_mode == "antialiased", "far_plane": far_plane, "radius_clip": radius_clip,
        "eps2d": eps2d, "absgrad": absgrad,
    }  # fmt: skip
    if backend == "cpu":
        from spaceport_lab.backends import cpu as chosen

        options |= {"raw": raw, "left_out": left_out}
    elif backend == "cuda":
        from spaceport_lab.backends import cuda as chosen

        if raw:
            scales, opacities = activate(scales, opacities, left_out)
    else:
        raise BackendError(
            "unknown backend", got=backend, expected="cpu or cuda (choose_backend settles auto)"
        )
    return chosen.rasterize(means, quats, scales, opacities, checked, viewmats, Ks, width, height, **options)
