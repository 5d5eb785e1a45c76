"""Transfers against stand-ins: what is there is not moved again, what breaks off never looks whole."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aws_standins import keys, new_bucket, tree, use

from spaceport_lab import fence
from spaceport_lab.aws import moving, s3
from spaceport_lab.aws.address import Address, name_fault
from spaceport_lab.aws.client import client
from spaceport_lab.aws.runs import drain
from spaceport_lab.errors import (
    FencedError,
    InputError,
    StoreCorruptError,
    StoreMissingError,
)


@pytest.fixture
def bucket(moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket, and every client's way to it."""
    use(monkeypatch, moto)
    return new_bucket()


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "PART_BYTES", 5 << 20)  # the least that S3 takes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small files, one in a folder below, one empty, a hidden one and links."""
    root = tmp_path / "folder"
    (root / "below").mkdir(parents=True)
    (root / "a.txt").write_text("alpha")
    (root / "below" / "ü b.bin").write_bytes(bytes(range(256)) * 10)
    (root / "empty").write_bytes(b"")
    (root / ".hidden").write_text("never")
    (root / "secret").symlink_to("/etc/hostname")
    (root / "loop").symlink_to(root)
    return root


def big(path: Path, seed: int = 1) -> Path:
    """A file of two and a half parts."""
    block = hashlib.sha512(bytes([seed])).digest() * 1024
    path.write_bytes(block * (5 * moving.PART_BYTES // 2 // len(block)) + b"tail")
    return path


@pytest.mark.parametrize(
    ("text", "bucket", "prefix"),
    [
        ("s3://my-bucket/runs/", "my-bucket", "runs"),
        ("s3://my-bucket", "my-bucket", ""),
        ("s3://my.bucket/a/b c/ü", "my.bucket", "a/b c/ü"),
    ],
)
def test_addresses(text: str, bucket: str, prefix: str) -> None:
    address = Address.parse(text)
    assert (address.bucket, address.prefix) == (bucket, prefix)
    assert Address.parse(str(address)) == address
    assert (address / "x").key("y").endswith("x/y")


@pytest.mark.parametrize(
    "text",
    [
        "", "s3:/bucket/a", "S3://bucket/a", "http://bucket/a", "bucket/a", "s3://", "s3:///a", "s3://b/a",
        "s3://Bucket/a", "s3://buc_ket/a", "s3://-bucket/a", "s3://bu..cket/a", "s3://127.0.0.1/a",
        "s3://user:word@bucket/a", "s3://bucket:443/a", "s3://bucket//a", "s3://bucket/a//b", "s3://bucket/a/../b",
        "s3://bucket/./a", "s3://bucket/a\n", "s3://bucket/a\x00b", "s3://bucket/a\\b", "s3://bucket/a?x=1",
        "s3://bucket/a#b", "s3://bucket/.a", "s3://bucket/" + "a" * 1000, "s3://bucket/\udc80", " s3://bucket/a",
    ],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InputError, match="not an address in S3"):
        Address.parse(text)


@pytest.mark.parametrize(
    "name",
    [
        "../a",
        "a/../../b",
        "/a",
        "a//b",
        "a/",
        "",
        ".",
        ".ssh/id",
        "a/.b",
        "a\\..\\b",
        "a\nb",
        "a" * 256,
        "\x7f",
    ],
)
def test_keys_that_can_be_no_file(name: str) -> None:
    assert name_fault(name)
    assert not name_fault("a/b c/ü.jpg")


def test_there_and_back(bucket: str, folder: Path, tmp_path: Path) -> None:
    big(folder / "big.bin")
    address = Address(bucket, "raw/site")
    states: list[Any] = []
    report = drain(s3.upload(folder, address, marker=True), states.append)
    assert (report.n, report.n_skipped, report.complete) == (4, 0, True)
    assert set(report.left_out) == {"secret", "loop"}
    assert report.bytes == sum(len(body) for name, body in tree(folder).items() if name != "secret")
    moving_states = [s for s in states if s.total]
    assert moving_states[-1].step == moving_states[-1].total == report.bytes
    back = tmp_path / "back"
    got = drain(s3.download(address, back, complete=True))
    assert (got.n, got.complete, got.left_out) == (4, True, {})
    assert tree(back) == {n: b for n, b in tree(folder).items() if n != "secret"}
    again = drain(s3.download(address, back))
    assert (again.n, again.n_skipped) == (0, 4)


def test_encryption_checksums_and_tags_are_asked_for(bucket: str, folder: Path) -> None:
    big(folder / "big.bin")
    kms = client("kms").create_key()["KeyMetadata"]["Arn"]
    drain(
        s3.upload(folder, Address(bucket, "k"), kms_key=kms, intermediate=lambda n: n == "a.txt", marker=True)
    )
    drain(s3.upload(folder, Address(bucket, "s")))
    store = client("s3")
    for key in keys(bucket, "k/"):
        head = store.head_object(Bucket=bucket, Key=key)
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", kms)
    for key in keys(bucket, "s/"):
        assert store.head_object(Bucket=bucket, Key=key)["ServerSideEncryption"] == "AES256"
    head = store.head_object(Bucket=bucket, Key="k/a.txt", ChecksumMode="ENABLED")
    assert head["Metadata"]["sha256"] == hashlib.sha256(b"alpha").hexdigest()
    assert head["ChecksumSHA256"]
    tags = {k: store.get_object_tagging(Bucket=bucket, Key=k)["TagSet"] for k in ("k/a.txt", "k/empty")}
    assert tags == {"k/a.txt": [{"Key": "spaceport", "Value": "intermediate"}], "k/empty": []}


def test_only_what_changed_is_sent(bucket: str, folder: Path) -> None:
    address = Address(bucket, "runs/a")
    drain(s3.upload(folder, address, marker=True))
    stamp = client("s3").head_object(Bucket=bucket, Key="runs/a/_SUCCESS.json")["ETag"]
    same = drain(s3.upload(folder, address, marker=True))
    assert (same.n, same.n_skipped, same.complete) == (0, 3, True)
    assert client("s3").head_object(Bucket=bucket, Key="runs/a/_SUCCESS.json")["ETag"] == stamp
    (folder / "a.txt").write_text("gamma")  # as long as before
    one = drain(s3.upload(folder, address, marker=True))
    assert (one.n, one.n_skipped) == (1, 2)
    assert client("s3").get_object(Bucket=bucket, Key="runs/a/a.txt")["Body"].read() == b"gamma"


def test_the_marker_goes_before_anything_changes_and_comes_last(bucket: str, folder: Path) -> None:
    address = Address(bucket, "runs/b")
    drain(s3.upload(folder, address, marker=True))
    (folder / "a.txt").write_text("other")
    steps = s3.upload(folder, address, marker=True)
    seen = [("runs/b/_SUCCESS.json" in keys(bucket), state.message) for state in steps]
    assert not any(there for there, message in seen if message.startswith("uploading"))
    assert any(message.startswith("uploading") for _, message in seen)
    listed = json.loads(client("s3").get_object(Bucket=bucket, Key="runs/b/_SUCCESS.json")["Body"].read())
    assert listed["files"]["a.txt"] == {"bytes": 5, "sha256": hashlib.sha256(b"other").hexdigest()}
    assert listed["n"] == 3
    assert set(listed["left_out"]) == {"secret", "loop"}


def test_without_a_marker_nothing_counts_as_complete(bucket: str, folder: Path, tmp_path: Path) -> None:
    address = Address(bucket, "runs/c")
    drain(s3.upload(folder, address))
    with pytest.raises(StoreMissingError, match="not complete"):
        drain(s3.download(address, tmp_path / "x", complete=True))
    assert drain(s3.download(address, tmp_path / "x")).n == 3


def test_a_complete_prefix_is_read_by_its_list(bucket: str, folder: Path, tmp_path: Path) -> None:
    address, store = Address(bucket, "runs/d"), client("s3")
    drain(s3.upload(folder, address, marker=True, intermediate=lambda n: n == "empty"))
    store.put_object(Bucket=bucket, Key="runs/d/stray.txt", Body=b"not on the list")
    store.delete_object(Bucket=bucket, Key="runs/d/empty")
    report = drain(s3.download(address, tmp_path / "x"))
    assert report.n == 2
    assert "not on the list" in report.left_out["stray.txt"]
    assert "expired" in report.left_out["empty"]
    store.put_object(Bucket=bucket, Key="runs/d/a.txt", Body=b"ALPHA")
    with pytest.raises(StoreCorruptError, match=r"a\.txt"):
        drain(s3.download(address, tmp_path / "y"))
    assert not (tmp_path / "y" / "a.txt").exists()
    store.delete_object(Bucket=bucket, Key="runs/d/a.txt")
    with pytest.raises(StoreCorruptError, match="SUCCESS"):
        drain(s3.download(address, tmp_path / "z"))


def test_hostile_keys_are_left_out_and_counted(bucket: str, tmp_path: Path) -> None:
    store = client("s3")
    for key in ("../up", "a/../../b", "a//b", ".ssh/id", "c\\d", "folder/", "f", "f/g", "fine.jpg"):
        store.put_object(Bucket=bucket, Key=f"raw/{key}", Body=b"" if key.endswith("/") else b"x")
    target = tmp_path / "deep" / "target"
    report = drain(s3.download(Address(bucket, "raw"), target))
    assert tree(target) == {"fine.jpg": b"x", "f/g": b"x"}
    assert len(report.left_out) == 6
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]


def test_a_link_in_the_target_leads_nowhere(bucket: str, tmp_path: Path) -> None:
    client("s3").put_object(Bucket=bucket, Key="raw/out/a", Body=b"x")
    (tmp_path / "target").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "target" / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="leads out"):
        drain(s3.download(Address(bucket, "raw"), tmp_path / "target"))
    assert not list((tmp_path / "elsewhere").iterdir())


def test_one_object_a_limit_and_nothing(bucket: str, tmp_path: Path) -> None:
    client("s3").put_object(Bucket=bucket, Key="raw/splat.ply", Body=b"ply")
    drain(s3.download(Address(bucket, "raw/splat.ply"), tmp_path / "one"))
    assert tree(tmp_path / "one") == {"splat.ply": b"ply"}
    with pytest.raises(InputError, match="too much"):
        drain(s3.download(Address(bucket, "raw"), tmp_path / "two", max_bytes=2))
    for address in (
        Address(bucket, "nothing"),
        Address("no-such-bucket-1", "a"),
        Address("no-such-bucket-1"),
    ):
        with pytest.raises(StoreMissingError):
            drain(s3.download(address, tmp_path / "three"))
    (tmp_path / "void").mkdir()
    with pytest.raises(InputError, match="nothing to upload"):
        drain(s3.upload(tmp_path / "void", Address(bucket)))


def test_order_and_pruning(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "run"
    for name in ("s/stage.json", "s/a", "s/b", "run.json"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    for gone in ("s/gone", "t/kept"):
        client("s3").put_object(Bucket=bucket, Key=f"r/{gone}", Body=b"x")
    from spaceport_lab.aws import uploading

    sent, put = [], uploading._put
    monkeypatch.setattr(
        uploading, "_put", lambda state, name, one: (sent.append(name), put(state, name, one))[1]
    )
    report = drain(s3.upload(root, Address(bucket, "r"), last=("stage.json", "run.json"), prune=("s",)))
    assert set(sent[:2]) == {"s/a", "s/b"}
    assert sent[2:] == ["s/stage.json", "run.json"]
    assert report.n_removed == 1
    assert keys(bucket) == {"r/s/stage.json", "r/s/a", "r/s/b", "r/run.json", "r/t/kept"}


def test_a_file_that_changes_while_it_is_sent(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spaceport_lab.aws import uploading

    root = tmp_path / "run"
    root.mkdir()
    log = root / "log.txt"
    log.write_text("1")
    check, times = fence.check, []

    def grow(path: Path) -> None:
        check(path)
        if path == log and len(times) < limit:
            times.append(1)
            with open(log, "a") as file:
                file.write("2")

    monkeypatch.setattr(uploading.fence, "check", grow)
    limit = 1
    drain(s3.upload(root, Address(bucket, "r"), marker=True))
    assert client("s3").get_object(Bucket=bucket, Key="r/log.txt")["Body"].read() == b"12"
    drain(s3.download(Address(bucket, "r"), tmp_path / "back", complete=True))
    limit = 100
    log.write_text("3")
    with pytest.raises(StoreCorruptError, match="changes all the time"):
        drain(s3.upload(root, Address(bucket, "r"), marker=True))
    assert "r/_SUCCESS.json" not in keys(bucket)


def test_a_lost_attempt_sends_nothing_more(
    bucket: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fence.VARIABLE, "")
    address = Address(bucket, "runs/e")
    drain(s3.upload(folder, address, marker=True))
    before = keys(bucket)
    fence.take(folder, 1)
    (folder / fence.NAME).write_text("2")
    (folder / "a.txt").write_text("late!")
    with pytest.raises(FencedError):
        drain(s3.upload(folder, address, marker=True))
    assert keys(bucket) == before
    assert client("s3").get_object(Bucket=bucket, Key="runs/e/a.txt")["Body"].read() == b"alpha"


UPLOAD = """
import sys
import threading
import time
from pathlib import Path
from spaceport_lab.aws import moving, s3
moving.PART_BYTES = 5 << 20
moving.AT_ONCE = 1
for state in s3.upload(Path(sys.argv[1]), s3.Address.parse(sys.argv[2]), marker=True):
    print(state.step, flush=True)
"""


def test_a_killed_upload_shows_no_marker_and_is_gone_on_with(bucket: str, tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    for number in range(3):
        (root / f"{number}.bin").write_bytes(b"before")
    address = Address(bucket, "runs/killed")
    drain(s3.upload(root, address, marker=True))
    for number in (1, 2):
        big(root / f"{number}.bin", number)
    process = subprocess.Popen(
        [sys.executable, "-c", UPLOAD, str(root), str(address)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) > 6 << 20:
            break
    process.kill()
    process.wait()
    process.stdout.close()
    assert "runs/killed/_SUCCESS.json" not in keys(bucket), "a marker over a half-changed prefix"
    with pytest.raises(StoreMissingError):
        drain(s3.download(address, tmp_path / "x", complete=True))
    # Parts of the file it was at, as the kill left them or as one more would.
    client("s3").create_multipart_upload(Bucket=bucket, Key="runs/killed/2.bin")
    report = drain(s3.upload(root, address, marker=True))
    assert report.complete
    assert report.n + report.n_skipped == 3
    assert not client("s3").list_multipart_uploads(Bucket=bucket).get("Uploads")
    drain(s3.download(address, tmp_path / "back", complete=True))
    assert tree(tmp_path / "back") == tree(root)


def test_an_upload_stopped_by_hand_leaves_no_parts(bucket: str, tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    for number in range(3):
        big(root / f"{number}.bin", number)
    steps = s3.upload(root, Address(bucket, "runs/stopped"), marker=True)
    for state in steps:
        if state.total and state.step:
            break
    with pytest.raises(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt)
    assert not client("s3").list_multipart_uploads(Bucket=bucket).get("Uploads")
    assert "runs/stopped/_SUCCESS.json" not in keys(bucket)


def test_an_interrupted_download_leaves_no_half_file(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    root.mkdir()
    for number in range(3):
        big(root / f"{number}.bin", number)
    monkeypatch.setattr(moving, "AT_ONCE", 1)
    address = Address(bucket, "runs/f")
    drain(s3.upload(root, address, marker=True))
    back = tmp_path / "back"
    steps = s3.download(address, back)
    for state in steps:
        if state.total and state.step > state.total * 0.4:
            break
    with pytest.raises(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt)
    whole = [p for p in back.iterdir() if not p.name.startswith(".")]
    assert all(p.read_bytes() == (root / p.name).read_bytes() for p in whole)
    assert [p for p in back.iterdir() if p.name.startswith(".")] == []
    report = drain(s3.download(address, back))
    assert report.n_skipped == len(whole)
    assert tree(back) == tree(root)
