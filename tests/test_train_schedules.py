from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaceport_lab.params import TrainParams
from spaceport_lab.train import schedules
from spaceport_lab.train.schedules import (
    FINER_PARTS,
    Blur,
    Decay,
    Growth,
    LowPass,
    Refinement,
    Resolution,
    ShDegree,
)

SPECTRUM = {2.0: 0.5, 4.0: 0.2}


def test_decay_ends_where_it_should() -> None:
    decay = Decay(2.0, 0.01, 1000)
    assert decay.at(0) == 2.0
    assert decay.at(500) == pytest.approx(0.2)
    assert decay.at(1000) == pytest.approx(0.02) == decay.at(5000)


def test_cooldown_goes_straight_down_to_nothing_at_the_end() -> None:
    decay = Decay(2.0, 0.5, 100, cooldown=9)
    assert [decay.at(step) / Decay(2.0, 0.5, 100).at(step) for step in (0, 90, 91, 95, 99)] == pytest.approx(
        [1, 1, 0.9, 0.5, 0.1]
    )
    assert decay.at(100) > 0
    plan = schedules.plan(TrainParams(max_steps=1000, cooldown=0.2), 10.0, 400, 5000, SPECTRUM)
    rates = plan.learning_rates
    assert set(rates) == {"means", "scales", "opacities", "quats", "sh0", "shN"}
    assert all(rate.at(799) > 100 * rate.at(999) for rate in rates.values())
    never = schedules.plan(TrainParams(max_steps=1000, cooldown=0), 10.0, 400, 5000, SPECTRUM)
    assert never.learning_rates["sh0"].at(999) == TrainParams().sh0_lr


def test_sh_degree_grows_to_the_highest() -> None:
    degree = ShDegree(2, 100)
    assert [degree.at(step) for step in (0, 99, 100, 199, 200, 900)] == [0, 0, 1, 1, 2, 2]
    assert ShDegree(3, 0).at(0) == 3


def test_resolution_takes_the_latest_stage() -> None:
    resolution = Resolution(((0, 4), (10, 2), (30, 1)))
    assert [resolution.at(step) for step in (0, 9, 10, 29, 30, 99)] == [4, 4, 2, 2, 1, 1]
    finer = Resolution(((0, 4), (10, 1.4), (30, 1)), finer_every=3)
    assert [finer.at(step) for step in (0, 1, 2, 3, 10, 12, 30, 31)] == [2, 4, 4, 2, 1.4, 1, 1, 1]
    assert [finer.stage(step) for step in (0, 1, 12, 30)] == [4, 4, 1.4, 1]


def test_refinement_within_its_bounds() -> None:
    refinement = Refinement(start=500, stop=1500, every=100, reset_every=600)
    assert [n for n in range(3000) if refinement.refines(n)] == list(range(600, 1500, 100))
    assert [n for n in range(3000) if refinement.resets(n)] == [600, 1200]
    assert refinement.last_reset == 1200
    assert Refinement(start=5, stop=1200, every=100, reset_every=600).last_reset == 600
    assert Refinement(start=5, stop=600, every=100, reset_every=600).last_reset == 0
    assert Refinement(start=0, stop=0, every=100, reset_every=600).last_reset == 0
    never = Refinement(start=500, stop=1500, every=100, reset_every=0)
    assert not any(never.resets(n) for n in range(3000))
    assert never.last_reset == 0


@pytest.mark.parametrize("steps", [300, 2000, 30_000])
def test_the_defaults_make_sense_at_every_length(steps: int) -> None:
    plan = schedules.plan(TrainParams(max_steps=steps), 10.0, 400, 5000, SPECTRUM)
    refinements = [n for n in range(1, steps + 1) if plan.refinement.refines(n)]
    assert len(refinements) >= 1
    assert refinements[-1] <= 0.8 * steps, "the last Gaussians need time to settle"
    assert all(n <= 0.5 * steps for n in range(steps) if plan.refinement.resets(n))
    assert plan.sh_degree.at(steps // 2) == 3
    assert plan.learning_rates["means"].at(0) == pytest.approx(TrainParams().means_lr * 10)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 40_000),
    coarse=st.sampled_from(["none", "step", "frequency"]),
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
    plan = schedules.plan(p, 1.0, side, 5000, SPECTRUM)
    looked_at = sorted({0, steps // 7, steps // 3, steps // 2, steps - 1})
    factors = [plan.resolution.stage(step) for step in looked_at]
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


def test_frequency_gives_a_factor_the_steps_its_spectrum_is_worth() -> None:
    p = TrainParams(max_steps=1000)
    assert p.coarse_to_fine == "frequency"
    plan = schedules.plan(p, 1.0, 4000, 5000, SPECTRUM)
    assert plan.resolution.stages == ((0, 4.0), (220, 2.0), (550, 1.0))
    small = schedules.plan(p, 1.0, 3 * schedules.MIN_COARSE_SIDE, 5000, SPECTRUM)
    assert small.resolution.stages == ((0, 2.0), (550, 1.0))
    smooth = schedules.plan(p, 1.0, 4000, 5000, {2.0: 1.0, 4.0: 0.97})
    assert smooth.resolution.stage(849) > 1
    assert smooth.resolution.stage(850) == 1
    # Gaussians are grown until images have their full size, but never where none are to be grown.
    assert (plan.refinement.stop, smooth.refinement.stop) == (600, 850)
    assert plan.growth.refinement == plan.refinement
    still = schedules.plan(p.model_copy(update={"refine_stop": 0.0}), 1.0, 4000, 5000, {2.0: 1.0})
    assert not any(still.refinement.refines(n) for n in range(1000))


def test_the_fewer_photographs_the_more_gaussians_are_left_out() -> None:
    p = TrainParams(max_steps=1000)
    plans = [schedules.plan(p, 1.0, 400, 5000, SPECTRUM, n_views=n) for n in (4, 14, 140, None)]
    shares = [plan.dropout.at(1000) for plan in plans]
    assert shares == pytest.approx([schedules.MOST_DROPPED, p.dropout / 14, p.dropout / 140, 0])
    assert [plans[0].dropout.at(s) for s in (0, 500)] == pytest.approx([0, schedules.MOST_DROPPED / 2])
    never = schedules.plan(p.model_copy(update={"dropout": 0.0}), 1.0, 400, 5000, SPECTRUM, n_views=4)
    assert never.dropout.at(1000) == 0


def test_finer_steps_on_full_photographs_see_a_part_of_them() -> None:
    resolution = Resolution(((0, 4.0), (10, 2.0), (20, 1.0)), finer_every=3)
    seen = [(resolution.at(step), resolution.parts(step)) for step in (0, 1, 9, 12, 13, 15, 21, 22)]
    assert seen == [(2, 1), (4, 1), (2, 1), (1, FINER_PARTS), (2, 1), (1, FINER_PARTS), (1, 1), (1, 1)]
    assert {Resolution(((0, 1.0),)).parts(step) for step in range(9)} == {1}


def test_most_steps_leave_the_higher_bands_as_they_are() -> None:
    p = TrainParams(max_steps=1000, shN_every=3)
    plan = schedules.plan(p, 1.0, 400, 5000, SPECTRUM)
    assert [plan.resting(step) for step in range(4)] == [(), ("shN",), ("shN",), ()]
    always = schedules.plan(p.model_copy(update={"shN_every": 1}), 1.0, 400, 5000, SPECTRUM)
    assert not any(always.resting(step) for step in range(10))


def test_blur_halves_until_it_is_gone() -> None:
    blur = Blur(4.0, 100)
    assert [blur.at(s) for s in (0, 24, 25, 50, 75, 99, 100, 900)] == [4, 4, 2, 1, 0.5, 0.5, 0, 0]
    assert Blur(0.0, 100).at(0) == 0


def test_the_low_pass_covers_the_image_and_then_goes() -> None:
    low_pass = LowPass(True, 100)
    assert low_pass.at(0, 1000, 640 * 480) == pytest.approx(640 * 480 / (9 * 3.14159265 * 1000))
    assert low_pass.at(0, 10**6, 640 * 480) == low_pass.at(100, 10, 640 * 480) == schedules.EPS2D
    assert LowPass(False, 100).at(0, 10, 640 * 480) == schedules.EPS2D


def test_a_smaller_image_spreads_gaussians_as_the_full_one_seen_through_its_pixels() -> None:
    low_pass = LowPass(False, 100)
    for factor in (1.0, 2.0, 4.0):
        in_full_pixels = low_pass.at(0, 10, 640 * 480, factor) * factor**2
        # Variance of a box of `factor` pixels, as a sum over its pixels' centres.
        centres = np.arange(factor) - (factor - 1) / 2
        assert in_full_pixels == pytest.approx(schedules.EPS2D + np.mean(centres**2))


def test_growth_begins_slowly_while_coarse_and_ends_at_its_aim() -> None:
    refinement = Refinement(start=100, stop=1100, every=100, reset_every=10**6)
    fine = Growth(1000, 10_000, refinement, Resolution(((0, 1.0),)))
    coarse = Growth(1000, 10_000, refinement, Resolution(((0, 4.0), (600, 1.0))))
    steps = [n for n in range(1200) if refinement.refines(n)]
    assert [fine.target(n) for n in steps] == [1000 + 1000 * k for k in range(1, 10)]
    assert all(coarse.target(n) < 0.6 * fine.target(n) for n in steps if n < 600)
    always_coarse = Growth(1000, 10_000, refinement, Resolution(((0, 4.0),)))
    assert coarse.target(steps[-1]) == always_coarse.target(steps[-1])
    assert coarse.target(steps[-1]) == fine.target(steps[-1]) == 10_000 == fine.target(5000)
    # Nothing is left to be grown at once at the end: what grows must be chosen.
    often = Growth(0, 10_000, Refinement(100, 1100, 25, 10**6), Resolution(((0, 4.0),)))
    counts = [often.target(n) for n in range(1100) if often.refinement.refines(n)]
    assert counts[-1] == 10_000
    assert all(0 < after - before < 1000 for before, after in pairwise(counts))
    assert fine.target(0) == fine.target(100) == 1000


def test_pruning_follows_growth() -> None:
    plan = schedules.plan(TrainParams(max_steps=1000, prune_share=0.5, prune_sh=1.0), 1.0, 480, 5000, {})
    assert plan.prune_at == (462, 508, 554, 600)
    assert plan.refinement.stop == 462
    assert (1 - plan.prune_each) ** 4 == pytest.approx(0.5)
    assert plan.growth.target(400) == plan.growth.last
    assert plan.drop_bands_at == 800
    changes = [n for n in range(301, 1001) if plan.changes_gaussians(n)]
    assert changes == [400, 462, 508, 554, 600, 800]
