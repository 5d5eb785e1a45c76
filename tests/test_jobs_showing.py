"""The queue on a terminal and for other programs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from spaceport_lab.errors import JobUnknownError
from spaceport_lab.jobs import Ask, Failure, Store, showing


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One job of each kind."""
    clock = Clock()
    store = Store(tmp_path / "jobs.db", clock=clock)
    for name in ("done", "broken", "again", "running"):
        store.submit(Ask(source="x", name=name, email="ann@example.org", webhook="https://h.org/secret"))
    failure = Failure(code="SL-830", message="[busy] the store\nsecond line", hint="wait", log="/a.log")
    for end in ("succeeded", "failed", "retry", "run"):
        job = store.claim("w", 60)
        assert job is not None
        if end == "retry":
            store.retry(job, failure, 90)
        elif end == "run":
            events = [
                ("stage", {"stage": "sfm", "status": "succeeded", "seconds": 12.4}),
                ("progress", {"stage": "train", "progress": 0.4, "message": "step 3"}),
                ("warning", {"stage": "sfm", "message": "blurred"}),
            ]
            store.heartbeat(job, 60, stage="train", progress=0.4, message="step 3", events=events)
        else:
            store.finish(job, end, failure if end == "failed" else None)
    store.submit(Ask(source="x", name="waits"))
    clock.now += 30
    return store


def printed(store: Store, **options: object) -> str:
    console = Console(file=io.StringIO(), width=160, highlight=False)
    showing.show(store, console, **options)
    return console.file.getvalue()


def test_the_table(store: Store) -> None:
    lines = {line.split()[0]: line for line in printed(store).splitlines() if line.strip()}
    assert "running" in lines["running"]
    assert "40%" in lines["running"]
    assert "step 3" in lines["running"]
    assert "SL-830 [busy] the store, again in 1 min" in lines["again"]
    assert "second line" not in lines["again"]
    assert "succeeded" in lines["done"]
    assert "30 s" in lines["waits"]
    store.cancel("running")
    assert "stopping" in printed(store)


def test_one_job(store: Store) -> None:
    text = printed(store, name="running")
    assert "sfm: succeeded in 12 s" in text
    assert "sfm: blurred" in text
    assert "attempt 1 by w" in text
    assert "train  40%" not in text, "the way there is for --watch"
    text = printed(store, name="broken")
    assert "failed: SL-830 [busy] the store" in text
    assert "try: wait" in text
    assert "see: /a.log" in text
    assert "attempt 1 failed: SL-830 [busy] the store; again in 2 min" in printed(store, name="again")
    with pytest.raises(JobUnknownError):
        printed(store, name="nobody")


def test_watching_ends_with_the_job(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def sleep(_seconds: float) -> None:
        looks.append(1)
        if len(looks) == 2:
            job = store.get("running")
            store.finish(job, "succeeded")

    monkeypatch.setattr(showing.time, "sleep", sleep)
    text = printed(store, name="running", watch=True)
    assert len(looks) == 2
    assert "train  40%  step 3" in text
    assert text.count("running\n") == 1, "nothing is told twice"


def test_for_other_programs(store: Store) -> None:
    content = json.loads(showing.as_json(store))
    assert content["counts"]["queued"] == 2
    assert {job["name"] for job in content["jobs"]} == {"done", "broken", "again", "running", "waits"}
    one = json.loads(showing.as_json(store, "broken"))
    assert one["failure"]["code"] == "SL-830"
    assert [(letter["channel"], letter["state"]) for letter in one["letters"]] == [
        ("email", "due"),
        ("webhook", "due"),
    ]
    assert one["events"][-1]["data"]["state"] == "failed"
    assert "secret" not in showing.as_json(store, "broken")


def test_what_waits_is_always_listed(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.db", clock=Clock())
    store.submit(Ask(source="x", name="first", priority=-10))
    for _ in range(40):
        store.submit(Ask(source="x"))
        job = store.claim("w", 60)
        assert job is not None
        store.finish(job, "cancelled")
    jobs = showing.listing(store, ended=5)
    assert len(jobs) == 6
    assert "first" in {job.name for job in jobs}


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_ages(seconds: float, text: str) -> None:
    assert showing.age(seconds) == text
