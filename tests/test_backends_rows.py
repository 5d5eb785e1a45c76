from __future__ import annotations

import numpy as np
import pytest
import torch
from gsplat.strategy import ops
from hypothesis import given, settings
from hypothesis import strategies as st

from spaceport_lab import backends
from spaceport_lab.backends import DeferredAdam, add_lengths, rows_in_view, step_rows, take_rows
from spaceport_lab.kernels import adam


def random_gaussians(n: int, seed: int, spread: float = 6.0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "means": torch.randn(n, 3, generator=g) * spread,
        "quats": torch.randn(n, 4, generator=g),
        "scales": torch.randn(n, 3, generator=g) - 1.5,
        "opacities": torch.rand(n, generator=g),
        "colors": torch.rand(n, 3, generator=g),
    }


def camera(seed: int, focal: float) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=g))[0]
    viewmat = torch.eye(4)
    viewmat[:3, :3] = rotation * torch.linalg.det(rotation)
    viewmat[:3, 3] = torch.randn(3, generator=g) * 3
    return viewmat, torch.tensor([[focal, 0, 30.0], [0, focal * 1.1, 25.0], [0, 0, 1.0]])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    focal=st.floats(8, 400),
    n=st.integers(0, 300),
    eps2d=st.sampled_from([0.3, 20]),
)
def test_what_is_left_out_could_not_be_seen(seed: int, focal: float, n: int, eps2d: float) -> None:
    g = random_gaussians(n, seed)
    viewmat, K = camera(seed, focal)
    rows = rows_in_view(g["means"], g["scales"], viewmat, K, 64, 48, eps2d=eps2d)
    assert torch.equal(rows, rows.unique())

    def render(part: dict) -> torch.Tensor:
        return backends.rasterize(
            part["means"], part["quats"], part["scales"].exp(), part["opacities"], part["colors"],
            viewmat[None], K[None], 64, 48, eps2d=eps2d,
        )[0]  # fmt: skip

    assert torch.equal(render(g), render({name: values[rows] for name, values in g.items()}))


def test_most_of_a_wide_scene_is_left_out() -> None:
    g = random_gaussians(20_000, 1, spread=50.0)
    viewmat, K = camera(3, 100.0)
    _, _, info = backends.rasterize(
        g["means"], g["quats"], g["scales"].exp(), g["opacities"], g["colors"], viewmat[None], K[None], 64, 48
    )
    n_seen = int((info["radii"][0] > 0).all(dim=1).sum())
    n_rows = len(rows_in_view(g["means"], g["scales"], viewmat, K, 64, 48))
    assert 0 < n_seen <= n_rows < 2 * n_seen + 50 < 10_000


@pytest.mark.parametrize("width", [1, 3, 16, 45])
def test_deferred_adam_is_adam(width: int) -> None:
    torch.manual_seed(0)
    n, steps = 40, 700
    ours = torch.nn.Parameter(torch.randn(n, width))
    theirs = torch.nn.Parameter(ours.detach().clone())
    deferred = DeferredAdam([ours], lr=1e-2)
    dense = torch.optim.Adam([theirs], lr=1e-2, eps=1e-15)
    # Some rows are needed at nearly every step, some a few times, one never.
    often = torch.linspace(0, 1, n) ** 4
    for _ in range(steps):
        rows = (torch.rand(n) < often).nonzero()[:, 0]
        gradients = torch.randn(len(rows), width) + 1
        theirs.grad = torch.zeros(n, width)
        theirs.grad[rows] = gradients
        dense.step()
        take_rows([deferred], rows, [None])
        step_rows([deferred], rows, [gradients])
    assert not torch.allclose(ours, theirs, atol=1e-4), "rows that wait are behind"
    deferred.settle()
    torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=1e-4)
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(
            deferred.state[ours][name], dense.state[theirs][name], atol=1e-6, rtol=1e-3, msg=name
        )
    before = ours.detach().clone()
    deferred.settle()
    assert torch.equal(before, ours)


def test_taken_rows_are_up_to_date_copies() -> None:
    torch.manual_seed(1)
    values = torch.nn.Parameter(torch.randn(10, 2, 3))
    optimizer = DeferredAdam([values], lr=0.1)
    rows = torch.tensor([2, 7])
    take_rows([optimizer], rows, [None])
    step_rows([optimizer], rows, [torch.ones(2, 2, 3)])
    for _ in range(5):
        step_rows([optimizer], torch.tensor([0]), [torch.ones(1, 2, 3)])
    stale = values[2].detach().clone()
    (taken,) = take_rows([optimizer], rows, [None])
    assert taken.shape == (2, 2, 3)
    assert not torch.equal(taken[0], stale)
    assert torch.equal(taken, values.detach()[rows])
    taken += 1
    assert not torch.equal(taken, values.detach()[rows])


@pytest.mark.parametrize("used", [0, 3, 15])
def test_numbers_without_gradients_stay(used: int) -> None:
    values = torch.nn.Parameter(torch.ones(4, 15, 3))
    optimizer = DeferredAdam([values], lr=0.1)
    rows = torch.arange(4)
    for _ in range(3):
        (taken,) = take_rows([optimizer], rows, [used])
        assert torch.equal(taken, values.detach()[:, :used])
        step_rows([optimizer], rows, [torch.ones(4, used, 3)])
    assert torch.all(values[:, :used] != 1)
    assert torch.all(values[:, used:] == 1)
    # What had none until now learns like the rest from then on.
    for _ in range(2):
        take_rows([optimizer], rows, [None])
        step_rows([optimizer], rows, [torch.ones(4, 15, 3)])
    optimizer.settle()
    assert torch.all(values[:, used:] < 1)


@pytest.mark.parametrize("width", [1, 3, 16, 45])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_tells_of_numbers_that_are_none(width: int, bad: float) -> None:
    values = torch.nn.Parameter(torch.ones(50, width))
    optimizer = DeferredAdam([values], lr=0.1)
    rows = torch.arange(0, 50, 2)
    gradients = torch.ones(len(rows), width)
    take_rows([optimizer], rows, [None])
    assert step_rows([optimizer], rows, [gradients])
    gradients[17, width - 1] = bad
    take_rows([optimizer], rows, [None])
    assert not step_rows([optimizer], rows, [gradients])
    assert torch.isnan(values[34, width - 1])
    assert int(torch.isnan(values).sum()) == 1


@pytest.mark.parametrize("n", [0, 1, 50, 9000])
def test_lengths_of_gradients_are_added_up(n: int) -> None:
    g = torch.Generator().manual_seed(n)
    rows = torch.randperm(2 * n, generator=g)[:n]
    radii = torch.randint(0, 3, (n, 2), generator=g, dtype=torch.int32)
    gradients = torch.randn(n, 2, generator=g)
    sums, counts = torch.rand(2 * n, generator=g), torch.rand(2 * n, generator=g)
    expected = sums.clone(), counts.clone()
    expected[0][rows] += (gradients * torch.tensor([3.0, 0.5])).norm(dim=1)
    expected[1][rows] += (radii > 0).all(dim=1)
    add_lengths(sums, counts, rows, radii, gradients, (3.0, 0.5))
    torch.testing.assert_close(sums, expected[0])
    assert torch.equal(counts, expected[1])
    all_rows = torch.zeros(n), torch.zeros(n)
    add_lengths(*all_rows, None, radii, gradients, (3.0, 0.5))
    torch.testing.assert_close(all_rows[0], (gradients * torch.tensor([3.0, 0.5])).norm(dim=1))


def test_gsplat_grows_and_prunes_its_state() -> None:
    torch.manual_seed(2)
    names = ("means", "scales", "quats", "opacities")
    shapes = {"means": (6, 3), "scales": (6, 3), "quats": (6, 4), "opacities": (6,)}
    splats = {name: torch.nn.Parameter(torch.randn(shapes[name])) for name in names}
    optimizers = {name: DeferredAdam([{"params": [splats[name]], "name": name}], lr=0.01) for name in names}
    rows = torch.arange(6)
    both = list(optimizers.values())
    take_rows(both, rows, [None] * 4)
    step_rows(both, rows, [torch.ones(shapes[name]) for name in names])
    ops.duplicate(splats, optimizers, {}, torch.tensor([True, False, False, False, False, True]))
    ops.remove(splats, optimizers, {}, torch.tensor([False, True] + [False] * 6))
    for name in names:
        state = optimizers[name].state[splats[name]]
        assert len(splats[name]) == len(state["exp_avg"]) == len(state["settled"]) == 7
        assert state["step"] == 1
    rows = torch.arange(7)
    take_rows(both, rows, [None] * 4)
    step_rows(both, rows, [torch.ones(splats[name].shape) for name in names])
    for name in names:
        assert torch.isfinite(splats[name]).all()


def test_sums_of_momentum_by_hand() -> None:
    beta1, beta2, now = 0.9, 0.999, 450
    r = beta1 / beta2**0.5

    def by_hand(last: int, until: int) -> float:
        return sum(adam.bias(last + j, beta1, beta2) * r**j for j in range(1, until - last + 1))

    recent = adam.recent_sums(now, beta1, beta2)
    for ago in (0, 1, 2, 17, 320):
        assert recent[ago] == pytest.approx(by_hand(now - ago, now), rel=1e-6)
    whole = adam.whole_sums(500, beta1, beta2)
    for last in (0, 1, 80, 499):
        assert whole[last] == pytest.approx(by_hand(last, last + 400), rel=1e-5)
    assert np.isfinite(adam.recent_sums(1, beta1, beta2)).all()


def test_other_kinds_of_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match="contiguous float32"):
        DeferredAdam([torch.nn.Parameter(torch.zeros(4, 3).double())]).settle()
