from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scenes
from matplotlib.figure import Figure

from spaceport_lab import train
from spaceport_lab.params import TrainParams
from spaceport_lab.plots import train as plots
from spaceport_lab.train.schedules import plan
from spaceport_lab.workspace import Progress, StageRun

P = TrainParams(max_steps=60, eval_every=20, refine_every=10, sh_degree=1, grow_grad2d=5e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[StageRun, list[Progress]]:
    run = scenes.make_run(tmp_path_factory.mktemp("plots"))
    return run, list(train.run(run, P))


def drawn(figure: Figure) -> np.ndarray:
    """The figure as pixels [H, W, 4]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def texts(figure: Figure) -> str:
    parts = [figure.legends[0].get_texts()] if figure.legends else []
    found = [t.get_text() for part in parts for t in part]
    for ax in figure.axes:
        legend = ax.get_legend()
        found += [ax.get_title(loc="left"), *(t.get_text() for t in ax.texts)]
        found += [t.get_text() for t in legend.get_texts()] if legend else []
    return "\n".join(found)


def test_inputs_show_the_split(trained: tuple[StageRun, list[Progress]]) -> None:
    figure = plots.inputs(train.read_views(trained[0], P))
    assert drawn(figure).std() > 1
    assert "10 training views" in texts(figure)
    assert "2 held out" in texts(figure)


def test_inputs_of_a_single_view(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path, n_views=1)
    assert drawn(plots.inputs(train.read_views(run, P))).std() > 1


@pytest.mark.parametrize(
    "values", [{"max_steps": 1}, {"max_steps": 30_000, "coarse_to_fine": "step"}, {"refine_stop": 0.0}]
)
def test_schedules(values: dict) -> None:
    p = TrainParams(**values)
    schedule = plan(p, scene_scale=3.0, shorter_side=600)
    figure = plots.schedules(schedule)
    drawn(figure)
    count = sum(schedule.refinement.refines(n) for n in range(p.max_steps + 1))
    assert f"{count} densification" in texts(figure)


def test_curves_name_the_best(trained: tuple[StageRun, list[Progress]]) -> None:
    records = train.records(trained[0])
    figure = plots.curves(records)
    drawn(figure)
    assert f"{max(r['psnr'] for r in records if r['kind'] == 'eval'):.2f} dB" in texts(figure)


def test_gaussians_and_gradients_count_what_happened(trained: tuple[StageRun, list[Progress]]) -> None:
    records = train.records(trained[0])
    split = sum(r["split"] for r in records if r["kind"] == "refine")
    figure = plots.gaussians(records)
    drawn(figure)
    assert split > 0
    assert f"split {split:,}" in texts(figure)
    figure = plots.gradients(records)
    drawn(figure)
    assert "threshold" in texts(figure)


def test_heldout_shows_every_view_with_its_psnr(trained: tuple[StageRun, list[Progress]]) -> None:
    compared = train.heldout_comparisons(trained[0], P)
    assert [c.name for c in compared] == ["view_000.png", "view_008.png"]
    mean = np.mean([c.psnr for c in compared])
    assert mean == pytest.approx(trained[0].metrics["psnr_heldout"], abs=1e-6)
    figure = plots.heldout(compared)
    drawn(figure)
    assert f"render, {compared[1].psnr:.1f} dB" in texts(figure)


def test_the_live_figure_grows(trained: tuple[StageRun, list[Progress]]) -> None:
    states = trained[1]
    assert "reading photographs" in texts(plots.live_figure(states[:1]))
    drawn(plots.live_figure(states[:2]))
    drawn(plots.live_figure(states[: len(states) // 2]))
    assert f"Gaussians {trained[0].metrics['n_gaussians']:,}" in texts(plots.live_figure(states))
    assert drawn(plots.live_figure([])).size


def test_nothing_recorded_is_said(trained: tuple[StageRun, list[Progress]]) -> None:
    for draw in (plots.curves, plots.gaussians, plots.gradients, plots.heldout):
        assert len(texts(draw([]))) > 10


def test_mcmc_without_heldout_views(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path, n_views=3)
    p = TrainParams(max_steps=40, refine_every=10, strategy="mcmc", sh_degree=0, reset_every=10)
    list(train.run(run, p))
    records = train.records(run)
    assert "no view was held out" in texts(plots.curves(records))
    drawn(plots.gaussians(records))
    assert "MCMC" in texts(plots.gradients(records))
