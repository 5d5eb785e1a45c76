from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaceport_lab.params import TrainParams
from spaceport_lab.train import schedules
from spaceport_lab.train.schedules import Decay, Refinement, Resolution, ShDegree


def test_decay_ends_where_it_should() -> None:
    decay = Decay(2.0, 0.01, 1000)
    assert decay.at(0) == 2.0
    assert decay.at(500) == pytest.approx(0.2)
    assert decay.at(1000) == pytest.approx(0.02) == decay.at(5000)


def test_sh_degree_grows_to_the_highest() -> None:
    degree = ShDegree(2, 100)
    assert [degree.at(step) for step in (0, 99, 100, 199, 200, 900)] == [0, 0, 1, 1, 2, 2]
    assert ShDegree(3, 0).at(0) == 3


def test_resolution_takes_the_latest_stage() -> None:
    resolution = Resolution(((0, 4), (10, 2), (30, 1)))
    assert [resolution.at(step) for step in (0, 9, 10, 29, 30, 99)] == [4, 4, 2, 2, 1, 1]


def test_refinement_within_its_bounds() -> None:
    refinement = Refinement(start=500, stop=1500, every=100, reset_every=600)
    assert [n for n in range(3000) if refinement.refines(n)] == list(range(600, 1500, 100))
    assert [n for n in range(3000) if refinement.resets(n)] == [600, 1200]


@pytest.mark.parametrize("steps", [300, 2000, 30_000])
def test_the_defaults_make_sense_at_every_length(steps: int) -> None:
    plan = schedules.plan(TrainParams(max_steps=steps), scene_scale=10.0, shorter_side=400)
    refinements = [n for n in range(1, steps + 1) if plan.refinement.refines(n)]
    assert len(refinements) >= 1
    assert refinements[-1] <= 0.8 * steps, "the last Gaussians need time to settle"
    assert all(n <= 0.5 * steps for n in range(steps) if plan.refinement.resets(n))
    assert plan.sh_degree.at(steps // 2) == 3
    assert plan.learning_rates["means"].at(0) == pytest.approx(TrainParams().means_lr * 10)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 40_000),
    coarse=st.sampled_from(["none", "step"]),
    side=st.integers(1, 4000),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    degree=st.integers(0, 3),
)
def test_any_plan_is_monotone_and_ends_at_full_detail(
    steps: int, coarse: str, side: int, shares: tuple[float, float], degree: int
) -> None:
    p = TrainParams(
        max_steps=steps, coarse_to_fine=coarse, refine_start=shares[0], sh_degree_interval=shares[1],
        sh_degree=degree,
    )  # fmt: skip
    plan = schedules.plan(p, scene_scale=1.0, shorter_side=side)
    looked_at = sorted({0, steps // 7, steps // 3, steps // 2, steps - 1})
    factors = [plan.resolution.at(step) for step in looked_at]
    degrees = [plan.sh_degree.at(step) for step in looked_at]
    rates = [plan.learning_rates["means"].at(step) for step in looked_at]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] <= 4
    assert all(side / factor >= schedules.MIN_COARSE_SIDE or factor == 1 for factor in factors)
    assert degrees == sorted(degrees)
    assert max(degrees) <= degree
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0
    if steps >= 10:
        assert factors[-1] == 1
