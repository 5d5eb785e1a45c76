"""A job for real: its worker is killed in the middle of training, and another one finishes it."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from scenes import make_colmap_scene

from spaceport_lab import fence
from spaceport_lab.jobs import Ask, Job, Store

SMALLEST = (
    "sfm.min_points=50", "train.max_steps=300", "train.checkpoint_every=25", "train.eval_every=1000",
    "train.sh_degree=0", "train.timelapse=false", "compress.max_psnr_loss=90", "compress.min_ratio=0",
    "inspect.max_views=1", "inspect.picture_size=64",
)  # fmt: skip

WORKER = """
import sys
from pathlib import Path
from spaceport_lab.jobs import Store, Worker
Worker(Store(Path(sys.argv[1])), Path(sys.argv[2]), poll_s=0.1).run()
"""


@dataclass
class Taken:
    store: Store
    root: Path
    first: Job
    family: list[psutil.Process]
    left: list[psutil.Process]
    sfm_before: float


def start_worker(store: Store, data: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WORKER, str(store.path), str(data)])


def expire(store: Store) -> None:
    """Let all leases run out now; that they do by themselves is tested where it costs no waiting."""
    with contextlib.closing(sqlite3.connect(store.path)) as other, other:
        other.execute("UPDATE jobs SET lease_until = 0")


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Taken:
    """A job whose worker was killed with SIGKILL in the middle of training, and that another worker took."""
    folder = tmp_path_factory.mktemp("job")
    make_colmap_scene(folder / "mound", n_views=9, width=64, height=48)
    data = folder / "data"
    store = Store(data / ".jobs" / "jobs.db")
    source = str(folder / "mound")
    store.submit(
        Ask(source=source, steps="3dgs", overrides=SMALLEST, name="mound-1", email="ann@example.org")
    )
    root = data / "mound" / "runs" / "mound-1"
    first = start_worker(store, data)
    deadline = time.monotonic() + 300
    while not (root / "03_train" / "checkpoint.pt").exists():
        assert first.poll() is None
        assert store.get("mound-1").failure is None, store.get("mound-1").failure
        assert time.monotonic() < deadline
        time.sleep(0.02)
    family = psutil.Process(first.pid).children(recursive=True)
    claimed = store.get("mound-1")
    first.send_signal(signal.SIGKILL)
    first.wait()
    left = psutil.wait_procs(family, timeout=20)[1]
    sfm_before = (root / "02_sfm" / "stage.json").stat().st_mtime
    assert not (root / "03_train" / "stage.json").exists(), "it was too late to kill"
    expire(store)
    second = start_worker(store, data)
    try:
        while not store.get("mound-1").has_ended and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        second.send_signal(signal.SIGTERM)
        assert second.wait(60) == 0
    return Taken(store, root, claimed, family, left, sfm_before)


def test_another_worker_finishes_the_job(taken: Taken) -> None:
    job = taken.store.get("mound-1")
    assert (job.state, job.attempt, job.failure, job.progress) == ("succeeded", 2, None, 1.0)
    assert job.token == taken.first.token + 1
    assert job.worker != taken.first.worker
    assert json.loads((taken.root / "run.json").read_text())["status"] == "succeeded"
    assert (taken.root / "report.html").exists()


def test_finished_stages_are_not_run_again(taken: Taken) -> None:
    assert (taken.root / "02_sfm" / "stage.json").stat().st_mtime == taken.sfm_before
    events = taken.store.events("mound-1", limit=10_000)
    begun = [(e.data["stage"], e.data["status"]) for e in events if e.kind == "stage"]
    assert begun.count(("sfm", "running")) == begun.count(("sfm", "succeeded")) == 1
    assert begun.count(("train", "running")) == 2
    assert begun.count(("train", "succeeded")) == 1
    lines = (taken.root / "03_train" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(steps), "training went on from its checkpoint"


def test_no_process_of_the_killed_worker_lives_on(taken: Taken) -> None:
    assert len(taken.family) >= 4, "keeper, job, stage and kernel were there to be watched"
    assert taken.left == []


def test_it_is_told_once(taken: Taken) -> None:
    assert [(one["kind"], one["channel"]) for one in taken.store.post("mound-1")] == [("succeeded", "email")]


def test_the_run_folder_has_the_newest_token(taken: Taken) -> None:
    assert int((taken.root / fence.NAME).read_text()) == taken.store.get("mound-1").token
