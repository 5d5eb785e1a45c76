"""Parameters found at the bench, kept as a preset: only what differs from the defaults."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from spaceport_lab import files, runcard
from spaceport_lab.errors import ParamsError
from spaceport_lab.params import StageParams, load_preset, preset_names
from spaceport_lab.widgets.panels import OF_THE_CELL
from spaceport_lab.workspace import StageRun

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


def differing(params: StageParams) -> dict[str, Any]:
    """Parameters that are not at their default, but for those of the notebook alone."""
    fields = type(params).model_fields
    return {
        name: value
        for name, value in params.model_dump().items()
        if name not in OF_THE_CELL and value != fields[name].default
    }


def save_preset(run: StageRun, params: StageParams, name: str, note: str = "") -> Path:
    """Write a preset; `load_preset` reads it by its path, and by its name where it joined the others.

    It goes into the folder `params` of where a person works or of a folder above, else beside the run.

    Args:
        run: the stage that was tuned.
        params: its parameters.
        name: letters, digits, - and _.
        note: what to remember of it, one line.

    Returns:
        Where it is.

    Raises:
        ParamsError: the name cannot be used or is taken, or nothing differs from the defaults.
        WorkspaceError: the folder cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise ParamsError(
            f"a preset cannot be called {name!r}", expected="letters, digits, - and _, 40 at the most"
        )
    changed = differing(params)
    if not changed:
        raise ParamsError("all parameters are at their default: there is nothing to keep")
    path = presets_folder(run) / f"{name}.yaml"
    if path.exists() or name in preset_names():
        raise ParamsError(f"there is a preset {name} already: choose another name")
    files.write_text(path, as_yaml(run.stage, params, changed, _heading(run, note)))
    load_preset(str(path))
    return path


def presets_folder(run: StageRun) -> Path:
    """`params` where a person works, or in a folder above, where presets lie; else the run's own."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if any((folder / "params").glob("*.yaml")):
            return folder / "params"
    return run.root / "params"


def as_yaml(stage: str, params: StageParams, changed: dict[str, Any], heading: Sequence[str]) -> str:
    """The preset's text: a heading, and every value with the default it replaces."""
    fields = type(params).model_fields
    lines = [f"# {' '.join(line.split())}" for line in heading if line]
    lines.append(f"{stage}:")
    for name, value in changed.items():
        lines.append(f"  {name}: {_scalar(value)}  # instead of {_scalar(fields[name].default)}")
    return "\n".join(lines) + "\n"


def _heading(run: StageRun, note: str) -> list[str]:
    return [f"Tuned at the bench on {runcard.now()[:10]}, job {run.job} of scene {run.scene_dir.name}.", note]


def _scalar(value: Any) -> str:
    """One YAML scalar; YAML reads 1e-05 as a text, 1.0e-05 as a number."""
    if isinstance(value, float):
        digits = repr(value)
        return digits.replace("e", ".0e") if "e" in digits and "." not in digits else digits
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")
