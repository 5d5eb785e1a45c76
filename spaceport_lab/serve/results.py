"""What a finished job has to show: report, viewer and .sog, from its run folder and from nowhere else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from spaceport_lab.errors import JobUnknownError
from spaceport_lab.jobs.model import Job
from spaceport_lab.workspace import folder_name

SOG = f"{folder_name('compress')}/splat.sog"
NEEDS = {"report": "report.html", "viewer": SOG, "splat.sog": SOG}
"""What can be opened, and the file of the run folder that it is made from."""

SANDBOX = "sandbox allow-scripts"
"""Policy of pages that were made from a job's data: they run, as nobody, and reach nothing of the service."""

CHUNK = 1 << 18  # bytes

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


@dataclass(frozen=True)
class Content:
    """A file to send, or a part of one.

    Attributes:
        status: 200, 206 (a part) or 416 (no such part).
        headers: type, length and the like.
        body: all of it, when it is not a file.
        path: the file.
        start: first byte.
        length: bytes from there on.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    path: Path | None = None
    start: int = 0
    length: int = 0

    def chunks(self) -> Iterator[bytes]:
        """The bytes, a piece at a time."""
        if self.path is None:
            yield self.body
            return
        left = self.length
        with open(self.path, "rb") as file:
            file.seek(self.start)
            while left > 0 and (piece := file.read(min(CHUNK, left))):
                left -= len(piece)
                yield piece


def run_folder(job: Job, data: Path) -> Path | None:
    """The job's run folder, resolved; None when it has none, or one that is not below the data folder."""
    if not job.run_dir:
        return None
    root, home = Path(os.path.realpath(job.run_dir)), Path(os.path.realpath(data))
    return root if root.is_relative_to(home) and root.name == job.name and root.is_dir() else None


def links(job: Job, root: Path | None) -> dict[str, str]:
    """What of the job can be opened → where, relative to the service's address."""
    return {kind: f"jobs/{job.name}/{kind}" for kind in NEEDS if _file(root, kind) is not None}


def content(job: Job, data: Path, kind: str, asked: str = "") -> Content:
    """A file of a job that has ended.

    Args:
        job: from the store.
        data: folder of the scenes.
        kind: a key of NEEDS.
        asked: the `Range` header, heeded for the .sog.

    Raises:
        JobUnknownError: the job has no such file, or its file is not in its run folder.
        StageError: the package was installed without the viewer.
    """
    path = _file(run_folder(job, data), kind)
    if path is None:
        raise JobUnknownError(f"job {job.name} has no {kind}", hint="wait until it has ended")
    if kind == "splat.sog":
        return _part(path, job.name, asked)
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": SANDBOX}
    if kind == "viewer":
        body = _viewer_page(path, job.name).encode()
        return Content(200, headers | {"Content-Length": str(len(body))}, body)
    size = path.stat().st_size
    return Content(200, headers | {"Content-Length": str(size)}, path=path, length=size)


def _file(root: Path | None, kind: str) -> Path | None:
    if root is None or kind not in NEEDS:
        return None
    path = Path(os.path.realpath(root / NEEDS[kind]))
    return path if path.is_relative_to(root) and path.is_file() else None


def _part(path: Path, name: str, asked: str) -> Content:
    """The .sog, or the part that a `Range` header asks for (RFC 9110; one range, others are ignored)."""
    size = path.stat().st_size
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f'attachment; filename="{name}.sog"',
        "Accept-Ranges": "bytes",
    }
    found = _RANGE.fullmatch(asked.strip())
    if found is None or not (found[1] or found[2]):
        return Content(200, headers | {"Content-Length": str(size)}, path=path, length=size)
    if found[1]:
        start, end = int(found[1]), min(int(found[2]) if found[2] else size - 1, size - 1)
        backwards = bool(found[2]) and int(found[2]) < int(found[1])
    else:
        start, end, backwards = max(size - int(found[2]), 0), size - 1, int(found[2]) == 0
    if start >= size or backwards:
        return Content(416, headers | {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
    part = {"Content-Range": f"bytes {start}-{end}/{size}", "Content-Length": str(end - start + 1)}
    return Content(206, headers | part, path=path, start=start, length=end - start + 1)


def _viewer_page(sog: Path, name: str) -> str:
    """A page with nothing but the splat, seen first from where the inspect stage says."""
    from spaceport_lab import viewer
    from spaceport_lab.inspection.viewpoint import Viewpoint

    first = sog.parent.parent / folder_name("inspect") / "viewer.json"
    try:
        viewpoint = Viewpoint.from_json(json.loads(first.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        viewpoint = None  # a run without the inspect stage: chosen from the splat's bounds
    return viewer.viewer_html(sog, title=name, viewpoint=viewpoint)
