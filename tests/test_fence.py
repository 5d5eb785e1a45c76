"""A lost attempt writes nothing more; a person's own run is not asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spaceport_lab import fence, files
from spaceport_lab.errors import FencedError


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fence.VARIABLE, "")


def test_without_a_token_nothing_is_asked(tmp_path: Path) -> None:
    (tmp_path / fence.NAME).write_text("7")
    files.write_text(tmp_path / "a.txt", "mine")
    assert (tmp_path / "a.txt").read_text() == "mine"


def test_the_later_attempt_has_the_folder(tmp_path: Path) -> None:
    fence.take(tmp_path, 1)
    files.write_text(tmp_path / "deep" / "a.txt", "first")
    first = os.environ[fence.VARIABLE]
    fence.take(tmp_path, 2)
    files.write_text(tmp_path / "deep" / "a.txt", "second")
    os.environ[fence.VARIABLE] = first
    with pytest.raises(FencedError, match="attempt 2"):
        files.write_text(tmp_path / "deep" / "a.txt", "late")
    with pytest.raises(FencedError):
        fence.take(tmp_path, 1)
    assert (tmp_path / "deep" / "a.txt").read_text() == "second"
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["a.txt"]


def test_what_is_taken_away_in_the_middle_of_a_write_is_not_replaced(tmp_path: Path) -> None:
    fence.take(tmp_path, 1)
    files.write_text(tmp_path / "a.txt", "before")

    def write_slowly() -> None:
        with files.atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("long in the making")
            (tmp_path / fence.NAME).write_text("2")

    with pytest.raises(FencedError):
        write_slowly()
    assert (tmp_path / "a.txt").read_text() == "before"


def test_other_folders_are_not_asked_about(tmp_path: Path) -> None:
    fence.take(tmp_path / "run", 1)
    (tmp_path / "run" / fence.NAME).write_text("2")
    files.write_text(tmp_path / "elsewhere.txt", "fine")
    fence.give_up()
    files.write_text(tmp_path / "run" / "b.txt", "fine too")
    assert (tmp_path / "run" / "b.txt").read_text() == "fine too"
