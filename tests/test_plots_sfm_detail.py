"""Figures of how photographs hang together and of how well the cameras are known."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from test_plots_sfm import card, scene, titles  # noqa: F401

from spaceport_lab.cameras import Cameras, Scene
from spaceport_lab.plots import sfm_detail as plots
from spaceport_lab.plots.style import FAINT, RED


@pytest.fixture
def seven(scene: Scene) -> Scene:  # noqa: F811
    """Without the camera that was not registered."""
    c = scene.cameras
    kept = Cameras(c.names[:7], c.viewmats[:7], c.Ks[:7], c.sizes[:7])
    return Scene(kept, scene.points, scene.colors, True)


@pytest.fixture
def grouped(card: dict) -> dict:  # noqa: F811
    """Two groups of three, and two photographs alone, of which one was not registered."""
    for i, row in enumerate(card["photographs"]):
        row["component"] = [0, 0, 0, 1, 1, 1, 2, 3][i]
    card["pairs"] = [[0, 1, 300], [1, 2, 20], [3, 4, 80], [4, 5, 90], [0, 7, 9]]
    return card


def camera(number: int = 1, sd: float | None = 2.0) -> dict:
    return {
        "camera": number, "model": "SIMPLE_RADIAL", "size": [800, 600], "n_images": 5, "focal_px": [700.0],
        "focal_sd_px": sd and [sd], "distortion": [0.1], "distortion_sd": sd and [0.01],
    }  # fmt: skip


def test_graph_shows_links_groups_and_who_was_left_out(grouped: dict, seven: Scene) -> None:
    figure = plots.graph(grouped, seven)
    assert titles(figure)[:2] == ["4 links, 2 groups", "Groups that hang together"]
    links, registered, lost = figure.axes[0].collections
    assert len(links.get_segments()) == 4  # a pair under the threshold is none
    widths = links.get_linewidths()
    assert np.argmax(widths) == 0
    assert len(registered.get_offsets()) == 7
    assert to_hex(lost.get_facecolors()[0]) == RED.lower()
    np.testing.assert_allclose(lost.get_offsets()[0], grouped["photographs"][7]["gps_enu_m"][:2])
    assert [text.get_text() for text in figure.axes[0].texts] == ["7.jpg"]
    colors = {to_hex(c) for c in registered.get_facecolors()}
    assert len(colors) == 3
    assert FAINT.lower() in colors  # the one that is alone


def test_without_gps_those_left_out_lie_below(grouped: dict, seven: Scene) -> None:
    for row in grouped["photographs"]:
        row["gps_enu_m"] = None
    lost = plots.graph(grouped, seven).axes[0].collections[2].get_offsets()
    assert (lost[:, 1] < seven.cameras.centers[:, 1].min()).all()


def test_graph_without_matches(grouped: dict, seven: Scene) -> None:
    figure = plots.graph({**grouped, "pairs": []}, seven)
    assert any("not known" in text for text in titles(figure))


def test_distortion_is_the_camera_models(grouped: dict) -> None:
    """Against the definition: shift = f·k·x³ at x = r/f, and its deviation alike."""
    radius, shift, doubt = plots.distortion(camera())
    assert radius[-1] == pytest.approx(500)
    np.testing.assert_allclose(shift, 700 * 0.1 * (radius / 700) ** 3)
    np.testing.assert_allclose(doubt, 0.1 * shift)
    two = camera() | {"distortion": [0.1, -0.2], "distortion_sd": [0.0, 0.03]}
    _, shift, doubt = plots.distortion(two)
    np.testing.assert_allclose(shift, 700 * (0.1 * (radius / 700) ** 3 - 0.2 * (radius / 700) ** 5))
    np.testing.assert_allclose(doubt, 700 * 0.03 * (radius / 700) ** 5)
    assert not plots.distortion(camera() | {"distortion": [], "distortion_sd": []})[1].any()


def test_cameras(grouped: dict) -> None:
    figure = plots.cameras({"cameras": [camera(1), camera(2, 20.0), camera(3, None)]})
    assert "Focal lengths" in titles(figure)
    focal = figure.axes[1]
    assert [to_hex(bar.get_facecolor()) == RED.lower() for bar in focal.patches] == [False, True]
    words = [text.get_text() for text in focal.texts]
    assert "700.0 ± 2 px" in words[0]
    assert "not known" in words
    assert any("nothing of the cameras" in text for text in titles(plots.cameras({})))
