from __future__ import annotations

import numpy as np
import torch
from splats import random_splat

from spaceport_lab.backends import take_rows
from spaceport_lab.params import TrainParams
from spaceport_lab.train import densify, loop, schedules, shown
from spaceport_lab.train.checkpoint import Counters, State, make_optimizers
from spaceport_lab.train.photos import View
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


def make_view() -> View:
    """Of a part of what `make_state` made."""
    viewmat = torch.eye(4)[None].clone()
    viewmat[0, 2, 3] = 2.0
    K = torch.tensor([[[60.0, 0, 24], [0, 60, 16], [0, 0, 1]]])
    return View(torch.full((32, 48, 3), 128, dtype=torch.uint8), None, viewmat, K, (48, 32))


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


def test_what_rests_is_shown_and_stays() -> None:
    """A step that leaves a field as it is moves the others as one that does not."""
    moved, rested = make_state(300), make_state(300)
    view, states = make_view(), []
    for state, resting in ((moved, ()), (rested, ("shN",))):
        for optimizer in state.optimizers.values():
            optimizer.param_groups[0]["lr"] = 0.01
            moments = optimizer.state[optimizer.param_groups[0]["params"][0]]
            moments["exp_avg"].zero_()
            moments["exp_avg_sq"].fill_(1.0)
            moments["settled"].fill_(moments["step"])
        states.append({name: values.detach().clone() for name, values in state.splats.items()})
        seen = shown.take(state, view, view.viewmat, 3, 0.3, resting)
        assert 0 < seen.n < state.n
        assert torch.equal(seen.splats["shN"], state.splats["shN"].detach()[seen.rows])
        renders, _ = loop.render(seen, view, view.viewmat, 3, 0.3, 0.0, TrainParams(), "cpu")
        loop.compare(renders, view, TrainParams()).backward()
        assert (seen.splats["shN"].grad is None) == (resting == ("shN",))
        assert shown.step(seen, state)
    for name, before in states[0].items():
        assert torch.equal(before, states[1][name])
        if name == "shN":
            assert torch.equal(rested.splats[name], before)
            assert not torch.equal(moved.splats[name], before)
        else:
            assert torch.equal(moved.splats[name], rested.splats[name])
            assert not torch.equal(moved.splats[name], before)


def test_bands_that_rested_are_settled_by_their_own_steps() -> None:
    state = make_state(50)
    optimizer = state.optimizers["shN"]
    values, rows = state.splats["shN"], torch.arange(50)
    before = values.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.01
    (taken,) = take_rows([optimizer], rows, [None], [True])
    assert torch.equal(taken, before)
    assert torch.equal(values, before), "what was only looked at is where it was"
