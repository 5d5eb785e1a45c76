"""From what a person names to files on this disk: folder, zip, video, transforms.json, a store's address."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from spaceport_lab.ingest import remote, transforms, video
from spaceport_lab.ingest.sources import GROUND_TRUTH, MASKS, PHOTO_ENDINGS, Found, collect
from spaceport_lab.params import IngestParams
from spaceport_lab.workspace import Progress

FETCHED = PHOTO_ENDINGS | video.ENDINGS | {".json", ".txt", ".zip", "sparse_pc.ply"}
"""What is taken from a store: photographs, and what may say something about them."""


def gather(source: str, work: Path, p: IngestParams) -> Generator[Progress, None, Found]:
    """Find the files at `source`; what has to be unpacked, fetched or decoded first goes below `work`.

    Args:
        source: a folder, zip, scene, run, video, transforms.json, or an address such as s3://bucket/flight.
        work: a folder of this stage that is removed afterwards.
        p: limits, and which frames of a video.

    Raises:
        PhotosError: nothing there, hostile, broken, too much, or no access.
        WorkspaceError: it does not fit on the disk.
    """
    url = remote.address(source)
    passed: dict[str, str] = {}
    if url is None:
        path = Path(source).expanduser()
    else:
        path, passed = yield from remote.fetch(url, work / "fetched", FETCHED, p.max_archive_gb)
    found = yield from _local(path, work, p)
    return replace(found, ignored=found.ignored | passed)


def _local(path: Path, work: Path, p: IngestParams) -> Generator[Progress, None, Found]:
    if path.is_file() and path.suffix.lower() in video.ENDINGS:
        frames = work / "frames"
        damaged = yield from video.extract(path, frames, p)
        return Found(frames, tuple(sorted(f.name for f in frames.iterdir())), {}, damaged, None)
    if path.is_file() and path.suffix.lower() == ".json":
        return _of_frames(path)
    if path.is_dir() and (path / transforms.NAME).is_file():
        return _of_frames(path / transforms.NAME)
    unpacked = work / "unpacked"
    found = yield from collect(path, unpacked, p.max_archive_gb)
    if path.is_file():
        # In an archive, transforms.json lies beside the photographs or beside their folder.
        places = [folder for folder in (found.root, found.root.parent) if folder.is_relative_to(unpacked)]
        listed = next((f / transforms.NAME for f in places if (f / transforms.NAME).is_file()), None)
        if listed is not None:
            return replace(_of_frames(listed), damaged=found.damaged)
    return found


def _of_frames(path: Path) -> Found:
    """The images a transforms.json names; others beside them, such as reduced copies, are not looked at."""
    frames = transforms.read(path)
    root = path.parent
    truth, masks = root / GROUND_TRUTH, root / MASKS
    return Found(
        root,
        frames.images,
        {},
        frames.missing,
        truth if truth.is_file() else None,
        masks if masks.is_dir() else None,
        frames,
    )
