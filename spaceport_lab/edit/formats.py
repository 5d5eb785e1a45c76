"""Any splat file in, any splat file out, by name and by what is inside."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from spaceport_lab import sog
from spaceport_lab.edit.decimate import decimate_levels, level_counts
from spaceport_lab.errors import InputError, SplatFormatError
from spaceport_lab.gaussians import (
    Dropped,
    Gaussians,
    read_ply,
    read_ply_antialias,
    read_ply_valid,
    write_ply,
)
from spaceport_lab.sog import v1
from spaceport_lab.sog.container import META
from spaceport_lab.sog.far import far_splats
from spaceport_lab.sog.read import read_antialias, read_version
from spaceport_lab.sog.sogs import SogsResult, check_sogs, compress_with_sogs
from spaceport_lab.sog.stream import LOD_META, read_streamed
from spaceport_lab.sog.stream_write import StreamOptions, write_streamed
from spaceport_lab.workspace import Progress

KINDS = "a .ply, a .sog, a folder with meta.json, or a folder with lod-meta.json"


@dataclass(frozen=True)
class Loaded:
    """A splat and where it came from.

    Attributes:
        gaussians: finite.
        kind: ply, sog or streamed.
        dropped: rows of a PLY left out for NaN or Inf.
        antialias: whether the file says that it was trained with antialiasing.
        version: of a SOG; 0 for the others.
    """

    gaussians: Gaussians
    kind: str
    dropped: Dropped
    antialias: bool = False
    version: int = 0


def kind_of(path: Path | str) -> str:
    """ply, sog (bundled or not) or streamed, by the name; of a folder, by what lies in it.

    Raises:
        InputError: a name that none of them has.
    """
    path = Path(path)
    if path.name == LOD_META or (path / LOD_META).is_file():
        return "streamed"
    if path.suffix.lower() == ".sog" or path.name == META or (path / META).is_file():
        return "sog"
    if path.suffix.lower() == ".ply":
        return "ply"
    raise InputError(f"{path} is of no splat format known here", expected=KINDS)


def read_splat(path: Path | str, level: int = 0) -> Loaded:
    """Read a PLY (plain or compressed), a SOG of version 1 or 2, or one level of a streamed SOG.

    Args:
        path: of the file or the folder.
        level: of a streamed SOG; 0 is the finest.

    Raises:
        InputError: there is no such file, or a name that no splat format has.
        SplatFormatError: damaged, or no splat.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist", expected=KINDS)
    kind = kind_of(path)
    if kind == "ply":
        gaussians, dropped = read_ply_valid(path)
        return Loaded(gaussians, kind, dropped, read_ply_antialias(path))
    if kind == "streamed":
        gaussians = read_streamed(path, level, environment=True)
        return Loaded(gaussians, kind, Dropped(0, gaussians.n, {}))
    gaussians = sog.read_sog(path)
    none = Dropped(0, gaussians.n, {})
    return Loaded(gaussians, kind, none, read_antialias(path), read_version(path))


def target_kind(path: Path | str) -> str:
    """ply, sog, folder or streamed: what is written at a name.

    Raises:
        InputError: a compressed PLY, which is not written here, or an unknown name.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith(".compressed.ply"):
        raise InputError(
            f"{path.name}: compressed PLY is read here, not written", expected="a .sog, which is smaller"
        )
    for ending, kind in ((LOD_META, "streamed"), (META, "folder"), (".sog", "sog"), (".ply", "ply")):
        if name.endswith(ending):
            return kind
    raise InputError(
        f"{path.name} does not say in which format the splat is to be written",
        expected=f"a name that ends in .ply, .sog, /{META} or /{LOD_META}",
    )


def write_splat(
    path: Path | str,
    gaussians: Gaussians,
    options: sog.SogOptions | None = None,
    shares: Sequence[float] = (1.0, 0.5, 0.25, 0.125),
    weights: Float[np.ndarray, " N"] | None = None,
) -> Generator[Progress, None, int]:
    """Write a splat in the format its name says; yields progress.

    Returns how many splats lie far outside the scene: pulled in, as `sog.far` says, or in a streamed SOG
    kept apart as its environment. A PLY keeps them as they are.

    Args:
        path: ends in .ply, .sog, /meta.json (unbundled) or /lod-meta.json (streamed).
        gaussians: finite.
        options: of SOG.
        shares: of the Gaussians that each level of a streamed SOG has.
        weights: [N] how much each is seen, for what may be lost; guessed from opacity and size when None.

    Raises:
        InputError: a name that no format has.
        SplatFormatError: values that are not finite.
        WorkspaceError: the disk is full or the folder is not writable.
    """
    path, options = Path(path), options or sog.SogOptions()
    kind = target_kind(path)
    if kind == "ply":
        yield Progress(0, None, "writing PLY")
        write_ply(path, gaussians.with_sh_degree(options.sh_degree), antialias=options.antialias)
    elif kind == "streamed":
        if gaussians.n == 0:
            raise SplatFormatError("there are no Gaussians to write", expected="at least one")
        # What lies far out is shown whole at every level; in a chunk it would cost its neighbours precision.
        far = np.zeros(gaussians.n, bool)
        far[far_splats(gaussians.means)] = True
        near = gaussians.subset(~far) if far.any() else gaussians
        near_weights = None if weights is None else weights[~far]
        levels = yield from decimate_levels(near, level_counts(near.n, shares), near_weights)
        environment = gaussians.subset(far) if far.any() else None
        yield from write_streamed(path.parent, levels, StreamOptions(sog=options), environment)
        return int(far.sum())
    else:
        encoded = yield from sog.encode(gaussians, options, weights)
        _write_sog(path, encoded.files)
        return len(encoded.far)
    return 0


def upgrade_sog(source: Path | str, target: Path | str) -> None:
    """Write a version 1 SOG as version 2 without a second loss of positions, rotations and SH.

    Raises:
        SplatFormatError: `source` is damaged or not of version 1.
        InputError: `target` is no name of a SOG.
        WorkspaceError: the disk is full or the folder is not writable.
    """
    if target_kind(target) not in ("sog", "folder"):
        raise InputError(f"{target} is no name of a SOG", expected=f"a name that ends in .sog or /{META}")
    _write_sog(Path(target), v1.upgrade(source))


def write_with_sogs(source: Path | str, target: Path | str) -> SogsResult:
    """Compress a PLY with PlayCanvas' sogs on CUDA and write it as version 2.

    Raises:
        BackendError: sogs cannot run here, or failed.
        InputError: `source` is no plain PLY, or `target` no name of a SOG.
        SplatFormatError: the PLY is no splat, or holds values that are not finite.
        WorkspaceError: the disk is full or the folder is not writable.
    """
    check_sogs()
    if kind_of(source) != "ply" or target_kind(target) not in ("sog", "folder"):
        raise InputError("backend sogs turns a .ply into a SOG", got=f"{source} to {target}")
    result = compress_with_sogs(read_ply(source))
    _write_sog(Path(target), result.files)
    return result


def _write_sog(path: Path, contents: Mapping[str, bytes]) -> None:
    if target_kind(path) == "sog":
        sog.write_bundle(path, contents)
    else:
        sog.write_folder(path.parent, contents)
