from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scenes
from matplotlib.figure import Figure
from matplotlib.text import Text

from spaceport_lab import train
from spaceport_lab.images import load_rgb
from spaceport_lab.params import TrainParams
from spaceport_lab.plots import train as plots
from spaceport_lab.train import results
from spaceport_lab.train.schedules import plan
from spaceport_lab.workspace import Progress, StageRun

P = TrainParams(
    max_steps=60, eval_every=20, refine_every=10, sh_degree=1, grow_to=600, patience=50, exposure=True,
    refine_cameras=True, prune_share=0.1, init_fill=0,
)  # fmt: skip
SPECTRUM = {2.0: 0.4, 4.0: 0.1}


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
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def steps_of(n: int, every: int = 10, n_shown: int = 50) -> list[dict]:
    """Records of steps as the stream holds them."""
    return [
        {"kind": "step", "step": step, "loss": 1 / step, "n_gaussians": 100, "n_shown": n_shown,
         "resolution": [64, 48], "seconds": step / 10}
        for step in range(every, n + 1, every)
    ]  # fmt: skip


def evals_of(values: list[tuple[int, float]]) -> list[dict]:
    return [
        {"kind": "eval", "step": step, "psnr": psnr, "psnr_validation": None, "views": {"a": psnr, "b": psnr}}
        for step, psnr in values
    ]


def test_inputs_show_the_split(trained: tuple[StageRun, list[Progress]]) -> None:
    figure = plots.inputs(train.read_views(trained[0], P))
    assert drawn(figure).std() > 1
    assert "9 training views" in texts(figure)
    assert "1 for validation" in texts(figure)
    assert "2 held out" in texts(figure)


def test_inputs_of_a_single_view(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path, n_views=1)
    assert drawn(plots.inputs(train.read_views(run, P))).std() > 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, ["Gaussians aimed at", "38 densifications", "positions", "SH degree"]),
        ({"reset_every": 3000}, ["opacity reset"]),
        ({"max_steps": 1, "coarse_to_fine": "none"}, ["0 densifications", "nothing grows"]),
        ({"refine_stop": 0.0, "means_lr_final": 1.0}, ["nothing grows", "all"]),
        ({"max_steps": 30_000, "coarse_to_fine": "step"}, ["164 densifications"]),
        ({"grow_grad2d": 2e-4}, ["38 densifications", "exceed the threshold"]),
        ({"blur": 4.0, "lowpass": True}, ["blur of photographs", "spread of Gaussians", "sigma in pixels"]),
        ({"prune_share": 0.4, "prune_sh": 1.0}, ["40% pruned", "idle bands drop"]),
    ],
)
def test_schedules(values: dict, said: list[str]) -> None:
    figure = plots.schedules(plan(TrainParams(**values), 3.0, 600, 8_000, SPECTRUM))
    assert drawn(figure).std() > 1
    for text in said:
        assert text in texts(figure)
    assert ("Softening" in texts(figure)) == ("blur" in values)


def test_schedules_draw_the_resolution_that_is_planned() -> None:
    schedule = plan(TrainParams(), 3.0, 600, 8_000, SPECTRUM)
    figure = plots.schedules(schedule)
    side = next(ax for ax in figure.axes if ax.get_ylabel() == "image side").lines[0]
    for step, share in zip(side.get_xdata(), side.get_ydata(), strict=True):
        assert share == 1 / schedule.resolution.stage(step)
    assert min(side.get_ydata()) == 0.25


def test_curves_mark_what_stopping_looks_at(trained: tuple[StageRun, list[Progress]]) -> None:
    records = train.records(trained[0])
    figure = plots.curves(records, "max_steps")
    drawn(figure)
    assert f"{max(r['psnr_validation'] for r in records if r['kind'] == 'eval'):.2f} dB" in texts(figure)
    assert "stopped" not in texts(figure)
    assert "stopped at 60: no better for too long" in texts(plots.curves(records, "patience"))


def test_curves_without_validation_mark_the_best_of_the_held_out_views() -> None:
    figure = plots.curves([*steps_of(100), *evals_of([(20, 18.0), (40, 21.5), (60, 20.0)])])
    assert "21.50 dB" in texts(figure)
    assert "validation" not in texts(figure)
    ring = next(x for x in figure.axes[1].lines if str(x.get_label()).startswith("best"))
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([40], [21.5])


def test_views_without_a_figure_are_left_out() -> None:
    evals = evals_of([(20, 18.0), (40, 21.5)])
    evals[0]["psnr"], evals[0]["views"] = None, {"a": None, "b": 18.0}
    assert "21.50 dB" in texts(plots.curves([*steps_of(50), *evals]))
    for one in evals:
        one["psnr"], one["views"] = None, {"a": None}
    assert drawn(plots.curves([*steps_of(50), *evals])).std() > 1


def test_an_evaluation_after_a_reset_does_not_flatten_the_others() -> None:
    figure = plots.curves([*steps_of(100), *evals_of([(20, 24.0), (40, 5.0), (60, 26.0)])])
    assert figure.axes[1].get_ylim()[0] == pytest.approx(26 - plots.MOST_DB)


def test_training_time_stands_where_it_was_reached() -> None:
    taken = [
        {**r, "seconds": 10.0 if r["step"] <= 50 else 10 + 2.0 * (r["step"] - 50)} for r in steps_of(100)
    ]
    above = plots.curves(taken).axes[-1]
    at = {t.get_text(): x for t, x in zip(above.get_xticklabels(), above.get_xticks(), strict=True)}
    assert at["50 s"] == pytest.approx(70)
    assert at["100 s"] == pytest.approx(95)


def test_stages_of_the_resolution_are_marked_once() -> None:
    records = steps_of(300)
    for record in records:
        stage = 16 if record["step"] <= 100 else 32 if record["step"] <= 200 else 64
        side = min(64, 2 * stage) if record["step"] % 30 == 0 else stage
        record["resolution"] = [side, side * 3 // 4]
    figure = plots.curves(records)
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert [line.get_xdata()[0] for line in lines] == [110, 210]
    assert "32 × 24" in texts(figure)
    assert "64 × 48" in texts(figure)


def test_a_long_training_is_drawn_with_few_points() -> None:
    figure = plots.curves(steps_of(100_000, every=10))
    assert len(figure.axes[0].lines[0].get_xdata()) <= 2 * plots.MAX_POINTS
    assert figure.axes[0].lines[0].get_xdata()[-1] == 100_000


def test_gaussians_count_what_happened(trained: tuple[StageRun, list[Progress]]) -> None:
    records = train.records(trained[0])
    refines = [r for r in records if r["kind"] == "refine"]
    figure = plots.gaussians(records)
    drawn(figure)
    assert sum(r["split"] for r in refines) > 0
    for kind in ("split", "pruned"):
        assert f"{kind} {sum(r[kind] for r in refines):,}" in texts(figure)
    for text in ("aimed at", "pruned by significance"):
        assert text in texts(figure)


def test_gaussians_in_view_are_drawn_where_they_are_fewer() -> None:
    assert "in view of a step" in texts(plots.gaussians(steps_of(50, n_shown=60)))
    assert "in view of a step" not in texts(plots.gaussians(steps_of(50, n_shown=100)))


def test_gradients_say_where_none_exceeded_the_threshold(trained: tuple[StageRun, list[Progress]]) -> None:
    records = train.records(trained[0])
    figure = plots.gradients(records)
    drawn(figure)
    assert "threshold" in texts(figure)
    found = [r for r in records if r.get("gradients")]
    none = [{**r, "above": 0, "threshold": 1.0} for r in found[:2]]
    assert "none at 2 checks" in texts(plots.gradients([*none, *found[2:]]))
    nothing = {**found[0], "gradients": dict.fromkeys(found[0]["gradients"], 0.0), "threshold": 1e-7}
    assert drawn(plots.gradients([nothing])).std() > 1


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


def test_the_journey_ends_with_the_photograph(trained: tuple[StageRun, list[Progress]]) -> None:
    run = trained[0]
    seen = results.journey(run, most=4)
    split = json.loads((run.dir / "heldout.json").read_text())
    assert seen.name in split["validation"]
    assert [step for step, _ in seen.frames] == sorted({step for step, _ in seen.frames})
    assert (len(seen.frames), seen.frames[-1][0]) == (4, 60)
    assert seen.photo.shape == seen.frames[0][1].shape
    # It is that view: the last frame is nearer to its photograph than to any other.
    last = seen.frames[-1][1].astype(float)
    others = {name: load_rgb(run.input("sfm", "images") / name) for name in split["train"]}
    own = np.abs(last - seen.photo).mean()
    assert own < min(np.abs(last - photo).mean() for photo in others.values())
    figure = plots.journey(seen)
    drawn(figure)
    assert f"photograph {seen.name}" in texts(figure)
    assert "step 60" in texts(figure)


def test_corrections_are_drawn_for_every_view(trained: tuple[StageRun, list[Progress]]) -> None:
    run = trained[0]
    figures = plots.corrections(results.exposures(run), results.camera_moves(run), "m")
    assert len(figures) == 2
    for figure in figures:
        assert drawn(figure).std() > 1
        assert "view_001.png" in texts(figure)
    rows = [
        {"view": f"v{i}", "red": 1.0 + i / 100, "green": 1.0, "blue": 0.9, "offset": 0.0} for i in range(200)
    ]
    assert "0.900 to 2.990" in texts(plots.exposures(rows))


def test_what_another_training_left_is_not_shown(tmp_path: Path) -> None:
    run = scenes.open_run(tmp_path)
    for name in ("exposure.json", "cameras.json", "heldout.json"):
        (run.dir / name).write_text("[1]")
    assert (results.exposures(run), results.camera_moves(run), results.journey(run)) == ([], [], None)
    run.output("exposure.json")
    assert results.exposures(run) == [1]


def test_nothing_recorded_is_said(trained: tuple[StageRun, list[Progress]]) -> None:
    nothing = (
        plots.curves,
        plots.gaussians,
        plots.gradients,
        plots.heldout,
        plots.exposures,
        plots.camera_moves,
    )
    for draw in nothing:
        assert len(texts(draw([]))) > 10
    assert plots.journey(None) is None
    assert plots.corrections([], []) == []


def test_mcmc_without_heldout_views(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path, n_views=3)
    p = TrainParams(max_steps=40, refine_every=10, strategy="mcmc", sh_degree=0, reset_every=10)
    list(train.run(run, p))
    records = train.records(run)
    assert "no view was held out" in texts(plots.curves(records))
    drawn(plots.gaussians(records))
    assert "MCMC" in texts(plots.gradients(records))
