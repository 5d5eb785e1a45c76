"""The queue: each job once, one writer, one letter; whoever asks, from however many processes."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from spaceport_lab.errors import (
    JobConflictError,
    JobUnknownError,
    ParamsError,
    QueueError,
    QueueFullError,
    WorkspaceError,
)
from spaceport_lab.jobs import ENDED, Ask, Failure, Job, Store, store_path
from spaceport_lab.jobs.store import LETTER_SECONDS

ASK = Ask(source="/flights/site", email="ann@example.org", webhook="https://example.org/hook/secret")


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    return Store(tmp_path / "jobs.db", queue_limit=50, clock=clock)


def claimed(store: Store, worker: str = "w", lease_s: float = 30.0) -> Job:
    job = store.claim(worker, lease_s)
    assert job is not None
    return job


def kinds(store: Store, name: str) -> list[tuple[str, Any]]:
    return [(e.kind, e.data.get("state") or e.data.get("attempt")) for e in store.events(name)]


def test_a_job_from_the_queue_to_its_end(store: Store, clock: Clock) -> None:
    job, made = store.submit(ASK)
    assert made
    assert (job.state, job.attempt, job.ask) == ("queued", 0, ASK)
    assert job.name.startswith("site-19700112-")
    clock.now += 5
    taken = claimed(store)
    assert (taken.name, taken.state, taken.attempt, taken.worker) == (job.name, "running", 1, "w")
    assert taken.token == job.token + 1
    assert store.claim("other", 30) is None
    assert store.heartbeat(taken, 30, stage="sfm", progress=0.2, message="matching", run_dir="/r")
    seen = store.get(job.name)
    assert (seen.stage, seen.progress, seen.message, seen.run_dir) == ("sfm", 0.2, "matching", "/r")
    clock.now += 60
    assert store.finish(taken, "succeeded")
    done = store.get(job.name)
    assert (done.state, done.progress, done.failure) == ("succeeded", 1.0, None)
    assert (done.created, done.started, done.ended) == (1_000_000, 1_000_005, 1_000_065)
    assert kinds(store, job.name) == [
        ("state", "queued"), ("attempt", 1), ("state", "running"), ("state", "succeeded"),
    ]  # fmt: skip
    assert [e.seq for e in store.events(job.name, after=2)] == [3, 4]
    assert [e.seq for e in store.events(job.name, limit=1)] == [1]


def test_what_a_job_tells_is_json_without_secrets(store: Store) -> None:
    store.submit(Ask(source="s3://key:word@bucket/site", webhook=ASK.webhook, name="a"))
    claimed(store)
    text = json.dumps(store.get("a").as_dict())
    assert "secret" not in text
    assert "word" not in text
    assert "https://example.org/…" in json.loads(text)["ask"]["webhook"]


def test_the_same_key_again(store: Store, clock: Clock) -> None:
    job, _ = store.submit(ASK, key="k")
    clock.now += 3600
    again, made = store.submit(ASK.model_copy(), key="k")
    assert (again.name, made) == (job.name, False)
    with pytest.raises(JobConflictError, match="another request"):
        store.submit(ASK.model_copy(update={"priority": 1}), key="k")
    assert store.submit(ASK)[0].name != job.name, "without a key every request is a new one"


def test_made_names_that_meet_are_made_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(["site-1", "site-1", "site-1", "site-2"])
    monkeypatch.setattr("spaceport_lab.jobs.store.new_name", lambda *_: next(names))
    assert [store.submit(Ask(source="/x/site"))[0].name for _ in range(2)] == ["site-1", "site-2"]


def test_a_name_is_taken_once(store: Store) -> None:
    store.submit(Ask(source="a", name="night"))
    with pytest.raises(JobConflictError, match="night"):
        store.submit(Ask(source="b", name="night"))
    store.cancel("night")
    with pytest.raises(JobConflictError):
        store.submit(Ask(source="a", name="night"))


def test_a_full_queue(store: Store) -> None:
    for number in range(50):
        store.submit(ASK, key=str(number))
    with pytest.raises(QueueFullError, match="50 jobs wait"):
        store.submit(ASK)
    assert store.submit(ASK, key="3")[1] is False, "what was accepted before is still answered"
    claimed(store)
    assert store.submit(ASK)[1]


@pytest.mark.parametrize("key", ["x" * 201, "a\nb", "\udcff", "\0"])
def test_keys_that_cannot_be_used(store: Store, key: str) -> None:
    with pytest.raises(ParamsError, match="key"):
        store.submit(ASK, key=key)


def test_higher_priority_first_then_the_older(store: Store) -> None:
    for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -3)):
        store.submit(Ask(source="x", name=name, priority=priority))
    assert [claimed(store).name for _ in range(5)] == ["b", "d", "a", "c", "e"]


def test_a_worker_may_take_some_steps_only(store: Store) -> None:
    store.submit(Ask(source="x", name="a"))
    store.submit(Ask(source="x.ply", name="b", steps="compression"))
    job = store.claim("w", 30, kinds=("compression", "3dgs"))
    assert job is not None
    assert job.name == "b"
    assert store.claim("w", 30, kinds=("compression", "3dgs")) is None


def test_a_lost_lease_is_taken_by_the_next(store: Store, clock: Clock) -> None:
    store.submit(ASK)
    first = claimed(store, "first")
    clock.now += 29
    assert store.heartbeat(first, 30)
    clock.now += 29
    assert store.claim("second", 30) is None, "a heartbeat extends the lease"
    clock.now += 2
    second = claimed(store, "second")
    assert (second.attempt, second.token) == (2, first.token + 1)
    assert store.events(first.name)[-2].data == {"attempt": 2, "worker": "second", "lost_by": "first"}
    assert not store.heartbeat(first, 30, message="late", events=[("warning", {})])
    assert not store.finish(first, "succeeded")
    assert not store.retry(first, Failure(), 1)
    assert not store.release(first)
    assert store.get(first.name).message == ""
    assert store.letters() == []
    assert store.finish(second, "succeeded")
    assert not store.finish(second, "failed"), "once"
    assert len(store.letters()) == 2


def test_a_job_whose_worker_dies_each_time_fails(store: Store, clock: Clock) -> None:
    store.submit(ASK)
    for attempt in (1, 2, 3):
        assert claimed(store, f"w{attempt}").attempt == attempt
        clock.now += 31
    assert store.claim("w4", 30) is None
    job = store.list()[0]
    assert job.state == "failed"
    assert job.failure is not None
    assert job.failure.code == "SL-500"
    assert "died in each of 3 attempts" in job.failure.message
    assert [letter.kind for letter in store.letters()] == ["failed", "failed"]


def test_a_retried_job_waits_and_then_fails_for_good(store: Store, clock: Clock) -> None:
    store.submit(ASK)
    failure = Failure(code="SL-830", message="busy")
    for attempt in (1, 2):
        job = claimed(store)
        assert store.retry(job, failure, 60)
        waiting = store.get(job.name)
        assert (waiting.state, waiting.attempt, waiting.failure) == ("queued", attempt, failure)
        assert store.claim("w", 30) is None
        clock.now += 60
    assert store.retry(claimed(store), failure, 60)
    assert store.list()[0].state == "failed"
    assert [letter.job.failure for letter in store.letters()] == [failure, failure]


def test_a_success_forgets_earlier_failures(store: Store, clock: Clock) -> None:
    store.submit(ASK)
    store.retry(claimed(store), Failure(message="busy"), 0)
    store.finish(claimed(store), "succeeded")
    assert store.list()[0].failure is None


def test_a_released_job_has_lost_nothing(store: Store) -> None:
    store.submit(ASK)
    for _ in range(5):
        job = claimed(store)
        assert job.attempt == 1
        assert store.release(job)
    assert claimed(store).token == job.token + 1, "the token grows all the same"


def test_cancelling(store: Store, clock: Clock) -> None:
    for name in ("waiting", "running", "done", "lost"):
        store.submit(Ask(source="x", name=name, email="a@b.c"))
    assert store.cancel("waiting").state == "cancelled"
    running, done, lost = claimed(store), claimed(store), claimed(store, lease_s=5)
    store.finish(done, "succeeded")
    assert store.cancel("done").state == "succeeded"
    asked = store.cancel("running")
    assert (asked.state, asked.cancel_requested) == ("running", True)
    events = len(store.events("running"))
    store.cancel("running")
    assert len(store.events("running")) == events, "asking twice is asking once"
    clock.now += 6
    assert store.cancel(lost.name).state == "cancelled", "nobody is there to be asked"
    assert not store.heartbeat(running, 30)
    clock.now += 29
    assert store.claim("other", 30) is None, "that heartbeat kept it all the same"
    assert store.finish(running, "cancelled")
    assert [letter.job.name for letter in store.letters()] == ["done"]


@pytest.mark.parametrize("end", ["retry", "release", "lose"])
def test_a_job_that_is_to_be_cancelled_is_not_tried_again(store: Store, clock: Clock, end: str) -> None:
    store.submit(ASK)
    job = claimed(store)
    store.cancel(job.name)
    if end == "retry":
        store.retry(job, Failure(), 0)
    elif end == "release":
        store.release(job)
    clock.now += 31
    assert store.claim("other", 30) is None
    assert store.get(job.name).state == "cancelled"
    assert store.letters() == []


def test_a_letter_has_one_deliverer_at_a_time(store: Store, clock: Clock) -> None:
    store.submit(ASK)
    store.finish(claimed(store), "failed", Failure(code="SL-210", message="no photographs"))
    mail, hook = store.letters()
    assert (mail.channel, mail.address, mail.kind, mail.attempts) == ("email", ASK.email, "failed", 0)
    assert (hook.channel, hook.address) == ("webhook", ASK.webhook)
    assert mail.job.failure == Failure(code="SL-210", message="no photographs")
    assert store.letters() == []
    store.postpone(mail, "451 later", 60)
    store.bury(hook, "410 gone \udcff")
    clock.now += 60
    again = store.letters()
    assert [(letter.id, letter.attempts) for letter in again] == [(mail.id, 1)]
    clock.now += LETTER_SECONDS
    third = store.letters()[0]  # whoever had it is dead
    store.postpone(again[0], "slow, and not its own any more", 0)
    assert store.letters() == []
    store.sent(third)
    clock.now += 1e6
    assert store.letters() == []
    assert [(p["state"], p["attempts"], p["error"]) for p in store.post(mail.job.name)] == [
        ("sent", 1, ""),
        ("dead", 1, "410 gone ?"),
    ]
    assert store.get(mail.job.name).state == "failed"


def test_counts(store: Store, clock: Clock) -> None:
    assert store.counts() == dict.fromkeys(("queued", "running", *ENDED, "oldest_queued_s"), 0)
    for _ in range(3):
        store.submit(ASK)
        clock.now += 10
    claimed(store)
    assert store.counts() == {
        "queued": 2, "running": 1, "succeeded": 0, "failed": 0, "cancelled": 0, "oldest_queued_s": 20,
    }  # fmt: skip
    assert [job.state for job in store.list()] == ["queued", "queued", "running"]
    assert [job.state for job in store.list(("running", "failed"))] == ["running"]
    assert len(store.list(limit=1)) == 1
    assert store.list(("nonsense",)) == []


@pytest.mark.parametrize("name", ["", "nobody", "a\0b", "\udcff", "../x", "x" * 100_000])
def test_unknown_jobs(store: Store, name: str) -> None:
    for ask in (store.get, store.cancel, store.events, store.post):
        with pytest.raises(JobUnknownError) as error:
            ask(name)
        assert len(str(error.value)) < 300


@pytest.mark.parametrize("number", [-1, 2**63, 10**30])
def test_numbers_that_are_none(store: Store, number: int) -> None:
    store.submit(Ask(source="x", name="a"))
    assert len(store.events("a", after=number)) == (1 if number < 0 else 0)
    assert len(store.list(limit=number)) == (0 if number < 0 else 1)


# ---------------------------------------------------------------------- many at once


def at_once(n: int, work: Callable[[int], Any]) -> list[Any]:
    gate = threading.Barrier(n)

    def wait_and_work(number: int) -> Any:
        gate.wait()
        return work(number)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(wait_and_work, range(n)))


def test_twenty_equal_requests_at_once_make_one_job(tmp_path: Path) -> None:
    path = tmp_path / "new" / "jobs.db"
    # Each with a store of its own, as each process would have; the first ones also make the file.
    answers = at_once(20, lambda _: Store(path).submit(ASK, key="k"))
    assert len({job.name for job, _ in answers}) == 1
    assert sorted(made for _, made in answers) == [False] * 19 + [True]
    assert len(Store(path).list()) == 1


def test_twenty_other_requests_with_one_key_make_one_job_and_conflicts(store: Store) -> None:
    def submit(number: int) -> str:
        try:
            return store.submit(ASK.model_copy(update={"source": f"/{number}"}), key="k")[0].name
        except JobConflictError:
            return ""

    assert sorted(map(bool, at_once(20, submit))) == [False] * 19 + [True]


CLAIMING = """
import sys, threading
from pathlib import Path
from spaceport_lab.jobs.store import Store

store, lock = Store(Path(sys.argv[1])), threading.Lock()

def work():
    while job := store.claim(sys.argv[2], 60):
        store.heartbeat(job, 60, progress=0.5)
        if store.finish(job, "succeeded"):
            with lock:
                print(job.name, flush=True)

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_many_workers_take_each_job_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.db")
    names = {store.submit(ASK)[0].name for _ in range(120)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMING, str(store.path), f"w{n}"], stdout=subprocess.PIPE, text=True
        )
        for n in range(3)
    ]
    done = [name for worker in workers for name in worker.communicate(timeout=120)[0].split()]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert sorted(done) == sorted(names)
    assert {job.attempt for job in store.list(limit=1000)} == {1}
    letters = [(letter.job.name, letter.channel) for letter in store.letters(limit=1000)]
    assert len(letters) == len(set(letters)) == 240


def test_letters_are_shared_out_among_many(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.db")
    for _ in range(10):
        store.submit(ASK)
        store.finish(claimed(store), "succeeded")
    taken = [letter.id for some in at_once(8, lambda _: Store(store.path).letters(3)) for letter in some]
    assert len(taken) == len(set(taken)) == 20


class Queue(RuleBasedStateMachine):
    """Whatever is done in whatever order: the newest claim alone may write, and what has ended stays so."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.folder = Path(os.environ["QUEUE_TEST_FOLDER"]) / os.urandom(4).hex()
        self.store = Store(self.folder / "jobs.db", clock=self.clock)
        self.tokens: dict[str, int] = {}
        self.ended: dict[str, str] = {}

    def teardown(self) -> None:
        self.store.close()

    @rule(priority=st.integers(-10, 10), email=st.sampled_from(["", "a@b.c"]))
    def submit(self, priority: int, email: str) -> None:
        job, _ = self.store.submit(Ask(source="x", priority=priority, email=email, webhook="https://h/x"))
        self.tokens[job.name] = job.token

    @rule(target=claims, lease=st.sampled_from([1.0, 30.0]))
    def claim(self, lease: float) -> Job | None:
        job = self.store.claim("w", lease)
        if job is not None:
            assert job.token == self.tokens[job.name] + 1
            assert 1 <= job.attempt <= job.max_attempts
            assert job.name not in self.ended
            self.tokens[job.name] = job.token
        return job

    @rule(seconds=st.sampled_from([0.5, 2.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(job=claims, how=st.sampled_from(["beat", "retry", "release"]))
    def write(self, job: Job | None, how: str) -> None:
        if job is None:
            return
        before = self.store.get(job.name)
        current = before.state == "running" and before.token == job.token
        if how == "beat":
            assert self.store.heartbeat(job, 30) == (current and not before.cancel_requested)
        elif how == "retry":
            assert self.store.retry(job, Failure(message="x"), 1) == current
        else:
            assert self.store.release(job) == current

    @rule(job=consumes(claims), state=st.sampled_from(ENDED))
    def finish(self, job: Job | None, state: Any) -> None:
        if job is not None:
            before = self.store.get(job.name)
            current = before.state == "running" and before.token == job.token
            assert self.store.finish(job, state) == current

    @rule(pick=st.integers(0, 100))
    def cancel(self, pick: int) -> None:
        if self.tokens:
            self.store.cancel(sorted(self.tokens)[pick % len(self.tokens)])

    @invariant()
    def what_has_ended_stays_so_and_is_told_once(self) -> None:
        for job in self.store.list(limit=1000):
            post = [(letter["kind"], letter["channel"]) for letter in self.store.post(job.name)]
            if job.has_ended:
                assert self.ended.setdefault(job.name, job.state) == job.state
            else:
                assert job.name not in self.ended
            told = job.state in ("succeeded", "failed")
            channels = [*(["email"] if job.ask.email else []), "webhook"]
            assert post == ([(job.state, channel) for channel in channels] if told else [])
            events = self.store.events(job.name, limit=10_000)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            ends = [e for e in events if e.kind == "state" and e.data["state"] in ENDED]
            assert len(ends) == (1 if job.has_ended else 0)


def test_any_order_of_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    monkeypatch.setenv("QUEUE_TEST_FOLDER", str(tmp_path))
    run_state_machine_as_test(
        Queue, settings=settings(max_examples=25, stateful_step_count=30, deadline=None, database=None)
    )


# ---------------------------------------------------------------------- the file


def test_where_the_queue_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACEPORT_JOBS", raising=False)
    assert store_path(tmp_path) == tmp_path / ".jobs" / "jobs.db"
    monkeypatch.setenv("SPACEPORT_JOBS", str(tmp_path / "other.db"))
    assert store_path(tmp_path / "data") == tmp_path / "other.db"


def test_others_may_not_read_addresses(store: Store) -> None:
    assert store.path.stat().st_mode & 0o077 == 0


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"not a database at all, " * 100)
    with pytest.raises(QueueError, match="cannot be read"):
        Store(tmp_path / "jobs.db")
    assert (tmp_path / "jobs.db").read_bytes().startswith(b"not a database")


def test_a_damaged_database(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.db")
    for _ in range(40):
        store.submit(ASK)
    store.close()
    raw = bytearray((tmp_path / "jobs.db").read_bytes())
    raw[4096:] = b"\xff" * (len(raw) - 4096)
    (tmp_path / "jobs.db").write_bytes(raw)
    with pytest.raises(QueueError, match="cannot be read"):
        Store(tmp_path / "jobs.db").list()


def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "jobs.db") as other:
        other.execute("CREATE TABLE birds (name TEXT)")
    other.close()
    before = (tmp_path / "jobs.db").read_bytes()
    with pytest.raises(QueueError, match="not one of a queue"):
        Store(tmp_path / "jobs.db")
    assert (tmp_path / "jobs.db").read_bytes() == before


def test_a_database_of_a_later_version(tmp_path: Path) -> None:
    Store(tmp_path / "jobs.db").close()
    with sqlite3.connect(tmp_path / "jobs.db") as other:
        other.execute("UPDATE about SET version = 99")
    other.close()
    with pytest.raises(QueueError, match="later version"):
        Store(tmp_path / "jobs.db")


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(WorkspaceError, match="file lies where a folder"):
        Store(tmp_path / "file" / "jobs.db")


def test_a_queue_that_is_thrown_away_under_a_worker(store: Store) -> None:
    store.submit(ASK)
    job = claimed(store)
    for file in store.path.parent.glob("jobs.db*"):
        file.unlink()
    assert not store.heartbeat(job, 30)
    assert not store.finish(job, "succeeded")
    with pytest.raises(JobUnknownError):
        store.get(job.name)
    assert store.submit(ASK)[1]


def test_a_new_queue_gives_greater_tokens_than_a_lost_one(tmp_path: Path, clock: Clock) -> None:
    """The run folder still has the old one's; a job of the same name must not be refused there."""
    tokens = []
    for number in range(2):
        store = Store(tmp_path / f"{number}.db", clock=clock)
        store.submit(Ask(source="x", name="night"))
        tokens.append(claimed(store).token)
        clock.now += 10
    assert tokens[0] < tokens[1]


def test_a_fork_has_a_connection_of_its_own(store: Store) -> None:
    store.submit(Ask(source="x", name="parent"))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store.submit(Ask(source="x", name="child"))
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert {job.name for job in store.list()} == {"parent", "child"}
