"""Photographs to a model, with pycolmap. Only the worker process imports this."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pycolmap
from scipy.sparse import csr_array

from spaceport_lab.errors import ReconstructionError
from spaceport_lab.sfm import features, finishing, lens, placing, profiles, shapes, ties
from spaceport_lab.sfm.features import Attempt
from spaceport_lab.sfm.mapping import MAPPERS, Candidate, add_pairs, choose, largest
from spaceport_lab.sfm.pairs import EXHAUSTIVE_UP_TO, choose_matching, make_pairs
from spaceport_lab.sfm.profiles import PROFILES, climb, longest_side
from spaceport_lab.sfm.registration import MIN_INLIERS, describe, list_reasons, what_to_try
from spaceport_lab.sfm.reporter import Reporter

GOOD_SHARE, GOOD_POINTS = 0.9, 1000
"""A first attempt that registers less than this share, or makes fewer points, is followed by a second one."""

RETRY_NEIGHBORS = 3
"""In sets too large for all pairs, the second attempt compares each photograph with so many times as many."""


def reconstruct(job: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Run the whole of structure from motion and write what the stage hands on.

    Raises:
        ReconstructionError: no model could be made, with each photograph's reason.
    """
    photos, params = job["photos"], job["params"]
    pycolmap.set_random_seed(params["seed"])
    names = [photo["name"] for photo in photos]
    origin, gps = placing.local_gps(photos)
    first, why = _first(job, gps)
    reporter.span(0, 50)
    work: list[dict[str, Any]] = []
    candidates = _attempt(job, first, gps, reporter, work)
    best = choose(candidates)
    last, chosen = first, f"{first.settings.profile}: {why}"
    if params["retry"] and (problem := _what_is_poor(best, len(names))):
        second = _second(job, first)
        if second is not None:
            last = second
            chosen += f"; then {second.settings.profile} with {second.matching} pairs, because {problem}"
            reporter.span(50, 85)
            candidates += _attempt(job, last, gps, reporter, work)
            best = choose(candidates)
    if best is None:
        raise _nothing(_rows(job, last, None, gps))
    reporter.span(85, 100)
    reporter.progress(0, "triangulating pairs")
    n_of_two = add_pairs(job, best)
    lens_reason = f"{params['camera_model']}: asked for"
    if params["camera_model"] == "auto":
        lens_reason = lens.settle(best.model, job["threads"])
        best.figures = shapes.image_figures(best.model)
        best.fit = placing.fit_to_gps(best.model, names, gps, params)
    rows = _rows(job, best.attempt, best, gps)
    card = {
        "profile": best.attempt.settings.profile,
        "profile_reason": chosen,
        "camera_reason": lens_reason,
        "mapper": best.mapper,
        "matching": best.attempt.matching,
        "attempts": work,
        "candidates": [c.card() for c in sorted(candidates, key=lambda c: c is not best)],
        "photographs": rows,
        "pairs": [[i, j, n] for (i, j), n in sorted(_inliers(job, best.attempt, names).items()) if n > 0],
    }
    has_gps = {name for name, position in zip(names, gps, strict=True) if np.isfinite(position).all()}
    place, problems = placing.settle(best.model, best.fit, origin, job.get("gcps", []), has_gps, params)
    return finishing.finish(job, best.model, place, card, reporter) | {
        "profile": card["profile"],
        "profile_reason": chosen,
        "camera_reason": lens_reason,
        "n_points_of_two": n_of_two,
        "badly_placed": shapes.badly_placed(best.figures),
        "place_problems": problems,
        "is_metric": place is not None,
    }


def _first(job: dict[str, Any], gps: np.ndarray) -> tuple[Attempt, str]:
    """The first attempt and why it is as it is."""
    matching = choose_matching(job["params"]["matching"], gps)
    size = longest_side(job["photos"])
    n_pairs = {
        name: len(make_pairs(matching, gps, profiles.fill(name, job["params"], size).spatial_neighbors))
        for name in PROFILES
    }
    settings, why = profiles.choose_profile(job["params"], job["photos"], n_pairs)
    return Attempt(1, settings, matching, "features1.db"), why


def _what_is_poor(best: Candidate | None, n_photos: int) -> str:
    """What is wrong with the best model so far, in words; empty when it will do."""
    if best is None:
        return "the first attempt made no model"
    if best.n_registered < GOOD_SHARE * n_photos:
        return f"only {best.n_registered} of {n_photos} photographs were registered"
    points = best.model.num_points3D()
    return f"there were only {points} points" if points < GOOD_POINTS else ""


def _second(job: dict[str, Any], first: Attempt) -> Attempt | None:
    """More pairs, and the next profile where it finds more; None where the first did all that."""
    with closing(pycolmap.Database.open(features.database_path(job, first))) as database:
        found = [database.num_keypoints_for_image(i.image_id) for i in database.read_all_images()]
    settings = climb(
        first.settings, job["params"], longest_side(job["photos"]), float(np.median(found or [0]))
    )
    matching = "exhaustive" if len(job["photos"]) <= EXHAUSTIVE_UP_TO else first.matching
    name = first.database if settings is None else "features2.db"
    settings = settings or first.settings
    if matching != "exhaustive":
        settings = replace(settings, spatial_neighbors=RETRY_NEIGHBORS * settings.spatial_neighbors)
    second = Attempt(2, settings, matching, name)
    return None if (second.settings, matching) == (first.settings, first.matching) else second


def _nothing(rows: list[dict[str, Any]]) -> ReconstructionError:
    return ReconstructionError(
        "these photographs give no reconstruction",
        got=f"none of the {len(rows)} photographs could be placed\n            {list_reasons(rows)}",
        expected="photographs of one place that overlap by 60 % and more",
        hint=what_to_try(rows),
    )


def _attempt(
    job: dict[str, Any],
    attempt: Attempt,
    gps: np.ndarray,
    reporter: Reporter,
    work: list[dict[str, Any]],
) -> list[Candidate]:
    """Features, matches and models of one attempt; a database that is there already is gone on with.

    What was done and how long it took is added to `work`.
    """
    start, end = reporter.current_span
    at = [start + (end - start) * share for share in (0, 0.3, 0.6, 1)]
    done: dict[str, Any] = {"number": attempt.number, "matching": attempt.matching, "seconds": {}}
    done |= {name: value for name, value in vars(attempt.settings).items() if name not in ("light", "both")}
    work.append(done)
    watch = _Watch(done["seconds"])
    if not features.database_path(job, attempt).exists():
        reporter.span(at[0], at[1])
        done["features"] = features.extract(job, attempt, reporter)
        watch.lap("features")
    reporter.span(at[1], at[2])
    done["pairs"] = features.match(job, attempt, gps, reporter)
    watch.lap("matches")
    reporter.span(at[2], at[3])
    return _map(job, attempt, gps, reporter, watch)


class _Watch:
    """Wall seconds of one thing after the other."""

    def __init__(self, into: dict[str, float]) -> None:
        self._into, self._last = into, time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self._into[name] = round(now - self._last, 2)
        self._last = now


def _map(
    job: dict[str, Any], attempt: Attempt, gps: np.ndarray, reporter: Reporter, watch: _Watch
) -> list[Candidate]:
    """A model of each mapper that is wanted."""
    names = [photo["name"] for photo in job["photos"]]
    if max(_inliers(job, attempt, names).values(), default=0) < MIN_INLIERS:
        return []
    wanted = ("incremental", "global") if job["params"]["mapper"] == "auto" else (job["params"]["mapper"],)
    # A mapper that has placed so many needs no other to find the rest.
    tied = ties.groups(_seen(job, attempt, names), ties.FIRM)
    reachable = int(tied[0].sum()) if tied else len(names)
    start, end = reporter.current_span
    candidates: list[Candidate] = []
    for number, mapper in enumerate(wanted):
        reporter.span(*(start + (end - start) * (number + k) / len(wanted) for k in (0, 1)))
        complete = any(c.n_registered == c.n_well_placed >= reachable for c in candidates)
        if complete and not attempt.settings.both:
            break
        # What the first mapper left out, the second has to find by looking at everything.
        thorough = not any(c.n_registered >= reachable for c in candidates)
        models = MAPPERS[mapper](job, attempt, reachable, thorough, reporter)
        watch.lap(mapper)
        candidate = largest(models, attempt, mapper)
        if candidate is not None:
            candidate.fit = placing.fit_to_gps(candidate.model, names, gps, job["params"])
            candidates.append(candidate)
    return candidates


def _rows(
    job: dict[str, Any], attempt: Attempt, best: Candidate | None, gps: np.ndarray
) -> list[dict[str, Any]]:
    names = [photo["name"] for photo in job["photos"]]
    with closing(pycolmap.Database.open(features.database_path(job, attempt))) as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        found = [database.num_keypoints_for_image(ids[n]) if n in ids else 0 for n in names]
    registered = best.figures if best else {}
    elsewhere = best.elsewhere if best else {}
    tied: dict[str, int] = {}
    if best:
        placed = np.array([name in registered for name in names])
        shared = ties.count(_seen(job, attempt, names), placed)
        tied = dict(zip(names, map(int, shared), strict=True)) | best.dropped
    rows = describe(names, found, _inliers(job, attempt, names), registered, elsewhere, tied)
    for row, position in zip(rows, gps.tolist(), strict=True):
        row["gps_enu_m"] = position if np.isfinite(position).all() else None
    return rows


def _inliers(job: dict[str, Any], attempt: Attempt, names: list[str]) -> dict[tuple[int, int], int]:
    """(i, j) → verified matches, by position in `names`."""
    index = {name: i for i, name in enumerate(names)}
    with closing(pycolmap.Database.open(features.database_path(job, attempt))) as database:
        of_id = {image.image_id: index[image.name] for image in database.read_all_images()}
        pair_ids, counts = database.read_two_view_geometry_num_inliers()
    pairs = (tuple(sorted(of_id[k] for k in pycolmap.pair_id_to_image_pair(pair))) for pair in pair_ids)
    return dict(zip(pairs, map(int, counts), strict=True))


def _seen(job: dict[str, Any], attempt: Attempt, names: list[str]) -> csr_array:
    """`ties.tracks` of all pairs that passed, photographs by position in `names`."""
    with closing(pycolmap.Database.open(features.database_path(job, attempt))) as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        n_features = [database.num_keypoints_for_image(ids[n]) if n in ids else 0 for n in names]
        place = {ids[name]: k for k, name in enumerate(names) if name in ids}
        pair_ids, geometries = database.read_two_view_geometries()
    matches = {}
    for pair_id, geometry in zip(pair_ids, geometries, strict=True):
        if len(geometry.inlier_matches) >= MIN_INLIERS:
            i, j = pycolmap.pair_id_to_image_pair(pair_id)
            matches[place[i], place[j]] = geometry.inlier_matches
    return ties.tracks(n_features, matches)
