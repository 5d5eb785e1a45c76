"""The service as a person has it, nothing stood in for: page, API, queue, worker, pipeline, letters; a crash.

The sample is started in the page; in the middle of training service and worker are killed, and started again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from browser import browser, wait_until_shown
from letters import Mailbox, free_port, mail_server
from playwright.sync_api import Page, expect

from spaceport_lab.cameras import fit_similarity, read_scene
from spaceport_lab.jobs import Store, store_path
from spaceport_lab.sample import make_sample
from spaceport_lab.serve.settings import ServeSettings
from spaceport_lab.train import stream

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parent.parent
PICTURES = Path(os.environ.get("SCREENSHOTS") or ROOT / "build" / "screenshots")
SHORT = (
    "sfm.train_size=320", "train.max_steps=800", "train.checkpoint_every=50", "train.eval_every=400",
    "train.sh_degree=1", "train.timelapse=false", "inspect.max_views=2",
    "compress.max_psnr_loss=3", "compress.min_ratio=2",
)  # fmt: skip
PATIENCE_S = 900
SMALL = {"width": 480, "height": 320}
"""A window in which a splat is drawn without a GPU in little time."""


class House:
    """Service and worker as processes, that can be killed and started again."""

    def __init__(self, data: Path, mail_port: int) -> None:
        self.data, self.port = data, free_port()
        self.environment = {
            **os.environ, "SPACEPORT_SMTP_HOST": "127.0.0.1", "SPACEPORT_SMTP_PORT": str(mail_port),
            "SPACEPORT_SMTP_SECURITY": "none", "SPACEPORT_MAIL_FROM": "lab@example.com",
        }  # fmt: skip
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for words in (("serve", "--port", str(self.port)), ("worker", "--lease", "5")):
            command = [sys.executable, "-m", "spaceport_lab.cli", *words, "--data", str(self.data)]
            self.running.append(subprocess.Popen(command, env=self.environment))

    def kill(self) -> list[psutil.Process]:
        """SIGKILL to both; gives all processes that they had started."""
        family = [p for one in self.running for p in psutil.Process(one.pid).children(recursive=True)]
        for one in self.running:
            one.send_signal(signal.SIGKILL)
            one.wait()
        self.running.clear()
        return family

    def stop(self) -> None:
        for one in self.running:
            one.terminate()
        for one in self.running:
            one.wait(60)

    @property
    def token(self) -> str:
        return ServeSettings(data=self.data).token_path.read_text().split()[0]


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def house(tmp_path: Path, mailbox: Mailbox) -> Iterator[House]:
    data = tmp_path / "data"
    make_sample(data / "sample")
    with mail_server(mailbox) as port:
        house = House(data, port)
        house.start()
        try:
            yield house
        finally:
            house.stop()


def until(true: Callable[[], object], page: Page) -> None:
    """Wait for something to become true, with the page alive."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, page.locator("#job").inner_text()
        page.wait_for_timeout(100)


def opened(page: Page, house: House) -> None:
    """The page, as soon as the service answers."""
    address = f"http://127.0.0.1:{house.port}/"
    end = time.monotonic() + 120
    while True:
        try:
            page.goto(address)
            break
        except Exception:
            assert time.monotonic() < end
            page.wait_for_timeout(200)
    page.goto(f"{address}#token={house.token}")
    page.reload()
    page.get_by_role("heading", name="Start a job").wait_for()


def stands_where_it_should(root: Path) -> None:
    """What SfM says of the sample: cameras, a distance on the ground that it was not told, GPS."""
    truth = json.loads((root.parent.parent / "ground_truth.json").read_text())
    metrics = json.loads((root / "run.json").read_text())["stages"]["sfm"]["metrics"]
    cameras = read_scene(root / "02_sfm").cameras
    true = np.array([truth["cameras"][name]["center"] for name in cameras.names])
    ends = np.array([truth["known_distance"][end]["enu"] for end in ("from", "to")])
    start, end = fit_similarity(true, cameras.centers)(ends)
    assert metrics["n_registered"] == 30
    assert metrics["pose_rmse_m"] < 0.05
    assert np.linalg.norm(end - start) == pytest.approx(truth["known_distance"]["metres"], rel=0.005)
    assert metrics["control_rmse_m"] < 0.1
    assert metrics["gps_rmse_m"] == pytest.approx(np.linalg.norm(truth["gps_noise_m"]), rel=0.25)


@pytest.mark.timeout(2400)
def test_the_sample_through_the_page_with_a_crash_on_the_way(house: House, mailbox: Mailbox) -> None:
    store = Store(store_path(house.data))
    with browser(1180, 1000, offline=False) as context:
        page = context.new_page()
        opened(page, house)
        page.get_by_label("Source").fill("sample")
        page.get_by_label("Mail when it has ended").fill("pilot@example.com")
        page.get_by_label("demo").check(force=True)
        page.get_by_text("More", exact=True).click()
        page.get_by_label("Name").fill("flight-1")
        page.get_by_label("Parameters").fill("\n".join(SHORT))
        page.get_by_text("More", exact=True).click()
        page.get_by_role("button", name="Start").click()
        expect(page.locator("#job-name")).to_contain_text("flight-1", timeout=60_000)

        root = house.data / "sample" / "runs" / "flight-1"
        metrics = root / "03_train" / "metrics.jsonl"
        # The first checkpoint is that of the start; the next one is to be there.
        until(
            lambda: store.get("flight-1").failure or any(r["step"] > 50 for r in stream.read(metrics)), page
        )
        family = house.kill()
        assert not (root / "03_train" / "stage.json").exists(), "it was too late to kill"
        assert len(family) >= 4, "keeper, job, stage and kernel were there to be watched"
        assert psutil.wait_procs(family, timeout=30)[1] == [], "no process lives on"
        sfm_before = (root / "02_sfm" / "stage.json").stat().st_mtime
        before = [line for line in stream.read(metrics) if line["step"] <= 50]
        expect(page.locator("#link")).to_have_text("no connection", timeout=60_000)

        house.start()
        until(lambda: store.get("flight-1").has_ended, page)
        job = store.get("flight-1")
        assert (job.state, job.failure) == ("succeeded", None)
        assert job.attempt == 2
        shown = page.locator("#job")
        expect(shown.locator(".status")).to_have_text("succeeded", timeout=60_000)
        stages = [item.inner_text().split("\n")[0] for item in page.locator("#job-stages li").all()]
        assert stages == ["✓"] * 5
        expect(page.locator("#job-log").get_by_text("sfm succeeded")).to_have_count(1)
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / "serve-whole.png", full_page=True)

        stands_where_it_should(root)
        assert (root / "02_sfm" / "stage.json").stat().st_mtime == sfm_before, "SfM was not run again"
        lines = stream.read(metrics)
        steps = [line["step"] for line in lines if line["kind"] == "step"]
        assert steps == sorted(set(steps))
        assert lines[: len(before)] == before, "training went on from its checkpoint"
        until(lambda: mailbox.mails, page)
        page.wait_for_timeout(3000)
        assert len(mailbox.mails) == 1
        assert b"pilot@example.com" in mailbox.mails[0]

        with context.expect_page() as one:
            shown.get_by_role("link", name="Open viewer").click()
        one.value.set_viewport_size(SMALL)
        wait_until_shown(one.value)
        one.value.screenshot(path=PICTURES / "serve-whole-viewer.png")
        with context.expect_page() as two:
            shown.get_by_role("link", name="Open report").click()
        two.value.get_by_role("heading", name="flight-1").wait_for()
