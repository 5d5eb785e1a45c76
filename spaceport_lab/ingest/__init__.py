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

from PIL import Image, ImageFile

from spaceport_lab import files
from spaceport_lab.errors import PhotosError
from spaceport_lab.ingest import control, flight, masks, sky, transforms
from spaceport_lab.ingest.gather import gather
from spaceport_lab.ingest.judging import kept_names, leave_out, names_of
from spaceport_lab.ingest.photos import Photo, judge, place
from spaceport_lab.ingest.sources import GROUND_TRUTH, MASKS, Found, flat_names, unique_name
from spaceport_lab.params import IngestParams
from spaceport_lab.runcard import usable_cores
from spaceport_lab.workspace import Progress, StageRun

__all__ = ["MIN_PHOTOS", "Photo", "excluded_rows", "flight_rows", "read_flight", "read_photos", "run"]

FLIGHT, POINTS, GIVEN = "flight.json", "gcp.json", "given"

MIN_PHOTOS = 3
"""Structure from motion needs three views; two have no scale that a third could check."""


def run(run: StageRun, p: IngestParams) -> Iterator[Progress]:
    """Judge the photographs of `p.source` and bring the usable ones together in images/.

    Writes images/, thumbnails/, photos.json, flight.json (see `flight.describe`), and ground_truth.json where
    one lies beside the photographs; masks/, NAME.png for each photograph NAME that has a mask; gcp.json (see
    `control.Points`) where there is a gcp_list.txt; given/sparse/, a COLMAP model for `sfm.import_path`,
    where a transforms.json has poses. With `p.sky_mask` masks hide the sky too. Positions of a geo.txt come
    before those of EXIF.

    Raises:
        PhotosError: fewer than three usable photographs, nothing there, or a hostile or broken archive.
        WorkspaceError: the disk is full or the folder is not writable.
    """
    source = p.source or str(run.scene_dir / "images")
    for leftover in ("images", "thumbnails", MASKS, GIVEN):
        shutil.rmtree(run.dir / leftover, ignore_errors=True)
    for leftover in (POINTS, GROUND_TRUTH):
        (run.dir / leftover).unlink(missing_ok=True)
    work = run.dir / "work"
    try:
        found = yield from gather(source, work, p)
        judged = yield from _judge_all(found, run.dir / "thumbnails")
        photos = leave_out(_place_by_geo(run, found, judged), p)
        _write_photos(run, source, found, photos)
        used = [photo for photo in photos if photo.used]
        if len(used) < MIN_PHOTOS:
            raise _too_few(source, found, photos)
        yield from _place_all(found.root, used, run.dir / "images")
        yield from _place_masks(run, found, photos)
        if p.sky_mask:
            yield from _mask_skies(run, used)
        if found.truth is not None:
            files.write_bytes(run.output(GROUND_TRUTH), found.truth.read_bytes())
        _hand_on(run, found, photos)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for name in ("images", "thumbnails", "photos.json", FLIGHT):
        run.output(name)
    _summarise(run, found, photos)
    _answer_keep(run, p, photos)
    _describe_flight(run, p, used)


def read_photos(run: StageRun) -> list[dict[str, Any]]:
    """The rows of photos.json: every file that was seen, used or not."""
    return json.loads((run.root / "01_ingest" / "photos.json").read_text())["photos"]


def read_flight(run: StageRun) -> dict[str, Any]:
    """flight.json: see `flight.describe`."""
    return json.loads((run.root / "01_ingest" / FLIGHT).read_text())


def flight_rows(flight: dict[str, Any]) -> list[dict[str, Any]]:
    """What is known of the flight, a sentence a row."""
    return [{"the flight": sentence} for sentence in flight["words"]]


def excluded_rows(photos: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What became of every photograph something is said against, and the reason; one row when there is none.

    `left out`; `kept by name` where `keep` overrules the reason; `used, GPS dropped`; `used` with a remark.
    """
    rows = []
    for photo in photos:
        said = (
            ("left out", photo["reason"]),
            ("kept by name", photo["overruled"]),
            ("used, GPS dropped", photo["gps_problem"] if photo["status"] == "used" else None),
            ("used", photo["remark"] if photo["status"] == "used" else None),
        )
        rows += [{"file": photo["source"], "what": what, "reason": why} for what, why in said if why]
    nothing = {"file": "none", "what": "", "reason": f"all {len(photos)} photographs are used"}
    return rows or [nothing]


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


def _mask_skies(run: StageRun, used: list[Photo]) -> Iterator[Progress]:
    """Hide the sky of photographs that look to the horizon, in masks/."""

    def one(photo: Photo) -> float | None:
        return sky.mask_sky(run.dir / "images" / photo.name, photo, run.dir / MASKS / f"{photo.name}.png")

    shares: list[float | None] = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        for share in pool.map(one, used):
            shares.append(share)
            yield Progress(len(shares), len(used), "looking for sky")
    found = sky.coverage(shares)
    run.metrics.update(found)
    if found["n_sky_masks"]:
        run.output(MASKS)
    if found["n_sky_unknown"]:
        run.warn(
            f"{found['n_sky_unknown']} of {len(used)} photographs do not say how they look (gimbal pitch and "
            "focal length): no sky is sought in them"
        )


def _write_photos(run: StageRun, source: str, found: Found, photos: list[Photo]) -> None:
    entries = []
    for photo in photos:
        entry: dict[str, Any] = {"name": photo.name, "status": "used" if photo.used else "excluded"}
        entry |= {key: value for key, value in asdict(photo).items() if key not in (*entry, "signature")}
        entries.append(entry)
    ignored = [{"source": name, "reason": reason} for name, reason in sorted(found.ignored.items())]
    content = {"source": source, "photos": entries, "ignored": ignored}
    files.write_json(run.dir / "photos.json", content)


def _answer_keep(run: StageRun, p: IngestParams, photos: list[Photo]) -> None:
    """Say of each name in `keep` that could not be followed why not."""
    for name in sorted(kept_names(p)):
        named = [photo for photo in photos if name in names_of(photo)]
        broken = [photo for photo in named if not photo.used]
        if not named:
            run.warn(f"ingest.keep names {name}, and there is no such photograph")
        elif broken:
            run.warn(f"{name} cannot be kept: {broken[0].reason}")


def _describe_flight(run: StageRun, p: IngestParams, used: list[Photo]) -> None:
    about = flight.describe(used, p)
    files.write_json(run.dir / FLIGHT, about)
    for name in ("gsd_cm", "overlap_along", "overlap_across"):
        run.metrics[name] = about[name]
    run.metrics["flying_height_m"] = about["height_m"]
    known = [share for share in (about["overlap_along"], about["overlap_across"]) if share is not None]
    if known and min(known) < p.min_overlap:
        run.warn(flight.overlap_words(about, p.min_overlap))


def _too_few(source: str, found: Found, photos: list[Photo]) -> PhotosError:
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


def _place_by_geo(run: StageRun, found: Found, photos: list[Photo]) -> list[Photo]:
    """Photographs with the positions of geo.txt, where there is one."""
    path = control.beside(found.root, control.GEO)
    if path is None:
        return photos
    geo = control.read_geo(path)
    placed, left = control.apply_geo(photos, geo)
    for problem in (*geo.problems[:5], *left):
        run.warn(problem)
    return placed


def _hand_on(run: StageRun, found: Found, photos: list[Photo]) -> None:
    """Write what others surveyed or reconstructed before: control points, and poses of a transforms.json."""
    path = control.beside(found.root, control.GCP_LIST)
    if path is not None:
        points = control.read_points(path, photos)
        for problem in points.problems:
            run.warn(problem)
        run.metrics["n_control_points"] = len(points.rows)
        files.write_json(run.output(POINTS), points.rows)
    if found.frames is not None:
        count, problems = transforms.write_model(found.frames, photos, run.dir / GIVEN / "sparse")
        for problem in problems:
            run.warn(problem)
        run.metrics["n_given_poses"] = count
        if count:
            run.output(GIVEN)
            if found.frames.points is None:
                run.warn(
                    "the poses of transforms.json come without points (sparse_pc.ply): training needs some"
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
        named = ", ".join(photo.source for photo in doubtful[:5])
        run.warn(f"GPS of {len(doubtful)} photographs is not believed: {doubtful[0].gps_problem} ({named})")
    odd = [photo for photo in used if photo.remark]
    if odd:
        run.warn(f"{len(odd)} used though odd: {odd[0].remark} ({', '.join(p.source for p in odd[:5])})")
    if 0 < with_gps < len(used):
        run.warn(f"{len(used) - with_gps} of {len(used)} photographs have no GPS")
    sizes = Counter((photo.width, photo.height) for photo in used)
    if len(sizes) > 1:
        listed = ", ".join(f"{count} × {w}×{h}" for (w, h), count in sizes.most_common(4))
        run.warn(f"photographs of {len(sizes)} sizes: {listed}")
