"""The door of `spaceport-lab serve` as it is called: over HTTP, by strangers too."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from openapi_spec_validator import validate
from serving import SOG, TOKEN, claim, finished_run, make_data, running, until

from spaceport_lab.errors import InputError
from spaceport_lab.jobs.store import Store, store_path
from spaceport_lab.params import preset_names
from spaceport_lab.serve import app as door
from spaceport_lab.serve import events
from spaceport_lab.serve.guard import Guard
from spaceport_lab.serve.settings import ServeSettings

PATHS = [
    ("POST", "/start-job"), ("GET", "/jobs"), ("GET", "/jobs/x"), ("GET", "/jobs/x/events"),
    ("POST", "/jobs/x/cancel"),
    ("GET", "/jobs/x/report"), ("GET", "/jobs/x/viewer"), ("GET", "/jobs/x/splat.sog"), ("GET", "/about"),
    ("POST", "/session"), ("GET", "/metrics"),
]  # fmt: skip
OPEN = {"/healthz", "/", "/openapi.json", "/page.js", "/page.css", "/report.css"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def store(data: Path) -> Store:
    return Store(store_path(data), 200)


@pytest.fixture(scope="module")
def address(data: Path, store: Store) -> Iterator[str]:
    settings = ServeSettings(
        data=data, s3_prefixes=("s3://bucket/flights",), queue_limit=200, starts_per_minute=5000
    )
    with running(settings, store) as address:
        yield address


@pytest.fixture
def stranger(address: str) -> Iterator[httpx.Client]:
    """Somebody without a token."""
    with httpx.Client(base_url=address, timeout=30) as client:
        yield client


@pytest.fixture
def client(stranger: httpx.Client) -> httpx.Client:
    stranger.headers["Authorization"] = f"Bearer {TOKEN}"
    return stranger


def start(client: httpx.Client, key: str = "", **values: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/start-job", json={"source": "sample", **values}, headers=headers)


def started(client: httpx.Client, **values: Any) -> str:
    """Start a job before all others; its name."""
    answer = start(client, **{"priority": 10, **values})
    assert answer.status_code == 202, answer.text
    return answer.json()["jobId"]


def stream(client: httpx.Client, name: str, last: str = "", most: int = 10_000) -> list[dict[str, Any]]:
    """Events until the stream ends, or `most` of them."""
    found: list[dict[str, Any]] = []
    event: dict[str, Any] = {}
    with client.stream(
        "GET", f"/jobs/{name}/events", headers={"Last-Event-ID": last} if last else {}
    ) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith(":"):
                found.append({"event": "beat"})
            elif line:
                name_, _, value = line.partition(": ")
                event[name_] = value
            elif event:
                if "data" in event:
                    found.append({**event, "data": json.loads(event["data"])})
                event = {}
            if len(found) >= most:
                break
    return found


# ---------------------------------------------------------------- who may come in


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_without_the_token_nothing_is_told(stranger: httpx.Client, method: str, path: str) -> None:
    shown = [
        {}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer"},
        {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN.upper()}"}, {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"X-Token": TOKEN}, {"Cookie": f"token={TOKEN}"}, {"Authorization": b"Bearer \xff\xfe"},
    ]  # fmt: skip
    for headers in shown:
        answer = stranger.request(method, path, headers=headers)
        assert answer.status_code == 401, headers
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["code"] == "SL-740"
    assert stranger.request(method, path, params={"token": TOKEN, "access_token": TOKEN}).status_code == 401


def test_the_list_of_paths_above_is_whole(client: httpx.Client) -> None:
    known = {(method, path.replace("/x", "/{name}")) for method, path in PATHS} | {("GET", "/healthz")}
    document = client.get("/openapi.json").json()
    found = {(m.upper(), path) for path, methods in document["paths"].items() for m in methods}
    assert found <= known
    assert {path for _, path in known - found} == {"/metrics"}


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.2",
        "0.0.0.0",
        "localhost@evil.example", "evil.example#localhost", "127.0.0.1:80:80", "[::1", "[::2]", "",
        "localhost ,x", "2130706433",
    ],
)  # fmt: skip
def test_another_hosts_name_is_refused_whatever_is_shown(client: httpx.Client, host: str) -> None:
    """Else a page elsewhere could come in by letting its name point here (DNS rebinding)."""
    for path in ("/jobs", "/healthz", "/", "/nothing"):
        assert client.get(path, headers={"Host": host}).status_code in (400, 421)


def test_the_names_of_this_machine_are_taken(client: httpx.Client) -> None:
    for host in ("localhost", "LOCALHOST:9", "127.0.0.1:1", "[::1]", "[::1]:80"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200, host


def test_two_hosts_or_none_are_refused(address: str) -> None:
    for lines in (b"", b"Host: localhost\r\nHost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), 20) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\n" + lines + b"Connection: close\r\n\r\n")
            status = int(connection.makefile("rb").readline().split()[1])
        assert status in (400, 421)


def test_of_two_hosts_none_is_believed(data: Path) -> None:
    """The server refuses these itself; another server may not."""
    sent: list[dict[str, Any]] = []

    async def never(*_: Any) -> None:
        pytest.fail("it was let in")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    guard = Guard(never, ServeSettings(data=data))
    hosts = [(b"host", b"localhost"), (b"host", b"evil.example")]
    for headers in (hosts, hosts[::-1], []):
        asyncio.run(guard({"type": "http", "method": "GET", "headers": headers}, never, send))
    assert [m["status"] for m in sent[::2]] == [421] * 3


def test_every_answer_says_what_a_browser_may_do_with_it(client: httpx.Client) -> None:
    for path in (*OPEN, "/jobs", "/nothing", "/jobs/nope"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers
    page = client.get("/").headers["content-security-policy"]
    assert "unsafe" not in page
    assert "script-src 'self'" in page


def test_no_other_page_may_call_unless_it_is_named(client: httpx.Client, data: Path, tmp_path: Path) -> None:
    asked = {"Origin": "https://lab.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client.options("/start-job", headers=asked).headers
    assert "access-control-allow-origin" not in client.get("/jobs", headers=asked).headers
    settings = ServeSettings(data=data, cors_origins=("https://lab.example",))
    app = door.create_app(settings, Store(tmp_path / "jobs.db"), door.Tokens((TOKEN,)))

    async def ask(origin: str) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as other:
            return await other.options("/start-job", headers={**asked, "Origin": origin})

    answer = asyncio.run(ask("https://lab.example"))
    assert answer.headers["access-control-allow-origin"] == "https://lab.example"
    assert "access-control-allow-credentials" not in answer.headers
    for origin in ("https://lab.example.evil.org", "http://lab.example", "https://lab.example:444", "null"):
        assert "access-control-allow-origin" not in asyncio.run(ask(origin)).headers


# ---------------------------------------------------------------- starting


def test_a_job_is_started_seen_and_cancelled(client: httpx.Client, store: Store) -> None:
    answer = start(client, name="first", presets=["demo"], email="pilot@example.com")
    assert answer.status_code == 202
    assert answer.json() == {
        "jobId": "first", "name": "first", "state": "queued", "status": "jobs/first",
        "events": "jobs/first/events",
    }  # fmt: skip
    seen = client.get(answer.json()["status"]).json()
    assert (seen["state"], seen["presets"], seen["source"]) == ("queued", ["demo"], "sample")
    assert seen in client.get("/jobs").json()["jobs"]
    cancelled = client.post("/jobs/first/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert client.post("/jobs/first/cancel").status_code == 200, "once more changes nothing"
    assert client.get("/jobs", params={"state": ["cancelled"]}).json()["counts"]["cancelled"] >= 1
    running_one = started(client)
    claim(store, running_one)
    asked = client.post(f"/jobs/{running_one}/cancel")
    assert (asked.status_code, asked.json()["state"], asked.json()["cancelRequested"]) == (
        202,
        "running",
        True,
    )


def test_statuses(client: httpx.Client) -> None:
    assert start(client, "key-a").status_code == start(client, "key-a").status_code == 202
    assert start(client, "key-a", priority=1).status_code == 409
    assert client.post("/start-job", content=b"{").status_code == 400
    assert client.post("/start-job", content=b"").status_code == 400
    assert start(client, nonsense=1).status_code == 422
    assert start(client, source="../../etc").status_code == 422
    assert client.get("/start-job").status_code == 405
    assert client.get("/nothing").status_code == 404
    strange = [
        "/jobs/nope", "/jobs/NOPE", "/jobs/%2e%2e%2fx", "/jobs/a%00b", f"/jobs/{'a' * 60}",
        "/jobs/nope/events", "/jobs/nope/report", "/jobs/x/../../etc/passwd", "/page/../core.py", "/core.py",
    ]  # fmt: skip
    for path in strange:
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert set(answer.json()) >= {"code", "message", "hint"}
    for query in ("limit=0", "limit=x", "limit=1001", "state=nope"):
        assert client.get(f"/jobs?{query}").status_code == 422


def test_a_huge_body_is_refused_and_not_kept(client: httpx.Client, store: Store) -> None:
    before = len(store.list(limit=1000))
    answer = client.post("/start-job", content=b"x" * 10_000_000)
    assert answer.status_code == 413
    assert answer.json()["expected"] == "at most 16 kB"

    def pieces() -> Iterator[bytes]:  # without a length
        for _ in range(50):
            yield b"y" * 100_000

    assert client.post("/start-job", content=pieces()).status_code == 413
    exact = json.dumps({"source": "sample", "email": ""}).encode()
    assert client.post("/start-job", content=exact + b" " * (16 * 1024 - len(exact))).status_code == 202
    assert client.post("/start-job", content=exact + b" " * (16 * 1024 + 1 - len(exact))).status_code == 413
    assert len(store.list(limit=1000)) == before + 1


def test_a_hundred_jobs_and_twenty_that_are_one(client: httpx.Client, store: Store) -> None:
    before = {job.name for job in store.list(limit=1000)}
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda i: start(client, f"hundred-{i}"), range(100)))
        assert {a.status_code for a in answers} == {202}
        assert len({a.json()["jobId"] for a in answers}) == 100
        answers = list(pool.map(lambda _: start(client, "twenty"), range(20)))
    assert {a.status_code for a in answers} == {202}
    assert len({a.json()["jobId"] for a in answers}) == 1
    made = {job.name for job in store.list(limit=1000)} - before
    assert len(made) == 101
    for name in made:
        store.cancel(name)


def test_a_full_queue(data: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.db", 2)
    with running(ServeSettings(data=data, starts_per_minute=4), store) as address:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=address, headers=headers, timeout=30) as client:
            answers = [start(client) for _ in range(5)]
    assert [a.status_code for a in answers] == [202, 202, 429, 429, 429]
    assert [a.json()["code"] for a in answers[2:]] == ["SL-730", "SL-730", "SL-740"]
    assert all(int(a.headers["retry-after"]) > 0 for a in answers[2:])


# ---------------------------------------------------------------- following


def test_events_are_followed_left_and_taken_up_again(client: httpx.Client, store: Store) -> None:
    name = started(client)
    job = claim(store, name)
    first = [e for e in stream(client, name, most=4) if "id" in e]
    assert [e["id"] for e in first] == ["1", "2", "3"]
    assert [e["event"] for e in first] == ["state", "attempt", "state"]
    for number in range(5):  # while nobody listens
        store.heartbeat(
            job, 3600, events=[("progress", {"stage": "train", "step": number})], progress=number / 10
        )
    store.heartbeat(job, 3600, events=[("warning", {"message": "äöü\n\ndata: x\nid: 99"})])
    store.finish(job, "succeeded")
    rest = stream(client, name, last=first[-1]["id"])
    numbered = [e for e in rest if "id" in e]
    assert [e["id"] for e in numbered] == [*map(str, range(4, 11)), "10-end"]
    assert [e["data"]["step"] for e in numbered[:5]] == list(range(5))
    assert numbered[5]["data"]["message"] == "äöü\n\ndata: x\nid: 99"
    assert numbered[-1]["event"] == "end"
    assert numbered[-1]["data"]["state"] == "succeeded"
    assert numbered[-1]["data"] == client.get(f"/jobs/{name}").json()
    again = stream(client, name, last="10")
    assert [e["event"] for e in again if "id" in e] == ["end"], "an end that was missed is told again"
    nothing = client.get(f"/jobs/{name}/events", headers={"Last-Event-ID": "10-end"})
    assert nothing.status_code == 204, "an EventSource stops coming back"
    for wrong in ("nonsense", "-1", "1e3", "9" * 40, "1-end-x"):
        assert stream(client, name, last=wrong)[0]["id"] == "1"


def test_a_job_is_seen_moving_while_it_is_followed(client: httpx.Client, store: Store) -> None:
    name = started(client)
    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(stream, client, name) for _ in range(3)]
        job = claim(store, name)
        for share in (0.2, 0.4):
            store.heartbeat(job, 3600, stage="sfm", progress=share, events=[("progress", {"share": share})])
        store.finish(job, "succeeded")
        seen = [reader.result(30) for reader in readers]
    for found in seen:
        numbers = [int(e["id"].split("-")[0]) for e in found if "id" in e]
        assert numbers == sorted(numbers)
        assert [e["data"]["share"] for e in found if e["event"] == "progress"] == [0.2, 0.4]
        assert found[-1]["event"] == "end"


def test_a_silent_stream_beats_and_a_reader_that_leaves_is_forgotten(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(events, "POLL_SECONDS", 0.05)
    store = Store(tmp_path / "jobs.db")
    with running(ServeSettings(data=data, streams=2), store) as address:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=address, headers=headers, timeout=30) as client:
            name = started(client)
            for _ in range(6):  # more than may follow at a time, one after another
                until(lambda: client.get(f"/jobs/{name}").status_code == 200)
                found = stream_when_free(client, name)
                assert found[-1] == {"event": "beat"}
            listening = [client.stream("GET", f"/jobs/{name}/events") for _ in range(2)]
            with listening[0] as one, listening[1] as two:
                lines = [one.iter_lines(), two.iter_lines()]  # what nobody holds is closed
                assert all(next(line) for line in lines)
                refused = client.get(f"/jobs/{name}/events")
                assert (refused.status_code, refused.json()["code"]) == (429, "SL-730")


def test_the_service_ends_although_somebody_listens(data: Path, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(headers=headers, timeout=30) as client:
        with running(ServeSettings(data=data), Store(tmp_path / "jobs.db")) as address:
            client.base_url = address
            name = started(client)
            answer = client.send(client.build_request("GET", f"/jobs/{name}/events"), stream=True)
            lines = answer.iter_lines()
            assert next(lines)
        assert "event: end" not in list(lines), "the job has not ended"


def stream_when_free(client: httpx.Client, name: str) -> list[dict[str, Any]]:
    """A stream up to its second beat, as soon as one is let in."""
    found: list[Any] = []

    def let_in() -> bool:
        try:
            found[:] = stream(client, name, most=4)
        except AssertionError:
            return False
        return True

    until(let_in)
    return found


# ---------------------------------------------------------------- files


def test_reports_open_by_cookie_and_the_cookie_opens_nothing_else(
    client: httpx.Client, store: Store, data: Path
) -> None:
    name = started(client)
    job = claim(store, name)
    store.heartbeat(job, 3600, run_dir=str(finished_run(data, name)))
    assert client.get(f"/jobs/{name}/report").status_code == 404
    store.finish(job, "succeeded")
    files = client.get(f"/jobs/{name}").json()["files"]
    assert files == {kind: f"jobs/{name}/{kind}" for kind in ("report", "viewer", "splat.sog")}
    assert "The report" in client.get(files["report"]).text
    answer = client.post("/session")
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert TOKEN not in cookie
    for word in ("HttpOnly", "SameSite=strict", "Max-Age"):
        assert word.lower() in cookie.lower()
    assert "path" not in cookie.lower()
    client.headers["Authorization"] = "Bearer wrong"
    assert client.get(files["report"]).status_code == 401
    del client.headers["Authorization"]  # the cookie is in the client's jar
    report = client.get(files["report"])
    assert report.status_code == 200
    assert report.headers["content-security-policy"] == "sandbox allow-scripts"
    assert client.get(files["viewer"]).headers["content-type"].startswith("text/html")
    part = client.get(files["splat.sog"], headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (
        206,
        SOG[5:10],
        f"bytes 5-9/{len(SOG)}",
    )
    assert client.get(files["splat.sog"]).content == SOG
    assert client.get(files["splat.sog"], headers={"Range": "bytes=99999-"}).status_code == 416
    for method, path in PATHS:
        if not path.endswith(("report", "viewer", "sog")):
            assert client.request(method, path.replace("/x", f"/{name}")).status_code == 401, path
    client.cookies.clear()
    for kind in files:
        assert client.get(files[kind]).status_code == 401


# ---------------------------------------------------------------- what it says of itself


def test_the_openapi_document_is_valid_and_its_examples_too(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    validate(document)
    assert document["components"]["securitySchemes"] == {
        "HTTPBearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "the token in the service's token file",
        }
    }
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert ("security" in operation) == (path != "/healthz"), path
            assert operation["summary"]
    post = document["paths"]["/start-job"]["post"]
    assert {"202", "400", "401", "409", "413", "422", "429"} <= set(post["responses"])
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    assert schema["additionalProperties"] is False
    for example in schema["examples"]:
        jsonschema.validate(example, schema)
        assert set(example["presets"]) <= set(preset_names())


def test_health_metrics_and_about(stranger: httpx.Client) -> None:
    assert stranger.get("/healthz").json() == {"status": "ok"}
    stranger.headers["Authorization"] = f"Bearer {TOKEN}"
    metrics = stranger.get("/metrics")
    assert metrics.status_code == 200
    assert 'spaceport_jobs{state="queued"}' in metrics.text
    about = stranger.get("/about").json()
    assert set(about["presets"]) == set(preset_names())
    assert all(about["presets"].values())
    assert (about["scenes"], about["s3Prefixes"]) == (["sample"], ["s3://bucket/flights/"])


def test_a_queue_that_does_not_answer_is_unwell_and_says_no_more(
    client: httpx.Client, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("/secret/place is gone")

    for method in ("counts", "list", "get", "submit"):
        monkeypatch.setattr(store, method, broken)
    assert client.get("/healthz").status_code == 503
    for answer in (client.get("/jobs"), client.get("/jobs/x"), start(client), client.get("/jobs/x/events")):
        assert answer.status_code == 500
        assert "secret" not in answer.text
    assert "/secret/place" in caplog.text


def test_no_token_in_the_logs(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for logger in ("httpx", "httpcore.http11", "httpcore.connection"):  # the caller's own
        monkeypatch.setattr(logging.getLogger(logger), "disabled", True)
    with caplog.at_level(logging.DEBUG):
        name = started(client, presets=["demo"])
        client.get("/jobs")
        client.post("/session")
        client.get(f"/jobs/{name}?token={TOKEN}")
        client.get(f"/nothing/x?access_token={TOKEN}")
        client.post("/start-job", content=b"{", headers={"Authorization": f"Bearer {TOKEN}x"})
        client.get("/jobs", headers={"Host": "evil.example"})
        client.post(f"/jobs/{name}/cancel")
        until(lambda: "/cancel" in caplog.text)
    said = [record for record in caplog.records if record.name == "spaceport_lab.serve.guard"]
    assert len(said) >= 7
    assert f"GET /jobs/{name} 200" in caplog.text
    assert TOKEN not in caplog.text
    assert "pilot" not in caplog.text


def test_a_port_that_is_taken_is_said(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings = ServeSettings(data=data, port=other.getsockname()[1])
        with pytest.raises(InputError, match="--port 0"):
            door.serve(settings)
