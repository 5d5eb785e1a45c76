from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scenes
import torch

from spaceport_lab.cameras import Scene, read_scene
from spaceport_lab.errors import InputError
from spaceport_lab.gaussians import Gaussians, write_ply
from spaceport_lab.params import TrainParams
from spaceport_lab.train import starting


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return read_scene(scenes.make_run(tmp_path).input("sfm"))


def first(scene: Scene, cap: int = 1000, warn=lambda message: pytest.fail(message), **values) -> Gaussians:
    return starting.first_gaussians(scene, scene.cameras, TrainParams(**values), cap, warn)


def truth(n: int = 60) -> Gaussians:
    return scenes.make_gaussians(n, np.random.default_rng(3))


def test_a_random_sample_of_the_points_is_reproducible(scene: Scene) -> None:
    bare = {"backdrop": False, "init_fill": 0}
    one, two = (first(scene, init_points=50, **bare) for _ in range(2))
    assert one.n == 50
    assert np.array_equal(one.means, two.means)
    assert not np.array_equal(one.means, first(scene, init_points=50, seed=1, **bare).means)
    assert first(scene, cap=20, **bare).n == 20
    assert first(scene, **bare).n == 300


def test_points_are_laid_between_those_that_are_taken(scene: Scene) -> None:
    bare = first(scene, backdrop=False, init_fill=0)
    filled = first(scene, backdrop=False, init_fill=1.5)
    assert filled.n == 750
    np.testing.assert_array_equal(filled.means[:300], bare.means)
    assert np.median(filled.scales) < np.median(bare.scales)
    assert first(scene, backdrop=False).n == 600
    assert first(scene, init_points=50, backdrop=False, init_fill=1).n == 100


@pytest.mark.parametrize(
    ("values", "n"),
    [
        ({"grow_to": 400}, 400),
        ({"grow_to": 200}, 300),
        ({"grow_ratio": 0.0035}, 350),
        ({"grow_to": 400, "grow_grad2d": 1e-4}, 900),
        ({"grow_to": 400, "grow_grad2d": 1e-4, "strategy": "mcmc"}, 400),
    ],
    ids=str,
)
def test_no_more_are_laid_than_growth_aims_at(scene: Scene, values: dict, n: int) -> None:
    assert first(scene, cap=2000, backdrop=False, init_fill=2, **values).n == n
    assert first(scene, cap=320, backdrop=False, init_fill=2, **values).n == min(n, 320)


def test_the_backdrop_comes_on_top_where_there_is_room(scene: Scene) -> None:
    assert 300 < first(scene, init_fill=0).n < 400
    assert first(scene, cap=300).n == 300


def test_a_ply_is_a_start(tmp_path: Path, scene: Scene) -> None:
    write_ply(tmp_path / "start.ply", truth())
    started = first(scene, init_from=str(tmp_path / "start.ply"))
    np.testing.assert_array_equal(started.means, truth().means)
    assert started.sh_degree == 3
    assert not started.shN[:, truth().shN.shape[1] :].any()
    assert first(scene, init_from=str(tmp_path / "start.ply"), sh_degree=0).shN.shape == (60, 0, 3)
    said: list[str] = []
    assert first(scene, cap=25, warn=said.append, init_from=str(tmp_path / "start.ply")).n == 25
    assert "25 of the 60 Gaussians" in said[0]


def checkpoints() -> dict[str, dict]:
    g = starting.with_degree(truth(), 3)
    fields = {name: torch.tensor(getattr(g, name)) for name in starting.FIELDS}
    nerfstudio = {
        f"_model.gauss_params.{theirs}": fields[ours] for ours, theirs in starting.NERFSTUDIO.items()
    }
    # nerfstudio keeps colours flat and opacities as a column.
    nerfstudio["_model.gauss_params.features_dc"] = fields["sh0"][:, 0]
    nerfstudio["_model.gauss_params.opacities"] = fields["opacities"][:, None]
    return {
        "gsplat.pt": {"step": 7, "splats": fields},
        "nerfstudio.ckpt": {"step": 7, "pipeline": {**nerfstudio, "_model.other": torch.zeros(3)}},
    }


@pytest.mark.parametrize("name", ["gsplat.pt", "nerfstudio.ckpt"])
def test_checkpoints_of_others_are_a_start(tmp_path: Path, scene: Scene, name: str) -> None:
    torch.save(checkpoints()[name], tmp_path / name)
    started = first(scene, init_from=str(tmp_path / name))
    for field in starting.FIELDS:
        np.testing.assert_array_equal(
            getattr(started, field), getattr(starting.with_degree(truth(), 3), field)
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"PK nonsense", "neither a PLY nor a checkpoint"),
        ({"weights": torch.zeros(3)}, "holds no Gaussians"),
        ({"splats": {"means": torch.zeros(3, 3)}}, "without scales, quats"),
        ([1, 2], "holds no Gaussians"),
    ],
    ids=str,
)
def test_what_is_no_start_is_refused(tmp_path: Path, scene: Scene, content: object, message: str) -> None:
    path = tmp_path / "start.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=message):
        first(scene, init_from=str(path))


def test_a_splat_of_another_world_is_warned_of(tmp_path: Path, scene: Scene) -> None:
    g = truth()
    away = Gaussians(g.means + 500, g.quats, g.scales, g.opacities, g.sh0, g.shN)
    write_ply(tmp_path / "start.ply", away)
    said: list[str] = []
    first(scene, warn=said.append, init_from=str(tmp_path / "start.ply"))
    assert "lie far from this scene's points" in said[0]
