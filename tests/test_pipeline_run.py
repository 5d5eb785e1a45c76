"""The whole pipeline, for real, on a tiny flight: notebooks through papermill, resume, kill, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from scenes import make_gaussians

from spaceport_lab.gaussians import write_ply
from spaceport_lab.params import STAGES
from spaceport_lab.workspace import folder_name

TINY = ["--set", "sfm.train_size=320", "--set", "sfm.min_points=200", "--set", "train.eval_every=100"]


@dataclass
class Outcome:
    code: int
    text: str
    root: Path

    @property
    def card(self) -> dict:
        return json.loads((self.root / "run.json").read_text())


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "spaceport_lab.cli", *map(str, arguments)]


def run_cli(*arguments: object, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def killed_then_resumed(tiny_flight: Path, data: Path) -> tuple[Outcome, dict[str, float], list[int]]:
    """A run killed with SIGKILL in the middle of training, and then started again with the same command."""
    root = data / "tiny" / "runs" / "night-flight"
    arguments = command(
        "run", tiny_flight, "--data", data, "--job", "night-flight", *TINY,
        "--set", "train.max_steps=400", "--set", "train.checkpoint_every=50",
    )  # fmt: skip
    first = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    family: list[int] = []
    checkpoint = root / "03_train" / "checkpoint.pt"
    deadline = time.monotonic() + 400
    while not checkpoint.exists():
        assert first.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        family = [child.pid for child in psutil.Process(first.pid).children(recursive=True)]
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = {s: (root / folder_name(s) / "stage.json").stat().st_mtime for s in ("ingest", "sfm")}
    assert not (root / "03_train" / "stage.json").exists()
    second = subprocess.run(arguments, capture_output=True, text=True, timeout=500)
    return Outcome(second.returncode, second.stdout + second.stderr, root), before, family


def test_a_killed_run_is_whole_after_the_same_command(killed_then_resumed) -> None:
    outcome, before, _ = killed_then_resumed
    assert outcome.code == 0, outcome.text
    card = outcome.card
    assert card["status"] == "succeeded"
    assert [card["stages"][s]["status"] for s in STAGES] == ["succeeded"] * 5
    after = {s: (outcome.root / folder_name(s) / "stage.json").stat().st_mtime for s in before}
    assert after == before, "stages 1 and 2 ran again"
    assert "already done" in outcome.text
    steps = [
        json.loads(x)["step"] for x in (outcome.root / "03_train/metrics.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(steps), "the stream was not cut back to the checkpoint"


def test_no_process_of_a_killed_run_lives_on(killed_then_resumed) -> None:
    _, _, family = killed_then_resumed
    assert family, "there were processes to watch"
    assert [pid for pid in family if psutil.pid_exists(pid)] == []


def test_the_run_card_has_what_others_rely_on(killed_then_resumed) -> None:
    stages = killed_then_resumed[0].card["stages"]
    expected = {
        "ingest": {"n_photos", "n_used"},
        "sfm": {"n_images", "n_registered", "n_points", "reprojection_error_px", "gps_rmse_m", "pose_rmse_m"},
        "train": {"steps", "n_gaussians", "psnr_heldout", "ssim_heldout", "psnr_train", "stopped_by",
                  "best_step", "verdicts"},
        "compress": {"n_gaussians", "bytes", "ply_bytes", "ratio", "psnr_heldout"},
        "inspect": {"psnr_heldout", "ssim_heldout", "report_bytes"},
    }  # fmt: skip
    for stage, names in expected.items():
        assert names <= set(stages[stage]["metrics"]), stage
        assert stages[stage]["seconds"] > 0
        assert stages[stage]["peak_rss_mb"] > 50
    assert "could not be drawn" not in (killed_then_resumed[0].root / "report.html").read_text()
    assert stages["sfm"]["metrics"]["n_registered"] == 12
    assert stages["sfm"]["metrics"]["pose_rmse_m"] < 0.5
    assert stages["train"]["metrics"]["psnr_heldout"] > 15
    assert stages["compress"]["metrics"]["ratio"] > 3
    assert stages["train"]["name"] == "night-flight-3dgs"
    params = killed_then_resumed[0].card["params"]
    assert params["train"]["max_steps"] == {"value": 400, "origin": "--set"}


def test_executed_notebooks_are_finished_records(killed_then_resumed) -> None:
    root = killed_then_resumed[0].root
    for stage in STAGES:
        notebook = nbformat.read(root / "notebooks" / f"{folder_name(stage)}.ipynb", as_version=4)
        code = [c for c in notebook.cells if c.cell_type == "code"]
        assert all(c.execution_count for c in code if c.source.strip()), stage
        outputs = [o for c in code for o in c.outputs]
        assert not [o for o in outputs if o.output_type == "error"], stage
        assert not [o for o in outputs if o.get("name") == "stderr"], f"{stage} warns"
        assert [o for o in outputs if "image/png" in o.get("data", {})], f"{stage} shows no picture"


def test_the_same_command_again_runs_nothing(killed_then_resumed, tiny_flight: Path, data: Path) -> None:
    outcome = killed_then_resumed[0]
    manifests = [outcome.root / folder_name(s) / "stage.json" for s in STAGES]
    before = [m.stat().st_mtime for m in manifests]
    again = run_cli(
        "run", tiny_flight, "--data", data, "--job", "night-flight", *TINY,
        "--set", "train.max_steps=400", "--set", "train.checkpoint_every=50",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("already done") == 5
    assert [m.stat().st_mtime for m in manifests] == before


def test_3dgs_and_compression_start_from_a_run(killed_then_resumed, data: Path) -> None:
    outcome = killed_then_resumed[0]
    result = run_cli(
        "run", outcome.root, "--data", data, "--steps", "compression", "--job", "again",
        "--set", "compress.sh_degree=0",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    root = data / "tiny" / "runs" / "again"
    card = json.loads((root / "run.json").read_text())
    assert (
        card["stages"]["compress"]["metrics"]["bytes"]
        < outcome.card["stages"]["compress"]["metrics"]["bytes"]
    )
    assert card["stages"]["train"]["reused_from"] == "night-flight"
    assert (root / "report.html").stat().st_size > 1000


def test_compression_of_somebody_elses_ply(killed_then_resumed, tmp_path: Path) -> None:
    ply = tmp_path / "bonsai.ply"
    ply.write_bytes((killed_then_resumed[0].root / "03_train" / "splat.ply").read_bytes())
    result = run_cli("run", ply, "--data", tmp_path / "data", "--steps", "compression", "--job", "b")
    assert result.returncode == 0, result.stderr
    card = json.loads((tmp_path / "data" / "bonsai" / "runs" / "b" / "run.json").read_text())
    assert card["stages"]["compress"]["metrics"]["psnr_heldout"] is None
    assert card["stages"]["compress"]["metrics"]["ratio"] > 3


def test_3dgs_of_somebody_elses_colmap_folder(killed_then_resumed, tmp_path: Path) -> None:
    root = killed_then_resumed[0].root
    folder = tmp_path / "theirs"
    (folder / "sparse").mkdir(parents=True)
    (folder / "images").symlink_to(root / "02_sfm" / "images")
    (folder / "sparse" / "0").symlink_to(root / "02_sfm" / "sparse")
    result = run_cli(
        "run", folder, "--data", tmp_path / "data", "--steps", "3dgs", "--job", "c",
        "--set", "train.max_steps=60", "--set", "sfm.train_size=320", "--set", "sfm.min_points=200",
        "--set", "compress.max_psnr_loss=20",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    card = json.loads((tmp_path / "data" / "theirs" / "runs" / "c" / "run.json").read_text())
    assert card["stages"]["sfm"]["metrics"]["n_registered"] == 12
    assert card["stages"]["train"]["metrics"]["steps"] == 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_says_interrupted_and_stops_everything(
    number: signal.Signals, tiny_flight: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        command("run", tiny_flight, "--data", tmp_path, "--job", "stopped"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # A shell starts background jobs with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    root = tmp_path / "tiny" / "runs" / "stopped"
    deadline = time.monotonic() + 120
    while not (root / "01_ingest" / "stage.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "the same command goes on from here" in text
    assert json.loads((root / "run.json").read_text())["status"] == "interrupted"
    assert psutil.wait_procs(family, timeout=10)[1] == []


def failing(message: str, *arguments: object) -> Path:
    """Run the command, which must fail with `message` and without a wall of traceback."""
    result = run_cli(*arguments, timeout=300)
    assert result.returncode == 1, result.stdout + result.stderr
    assert message in " ".join(result.stderr.split()), result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) < 40
    return result


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    failing("photograph", "run", tmp_path / "site", "--data", tmp_path / "data", "--job", "e")
    card = json.loads((tmp_path / "data" / "site" / "runs" / "e" / "run.json").read_text())
    assert (card["status"], card["stages"]["ingest"]["status"]) == ("failed", "failed")
    assert "photograph" in card["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "dmo"], "did you mean demo?"),
        (["--set", "train.max_step=3"], "did you mean train.max_steps?"),
        (["--set", "train.max_steps=few"], "valid integer"),
        (["--steps", "everything"], "no steps 'everything'"),
        (["--job", "Not A Name"], "is not a job name"),
        (["--steps", "compression"], "no .ply file"),
        (["--steps", "3dgs"], "no structure from motion"),
    ],
)
def test_bad_requests_fail_before_anything_is_written(
    arguments: list[str], message: str, tiny_flight: Path, tmp_path: Path
) -> None:
    failing(message, "run", tiny_flight, "--data", tmp_path / "data", *arguments)
    assert not (tmp_path / "data").exists()


def test_cuda_where_there_is_none_fails_at_once(tiny_flight: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        return
    failing("CUDA", "run", tiny_flight, "--data", tmp_path / "data", "--set", "train.backend=cuda")
    assert not (tmp_path / "data").exists(), "it must not wait until the cameras are found"


def test_a_folder_that_cannot_be_written(tiny_flight: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    failing("a file lies where a folder is needed", "run", tiny_flight, "--data", tmp_path / "data")
    assert (tmp_path / "data").read_text() == "a file where the folder should be"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A tmpfs of the size that is asked for, or made so large; needs the right to mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]

    def of(size: str) -> Path:
        options = f"size={size},uid={os.geteuid()},gid={os.getegid()}"
        options += ",remount" if place.is_mount() else ""
        subprocess.run([*sudo, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
        return place

    yield of
    if place.is_mount():
        subprocess.run([*sudo, "umount", str(place)], check=True)


def test_a_full_disk(tiny_flight: Path, disk: Callable[[str], Path]) -> None:
    """Too small for the photographs."""
    place = disk("600k")
    (place / "before.txt").write_text("was here")
    failing("free some space", "run", tiny_flight, "--data", place / "data", "--job", "f")
    assert (place / "before.txt").read_text() == "was here"
    card = json.loads((place / "data" / "tiny" / "runs" / "f" / "run.json").read_text())
    assert card["job"] == "f", "the card is whole"


def test_a_disk_that_is_full_in_the_middle_and_then_has_room(
    tmp_path: Path, disk: Callable[[str], Path]
) -> None:
    """Too small for the last stage: what was finished is not run again, and all that was written is whole."""
    write_ply(tmp_path / "mound.ply", make_gaussians(300, np.random.default_rng(1)))
    place = disk("2m")
    arguments = (
        "run", tmp_path / "mound.ply", "--data", place, "--steps", "compression", "--job", "f",
        "--set", "compress.max_psnr_loss=90", "--set", "compress.min_ratio=0",
        "--set", "inspect.max_views=1", "--set", "inspect.picture_size=64",
    )  # fmt: skip
    failing("free some space", *arguments)
    root = place / "mound" / "runs" / "f"
    card = json.loads((root / "run.json").read_text())
    assert [card["stages"][s]["status"] for s in ("compress", "inspect")] == ["succeeded", "failed"]
    assert (card["status"], "No space left" in card["error"]) == ("failed", True)
    for notebook in (root / "notebooks").iterdir():
        nbformat.read(notebook, as_version=4)
    disk("50m")
    again = run_cli(*arguments)
    assert again.returncode == 0, again.stderr
    assert "already done" in again.stdout
    assert json.loads((root / "run.json").read_text())["status"] == "succeeded"


def test_two_at_once_on_one_job(tiny_flight: Path, tmp_path: Path) -> None:
    import filelock

    root = tmp_path / "tiny" / "runs" / "twice"
    root.mkdir(parents=True)
    with filelock.FileLock(root / ".lock"):
        failing("being run by another process", "run", tiny_flight, "--data", tmp_path, "--job", "twice")


def test_the_environment_is_not_needed(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LD_LIBRARY_PATH")}
    result = subprocess.run(command("--version"), capture_output=True, text=True, env=environment)
    assert result.returncode == 0
