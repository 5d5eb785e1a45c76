"""Exposure and white balance of each training photograph: an affine map of the render's colours.

A drone's camera sets both anew for every photograph. Without a correction the Gaussians learn the
differences as floaters and as colours that change with the direction they are seen from. As in the 3DGS
code's exposure compensation, every training view has a 3 x 3 matrix and an offset; here their mean over the
set is held at the identity, so that the splat keeps the set's mean colours and no tint hides in the maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from spaceport_lab.errors import InputError
from spaceport_lab.train.row_adam import RowAdam, copy_into

PULL = 1e-4
"""Weight of the squared distance from the identity: settles what the photographs leave open, hardly more."""

PIXELS_AT_ONCE = (8, 4, 2, 1)
"""Pixels that one row of a matrix product takes; products of three columns are what BLAS is worst at."""


class Appearance:
    """One affine colour map per training view, optimised beside the Gaussians.

    Attributes:
        maps: [V, 3, 4] matrix and offset; their mean over the views is the identity and zero.
        steps_done: finished steps.

    Args:
        n_views: training views.
        device: where renders are.

    Raises:
        InputError: there are no views.
    """

    def __init__(self, n_views: int, device: torch.device) -> None:
        if n_views < 1:
            raise InputError("appearance needs at least one training view", got=n_views)
        self._identity = torch.eye(3, 4, device=device)
        self.maps = self._identity.repeat(n_views, 1, 1)
        self.steps_done = 0
        self._adam = RowAdam((n_views, 3, 4), device)
        self._drawn: dict[int, Tensor] = {}

    def apply(self, render: Float[Tensor, "1 H W 3"], index: int) -> Float[Tensor, "1 H W 3"]:
        """The render as view `index` would have photographed it; colours may leave 0..1.

        Differentiable; gradients of the view's map wait for `step`. Under `torch.no_grad` none are kept.
        """
        if not torch.is_grad_enabled():
            return _AffineColors.apply(render, self.maps[index])
        if index not in self._drawn:
            self._drawn[index] = self.maps[index].clone().requires_grad_()
        return _AffineColors.apply(render, self._drawn[index])

    @torch.no_grad()
    def step(self, done: int, rate: float) -> None:
        """Move the maps of the views drawn since the last step.

        Args:
            done: finished steps, this one included.
            rate: learning rate, colour units (0..1) a step.
        """
        for index, row in self._drawn.items():
            if row.grad is not None:
                gradient = row.grad + 2 * PULL * (row - self._identity)
                self.maps[index] += self._adam.change(index, gradient, rate)
        self._drawn.clear()
        self.maps -= self.maps.mean(0) - self._identity
        self.steps_done = done

    def state(self) -> dict[str, Tensor]:
        """All that `load_state` needs to go on bit for bit: maps, moments, counts, finished steps."""
        return {
            "maps": self.maps.clone(), "steps_done": torch.tensor(self.steps_done), **self._adam.state(),
        }  # fmt: skip

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on where `state` was taken.

        Raises:
            WorkspaceError: it belongs to another number of views.
        """
        copy_into(self.maps, state["maps"])
        self._adam.load_state(state)
        self.steps_done = int(state["steps_done"])
        self._drawn.clear()

    def rows(self, names: Sequence[str]) -> list[dict[str, str | float]]:
        """A table for people: by how much each view's red, green and blue of something grey are brightened.

        Args:
            names: of the training views, in their order.

        Returns:
            For every view `view`, the gains `red`, `green`, `blue` (1 leaves alone) and the mean `offset`
            (0..1 is black to white).
        """
        maps = self.maps.cpu()
        gains, offsets = maps[..., :3].sum(-1), maps[..., 3].mean(-1)
        return [
            {
                "view": name,
                **dict(zip(("red", "green", "blue"), map(float, gain), strict=True)),
                "offset": float(offset),
            }
            for name, gain, offset in zip(names, gains, offsets, strict=True)
        ]


class _AffineColors(torch.autograd.Function):
    """A x + b for every pixel x: a few pixels a row, times a matrix with A along its diagonal."""

    @staticmethod
    def forward(ctx, render: Tensor, affine: Tensor) -> Tensor:
        ctx.save_for_backward(render, affine)
        pixels, k = _grouped(render)
        spread = _along_diagonal(affine[:, :3].T, k)
        return torch.addmm(affine[:, 3].repeat(k), pixels, spread).reshape(render.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, Tensor | None]:
        render, affine = ctx.saved_tensors
        slopes, k = _grouped(upstream)
        of_render = of_affine = None
        if ctx.needs_input_grad[0]:
            of_render = (slopes @ _along_diagonal(affine[:, :3], k)).reshape(render.shape)
        if ctx.needs_input_grad[1]:
            products = (slopes.T @ _grouped(render)[0]).reshape(k, 3, k, 3)
            of_matrix = products.diagonal(dim1=0, dim2=2).sum(-1)
            of_offset = slopes.sum(0).reshape(k, 3).sum(0)
            of_affine = torch.cat([of_matrix, of_offset[:, None]], dim=1)
        return of_render, of_affine


def _grouped(image: Float[Tensor, "1 H W 3"]) -> tuple[Float[Tensor, "rows k3"], int]:
    """The pixels, as many in a row as divide them evenly, and how many those are."""
    n = image.numel() // 3
    k = next(k for k in PIXELS_AT_ONCE if n % k == 0)
    return image.reshape(-1, 3 * k), k


def _along_diagonal(matrix: Float[Tensor, "3 3"], k: int) -> Float[Tensor, "k3 k3"]:
    return torch.kron(torch.eye(k, device=matrix.device), matrix.contiguous())
