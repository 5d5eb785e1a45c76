"""python -m benchmarks.train: it runs, its figures are of what was trained, its ratios are consistent."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scenes

from spaceport_lab.errors import ParamsError, SpaceportError

ROOT = Path(__file__).resolve().parent.parent
BYTES = 4 * (3 + 3 + 1 + 3 + 4)
"""Of a Gaussian in a PLY without higher SH bands."""


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Of this repository's folder, which is no installed package."""
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.train")


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.train_tasks")


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("benchmark")
    run = scenes.make_run(folder / "mound" / "runs" / "a", n_points=200)
    command = [
        sys.executable, "-m", "benchmarks.train", str(run.root), str(folder / "nowhere"), "--steps", "60",
        "--evaluate-every", "25", "--preset", "none", "--preset", "demo", "--set", "train.max_steps=80",
        "--set", "train.sh_degree=0", "--json", str(folder / "figures.json"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "demo against none" in done.stdout
    assert not (run.root / "03_train").exists() or not any((run.root / "03_train").iterdir())
    return json.loads((folder / "figures.json").read_text())


def test_every_case_has_the_figures_others_read(figures: dict) -> None:
    assert [(case["set"], case["preset"]) for case in figures["cases"]] == [
        ("mound", "none"),
        ("mound", "demo"),
    ]
    assert figures["machine"]["cores"] == os.cpu_count()
    for case in figures["cases"]:
        for name in ("psnr_heldout", "seconds", "n_gaussians", "cc_psnr", "ssim", "cpu_seconds"):
            assert set(case[name]) == {"ours", "plain"}
            assert all(value > 0 for value in case[name].values()), name
        assert 10 < case["psnr_heldout"]["plain"] < 50
        assert case["steps"] == {"ours": 80, "plain": 60}
        assert case["render_ms"] > 0
        assert case["ply_bytes"] == pytest.approx(case["n_gaussians"]["ours"] * BYTES, rel=0.25)
        assert case["ply_bytes_plain"] > 3 * case["n_gaussians"]["plain"] * BYTES


def test_ratios_follow_from_the_figures(figures: dict, train: ModuleType) -> None:
    none, demo = figures["cases"]
    assert none["against"] is None
    assert demo["against"]["preset"] == "none"
    assert demo["against"]["psnr_db"] == pytest.approx(
        demo["psnr_heldout"]["ours"] - none["psnr_heldout"]["ours"]
    )
    assert demo["against"]["seconds"] == pytest.approx(demo["seconds"]["ours"] / none["seconds"]["ours"])
    for case in figures["cases"]:
        for side, steps in (("ours", [25, 50, 75, 80]), ("plain", [25, 50, 60])):
            curve = case["curve"][side]
            assert [point[1] for point in curve] == steps
            assert curve[-1][0] == pytest.approx(case["seconds"][side], abs=2e-3)
            assert curve[-1][2] == pytest.approx(case["psnr_heldout"][side], abs=1e-3)
        aim, ours = case["psnr_heldout"]["plain"], case["curve"]["ours"]
        needed = case["seconds_to_plain_psnr"]
        if needed is None:
            assert max(point[2] for point in ours) < aim + 1e-3
        else:
            assert 0 < needed <= case["seconds"]["ours"] + 2e-3
        assert case["gain_at_plain_seconds"] == pytest.approx(case["psnr_at_plain_seconds"] - aim, abs=1e-3)


def test_what_failed_is_said(figures: dict) -> None:
    assert [failure["set"] for failure in figures["failed"]] == ["nowhere"]
    assert "no such folder" in figures["failed"][0]["reason"]


def test_time_to_a_psnr(train: ModuleType) -> None:
    curve = [(1.0, 10, 20.0), (2.0, 20, 19.0), (4.0, 30, 23.0), (5.0, 40, 22.0)]
    assert train.seconds_to(curve, 21) == pytest.approx(3)
    assert train.seconds_to(curve, 20) == 1
    assert train.seconds_to(curve, 12) == 1, "nothing is known before the first evaluation"
    assert train.seconds_to(curve, 23) == 4
    assert train.seconds_to(curve, 24) is None
    assert train.psnr_at(curve, 3) == pytest.approx(21)
    assert train.psnr_at(curve, 9) == 22
    assert train.psnr_at(curve, 0.1) == 20


def test_presets_by_name(tasks: ModuleType) -> None:
    def params(text: str, *overrides: str):
        return tasks.resolve_preset(text, overrides, 125).params["train"]

    assert (params("demo").max_steps, params("demo").coarse_to_fine) == (3000, "frequency")
    assert params("none") == params("demo:none")
    assert (params("none").max_steps, params("none").coarse_to_fine) == (3000, "none")
    assert params("default").max_steps == 7000
    assert params("default", "train.max_steps=9").max_steps == 9
    assert params("fast+demo").max_steps == 3000
    assert params("default").patience == 0, "both sides train on the same photographs to the end"
    for wrong, error in (("nonsense", ParamsError), ("demo:all", SpaceportError)):
        with pytest.raises(error):
            params(wrong)


def test_turns_leave_every_contender_its_own_random_numbers(tasks: ModuleType, tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path / "mound", n_points=150)
    ready = tasks.make_ready(run.root, tmp_path)
    p = tasks.resolve_preset("demo", ["train.max_steps=30", "train.background=random"], 10).params["train"]

    def trained(folder: str, turn_seconds: float, together: bool) -> np.ndarray:
        tasks.TURN_SECONDS = turn_seconds
        one = tasks.ours(ready, "ours", p, tmp_path / folder, "cpu")
        tasks.take_turns([one, tasks.plain(ready, 40, "cpu", 20)] if together else [one])
        return one.gaussians.means

    usual = tasks.TURN_SECONDS
    try:
        alone, between = trained("alone", 99, False), trained("between", 1e-6, True)
    finally:
        tasks.TURN_SECONDS = usual
    np.testing.assert_allclose(alone, between, atol=1e-4)
