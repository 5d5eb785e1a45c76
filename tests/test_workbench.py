"""The tuning bench in a real browser: JupyterLab, headless Chromium, the sample and a smaller scene.

Pictures of the page go into $SCREENSHOTS, or build/screenshots.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jupyter
import nbformat
import psutil
import pytest
import scenes
from playwright.sync_api import Locator

from spaceport_lab import ingest, sfm
from spaceport_lab.params import resolve
from spaceport_lab.params.cells import notebook_path
from spaceport_lab.sample import make_sample
from spaceport_lab.train import stream
from spaceport_lab.workspace import StageRun, write_manifest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parent.parent
PICTURES = Path(os.environ.get("SCREENSHOTS") or ROOT / "build" / "screenshots")
ENDLESS = {
    "max_steps": 200_000, "refine_start": 0.0, "refine_stop": 1.0, "refine_every": 60, "eval_every": 200,
    "patience": 0, "cap_max": 3000, "sh_degree": 1, "checkpoint_every": 200, "coarse_to_fine": "none",
    "reset_every": 100_000,
}  # fmt: skip
SHORT = {
    "max_steps": 900, "refine_every": 60, "eval_every": 150, "grow_to": 600, "sh_degree": 1,
    "checkpoint_every": 100, "patience": 600,
}  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server of JupyterLab, and the folder it works on."""
    root = tmp_path_factory.mktemp("lab")
    for name in ("work", "settings"):
        (root / name).mkdir()
    with jupyter.server(root / "work", root / "settings") as address:
        yield address, root / "work"


@pytest.fixture(autouse=True)
def _no_kernel_is_left(lab: tuple[str, Path]) -> Iterator[None]:
    """A test that fails must not leave a training that never ends."""
    yield
    jupyter.shut_kernels_down(lab[0])


def put(work: Path, name: str, run: StageRun | None = None, **values: Any) -> Path:
    """The notebook that tunes a run, or a small scene; returns the run folder that tuning writes."""
    run = run or scenes.make_run(work / "data" / name / "runs" / "bench", n_points=200)
    values = {"run_dir": str(run.root), "interactive": True, **values}
    jupyter.copy_notebook(notebook_path("90_tune"), work / f"{name}.ipynb", **values)
    return run.root.with_name("bench-tune")


def make_sample_run(scene: Path) -> StageRun:
    """The sample, reconstructed; trained at half the size of `make demo`, so that checks come soon."""
    make_sample(scene)
    root = scene / "runs" / "bench"
    chosen = resolve(["demo"], ["sfm.train_size=320"]).params
    for stage, work in (("ingest", ingest.run), ("sfm", sfm.run)):
        run = scenes.open_run(root, stage)
        for _ in work(run, chosen[stage]):
            pass
        write_manifest(run, chosen[stage])
    return scenes.open_run(root)


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    return [r for r in stream.read(run / "03_train" / "metrics.jsonl") if r["kind"] == kind]


def is_applied(run: Path) -> bool:
    """Whether a densification has used the threshold that was set last."""
    changes = records(run, "change")
    return bool(changes) and any(
        check["threshold"] == changes[-1]["values"]["grow_grad2d"] for check in records(run, "refine")
    )


def last_step(run: Path) -> int:
    return max((r["step"] for r in records(run, "step")), default=0)


def until(true: Callable[[], Any], lab: jupyter.Lab | None = None, seconds: float = 120) -> None:
    """Wait for something to become true; fail with what the page says when it does not."""
    end = time.monotonic() + seconds
    while not true():
        said = "" if lab is None else lab.outputs()[-3000:]
        assert time.monotonic() < end, f"it did not happen: {said}"
        if lab is not None:
            lab.page.wait_for_timeout(100)  # a page is served only while it is waited for
        else:
            time.sleep(0.1)


def shoot(lab: jupyter.Lab, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    bench = lab.page.locator(".spaceport-bench").first
    bench.scroll_into_view_if_needed()
    bench.screenshot(path=PICTURES / f"{name}.png")


def press(lab: jupyter.Lab, name: str) -> None:
    lab.page.locator(".spaceport-bench").first.get_by_role("button", name=name).click()


def status(lab: jupyter.Lab) -> str:
    return lab.page.locator(".spaceport-status").first.inner_text()


def children() -> set[int]:
    """All processes that this test has started, with theirs."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


def words(slider: Locator) -> str:
    """What the page says of a slider's value."""
    return slider.get_attribute("aria-valuetext") or ""


def made(refine: dict[str, Any]) -> str:
    """What the histogram says of a densification."""
    return f"step {refine['step']:,}: {refine['cloned']:,} cloned, {refine['split']:,} split"


def test_tuning_in_the_page(lab: tuple[str, Path]) -> None:
    address, work = lab
    scene = make_sample_run(work / "data" / "sample")
    run = put(work, "tuned", scene, **{**ENDLESS, "init_points": 3000, "cap_max": 20_000})
    with jupyter.page(address, height=1500) as tab:
        tab.open("tuned.ipynb")
        tab.run_all()
        until(lambda: len(records(run, "refine")) >= 2, tab)
        threshold = tab.page.get_by_role("slider", name="Threshold of view-space gradients")
        until(lambda: "split" in words(threshold), tab)

        # By keys, to a threshold that hardly any Gaussian exceeds.
        before = records(run, "refine")[-1]
        threshold.focus()
        for _ in range(2):
            threshold.press("Shift+PageUp")
        until(lambda: is_applied(run), tab)
        tab.page.wait_for_timeout(1000)  # two keys are one change, or two where the page is slow
        until(lambda: is_applied(run), tab)
        changes = records(run, "change")
        high = changes[-1]["values"]["grow_grad2d"]
        assert high > 2 * before["threshold"]
        after = next(r for r in records(run, "refine") if r["threshold"] == high)
        assert after["above"] < before["above"]
        # The page shows what the last check did.
        until(lambda: any(made(r) in words(threshold) for r in records(run, "refine")[-3:]), tab)
        until(lambda: "from step" in tab.page.locator(".spaceport-panel").first.inner_text(), tab)

        # By dragging, to one that many exceed.
        box = threshold.bounding_box()
        mouse = tab.page.mouse
        mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 100)
        mouse.down()
        mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 100, steps=5)
        assert records(run, "change") == changes, "it is sent when the line is let go"
        mouse.up()
        until(lambda: len(records(run, "change")) == len(changes) + 1, tab)
        low = records(run, "change")[-1]["values"]["grow_grad2d"]
        assert low < high
        until(lambda: any(r["threshold"] == low for r in records(run, "refine")), tab)
        grown = next(r for r in records(run, "refine") if r["threshold"] == low)
        assert grown["split"] + grown["cloned"] > after["split"] + after["cloned"]
        chosen = tab.page.get_by_label("grow_grad2d").first
        until(lambda: float(chosen.input_value()) == pytest.approx(low), tab)

        # A value the schema refuses stays where it is.
        every = tab.page.get_by_label("refine_every").first
        every.fill("0")
        every.press("Tab")
        tab.page.get_by_text("0 cannot be used").first.wait_for()
        every.fill("60")
        every.press("Tab")
        assert len(records(run, "change")) == len(changes) + 1
        assert tab.page.get_by_label("strategy").first.is_disabled()
        shoot(tab, "tune-light")

        press(tab, "Pause")
        until(lambda: "paused" in status(tab), tab)
        until(lambda: tab.page.get_by_role("button", name="Resume").first.is_visible(), tab)
        at, said = last_step(run), status(tab)
        tab.page.wait_for_timeout(1500)
        assert (last_step(run), status(tab)) == (at, said)
        press(tab, "Step")
        until(lambda: status(tab) != said and "paused" in status(tab), tab)
        press(tab, "Resume")
        until(lambda: last_step(run) > at + 20, tab)

        tab.page.get_by_placeholder("name of the preset").first.fill("from-the-page")
        press(tab, "Save as preset")
        preset = run / "params" / "from-the-page.yaml"
        until(preset.exists, tab)
        tab.page.get_by_text("from-the-page.yaml").first.wait_for()
        found = resolve([str(preset)]).params["train"]
        assert found.grow_grad2d == low
        assert found.cap_max == 20_000

        tab.kernel("interrupt")
        tab.page.get_by_text("Run this cell again").first.wait_for()
        until(lambda: "paused" in status(tab), tab)
        tab.wait_until_nothing_runs()  # what is asked for while the kernel drops its queue is dropped too
        at = last_step(run)
        tab.run_all()
        until(lambda: last_step(run) > at + 20, tab)
        press(tab, "Stop and keep")
        tab.wait_until_done()
        assert not [text for text in tab.complaints if "spaceport" in text.lower()], tab.complaints
        shoot(tab, "tune-stopped")
    card = json.loads((run / "run.json").read_text())["stages"]["train"]
    assert (card["status"], card["metrics"]["stopped_by"]) == ("succeeded", "person")
    assert [c["values"]["grow_grad2d"] for c in card["metrics"]["changes"]][-2:] == [high, low]
    assert len(card["metrics"]["changes"]) == len(changes) + 1


def test_a_closed_tab_leaves_training_alone(lab: tuple[str, Path]) -> None:
    """The page is gone, the cells it asked for are run all the same; opened again it shows the results."""
    address, work = lab
    # Long enough that no machine is done before the tab is closed; patience ends it soon after.
    most = 30_000
    run = put(work, "closed", **{**SHORT, "max_steps": most, "patience": 6000})
    with jupyter.page(address, height=1500, scheme="dark") as tab:
        tab.open("closed.ipynb")
        tab.run_all()
        until(lambda: last_step(run) > 300, tab)
        until(lambda: "dB held out" in status(tab), tab)
        shoot(tab, "tune-dark")
        tab.save()
    closed_at = last_step(run)
    assert closed_at < most
    until((run / "03_train" / "stage.json").exists, seconds=300)
    end = last_step(run)
    assert end > closed_at
    before = (run / "03_train" / "splat.ply").read_bytes()
    with jupyter.page(address, height=1500, scheme="dark") as tab:
        tab.open("closed.ipynb")
        tab.run_all()
        until(lambda: f"finished: step {end:,}" in status(tab), tab)
        tab.wait_until_done()
        shoot(tab, "tune-reopened")
    assert (run / "03_train" / "splat.ply").read_bytes() == before
    assert (run / "03_train" / "stage.json").exists()


def test_a_restarted_kernel_resumes_and_batch_makes_the_same(lab: tuple[str, Path]) -> None:
    address, work = lab
    long = {**SHORT, "max_steps": 3000, "patience": 0}
    run = put(work, "restarted", **long)
    with jupyter.page(address) as tab:
        tab.open("restarted.ipynb")
        tab.run_all()
        until(lambda: last_step(run) > 250, tab)
        before = children()
        tab.kernel("restart")
        resumed_at = last_step(run)
        assert 250 < resumed_at < long["max_steps"]
        time.sleep(1)
        assert last_step(run) == resumed_at, "somebody goes on training"
        tab.run_all()
        until(lambda: last_step(run) != resumed_at, tab)
        tab.wait_until_done()
        assert len(children()) <= len(before), "a process was left behind"
    kept = json.loads((run / "run.json").read_text())["stages"]["train"]
    assert kept["metrics"]["stopped_by"] == "max_steps"

    batch = put(work, "batch", **{**long, "interactive": False})
    notebook = work / "batch.ipynb"
    command = [sys.executable, "-m", "papermill", str(notebook), str(notebook), "--no-progress-bar"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=work)
    assert done.returncode == 0, done.stderr[-3000:]
    made = json.loads((batch / "run.json").read_text())["stages"]["train"]
    timing = {"seconds", "peak_rss_mb", "started", "ended"}
    assert {k: v for k, v in made.items() if k not in timing} == {
        k: v for k, v in kept.items() if k not in timing
    }
    first, second = (
        hashlib.sha256((folder / "03_train" / "splat.ply").read_bytes()).hexdigest()
        for folder in (run, batch)
    )
    assert first == second
    outputs = [o for c in nbformat.read(notebook, 4).cells for o in c.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "stream" and o.name == "stderr"]
