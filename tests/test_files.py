"""Atomic writes leave the old file or the new one, and say what is wrong with the disk."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaceport_lab import files
from spaceport_lab.errors import WorkspaceError


def test_atomic_path_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.txt"
    files.write_text(target, "one")
    files.write_text(target, "two")
    assert target.read_text() == "two"
    assert [p.name for p in target.parent.iterdir()] == ["a.txt"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    files.write_text(target, "old")

    def break_half_way() -> None:
        with files.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        break_half_way()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_a_clear_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    files.write_text(target, "old")
    with pytest.raises(WorkspaceError, match="free some space"), files.atomic_path(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert target.read_text() == "old"


def test_other_os_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_path(tmp_path / "a"):
        raise FileNotFoundError("gone")


def test_a_really_full_disk(tmp_path: Path) -> None:
    """/dev/full stands for a full disk on Linux; elsewhere a folder without permission does."""
    full = Path("/dev/full")
    if not full.exists():
        full = tmp_path / "full"
        full.mkdir()
        full.chmod(0o500)
        full = full / "file"
    with pytest.raises(WorkspaceError, match="cannot write"), files.clear_os_errors(tmp_path):
        full.write_bytes(b"x")


def test_json_takes_numpy_and_refuses_no_number(tmp_path: Path) -> None:
    files.write_json(
        tmp_path / "a.json",
        {"a": np.float32(1.5), "b": np.arange(3), "c": float("nan"), "d": tmp_path, "e": (1, 2)},
    )
    read = json.loads((tmp_path / "a.json").read_text())
    assert read == {"a": 1.5, "b": [0, 1, 2], "c": None, "d": str(tmp_path), "e": [1, 2]}


@given(st.dictionaries(st.text(min_size=1), st.integers()))
def test_hash_json_does_not_depend_on_order(content: dict[str, int]) -> None:
    turned = dict(reversed(content.items()))
    assert files.hash_json(content) == files.hash_json(turned)


def test_hash_path_sees_names_and_contents_but_not_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = files.hash_path(tmp_path)
    (tmp_path / ".hidden").write_text("x")
    assert files.hash_path(tmp_path) == first
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = files.hash_path(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, renamed, files.hash_path(tmp_path)}) == 3


def test_hash_file_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"splat" * 1000)
    reference = subprocess.run(["sha256sum", tmp_path / "a"], capture_output=True, text=True, check=True)
    assert reference.stdout.startswith(files.hash_file(tmp_path / "a"))


def test_link_or_copy_links_and_follows_links(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")
    (tmp_path / "link").symlink_to("a")
    files.link_or_copy(tmp_path / "link", tmp_path / "sub" / "b")
    assert (tmp_path / "sub" / "b").samefile(tmp_path / "a")
    assert not (tmp_path / "sub" / "b").is_symlink()


def test_link_or_copy_copies_where_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("content")

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "across file systems")

    monkeypatch.setattr(os, "link", refuse)
    files.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "content"
    assert not (tmp_path / "b").samefile(tmp_path / "a")
