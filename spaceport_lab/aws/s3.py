"""Folders to S3 and back: parallel, encrypted, checked by SHA-256, and gone on with where they broke off.

Each object keeps the SHA-256 of its file in its metadata, and S3 compares the bytes of each request with a
checksum that is sent with them. What is there with the same SHA-256 is not moved again. An upload that ends
with a marker takes an earlier one away before it changes anything, and writes its own last of all.
"""

from __future__ import annotations

from spaceport_lab.aws.address import Address
from spaceport_lab.aws.downloading import download
from spaceport_lab.aws.marker import NAME as MARKER
from spaceport_lab.aws.store import INTERMEDIATE_TAG, Report
from spaceport_lab.aws.uploading import upload

__all__ = ["INTERMEDIATE_TAG", "MARKER", "Address", "Report", "download", "upload"]
