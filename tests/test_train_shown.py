from __future__ import annotations

import numpy as np
import torch
from splats import random_splat

from spaceport_lab.params import TrainParams
from spaceport_lab.train import densify, schedules, shown
from spaceport_lab.train.checkpoint import Counters, State, make_optimizers
from spaceport_lab.train.starting import FIELDS


def make_state(n: int) -> State:
    """Gaussians of which every number, moment and statistic tells whose it is."""
    splat = random_splat(n)
    splats = {name: torch.nn.Parameter(torch.tensor(getattr(splat, name))) for name in FIELDS}
    p = TrainParams()
    strategy = densify.make(p, schedules.plan(p, 1.0, 100, n, {}), 1.0, n)
    state = State(splats, make_optimizers(splats), strategy, Counters())
    for optimizer in state.optimizers.values():
        values = optimizer.param_groups[0]["params"][0]
        values.grad = torch.zeros_like(values)
        optimizer.step()
        for moment in ("exp_avg", "exp_avg_sq"):
            optimizer.state[values][moment].copy_(values.detach() * 3)
        optimizer.state[values]["settled"].copy_(values.detach().reshape(n, -1)[:, 0])
    strategy.state["grad2d"] = splats["opacities"].detach() + 1
    strategy.state["count"] = splats["opacities"].detach() + 2
    state.sh_degrees = (torch.arange(n) % 4).to(torch.uint8)
    splats["quats"].data[:, 0] = state.sh_degrees.float()
    return state


def test_neighbours_in_space_lie_side_by_side_and_nobody_loses_what_is_theirs() -> None:
    state = make_state(700)
    before = state.splats["means"].detach().clone()
    parameters = dict(state.splats)
    shown.arrange(state)

    after = state.splats["means"].detach()
    steps = [float((means[1:] - means[:-1]).norm(dim=1).mean()) for means in (before, after)]
    assert steps[1] < 0.4 * steps[0]
    whose = [int((before == row).all(dim=1).nonzero()[0, 0]) for row in after]
    assert sorted(whose) == list(range(700))
    for name, values in state.splats.items():
        assert values is parameters[name], "optimisers and strategies know the parameters themselves"
        moments = state.optimizers[name].state[values]
        if name != "quats":  # their first numbers were written over
            assert torch.equal(moments["exp_avg"], values * 3)
            assert torch.equal(moments["exp_avg_sq"], values * 3)
            assert torch.equal(moments["settled"], values.detach().reshape(700, -1)[:, 0])
    for name, added in (("grad2d", 1), ("count", 2)):
        assert torch.equal(state.strategy.state[name], state.splats["opacities"] + added)
    np.testing.assert_array_equal(state.sh_degrees.numpy(), state.splats["quats"].detach()[:, 0].numpy())


def test_arranging_twice_changes_nothing() -> None:
    state = make_state(90)
    shown.arrange(state)
    once = {name: values.detach().clone() for name, values in state.splats.items()}
    shown.arrange(state)
    assert all(torch.equal(once[name], values) for name, values in state.splats.items())
    assert state.strategy.state["scene_scale"] == 1.0
