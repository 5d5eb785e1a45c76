"""The container's entry, a program of ours in the place of the pipeline: no failure ends as a success."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from aws_standins import make_run, use

from spaceport_lab.aws import entry
from spaceport_lab.aws.client import client
from spaceport_lab.aws.environment import read_container
from spaceport_lab.errors import InputError, ParamsError

# What stands for the pipeline: makes a run folder as told by a file beside it, and ends as told.
PROGRAM = """
import json, os, pathlib, signal, sys, time
told = json.loads(pathlib.Path(sys.argv[1]).read_text())
words = sys.argv[2:]
data = pathlib.Path(words[words.index("--data") + 1])
root = data / "site" / "runs" / words[words.index("--job") + 1]
root.mkdir(parents=True, exist_ok=True)
home = os.environ.get("HOME")
(root / "words.json").write_text(json.dumps({"words": words, "uid": os.geteuid(), "home": home}))
card = {"job": root.name, "scene": "site", "status": told["status"], "error": told.get("error")}
def stop(*_):
    (root / "run.json").write_text(json.dumps({**card, "status": "interrupted"}))
    print("stopped in order", flush=True)
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
(root / "run.json").write_text(json.dumps(card))
print(told.get("says", "working"), flush=True)
if told.get("wait"):
    time.sleep(60)
if told.get("kill"):
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(told.get("code", 0))
"""


class Box:
    """A container's /opt/ml and what its pipeline is told to do."""

    def __init__(self, folder: Path) -> None:
        self.opt_ml = folder / "ml"
        channel = self.opt_ml / "input" / "data" / "input"
        channel.mkdir(parents=True)
        (channel / "a.jpg").write_bytes(b"a")
        self.config = self.opt_ml / "input" / "config"
        self.config.mkdir()
        self.program, self.told = folder / "program.py", folder / "told.json"
        self.program.write_text(PROGRAM)
        self.set(job="site-1")

    def set(self, **hyperparameters: Any) -> None:
        (self.config / "hyperparameters.json").write_text(json.dumps(hyperparameters))

    def run(self, environment: dict[str, str] | None = None, **told: Any) -> int:
        self.told.write_text(json.dumps({"status": "succeeded", **told}))
        command = (sys.executable, str(self.program), str(self.told))
        return entry.main(environment or {}, self.opt_ml, command)

    @property
    def root(self) -> Path:
        return self.opt_ml / "checkpoints" / "site" / "runs" / "site-1"

    @property
    def failure(self) -> str:
        place = self.opt_ml / "output" / "failure"
        return place.read_text() if place.exists() else ""

    def words(self) -> list[str]:
        return json.loads((self.root / "words.json").read_text())["words"]


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    monkeypatch.delenv(entry.USER, raising=False)
    return Box(tmp_path)


def test_a_run_that_succeeds(box: Box) -> None:
    box.set(
        job='"site-1"', steps="3dgs", presets="draft, fast", **{"train.max_steps": "500", "sfm.gps": "true"}
    )
    make_run(box.root, ("ingest", "train"))
    assert box.run() == 0
    assert box.failure == ""
    assert box.words() == [
        str(box.opt_ml / "input" / "data" / "input"), "--steps", "3dgs", "--job", "site-1",
        "--data", str(box.opt_ml / "checkpoints"), "--preset", "draft", "--preset", "fast",
        "--set", "sfm.gps=true", "--set", "train.max_steps=500",
    ]  # fmt: skip
    kept = box.opt_ml / "output" / "data" / "site-1"
    assert (kept / "run.json").is_file()
    assert (kept / "03_train" / "splat.ply").is_file()
    assert not (kept / "03_train" / "checkpoint.pt").exists()
    assert not (kept / ".lock").exists()


@pytest.mark.parametrize(
    ("told", "code", "reason"),
    [
        ({"status": "failed", "error": "site-1-3dgs failed: no cameras", "code": 1}, 1, "no cameras"),
        ({"status": "failed", "error": "a notebook failed", "code": 0}, 1, "a notebook failed"),
        ({"status": "running", "code": 0}, 1, "its card says 'running'"),
        ({"status": "running", "says": "ParamsError: no such preset", "code": 1}, 1, "no such preset"),
        ({"status": "running", "kill": True}, 137, "killed by signal 9"),
        ({"status": "failed", "error": "é" * 5000 + "the end", "code": 1}, 1, "the end"),
        ({"status": "failed", "error": "\ud83d", "code": 2}, 2, "?"),
    ],
)
def test_a_failure_ends_as_one_and_says_why(box: Box, told: dict[str, Any], code: int, reason: str) -> None:
    assert box.run(**told) == code
    assert reason in box.failure
    assert 0 < len(box.failure.encode()) <= 1024
    assert (box.opt_ml / "output" / "data" / "site-1" / "run.json").is_file(), (
        "what there is helps to see why"
    )


def test_an_old_success_does_not_cover_a_new_failure(box: Box) -> None:
    assert box.run() == 0
    assert box.run(status="succeeded", code=1, says="cannot start") == 1
    assert "cannot start" in box.failure
    assert box.run() == 0
    assert box.failure == ""


def test_a_container_that_can_not_even_begin(box: Box) -> None:
    box.set(job="site-1", colour="red")
    assert box.run() == 1
    assert "colour" in box.failure
    (box.config / "hyperparameters.json").write_text("{")
    assert box.run() == 1
    box.set(job="site-1")
    assert box.run({"LOG_LEVEL": "LOUD"}) == 1
    assert "LOUD" in box.failure
    assert entry.main({}, box.opt_ml, ("true",), lambda: 1 / 0) == 1
    assert "ZeroDivisionError" in box.failure
    for path in (box.opt_ml / "input" / "data" / "input").iterdir():
        path.unlink()
    assert box.run() == 1
    assert "no input" in box.failure
    assert entry.main({}, box.opt_ml, ("/no/such/program",)) == 1


def test_torn_checkpoints_are_dropped_before_the_run(box: Box) -> None:
    make_run(box.root, ("ingest", "sfm"))
    (box.root / "02_sfm" / "registration.json").write_text("torn")
    assert box.run() == 0
    assert (box.root / "01_ingest" / "stage.json").exists()
    assert not (box.root / "02_sfm" / "stage.json").exists()


def test_only_the_first_machine_works(box: Box) -> None:
    hosts = {"SM_HOSTS": '["algo-1", "algo-2", "algo-10"]'}
    assert box.run({**hosts, "SM_CURRENT_HOST": "algo-2"}) == 0
    assert not box.root.exists()
    assert box.run({**hosts, "SM_CURRENT_HOST": "algo-1"}) == 0
    assert box.root.exists()


WRAPPER = """
import sys
from pathlib import Path
from spaceport_lab.aws import entry
entry.GRACE_SECONDS = float(sys.argv[1])
sys.exit(entry.main({}, Path(sys.argv[2]), (sys.executable, *sys.argv[3:])))
"""


@pytest.mark.parametrize(("obeys", "said"), [(True, "stopped in order"), (False, "deaf")])
def test_sigterm_leaves_a_run_that_goes_on(box: Box, obeys: bool, said: str) -> None:
    if not obeys:
        box.program.write_text(PROGRAM.replace("signal.signal(signal.SIGTERM, stop)", "signal.signal(15, 1)"))
    box.told.write_text(
        json.dumps({"status": "running", "wait": True, "says": said if not obeys else "working"})
    )
    words = ["60" if obeys else "0.2", str(box.opt_ml), str(box.program), str(box.told)]
    process = subprocess.Popen([sys.executable, "-c", WRAPPER, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() == ("working" if obeys else said)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == entry.INTERRUPTED
    finally:
        process.kill()
        process.stdout.close()
    assert "interrupted by SIGTERM" in box.failure
    assert said in box.failure
    assert json.loads((box.root / "run.json").read_text())["status"] == (
        "interrupted" if obeys else "running"
    )
    assert box.run() == 0, "the same job goes on"


def test_a_child_of_the_child_does_not_hold_the_entry(box: Box) -> None:
    box.program.write_text(
        PROGRAM.replace(
            'if told.get("wait"):',
            "if True:\n    os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '300')\nif False:",
        )
    )
    ended = threading.Event()

    def watch() -> None:
        if not ended.wait(60):
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()
    assert box.run() == 0
    ended.set()


SHELL = """
while [ "$1" != --data ]; do shift; done
mkdir -p "$2/site/runs/site-1"
echo '{"status": "succeeded"}' > "$2/site/runs/site-1/run.json"
echo "$(id -u) $HOME" > "$2/site/runs/site-1/who.txt"
"""


def test_the_pipeline_does_not_run_as_root(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tests do not run as root themselves there is nothing to give up, and the user stays."""
    monkeypatch.setenv(entry.USER, "nobody")
    root, nobody = os.geteuid() == 0, pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        Path(folder).chmod(0o755)
        shutil.copytree(box.opt_ml, Path(folder) / "ml")
        box.opt_ml = Path(folder) / "ml"
        make_run(box.root, ("ingest",))
        command = ("/bin/sh", "-c", SHELL, "sh")
        assert entry.main({}, box.opt_ml, command) == 0, box.failure
        kept = box.opt_ml / "output" / "data" / "site-1"
        who, home = (nobody.pw_uid, nobody.pw_dir) if root else (os.geteuid(), os.environ["HOME"])
        assert (kept / "who.txt").read_text() == f"{who} {home}\n"
        assert (box.root / "01_ingest" / "photos.json").stat().st_uid == (who if root else os.geteuid())
        monkeypatch.setenv(entry.USER, "no-such-user-here")
        assert entry.main({}, box.opt_ml, command) == int(root)


def test_input_and_output_in_s3(box: Box, moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, moto)
    client("s3").create_bucket(
        Bucket="lab-bucket", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    for key in ("raw/site/images/a.jpg", "raw/site/images/b.jpg", "raw/one/splat.ply"):
        client("s3").put_object(Bucket="lab-bucket", Key=key, Body=key.encode())
    for path in (box.opt_ml / "input" / "data" / "input").iterdir():
        path.unlink()
    there = {"S3_INPUT_URI": "s3://lab-bucket/raw/site/", "S3_OUTPUT_URI": "s3://lab-bucket/runs/"}
    assert box.run(there) == 0, box.failure
    words = box.words()
    assert words[0] == str(box.opt_ml / "fetched" / "site"), "the scene's name is the prefix's"
    assert (Path(words[0]) / "images" / "a.jpg").read_bytes() == b"raw/site/images/a.jpg"
    assert words[words.index("--output") + 1] == "s3://lab-bucket/runs"
    assert box.run({"S3_INPUT_URI": "s3://lab-bucket/raw/one"}) == 0
    assert box.words()[0].endswith("fetched/one/splat.ply")
    assert "--output" not in box.words()
    assert box.run({"S3_INPUT_URI": "s3://lab-bucket/raw/none/"}) == 1
    assert "nothing at this address" in box.failure


def test_what_the_environment_says_and_what_the_files_say(box: Box) -> None:
    (box.config / "resourceconfig.json").write_text('{"current_host": "algo-1", "hosts": ["algo-1"]}')
    box.set(steps="full", presets="draft", **{"train.cap-max": 1000})
    read = read_container({"TRAINING_JOB_NAME": "Site-1-Full"}, box.opt_ml)
    assert (read.job, read.host, read.first, read.presets) == ("site-1-full", "algo-1", True, ("draft",))
    assert read.overrides == ("train.cap_max=1000",)
    assert read.results == box.opt_ml / "output" / "data"
    environment = {
        "SM_CHANNEL_INPUT": str(box.config), "SM_OUTPUT_DATA_DIR": "/out", "SM_CURRENT_HOST": "algo-7",
        "SM_HP_STEPS": "compression", "SM_HP_JOB": "other", "LOG_LEVEL": "debug", "SM_OUTPUT_DIR": "/o",
        "SM_HP_TRAIN.CAP_MAX": "7",
    }  # fmt: skip
    read = read_container(environment, box.opt_ml)
    assert (read.source, str(read.results), read.host) == (str(box.config), "/out", "algo-7")
    assert (read.steps, read.job, read.log_level, str(read.failure)) == (
        "compression",
        "other",
        "DEBUG",
        "/o/failure",
    )
    assert read.overrides == ("train.cap_max=7",)
    with pytest.raises(ParamsError, match="steps"):
        read_container({"SM_HP_STEPS": "everything"}, box.opt_ml)
    with pytest.raises(InputError):
        read_container({"S3_OUTPUT_URI": "lab-bucket/runs"}, box.opt_ml)
