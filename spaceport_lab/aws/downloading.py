"""S3 to a folder."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaceport_lab import files
from spaceport_lab.aws import marker as markers
from spaceport_lab.aws.address import Address, name_fault
from spaceport_lab.aws.client import clear_errors, client
from spaceport_lab.aws.marker import Entry
from spaceport_lab.aws.moving import Moved, Transfers, sha256, subscribers, together
from spaceport_lab.aws.store import TRIES, Remote, Report, checksum, listing, rank
from spaceport_lab.errors import (
    InputError,
    StoreCorruptError,
    StoreMissingError,
)
from spaceport_lab.workspace import Progress


@dataclass(frozen=True)
class _Download:
    """One download under way; `keys` has the key of each name, `listed` what the marker says of it."""

    store: Any
    transfers: Transfers
    bucket: str
    keys: Mapping[str, str]
    wanted: Mapping[str, Remote]
    listed: Mapping[str, Entry]
    target: Path
    moved: Moved


def download(
    address: Address,
    target: Path,
    names: Callable[[str], bool] = lambda _: True,
    *,
    complete: bool = False,
    last: Sequence[str] = (),
    max_bytes: float = float("inf"),
) -> Generator[Progress, None, Report]:
    """Fetch what lies under a prefix; `Progress` counts bytes.

    Where there is a marker its list is what counts: objects that are not on it are left, and one that is
    missing or different is an error, unless a lifecycle rule may have expired it.

    Args:
        address: a prefix, or one object.
        target: folder that gets the files; one that is there with the same SHA-256 is not fetched again.
        names: which are wanted, by their names below the prefix.
        complete: refuse a prefix without a marker.
        last: file names (not paths) that say that others are whole: fetched after all others.
        max_bytes: more is refused.

    Raises:
        StoreMissingError: nothing there, or no marker where one is asked for.
        StoreCorruptError: something came otherwise than it was sent.
        InputError: too much.
        WorkspaceError: it does not fit on the disk; no half file is left.
        StoreError: by its kind.
    """
    store, report, target = client("s3"), Report(str(address)), Path(target)
    yield Progress(0, None, f"listing {address}")
    listed = markers.read(store, address)
    if complete and listed is None:
        raise StoreMissingError(
            f"{address} is not complete",
            got=f"no {markers.NAME}: a run or an upload is still under way, or broke off",
            hint="wait for it, or start the job again under its name",
        )
    there = listing(store, address)
    keys = {name: address.key(name) for name in there}
    if not there:
        there, keys = _single(store, address)
    wanted = _wanted(address, there, listed, names, report.left_out)
    total = sum(remote.bytes for remote in wanted.values())
    if total > max_bytes:
        raise InputError(
            f"{address} is refused: it is too much",
            got=f"{total / 1e9:,.3f} GB",
            expected=f"at most {max_bytes / 1e9:,.3f} GB",
        )
    with clear_errors(f"downloading from {address} broke off"), Transfers(store) as transfers:
        state = _Download(store, transfers, address.bucket, keys, wanted, listed or {}, target, Moved())
        yield from _fetch(state, last, total, report)
    if listed is not None and markers.read(store, address) != listed:
        raise StoreCorruptError(
            f"{address} was changed while it was read", hint="run it again once its job has ended"
        )
    report.complete = listed is not None
    return report


def _single(store: Any, address: Address) -> tuple[dict[str, Remote], dict[str, str]]:
    """One object in place of a prefix: its base name → object, and → key."""
    fault = StoreMissingError("there is nothing at this address", got=address, hint="check bucket and prefix")
    if not address.prefix:
        raise fault
    try:
        with clear_errors(f"cannot read {address}"):
            head = store.head_object(Bucket=address.bucket, Key=address.prefix)
    except StoreMissingError as error:
        raise fault from error
    name = address.prefix.rpartition("/")[2]
    return {name: Remote(int(head["ContentLength"]), str(head["ETag"]))}, {name: address.prefix}


def _wanted(
    address: Address,
    there: Mapping[str, Remote],
    listed: Mapping[str, Entry] | None,
    names: Callable[[str], bool],
    left_out: dict[str, str],
) -> dict[str, Remote]:
    """The objects to fetch; why others are not goes into `left_out`."""
    wanted = {}
    folders = {"/".join(n.split("/")[:depth]) for n in there for depth in range(1, n.count("/") + 1)}
    for name, remote in there.items():
        if name == markers.NAME or ((name.endswith("/") or not name) and not remote.bytes):
            continue  # consoles make empty objects to stand for folders
        fault = name_fault(name) or ("also the name of a folder" if name in folders else "")
        if not fault and listed is not None and name not in listed:
            fault = f"not on the list in {markers.NAME}"
        if fault:
            left_out[ascii(name).strip("'") if name_fault(name) else name] = fault
        elif names(name):
            wanted[name] = remote
    for name, entry in (listed or {}).items():
        if not names(name):
            continue
        if name not in there and entry.intermediate:
            left_out[name] = "expired, as intermediate files may"
        elif name not in there or there[name].bytes != entry.bytes or name not in wanted:
            raise StoreCorruptError(
                f"{address} is not what its {markers.NAME} says",
                got=f"{name}: {there[name].bytes if name in there else 'no'} bytes",
                expected=f"{entry.bytes} bytes",
                hint="start the job again under its name: what is missing is made or sent again",
            )
    return wanted


def _fetch(
    state: _Download, last: Sequence[str], total: int, report: Report
) -> Generator[Progress, None, None]:
    fetched: dict[str, bool] = {}
    there = sum(
        _size(state.target / name) == remote.bytes and remote.bytes for name, remote in state.wanted.items()
    )
    files.check_space(state.target, total - there, report.address)

    def one(name: str) -> None:
        fetched[name] = _get(state, name)

    for wave in range(len(last) + 1):
        yield from together(
            one,
            [name for name in sorted(state.wanted) if rank(name, last) == wave],
            lambda: Progress(min(state.moved.bytes, total), total, f"downloading from {report.address}"),
            state.transfers.stop,
        )
    report.n = sum(fetched.values())
    report.n_skipped = len(fetched) - report.n
    report.bytes = sum(state.wanted[name].bytes for name, moved in fetched.items() if moved)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _get(state: _Download, name: str) -> bool:
    """Fetch one object; returns False when its file was there already."""
    place, remote, key = state.target / name, state.wanted[name], state.keys[name]
    if not place.resolve().is_relative_to(state.target.resolve()):
        raise InputError(f"a link leads out of {state.target}", got=place, hint="download into a new folder")
    head = state.store.head_object(Bucket=state.bucket, Key=key, ChecksumMode="ENABLED")
    expected = state.listed[name].sha256 if name in state.listed else checksum(head)
    if expected and _size(place) == remote.bytes and sha256(place) == expected:
        state.moved.add(remote.bytes)
        return False
    with files.atomic_path(place) as temporary:
        for _ in range(TRIES):
            size = int(head["ContentLength"])
            with open(temporary, "wb") as sink:
                state.transfers.download(
                    state.bucket, key, sink, subscribers=subscribers(state.moved, size, str(head["ETag"]))
                )
            found = sha256(temporary)
            if temporary.stat().st_size == size and found == (expected or found):
                return True
            state.moved.add(-size)
        # Raised in here, so that what came does not take the file's place.
        raise StoreCorruptError(
            f"s3://{state.bucket}/{key} does not come as it was sent",
            got=f"SHA-256 {found}, {TRIES} times",
            expected=f"SHA-256 {expected}",
            hint="look who wrote to it; the job can be started again under its name",
        )
