"""Parameters cells of the notebooks, generated from the schemas.

papermill's inspector reads a cell line by line: one flat literal each, no annotation, one equals sign, the
comment as help. What is written here is what it understands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat

from spaceport_lab import files
from spaceport_lab.errors import ParamsError
from spaceport_lab.params.schemas import SCHEMAS, STAGES
from spaceport_lab.resources import notebooks_dir

TOOLS = {"90_tune": "train"}
"""Notebooks beside the stages' own that have the parameters cell of a stage."""


def cell_source(stage: str) -> str:
    """The source of a stage's parameters cell."""
    lines = ["# Generated from the schema by `spaceport-lab params sync`; papermill overrides these values."]
    for name, field in SCHEMAS[stage].model_fields.items():
        lines.append(f"{name} = {_literal(field.default)}  # {field.description}")
    return "\n".join(lines)


def notebook_path(name: str) -> Path:
    """The notebook of a stage, or one of `TOOLS`, as shipped."""
    stem = name if name in TOOLS else f"{STAGES.index(name) + 1:02d}_{name}"
    return notebooks_dir() / f"{stem}.ipynb"


def parameters_cell(notebook: nbformat.NotebookNode, path: Path) -> nbformat.NotebookNode:
    """The one code cell tagged `parameters`.

    Raises:
        ParamsError: there is none, or more than one.
    """
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1 or cells[0].cell_type != "code":
        raise ParamsError(f"{path.name} needs one code cell tagged parameters", got=f"{len(cells)} of them")
    return cells[0]


def drifted() -> list[str]:
    """Stages and tools whose notebook's parameters cell differs from the schema."""
    return [
        name
        for name in (*STAGES, *TOOLS)
        if parameters_cell(_read(path := notebook_path(name)), path).source != _source(name)
    ]


def sync() -> list[str]:
    """Write the generated parameters cells into the notebooks; returns the stages and tools that changed."""
    changed = drifted()
    for name in changed:
        path = notebook_path(name)
        notebook = _read(path)
        parameters_cell(notebook, path).source = _source(name)
        files.write_text(path, nbformat.writes(notebook) + "\n")
    return changed


def _source(name: str) -> str:
    return cell_source(TOOLS.get(name, name))


def _read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:_}"
    return repr(value)
