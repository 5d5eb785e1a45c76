"""Only the Gaussians that a view can show: to find them, and to move them alone.

A step on the CPU should cost what it shows, not what the scene holds. The rows in view are taken out,
rendered and stepped; all others wait, and catch up on what Adam would have done to them when they are next in
view. Unlike the sparse Adam of Taming 3DGS (Mallick et al. 2024), which leaves them where they are, this is
Adam itself: Gaussians that few photographs show learn as fast as ever.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer

from spaceport_lab.kernels import adam, culling, lengths, render, threads


def rows_in_view(
    means: Float[Tensor, "N 3"],
    scales: Float[Tensor, "N 3"],
    viewmat: Float[Tensor, "4 4"],
    K: Float[Tensor, "3 3"],
    width: int,
    height: int,
    *,
    eps2d: float = 0.3,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
) -> Int[Tensor, " M"]:
    """Indices, rising, of all Gaussians that `rasterize` could show in this view, and a few more.

    Args:
        means: centres in world coordinates, on the CPU.
        scales: logarithms of the standard deviations.
        viewmat: world to camera.
        K: intrinsics in pixels of the image of `width` by `height`.
    """
    n, chunks = len(means), -(-len(means) // culling.CHUNK)
    found, counts = np.empty(n, np.int64), np.empty(chunks, np.int64)
    threads.on_all(
        culling.in_view, chunks, n, _flat(means), _flat(scales), _flat(viewmat),
        render.intrinsics(K.detach().numpy()), width, height,
        *map(np.float32, (eps2d, near_plane, far_plane)), found, counts,
    )  # fmt: skip
    return torch.from_numpy(culling.joined(found, counts))


class DeferredAdam(Optimizer):
    """Adam over one CPU tensor [N, ...] whose rows are stepped only where a step has gradients.

    Take rows (`take_rows`), step them (`step_rows`), and settle all before anything else reads the tensor:
    then every row is where torch's Adam would have brought it with gradients of zero for the rest. A learning
    rate that changes counts for a waiting row as it is when the row is settled.

    Its state has the names of torch's Adam (`step`, `exp_avg`, `exp_avg_sq`), and `settled`, the step up to
    which each row is. All but `step` have N rows, so gsplat's strategies grow and prune them with the tensor.
    """

    def __init__(
        self, params: Any, lr: float = 0.0, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-15
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    _known: tuple = ()
    _arrays: tuple[np.ndarray, ...] = ()

    @torch.no_grad()
    def settle(self) -> None:
        """Bring every row up to date."""
        values = self.param_groups[0]["params"][0]
        rows = torch.arange(len(values))
        _run([self.settling(rows, None)], len(rows), adam.CHUNK)

    def step(self, closure: None = None) -> None:
        """All rows, by the tensor's own gradient."""
        values = self.param_groups[0]["params"][0]
        if values.grad is not None:
            self.settle()
            step_rows([self], torch.arange(len(values)), [values.grad])

    def stepping(self, rows: Tensor, gradients: Tensor) -> tuple | None:
        """The kernel's call that steps these rows, which also counts the step; None where nothing moves."""
        group, arrays, state, width = self._parts()
        state["step"] += 1
        if gradients.numel() == 0:
            return None
        beta1, beta2 = group["betas"]
        rate = group["lr"] * adam.bias(state["step"], beta1, beta2)
        return (
            adam.step_rows, rows.numpy(), _flat(gradients), *arrays, state["step"], width,
            math.prod(gradients.shape[1:]), *map(np.float32, (rate, beta1, beta2, group["eps"])),
        )  # fmt: skip

    def settling(self, rows: Tensor, out: Tensor | None) -> tuple | None:
        """The kernel's call that brings these rows up to date and copies them; None where there is nothing.

        Of `out`, if any, each row takes the leading numbers, and no others are looked at.
        """
        group, arrays, state, width = self._parts()
        if width == 0 or len(rows) == 0 or (out is not None and out.numel() == 0):
            return None
        now, betas = state["step"], group["betas"]
        return (
            adam.settle_rows, rows.numpy(), *arrays, now, width,
            width if out is None else math.prod(out.shape[1:]),
            np.float32(group["lr"]), np.float32(group["eps"]), *adam.fading(*betas),
            adam.recent_sums(now, *betas), adam.whole_sums(adam.tabled(now), *betas),
            np.empty(0, np.float32) if out is None else _flat(out),
        )  # fmt: skip

    def copying(self, rows: Tensor, out: Tensor) -> tuple | None:
        """The kernel's call that copies these rows as they are, else like `settling`."""
        _, (values, *_), _, width = self._parts()
        if out.numel() == 0:
            return None
        return adam.copy_rows, rows.numpy(), values, width, math.prod(out.shape[1:]), _flat(out)

    def _parts(self) -> tuple[dict[str, Any], tuple[np.ndarray, ...], dict[str, Any], int]:
        """Group, flat arrays (values, moments, settled), state, and the numbers of a row."""
        group = self.param_groups[0]
        values = group["params"][0]
        state = self.state[values]
        if not state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(values), torch.zeros_like(values)
            state["settled"] = torch.zeros(len(values))
        tensors = (values, state["exp_avg"], state["exp_avg_sq"], state["settled"])
        # Asking torch for them takes longer than many a kernel; whoever grows or prunes brings new tensors.
        known = tuple((tensor.data_ptr(), len(tensor)) for tensor in tensors)
        if known != self._known:
            self._known, self._arrays = known, tuple(map(_flat, tensors))
        return group, self._arrays, state, math.prod(values.shape[1:])


@torch.no_grad()
def take_rows(
    optimizers: Sequence[DeferredAdam],
    rows: Int[Tensor, " M"],
    used: Sequence[int | None],
    rests: Sequence[bool] | None = None,
) -> list[Float[Tensor, "M ..."]]:
    """Copies of the rows of each optimizer's tensor, brought up to date.

    Args:
        optimizers: of tensors with equally many rows.
        rows: each at most once.
        used: for each tensor, how many of the leading entries along its second dimension to copy, which are
            all that have ever had gradients; None for all there are.
        rests: for each tensor, whether these rows will not be stepped: then they may be as far behind as they
            lie, which is what they remembered of their gradients when they were last stepped.
    """
    rests = [False] * len(optimizers) if rests is None else rests
    shapes = [o.param_groups[0]["params"][0].shape[1:] for o in optimizers]
    shapes = [shape if n is None else (n, *shape[1:]) for shape, n in zip(shapes, used, strict=True)]
    taken = [torch.empty(len(rows), *shape) for shape in shapes]
    calls = [
        o.copying(rows, out) if as_it_is else o.settling(rows, out)
        for o, out, as_it_is in zip(optimizers, taken, rests, strict=True)
    ]
    _run(calls, len(rows), adam.CHUNK)
    return taken


@torch.no_grad()
def step_rows(
    optimizers: Sequence[DeferredAdam],
    rows: Int[Tensor, " M"],
    gradients: Sequence[Float[Tensor, "M ..."]],
) -> bool:
    """One step of each; `rows` have these gradients and were taken since the last step, the rest have none.

    Args:
        gradients: shaped as they were taken; what was not taken of a row has none.

    Returns:
        whether all numbers are finite that were stepped.
    """
    calls = [o.stepping(rows, g) for o, g in zip(optimizers, gradients, strict=True)]
    return all(_run(calls, len(rows), adam.CHUNK))


@torch.no_grad()
def add_lengths(
    sums: Float[Tensor, " N"],
    counts: Float[Tensor, " N"],
    rows: Int[Tensor, " M"] | None,
    radii: Int[Tensor, "M 2"],
    gradients: Float[Tensor, "M 2"],
    size: tuple[float, float],
) -> None:
    """Add the lengths of one view's gradients to their rows' sums, and 1 to their counts where it shows them.

    Args:
        sums, counts: changed in place.
        rows: what the gradients belong to, each at most once; None: to all in their order.
        radii: on the image, pixels; 0 for what is not on it, which has no gradient.
        gradients: of the projected centres.
        size: factors of a gradient's two numbers.
    """
    if sums.device.type == "cpu":
        rows = torch.arange(len(gradients)) if rows is None else rows
        threads.on_all(
            lengths.add, -(-len(rows) // lengths.CHUNK), rows.numpy(), radii.numpy(), gradients.numpy(),
            *map(np.float32, size), _flat(sums), _flat(counts),
        )  # fmt: skip
        return
    # By columns: sums over pairs are slow.
    across, down = (gradients * gradients.new_tensor(size)).unbind(dim=-1)
    seen = ((radii[:, 0] > 0) & (radii[:, 1] > 0)).float()
    for total, values in ((sums, torch.hypot(across, down)), (counts, seen)):
        if rows is None:
            total += values
        else:
            total.index_add_(0, rows, values)


def _run(calls: Sequence[tuple | None], n_rows: int, chunk: int) -> list:
    return threads.on_all_in_turn([call for call in calls if call is not None], -(-n_rows // chunk))


def _flat(tensor: Tensor) -> np.ndarray:
    """The tensor's own numbers, flat: what is written there is written to the tensor.

    Raises:
        ValueError: the tensor is not contiguous float32, so that a copy would be written to.
    """
    if tensor.dtype != torch.float32 or not tensor.is_contiguous():
        raise ValueError(f"a contiguous float32 tensor is needed, got {tensor.dtype} {tensor.stride()}")
    return tensor.detach().numpy().reshape(-1)
