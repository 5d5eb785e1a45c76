"""Backend sogs: refused with the reason where it cannot run; what version 1 it leaves becomes version 2.

No GPU and no sogs is at hand here: the program is stood in for by one that leaves files made by this test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from splats import random_splat, scene_splat
from test_sog_v1 import write_v1

from spaceport_lab.edit.formats import write_with_sogs
from spaceport_lab.errors import BackendError, InputError
from spaceport_lab.gaussians import write_ply
from spaceport_lab.sog import read_sog, sogs, write_folder
from spaceport_lab.sog.read import read_version


@pytest.fixture
def with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has what sogs needs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sogs.importlib.metadata, "version", lambda name: "1.1.0")
    monkeypatch.setattr(sogs.importlib.util, "find_spec", lambda name: object())


def pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    (folder / "program.py").write_text(f"import shutil, sys, time\n{script}\n")
    monkeypatch.setattr(sogs, "_command", lambda: [sys.executable, str(folder / "program.py")])


def test_without_a_gpu_it_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write_ply(tmp_path / "in.ply", random_splat(2000))
    with pytest.raises(BackendError, match=r"(?s)backend sogs cannot run here.*no CUDA device"):
        write_with_sogs(tmp_path / "in.ply", tmp_path / "out.sog")
    assert not (tmp_path / "out.sog").exists()


@pytest.mark.parametrize("version", ["1.0.0", "0.9"])
def test_the_release_of_pypi_is_refused(with_everything, monkeypatch, version: str) -> None:
    monkeypatch.setattr(sogs.importlib.metadata, "version", lambda name: version)
    with pytest.raises(BackendError, match=rf"(?s)from its repository.*sogs {version}, whose rotations"):
        sogs.check_sogs()


def test_what_is_missing_is_named(with_everything, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise sogs.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(sogs.importlib.util, "find_spec", lambda name: None if name == "plas" else object())
    with pytest.raises(BackendError, match=r"(?s)plas not installed.*fraunhoferhhi/PLAS"):
        sogs.check_sogs()
    monkeypatch.setattr(sogs.importlib.metadata, "version", absent)
    with pytest.raises(BackendError, match=r"(?s)sogs is not installed.*playcanvas/sogs"):
        sogs.check_sogs()


def test_its_version_1_becomes_version_2(with_everything, monkeypatch, tmp_path: Path) -> None:
    splat = scene_splat(1600, 2)
    write_folder(tmp_path / "v1", write_v1(splat))
    copy = f"shutil.copytree({str(tmp_path / 'v1')!r}, sys.argv[sys.argv.index('--output-dir') + 1]"
    pretend(monkeypatch, tmp_path, copy + ", dirs_exist_ok=True)")
    write_ply(tmp_path / "in.ply", scene_splat(1630, 2))
    result = write_with_sogs(tmp_path / "in.ply", tmp_path / "out.sog")
    assert (result.n, result.left_out) == (1600, 30)
    assert read_version(tmp_path / "out.sog") == 2
    np.testing.assert_array_equal(read_sog(tmp_path / "out.sog").means, read_sog(tmp_path / "v1").means)


def test_a_program_that_fails_or_hangs(with_everything, monkeypatch, tmp_path: Path) -> None:
    pretend(monkeypatch, tmp_path, "sys.exit('out of memory')")
    with pytest.raises(BackendError, match=r"(?s)sogs failed.*exit code 1: out of memory"):
        sogs.compress_with_sogs(random_splat(1100, 0))
    pretend(monkeypatch, tmp_path, "time.sleep(60)")
    with pytest.raises(BackendError, match="took too long"):
        sogs.compress_with_sogs(random_splat(1100, 0), seconds=0.5)
    with pytest.raises(BackendError, match="too few Gaussians"):
        sogs.compress_with_sogs(random_splat(1000, 0))
    with pytest.raises(InputError, match=r"turns a \.ply into a SOG"):
        write_with_sogs(tmp_path / "in.sog", tmp_path / "out.sog")
