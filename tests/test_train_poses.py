"""Refined cameras: the movement itself, its gradients, its mean, and cameras that are found again."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scenes
import torch

from spaceport_lab import backends
from spaceport_lab.errors import InputError, WorkspaceError
from spaceport_lab.train.poses import CameraRefinement, moved, rotation
from spaceport_lab.train.schedules import CORRECTIONS_FINAL, Decay

CPU = torch.device("cpu")


def cameras(n: int) -> torch.Tensor:
    return torch.tensor(scenes.make_cameras(n, 64, 48).viewmats, dtype=torch.float32)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 1e-3, 0.3, 3.0])
def test_the_rotation_is_the_matrix_exponential(angle: float) -> None:
    vector = angle * torch.tensor([2.0, -3.0, 6.0], dtype=torch.float64) / 7
    x, y, z = vector.tolist()
    exact = torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64))
    torch.testing.assert_close(rotation(vector), exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(rotation(vector.float()), exact.float(), rtol=0, atol=3e-7)


@pytest.mark.parametrize("size", [0.0, 0.02, 0.5])
def test_gradients_of_the_movement_against_finite_differences(size: float) -> None:
    own = size * torch.tensor([0.3, -0.5, 0.2, 1.0, -2.0, 0.7], dtype=torch.float64)
    viewmat = cameras(3)[1:2].double().requires_grad_()
    # The smoothing at zero is far below what differences of 1e-5 see.
    assert torch.autograd.gradcheck(moved, (viewmat, own.requires_grad_()), eps=1e-5, atol=1e-6)


def test_at_the_start_nothing_moves() -> None:
    refinement, viewmats = CameraRefinement(3, CPU), cameras(3)
    for index in range(3):
        assert torch.equal(refinement.apply(viewmats[index : index + 1], index)[0], viewmats[index])


def test_a_camera_turns_about_its_own_centre_and_moves_along_its_own_axes() -> None:
    viewmat = cameras(3)[:1]
    center, axes = -viewmat[0, :3, :3].T @ viewmat[0, :3, 3], viewmat[0, :3, :3]
    turned = moved(viewmat, torch.tensor([0.0, math.pi / 2, 0.0, 0, 0, 0]))[0]
    torch.testing.assert_close(-turned[:3, :3].T @ turned[:3, 3], center, rtol=0, atol=1e-5)
    torch.testing.assert_close(turned[2, :3], axes[0], rtol=0, atol=1e-6)  # it now looks to its right
    shifted = moved(viewmat, torch.tensor([0, 0, 0, 0.1, 0.2, 0.3]))[0]
    expected = center + axes.T @ torch.tensor([0.1, 0.2, 0.3])
    torch.testing.assert_close(-shifted[:3, :3].T @ shifted[:3, 3], expected, rtol=0, atol=1e-5)


def test_the_mean_movement_in_world_axes_is_zero() -> None:
    g, viewmats = torch.Generator().manual_seed(0), cameras(5)
    refinement = CameraRefinement(5, CPU)
    wish = torch.randn(3, 4, generator=g)
    for step in range(100):
        index = step % 4  # the fifth is never drawn
        (refinement.apply(viewmats[index : index + 1], index)[0, :3] * wish).sum().backward()
        refinement.step(step + 1, 0.01)
    assert refinement.moves.mean(0).abs().max() < 1e-6
    assert refinement.moves.abs().max() > 0.05
    assert refinement.state()["counts"].tolist() == [25, 25, 25, 25, 0]


def test_one_step_goes_down_in_the_cameras_own_axes() -> None:
    """With two cameras the mean takes out half: the first one moves by half a rate along each own axis."""
    viewmats, refinement = cameras(2), CameraRefinement(2, CPU)
    before = viewmats[0] @ torch.tensor([0.5, 0.2, 0.1, 1.0])
    after = refinement.apply(viewmats[:1], 0)[0] @ torch.tensor([0.5, 0.2, 0.1, 1.0])
    (after[:3] * torch.tensor([1.0, -2.0, 3.0])).sum().backward()
    refinement.step(1, 0.01)
    row = refinement.rows(["a", "b"], viewmats)[0]
    # What is seen moves against the camera: to lower its x the camera goes to its right.
    assert [row["right"], row["down"], row["forward"]] == pytest.approx([0.005, -0.005, 0.005], rel=1e-4)
    with torch.no_grad():
        now = refinement.apply(viewmats[:1], 0)[0] @ torch.tensor([0.5, 0.2, 0.1, 1.0])
    assert ((now - before)[:3] * torch.tensor([1.0, -2.0, 3.0])).sum() < 0


def test_the_unit_of_the_scene_does_not_matter() -> None:
    """A scene a hundred times as large, with a hundred times the scale, turns alike and moves as far."""
    small, large = CameraRefinement(3, CPU, 2.0), CameraRefinement(3, CPU, 200.0)
    viewmats, stretched = cameras(3), cameras(3)
    stretched[:, :3, 3] *= 100
    for step in range(6):
        for refinement, views, unit in ((small, viewmats, 1.0), (large, stretched, 100.0)):
            out = refinement.apply(views[step % 3 : step % 3 + 1], step % 3)[0]
            (out[:3, 3] @ torch.tensor([1.0, 2.0, -3.0]) / unit + out[0, 1]).backward()
            refinement.step(step + 1, 0.01)
    units = torch.tensor([1.0] * 3 + [100.0] * 3)
    torch.testing.assert_close(large.moves, small.moves * units, rtol=1e-3, atol=1e-5)
    assert small.moves[0, 3:].norm() > 0.01


def test_rows_tell_distance_and_angle() -> None:
    refinement = CameraRefinement(2, CPU)
    refinement.moves[0] = torch.tensor([0, 0, math.pi / 180, 0.3, 0, 0.4])
    first, second = refinement.rows(["a", "b"], cameras(2).numpy())
    assert (first["view"], first["moved"], first["turned"]) == ("a", pytest.approx(0.5), pytest.approx(1))
    assert (second["moved"], second["turned"]) == (0, 0)


def test_it_goes_on_bit_for_bit_and_refuses_other_views() -> None:
    viewmats = cameras(3)

    def run(refinement: CameraRefinement, first: int, last: int) -> CameraRefinement:
        for step in range(first, last):
            index = step % 3
            out = refinement.apply(viewmats[index : index + 1], index)
            (out[0, :3, 3] - viewmats[index, :3, 3] - 0.1 * index).square().sum().backward()
            refinement.step(step + 1, 0.01)
        return refinement

    whole = run(CameraRefinement(3, CPU), 0, 20)
    resumed = CameraRefinement(3, CPU)
    resumed.load_state(run(CameraRefinement(3, CPU), 0, 7).state())
    run(resumed, 7, 20)
    for name, values in whole.state().items():
        assert torch.equal(values, resumed.state()[name]), name
    with pytest.raises(WorkspaceError, match="other views"):
        CameraRefinement(4, CPU).load_state(whole.state())
    with pytest.raises(InputError, match="at least one"):
        CameraRefinement(0, CPU)


def render(splat: dict, viewmat: torch.Tensor, K: torch.Tensor) -> torch.Tensor:
    return backends.rasterize(**splat, viewmats=viewmat, Ks=K, width=64, height=48, sh_degree=0)[0]


def test_gradients_through_the_rasterizer_against_finite_differences() -> None:
    scene, K = scenes.make_gaussians(60, np.random.default_rng(1)), scenes.make_cameras(1, 64, 48).Ks
    splat = {
        "means": torch.tensor(scene.means), "quats": torch.tensor(scene.quats),
        "scales": torch.tensor(scene.scales).exp(), "opacities": torch.tensor(scene.opacities).sigmoid(),
        "colors": torch.tensor(scene.sh0),
    }  # fmt: skip
    viewmat, K = cameras(3)[1:2], torch.tensor(K, dtype=torch.float32)
    target = render(splat, moved(viewmat, torch.tensor([0.04, 0.03, -0.02, 0.1, 0.1, 0.1])), K)

    def value(own: torch.Tensor) -> torch.Tensor:
        return (render(splat, moved(viewmat, own), K) - target).double().square().sum()

    own = torch.tensor([0.01, -0.02, 0.03, 0.05, -0.04, 0.02], requires_grad=True)
    value(own).backward()
    with torch.no_grad():
        steps = 1e-2 * torch.eye(6)
        slopes = torch.stack([(value(own + s) - value(own - s)) / 2e-2 for s in steps]).float()
    # Crossing alpha = 1/255 makes steps of its own, so this is a coarse check on purpose.
    torch.testing.assert_close(own.grad, slopes, rtol=0.05, atol=5)
    assert slopes.abs().max() > 1000


def test_perturbed_cameras_are_found_again() -> None:
    rng = np.random.default_rng(0)
    scene, n = scenes.make_gaussians(200, rng), 6
    truth, K = cameras(n), torch.tensor(scenes.make_cameras(1, 64, 48).Ks, dtype=torch.float32)
    splat = {
        "means": torch.tensor(scene.means), "quats": torch.tensor(scene.quats),
        "scales": torch.tensor(scene.scales).exp(), "opacities": torch.tensor(scene.opacities).sigmoid(),
        "colors": torch.tensor(scene.sh0),
    }  # fmt: skip
    photos = [render(splat, truth[i : i + 1], K) for i in range(n)]
    wrong = torch.tensor(rng.normal(0, [0.01] * 3 + [0.04] * 3, (n, 6)), dtype=torch.float32)
    wrong_world = torch.einsum("vji,vkj->vki", truth[:, :3, :3], wrong.reshape(n, 2, 3))
    wrong_world -= wrong_world.mean(0)  # what is common to all cameras is not theirs to correct
    own = torch.einsum("vij,vkj->vki", truth[:, :3, :3], wrong_world).reshape(n, 6)
    start = torch.stack([moved(truth[i : i + 1], own[i])[0] for i in range(n)])
    refinement = CameraRefinement(n, CPU)
    rate = Decay(1e-2, CORRECTIONS_FINAL, 1200)
    for step in range(1200):
        i = step % n
        backends.l1_ssim_loss(render(splat, refinement.apply(start[i : i + 1], i), K), photos[i]).backward()
        refinement.step(step + 1, rate.at(step))
    with torch.no_grad():
        found = torch.cat([refinement.apply(start[i : i + 1], i) for i in range(n)])

    def errors(viewmats: torch.Tensor) -> np.ndarray:
        centers = -torch.einsum("vji,vj->vi", viewmats[:, :3, :3], viewmats[:, :3, 3])
        exact = -torch.einsum("vji,vj->vi", truth[:, :3, :3], truth[:, :3, 3])
        turn = (viewmats[:, :3, :3] - truth[:, :3, :3]).square().sum((1, 2)).mean().sqrt()
        return np.array([float((centers - exact).square().sum(1).mean().sqrt()), float(turn)])

    assert (errors(start) > 3 * errors(found)).all()
