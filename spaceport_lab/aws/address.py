"""`s3://bucket/prefix`, read strictly: a slip of the pen must not write into another place."""

from __future__ import annotations

import re
from dataclasses import dataclass

from spaceport_lab.errors import InputError

KEY_BYTES = 1024
"""S3's limit for the length of a key, in UTF-8."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_IP = re.compile(r"\d{1,3}(\.\d{1,3}){3}")


@dataclass(frozen=True)
class Address:
    """A bucket and a prefix in it.

    Attributes:
        bucket: its name.
        prefix: without a slash at either end; empty for the whole bucket.
    """

    bucket: str
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `s3://bucket/prefix`.

        Raises:
            InputError: it is none, or one that two readers could understand in two ways.
        """
        scheme, found, rest = str(text).partition("://")
        bucket, _, prefix = rest.partition("/")
        fault = _bucket_fault(bucket) if found and scheme == "s3" else "it does not start with s3://"
        fault = fault or _prefix_fault(prefix)
        if fault:
            raise InputError(
                f"this is not an address in S3: {fault}",
                got=repr(str(text)[:200]),
                expected="s3://bucket/prefix, such as s3://my-bucket/runs/",
            )
        return cls(bucket, prefix.rstrip("/"))

    def key(self, name: str = "") -> str:
        """The key of `name` below the prefix; without a name the prefix as a folder, which may be empty."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def __truediv__(self, name: str) -> Address:
        return Address.parse(f"{self}/{name}")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def name_fault(name: str) -> str:
    """Why a key below a prefix can be no file in a folder; empty when it can.

    A key may be anything. What would leave the folder, hide in it, or not survive the way back is refused.
    """
    if any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in name):
        return "control characters in its name"
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "a name that points elsewhere"
    if "\\" in name:
        return "a backslash in its name"
    if any(part.startswith(".") for part in parts):
        return "a hidden name"
    if any(len(part.encode()) > 255 for part in parts):
        return "a name longer than a disk takes"
    return ""


def _bucket_fault(bucket: str) -> str:
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or _IP.fullmatch(bucket):
        return "no bucket can be called that"
    return ""


def _prefix_fault(prefix: str) -> str:
    bare = prefix.removesuffix("/")
    if not bare:
        return "an empty name between slashes" if prefix else ""
    if "?" in bare or "#" in bare:
        return "? and # have no place in it"
    if len(bare.encode(errors="replace")) > KEY_BYTES - 256:
        return "its prefix is too long to put names behind it"
    return name_fault(bare)
