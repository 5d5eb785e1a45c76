"""A folder to S3."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaceport_lab import fence, files
from spaceport_lab.aws import marker as markers
from spaceport_lab.aws.address import KEY_BYTES, Address, name_fault
from spaceport_lab.aws.client import clear_errors, client
from spaceport_lab.aws.marker import Entry
from spaceport_lab.aws.moving import Moved, Transfers, sha256, stamp, subscribers, together
from spaceport_lab.aws.store import (
    INTERMEDIATE_TAG,
    SHA256,
    TRIES,
    Memory,
    Remote,
    Report,
    checksum,
    encryption,
    listing,
    rank,
)
from spaceport_lab.errors import InputError, StoreCorruptError, WorkspaceError
from spaceport_lab.workspace import Progress


@dataclass(frozen=True)
class _Local:
    """A file as it was measured."""

    path: Path
    stamp: tuple[int, int, int]
    entry: Entry


@dataclass(frozen=True)
class _Upload:
    """One upload under way."""

    store: Any
    transfers: Transfers
    address: Address
    kms_key: str
    memory: Memory
    moved: Moved


def upload(
    folder: Path,
    address: Address,
    names: Callable[[str], bool] = lambda _: True,
    *,
    kms_key: str = "",
    marker: bool = False,
    intermediate: Callable[[str], bool] = lambda _: False,
    last: Sequence[str] = (),
    prune: Sequence[str] = (),
    memory: Memory | None = None,
) -> Generator[Progress, None, Report]:
    """Send a folder's files; `Progress` counts bytes.

    Args:
        folder: its files go, those in folders below too; hidden ones and links do not.
        address: where to.
        names: which are wanted, by their names relative to the folder, with slashes.
        kms_key: id, ARN or alias of a key for SSE-KMS; empty for SSE-S3 (AES256).
        marker: end with the completion marker, which names exactly the files of this call.
        intermediate: whether a file of this name is tagged, so that a lifecycle rule may expire it.
        last: file names (not paths) that say that others are whole: sent after all others, in this order.
        prune: folders whose objects are removed when their file is gone.
        memory: what earlier calls found out, for many calls on one prefix.

    Returns:
        The report.

    Raises:
        InputError: nothing to send.
        WorkspaceError: a file cannot be read.
        FencedError: the folder was given to somebody else; nothing more is sent.
        StoreError: by its kind; what was sent stays, without a marker, and the next call goes on from it.
    """
    store, folder, memory = client("s3"), Path(folder), {} if memory is None else memory
    report = Report(str(address))
    yield Progress(0, None, f"comparing with {address}")
    paths = _files(folder, address, names, report.left_out)
    if not paths:
        raise InputError("there is nothing to upload", got=f"no files in {folder}")
    there = listing(store, address)
    local: dict[str, _Local] = {}
    same: set[str] = set()

    def compare(name: str) -> None:
        measured = _measure(paths[name], intermediate(name))
        if _same(store, address, name, measured.entry, there.get(name), memory):
            same.add(name)
        local[name] = measured

    with clear_errors(f"cannot compare with {address}"):
        yield from together(compare, list(paths), lambda: Progress(0, None, f"comparing with {address}"))
    todo = {name: local[name] for name in sorted(local) if name not in same}
    gone = [n for n in there if n not in paths and n.startswith(tuple(f"{p}/" for p in prune))]
    report.n_skipped, entries = len(same), {name: one.entry for name, one in local.items()}
    if marker and not todo and not gone and markers.read(store, address) == entries:
        report.complete = True
        return report
    if marker or todo or gone:
        yield Progress(0, None, f"clearing the way in {address}")
        fence.check(folder / markers.NAME)
        if markers.NAME in there:
            markers.remove(store, address)
        if todo:
            _abort_leftovers(store, address)
    with clear_errors(f"uploading to {address} broke off"), Transfers(store) as transfers:
        state = _Upload(store, transfers, address, kms_key, memory, Moved())
        entries |= yield from _send(state, todo, last)
    report.n, report.bytes = len(todo), sum(entries[name].bytes for name in todo)
    _remove(store, address, gone)
    report.n_removed = len(gone)
    if marker:
        fence.check(folder / markers.NAME)
        markers.write(store, address, markers.render(entries, report.left_out), encryption(kms_key))
        report.complete = True
    return report


def _files(
    folder: Path, address: Address, names: Callable[[str], bool], left_out: dict[str, str]
) -> dict[str, Path]:
    """Name → path of the files to send; why others stay goes into `left_out`, hidden ones without a word."""
    chosen = {}
    with files.clear_os_errors(folder):
        for parent, below, here in os.walk(folder, onerror=_raise):
            below[:] = [b for b in below if not b.startswith(".")]
            for name in (*here, *(b for b in below if (Path(parent) / b).is_symlink())):
                if not name.startswith("."):
                    path = Path(parent) / name
                    chosen[path.relative_to(folder).as_posix()] = path
    found = {}
    for name, path in sorted(chosen.items()):
        if not names(name):
            continue
        fault = name_fault(name)
        if path.is_symlink():
            fault = "a link, and not followed"
        elif not path.is_file():
            fault = "no file" if path.exists() else "not there"
        elif len(address.key(name).encode(errors="replace")) > KEY_BYTES:
            fault = "its key would be longer than S3 takes"
        elif name == markers.NAME:
            fault = "the name of the completion marker"
        if fault:
            left_out[name.encode(errors="replace").decode()] = fault
        else:
            found[name] = path
    return found


def _raise(error: OSError) -> None:
    raise error


def _measure(path: Path, intermediate: bool) -> _Local:
    with files.clear_os_errors(path):
        try:
            before = stamp(path)
            return _Local(path, before, Entry(before[1], sha256(path), intermediate))
        except FileNotFoundError as error:
            raise WorkspaceError(
                f"{path} was removed while its folder was uploaded", hint="run it again"
            ) from error


def _same(
    store: Any, address: Address, name: str, entry: Entry, remote: Remote | None, memory: Memory
) -> bool:
    """Whether the object is this file, by its bytes and SHA-256."""
    if remote is None or remote.bytes != entry.bytes:
        return False
    key = address.key(name)
    known = memory.get((key, remote.etag))
    if known is None:
        head = store.head_object(Bucket=address.bucket, Key=key, ChecksumMode="ENABLED")
        known = checksum(head)
        if known is not None:
            memory[key, head["ETag"]] = known
    return known == entry.sha256


def _abort_leftovers(store: Any, address: Address) -> None:
    """Remove parts of large files of an upload that broke off: they cost, and nobody goes on from them."""
    with clear_errors(f"cannot abort what broke off in {address}"):
        pages = store.get_paginator("list_multipart_uploads").paginate(
            Bucket=address.bucket, Prefix=address.key("")
        )
        # Listed first: what is aborted must not move the pages.
        for one in [u for page in pages for u in page.get("Uploads", ())]:
            store.abort_multipart_upload(Bucket=address.bucket, Key=one["Key"], UploadId=one["UploadId"])


def _send(
    state: _Upload, todo: Mapping[str, _Local], last: Sequence[str]
) -> Generator[Progress, None, dict[str, Entry]]:
    """Send rank after rank: first what nothing depends on, then the names of `last` in their order."""
    total = sum(one.entry.bytes for one in todo.values())
    sent: dict[str, Entry] = {}

    def one(name: str) -> None:
        sent[name] = _put(state, name, todo[name])

    for wave in range(len(last) + 1):
        yield from together(
            one,
            [name for name in todo if rank(name, last) == wave],
            lambda: Progress(min(state.moved.bytes, total), total, f"uploading to {state.address}"),
            state.transfers.stop,
        )
    return sent


def _put(state: _Upload, name: str, local: _Local) -> Entry:
    """Send one file; again where it changed meanwhile, so that content and checksum belong together."""
    bucket, key = state.address.bucket, state.address.key(name)
    arguments: dict[str, Any] = {"ChecksumAlgorithm": "SHA256", **encryption(state.kms_key)}
    if kind := mimetypes.guess_type(name)[0]:
        arguments["ContentType"] = kind
    if local.entry.intermediate:
        arguments["Tagging"] = INTERMEDIATE_TAG
    for _ in range(TRIES):
        fence.check(local.path)
        state.transfers.upload(
            str(local.path),
            bucket,
            key,
            extra_args={**arguments, "Metadata": {SHA256: local.entry.sha256}},
            subscribers=subscribers(state.moved),
        )
        with files.clear_os_errors(local.path):
            unchanged = stamp(local.path) == local.stamp
        if unchanged:
            etag = _compare(state.store, bucket, key, local.entry)
            state.memory[key, etag] = local.entry.sha256
            return local.entry
        state.moved.add(-local.entry.bytes)
        local = _measure(local.path, local.entry.intermediate)
    raise StoreCorruptError(
        f"{local.path} changes all the time and cannot be sent whole",
        got=f"another content after each of {TRIES} attempts",
        hint="wait until nothing writes to it",
    )


def _compare(store: Any, bucket: str, key: str, sent: Entry) -> str:
    """Compare an object with what was sent; returns its ETag."""
    head = store.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    if head["ContentLength"] != sent.bytes or checksum(head) != sent.sha256:
        raise StoreCorruptError(
            f"s3://{bucket}/{key} is not what was sent",
            got=f"{head['ContentLength']} bytes, SHA-256 {checksum(head) or 'unknown'}",
            expected=f"{sent.bytes} bytes, SHA-256 {sent.sha256}",
            hint="if another program writes there, stop it; then run it again",
        )
    return str(head["ETag"])


def _remove(store: Any, address: Address, names: Sequence[str]) -> None:
    with clear_errors(f"cannot remove what is gone from {address}"):
        for name in names:
            store.delete_object(Bucket=address.bucket, Key=address.key(name))
