"""Stand-ins for AWS on this machine: moto's server, a server with faults, and run folders made by hand."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from spaceport_lab import files
from spaceport_lab.aws.client import client
from spaceport_lab.workspace import folder_name

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}


@contextlib.contextmanager
def moto_server(**environment: str) -> Iterator[str]:
    """moto's server on a free port of the loopback, as a process of its own; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "import sys; from moto.server import main; main(sys.argv[1:])"]
    process = subprocess.Popen(
        [*command, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, "moto's server did not start"
            try:
                urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)
        else:
            pytest.fail("moto's server does not answer")
        yield url
    finally:
        process.kill()
        process.wait()


def use(monkeypatch: pytest.MonkeyPatch, url: str, **more: str) -> None:
    """Let every client of this test speak to `url`, and to nothing else."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": url, **more}.items():
        monkeypatch.setenv(name, value)


_numbers = itertools.count()


def new_bucket() -> str:
    """A bucket nobody has used."""
    name = f"bucket-{os.getpid()}-{next(_numbers)}"
    client("s3").create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    return name


def keys(bucket: str, prefix: str = "") -> set[str]:
    page = client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix)
    return {entry["Key"] for entry in page.get("Contents", ())}


class FaultyStore:
    """A server that hands each request to `behave`; counts them.

    `behave(number, handler)` answers request number 1, 2, …; the methods below are what it may do.
    """

    def __init__(self, behave: Callable[[int, BaseHTTPRequestHandler], None]) -> None:
        self.requests: list[str] = []
        self.released = threading.Event()
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                with lock:
                    outer.requests.append(f"{self.command} {self.path}")
                    number = len(outer.requests)
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                behave(number, self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


def answer(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def refuse(handler: BaseHTTPRequestHandler, status: int, code: str) -> None:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>told to</Message></Error>".encode()
    answer(handler, status, body, Content_Type="application/xml")


def reset(handler: BaseHTTPRequestHandler) -> None:
    """Cut the connection with RST."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


def make_run(root: Path, stages: tuple[str, ...] = ("ingest", "sfm"), status: str = "running") -> Path:
    """A run folder with finished stages, made by hand; everything a real one has is there, only small."""
    content = {
        "ingest": {"images/a.jpg": b"a" * 3000, "images/b.jpg": b"b" * 3000, "photos.json": b"[]"},
        "sfm": {
            "images/a.jpg": b"u" * 2000,
            "sparse/0/cameras.bin": b"\x00" * 100,
            "registration.json": b"{}",
        },
        "train": {"splat.ply": b"ply" * 4000, "metrics.jsonl": b"{}\n", "checkpoint.pt": b"c" * 500},
        "compress": {"splat.sog": b"sog" * 900},
        "inspect": {"metrics.json": b"{}"},
    }
    for stage in stages:
        folder = root / folder_name(stage)
        for name, body in content[stage].items():
            files.write_bytes(folder / name, body)
        outputs = {name.partition("/")[0] for name in content[stage]} - {"checkpoint.pt"}
        manifest = {"stage": stage, "key": "k", "outputs": {n: files.hash_path(folder / n) for n in outputs}}
        files.write_json(folder / "stage.json", manifest)
    (root / "notebooks").mkdir(parents=True, exist_ok=True)
    (root / "notebooks" / "01_ingest.ipynb").write_text("{}")
    (root / ".lock").write_text("")
    (root / "progress.json").write_text("{}")
    card = {"job": root.name, "scene": root.parent.parent.name, "status": status, "stages": {}}
    (root / "run.json").write_text(json.dumps(card))
    return root


def tree(folder: Path) -> dict[str, bytes]:
    """Name → content of all files that are not hidden."""
    found = (p for p in sorted(folder.rglob("*")) if p.is_file())
    named = ((p.relative_to(folder).as_posix(), p) for p in found)
    return {n: p.read_bytes() for n, p in named if not any(part.startswith(".") for part in n.split("/"))}
