from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest
import scenes
import torch
from waiting import until

from spaceport_lab import session as sessions
from spaceport_lab import train
from spaceport_lab.errors import WorkspaceError
from spaceport_lab.params import TrainParams
from spaceport_lab.session import Session
from spaceport_lab.train import stream
from spaceport_lab.workspace import Progress, StageRun

QUICK = {"max_steps": 60, "eval_every": 20, "checkpoint_every": 20, "refine_every": 10, "sh_degree": 1}
QUICK |= {"timelapse": False, "background": "random"}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scene")
    scenes.make_run(root, n_points=120)
    return root


@pytest.fixture(scope="module")
def plain(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """A training in a loop, as a batch run does it."""
    run = open_run(scene, tmp_path_factory.mktemp("plain"))
    list(train.run(run, params()))
    return run


def open_run(scene: Path, root: Path) -> StageRun:
    """A run of its own that shares the scene."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "02_sfm").symlink_to(scene / "02_sfm", target_is_directory=True)
    return scenes.open_run(root)


def params(**values) -> TrainParams:
    return TrainParams(**{**QUICK, "interactive": True, **values})


def digest(run: StageRun) -> str:
    return hashlib.sha256((run.dir / "splat.ply").read_bytes()).hexdigest()


@pytest.mark.parametrize("interactive", [False, True])
def test_an_untouched_session_is_the_plain_loop(
    scene: Path, tmp_path: Path, plain: StageRun, capsys: pytest.CaptureFixture, interactive: bool
) -> None:
    run = open_run(scene, tmp_path)
    session = Session(run, params(interactive=interactive, run_dir=str(tmp_path)))
    assert session.state == "new"
    with pytest.raises(WorkspaceError, match="has not been started"):
        session.wait()
    heard: list[Progress] = []
    session.listen(heard.append)
    session.start()
    session.wait()
    assert session.state == "finished"
    assert session.latest.message == heard[-1].message == "measuring what was trained"
    assert digest(run) == digest(plain)
    assert run.metrics == plain.metrics
    assert session.records() == stream.read(run.dir / "metrics.jsonl")
    assert json.loads((tmp_path / "progress.json").read_text())["step"] == 60
    printed = capsys.readouterr().out
    assert ("training  60/60" in printed) is not interactive
    assert bool(printed) is not interactive
    with pytest.raises(WorkspaceError, match="make a new Session"):
        session.start()


def test_pause_change_and_go_on(scene: Path, tmp_path: Path, plain: StageRun) -> None:
    session = Session(open_run(scene, tmp_path), params())
    session.control.advance(25)
    session.start()
    until(lambda: session.state == "paused")
    assert session.latest.step == 25
    records = session.records()
    assert records == stream.read(session.run.dir / "metrics.jsonl")
    session.control.change(means_lr=1e-3)
    assert session.control.params.means_lr == 1e-3
    session.control.resume()
    session.wait()
    assert session.run.metrics["changes"] == [{"step": 25, "values": {"means_lr": 1e-3}}]
    assert session.records()[: len(records)] == records
    assert len(session.records()) > len(records)
    assert digest(session.run) != digest(plain)


def test_one_at_a_time(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "LOCK_SECONDS", 0.1)
    run = open_run(scene, tmp_path)
    first, second = Session(run, params()), Session(scenes.open_run(tmp_path), params())
    first.control.pause()
    first.start()
    with pytest.raises(WorkspaceError, match="another session trains this run"):
        second.start()
    assert second.state == "new"
    first.control.stop()
    first.wait()
    other = filelock.FileLock(run.dir / ".session.lock", is_singleton=False)
    with other, pytest.raises(WorkspaceError, match="in another process"):
        second.start()
    second.start()
    second.wait()
    assert second.run.metrics["stopped_by"] == "person"


def test_what_training_raises_comes_out_of_wait(tmp_path: Path) -> None:
    session = Session(scenes.open_run(tmp_path), params())
    session.start()
    with pytest.raises(WorkspaceError, match="sfm has not finished"):
        session.wait()
    assert session.state == "failed"
    assert isinstance(session.error, WorkspaceError)
    again = Session(scenes.open_run(tmp_path), params())
    again.start()  # the lock was given back
    with pytest.raises(WorkspaceError, match="sfm has not finished"):
        again.wait()


def test_a_listener_that_fails_or_dawdles_harms_nothing(
    scene: Path, tmp_path: Path, plain: StageRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, heard, said = Session(open_run(scene, tmp_path), params()), [], []
    monkeypatch.setattr(sessions.logger, "exception", said.append)

    def fails(state: Progress) -> None:
        heard.append(time.monotonic())
        raise RuntimeError("widget gone")

    session.listen(fails)
    session.start()
    session.wait()
    assert session.state == "finished"
    assert digest(session.run) == digest(plain)
    assert 2 <= len(heard) < 12
    assert len(said) == len(heard)


def test_an_interrupt_pauses_with_a_checkpoint(
    scene: Path, tmp_path: Path, plain: StageRun, capsys: pytest.CaptureFixture
) -> None:
    session = Session(open_run(scene, tmp_path), params())
    session.start()
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    session.control.advance(30)
    until(lambda: session.state == "paused")
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        session.wait()
    assert "control.resume()" in capsys.readouterr().out
    assert session.control.paused
    until(lambda: torch.load(session.run.dir / "checkpoint.pt", weights_only=True)["step"] == 30)
    until(lambda: session.state == "paused")
    session.control.resume()
    session.wait()
    assert digest(session.run) == digest(plain)


def test_a_killed_kernel_leaves_nothing_behind_and_loses_nothing(
    scene: Path, tmp_path: Path, plain: StageRun
) -> None:
    run = open_run(scene, tmp_path)
    code = (
        "import sys, time, os, signal; from pathlib import Path\n"
        "from spaceport_lab.session import Session\n"
        "from spaceport_lab.params import TrainParams; from spaceport_lab.workspace import StageRun\n"
        "session = Session(StageRun(Path(sys.argv[1]), 'train'), TrainParams(**eval(sys.argv[2])))\n"
        "session.control.advance(30)\n"
        "session.start()\n"
        "while session.state != 'paused': time.sleep(0.01)\n"
        "session.control.advance(17)\n"
        "while session.latest.step < 47: time.sleep(0.01)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), repr(params().model_dump())]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (run.dir / "splat.ply").exists()
    again = Session(scenes.open_run(tmp_path), params())
    messages: list[str] = []
    again.listen(lambda state: messages.append(state.message))
    again.start()
    again.wait()
    assert "going on from step 40" in messages
    assert digest(again.run) == digest(plain)
    assert again.run.metrics == plain.metrics
    assert again.records() == stream.read(again.run.dir / "metrics.jsonl")


def test_records_are_read_anew_when_the_file_is_cut_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    reader = sessions._Reader(path)
    assert reader.read() == []
    writer = stream.Stream(path, None)
    writer.write("step", 10, loss=1.0)
    writer.write("step", 20, loss=0.5)
    assert [record["step"] for record in reader.read()] == [10, 20]
    with open(path, "a") as file:
        file.write('{"kind": "step", "st')
    assert len(reader.read()) == 2, "a line that is being written waits"
    writer.close()
    writer = stream.Stream(path, 10)
    writer.write("step", 20, loss=0.25)
    assert [record["loss"] for record in reader.read()] == [1.0, 0.25]
    writer.close()
