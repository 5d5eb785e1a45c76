"""Executed notebooks as pages: whole, offline, without what needs a kernel."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from browser import browser, open_file, picture
from nbclient import NotebookClient

from spaceport_lab.errors import WorkspaceError
from spaceport_lab.report.pages import write_pages

CELLS = [
    ("x = 1  # not for readers", ["parameters"]),
    ("x = 2", ["injected-parameters"]),
    ("import ipywidgets\nfrom PIL import Image\nImage.new('RGB', (150 * x, 100), 'red')", []),
    ("ipywidgets.IntSlider(description='dead without a kernel')", []),
    (
        "from IPython.display import display\n"
        "widget = ipywidgets.IntSlider()\n"
        "view = widget._repr_mimebundle_()['application/vnd.jupyter.widget-view+json']\n"
        "name = 'application/vnd.jupyter.widget-view+json'\n"
        "display({name: view, 'text/html': '<b>what it showed</b>'}, raw=True)",
        [],
    ),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    cells = [nbformat.v4.new_markdown_cell("# A heading\n\nwith $x^2$")]
    for source, tags in CELLS:
        cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": tags}))
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, kernel_name="python3", timeout=120, store_widget_state=True).execute()
    assert "widgets" in notebook.metadata, "the state that must not reach the page"
    (root / "notebooks").mkdir()
    nbformat.write(notebook, root / "notebooks" / "01_first.ipynb")
    return root


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_page_shows_everything_and_asks_for_nothing(root: Path, theme: str) -> None:
    (page,) = write_pages(root, theme)
    assert page == root.resolve() / "notebooks" / "01_first.html"
    with browser(900, 600) as context:
        tab = open_file(context, page)
        tab.page.wait_for_timeout(500)
        text = tab.page.inner_text("body")
        pictures = tab.page.eval_on_selector_all("img", "all => all.map(i => i.naturalWidth)")
        corner = picture(tab)[-20:, -20:].mean()
    assert (tab.requests, tab.errors) == ([], [])
    assert "A heading" in text
    assert "what it showed" in text
    assert "not for readers" not in text
    assert len(pictures) == 1
    assert pictures[0] > 100
    assert (corner > 200) == (theme == "light")
    assert "vnd.jupyter.widget-state" not in page.read_text()


def test_without_notebooks_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="no executed notebook"):
        write_pages(tmp_path)
