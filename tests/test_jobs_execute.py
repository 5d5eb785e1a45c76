"""One attempt at a job, in this process: what it takes, what it runs, how it says how it ended."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spaceport_lab import fence, pipeline
from spaceport_lab.errors import PhotosError, WorkspaceError
from spaceport_lab.jobs import Ask, execute
from spaceport_lab.jobs.failures import DISK_FULL


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Of a job on a scene that is there."""
    monkeypatch.setenv(fence.VARIABLE, "")
    (tmp_path / "mound").mkdir()
    (tmp_path / "mound" / "cameras.bin").touch()  # that is all a request looks for
    ask = Ask(source=str(tmp_path / "mound"), steps="3dgs")
    before = signal.getsignal(signal.SIGTERM)
    yield {
        "name": "job", "token": 5, "data": str(tmp_path / "data"), "ask": ask.model_dump(mode="json"),
        "place": str(tmp_path / "place.json"), "result": str(tmp_path / "result.json"), "log": "a.log",
    }  # fmt: skip
    signal.signal(signal.SIGTERM, before)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def ended(spec: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    code = execute.execute(spec)
    return code, json.loads(Path(spec["result"]).read_text())


def test_an_attempt_takes_the_folder_and_runs(
    spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    root = tmp_path / "data" / "quarry-7" / "runs" / "job"

    def run(request: pipeline.Request, presets: Any, overrides: Any, **options: Any) -> None:
        assert os.environ[fence.VARIABLE] == f"5:{root}"
        assert json.loads(Path(spec["place"]).read_text()) == {"run_dir": str(root), "stages": {}}
        calls.append({"presets": presets, "overrides": overrides, **options})

    monkeypatch.setattr(pipeline, "run_pipeline", run)
    monkeypatch.setenv("SPACEPORT_USD_PER_HOUR", "1.5")
    monkeypatch.setenv("SPACEPORT_MLFLOW", "local")
    spec["ask"] |= {"scene": "Quarry 7", "overrides": ["train.max_steps=9"], "output": "s3://bucket/runs"}
    assert ended(spec) == (0, {"ok": True, "again": False, "interrupted": False, "failure": _nothing()})
    display = calls[0].pop("display")
    assert not display.console.is_terminal
    assert calls == [
        {"presets": (), "overrides": ("train.max_steps=9",), "job": "job", "mlflow": "local",
         "usd_per_hour": 1.5, "output": "s3://bucket/runs"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("raised", "code", "expected"),
    [
        (PhotosError("no photographs", hint="look"), 1, {"ok": False, "again": False, "interrupted": False}),
        (TimeoutError(), 1, {"ok": False, "again": True, "interrupted": False}),
        (ZeroDivisionError("https://ann:secret@h"), 1, {"ok": False, "again": False, "interrupted": False}),
        (Mute(), 1, {"ok": False, "again": False, "interrupted": False}),
        (KeyboardInterrupt(), 130, {"ok": False, "again": False, "interrupted": True}),
        (SystemExit(1), 130, {"ok": False, "again": False, "interrupted": True}),
    ],
)
def test_how_an_attempt_ends_is_written_down(
    raised: BaseException,
    code: int,
    expected: dict,
    spec: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr(pipeline, "run_pipeline", run)
    found, result = ended(spec)
    failure = result.pop("failure")
    assert (found, result) == (code, expected)
    assert failure["code"].startswith("SL-")
    told = capsys.readouterr().err
    assert "secret" not in told
    assert ("Traceback" in told) == isinstance(raised, (ZeroDivisionError, TimeoutError, Mute))
    if isinstance(raised, PhotosError):
        assert failure == _nothing() | {
            "code": "SL-210", "message": "no photographs.", "hint": "look", "log": "a.log",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        ({"source": "/nowhere/at/all"}, "SL-200"),
        ({"steps": "full", "overrides": ["train.max_step=3"]}, "SL-100"),
        ({"steps": "compression"}, "SL-200"),
    ],
)
def test_what_cannot_be_run_leaves_no_folder(
    ask: dict[str, Any], code: str, spec: dict[str, Any], tmp_path: Path
) -> None:
    spec["ask"] |= ask
    found, result = ended(spec)
    assert (found, result["failure"]["code"], result["again"]) == (1, code, False)
    assert not (tmp_path / "data").exists()


def test_an_older_attempt_is_refused(spec: dict[str, Any], tmp_path: Path) -> None:
    root = tmp_path / "data" / "mound" / "runs" / "job"
    root.mkdir(parents=True)
    (root / fence.NAME).write_text("6")
    found, result = ended(spec)
    assert (found, result["failure"]["code"]) == (1, "SL-610")
    assert not Path(spec["place"]).exists()


def test_a_result_that_cannot_be_written(
    spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise WorkspaceError("disk full")

    monkeypatch.setattr(pipeline, "run_pipeline", run)
    (tmp_path / "file").write_text("in the way")
    spec["result"] = str(tmp_path / "file" / "result.json")
    assert execute.execute(spec) == DISK_FULL


def _nothing() -> dict[str, str]:
    return {"code": "SL-000", "stage": "", "message": "", "hint": "", "log": ""}
