"""The sfm stage with real COLMAP: a flight with known poses, bad sets, others' models, a worker that dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from pictures import save, texture
from PIL import Image, ImageFilter

from spaceport_lab import colmap, ingest, sfm
from spaceport_lab.cameras import read_scene
from spaceport_lab.errors import QualityGateError, ReconstructionError, StageError
from spaceport_lab.params import IngestParams, SfmParams
from spaceport_lab.sfm.process import run_worker
from spaceport_lab.workspace import Progress, StageRun, write_manifest


def reconstruct(
    source: Path,
    root: Path,
    *,
    duplicates: bool = False,
    change: Callable[[Path], None] = lambda folder: None,
    **settings: object,
) -> tuple[StageRun, list[Progress]]:
    """Ingest a folder, have `change` alter what that made, and run sfm on it."""
    folder = root / "scene" / "runs" / "job"
    before = StageRun(folder, "ingest")
    before.dir.mkdir(parents=True, exist_ok=True)
    taking = IngestParams(source=str(source), exclude_duplicates=not duplicates, min_side=64)
    list(ingest.run(before, taking))
    change(before.dir)
    write_manifest(before, taking)
    run = StageRun(folder, "sfm")
    run.dir.mkdir(exist_ok=True)
    states = list(sfm.run(run, SfmParams(**{"train_size": 320, "min_points": 300, **settings})))
    return run, states


@pytest.fixture(scope="module")
def flown(tiny_flight: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StageRun, list[Progress]]:
    """The tiny flight, reconstructed; tests only read it."""
    return reconstruct(tiny_flight, tmp_path_factory.mktemp("flown"))


def test_a_flight_is_reconstructed(flown: tuple[StageRun, list[Progress]]) -> None:
    run, _ = flown
    assert run.failed_gates == []
    assert run.metrics["n_images"] == run.metrics["n_registered"] == 12
    assert run.metrics["n_points"] > 500
    assert run.metrics["reprojection_error_px"] < 1
    assert run.metrics["pose_rmse_m"] < 0.3
    assert 0 < run.metrics["gps_rmse_m"] < 6
    assert set(run.outputs) == {"images", "sparse", "model", "registration.json", "georeference.json"}
    assert not (run.dir / "work").exists()


def test_progress_rises_and_says_what_is_done(flown: tuple[StageRun, list[Progress]]) -> None:
    _, states = flown
    steps = [state.step for state in states]
    assert steps == sorted(steps)
    assert all(state.total == 100 for state in states)
    said = " ".join(dict.fromkeys(state.message for state in states))
    for word in ("finding features", "matching", "mapping, incremental", "mapping, global", "undistorting"):
        assert word in said


def test_scene_is_pinhole_metric_and_matches_its_images(flown: tuple[StageRun, list[Progress]]) -> None:
    run, _ = flown
    scene = read_scene(run.dir)
    assert scene.georeferenced
    assert len(scene.cameras) == 12
    assert len(scene.points) == run.metrics["n_points"]
    for name, (width, height) in zip(scene.cameras.names, scene.cameras.sizes, strict=True):
        with Image.open(run.dir / "images" / name) as image:
            assert image.size == (width, height)
        assert max(width, height) == 320
    assert abs(np.median(scene.points[:, 2])) < 1  # up is counted from the ground
    assert (scene.cameras.centers[:, 2] > 10).all()


def test_points_are_where_the_images_show_them(flown: tuple[StageRun, list[Progress]]) -> None:
    """Colours of the points, projected by our cameras, against the pixels there."""
    run, _ = flown
    scene = read_scene(run.dir)
    view, k = scene.cameras.viewmats[0], scene.cameras.Ks[0]
    local = scene.points @ view[:3, :3].T + view[:3, 3]
    pixels = (local / local[:, 2:]) @ k.T
    width, height = scene.cameras.sizes[0]
    inside = (local[:, 2] > 0) & (pixels[:, 0] > 2) & (pixels[:, 0] < width - 2)
    inside &= (pixels[:, 1] > 2) & (pixels[:, 1] < height - 2)
    with Image.open(run.dir / "images" / scene.cameras.names[0]) as image:
        shown = np.asarray(image.convert("RGB")).astype(float)
    column, row = np.floor(pixels[inside, :2]).astype(int).T
    there = shown[row, column].mean(axis=1)
    elsewhere = shown[row[::-1], column].mean(axis=1)
    expected = scene.colors[inside].mean(axis=1)
    assert inside.sum() > 100
    assert np.corrcoef(there, expected)[0, 1] > np.corrcoef(elsewhere, expected)[0, 1] + 0.2


def test_georeference_agrees_with_ground_truth(
    flown: tuple[StageRun, list[Progress]], tiny_flight: Path
) -> None:
    """Distances between cameras are metres, and up is up, to what GPS noise allows over this extent."""
    run, _ = flown
    truth = json.loads((tiny_flight / "ground_truth.json").read_text())["cameras"]
    scene = read_scene(run.dir)
    true = np.array([truth[name]["center"] for name in scene.cameras.names])
    ratio = np.linalg.norm(np.diff(scene.cameras.centers, axis=0), axis=1) / np.linalg.norm(
        np.diff(true, axis=0), axis=1
    )
    assert np.abs(ratio - 1).max() < 0.05
    for name, view in zip(scene.cameras.names, scene.cameras.viewmats, strict=True):
        turn = view[:3, :3] @ np.array(truth[name]["R"]).T
        assert np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))) < 5
    card = json.loads((run.dir / "georeference.json").read_text())
    assert card["n_positions"] == 12
    assert card["rmse_m"] == pytest.approx(np.hypot(card["rmse_horizontal_m"], card["rmse_vertical_m"]))
    matrix = np.array(card["transform"])
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(card["scale"] ** 3)


def test_registration_says_everything_of_everyone(flown: tuple[StageRun, list[Progress]]) -> None:
    run, _ = flown
    card = sfm.read_registration(run)
    assert {c["mapper"] for c in card["candidates"]} == {"incremental", "global"}
    kept, tried = sfm.candidate_rows(card)
    assert (kept["model"], kept["mapper"], tried["model"]) == ("kept", card["mapper"], "tried")
    assert kept["n_points"] == run.metrics["n_points"]
    assert sfm.unregistered_rows(card) == [{"photograph": "none", "reason": "all 12 were registered"}]
    model = {image.name: image for image in colmap.read_model(run.dir / "model").images}
    for row in card["photographs"]:
        assert row["registered"]
        assert row["n_points"] == model[row["name"]].n_observations
        assert row["n_features"] > row["n_points"]
        assert row["best_inliers"] >= 15
        assert len(row["gps_enu_m"]) == len(row["gps_residual_m"]) == 3
    names = [row["name"] for row in card["photographs"]]
    strongest = max(card["pairs"], key=lambda pair: pair[2])
    assert card["photographs"][strongest[0]]["best_partner"] == names[strongest[1]]
    assert sum(card["histograms"]["error_px"]["counts"]) == run.metrics["n_points"]
    assert sum(card["histograms"]["track_length"]) == run.metrics["n_points"]


def test_colmap_reads_what_is_handed_on(flown: tuple[StageRun, list[Progress]]) -> None:
    run, _ = flown
    code = (
        "import zlib, sys, pycolmap; m = pycolmap.Reconstruction(sys.argv[1]);"
        "print(m.num_reg_images(), m.num_points3D(), {c.model_name for c in m.cameras.values()})"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(run.dir / "sparse")], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == f"12 {run.metrics['n_points']} {{'PINHOLE'}}"


def test_mixed_sizes_orientations_and_a_stray_position(tiny_flight: Path, tmp_path: Path) -> None:
    """What makes COLMAP drop photographs in silence, in one set: all are kept but the one that is foreign."""
    source = tmp_path / "in" / "images"
    source.mkdir(parents=True)
    originals = sorted((tiny_flight / "images").iterdir())
    for i, path in enumerate(originals):
        with Image.open(path) as image:
            tags = image.getexif()
            if i in (4, 5, 6):
                image = image.resize((320, 240), Image.Resampling.LANCZOS)
            if i in (7, 8):
                tags[0x0112] = 6
                image = image.transpose(Image.Transpose.ROTATE_90)
            image.convert("RGB").save(source / path.name, quality=96, exif=tags)
    save(source / "zz_foreign.jpg", texture(5))
    shutil.copy(tiny_flight / "ground_truth.json", source)
    spoil = strayed(originals[2].name, 0.2)
    run, _ = reconstruct(source, tmp_path, mapper="incremental", retry=False, change=spoil)
    assert run.metrics["n_images"] == 13
    assert run.metrics["n_registered"] >= 11
    assert run.metrics["pose_rmse_m"] < 0.5
    assert len(colmap.read_model(run.dir / "model").cameras) >= 2
    row = {r["name"]: r for r in sfm.read_registration(run)["photographs"]}["zz_foreign.jpg"]
    assert not row["registered"]
    assert row["reason"].startswith("no verified pair")
    assert any("zz_foreign.jpg" in warning for warning in run.warnings)
    assert any("strays" in warning and originals[2].name in warning for warning in run.warnings)
    assert run.metrics["gps_rmse_m"] < 6


def strayed(name: str, degrees: float) -> Callable[[Path], None]:
    """Moves the GPS of a photograph to the north, past what ingest would notice."""

    def change(folder: Path) -> None:
        content = json.loads((folder / "photos.json").read_text())
        (photo,) = (photo for photo in content["photos"] if photo["name"] == name)
        photo["gps"]["lat"] += degrees
        (folder / "photos.json").write_text(json.dumps(content))

    return change


def test_a_stray_of_100_m_does_not_move_the_georeference(tiny_flight: Path, tmp_path: Path) -> None:
    """Cameras in geocentric metres, with the stray and without it."""
    name = sorted((tiny_flight / "images").iterdir())[5].name

    def centers(run: StageRun) -> np.ndarray:
        matrix = np.array(json.loads((run.dir / "georeference.json").read_text())["ecef_from_enu"])
        return read_scene(run.dir).cameras.centers @ matrix[:3, :3].T + matrix[:3, 3]

    settings = {"mapper": "incremental", "matching": "exhaustive"}
    spoilt, _ = reconstruct(tiny_flight, tmp_path, change=strayed(name, 100 / 111_000), **settings)
    there = centers(spoilt)
    card = json.loads((spoilt.dir / "georeference.json").read_text())
    assert [stray["name"] for stray in card["strays"]] == [name]
    assert card["strays"][0]["distance_m"] == pytest.approx(100, abs=10)

    def without(folder: Path) -> None:
        content = json.loads((folder / "photos.json").read_text())
        for photo in content["photos"]:
            photo["gps"] = None if photo["name"] == name else photo["gps"]
        (folder / "photos.json").write_text(json.dumps(content))

    clean, _ = reconstruct(tiny_flight, tmp_path, change=without, **settings)
    assert np.linalg.norm(there - centers(clean), axis=1).max() < 0.1


def test_without_gps_nothing_pretends_to_be_metric(
    flown: tuple[StageRun, list[Progress]], tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for path in (flown[0].root / "01_ingest" / "images").iterdir():
        with Image.open(path) as image:
            image.save(source / path.name, quality=96)
    run, _ = reconstruct(source, tmp_path, mapper="incremental")
    assert run.metrics["gps_rmse_m"] is None
    assert run.metrics["pose_rmse_m"] is None
    assert "georeference.json" not in run.outputs
    assert "normalisation.json" in run.outputs
    scene = read_scene(run.dir)
    assert not scene.georeferenced
    assert np.abs(np.median(scene.points, axis=0)).max() < 0.05
    assert scene.cameras.centers[:, 2].min() > 0
    assert np.median(np.linalg.norm(scene.cameras.centers, axis=1)) == pytest.approx(1, abs=0.05)


# ---- sets that cannot be reconstructed


def test_unrelated_photographs(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / "in" / f"{i}.jpg", texture(i, 320, 240))
    with pytest.raises(ReconstructionError, match="give no reconstruction") as caught:
        reconstruct(tmp_path / "in", tmp_path)
    text = str(caught.value)
    assert all(f"{i}.jpg: no verified pair: best partner" in text for i in range(4))
    assert "overlap" in text


def test_blurred_photographs(tiny_flight: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for path in sorted((tiny_flight / "images").iterdir())[:4]:
        with Image.open(path) as image:
            image.filter(ImageFilter.GaussianBlur(9)).save(tmp_path / "in" / path.name)
    with pytest.raises(ReconstructionError, match=r"too few features: \d+, under 100"):
        reconstruct(tmp_path / "in", tmp_path)


def test_one_picture_many_times(tiny_flight: Path, tmp_path: Path) -> None:
    first = min((tiny_flight / "images").iterdir())
    (tmp_path / "in").mkdir()
    for i in range(4):
        shutil.copy(first, tmp_path / "in" / f"{i}.jpg")
    with pytest.raises(
        ReconstructionError, match=r"0.jpg: shows the same as \d.jpg[\s\S]*move between shots"
    ):
        reconstruct(tmp_path / "in", tmp_path, duplicates=True)


def test_gates_say_which_and_why(flown: tuple[StageRun, list[Progress]], tmp_path: Path) -> None:
    images = sorted((flown[0].root / "01_ingest" / "images").iterdir())
    (tmp_path / "in").mkdir()
    for path in images[:5]:
        shutil.copy(path, tmp_path / "in")
    for i in range(6):
        save(tmp_path / "in" / f"zz{i}.jpg", texture(i, 320, 240))
    run, _ = reconstruct(tmp_path / "in", tmp_path, min_points=10**6, mapper="incremental", retry=False)
    few, points = run.failed_gates
    assert isinstance(few, QualityGateError)
    assert "too few photographs were registered" in str(few)
    assert "of 11" in str(few)
    assert "zz0.jpg: no verified pair" in str(few)
    assert "at least 1,000,000 (sfm.min_points)" in str(points)


# ---- models of others


@pytest.mark.parametrize("place", ["sparse/0", "."])
def test_import_of_a_colmap_folder(
    place: str, flown: tuple[StageRun, list[Progress]], tmp_path: Path
) -> None:
    """A distorted model with its photographs gives what our own reconstruction gave."""
    done, _ = flown
    folder = tmp_path / "theirs"
    shutil.copytree(done.dir / "model", folder / place, dirs_exist_ok=True)
    shutil.copytree(done.root / "01_ingest" / "images", folder / "images")
    run = StageRun(tmp_path / "scene" / "runs" / "job", "sfm")
    run.dir.mkdir(parents=True)
    list(sfm.run(run, SfmParams(import_path=str(folder), train_size=320, min_points=300)))
    assert run.failed_gates == []
    assert run.warnings == []
    assert run.metrics["n_registered"] == 12
    assert run.metrics["n_points"] == done.metrics["n_points"]
    ours, theirs = read_scene(done.dir), read_scene(run.dir)
    np.testing.assert_allclose(theirs.cameras.viewmats, ours.cameras.viewmats, atol=1e-9)
    np.testing.assert_allclose(theirs.cameras.Ks, ours.cameras.Ks, atol=1e-6)
    assert not theirs.georeferenced


def test_import_as_text_with_an_image_missing_and_images_scaled(
    flown: tuple[StageRun, list[Progress]], tmp_path: Path
) -> None:
    done, _ = flown
    folder = tmp_path / "theirs"
    (folder / "sparse").mkdir(parents=True)
    code = "import zlib, sys, pycolmap; pycolmap.Reconstruction(sys.argv[1]).write_text(sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(done.dir / "model"), str(folder / "sparse")], check=True)
    elsewhere = tmp_path / "pictures"
    elsewhere.mkdir()
    images = sorted((done.root / "01_ingest" / "images").iterdir())
    for path in images[1:]:
        with Image.open(path) as image:
            image.resize((200, 150), Image.Resampling.BOX).save(elsewhere / path.name)
    (folder / "georeference.json").write_text('{"origin": {"lat": 1.0}}')
    run = StageRun(tmp_path / "scene" / "runs" / "job", "sfm")
    run.dir.mkdir(parents=True)
    params = SfmParams(import_path=str(folder), import_images=str(elsewhere), min_points=300)
    list(sfm.run(run, params))
    assert run.metrics["n_images"] == 12
    assert run.metrics["n_registered"] == 11
    assert any(images[0].name in warning and "no such image" in warning for warning in run.warnings)
    assert any("scaled" in warning for warning in run.warnings)
    scene = read_scene(run.dir)
    assert scene.georeferenced
    assert scene.cameras.sizes.max() <= 200
    full = read_scene(done.dir).cameras
    np.testing.assert_allclose(scene.cameras.Ks[0, 0, 0] / scene.cameras.sizes[0, 0],
                               full.Ks[1, 0, 0] / full.sizes[1, 0], rtol=0.02)  # fmt: skip


def test_import_that_cannot_be(flown: tuple[StageRun, list[Progress]], tmp_path: Path) -> None:
    def attempt(folder: Path) -> None:
        run = StageRun(tmp_path / "scene" / "runs" / "job", "sfm")
        run.dir.mkdir(parents=True, exist_ok=True)
        list(sfm.run(run, SfmParams(import_path=str(folder))))

    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ReconstructionError, match="there is no COLMAP model here"):
        attempt(empty)
    bare = tmp_path / "bare"
    shutil.copytree(flown[0].dir / "model", bare / "sparse" / "0")
    with pytest.raises(ReconstructionError, match=r"0 of 12 [\s\S]*sfm.import_images"):
        attempt(bare)
    points = bare / "sparse" / "0" / "points3D.bin"
    points.write_bytes(points.read_bytes()[:1000])
    with pytest.raises(ReconstructionError, match=r"points3D.bin of this COLMAP model cannot be read"):
        attempt(bare)


# ---- the worker


def job(flown_run: StageRun, work: Path) -> dict:
    """A job that takes a few seconds."""
    run = StageRun(flown_run.root, "sfm")
    return {
        "out": str(work / "out"), "work": str(work), "import_path": "", "threads": 2,
        "images": str(run.root / "01_ingest" / "images"), "photos": sfm.read_photos(run),
        "params": SfmParams(train_size=320).model_dump(),
    }  # fmt: skip


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "spaceport_lab.sfm.worker" in " ".join(p.cmdline())]


def test_worker_that_is_killed(flown: tuple[StageRun, list[Progress]], tmp_path: Path) -> None:
    states = run_worker(job(flown[0], tmp_path), tmp_path, tmp_path / "colmap.log", 60)
    next(states)
    children()[0].kill()
    with pytest.raises(StageError, match=r"COLMAP's process died \(SIGKILL, most likely the memory was full"):
        list(states)


def test_worker_that_crashes_shows_its_last_words(
    flown: tuple[StageRun, list[Progress]], tmp_path: Path
) -> None:
    broken = job(flown[0], tmp_path) | {"photos": [{"name": "x.jpg"}]}
    with pytest.raises(StageError, match=r"exit code 1[\s\S]*KeyError"):
        list(run_worker(broken, tmp_path, tmp_path / "colmap.log", 60))


def test_time_limit_and_closing_leave_no_process(
    flown: tuple[StageRun, list[Progress]], tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=r"took longer than 0.01 minutes[\s\S]*sfm.time_limit_min"):
        list(run_worker(job(flown[0], tmp_path), tmp_path, tmp_path / "colmap.log", 0.6))
    assert children() == []
    states = run_worker(job(flown[0], tmp_path), tmp_path, tmp_path / "colmap.log", 60)
    next(states)
    assert len(children()) == 1
    states.close()
    assert children() == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_worker_dies_with_its_parent(flown: tuple[StageRun, list[Progress]], tmp_path: Path) -> None:
    (tmp_path / "the_job.json").write_text(json.dumps(job(flown[0], tmp_path)))
    code = (
        "import json, sys, pathlib; from spaceport_lab.sfm.process import run_worker\n"
        "w = pathlib.Path(sys.argv[1])\n"
        "job = json.loads((w / 'the_job.json').read_text())\n"
        "for state in run_worker(job, w, w / 'log', 60): print('.', flush=True)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b".\n"
    worker = psutil.Process(parent.pid).children()[0]
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.05)
