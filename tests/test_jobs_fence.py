"""Two attempts at one job, in two processes and a real run folder: the older one writes nothing more."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import until

from spaceport_lab import fence
from spaceport_lab.errors import WorkspaceError
from spaceport_lab.pipeline import holding

ATTEMPT = """
import importlib.util, subprocess, sys, time
from pathlib import Path
from spaceport_lab import fence, files
from spaceport_lab.errors import FencedError

# By its file: the rest of the pipeline takes seconds to load, and is not needed here.
found = importlib.util.spec_from_file_location("holding", sys.argv[4])
holding = importlib.util.module_from_spec(found)
found.loader.exec_module(holding)
root, token = Path(sys.argv[1]), int(sys.argv[2])
holding.KILL_SECONDS, holding.PERSON_SECONDS = float(sys.argv[3]), 0.0  # nobody here is a person
fence.take(root, token)
try:
    with holding.only_writer(root):
        child = subprocess.Popen(["sleep", "300"], start_new_session=True)
        print("in", child.pid, flush=True)
        while not (root / f"end-{token}").exists():
            files.write_json(root / "progress.json", {"token": token})
            time.sleep(0.02)
        child.kill()
except FencedError as error:
    child.kill()
    print("refused", flush=True)
    sys.exit(3)
"""


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Attempt:
    """A process that writes into a run folder as attempt number `token`."""

    def __init__(self, root: Path, token: int, kill_after: float = 1e9) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ATTEMPT, str(root), str(token), str(kill_after), holding.__file__],
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture
def attempt(tmp_path: Path) -> Iterator[Callable[..., Attempt]]:
    made: list[Attempt] = []

    def make(*arguments: Any) -> Attempt:
        made.append(Attempt(tmp_path / "run", *arguments))
        return made[-1]

    yield make
    for one in made:
        for child in psutil.Process(one.process.pid).children() if one.process.poll() is None else []:
            child.kill()
        one.process.kill()
        one.process.communicate()


def writer(root: Path) -> int:
    return json.loads((root / "progress.json").read_text())["token"]


def test_the_later_attempt_takes_the_folder_from_the_one_at_work(
    attempt: Callable[..., Attempt], tmp_path: Path
) -> None:
    root = tmp_path / "run"
    first = attempt(1)
    assert first.line().startswith("in")
    until(lambda: (root / "progress.json").exists())
    second = attempt(2)
    assert first.line() == "refused"
    assert first.process.wait(60) == 3
    assert second.line().startswith("in")
    until(lambda: writer(root) == 2)
    held = json.loads((root / holding.HOLDER).read_text())
    assert (held["pid"], held["token"], held["host"]) == (second.process.pid, 2, socket.gethostname())
    (root / "end-2").touch()
    assert second.process.wait(60) == 0
    assert not (root / holding.HOLDER).exists()
    assert sorted(p.name for p in root.iterdir()) == [
        ".fence", ".fence.lock", ".lock", "end-2", "progress.json",
    ]  # fmt: skip


def test_an_older_attempt_that_does_not_react_is_killed(
    attempt: Callable[..., Attempt], tmp_path: Path
) -> None:
    first = attempt(1)
    child = int(first.line().split()[1])
    first.process.send_signal(signal.SIGSTOP)
    second = attempt(2, 0.0)
    assert second.line().startswith("in")
    assert first.process.wait(60) == -signal.SIGKILL
    until(lambda: gone(child))
    (tmp_path / "run" / "end-2").touch()
    assert second.process.wait(60) == 0


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "300"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def described(process: subprocess.Popen[bytes], **changes: Any) -> dict[str, Any]:
    started = psutil.Process(process.pid).create_time()
    known = {"pid": process.pid, "group": process.pid, "host": socket.gethostname(), "started": started}
    return known | {"token": 1} | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"started": 1000.0},  # the number was given to another process meanwhile
        {"host": "elsewhere"},
        {"token": 2},
        {"token": 3},
        {"token": None},  # a person's own run
        {"token": "1"},
        {"started": "now"},
        {"pid": -1},
        {"pid": "all"},
        {"pid": None},
    ],
)
def test_nothing_else_is_ever_killed(changes: dict[str, Any], sleeper: subprocess.Popen[bytes]) -> None:
    holding._kill_older(described(sleeper, **changes), 2)
    holding._kill_older({}, 2)
    time.sleep(0.05)
    assert sleeper.poll() is None


def test_an_older_attempt_in_our_own_group_dies_alone() -> None:
    process = subprocess.Popen(["sleep", "300"])
    holding._kill_older(described(process, group=os.getpgid(0)), 2)
    assert process.wait(60) == -signal.SIGKILL, "and this test lives"


def test_a_person_does_not_wait_long(
    attempt: Callable[..., Attempt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(fence.VARIABLE, raising=False)
    monkeypatch.setattr(holding, "PERSON_SECONDS", 0.1)
    monkeypatch.setattr(holding, "KILL_SECONDS", 0.0)
    first = attempt(1)
    assert first.line().startswith("in")
    with (
        pytest.raises(WorkspaceError, match="being run by another process"),
        holding.only_writer(tmp_path / "run"),
    ):
        pass
    assert first.process.poll() is None


def test_a_token_of_another_folder_is_none_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fence.VARIABLE, f"7:{tmp_path / 'other'}")
    assert holding._token(tmp_path / "run") is None
    monkeypatch.setenv(fence.VARIABLE, f"7:{tmp_path / 'run'}")
    assert holding._token(tmp_path / "run") == 7
