"""Sweeps: the space, equal time, trials as runs, pruning, killed and resumed, several workers, the preset."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import scenes
import yaml
from optuna.trial import TrialState
from typer.testing import CliRunner

from spaceport_lab import cli, comparing, runcard, sweep, train, workspace
from spaceport_lab.errors import InputError, ParamsError, StageError, WorkspaceError
from spaceport_lab.params import resolve
from spaceport_lab.pipeline import make_request
from spaceport_lab.sweep import judging, running, study, timing
from spaceport_lab.sweep.judging import TrialRow
from spaceport_lab.workspace import StageRun

QUICK = ("train.max_steps=40", "train.eval_every=4", "train.refine_every=10", "train.sh_degree=1")
SPEC = {
    "train.means_lr": {"low": 1e-5, "high": 1e-2, "log": True},
    "train.refine_stop": {"low": 0.4, "high": 0.8, "step": 0.2},
    "train.strategy": ["default", "mcmc"],
}
DOCS = Path(__file__).resolve().parent.parent / "docs"


def space(**more) -> sweep.Space:
    return sweep.parse_space(SPEC | more, "test.yaml")


def make(scene: Path, name: str = "first", **more) -> sweep.Sweep:
    return sweep.make_sweep(scene, space(), name, overrides=QUICK, **more)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene with one run whose sfm stage has finished; tests may add sweeps."""
    scene = tmp_path_factory.mktemp("data") / "mound"
    scenes.make_run(scene / "runs" / "a")
    return scene


@pytest.fixture(scope="module")
def done(source: Path) -> tuple[sweep.Sweep, sweep.Outcome]:
    """A sweep of four trials that ended; changed by no test."""
    asked = make(source)
    return asked, sweep.run_sweep(asked, 4)


# The space


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no search space"),
        (["train.blur"], "no search space"),
        ({"blur": [0, 1]}, "'blur' is no parameter"),
        ({"train.blurr": [0, 1]}, r"did you mean train\.blur\?"),
        ({"train.means_lrr": {"low": 1, "high": 2}}, r"did you mean train\.means_lr\?"),
        ({"sfm.train_size": [400, 800]}, "trials share everything before it"),
        ({"train.patience": [100, 200]}, "the same in all trials"),
        ({"train.test_every": [4, 8]}, "the same in all trials"),
        ({"train.checkpoint_every": [4, 8]}, "the same in all trials"),
        ({"train.blur": [1]}, "two choices at least"),
        ({"train.blur": [1, 1]}, "a choice twice"),
        ({"train.blur": [1, -2]}, r"train\.blur: -2 cannot be used: input should be greater"),
        ({"train.blur": {"low": 0}}, r"nor \{low, high\}"),
        ({"train.blur": {"low": 0, "high": 1, "lgo": True}}, r"nor \{low, high\}"),
        ({"train.blur": {"low": 2, "high": 1}}, "low 2 is not below high 1"),
        ({"train.blur": {"low": 0, "high": 1, "log": True}}, "a low of 0"),
        ({"train.blur": {"low": 1, "high": 2, "step": 3}}, "a step of 3 does not fit"),
        ({"train.blur": {"low": "1e-4", "high": 2}}, "write 0.0001 with a point"),
        ({"train.refine_stop": {"low": 0.5, "high": 1.5}}, "1.5 cannot be used: input should be less"),
        ({"train.max_steps": {"low": 100.5, "high": 200}}, "100.5 cannot be used"),
        ({"train.strategy": {"low": 1, "high": 2}}, "has no order"),
        ({"train.exposure": {"low": 0, "high": 1}}, "has no order"),
    ],
)
def test_what_is_no_space(content: object, said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        sweep.parse_space(content, "s.yaml")


def test_all_that_is_wrong_is_named_at_once() -> None:
    content = {"train.blur": [1, -2], "train.seed": [1, 2], "train.means_lr": {"low": 1e-4, "high": 1e-3}}
    with pytest.raises(ParamsError) as error:
        sweep.parse_space(content, "s.yaml")
    assert "train.blur" in str(error.value)
    assert "train.seed" in str(error.value)
    assert "means_lr" not in str(error.value)


def test_a_space_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("train.cap_max: {low: 1000, high: 9000, step: 1000}\ntrain.absgrad: [true, false]\n")
    found = sweep.read_space(path).distributions
    assert found["train.cap_max"] == optuna.distributions.IntDistribution(1000, 9000, step=1000)
    assert found["train.absgrad"] == optuna.distributions.CategoricalDistribution((True, False))
    with pytest.raises(ParamsError, match="cannot be read"):
        sweep.read_space(tmp_path / "none.yaml")
    path.write_text("a: [")
    with pytest.raises(ParamsError, match="is not YAML"):
        sweep.read_space(path)


def test_numbers_are_tried_as_they_will_be_written() -> None:
    tidy = space().tidied({"train.means_lr": 0.000123456, "train.refine_stop": 0.6000000000000001})
    assert tidy == {"train.means_lr": 0.0001235, "train.refine_stop": 0.6}
    assert space().tidied({"train.means_lr": 1e-5 * (1 + 1e-12)}) == {"train.means_lr": 1e-5}


def test_the_default_is_in_the_space_or_not() -> None:
    p = resolve().params["train"]
    assert space().holds(p) == {
        "train.means_lr": 1.6e-4,
        "train.refine_stop": 0.6,
        "train.strategy": "default",
    }
    assert space(**{"train.grow_grad2d": {"low": 1e-4, "high": 1e-3}}).holds(p) is None


def test_the_example_makes_sense_for_the_demo(source: Path) -> None:
    example = sweep.read_space(DOCS / "sweep-demo.yaml")
    assert 4 <= len(example.distributions) <= 8
    assert example.holds(resolve(["demo"]).params["train"]) is not None
    sweep.make_sweep(source, example, "example", ["demo"])


# Time


def records(*points: tuple[float, float, float | None]) -> list[dict]:
    """(seconds, held-out, validation) of evaluations."""
    return [
        {"kind": "eval", "step": 10 * (i + 1), "seconds": s, "psnr": h, "psnr_validation": v}
        for i, (s, h, v) in enumerate(points)
    ]


def test_only_what_comes_within_the_time_counts_and_validation_views_decide() -> None:
    stream = records((1.0, 20, 21), (2.0, 24, 22), (3.0, 23, 25))
    assert timing.reached(stream, 2.5) == timing.Reached(22, 24, 2.0, 20)
    assert timing.reached(stream, None) == timing.Reached(25, 23, 3.0, 30)
    assert timing.reached(stream, 0.5) is None
    assert timing.reached(records((1.0, 20, None), (2.0, 19, None)), 9) == timing.Reached(20, 20, 1.0, 10)


def test_trials_are_compared_at_the_same_shares_of_the_time() -> None:
    stream = records((1.0, 20, None), (2.0, 22, None))
    going = timing.on_the_grid(stream, 4.0, ended=False)
    assert going == [(5, 20), (6, 20), (7, 20), (8, 20), (9, 20), (10, 22)]
    assert timing.on_the_grid(stream, 4.0, ended=True)[-1] == (timing.GRID, 22)


def test_a_stream_is_read_on_and_anew_where_it_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = timing.Tail(path)
    assert tail.read() == []
    path.write_text('{"a": 1}\n{"a"')
    assert tail.read() == [{"a": 1}]
    with open(path, "a") as file:
        file.write(": 2}\n")
    assert tail.read() == [{"a": 1}, {"a": 2}]
    (tmp_path / "new").write_text('{"a": 3}\n')
    (tmp_path / "new").replace(path)
    assert tail.read() == [{"a": 3}]


# What can be swept


def test_what_is_refused_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="finished sfm stage"):
        sweep.make_sweep(tmp_path, space(), "x")
    with pytest.raises(InputError, match="finished sfm stage"):
        sweep.make_sweep(tmp_path / "nowhere", space(), "x")
    with pytest.raises(ParamsError, match=r"train\.patience"):
        sweep.make_sweep(source, space(), "x", overrides=["train.patience=5"])
    scenes.make_run(tmp_path / "lonely", n_views=4)
    with pytest.raises(InputError, match="beside the run"):
        sweep.make_sweep(tmp_path / "lonely", space(), "x")
    scenes.make_run(tmp_path / "few" / "runs" / "a", n_views=3)
    with pytest.raises(InputError, match="judged by held-out views"):
        sweep.run_sweep(make(tmp_path / "few"), 2)
    assert not (tmp_path / "few" / "sweeps").exists()
    assert make(source, "My Sweep!").name == "my-sweep"


def test_trials_are_trained_to_the_end_and_validated(source: Path) -> None:
    p = make(source).resolved({"train.max_steps": 400}).params["train"]
    assert (p.max_steps, p.patience, p.eval_every, p.target_psnr) == (400, 399, 4, 0)
    views = train.read_views(StageRun(source / "runs" / "a", "train"), p)
    assert len(views.validation) > 0
    assert make(source).resolved({"train.blur": 2.0}).origins["train"]["blur"] == "sweep first"


# Trials


def test_every_trial_is_an_ordinary_run(done: tuple[sweep.Sweep, sweep.Outcome]) -> None:
    _, found = done
    assert [row.number for row in found.trials] == [0, 1, 2, 3]
    assert found.trials[0].changes == {}
    for row in found.trials:
        card = runcard.read(row.run)
        assert (card["scene"], card["job"]) == ("mound", f"first-t{row.number:02d}")
        assert card["sweep"]["changes"] == row.changes
        assert card["stages"]["sfm"]["reused_from"] == "a"
        assert (row.run / "02_sfm").is_symlink()
        for name, value in row.changes.items():
            assert card["params"]["train"][name.removeprefix("train.")]["value"] == value
        if row.state == "done":
            assert card["status"] == "succeeded"
            assert (row.run / "03_train" / "splat.ply").exists()
    compared = comparing.compare([row.run for row in found.trials])
    assert {d.name for d in compared.differences()} >= {"train.means_lr"}
    assert compared.unreadable == []


def test_the_default_sets_the_time_and_nothing_beyond_it_counts(
    done: tuple[sweep.Sweep, sweep.Outcome],
) -> None:
    _, found = done
    own = timing.trained_seconds(train.records(StageRun(found.trials[0].run, "train")))
    assert found.seconds == own
    for row in found.trials:
        best = timing.reached(train.records(StageRun(row.run, "train")), own)
        assert (row.psnr, row.heldout, row.seconds) == (best.psnr, best.heldout, best.seconds)
        assert row.seconds <= own


def test_the_study_is_optunas_own(done: tuple[sweep.Sweep, sweep.Outcome]) -> None:
    asked, found = done
    url = f"sqlite:///{asked.folder / 'study.db'}"
    trials = optuna.load_study(study_name="mound/first", storage=url).trials
    assert [t.value for t in trials if t.state == TrialState.COMPLETE] == [
        row.psnr for row in found.trials if row.state == "done"
    ]
    assert max(trials[0].intermediate_values) == timing.GRID
    figures = sweep.pictures(asked.folder.parents[1])
    assert len(figures) == 4
    assert sweep.pictures(asked.folder) == []


def test_a_sweep_that_is_done_runs_nothing_again(
    done: tuple[sweep.Sweep, sweep.Outcome], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(
        running.tracking, "log_run", lambda root, store: logged.append(f"{root.name} {store}")
    )
    monkeypatch.setattr(running, "work_on", lambda *a: pytest.fail("nothing is left to do"))
    again = sweep.run_sweep(make(source), 4, mlflow="local")
    assert again.trials == done[1].trials
    assert logged == [f"first-t{number:02d} local" for number in range(4)]
    other = sweep.make_sweep(source, space(**{"train.blur": [0.0, 1.0]}), "first", overrides=QUICK)
    with pytest.raises(WorkspaceError, match="with another space"):
        sweep.run_sweep(other, 4)
    assert study.load(done[0].folder) == done[0]


# How it went


def row(number: int, psnr: float | None, heldout: float | None = None, **more) -> TrialRow:
    values = {"state": "done", "changes": {}, "seconds": 1.0, "step": 10, "reason": ""} | more
    return TrialRow(number, Path(f"t{number}"), psnr=psnr, heldout=heldout, **values)


@pytest.mark.parametrize(
    ("best", "beats", "said"),
    [
        (row(0, 25.0, 24.0), False, "Nothing beat the default"),
        (row(3, 25.5, 24.5), True, "Trial 3 beats the default: 25.50 dB on validation"),
        (row(3, 25.5, 23.9), False, "but not on the held-out ones"),
    ],
)
def test_better_means_on_views_that_did_not_decide_too(best: TrialRow, beats: bool, said: str) -> None:
    found = judging._verdict(row(0, 25.0, 24.0), best, 9.0)
    assert found[0] is beats
    assert said in found[1]
    assert "within the 9.0 s" in found[1]


def test_the_best_is_a_preset_of_what_differs(source: Path, tmp_path: Path) -> None:
    asked = make(source, "written")
    asked.folder.mkdir(parents=True)
    best = row(2, 26.0, 25.0, changes={"train.means_lr": 3e-4, "train.strategy": "mcmc"})
    trials = [row(0, 25.0, 24.0), row(1, None, state="failed"), best]
    path = judging.write_best(sweep.Outcome(trials, 9.0, best, True, "Trial 2 beats the default."), asked)
    assert yaml.safe_load(path.read_text()) == {"train": {"means_lr": 3e-4, "strategy": "mcmc"}}
    assert "# Trial 2 beats the default." in path.read_text()
    assert resolve([str(path)]).params["train"].means_lr == 3e-4
    judging.write_best(sweep.Outcome(trials, 9.0, trials[0], False, "Nothing beat it."), asked)
    assert resolve([str(path)]).params == resolve().params, "a preset that changes nothing"


# What goes wrong


def test_a_trial_that_breaks_is_told_and_the_others_go_on(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = make(source, "breaking"), train.run

    def breaks(run: StageRun, p, control=None):
        if run.root.name.endswith("t01"):
            raise MemoryError("no room")
        return real(run, p, control)

    monkeypatch.setattr(train, "run", breaks)
    found = sweep.run_sweep(asked, 3)
    assert [r.state for r in found.trials][:2] == ["done", "failed"]
    assert found.trials[1].reason == "MemoryError: no room"
    assert found.trials[2].psnr is not None
    assert "MemoryError" in (found.trials[1].run / "03_train" / "error.txt").read_text()
    assert runcard.read(found.trials[1].run)["status"] == "failed"


def test_the_default_must_not_fail_and_is_tried_again(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = make(source, "unlucky")
    monkeypatch.setattr(running.ablation, "warm_up", lambda *a: None)
    with monkeypatch.context() as broken:
        broken.setattr(train, "run", lambda *a: (_ for _ in ()).throw(ValueError("no")))
        with pytest.raises(StageError, match="the default failed"):
            sweep.run_sweep(asked, 2)
    found = sweep.run_sweep(asked, 2)
    assert found.trials[0].state == "done"


def test_a_hopeless_trial_is_pruned_on_the_way(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "STARTUP_TRIALS", 1)
    asked = make(source, "pruning")
    asked.save()
    opened = study.open_study(asked)
    # A trial is pruned below the median of those that are done: the default is, and this one cannot learn.
    with study.claim(opened, asked, 2) as trial:
        running.work_on(opened, asked, trial)
    opened.enqueue_trial({"train.means_lr": 1e-5, "train.refine_stop": 0.4, "train.strategy": "mcmc"})
    monkeypatch.setattr(
        "spaceport_lab.sweep.trial.on_the_grid", lambda records, limit, ended: [(10, 3.0)] if records else []
    )
    with study.claim(opened, asked, 2) as trial:
        running.work_on(opened, asked, trial)
    pruned = sweep.outcome(opened, asked).trials[1]
    assert pruned.state == "pruned"
    assert "% of the time" in pruned.reason
    assert not (pruned.run / "03_train" / "checkpoint.pt").exists()
    assert runcard.read(pruned.run)["status"] == "pruned"


def test_a_trial_is_stopped_when_its_time_is_over(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = sweep.make_sweep(source, space(**{"train.max_steps": [40, 4000]}), "slow", overrides=QUICK)
    asked.save()
    opened = study.open_study(asked)
    with study.claim(opened, asked, 2) as trial:
        running.work_on(opened, asked, trial)
    values = {"train.means_lr": 1e-3, "train.refine_stop": 0.6, "train.strategy": "default"}
    opened.enqueue_trial(values | {"train.max_steps": 4000})
    with study.claim(opened, asked, 2) as trial:
        monkeypatch.setattr(trial, "should_prune", lambda: False)
        running.work_on(opened, asked, trial)
    card = runcard.read(asked.run_dir(1))
    steps = card["stages"]["train"]["metrics"]["steps"]
    assert 10 <= steps < 4000
    assert "time of" in card["stages"]["train"]["warnings"][-1]
    run = StageRun(asked.run_dir(1), "train")
    p = asked.resolved(card["sweep"]["changes"]).params["train"]
    key = workspace.stage_key("train", p, workspace.gather_inputs(run, p))
    assert not workspace.is_done(run, key), "nobody must take it for a training of 4,000 steps"


def test_a_storage_that_cannot_be_used(source: Path) -> None:
    with pytest.raises(StageError, match="storage cannot be used"):
        sweep.run_sweep(make(source, "remote", storage="nonsense://x"), 2)


def start_worker(asked: sweep.Sweep, n_trials: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "spaceport_lab.sweep.worker", str(asked.folder), str(n_trials)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_sweep_that_was_killed_goes_on_with_the_trial_it_was_at(source: Path) -> None:
    overrides = ["train.max_steps=120", *QUICK[1:], "train.checkpoint_every=20"]
    asked = sweep.make_sweep(source, space(), "killed", overrides=overrides)
    asked.save()
    opened = study.open_study(asked)
    worker = start_worker(asked, 2)
    checkpoint, until = asked.run_dir(0) / "03_train" / "metrics.jsonl", time.monotonic() + 60
    while not (checkpoint.exists() and checkpoint.read_text().count('"eval"') > 8):
        assert time.monotonic() < until
        assert worker.poll() is None
        time.sleep(0.02)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    assert [t.state for t in opened.trials] == [TrialState.RUNNING]
    messages: list[str] = []
    found = sweep.run_sweep(
        asked, 2, watch=lambda number, state: messages.append(f"{number} {state.message}")
    )
    assert any(m.startswith("0 going on from step") for m in messages), "from its checkpoint, not anew"
    assert [r.number for r in found.trials] == [0, 1]
    assert found.trials[0].state == "done"
    assert opened.trials[0].user_attrs["attempts"] == 2
    plain = StageRun(source / "runs" / "plain", "train")
    workspace.share_stage(source / "runs" / "a", plain.root, "sfm")
    plain.dir.mkdir()
    for _ in train.run(plain, asked.resolved({}).params["train"]):
        pass
    splats = [(root / "03_train" / "splat.ply").read_bytes() for root in (plain.root, found.trials[0].run)]
    assert splats[0] == splats[1]


def test_a_trial_whose_process_dies_again_and_again_is_a_failure(source: Path) -> None:
    asked = make(source, "cursed")
    asked.save()
    opened = study.open_study(asked)
    with study.claim(opened, asked, 3) as trial:
        running.work_on(opened, asked, trial)
    for attempt in range(study.MOST_ATTEMPTS):
        with study.claim(opened, asked, 3) as trial:
            assert trial.number == 1, f"attempt {attempt}"
            with study.claim(opened, asked, 2) as other:
                assert other == study.LATER, "somebody is at work on it"
    with study.claim(opened, asked, 3) as trial:
        assert trial.number == 2
    assert sweep.outcome(opened, asked).trials[1].reason == "its process died 3 times"


def test_several_workers(source: Path) -> None:
    asked = make(source, "together")
    told: list[int] = []
    found = sweep.run_sweep(asked, 3, workers=2, told=lambda o: told.append(len(o.trials)))
    assert sorted(r.state for r in found.trials if r.state != "done") in ([], ["pruned"])
    assert [r.number for r in found.trials] == [0, 1, 2]
    assert told[-1] == 3
    assert json.loads((asked.folder / "sweep.json").read_text())["overrides"] == list(QUICK)


def test_command(done: tuple[sweep.Sweep, sweep.Outcome], source: Path, tmp_path: Path) -> None:
    path = tmp_path / "first.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    sets = [word for override in QUICK for word in ("--set", override)]
    result = CliRunner().invoke(cli.app, ["sweep", str(source), str(path), "--trials", "4", *sets])
    assert result.exit_code == 0, result.output
    assert done[1].sentence in result.output
    assert "best.yaml" in result.output


def test_a_scene_goes_on_from_the_run_it_began_with(source: Path, done: tuple[sweep.Sweep, object]) -> None:
    assert done[0].source == source / "runs" / "a"
    # Neither a trial, which shares that stage, nor a run made since takes its place.
    assert make(source / "runs" / "first-t01").source == source / "runs" / "a"
    scenes.make_run(source / "runs" / "b", seed=1)
    assert make(source).source == source / "runs" / "a"
    assert make(source, "another").source == source / "runs" / "b"
    assert make_request(source, "3dgs", source.parent).adopt == source / "runs" / "b"
