"""Figures of the sfm stage, from a scene of known shape."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from spaceport_lab.cameras import Cameras, Scene
from spaceport_lab.plots import sfm as plots

N = 8


@pytest.fixture
def scene() -> Scene:
    """Eight cameras on a circle, 30 m up, looking straight down on a square of points with a few far off."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, N, endpoint=False)
    centers = np.c_[20 * np.cos(angle), 20 * np.sin(angle), np.full(N, 30.0)]
    viewmats = np.tile(np.diag([1.0, -1, -1, 1]), (N, 1, 1))
    viewmats[:, :3, 3] = -np.einsum("cij,cj->ci", viewmats[:, :3, :3], centers)
    Ks = np.tile([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]], (N, 1, 1))
    cameras = Cameras(tuple(f"{i}.jpg" for i in range(N)), viewmats, Ks, np.full((N, 2), (640, 480)))
    points = np.r_[rng.uniform(-25, 25, (1000, 3)) * [1, 1, 0.02], [[5000.0, 0, 0], [0, 0, -4000]]]
    return Scene(cameras, points, rng.integers(0, 256, (1002, 3)), True)


@pytest.fixture
def card(scene: Scene) -> dict:
    """A registration record: all but the last photograph registered, one of them with stray GPS."""
    rng = np.random.default_rng(1)
    rows = []
    for i, (name, center) in enumerate(zip(scene.cameras.names, scene.cameras.centers, strict=True)):
        offset = np.array([900.0, 0, 0]) if i == 2 else rng.normal(size=3)
        rows.append(
            {
                "name": name,
                "registered": i < 7,
                "n_points": 100 + i,
                "n_pairs": i % 4,
                "reprojection_error_px": 0.5,
                "gps_enu_m": (center - offset).tolist(),
                "gps_residual_m": offset.tolist(),
                "gps_inlier": i != 2,
            }
        )
    histograms = {
        "error_px": {"edges": np.linspace(0, 4, 41).tolist(), "counts": [5] * 40},
        "track_length": [0, 0, 9, 1],
    }
    return {"photographs": rows, "pairs": [[0, 1, 300], [1, 2, 20]], "histograms": histograms}


def titles(figure: Figure) -> list[str]:
    figure.canvas.draw()
    return [ax.get_title(loc="left") for ax in figure.axes] + [
        t.get_text() for ax in figure.axes for t in ax.texts
    ]


def test_model_shows_cameras_points_and_gps(scene: Scene, card: dict) -> None:
    figure = plots.model(scene, card)
    assert titles(figure)[:3] == ["From above", "Obliquely, from the south-east", "From the south"]
    above, _, south = figure.axes[:3]
    dots, tips, gps = (collection for collection in above.collections if collection.get_offsets().size > 2)
    assert len(dots.get_offsets()) == 1000  # without the two far ones
    np.testing.assert_allclose(
        np.sort(tips.get_offsets(), axis=0), np.sort(scene.cameras.centers[:, :2], axis=0)
    )
    assert len(gps.get_offsets()) == N - 1  # the stray is kilometres away
    heights = south.collections[2].get_offsets()[:, 1]
    np.testing.assert_allclose(heights, 30)
    assert above.get_xlabel() == "east [m]"


def test_views_are_rotations_that_look_the_way_they_say() -> None:
    for turn in (plots._OBLIQUE, plots._FROM_SOUTH):
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)
        assert (turn @ [0, 0, 1])[1] > 0.8  # up is up on the page
        assert (turn @ [0, -1, 0])[2] > 0.5  # the south is near
    assert (plots._OBLIQUE @ [1, 0, 0])[2] > 0.2  # and so is the east


def test_pyramids_open_towards_what_is_seen(scene: Scene) -> None:
    edges = plots._pyramids(scene.cameras, scene.points)
    assert edges.shape == (8 * N, 2, 3)
    tips, corners = edges[:4, 0], edges[:4, 1]
    np.testing.assert_allclose(tips, np.tile(scene.cameras.centers[0], (4, 1)))
    assert (corners[:, 2] < 30).all()


def test_model_without_gps(scene: Scene, card: dict) -> None:
    plain = Scene(scene.cameras, scene.points, scene.colors, False)
    for row in card["photographs"]:
        row["gps_enu_m"] = None
    figure = plots.model(plain, card)
    assert figure.axes[0].get_xlabel() == "across"


def test_matches(card: dict) -> None:
    figure = plots.matches(card)
    matrix = figure.axes[0].images[0].get_array()
    assert matrix[0, 1] == matrix[1, 0] == 300
    assert np.ma.count(matrix) == 4
    colors = {tuple(bar.get_facecolor()) for bar in figure.axes[1].patches}
    assert len(colors) == 2
    assert "2 verified pairs" in titles(figure)
    assert any("not known" in text for text in titles(plots.matches({**card, "pairs": []})))


def test_fit(card: dict, scene: Scene) -> None:
    figure = plots.fit(card, scene)
    assert len(figure.axes[0].patches) == 7
    assert {"Points seen", "Error of the points", "Seen in 2.1 photographs", "The same in height"} <= set(
        titles(figure)
    )
    plane = figure.axes[2]
    assert len(plane.collections[0].get_offsets()) == 6
    stray = plane.collections[1].get_offsets()[0]
    assert plane.get_xlim()[0] < stray[0] < plane.get_xlim()[1]
    for row in card["photographs"]:
        row.pop("gps_residual_m")
    assert any("no GPS" in text for text in titles(plots.fit({**card, "histograms": None}, scene)))
    for row in card["photographs"]:
        row["registered"] = False
    assert any("no photograph was registered" in text for text in titles(plots.fit(card, scene)))
