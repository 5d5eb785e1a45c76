"""The start-job API for tests: a service on a free port, jobs by hand, a run folder that looks finished."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from spaceport_lab.jobs.model import Job
from spaceport_lab.jobs.store import Store, store_path
from spaceport_lab.params import STAGES
from spaceport_lab.serve import app as door
from spaceport_lab.serve.settings import ServeSettings
from spaceport_lab.serve.tokens import Tokens

TOKEN = "a-token-for-tests-only-0123456789"
START_SECONDS = 30
LEASE_SECONDS = 3600  # no test is so slow that its job is taken away
SOG = bytes(range(256)) * 40
"""Not a splat, but bytes that tell where they are from."""


def make_data(folder: Path) -> Path:
    """A data folder with a scene `sample` in it."""
    data = folder / "data"
    (data / "sample" / "images").mkdir(parents=True)
    (data / "sample" / "images" / "a.jpg").write_bytes(b"a")
    return data


@contextlib.contextmanager
def running(settings: ServeSettings, store: Store | None = None, prefix: str = "") -> Iterator[str]:
    """The service in a thread, below a path as behind a proxy where one is given; gives its address."""
    store = store or Store(store_path(settings.data), settings.queue_limit)
    listener = door._listen("127.0.0.1", 0)
    app = door.create_app(settings, store, Tokens((TOKEN,)))
    if prefix:
        inner, app = app, Starlette(routes=[Mount(prefix, app)])
        app.state.streams = inner.state.streams
    server = door._Server(door._config(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started, START_SECONDS)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}{prefix}"
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
        listener.close()
        assert not thread.is_alive(), "the service does not end"


def until(true: Callable[[], Any], seconds: float = 20) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def claim(store: Store, name: str) -> Job:
    """Take this job as a worker would; it must be the next."""
    job = store.claim("tester", LEASE_SECONDS)
    assert job is not None
    assert job.name == name
    return job


def finished_run(data: Path, job: str, scene: str = "sample", **card: Any) -> Path:
    """A run folder with a card, a report, a .sog and what the viewer starts from."""
    root = data / scene / "runs" / job
    for folder in ("04_compress", "05_inspect"):
        (root / folder).mkdir(parents=True)
    (root / "report.html").write_text("<!doctype html><title>The report</title>")
    (root / "04_compress" / "splat.sog").write_bytes(SOG)
    view = {"position": [0, -3, -3], "target": [0, 0, 0], "up": [0, -1, 0], "fov": 60}
    (root / "05_inspect" / "viewer.json").write_text(json.dumps(view))
    entries = {stage: {"status": "succeeded", "seconds": 2.0, "warnings": []} for stage in STAGES}
    (root / "run.json").write_text(json.dumps({"job": job, "stages": entries, "cost": 0.25, **card}))
    return root
