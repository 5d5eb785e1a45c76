from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import scenes
import torch

from spaceport_lab import train
from spaceport_lab.cameras import read_scene
from spaceport_lab.errors import ParamsError
from spaceport_lab.gaussians import read_ply
from spaceport_lab.params import TrainParams
from spaceport_lab.params.describe import live_names
from spaceport_lab.train import schedules, steering, stream
from spaceport_lab.train.control import Change, Control, decisive, in_force
from spaceport_lab.train.densify import Adc, Mcmc
from spaceport_lab.train.densify.record import histogram, ordered
from spaceport_lab.workspace import Progress, StageRun

QUICK = {"max_steps": 60, "eval_every": 20, "checkpoint_every": 30, "refine_every": 10, "sh_degree": 1}
QUICK |= {"timelapse": False}
TIMING = {"seconds", "peak_rss_mb"}
AT_20 = {"grow_grad2d": 2e-3, "means_lr": 1e-3, "sh_degree_interval": 0.5, "coarse_to_fine": "none"}
AT_40 = {"background": "random", "max_steps": 70, "refine_stop": 0.9, "ssim_lambda": 0.5}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scene")
    scenes.make_run(root, n_points=120)
    return root


def open_run(scene: Path, root: Path) -> StageRun:
    """A run of its own that shares the scene."""
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "02_sfm").exists():
        (root / "02_sfm").symlink_to(scene / "02_sfm", target_is_directory=True)
    return scenes.open_run(root)


def params(**values) -> TrainParams:
    return TrainParams(**{**QUICK, **values})


def digest(run: StageRun) -> str:
    return hashlib.sha256((run.dir / "splat.ply").read_bytes()).hexdigest()


def untimed(run: StageRun) -> list[dict]:
    records = stream.read(run.dir / "metrics.jsonl")
    return [{k: v for k, v in record.items() if k not in TIMING} for record in records]


def of_kind(run: StageRun, kind: str) -> list[dict]:
    return [record for record in untimed(run) if record["kind"] == kind]


def steer(run: StageRun, p: TrainParams, asked: dict[int, dict], until: int | None = None) -> Control:
    """Train, changing parameters when a step is reported; abandoned at step `until` like a killed kernel."""
    control = Control()
    states = train.run(run, p, control)
    for state in states:
        if state.message == "training" and state.step in asked:
            control.change(**asked.pop(state.step))
        if until is not None and state.step >= until:
            states.close()
            return control
    return control


def test_every_live_parameter_can_change_and_no_other() -> None:
    live, fields = live_names(TrainParams), TrainParams.model_fields
    assert {"grow_grad2d", "means_lr", "patience", "max_steps", "checkpoint_every"} <= live
    assert not live & {"seed", "backend", "strategy", "sh_degree", "test_every", "run_dir", "log_every"}
    assert fields["checkpoint_every"].json_schema_extra == {"key": False, "live": True}
    control = Control()
    for name in sorted(set(fields) - live):
        with pytest.raises(ParamsError, match=rf"train\.{name} cannot change while training runs; set it"):
            control.change(**{name: fields[name].default})


def test_a_change_is_refused_whole() -> None:
    control = Control(params())
    with pytest.raises(ParamsError, match=r"did you mean train\.patience"):
        control.change(patince=3)
    with pytest.raises(ParamsError, match=r"train\.refine_every is 0: "):
        control.change(means_lr=1e-3, refine_every=0)
    assert control.params == params()
    assert not control.wanted
    control.change(means_lr="1e-3", patience=7)
    assert control.wanted
    assert control.params == params(means_lr=1e-3, patience=7)
    control.change(means_lr=params().means_lr, patience=2000)
    assert not control.wanted, "taken back before it was taken"
    control.end()
    with pytest.raises(ParamsError, match="training has ended"):
        control.change(patience=3)


def test_changes_add_up() -> None:
    changes = [Change(3, {"patience": 5}), Change(9, {"patience": 6, "checkpoint_every": 7})]
    assert in_force(params(), changes) == params(patience=6, checkpoint_every=7)
    assert decisive(changes) == [
        {"step": 3, "values": {"patience": 5}},
        {"step": 9, "values": {"patience": 6}},
    ]
    assert decisive([Change(1, {"checkpoint_every": 7})]) == []


@pytest.mark.parametrize("strategy", ["default", "mcmc"])
def test_a_control_that_nobody_touches_changes_nothing(scene: Path, tmp_path: Path, strategy: str) -> None:
    plain, watched, stepped = (open_run(scene, tmp_path / name) for name in ("plain", "watched", "stepped"))
    p = params(strategy=strategy, max_steps=40)
    list(train.run(plain, p))
    list(train.run(watched, p, Control()))
    control = Control()
    control.advance(3)
    for state in train.run(stepped, p, control):
        if state.message == "paused":
            control.advance(8) if state.step < 30 else control.resume()
    for run in (watched, stepped):
        assert digest(run) == digest(plain)
        assert run.metrics == plain.metrics
        assert untimed(run) == untimed(plain)
        assert not getattr(run, "steered", None)
    assert "changes" not in plain.metrics


@pytest.fixture(scope="module")
def changed(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StageRun, Control]:
    """A whole training, changed after steps 20 and 40; looked at by several tests."""
    run = open_run(scene, tmp_path_factory.mktemp("changed"))
    return run, steer(run, params(), {20: AT_20, 40: AT_40})


def test_changes_are_in_force_from_the_next_step(changed: tuple[StageRun, Control]) -> None:
    run, control = changed
    assert control.changes == [Change(20, AT_20), Change(40, AT_40)]
    steps = {record["step"]: record for record in of_kind(run, "step")}
    assert max(steps) == 70
    assert steps[30]["lr"]["means"] > 4 * steps[20]["lr"]["means"]
    assert steps[20]["sh_degree"] == steps[30]["sh_degree"] == 1, "a band that has been trained stays"
    refined = {record["step"]: record for record in of_kind(run, "refine")}
    assert refined[20]["target"] is not None
    assert refined[30]["target"] is None
    assert refined[30]["threshold"] == AT_20["grow_grad2d"]
    assert sum(refined[30]["histogram"]["counts"]) <= refined[30]["n_before"]
    assert of_kind(run, "change") == [
        {"kind": "change", "step": 20, "values": AT_20}, {"kind": "change", "step": 40, "values": AT_40}
    ]  # fmt: skip
    assert run.metrics["steps"] == 70
    assert run.metrics["changes"] == [{"step": 20, "values": AT_20}, {"step": 40, "values": AT_40}]
    assert run.steered == {"changes": run.metrics["changes"], "stopped": None}


@pytest.mark.parametrize("killed_at", [30, 50])
def test_changed_killed_and_resumed_is_bit_for_bit_the_same(
    scene: Path, tmp_path: Path, changed: tuple[StageRun, Control], killed_at: int
) -> None:
    whole, _ = changed
    run = open_run(scene, tmp_path)
    steer(run, params(), {20: AT_20, 40: AT_40}, until=killed_at)
    assert not (run.dir / "splat.ply").exists()
    again = scenes.open_run(tmp_path)
    control = steer(again, params(), {40: AT_40} if killed_at == 30 else {})
    assert not again.warnings
    assert [change.step for change in control.changes] == [20, 40]
    assert digest(again) == digest(whole)
    assert again.metrics == whole.metrics
    assert untimed(again) == untimed(whole)


def test_without_a_control_a_steered_checkpoint_is_put_aside(
    scene: Path, tmp_path: Path, changed: tuple[StageRun, Control]
) -> None:
    run = open_run(scene, tmp_path / "batch")
    steer(run, params(), {20: AT_20}, until=40)
    again = scenes.open_run(tmp_path / "batch")
    states = list(train.run(again, params()))
    assert states[1].message == "training"
    assert "kept as checkpoint_steered.pt" in again.warnings[0]
    assert (again.dir / "checkpoint_steered.pt").exists()
    assert "changes" not in again.metrics
    plain = open_run(scene, tmp_path / "plain")
    list(train.run(plain, params()))
    assert digest(again) == digest(plain) != digest(changed[0])


def test_stop_keeps_what_there_is(scene: Path, tmp_path: Path) -> None:
    run, control = open_run(scene, tmp_path), Control()
    for state in train.run(run, params(), control):
        if state.step == 30:
            control.stop()
    assert run.metrics["stopped_by"] == "person"
    assert run.metrics["steps"] == 30
    assert run.steered == {"changes": [], "stopped": 30}
    evaluated = of_kind(run, "eval")
    assert [record["step"] for record in evaluated] == [20, 30]
    assert run.metrics["psnr_heldout"] == pytest.approx(evaluated[-1]["psnr"], abs=1e-4)
    before = digest(run)
    again = scenes.open_run(tmp_path)
    states = list(train.run(again, params(), Control()))
    assert not any(state.message == "training" for state in states)
    assert (digest(again), again.metrics, again.steered) == (before, run.metrics, run.steered)


def test_stop_before_the_first_step(scene: Path, tmp_path: Path) -> None:
    run, control = open_run(scene, tmp_path), Control()
    control.stop()
    list(train.run(run, params(), control))
    assert run.metrics["steps"] == 0
    assert read_ply(run.dir / "splat.ply").n >= 120


def test_fewer_steps_than_are_done_end_it(scene: Path, tmp_path: Path) -> None:
    run, control = open_run(scene, tmp_path), Control()
    for state in train.run(run, params(), control):
        if state.step == 30:
            control.change(max_steps=10)
    assert run.metrics["steps"] == 30
    assert run.metrics["stopped_by"] == "max_steps"
    assert [record["step"] for record in of_kind(run, "eval")] == [20, 30]


def test_a_pause_saves_takes_no_time_and_ends_at_once(scene: Path, tmp_path: Path) -> None:
    run, control = open_run(scene, tmp_path), Control()
    seen: list[tuple[str, int]] = []

    def work() -> None:
        for state in train.run(run, params(eval_every=1000, max_steps=50), control):
            seen.append((state.message, state.step))
            if state == Progress(20, 50, "training", state.values):
                control.pause()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not control.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert control.paused
    assert ("paused", 20) in seen
    assert torch.load(run.dir / "checkpoint.pt", weights_only=True)["step"] == 20
    began = time.process_time()
    time.sleep(1.0)
    assert time.process_time() - began < 0.1, "waiting costs nothing"
    control.advance(5)
    while ("paused", 25) not in seen:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert torch.load(run.dir / "checkpoint.pt", weights_only=True)["step"] == 20, "single steps do not save"
    while not control.waiting:
        time.sleep(0.01)
    asked = time.monotonic()
    control.stop()
    while control.waiting:
        time.sleep(0.01)
    assert time.monotonic() - asked < 0.5
    thread.join(30)
    assert not thread.is_alive()
    assert run.metrics["steps"] == 25
    content = torch.load(run.dir / "checkpoint.pt", weights_only=True)
    assert content["counters"]["stopped_by"] == "person"
    wall = stream.read(run.dir / "metrics.jsonl")[-1]["seconds"]
    assert content["counters"]["seconds"] == pytest.approx(wall, abs=1e-3)


def test_an_interrupt_ends_a_wait_at_once(scene: Path, tmp_path: Path) -> None:
    control, asked = Control(), []

    def interrupt() -> None:
        asked.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    control.pause()
    states = train.run(open_run(scene, tmp_path), params(), control)
    assert [next(states).message, next(states).message] == ["reading photographs", "paused"]
    threading.Timer(0.2, interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        next(states)
    assert time.monotonic() - asked[0] < 0.5
    assert not control.waiting


def test_stopping_that_comes_late_is_warned_of_and_keeps_no_old_best(scene: Path, tmp_path: Path) -> None:
    run, control = open_run(scene, tmp_path), Control()
    for state in train.run(run, params(patience=0), control):
        if state.step == 10:
            control.change(patience=30)
    assert any("when it was too late to keep validation views" in warning for warning in run.warnings)
    other, control = open_run(scene, tmp_path / "other"), Control()
    for state in train.run(other, params(patience=30), control):
        if state.step == 30:
            control.change(patience=0)
    content = torch.load(other.dir / "checkpoint.pt", weights_only=True)
    assert content["best"] is None


def test_memory_bounds_a_cap_that_is_raised(scene: Path, tmp_path: Path, monkeypatch) -> None:
    run, control = open_run(scene, tmp_path), Control()
    for state in train.run(run, params(cap_max=300), control):
        if state.step == 10:
            monkeypatch.setattr(train.memory, "affordable_cap", lambda p, *_: min(p.cap_max, 350))
            control.change(cap_max=5000, grow_to=4000)
    assert any("asked for after step 10, was lowered to that" in warning for warning in run.warnings)
    assert 300 < run.metrics["n_gaussians"] <= 350


def test_what_happens_once_does_not_come_again(scene: Path, tmp_path: Path) -> None:
    run = open_run(scene, tmp_path)
    p = params(prune_share=0.2, prune_sh=1.0, max_steps=100)
    data = train.inputs.read(run, p)
    try:
        old = steering.plan_from(p, data.views, 120, data.spectrum)
        assert (old.prune_at, old.drop_bands_at) == ((46, 51, 55, 60), 80)
        after = p.model_copy(update={"max_steps": 200})
        early = steering.replan(old, after, data, 120, done=20)
        assert (early.prune_at, early.drop_bands_at) == ((92, 102, 111, 120), 160)
        late = steering.replan(old, after, data, 120, done=52)
        assert (late.prune_at, late.drop_bands_at) == ((46, 51, 111, 120), 160)
        assert late.refinement.stop == 92
        assert late.prune_each == pytest.approx(old.prune_each)
        overdue = steering.replan(old, p.model_copy(update={"refine_stop": 0.1}), data, 120, done=20)
        assert overdue.prune_at == (21, 22)
        none = steering.replan(old, p.model_copy(update={"prune_share": 0.0}), data, 120, done=20)
        assert none.prune_at == ()
    finally:
        data.close()


@pytest.mark.parametrize("kind", [Adc, Mcmc])
def test_adopt_takes_over_all_that_making_anew_would(kind: type) -> None:
    before = params(strategy="mcmc" if kind is Mcmc else "default")
    after = before.model_copy(
        update={
            "prune_opa": 0.02, "grow_grad2d": 1e-3, "percent_dense": 0.05, "refine_every": 7,
            "refine_stop": 0.9, "refine_start": 0.2, "reset_every": 11, "mcmc_noise": 3.0,
            "mcmc_opacity_reg": 0.5, "mcmc_scale_reg": 0.6,
        }
    )  # fmt: skip
    plans = [schedules.plan(p, 2.0, 480, 100, {1.0: 1.0}) for p in (before, after)]
    adopted, made = kind(before, plans[0], 2.0, 500), kind(after, plans[1], 2.0, 900)
    state = adopted.state
    adopted.adopt(after, plans[1], 900)
    assert adopted.state is state
    assert {k: v for k, v in vars(adopted).items() if k != "state"} == {
        k: v for k, v in vars(made).items() if k != "state"
    }


def test_a_histogram_counts_all_on_the_same_edges() -> None:
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(-9, 2, 5000)).astype(np.float32)
    values[:3] = 0
    found = histogram(ordered(torch.from_numpy(values)))
    edges, counts = found["edges"], found["counts"]
    assert len(counts) == len(edges) - 1 <= 48
    assert sum(counts) == 5000
    assert edges[-2] <= values.max() <= edges[-1] * 1.001
    expected, _ = np.histogram(np.maximum(values, edges[0] * 1.0001), bins=np.array(edges))
    assert np.abs(np.array(counts) - expected).sum() <= 4, "edges are rounded to four digits"
    other = histogram(ordered(torch.from_numpy(values * 3)))
    assert len(set(edges) & set(other["edges"])) > 20
    assert histogram(torch.zeros(0)) == histogram(torch.zeros(5)) == {"edges": [], "counts": []}
    one = histogram(torch.tensor([1e-4]))
    assert sum(one["counts"]) == 1


def test_rows_that_wait_catch_up_by_the_rates_they_waited_under(tmp_path: Path) -> None:
    wide = scenes.make_run(tmp_path / "wide", n_points=120)
    found = read_scene(wide.input("sfm"))
    aside = np.concatenate([found.points, found.points * [5, 5, 1]])
    colors = np.concatenate([found.colors, found.colors])
    scenes.write_colmap(tmp_path / "wide" / "02_sfm" / "sparse", found.cameras, aside, colors)
    p = params(eval_every=1000, checkpoint_every=20, refine_start=1.0, backdrop=False)
    steer(open_run(tmp_path / "wide", tmp_path / "kept"), p, {}, until=20)
    kept = torch.load(tmp_path / "kept" / "03_train" / "checkpoint.pt", weights_only=True)
    run = open_run(tmp_path / "wide", tmp_path / "changed")
    steer(run, p, {20: {"scales_lr": 1.0, "means_lr": 1.0}}, until=30)
    found = torch.load(run.dir / "checkpoint.pt", weights_only=True)
    assert kept["step"] == found["step"] == 20
    settled = next(iter(kept["optimizers"]["scales"].values()))["settled"]
    assert bool((settled < 20).any()), "otherwise nothing is tested"
    # Slow and obvious: Adam without gradients, one step after the other.
    for name, rate in (("scales", p.scales_lr), ("opacities", p.opacities_lr)):
        state = next(iter(kept["optimizers"][name].values()))
        values, mean, square = (
            t.double().clone() for t in (kept["splats"][name], state["exp_avg"], state["exp_avg_sq"])
        )
        for step in range(1, 21):
            waits = state["settled"] < step
            mean[waits] *= 0.9
            square[waits] *= 0.999
            root = (square[waits] / (1 - 0.999**step)).sqrt()
            values[waits] -= rate / (1 - 0.9**step) * mean[waits] / (root + 1e-15)
        np.testing.assert_allclose(
            found["splats"][name].numpy(), values.float().numpy(), rtol=1e-4, atol=1e-5
        )
