"""The start page in a real browser: start a job, watch it finish, open its report and its viewer.

Pictures of the page go into $SCREENSHOTS, or build/screenshots.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Tab, browser, open_address, wait_until_shown
from inspected import finish
from playwright.sync_api import Browser, BrowserContext, expect
from serving import TOKEN, claim, make_data, running, until
from splats import scene_splat

from spaceport_lab import compress, report, runcard
from spaceport_lab.gaussians import write_ply
from spaceport_lab.jobs.model import Failure, Job, make_ask
from spaceport_lab.jobs.store import Store, store_path
from spaceport_lab.params import STAGES, resolve
from spaceport_lab.serve.settings import ServeSettings

pytestmark = pytest.mark.browser
expect.set_options(timeout=20_000)  # a busy machine is slow

ROOT = Path(__file__).resolve().parent.parent
PICTURES = Path(os.environ.get("SCREENSHOTS") or ROOT / "build" / "screenshots")
PREFIX = "/behind/a/proxy"
SMALL = {"width": 480, "height": 320}
"""A window in which a splat is drawn without a GPU in little time."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose compress stage was run for real."""
    root = tmp_path_factory.mktemp("finished") / "sample" / "runs" / "finished"
    runcard.update(root, lambda card: card.update(params=resolve().card(), status="succeeded"))
    write_ply(root.parent / "splat.ply", scene_splat(3000, sh_degree=1))
    finish(root, "compress", compress, ply=str(root.parent / "splat.ply"))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def store(data: Path) -> Store:
    return Store(store_path(data))


@pytest.fixture(scope="module")
def address(data: Path, store: Store) -> Iterator[str]:
    settings = ServeSettings(
        data=data, s3_prefixes=("s3://flights/2026",), output_prefixes=("s3://runs",),
        webhook_hosts=("hooks.example.com",), starts_per_minute=5000,
    )  # fmt: skip
    with running(settings, store, PREFIX) as address:
        yield address


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as context:
        assert context.browser is not None
        yield context.browser


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """A person: tabs, cookies and storage of their own."""
    context = chromium.new_context(viewport={"width": 1180, "height": 1000})
    yield context
    context.close()


class Walker:
    """A worker by hand: takes one job and walks it through its stages when told to."""

    def __init__(self, store: Store, name: str, root: Path) -> None:
        self.store, self.root = store, root
        self.job: Job = claim(store, name)
        root.mkdir(parents=True)
        self.entries: dict[str, dict[str, Any]] = {stage: {"status": "pending"} for stage in STAGES}

    def beat(self, at: str, share: float, message: str = "", **events: dict[str, Any]) -> None:
        """Say how far it is: `share` of the whole run."""

        def change(card: dict[str, Any]) -> None:
            card["stages"].update(self.entries)
            card["cost"] = 0.5 * share

        runcard.update(self.root, change)
        self.store.heartbeat(
            self.job, 3600, run_dir=str(self.root), stage=at, progress=share, message=message,
            events=list(events.items()),
        )  # fmt: skip

    def begin(self, stage: str) -> None:
        self.entries[stage] = {"status": "running"}
        news = {"stage": stage, "status": "running", "seconds": None}
        self.beat(stage, STAGES.index(stage) / 5, "starting its notebook", stage=news)

    def end(self, stage: str, seconds: float) -> None:
        self.entries[stage] = {"status": "succeeded", "seconds": seconds}
        news = {"stage": stage, "status": "succeeded", "seconds": seconds}
        self.beat(stage, (STAGES.index(stage) + 1) / 5, stage=news)


def opened(context: BrowserContext, address: str) -> Tab:
    """The page, with the token in its fragment."""
    tab = open_address(context, f"{address}/")
    tab.page.goto(f"{address}/#token={TOKEN}")
    tab.page.reload()
    tab.page.get_by_role("heading", name="Start a job").wait_for()
    return tab


def shoot(tab: Tab, name: str) -> None:
    """A picture in the light and one in the dark."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        tab.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        tab.page.screenshot(path=PICTURES / f"serve-{name}-{scheme}.png", full_page=True)
    tab.page.emulate_media(color_scheme="light")


def history(store: Store) -> None:
    """Jobs from before, of every kind, so that the table has something to show."""
    for name, state in (
        ("yard-1", "succeeded"),
        ("hangar-7", "failed"),
        ("pad-39a", "succeeded"),
        ("old-3", "cancelled"),
    ):
        store.submit(make_ask(source=f"s3://flights/2026/{name}", name=name, presets=("production",)))
        if state == "cancelled":
            store.cancel(name)
            continue
        job = claim(store, name)
        gone = Failure("SL-220", "sfm", "only 4 of 60 photographs could be placed", "fly with more overlap")
        store.finish(job, state, gone if state == "failed" else None)


def test_from_the_first_click_to_the_viewer(
    context: BrowserContext, address: str, store: Store, data: Path, finished: Path
) -> None:
    history(store)
    tab = opened(context, address)
    page = tab.page
    assert TOKEN not in page.url
    page.get_by_label("Source").fill("sample")
    page.get_by_label("Mail when it has ended").fill("pilot@example.com")
    page.get_by_label("demo").check(force=True)
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Name").fill("from-the-page")
    page.get_by_label("Parameters").fill("train.max_steps=900\n\nsfm.retry=false\n")
    shoot(tab, "form")
    page.get_by_text("More", exact=True).click()
    page.get_by_role("button", name="Start").dblclick()  # a hasty finger starts one job
    job = page.locator("#job")
    expect(job.get_by_text("waiting for a worker")).to_be_visible()
    asked = store.get("from-the-page").ask
    assert (asked.presets, asked.overrides) == (("demo",), ("train.max_steps=900", "sfm.retry=false"))
    assert asked.email == "pilot@example.com"
    assert len(store.list()) == 5

    root = data / "sample" / "runs" / "from-the-page"
    walker = Walker(store, "from-the-page", root)
    for stage, seconds in (("ingest", 4.2), ("sfm", 71.0)):
        walker.begin(stage)
        walker.end(stage, seconds)
    walker.begin("train")
    step = {"stage": "train", "step": 360, "total": 900, "values": {"loss": 0.08123, "psnr": 22.41}}
    walker.beat(
        "train",
        0.48,
        "training",
        progress=step,
        warning={"stage": "sfm", "message": "2 photographs left out"},
    )
    expect(job.get_by_text("train: training · 360 of 900 · loss 0.08123 · psnr 22.41")).to_be_visible()
    expect(job.locator("#job-share")).to_have_text("48 %")
    marks = [item.get_attribute("class").split()[0] for item in page.locator("#job-stages li").all()]
    assert marks == ["succeeded", "succeeded", "running", "pending", "pending"]
    expect(page.locator("#job-log")).to_contain_text("sfm succeeded, 1 min 11 s")
    expect(page.locator("#rows tr").first).to_contain_text("train, 48 %")
    shoot(tab, "running")

    shutil.rmtree(root)
    shutil.copytree(finished, root)
    others = {stage: {"status": "succeeded", "seconds": 9.5} for stage in STAGES if stage != "compress"}

    def whole(card: dict[str, Any]) -> None:
        card.update(job=root.name, scene="sample")
        card["stages"].update(others)
        runcard.price(card, 1.5)

    runcard.update(root, whole)
    report.write_report(root)
    store.finish(walker.job, "succeeded")
    expect(job.locator(".status")).to_have_text("succeeded")
    expect(job.get_by_role("button", name="Cancel")).to_have_count(0)
    expect(page.locator("#job-progress")).to_be_hidden()
    assert [item.inner_text().split("\n")[0] for item in page.locator("#job-stages li").all()] == ["✓"] * 5
    shoot(tab, "finished")
    with context.expect_page() as one:
        job.get_by_role("link", name="Open viewer").click()
    one.value.set_viewport_size(SMALL)
    wait_until_shown(one.value)
    assert one.value.evaluate("origin") == "null", "what a job made runs as nobody"
    with context.expect_page() as two:
        job.get_by_role("link", name="Open report").click()
    two.value.set_viewport_size(SMALL)
    two.value.get_by_role("heading", name="from-the-page").wait_for()
    two.value.locator("iframe").scroll_into_view_if_needed()
    until(lambda: len(two.value.frames) > 1)
    wait_until_shown(two.value.frames[1])
    with page.expect_download() as download:
        job.get_by_role("link", name="Download .sog").click()
    assert download.value.suggested_filename == "from-the-page.sog"
    assert Path(download.value.path()).read_bytes() == (root / "04_compress" / "splat.sog").read_bytes()
    assert tab.requests == []
    assert tab.errors == []


def test_refusals_failures_and_cancelling(context: BrowserContext, address: str, store: Store) -> None:
    tab = opened(context, address)
    page = tab.page
    page.get_by_label("Source").fill("../../etc")
    page.get_by_role("button", name="Start").click()
    expect(
        page.get_by_role("alert").filter(has_text="not in a folder that this service may read")
    ).to_be_visible()
    shoot(tab, "refused")
    page.get_by_label("Source").fill("sample")
    page.keyboard.press("Enter")
    expect(page.locator("#job .status")).to_have_text("queued")
    expect(page.locator("#job-name")).to_be_focused()  # a screen reader says it
    name = page.url.partition("#")[2]
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#job .status")).to_have_text("cancelled")
    assert store.get(name).state == "cancelled"

    hostile = '<img src=x onerror="window.hacked=1">'
    store.submit(make_ask(source="sample", name="hostile", priority=10))
    job = claim(store, "hostile")
    store.heartbeat(job, 3600, message=hostile, events=[("warning", {"message": hostile})])
    store.finish(job, "failed", Failure("SL-500", "train", hostile, "try <b>again"))
    page.get_by_role("link", name="hostile").click()
    failure = page.locator("#job-failure")
    expect(failure).to_contain_text("SL-500 · train: " + hostile)
    expect(failure).to_contain_text("Try: try <b>again")
    assert page.evaluate("window.hacked") is None
    page.get_by_role("button", name="failed").click()
    expect(page.locator("#rows")).not_to_contain_text("queued")
    expect(page.get_by_role("button", name="failed")).to_have_attribute("aria-pressed", "true")
    page.go_back()
    expect(page.locator("#job-name")).to_contain_text(name)
    refused = [line for line in tab.errors if "422" not in line]
    assert refused == []


def test_without_a_token_it_is_asked_for_and_kept_in_the_tab(context: BrowserContext, address: str) -> None:
    tab = open_address(context, f"{address}/")
    page = tab.page
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("alert").filter(has_text="a token is needed")).to_be_visible()
    assert page.get_by_role("heading", name="Start a job").is_hidden()
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Start a job").wait_for()
    page.reload()
    page.get_by_role("heading", name="Start a job").wait_for()
    cookies = context.cookies()
    assert [c["httpOnly"] for c in cookies] == [True]
    assert cookies[0]["path"] == PREFIX
    assert TOKEN not in str(cookies)
    assert all("401" in line for line in tab.errors)


def test_it_goes_on_when_the_service_was_away(context: BrowserContext, address: str, store: Store) -> None:
    tab = opened(context, address)
    page = tab.page
    store.submit(make_ask(source="sample", name="away", priority=10))
    page.get_by_role("link", name="away").click()
    expect(page.locator("#job .status")).to_have_text("queued")
    context.set_offline(True)
    job = claim(store, "away")
    for number in range(3):
        store.heartbeat(job, 3600, events=[("warning", {"message": f"number {number}"})])
    expect(page.locator("#link")).to_have_text("no connection")
    context.set_offline(False)
    store.finish(job, "succeeded")
    expect(page.locator("#job .status")).to_have_text("succeeded", timeout=30_000)
    for number in range(3):
        expect(page.locator("#job-log").get_by_text(f"number {number}")).to_have_count(1)


def test_on_a_telephone(context: BrowserContext, address: str) -> None:
    tab = opened(context, address)
    tab.page.set_viewport_size({"width": 390, "height": 844})
    tab.page.locator("#rows a").first.click()
    tab.page.locator("#job-stages li").first.wait_for()
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
    shoot(tab, "telephone")
