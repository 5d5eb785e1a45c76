"""Features and matches kept between jobs: nothing is made twice, and nothing wrong is taken for right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Thread

import numpy as np
from test_sfm import reconstruct

from spaceport_lab import sfm
from spaceport_lab.sfm.cache import NO_MATCH, Cache, Features, Match, feature_key, pair_key


def some_features(seed: int, n: int = 50) -> Features:
    rng = np.random.default_rng(seed)
    return Features(rng.random((n, 6)).astype(np.float32), rng.integers(0, 256, (n, 128), dtype=np.uint8))


def some_match(seed: int) -> Match:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 900, (seed * 3, 2)).astype(np.uint32)
    geometry = rng.random((3, 3, 3))
    geometry[2] = np.nan
    return Match(rows, rows[: seed * 2], 3, geometry, rng.random((3, 4)))


def same(one: Match, other: Match) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(vars(one).values(), vars(other).values(),
                                                                   strict=True))  # fmt: skip


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10**9)
    kept = some_features(1)
    cache.keep_features("a", kept)
    found = cache.features("a")
    np.testing.assert_array_equal(found.keypoints, kept.keypoints)
    np.testing.assert_array_equal(found.descriptors, kept.descriptors)
    assert cache.features("b") is None
    pairs = {"x": some_match(1), "y": NO_MATCH, "z": some_match(4), "w": some_match(0)}
    cache.keep_matches("here", pairs)
    cache.keep_matches("here", {"v": some_match(2)})
    found = cache.matches("here", ["x", "y", "z", "w", "v", "unknown"])
    assert found.keys() == {*pairs, "v"}
    assert all(same(found[key], match) for key, match in pairs.items())
    assert cache.matches("elsewhere", ["x"]) == {}


def test_keys_tell_apart_what_differs() -> None:
    base = feature_key("photo", None, {"size": 1600})
    assert base == feature_key("photo", None, {"size": 1600})
    others = [feature_key("other", None, {"size": 1600}), feature_key("photo", "mask", {"size": 1600}),
              feature_key("photo", None, {"size": 2400})]  # fmt: skip
    assert len({base, *others}) == 4
    assert pair_key("a", "b") == pair_key("b", "a")


def test_a_broken_file_is_as_good_as_none_and_goes(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10**9)
    cache.keep_features("a", some_features(1))
    cache.keep_matches("s", {"x": some_match(1)})
    for path in tmp_path.rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:200])
    assert cache.features("a") is None
    assert cache.matches("s", ["x"]) == {}
    assert list(tmp_path.rglob("*.npz")) == []


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10**9)
    for i in range(4):
        cache.keep_features(str(i), some_features(i))
        os.utime(tmp_path / "features" / f"{i}.npz", (i, i))
    cache.features("0")  # used just now
    size = (tmp_path / "features" / "0.npz").stat().st_size
    assert Cache(tmp_path, int(2.5 * size)).trim() == 2
    assert {p.stem for p in (tmp_path / "features").iterdir()} == {"0", "3"}


def test_without_a_limit_nothing_is_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "none", 0)
    cache.keep_features("a", some_features(1))
    cache.keep_matches("s", {"x": some_match(1)})
    assert cache.features("a") is None
    assert cache.matches("s", ["x"]) == {}
    assert not (tmp_path / "none").exists()


def test_many_at_once(tmp_path: Path) -> None:
    """Threads of one process stand for jobs: every one finds whole files or none, and nobody fails."""
    failed = []

    def job(seed: int) -> None:
        cache = Cache(tmp_path, 200_000)
        try:
            for i in range(30):
                key = str((i + seed) % 10)
                found = cache.features(key)
                assert found is None or np.array_equal(found.keypoints, some_features(int(key)).keypoints)
                cache.keep_features(key, some_features(int(key)))
                cache.keep_matches("s", {key: some_match(int(key))})
                cache.matches("s", [key])
                cache.trim()
        except Exception as error:
            failed.append(error)

    threads = [Thread(target=job, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


# ---- with COLMAP


def extracted(run: sfm.StageRun) -> int:
    """Photographs COLMAP itself says it has looked for features in."""
    return (run.dir / "colmap.log").read_text(errors="replace").count("Processed file [")


def test_adding_photographs_extracts_those(tiny_flight: Path, tmp_path: Path) -> None:
    """Also for a second job of the scene; and what comes from the cache gives the same database."""
    source = tmp_path / "in"
    images = sorted((tiny_flight / "images").iterdir())
    source.mkdir()
    for path in images[:8]:
        shutil.copy(path, source)
    settings = {"mapper": "incremental", "retry": False, "min_points": 100}
    first, _ = reconstruct(source, tmp_path, **settings)
    assert extracted(first) == 8
    (attempt,) = sfm.read_registration(first)["attempts"]
    assert attempt["features"] == {"cached": 0, "made": 8}
    before = sfm.read_registration(first)
    again, _ = reconstruct(source, tmp_path, **settings)
    assert extracted(again) == 0
    after = sfm.read_registration(again)
    assert after["attempts"][0]["pairs"] == {"cached": attempt["pairs"]["made"], "made": 0}
    assert after["pairs"] == before["pairs"]
    assert [r["n_features"] for r in after["photographs"]] == [r["n_features"] for r in before["photographs"]]
    assert again.metrics["n_registered"] == first.metrics["n_registered"]
    for path in images[8:]:
        shutil.copy(path, source)
    more, _ = reconstruct(source, tmp_path, **settings)
    assert extracted(more) == 4
    (attempt,) = sfm.read_registration(more)["attempts"]
    assert attempt["features"] == {"cached": 8, "made": 4}
    assert attempt["pairs"]["made"] > 0
    assert attempt["pairs"]["cached"] > 0


_MATCHES = """
import zlib, json, sys
import numpy as np, pycolmap
from spaceport_lab.sfm import features
from spaceport_lab.sfm.cache import NO_MATCH, Match
rows = np.array([[3, 4], [5, 6]], dtype=np.uint32)
pose = np.eye(3, 4); pose[:, 3] = 1, 2, 3
geometry = np.arange(27.0).reshape(3, 3, 3); geometry[0] = np.nan
db = pycolmap.Database.open(sys.argv[1])
camera = pycolmap.Camera.create_from_model_id(1, pycolmap.CameraModelId.SIMPLE_RADIAL, 500, 400, 300)
db.write_camera(camera, True)
ids = [db.write_image(pycolmap.Image(name=n, camera_id=1)) for n in "ab"]
one = Match(rows, rows[:1], 3, geometry, pose)
db.write_matches(ids[0], ids[1], one.matches)
db.write_two_view_geometry(ids[0], ids[1], features._geometry(one))
back = features._read_match(db, *ids)
turned = features._read_match(db, *ids[::-1])
print(json.dumps([
    all(np.array_equal(x, y, equal_nan=True) for x, y in zip(vars(back).values(), vars(one).values())),
    turned.matches.tolist(), np.allclose(turned.geometry[1], geometry[1].T), turned.pose[:, 3].tolist(),
]))
"""


def test_geometry_survives_the_database_in_both_directions(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", _MATCHES, str(tmp_path / "a.db")], capture_output=True, text=True, check=True
    )
    assert json.loads(answer.stdout.splitlines()[-1]) == [True, [[4, 3], [6, 5]], True, [-1, -2, -3]]
