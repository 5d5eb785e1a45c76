from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scenes
import torch
from PIL import Image

from spaceport_lab import backends, evaluation, train
from spaceport_lab.cameras import Cameras, read_scene
from spaceport_lab.errors import BackendError, WorkspaceError
from spaceport_lab.gaussians import read_ply
from spaceport_lab.params import TrainParams
from spaceport_lab.train import loop, stream, views
from spaceport_lab.train.photos import View
from spaceport_lab.train.shown import Shown
from spaceport_lab.workspace import Progress, StageRun

QUICK = {"max_steps": 120, "eval_every": 40, "checkpoint_every": 30, "refine_every": 20, "sh_degree": 1}


def finish(run: StageRun, **values) -> list[Progress]:
    return list(train.run(run, TrainParams(**{**QUICK, **values})))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def records(run: StageRun, kind: str) -> list[dict]:
    return [record for record in stream.read(run.dir / "metrics.jsonl") if record["kind"] == kind]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[StageRun, list[Progress]]:
    """A whole training of a tiny scene; looked at by many tests, changed by none."""
    run = scenes.make_run(tmp_path_factory.mktemp("finished"), n_points=200)
    return run, finish(run, max_steps=400, eval_every=100, grow_grad2d=5e-3)


def test_it_learns_the_scene(finished: tuple[StageRun, list[Progress]]) -> None:
    run, _ = finished
    assert run.metrics["psnr_heldout"] > 27
    assert run.metrics["psnr_train"] > 30
    assert run.metrics["ssim_heldout"] > 0.9
    assert run.metrics["n_gaussians"] > 200
    assert run.metrics["steps"] == 400
    assert run.metrics["stopped_by"] == "max_steps"
    assert run.metrics["best_step"] in (100, 200, 300, 400)
    psnrs = [record["psnr"] for record in records(run, "eval")]
    assert len(psnrs) == 4
    assert psnrs[-1] > psnrs[0] + 2


def test_the_ply_is_what_was_measured(finished: tuple[StageRun, list[Progress]]) -> None:
    run, _ = finished
    split = json.loads((run.dir / "heldout.json").read_text())
    assert split["test"] == ["view_000.png", "view_008.png"]
    assert len(split["train"]) == 10
    cameras = read_scene(run.input("sfm")).cameras
    heldout = cameras.subset([cameras.names.index(name) for name in split["test"]])
    gaussians = read_ply(run.dir / "splat.ply")
    assert gaussians.n == run.metrics["n_gaussians"]
    assert gaussians.sh_degree == 1
    measured = evaluation.evaluate(gaussians, heldout, run.input("sfm", "images"))
    assert evaluation.mean_psnr(measured) == pytest.approx(run.metrics["psnr_heldout"], abs=1e-6)
    assert evaluation.mean_ssim(measured) == pytest.approx(run.metrics["ssim_heldout"], abs=1e-6)


def test_outputs_are_declared(finished: tuple[StageRun, list[Progress]]) -> None:
    run, _ = finished
    assert set(run.outputs) == {"splat.ply", "heldout.json", "metrics.jsonl", "timelapse.gif"}
    assert all(path.exists() for path in run.outputs.values())


def test_progress_moves_and_ends(finished: tuple[StageRun, list[Progress]]) -> None:
    _, states = finished
    training = [state for state in states if state.message == "training"]
    assert [state.step for state in training] == list(range(10, 401, 10))
    assert all(state.total == 400 for state in states)
    assert "psnr" not in training[0].values
    assert training[-1].values["psnr"] > 20
    assert {"loss", "n_gaussians"} <= set(training[0].values)


def test_the_stream_holds_what_plots_need(finished: tuple[StageRun, list[Progress]]) -> None:
    run, _ = finished
    steps, refines = records(run, "step"), records(run, "refine")
    assert {"loss", "lr", "resolution", "seconds", "peak_rss_mb", "n_gaussians"} <= set(steps[0])
    assert steps[0]["resolution"] == [64, 48]
    assert [r["step"] for r in refines] == list(range(40, 240, 20))
    assert refines[0]["n_before"] >= 200
    grown = sum(r["cloned"] + r["split"] - r["pruned"] for r in refines)
    assert grown == run.metrics["n_gaussians"] - refines[0]["n_before"]
    assert list(refines[0]["gradients"]) == ["p50", "p90", "p95", "p99", "max"]


def test_the_checkpoint_reads_as_gsplats(finished: tuple[StageRun, list[Progress]]) -> None:
    run, _ = finished
    content = torch.load(run.dir / "checkpoint.pt", weights_only=True)
    assert content["step"] == 400
    assert set(content["splats"]) == {"means", "scales", "quats", "opacities", "sh0", "shN"}
    np.testing.assert_array_equal(content["splats"]["means"].numpy(), read_ply(run.dir / "splat.ply").means)


def test_killed_and_resumed_is_bit_for_bit_the_same(tmp_path: Path) -> None:
    whole = scenes.make_run(tmp_path / "whole", n_points=120)
    finish(whole, background="random", grow_grad2d=5e-3)
    broken = scenes.make_run(tmp_path / "broken", n_points=120)
    script = (
        "import os, signal, sys; from spaceport_lab import train\n"
        "from spaceport_lab.params import TrainParams\n"
        "from spaceport_lab.workspace import StageRun; from pathlib import Path\n"
        "p = TrainParams(**eval(sys.argv[2]))\n"
        "for state in train.run(StageRun(Path(sys.argv[1]), 'train'), p):\n"
        "    if state.step >= 80: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    values = repr({**QUICK, "background": "random", "grow_grad2d": 5e-3})
    command = [sys.executable, "-c", script, str(tmp_path / "broken"), values]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (broken.dir / "splat.ply").exists()
    assert stream.read(broken.dir / "metrics.jsonl")[-1]["step"] == 80

    states = finish(broken, background="random", grow_grad2d=5e-3)
    assert states[1].message == "going on from step 60"
    assert not broken.warnings
    assert broken.metrics["n_gaussians"] > 120
    assert digest(broken.dir / "splat.ply") == digest(whole.dir / "splat.ply")
    for name in broken.metrics:
        assert broken.metrics[name] == whole.metrics[name], name
    timing = {"seconds", "peak_rss_mb"}
    first, second = (
        [{k: v for k, v in r.items() if k not in timing} for r in stream.read(run.dir / "metrics.jsonl")]
        for run in (whole, broken)
    )
    assert first == second


def test_a_finished_training_is_only_written_out_again(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path)
    finish(run, max_steps=20)
    before, metrics = digest(run.dir / "splat.ply"), run.metrics
    (run.dir / "splat.ply").unlink()
    again = scenes.open_run(tmp_path)
    states = finish(again, max_steps=20)
    assert not any(state.message == "training" for state in states)
    assert digest(again.dir / "splat.ply") == before
    assert again.metrics == metrics


@pytest.mark.parametrize("damage", ["other params", "torn file", "other scene"])
def test_a_checkpoint_of_something_else_is_ignored_with_a_warning(tmp_path: Path, damage: str) -> None:
    run = scenes.make_run(tmp_path)
    finish(run, max_steps=20)
    values = {"max_steps": 20}
    if damage == "other params":
        values["seed"] = 7
    elif damage == "torn file":
        content = (run.dir / "checkpoint.pt").read_bytes()
        (run.dir / "checkpoint.pt").write_bytes(content[: len(content) // 2])
    else:
        scenes.make_colmap_scene(tmp_path / "02_sfm", seed=5)
    again = scenes.open_run(tmp_path)
    states = finish(again, **values)
    assert any(state.message == "training" for state in states)
    assert len(again.warnings) == 1
    assert "training starts anew" in again.warnings[0]


def test_what_is_no_part_of_the_key_keeps_the_checkpoint(tmp_path: Path) -> None:
    finish(scenes.make_run(tmp_path), max_steps=20)
    again = scenes.open_run(tmp_path)
    states = finish(again, max_steps=20, log_every=7, checkpoint_every=11)
    assert not again.warnings
    assert not any(state.message == "training" for state in states)


def test_target_psnr_stops(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path)
    finish(run, target_psnr=12, eval_every=20)
    assert run.metrics["stopped_by"] == "target_psnr"
    assert run.metrics["steps"] < 120
    assert run.metrics["psnr_heldout"] >= 12
    again = scenes.open_run(tmp_path)
    finish(again, target_psnr=12, eval_every=20)
    assert again.metrics == run.metrics


def test_patience_stops_and_restores_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = scenes.make_run(tmp_path)
    # From step 40 on every step does harm: the loss is turned round.
    real = backends.l1_ssim_loss
    calls = iter(range(10**6))
    monkeypatch.setattr(backends, "l1_ssim_loss", lambda *a: real(*a) if next(calls) < 40 else -real(*a))
    finish(run, max_steps=2000, patience=30, eval_every=10)
    assert run.metrics["stopped_by"] == "patience"
    best = run.metrics["best_step"]
    assert 30 <= best <= 50
    assert run.metrics["steps"] - best >= 30
    psnrs = {record["step"]: record["psnr"] for record in records(run, "eval")}
    assert run.metrics["psnr_heldout"] == pytest.approx(psnrs[best], abs=1e-6) == max(psnrs.values())


def test_nan_stops_at_the_step_and_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch) -> None:
    run = scenes.make_run(tmp_path)
    real = backends.l1_ssim_loss
    calls = iter(range(10**6))

    def broken_at_45(render, target, ssim_lambda):
        loss = real(render, target, ssim_lambda)
        return loss * float("nan") if next(calls) == 44 else loss

    monkeypatch.setattr(backends, "l1_ssim_loss", broken_at_45)
    finish(run)
    assert run.metrics["stopped_by"] == "nan"
    assert run.metrics["steps"] == 30
    assert run.metrics["verdicts"][0].startswith("Not a number: the loss of step 45")
    assert any("kept is step 30" in warning for warning in run.warnings)
    assert np.isfinite(read_ply(run.dir / "splat.ply").means).all()
    assert not run.failed_gates


def test_a_field_that_explodes_is_named(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path)
    finish(run, scales_lr=1e30)
    assert run.metrics["stopped_by"] == "nan"
    assert "scales (" in run.metrics["verdicts"][0]
    assert len(run.failed_gates) == 1
    assert "before its first checkpoint" in str(run.failed_gates[0])


def test_densification_that_never_fires_is_noticed(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path)
    finish(run, grow_grad2d=0.5, refine_stop=0.8)
    warning = next(w for w in run.warnings if "densification" in w)
    assert "above a threshold of 0.5" in warning
    assert "3 checks in a row up to step 60" in warning
    assert any("never fired" in verdict for verdict in run.metrics["verdicts"])
    refine = records(run, "refine")[2]
    assert refine["above"] == 0
    assert f"{refine['gradients']['p95']:.2g} would have fired" in warning
    assert "0 finds one by itself" in warning
    helped = scenes.make_run(tmp_path / "helped")
    finish(helped, grow_grad2d=float(f"{refine['gradients']['p95']:.2g}"), refine_stop=0.8)
    assert records(helped, "refine")[2]["cloned"] + records(helped, "refine")[2]["split"] > 0
    assert not any("densification" in w for w in helped.warnings)
    automatic = scenes.make_run(tmp_path / "automatic")
    finish(automatic, grow_to=450, refine_stop=0.8)
    assert not any("densification" in w for w in automatic.warnings)
    assert automatic.metrics["n_gaussians"] == pytest.approx(450, rel=0.15)


def test_what_starts_with_all_it_aims_at_has_nothing_to_grow(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path)
    finish(run, init_fill=1, grow_to=400, refine_stop=0.8, prune_opa=0.0)
    assert records(run, "refine")[0]["n_before"] >= 400
    assert not any(r["cloned"] + r["split"] for r in records(run, "refine"))
    assert not any("never fired" in verdict for verdict in run.metrics["verdicts"])


@pytest.mark.parametrize(
    "values",
    [
        {"strategy": "mcmc", "cap_max": 310},
        {"coarse_to_fine": "step", "max_steps": 60},
        {"absgrad": True, "background": "random"},
        {"init_points": 50, "sh_degree": 0},
        {"sh_degree": 3, "sh_degree_interval": 0.0, "ssim_lambda": 0.0},
        {"ssim_lambda": 1.0, "cap_max": 150},
        {"max_steps": 1},
        {"reset_every": 30, "prune_opa": 0.0},
    ],
    ids=str,
)
def test_every_option_runs(tmp_path: Path, values: dict) -> None:
    run = scenes.make_run(tmp_path, width=200, height=192, n_views=6) if "coarse_to_fine" in values else (
        scenes.make_run(tmp_path, n_views=6)
    )  # fmt: skip
    finish(run, **{"max_steps": 60, "eval_every": 30, **values})
    gaussians = read_ply(run.dir / "splat.ply")
    assert all(np.isfinite(a).all() for a in (gaussians.means, gaussians.scales, gaussians.opacities))
    assert np.isfinite(run.metrics["psnr_heldout"])
    assert gaussians.n <= values.get("cap_max", 10**6)
    assert gaussians.sh_degree == values.get("sh_degree", 1)
    if "coarse_to_fine" in values:
        assert {tuple(r["resolution"]) for r in records(run, "step")} == {(100, 96), (200, 192)}


@pytest.mark.parametrize("n_views", [1, 2, 3])
def test_too_few_views_to_hold_one_out(tmp_path: Path, n_views: int) -> None:
    run = scenes.make_run(tmp_path, n_views=n_views)
    finish(run, max_steps=20)
    assert run.metrics["psnr_heldout"] is None
    assert run.metrics["ssim_heldout"] is None
    assert run.metrics["psnr_train"] > 5
    assert run.metrics["best_step"] is None
    assert any("none is held out" in warning for warning in run.warnings)
    assert json.loads((run.dir / "heldout.json").read_text())["test"] == []


def test_two_runs_are_the_same_and_another_seed_is_not(tmp_path: Path) -> None:
    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run = scenes.make_run(tmp_path / name)
        finish(run, max_steps=40, refine_every=15, seed=seed, grow_grad2d=5e-3)
        digests.append(digest(run.dir / "splat.ply"))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what the test wants missing")
def test_cuda_where_there_is_none_fails_at_once(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path)
    with pytest.raises(BackendError, match="CUDA"):
        next(iter(train.run(run, TrainParams(backend="cuda"))))


def test_it_needs_the_sfm_stage(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="sfm has not finished"):
        finish(scenes.open_run(tmp_path))


def test_the_cap_follows_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = scenes.make_run(tmp_path)
    width, height = read_scene(run.input("sfm")).cameras.sizes.max(axis=0).tolist()
    room = train.memory.needed_bytes(200, TrainParams(**QUICK), width, height)
    monkeypatch.setattr(train.memory, "free_bytes", lambda device: room / train.memory.SHARE + 1)
    finish(run, max_steps=20)
    assert run.metrics["n_gaussians"] <= 200
    assert any("memory holds about 200 Gaussians" in warning for warning in run.warnings)


def test_what_a_step_leaves_out_learns_nothing_and_the_others_stand_in_for_it() -> None:
    n, share, p = 3000, 0.4, TrainParams(sh_degree=0)
    torch.manual_seed(1)
    splats = {
        "means": torch.randn(n, 3) + torch.tensor([0.0, 0.0, 6.0]), "quats": torch.randn(n, 4),
        "scales": torch.full((n, 3), -2.0), "opacities": torch.full((n,), -3.0),
        "sh0": torch.ones(n, 1, 3), "shN": torch.zeros(n, 0, 3),
    }  # fmt: skip
    seen = Shown(None, {name: values.requires_grad_() for name, values in splats.items()})
    K = torch.tensor([[[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]])
    view = View(torch.zeros(48, 64, 3, dtype=torch.uint8), None, torch.eye(4)[None], K, (64, 48))

    def brightness(left_out: float) -> torch.Tensor:
        return loop.render(seen, view, view.viewmat, 0, 0.3, left_out, p, "cpu")[0].mean()

    whole = brightness(0.0)
    (of_whole,) = torch.autograd.grad(whole, splats["opacities"])
    some = brightness(share)
    (of_some,) = torch.autograd.grad(some, splats["opacities"])
    assert some.item() == pytest.approx(whole.item(), rel=0.05)
    taught = of_whole != 0
    assert float((of_some[taught] != 0).float().mean()) == pytest.approx(1 - share, abs=0.05)
    assert not torch.equal(some, brightness(share)), "others are left out the next time"


def test_every_view_is_drawn_once_a_round() -> None:
    for round_ in range(3):
        drawn = [views.drawn(step, 7, seed=3) for step in range(7 * round_, 7 * round_ + 7)]
        assert sorted(drawn) == list(range(7))
    assert [views.drawn(s, 7, 3) for s in range(7)] != [views.drawn(s, 7, 3) for s in range(7, 14)]


def test_scene_scale_is_the_radius_of_the_cameras(tmp_path: Path) -> None:
    cameras = scenes.make_cameras(9, 64, 48)
    radius = np.linalg.norm(cameras.centers - cameras.centers.mean(axis=0), axis=1).max()
    assert views.scene_scale(cameras, np.zeros((1, 3))) == pytest.approx(1.1 * radius)
    in_one_place = cameras.subset([3, 3, 3])
    assert views.scene_scale(in_one_place, np.zeros((5, 3))) == pytest.approx(np.sqrt(25 + 16))


def test_a_disk_that_is_full_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = scenes.make_run(tmp_path)

    def no_space(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(WorkspaceError, match="No space left"):
        finish(run)
    assert not list(run.dir.glob(".checkpoint*"))


def test_a_model_far_from_the_origin_is_warned_of(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path)
    scene = read_scene(run.input("sfm"))
    far = np.array([500_000.0, 5_000_000.0, 0.0])
    viewmats = scene.cameras.viewmats.copy()
    viewmats[:, :3, 3] -= viewmats[:, :3, :3] @ far
    cameras = Cameras(scene.cameras.names, viewmats, scene.cameras.Ks, scene.cameras.sizes)
    scenes.write_colmap(tmp_path / "02_sfm" / "sparse", cameras, scene.points + far, scene.colors)
    finish(run, max_steps=1)
    assert any("move the model to the origin" in warning for warning in run.warnings)


def test_a_run_that_compiles_and_one_with_cached_kernels_train_the_same_splat(tmp_path: Path) -> None:
    """Otherwise the first run on a machine, killed and resumed, would not end as it began."""
    code = (
        "import hashlib, sys; from pathlib import Path; import scenes; from spaceport_lab import train\n"
        "from spaceport_lab.params import TrainParams\n"
        "run = scenes.make_run(Path(sys.argv[1]), n_points=120)\n"
        "list(train.run(run, TrainParams(**eval(sys.argv[2]))))\n"
        "print(hashlib.sha256((run.dir / 'splat.ply').read_bytes()).hexdigest())\n"
    )
    values = repr({**QUICK, "background": "random", "grow_grad2d": 5e-3})
    cache, helpers = str(tmp_path / "cache"), str(Path(__file__).parent)
    environment = {**os.environ, "SPACEPORT_KERNEL_CACHE": cache, "PYTHONPATH": helpers}
    digests, compiled = [], []
    for name in ("compiles", "cached"):
        command = [sys.executable, "-c", code, str(tmp_path / name), values]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
        assert done.returncode == 0, done.stderr
        digests.append(done.stdout.split()[-1])
        compiled.append("Compiling" in done.stdout + done.stderr)
    assert compiled == [True, False]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("shrink", [1, 2])
def test_growth_is_the_same_at_every_resolution(tmp_path: Path, shrink: int) -> None:
    run = scenes.make_run(tmp_path, width=192 // shrink, height=144 // shrink, n_points=150)
    finish(run, grow_to=500, backdrop=False, max_steps=300)
    assert run.metrics["n_gaussians"] == pytest.approx(500, rel=0.15)
    assert all(r["n_gaussians"] <= 500 for r in records(run, "refine"))


def spoil(run: StageRun, noise: float = 30.0) -> None:
    """Give each photograph something of its own that no other one shows."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :64]
    for path in sorted(run.input("sfm", "images").iterdir()):
        photo = np.asarray(Image.open(path)).astype(float)
        cx, cy, color = rng.uniform(10, 54), rng.uniform(8, 40), rng.uniform(-160, 160, 3)
        blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 60)[..., None] * color
        spoilt = photo + blob + rng.normal(0, noise, photo.shape)
        Image.fromarray(spoilt.clip(0, 255).astype(np.uint8)).save(path)


def test_overfit_on_purpose_stops_is_undone_and_is_said(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path, n_views=8, n_points=60)
    spoil(run)
    # Patience for long enough that the fall is no wobble, whatever the last bits of a machine's arithmetic.
    p = {"max_steps": 7000, "eval_every": 50, "patience": 1200, "sh_degree": 3, "sh_degree_interval": 0.0}
    finish(run, **p, backdrop=False, timelapse=False, refine_every=100, grow_to=3000, reset_every=7000)
    split = json.loads((run.dir / "heldout.json").read_text())
    assert split["test"] == ["view_000.png"]
    assert split["validation"] == ["view_004.png"]
    assert len(split["train"]) == 6
    assert run.metrics["stopped_by"] == "patience"
    assert run.metrics["steps"] < 7000
    best = run.metrics["best_step"]
    evals = {record["step"]: record for record in records(run, "eval")}
    assert evals[best]["psnr_validation"] == max(e["psnr_validation"] for e in evals.values())
    assert run.metrics["psnr_heldout"] == pytest.approx(evals[best]["psnr"], abs=1e-6)
    assert run.metrics["verdicts"][0].startswith("Overfit: ")


def test_patience_waits_for_the_last_opacity_reset(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path)
    finish(run, max_steps=400, patience=20, min_delta=50, eval_every=10, reset_every=60, refine_stop=0.4)
    assert run.metrics["stopped_by"] == "patience"
    assert run.metrics["steps"] == 120 + 20


def test_small_scenes_stop_by_the_held_out_views_and_say_so(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path, n_views=7)
    finish(run, patience=30, eval_every=10, max_steps=60)
    assert json.loads((run.dir / "heldout.json").read_text())["validation"] == []
    assert any("too few for validation views" in warning for warning in run.warnings)
    assert all(record["psnr_validation"] is None for record in records(run, "eval"))


def test_without_early_stopping_no_view_is_spent_on_it(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path, n_views=12)
    finish(run, patience=0, max_steps=20)
    split = json.loads((run.dir / "heldout.json").read_text())
    assert (len(split["train"]), split["validation"]) == (10, [])


def test_exposures_and_cameras_are_learnt_and_resumed(tmp_path: Path) -> None:
    options = {"exposure": True, "refine_cameras": True, "max_steps": 60, "eval_every": 30}
    whole, broken = scenes.make_run(tmp_path / "whole"), scenes.make_run(tmp_path / "broken")
    finish(whole, **options)
    states = train.run(broken, TrainParams(**{**QUICK, **options}))
    for state in states:
        if state.step == 40:
            states.close()
            break
    finish(broken, **options)
    for name in ("splat.ply", "exposure.json", "cameras.json"):
        assert digest(whole.dir / name) == digest(broken.dir / name), name
    exposures = json.loads((whole.dir / "exposure.json").read_text())
    assert len(exposures) == 10
    assert np.mean([row["red"] for row in exposures]) == pytest.approx(1, abs=1e-4)
    assert whole.metrics["cc_psnr_heldout"] >= whole.metrics["psnr_heldout"] - 0.5


def test_what_a_mask_hides_teaches_nothing(tmp_path: Path) -> None:
    """Pixels under a mask may be anything: the splat is the same to the last bit."""
    digests = []
    for name, color in (("black", 0), ("white", 255)):
        run = scenes.make_run(tmp_path / name)
        masks = run.input("sfm") / "masks"
        masks.mkdir()
        hidden = np.full((48, 64), 255, np.uint8)
        hidden[10:30, 20:50] = 0
        for path in sorted(run.input("sfm", "images").iterdir()):
            photo = np.asarray(Image.open(path)).copy()
            photo[hidden == 0] = color
            Image.fromarray(photo).save(path)
            Image.fromarray(hidden).save(masks / f"{path.name}.png")
        finish(run, max_steps=40, coarse_to_fine="none", timelapse=False)
        digests.append(digest(run.dir / "splat.ply"))
    assert digests[0] == digests[1]
    seen = scenes.make_run(tmp_path / "unmasked")
    finish(seen, max_steps=40, coarse_to_fine="none", masks=False, timelapse=False)
    assert digest(seen.dir / "splat.ply") != digests[0]


def test_compact_is_smaller(tmp_path: Path) -> None:
    run = scenes.make_run(tmp_path)
    finish(
        run,
        prune_share=0.5,
        prune_sh=11.0,
        shN_lr=0.002,
        shN_every=1,
        grow_to=600,
        sh_degree=2,
        sh_degree_interval=0.1,
    )
    pruned = [r for r in records(run, "refine") if r["gradients"] is None and r["pruned"]]
    assert [r["step"] for r in pruned] == [56, 61, 66, 72]
    assert pruned[-1]["n_gaussians"] == pytest.approx(0.5 * pruned[0]["n_before"], abs=4)
    gaussians = read_ply(run.dir / "splat.ply")
    assert gaussians.n == run.metrics["n_gaussians"] == pruned[-1]["n_gaussians"]
    without = (gaussians.shN == 0).reshape(gaussians.n, -1, 3)
    assert without[:, 3:].all(axis=(1, 2)).any(), "some Gaussians have lost their highest band"
    assert not without.all()


def test_a_splat_goes_on_from_a_ply(tmp_path: Path) -> None:
    first = scenes.make_run(tmp_path / "first")
    finish(first, backdrop=False)
    second = scenes.make_run(tmp_path / "second")
    finish(
        second, init_from=str(first.dir / "splat.ply"), max_steps=10, eval_every=10, sh_degree_interval=0.0
    )
    assert second.metrics["psnr_heldout"] > first.metrics["psnr_heldout"] - 1.0
    assert records(second, "step")[0]["n_gaussians"] == first.metrics["n_gaussians"]
