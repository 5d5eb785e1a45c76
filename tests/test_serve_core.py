"""The core without a door: what is shown of a job, files and their parts, tokens, limits, errors in words."""

from __future__ import annotations

import ast
import dataclasses
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from serving import SOG, claim, finished_run, make_data

from spaceport_lab.errors import (
    FencedError,
    JobUnknownError,
    NotAllowedError,
    QueueFullError,
    SpaceportError,
    StoreBusyError,
)
from spaceport_lab.jobs.model import Failure, Job, make_ask
from spaceport_lab.jobs.store import Store, store_path
from spaceport_lab.serve import core, results, tokens
from spaceport_lab.serve.core import RateLimit, Service, refusal
from spaceport_lab.serve.settings import ServeSettings
from spaceport_lab.serve.views import Cards, job_view, scrub


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path)


@pytest.fixture
def service(data: Path) -> Service:
    settings = ServeSettings(data=data, s3_prefixes=("s3://bucket/flights",), queue_limit=5)
    return Service(Store(store_path(data), 5), settings)


def body(**values: Any) -> bytes:
    return json.dumps({"source": "sample", **values}).encode()


# ---------------------------------------------------------------- starting


def test_a_request_becomes_an_ask_in_the_cores_own_words(service: Service, data: Path) -> None:
    asked = body(
        pipelineStep="full", name="my-job", presets=["demo"], overrides=["train.max_steps=7"], priority=3,
        email="pilot@example.com",
    )  # fmt: skip
    answer = service.start(asked)
    assert answer.status == 202
    assert answer.body["jobId"] == answer.body["name"] == "my-job"
    assert answer.headers["Location"] == answer.body["status"] == "jobs/my-job"
    ask = service.store.get("my-job").ask
    assert ask == make_ask(
        source=str((data / "sample").resolve()), steps="full", name="my-job", presets=("demo",),
        overrides=("train.max_steps=7",), priority=3, email="pilot@example.com",
    )  # fmt: skip
    assert service.start(body(name="my-job")).status == 409, "the name is taken"
    (service.settings.data / "site" / "runs" / "by-hand").mkdir(parents=True)
    assert service.start(body(name="by-hand")).status == 409, "it is a person's run"
    assert service.start(json.dumps({"s3Url": "s3://bucket/flights/a"}).encode()).status == 202


def test_a_key_makes_one_job_whoever_sends_it_how_often(service: Service) -> None:
    names: list[str] = []
    gate = threading.Barrier(20)

    def send() -> None:
        gate.wait()
        names.append(service.start(body(), "key-1").body["name"])

    threads = [threading.Thread(target=send) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 20
    assert len(set(names)) == 1
    assert len(service.store.list()) == 1
    assert service.start(body(priority=1), "key-1").status == 409
    assert service.start(body(), "key-2").body["name"] != names[0]
    assert service.start(body(), "two words").status == 422


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", 400), (b"{", 400), (b"null", 400), (b"[]", 400), (b'"x"', 400), (b"\xff\xfe", 400),
        (b"[" * 16000, 400),
        (b'{"a":' * 2000 + b"1" + b"}" * 2000, 400), (b"x" * (core.BODY_BYTES + 1), 413), (b"NaN", 400),
        (b"{}", 422), (b'{"s3url": "s3://bucket/flights/a"}', 422), (b'{"source": 3}', 422),
        (b'{"source": null}', 422),
        (b'{"source": "sample", "s3Url": "s3://bucket/flights/a"}', 422), (b'{"s3Url": "sample"}', 422),
        (b'{"s3Url": "http://169.254.169.254/"}', 422), (b'{"source": "sample", "admin": true}', 422),
        (b'{"source": "sample", "pipelineStep": "all"}', 422), (b'{"source": "sample", "priority": 11}', 422),
        (b'{"source": "sample", "priority": "1"}', 422), (b'{"source": "sample", "priority": 1e99}', 422),
        (b'{"source": "sample", "presets": "demo"}', 422),
        (b'{"source": "sample", "presets": ["/etc/x.yaml"]}', 422),
        (b'{"source": "sample", "presets": ["nope"]}', 422), (b'{"source": "sample", "name": "../x"}', 422),
        (b'{"source": "sample", "name": "Upper"}', 422), (b'{"source": "sample", "name": "a--"}', 422),
        (b'{"source": "sample", "name": "a\\u0000"}', 422),
        (b'{"source": "sample", "email": "a@b.c\\r\\nBcc: d@e.f"}', 422),
        (b'{"source": "sample", "overrides": ["train.init_from=/etc/passwd"]}', 422),
        (b'{"source": "sample", "overrides": ["train.max_steps=-1"]}', 422),
        (b'{"source": "sample", "overrides": ["train.max_steps=abc"]}', 422),
        (b'{"source": "sample", "webhook": "https://evil.example/"}', 422),
        (b'{"source": "sample", "outputUrl": "s3://bucket/runs"}', 422),
        (b'{"source": "sample", "pipelineStep": "3dgs"}', 422),
        (b'{"source": "sample", "pipelineStep": "compression"}', 422),
        (b'{"source": "\\ud800"}', 400), (b'{"source": "../../etc"}', 422),
        (b'{"source": "sample\\u0000"}', 422),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_and_leave_nothing(service: Service, sent: bytes, status: int) -> None:
    answer = service.start(sent)
    assert answer.status == status, answer
    assert answer.body["code"].startswith("SL-")
    assert answer.body["message"]
    assert "Traceback" not in str(answer.body)
    assert str(service.settings.data.parent) not in str(answer.body)
    assert service.store.list() == []


def test_going_on_from_a_run_of_another_data_folder_is_refused(tmp_path: Path, data: Path) -> None:
    """It would be gone on from where it lies, and be written there."""
    other = make_data(tmp_path / "other")
    finished_run(other, "old")
    stage = other / "sample" / "runs" / "old" / "02_sfm"
    stage.mkdir()
    (stage / "stage.json").write_text(json.dumps({"outputs": {}, "key": "x"}))
    settings = ServeSettings(data=data, roots=(data, other))
    service = Service(Store(store_path(data)), settings)
    answer = service.start(json.dumps({"source": str(other / "sample"), "pipelineStep": "3dgs"}).encode())
    assert answer.status == 422
    assert "data folder" in answer.body["message"]


def test_a_full_queue_says_when_to_come_back(service: Service) -> None:
    for _ in range(5):
        assert service.start(body()).status == 202
    answer = service.start(body())
    assert (answer.status, answer.body["code"]) == (429, QueueFullError.code)
    assert int(answer.headers["Retry-After"]) > 0


def test_each_caller_has_a_rate_of_its_own(data: Path) -> None:
    now = [0.0]
    limit = RateLimit(60, lambda: now[0])
    assert [limit.take("a") for _ in range(60)] == [0.0] * 60
    assert limit.take("a") == pytest.approx(1.0)
    assert limit.take("b") == 0
    now[0] = 0.5
    assert limit.take("a") == pytest.approx(0.5)
    now[0] = 1.01
    assert limit.take("a") == 0
    now[0] = 1e6
    assert [limit.take("a") for _ in range(61)][-2:] == [0.0, pytest.approx(1.0)]
    service = Service(Store(store_path(data)), ServeSettings(data=data, starts_per_minute=2), lambda: 0.0)
    assert [service.start(body(), who="a").status for _ in range(3)] == [202, 202, 429]
    assert service.start(body(), who="a").headers["Retry-After"] == "30"
    assert service.start(body(), who="b").status == 202


def test_a_webhook_whose_name_points_inside_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ServeSettings(data=data, webhook_hosts=("hooks.example.com",))
    service = Service(Store(store_path(data)), settings)
    found = ["169.254.169.254"]

    def check(url: str, s: ServeSettings) -> str:
        from spaceport_lab.serve.addresses import check_webhook

        return check_webhook(url, s, lambda *_, **__: [(2, 1, 6, "", (found[0], 443))])

    monkeypatch.setattr(core.rules, "check_webhook", check)
    hook = "https://hooks.example.com/x"
    assert service.start(body(webhook=hook)).status == 422
    found[0] = "93.184.215.14"
    assert service.start(body(webhook=hook)).status == 202
    monkeypatch.setattr(core, "LOOKUP_SECONDS", 0.01)
    gate = threading.Event()
    monkeypatch.setattr(core.rules, "check_webhook", lambda *_: gate.wait(20))
    assert service.start(body(webhook=hook)).status == 202, "judged again when it is called"
    gate.set()


# ---------------------------------------------------------------- what is shown


def test_a_job_is_shown_without_the_machine(service: Service, data: Path) -> None:
    name = service.start(body(name="job-1", webhook="", email="pilot@example.com")).body["name"]
    job = claim(service.store, name)
    root = finished_run(data, name)
    secret = data.parent / "elsewhere" / "key.pem"
    failure = Failure(
        "SL-500", "train", f"no {secret} in {root}/03_train, password=hunter22", f"look at {secret}"
    )
    service.store.heartbeat(job, 3600, run_dir=str(root), stage="train", progress=0.5, message=f"at {secret}")
    service.store.finish(job, "failed", failure)
    shown = service.job(name).body
    text = json.dumps(shown, ensure_ascii=False)
    assert str(data.parent) not in text
    assert "hunter22" not in text
    assert "pilot@" not in text
    assert shown["failure"]["message"] == f"no …/key.pem in sample/runs/{name}/03_train, password=***"
    assert shown["source"] == "sample"
    assert shown["cost"] == 0.25
    assert [s["status"] for s in shown["stages"]] == ["succeeded"] * 5
    assert set(shown["files"]) == {"report", "viewer", "splat.sog"}
    assert service.jobs(["failed"]).body["jobs"] == [shown]
    assert service.jobs(["failed"]).body["counts"]["failed"] == 1
    assert service.jobs(["nope"]).status == service.jobs(limit=0).status == 422


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see {data}/sample/x.log now", "see sample/x.log now"), ("{data}", "."),
        ("'{data}/a b/c'", "'a b/c'"),
        ("/etc/passwd", "…/passwd"), ("(/usr/lib/python3/x.py:12)", "(…/x.py:12)"),
        ("file:///etc/passwd", "…/passwd"),
        ("~/.aws/credentials", "…/credentials"), ("{data}-of-others/x", "…/x"),
        ("a/b and 3/4 of 1 / 2", "a/b and 3/4 of 1 / 2"),
        ("s3://bucket/flights/a", "s3://bucket/flights/a"),
        ("https://x.example/a/b", "https://x.example/a/b"),
        ("https://u:p@x.example/a", "https://***@x.example/a"), ("", ""),
    ],
)  # fmt: skip
def test_paths_outside_are_cut_to_their_last_name(tmp_path: Path, text: str, shown: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    assert scrub(text.replace("{data}", str(data)), data) == shown


@pytest.mark.parametrize(
    ("state", "stage", "card", "shown"),
    [
        ("queued", "", {}, "ppppp"), ("running", "sfm", {"ingest": "succeeded", "sfm": "running"}, "sr"),
        # The card of an attempt that was lost: what it says of the stages to come is old.
        ("running", "ingest", {"ingest": "running", "sfm": "failed", "train": "running"}, "rpp"),
        ("cancelled", "sfm", {"ingest": "succeeded", "sfm": "running", "train": "pending"}, "sip"),
        ("failed", "sfm", {"ingest": "succeeded", "sfm": "failed"}, "sf"),
        ("queued", "", {"ingest": "succeeded", "sfm": "interrupted"}, "sp"),
    ],
)  # fmt: skip
def test_the_row_of_stages(
    service: Service, data: Path, state: str, stage: str, card: dict[str, str], shown: str
) -> None:
    name = service.start(body()).body["name"]
    root = finished_run(data, name, stages={s: {"status": status} for s, status in card.items()})
    job = dataclasses.replace(service.store.get(name), state=state, stage=stage, run_dir=str(root))
    if not card:
        (root / "run.json").unlink()
    assert "".join(s.status[0] for s in job_view(job, data, Cards()).stages) == shown


def test_steps_decide_which_stages_are_shown_before_there_is_a_card(service: Service, data: Path) -> None:
    job = service.store.submit(make_ask(source="x", steps="compression"))[0]
    assert [s.name for s in job_view(job, data, Cards()).stages] == ["compress", "inspect"]


def test_a_card_is_read_again_only_when_it_changed_and_damage_is_no_error(tmp_path: Path) -> None:
    cards, path = Cards(size=2), tmp_path / "run.json"
    assert cards.read(None) == cards.read(tmp_path) == {}
    path.write_text('{"stages": {}, "cost": 1}')
    first = cards.read(tmp_path)
    assert first["cost"] == 1
    assert cards.read(tmp_path) is first
    path.write_text('{"stages": {}, "cost": 23}')
    assert cards.read(tmp_path)["cost"] == 23
    for damaged in (b"{", b"[]", b"\xff", b'{"stages": []}', b"null", b""):
        path.write_bytes(damaged)
        assert cards.read(tmp_path) == {}
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "run.json").write_text('{"stages": {}}')
        cards.read(tmp_path / str(number))
    assert len(cards._kept) <= 2


# ---------------------------------------------------------------- files


@pytest.fixture
def done(service: Service, data: Path) -> Job:
    name = service.start(body(name="done-1")).body["name"]
    job = claim(service.store, name)
    service.store.heartbeat(job, 3600, run_dir=str(finished_run(data, name)))
    service.store.finish(job, "succeeded")
    return service.store.get(name)


def sent(content: Any) -> bytes:
    return b"".join(content.chunks())


def test_files_of_a_job_that_has_ended(service: Service, done: Job) -> None:
    report = service.content(done.name, "report")
    assert sent(report) == b"<!doctype html><title>The report</title>"
    assert report.headers["Content-Security-Policy"] == results.SANDBOX
    viewer = service.content(done.name, "viewer")
    assert b"splat" in sent(viewer)
    assert int(viewer.headers["Content-Length"]) == len(sent(viewer))
    sog = service.content(done.name, "splat.sog")
    assert sent(sog) == SOG
    assert done.name in sog.headers["Content-Disposition"]
    for kind in ("run.json", "../run.json", "", "report.html", "04_compress/splat.sog"):
        assert service.content(done.name, kind).status == 404


def test_nothing_is_served_before_a_job_has_ended(service: Service, data: Path) -> None:
    name = service.start(body()).body["name"]
    job = claim(service.store, name)
    service.store.heartbeat(job, 3600, run_dir=str(finished_run(data, name)))
    assert service.content(name, "report").status == 404
    assert service.job(name).body["files"] == {}


@pytest.mark.parametrize("way", ["file", "folder", "root", "elsewhere", "other"])
def test_a_link_out_of_the_run_folder_is_not_followed(
    service: Service, data: Path, done: Job, tmp_path: Path, way: str
) -> None:
    root = Path(done.run_dir)
    outside = tmp_path / "outside" / done.name
    (outside / "04_compress").mkdir(parents=True)
    for path in (outside / "report.html", outside / "04_compress" / "splat.sog"):
        path.write_text("secret")
    job = done
    if way == "file":
        for name in ("report.html", "04_compress/splat.sog"):
            (root / name).unlink()
            (root / name).symlink_to(outside / name)
    elif way == "folder":
        (root / "report.html").unlink()
        (root / "04_compress" / "splat.sog").unlink()
        (root / "04_compress").rmdir()
        (root / "04_compress").symlink_to(outside / "04_compress")
    elif way == "root":
        root.rename(root.with_name("moved"))
        root.symlink_to(outside)
    elif way == "elsewhere":
        job = dataclasses.replace(done, run_dir=str(outside))
    else:  # another job's folder
        job = dataclasses.replace(done, run_dir=str(finished_run(data, "other")))
    for kind in results.NEEDS:
        with pytest.raises(JobUnknownError):
            results.content(job, data, kind)
    assert job_view(job, data, Cards()).files == {}


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1), ("bytes=0-", 0, None), ("bytes=100-199", 100, 200), ("bytes=100-", 100, None),
        ("bytes=-10", len(SOG) - 10, None), ("bytes=-999999", 0, None), ("bytes=5-999999", 5, None),
    ],
)  # fmt: skip
def test_parts_of_the_sog(service: Service, done: Job, asked: str, start: int, end: int | None) -> None:
    part = service.content(done.name, "splat.sog", asked)
    assert part.status == 206
    assert sent(part) == SOG[start:end]
    last = (end or len(SOG)) - 1
    assert part.headers["Content-Range"] == f"bytes {start}-{last}/{len(SOG)}"
    assert part.headers["Content-Length"] == str(len(sent(part)))


def test_parts_that_cannot_be(service: Service, done: Job) -> None:
    for asked in (f"bytes={len(SOG)}-", "bytes=999999-", "bytes=9-5", "bytes=-0"):
        part = service.content(done.name, "splat.sog", asked)
        assert (part.status, sent(part)) == (416, b"")
        assert part.headers["Content-Range"] == f"bytes */{len(SOG)}"
    for asked in (
        "",
        "bytes=-",
        "bytes=0-1,3-4",
        "items=0-1",
        "bytes=a-b",
        "bytes=--1",
        "bytes=1-2-3",
        "x" * 5000,
    ):
        part = service.content(done.name, "splat.sog", asked)
        assert (part.status, part.length) == (200, len(SOG))


# ---------------------------------------------------------------- tokens


def test_a_token_is_made_once_and_is_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / ".jobs" / "token"
    found, made = tokens.read_or_make(path)
    assert made
    assert path.stat().st_mode & 0o777 == 0o600
    value = path.read_text().strip()
    assert len(value) >= 40
    assert found.who(value) == "token 1"
    again, made = tokens.read_or_make(path)
    assert not made
    assert again.who(value) == "token 1"
    assert [p.name for p in path.parent.iterdir()] == ["token"]
    for wrong in ("", "x", value[:-1], value + "x", value.upper(), " " + value, "\udcff", value + "\0"):
        assert found.who(wrong) == ""


def test_several_tokens_and_remarks(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"# of the lab\n{'a' * 20}\n\n{'b' * 20}  \n")
    path.chmod(0o600)
    found, _ = tokens.read_or_make(path)
    assert [found.who("a" * 20), found.who("b" * 20), found.who("# of the lab")] == ["token 1", "token 2", ""]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o777])
def test_a_token_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    path.write_text("a" * 40)
    path.chmod(mode)
    with pytest.raises(NotAllowedError, match="chmod 600"):
        tokens.read_or_make(path)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a remark\n", "short", f"{'a' * 40}\nshort"])
def test_a_token_that_can_be_guessed_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(NotAllowedError, match="safe"):
        tokens.read_or_make(path)


def test_many_starts_at_once_agree_on_one_token(tmp_path: Path) -> None:
    path, seen = tmp_path / "token", []
    gate = threading.Barrier(8)

    def start() -> None:
        gate.wait()
        seen.append(tokens.read_or_make(path)[0])

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    value = path.read_text().strip()
    assert [one.who(value) for one in seen] == ["token 1"] * 8


def test_a_readers_cookie_ends_and_cannot_be_made_up() -> None:
    mine, other = tokens.Tokens(("a" * 30,)), tokens.Tokens(("b" * 30,))
    value = mine.reader(1000.0)
    assert mine.is_reader(value, 1001.0)
    assert not mine.is_reader(value, 1000.0 + tokens.READER_SECONDS)
    assert not other.is_reader(value, 1001.0)
    assert mine.cookie != other.cookie
    ends, _, signature = value.partition(".")
    for wrong in (
        "",
        ".",
        ends,
        f"{int(ends) + 1}.{signature}",
        f"{ends}.{signature[:-1]}",
        f"{ends}.",
        "ä.ö",
        "a" * 30,
    ):
        assert not mine.is_reader(wrong, 1001.0)


# ---------------------------------------------------------------- errors


def test_only_one_door_needs_what_the_extra_brings() -> None:
    """The one in a notebook server works without FastAPI."""
    folder = Path(core.__file__).parent
    for path in folder.rglob("*.py"):
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
        }
        extra = imported & {"fastapi", "starlette", "uvicorn", "prometheus_client", "httpx"}
        assert not extra or path.name == "app.py", path.name


def test_errors_in_words(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    answer = refusal(JobUnknownError("no job", got=data / "x", expected="/etc/x", hint="look"), data)
    assert answer.status == 404
    assert answer.body == {
        "code": "SL-710",
        "message": "no job",
        "got": "x",
        "expected": "…/x",
        "hint": "look",
    }
    for error in (StoreBusyError("busy"), FencedError("fenced"), SpaceportError("other")):
        assert refusal(error, data).status == 503
    with caplog.at_level(logging.ERROR):
        answer = refusal(RuntimeError("password at /etc/shadow"), data)
    assert answer.status == 500
    assert "shadow" not in str(answer.body)
    number = answer.body["hint"].split()[-1]
    assert number in caplog.text
    assert "shadow" in caplog.text, "who runs it sees why"
