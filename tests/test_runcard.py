"""The run card survives concurrent writers and a full disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spaceport_lab import runcard
from spaceport_lab.errors import WorkspaceError


def test_a_new_card_says_what_and_where(tmp_path: Path) -> None:
    root = tmp_path / "site" / "runs" / "job"
    runcard.update_stage(root, "train", status="running")
    card = runcard.read(root)
    assert (card["job"], card["scene"], card["status"]) == ("job", "site", "running")
    assert card["versions"]["torch"]
    assert card["host"]["cores"] >= 1
    assert card["stages"] == {"train": {"status": "running"}}


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    root = tmp_path / "site" / "runs" / "job"
    code = (
        "import sys; from pathlib import Path; from spaceport_lab import runcard\n"
        "for i in range(20): runcard.update_stage(Path(sys.argv[1]), f'{sys.argv[2]}{i}', status='x')"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(root), name]) for name in "ab"]
    assert [w.wait(60) for w in writers] == [0, 0]
    assert len(runcard.read(root)["stages"]) == 40


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WorkspaceError, match="a file lies where a folder is needed"):
        runcard.update_stage(tmp_path / "file" / "runs" / "job", "train", status="x")


def test_no_card_yet_and_a_torn_one(tmp_path: Path) -> None:
    assert runcard.read(tmp_path) is None
    (tmp_path / "run.json").write_text('{"job"')
    assert runcard.read(tmp_path) is None


def test_git_state_of_a_checkout_or_nothing() -> None:
    state = runcard.git_state()
    assert state is None or set(state) == {"commit", "dirty"}


def test_seconds_have_a_price() -> None:
    card = {"stages": {"train": {"seconds": 1800.0}, "sfm": {"seconds": 36.0}, "ingest": {}}}
    runcard.price(card, 1.2)
    assert [card["stages"][s]["cost"] for s in ("train", "sfm", "ingest")] == [0.6, 0.012, 0.0]
    assert (card["cost"], card["usd_per_hour"]) == (0.612, 1.2)
