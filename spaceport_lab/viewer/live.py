"""A scene in 3D while it trains: cameras, points, GPS track and splat, served to a browser by viser.

The splat is read from the checkpoints of 03_train, so this runs beside any training, also one of another
process, and never touches it. It needs a port; where none can be had, the pages of this package do.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rich
from jaxtyping import Float
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from spaceport_lab.cameras import read_scene
from spaceport_lab.edit.decimate import covariances as upper_covariances
from spaceport_lab.errors import SpaceportError, StageError
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.images import load_rgb
from spaceport_lab.inspection.viewpoint import first_view, up_direction
from spaceport_lab.train.starting import read_start
from spaceport_lab.workspace import StageRun

LOOK_SECONDS = 1.0
"""How often a new checkpoint is looked for."""

MOST_SHOWN = 400_000
"""Gaussians sent to the browser at the most, those that cover most; 50 bytes each go through a socket."""

LONGEST_SIDE = 160
"""Pixels of the photographs in the cameras' frames."""

MOST_PHOTOGRAPHS = 150
"""Cameras that carry their photograph, evenly spaced; the others are empty frames."""

TRACK, STRAY = (86, 180, 233), (213, 94, 0)
"""Colours of GPS positions: those that were used, and those left out as strays."""


class LiveScene:
    """What a run's cameras saw and what has been trained so far, to walk through in a browser.

    Args:
        run: any stage's run; 02_sfm must have finished.
        host: address to listen at; this machine alone unless told otherwise.
        port: 0 takes a free one.

    Raises:
        StageError: viser is not installed, or there is no such port to be had.
        WorkspaceError: the sfm stage has not finished.
    """

    def __init__(self, run: StageRun, host: str = "127.0.0.1", port: int = 0) -> None:
        self.run, self.scene = run, read_scene(run.input("sfm"))
        self._seen: tuple[int, int] | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.server = _serve(host, port)
        up = up_direction(self.scene.cameras, self.scene.georeferenced)
        self.server.scene.set_up_direction(tuple(up))
        self._say = self.server.gui.add_markdown("")
        self._show_points()
        self._show_cameras()
        self._show_track()
        self.update()

    @property
    def port(self) -> int:
        """Where the browser finds it."""
        return self.server.get_port()

    @property
    def address(self) -> str:
        """What to open: through jupyter-server-proxy where Jupyter gives its prefix, else directly."""
        prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX") or os.environ.get("JUPYTER_BASE_URL")
        if prefix:
            return f"{prefix.rstrip('/')}/proxy/{self.port}/"
        return f"http://127.0.0.1:{self.port}/"

    def follow(self) -> None:
        """Show each new checkpoint from now on, until `close`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name="live scene", daemon=True)
            self._thread.start()

    def update(self) -> bool:
        """Show the newest splat if there is one that has not been shown; says whether there was."""
        source = next((path for path in self._sources() if path.is_file()), None)
        if source is None:
            self._say.content = "No checkpoint yet."
            return False
        stat = source.stat()
        now = (stat.st_mtime_ns, stat.st_size)
        if now == self._seen:
            return False
        self._show_splat(read_start(source))
        self._seen = now
        return True

    def close(self) -> None:
        """Stop following and serving."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        with _quiet():
            self.server.stop()

    def _sources(self) -> tuple[Path, ...]:
        stage = self.run.root / "03_train"
        return (stage / "checkpoint.pt", stage / "splat.ply")

    def _follow(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                self.update()
            except (SpaceportError, OSError) as error:  # a training that starts anew takes its files away
                self._say.content = f"The newest checkpoint cannot be read: {error}"

    def _show_splat(self, gaussians: Gaussians) -> None:
        shown = most_covering(gaussians, MOST_SHOWN)
        self.server.scene.add_gaussian_splats(
            "/splat",
            centers=shown.means.astype(np.float32),
            covariances=covariances(shown),
            rgbs=shown.colors.clip(0, 1).astype(np.float32),
            opacities=shown.alphas[:, None].astype(np.float32),
        )
        left = "" if shown.n == gaussians.n else f", {shown.n:,} of them shown"
        self._say.content = f"**{gaussians.n:,} Gaussians**{left}"
        view = first_view(
            gaussians, self.scene.cameras, up_direction(self.scene.cameras, self.scene.georeferenced)
        )
        if self._seen is None:
            camera = self.server.initial_camera
            camera.position, camera.look_at, camera.up = view.position, view.target, view.up

    def _show_points(self) -> None:
        if len(self.scene.points):
            size = float(
                np.median(np.linalg.norm(self.scene.points - self.scene.points.mean(axis=0), axis=1))
            )
            self.server.scene.add_point_cloud(
                "/sparse points",
                self.scene.points.astype(np.float32),
                self.scene.colors,
                point_size=0.004 * size,
            )

    def _show_cameras(self) -> None:
        cameras, images = self.scene.cameras, self.run.input("sfm", "images")
        step = max(1, -(-len(cameras) // MOST_PHOTOGRAPHS))
        scale = 0.15 * spacing(cameras.centers)
        for i, name in enumerate(cameras.names):
            width, height = (int(side) for side in cameras.sizes[i])
            smaller = min(1.0, LONGEST_SIDE / max(width, height))
            small = (max(1, round(width * smaller)), max(1, round(height * smaller)))
            quat = Rotation.from_matrix(cameras.viewmats[i, :3, :3].T).as_quat(scalar_first=True)
            self.server.scene.add_camera_frustum(
                f"/cameras/{name}",
                fov=2 * float(np.arctan(height / 2 / cameras.Ks[i, 1, 1])),
                aspect=width / height,
                scale=scale,
                image=load_rgb(images / name, small) if i % step == 0 else None,
                wxyz=quat,
                position=cameras.centers[i],
            )

    def _show_track(self) -> None:
        """GPS positions in the order of the photographs, in the same metres as the cameras."""
        path = self.run.input("sfm") / "registration.json"
        if not path.is_file():
            return
        entries = [e for e in json.loads(path.read_text())["photographs"] if e.get("gps_enu_m")]
        if not entries or not self.scene.georeferenced:
            return
        places = np.array([entry["gps_enu_m"] for entry in entries], np.float32)
        strays = np.array([entry.get("gps_inlier") is False for entry in entries])
        self.server.scene.add_point_cloud(
            "/GPS positions", places, np.where(strays[:, None], STRAY, TRACK).astype(np.uint8),
            point_size=0.03 * spacing(self.scene.cameras.centers), point_shape="circle",
        )  # fmt: skip
        if len(places) > 1:
            lines = np.stack([places[:-1], places[1:]], axis=1)
            self.server.scene.add_line_segments("/GPS track", lines, colors=TRACK, line_width=1.5)


def most_covering(gaussians: Gaussians, most: int) -> Gaussians:
    """At most `most` Gaussians: those whose opacity times size is largest, in their order."""
    if gaussians.n <= most:
        return gaussians
    log_sigmas = np.sort(gaussians.scales.astype(np.float64), axis=1)
    weights = gaussians.alphas * np.exp(log_sigmas[:, 1] + log_sigmas[:, 2])
    return gaussians.subset(np.sort(np.argpartition(-weights, most - 1)[:most]))


def covariances(gaussians: Gaussians) -> Float[np.ndarray, "N 3 3"]:
    """Covariance matrices in world units²."""
    return upper_covariances(gaussians)[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3).astype(np.float32)


def spacing(centers: Float[np.ndarray, "C 3"]) -> float:
    """The usual distance from a camera to its nearest neighbour; 1 where there is none."""
    if len(centers) < 2:
        return 1.0
    distances, _ = cKDTree(centers).query(centers, k=2)
    return float(np.median(distances[:, 1])) or 1.0


def _serve(host: str, port: int) -> Any:
    try:
        import viser
    except ImportError as error:
        raise StageError(
            "the live 3D view needs viser",
            got="it is not installed",
            hint="pip install 'spaceport-lab[live]'",
        ) from error
    try:
        with _quiet():
            return viser.ViserServer(host=host, port=port or _free_port(host), verbose=False)
    except OSError as error:
        raise StageError(
            "the live 3D view needs a port of its own", got=f"{host}:{port or 'any'}: {error}",
            hint="the viewer of notebook 05 needs none",
        ) from error  # fmt: skip


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing is printed through rich: viser greets and takes leave, in a notebook past its stdout."""
    console = rich.get_console()
    before = console.__dict__  # what `reconfigure` replaces
    rich.reconfigure(file=io.StringIO(), force_jupyter=False)
    try:
        yield
    finally:
        console.__dict__ = before


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
