"""Turned, moved and scaled: seen from the camera that went along, nothing has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import make_cameras
from scipy.spatial.transform import Rotation
from splat_transform import decode, splat_transform
from splats import random_splat, scene_splat

from spaceport_lab import backends, evaluation, metrics
from spaceport_lab.cameras import Cameras
from spaceport_lab.edit.transform import Transform, euler, rotate_sh, sh_basis, transform
from spaceport_lab.errors import ParamsError
from spaceport_lab.gaussians import N_COEFFS, Gaussians, read_ply, write_ply

TURN = Transform(euler((25.0, -70.0, 130.0)), (3.0, -2.0, 7.0), 1.7)


def moved(cameras: Cameras, t: Transform) -> Cameras:
    """Cameras that see the transformed world as `cameras` see the one before, at the same size."""
    viewmats = cameras.viewmats.copy()
    for viewmat, before in zip(viewmats, cameras.viewmats, strict=True):
        viewmat[:3, :3] = before[:3, :3] @ t.matrix.T
        viewmat[:3, 3] = t.scale * before[:3, 3] - viewmat[:3, :3] @ t.translation
    return replace(cameras, viewmats=viewmats)


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
def test_the_transformed_camera_sees_the_same_picture(sh_degree: int) -> None:
    splat = random_splat(400, sh_degree)
    splat = replace(splat, means=splat.means / 3, scales=splat.scales + np.float32(1.5), shN=3 * splat.shN)
    cameras = make_cameras(3, 96, 72)
    before = list(evaluation.render_views(splat, cameras))
    after = list(evaluation.render_views(transform(splat, TURN), moved(cameras, TURN)))
    for a, b in zip(before, after, strict=True):
        assert a.std() > 0.1
        assert metrics.psnr(a, b) > 55
    if sh_degree:
        plain = replace(transform(splat, TURN), shN=splat.shN)
        wrong = next(evaluation.render_views(plain, moved(cameras, TURN)))
        assert metrics.psnr(before[0], wrong) < 40, "without turning SH the picture is another one"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_turned_coefficients_show_the_same_colour_in_the_turned_direction(seed: int, degree: int) -> None:
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(rng=rng).as_matrix()
    shN = rng.normal(size=(4, N_COEFFS[degree], 3)).astype(np.float32)
    directions = rng.normal(size=(9, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    basis = [sh_basis(d)[:, : N_COEFFS[degree]] for d in (directions, directions @ rotation.T)]
    before = np.einsum("dk,nkc->ndc", basis[0], shN)
    after = np.einsum("dk,nkc->ndc", basis[1], rotate_sh(shN, rotation))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_the_basis_is_the_rasterizer_s() -> None:
    """One Gaussian with one coefficient at a time, seen from several sides, against the rendered colour."""
    for k in range(15):
        splat = random_splat(1)
        splat = replace(
            splat,
            means=np.zeros((1, 3), np.float32),
            scales=np.zeros((1, 3), np.float32),
            opacities=np.full(1, 20, np.float32),
            sh0=np.zeros((1, 1, 3), np.float32),
            shN=(np.arange(15) == k).astype(np.float32).reshape(1, 15, 1).repeat(3, axis=2) * np.float32(0.3),
        )
        cameras = make_cameras(4, 32, 32)
        directions = -cameras.centers / np.linalg.norm(cameras.centers, axis=1, keepdims=True)
        expected = 0.5 + 0.3 * sh_basis(directions)[:, k]
        with torch.no_grad():
            renders, alphas, _ = backends.rasterize(
                torch.tensor(splat.means), torch.tensor(splat.quats), torch.tensor(splat.sigmas),
                torch.tensor(splat.alphas), torch.tensor(splat.sh),
                torch.tensor(cameras.viewmats, dtype=torch.float32),
                torch.tensor(cameras.Ks, dtype=torch.float32), 32, 32, sh_degree=3,
            )  # fmt: skip
        seen = (renders / alphas)[:, 16, 16, 0].numpy()
        np.testing.assert_allclose(seen, expected, atol=2e-3)


def as_columns(g: Gaussians) -> np.ndarray:
    return np.concatenate([g.means, g.scales, g.sh0[:, 0], g.shN.reshape(g.n, -1)], axis=1)


def test_the_peer_turns_to_the_same_numbers(tmp_path: Path) -> None:
    splat = scene_splat(300)
    write_ply(tmp_path / "in.ply", splat)
    # Its axes are those of its viewer, half a turn about Z away from the file's.
    turn = ("-r", "-25,70,130", "-s", "1.7", "-t", "-3,2,7")
    splat_transform("-q", "-w", tmp_path / "in.ply", *turn, tmp_path / "out.ply")
    peer, ours = read_ply(tmp_path / "out.ply"), transform(splat, TURN)
    np.testing.assert_allclose(as_columns(ours), as_columns(peer), atol=2e-4)
    dots = np.abs((ours.rotations * peer.rotations).sum(axis=1))
    np.testing.assert_allclose(dots, 1, atol=1e-5)
    assert len(decode(tmp_path / "out.ply", tmp_path)["x"]) == 300


def test_there_and_back_and_nothing() -> None:
    splat = random_splat(50)
    same = transform(splat, Transform())
    for name, values in vars(splat).items():
        np.testing.assert_array_equal(getattr(same, name), values, name)
    w, x, y, z = TURN.rotation
    back = transform(transform(splat, Transform(TURN.rotation)), Transform((w, -x, -y, -z)))
    for name, values in vars(splat).items():
        there_and_back = getattr(back, name)
        if name == "quats":  # q and -q are the same turn
            there_and_back = there_and_back * np.sign((there_and_back * values).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(there_and_back, values, atol=3e-5, err_msg=name)


@pytest.mark.parametrize(
    "wrong", [{"scale": 0.0}, {"scale": -1.0}, {"rotation": (0, 0, 0, 0)}, {"translation": (0, np.nan, 0)}]
)
def test_impossible_transforms(wrong: dict) -> None:
    with pytest.raises(ParamsError, match="impossible transform"):
        Transform(**wrong)


def test_beyond_float32() -> None:
    with pytest.raises(ParamsError, match="beyond what a float32"):
        transform(random_splat(3), Transform(scale=1e39))
