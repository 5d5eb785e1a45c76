"""Photographs to a model, with pycolmap. Only the worker process imports this."""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pycolmap

from spaceport_lab.errors import ReconstructionError
from spaceport_lab.sfm import finishing, masks
from spaceport_lab.sfm.georeference import GpsFit
from spaceport_lab.sfm.pairs import choose_matching, make_pairs
from spaceport_lab.sfm.registration import (
    MIN_INLIERS,
    MIN_OBSERVATIONS,
    components,
    describe,
    list_reasons,
    what_to_try,
)
from spaceport_lab.sfm.reporter import Reporter

GOOD_SHARE, GOOD_POINTS = 0.9, 1000
"""A first attempt that registers less than this share, or makes fewer points, is followed by a second one."""

PAIRS_AT_ONCE = 40
"""COLMAP says how far it is after this many pairs."""

SCALE_SPACE_BYTES = 70
"""Memory SIFT takes for each pixel it works on, measured."""

RETRY_FEATURES = 2
"""The second attempt may keep this many times the features."""


@dataclass(frozen=True)
class Attempt:
    """How features are found and which pairs are matched.

    Attributes:
        number: 1 or 2.
        first_octave: −1 doubles the photographs before features are sought.
        max_num_features: kept per photograph.
        matching: spatial, exhaustive or sequential.
        database: file name of the one it fills or goes on with.
    """

    number: int
    first_octave: int
    max_num_features: int
    matching: str
    database: str


@dataclass
class Candidate:
    """One mapper's largest model, cleaned of poses held by too few points.

    Attributes:
        attempt: it came from.
        mapper: incremental or global.
        model: COLMAP's.
        elsewhere: name → size, of photographs in smaller models of the same mapper.
        dropped: name → 3D points seen, of photographs taken out.
        figures: name → points seen and reprojection error.
        fit: onto GPS, or why there is none.
    """

    attempt: Attempt
    mapper: str
    model: pycolmap.Reconstruction
    elsewhere: dict[str, int]
    dropped: dict[str, int]
    figures: dict[str, dict[str, Any]]
    fit: GpsFit | str = "not asked for"

    @property
    def n_registered(self) -> int:
        return self.model.num_reg_images()

    @property
    def n_well_placed(self) -> int:
        """Photographs that fit like the others: a wrong pose shows in a reprojection error of its own."""
        return len(self.figures) - len(finishing.badly_placed(self.figures))

    @property
    def error_px(self) -> float:
        return self.model.compute_mean_reprojection_error()

    def card(self) -> dict[str, Any]:
        """Its figures, for registration.json."""
        fitted = isinstance(self.fit, GpsFit)
        return {
            "attempt": self.attempt.number,
            "matching": self.attempt.matching,
            "first_octave": self.attempt.first_octave,
            "mapper": self.mapper,
            "n_registered": self.n_registered,
            "n_well_placed": self.n_well_placed,
            "n_points": self.model.num_points3D(),
            "reprojection_error_px": self.error_px,
            "gps_rmse_m": self.fit.rmse if fitted else None,
            "gps_inliers": int(self.fit.inliers.sum()) if fitted else None,
        }


def reconstruct(job: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Run the whole of structure from motion and write what the stage hands on.

    Raises:
        ReconstructionError: no model could be made, with each photograph's reason.
    """
    photos, params = job["photos"], job["params"]
    pycolmap.set_random_seed(params["seed"])
    names = [photo["name"] for photo in photos]
    origin, gps = finishing.local_gps(photos)
    matching = choose_matching(params["matching"], gps)
    small = float(np.median([max(photo["width"], photo["height"]) for photo in photos]))
    octave = -1 if small < params["upsample_below"] else 0
    first = Attempt(1, octave, params["max_num_features"], matching, "features1.db")
    reporter.span(0, 50)
    candidates = _attempt(job, first, gps, reporter)
    best = choose(candidates)
    last = first
    if params["retry"] and _is_poor(best, len(names)):
        second = _second(job, first)
        if second is not None:
            last = second
            reporter.span(50, 85)
            candidates += _attempt(job, last, gps, reporter)
            best = choose(candidates)
    if best is None:
        raise _nothing(_rows(job, last, None, gps))
    reporter.span(85, 100)
    rows = _rows(job, best.attempt, best, gps)
    card = {
        "mapper": best.mapper,
        "matching": best.attempt.matching,
        "candidates": [c.card() for c in sorted(candidates, key=lambda c: c is not best)],
        "photographs": rows,
        "pairs": [[i, j, n] for (i, j), n in sorted(_inliers(job, best.attempt, names).items()) if n > 0],
    }
    fit = (best.fit, origin) if isinstance(best.fit, GpsFit) else None
    return finishing.finish(job, best.model, fit, card, reporter) | {
        "badly_placed": finishing.badly_placed(best.figures),
        "gps_problem": best.fit if fit is None and params["georeference"] and origin is not None else None,
    }


def _is_poor(best: Candidate | None, n_photos: int) -> bool:
    if best is None:
        return True
    return best.n_registered < GOOD_SHARE * n_photos or best.model.num_points3D() < GOOD_POINTS


def _second(job: dict[str, Any], first: Attempt) -> Attempt | None:
    """Every pair, and denser features where there are more to be had; None where the first did all that."""
    with closing(pycolmap.Database.open(_database(job, first))) as database:
        found = [database.num_keypoints_for_image(i.image_id) for i in database.read_all_images()]
    # Where the cap cut nothing off, a higher one finds nothing more.
    exhausted = first.first_octave == -1 and np.median(found or [0]) < 0.9 * first.max_num_features
    if not exhausted:
        more = RETRY_FEATURES * first.max_num_features
        return Attempt(2, -1, more, "exhaustive", "features2.db")
    if first.matching != "exhaustive":
        return Attempt(2, -1, first.max_num_features, "exhaustive", first.database)
    return None


def _nothing(rows: list[dict[str, Any]]) -> ReconstructionError:
    return ReconstructionError(
        "these photographs give no reconstruction",
        got=f"none of the {len(rows)} photographs could be placed\n            {list_reasons(rows)}",
        expected="photographs of one place that overlap by 60 % and more",
        hint=what_to_try(rows),
    )


def choose(candidates: list[Candidate]) -> Candidate | None:
    """The best by photographs well placed, then by positions that agree with GPS, then by reprojection error.

    Agreement is judged with the smallest noise any candidate has, otherwise a bent model's larger noise would
    excuse its own bends.
    """
    fits = [c.fit for c in candidates if isinstance(c.fit, GpsFit)]
    limit = max(1.0, 4.0 * min((fit.sigma for fit in fits), default=0.0))

    def rank(candidate: Candidate) -> tuple[int, int, float]:
        agree = 0
        if isinstance(candidate.fit, GpsFit):
            agree = int((np.linalg.norm(candidate.fit.residuals, axis=1) <= limit).sum())
        return candidate.n_well_placed, agree, -candidate.error_px

    return max(candidates, key=rank, default=None)


def _attempt(job: dict[str, Any], attempt: Attempt, gps: np.ndarray, reporter: Reporter) -> list[Candidate]:
    """Features, matches and models of one attempt; a database that is there already is gone on with."""
    start, end = reporter.current_span
    middle = [start + (end - start) * share for share in (0, 0.3, 0.6, 1)]
    database = _database(job, attempt)
    if not database.exists():
        reporter.span(middle[0], middle[1])
        _extract(job, attempt, database, reporter)
    reporter.span(middle[1], middle[2])
    _match(job, attempt, database, gps, reporter)
    names = [photo["name"] for photo in job["photos"]]
    verified = [pair for pair, n in _inliers(job, attempt, names).items() if n >= MIN_INLIERS]
    if not verified:
        return []
    reporter.span(middle[2], middle[3])
    wanted = ("incremental", "global") if job["params"]["mapper"] == "auto" else (job["params"]["mapper"],)
    group = components(len(names), verified)
    reachable = group.count(0)
    candidates = []
    for number, mapper in enumerate(wanted):
        reporter.span(
            middle[2] + (middle[3] - middle[2]) * number / len(wanted),
            middle[2] + (middle[3] - middle[2]) * (number + 1) / len(wanted),
        )
        # What the first mapper left out, the second has to find by looking at everything.
        thorough = not any(c.n_registered == reachable for c in candidates)
        models = _MAPPERS[mapper](job, attempt, database, reachable, thorough, reporter)
        candidate = _largest(models, attempt, mapper)
        if candidate is not None:
            candidate.fit = finishing.fit_to_gps(candidate.model, names, gps, job["params"])
            candidates.append(candidate)
    return candidates


def _extract(job: dict[str, Any], attempt: Attempt, database: Path, reporter: Reporter) -> None:
    """SIFT of every photograph; one camera for each group of equal size and optics."""
    params = job["params"]
    options = pycolmap.FeatureExtractionOptions()
    options.max_image_size = params["max_image_size"]
    options.num_threads = _threads_that_fit(job, attempt)
    options.use_gpu = False
    options.sift.max_num_features = attempt.max_num_features
    options.sift.first_octave = attempt.first_octave
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = params["camera_model"]
    if job.get("masks"):
        reader.mask_path = masks.for_all(Path(job["masks"]), job["photos"], Path(job["work"]) / "masks")
    groups: dict[str, list[str]] = defaultdict(list)
    for photo in job["photos"]:
        groups[photo["group"]].append(photo["name"])
    message = "finding features" if attempt.number == 1 else "finding more features"
    with reporter.counting(r"Processed file \[", len(job["photos"]), message):
        for group in groups.values():
            pycolmap.extract_features(
                database,
                job["images"],
                image_names=group,
                camera_mode=pycolmap.CameraMode.SINGLE,
                reader_options=reader,
                extraction_options=options,
            )


def _threads_that_fit(job: dict[str, Any], attempt: Attempt) -> int:
    """As many as there are, or as many as the free memory holds scale spaces."""
    longest = max(max(photo["width"], photo["height"]) for photo in job["photos"])
    side = min(longest, job["params"]["max_image_size"]) * (2 if attempt.first_octave == -1 else 1)
    needed = SCALE_SPACE_BYTES * 0.75 * side**2
    return int(max(1, min(job["threads"], 0.7 * psutil.virtual_memory().available / needed)))


def _match(
    job: dict[str, Any], attempt: Attempt, database: Path, gps: np.ndarray, reporter: Reporter
) -> None:
    """Match the pairs and verify them geometrically."""
    names = [photo["name"] for photo in job["photos"]]
    pairs = make_pairs(attempt.matching, gps, job["params"]["spatial_neighbors"])
    options = pycolmap.FeatureMatchingOptions()
    options.num_threads, options.use_gpu = job["threads"], False
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = job["params"]["seed"]
    pairing = pycolmap.ImportedPairingOptions()
    pairing.block_size = PAIRS_AT_ONCE
    pairing.match_list_path = Path(job["work"]) / f"pairs{attempt.number}.txt"
    pairing.match_list_path.write_text("".join(f"{names[i]} {names[j]}\n" for i, j in pairs))
    shown = f"matching {len(pairs):,} {attempt.matching} pairs"
    with reporter.counting(r"Processing block \[", -(-len(pairs) // PAIRS_AT_ONCE), shown):
        pycolmap.match_image_pairs(database, options, pairing, verification_options=verification)


def _map_incremental(
    job: dict[str, Any], attempt: Attempt, database: Path, reachable: int, thorough: bool, reporter: Reporter
) -> dict[int, pycolmap.Reconstruction]:
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = job["threads"]
    options.random_seed = job["params"]["seed"]
    options.min_model_size = 3
    # Bundle adjustment at every 30 % of growth and no finer than it changes anything: half the time of the
    # defaults, with the same registrations and the same error to the third digit.
    options.ba_global_frames_ratio = options.ba_global_points_ratio = 1.3
    options.ba_global_max_refinements, options.ba_local_max_refinements = 2, 1
    options.ba_global_function_tolerance, options.ba_local_function_tolerance = 1e-6, 1e-5
    done = 2

    def next_image() -> None:
        nonlocal done
        done += 1
        reporter.progress(done / reachable, "mapping, incremental", done=min(done, reachable), of=reachable)

    reporter.progress(0, "mapping, incremental")
    out = _fresh(job, attempt, "incremental")
    return pycolmap.incremental_mapping(database, job["images"], out, options, next_image_callback=next_image)


def _map_global(
    job: dict[str, Any], attempt: Attempt, database: Path, reachable: int, thorough: bool, reporter: Reporter
) -> dict[int, pycolmap.Reconstruction]:
    options = pycolmap.GlobalPipelineOptions()
    options.num_threads = job["threads"]
    options.random_seed = job["params"]["seed"]
    if not thorough:
        # Poses from this many tracks a view, all triangulated afterwards: a third of the time. Groups that
        # hang together by a few tracks would lose those, and their scale with them.
        options.mapper.track_required_tracks_per_view = 500
    out = _fresh(job, attempt, "global")
    with reporter.counting(r"=== Running ", 5, "mapping, global"):
        return pycolmap.global_mapping(database, job["images"], out, options)


_MAPPERS = {"incremental": _map_incremental, "global": _map_global}


def _largest(models: dict[int, pycolmap.Reconstruction], attempt: Attempt, mapper: str) -> Candidate | None:
    """The model of most photographs, without poses that too few points hold; None if nothing is left."""
    ordered = sorted(models.values(), key=lambda m: (m.num_reg_images(), m.num_points3D()), reverse=True)
    if not ordered:
        return None
    model = ordered[0]
    dropped: dict[str, int] = {}
    while True:
        weak = [i for i in model.reg_image_ids() if model.image(i).num_points3D < MIN_OBSERVATIONS]
        if not weak:
            break
        for image_id in weak:
            image = model.image(image_id)
            dropped[image.name] = image.num_points3D
            model.deregister_frame(image.frame_id)
    if model.num_reg_images() < 2 or model.num_points3D() == 0:
        return None
    kept = {model.image(i).name for i in model.reg_image_ids()}
    elsewhere: dict[str, int] = {}
    for other in ordered[1:]:
        for image_id in other.reg_image_ids():
            if other.image(image_id).name not in kept:
                elsewhere.setdefault(other.image(image_id).name, other.num_reg_images())
    return Candidate(attempt, mapper, model, elsewhere, dropped, finishing.image_figures(model))


def _rows(
    job: dict[str, Any], attempt: Attempt, best: Candidate | None, gps: np.ndarray
) -> list[dict[str, Any]]:
    names = [photo["name"] for photo in job["photos"]]
    with closing(pycolmap.Database.open(_database(job, attempt))) as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        features = [database.num_keypoints_for_image(ids[n]) if n in ids else 0 for n in names]
    registered = best.figures if best else {}
    elsewhere, dropped = (best.elsewhere, best.dropped) if best else ({}, {})
    rows = describe(names, features, _inliers(job, attempt, names), registered, elsewhere, dropped)
    for row, position in zip(rows, gps.tolist(), strict=True):
        row["gps_enu_m"] = position if np.isfinite(position).all() else None
    return rows


def _inliers(job: dict[str, Any], attempt: Attempt, names: list[str]) -> dict[tuple[int, int], int]:
    """(i, j) → verified matches, by position in `names`."""
    index = {name: i for i, name in enumerate(names)}
    with closing(pycolmap.Database.open(_database(job, attempt))) as database:
        of_id = {image.image_id: index[image.name] for image in database.read_all_images()}
        pair_ids, counts = database.read_two_view_geometry_num_inliers()
    pairs = (tuple(sorted(of_id[k] for k in pycolmap.pair_id_to_image_pair(pair))) for pair in pair_ids)
    return dict(zip(pairs, map(int, counts), strict=True))


def _database(job: dict[str, Any], attempt: Attempt) -> Path:
    return Path(job["work"]) / attempt.database


def _fresh(job: dict[str, Any], attempt: Attempt, name: str) -> Path:
    folder = Path(job["work"]) / f"{name}{attempt.number}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
