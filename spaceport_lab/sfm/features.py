"""Features and matches into COLMAP's database, from the cache where they are known. Worker only."""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pycolmap

from spaceport_lab import files
from spaceport_lab.sfm import cache, lens, likely, masks
from spaceport_lab.sfm.cache import Cache
from spaceport_lab.sfm.pairs import make_pairs
from spaceport_lab.sfm.profiles import Settings
from spaceport_lab.sfm.reporter import Reporter

PAIRS_AT_ONCE = 40
"""COLMAP says how far it is after this many pairs."""

MANY_PAIRS = 200
"""From so many on, where all pairs are to be matched, only the likely ones are."""

SCALE_SPACE_BYTES = 70
"""Memory SIFT takes for each pixel it works on, measured."""


_hash = once(files.hash_file)  # nothing changes a photograph while a job runs

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Attempt:
    """How features are found and which pairs are matched.

    Attributes:
        number: 1 or 2.
        settings: of the profile.
        matching: spatial, exhaustive or sequential.
        database: file name of the one it fills or goes on with.
    """

    number: int
    settings: Settings
    matching: str
    database: str


def database_path(job: dict[str, Any], attempt: Attempt) -> Path:
    """COLMAP's database of an attempt."""
    return Path(job["work"]) / attempt.database


def open_cache(job: dict[str, Any]) -> Cache:
    """The scene's, where the job names one."""
    folder = job.get("cache") or job["work"]
    return Cache(Path(folder), int(job["params"]["cache_gb"] * 1e9) if job.get("cache") else 0)


def extract(job: dict[str, Any], attempt: Attempt, reporter: Reporter) -> dict[str, int]:
    """SIFT of every photograph; one camera for each group of equal size and optics.

    Returns:
        How many photographs were `cached` and how many `made`.
    """
    database = database_path(job, attempt)
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = lens.first_model(job["params"])
    if job.get("masks"):
        reader.mask_path = masks.for_all(Path(job["masks"]), job["photos"], Path(job["work"]) / "masks")
    groups: dict[str, list[str]] = defaultdict(list)
    for photo in job["photos"]:
        groups[photo["group"]].append(photo["name"])
    pycolmap.Database.open(database).close()
    for group in groups.values():
        # Before features are sought: then images are numbered in this order, not as threads happen to finish.
        pycolmap.import_images(database, job["images"], pycolmap.CameraMode.SINGLE, group, reader)
    store, keys = open_cache(job), feature_keys(job, attempt.settings)
    known = _put_features(database, store, keys)
    left = {name: key for name, key in keys.items() if name not in known}
    message = "finding features" if attempt.number == 1 else "finding more features"
    with reporter.counting(r"Processed file \[", len(left), message):
        for group in groups.values():
            names = [name for name in group if name in left]
            if names:
                pycolmap.extract_features(
                    database,
                    job["images"],
                    image_names=names,
                    camera_mode=pycolmap.CameraMode.SINGLE,
                    reader_options=reader,
                    extraction_options=_options(job, attempt.settings),
                )
    _keep_features(database, store, left)
    return {"cached": len(known), "made": len(left)}


def _options(job: dict[str, Any], settings: Settings) -> pycolmap.FeatureExtractionOptions:
    options = pycolmap.FeatureExtractionOptions()
    options.max_image_size = settings.max_image_size
    options.num_threads = _threads_that_fit(job, settings)
    options.use_gpu = False
    options.sift.max_num_features = settings.max_num_features
    options.sift.first_octave = settings.first_octave
    options.sift.peak_threshold = settings.peak_threshold
    options.sift.octave_resolution = settings.octave_resolution
    return options


def feature_keys(job: dict[str, Any], settings: Settings) -> dict[str, str]:
    """Name → key of its features; a limit that a photograph is within anyway does not count."""
    keys = {}
    for photo in job["photos"]:
        mask = Path(job["masks"]) / f"{photo['name']}.png" if job.get("masks") else None
        hidden = _hash(mask) if mask and mask.is_file() else None
        effective = {
            "size": min(settings.max_image_size, max(photo["width"], photo["height"])),
            "features": settings.max_num_features,
            "first_octave": settings.first_octave,
            "peak_threshold": settings.peak_threshold,
            "octave_resolution": settings.octave_resolution,
            "pycolmap": pycolmap.__version__,
        }
        keys[photo["name"]] = cache.feature_key(_hash(Path(job["images"]) / photo["name"]), hidden, effective)
    return keys


def _put_features(database: Path, store: Cache, keys: dict[str, str]) -> set[str]:
    """Write what the cache knows into the database; returns the names."""
    known = set()
    with closing(pycolmap.Database.open(database)) as db, pycolmap.DatabaseTransaction(db):
        ids = {image.name: image.image_id for image in db.read_all_images()}
        for name in ids.keys() & keys.keys():
            found = store.features(keys[name])
            if found is not None:
                db.write_keypoints(ids[name], found.keypoints)
                sift = pycolmap.FeatureExtractorType.SIFT
                db.write_descriptors(ids[name], pycolmap.FeatureDescriptors(sift, found.descriptors))
                known.add(name)
    return known


def _keep_features(database: Path, store: Cache, keys: dict[str, str]) -> None:
    if not store.limit:
        return
    with closing(pycolmap.Database.open(database)) as db:
        ids = {image.name: image.image_id for image in db.read_all_images()}
        for name in ids.keys() & keys.keys():
            if db.exists_keypoints(ids[name]) and db.exists_descriptors(ids[name]):
                found = cache.Features(db.read_keypoints(ids[name]), db.read_descriptors(ids[name]).data)
                store.keep_features(keys[name], found)


def _threads_that_fit(job: dict[str, Any], settings: Settings) -> int:
    """As many as there are, or as many as the free memory holds scale spaces."""
    longest = max(max(photo["width"], photo["height"]) for photo in job["photos"])
    side = min(longest, settings.max_image_size) * (2 if settings.first_octave == -1 else 1)
    needed = SCALE_SPACE_BYTES * 0.75 * side**2
    return int(max(1, min(job["threads"], 0.7 * psutil.virtual_memory().available / needed)))


def match(job: dict[str, Any], attempt: Attempt, gps: np.ndarray, reporter: Reporter) -> dict[str, int]:
    """Match the pairs and verify them geometrically.

    Returns:
        How many pairs were `cached` and how many `made`; in a large set without GPS also how many were
        passed over as `unlikely`.
    """
    database = database_path(job, attempt)
    names = [photo["name"] for photo in job["photos"]]
    pairs = [
        (names[i], names[j]) for i, j in make_pairs(attempt.matching, gps, attempt.settings.spatial_neighbors)
    ]
    store, setting = open_cache(job), _matching_setting(job, attempt.settings)
    keys = _with_camera(database, feature_keys(job, attempt.settings))
    known = _put_matches(database, store, setting, keys, pairs)
    left = [pair for pair in pairs if pair not in known]
    unlikely: dict[str, int] = {}
    if attempt.matching == "exhaustive" and attempt.number == 1 and len(pairs) >= MANY_PAIRS:
        # A second attempt leaves nothing out. What is cached is known, likely or not.
        chosen = set(_likely(database, pairs, reporter))
        unlikely = {"unlikely": sum(pair not in chosen for pair in left)}
        left = [pair for pair in left if pair in chosen]
    options = pycolmap.FeatureMatchingOptions()
    options.num_threads, options.use_gpu = job["threads"], False
    options.sift.max_ratio = attempt.settings.max_ratio
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = job["params"]["seed"]
    pairing = pycolmap.ImportedPairingOptions()
    pairing.block_size = PAIRS_AT_ONCE
    pairing.match_list_path = Path(job["work"]) / f"pairs{attempt.number}.txt"
    pairing.match_list_path.write_text("".join(f"{one} {other}\n" for one, other in left))
    shown = f"matching {len(left):,} {attempt.matching} pairs"
    if left:
        with reporter.counting(r"Processing block \[", -(-len(left) // PAIRS_AT_ONCE), shown):
            pycolmap.match_image_pairs(database, options, pairing, verification_options=verification)
    _keep_matches(database, store, setting, keys, left)
    store.trim()
    return {"cached": len(known), "made": len(left), **unlikely}


def _likely(database: Path, pairs: Pairs, reporter: Reporter) -> Pairs:
    """The pairs that share some of their coarsest features."""
    with closing(pycolmap.Database.open(database)) as db:
        coarse = {
            image.name: likely.coarsest(
                db.read_keypoints(image.image_id), db.read_descriptors(image.image_id).data
            )
            for image in db.read_all_images()
            if db.num_keypoints_for_image(image.image_id)
        }
    return likely.likely_pairs(
        pairs, coarse, lambda done, total: reporter.progress(0, f"{done:,} of {total:,} pairs looked at")
    )


def _with_camera(database: Path, keys: dict[str, str]) -> dict[str, str]:
    """Name → key for matching: geometry is verified with the cameras as first guessed, so they count too."""
    with closing(pycolmap.Database.open(database)) as db:
        cameras = {
            camera.camera_id: [camera.model_name, camera.params.tolist(), camera.has_prior_focal_length]
            for camera in db.read_all_cameras()
        }
        return {
            image.name: files.hash_json([keys[image.name], cameras[image.camera_id]])
            for image in db.read_all_images()
        }


def _matching_setting(job: dict[str, Any], settings: Settings) -> str:
    """All that decides a match but the two photographs."""
    return files.hash_json([cache.FORMAT, pycolmap.__version__, job["params"]["seed"], settings.max_ratio])


def _put_matches(database: Path, store: Cache, setting: str, keys: dict[str, str], pairs: Pairs) -> set:
    """Write what the cache knows into the database; returns those pairs."""
    wanted = {cache.pair_key(keys[a], keys[b]): (a, b) for a, b in pairs if a in keys and b in keys}
    found = store.matches(setting, wanted)
    with closing(pycolmap.Database.open(database)) as db, pycolmap.DatabaseTransaction(db):
        ids = {image.name: image.image_id for image in db.read_all_images()}
        for key, one in found.items():
            first, second = (ids[name] for name in sorted(wanted[key], key=keys.__getitem__))
            if one.config >= 0 and not db.exists_matches(first, second):
                db.write_matches(first, second, one.matches)
                db.write_two_view_geometry(first, second, _geometry(one))
    return {wanted[key] for key in found}


def _keep_matches(database: Path, store: Cache, setting: str, keys: dict[str, str], pairs: Pairs) -> None:
    if not store.limit:
        return
    kept = {}
    with closing(pycolmap.Database.open(database)) as db:
        ids = {image.name: image.image_id for image in db.read_all_images()}
        for pair in pairs:
            if pair[0] in ids and pair[1] in ids:
                first, second = (ids[name] for name in sorted(pair, key=keys.__getitem__))
                kept[cache.pair_key(keys[pair[0]], keys[pair[1]])] = _read_match(db, first, second)
    store.keep_matches(setting, kept)


def _read_match(db: pycolmap.Database, first: int, second: int) -> cache.Match:
    if not db.exists_two_view_geometry(first, second):
        return cache.NO_MATCH
    two = db.read_two_view_geometry(first, second)
    nothing = np.full((3, 3), np.nan)
    return cache.Match(
        matches=db.read_matches(first, second),
        inliers=two.inlier_matches,
        config=int(two.config),
        geometry=np.array([nothing if matrix is None else matrix for matrix in (two.E, two.F, two.H)]),
        pose=np.full((3, 4), np.nan) if two.cam2_from_cam1 is None else two.cam2_from_cam1.matrix(),
    )


def _geometry(one: cache.Match) -> pycolmap.TwoViewGeometry:
    two = pycolmap.TwoViewGeometry()
    two.config, two.inlier_matches = one.config, one.inliers
    for name, matrix in zip("EFH", one.geometry, strict=True):
        if np.isfinite(matrix).all():
            setattr(two, name, matrix)
    if np.isfinite(one.pose).all():
        two.cam2_from_cam1 = pycolmap.Rigid3d(one.pose)
    return two
