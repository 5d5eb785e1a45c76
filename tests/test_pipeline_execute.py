"""A notebook in its process: what is kept of it, and that a lost attempt keeps nothing more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest

from spaceport_lab import fence
from spaceport_lab.errors import FencedError, StageError
from spaceport_lab.params import resolve
from spaceport_lab.pipeline import run as pipeline_run
from spaceport_lab.pipeline.display import Display
from spaceport_lab.workspace import StageRun

TAKEN = """
from pathlib import Path
root = Path.cwd().parent
(root / ".fence").write_text("2")
(root / "notebooks/01_ingest.ipynb").write_text("the later attempt's")
(root / "logs/01_ingest.log").write_text("the later attempt's")
"""


class Stage:
    """A run folder, and notebooks of a few cells that are run as its ingest stage."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.folder = folder / "runs" / "job", folder
        self.root.mkdir(parents=True)
        self.record = self.root / "notebooks" / "01_ingest.ipynb"
        self.log = self.root / "logs" / "01_ingest.log"
        monkeypatch.setattr(pipeline_run, "notebook_path", lambda stage: self.folder / "in.ipynb")

    def run(self, *cells: str) -> None:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        nbformat.write(notebook, self.folder / "in.ipynb")
        params = resolve().params["ingest"]
        pipeline_run._execute(StageRun(self.root, "ingest"), params, Display(quiet=True))

    def outputs(self) -> list[Any]:
        cells = nbformat.read(self.record, as_version=4).cells
        return [cell.outputs for cell in cells if cell.get("outputs")]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setenv(fence.VARIABLE, "")
    return Stage(tmp_path, monkeypatch)


def test_what_is_said_and_how_the_kernel_is_talked_to(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = "from ipykernel.kernelapp import IPKernelApp; print(IPKernelApp.instance().transport)"
    stage.run("import os; print('a cell: ä')", "os.system('echo what a cell started')", ask)
    assert [one[0].text for one in stage.outputs()[-1:]] == ["ipc\n"]
    far = tmp_path / ("long" * 25)
    far.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(far))
    stage.run(ask)
    assert [one[0].text for one in stage.outputs()] == ["tcp\n"], "a socket's path cannot be so long"
    assert not list(far.iterdir())
    text = stage.log.read_text()
    assert text.index("a cell: ä") < text.index("what a cell started") < text.index("ipc") < text.index("tcp")
    assert sorted(p.name for p in stage.record.parent.iterdir()) == ["01_ingest.ipynb"]


def test_the_notebook_so_far_is_there_after_a_failure(stage: Stage) -> None:
    with pytest.raises(StageError, match=r"(?s)ValueError: no good.*01_ingest\.log"):
        stage.run("print('before')", "raise ValueError('no good')", "print('after')")
    first, second = stage.outputs()
    assert (first[0].text, second[0].ename) == ("before\n", "ValueError")
    assert stage.log.read_text().endswith("ValueError: no good\n")


def test_the_notebook_so_far_is_there_after_a_crash(stage: Stage) -> None:
    with pytest.raises(StageError, match="the notebook's kernel died"):
        stage.run("print('before')", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert stage.outputs()[0][0].text == "before\n"
    with pytest.raises(StageError, match="the notebook's process died"):
        stage.run("print('once more')", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    assert stage.outputs()[0][0].text == "once more\n"


def test_a_lost_attempt_leaves_notebook_and_log_to_the_later_one(stage: Stage) -> None:
    fence.take(stage.root, 1)
    with pytest.raises(FencedError, match="attempt 2"):
        stage.run("print('mine')", TAKEN, "print('late', flush=True)", "import time; time.sleep(600)")
    for kept in (stage.record, stage.log):
        assert kept.read_text() == "the later attempt's"
    assert not (stage.root / "01_ingest" / "error.json").exists()


def test_papermill_itself_is_refused(stage: Stage, tmp_path: Path) -> None:
    """Where the pipeline's own process, which would have stopped it, is stopped or gone."""
    fence.take(stage.root, 1)
    for name in ("01_ingest", "notebooks", "logs"):
        (stage.root / name).mkdir()
    cells = [nbformat.v4.new_code_cell(cell) for cell in (TAKEN, "print('late')")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "in.ipynb")
    spec = {
        "notebook": str(tmp_path / "in.ipynb"), "output": str(stage.record), "parameters": {},
        "cwd": str(stage.root / "01_ingest"), "error": str(stage.root / "01_ingest" / "error.json"),
        "sockets": str(tmp_path),
    }  # fmt: skip
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "spaceport_lab.pipeline.execute", str(tmp_path / "spec.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 1
    assert done.stdout.strip().startswith("FencedError"), "the second cell was not run"
    assert stage.record.read_text() == "the later attempt's"
    assert sorted(p.name for p in stage.record.parent.iterdir()) == ["01_ingest.ipynb"]
    assert not list((stage.root / "01_ingest").iterdir())


def test_what_asks_nobody_is_stopped_when_the_folder_is_lost(stage: Stage) -> None:
    fence.take(stage.root, 1)
    with pytest.raises(FencedError):
        stage.run(
            "import time; from pathlib import Path",
            "(Path.cwd().parent / '.fence').write_text('2')",
            "while True:\n    Path('raw.txt').write_text(str(time.time()))\n    time.sleep(0.01)",
        )
    raw = stage.root / "01_ingest" / "raw.txt"
    before = raw.stat().st_mtime_ns if raw.exists() else 0
    time.sleep(0.5)
    assert (raw.stat().st_mtime_ns if raw.exists() else 0) == before
