from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from gsplat.strategy import ops
from hypothesis import given, settings
from hypothesis import strategies as st

from spaceport_lab.params import TrainParams
from spaceport_lab.train import checkpoint, densify, schedules
from spaceport_lab.train.densify import mcmc as mcmc_module
from spaceport_lab.train.densify.adc import _share_opacity
from spaceport_lab.train.densify.record import quantiles
from spaceport_lab.train.schedules import Growth, Plan, Refinement, Resolution

ALWAYS = Refinement(start=0, stop=10**9, every=1, reset_every=10**9)


STEEP = Growth(40, 10**8, Refinement(0, 2, 1, 10**9), Resolution(((0, 1.0),)))
"""Whatever the cap allows, at once."""


def planned(refinement: Refinement = ALWAYS, growth: Growth | None = None) -> Plan:
    """A plan with this densification and growth."""
    plan = schedules.plan(TrainParams(), 1.0, 480, 40, {})
    return dataclasses.replace(plan, refinement=refinement, growth=growth or plan.growth)


def make(n: int = 40, seed: int = 0) -> tuple[dict, dict]:
    """Splats and optimisers that have taken one step."""
    g = torch.Generator().manual_seed(seed)
    shapes = {"means": (3,), "scales": (3,), "quats": (4,), "opacities": (), "sh0": (1, 3), "shN": (15, 3)}
    splats = {k: torch.nn.Parameter(torch.randn(n, *shape, generator=g)) for k, shape in shapes.items()}
    optimizers = checkpoint.make_optimizers(splats)
    for name, values in splats.items():
        values.grad = torch.randn(values.shape, generator=g)
        optimizers[name].step()
        optimizers[name].zero_grad()
    return splats, optimizers


def seen(gradients: torch.Tensor) -> dict:
    """What the rasterizer hands over when each Gaussian was seen with the given gradient (device units)."""
    means2d = torch.zeros(1, len(gradients), 2, requires_grad=True)
    means2d.grad = torch.stack([gradients, torch.zeros_like(gradients)], dim=1)[None] / 32
    return {
        "means2d": means2d, "radii": torch.ones(1, len(gradients), 2, dtype=torch.int32), "width": 64,
        "height": 48, "n_cameras": 1, "gaussian_ids": None,
    }  # fmt: skip


def slow_divided(opacity: float, scale: float, copies: int) -> tuple[float, float]:
    """Equation 9 of 3DGS-MCMC, term by term."""
    new = 1 - (1 - opacity) ** (1 / copies)
    total = sum(
        math.comb(i - 1, k) * (-1) ** k / math.sqrt(k + 1) * new ** (k + 1)
        for i in range(1, copies + 1)
        for k in range(i)
    )
    return new, opacity / total * scale


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0.006, 0.995), st.integers(1, 51)), min_size=1, max_size=6))
def test_divided_is_equation_9(cases: list[tuple[float, int]]) -> None:
    opacities = torch.tensor([c[0] for c in cases], dtype=torch.float64)
    scales = torch.linspace(0.1, 2, 3, dtype=torch.float64).repeat(len(cases), 1)
    new, sizes = mcmc_module.divided(opacities, scales, torch.tensor([c[1] for c in cases]))
    for i, (opacity, copies) in enumerate(cases):
        expected, first = slow_divided(opacity, 0.1, copies)
        assert float(new[i]) == pytest.approx(expected, rel=1e-9)
        assert float(sizes[i, 0]) == pytest.approx(first, rel=1e-6)


def test_divided_gaussians_look_as_the_one_did() -> None:
    opacity, sigma = torch.tensor([0.7]), torch.tensor([[1.0, 1.0, 1.0]])
    new, sizes = mcmc_module.divided(opacity, sigma, torch.tensor([4]))
    x = torch.linspace(-6, 6, 2001)
    one = opacity * torch.exp(-(x**2) / 2)
    four = 1 - (1 - new * torch.exp(-(x**2) / (2 * sizes[0, 0] ** 2))) ** 4
    assert float(four.max()) == pytest.approx(float(one.max()), abs=1e-5)
    assert float(four.sum()) == pytest.approx(float(one.sum()), rel=1e-4)


def test_adc_counts_what_it_does() -> None:
    splats, optimizers = make()
    splats["opacities"].data.fill_(1.0)
    splats["opacities"].data[:5] = -9.0
    splats["scales"].data[:20] = math.log(0.001)
    splats["scales"].data[20:] = math.log(0.5)
    p = TrainParams(grow_grad2d=0.5, percent_dense=0.01)
    adc = densify.Adc(p, planned(), scene_scale=1.0, cap=1000)
    gradients = torch.zeros(40)
    gradients[[10, 11, 30]] = torch.tensor([1.0, 2.0, 3.0])
    refined = adc.after_backward(splats, optimizers, 1, seen(gradients), 0.0)
    assert (refined.above, refined.cloned, refined.split, refined.pruned) == (3, 2, 1, 5)
    assert (refined.n_before, refined.n_gaussians) == (40, 38) == (40, len(splats["means"]))
    assert refined.gradients["max"] == pytest.approx(3)
    assert refined.gradients["p50"] == 0
    assert all(len(o.state[splats[k]]["exp_avg"]) == 38 for k, o in optimizers.items())


def test_adc_takes_the_largest_gradients_under_the_cap() -> None:
    splats, optimizers = make()
    splats["opacities"].data.fill_(1.0)
    splats["scales"].data.fill_(math.log(0.001))
    adc = densify.Adc(TrainParams(grow_grad2d=0.5), planned(), scene_scale=1.0, cap=43)
    refined = adc.after_backward(splats, optimizers, 1, seen(torch.arange(40) + 1.0), 0.0)
    assert refined.above == 40
    assert refined.cloned == 3
    assert len(splats["means"]) == 43
    assert refined.threshold == pytest.approx(37)
    torch.testing.assert_close(splats["means"][40:], splats["means"][37:40])
    assert adc.grow_grad2d == 0.5
    assert adc.after_backward(splats, optimizers, 2, seen(torch.ones(43)), 0.0).cloned == 0


def test_two_are_as_opaque_as_the_one_was() -> None:
    splats, optimizers = make()
    splats["scales"].data[:20] = math.log(0.001)
    splats["scales"].data[20:] = math.log(0.5)
    before = torch.sigmoid(splats["opacities"].detach().clone())
    gradients = torch.zeros(40)
    gradients[[3, 30]] = 1.0
    p = TrainParams(grow_grad2d=0.5, prune_opa=0.0)
    adc = densify.Adc(p, planned(), scene_scale=1.0, cap=1000)
    refined = adc.after_backward(splats, optimizers, 1, seen(gradients), 0.0)
    assert (refined.cloned, refined.split) == (1, 1)
    after = torch.sigmoid(splats["opacities"].detach())
    # Kept in order, then the clone, then the second half of the split one.
    clone, half = after[-2:]
    assert 1 - (1 - clone) ** 2 == pytest.approx(float(before[3]), abs=1e-5)
    assert float(after[3]) == pytest.approx(float(clone))
    assert 1 - (1 - after[30]) * (1 - half) == pytest.approx(float(before[30]), abs=1e-5)
    untouched = [i for i in range(40) if i not in (3, 30)]
    torch.testing.assert_close(after[untouched], before[untouched])


@pytest.mark.parametrize("revised", [False, True])
def test_growth_is_that_of_gsplat(revised: bool) -> None:
    """The same Gaussians with the same memory, whatever their order."""
    results = []
    for ours in (True, False):
        torch.manual_seed(3)
        splats, optimizers = make()
        splats["scales"].data[:20] = math.log(0.001)
        splats["scales"].data[20:] = math.log(0.5)
        for name, values in splats.items():
            values.grad = torch.ones_like(values)
            optimizers[name].step()
        gradients = torch.zeros(40)
        gradients[[3, 7, 30, 33, 39]] = 1.0
        p = TrainParams(grow_grad2d=0.5, prune_opa=0.0, revised_opacity=revised)
        adc = densify.Adc(p, planned(), scene_scale=1.0, cap=1000)
        torch.manual_seed(4)
        if ours:
            adc.after_backward(splats, optimizers, 1, seen(gradients), 0.0)
        else:
            small = (gradients > 0.5) & (torch.arange(40) < 20)
            large = (gradients > 0.5) & (torch.arange(40) >= 20)
            if revised:
                _share_opacity(splats["opacities"].data, small)
            ops.duplicate(splats, optimizers, {}, small)
            ops.split(splats, optimizers, {}, torch.cat([large, torch.zeros(2, dtype=torch.bool)]), revised)
        tables = [*splats.values()]
        for name, values in splats.items():
            tables += [optimizers[name].state[values][moment] for moment in ("exp_avg", "exp_avg_sq")]
        rows = torch.cat([table.detach().reshape(len(table), -1) for table in tables], dim=1).numpy()
        results.append(rows[np.lexsort(rows.T[::-1])])
    assert results[0].shape[0] == 45
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1.0, 0.25])
def test_the_automatic_threshold_meets_the_plan(size: float) -> None:
    """Whatever the gradients are worth: at another resolution all of them are larger or smaller."""
    splats, optimizers = make()
    splats["opacities"].data.fill_(1.0)
    splats["scales"].data.fill_(math.log(0.001))
    at_once = Refinement(start=0, stop=3, every=1, reset_every=10**9)
    growth = Growth(40, 60, at_once, Resolution(((0, 1.0),)))
    adc = densify.Adc(TrainParams(), planned(at_once, growth), scene_scale=1.0, cap=1000)
    first = adc.after_backward(splats, optimizers, 1, seen(size * (torch.arange(40) + 1.0)), 0.0)
    assert (first.target, first.above, first.n_gaussians) == (50, 10, 50)
    assert first.threshold == pytest.approx(30 * size)
    second = adc.after_backward(splats, optimizers, 2, seen(size * (torch.arange(50) + 1.0)), 0.0)
    assert (second.target, second.n_gaussians) == (60, 60)


def test_the_automatic_threshold_never_grows_from_nothing() -> None:
    splats, optimizers = make()
    growth = Growth(40, 400, ALWAYS, Resolution(((0, 1.0),)))
    adc = densify.Adc(TrainParams(), planned(growth=growth), scene_scale=1.0, cap=1000)
    refined = adc.after_backward(splats, optimizers, 10**9 - 1, seen(torch.zeros(40)), 0.0)
    assert (refined.above, refined.cloned, refined.split) == (0, 0, 0)


def test_gradients_of_shown_rows_reach_their_gaussians() -> None:
    splats, _ = make()
    adc = densify.Adc(TrainParams(), planned(), scene_scale=1.0, cap=1000)
    ids = torch.tensor([3, 7, 30])
    info = {**seen(torch.tensor([1.0, 0.0, 3.0])), "gaussian_ids": ids}
    info["radii"][0, 1] = 0
    for _ in range(2):
        adc._update_state(splats, adc.state, info)
    assert adc.state["grad2d"].nonzero()[:, 0].tolist() == [3, 30]
    torch.testing.assert_close(adc.state["grad2d"][ids], torch.tensor([2.0, 0.0, 6.0]))
    assert adc.state["count"][ids].tolist() == [2, 0, 2]


def test_adc_resets_opacities() -> None:
    splats, optimizers = make()
    schedule = Refinement(start=100, stop=1000, every=100, reset_every=10)
    adc = densify.Adc(TrainParams(), planned(schedule), scene_scale=1.0, cap=1000)
    adc.after_backward(splats, optimizers, 9, seen(torch.zeros(40)), 0.0)
    assert torch.sigmoid(splats["opacities"]).max() > 0.5
    refined = adc.after_backward(splats, optimizers, 10, seen(torch.zeros(40)), 0.0)
    assert refined.reset
    assert torch.sigmoid(splats["opacities"]).max() <= 0.01 + 1e-6
    assert optimizers["opacities"].state[splats["opacities"]]["exp_avg"].abs().max() == 0


@pytest.mark.parametrize(("backdrop", "left"), [(True, 40), (False, 39)])
def test_after_a_reset_the_ground_that_was_laid_is_not_pruned_for_its_size(backdrop: bool, left: int) -> None:
    splats, optimizers = make()
    splats["opacities"].data.fill_(1.0)
    splats["scales"].data.fill_(math.log(0.001))
    splats["scales"].data[7] = math.log(5.0)
    schedule = Refinement(start=0, stop=1000, every=11, reset_every=10)
    adc = densify.Adc(TrainParams(backdrop=backdrop), planned(schedule), scene_scale=1.0, cap=1000)
    adc.after_backward(splats, optimizers, 11, seen(torch.zeros(40)), 0.0)
    assert len(splats["means"]) == left


def test_adc_without_resets_never_resets() -> None:
    splats, optimizers = make()
    before = splats["opacities"].detach().clone()
    never = dataclasses.replace(ALWAYS, start=10**9, reset_every=0)
    adc = densify.Adc(TrainParams(), planned(never), scene_scale=1.0, cap=1000)
    for done in range(1, 30):
        adc.after_backward(splats, optimizers, done, seen(torch.zeros(40)), 0.0)
    assert torch.equal(splats["opacities"], before)


def test_adc_never_prunes_everything() -> None:
    splats, optimizers = make()
    splats["opacities"].data.fill_(-20.0)
    adc = densify.Adc(TrainParams(), planned(), scene_scale=1.0, cap=1000)
    assert adc.after_backward(splats, optimizers, 1, seen(torch.zeros(40)), 0.0).pruned == 0
    assert len(splats["means"]) == 40


def test_mcmc_relocates_the_dead_and_adds_up_to_the_cap() -> None:
    torch.manual_seed(0)
    splats, optimizers = make(100)
    splats["opacities"].data.fill_(1.0)
    splats["opacities"].data[:10] = -9.0
    before = {name: values.detach().clone() for name, values in splats.items()}
    mcmc = densify.Mcmc(
        TrainParams(strategy="mcmc", mcmc_noise=0.0), planned(growth=STEEP), scene_scale=1.0, cap=103
    )
    refined = mcmc.after_backward(splats, optimizers, 1, {"gaussian_ids": None}, 1e-4)
    assert (refined.relocated, refined.added, refined.n_gaussians) == (10, 3, 103)
    assert {len(values) for values in splats.values()} == {103}
    assert torch.sigmoid(splats["opacities"]).min() > 0.005
    alive = {tuple(row) for row in before["means"][10:].tolist()}
    assert all(tuple(row) in alive for row in splats["means"].tolist())
    for name, optimizer in optimizers.items():
        assert optimizer.state[splats[name]]["exp_avg"].shape == splats[name].shape
        assert not optimizer.state[splats[name]]["exp_avg"][100:].any()
        assert optimizer.param_groups[0]["params"][0] is splats[name]
    assert mcmc.after_backward(splats, optimizers, 2, {"gaussian_ids": None}, 1e-4).added == 0


def test_mcmc_follows_the_plan_and_at_most_doubles() -> None:
    torch.manual_seed(0)
    splats, optimizers = make(100)
    splats["opacities"].data.fill_(1.0)
    growth = Growth(100, 130, Refinement(0, 3, 1, 10**9), Resolution(((0, 1.0),)))
    p = TrainParams(strategy="mcmc")
    mcmc = densify.Mcmc(p, planned(growth=growth), scene_scale=1.0, cap=1000)
    refined = mcmc.after_backward(splats, optimizers, 1, {"gaussian_ids": None}, 1e-4)
    assert (refined.target, refined.added) == (115, 15)
    steep = densify.Mcmc(p, planned(growth=STEEP), scene_scale=1.0, cap=1000)
    assert steep.after_backward(splats, optimizers, 1, {"gaussian_ids": None}, 1e-4).added == 115


def test_mcmc_noise_has_the_shape_of_the_gaussian() -> None:
    torch.manual_seed(0)
    n = 20_000
    splats, _ = make(n)
    splats["quats"].data[:] = torch.tensor([0.9, 0.1, -0.3, 0.2])
    splats["scales"].data[:] = torch.log(torch.tensor([0.5, 0.1, 0.02]))
    splats["opacities"].data[: n // 2] = -12.0
    splats["opacities"].data[n // 2 :] = 4.0
    before = splats["means"].detach().clone()
    mcmc_module.add_noise(splats, 0.1)
    moved = (splats["means"].detach() - before).double()
    w, x, y, z = (splats["quats"][0] / splats["quats"][0].norm()).double().tolist()
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    covariance = rotation @ np.diag([0.25, 0.01, 0.0004]) @ rotation.T
    faint = 1 / (1 + math.exp(-100 * 0.005))
    expected = (faint * 0.1) ** 2 * covariance @ covariance
    np.testing.assert_allclose(np.cov(moved[: n // 2].T.numpy()), expected, atol=0.03 * expected.max())
    assert moved[n // 2 :].abs().max() < 1e-9


def test_quantiles_of_nothing() -> None:
    assert set(quantiles(torch.zeros(0)).values()) == {0.0}
    assert quantiles(torch.arange(101.0))["p90"] == 90
