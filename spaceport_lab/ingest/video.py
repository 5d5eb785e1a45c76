"""Photographs out of a video: evenly spaced in time, of each stretch the sharpest frame."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image

from spaceport_lab import files
from spaceport_lab.errors import PhotosError
from spaceport_lab.ingest import tags
from spaceport_lab.ingest.photos import JPEG_QUALITY, sharpness
from spaceport_lab.params import IngestParams
from spaceport_lab.workspace import Progress

ENDINGS = {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm"}

CANDIDATES = 12
"""Frames of a stretch whose sharpness is measured."""

_JUDGED_WIDTH = 640

_TRUSTED = {"protocol_whitelist": "file", "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"}
# Playlists under the name of a video would make the decoder open whatever they name.


@dataclass(frozen=True)
class _Plan:
    """Stretches of equal length, seconds: frames at `start + k * length` to the next belong to stretch k."""

    start: float
    stop: float
    count: int
    per_second: float

    @property
    def length(self) -> float:
        return (self.stop - self.start) / self.count

    @property
    def stride(self) -> int:
        """Every how many frames one is measured."""
        return max(1, math.floor(self.length * self.per_second / CANDIDATES))


def extract(path: Path, target: Path, p: IngestParams) -> Generator[Progress, None, dict[str, str]]:
    """Write the chosen frames of a video into `target` as JPEG, named in order.

    A frame every `p.video_every` seconds between `p.video_start` and `p.video_stop`, at most
    `p.video_frames`: each the sharpest of its stretch. Frames are turned upright as the file says, and carry
    the time they were taken where it says that too.

    Returns:
        What could not be decoded → why; empty when all was.

    Raises:
        PhotosError: it is no video, is empty, or nothing of it lies between start and stop.
        WorkspaceError: the disk is full or the folder is not writable.
    """
    try:
        with av.open(str(path), options=_TRUSTED) as container:
            if not container.streams.video:
                raise PhotosError("this file has no pictures, only sound or data", got=path)
            plan = _plan(container, path, p)
            began = _began(container)
            damaged: dict[str, str] = {}
            written = 0
            for stretch, frame in _sharpest(container, plan, damaged):
                written += 1
                _write(frame, target / f"{path.stem}_{stretch + 1:05d}.jpg", began)
                yield Progress(min(stretch + 1, plan.count), plan.count, "taking frames from the video")
    except FFmpegError as error:
        raise PhotosError(
            f"{path.name} cannot be read as a video",
            got=str(error),
            expected="a whole mp4 or mov file",
            hint="copy it again, or convert it with another program",
        ) from error
    if not written:
        raise PhotosError(
            f"{path.name} has no frame that can be decoded between {plan.start:g} and {plan.stop:g} s",
            hint="check ingest.video_start and ingest.video_stop",
        )
    return {f"{path.name} {when}": why for when, why in damaged.items()}


def _plan(container: av.container.InputContainer, path: Path, p: IngestParams) -> _Plan:
    stream = container.streams.video[0]
    per_second = float(stream.average_rate or 30)
    if container.duration:
        duration = container.duration / av.time_base
    else:
        duration = float((stream.duration or 0) * (stream.time_base or 0)) or stream.frames / per_second
    stop = min(p.video_stop or math.inf, duration) if duration else p.video_stop
    if not stop > p.video_start:
        raise PhotosError(
            f"nothing of {path.name} lies between start and stop",
            got=f"{p.video_start:g} to {p.video_stop or duration:g} s of {duration:.1f} s",
            expected="ingest.video_start before ingest.video_stop, both within the video",
        )
    count = max(1, min(p.video_frames, round((stop - p.video_start) / p.video_every)))
    return _Plan(p.video_start, stop, count, per_second)


def _sharpest(
    container: av.container.InputContainer, plan: _Plan, damaged: dict[str, str]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The number of each stretch and its sharpest frame, in order."""
    best, best_value, current, number = None, -1.0, 0, -1
    for frame in _frames(container, plan, damaged):
        # Times are whole frames, and must not fall short of a border by rounding.
        stretch = min(int((frame.time - plan.start) / plan.length + 1e-6), plan.count - 1)
        if stretch != current:
            if best is not None:
                yield current, best
            best, best_value, current, number = None, -1.0, stretch, -1
        number += 1
        if number % plan.stride:
            continue
        height = max(3, round(frame.height * _JUDGED_WIDTH / frame.width))
        grey = frame.reformat(width=_JUDGED_WIDTH, height=height, format="gray").to_ndarray()
        value = sharpness(grey.astype(np.float32))
        if value > best_value:
            best, best_value = frame, value
    if best is not None:
        yield current, best


def _frames(
    container: av.container.InputContainer, plan: _Plan, damaged: dict[str, str]
) -> Iterator[av.VideoFrame]:
    """Frames from start to stop; what breaks the decoder is noted and passed over."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    if plan.start > 0:
        container.seek(int(plan.start * av.time_base), backward=True)
    offset = float((stream.start_time or 0) * (stream.time_base or 0))
    for packet in container.demux(stream):
        try:
            decoded = packet.decode()
        except FFmpegError as error:
            at = float((packet.pts or 0) * (packet.time_base or 0)) - offset
            damaged.setdefault(f"at {at:.1f} s", f"cannot be decoded: {error}")
            continue
        for frame in decoded:
            if frame.time is None:
                continue
            time = frame.time - offset
            if time >= plan.stop:
                return
            if time >= plan.start:
                yield frame


def _began(container: av.container.InputContainer) -> datetime | None:
    try:
        text = container.metadata["creation_time"][:19]
        return datetime.strptime(text.replace("T", " "), "%Y-%m-%d %H:%M:%S")
    except (KeyError, ValueError):
        return None


def _write(frame: av.VideoFrame, target: Path, began: datetime | None) -> None:
    image = frame.to_image()
    # A phone held upright writes lying frames and by how much they are to be turned, anticlockwise.
    turned = getattr(frame, "rotation", 0) % 360
    if turned:
        image = image.rotate(turned, expand=True)
    exif = Image.Exif()
    if began is not None:
        moment = (began + timedelta(seconds=float(frame.time))).strftime("%Y:%m:%d %H:%M:%S")
        exif[tags.DATE] = moment
    with files.atomic_path(target) as temporary:
        image.save(temporary, quality=JPEG_QUALITY, subsampling=0, exif=exif.tobytes())
