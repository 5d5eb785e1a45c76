from __future__ import annotations

import numpy as np
import pytest
import scenes
import torch

from spaceport_lab import backends
from spaceport_lab.params import TrainParams
from spaceport_lab.train import checkpoint, compacting, densify, schedules
from spaceport_lab.train.checkpoint import Counters, State


def make_state(n: int = 80) -> State:
    g = scenes.make_gaussians(n, np.random.default_rng(0))
    names = ("means", "scales", "quats", "opacities", "sh0")
    splats = {name: torch.nn.Parameter(torch.tensor(getattr(g, name))) for name in names}
    torch.manual_seed(0)
    splats["shN"] = torch.nn.Parameter(torch.randn(n, 15, 3) * torch.logspace(-4, 0, n)[:, None, None])
    plan = schedules.plan(TrainParams(), 1.0, 48, n, {})
    return State(
        splats, checkpoint.make_optimizers(splats), densify.make(TrainParams(), plan, 1.0, 1000), Counters()
    )


def picture(state: State, cameras, index: int, without: int | None = None) -> np.ndarray:
    """The picture of a view in float64, without one Gaussian if asked."""
    s = {name: values.detach().clone() for name, values in state.splats.items()}
    if without is not None:
        s["opacities"][without] = -100.0
    render, _, _ = backends.rasterize(
        s["means"], s["quats"], s["scales"].exp(), s["opacities"].sigmoid(), (s["sh0"], s["shN"]),
        torch.tensor(cameras.viewmats[index][None], dtype=torch.float32),
        torch.tensor(cameras.Ks[index][None], dtype=torch.float32), 64, 48, sh_degree=3,
    )  # fmt: skip
    return render[0].numpy().astype(np.float64)


def test_significance_is_what_the_pictures_lose() -> None:
    state, cameras = make_state(), scenes.make_cameras(3, 64, 48)
    full = [picture(state, cameras, i) for i in range(3)]
    lost = np.array([
        sum(((picture(state, cameras, i, gaussian) - full[i]) ** 2).sum() for i in range(3))
        for gaussian in range(state.n)
    ])  # fmt: skip
    worth = compacting.significance(state.splats, cameras, "cpu", looks=3000)
    assert worth.shape == (80,)
    assert not worth.requires_grad
    seen = lost > 1e-3
    assert seen.sum() > 40
    np.testing.assert_allclose(worth.numpy()[seen], lost[seen], rtol=0.15)
    before = torch.get_rng_state()
    few = compacting.significance(state.splats, cameras, "cpu")
    assert torch.equal(few, compacting.significance(state.splats, cameras, "cpu"))
    assert torch.equal(before, torch.get_rng_state())
    orders = [np.argsort(np.argsort(values[seen])) for values in (few.numpy(), lost)]
    assert np.corrcoef(*orders)[0, 1] > 0.95


def test_what_looks_like_what_it_hides_is_not_significant() -> None:
    """A large Gaussian in front of others of its colour fills the picture, and is not needed."""
    state, cameras = make_state(2), scenes.make_cameras(1, 64, 48)
    s = state.splats
    forward = torch.tensor(cameras.viewmats[0][2, :3], dtype=torch.float32)
    center = torch.tensor(cameras.centers[0], dtype=torch.float32)
    s["means"].data = torch.stack([center + 4 * forward, center + 5 * forward])
    s["scales"].data = torch.tensor([[-1.0] * 3, [3.0] * 3])
    s["opacities"].data[:] = 3.0
    s["shN"].data.zero_()
    s["sh0"].data[:] = 0.5
    alike = compacting.significance(s, cameras, "cpu")
    s["sh0"].data[0] = -0.5
    other = compacting.significance(s, cameras, "cpu")
    assert float(alike[0]) < 0.05 * float(other[0])
    assert float(alike[1]) > float(alike[0])


def test_what_no_view_shows_is_left_alone() -> None:
    state, cameras = make_state(), scenes.make_cameras(3, 64, 48)
    state.splats["means"].data[:5] += 1000
    assert torch.isinf(compacting.significance(state.splats, cameras, "cpu")).nonzero()[:, 0].tolist() == [
        0, 1, 2, 3, 4
    ]  # fmt: skip
    assert compacting.prune(state, 0.99, cameras, "cpu").n_gaussians == 5


def test_the_least_significant_go_with_their_moments() -> None:
    state, cameras = make_state(), scenes.make_cameras(3, 64, 48)
    worth = compacting.significance(state.splats, cameras, "cpu")
    kept = state.splats["means"].detach()[worth >= worth.sort().values[60]]
    state.sh_degrees = torch.arange(80, dtype=torch.uint8) % 4
    refined = compacting.prune(state, 0.75, cameras, "cpu")
    assert (refined.n_before, refined.pruned, refined.n_gaussians) == (80, 60, 20)
    torch.testing.assert_close(state.splats["means"].detach(), kept)
    assert len(state.sh_degrees) == 20
    for name, optimizer in state.optimizers.items():
        assert optimizer.param_groups[0]["params"][0] is state.splats[name]
    assert compacting.prune(state, 0.99, cameras, "cpu").n_gaussians <= 1 + 2


def test_bands_that_change_nothing_are_dropped() -> None:
    state = make_state()
    shN = state.splats["shN"].detach().clone()
    compacting.drop_bands(state, 2 / 255)
    degrees = state.sh_degrees
    assert set(degrees.tolist()) >= {0, 3}
    for i, degree in enumerate(degrees.tolist()):
        first = (degree + 1) ** 2 - 1
        assert not state.splats["shN"][i, first:].any()
        torch.testing.assert_close(state.splats["shN"][i, :first], shN[i, :first])
        dropped = shN[i, first:].square().sum(dim=0).max() / (4 * np.pi)
        assert float(dropped.sqrt()) < 2 / 255
        if degree:
            low = degree**2 - 1
            assert float((shN[i, low:].square().sum(dim=0).max() / (4 * np.pi)).sqrt()) >= 2 / 255


def test_the_change_of_colour_is_that_over_all_directions() -> None:
    """The root mean square of the dropped bands, over directions drawn evenly."""
    shN = torch.randn(1, 15, 3, generator=torch.Generator().manual_seed(1)) * 0.1
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(64, 3), dim=1)
    # The rasterizer is asked: one Gaussian seen from all around, with and without its bands.
    cameras = torch.eye(4).repeat(64, 1, 1)
    z = directions
    x = torch.nn.functional.normalize(torch.linalg.cross(z, torch.randn(64, 3)), dim=1)
    cameras[:, :3, :3] = torch.stack([x, torch.linalg.cross(z, x), z], dim=1)
    cameras[:, 2, 3] = 3.0
    K = torch.tensor([[40.0, 0, 8.5], [0, 40, 8.5], [0, 0, 1]]).repeat(64, 1, 1)
    colors = [torch.cat([torch.full((1, 1, 3), 2.0), rest], dim=1) for rest in (shN, torch.zeros_like(shN))]
    seen = [
        backends.rasterize(
            torch.zeros(1, 3), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 1.0), torch.tensor([0.9]),
            c, cameras, K, 17, 17, sh_degree=3,
        )[0][:, 8, 8] / 0.9
        for c in colors
    ]  # fmt: skip
    measured = (seen[0] - seen[1]).square().mean(dim=0).sqrt().max()
    predicted = (shN.square().sum(dim=1) / (4 * np.pi)).max().sqrt()
    assert float(measured) == pytest.approx(float(predicted), rel=0.25)
    assert int(compacting.needed_degrees(shN, float(predicted) * 1.01)[0]) == 0
    assert int(compacting.needed_degrees(shN, float(predicted) * 0.99)[0]) > 0
