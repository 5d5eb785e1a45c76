"""The live scene: what a browser is sent, that it follows the checkpoints, and that it can be seen."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import rich
import torch
from browser import browser
from rich.console import Console
from scenes import make_colmap_scene, make_gaussians
from splats import random_splat

from spaceport_lab import viewer
from spaceport_lab.errors import StageError, WorkspaceError
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.viewer import frames, live
from spaceport_lab.viewer.live import LiveScene
from spaceport_lab.workspace import StageRun


@pytest.fixture(scope="module")
def reconstructed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a finished sfm stage; one photograph of nine strayed by GPS."""
    root = tmp_path_factory.mktemp("data") / "mound" / "runs" / "live"
    folder = root / "02_sfm"
    make_colmap_scene(folder, n_views=9, width=160, height=120, n_gaussians=400)
    (folder / "georeference.json").write_text("{}")
    (folder / "stage.json").write_text(json.dumps({"stage": "sfm", "outputs": {}}))
    photographs = [
        {"name": f"{i}.jpg", "gps_enu_m": [i, 0.0, 5.0], "gps_inlier": i != 4} for i in range(9)
    ] + [{"name": "without.jpg", "gps_enu_m": None}]
    (folder / "registration.json").write_text(json.dumps({"photographs": photographs}))
    return root


@pytest.fixture
def run(reconstructed: Path, tmp_path: Path) -> StageRun:
    shutil.copytree(reconstructed, tmp_path / "live")
    return StageRun(tmp_path / "live", "train")


def save(run: StageRun, splat: Gaussians) -> None:
    run.dir.mkdir(exist_ok=True)
    splats = {name: torch.from_numpy(values) for name, values in vars(splat).items()}
    torch.save({"step": 1, "splats": splats}, run.dir / "new.pt")
    (run.dir / "new.pt").rename(run.dir / "checkpoint.pt")


@pytest.mark.browser
def test_the_splat_appears_with_each_checkpoint_and_can_be_seen(run: StageRun) -> None:
    scene = LiveScene(run)
    try:
        assert "No checkpoint yet" in scene._say.content
        scene.follow()
        with browser(700, 500, offline=False) as context:
            page = context.new_page()
            page.goto(scene.address)
            page.wait_for_selector("canvas", timeout=60_000)
            page.wait_for_timeout(4000)
            before = screenshot(page)
            save(run, make_gaussians(4000, np.random.default_rng(0)))
            page.wait_for_selector("text=4,000 Gaussians", timeout=60_000)
            page.wait_for_timeout(4000)
            after = screenshot(page)
        assert np.abs(after.astype(int) - before).mean() > 1, "the splat shows"
        save(run, make_gaussians(50, np.random.default_rng(0)))
        wait_for(lambda: "50 Gaussians" in scene._say.content)
        (run.dir / "checkpoint.pt").write_bytes(b"half a checkpoint")
        wait_for(lambda: "cannot be read" in scene._say.content)
    finally:
        scene.close()


def screenshot(page) -> np.ndarray:
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))


def wait_for(condition) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_what_is_sent_of_a_scene(run: StageRun, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, dict] = {}
    for kind in ("point_cloud", "camera_frustum", "line_segments", "gaussian_splats"):
        monkeypatch.setattr(
            f"viser.SceneApi.add_{kind}",
            lambda self, name, *args, **values: sent.update({name: {"args": args, **values}}),
        )
    save(run, make_gaussians(30, np.random.default_rng(0)))
    scene = LiveScene(run)
    scene.close()
    frames = [name for name in sent if name.startswith("/cameras/")]
    assert len(frames) == len(scene.scene.cameras) == 9
    first = sent[f"/cameras/{scene.scene.cameras.names[0]}"]
    assert first["image"].shape == (120, 160, 3)
    assert np.allclose(first["position"], scene.scene.cameras.centers[0])
    assert len(sent["/sparse points"]["args"][0]) == len(scene.scene.points)
    places, colors = sent["/GPS positions"]["args"]
    assert places.shape == (9, 3)
    assert [tuple(color) == live.STRAY for color in colors] == [i == 4 for i in range(9)]
    assert sent["/GPS track"]["args"][0].shape == (8, 2, 3)
    assert sent["/splat"]["centers"].shape == (30, 3)


def test_covariances_are_rotated_squares_of_sigmas() -> None:
    splat = random_splat(20, 0)
    found = live.covariances(splat)
    for i in range(20):
        w, x, y, z = splat.quats[i] / np.linalg.norm(splat.quats[i])
        rotation = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        expected = rotation @ np.diag(np.exp(2 * splat.scales[i])) @ rotation.T
        assert np.allclose(found[i], expected, rtol=1e-3, atol=1e-6 * np.abs(expected).max())


def test_of_too_many_those_that_cover_most_are_sent() -> None:
    splat = random_splat(100, 0)
    few = live.most_covering(splat, 10)
    log_sigmas = np.sort(splat.scales, axis=1)
    worth = splat.alphas * np.exp(log_sigmas[:, 1] + log_sigmas[:, 2])
    assert np.array_equal(few.means, splat.means[np.sort(np.argsort(-worth)[:10])])
    assert live.most_covering(splat, 100) is splat


def test_it_says_why_it_cannot_be(run: StageRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorkspaceError, match="run notebooks/02_sfm"):
        LiveScene(StageRun(tmp_path / "nothing", "train"))
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "viser", None)
        with pytest.raises(StageError, match=r"spaceport-lab\[live\]"):
            LiveScene(run)


def test_the_address_goes_through_jupyter_s_proxy(run: StageRun, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = LiveScene(run)
    try:
        assert scene.address == f"http://127.0.0.1:{scene.port}/"
        monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/")
        assert scene.address == f"/user/ada/proxy/{scene.port}/"
    finally:
        scene.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", scene.port)) != 0, "closed is closed"


def test_nobody_is_greeted_in_a_notebook(
    run: StageRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shown: list[object] = []
    monkeypatch.setattr("IPython.display.display", lambda *what, **_: shown.extend(what))
    monkeypatch.setattr(rich, "_console", Console(force_jupyter=True))
    LiveScene(run).close()
    assert not shown
    assert capsys.readouterr().out == ""
    rich.print("not quiet any more")
    assert shown


def test_a_notebook_shows_one_scene_however_often_its_cell_is_run(run: StageRun) -> None:
    assert viewer.live_scene(run, interactive=False) is None
    first = viewer.live_scene(run, interactive=True)
    try:
        assert viewer.live_scene(run, interactive=True) == first
        assert f'src="{first.address}"' in first._repr_html_()
        assert first.address in repr(first)
    finally:
        frames._scenes.pop(run.root).close()


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_end(run: StageRun, ended_by: signal.Signals) -> None:
    command = [sys.executable, "-m", "spaceport_lab.cli", "watch", str(run.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().split()[0]
        with urllib.request.urlopen(address, timeout=30) as page:
            assert b"<html" in page.read().lower()
        process.send_signal(ended_by)
        try:
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
