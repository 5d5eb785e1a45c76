"""Two splats side by side: one hand moves both cameras; served from anywhere, nothing is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import browser, drag, open_address, open_file, served, settled, wait_until_shown
from inspected import PARAMS, make_run
from scenes import make_gaussians

from spaceport_lab import inspection, viewer
from spaceport_lab.gaussians import write_ply
from spaceport_lab.inspection.viewpoint import Viewpoint
from spaceport_lab.params import InspectParams
from spaceport_lab.sog import SogOptions, write_sog
from spaceport_lab.viewer import Side
from spaceport_lab.workspace import StageRun

VIEW = Viewpoint((3.5, -4.5, 3.0), (0.0, 0.0, 0.6), (0.0, 0.0, 1.0), 50.0)
LEFT, RIGHT = np.s_[60:300, :398], np.s_[60:300, 402:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mound as PLY, the same as .sog, and the page with both."""
    path = tmp_path_factory.mktemp("pair")
    mound = replace(make_gaussians(1500, np.random.default_rng(1)).with_sh_degree(0))
    write_ply(path / "splat.ply", mound)
    write_sog(path / "splat.sog", mound, SogOptions(sh_degree=0))
    sides = (
        Side(path / "splat.ply", "before <b>"),
        Side(path / "splat.sog", "after", (("rare", "rgb(1, 2, 3)"),)),
    )
    viewer.write_pair(path / "pair.html", *sides, title="both", viewpoint=VIEW)
    return path


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


@pytest.mark.browser
def test_a_drag_in_either_turns_both_and_they_do_not_echo(folder: Path) -> None:
    with browser(800, 360) as context:
        tab = open_file(context, folder / "pair.html")
        frames = tab.page.frames[1:]
        for frame in frames:
            wait_until_shown(frame)
        first = settled(tab)
        drag(tab, 200, 180, 90, 0)
        second = settled(tab)
        drag(tab, 600, 180, 0, 60)
        third = settled(tab)
        cameras = [frame.evaluate("getCameraState()") for frame in frames]
        labels = tab.page.locator("figcaption").all_inner_texts()
        panels = [frame.locator("[class*=sse-debug]:visible").count() for frame in frames]
    assert (tab.requests, tab.errors) == ([], [])
    assert [label.strip() for label in labels] == ["before <b>", "after rare"]
    assert panels == [0, 0], "the panel that lends its functions stays hidden"
    for before, after in ((first, second), (second, third)):
        assert difference(before[LEFT], after[LEFT]) > 5
        assert difference(before[RIGHT], after[RIGHT]) > 5
    assert first[LEFT].std() > 20
    assert difference(third[LEFT], third[RIGHT]) < 3, "both show the same from the same place"
    for name in ("position", "angles"):
        assert np.allclose(cameras[0][name], cameras[1][name], atol=1e-4)


@pytest.mark.browser
@pytest.mark.parametrize("page", ["pair.html", "viewer.html"])
def test_behind_a_path_prefix_nothing_but_the_page_is_asked_for(
    folder: Path, tmp_path: Path, page: str
) -> None:
    """As behind SageMaker's and Jupyter's proxies, whose addresses have a prefix that the page knows not."""
    viewer.write_viewer(folder / "viewer.html", folder / "splat.sog", viewpoint=VIEW)
    place = tmp_path / "proxy" / "8890"
    place.mkdir(parents=True)
    (place / page).write_bytes((folder / page).read_bytes())
    with served(tmp_path) as site, browser(800, 360, offline=False) as context:
        tab = open_address(context, f"{site}/proxy/8890/{page}")
        for frame in tab.page.frames[1:] or [tab.page]:
            wait_until_shown(frame)
        assert settled(tab)[LEFT].std() > 20
    assert (tab.requests, tab.errors) == ([], [])


def test_frames_of_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = StageRun(make_run(tmp_path / "data"), "inspect")
    results = inspection.results(run, InspectParams(**PARAMS["inspect"]))
    monkeypatch.chdir(tmp_path)
    batch = viewer.confidence_viewer(run, results, interactive=False)
    assert (run.dir / "confidence.html").is_file()
    assert batch.source == "../05_inspect/confidence.html"
    assert viewer.before_and_after(run, results, interactive=False) is None, "it would hold the whole PLY"
    bench = viewer.before_and_after(run, results, interactive=True)
    page = (tmp_path / bench.source).read_text()
    assert bench.source == "_views/mound-1-before-and-after.html"
    assert "before: PLY, " in page
    assert "after: .sog, " in page
    (run.root / "03_train" / "splat.ply").write_bytes(b"another")
    assert viewer.before_and_after(run, results, interactive=True) is None, "not what was compressed"
