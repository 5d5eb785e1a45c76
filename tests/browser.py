"""Headless Chromium for tests, with the network off."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import BrowserContext, Page, Playwright, Request, Route, sync_playwright

# WebGL without a GPU, and nothing that Chromium does on its own account.
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]
SYSTEM_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LOAD_SECONDS = 120
"""SwiftShader on two busy cores needs 6 to 20 s for a first frame."""

SETTLE_SECONDS = 60
"""Within this buttons have faded and the turn of a drag has run out."""


@dataclass
class Tab:
    """A page and what it asked for and complained about.

    Attributes:
        page: Playwright's.
        requests: addresses that only a network could have served.
        errors: uncaught exceptions and error lines of the console.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@contextlib.contextmanager
def browser(width: int = 1280, height: int = 800, offline: bool = True) -> Iterator[BrowserContext]:
    """A Chromium of the system's, else Playwright's own; offline, or as it comes for servers of a test."""
    with sync_playwright() as playwright:
        chromium = _launch(playwright)
        context = chromium.new_context(viewport={"width": width, "height": height})
        context.set_offline(offline)
        try:
            yield context
        finally:
            chromium.close()


def _launch(playwright: Playwright):
    found = next(filter(None, map(shutil.which, SYSTEM_BROWSERS)), None)
    return playwright.chromium.launch(executable_path=found, headless=True, args=FLAGS)


def open_file(context: BrowserContext, path: Path, also: Sequence[Path] = ()) -> Tab:
    """Open a file of the disk; requests for anything that is not inside the page are refused and kept."""
    return open_address(context, path.resolve().as_uri(), [file.resolve().as_uri() for file in also])


def open_address(context: BrowserContext, address: str, also: Sequence[str] = ()) -> Tab:
    """Open a page; requests for anything but it and those in `also` are refused and kept."""
    tab = Tab(context.new_page())
    inside = (address, *also, "data:", "blob:", "about:")

    def keep(request: Request) -> None:
        if not request.url.startswith(inside):
            tab.requests.append(request.url)

    def refuse(route: Route) -> None:
        if route.request.url.startswith(inside):
            route.continue_()
        else:
            route.abort()

    tab.page.on("request", keep)
    tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.page.on("console", lambda m: tab.errors.append(m.text) if m.type == "error" else None)
    context.route("**/*", refuse)
    tab.page.goto(address)
    return tab


def wait_until_shown(frame) -> None:
    """Wait until the viewer in this page or frame shows its splat; fail with its own words if it cannot."""
    frame.wait_for_selector(
        "html:not([data-state=loading])[data-state]", state="attached", timeout=LOAD_SECONDS * 1000
    )
    state = frame.evaluate("document.documentElement.dataset.state")
    assert state == "ready", frame.text_content(".message")


def picture(tab: Tab, box: dict[str, float] | None = None) -> np.ndarray:
    """What is on the screen, [H, W, 3] in 0..255, or the part of it in `box` (x, y, width, height)."""
    png = tab.page.screenshot(clip=box) if box else tab.page.screenshot()
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def settled(tab: Tab, box: dict[str, float] | None = None) -> np.ndarray:
    """`picture`, once it has stood still for a second; fails when it never does."""
    until, before, calm = time.monotonic() + SETTLE_SECONDS, picture(tab, box), 0
    while calm < 2:
        tab.page.wait_for_timeout(500)
        now = picture(tab, box)
        calm = calm + 1 if np.abs(now.astype(int) - before).mean() < 0.05 else 0
        before = now
        assert time.monotonic() < until, "the picture does not come to rest"
    return before


def drag(tab: Tab, x: float, y: float, dx: float, dy: float) -> None:
    """Press the left button at (x, y), move by (dx, dy) in steps, release."""
    mouse = tab.page.mouse
    mouse.move(x, y)
    mouse.down()
    for i in range(1, 11):
        mouse.move(x + dx * i / 10, y + dy * i / 10)
    mouse.up()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which a server gives out the files of a folder, one below the other."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass
