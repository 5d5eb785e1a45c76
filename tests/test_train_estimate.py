from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scenes

from spaceport_lab import train
from spaceport_lab.params import TrainParams
from spaceport_lab.train import estimate as module
from spaceport_lab.train import schedules
from spaceport_lab.train.estimate import Sample, add_up, estimate, fit, gaussians_by_step
from spaceport_lab.workspace import StageRun

QUICK = {"max_steps": 200, "eval_every": 50, "refine_every": 10, "sh_degree": 1, "grow_to": 900}


def true_cost(n: float, pixels: float) -> float:
    return 1e-3 + 2e-8 * n + 5e-9 * pixels + 3e-8 * np.sqrt(n * pixels)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    return scenes.make_run(tmp_path_factory.mktemp("scene"), width=200, height=192, n_points=150)


def params(**values) -> TrainParams:
    return TrainParams(**{**QUICK, **values})


def plan_of(p: TrainParams) -> schedules.Plan:
    return schedules.plan(p, 2.0, 400, 150, {4.0: 0.2, 2.0: 0.6})


def test_the_fit_finds_what_made_the_samples() -> None:
    points = [(n, pixels) for n in (10_000, 100_000) for pixels in (20_000, 300_000)]
    cost = fit([Sample(n, pixels, true_cost(n, pixels)) for n, pixels in points for _ in range(3)])
    for n, pixels in [*points, (40_000, 80_000)]:
        assert cost(n, pixels) == pytest.approx(true_cost(n, pixels), rel=1e-3)
    rng = np.random.default_rng(0)
    noisy = fit([Sample(n, px, true_cost(n, px) * rng.uniform(0.8, 1.25)) for n, px in points * 3])
    assert noisy(40_000, 80_000) == pytest.approx(true_cost(40_000, 80_000), rel=0.3)
    assert noisy(0, 0) >= 0
    # One size alone: no growth, no schedule.
    assert fit([Sample(500, 900, 0.02)] * 2)(500, 900) == pytest.approx(0.02)


def test_adding_up_is_the_sum_of_all_steps() -> None:
    p = params()
    plan = plan_of(p)
    counts = gaussians_by_step(plan, cap=10_000)
    rows = add_up(true_cost, plan, counts, pixels=40_000)
    total, n = 0.0, 150
    for step in range(p.max_steps):
        if plan.refinement.refines(step):
            n = max(n, plan.growth.target(step))
        trained = 1 + (module.TRAINED - 1) * step / p.max_steps
        share = 1 / plan.resolution.parts(step)
        total += trained * true_cost(round(n * share), 40_000 * share / plan.resolution.at(step) ** 2)
    assert counts[0] == 150
    assert counts[-1] == n == plan.growth.target(p.max_steps)
    assert sum(row["seconds"] for row in rows) == pytest.approx(total)
    assert sum(row["steps"] for row in rows) == p.max_steps
    assert len(rows) == len(plan.resolution.stages)
    assert max(gaussians_by_step(plan, cap=400)) == 400


def test_copies_lie_around_what_they_copy() -> None:
    first = scenes.make_gaussians(100, np.random.default_rng(0))
    many = module._multiplied(first, 450)
    assert many.n == 450
    np.testing.assert_array_equal(many.means[:100], first.means)
    far = np.abs(many.means - first.means[np.arange(450) % 100]).max(axis=1)
    assert 0 < np.median(far[100:]) < 1
    # A surface is covered as before: areas go with the square of the size.
    assert (np.exp(many.scales).prod(axis=1) ** (2 / 3)).sum() == pytest.approx(
        (np.exp(first.scales).prod(axis=1) ** (2 / 3)).sum(), rel=0.05
    )
    assert module._multiplied(first, 60).n == 60


def test_an_estimate_of_a_machine_whose_speed_is_known(
    run: StageRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, asked = params(), []

    def measured(run, p, views, plan, first, most, backend):
        asked.append((first.n, most))
        points = [(n, px) for n in (first.n, most) for px in (2_400, 38_400)]
        return [Sample(n, px, true_cost(n, px)) for n, px in points], 0.01, 500_000_000

    monkeypatch.setattr(module, "measure", measured)
    views = train.read_views(run, p)
    found = estimate(run, p, views)
    plan = train.plan(run, p, views)
    assert asked == [(plan.growth.first, 900)]
    assert found.n_gaussians_end == 900
    expected = add_up(true_cost, plan, gaussians_by_step(plan, 10**6), 38_400)
    steps = [row for row in found.rows if row["part"].startswith("steps")]
    assert sum(r["seconds"] for r in steps) == pytest.approx(sum(r["seconds"] for r in expected), rel=1e-3)
    assert found.seconds == pytest.approx(sum(row["seconds"] for row in found.rows))
    assert found.seconds_low < found.seconds < found.seconds_high
    by_part = {row["part"]: row for row in found.rows}
    measured_views = len(views.heldout) + len(views.validation)
    assert by_part["views measured on the way"]["seconds"] == pytest.approx(measured_views * 4 * 0.01)
    assert by_part["pictures of the time lapse"]["steps"] == 48
    # 12 photographs and the copy of the best state come on top.
    assert found.peak_mb == pytest.approx((5e8 + 12 * 200 * 192 * 3 + 900 * 4 * 23) / 1e6)
    # A threshold that was given may never fire.
    given = estimate(run, params(grow_grad2d=2e-4), views)
    assert given.seconds_low < 0.9 * found.seconds_low


def test_real_steps_are_measured_and_nothing_is_left(run: StageRun) -> None:
    p = params(coarse_to_fine="step")
    before, files = dict(run.metrics), sorted(Path(run.dir).rglob("*"))
    views = train.read_views(run, p)
    found = estimate(run, p, views)
    assert 0 < found.seconds_low < found.seconds < found.seconds_high < 600
    assert len({row["part"] for row in found.rows}) == len(found.rows) >= 5
    assert (dict(run.metrics), sorted(Path(run.dir).rglob("*"))) == (before, files)
    assert not run.warnings
    assert estimate(run, params(strategy="mcmc", coarse_to_fine="none"), views).seconds > 0
