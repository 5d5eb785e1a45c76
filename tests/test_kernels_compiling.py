"""Compiled kernels: cached by all sources, for read-only installs, by many processes, for any processor."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import spaceport_lab
from spaceport_lab.kernels import compiling

PACKAGE = Path(spaceport_lab.__file__).parent
SMALL = """
import numpy as np
from spaceport_lab.kernels import compiling, finite
assert finite.all_finite(np.ones(100, np.float32))
assert not finite.all_finite(np.full(100, np.nan, np.float32))
print(compiling._FOLDER)
print("hits", sum(finite.all_finite.stats.cache_hits.values()))
"""
FRAME = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[2])
import torch
from test_backends import make_scene
from spaceport_lab.backends import l1_ssim_loss, rasterize
scene = {name: t.requires_grad_(name != "Ks") for name, t in make_scene(150, 60, 45).items()}
options = {"width": 60, "height": 45, "sh_degree": 3, "rasterize_mode": "antialiased", "absgrad": True}
renders, alphas, info = rasterize(**scene, **options)
target = torch.linspace(0, 1, renders.numel()).reshape(renders.shape)
(l1_ssim_loss(renders, target) + alphas.mean()).backward()
arrays = [renders, alphas, info["means2d"].absgrad] + [t.grad for name, t in scene.items() if name != "Ks"]
np.savez(sys.argv[1], *[a.detach().numpy() for a in arrays])
"""


def python(
    code: str, *arguments: str, root: Path = PACKAGE.parent, **environment: str
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def copy_kernels(folder: Path) -> Path:
    """A copy of what the kernels need of the package, to edit or to make read-only."""
    target = folder / "install" / "spaceport_lab"
    target.mkdir(parents=True)
    for name in ("__init__.py", "errors.py"):
        shutil.copy(PACKAGE / name, target)
    shutil.copytree(PACKAGE / "kernels", target / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    return target


def test_second_process_takes_what_the_first_compiled(tmp_path: Path) -> None:
    first = python(SMALL, SPACEPORT_KERNEL_CACHE=str(tmp_path))
    assert "hits 0" in first.stdout, first.stderr
    assert first.stderr.count("Compiling kernels") == 1
    second = python(SMALL, SPACEPORT_KERNEL_CACHE=str(tmp_path))
    assert "hits 1" in second.stdout, second.stderr
    assert "Compiling" not in second.stderr


def test_an_edit_of_a_helper_starts_afresh(tmp_path: Path) -> None:
    install = copy_kernels(tmp_path)
    settings = {"root": install.parent, "SPACEPORT_KERNEL_CACHE": str(tmp_path / "cache")}
    before = python(SMALL, **settings)
    assert "hits 0" in before.stdout, before.stderr
    helper = install / "kernels" / "vector.py"
    helper.write_text(helper.read_text() + "\n# an edit\n")
    after = python(SMALL, **settings)
    assert "hits 0" in after.stdout, after.stderr
    assert before.stdout.splitlines()[0] != after.stdout.splitlines()[0]


def test_a_read_only_install_caches_in_the_users_folder(tmp_path: Path) -> None:
    install = copy_kernels(tmp_path)
    for path in [*install.rglob("*"), install]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    try:
        home = {
            "root": install.parent,
            "XDG_CACHE_HOME": str(tmp_path / "home"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        python(SMALL, **home)
        again = python(SMALL, **home)
    finally:
        install.chmod(0o755)
        for path in install.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert again.stdout.startswith(str(tmp_path / "home")), again.stderr
    assert "hits 1" in again.stdout
    assert not list(install.rglob("*.nbi"))


def test_processes_that_start_together_do_not_break_each_other(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "SPACEPORT_KERNEL_CACHE": str(tmp_path)}
    running = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", SMALL],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    results = [process.communicate(timeout=200) for process in running]
    assert all(process.returncode == 0 for process in running), results
    assert "hits 1" in python(SMALL, SPACEPORT_KERNEL_CACHE=str(tmp_path)).stdout


def test_nowhere_to_write_still_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder should be")
    monkeypatch.setattr(compiling, "_candidates", lambda: iter([blocked]))
    assert compiling.cache_folder() is None


def test_versions_nobody_uses_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old, other = tmp_path / "kernels-0123", tmp_path / "somebody-elses"
    for folder in (old, other):
        folder.mkdir()
        os.utime(folder, (0, 0))
    monkeypatch.setattr(compiling, "_candidates", lambda: iter([tmp_path]))
    assert compiling.cache_folder().is_dir()
    assert not old.exists()
    assert other.exists()


PROCESSORS = (
    {
        "avx2": (
            "haswell",
            "+64bit,+cx8,+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2,+lzcnt",
        ),
        "oldest": ("x86-64", "+64bit,+cx8,+sse,+sse2"),
    }
    if platform.machine().lower() in ("x86_64", "amd64")
    else {"oldest": ("generic", "")}
)


@pytest.mark.parametrize("processor", PROCESSORS)
def test_other_processors_give_the_same(processor: str, tmp_path: Path) -> None:
    """Code for machines with narrower vectors, and without instructions that are used where they exist."""
    name, features = PROCESSORS[processor]
    here = str(Path(__file__).parent)
    native, other = tmp_path / "native.npz", tmp_path / "other.npz"
    for file, settings in ((native, {}), (other, {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features})):
        done = python(FRAME, str(file), here, **settings)
        assert done.returncode == 0, done.stderr[-2000:]
    with np.load(native) as ours, np.load(other) as theirs:
        for key in ours.files:
            assert np.isfinite(theirs[key]).all()
            distance = np.linalg.norm(ours[key] - theirs[key]) / np.linalg.norm(ours[key])
            assert distance < 1e-4, key
