"""Fixtures every test module may use."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ray_cluster import Cluster

# A shell that starts the tests in the background has them ignore interrupts, which some send to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--photos", default="", help="folder of scenes with real photographs, for slow tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip `gpu` tests where there is no CUDA device; nothing else is ever skipped for want of hardware."""
    import torch

    if torch.cuda.is_available():
        return
    reason = pytest.mark.skip(reason="no CUDA device on this machine")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(reason)


@pytest.fixture(scope="session")
def tiny_flight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 photographs of 400×300 with EXIF GPS in `images/`, and `ground_truth.json`; never written to."""
    from spaceport_lab.sample import make_sample

    folder = tmp_path_factory.mktemp("flight") / "tiny"
    make_sample(folder, n_images=12, width=400, height=300, survey=False)
    return folder


@pytest.fixture(autouse=True)
def _no_scene_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own settings must not change what the tests see."""
    for name in tuple(os.environ):
        if name.startswith("SPACEPORT_") and name != "SPACEPORT_KERNEL_CACHE":
            monkeypatch.delenv(name)
    for name in ("LOG_LEVEL", "LOG_FORMAT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """Address of a stand-in for AWS that forgets everything at the module's end."""
    from aws_standins import moto_server

    with moto_server() as url:
        yield url


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A Ray cluster of two nodes on loopback."""
    from ray_cluster import Cluster

    made = Cluster()
    try:
        made.add()
        made.add()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def photos(request: pytest.FixtureRequest) -> Path:
    """The folder given with --photos, for tests on real photographs."""
    folder = request.config.getoption("--photos")
    if not folder:
        pytest.fail("slow tests need --photos FOLDER")
    return Path(folder)
