"""start(), live(), record() as a notebook calls them, without Jupyter around them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import filelock
import pytest
from matplotlib.figure import Figure
from PIL import Image

from spaceport_lab import notebook, runcard
from spaceport_lab.errors import ParamsError, QualityGateError, WorkspaceError
from spaceport_lab.params import IngestParams
from spaceport_lab.workspace import Progress, StageRun


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "site" / "images").mkdir(parents=True)
    folder = tmp_path / "site" / "runs" / "job"
    folder.mkdir(parents=True)
    return folder


def states(n: int, message: str = "working") -> Iterator[Progress]:
    for step in range(1, n + 1):
        yield Progress(step, n, message, {"loss": 1 / step})


def test_start_validates_and_opens_the_card(root: Path) -> None:
    cell = {"run_dir": str(root), "interactive": True, "min_side": 99, "something_else": object()}
    p, run = notebook.start("ingest", cell)
    assert isinstance(p, IngestParams)
    assert (p.min_side, run.stage, run.root) == (99, "ingest", root)
    assert runcard.read(root)["stages"]["ingest"]["status"] == "running"


def test_start_puts_parameters_on_the_card(root: Path) -> None:
    """Which the pipeline does otherwise; what it knows of where they come from is kept."""
    cell = {"run_dir": str(root), "interactive": True, "min_side": 99, "max_archive_gb": 3.0}
    known = {"min_side": {"value": 99, "origin": "preset demo"}, "sky_mask": {"value": True, "origin": ""}}
    runcard.update(root, lambda card: card["params"].update(ingest=known))
    notebook.start("ingest", cell)
    noted = runcard.read(root)["params"]["ingest"]
    assert noted["min_side"] == {"value": 99, "origin": "preset demo"}
    assert noted["sky_mask"] == {"value": False, "origin": "default"}
    assert noted["max_archive_gb"] == {"value": 3.0, "origin": "this notebook"}
    assert noted["source"] == {"value": "", "origin": "default"}
    assert "run_dir" not in noted


def test_start_refuses_what_the_schema_refuses(root: Path) -> None:
    with pytest.raises(ParamsError, match=r"ingest\.min_side is 'big'"):
        notebook.start("ingest", {"run_dir": str(root), "interactive": True, "min_side": "big"})


def test_start_takes_a_finished_stage_back(root: Path) -> None:
    (root / "01_ingest").mkdir()
    (root / "01_ingest" / "stage.json").write_text("{}")
    notebook.start("ingest", {"run_dir": str(root), "interactive": True})
    assert not (root / "01_ingest" / "stage.json").exists()


def test_two_writers_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "LOCK_SECONDS", 0.1)
    (root / "01_ingest").mkdir()
    with (
        filelock.FileLock(root / "01_ingest" / ".lock"),
        pytest.raises(WorkspaceError, match="another process is writing"),
    ):
        notebook.start("ingest", {"run_dir": str(root), "interactive": True})


def test_the_bench_is_the_sample_of_the_folder_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    _, run = notebook.start("ingest", {"interactive": True})
    assert run.root == tmp_path / "data" / "sample" / "runs" / "bench"


def test_batch_logs_a_line_now_and_then(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = IngestParams(run_dir=str(root), log_every=10)
    assert len(list(notebook.live(states(100), params))) == 100
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "working  100/100  loss 0.010"
    assert json.loads((root / "progress.json").read_text())["step"] == 100


def test_a_new_message_is_always_logged(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = [*states(3, "reading"), *states(3, "judging")]
    list(notebook.live(both, IngestParams(run_dir=str(root))))
    out = capsys.readouterr().out
    assert "reading  1/3" in out
    assert "judging  1/3" in out


def test_interactive_draws_seldom(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def picture(seen: list[Progress]) -> Figure:
        drawn.append(len(seen))
        return Figure()

    params = IngestParams(run_dir=str(root), interactive=True)
    list(notebook.live(states(5000), params, picture))
    assert drawn[-1] == 5000
    assert len(drawn) < 10


def test_record_writes_stage_and_card(root: Path) -> None:
    p, run = notebook.start("ingest", {"run_dir": str(root), "interactive": True})
    run.output("photos.json").write_text("[]")
    run.metrics["n_photos"] = 5
    run.warn("one was blurred")
    shown = notebook.record(run, p)
    assert "n_photos" in repr(shown)
    assert "one was blurred" in shown._repr_html_()
    entry = runcard.read(root)["stages"]["ingest"]
    assert entry["status"] == "succeeded"
    assert entry["metrics"] == {"n_photos": 5}
    assert entry["peak_rss_mb"] > 10
    assert json.loads((run.dir / "stage.json").read_text())["outputs"].keys() == {"photos.json"}


def test_a_failed_gate_keeps_the_metrics_and_not_the_stage(root: Path) -> None:
    p, run = notebook.start("ingest", {"run_dir": str(root), "interactive": True})
    run.metrics["n_photos"] = 1
    run.gate(False, QualityGateError("too few photographs", got=1))
    with pytest.raises(QualityGateError, match="too few photographs"):
        notebook.record(run, p)
    entry = runcard.read(root)["stages"]["ingest"]
    assert (entry["status"], entry["metrics"]) == ("failed", {"n_photos": 1})
    assert "too few" in entry["error"]
    assert not (run.dir / "stage.json").exists()


def test_tables_escape_and_align() -> None:
    table = notebook.table([{"name": "<b>", "value": 0.12345}, {"name": "long name", "value": None}])
    assert "&lt;b&gt;" in table._repr_html_()
    assert repr(table).splitlines() == [
        "name       value", "─────────  ─────", "<b>        0.123", "long name  –    ",
    ]  # fmt: skip
    assert repr(notebook.table([])) == "\n"


def test_show_passes_over_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr(notebook, "display", shown.append)
    notebook.show("a", None, "b")
    notebook.show()
    assert shown == ["a", "b"]


def test_a_picture_stands_in_the_notebook_itself(tmp_path: Path) -> None:
    assert notebook.picture(None) is None
    assert notebook.picture(tmp_path / "none.gif") is None
    for suffix, mime in (("gif", "image/gif"), ("png", "image/png"), ("jpg", "image/jpeg")):
        path = tmp_path / f"a.{suffix}"
        Image.new("RGB", (4, 3), "red").save(path)
        data, _ = notebook.picture(path)._repr_mimebundle_()
        assert base64.b64decode(data[mime]) == path.read_bytes()


def test_stage_run_needs_no_notebook(root: Path) -> None:
    assert StageRun(root, "sfm").dir.name == "02_sfm"
