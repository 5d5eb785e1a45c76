"""Write streamed SOG: levels cut into the same leaves of space, gathered into chunks."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from spaceport_lab import __version__, files
from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.kernels.hilbert import hilbert_order
from spaceport_lab.sog import pack
from spaceport_lab.sog.container import IMAGES, META, write_folder
from spaceport_lab.sog.stream import LOD_META, MAX_LEVELS, read_stream_meta
from spaceport_lab.sog.write import SogOptions, encode
from spaceport_lab.workspace import Progress

_BLOCK = 1 << 16
_UNIT = re.compile(r"\d+_\d+|env")


@dataclass(frozen=True)
class StreamOptions:
    """How a splat is cut.

    Attributes:
        chunk_count: Gaussians above which a node of the tree, or a chunk, is split.
        chunk_extent: world units above which a node is split, if it is worth it.
        chunk_min: Gaussians below which a node is not split for its extent.
        sog: how each chunk is written.
    """

    chunk_count: int = 512 * 1024
    chunk_extent: float = 16.0
    chunk_min: int = 8 * 1024
    sog: SogOptions = field(default_factory=SogOptions)


@dataclass
class _Level:
    """One level while its chunks are filled."""

    first: int  # number of its first Gaussian among all levels'
    units: list[list[Int[np.ndarray, " M"]]] = field(default_factory=list)
    files: list[int] = field(default_factory=list)


def write_streamed(
    folder: Path | str,
    levels: Sequence[Gaussians],
    options: StreamOptions = StreamOptions(),
    environment: Gaussians | None = None,
) -> Generator[Progress, None, Path]:
    """Write `folder` with lod-meta.json, its last file, and the chunks; yields progress, returns that file.

    Args:
        folder: made if needed; chunks of an earlier writing that are no longer used go.
        levels: the same scene, finest first.
        options: how it is cut.
        environment: what surrounds the scene, shown whatever the level.

    Raises:
        SplatFormatError: no level, an empty one, or values that are not finite.
        WorkspaceError: the disk is full or the folder is not writable.
    """
    folder = Path(folder)
    if not 1 <= len(levels) <= MAX_LEVELS or not all(level.n for level in levels):
        raise SplatFormatError(
            "a streamed SOG needs levels that hold Gaussians", got=[level.n for level in levels]
        )
    yield Progress(0, None, "cutting space into leaves")
    tree, cut, filenames = _cut(levels, options)
    meta: dict[str, Any] = {
        "version": 1,
        "asset": {
            "generator": f"spaceport-lab {__version__}",
            "chunkGaussians": options.chunk_count,
            "chunkExtent": options.chunk_extent,
            "chunkMinGaussians": options.chunk_min,
        },
        "count": sum(level.n for level in levels),
        "counts": [level.n for level in levels],
        "lodLevels": len(levels),
        "lodErrors": False,
        **({"environment": f"env/{META}"} if environment is not None else {}),
        "filenames": filenames,
        "tree": tree,
    }
    before = _chunks_of(folder)
    (folder / LOD_META).unlink(missing_ok=True)  # a folder half written must not pass for a whole one
    if environment is not None:
        encoded = yield from encode(environment, replace(options.sog, pull_far=False))
        write_folder(folder / "env", encoded.files)
    # Runs are sorted already, each along its own curve: sorted as one they would be torn. And a splat must
    # not be pulled in towards the middle of its chunk, from where nobody looks.
    in_runs = replace(options.sog, sort=False, pull_far=False)
    for number, level in enumerate(levels):
        for unit, runs in enumerate(cut[number].units):
            yield Progress(0, None, f"level {number}, chunk {unit + 1} of {len(cut[number].units)}")
            encoded = yield from encode(level.subset(np.concatenate(runs)), in_runs)
            write_folder(folder / f"{number}_{unit}", encoded.files)
    files.write_text(folder / LOD_META, json.dumps(meta, separators=(",", ":"), allow_nan=False))
    _forget(folder, before - _folders(filenames) - ({"env"} if environment is not None else set()))
    return folder / LOD_META


def _cut(
    levels: Sequence[Gaussians], options: StreamOptions
) -> tuple[dict[str, Any], list[_Level], list[str]]:
    """The tree, each level's chunks as indices into the level, and the chunks' names."""
    means = np.concatenate([level.means for level in levels])
    reach = np.concatenate([half_extents(level) for level in levels])
    firsts = np.cumsum([0, *(level.n for level in levels)])
    cut = [_Level(int(first)) for first in firsts[:-1]]
    filenames: list[str] = []

    def leaf(index: Int[np.ndarray, " M"]) -> dict[str, Any]:
        lods = {}
        for number, level in enumerate(cut):
            own = index[(index >= firsts[number]) & (index < firsts[number + 1])]
            if len(own):
                own = own[hilbert_order(pack.log_coordinates(means[own]))] - level.first
                lods[str(number)] = place(number, level, own)
        low, high = (means[index] - reach[index]).min(axis=0), (means[index] + reach[index]).max(axis=0)
        return {"bound": {"min": _digits(low), "max": _digits(high)}, "lods": lods}

    def place(number: int, level: _Level, own: Int[np.ndarray, " M"]) -> dict[str, int]:
        filled = sum(map(len, level.units[-1])) if level.units else 0
        if not level.units or filled > options.chunk_count:
            level.units.append([])
            level.files.append(len(filenames))
            filenames.append(f"{number}_{len(level.units) - 1}/{META}")
            filled = 0
        level.units[-1].append(own)
        return {"file": level.files[-1], "offset": filled, "count": len(own)}

    def node(index: Int[np.ndarray, " M"]) -> dict[str, Any]:
        extents = np.ptp(means[index].astype(np.float64), axis=0)
        wide = extents.max() > options.chunk_extent and len(index) > options.chunk_min
        if len(index) < 2 or not (len(index) > options.chunk_count or wide):
            return leaf(index)
        half = len(index) // 2
        order = np.argpartition(means[index, extents.argmax()], half)
        children = [node(np.sort(index[part])) for part in (order[:half], order[half:])]
        bounds = [child["bound"] for child in children]
        low = np.minimum(*(np.array(bound["min"]) for bound in bounds))
        high = np.maximum(*(np.array(bound["max"]) for bound in bounds))
        return {"bound": {"min": low.tolist(), "max": high.tolist()}, "children": children}

    return node(np.arange(len(means))), cut, filenames


def half_extents(gaussians: Gaussians) -> Float[np.ndarray, "N 3"]:
    """Half the size of the upright box around each Gaussian's rotated one-sigma box, world units."""
    out = np.empty((gaussians.n, 3), np.float32)
    for start in range(0, gaussians.n, _BLOCK):
        part = slice(start, start + _BLOCK)
        w, x, y, z = gaussians.subset(part).rotations.T
        sigmas = np.exp(np.minimum(gaussians.scales[part], 80))
        rows = (
            (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        )
        for axis, row in enumerate(rows):
            out[part, axis] = sum(np.abs(r) * sigmas[:, i] for i, r in enumerate(row))
    return out


def _digits(values: Float[np.ndarray, "3"]) -> list[float]:
    """Seven significant digits, as much as a float32 has."""
    return [float(f"{value:.7g}") for value in values]


def _folders(filenames: Sequence[str]) -> set[str]:
    return {name.split("/")[0] for name in filenames}


def _chunks_of(folder: Path) -> set[str]:
    """Folders that an earlier lod-meta.json names; a damaged one names none."""
    try:
        meta = read_stream_meta(folder)
        return _folders([*meta.filenames, *filter(None, [meta.environment])])
    except SplatFormatError:
        return set()


def _forget(folder: Path, chunks: set[str]) -> None:
    """Remove chunks of an earlier writing; a file that is not ours keeps its folder."""
    for name in chunks:
        chunk = folder / name
        if _UNIT.fullmatch(name) and chunk.is_dir() and not chunk.is_symlink():
            for file in (META, *IMAGES):
                (chunk / file).unlink(missing_ok=True)
            if not any(chunk.iterdir()):
                chunk.rmdir()
