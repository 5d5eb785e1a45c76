"""Faults of a store and of the disk: each ends with its code after so many requests, and nothing is half."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from aws_standins import FaultyStore, answer, keys, new_bucket, refuse, reset, use

from spaceport_lab.aws import client as clients
from spaceport_lab.aws import moving, s3, uploading
from spaceport_lab.aws.address import Address
from spaceport_lab.aws.client import client
from spaceport_lab.aws.runs import drain
from spaceport_lab.aws.store import listing
from spaceport_lab.errors import (
    InputError,
    SpaceportError,
    StoreBusyError,
    StoreDeniedError,
    StoreMissingError,
    StoreTimeoutError,
    WorkspaceError,
)


@pytest.fixture
def bucket(moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket, and every client's way to it."""
    use(monkeypatch, moto)
    return new_bucket()


LISTING = b"<?xml version='1.0'?><ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ways to fail, in less time."""
    monkeypatch.setattr(clients, "READ_SECONDS", 0.3)
    monkeypatch.setattr(clients, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


def test_two_faults_and_then_fine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = FaultyStore(
        lambda number, h: refuse(h, 503, "SlowDown") if number <= 2 else answer(h, 200, LISTING)
    )
    use(monkeypatch, server.url)
    try:
        assert listing(client("s3"), Address("bucket-1", "a")) == {}
        assert len(server.requests) == 3
    finally:
        server.close()


FAULTS: dict[str, tuple[Any, type[Exception], str]] = {
    "503 for ever": (lambda h, s: refuse(h, 503, "SlowDown"), StoreBusyError, "SL-830"),
    "500 without a word": (lambda h, s: answer(h, 500), StoreBusyError, "SL-830"),
    "403": (lambda h, s: refuse(h, 403, "AccessDenied"), StoreDeniedError, "SL-810"),
    "403 without a word": (lambda h, s: answer(h, 403), StoreDeniedError, "SL-810"),
    "expired": (lambda h, s: refuse(h, 400, "ExpiredToken"), StoreDeniedError, "SL-810"),
    "hang": (lambda h, s: s[0].released.wait(30), StoreTimeoutError, "SL-840"),
    "reset": (lambda h, s: reset(h), StoreBusyError, "SL-830"),
    "no such bucket": (lambda h, s: refuse(h, 404, "NoSuchBucket"), StoreMissingError, "SL-820"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_ends_with_its_code(
    fault: str, quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The number of requests is bounded, each has a timeout: so the time is, which is not measured here."""
    monkeypatch.setattr(clients, "ATTEMPTS", 2)
    behave, kind, code = FAULTS[fault]
    server: list[FaultyStore] = []
    server.append(FaultyStore(lambda number, h: behave(h, server)))
    use(monkeypatch, server[0].url)
    (tmp_path / "a.txt").write_text("a")
    try:
        with pytest.raises(kind) as up:
            drain(s3.upload(tmp_path, Address("bucket-1", "a")))
        with pytest.raises(kind) as down:
            drain(s3.download(Address("bucket-1", "a"), tmp_path / "x"))
    finally:
        server[0].close()
    assert up.value.code == down.value.code == code
    assert "\n  try:" in str(up.value)
    assert len(server[0].requests) <= 2 * clients.ATTEMPTS
    assert not (tmp_path / "x").exists() or not list((tmp_path / "x").iterdir())


def test_what_a_hang_costs_at_most_is_written_down() -> None:
    pauses = 1 + 2 + 4
    assert clients.ATTEMPTS * max(clients.READ_SECONDS, clients.CONNECT_SECONDS) + pauses < 60


def test_faults_in_the_middle_of_an_upload(
    bucket: str, tmp_path: Path, moto: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store goes bad after the marker is gone: the error has its code, and no marker is there."""
    monkeypatch.setattr(clients, "ATTEMPTS", 2)
    address = Address(bucket, "runs/g")
    (tmp_path / "a.txt").write_text("alpha")
    drain(s3.upload(tmp_path, address, marker=True))
    (tmp_path / "a.txt").write_text("other")

    def goes_bad(*_: Any) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        client("s3").put_object(Bucket=bucket, Key="x", Body=b"x")

    server = FaultyStore(lambda number, h: refuse(h, 503, "SlowDown"))
    monkeypatch.setattr(uploading, "_put", goes_bad)
    with pytest.raises(StoreBusyError, match="broke off"):
        drain(s3.upload(tmp_path, address, marker=True))
    server.close()
    use(monkeypatch, moto)
    assert f"{address.prefix}/_SUCCESS.json" not in keys(bucket)


ONE = (
    b"<?xml version='1.0'?><ListBucketResult><KeyCount>1</KeyCount><Contents><Key>a/f.bin</Key>"
    b"<Size>1000</Size><ETag>&quot;e&quot;</ETag></Contents></ListBucketResult>"
)


@pytest.mark.parametrize(
    ("middle", "code"), [("hang", "SL-840"), ("reset", "SL-830"), ("short", "SL-830"), ("other", "SL-850")]
)
def test_faults_in_the_middle_of_a_file(
    middle: str, code: str, quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What came so far takes no file's place, and the file of before stays."""
    monkeypatch.setattr(clients, "ATTEMPTS", 2)
    server: list[FaultyStore] = []

    def behave(_: int, h: Any) -> None:
        if "list-type" in h.path:
            return answer(h, 200, ONE)
        if "_SUCCESS" in h.path:
            return refuse(h, 404, "NoSuchKey")
        meta = {"ETag": '"e"', "x-amz-meta-sha256": hashlib.sha256(b"x" * 1000).hexdigest()}
        if h.command == "HEAD" or middle == "other":
            return answer(h, 200, b"y" * 1000, **meta)
        h.send_response(200)
        h.send_header("Content-Length", "1000")
        h.send_header("ETag", '"e"')
        h.end_headers()
        h.wfile.write(b"x" * 500)
        h.wfile.flush()
        if middle == "hang":
            server[0].released.wait(30)
        if middle == "reset":
            reset(h)
        h.close_connection = True
        return None

    server.append(FaultyStore(behave))
    use(monkeypatch, server[0].url)
    target = tmp_path / "x"
    target.mkdir()
    (target / "f.bin").write_text("of before")
    try:
        with pytest.raises(SpaceportError) as caught:
            drain(s3.download(Address("bucket-1", "a"), target))
    finally:
        server[0].close()
    assert caught.value.code == code
    assert [p.name for p in target.iterdir()] == ["f.bin"]
    assert (target / "f.bin").read_text() == "of before"


def test_no_credentials_and_no_boto3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StoreDeniedError, match="AWS_PROFILE"):
        drain(s3.download(Address("bucket-1", "a"), tmp_path))
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(InputError, match=r"spaceport-lab\[aws\]"):
        drain(s3.download(Address("bucket-1", "a"), tmp_path))


def test_nobody_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clients, "ATTEMPTS", 2)
    use(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(StoreTimeoutError, match="AWS_ENDPOINT_URL"):
        drain(s3.download(Address("bucket-1", "a"), tmp_path))


DOWNLOAD = """
import resource, signal, sys
from pathlib import Path
from spaceport_lab.aws import downloading, runs, s3
from spaceport_lab.errors import WorkspaceError
downloading.files.check_space = lambda *_: None  # as if the disk filled up meanwhile
if sys.argv[3] == "limit":  # where no file system may be mounted: no file may grow beyond 4 MB
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
try:
    runs.drain(s3.download(s3.Address.parse(sys.argv[1]), Path(sys.argv[2])))
except (WorkspaceError, OSError) as error:
    print(type(error).__name__, error)
    sys.exit(3)
"""


def test_what_does_not_fit_is_not_begun(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client("s3").put_object(Bucket=bucket, Key="raw/a", Body=b"12345")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4))
    with pytest.raises(WorkspaceError, match="does not fit"):
        drain(s3.download(Address(bucket, "raw"), tmp_path / "x"))
    assert list((tmp_path / "x").iterdir()) == []


def test_a_full_disk_is_said_and_nothing_is_lost(bucket: str, tmp_path: Path) -> None:
    """On a tmpfs of 4 MB in a mount namespace of its own; where that may not be had, a limit of file size."""
    root, small = tmp_path / "run", tmp_path / "small"
    root.mkdir()
    small.mkdir()
    (root / "a.txt").write_text("fits")
    (root / "big.bin").write_bytes(os.urandom(6 << 20))
    address = Address(bucket, "runs/h")
    drain(s3.upload(root, address, marker=True))
    (root / "big.bin").write_bytes(b"small now")
    script = (
        'mount -t tmpfs -o size=4m tmpfs "$1" && echo before > "$1/run.json" && shift &&'
        ' { "$@"; code=$?; } ; cat "$6/run.json"; ls -A "$6"; exit $code'
    )
    python = [sys.executable, "-c", DOWNLOAD, str(address), str(small)]
    alone = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script, "x", str(small)]
    done = subprocess.run([*alone, *python, "disk"], capture_output=True, text=True)
    if "permission denied" in done.stderr.lower() or "not permitted" in done.stderr.lower():
        (small / "run.json").write_text("before\n")
        done = subprocess.run([*python, "limit"], capture_output=True, text=True)
        done.stdout += (small / "run.json").read_text() + "\n".join(p.name for p in small.iterdir())
    assert done.returncode == 3, done.stderr
    said, _, after = done.stdout.partition("before\n")
    assert ("WorkspaceError" in said and "No space left" in said and "free some space" in said) or (
        "File too large" in said
    )
    assert set(after.split()) <= {"run.json", "a.txt"}, "no half file"


def test_a_stopped_transfer_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C waits for the requests that are under way, and each of them has its timeout."""
    monkeypatch.setattr(clients, "ATTEMPTS", 1)

    def hang(_: int, handler: Any) -> None:
        server.released.wait(60)
        handler.close_connection = True

    server = FaultyStore(hang)
    use(monkeypatch, server.url)
    (tmp_path / "a").write_text("a")
    woken: list[str] = []

    def send(transfers: moving.Transfers) -> None:
        try:
            transfers.upload(str(tmp_path / "a"), "bucket-1", "a")
        except Exception as error:
            woken.append(type(error).__name__)

    with moving.Transfers(client("s3")) as transfers:
        thread = threading.Thread(target=send, args=(transfers,), daemon=True)
        thread.start()
        while not server.requests:
            time.sleep(0.01)
        transfers.stop()
        server.close()
        thread.join(30)
    assert woken == ["CancelledError"]
