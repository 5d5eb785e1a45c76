"""The production contract: environment in, files and reports out, one bad PLY among good ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from splats import random_splat, scene_splat

from spaceport_lab.compress_job import (
    Job,
    find_plys,
    job_from_environment,
    psnr_renders,
    run_job,
)
from spaceport_lab.errors import InputError, ParamsError
from spaceport_lab.gaussians import read_ply, write_ply
from spaceport_lab.sog import read_sog
from spaceport_lab.sog.read import read_antialias

REPORT_TEXT = "compression_report.txt"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Two splats, one of them below, and a broken file between them."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_ply(folder / "a.ply", scene_splat(900, 1))
    write_ply(folder / "z.ply", random_splat(50, 0))
    (folder / "m.ply").write_bytes((folder / "a.ply").read_bytes()[:-100])
    (folder / "below").mkdir()
    (folder / "below" / "copy.PLY").write_bytes((folder / "a.ply").read_bytes())
    (folder / ".hidden.ply").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("no splat")
    return Job(folder, tmp_path / "out", "algo-1", failure=tmp_path / "reason" / "failure")


def report(job: Job) -> dict[str, dict[str, Any]]:
    entries = json.loads((job.output / "compression_report.json").read_text())["files"]
    return {entry["input"]: entry for entry in entries}


def metadata(job: Job) -> dict[str, Any]:
    return json.loads((job.output / "metadata.json").read_text())


def test_the_good_ones_are_done_and_the_bad_one_is_reported(job: Job) -> None:
    assert run_job(job) == 1
    entries = report(job)
    assert {name: e["status"] for name, e in entries.items()} == {
        "a.ply": "compressed", "below/copy.PLY": "unchanged", "m.ply": "failed", "z.ply": "compressed",
    }  # fmt: skip
    assert read_sog(job.output / "a.sog").n == 900
    assert read_sog(job.output / "z.sog").n == 50
    assert (job.output / "below" / "copy.sog").read_bytes() == (job.output / "a.sog").read_bytes()
    assert entries["below/copy.PLY"]["same_as"] == "a.sog"
    assert not (job.output / "m.sog").exists()
    assert "truncated" in entries["m.ply"]["error"]
    a = entries["a.ply"]
    assert a["bytes"] == (job.output / "a.sog").stat().st_size
    assert a["ratio"] == pytest.approx((job.input / "a.ply").stat().st_size / a["bytes"])
    assert a["errors"]["rotation"]["mean"] < 0.4
    text = (job.output / "compression_report.txt").read_text()
    assert "4 of 4 files: 2 compressed, 1 unchanged, 1 failed" in text
    assert "m.ply: failed: m.ply is truncated" in text
    about = metadata(job)
    assert (about["status"], about["host"], about["inputs"], about["failed"]) == ("failed", "algo-1", 4, 1)
    assert about["output_bytes"] == 2 * a["bytes"] + entries["z.ply"]["bytes"]
    assert job.failure.read_text().startswith("m.ply: m.ply is truncated")


def test_far_splats_and_antialiasing(job: Job) -> None:
    splat = scene_splat(900, 1)
    splat.means[7] = 1e6
    write_ply(job.input / "far.ply", splat, antialias=True)
    assert run_job(job) == 1
    far, a = (report(job)[name] for name in ("far.ply", "a.ply"))
    assert (far["far"], far["antialias"], a["far"], a["antialias"]) == (1, True, 0, False)
    assert read_antialias(job.output / "far.sog")
    assert not read_antialias(job.output / "a.sog")
    assert far["errors"]["position"]["max"] < 0.1
    assert "1 far splats pulled in" in (job.output / "compression_report.txt").read_text()


def test_renders_are_compared_and_gates_fail_with_the_numbers(job: Job) -> None:
    (job.input / "m.ply").unlink()
    assert run_job(job) == 0
    a = report(job)["a.ply"]
    splat, decoded = read_ply(job.input / "a.ply"), read_sog(job.output / "a.sog")
    assert a["psnr_renders"] == pytest.approx(psnr_renders(splat, decoded, 4), abs=1e-6)
    assert 30 < a["psnr_renders"] < 80
    assert psnr_renders(splat, splat, 3) == 100
    worse = replace(decoded, sh0=decoded.sh0 + np.float32(0.3))
    assert psnr_renders(splat, worse, 4) < a["psnr_renders"] - 5
    assert f"renders alike to {a['psnr_renders']:.1f} dB" in (job.output / REPORT_TEXT).read_text()
    strict = replace(job, min_ratio=99, min_psnr=99)
    assert run_job(strict) == 3
    failed = report(job)["a.ply"]
    assert failed["status"] == "failed"
    assert f"{a['ratio']:.2f} times smaller, wanted 99 (min_ratio)" in failed["error"]
    assert f"{a['psnr_renders']:.2f} dB, wanted 99 (min_psnr)" in failed["error"]
    assert (job.output / "a.sog").exists()
    assert run_job(replace(job, views=0)) == 0
    assert report(job)["a.ply"]["psnr_renders"] is None


def test_what_was_done_is_not_done_again(job: Job) -> None:
    (job.input / "m.ply").unlink()
    assert run_job(job) == 0
    assert metadata(job)["status"] == "succeeded"
    stamp = (job.output / "a.sog").stat().st_mtime_ns
    assert run_job(job) == 0
    assert {e["status"] for e in report(job).values()} == {"unchanged"}
    assert (job.output / "a.sog").stat().st_mtime_ns == stamp
    assert metadata(job)["unchanged"] == 3


def test_other_settings_or_a_damaged_output_are_done_again(job: Job) -> None:
    (job.input / "m.ply").unlink()
    run_job(job)
    (job.output / "z.sog").write_bytes(b"damaged")
    run_job(job)
    states = {name: e["status"] for name, e in report(job).items()}
    assert states == {"a.ply": "unchanged", "below/copy.PLY": "unchanged", "z.ply": "compressed"}
    run_job(Job(job.input, job.output, setting="no-sh"))
    assert report(job)["a.ply"]["status"] == "compressed"
    assert read_sog(job.output / "a.sog").sh_degree == 0


def test_an_interrupted_job_leaves_what_it_did(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    from spaceport_lab import compress_job

    real = compress_job._compress

    def stop(job_: Job, source: Path, target: Path) -> dict[str, Any]:
        if source.name == "z.ply":
            raise KeyboardInterrupt
        return real(job_, source, target)

    monkeypatch.setattr(compress_job, "_compress", stop)
    with pytest.raises(KeyboardInterrupt):
        run_job(job)
    about = metadata(job)
    assert (about["status"], about["done"], about["inputs"]) == ("running", 3, 4)
    monkeypatch.setattr(compress_job, "_compress", real)
    assert run_job(job) == 1
    assert report(job)["a.ply"]["status"] == "unchanged"
    assert report(job)["z.ply"]["status"] == "compressed"

    def stop_at_once(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(compress_job, "_one", stop_at_once)
    with pytest.raises(KeyboardInterrupt):
        run_job(job)
    monkeypatch.undo()
    run_job(job)
    assert {e["status"] for e in report(job).values()} == {"unchanged", "failed"}


def test_what_nobody_foresaw_does_not_stop_the_others(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    from spaceport_lab import compress_job

    real = compress_job.read_ply_valid

    def broken(path: Path) -> Any:
        if path.name == "a.ply":
            raise MemoryError("no room")
        return real(path)

    monkeypatch.setattr(compress_job, "read_ply_valid", broken)
    assert run_job(job) == 2
    assert report(job)["a.ply"]["error"] == "MemoryError: no room"
    assert report(job)["below/copy.PLY"]["status"] == "compressed"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": [{"status": "compressed"}]}', '{"files": 7}'])
def test_a_report_that_cannot_be_used_is_no_obstacle(job: Job, text: str) -> None:
    job.output.mkdir()
    (job.output / "compression_report.json").write_text(text)
    assert run_job(job) == 1


def test_names_that_would_meet(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_ply(tmp_path / "in" / "a.PLY", random_splat(3, 0))
    write_ply(tmp_path / "in" / "a.ply", random_splat(4, 0))
    job = Job(tmp_path / "in", tmp_path / "out")
    assert run_job(job) == 0
    assert sorted(e["output"] for e in report(job).values()) == ["a.ply.sog", "a.sog"]
    assert {read_sog(job.output / e["output"]).n for e in report(job).values()} == {3, 4}


def test_nothing_to_do_and_wrong_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        Job(tmp_path / "nowhere", tmp_path)
    with pytest.raises(ParamsError, match="unknown setting"):
        Job(tmp_path, tmp_path / "out", setting="tiny")
    with pytest.raises(InputError, match="no PLY to compress"):
        run_job(Job(tmp_path, tmp_path / "out"))
    assert find_plys(tmp_path) == []


def test_the_environment_of_sagemaker(tmp_path: Path) -> None:
    environment = {
        "SM_CHANNEL_INPUT": str(tmp_path),
        "SM_OUTPUT_DATA_DIR": str(tmp_path / "out"),
        "SM_OUTPUT_DIR": str(tmp_path / "reason"),
        "SM_CURRENT_HOST": "algo-2",
        "SM_HP_SETTING": "small",
    }
    job = job_from_environment(environment)
    assert job == Job(tmp_path, tmp_path / "out", "algo-2", "small", tmp_path / "reason" / "failure")
    assert job_from_environment(environment, "quality").setting == "quality"
    more = environment | {"SM_HP_VIEWS": "2", "SM_HP_MIN_RATIO": "9.5", "SM_HP_MIN_PSNR": "30"}
    job = job_from_environment(more)
    assert (job.views, job.min_ratio, job.min_psnr) == (2, 9.5, 30)
    for wrong in ({"SM_HP_VIEWS": "two"}, {"SM_HP_VIEWS": "-1"}, {"SM_HP_VIEWS": "0"}):
        with pytest.raises(ParamsError, match=r"VIEWS is no number|impossible views"):
            job_from_environment(more | wrong)


def test_as_a_command(job: Job, tmp_path: Path) -> None:
    environment = os.environ | {
        "SM_CHANNEL_INPUT": str(job.input),
        "SM_OUTPUT_DATA_DIR": str(job.output),
        "SM_CURRENT_HOST": "algo-7",
        "LOG_LEVEL": "INFO",
    }
    command = [sys.executable, "-m", "spaceport_lab.cli", "splat", "job", "--setting", "no-sh"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    first = run()
    assert first.returncode == 1
    assert re.search(r"error +\] 3/4 m\.ply: failed: m\.ply is truncated", first.stdout)
    assert re.search(r"info +\] 4/4 z\.ply: compressed, 50 splats", first.stdout)
    assert "Traceback" not in first.stdout + first.stderr
    assert metadata(job)["host"] == "algo-7"
    (job.input / "m.ply").unlink()
    assert run().returncode == 0
    environment["LOG_LEVEL"] = "loud"
    wrong = run()
    assert wrong.returncode == 1
    assert "LOG_LEVEL is not known" in wrong.stderr
    assert np.isfinite(read_sog(job.output / "a.sog").means).all()
