"""Ablation: arms, what is shared, what is trained again, what fails, the figure and the command."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
import scenes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from spaceport_lab import ablation
from spaceport_lab.ablation import ARMS, ablate, read_arms
from spaceport_lab.errors import ParamsError, WorkspaceError
from spaceport_lab.params import resolve
from spaceport_lab.plots import ablation as plots

QUICK = ["train.max_steps=40", "train.eval_every=10", "train.refine_every=10", "train.sh_degree=1"]
BROKEN = "broken:train.init_from=/nowhere/splat.ply"


def arms(*texts: str) -> list[ablation.Arm]:
    return read_arms(texts, overrides=QUICK)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ablation.Outcome], set[str]]:
    """A run with three arms, one of which fails; changed by no test."""
    root = tmp_path_factory.mktemp("ablation") / "run"
    scenes.make_run(root)
    told: set[str] = set()
    outcomes = ablate(root, arms("none", BROKEN, "few:train.init_points=150"), lambda a, s: told.add(a.name))
    return root, outcomes, told


def test_named_arms_differ_in_what_they_say() -> None:
    read = read_arms()
    assert [arm.name for arm in read] == ["none", "step", "frequency", "blur"]
    assert [(a.params.coarse_to_fine, a.params.blur) for a in read] == [
        ("none", 0), ("step", 0), ("frequency", 0), ("none", 3),
    ]  # fmt: skip
    shared = [arm.params.model_dump(exclude={"coarse_to_fine", "blur"}) for arm in read]
    assert all(values == shared[0] for values in shared)
    assert (shared[0]["patience"], shared[0]["target_psnr"], shared[0]["timelapse"]) == (0, 0, False)


def test_free_arms_and_overrides() -> None:
    free, step = read_arms(
        ["a_1:train.means_lr=3e-4, train.cap_max=500", "step"], ["demo"], ["train.cap_max=900"]
    )
    assert (free.params.means_lr, free.params.cap_max) == (3e-4, 500)
    assert (step.params.means_lr, step.params.cap_max) == (1.6e-4, 900)
    steps = resolve(["demo"]).params["train"].max_steps
    assert step.params.max_steps == steps > 0
    assert step.params.eval_every == steps / 20, "twenty evaluations"
    assert arms("none")[0].params.eval_every == 2


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["nonsense"], "cannot read the arm"),
        (["../up:train.blur=1"], "cannot read the arm"),
        (["step", "Step:train.blur=1"], "two arms"),
        (["a:sfm.seed=1"], "cannot change sfm.seed"),
        (["a:train.patience=100"], "cannot change train.patience"),
        (["a:train.blurr=1"], "no parameter 'blurr'"),
        (["a:train.blur=-1"], "cannot be used"),
    ],
)
def test_what_is_no_arm(texts: list[str], said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        read_arms(texts)


def test_every_arm_has_its_outcome(done: tuple[Path, list[ablation.Outcome], set[str]]) -> None:
    root, outcomes, told = done
    none, broken, few = outcomes
    assert told >= {"none", "few"}
    for outcome in (none, few):
        manifest = json.loads((root / "ablation" / outcome.arm / "03_train" / "stage.json").read_text())
        assert outcome.psnr == manifest["metrics"]["psnr_heldout"]
        assert outcome.n_gaussians == manifest["metrics"]["n_gaussians"]
        seconds, steps, psnrs = zip(*outcome.curve, strict=True)
        assert steps == tuple(range(2, 41, 2))
        assert all(0 < a <= b for a, b in zip(seconds, [*seconds[1:], outcome.seconds], strict=True))
        assert psnrs[-1] == pytest.approx(outcome.psnr, abs=1e-3)
        assert not outcome.reason
    assert few.n_gaussians < none.n_gaussians
    assert "does not exist" in broken.reason
    assert broken.psnr is None
    assert "/nowhere/splat.ply" in (root / "ablation" / "broken" / "03_train" / "error.txt").read_text()


def test_files(done: tuple[Path, list[ablation.Outcome], set[str]]) -> None:
    root, outcomes, _ = done
    written = json.loads((root / "ablation" / "ablation.json").read_text())["arms"]
    assert [arm["arm"] for arm in written] == ["none", "broken", "few"]
    assert written[0]["psnr"] == outcomes[0].psnr
    assert written[2]["changes"] == ["train.init_points=150"]
    assert Image.open(root / "ablation" / "ablation.png").width > 800
    assert (root / "ablation" / "none" / "02_sfm").is_symlink()
    assert not (root / "03_train" / "stage.json").exists(), "the run's own training is not touched"


def test_only_what_changed_is_trained_again(
    done: tuple[Path, list[ablation.Outcome], set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(done[0], moved, symlinks=True)
    told: set[str] = set()
    monkeypatch.setattr(ablation, "warm_up", lambda *a: told.add("warm-up"))
    again = ablate(moved, arms("none", "few:train.init_points=150"), lambda a, s: told.add(a.name))
    assert told == set()
    assert again == [done[1][0], done[1][2]]
    other = ablate(moved, arms("none", "few:train.init_points=120"), lambda a, s: told.add(a.name))
    assert told == {"warm-up", "few"}
    assert other[0] == done[1][0]
    assert other[1].psnr != again[1].psnr


def test_what_the_folder_must_be(done: tuple[Path, list[ablation.Outcome], set[str]], tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="has not finished"):
        ablate(tmp_path, arms("none"))
    assert not (tmp_path / "ablation").exists()
    with (
        filelock.FileLock(done[0] / "ablation" / ".lock"),
        pytest.raises(WorkspaceError, match="another process"),
    ):
        ablate(done[0], arms("none"))
    root = tmp_path / "copied"
    scenes.make_run(root)
    (root / "ablation" / "none" / "02_sfm").mkdir(parents=True)
    with pytest.raises(WorkspaceError, match="of its own"):
        ablate(root, arms("none"))


def drawn(**values) -> dict:
    curve = [(1.0, 10, 20.0), (2.0, 20, 25.0)]
    return {
        "arm": "a",
        "reason": "",
        "psnr": 25.0,
        "seconds": 2.0,
        "n_gaussians": 900,
        "curve": curve,
    } | values


def texts(fig: Figure) -> list[str]:
    return [text.get_text() for ax in fig.axes for text in ax.texts]


def test_figure_names_lines_at_their_ends() -> None:
    fig = plots.comparison(
        [drawn(), drawn(arm="b", curve=[(1.0, 10, 25.0), (3.0, 20, 25.01)]), drawn(arm="c")]
    )
    fig.draw_without_rendering()
    ax = fig.axes[0]
    assert sorted(text.get_text() for text in ax.texts) == ["a 25.00 dB", "b 25.01 dB", "c 25.00 dB"]
    boxes = sorted((Text.get_window_extent(text) for text in ax.texts), key=lambda box: box.y0)
    for below, above in itertools.pairwise(boxes):
        assert below.y1 <= above.y0 + 1
    assert ax.lines[1].get_xdata().tolist() == [1, 3]
    assert "900" in texts(fig)


def test_figure_of_what_is_missing() -> None:
    failed = drawn(arm="f", reason="no $memory", psnr=None, seconds=None, n_gaussians=None, curve=[])
    assert texts(plots.comparison([drawn(), failed])).count("failed") == 2
    assert any("no \\$memory" in text for text in texts(plots.comparison([failed])))
    assert "no view is held out" in texts(plots.comparison([drawn(curve=[], psnr=None)]))
    plots.comparison([drawn(arm=str(i)) for i in range(14)]).draw_without_rendering()


def test_labels_are_moved_apart_and_stay_inside() -> None:
    moved = plots._apart([0.5, 0.5, 0.99, 1.0], 0.1)
    assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(moved))
    assert min(moved) >= 0
    assert max(moved) <= 1 + 1e-9
    assert plots._apart([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert plots._apart([0.3], 0.1) == [0.3]


def test_command(done: tuple[Path, list[ablation.Outcome], set[str]]) -> None:
    sets = [word for override in QUICK for word in ("--set", override)]
    command = [sys.executable, "-m", "spaceport_lab.cli", "ablate", str(done[0]), "--arm", "none", *sets]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert f"{done[1][0].psnr:.2f}" in result.stdout
    result = subprocess.run([*command, "--arm", BROKEN], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "does not exist" in result.stdout
    assert set(ARMS) == {"none", "step", "frequency", "blur"}
