"""Stage 01, ingest: every photograph opened and judged before anything is computed from it."""

from __future__ import annotations

import json
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from spaceport_lab import files
from spaceport_lab.errors import PhotosError
from spaceport_lab.ingest import masks
from spaceport_lab.ingest.photos import Photo, judge, place
from spaceport_lab.ingest.sources import GROUND_TRUTH, MASKS, Found, collect, flat_names, unique_name
from spaceport_lab.params import IngestParams
from spaceport_lab.runcard import usable_cores
from spaceport_lab.workspace import Progress, StageRun

__all__ = ["MIN_PHOTOS", "Photo", "excluded_rows", "read_photos", "run"]

MIN_PHOTOS = 3
"""Structure from motion needs three views; two have no scale that a third could check."""

FLAT_CONTRAST = 2.0
"""Grey levels: below this standard deviation there is nothing in the picture to recognise."""


def run(run: StageRun, p: IngestParams) -> Iterator[Progress]:
    """Judge the photographs of `p.source` and bring the usable ones together in images/.

    Writes images/, thumbnails/, photos.json, and ground_truth.json where one lies beside the photographs; and
    masks/, NAME.png for each photograph NAME that has a mask.

    Raises:
        PhotosError: fewer than three usable photographs, nothing there, or a hostile or broken archive.
        WorkspaceError: the disk is full or the folder is not writable.
    """
    source = Path(p.source).expanduser() if p.source else run.scene_dir / "images"
    for leftover in ("images", "thumbnails", MASKS):
        shutil.rmtree(run.dir / leftover, ignore_errors=True)
    unpacked = run.dir / "unpacked"
    try:
        found = yield from collect(source, unpacked, p.max_archive_gb)
        judged = yield from _judge_all(found, run.dir / "thumbnails")
        photos = leave_out(judged, p)
        _write_photos(run, source, found, photos)
        used = [photo for photo in photos if photo.used]
        if len(used) < MIN_PHOTOS:
            raise _too_few(source, found, photos)
        yield from _place_all(found.root, used, run.dir / "images")
        yield from _place_masks(run, found, photos)
        if found.truth is not None:
            files.write_bytes(run.output(GROUND_TRUTH), found.truth.read_bytes())
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    for name in ("images", "thumbnails", "photos.json"):
        run.output(name)
    _summarise(run, found, photos)


def read_photos(run: StageRun) -> list[dict[str, Any]]:
    """The rows of photos.json: every file that was seen, used or not."""
    return json.loads((run.root / "01_ingest" / "photos.json").read_text())["photos"]


def excluded_rows(photos: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """File and reason of every photograph that was left out; one row saying so when none was."""
    rows = [{"file": p["source"], "reason": p["reason"]} for p in photos if p["status"] != "used"]
    return rows or [{"file": "none", "reason": f"all {len(photos)} photographs are used"}]


def leave_out(photos: list[Photo], p: IngestParams) -> list[Photo]:
    """Apply the rules that decide which readable photographs are not used, each with its reason.

    Args:
        photos: judged ones, in order; of duplicates the first is kept.
        p: thresholds.
    """
    first_file: dict[str, str] = {}
    first_pixels: dict[str, str] = {}
    kept = []
    for photo in photos:
        reason = photo.reason or _own_fault(photo, p)
        if reason is None and p.exclude_duplicates:
            if photo.sha256 in first_file:
                reason = f"the same file as {first_file[photo.sha256]}"
            elif photo.pixels_sha256 in first_pixels:
                reason = f"the same picture as {first_pixels[photo.pixels_sha256]}"
        if reason is None:
            first_file[photo.sha256] = first_pixels[photo.pixels_sha256] = photo.source
        kept.append(replace(photo, reason=reason))
    usual = float(np.median([photo.sharpness for photo in kept if photo.used] or [0.0]))
    for i, photo in enumerate(kept):
        if photo.used and photo.sharpness < p.min_sharpness * usual:
            reason = f"blurred: sharpness {photo.sharpness:.2g} where {usual:.2g} is usual in this set"
            kept[i] = replace(photo, reason=reason)
    return kept


def _own_fault(photo: Photo, p: IngestParams) -> str | None:
    """Why a readable photograph cannot be used, whatever the others are like."""
    if min(photo.width, photo.height) < p.min_side:
        return f"too small: {photo.width}×{photo.height}, shorter side under {p.min_side} px"
    if photo.clipped > p.max_clipped:
        what = "over" if photo.exposure > 0.5 else "under"
        return f"{what}exposed: {photo.clipped:.0%} of it is pure black or white"
    if photo.contrast < FLAT_CONTRAST:
        return "flat: one colour, nothing in it to recognise"
    return None


def _judge_all(found: Found, thumbnails: Path) -> Iterator[Progress]:
    """Judge all files in parallel; returns the photos in the order of their names."""
    names = flat_names(found.names)
    ImageFile.LOAD_TRUNCATED_IMAGES = False

    def one(source: str) -> Photo:
        thumbnail = thumbnails / f"{names[source]}.jpg"
        return judge(found.root / source, source, names[source], thumbnail)

    photos = []
    # Decoders let go of the interpreter's lock, so threads are enough, and they need no second start-up.
    with warnings.catch_warnings(), ThreadPoolExecutor(usable_cores()) as pool:
        # Large is not hostile yet: Pillow refuses on its own what is twice as large as it warns of.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module=r"PIL\..*")
        for number, photo in enumerate(pool.map(one, found.names), 1):
            photos.append(photo)
            used = sum(p.used for p in photos)
            yield Progress(number, len(names), "judging photographs", {"readable": used})
    photos += [Photo(name=Path(entry).name, source=entry, reason=why) for entry, why in found.damaged.items()]
    return _unique_names(photos)


def _unique_names(photos: list[Photo]) -> list[Photo]:
    """Rename what clashes after endings were changed to fit the format (a.webp and a.jpg)."""
    taken: set[str] = set()
    return [replace(photo, name=unique_name(photo.name, taken)) for photo in photos]


def _place_all(root: Path, used: list[Photo], images: Path) -> Iterator[Progress]:
    def one(photo: Photo) -> None:
        place(root / photo.source, photo, images / photo.name)

    with ThreadPoolExecutor(usable_cores()) as pool:
        for number, _ in enumerate(pool.map(one, used), 1):
            yield Progress(number, len(used), "bringing photographs together")


def _place_masks(run: StageRun, found: Found, photos: list[Photo]) -> Iterator[Progress]:
    """Bring the masks of the used photographs together, and say of every other one what became of it."""
    matched = masks.find(found.masks, [photo.source for photo in photos])
    wanted = [photo for photo in photos if photo.used and photo.source in matched.of]

    def one(photo: Photo) -> float | str:
        try:
            return masks.place(matched.of[photo.source], photo, run.dir / MASKS / f"{photo.name}.png")
        except PhotosError as error:
            return f"{error.what} ({error.got})"

    with ThreadPoolExecutor(usable_cores()) as pool:
        made = []
        for number, result in enumerate(pool.map(one, wanted), 1):
            made.append(result)
            yield Progress(number, len(wanted), "bringing masks together")
    problems = [result for result in made if isinstance(result, str)]
    hidden = [photo.name for photo, share in zip(wanted, made, strict=True) if share == 0]
    if found.masks is not None:
        run.metrics.update(n_masks=len(made) - len(problems), n_masks_unmatched=len(matched.unmatched))
    if (run.dir / MASKS).is_dir():
        run.output(MASKS)
    for what, names in (
        ("masks match no photograph", matched.unmatched),
        ("masks cannot be used, their photographs count everywhere", problems),
        ("photographs are hidden altogether by their masks", hidden),
    ):
        if names:
            run.warn(f"{len(names)} {what}: {', '.join(names[:5])}{' …' if names[5:] else ''}")


def _write_photos(run: StageRun, source: Path, found: Found, photos: list[Photo]) -> None:
    entries = []
    for photo in photos:
        entry: dict[str, Any] = {"name": photo.name, "status": "used" if photo.used else "excluded"}
        entry |= {key: value for key, value in asdict(photo).items() if key not in entry}
        entries.append(entry)
    ignored = [{"source": name, "reason": reason} for name, reason in sorted(found.ignored.items())]
    content = {"source": source, "photos": entries, "ignored": ignored}
    files.write_json(run.dir / "photos.json", content)


def _too_few(source: Path, found: Found, photos: list[Photo]) -> PhotosError:
    reasons = Counter(photo.reason for photo in photos if not photo.used)
    used = sum(photo.used for photo in photos)
    came = {0: "no photographs", 1: "one photograph", 2: "two photographs"}[used]
    expected = f"at least {MIN_PHOTOS} usable photographs; a good set has 20 and more, overlapping by 70 %"
    if not photos:
        ignored = f", only {len(found.ignored)} files that are none" if found.ignored else ""
        return PhotosError(
            "there are no photographs here",
            got=f"an empty folder{ignored}: {source}" if not ignored else f"{source}{ignored}",
            expected=expected,
            hint="check the path; subfolders are searched too",
        )
    lines = [f"{came} usable of {len(photos)} in {source}"]
    examples = {photo.reason: photo.source for photo in reversed(photos)}
    lines += [f"{count} × {reason} ({examples[reason]})" for reason, count in reasons.most_common(8)]
    return PhotosError(
        f"{came} cannot be reconstructed" if used else "none of the files is a usable photograph",
        got="\n            ".join(lines),
        expected=expected,
        hint="photos.json lists every file and its reason"
        if reasons
        else "add more photographs of the place",
    )


def _summarise(run: StageRun, found: Found, photos: list[Photo]) -> None:
    used = [photo for photo in photos if photo.used]
    with_gps = sum(photo.gps is not None for photo in used)
    run.metrics.update(
        n_photos=len(photos),
        n_used=len(used),
        n_gps=with_gps,
        n_ignored=len(found.ignored),
        n_converted=sum(bool(photo.converted) for photo in used),
    )
    kinds = Counter((photo.reason or "").partition(":")[0] for photo in photos if not photo.used)
    for kind, count in kinds.most_common():
        names = [p.source for p in photos if not p.used and p.reason.partition(":")[0] == kind]
        run.warn(f"{count} left out, {kind}: {', '.join(names[:5])}{' …' if count > 5 else ''}")
    doubtful = [photo for photo in used if photo.gps_problem]
    if doubtful:
        run.warn(f"GPS of {len(doubtful)} photographs is not believed: {doubtful[0].gps_problem}")
    if 0 < with_gps < len(used):
        run.warn(f"{len(used) - with_gps} of {len(used)} photographs have no GPS")
    sizes = Counter((photo.width, photo.height) for photo in used)
    if len(sizes) > 1:
        listed = ", ".join(f"{count} × {w}×{h}" for (w, h), count in sizes.most_common(4))
        run.warn(f"photographs of {len(sizes)} sizes: {listed}")
