"""Running a sweep: the trials one after the other, or several at a time in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from optuna.study import Study

from spaceport_lab import ablation, runcard, tracking, train, workspace
from spaceport_lab.errors import InputError, SpaceportError, StageError
from spaceport_lab.naming import slug
from spaceport_lab.params import TrainParams
from spaceport_lab.pipeline import make_request
from spaceport_lab.sweep import ray
from spaceport_lab.sweep.judging import ENDED, Outcome, outcome, write_best
from spaceport_lab.sweep.space import Space
from spaceport_lab.sweep.study import NO_MORE, Sweep, checked_name, claim, limit, load, open_study
from spaceport_lab.sweep.trial import Watch, work_on
from spaceport_lab.workspace import Progress, StageRun, folder_name

PATIENCE_SECONDS = 0.5
"""How often a worker that has to wait for others looks again."""

GRACE_SECONDS = 5.0
"""Workers get this long to end before they are killed; their trials are taken up again either way."""


def make_sweep(
    path: Path,
    space: Space,
    name: str,
    presets: Sequence[str] = (),
    overrides: Sequence[str] = (),
    storage: str = "",
) -> Sweep:
    """Understand what is to be swept; nothing is written.

    Args:
        path: a run folder, or a scene, of which the newest run with a finished sfm stage is taken.
        space: what may vary.
        name: of the sweep; other characters than a job name may have are replaced.
        presets, overrides: in force in every trial.
        storage: URL for Optuna; empty: study.db in the sweep's folder.

    Raises:
        InputError: no run there has finished its sfm stage.
        ParamsError: a preset, an override or the name cannot be used.
    """
    path = Path(path).expanduser().resolve()
    # The data folder decides nothing here: what is given lies in its scene already.
    run = make_request(path, "3dgs", path.parent).adopt if path.exists() else None
    if run is None:
        raise InputError(
            "a sweep starts from a run or scene with a finished sfm stage",
            got=path,
            hint="run the pipeline once: spaceport-lab run PHOTOGRAPHS --preset fast",
        )
    if run.parent.name != "runs":
        raise InputError(
            "a sweep puts its trials beside the run it starts from, into the scene's folder of runs",
            got=run,
            expected="a run in data/SCENE/runs/JOB",
        )
    folder = run.parents[1] / "sweeps" / checked_name(slug(name))
    source = (run / folder_name("sfm")).resolve().parent  # whose stage it is, where this run shares it
    if path == run.parents[1] and (folder / "sweep.json").exists():
        source = load(folder).source  # a run made since must not become what the sweep goes on from
    url = storage or f"sqlite:///{folder / 'study.db'}"
    files_of = tuple(str(Path(p).resolve()) if p.endswith((".yaml", ".yml")) else p for p in presets)
    sweep = Sweep(source, folder, space, files_of, tuple(overrides), url)
    sweep.resolved({})
    return sweep


def run_sweep(
    sweep: Sweep,
    n_trials: int,
    workers: int = 1,
    watch: Watch = lambda number, state: None,
    told: Callable[[Outcome], None] = lambda outcome: None,
    mlflow: str = "",
    on: str = "",
) -> Outcome:
    """Run the trials that are missing, and write best.yaml.

    Args:
        sweep: from `make_sweep`.
        n_trials: of the whole sweep, the default among them.
        workers: processes; 1 trains in this one.
        watch: told how far a trial is, with one worker.
        told: how the sweep stands, when a trial has ended.
        mlflow: store that takes every trial once it has ended, see `tracking.log_run`; empty: none.
        on: cluster the workers are on, see `ray.connect`; empty: they are processes of this machine.

    Raises:
        InputError: no view is held out, so there is nothing to judge trials by.
        StageError: the default failed, the storage cannot be used, or a worker died.
        WorkspaceError: there is another sweep of this name, or a folder cannot be written.
    """
    _check_views(sweep)
    sweep.save()
    study = open_study(sweep)

    def stands(now: Outcome) -> None:
        if mlflow:
            _log(now, mlflow)
        told(now)

    if on:
        ray.work_on_cluster(sweep, n_trials, workers, on, _news(study, sweep, stands))
    elif workers == 1:
        work(study, sweep, n_trials, watch, stands)
    else:
        _work_together(study, sweep, n_trials, workers, stands)
    found = outcome(study, sweep)
    stands(found)
    return replace(found, preset=write_best(found, sweep))


def _log(now: Outcome, store: str) -> None:
    """Trials that have ended and are not in the store yet; a store that is away is on their cards."""
    for row in now.trials:
        card = runcard.read(row.run) or {}
        if row.state in ENDED and card.get("mlflow", {}).get("store") != store:
            tracking.log_run(row.run, store)


def work(
    study: Study,
    sweep: Sweep,
    n_trials: int,
    watch: Watch = lambda number, state: None,
    told: Callable[[Outcome], None] = lambda outcome: None,
) -> None:
    """Work on trials until all are done, those of processes that died among them."""
    p = sweep.resolved({}).params["train"]
    assert isinstance(p, TrainParams)
    warm = False
    while True:
        with claim(study, sweep, n_trials) as trial:
            if trial == NO_MORE:
                return
            if not isinstance(trial, str):
                if not warm:
                    # The first trial alone would pay for compiling kernels, and it may be the default.
                    watch(trial.number, Progress(0, None, "warming up"))
                    ablation.warm_up(sweep.source, p)
                    warm = True
                work_on(study, sweep, trial, watch)
                told(outcome(study, sweep))
                continue
        if limit(study) is None:
            _keep_busy(study, sweep, p)
        time.sleep(PATIENCE_SECONDS)


def _keep_busy(study: Study, sweep: Sweep, p: TrainParams) -> None:
    """Train the default for nothing while another worker trains it in earnest, who sets the time of all.

    Trials share the machine with each other: the default must not have it for itself.
    """
    with tempfile.TemporaryDirectory() as scratch:
        workspace.share_stage(sweep.source, Path(scratch) / "busy", "sfm")
        run = StageRun(Path(scratch) / "busy", "train")
        run.dir.mkdir()
        states = train.run(run, p)
        with contextlib.suppress(SpaceportError), contextlib.closing(states):
            for _ in states:
                if limit(study) is not None:
                    return


def _check_views(sweep: Sweep) -> None:
    p = sweep.resolved({}).params["train"]
    assert isinstance(p, TrainParams)
    views = train.read_views(StageRun(sweep.source, "train"), p)
    if not len(views.heldout):
        raise InputError(
            "trials are judged by held-out views, and this scene has none",
            got=f"{len(views.scene.cameras)} views",
            hint="a handful more photographs",
        )


def _work_together(
    study: Study, sweep: Sweep, n_trials: int, workers: int, told: Callable[[Outcome], None]
) -> None:
    """Workers in processes of their own; each has its share of the cores, so that times can be compared."""
    with _workers(sweep, n_trials, workers) as processes:
        look = _news(study, sweep, told)
        while any(process.poll() is None for process in processes):
            look()
            time.sleep(PATIENCE_SECONDS)
    failed = [n for n, process in enumerate(processes) if process.returncode]
    if failed:
        log = sweep.folder / f"worker-{failed[0]}.log"
        said = log.read_text(errors="replace").strip().splitlines()[-3:]
        raise StageError(
            f"{len(failed)} of {workers} workers died",
            got=" / ".join(said) or "no message",
            hint="the same command goes on from here",
            see=log,
        )


def _news(study: Study, sweep: Sweep, told: Callable[[Outcome], None]) -> Callable[[], None]:
    """A function to call again and again, which tells how the sweep stands when a trial has ended."""
    ended = -1

    def look() -> None:
        nonlocal ended
        now = outcome(study, sweep)
        count = sum(row.state in ENDED for row in now.trials)
        if count != ended:
            ended = count
            told(now)

    return look


@contextlib.contextmanager
def _workers(sweep: Sweep, n_trials: int, workers: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    threads = str(max(1, runcard.usable_cores() // workers))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(workers):
            command = [sys.executable, "-m", "spaceport_lab.sweep.worker", str(sweep.folder), str(n_trials)]
            with open(sweep.folder / f"worker-{number}.log", "wb") as log:
                processes.append(
                    subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                        start_new_session=True,
                    )
                )  # fmt: skip
        yield processes
    finally:
        _stop(processes)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    alive = [process for process in processes if process.poll() is None]
    for process in alive:
        process.send_signal(signal.SIGINT)
    until = time.monotonic() + GRACE_SECONDS
    for process in alive:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
