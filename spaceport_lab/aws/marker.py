"""The completion marker: `_SUCCESS.json` names every file of a prefix, with bytes and SHA-256.

It is removed before anything under the prefix changes and written once everything is there, so that whoever
finds it finds the whole. Files that a lifecycle rule may expire are named as such: that they are gone is no
fault.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spaceport_lab import __version__
from spaceport_lab.aws.address import Address
from spaceport_lab.aws.client import clear_errors
from spaceport_lab.errors import StoreCorruptError, StoreMissingError

NAME = "_SUCCESS.json"
_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One file as it was sent: its bytes, SHA-256 as 64 hexadecimal digits, and whether it may expire."""

    bytes: int
    sha256: str
    intermediate: bool = False


def render(entries: Mapping[str, Entry], left_out: Mapping[str, str]) -> bytes:
    """The marker's content for these files, and for those that were not sent → why."""
    content = {
        "version": _VERSION,
        "package": f"spaceport-lab {__version__}",
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "n": len(entries),
        "bytes": sum(e.bytes for e in entries.values()),
        "files": {
            name: {"bytes": e.bytes, "sha256": e.sha256} | ({"intermediate": True} if e.intermediate else {})
            for name, e in sorted(entries.items())
        },
        "left_out": dict(left_out),
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def read(store: Any, address: Address) -> dict[str, Entry] | None:
    """The files a prefix's marker names; None where it has no marker, which means that it is not complete.

    Raises:
        StoreCorruptError: there is a marker, and it is none of ours.
        StoreDeniedError, StoreBusyError, StoreTimeoutError: it cannot be read.
    """
    try:
        with clear_errors(f"cannot read {address}/{NAME}"):
            body = store.get_object(Bucket=address.bucket, Key=address.key(NAME))["Body"].read()
    except StoreMissingError as error:
        if "NoSuchBucket" in str(error.got):
            raise
        return None
    try:
        content = json.loads(body)
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']}")
        entries = {
            str(name): Entry(int(e["bytes"]), str(e["sha256"]), bool(e.get("intermediate", False)))
            for name, e in content["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreCorruptError(
            f"{address}/{NAME} cannot be understood",
            got=f"{type(error).__name__}: {error}",
            expected=f"version {_VERSION}, with files",
            hint="remove it and upload the run again",
        ) from error
    return entries


def write(store: Any, address: Address, content: bytes, extra: Mapping[str, Any]) -> None:
    """Write the marker; `extra` holds the encryption."""
    with clear_errors(f"cannot write {address}/{NAME}"):
        store.put_object(
            Bucket=address.bucket,
            Key=address.key(NAME),
            Body=content,
            ContentType="application/json",
            ChecksumAlgorithm="SHA256",
            **extra,
        )


def remove(store: Any, address: Address) -> None:
    """Take the marker away, before anything under the prefix changes."""
    with clear_errors(f"cannot remove {address}/{NAME}"):
        store.delete_object(Bucket=address.bucket, Key=address.key(NAME))
