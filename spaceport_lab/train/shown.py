"""What one step shows: on the CPU the Gaussians in view alone, on a GPU all of them.

A GPU is fastest when all rows take the same way; a CPU is when nine tenths of them are left alone. For that
they lie in memory as they do in space: then what a view shows lies together, and a cache line that is read
for one of them serves its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from spaceport_lab.backends import DeferredAdam, rows_in_view, step_rows, take_rows
from spaceport_lab.kernels.hilbert import hilbert_order
from spaceport_lab.train.checkpoint import State
from spaceport_lab.train.photos import View


@dataclass(frozen=True)
class Shown:
    """The Gaussians of a step.

    Attributes:
        rows: [M] their indices; None where all are shown.
        splats: the six fields of those rows, raw, as leaves that take gradients. On the CPU `shN` has the
            bands alone that are trained so far, and takes none where it rests.
        resting: fields that the step leaves as they are.
    """

    rows: Int[Tensor, " M"] | None
    splats: dict[str, Tensor]
    resting: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """How many."""
        return len(self.splats["means"])


def take(
    state: State, view: View, viewmat: Tensor, degree: int, eps2d: float, resting: tuple[str, ...] = ()
) -> Shown:
    """The Gaussians that `view` can show.

    Args:
        viewmat: [1, 4, 4] of the view, as refined.
        degree: of the SH bands that have been trained so far.
        eps2d: as it will be rendered, pixels².
        resting: fields that the step will leave as they are.
    """
    splats = state.splats
    if splats["means"].is_cuda:
        return Shown(None, splats, resting)
    rows = rows_in_view(
        splats["means"], splats["scales"], viewmat[0], view.K[0], view.width, view.height, eps2d=eps2d
    )
    names, optimizers = state.optimizers.keys(), list(state.optimizers.values())
    # SH bands above the degree are neither rendered nor trained yet, so they stay where they are.
    used = [(degree + 1) ** 2 - 1 if name == "shN" else None for name in names]
    taken = take_rows(optimizers, rows, used, [name in resting for name in names])
    fields = {
        name: field.requires_grad_(name not in resting) for name, field in zip(names, taken, strict=True)
    }
    return Shown(rows, fields, resting)


@torch.no_grad()
def step(seen: Shown, state: State) -> bool:
    """Move what was shown by its gradients.

    Returns:
        whether all numbers are finite that were moved; on a GPU they are not looked at.
    """
    if state.sh_degrees is not None:
        _hold_dropped_bands(seen, state.sh_degrees)
    if seen.rows is None:
        for name, optimizer in state.optimizers.items():
            if name not in seen.resting:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return True
    moving = [name for name in state.optimizers if name not in seen.resting]
    fields = [seen.splats[name] for name in moving]
    gradients = [torch.zeros_like(field) if field.grad is None else field.grad for field in fields]
    return step_rows([state.optimizers[name] for name in moving], seen.rows, gradients)


def settle(state: State) -> None:
    """Bring all Gaussians up to date, before anything but a step looks at them."""
    for optimizer in state.optimizers.values():
        if isinstance(optimizer, DeferredAdam):
            optimizer.settle()


@torch.no_grad()
def arrange(state: State) -> None:
    """Lay Gaussians side by side that are so in space, wherever it counts.

    Their order means nothing, and nobody may have kept numbers of them.
    """
    splats = state.splats
    if splats["means"].is_cuda:
        return
    order = torch.from_numpy(hilbert_order(splats["means"].detach().numpy()))
    tables = [state.strategy.state, *(o.state[splats[name]] for name, o in state.optimizers.items())]
    for values in splats.values():
        values.data = values.data.index_select(0, order)
    for table in tables:
        for name, tensor in table.items():
            if isinstance(tensor, Tensor) and tensor.ndim > 0 and len(tensor) == len(order):
                table[name] = tensor.index_select(0, order)
    if state.sh_degrees is not None:
        state.sh_degrees = state.sh_degrees[order]


def _hold_dropped_bands(seen: Shown, sh_degrees: Tensor) -> None:
    gradient = seen.splats["shN"].grad
    if gradient is None:
        return
    of_row = sh_degrees if seen.rows is None else sh_degrees[seen.rows]
    gradient *= band_mask(of_row, gradient.shape[1])[..., None]


def band_mask(sh_degrees: UInt8[Tensor, " M"], n_coefficients: int) -> Tensor:
    """[M, K-1] bool: True where a coefficient of shN belongs to a band that the Gaussian has."""
    degree_of = torch.tensor([1] * 3 + [2] * 5 + [3] * 7, dtype=torch.uint8, device=sh_degrees.device)
    return degree_of[:n_coefficients] <= sh_degrees[:, None]
