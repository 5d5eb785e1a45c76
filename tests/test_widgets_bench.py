"""The bench around a real training of a tiny scene, pressed by function calls instead of fingers."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import scenes

from spaceport_lab import notebook, train, widgets
from spaceport_lab.errors import WorkspaceError
from spaceport_lab.params import TrainParams, load_preset
from spaceport_lab.train import results
from spaceport_lab.widgets import workbench as benches
from spaceport_lab.widgets.workbench import Bench
from spaceport_lab.workspace import StageRun, read_manifest

QUICK = {
    "max_steps": 120,
    "eval_every": 40,
    "refine_every": 20,
    "sh_degree": 1,
    "patience": 100,
    "grow_to": 400,
}
NEVER = {**QUICK, "max_steps": 1_000_000, "patience": 0, "timelapse": False, "checkpoint_every": 10_000}


@pytest.fixture(autouse=True)
def _swift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benches, "UPDATE_SECONDS", 0.1)
    monkeypatch.setattr(benches.DisplayHandle, "display", lambda self, data, **kwargs: None)
    monkeypatch.setattr(benches.DisplayHandle, "update", lambda self, data, **kwargs: None)


def open_bench(root: Path, **values) -> Bench:
    run = scenes.make_run(root, n_points=150)
    p = TrainParams(**{"interactive": True, **QUICK, **values})
    return widgets.bench(run, p, train.read_views(run, p))


@pytest.fixture
def endless(tmp_path: Path):
    """A bench whose training has begun and does not end by itself."""
    bench = open_bench(tmp_path / "site" / "runs" / "job", **NEVER)
    bench.start()
    until(lambda: bench.session.latest is not None and bench.session.latest.step >= 20)
    yield bench
    bench.session.control.stop()
    bench.session.wait()


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something to become true; fail when it does not."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def digest(run: StageRun) -> str:
    return hashlib.sha256((run.dir / "splat.ply").read_bytes()).hexdigest()


def test_untouched_it_trains_what_batch_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = {}
    for interactive in (False, True):
        run = scenes.make_run(tmp_path / str(interactive), n_points=150)
        p = TrainParams(**QUICK, interactive=interactive)
        recorded = widgets.train(run, p, train.read_views(run, p))
        assert recorded == p
        made[interactive] = (digest(run), run.metrics, set(run.outputs), run.warnings)
    assert made[False] == made[True]
    assert "training  120/120" in capsys.readouterr().out  # batch logs


def test_at_the_end_charts_and_pictures_show_the_end(tmp_path: Path) -> None:
    bench = open_bench(tmp_path)
    bench.train()
    assert bench.state == "finished"
    assert "finished: step 120 of 120" in bench.status.value
    assert bench.charts["schedule"].drawing.now == 120
    assert bench.charts["gaussians"].drawing.title == f"Gaussians {bench.run.metrics['n_gaussians']:,}"
    assert bench.histogram.counts
    assert not bench.histogram.enabled
    assert bench.frames.steps[-1] == 120
    assert "step 120" in bench.frames.captions[1]
    bench.frames.wanted = bench.frames.steps[0]
    assert f"step {bench.frames.steps[0]}" in bench.frames.captions[1]
    data, metadata = bench._bundle()
    assert {"image/png", "text/plain", "application/vnd.jupyter.widget-view+json"} == set(data)
    assert "PSNR" in metadata["image/png"]["alt"]
    assert results.journey(bench.run).name == bench._view.name


def test_before_the_start_everything_can_be_set(tmp_path: Path) -> None:
    bench = open_bench(tmp_path)
    bench.panels["More"].controls["seed"].value = 7
    bench.panels["Early stopping"].controls["max_steps"].value = 50
    assert bench.charts["schedule"].drawing.x == (0, 50)
    recorded = bench.train()
    assert (recorded.seed, recorded.max_steps) == (7, 50)
    assert bench.run.metrics["steps"] == 50
    assert "changes" not in bench.run.metrics
    with pytest.raises(WorkspaceError):
        bench.session.start()


def test_a_change_takes_force_and_says_from_where(endless: Bench) -> None:
    panel = endless.panels["Densification"]
    assert panel.controls["strategy"].disabled
    endless.histogram.chosen = 1e-3  # what the page sets when the line is let go
    assert panel.controls["grow_grad2d"].value == 1e-3
    until(lambda: "from step" in panel._texts["grow_grad2d"].value)
    change = endless.session.control.changes[0]
    assert change.values == {"grow_grad2d": 1e-3}
    assert f"from step {change.step + 1:,}" in panel._texts["grow_grad2d"].value
    panel.controls["grow_grad2d"].value = 0.0
    assert endless.histogram.chosen == 0.0

    def written() -> list[dict]:
        return [r["values"] for r in endless.session.records() if r["kind"] == "change"]

    # A checkpoint comes between a change and its record.
    until(lambda: len(written()) == 2)
    assert written() == [{"grow_grad2d": 1e-3}, {"grow_grad2d": 0.0}]


def test_a_bad_threshold_is_taken_back(endless: Bench) -> None:
    endless.histogram.chosen = -1.0
    assert endless.histogram.chosen == 0.0
    assert "cannot be used" in endless.panels["Densification"]._texts["grow_grad2d"].value
    assert endless.session.control.changes == []


def test_pause_step_resume_stop(endless: Bench) -> None:
    buttons = endless.buttons
    until(lambda: buttons.main.description == "Pause")
    assert buttons.step.disabled
    buttons.main.click()
    until(lambda: endless.state == "paused")
    at = endless.session.latest.step
    until(lambda: buttons.main.description == "Resume" and not buttons.step.disabled)
    time.sleep(0.3)
    assert endless.session.latest.step == at
    buttons.count.value = 3
    buttons.step.click()
    until(lambda: endless.session.latest.step == at + 3 and endless.state == "paused")
    until(lambda: f"step {at + 3:,}" in endless.status.value or "paused" in endless.status.value)
    buttons.main.click()
    until(lambda: endless.session.latest.step > at + 10)
    buttons.stop.click()
    recorded = endless.train()
    assert recorded == endless.given
    assert endless.run.metrics["stopped_by"] == "person"
    assert "stopped" in endless.status.value
    assert (endless.run.dir / "splat.ply").exists()


def test_an_interrupt_pauses_and_the_cell_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = open_bench(tmp_path, **NEVER)
    bench.start()
    until(lambda: bench.session.latest is not None and bench.session.latest.step >= 20)

    def interrupted() -> None:
        bench.session.control.pause()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bench.session, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench.train()
    assert "Run this cell again" in capsys.readouterr().out
    until(lambda: bench.state == "paused")
    assert (bench.run.dir / "checkpoint.pt").exists()
    # The notebook is run again from the top: another run object, the same parameters.
    again = StageRun(bench.run.root, "train")
    same = widgets.bench(again, bench.given, bench.views)
    assert same is bench
    with pytest.raises(WorkspaceError, match="other parameters"):
        widgets.bench(again, bench.given.model_copy(update={"seed": 1}), bench.views)
    bench.session.control.stop()
    same.train()
    assert again.metrics["stopped_by"] == "person"
    assert set(again.outputs) == set(bench.session.run.outputs)
    notebook.record(again, bench.given)
    assert read_manifest(again.dir)["metrics"]["steps"] == again.metrics["steps"]


def test_what_training_raised_is_raised_and_shown(tmp_path: Path) -> None:
    bench = open_bench(tmp_path)
    for photo in (tmp_path / "02_sfm" / "images").iterdir():
        photo.write_bytes(b"no photograph")
    with pytest.raises(Exception, match="cannot read"):
        bench.train()
    assert bench.state == "failed"
    assert "failed:" in bench.status.value


def test_the_bench_saves_what_is_in_force(endless: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(endless.run.root)
    endless.panels["Densification"].controls["grow_grad2d"].value = 4e-4
    endless.saver.name.value = "mine"
    endless.saver.button.click()
    path = endless.run.root / "params" / "mine.yaml"
    assert str(path) in endless.saver.said.value
    assert load_preset(str(path))["train"]["grow_grad2d"] == 4e-4
    endless.saver.button.click()
    assert "already" in endless.saver.said.value


def test_a_fault_of_drawing_never_ends_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = open_bench(tmp_path)
    monkeypatch.setattr(bench, "_draw", lambda latest: 1 / 0)
    bench.train()
    assert bench.run.metrics["steps"] == 120


def test_tuning_happens_beside_the_run(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path / "site" / "runs" / "bench")
    before = sorted(path.name for path in run.root.rglob("*"))
    cell = widgets.apart({"run_dir": str(run.root), "seed": 3})
    folder = run.root.with_name("bench-tune")
    assert cell == {"run_dir": str(folder), "seed": 3}
    assert widgets.apart(cell) == cell  # the cell may be run again
    assert StageRun(folder, "train").input("sfm", "images").is_dir()
    assert sorted(path.name for path in run.root.rglob("*")) == before


def test_without_an_sfm_stage_it_says_which_notebook(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"run notebooks/01_ingest.ipynb and 02_sfm.ipynb first"):
        widgets.apart({"run_dir": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


def test_the_card_of_a_steered_run_says_so(endless: Bench) -> None:
    endless.panels["Densification"].controls["grow_grad2d"].value = 4e-4
    until(lambda: len(endless.session.control.changes) == 1)
    endless.buttons.stop.click()
    p = endless.train()
    notebook.record(endless.run, p)
    card = json.loads((endless.run.root / "run.json").read_text())
    metrics = card["stages"]["train"]["metrics"]
    assert metrics["changes"][0]["values"] == {"grow_grad2d": 4e-4}
