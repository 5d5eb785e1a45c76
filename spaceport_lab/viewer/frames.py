"""Pages with splats, written beside a notebook and shown inside it."""

from __future__ import annotations

import html
import importlib.util
import json
import tempfile
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from spaceport_lab.inspection import Results
from spaceport_lab.inspection import confidence as confidences
from spaceport_lab.sog import SogOptions, write_sog
from spaceport_lab.viewer.live import LiveScene
from spaceport_lab.viewer.page import framed, write_viewer
from spaceport_lab.viewer.pair import Side, write_pair
from spaceport_lab.workspace import StageRun

_scenes: dict[Path, LiveScene] = {}


@dataclass(frozen=True)
class Frame:
    """A page shown inside a notebook, over a poster that stays where frames are not allowed.

    Attributes:
        source: address of the page, relative to the notebook.
        title: what is seen.
        poster: a JPEG of 16:9.
    """

    source: str
    title: str
    poster: bytes

    def __repr__(self) -> str:
        return f"{self.title}: {self.source}"

    def _repr_html_(self) -> str:
        return framed(f'src="{html.escape(self.source)}"', self.title, self.poster, "aspect-ratio:16/9")


def notebook_viewer(run: StageRun, results: Results, interactive: bool) -> Frame:
    """Write the viewer as a page of its own and show it in the notebook, which so stays small.

    Raises:
        WorkspaceError: the folder cannot be written.
        StageError: the package was installed without the viewer.
    """
    title, page = f"The splat of {run.job}", _page(run, "viewer", interactive)
    poster = _poster(run)
    write_viewer(page, results.sog, title=title, viewpoint=results.viewpoint, poster=poster, lend_wheel=True)
    return _frame(run, page, title, poster)


def confidence_viewer(run: StageRun, results: Results, interactive: bool) -> Frame:
    """The splat beside itself with the Gaussians coloured that the photographs do not support.

    Raises:
        WorkspaceError: the folder cannot be written.
        StageError: the package was installed without the viewer.
    """
    marked = confidences.mark(results.gaussians, results.confidence)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "marked.sog"
        write_sog(path, marked, SogOptions(sh_degree=0))
        legend = tuple((name, f"rgb{confidences.MARKS[name]}") for name in results.confidence.kinds())
        right = Side(path.read_bytes(), "doubtful:", legend)
    return _pair(run, results, Side(results.sog, "the splat"), right, "confidence", interactive)


def before_and_after(run: StageRun, results: Results, interactive: bool) -> Frame | None:
    """The PLY beside the .sog. Only where a person works in the notebook: the page holds the whole PLY.

    None, too, where the PLY did not come from this run's training.

    Raises:
        WorkspaceError: the folder cannot be written.
        StageError: the package was installed without the viewer.
    """
    if not interactive or not run.has("train"):
        return None
    ply = run.input("train", "splat.ply")
    report = json.loads(run.input("compress", "compression_report.json").read_text())
    if (report["input"]["name"], report["input"]["bytes"]) != (ply.name, ply.stat().st_size):
        return None
    left = Side(ply, f"before: PLY, {ply.stat().st_size / 1e6:,.1f} MB")
    right = Side(results.sog, f"after: .sog, {results.sog.stat().st_size / 1e6:,.2f} MB")
    return _pair(run, results, left, right, "before-and-after", interactive)


def live_scene(run: StageRun, interactive: bool) -> LiveFrame | None:
    """The scene in 3D as it trains, where a person works in the notebook and viser is installed.

    A cell that is run again shows the scene it had.
    """
    if not interactive or importlib.util.find_spec("viser") is None:
        return None
    if run.root not in _scenes:
        _scenes[run.root] = LiveScene(run)
        _scenes[run.root].follow()
    return LiveFrame(_scenes[run.root].address)


@dataclass(frozen=True)
class LiveFrame:
    """A page of a server of this kernel, shown inside a notebook once it is unfolded.

    Folded, because a browser without a GPU draws a scene in 3D on the cores that train, which takes training
    half as long again on two of them.

    Attributes:
        address: of the page, as the browser reaches it.
    """

    address: str

    def __repr__(self) -> str:
        return f"the scene while it trains: {self.address}"

    def _repr_html_(self) -> str:
        address = html.escape(self.address)
        return (
            f"<details><summary>The scene in 3D while it trains</summary>"
            f'<iframe title="The scene while it trains" style="width:100%;aspect-ratio:16/9;border:0" '
            f'src="{address}" loading="lazy"></iframe></details>'
            f'<a href="{address}" target="_blank">in a window of its own</a>'
        )


def _pair(run: StageRun, results: Results, left: Side, right: Side, name: str, interactive: bool) -> Frame:
    title, page = f"The splat of {run.job}, {name}", _page(run, name, interactive)
    write_pair(page, left, right, title=title, viewpoint=results.viewpoint, lend_wheel=True)
    return _frame(run, page, title, _poster(run))


def _page(run: StageRun, name: str, interactive: bool) -> Path:
    """Where a page goes: JupyterLab serves what lies beside and below a notebook.

    An executed notebook lies in the run folder and shows 05_inspect/NAME.html; one that is worked in shows a
    page in _views/ beside it.
    """
    return Path.cwd() / "_views" / f"{run.job}-{name}.html" if interactive else run.dir / f"{name}.html"


def _frame(run: StageRun, page: Path, title: str, poster: bytes) -> Frame:
    inside = page.parent == run.dir
    source = f"../{run.dir.name}/{page.name}" if inside else f"_views/{page.name}"
    return Frame(urllib.parse.quote(source), title, poster)


def _poster(run: StageRun) -> bytes:
    return (run.dir / "poster.jpg").read_bytes()
