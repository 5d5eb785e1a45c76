"""Features and matches kept from one job of a scene to the next, by the hashes of what they come from.

    features/KEY.npz       one photograph: keypoints and descriptors
    matches/KEY/NAME.npz   the pairs one job matched, under one setting

Files appear whole and are never changed, so any number of jobs may use the folder at once, and it may be
deleted at any time. Only the worker process calls this, but it needs no COLMAP.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from spaceport_lab import files
from spaceport_lab.errors import WorkspaceError

FORMAT = 1
"""Changes when what is in the files changes; part of every key."""


ABANDONED_S = 3600.0
"""Seconds after which a file that is still being written is one a killed job has left."""

_reading = threading.Lock()
"""NumPy parses the header of an array as Python, and Python 3.11's parser counts its depth for all threads
together: two that read at once now and then end in a SystemError."""


@dataclass(frozen=True)
class Features:
    """What was found in one photograph.

    Attributes:
        keypoints: [N, K] position in pixels of the photograph, then shape, as COLMAP keeps them.
        descriptors: [N, 128] of SIFT.
    """

    keypoints: Float[np.ndarray, "N K"]
    descriptors: UInt8[np.ndarray, "N D"]


@dataclass(frozen=True)
class Match:
    """A verified pair, from the photograph whose key sorts first to the other one.

    Attributes:
        matches: [M, 2] positions among the keypoints.
        inliers: [I, 2] those that agree with the geometry.
        config: COLMAP's number of the kind of geometry; −1 where COLMAP kept nothing of the pair.
        geometry: [3, 3, 3] essential, fundamental and homography matrix; NaN for those there are none of.
        pose: [3, 4] second from first; NaN where there is none.
    """

    matches: Int[np.ndarray, "M 2"]
    inliers: Int[np.ndarray, "I 2"]
    config: int
    geometry: Float[np.ndarray, "3 3 3"]
    pose: Float[np.ndarray, "3 4"]


NO_MATCH = Match(
    np.zeros((0, 2), np.uint32),
    np.zeros((0, 2), np.uint32),
    -1,
    np.full((3, 3, 3), np.nan),
    np.full((3, 4), np.nan),
)
"""Of a pair that was looked at and shows too little in common."""


class Cache:
    """The folder; with `limit_bytes` of 0 it keeps nothing and finds nothing."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit = Path(folder), limit_bytes

    def features(self, key: str) -> Features | None:
        """What was found in the photograph with this key; None when it is not there, or not whole."""
        content = self._load(self.folder / "features" / f"{key}.npz")
        return content and Features(content["keypoints"], content["descriptors"])

    def keep_features(self, key: str, features: Features) -> None:
        """Put features under a key; a full disk is no reason to fail."""
        self._write(
            self.folder / "features" / f"{key}.npz",
            {"keypoints": features.keypoints, "descriptors": features.descriptors},
        )

    def matches(self, setting: str, wanted: Iterable[str]) -> dict[str, Match]:
        """Those of the pairs `wanted` that are there."""
        left: set[str] = set(wanted)
        found: dict[str, Match] = {}
        for path in _whole((self.folder / "matches" / setting).glob("*.npz")):
            content = self._load(path) if left else None
            for i, key in enumerate(content["keys"].tolist() if content else ()):
                if key in left:
                    found[key] = _unpacked(content, i)
                    left.discard(key)
        return found

    def keep_matches(self, setting: str, matches: Mapping[str, Match]) -> None:
        """Put the pairs of one job under its setting."""
        if matches:
            self._write(self.folder / "matches" / setting / f"{uuid.uuid4().hex}.npz", _packed(matches))

    def trim(self) -> int:
        """Delete what was not used for longest until the folder is within its limit; returns how many."""
        entries = []
        for path in _whole(self.folder.rglob("*.npz")):
            with contextlib.suppress(OSError):  # another job may have deleted it just now
                status = path.stat()
                entries.append((status.st_mtime, status.st_size, path))
        total, gone = sum(size for _, size, _ in entries), 0
        for _, size, path in sorted(entries, key=lambda entry: entry[0]):
            if total <= self.limit:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                gone += 1
            total -= size
        return gone

    def _load(self, path: Path) -> dict[str, np.ndarray] | None:
        """The arrays of a file, which then counts as used; None if it is missing. A broken one is deleted."""
        if not self.limit:
            return None
        try:
            with _reading, np.load(path, allow_pickle=False) as file:
                content = {name: file[name] for name in file.files}
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        return content

    def _write(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        if self.limit:
            with contextlib.suppress(WorkspaceError), files.atomic_path(path) as temporary:
                np.savez(temporary, **arrays)


def _whole(paths: Iterable[Path]) -> list[Path]:
    """Without the hidden ones, which another job may be writing now; those a crash left behind go."""
    kept = []
    for path in paths:
        if not path.name.startswith("."):
            kept.append(path)
            continue
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink()
    return kept


def feature_key(photo: str, mask: str | None, settings: Mapping[str, Any]) -> str:
    """Of the hash of a photograph, of the hash of its mask, and how features are sought in it."""
    return files.hash_json({"format": FORMAT, "photo": photo, "mask": mask, "settings": dict(settings)})


def pair_key(one: str, other: str) -> str:
    """Of two photographs with these keys, in whichever order."""
    return "-".join(sorted((one, other)))


def _packed(matches: Mapping[str, Match]) -> dict[str, np.ndarray]:
    """Ragged rows one after the other, with where each ends."""
    pairs = list(matches.values())
    return {
        "keys": np.array(list(matches)),
        "matches": np.concatenate([pair.matches for pair in pairs]).astype(np.uint32),
        "matches_end": np.cumsum([len(pair.matches) for pair in pairs]),
        "inliers": np.concatenate([pair.inliers for pair in pairs]).astype(np.uint32),
        "inliers_end": np.cumsum([len(pair.inliers) for pair in pairs]),
        "config": np.array([pair.config for pair in pairs]),
        "geometry": np.array([pair.geometry for pair in pairs]),
        "pose": np.array([pair.pose for pair in pairs]),
    }


def _unpacked(content: Mapping[str, np.ndarray], i: int) -> Match:
    rows = {}
    for name in ("matches", "inliers"):
        ends = content[f"{name}_end"]
        rows[name] = content[name][ends[i - 1] if i else 0 : ends[i]]
    return Match(
        **rows,
        config=int(content["config"][i]),
        geometry=content["geometry"][i],
        pose=content["pose"][i],
    )
