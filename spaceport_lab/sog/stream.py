"""Streamed SOG: a splat at several levels of detail, in chunks, with a tree that says what lies where.

`lod-meta.json` names the chunks, each an unbundled SOG in a folder beside it; a leaf of the tree names, for
each level, a run of Gaussians inside a chunk. Level 0 is the finest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians import Gaussians, concatenate
from spaceport_lab.sog.container import META, Source
from spaceport_lab.sog.meta import MAX_SIDE, MetaReader, open_meta, plain_name
from spaceport_lab.sog.read import read_sog
from spaceport_lab.sog.texture import check_memory

LOD_META = "lod-meta.json"
MAX_LEVELS = 64
_LIMIT = 1 << 26
_MOST = MAX_SIDE**2


@dataclass(frozen=True)
class Run:
    """Gaussians of one leaf at one level.

    Attributes:
        level: 0 is the finest.
        file: which chunk.
        offset: of the first one in the chunk.
        count: how many.
    """

    level: int
    file: int
    offset: int
    count: int


@dataclass(frozen=True)
class StreamMeta:
    """What lod-meta.json says.

    Attributes:
        counts: Gaussians of each level.
        filenames: of the chunks' meta.json, relative to the folder.
        environment: meta.json of what surrounds the scene, shown at every level; None without it.
        runs: of all leaves.
    """

    counts: tuple[int, ...]
    filenames: tuple[str, ...]
    environment: str | None
    runs: tuple[Run, ...]

    def files_of(self, level: int) -> list[int]:
        """Chunks that hold Gaussians of a level, ascending."""
        return sorted({run.file for run in self.runs if run.level == level and run.count})


def read_streamed(path: Path | str, level: int = 0, *, environment: bool = False) -> Gaussians:
    """The Gaussians of one level, chunk after chunk.

    Args:
        path: lod-meta.json, or the folder that holds it.
        level: 0 is the finest; -1 is the coarsest.
        environment: add what surrounds the scene, where there is any.

    Raises:
        SplatFormatError: missing, damaged, contradicting itself, or no such level.
    """
    folder = _folder(path)
    meta = read_stream_meta(path)
    levels = len(meta.counts)
    if not -levels <= level < levels:
        raise SplatFormatError(
            f"{LOD_META} of {folder.name} has no level {level}", expected=f"0 to {levels - 1}"
        )
    level %= levels
    check_memory(meta.counts[level], 0)
    parts = [_read_chunk(folder, meta, file) for file in meta.files_of(level)]
    if environment and meta.environment:
        parts.append(read_sog(_inside(folder, meta.environment)))
    if not parts:
        raise SplatFormatError(f"level {level} of {folder.name} holds no splat", expected="at least one")
    return concatenate(parts)


def read_stream_meta(path: Path | str) -> StreamMeta:
    """Read and check lod-meta.json; the chunks are not opened.

    Raises:
        SplatFormatError: missing, no JSON, of another version, or saying something impossible.
    """
    folder = _folder(path)
    with Source(folder) as source:
        reader = open_meta(source.read(LOD_META, _LIMIT), f"{LOD_META} of {folder.name}")
    version = reader.root.get("version", 1)  # the first writers gave none
    if type(version) is not int or version != 1:
        raise reader.error("is of a version this program does not read", version, "version 1")
    levels = reader.integer("lodLevels", 1, MAX_LEVELS)
    filenames = reader.value("filenames")
    plain = isinstance(filenames, list) and filenames and all(map(_chunk_name, filenames))
    if not plain or len(set(filenames)) < len(filenames):
        raise reader.error("has impossible filenames", filenames, "different names such as 0_0/meta.json")
    environment = reader.root.get("environment")
    if environment is not None and not _chunk_name(environment):
        raise reader.error("has an impossible environment", environment, "a name such as env/meta.json")
    runs = tuple(_runs(reader, levels, len(filenames)))
    counts = tuple(sum(run.count for run in runs if run.level == level) for level in range(levels))
    if "counts" in reader.root and reader.root["counts"] != list(counts):
        raise reader.error("has counts that its tree does not have", reader.root["counts"], list(counts))
    return StreamMeta(counts, tuple(filenames), environment, runs)


def _runs(reader: MetaReader, levels: int, files: int) -> Iterator[Run]:
    """Runs of all leaves, without recursion: a hostile tree may be of any depth."""
    stack = [reader.value("tree")]
    while stack:
        node = stack.pop()
        children = node.get("children", []) if isinstance(node, Mapping) else None
        lods = node.get("lods", {}) if isinstance(node, Mapping) else None
        if not isinstance(children, list) or not isinstance(lods, Mapping):
            raise reader.error("has an impossible tree", node, "nodes with children or lods")
        for level, run in lods.items():
            yield _run(reader, level, run, levels, files)
        stack.extend(reversed(children))


def _run(reader: MetaReader, level: str, run: Any, levels: int, files: int) -> Run:
    numbers = [run.get(key) if isinstance(run, Mapping) else None for key in ("file", "offset", "count")]
    known = level.isascii() and level.isdigit() and len(level) < 4 and int(level) < levels
    limits = (files - 1, _MOST, _MOST)
    fits = all(type(n) is int and 0 <= n <= most for n, most in zip(numbers, limits, strict=True))
    if not known or not fits:
        raise reader.error(
            "has an impossible run in its tree", {level: run}, f"levels below {levels}, files below {files}"
        )
    return Run(int(level), *numbers)


def _read_chunk(folder: Path, meta: StreamMeta, file: int) -> Gaussians:
    """One chunk, whose runs must cover it without gap or overlap."""
    splat = read_sog(_inside(folder, meta.filenames[file]))
    runs = sorted((run.offset, run.count) for run in meta.runs if run.file == file and run.count)
    ends = np.cumsum([count for _, count in runs])
    starts = [0, *ends[:-1].tolist()]
    if [offset for offset, _ in runs] != starts or ends[-1] != splat.n:
        raise SplatFormatError(
            f"the tree of {LOD_META} does not fit {meta.filenames[file]}",
            got=f"runs that end at {int(ends[-1]):,}, or leave gaps",
            expected=f"runs that cover its {splat.n:,} Gaussians once",
        )
    if len({run.level for run in meta.runs if run.file == file and run.count}) > 1:
        raise SplatFormatError(
            f"{meta.filenames[file]} is used by several levels", expected="one level a chunk"
        )
    return splat


def _folder(path: Path | str) -> Path:
    path = Path(path)
    return path.parent if path.name == LOD_META else path


def _inside(folder: Path, name: str) -> Path:
    """The path of a chunk's meta.json; a link may not lead out of the folder."""
    path = folder / name
    if folder.resolve() not in path.parent.resolve().parents:
        raise SplatFormatError(f"{name} of {folder.name} is a link that leads out of the folder")
    return path


def _chunk_name(name: Any) -> bool:
    """Whether a name can only mean a meta.json in a folder beside lod-meta.json."""
    parts = name.split("/") if isinstance(name, str) else []
    return len(parts) == 2 and plain_name(parts[0]) and parts[1] == META
