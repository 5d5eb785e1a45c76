"""The compress stage: what it writes, what it measures, what it refuses."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from scenes import make_colmap_scene
from splats import random_splat, scene_splat
from test_sog_v1 import write_v1

from spaceport_lab import compress, evaluation
from spaceport_lab.cameras import read_scene
from spaceport_lab.compress.views import seen
from spaceport_lab.errors import BackendError, SplatFormatError, WorkspaceError
from spaceport_lab.gaussians import SH_C0, Gaussians, write_ply
from spaceport_lab.params import CompressParams
from spaceport_lab.plots import compress as plots
from spaceport_lab.sog import SETTINGS, SogOptions, read_sog, sogs, write_folder
from spaceport_lab.sog.read import read_antialias
from spaceport_lab.workspace import Progress, StageRun


def open_stage(root: Path) -> StageRun:
    run = StageRun(root, "compress")
    run.dir.mkdir(parents=True, exist_ok=True)
    return run


def work(root: Path, **params) -> tuple[StageRun, CompressParams, list[Progress]]:
    run, p = open_stage(root), CompressParams(**params)
    return run, p, list(compress.run(run, p))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Gaussians]:
    """A run whose sfm and train stages are done: photographs of a splat, and that splat."""
    root = tmp_path_factory.mktemp("job")
    truth = make_colmap_scene(root / "02_sfm", n_views=9, n_gaussians=900)
    noise = np.random.default_rng(0).normal(scale=0.05, size=truth.shN.shape).astype(np.float32)
    trained = replace(truth, shN=noise)
    cameras = read_scene(root / "02_sfm").cameras
    for name, render in zip(cameras.names, evaluation.render_views(trained, cameras), strict=True):
        Image.fromarray((render * 255).round().astype(np.uint8)).save(root / "02_sfm" / "images" / name)
    write_ply(root / "03_train" / "splat.ply", trained)
    names = [f"view_{i:03d}.png" for i in range(9)]
    heldout = {"train": names[1:8], "test": [names[0], names[8]]}
    (root / "03_train" / "heldout.json").write_text(json.dumps(heldout))
    for stage in ("02_sfm", "03_train"):
        (root / stage / "stage.json").write_text("{}")
    return root, trained


@pytest.fixture(scope="module")
def compressed(finished) -> tuple[StageRun, CompressParams, list[Progress]]:
    return work(finished[0], sh_palette=60, min_ratio=0, max_psnr_loss=60)


def test_outputs_and_metrics(compressed, finished) -> None:
    run, _, states = compressed
    assert set(run.outputs) == {"splat.sog", "sog", "compression_report.json", "compression_report.txt"}
    assert all(path.exists() for path in run.outputs.values())
    sizes = {"bytes": run.dir / "splat.sog", "ply_bytes": finished[0] / "03_train" / "splat.ply"}
    assert {name: run.metrics[name] for name in sizes} == {n: p.stat().st_size for n, p in sizes.items()}
    assert run.metrics["ratio"] == run.metrics["ply_bytes"] / run.metrics["bytes"]
    assert run.metrics["n_gaussians"] == 900
    assert set(run.metrics) == {"n_gaussians", "bytes", "ply_bytes", "ratio", "psnr_heldout"}
    assert not run.warnings
    assert not run.failed_gates
    steps = [state.step for state in states]
    assert steps == sorted(steps)
    assert steps[-1] == states[-1].total
    assert any("k-means" in state.message for state in states)


def test_psnr_is_that_of_the_decoded_file(compressed, finished) -> None:
    run, _, _ = compressed
    scene = read_scene(finished[0] / "02_sfm")
    held = scene.cameras.subset([0, 8])
    images = finished[0] / "02_sfm" / "images"
    after = [v.psnr for v in evaluation.evaluate(read_sog(run.dir / "splat.sog"), held, images)]
    before = [v.psnr for v in evaluation.evaluate(finished[1], held, images)]
    report = json.loads((run.dir / "compression_report.json").read_text())["heldout"]
    assert [v["name"] for v in report["views"]] == ["view_000.png", "view_008.png"]
    np.testing.assert_allclose([v["psnr_after"] for v in report["views"]], after, rtol=1e-5)
    np.testing.assert_allclose([v["psnr_before"] for v in report["views"]], before, rtol=1e-5)
    assert run.metrics["psnr_heldout"] == pytest.approx(np.mean(after), rel=1e-5)
    assert report["loss"] == pytest.approx(np.mean(before) - np.mean(after), abs=1e-4)
    assert np.mean(before) > np.mean(after) + 3 > 33


def test_both_forms_hold_the_same(compressed) -> None:
    run, _, _ = compressed
    bundle, folder = read_sog(run.dir / "splat.sog"), read_sog(run.dir / "sog")
    for name, values in vars(bundle).items():
        np.testing.assert_array_equal(values, getattr(folder, name))


def test_report_adds_up(compressed) -> None:
    run, _, _ = compressed
    report = json.loads((run.dir / "compression_report.json").read_text())
    on_disk = {path.name: path.stat().st_size for path in (run.dir / "sog").iterdir()}
    assert report["output"]["files"] == on_disk
    header = report["input"]["bytes"] - sum(f["ply_bytes"] for f in report["fields"].values()) - 900 * 3 * 4
    assert 1000 < header < 2000  # 62 properties' names
    assert (
        sum(f["sog_bytes"] for f in report["fields"].values()) == sum(on_disk.values()) - on_disk["meta.json"]
    )
    assert report["errors"]["opacity"]["max"] <= 0.51
    assert {e["unit"] for e in report["errors"].values()} >= {"world units", "degrees", "1/255"}
    text = (run.dir / "compression_report.txt").read_text()
    assert f"ratio: {run.metrics['ratio']:.2f}" in text
    assert "view_008.png" in text
    assert "degrees" in text


def test_results_are_those_of_the_report(compressed) -> None:
    run, p, _ = compressed
    results = compress.results(run, p)
    for name, error in results.errors.items():
        assert error.mean == pytest.approx(results.report["errors"][name]["mean"])
    assert results.original.n == results.decoded.n == 900
    pictures = compress.worst_view(run, p, results)
    losses = {v["name"]: v["psnr_before"] - v["psnr_after"] for v in results.report["heldout"]["views"]}
    assert losses[pictures.name] == max(losses.values())
    assert pictures.photo.shape == pictures.before.shape == pictures.after.shape == (48, 64, 3)


def drawn(figure: Figure) -> np.ndarray:
    """The figure's pixels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))


def test_figures_show_something(compressed, finished) -> None:
    run, p, states = compressed
    results = compress.results(run, p)
    splat, rows = compress.load_input(run, p)
    assert {"input": "Gaussians", "value": 900} in rows
    figures = [
        plots.input_splat(splat),
        plots.palette_progress(states),
        plots.palette_progress(states[:1]),
        plots.bytes_per_field(results.report),
        plots.error_histograms(results.errors),
        plots.codebooks(results.original, results.decoded),
        plots.psnr_per_view(results.report),
        plots.before_after(compress.worst_view(run, p, results)),
    ]
    assert all(drawn(figure).min() < 200 for figure in figures)
    texts = [text.get_text() for text in figures[3].findobj(Text)]
    assert any(f"{run.metrics['ratio']:.1f} × smaller in all" in text for text in texts)
    labels = [text.get_text() for text in figures[6].findobj(Text)]
    assert {"view_000.png", "view_008.png"} <= set(labels)


def test_figures_without_cameras_without_sh_and_of_one_gaussian(tmp_path: Path) -> None:
    write_ply(tmp_path / "one.ply", random_splat(1, 0))
    run, p, _ = work(tmp_path / "job", ply=str(tmp_path / "one.ply"))
    results = compress.results(run, p)
    assert len(compress.error_rows(results.report)) == 6
    figures = [
        plots.input_splat(results.original),
        plots.bytes_per_field(results.report),
        plots.error_histograms(results.errors),
        plots.codebooks(results.original, results.decoded),
        plots.psnr_per_view(results.report),
        plots.before_after(None),
    ]
    assert all(drawn(figure).min() < 200 for figure in figures)


def test_again_gives_the_same_bytes(finished, compressed) -> None:
    run, p, _ = compressed
    before = {name: (run.dir / name).read_bytes() for name in ("splat.sog", "compression_report.json")}
    again = open_stage(finished[0])
    list(compress.run(again, p))
    assert {name: (run.dir / name).read_bytes() for name in before} == before


def test_a_stage_without_cameras_measures_no_psnr(tmp_path: Path) -> None:
    write_ply(tmp_path / "theirs.ply", scene_splat(4000))
    run, p, _ = work(tmp_path / "job", ply=str(tmp_path / "theirs.ply"))
    assert run.metrics["psnr_heldout"] is None
    assert run.metrics["ratio"] > 8
    report = json.loads((run.dir / "compression_report.json").read_text())
    assert report["heldout"]["reason"] == "no cameras: stage sfm and train did not run in this job"
    assert "no cameras" in (run.dir / "compression_report.txt").read_text()
    assert compress.worst_view(run, p, compress.results(run, p)) is None


def test_nan_is_left_out_counted_and_warned_about(tmp_path: Path) -> None:
    splat = scene_splat(500, 1)
    splat.means[7], splat.opacities[8] = np.nan, np.inf
    write_ply(tmp_path / "theirs.ply", splat)
    run, p, _ = work(tmp_path / "job", ply=str(tmp_path / "theirs.ply"))
    assert run.metrics["n_gaussians"] == read_sog(run.dir / "splat.sog").n == 498
    assert run.warnings == ["theirs.ply: NaN or Inf in 2 of 500 splats (x 1, y 1, z 1, opacity 1): left out"]
    report = json.loads((run.dir / "compression_report.json").read_text())
    assert report["input"]["dropped"] == {"n": 2, "of": 500, "fields": {"x": 1, "y": 1, "z": 1, "opacity": 1}}
    assert "left out: 2 splats" in (run.dir / "compression_report.txt").read_text()
    assert compress.results(run, p).original.n == 498


def test_dropping_bands_shrinks_the_file_and_shows_in_the_error(tmp_path: Path, finished) -> None:
    ply = str(finished[0] / "03_train" / "splat.ply")
    full, _, _ = work(tmp_path / "a", ply=ply)
    none, _, _ = work(tmp_path / "b", ply=ply, sh_degree=0)
    assert none.metrics["bytes"] < full.metrics["bytes"]
    assert not (none.dir / "sog" / "shN_labels.webp").exists()
    errors = [json.loads((run.dir / "compression_report.json").read_text())["errors"] for run in (full, none)]
    assert errors[1]["shN"]["rms"] == pytest.approx(0.05, rel=0.02)
    assert errors[0]["shN"]["rms"] < 0.01


def test_a_setting_is_a_starting_point_that_other_params_override() -> None:
    assert compress.options(CompressParams(), "balanced") == SogOptions()
    assert compress.options(CompressParams(), "no-sh").sh_degree == 0
    small = compress.options(CompressParams(sh_palette=77, sh_degree=2, far_splats="keep"), "small", "cuda")
    assert (small.sh_palette, small.sh_degree, small.pull_far, small.device) == (77, 2, False, "cuda")
    assert small.per_entry == SETTINGS["small"].per_entry


def test_auto_takes_the_smallest_that_loses_little_enough(finished, tmp_path: Path) -> None:
    """The fixture's photographs are renders of the splat, so any loss can be asked for."""
    losses = {}
    for setting in ("quality", "balanced", "small", "no-sh"):
        run, _, _ = work(finished[0], setting=setting, min_ratio=0)
        losses[setting] = json.loads((run.dir / "compression_report.json").read_text())["heldout"]["loss"]
    assert losses["no-sh"] > losses["small"] >= losses["balanced"]
    limit = (losses["no-sh"] + losses["small"]) / 2
    run, p, states = work(finished[0], setting="auto", auto_max_loss=limit, min_ratio=0, max_psnr_loss=99)
    report = json.loads((run.dir / "compression_report.json").read_text())
    assert report["setting"]["name"] == "small"
    assert list(report["setting"]["tried"]) == ["no-sh", "small"]
    assert report["setting"]["tried"]["no-sh"]["loss"] == pytest.approx(losses["no-sh"])
    assert report["heldout"]["loss"] == pytest.approx(losses["small"])
    assert losses["small"] <= limit
    assert run.metrics["bytes"] == (run.dir / "splat.sog").stat().st_size
    text = (run.dir / "compression_report.txt").read_text()
    assert "setting: small" in text
    assert "tried no-sh" in text
    assert not run.warnings
    assert compress.results(run, p).errors["shN"].mean == pytest.approx(report["errors"]["shN"]["mean"])
    assert [s.step for s in states] == sorted(s.step for s in states)


def test_auto_that_finds_nothing_takes_the_best_and_says_so(finished) -> None:
    run, _, _ = work(finished[0], setting="auto", auto_max_loss=0, min_ratio=0)
    report = json.loads((run.dir / "compression_report.json").read_text())
    assert report["setting"]["name"] == "quality"
    assert "no setting stays under a loss of 0 dB (compress.auto_max_loss)" in run.warnings[0]


def test_auto_without_cameras_is_balanced_and_says_so(tmp_path: Path) -> None:
    write_ply(tmp_path / "theirs.ply", random_splat(50))
    run, _, _ = work(tmp_path / "job", ply=str(tmp_path / "theirs.ply"), setting="auto")
    report = json.loads((run.dir / "compression_report.json").read_text())
    assert report["setting"] == {"name": "balanced", "tried": {}}
    assert "balanced is used (no cameras" in run.warnings[0]


def test_far_splats_are_pulled_in_counted_and_kept_out_of_the_errors(tmp_path: Path) -> None:
    splat = scene_splat(800, 1)
    splat.means[7] = 1e6
    write_ply(tmp_path / "theirs.ply", splat)
    run, p, _ = work(tmp_path / "job", ply=str(tmp_path / "theirs.ply"))
    report = json.loads((run.dir / "compression_report.json").read_text())
    assert report["far"] == 1
    assert "1 of 800 splats lie far outside the scene: pulled in" in run.warnings[0]
    assert "pulled in: 1 splats" in (run.dir / "compression_report.txt").read_text()
    assert report["errors"]["position"]["max"] < 0.1
    assert compress.results(run, p).errors["position"].max < 0.1
    kept, p, _ = work(tmp_path / "kept", ply=str(tmp_path / "theirs.ply"), far_splats="keep")
    assert not kept.warnings
    assert read_sog(kept.dir / "splat.sog").means.max() > 9e5
    assert compress.results(kept, p).original.means.max() == 1e6


def test_the_antialias_flag_goes_from_the_ply_into_the_sog(tmp_path: Path) -> None:
    for antialias in (True, False):
        write_ply(tmp_path / "theirs.ply", random_splat(60, 1), antialias=antialias)
        run, _, _ = work(tmp_path / f"job{antialias}", ply=str(tmp_path / "theirs.ply"))
        assert read_antialias(run.dir / "splat.sog") is antialias
        assert read_antialias(run.dir / "sog") is antialias


def test_backend_sogs_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BackendError, match=r"(?s)backend sogs cannot run here.*no CUDA device"):
        work(tmp_path / "job", ply=str(tmp_path / "not there.ply"), backend="sogs")
    assert not list((tmp_path / "job" / "04_compress").iterdir())


def test_backend_sogs_is_judged_by_psnr_and_counts(finished, tmp_path: Path, monkeypatch) -> None:
    """No GPU is at hand: a program that leaves version 1 files made by this test stands in for sogs."""
    root, splat = finished
    left = splat.subset(slice(0, 841))
    write_folder(tmp_path / "v1", write_v1(left))
    script = (
        f"import shutil, sys; shutil.copytree({str(tmp_path / 'v1')!r}, sys.argv[-1], dirs_exist_ok=True)"
    )
    monkeypatch.setattr(sogs, "_command", lambda: [sys.executable, "-c", script])
    monkeypatch.setattr(sogs, "check_sogs", lambda: None)
    monkeypatch.setattr(compress, "check_sogs", lambda: None)
    monkeypatch.setattr(sogs, "LEAST", 100)
    job = tmp_path / "job"
    for stage in ("02_sfm", "03_train"):
        (job / stage).parent.mkdir(exist_ok=True)
        (job / stage).symlink_to(root / stage)
    run, p, _ = work(job, backend="sogs", min_ratio=0, max_psnr_loss=60)
    report = json.loads((run.dir / "compression_report.json").read_text())
    assert (report["output"]["n_gaussians"], report["output"]["left_out"]) == (841, 59)
    assert "sogs left out 59 of 900 splats" in run.warnings[0]
    assert report["errors"] == {}
    assert report["setting"] == {"name": "sogs", "tried": {}}
    held = read_scene(root / "02_sfm").cameras.subset([0, 8])
    after = evaluation.evaluate(read_sog(tmp_path / "v1"), held, root / "02_sfm" / "images")
    assert run.metrics["psnr_heldout"] == pytest.approx(np.mean([v.psnr for v in after]), abs=0.3)
    text = (run.dir / "compression_report.txt").read_text()
    assert "left out: 59 of the faintest splats, by sogs" in text
    assert "errors of fields: not measured" in text
    results = compress.results(run, p)
    assert results.decoded.n == 841
    for figure in (plots.error_histograms(results.errors), plots.codebooks(splat, results.decoded)):
        assert drawn(figure).std() > 5
    assert plots.before_after(compress.worst_view(run, p, results)).axes


def test_what_is_seen_is_the_sum_of_blending_weights(finished) -> None:
    root, splat = finished
    cameras = read_scene(root / "02_sfm").cameras.subset([2, 5])
    weights = seen(splat, cameras)
    assert weights.shape == (900,)
    assert (weights >= 0).all()
    covered = 0.0
    for index in range(2):
        renders = [
            evaluation.render_view(
                replace(splat, sh0=np.full_like(splat.sh0, value), shN=0 * splat.shN), cameras, index
            )
            for value in (0.5, 0.0)
        ]
        covered += float((renders[0] - renders[1])[..., 0].sum()) / (0.5 * SH_C0)
    assert weights.sum() == pytest.approx(covered, rel=1e-3)
    hidden = replace(splat, means=splat.means.copy())
    hidden.means[3] = (0, 0, 500)
    hidden.opacities[3] = -30
    assert seen(hidden, cameras)[3] == 0


def test_leftovers_of_an_interrupted_attempt_do_no_harm(tmp_path: Path) -> None:
    write_ply(tmp_path / "theirs.ply", random_splat(300, 0))
    run = open_stage(tmp_path / "job")
    (run.dir / "sog").mkdir()
    (run.dir / "sog" / "shN_labels.webp").write_bytes(b"half")
    (run.dir / "splat.sog").write_bytes(b"half")
    list(compress.run(run, CompressParams(ply=str(tmp_path / "theirs.ply"))))
    assert sorted(path.name for path in (run.dir / "sog").iterdir()) == [
        "means_l.webp", "means_u.webp", "meta.json", "quats.webp", "scales.webp", "sh0.webp",
    ]  # fmt: skip
    assert read_sog(run.dir / "splat.sog").n == 300


def test_gates_fail_with_the_numbers(finished, tmp_path: Path) -> None:
    run, _, _ = work(finished[0], sh_degree=0, min_ratio=99, max_psnr_loss=0.001)
    small, loss = run.failed_gates
    assert "at least 99 times (compress.min_ratio)" in str(small)
    assert f"{run.metrics['ratio']:.2f} times smaller" in str(small)
    assert "at most 0.001 dB (compress.max_psnr_loss)" in str(loss)
    assert "held-out PSNR fell by" in str(loss)


def test_what_cannot_be_compressed_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="needs what stage train makes"):
        work(tmp_path / "job")
    (tmp_path / "mesh.ply").write_text("ply\nformat binary_little_endian 1.0\nelement face 9\nend_header\n")
    with pytest.raises(SplatFormatError, match="a mesh with 9 faces"):
        work(tmp_path / "job", ply=str(tmp_path / "mesh.ply"))
    assert not list((tmp_path / "job" / "04_compress").iterdir())


def test_progress_shows_the_last_palette_only() -> None:
    def state(message: str, **values: float) -> Progress:
        return Progress(0, None, message, values)

    states = [state("SH palette: coarse cells"), state("SH palette: k-means", sh_rmse=9.0)] * 2
    states += [state("SH palette: coarse cells"), *(state("k", sh_rmse=e) for e in (3.0, 2.0, 1.5))]
    figure = plots.palette_progress(states)
    assert figure.axes[0].lines[0].get_ydata().tolist() == [3.0, 2.0, 1.5]


def test_figure_of_the_settings_tried(finished) -> None:
    run, p, _ = work(finished[0], setting="auto", auto_max_loss=0.5, min_ratio=0)
    report = compress.results(run, p).report
    figure = plots.psnr_per_view(report)
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert set(report["setting"]["tried"]) <= set(texts)
    assert f"Settings tried: {report['setting']['name']} chosen" in texts
    assert drawn(figure).min() < 200
