from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spaceport_lab import evaluation
from spaceport_lab.cameras import Cameras, Scene
from spaceport_lab.train.backdrop import CELLS, backdrop, find_ground

WIDTH, HEIGHT, FOCAL, ALTITUDE = 64, 48, 60.0, 50.0


def flight(n: int = 9, tilt: float = 0.0, seed: int = 0) -> Scene:
    """Cameras 50 m above rolling ground of one colour, in a row, looking down or tilted forward [degrees]."""
    rng = np.random.default_rng(seed)
    centers = np.column_stack([np.linspace(-60, 60, n), np.zeros(n), np.full(n, ALTITUDE)])
    down = Rotation.from_euler("x", 180 + tilt, degrees=True).as_matrix()
    viewmats = np.tile(np.eye(4), (n, 1, 1))
    viewmats[:, :3, :3] = down
    viewmats[:, :3, 3] = -centers @ down.T
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]])
    cameras = Cameras(
        tuple(f"{i}.png" for i in range(n)), viewmats, np.tile(K, (n, 1, 1)), np.tile([WIDTH, HEIGHT], (n, 1))
    )
    points = np.column_stack(
        [rng.uniform(-80, 80, 3000), rng.uniform(-20, 20, 3000), rng.normal(0, 0.3, 3000)]
    )
    points[:, 2] += np.sin(points[:, 0] / 20)
    colors = np.tile([200, 120, 40], (3000, 1))
    return Scene(cameras, points, colors, True)


def turned(scene: Scene, rotation: Rotation, scale: float = 1.0) -> Scene:
    """The same scene in another world."""
    R = rotation.as_matrix()
    viewmats = scene.cameras.viewmats.copy()
    viewmats[:, :3, :3] = viewmats[:, :3, :3] @ R.T
    viewmats[:, :3, 3] *= scale
    cameras = dataclasses.replace(scene.cameras, viewmats=viewmats)
    return Scene(cameras, scale * scene.points @ R.T, scene.colors, False)


@pytest.mark.parametrize("tilt", [0.0, 25.0])
def test_every_photograph_sees_ground_everywhere(tilt: float) -> None:
    scene = flight(tilt=tilt)
    behind = backdrop(scene, scene.cameras, sh_degree=2)
    assert 20 < behind.n <= CELLS[1] ** 2
    assert behind.sh_degree == 2
    for render in evaluation.render_views(behind, scene.cameras):
        # Even between the points' strip and the edge of the picture, in the colour of the points.
        assert np.abs(render - np.array([200, 120, 40]) / 255).max() < 0.12


def test_it_lies_below_the_surface_and_not_far() -> None:
    scene = flight()
    heights = backdrop(scene, scene.cameras, 0).means[:, 2]
    assert heights.max() < 1
    assert heights.min() > -5


def test_it_follows_the_scene_into_another_world() -> None:
    scene = flight()
    rotation = Rotation.from_euler("xyz", [40, -70, 15], degrees=True)
    moved = turned(scene, rotation, 0.01)
    first, second = backdrop(scene, scene.cameras, 0), backdrop(moved, moved.cameras, 0)
    assert abs(first.n - second.n) <= 0.1 * first.n
    for index in (0, 4):
        one, two = (evaluation.render_view(g, s.cameras, index) for g, s in ((first, scene), (second, moved)))
        assert np.abs(one - two).mean() < 0.02


def test_one_camera_that_stands_anywhere_changes_nothing() -> None:
    scene = flight(n=21)
    viewmats = scene.cameras.viewmats.copy()
    viewmats[3, :3, :3] = np.eye(3)
    viewmats[3, :3, 3] = [0, 0, 3000.0]
    stray = dataclasses.replace(scene.cameras, viewmats=viewmats)
    whole, with_stray = (backdrop(scene, cameras, 0) for cameras in (scene.cameras, stray))
    assert np.ptp(with_stray.means[:, 0]) < 1.3 * np.ptp(whole.means[:, 0])


def test_what_is_no_flight_gets_none() -> None:
    scene = flight()
    assert find_ground(scene.points, scene.cameras) is not None
    rng = np.random.default_rng(0)
    room = rng.uniform(-40, 40, (3000, 3)) + np.array([0, 0, 20])
    assert find_ground(room, scene.cameras) is None
    looking_up = turned(scene, Rotation.identity()).cameras.viewmats.copy()
    looking_up[:, 1:3] *= -1
    assert find_ground(scene.points, dataclasses.replace(scene.cameras, viewmats=looking_up)) is None
    assert find_ground(scene.points[:10], scene.cameras) is None
    assert find_ground(scene.points, scene.cameras.subset([0, 1])) is None
