"""What is asked for, names, and failures made of whatever was raised."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaceport_lab import errors, files
from spaceport_lab.errors import (
    FencedError,
    InputError,
    NotAllowedError,
    ParamsError,
    PhotosError,
    QualityGateError,
    SpaceportError,
    StageError,
    StoreBusyError,
    StoreDeniedError,
    StoreTimeoutError,
    WorkspaceError,
)
from spaceport_lab.jobs import Ask, Failure, local_ask, make_ask
from spaceport_lab.jobs.failures import from_exception, from_exit, retry_delay
from spaceport_lab.jobs.text import LIMIT, shorten, tidy
from spaceport_lab.jobs.watching import Watcher, stage_entries


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"source": ""}, "source"),
        ({"source": "a\0b"}, "source"),
        ({"source": "a\udcff"}, "source"),
        ({"source": "x" * 5000}, "source"),
        ({"steps": "everything"}, "steps"),
        ({"name": "Not A Name"}, "name"),
        ({"name": "x" * 42}, "name"),
        ({"priority": 11}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"output": "https://elsewhere"}, "output"),
        ({"email": "a@b.c\nBcc: all@b.c"}, "email"),
        ({"webhook": "https://h/\r\nX: y"}, "webhook"),
        ({"presets": ["x"] * 51}, "presets"),
        ({"speed": "fast"}, "speed"),
    ],
)
def test_what_cannot_be_asked_for(values: dict, field: str) -> None:
    with pytest.raises(ParamsError, match=field) as error:
        make_ask(**({"source": "site"} | values))
    assert len(str(error.value)) < 600


def test_a_person_in_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site").mkdir()
    (tmp_path / "mine.yaml").write_text("train:\n  max_steps: 77\n")
    ask = local_ask("site", ["demo", "mine.yaml"], ["train.max_steps=9"], steps="full", priority=3)
    assert ask == Ask(
        source=str(tmp_path / "site"),
        presets=("demo", str(tmp_path / "mine.yaml")),
        overrides=("train.max_steps=9",),
        priority=3,
    )
    assert local_ask("s3://bucket/site").source == "s3://bucket/site"
    with pytest.raises(InputError, match="nothing at this path"):
        local_ask("elsewhere")
    with pytest.raises(ParamsError, match="max_steps"):
        local_ask("site", overrides=["train.max_step=3"])


# ---------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("text", "gone", "stays"),
    [
        ("GET https://ann:pa55@host/x", "pa55", "host/x"),
        ("key AKIAIOSFODNN7EXAMPLE here", "IOSFODNN7", "here"),
        ("https://h/x?token=abc123&page=2", "abc123", "page=2"),
        ("x-amz-security-token: FwoGZXIv", "FwoGZXIv", "security-token"),
        ("https://b/x?X-Amz-Signature=deadbeef&y=1", "deadbeef", "y=1"),
        ('{"password": "hunter2", "user": "ann"}', "hunter2", "ann"),
        ("Authorization: Bearer abcdefgh.ijkl", "abcdefgh", "Authorization"),
        ("aws_secret_access_key = wJalrXUtnFEMI", "wJalrXUtnFEMI", "aws_secret"),
    ],
)
def test_secrets_are_taken_out(text: str, gone: str, stays: str) -> None:
    assert gone not in tidy(text)
    assert stays in tidy(text)


@pytest.mark.parametrize(
    "piece", ["x", "token", "//a:", "token ", "bearer a", "AKIA", "secret=", "\udcff", "ä"]
)
def test_a_megabyte_of_anything_is_searched_in_one_pass(piece: str) -> None:
    """With repetitions in repetitions this would take hours; the suite's time limit would say so."""
    assert len(tidy(piece * 1_000_000).encode()) <= LIMIT


@given(st.text(st.characters(), max_size=9000), st.integers(0, 6000))
def test_text_is_short_and_whole(text: str, limit: int) -> None:
    clean = tidy(text, limit)
    assert len(clean.encode()) <= limit
    assert "\0" not in clean


def test_what_is_too_long_loses_its_middle() -> None:
    text = shorten("begin " + "ä" * 10_000 + " end")
    assert text.startswith("begin ä")
    assert text.endswith("ä end")
    assert "bytes left out" in text
    assert LIMIT - 10 < len(text.encode()) <= LIMIT


# ---------------------------------------------------------------------- failures


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def circle() -> Exception:
    first, second = ValueError("one"), KeyError("two")
    first.__cause__, second.__cause__ = second, first
    return first


def nested() -> Exception:
    try:
        try:
            raise OSError("the disk hums")
        except OSError as error:
            raise RuntimeError from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (ValueError(), "ValueError"),
        (ValueError("x" * 1_000_000), "bytes left out"),
        (ValueError(b"\xff\xfe caf\xe9"), "ValueError"),
        (ValueError("name \udcff.jpg"), "name ?.jpg"),
        (Mute(), "Mute"),
        (circle(), "caused by KeyError"),
        (nested(), "caused by OSError: the disk hums"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ValueError("<script>\x1b[31m\0"), "<script>"),
        (SpaceportError(""), "."),
    ],
)
def test_odd_errors_make_whole_failures(error: BaseException, part: str) -> None:
    failure, again = from_exception(error)
    assert part in failure.message
    assert not again
    text = json.dumps(failure.as_dict(), ensure_ascii=False)
    assert len(text.encode()) < 2 * LIMIT
    assert "\\u0000" not in text
    assert Failure.read(json.loads(text)) == failure


def test_an_error_of_ours_keeps_its_number_and_its_advice() -> None:
    error = PhotosError(
        "no photographs",
        got="3 text files at s3://ann:secret@b",
        expected="20 or more",
        hint="look",
        see="a.log",
    )
    failure, _ = from_exception(error)
    assert (failure.code, failure.hint, failure.log) == ("SL-210", "look", "a.log")
    assert failure.message.splitlines()[0] == "no photographs."
    assert "20 or more" in failure.message
    assert "try:" not in failure.message
    assert "secret" not in failure.message


@pytest.mark.parametrize(
    ("error", "code", "again"),
    [
        (InputError("x"), "SL-200", False),
        (ParamsError("x"), "SL-100", False),
        (QualityGateError("x"), "SL-400", False),
        (NotAllowedError("x"), "SL-740", False),
        (WorkspaceError("disk full"), "SL-600", False),
        (FencedError("x"), "SL-610", False),
        (OSError(errno.ENOSPC, "full"), "SL-600", False),
        (StoreDeniedError("x"), "SL-810", False),
        (StoreBusyError("x"), "SL-830", True),
        (StoreTimeoutError("x"), "SL-840", True),
        (ConnectionResetError(), "SL-830", True),
        (TimeoutError(), "SL-840", True),
        (ZeroDivisionError("x"), "SL-000", False),
        (StageError("a-3dgs failed: the notebook's process died: no message"), "SL-500", True),
        (StageError("a-3dgs failed: KeyError: 'x'"), "SL-500", False),
    ],
)
def test_which_errors_are_tried_again(error: BaseException, code: str, again: bool) -> None:
    failure, tried = from_exception(error)
    assert (failure.code, tried) == (code, again)


@pytest.mark.parametrize(
    ("name", "code", "again"),
    [
        ("QualityGateError", "SL-400", False),
        ("StoreBusyError", "SL-830", True),
        ("DeadKernelError", "SL-500", True),
        ("KeyError", "SL-500", False),
        ("SystemExit; import os", "SL-500", False),
    ],
)
def test_a_stages_own_error_is_found_in_its_folder(name: str, code: str, again: bool, tmp_path: Path) -> None:
    files.write_json(
        tmp_path / "run.json", {"stages": {"ingest": {"status": "succeeded"}, "sfm": {"status": "failed"}}}
    )
    inner = SpaceportError("too few cameras", hint="fly lower")
    files.write_json(tmp_path / "02_sfm" / "error.json", {"name": name, "message": str(inner), "cell": ""})
    error = StageError(f"a-sfm failed: {inner}", see="the log")
    failure, tried = from_exception(error, tmp_path)
    assert (failure.code, failure.stage, failure.hint, tried) == (code, "sfm", "fly lower", again)
    assert "too few cameras" in failure.message


@pytest.mark.parametrize("content", ["", "[]", "null", '{"name": 3}', "{", '{"stages": 4}', "\udcff"])
def test_folders_that_say_nothing_useful(content: str, tmp_path: Path) -> None:
    for path in ("run.json", "error.json"):
        (tmp_path / path).write_text(content, errors="surrogateescape")
    (tmp_path / "02_sfm").mkdir()
    (tmp_path / "02_sfm" / "error.json").write_text(content, errors="surrogateescape")
    failure, _ = from_exception(StageError("a-sfm failed: x"), tmp_path)
    assert failure.message.startswith("a-sfm failed")
    assert Watcher(tmp_path, "full").look()[1] == []


def test_every_error_has_a_failure() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, SpaceportError):
            assert from_exception(kind("x"))[0].code == kind.code


@pytest.mark.parametrize("values", [None, 3, "x", [], {}, {"code": None, "stage": ["x"], "more": 1}])
def test_whatever_was_written_down_can_be_read(values: object) -> None:
    assert Failure.read(values).code == "SL-000"


@pytest.mark.parametrize("code", [-9, 137])
def test_a_killed_process(code: int) -> None:
    failure = from_exit(code, "train", "a.log")
    assert "signal 9" in failure.message
    assert "memory" in failure.hint
    assert (failure.stage, failure.log) == ("train", "a.log")


def test_delays_grow_and_end() -> None:
    delays = [retry_delay(attempt) for attempt in range(1, 9)]
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (30, 600)


# ---------------------------------------------------------------------- watching


def card(root: Path, **stages: dict) -> None:
    files.write_json(root / "run.json", {"stages": stages})


def test_a_run_as_it_goes_on(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path, "full")
    assert watcher.look() == ({}, [])
    card(tmp_path, ingest={"status": "pending"}, train={"status": "pending"})
    assert watcher.look() == ({"progress": 0.0}, [])
    card(tmp_path, ingest={"status": "running", "started": "1"})
    columns, events = watcher.look()
    assert (columns["stage"], columns["progress"]) == ("ingest", 0)
    assert events == [("stage", {"stage": "ingest", "status": "running", "seconds": None})]
    done = {"status": "succeeded", "started": "1", "seconds": 3.5, "warnings": ["two are blurred"]}
    card(tmp_path, ingest=done, sfm={"status": "running", "started": "2"})
    state = {"step": 5, "total": 10, "message": "matching", "values": {"pairs": 7, "odd": "x"}}
    files.write_json(tmp_path / "progress.json", state)
    columns, events = watcher.look()
    assert columns == {"progress": pytest.approx(0.175), "stage": "sfm", "message": "matching"}
    assert [kind for kind, _ in events] == ["stage", "warning", "stage"]
    assert events[1][1] == {"stage": "ingest", "message": "two are blurred"}
    told = watcher.progress()
    assert told is not None
    assert told["values"] == {"pairs": 7}
    assert watcher.look()[1] == []
    (tmp_path / "progress.json").unlink()
    assert watcher.look()[0]["progress"] == pytest.approx(0.175), "a bar never goes back"


def test_a_stage_begun_anew_is_told_and_what_was_done_is_not(tmp_path: Path) -> None:
    done = {"status": "succeeded", "started": "1", "seconds": 2, "warnings": ["x"]}
    card(tmp_path, ingest=done, train={"status": "running", "started": "2"})
    watcher = Watcher(tmp_path, "full", stage_entries(tmp_path))  # a second attempt begins
    assert watcher.look()[1] == []
    card(tmp_path, ingest=done, train={"status": "running", "started": "9"})
    assert watcher.look()[1] == [("stage", {"stage": "train", "status": "running", "seconds": None})]
