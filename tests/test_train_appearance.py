"""Colour maps of training views: against plain torch, against an Adam for every view, what they recover."""

from __future__ import annotations

import pytest
import torch

from spaceport_lab.errors import InputError, WorkspaceError
from spaceport_lab.train.appearance import PULL, Appearance
from spaceport_lab.train.schedules import CORRECTIONS_FINAL, Decay

CPU = torch.device("cpu")


def scattered(n_views: int, seed: int = 0) -> Appearance:
    """Maps away from the identity, but with it as their mean."""
    appearance = Appearance(n_views, CPU)
    appearance.maps += 0.2 * torch.randn(n_views, 3, 4, generator=torch.Generator().manual_seed(seed))
    appearance.maps -= appearance.maps.mean(0) - torch.eye(3, 4)
    return appearance


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (2, 3), (2, 2), (8, 16)])
def test_values_and_gradients_are_those_of_a_matrix_a_pixel(size: tuple[int, int]) -> None:
    g = torch.Generator().manual_seed(1)
    appearance = scattered(3)
    render = torch.rand(1, *size, 3, generator=g, requires_grad=True)
    weights = torch.randn(1, *size, 3, generator=g)
    ours = appearance.apply(render, 2)
    row = appearance.maps[2].double().requires_grad_()
    exact = render.detach().double().requires_grad_()
    plain = torch.stack([row[:, :3] @ pixel + row[:, 3] for pixel in exact.reshape(-1, 3)]).reshape(
        ours.shape
    )
    torch.testing.assert_close(ours, plain.float(), rtol=1e-5, atol=1e-6)
    (plain * weights).sum().backward()
    (ours * weights).sum().backward()
    torch.testing.assert_close(render.grad, exact.grad.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(appearance._drawn[2].grad, row.grad.float(), rtol=1e-4, atol=1e-5)


def test_at_the_start_nothing_changes() -> None:
    render = torch.rand(1, 6, 8, 3)
    assert torch.equal(Appearance(4, CPU).apply(render, 3), render)


def slow_steps(maps: torch.Tensor, renders, photos, order: list[int], lr: float) -> torch.Tensor:
    """Every view has a torch Adam of its own; the mean goes out after each step."""
    rows = [torch.nn.Parameter(row.clone()) for row in maps]
    adams = [torch.optim.Adam([row], eps=1e-15) for row in rows]
    identity = torch.eye(3, 4)
    for step, view in enumerate(order):
        row = rows[view]
        wrong = torch.einsum("hwj,ij->hwi", renders[view], row[:, :3]) + row[:, 3] - photos[view]
        (wrong.square().mean() + PULL * (row - identity).square().sum()).backward()
        adams[view].param_groups[0]["lr"] = lr * CORRECTIONS_FINAL ** (step / len(order))
        adams[view].step()
        row.grad = None
        mean = torch.stack([row.detach() for row in rows]).mean(0)
        for other in rows:
            other.data -= mean - identity
    return torch.stack([row.detach() for row in rows])


def test_steps_are_those_of_an_adam_for_every_view() -> None:
    g = torch.Generator().manual_seed(2)
    renders, photos = torch.rand(2, 5, 7, 9, 3, generator=g)
    order = torch.randint(5, (40,), generator=g).tolist()
    appearance, rate = scattered(5), Decay(0.02, CORRECTIONS_FINAL, len(order))
    expected = slow_steps(appearance.maps, renders, photos, order, 0.02)
    for step, view in enumerate(order):
        (appearance.apply(renders[view][None], view) - photos[view]).square().mean().backward()
        appearance.step(step + 1, rate.at(step))
    torch.testing.assert_close(appearance.maps, expected, rtol=1e-4, atol=1e-5)


def train(appearance: Appearance, base: torch.Tensor, photos: torch.Tensor, steps: int) -> None:
    """Learn what all photographs show, in `base`, beside the maps."""
    rate = Decay(0.05, CORRECTIONS_FINAL, steps)
    optimizer = torch.optim.Adam([base], lr=0.02)
    for step in range(steps):
        view = step % len(photos)
        (appearance.apply(base, view) - photos[view]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        appearance.step(step + 1, rate.at(step))


def test_gains_are_found_up_to_their_common_mean() -> None:
    g = torch.Generator().manual_seed(3)
    truth = torch.rand(1, 12, 16, 3, generator=g)
    gains = 0.7 + 0.9 * torch.rand(8, 3, generator=g)  # brighter on the whole: the mean is not 1
    photos = truth * gains[:, None, None]
    appearance = Appearance(8, CPU)
    base = torch.full_like(truth, 0.5).requires_grad_()
    train(appearance, base, photos, 1600)
    found = torch.tensor([[row[c] for c in ("red", "green", "blue")] for row in appearance.rows("abcdefgh")])
    torch.testing.assert_close(found, gains / gains.mean(0), rtol=0, atol=0.02)
    # What is common to all photographs is in what they show.
    torch.testing.assert_close(base.detach(), truth * gains.mean(0), rtol=0, atol=0.03)


def test_no_tint_is_hidden_in_the_maps() -> None:
    g = torch.Generator().manual_seed(4)
    photos = torch.rand(7, 1, 4, 6, 3, generator=g) * torch.tensor([1.0, 0.6, 0.2])  # all of them reddish
    appearance = Appearance(7, CPU)
    for step in range(1000):
        view = int(torch.randint(7, (1,), generator=g))
        (appearance.apply(torch.full((1, 4, 6, 3), 0.5), view) - photos[view]).abs().mean().backward()
        appearance.step(step + 1, 0.05)
        if step % 50 == 0 or step == 999:
            assert (appearance.maps.mean(0) - torch.eye(3, 4)).abs().max() < 1e-6
    assert (appearance.maps - torch.eye(3, 4)).abs().max() > 0.05  # it did learn something


def test_views_without_evidence_go_back_to_the_identity() -> None:
    appearance = Appearance(6, CPU)
    appearance.maps[:2] += torch.tensor([0.3, -0.3])[:, None, None]
    rate = Decay(0.01, CORRECTIONS_FINAL, 400)
    for step in range(400):
        (appearance.apply(torch.zeros(1, 4, 4, 3), step % 2) * 0).sum().backward()
        appearance.step(step + 1, rate.at(step))
    assert (appearance.maps - torch.eye(3, 4)).abs().max() < 0.05


def test_views_that_were_not_drawn_keep_their_moments() -> None:
    appearance = Appearance(5, CPU)
    for step in range(6):
        appearance.apply(torch.rand(1, 4, 4, 3), step % 2).sum().backward()
        appearance.step(step + 1, 0.01)
    state = appearance.state()
    assert state["counts"].tolist() == [3, 3, 0, 0, 0]
    assert not state["mean"][2:].any()
    assert not state["square"][2:].any()


def test_looking_costs_nothing() -> None:
    appearance = scattered(3)
    before = appearance.maps.clone()
    with torch.no_grad():
        assert not appearance.apply(torch.rand(1, 4, 4, 3), 1).requires_grad
    appearance.apply(torch.rand(1, 4, 4, 3), 1)  # drawn, but nothing ran backward
    appearance.step(1, 0.01)
    torch.testing.assert_close(appearance.maps, before, rtol=0, atol=1e-6)
    assert not appearance.state()["counts"].any()


def test_it_goes_on_bit_for_bit() -> None:
    g = torch.Generator().manual_seed(5)
    renders, photos = torch.rand(2, 30, 1, 4, 6, 3, generator=g)

    def run(appearance: Appearance, first: int, last: int) -> Appearance:
        for step in range(first, last):
            (appearance.apply(renders[step], step % 3) - photos[step]).abs().mean().backward()
            appearance.step(step + 1, 0.01)
        return appearance

    whole = run(Appearance(3, CPU), 0, 30)
    half = run(Appearance(3, CPU), 0, 13).state()
    resumed = Appearance(3, CPU)
    resumed.load_state(half)
    assert resumed.steps_done == 13
    run(resumed, 13, 30)
    for name, values in whole.state().items():
        assert torch.equal(values, resumed.state()[name]), name


def test_wrong_numbers_of_views() -> None:
    with pytest.raises(WorkspaceError, match="other views"):
        Appearance(3, CPU).load_state(Appearance(4, CPU).state())
    with pytest.raises(InputError, match="at least one"):
        Appearance(0, CPU)
    with pytest.raises(ValueError, match="zip"):
        Appearance(2, CPU).rows(["one"])
