"""Which readable photographs are not used, and whose GPS is not believed: rules over the whole set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Float

from spaceport_lab.cameras import gps_to_enu
from spaceport_lab.ingest.photos import Photo
from spaceport_lab.params import IngestParams

FLAT_CONTRAST = 2.0
"""Grey levels: below this standard deviation there is nothing in the picture to recognise."""

NEIGHBOURS = 3
"""Photographs before and after, each, that one's sharpness is held against."""

ONE_CAMERA, FEWEST_OF_ONE = 0.8, 5
"""A set is of one camera when at least this share of it, and at least so many photographs, are."""

STRAYS = 2
"""Photographs of another camera that are taken for strays; more of them are meant to be there."""

MIN_JUMP_M = 25.0
"""GPS without correction errs by metres: shorter jumps are no jumps."""

ELSEWHERE_M = 20_000.0

Rule = Callable[[Sequence[Photo]], dict[int, str]]


def leave_out(photos: Sequence[Photo], p: IngestParams) -> list[Photo]:
    """Apply the rules that decide which readable photographs are not used, each with its reason.

    Rules come one after another, and each judges only what the ones before left in: what a photograph is by
    itself, copies, another camera, blur against its neighbours, near-duplicates. What `p.keep` names stays,
    with the reason in `overruled`. Last, GPS that jumps is dropped; its photograph stays.

    Args:
        photos: judged ones, in order; of duplicates the first is kept.
        p: thresholds.
    """
    kept = list(photos)
    names = kept_names(p)
    rules: tuple[Rule, ...] = (
        lambda some: {i: why for i, photo in enumerate(some) if (why := _own_fault(photo, p))},
        lambda some: _copies(some) if p.exclude_duplicates else {},
        lambda some: _other_cameras(some)[0] if p.other_cameras == "exclude" else {},
        lambda some: _blurred(some, p.min_sharpness) if p.min_sharpness > 0 else {},
        lambda some: _nearly_the_same(some, p.max_similarity) if p.exclude_duplicates else {},
    )
    for rule in rules:
        alive = [i for i, photo in enumerate(kept) if photo.used and not photo.overruled]
        for index, why in rule([kept[i] for i in alive]).items():
            photo = kept[alive[index]]
            named = bool(names & names_of(photo))
            kept[alive[index]] = replace(photo, **{"overruled" if named else "reason": why})
    if p.other_cameras != "keep":
        used = [i for i, photo in enumerate(kept) if photo.used and not photo.overruled]
        strays, others = _other_cameras([kept[i] for i in used])
        for index, why in (others | strays).items():
            kept[used[index]] = replace(kept[used[index]], remark=why)
    return _without_jumps(kept, p.max_gps_jump) if p.max_gps_jump > 0 else kept


def in_order(photos: Sequence[Photo]) -> list[int]:
    """Indices in the order the photographs were taken where all say when, else by name."""
    timed = all(photo.taken for photo in photos)
    return sorted(
        range(len(photos)), key=lambda i: (photos[i].taken if timed else "", photos[i].source, photos[i].name)
    )


def kept_names(p: IngestParams) -> set[str]:
    """The names in `p.keep`, lower case."""
    return {name.strip().casefold() for name in p.keep.split(",") if name.strip()}


def names_of(photo: Photo) -> set[str]:
    """What a photograph can be called by in `keep`: its path, its file name, with and without the ending."""
    path = PurePosixPath(photo.source)
    return {str(n).casefold() for n in (photo.source, path.name, path.stem, photo.name)}


def _own_fault(photo: Photo, p: IngestParams) -> str | None:
    """Why a readable photograph cannot be used, whatever the others are like."""
    if min(photo.width, photo.height) < p.min_side:
        return f"too small: {photo.width}×{photo.height}, shorter side under {p.min_side} px"
    if photo.clipped > p.max_clipped:
        what = "over" if photo.exposure > 0.5 else "under"
        return f"{what}exposed: {photo.clipped:.0%} of it is pure black or white"
    if photo.contrast < FLAT_CONTRAST:
        return "flat: one colour, nothing in it to recognise"
    if not p.min_brightness <= photo.exposure <= p.max_brightness:
        what = "over" if photo.exposure > 0.5 else "under"
        return f"{what}exposed: mean brightness {photo.exposure:.0%}"
    return None


def _copies(photos: Sequence[Photo]) -> dict[int, str]:
    first_file: dict[str, str] = {}
    first_pixels: dict[str, str] = {}
    found = {}
    for i, photo in enumerate(photos):
        if photo.sha256 in first_file:
            found[i] = f"duplicate: the same file as {first_file[photo.sha256]}"
        elif photo.pixels_sha256 in first_pixels:
            found[i] = f"duplicate: the same picture as {first_pixels[photo.pixels_sha256]}"
        else:
            first_file[photo.sha256] = first_pixels[photo.pixels_sha256] = photo.source
    return found


def _other_cameras(photos: Sequence[Photo]) -> tuple[dict[int, str], dict[int, str]]:
    """Photographs of other cameras in a set of one: single strays, and those that come in numbers.

    Without make and model (edited pictures lose them) only the size can tell.
    """
    optics = [(p.make.casefold(), p.model.casefold(), *sorted((p.width, p.height))) for p in photos]
    counts = Counter(optics)
    if not counts:
        return {}, {}
    usual, count = counts.most_common(1)[0]
    if count < max(FEWEST_OF_ONE, ONE_CAMERA * len(photos)):
        return {}, {}
    example = photos[optics.index(usual)]
    strays, others = {}, {}
    for i, (photo, own) in enumerate(zip(photos, optics, strict=True)):
        unnamed = not (any(own[:2]) and any(usual[:2]))
        if own == usual or (unnamed and own[2:] == usual[2:]):
            continue
        why = f"wrong camera: {_camera(photo)} in a set of {_camera(example)}"
        (strays if counts[own] <= STRAYS else others)[i] = why
    return strays, others


def _camera(photo: Photo) -> str:
    name = photo.model if photo.model.startswith(photo.make) else f"{photo.make} {photo.model}"
    return f"{name.strip() or 'unnamed'} {photo.width}×{photo.height}"


def _blurred(photos: Sequence[Photo], least: float) -> dict[int, str]:
    """Those less sharp than a share of the median of their neighbours in flight.

    Ground changes along a flight: meadow after houses is no blur. Where neighbours are blurred too, a quarter
    of the whole set's median still counts.
    """
    order = in_order(photos)
    values = np.array([photos[i].sharpness for i in order])
    everywhere = float(np.median(values)) if len(values) else 0.0
    found = {}
    for k, i in enumerate(order):
        around = np.r_[values[max(0, k - NEIGHBOURS) : k], values[k + 1 : k + 1 + NEIGHBOURS]]
        usual = max(float(np.median(around)) if len(around) else 0.0, everywhere / 4)
        if values[k] < least * usual:
            found[i] = f"blurred: sharpness {values[k]:.2g} where its neighbours have {usual:.2g}"
    return found


def _nearly_the_same(photos: Sequence[Photo], most: float) -> dict[int, str]:
    """Those whose signature correlates with that of an earlier one by more than `most`."""
    if most >= 1 or not photos:
        return {}
    rows = np.stack([np.frombuffer(photo.signature, np.int8) for photo in photos]).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    order = in_order(photos)
    rows, chosen, found = rows[order], np.zeros(len(order), bool), {}
    for k, i in enumerate(order):
        alike = np.where(chosen[:k], rows[:k] @ rows[k], -1.0)
        best = int(np.argmax(alike)) if k else 0
        if k and alike[best] > most:
            twin = photos[order[best]].source
            found[i] = f"near-duplicate: almost the same picture as {twin} (correlation {alike[best]:.2f})"
        else:
            chosen[k] = True
    return found


def _without_jumps(photos: list[Photo], factor: float) -> list[Photo]:
    """Drop GPS that the drone cannot have flown to: faster in and out than `factor` times its usual speed."""
    order = [i for i in in_order(photos) if photos[i].used and photos[i].gps]
    photos = list(photos)
    while len(order) >= 5:
        places = local_enu([photos[i] for i in order])
        jump = _worst_jump(places, seconds_of([photos[i] for i in order]), factor)
        if jump is None:
            break
        k, why = jump
        photo = photos[order[k]]
        photos[order[k]] = replace(photo, gps=None, gps_problem=why)
        order.pop(k)
    return photos


def _worst_jump(
    places: Float[np.ndarray, "N 3"], seconds: Float[np.ndarray, "N"] | None, factor: float
) -> tuple[int, str] | None:
    """Index and reason of the position that is furthest from where it can be, or None."""
    away = np.linalg.norm(places - np.median(places, axis=0), axis=1)
    far = int(np.argmax(away))
    if away[far] > max(ELSEWHERE_M, 100 * np.median(away)):
        return far, f"GPS is {away[far] / 1000:,.0f} km from the other photographs"
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    waits = np.ones(len(steps)) if seconds is None else np.maximum(np.diff(seconds), 1.0)
    speeds = steps / waits
    limit = factor * max(float(np.median(speeds)), 1e-3)
    fast = (speeds > limit) & (steps > MIN_JUMP_M)
    worst, reason = None, ""
    for k in range(len(places)):
        sides = [s for s in (k - 1, k) if 0 <= s < len(steps)]
        if not all(fast[s] for s in sides):
            continue
        if len(sides) == 2:
            # Without this one the flight must go on as usual, else its neighbour is the stray.
            bridge = np.linalg.norm(places[k + 1] - places[k - 1])
            honest = bridge <= max(limit * (waits[k - 1] + waits[k]) / 2, MIN_JUMP_M)
        else:
            beyond = 1 if k == 0 else len(steps) - 2
            honest = not fast[beyond]
        size = min(steps[s] for s in sides)
        if honest and (worst is None or size > worst[1]):
            worst = (k, size)
            unit = "m per photograph" if seconds is None else "m/s"
            reason = (
                f"GPS jumps by {size:,.0f} m: {min(speeds[s] for s in sides):.0f} {unit} in a flight "
                f"of {np.median(speeds):.1f}"
            )
    return (worst[0], reason) if worst is not None else None


def local_enu(photos: Sequence[Photo]) -> Float[np.ndarray, "N 3"]:
    """East, north and up of photographs with GPS, metres from their middle."""
    heights = [photo.gps["alt"] for photo in photos if photo.gps["alt"] is not None]
    usual = float(np.median(heights)) if heights else 0.0
    rows = np.array(
        [(g["lat"], g["lon"], usual if g["alt"] is None else g["alt"]) for g in (p.gps for p in photos)]
    )
    return gps_to_enu(rows, np.median(rows, axis=0))


def seconds_of(photos: Sequence[Photo]) -> Float[np.ndarray, "N"] | None:
    """When each was taken, seconds; None where one does not say or all say the same."""
    try:
        moments = [datetime.strptime(photo.taken[:19], "%Y:%m:%d %H:%M:%S") for photo in photos]
    except ValueError:
        return None
    seconds = np.array([(moment - moments[0]).total_seconds() for moment in moments])
    return seconds if np.ptp(seconds) > 0 else None
