"""The commands of production, as a person types them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from scenes import make_gaussians

from spaceport_lab.gaussians import write_ply
from spaceport_lab.jobs import Store, store_path


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "spaceport_lab.cli", *map(str, words)]


def run(*words: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(scope="module")
def ply(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("theirs") / "mound.ply"
    write_ply(path, make_gaussians(300, np.random.default_rng(0)))
    return path


def test_submit_work_and_see(ply: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    asked = ("submit", ply, "--steps", "compression", "--name", "mound-1", "--key", "k", "--data", data)
    first, again = run(*asked), run(*asked)
    assert (first.returncode, first.stdout) == (0, "job mound-1 waits\n"), first.stderr
    assert again.stdout == "job mound-1 is there already: queued\n"
    assert run("submit", ply, "--steps", "compression", "--name", "mound-2", "--data", data).returncode == 0
    assert run("cancel", "mound-2", "--data", data).stdout == "job mound-2: cancelled\n"

    worked = run("worker", "--once", "--data", data)
    assert worked.returncode == 0, worked.stderr
    shown = json.loads(run("jobs", "--json", "--data", data).stdout)
    assert {job["name"]: job["state"] for job in shown["jobs"]} == {
        "mound-1": "succeeded", "mound-2": "cancelled",
    }  # fmt: skip
    assert (data / "mound" / "runs" / "mound-1" / "report.html").exists()
    one = run("jobs", "mound-1", "--data", data)
    assert "compress: succeeded" in one.stdout
    unknown = run("jobs", "nobody", "--data", data)
    assert (unknown.returncode, "nobody" in unknown.stderr) == (1, True)


def test_what_cannot_be_submitted(ply: Path, tmp_path: Path) -> None:
    for words, said in (
        (["/nowhere"], "nothing at this path"),
        ([ply, "--set", "train.max_step=1"], "max_steps"),
        ([ply, "--to", "moon"], "queue or sagemaker"),
        ([ply, "--to", "sagemaker"], "docs/sagemaker.md"),
    ):
        done = run("submit", *words, "--data", tmp_path)
        assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert not store_path(tmp_path).exists() or not Store(store_path(tmp_path)).list()


def test_serve_answers_and_ends(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    process = subprocess.Popen(
        command("serve", "--port", 0, "--data", tmp_path / "data"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(iter(process.stdout.readline, "")), daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + 120
        while not (line := next((x for x in said if "http://127.0.0.1:" in x), "")):
            assert time.monotonic() < deadline, said
            time.sleep(0.1)
        address = line[line.index("http://") :].split()[0].split("#")[0].rstrip("/")
        with urllib.request.urlopen(f"{address}/healthz", timeout=30) as answer:
            assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{address}/jobs", timeout=30)
    finally:
        process.terminate()
    assert process.wait(timeout=60) in (0, -15)


def test_estimate_knows_nothing_before_the_first_run(tiny_flight: Path, tmp_path: Path) -> None:
    done = run("estimate", tiny_flight, "--data", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "12 photographs of 0.1 megapixels" in done.stdout
    assert "unknown" in done.stdout
    assert run("estimate", tmp_path, "--data", tmp_path).returncode == 1
