"""SuperSplat's viewer shows an edited splat as our rasterizer draws it, view-dependent colour included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import browser, open_file, settled, wait_until_shown
from scenes import make_gaussians

from spaceport_lab import evaluation, metrics, viewer
from spaceport_lab.edit.clean import CleanOptions, clean
from spaceport_lab.edit.decimate import decimate
from spaceport_lab.edit.formats import read_splat, write_splat
from spaceport_lab.edit.transform import Transform, euler, transform
from spaceport_lab.gaussians import Gaussians, concatenate
from spaceport_lab.inspection.viewpoint import Viewpoint
from spaceport_lab.sog import SETTINGS


def edited() -> Gaussians:
    """Two mounds, one of them turned, smaller and beside the other, cleaned, merged down to two thirds."""
    rng = np.random.default_rng(4)
    mound = make_gaussians(1500, rng)
    # Colours that depend on the side they are seen from, alike for neighbours.
    shN = np.zeros((1500, 15, 3), np.float32)
    shN[:, 0], shN[:, 2], shN[:, 6] = (0.5, -0.4, 0.1), (-0.3, 0.4, 0.3), (0.1, 0.2, -0.3)
    mound = replace(mound, shN=shN)
    other = transform(mound, Transform(euler((20.0, 0.0, 110.0)), (2.6, 1.0, 0.3), 0.7))
    both = concatenate([mound, other])
    both = clean(both, CleanOptions(sphere=((1.0, 0.0, 0.5), 4.0), min_opacity=0.05)).gaussians
    steps = decimate(both, 2 * both.n // 3)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


@pytest.mark.browser
@pytest.mark.parametrize("setting", ["balanced", "no-sh"])
def test_the_viewer_shows_an_edited_splat(tmp_path: Path, setting: str) -> None:
    for _ in write_splat(tmp_path / "edited.sog", edited(), SETTINGS[setting]):
        pass
    view = Viewpoint((4.5, -4.5, 3.4), (1.0, 0.3, 0.3), (0.0, 0.0, 1.0), 50.0)
    viewer.write_viewer(tmp_path / "page.html", tmp_path / "edited.sog", viewpoint=view)
    with browser(640, 420) as context:
        tab = open_file(context, tmp_path / "page.html")
        wait_until_shown(tab.page)
        seen = settled(tab)
    assert tab.requests == []
    assert tab.errors == []
    decoded = read_splat(tmp_path / "edited.sog").gaussians
    expected = evaluation.render_view(decoded, view.camera(640, 420), 0)
    free = np.s_[:330]  # below, buttons fade when nobody moves
    assert expected[free].std() > 0.1
    assert metrics.psnr(seen[free] / 255, expected[free]) > 28
    if setting == "balanced":
        plain = evaluation.render_view(decoded.with_sh_degree(0), view.camera(640, 420), 0)
        assert metrics.psnr(plain[free], expected[free]) < 25, "view-dependent colour makes a difference"
