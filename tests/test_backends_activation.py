"""Raw parameters become scales and opacities as torch would have it, gradients included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_backends import make_scene

from spaceport_lab.backends import rasterize
from spaceport_lab.backends.activation import activate
from spaceport_lab.errors import BackendError
from spaceport_lab.kernels import render, threads

WIDTH, HEIGHT = 90, 70
VIEW = render.View(
    np.eye(4, dtype=np.float32).reshape(-1), np.array([50, 50, 45, 35], np.float32),
    np.zeros(3, np.float32), WIDTH, HEIGHT,
)  # fmt: skip


def raw(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(n)
    return 4 * torch.randn(n, 3, generator=g), 5 * torch.randn(n, generator=g)


def fused(
    scales: torch.Tensor, opacities: torch.Tensor, left_out: float = 0.0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernel makes of raw numbers on its way to a frame of nothing."""
    n = len(opacities)
    room = np.empty(3 * n, np.float32), np.empty(n, np.float32)
    given = render.Raw(scales.numpy().reshape(-1), opacities.numpy(), left_out, seed)
    shape = render.Shape(np.full(3 * n, -1, np.float32), np.ones(4 * n, np.float32), *room, given)
    render.forward(shape, None, VIEW, True, np.zeros(1, np.float32))
    return torch.from_numpy(room[0]).reshape(n, 3), torch.from_numpy(room[1])


def raw_scene(n: int, **options: object) -> dict:
    scene = make_scene(n, WIDTH, HEIGHT, size=-2.5, **options)
    return scene | {"scales": scene["scales"].log(), "opacities": torch.logit(scene["opacities"])}


@pytest.mark.parametrize("n", [1, 5, 16, 1000, 9001])
def test_fused_equals_torch(n: int) -> None:
    given = raw(n)
    for one, other in zip(fused(*given), activate(*(t.double() for t in given)), strict=True):
        torch.testing.assert_close(one, other.float(), rtol=3e-6, atol=1e-6)


def test_ends_of_the_range() -> None:
    opacities = torch.tensor([-200.0, -50.0, 50.0, 200.0])
    scales, shown = fused(torch.tensor([[-500.0, 0.0, 80.0]] * 4), opacities)
    torch.testing.assert_close(scales[0], torch.tensor([-500.0, 0.0, 80.0]).exp(), rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(shown, torch.sigmoid(opacities), atol=1e-12, rtol=1e-5)


@pytest.mark.parametrize("cameras", [1, 2])
@pytest.mark.parametrize("degree", [0, 3])
def test_renders_and_gradients_are_those_of_activated_parameters(cameras: int, degree: int) -> None:
    scene = raw_scene(777, cameras=cameras)
    trained = ("means", "quats", "scales", "opacities", "colors")
    results = []
    for is_raw in (True, False):
        inputs = {name: t.clone().requires_grad_(name in trained) for name, t in scene.items()}
        leaves = [inputs[name] for name in trained]
        if not is_raw:
            inputs["scales"], inputs["opacities"] = activate(inputs["scales"], inputs["opacities"])
        renders, _, _ = rasterize(
            **inputs, width=WIDTH, height=HEIGHT, sh_degree=degree, render_mode="RGB+D", raw=is_raw
        )
        results.append([renders, *torch.autograd.grad(renders.square().mean(), leaves)])
    for ours, expected in zip(*results, strict=True):
        scale = float(expected.detach().abs().max())
        assert scale > 0
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.7])
def test_a_share_is_left_out_and_the_rest_is_raised(share: float) -> None:
    scales, opacities = raw(40_000)
    whole = torch.sigmoid(opacities)
    _, ours = fused(scales, opacities, share, seed=4)
    out = ours == 0
    assert abs(out.float().mean() - share) < 4 * (share * (1 - share) / len(out)) ** 0.5
    torch.testing.assert_close(ours[~out], whole[~out] / (1 - share), rtol=3e-6, atol=1e-6)
    # Neighbours are drawn apart from each other.
    both = (out[1:] & out[:-1]).float().mean()
    assert abs(both - share**2) < 0.01
    _, next_ones = fused(scales, opacities, share, seed=5)
    assert ((next_ones == 0) != out).float().mean() > share / 2


def test_gradients_of_those_left_out_and_of_the_rest() -> None:
    scene = raw_scene(600, cameras=2)
    logits, share = scene["opacities"], 0.3
    torch.manual_seed(3)
    seed = int(torch.randint(1 << 31, ()))
    _, kept = fused(scene["scales"], logits, share, seed)
    upstream = torch.randn(2, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(1))
    gradients = []
    for is_raw in (True, False):
        leaf = logits.clone().requires_grad_()
        inputs = scene | {"opacities": leaf}
        if not is_raw:
            chosen = (kept > 0) / (1 - share)
            inputs |= {"scales": scene["scales"].exp(), "opacities": torch.sigmoid(leaf) * chosen}
        torch.manual_seed(3)
        options = {"raw": True, "left_out": share} if is_raw else {}
        renders, _, _ = rasterize(**inputs, width=WIDTH, height=HEIGHT, sh_degree=1, **options)
        gradients += torch.autograd.grad(renders, leaf, upstream)
    assert torch.all(gradients[0][kept == 0] == 0)
    scale = float(gradients[1].abs().max())
    assert scale > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5 * scale)


def test_who_is_left_out_depends_on_the_seed_alone() -> None:
    scales, opacities = raw(20_000)
    results = []
    try:
        for count in (1, 2, 5):
            threads.set_thread_count(count)
            results.append(fused(scales, opacities, 0.3, seed=7)[1])
    finally:
        threads.set_thread_count(None)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 200.0])
def test_scales_that_are_no_numbers_are_named(bad: float, checked: bool) -> None:
    scene = raw_scene(100)
    scene["scales"][37, 1] = bad
    with pytest.raises(BackendError, match=r"scales holds NaN or Inf.*\n.*\n.*1 bad rows of 100"):
        rasterize(**scene, width=WIDTH, height=HEIGHT, sh_degree=0, raw=True, check_finite=checked)


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_opacities_that_are_no_numbers_are_named(bad: float, checked: bool) -> None:
    scene = raw_scene(100)
    scene["opacities"][99] = bad
    with pytest.raises(BackendError, match="opacities holds NaN or Inf"):
        rasterize(**scene, width=WIDTH, height=HEIGHT, sh_degree=0, raw=True, check_finite=checked)


@pytest.mark.parametrize(("is_raw", "share"), [(True, 1.0), (True, -0.1), (True, float("nan")), (False, 0.1)])
def test_shares_that_make_no_sense(is_raw: bool, share: float) -> None:
    with pytest.raises(BackendError, match="left_out is out of range"):
        rasterize(**raw_scene(10), width=WIDTH, height=HEIGHT, sh_degree=0, raw=is_raw, left_out=share)
