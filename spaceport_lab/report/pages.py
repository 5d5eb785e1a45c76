"""Executed notebooks as web pages that open offline, beside them in the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import nbformat
from nbconvert import HTMLExporter

from spaceport_lab import files
from spaceport_lab.errors import WorkspaceError

REMOTE = (
    "mathjax_url", "require_js_url", "jquery_url", "widget_renderer_url", "jupyter_widgets_base_url",
    "mermaid_js_url",
)  # fmt: skip
"""What nbconvert's pages would load from elsewhere; without a network they must not even try."""


PARAMETERS = {"parameters", "injected-parameters"}
"""Tags of cells that a page leaves out."""


def write_pages(run_root: Path, theme: Literal["light", "dark"] = "light") -> list[Path]:
    """Write NAME.html for each executed notebook of a run; pictures are inside, splats in pages beside them.

    Widgets need a kernel: in a page stands the picture that each of them kept for this.

    Raises:
        WorkspaceError: the run has no executed notebooks, or the folder cannot be written.
    """
    folder = Path(run_root).resolve() / "notebooks"
    # A hidden one is half of a notebook, left by a process that was killed while it saved.
    found = sorted(path for path in folder.glob("*.ipynb") if not path.name.startswith("."))
    if not found:
        raise WorkspaceError("there is no executed notebook to make a page of", got=folder)
    return [_write_page(path, theme) for path in found]


def _write_page(path: Path, theme: str) -> Path:
    exporter = HTMLExporter(template_name="lab", theme=theme)
    for name in REMOTE:
        setattr(exporter, name, "")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)
    # What is in force stands in the first table, with where it came from.
    notebook.cells = [cell for cell in notebook.cells if not set(cell.metadata.get("tags", ())) & PARAMETERS]
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if len(data := output.get("data", {})) > 1:
                data.pop("application/vnd.jupyter.widget-view+json", None)
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
    target = path.with_suffix(".html")
    files.write_text(target, page)
    return target
