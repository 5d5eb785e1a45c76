"""What uploads and downloads share: listings, checksums, the report."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spaceport_lab.aws.address import Address
from spaceport_lab.aws.client import clear_errors

INTERMEDIATE_TAG = "spaceport=intermediate"
"""The tag of objects that deploy/s3-lifecycle.json lets expire."""
SHA256 = "sha256"
"""The name of our checksum in an object's metadata."""
TRIES = 3
"""For a file that changes while it is sent, or an object that comes otherwise than it was sent."""

Memory = dict[tuple[str, str], str]
"""(key, ETag) → SHA-256 of what was seen in the store, so that it is not asked for again."""


@dataclass(frozen=True)
class Remote:
    """An object as the listing has it: bytes, and the ETag that changes with its content."""

    bytes: int
    etag: str


@dataclass
class Report:
    """What a transfer did.

    Attributes:
        address: the prefix.
        n: files that were moved.
        bytes: their size.
        n_skipped: files that were there already with the same SHA-256.
        n_removed: objects removed because their file is gone.
        left_out: name → why it was not moved.
        complete: whether the prefix has its marker now.
    """

    address: str
    n: int = 0
    bytes: int = 0
    n_skipped: int = 0
    n_removed: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    complete: bool = False


def encryption(kms_key: str = "") -> dict[str, str]:
    """What a request says for SSE-S3 (AES256), or with a key's id, ARN or alias for SSE-KMS."""
    if not kms_key:
        return {"ServerSideEncryption": "AES256"}
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key}


def listing(store: Any, address: Address) -> dict[str, Remote]:
    """Name below the prefix → object, for all of them.

    Raises:
        StoreError: by its kind.
    """
    root = address.key("")
    found = {}
    with clear_errors(f"cannot list {address}"):
        for page in store.get_paginator("list_objects_v2").paginate(Bucket=address.bucket, Prefix=root):
            for entry in page.get("Contents", ()):
                name = entry["Key"].removeprefix(root)
                found[name] = Remote(int(entry["Size"]), str(entry.get("ETag", "")))
    return found


def checksum(head: Mapping[str, Any]) -> str | None:
    """SHA-256 of an object by S3's own reckoning, else by its metadata; None when nobody knows it."""
    own = head.get("ChecksumSHA256")
    # Of an object in parts, whose ETag ends with their number, it is a checksum of checksums.
    if own and "-" not in own and "-" not in head.get("ETag", "-"):
        try:
            return base64.b64decode(own, validate=True).hex()
        except binascii.Error:
            pass
    return head.get("Metadata", {}).get(SHA256)


def rank(name: str, last: Sequence[str]) -> int:
    """When a file moves: 0 for most, behind them those whose base name is in `last`, in its order."""
    base = name.rpartition("/")[2]
    return last.index(base) + 1 if base in last else 0
