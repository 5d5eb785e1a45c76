"""The run folder: layout, stage keys, manifests.

<run>/run.json                     the run card
<run>/notebooks/03_train.ipynb     as executed
<run>/03_train/                    what the stage made, with stage.json written last
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spaceport_lab import __version__, files
from spaceport_lab.errors import InputError, QualityGateError, WorkspaceError
from spaceport_lab.params import STAGES, StageParams

READS: dict[str, tuple[str, ...]] = {
    "ingest": (),
    "sfm": ("ingest",),
    "train": ("sfm",),
    "compress": ("sfm", "train"),
    "inspect": ("sfm", "train", "compress"),
}
"""Which stages' outputs each stage reads, where they exist in the run."""

SOURCE_PARAM = {"ingest": "source", "sfm": "import_path", "compress": "ply"}
"""The parameter by which a stage takes something from outside the run."""


@dataclass(frozen=True)
class Progress:
    """One small state a stage yields while it works.

    Attributes:
        step: how far it is, from 0 to `total`.
        total: where it ends; None while that is not known.
        message: what is being done, a few words.
        values: numbers worth watching, such as loss, psnr, n_gaussians.
    """

    step: int
    total: int | None
    message: str
    values: Mapping[str, float] = field(default_factory=dict)


def folder_name(stage: str) -> str:
    """`train` → `03_train`: the name of a stage's folder and notebook."""
    return f"{STAGES.index(stage) + 1:02d}_{stage}"


class StageRun:
    """One stage of one run, as the stage's code sees it.

    A stage reads other stages' folders through `input()`, writes into `dir`, declares what it made with
    `output()`, puts figures into `metrics`, and says what a person should know with `warn()`.
    """

    def __init__(self, root: Path, stage: str) -> None:
        self.root = Path(root).resolve()
        self.stage = stage
        self.dir = self.root / folder_name(stage)
        self.metrics: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.outputs: dict[str, Path] = {}
        self.failed_gates: list[QualityGateError] = []
        self.steered: dict[str, Any] | None = None  # what a person did that the parameters do not say
        self.started = time.time()

    @property
    def job(self) -> str:
        """The job's name, which is the run folder's."""
        return self.root.name

    @property
    def scene_dir(self) -> Path:
        """`data/<scene>`, the folder above `runs/`."""
        return self.root.parent.parent

    def input(self, stage: str, name: str = "") -> Path:
        """A file or folder another stage made.

        Raises:
            WorkspaceError: that stage has not finished in this run, or made no such thing.
        """
        folder = self.root / folder_name(stage)
        if not (folder / "stage.json").exists():
            raise WorkspaceError(
                f"stage {self.stage} needs what stage {stage} makes, and {stage} has not finished",
                got=f"no {folder_name(stage)}/stage.json in {self.root}",
                hint=f"run notebooks/{folder_name(stage)}.ipynb first, or the whole pipeline",
            )
        path = folder / name if name else folder
        if not path.exists():
            raise WorkspaceError(
                f"stage {self.stage} needs {path.name} of stage {stage}",
                got=f"no {path}",
                hint=f"delete {folder} and run the pipeline again",
            )
        return path

    def has(self, stage: str) -> bool:
        """Whether that stage has finished in this run."""
        return (self.root / folder_name(stage) / "stage.json").exists()

    def output(self, name: str) -> Path:
        """Declare a file or folder of `dir` as something other stages may read; returns its path."""
        self.outputs[name] = self.dir / name
        return self.dir / name

    def warn(self, message: str) -> None:
        """Keep a warning for the run card."""
        if message not in self.warnings:
            self.warnings.append(message)

    def gate(self, passed: bool, error: QualityGateError) -> None:
        """Judge what was made: `record()` raises the first gate that did not pass, once metrics are kept."""
        if not passed:
            self.failed_gates.append(error)


def read_manifest(stage_dir: Path) -> dict[str, Any] | None:
    """The stage.json of a finished stage, or None when it has not finished."""
    try:
        return json.loads((stage_dir / "stage.json").read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def gather_inputs(run: StageRun, params: StageParams) -> dict[str, str]:
    """Hashes of all a stage reads: other stages' outputs from their manifests, and its source from outside.

    Raises:
        InputError: the source does not exist.
    """
    inputs: dict[str, str] = {}
    for stage in READS[run.stage]:
        manifest = read_manifest(run.root / folder_name(stage))
        for name, digest in (manifest or {}).get("outputs", {}).items():
            inputs[f"{stage}/{name}"] = digest
    name = SOURCE_PARAM.get(run.stage)
    source = getattr(params, name) if name else ""
    if run.stage == "ingest" and not source:
        source = str(run.scene_dir / "images")
    if source:
        inputs |= _outside_inputs(run.stage, str(name), source)
    return inputs


def _outside_inputs(stage: str, name: str, source: str) -> dict[str, str]:
    """Hashes of a source outside the run, and for photographs of what belongs to them and lies beside."""
    if "://" in source:
        # A store is known by its address: what changes there is not seen from here.
        return {name: files.hash_json(source)}
    place = Path(source)
    if not place.exists():
        raise InputError(f"{stage}.{name} does not exist", got=source, hint="check the path's spelling")
    beside = ("masks", "gcp_list.txt", "geo.txt") if stage == "ingest" else ()
    there = {other: place.parent / other for other in beside if (place.parent / other).exists()}
    return {name: files.hash_path(place)} | {other: files.hash_path(path) for other, path in there.items()}


def stage_key(stage: str, params: StageParams, inputs: Mapping[str, str]) -> str:
    """Hash of all that decides what a stage makes: its params, its inputs' hashes, the package's version."""
    fields = type(params).model_fields
    decisive = {
        name: value
        for name, value in params.model_dump().items()
        if (fields[name].json_schema_extra or {}).get("key", True)
    }
    return files.hash_json(
        {"stage": stage, "params": decisive, "inputs": dict(inputs), "version": __version__}
    )


def write_manifest(run: StageRun, params: StageParams) -> None:
    """Write stage.json, last and atomically: from now on the stage is done.

    Raises:
        WorkspaceError: the stage declared an output it did not make.
    """
    missing = [name for name, path in run.outputs.items() if not path.exists()]
    if missing:
        raise WorkspaceError(
            f"stage {run.stage} declared outputs it did not make", got=", ".join(sorted(missing))
        )
    inputs = gather_inputs(run, params)
    # What was steered by hand is never taken for what its parameters alone would have made.
    decisive = {**inputs, "steered": files.hash_json(run.steered)} if run.steered else inputs
    files.write_json(
        run.dir / "stage.json",
        {
            "stage": run.stage,
            "key": stage_key(run.stage, params, decisive),
            "inputs": inputs,
            "outputs": {name: files.hash_path(path) for name, path in run.outputs.items()},
            "metrics": run.metrics,
            "warnings": run.warnings,
            "version": __version__,
        },
    )


def is_done(run: StageRun, key: str) -> bool:
    """Whether the stage has finished with this key, and its outputs are still there."""
    manifest = read_manifest(run.dir)
    if manifest is None or manifest.get("key") != key:
        return False
    return all((run.dir / name).exists() for name in manifest["outputs"])


def share_stage(root: Path, folder: Path, stage: str) -> Path:
    """Let the run in `folder` have the stage that the run in `root` has finished, by a link.

    For several trainings of one reconstruction: nothing is copied, and their keys are those of `root`.

    Args:
        root: the run that has the stage.
        folder: another run; made when missing.
        stage: which one.

    Returns:
        The stage's folder in `folder`.

    Raises:
        WorkspaceError: `folder` has that stage itself, or cannot be written.
    """
    root, folder = Path(root).resolve(), Path(folder).resolve()
    shared, source = folder / folder_name(stage), root / folder_name(stage)
    # Relative within the run or its scene, which may be moved.
    near = any(above in folder.parents for above in (root, root.parent))
    with files.clear_os_errors(shared):
        folder.mkdir(parents=True, exist_ok=True)
        if shared.is_symlink():
            shared.unlink()
        if shared.exists():
            raise WorkspaceError(
                f"this run has {folder_name(stage)} of its own, and is to share that of another",
                got=shared,
                expected=f"a link to {source}, or nothing",
                hint=f"move {folder} away",
            )
        shared.symlink_to(os.path.relpath(source, folder) if near else source, target_is_directory=True)
    return shared
