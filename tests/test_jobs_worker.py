"""The worker: what it starts ends with it, a job has one worker, and however a job ends is written down."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import until

from spaceport_lab.errors import QueueError
from spaceport_lab.jobs import Ask, Job, Store, Worker
from spaceport_lab.jobs import attempt as attempts

STUB = '''
import json, os, signal, subprocess, sys, time
from pathlib import Path

spec = json.loads(Path(sys.argv[1]).read_text())
mode = spec["ask"]["source"]
root = Path(spec["data"]) / "site" / "runs" / spec["name"]
root.mkdir(parents=True, exist_ok=True)
Path(spec["place"]).write_text(json.dumps({"run_dir": str(root)}))

def result(**values):
    Path(spec["result"]).write_text(json.dumps(values))

def wait():
    # In a session of its own, as a stage's notebook is.
    child = subprocess.Popen(["sleep", "300"], start_new_session=True)
    (root / "pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(300)

def interrupted(*_):
    (root / "asked").touch()
    result(ok=False, interrupted=True)
    os._exit(130)

if mode == "/ok":
    result(ok=True)
elif mode == "/bad":
    result(ok=False, failure={"code": "SL-210", "stage": "ingest", "message": "no photographs", "more": 1})
    sys.exit(1)
elif mode == "/busy":
    result(ok=False, again=True, failure={"code": "SL-830", "message": "503"})
    sys.exit(1)
elif mode == "/killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif mode == "/silent":
    sys.exit(3)
elif mode == "/garbled":
    Path(spec["result"]).write_bytes(b"{\\xff")
elif mode == "/disk":
    sys.exit(74)
elif mode == "/leaves":
    child = subprocess.Popen(["sleep", "300"], start_new_session=True)
    (root / "pids").write_text(str(child.pid))
    result(ok=True)
elif mode == "/deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait()
elif mode == "/slow":
    signal.signal(signal.SIGTERM, interrupted)
    wait()
elif mode == "/second":
    if spec["ask"]["name"] and not (root / "pids").exists():
        wait()
    result(ok=True)
elif mode == "/stages":
    def card(**stages):
        (root / "run.json").write_text(json.dumps({"stages": stages}))
    def until_told(name):
        while not (root / name).exists():
            time.sleep(0.02)
    card(ingest={"status": "running", "started": "1"})
    until_told("first")
    card(ingest={"status": "succeeded", "started": "1", "seconds": 2, "warnings": ["dark"]},
         sfm={"status": "running", "started": "2"})
    state = {"step": 1, "total": 2, "message": "half", "values": {"n": 3}}
    (root / "progress.json").write_text(json.dumps(state))
    until_told("second")
    result(ok=True)
'''  # fmt: skip

WORKER = """
import sys
from pathlib import Path
from spaceport_lab.jobs import Store, Worker
path, data, stub = map(Path, sys.argv[1:4])
Worker(Store(path), data, name="other", grace_s=float(sys.argv[4]), lease_s=float(sys.argv[5]),
       command=(sys.executable, str(stub)), poll_s=0.05).run()
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data" / ".jobs" / "jobs.db")


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    path = tmp_path / "stub.py"
    path.write_text(STUB)
    return path


@pytest.fixture
def worker(store: Store, stub: Path, tmp_path: Path) -> Worker:
    return Worker(
        store,
        tmp_path / "data",
        "w",
        lease_s=30.0,
        grace_s=0.5,
        command=(sys.executable, str(stub)),
        poll_s=0.05,
    )


def ask(store: Store, mode: str, name: str = "job") -> Job:
    return store.submit(Ask(source=f"/{mode}", name=name, email="ann@example.org"))[0]


def pids(tmp_path: Path, name: str = "job") -> list[int]:
    """The processes a stub waits with, once they are there."""
    path = tmp_path / "data" / "site" / "runs" / name / "pids"
    return [int(pid) for pid in until(lambda: path.exists() and path.read_text()).split()]


def gone(numbers: list[int]) -> bool:
    return not any(map(lives, numbers))


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def running(worker: Worker, once: bool = True) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=worker.run, args=(once,))
    thread.start()
    try:
        yield thread
    finally:
        worker.stop()
        worker.stop()
        thread.join(60)
        assert not thread.is_alive()


def test_a_job_that_goes_well(worker: Worker, store: Store, tmp_path: Path) -> None:
    ask(store, "ok")
    assert worker.run(once=True) == 1
    job = store.get("job")
    assert (job.state, job.worker, job.failure) == ("succeeded", "w", None)
    assert job.run_dir == str(tmp_path / "data" / "site" / "runs" / "job")
    assert [letter.kind for letter in store.letters()] == ["succeeded"]
    assert list((tmp_path / "data" / ".jobs" / "work").iterdir()) == []
    assert worker.run(once=True) == 0


@pytest.mark.parametrize(
    ("mode", "code", "part"),
    [("bad", "SL-210", "no photographs"), ("disk", "SL-600", "disk is full")],
)
def test_a_job_that_fails_for_good(worker: Worker, store: Store, mode: str, code: str, part: str) -> None:
    ask(store, mode)
    worker.run(once=True)
    job = store.get("job")
    assert job.state == "failed"
    assert job.failure is not None
    assert job.failure.code == code
    assert part in job.failure.message
    assert [letter.kind for letter in store.letters()] == ["failed"]


@pytest.mark.parametrize(
    ("mode", "code", "part"),
    [
        ("busy", "SL-830", "503"),
        ("killed", "SL-500", "by signal 9"),
        ("silent", "SL-500", "exit code 3"),
        ("garbled", "SL-500", "exit code 0"),
    ],
)
def test_a_job_that_is_tried_again(
    worker: Worker, store: Store, mode: str, code: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(store, mode)
    before = time.time()
    worker.run(once=True)
    job = store.get("job")
    assert (job.state, job.attempt) == ("queued", 1)
    assert before + 29 < job.not_before < time.time() + 31
    assert job.failure is not None
    assert job.failure.code == code
    assert part in job.failure.message
    assert store.letters() == []
    assert worker.run(once=True) == 0, "not before its time"


def test_after_three_attempts_it_has_failed(
    worker: Worker, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "retry_delay", lambda attempt: 0.0)
    ask(store, "busy")
    assert [worker.run(once=True) for _ in range(4)] == [1, 1, 1, 0]
    assert store.get("job").state == "failed"
    assert [letter.kind for letter in store.letters()] == ["failed"]


def test_a_job_that_cannot_be_started(worker: Worker, store: Store, tmp_path: Path) -> None:
    ask(store, "ok")
    (tmp_path / "data" / ".jobs" / "work").write_text("a file in the way")
    worker.run(once=True)
    job = store.get("job")
    assert job.state == "failed"
    assert job.failure is not None
    assert job.failure.code == "SL-600"


def test_what_a_job_leaves_running_is_swept_up(worker: Worker, store: Store, tmp_path: Path) -> None:
    ask(store, "leaves")
    worker.run(once=True)
    assert store.get("job").state == "succeeded"
    assert gone(pids(tmp_path))


@pytest.mark.parametrize("mode", ["slow", "deaf"])
def test_cancelling_a_running_job(mode: str, worker: Worker, store: Store, tmp_path: Path) -> None:
    ask(store, mode)
    with running(worker) as thread:
        family = pids(tmp_path)
        store.cancel("job")
        thread.join(30)
        assert not thread.is_alive()
    assert store.get("job").state == "cancelled"
    assert gone(family)
    assert store.letters() == []
    assert (tmp_path / "data/site/runs/job/asked").exists() == (mode == "slow"), "it was asked politely first"


def test_a_lost_job_is_killed_at_once(worker: Worker, store: Store, tmp_path: Path) -> None:
    ask(store, "deaf")
    with running(worker) as thread:
        family = pids(tmp_path)
        with sqlite3.connect(store.path) as other:
            other.execute("UPDATE jobs SET lease_until = 0")
        other.close()
        taken = store.claim("other", 60)
        assert taken is not None
        thread.join(30)
        assert not thread.is_alive()
    assert gone(family)
    job = store.get("job")
    assert (job.state, job.worker, job.token) == ("running", "other", taken.token)


def test_without_a_heartbeat_the_job_is_let_go(
    worker: Worker, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever cannot reach the queue must think that somebody else has the job."""

    def fail(*_: object, **__: object) -> bool:
        raise QueueError("the queue is busy")

    monkeypatch.setattr(store, "heartbeat", fail)
    worker.lease_s = 2.0
    ask(store, "deaf")
    with running(worker) as thread:
        family = pids(tmp_path)
        thread.join(30)
        assert not thread.is_alive()
    assert gone(family)
    assert store.get("job").state == "running"
    until(lambda: store.claim("other", 60), 10)


def test_progress_is_told(
    worker: Worker, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "PROGRESS_SECONDS", 0.0)
    ask(store, "stages")
    with running(worker) as thread:
        until(lambda: store.get("job").stage == "ingest")
        (tmp_path / "data" / "site" / "runs" / "job" / "first").touch()
        until(lambda: [e for e in store.events("job") if e.kind == "progress"])
        job = store.get("job")
        assert (job.stage, job.message, job.progress) == ("sfm", "half", pytest.approx(0.175))
        (tmp_path / "data" / "site" / "runs" / "job" / "second").touch()
        thread.join(60)
    events = store.events("job")
    told = [(e.data["stage"], e.data["status"]) for e in events if e.kind == "stage"]
    assert told == [("ingest", "running"), ("ingest", "succeeded"), ("sfm", "running")]
    assert [e.data for e in events if e.kind == "warning"] == [{"stage": "ingest", "message": "dark"}]
    progress = [e.data for e in events if e.kind == "progress"]
    assert (progress[0]["stage"], progress[0]["step"], progress[0]["values"]) == ("sfm", 1, {"n": 3})
    assert events[-1].data == {"state": "succeeded"}


def test_a_queue_in_trouble_is_tried_again(
    worker: Worker, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, calls = store.claim, []

    def troubled(*arguments: Any) -> Job | None:
        calls.append(1)
        if len(calls) < 3:
            raise QueueError("the queue is busy")
        return claim(*arguments)

    monkeypatch.setattr(store, "claim", troubled)
    monkeypatch.setattr("spaceport_lab.jobs.worker.TROUBLE_SECONDS", 0.01)
    ask(store, "ok")
    with pytest.raises(QueueError):
        worker.run(once=True)
    with running(worker, once=False):
        until(lambda: store.get("job").state == "succeeded")


def test_what_runs_beside_is_told_when_to_end(store: Store, tmp_path: Path) -> None:
    ended = []
    Worker(store, tmp_path, beside=[lambda over: (over.wait(60), ended.append(1))]).run(once=True)
    assert ended == [1]


# ---------------------------------------------------------------------- a worker in a process of its own


@contextmanager
def other_worker(
    store: Store, stub: Path, tmp_path: Path, grace_s: float, lease_s: float = 30
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, *map(str, (store.path, tmp_path / "data", stub, grace_s, lease_s))],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_killed_workers_job_is_taken_over_and_nothing_of_it_lives_on(
    worker: Worker, store: Store, stub: Path, tmp_path: Path
) -> None:
    ask(store, "second")
    with other_worker(store, stub, tmp_path, 5, lease_s=5) as process:
        family = pids(tmp_path)
        assert not gone(family)
        before = store.get("job")
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: gone(family), 20)
    with running(worker, once=False):
        until(lambda: store.get("job").state == "succeeded")
    job = store.get("job")
    assert (job.attempt, job.token) == (2, before.token + 1)
    assert [letter.kind for letter in store.letters()] == ["succeeded"]


def test_a_stopped_worker_gives_its_job_back(store: Store, stub: Path, tmp_path: Path) -> None:
    ask(store, "slow")
    ask(store, "ok", "next")
    with other_worker(store, stub, tmp_path, 20) as process:
        family = pids(tmp_path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    job = store.get("job")
    assert (job.state, job.attempt, job.failure) == ("queued", 0, None)
    assert store.get("next").state == "queued", "nothing more is taken"
    assert gone(family)
    assert store.letters() == []
    assert (tmp_path / "data/site/runs/job/asked").exists()


def test_a_second_signal_does_not_wait(store: Store, stub: Path, tmp_path: Path) -> None:
    ask(store, "deaf")
    with other_worker(store, stub, tmp_path, 500) as process:
        family = pids(tmp_path)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None, "it waits for the grace time"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert store.get("job").state == "queued"
    assert gone(family)


def test_a_job_dies_with_a_killed_keeper(tmp_path: Path) -> None:
    """What keeps a job's process may itself be killed, such as when the memory is full."""
    code = (
        "import os, time; from spaceport_lab.jobs.execute import _die_with_keeper; _die_with_keeper();"
        "open('pid', 'w').write(str(os.getpid())); time.sleep(300)"
    )
    keeper = subprocess.Popen(
        [sys.executable, "-P", attempts.keeper.__file__, sys.executable, "-c", code],
        stdin=subprocess.PIPE, cwd=tmp_path,
    )  # fmt: skip
    pid = int(until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    keeper.kill()
    keeper.communicate()
    until(lambda: gone([pid]), 20)


@pytest.mark.parametrize(("end", "code"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", 137), ("pass", 0)])
def test_a_keepers_exit_code_is_its_commands(end: str, code: int) -> None:
    # Not subprocess.run: that would close the pipe, which means that the worker is dead.
    process = subprocess.Popen(
        [sys.executable, "-P", attempts.keeper.__file__, sys.executable, "-c", f"import os, sys; {end}"],
        stdin=subprocess.PIPE,
    )
    assert process.wait(60) == code
    process.communicate()
