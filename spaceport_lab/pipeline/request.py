"""What a person asked for: which stages, of which scene, starting from what."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from spaceport_lab import runcard
from spaceport_lab.errors import InputError, ParamsError
from spaceport_lab.ingest.remote import address
from spaceport_lab.ingest.transforms import NAME as TRANSFORMS
from spaceport_lab.ingest.video import ENDINGS as VIDEOS
from spaceport_lab.naming import STEPS, slug
from spaceport_lab.params import STAGES
from spaceport_lab.workspace import folder_name, read_manifest

_MODEL_FILES = ("cameras.bin", "cameras.txt")


@dataclass(frozen=True)
class Request:
    """A run that was asked for.

    Attributes:
        steps: a key of STEPS.
        stages: the stages that will run, in order.
        scene: the scene's name.
        scene_dir: `data/<scene>`.
        fixed: stage → name → value the request itself sets.
        adopt: a run folder whose earlier stages are taken over, or None.
    """

    steps: str
    stages: tuple[str, ...]
    scene: str
    scene_dir: Path
    fixed: dict[str, dict[str, str]] = field(default_factory=dict)
    adopt: Path | None = None


def make_request(path: Path | str, steps: str, data_dir: Path, scene: str = "") -> Request:
    """Understand what `path` is for these steps.

    Args:
        path: photographs (folder, zip, video, transforms.json, or an address such as s3://bucket/flight), a
            scene folder, a run folder, a COLMAP folder, or a PLY.
        steps: a key of STEPS.
        data_dir: where scenes lie.
        scene: what the scene is to be called, where its folder's name says nothing; empty: that name. What
            goes on from a run stays in the scene of that run.

    Raises:
        ParamsError: no such steps.
        InputError: the path does not exist, or holds nothing these steps can start from.
    """
    request = _understand(path, steps, data_dir)
    if not scene or request.adopt is not None:
        return request
    name = slug(scene)
    return replace(request, scene=name, scene_dir=Path(data_dir).resolve() / name)


def _understand(path: Path | str, steps: str, data_dir: Path) -> Request:
    if steps not in STEPS:
        raise ParamsError(f"there are no steps {steps!r}", expected=f"one of {', '.join(STEPS)}")
    url = address(path)
    if url is not None:
        return _from_store(url, steps, Path(data_dir).resolve())
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(
            "there is nothing at this path",
            got=path,
            hint="check the spelling; of addresses only those of stores are known, such as s3://bucket/flight",
        )
    path = path.resolve()
    data_dir = Path(data_dir).resolve()
    if steps == "full":
        return _from_photographs(path, data_dir)
    earlier = "sfm" if steps == "3dgs" else "train"
    adopted = _run_with(path, earlier)
    if adopted is not None:
        scene_dir = adopted.parent.parent
        stages = tuple(s for s in STEPS[steps] if STAGES.index(s) > STAGES.index(earlier))
        return Request(steps, stages, scene_dir.name, scene_dir, adopt=adopted)
    if steps == "3dgs":
        return _from_colmap(path, data_dir)
    return _from_ply(path, data_dir)


def _from_photographs(path: Path, data_dir: Path) -> Request:
    known = {".zip", ".json"} | VIDEOS
    if path.is_file() and path.suffix.lower() not in known:
        raise InputError(
            "photographs come as a folder or a zip, in a video or by a transforms.json",
            got=path,
            hint="for a PLY use --steps compression, for a COLMAP folder --steps 3dgs",
        )
    listed = (path / TRANSFORMS).is_file()
    source = path / "images" if (path / "images").is_dir() and not listed else path
    if path.name == TRANSFORMS:
        source = path.parent  # so that the stage is done anew when an image changes
    owner = path.parent if path.name in ("images", TRANSFORMS) else path
    scene_dir = owner if owner.parent == data_dir else data_dir / slug(_stem(owner))
    return Request(
        "full", STEPS["full"], scene_dir.name, scene_dir, fixed={"ingest": {"source": str(source)}}
    )


def _from_store(url: str, steps: str, data_dir: Path) -> Request:
    if steps != "full":
        raise InputError(
            "only photographs can be fetched from a store",
            got=f"--steps {steps} from {url}",
            hint="fetch the folder first, or run with --steps full",
        )
    scene_dir = data_dir / slug(Path(url.rstrip("/")).stem)
    return Request("full", STEPS["full"], scene_dir.name, scene_dir, fixed={"ingest": {"source": url}})


def _from_colmap(path: Path, data_dir: Path) -> Request:
    places = (path, path / "sparse", path / "sparse" / "0")
    if not any((place / name).is_file() for place in places for name in _MODEL_FILES):
        raise InputError(
            "there is no structure from motion here to start 3DGS from",
            got=path,
            expected="a run or scene with a finished sfm stage, or a COLMAP folder with cameras.bin "
            "(or .txt) at its root, in sparse/ or in sparse/0/",
            hint="run with --steps full to reconstruct the cameras from the photographs",
        )
    scene_dir = data_dir / slug(path.name)
    return Request(
        "3dgs", STEPS["3dgs"], scene_dir.name, scene_dir, fixed={"sfm": {"import_path": str(path)}}
    )


def _from_ply(path: Path, data_dir: Path) -> Request:
    ply = path if path.is_file() else _find_ply(path)
    generic = ("point_cloud", "splat", "output", "model")
    name = ply.stem if ply.stem not in generic else ply.parent.name
    scene_dir = data_dir / slug(name)
    return Request(
        "compression",
        STEPS["compression"],
        scene_dir.name,
        scene_dir,
        fixed={"compress": {"ply": str(ply)}},
    )


def _find_ply(folder: Path) -> Path:
    iterations = sorted(
        folder.glob("point_cloud/iteration_*/point_cloud.ply"),
        key=lambda p: int(re.sub(r"\D", "", p.parent.name) or 0),
    )
    found = iterations[-1:] or sorted(folder.glob("*.ply"))
    if len(found) == 1:
        return found[0]
    names = ", ".join(p.name for p in found) or "no .ply file"
    raise InputError(
        "compression starts from one 3DGS PLY",
        got=f"{names} in {folder}",
        expected="the path of a .ply, a folder with exactly one, or a run with a finished train stage",
        hint="give the PLY's own path" if found else "run with --steps full to train a splat first",
    )


def _run_with(path: Path, stage: str) -> Path | None:
    """The run folder at `path`, or the newest run of the scene there, in which `stage` has finished.

    Trials of a sweep are runs that are looked at, not gone on from: only by their own path.
    """
    runs = [run for run in path.glob("runs/*") if "sweep" not in (runcard.read(run) or {})]
    return _newest((path, *runs), stage)


def _newest(candidates: Iterable[Path], stage: str) -> Path | None:
    finished = [c for c in candidates if read_manifest(c / folder_name(stage)) is not None]
    return max(finished, key=lambda c: (c / folder_name(stage) / "stage.json").stat().st_mtime, default=None)


def _stem(path: Path) -> str:
    return path.stem if path.is_file() else path.name
