"""SuperSplat's viewer shows a streamed SOG, level by level and with what surrounds it, as we draw it."""

from __future__ import annotations

import gzip
import json
import mimetypes
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import LOAD_SECONDS, Tab, browser, settled
from playwright.sync_api import BrowserContext, Route
from scenes import make_gaussians

from spaceport_lab import evaluation, metrics, viewer
from spaceport_lab.edit.decimate import decimate_levels, level_counts
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.inspection.viewpoint import Viewpoint
from spaceport_lab.sog import SogOptions
from spaceport_lab.sog.stream import read_stream_meta, read_streamed
from spaceport_lab.sog.stream_write import StreamOptions, write_streamed

SITE = "http://splat.test/"
VIEW = Viewpoint((3.5, -4.5, 3.0), (0.0, 0.0, 0.6), (0.0, 0.0, 1.0), 50.0)
PAGE = """<!doctype html><html><style>CSS
html, body { height: 100%; margin: 0; overflow: hidden; }</style><body>
<script type="module">
import { createViewer } from './viewer.js';
localStorage.controlsPanelOpen = 'false';
const config = CONFIG;
window.viewer = await createViewer({
    container: document.body, settings: config.settings, contentUrl: 'stream/lod-meta.json',
    renderer: 'webgl', noanim: true, lang: 'en'
});
viewer.app.root.on('childinsert', (entity) => {
    if (entity.gsplat) { window.splat = entity; entity.setLocalRotation(...config.rotation); }
});
viewer.events.on('loaded:changed', () => { document.documentElement.dataset.state = 'ready'; });
</script></body></html>"""


def follow(steps):
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def streamed(folder: Path) -> list[Gaussians]:
    """A mound at three levels in several chunks, and around it a red ring, far out, as environment."""
    mound = make_gaussians(1500, np.random.default_rng(1))
    levels = follow(decimate_levels(mound, level_counts(mound.n, (1.0, 0.3, 0.05))))
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    ring = mound.subset(slice(0, 60))
    ring = replace(
        ring,
        means=np.column_stack([14 * np.cos(angles), 14 * np.sin(angles), np.zeros(60)]).astype(np.float32),
        scales=np.full((60, 3), 0.7, np.float32),
        opacities=np.full(60, 3, np.float32),
        sh0=np.tile(np.array([1.7, -1.7, -1.7], np.float32), (60, 1, 1)),
    )
    options = StreamOptions(chunk_count=500, chunk_extent=9, chunk_min=150, sog=SogOptions(sh_degree=0))
    follow(write_streamed(folder, levels, options, ring))
    return levels


def serve(context: BrowserContext, folder: Path) -> list[str]:
    """Answer requests from a folder, without a network; returns the list of what was asked for in vain."""
    missing: list[str] = []

    def answer(route: Route) -> None:
        name = route.request.url.removeprefix(SITE).split("?")[0]
        path = folder / name
        if route.request.url.startswith(SITE) and path.is_file():
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            route.fulfill(body=path.read_bytes(), content_type=kind)
        elif not route.request.url.startswith(("data:", "blob:")):
            missing.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    context.route("**/*", answer)
    return missing


@pytest.mark.browser
def test_the_viewer_shows_every_level_and_the_environment(tmp_path: Path) -> None:
    levels = streamed(tmp_path / "stream")
    meta = read_stream_meta(tmp_path / "stream")
    assert meta.environment
    assert len(meta.files_of(0)) > 1
    built = Path(viewer.page.__file__).parent.parent / "_viewer"
    (tmp_path / "viewer.js").write_bytes(gzip.decompress((built / "viewer.js.gz").read_bytes()))
    rotation = viewer.world_to_viewer(np.array(VIEW.up))
    config = {
        "settings": viewer.page._settings(VIEW, rotation), "rotation": viewer.quaternion_xyzw(rotation)
    }  # fmt: skip
    css = gzip.decompress((built / "viewer.css.gz").read_bytes()).decode()
    page = PAGE.replace("CSS", css).replace("CONFIG", json.dumps(config))
    (tmp_path / "index.html").write_text(page)
    with browser(640, 420) as context:
        missing = serve(context, tmp_path)
        tab = Tab(context.new_page())
        tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.page.goto(SITE + "index.html")
        tab.page.wait_for_selector("html[data-state=ready]", state="attached", timeout=LOAD_SECONDS * 1000)
        seen = []
        for level in range(len(levels)):
            tab.page.evaluate(
                "k => { const g = splat.gsplat; g.lodRangeMin = g.lodRangeMax = k;"
                " viewer.app.renderNextFrame = true; }",
                level,
            )
            tab.page.wait_for_timeout(1500)
            seen.append(settled(tab))
    assert missing == []
    assert tab.errors == []
    free = np.s_[:330]  # below, buttons fade when nobody moves
    camera = VIEW.camera(640, 420)
    for level, picture in enumerate(seen):
        expected = evaluation.render_view(
            read_streamed(tmp_path / "stream", level, environment=True), camera, 0
        )
        assert metrics.psnr(picture[free] / 255, expected[free]) > 28, level
        bare = evaluation.render_view(read_streamed(tmp_path / "stream", level), camera, 0)
        assert metrics.psnr(bare[free], expected[free]) < 25, "the environment is in the picture"
        for other in range(level):
            assert np.abs(picture[free].astype(float) - seen[other][free]).mean() > 1, "levels look different"
