"""Adam on a table of which every step moves a few rows only, as one view's correction in a training step."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from spaceport_lab.errors import WorkspaceError

BETA1, BETA2, EPS = 0.9, 0.999, 1e-15


class RowAdam:
    """Adam (Kingma and Ba 2015) with moments and a count of steps for every row of its own.

    torch's Adam would go on moving the rows without a gradient, on what their moments remember.

    Args:
        shape: of the table, rows first.
        device: of the table.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.mean = torch.zeros(shape, device=device)
        self.square = torch.zeros(shape, device=device)
        self.counts = torch.zeros(shape[0], dtype=torch.int64)  # on the host: the bias correction needs it

    def change(self, row: int, gradient: Float[Tensor, "*row"], lr: float) -> Float[Tensor, "*row"]:
        """What to add to the row; takes the gradient into the row's moments."""
        self.counts[row] += 1
        count = int(self.counts[row])
        mean = self.mean[row].lerp_(gradient, 1 - BETA1)
        square = self.square[row].lerp_(gradient * gradient, 1 - BETA2)
        unbiased = (square / (1 - BETA2**count)).sqrt_()
        return mean / (unbiased + EPS) * (-lr / (1 - BETA1**count))

    def state(self) -> dict[str, Tensor]:
        """Moments and counts, copied."""
        return {name: getattr(self, name).clone() for name in ("mean", "square", "counts")}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned.

        Raises:
            WorkspaceError: it belongs to a table of another shape.
        """
        for name in ("mean", "square", "counts"):
            copy_into(getattr(self, name), state[name])


def copy_into(table: Tensor, stored: Tensor) -> None:
    """Overwrite `table` in place with what a checkpoint holds, on whichever device.

    Raises:
        WorkspaceError: it has another shape.
    """
    if table.shape != stored.shape:
        raise WorkspaceError(
            "a checkpoint holds corrections of other views",
            got=f"a table of {list(stored.shape)}",
            expected=list(table.shape),
            hint="remove checkpoint.pt of the train stage, so that training starts anew",
        )
    table.copy_(stored)
