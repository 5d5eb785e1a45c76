"""Models from a database of matches: both mappers, and which of their models is the better. Worker only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from spaceport_lab.sfm import shapes, ties
from spaceport_lab.sfm.features import Attempt, database_path
from spaceport_lab.sfm.georeference import GpsFit
from spaceport_lab.sfm.reporter import Reporter

TWO_VIEW_PX = 1.0
"""Most that a point seen by two photographs may miss its features by, pixels."""


@dataclass
class Candidate:
    """One mapper's largest model, cleaned of poses that nothing ties to the others.

    Attributes:
        attempt: it came from.
        mapper: incremental or global.
        model: COLMAP's.
        elsewhere: name → size, of photographs in smaller models of the same mapper.
        dropped: name → points shared with two others, of photographs taken out.
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
        return len(self.figures) - len(shapes.badly_placed(self.figures))

    @property
    def error_px(self) -> float:
        return self.model.compute_mean_reprojection_error()

    def card(self) -> dict[str, Any]:
        """Its figures, for registration.json."""
        fitted = isinstance(self.fit, GpsFit)
        return {
            "attempt": self.attempt.number,
            "matching": self.attempt.matching,
            "profile": self.attempt.settings.profile,
            "first_octave": self.attempt.settings.first_octave,
            "mapper": self.mapper,
            "n_registered": self.n_registered,
            "n_well_placed": self.n_well_placed,
            "n_points": self.model.num_points3D(),
            "reprojection_error_px": self.error_px,
            "gps_rmse_m": self.fit.rmse if fitted else None,
            "gps_inliers": int(self.fit.inliers.sum()) if fitted else None,
        }


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


def _map_incremental(
    job: dict[str, Any], attempt: Attempt, reachable: int, thorough: bool, reporter: Reporter
) -> dict[int, pycolmap.Reconstruction]:
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = job["threads"]
    options.random_seed = job["params"]["seed"]
    options.min_model_size = 3
    options.extract_colors = False  # the chosen model gets its colours with the last of its points
    if attempt.settings.light:
        # Bundle adjustment at every 50 % of growth and no finer than it changes anything: half the time of
        # the defaults, with the same registrations and the same error to the third digit.
        options.ba_global_frames_ratio = options.ba_global_points_ratio = 1.5
        options.ba_global_max_refinements, options.ba_local_max_refinements = 2, 1
        options.ba_global_function_tolerance = options.ba_local_function_tolerance = 1e-5
    done = 2

    def next_image() -> None:
        nonlocal done
        done += 1
        share = min(1.0, done / reachable)
        reporter.progress(share, "mapping, incremental", done=min(done, reachable), of=reachable)

    reporter.progress(0, "mapping, incremental")
    out = _fresh(job, attempt, "incremental")
    return pycolmap.incremental_mapping(
        database_path(job, attempt), job["images"], out, options, next_image_callback=next_image
    )


def _map_global(
    job: dict[str, Any], attempt: Attempt, reachable: int, thorough: bool, reporter: Reporter
) -> dict[int, pycolmap.Reconstruction]:
    options = pycolmap.GlobalPipelineOptions()
    options.num_threads = job["threads"]
    options.random_seed = job["params"]["seed"]
    # A first bundle adjustment with the rotations held takes a third of the time and changes nothing.
    options.mapper.ba_skip_fixed_rotation_stage = True
    if not thorough:
        # Poses from this many tracks a view, all triangulated afterwards: a third of the time. Groups that
        # hang together by a few tracks would lose those, and their scale with them.
        options.mapper.track_required_tracks_per_view = 300
    if attempt.settings.light:
        # Half the time of bundle adjustment; what is refined after retriangulation ends at the same error.
        options.mapper.bundle_adjustment.ceres.solver_options.function_tolerance = 1e-4
    out = _fresh(job, attempt, "global")
    with reporter.counting(r"=== Running ", 5, "mapping, global"):
        return pycolmap.global_mapping(database_path(job, attempt), job["images"], out, options)


MAPPERS = {"incremental": _map_incremental, "global": _map_global}


def largest(models: dict[int, pycolmap.Reconstruction], attempt: Attempt, mapper: str) -> Candidate | None:
    """The model of most photographs, without poses that nothing ties to them; None if nothing is left."""
    ordered = sorted(models.values(), key=lambda m: (m.num_reg_images(), m.num_points3D()), reverse=True)
    if not ordered:
        return None
    model = ordered[0]
    dropped = _drop_loose(model)
    if model.num_reg_images() < 2 or model.num_points3D() == 0:
        return None
    kept = {model.image(i).name for i in model.reg_image_ids()}
    elsewhere: dict[str, int] = {}
    for other in ordered[1:]:
        for image_id in other.reg_image_ids():
            if other.image(image_id).name not in kept:
                elsewhere.setdefault(other.image(image_id).name, other.num_reg_images())
    return Candidate(attempt, mapper, model, elsewhere, dropped, shapes.image_figures(model))


def _drop_loose(model: pycolmap.Reconstruction) -> dict[str, int]:
    """Take out photographs that the largest group does not reach; returns how many ties each has to it."""
    ids = sorted(model.reg_image_ids())
    seen = shapes.seen(model, ids)
    kept = next(iter(ties.groups(seen)), np.zeros(len(ids), bool))
    found = ties.count(seen, kept)
    dropped: dict[str, int] = {}
    for k in np.flatnonzero(~kept):
        image = model.image(ids[k])
        dropped[image.name] = int(found[k])
        model.deregister_frame(image.frame_id)
    return dropped


def add_pairs(job: dict[str, Any], candidate: Candidate) -> int:
    """Triangulate what only two photographs see, which mapping leaves out; returns how many points have two.

    Cameras are held, so that nothing hangs on such points: along its epipolar line a wrong match is not
    noticed. On the sample scene they are 9 cm off at the median where longer tracks are 2 cm off, and one in
    twenty by more than a metre where it is one in a hundred: too coarse to hold a camera, good to start a
    Gaussian from. Those that do not fit to `TWO_VIEW_PX` go.
    """
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = job["threads"]
    options.random_seed = job["params"]["seed"]
    options.triangulation.ignore_two_view_tracks = False
    model, out = candidate.model, _fresh(job, candidate.attempt, "pairs")
    database = database_path(job, candidate.attempt)
    pycolmap.triangulate_points(model, database, job["images"], out, clear_points=False, options=options)
    count = 0
    for point_id, point in list(model.points3D.items()):
        if point.track.length() == 2:
            if point.error > TWO_VIEW_PX:
                model.delete_point3D(point_id)
            else:
                count += 1
    candidate.figures = shapes.image_figures(model)
    return count


def _fresh(job: dict[str, Any], attempt: Attempt, name: str) -> Path:
    folder = Path(job["work"]) / f"{name}{attempt.number}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
