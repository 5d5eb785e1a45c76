"""Cameras that move a little: a small rotation and translation of each training view, learned as well.

Structure from motion leaves errors of a pixel or so, more with a rolling shutter. The gradients of the
rasterizer by `viewmats` tell each training camera where to move. Held-out cameras are never moved, therefore
the mean of all movements is held at zero: the scene cannot slide or turn away under them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from spaceport_lab.errors import InputError
from spaceport_lab.train.row_adam import RowAdam, copy_into

TINY = 1e-20
"""Added to a squared angle, rad^2, so that its root has a slope where nothing is turned yet."""


class CameraRefinement:
    """A small movement of every training camera.

    Gradients and Adam's moments are in the camera's own axes, where depth, which photographs say least
    about, has a number of its own. Movements are kept in world axes, where their mean can be taken.

    Attributes:
        moves: [V, 6] in world axes: rotation vector of the camera in radians, displacement of its centre
            in world units; both have mean zero over the views.
        steps_done: finished steps.

    Args:
        n_views: training views.
        device: where the cameras are.
        scale: world units that centres move where cameras turn by one radian, such as the radius of the
            camera positions, so that the scene's unit does not matter.

    Raises:
        InputError: there are no views.
    """

    def __init__(self, n_views: int, device: torch.device, scale: float = 1.0) -> None:
        if n_views < 1:
            raise InputError("camera refinement needs at least one training view", got=n_views)
        self.moves = torch.zeros(n_views, 6, device=device)
        self.steps_done = 0
        self._adam = RowAdam((n_views, 6), device)
        self._units = torch.tensor([1.0] * 3 + [scale] * 3, device=device)
        self._drawn: dict[int, tuple[Tensor, Tensor]] = {}  # movement and axes of each drawn camera

    def apply(self, viewmat: Float[Tensor, "1 4 4"], index: int) -> Float[Tensor, "1 4 4"]:
        """World to camera `index` after its movement; exactly `viewmat` where it has not moved.

        The camera turns about its own centre. Differentiable; gradients of the movement wait for `step`.
        Under `torch.no_grad` none are kept.
        """
        if index in self._drawn and torch.is_grad_enabled():
            return moved(viewmat, self._drawn[index][0])
        axes = viewmat[0, :3, :3].detach()
        own = (self.moves[index].reshape(2, 3) @ axes.T).flatten()
        if torch.is_grad_enabled():
            self._drawn[index] = own.requires_grad_(), axes
        return moved(viewmat, own)

    @torch.no_grad()
    def step(self, done: int, rate: float) -> None:
        """Move the cameras drawn since the last step.

        Args:
            done: finished steps, this one included.
            rate: learning rate, radians a step.
        """
        for index, (own, axes) in self._drawn.items():
            if own.grad is not None:
                change = self._adam.change(index, own.grad, rate) * self._units
                self.moves[index] += (change.reshape(2, 3) @ axes).flatten()
        self._drawn.clear()
        self.moves -= self.moves.mean(0)
        self.steps_done = done

    def state(self) -> dict[str, Tensor]:
        """All that `load_state` needs to go on bit for bit: movements, moments, counts, finished steps."""
        return {
            "moves": self.moves.clone(), "steps_done": torch.tensor(self.steps_done), **self._adam.state(),
        }  # fmt: skip

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on where `state` was taken.

        Raises:
            WorkspaceError: it belongs to another number of views.
        """
        copy_into(self.moves, state["moves"])
        self._adam.load_state(state)
        self.steps_done = int(state["steps_done"])
        self._drawn.clear()

    def rows(self, names: Sequence[str], viewmats: Float[Tensor, "V 4 4"]) -> list[dict[str, str | float]]:
        """A table for people: how far each camera has moved.

        Args:
            names: of the training views, in their order.
            viewmats: their cameras before refinement, world to camera (tensor or numpy array).

        Returns:
            For every view `view`, `moved` and its parts along the camera's axes `right`, `down`, `forward`
            in world units, and `turned` in degrees.
        """
        moves = self.moves.double().cpu().reshape(-1, 2, 3)
        axes = torch.as_tensor(viewmats).double().cpu()[:, :3, :3]
        own = torch.einsum("vij,vj->vi", axes, moves[:, 1])
        return [
            {
                "view": name,
                "moved": float(shift.norm()),
                **dict(zip(("right", "down", "forward"), map(float, shift), strict=True)),
                "turned": float(torch.rad2deg(turn.norm())),
            }
            for name, shift, turn in zip(names, own, moves[:, 0], strict=True)
        ]


def moved(viewmat: Float[Tensor, "1 4 4"], own: Float[Tensor, "6"]) -> Float[Tensor, "1 4 4"]:
    """The camera turned by a rotation vector in radians and shifted, both in its own axes."""
    back = rotation(own[:3]).T
    turned = back @ viewmat[0, :3, :3]
    shifted = back @ (viewmat[0, :3, 3] - own[3:])
    return torch.cat([torch.cat([turned, shifted[:, None]], dim=1), viewmat[0, 3:]])[None]


def rotation(vector: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """The rotation about `vector` by its length in radians: Rodrigues' formula, exact and smooth at zero."""
    x, y, z = vector
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    turns = torch.sqrt((vector * vector).sum() + TINY) / torch.pi
    # sin(angle) / angle and (1 - cos(angle)) / angle^2, without the differences that lose digits.
    first, second = torch.sinc(turns), 0.5 * torch.sinc(turns / 2) ** 2
    return torch.eye(3, dtype=vector.dtype, device=vector.device) + first * cross + second * cross @ cross
