"""The door in a notebook server: the same core behind the server's own token, XSRF and Host check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jupyter
import pytest
import serving
from browser import browser, open_address
from playwright.sync_api import expect
from serving import SOG, claim, finished_run, make_data, until

from spaceport_lab.jobs.store import Store, store_path
from spaceport_lab.serve import _jupyter_server_extension_points
from spaceport_lab.serve.settings import ServeSettings

expect.set_options(timeout=20_000)  # a busy machine is slow

TOKEN = "notebook-token-0123456789"
ROOT = Path(__file__).resolve().parent.parent
CONFIG = json.loads((ROOT / "jupyter-config" / "spaceport_lab.json").read_text())
"""What the wheel puts into etc/jupyter/jupyter_server_config.d."""

OTHERS = ("jupyterlab", "jupyter_lsp", "jupyter_server_proxy", "jupyter_server_terminals", "notebook_shim")
"""Extensions that are not needed here, and take seconds to load."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the notebook server works on; `data` is below it."""
    folder = tmp_path_factory.mktemp("notebooks")
    make_data(folder)
    return folder


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "server.log"


@pytest.fixture(scope="module")
def address(folder: Path, log: Path) -> Iterator[str]:
    """The extension's address in a notebook server of its own."""
    settings = log.parent
    env = {k: v for k, v in os.environ.items() if not k.startswith("SPACEPORT_")}
    env |= {f"JUPYTER_{name}_DIR": str(settings / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    env |= {"SPACEPORT_SERVE_QUEUE_LIMIT": "200", "SPACEPORT_SERVE_STARTS_PER_MINUTE": "5000"}
    places = settings / "config" / "jupyter_server_config.d"
    places.mkdir(parents=True)
    (places / "spaceport_lab.json").write_text(json.dumps(CONFIG))
    without = {"ServerApp": {"jpserver_extensions": dict.fromkeys(OTHERS, False)}}
    (places / "without.json").write_text(json.dumps(without))
    port = jupyter._free_port()
    command = [
        sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", f"--port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}",
        "--ServerApp.terminals_enabled=False", "--ServerApp.base_url=/lab/",
    ]  # fmt: skip
    with open(log, "w") as file:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=file, stderr=file)
        try:
            base = f"http://127.0.0.1:{port}/lab"
            until(lambda: answers(f"{base}/api"), 60)
            yield f"{base}/spaceport"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).status_code < 500
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def store(folder: Path, address: str) -> Store:
    return Store(store_path(folder / "data"), 200)


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"token {TOKEN}"}
    with httpx.Client(base_url=address, headers=headers, timeout=60) as client:
        yield client


def start(client: httpx.Client, key: str = "", **values: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/start-job", json={"source": "sample", **values}, headers=headers)


def test_nothing_is_made_before_somebody_asks(address: str, folder: Path, client: httpx.Client) -> None:
    """Most who have the package never start a job."""
    assert _jupyter_server_extension_points() == [{"module": "spaceport_lab.serve.jupyter"}]
    assert not (folder / "data" / ".jobs").exists()
    assert client.get("/about").status_code == 200
    assert (folder / "data" / ".jobs" / "jobs.db").exists()


def test_the_notebook_servers_own_rules_hold(address: str, store: Store) -> None:
    bearer = {"Authorization": f"token {TOKEN}"}
    with httpx.Client(base_url=address, timeout=30) as client:
        for headers in ({}, {"Authorization": "token wrong"}, {"Authorization": f"token {TOKEN}x"}):
            for path in ("/jobs", "/jobs/x", "/jobs/x/events", "/jobs/x/report", "/about"):
                assert client.get(path, headers=headers).status_code == 403, path
            for path in ("/start-job", "/jobs/x/cancel"):
                assert client.post(path, json={"source": "sample"}, headers=headers).status_code == 403
            assert client.get("/", headers=headers).status_code == 302, "to the login page"
        for path in ("/jobs", "/", "/about"):
            assert client.get(path, headers={**bearer, "Host": "evil.example"}).status_code == 403
        assert store.list() == []
        # A browser that has logged in shows a cookie, and must show the XSRF token to change anything.
        page = client.get("/", params={"token": TOKEN})
        assert page.status_code == 200
        assert 'data-door="jupyter"' in page.text
        assert start(client).status_code == 403
        assert client.get("/jobs", headers={"Referer": f"{address}/"}).status_code == 200
        xsrf = {"X-XSRFToken": client.cookies["_xsrf"], "Origin": address.partition("/lab")[0]}
        assert client.post("/start-job", json={"source": "sample"}, headers=xsrf).status_code == 202
        elsewhere = {**xsrf, "Origin": "https://evil.example"}
        assert client.post("/start-job", json={"source": "sample"}, headers=elsewhere).status_code in (
            403,
            404,
        )
    assert len(store.list()) == 1


def test_the_page_and_its_files(client: httpx.Client, address: str) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    for name in ("page.js", "jobs.js", "service.js", "page.css", "report.css"):
        answer = client.get(f"/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(
            "text/javascript" if name.endswith("js") else "text/css"
        )
    for path in ("/core.py", "/page/index.html", "/../jupyter.py"):
        assert client.get(path).status_code == 404
    bare = httpx.get(address, headers=client.headers)
    assert (bare.status_code, bare.headers["location"]) == (302, "/lab/spaceport/")


def test_statuses(client: httpx.Client, store: Store) -> None:
    answer = start(client, "key-a", name="first", presets=["demo"])
    assert answer.status_code == 202
    assert answer.json()["jobId"] == "first"
    assert start(client, "key-a", name="first", presets=["demo"]).json() == answer.json()
    assert start(client, "key-a", name="second").status_code == 409
    assert client.get("/jobs/first").json()["presets"] == ["demo"]
    assert client.post("/jobs/first/cancel").json()["state"] == "cancelled"
    assert client.post("/start-job", content=b"{").status_code == 400
    assert client.post("/start-job", content=b"x" * 10_000_000).status_code == 413
    assert start(client, source="../../etc").json()["code"] == "SL-740"
    assert start(client, overrides=["train.init_from=/etc/passwd"]).status_code == 422
    for path in (
        "/jobs/nope",
        "/jobs/NOPE",
        "/jobs/nope/events",
        "/jobs/nope/report",
        "/jobs/%2e%2e",
        "/jobs/first/run.json",
    ):
        assert client.get(path).status_code == 404, path
    for query in ("limit=0", "limit=x", "limit=9999999999", "state=nope"):
        assert client.get(f"/jobs?{query}").status_code == 422


def test_a_hundred_jobs_and_twenty_that_are_one(client: httpx.Client, store: Store) -> None:
    before = {job.name for job in store.list(limit=1000)}
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda i: start(client, f"hundred-{i}"), range(100)))
        assert {a.status_code for a in answers} == {202}
        assert len({a.json()["jobId"] for a in answers}) == 100
        answers = list(pool.map(lambda _: start(client, "twenty"), range(20)))
    assert len({a.json()["jobId"] for a in answers}) == 1
    made = {job.name for job in store.list(limit=1000)} - before
    assert len(made) == 101
    for name in made:
        store.cancel(name)


def test_both_doors_open_to_one_queue(client: httpx.Client, folder: Path, store: Store) -> None:
    with serving.running(ServeSettings(data=folder / "data"), store) as other:
        headers = {"Authorization": f"Bearer {serving.TOKEN}"}
        with (
            httpx.Client(base_url=other, headers=headers, timeout=30) as second,
            ThreadPoolExecutor(20) as pool,
        ):
            answers = list(pool.map(lambda i: start((client, second)[i % 2], "both-doors"), range(20)))
            assert {a.status_code for a in answers} == {202}
            assert len({a.json()["jobId"] for a in answers}) == 1
            assert start(second, "both-doors", priority=1).status_code == 409
            name = answers[0].json()["jobId"]
            assert client.get(f"/jobs/{name}").json() == second.get(f"/jobs/{name}").json()
    store.cancel(name)


def test_events_and_files(client: httpx.Client, store: Store, folder: Path) -> None:
    name = start(client, priority=10).json()["jobId"]
    job = claim(store, name)

    def events(last: str, most: int) -> list[str]:
        found = []
        with client.stream("GET", f"/jobs/{name}/events", headers={"Last-Event-ID": last}) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                found += [line.removeprefix("id: ")] if line.startswith("id: ") else []
                if len(found) >= most:
                    break
        return found

    assert events("", 3) == ["1", "2", "3"]
    assert client.get(f"/jobs/{name}/report").status_code == 404
    root = finished_run(folder / "data", name)
    store.heartbeat(
        job, 3600, run_dir=str(root), events=[("progress", {"step": 1}), ("progress", {"step": 2})]
    )
    store.finish(job, "succeeded")
    assert events("3", 99) == ["4", "5", "6", "6-end"]
    assert client.get(f"/jobs/{name}/events", headers={"Last-Event-ID": "6-end"}).status_code == 204
    files = client.get(f"/jobs/{name}").json()["files"]
    report = client.get(files["report"])
    assert "The report" in report.text
    assert report.headers["content-security-policy"] == "sandbox allow-scripts"
    assert report.headers["content-type"].startswith("text/html")
    assert client.get(files["viewer"]).headers["content-security-policy"] == "sandbox allow-scripts"
    assert client.get(files["splat.sog"]).content == SOG
    part = client.get(files["splat.sog"], headers={"Range": "bytes=-5"})
    assert (part.status_code, part.content) == (206, SOG[-5:])


@pytest.mark.browser
def test_the_page_starts_and_stops_a_job_with_the_servers_own_login(address: str, store: Store) -> None:
    with browser(1100, 900, offline=False) as context:
        tab = open_address(context, f"{address}/", [address.partition("/spaceport")[0]])
        page = tab.page
        page.goto(f"{address}/?token={TOKEN}")
        page.get_by_label("Source").fill("sample")
        assert TOKEN not in page.url
        page.get_by_role("button", name="Start").click()
        expect(page.locator("#job .status")).to_have_text("queued")
        name = page.url.partition("#")[2]
        assert store.get(name).state == "queued"
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#job .status")).to_have_text("cancelled")
        page.locator("#rows a", has_text="first").click()
        expect(page.locator("#job-name")).to_contain_text("first")
        ended = next(job.name for job in store.list(["succeeded"]))
        page.locator("#rows a", has_text=ended).click()
        with context.expect_page() as report:
            page.get_by_role("link", name="Open report").click()
        expect(report.value).to_have_title("The report")
    assert tab.errors == []


def test_no_token_in_the_servers_log(log: Path, client: httpx.Client) -> None:
    client.get("/jobs")
    client.get("/jobs/nope")
    assert "spaceport" in log.read_text()
    assert TOKEN not in log.read_text()
    assert "Traceback" not in log.read_text()
