"""Raw parameters become scales and opacities as torch would have it, gradients included."""

from __future__ import annotations

import pytest
import torch

from spaceport_lab.backends import activate
from spaceport_lab.backends.activation import torch_activate
from spaceport_lab.errors import BackendError
from spaceport_lab.kernels import threads


def raw(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(n)
    return (
        (4 * torch.randn(n, 3, generator=g)).requires_grad_(),
        (5 * torch.randn(n, generator=g)).requires_grad_(),
    )


@pytest.mark.parametrize("n", [0, 1, 5, 16, 1000, 9001])
def test_fused_equals_torch(n: int) -> None:
    given = raw(n)
    ours, theirs = activate(*given), torch_activate(*(t.double() for t in given))
    upstream = [torch.randn_like(result) for result in ours]
    gradients = torch.autograd.grad(ours, given, upstream)
    expected = torch.autograd.grad(theirs, given, [u.double() for u in upstream])
    for one, other in zip((*ours, *gradients), (*theirs, *expected), strict=True):
        torch.testing.assert_close(one, other.float(), rtol=3e-6, atol=1e-6)


def test_ends_of_the_range() -> None:
    opacities = torch.tensor([-200.0, -50.0, 50.0, 200.0], requires_grad=True)
    scales, shown = activate(torch.tensor([[-500.0, 0.0, 80.0]] * 4), opacities)
    torch.testing.assert_close(scales[0], torch.tensor([-500.0, 0.0, 80.0]).exp(), rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(shown, torch.sigmoid(opacities), atol=1e-12, rtol=1e-5)
    shown.sum().backward()
    assert torch.isfinite(opacities.grad).all()


@pytest.mark.parametrize("share", [0.05, 0.2, 0.7])
def test_a_share_is_left_out_and_the_rest_is_raised(share: float) -> None:
    torch.manual_seed(4)
    scales, opacities = raw(40_000)
    whole = torch.sigmoid(opacities)
    _, ours = activate(scales, opacities, share)
    out = ours == 0
    assert abs(out.float().mean() - share) < 4 * (share * (1 - share) / len(out)) ** 0.5
    torch.testing.assert_close(ours[~out], whole[~out] / (1 - share), rtol=3e-6, atol=1e-6)
    # Neighbours are drawn apart from each other.
    both = (out[1:] & out[:-1]).float().mean()
    assert abs(both - share**2) < 0.01
    (gradient,) = torch.autograd.grad(ours.sum(), opacities)
    assert torch.all(gradient[out] == 0)
    expected = whole * (1 - whole) / (1 - share)
    torch.testing.assert_close(gradient[~out], expected[~out], rtol=1e-5, atol=1e-6)
    _, next_ones = activate(scales, opacities, share)
    assert ((next_ones == 0) != out).float().mean() > share / 2


def test_who_is_left_out_depends_on_the_seed_alone() -> None:
    scales, opacities = raw(20_000)
    results = []
    try:
        for count in (1, 2, 5):
            threads.set_thread_count(count)
            torch.manual_seed(7)
            results.append(activate(scales, opacities, 0.3)[1])
    finally:
        threads.set_thread_count(None)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    torch.manual_seed(8)
    assert not torch.equal(results[0], activate(scales, opacities, 0.3)[1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 200.0])
def test_scales_that_are_no_numbers_are_named(bad: float) -> None:
    scales, opacities = raw(100)
    with torch.no_grad():
        scales[37, 1] = bad
    with pytest.raises(BackendError, match=r"scales holds NaN or Inf.*\n.*\n.*1 bad rows of 100"):
        activate(scales, opacities)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_opacities_that_are_no_numbers_are_named(bad: float) -> None:
    scales, opacities = raw(100)
    with torch.no_grad():
        opacities[99] = bad
    with pytest.raises(BackendError, match="opacities holds NaN or Inf"):
        activate(scales, opacities)
