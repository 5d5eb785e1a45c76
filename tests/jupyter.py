"""JupyterLab for tests: a server with folders of its own, and a page in headless Chromium that drives it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from browser import _launch
from playwright.sync_api import Locator, Page, TimeoutError, sync_playwright

TOKEN = "workbench"
START_SECONDS = 60
QUIET = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    "@jupyterlab/apputils-extension:themes": {"adaptive-theme": True},
    # A kernel that is slow to say what it can would be taken for one that hears nothing while a cell runs.
    "@jupyterlab/apputils-extension:kernels-settings": {"kernelInfoTimeout": 60_000},
}
"""Settings that keep pop-ups off the pictures; the theme follows what the browser prefers."""

READY = """async () => {
    const widget = window.jupyterapp.shell.currentWidget;
    await widget.context.ready;
    await widget.revealed;
    await widget.sessionContext.ready;
    await widget.sessionContext.session.kernel.info;
}"""
DONE = """() => {
    const widget = window.jupyterapp.shell.currentWidget;
    const kernel = widget.sessionContext.session?.kernel;
    if (!kernel || kernel.status !== "idle") return false;
    const cells = widget.content.widgets.filter(
        (cell) => cell.model.type === "code" && cell.model.sharedModel.getSource().trim());
    return cells.every(
        (cell) => cell.model.executionCount !== null && cell.model.executionState !== "running");
}"""

STATE = """() => {
    const widget = window.jupyterapp.shell.currentWidget;
    const cells = widget.content.widgets.filter((cell) => cell.model.type === "code");
    return {
        kernel: widget.sessionContext.session?.kernel?.status,
        cells: cells.map((cell) => [
            cell.model.executionCount, cell.model.executionState,
            cell.model.sharedModel.getSource().trim().split("\\n").pop()]),
    };
}"""
NOTHING_RUNS = """() => window.jupyterapp.shell.currentWidget.content.widgets.every(
    (cell) => cell.model.type !== "code" || cell.model.executionState !== "running")"""


class Lab:
    """One notebook in one tab.

    Attributes:
        page: Playwright's.
        complaints: uncaught exceptions and error lines of the page.
    """

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)

    def open(self, name: str) -> None:
        """Open a notebook of the server's folder and wait for its kernel."""
        self.page.goto(f"{self.address}/doc/tree/{name}?token={TOKEN}&reset", wait_until="domcontentloaded")
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Notebook .jp-Cell", timeout=60_000)
        self.page.wait_for_function(
            "() => !!window.jupyterapp?.shell?.currentWidget?.sessionContext", polling=200, timeout=60_000
        )
        self.page.evaluate(READY)

    def save(self) -> None:
        """Save the notebook with the outputs it has so far."""
        saved = "() => window.jupyterapp.shell.currentWidget.context.save().then(() => { window.saved = 1; })"
        self.page.evaluate(f"() => {{ window.saved = 0; ({saved})(); }}")
        self.page.wait_for_function("() => window.saved === 1", polling=200, timeout=30_000)

    def run_all(self) -> None:
        """Run all cells; returns at once."""
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")

    def wait_until_done(self, seconds: float = 120) -> None:
        """Until every code cell has been run and none runs."""
        self._wait(DONE, seconds)

    def wait_until_nothing_runs(self, seconds: float = 60) -> None:
        """Until no cell runs or waits for one that does, and a moment longer.

        The kernel's own status would not do: what a widget asks for leaves it idle while a cell runs.
        """
        self._wait(NOTHING_RUNS, seconds)
        self.page.wait_for_timeout(1000)

    def _wait(self, condition: str, seconds: float) -> None:
        """Until the page meets a condition; fail with what it shows where that takes longer."""
        try:
            self.page.wait_for_function(condition, polling=200, timeout=seconds * 1000)
        except TimeoutError as error:
            shown = [
                json.dumps(self.page.evaluate(STATE), indent=1),
                *self.complaints,
                self.outputs()[-3000:],
            ]
            raise AssertionError(f"still waiting after {seconds:g} s:\n" + "\n".join(shown)) from error

    def cell(self, source: str) -> Locator:
        """The code cell in whose source these words stand."""
        return self.page.locator(".jp-Notebook .jp-CodeCell", has_text=source).first

    def kernel(self, what: str) -> None:
        """Interrupt or restart the kernel, without asking."""
        session = "window.jupyterapp.shell.currentWidget.sessionContext.session"
        self.page.evaluate(f"async () => {{ await {session}.kernel.{what}() }}")

    def outputs(self) -> str:
        """All text that cells have printed or raised, for a failing test to show."""
        return "\n".join(self.page.locator(".jp-OutputArea-output").all_inner_texts())


@contextlib.contextmanager
def server(folder: Path, settings: Path, **environment: str) -> Iterator[str]:
    """JupyterLab on `folder`, with all that it keeps below `settings`; gives its address.

    It ends with its kernels when the test does, whatever happens.
    """
    env = {**os.environ, **environment}
    for name in ("CONFIG", "DATA", "RUNTIME"):
        env[f"JUPYTER_{name}_DIR"] = str(settings / name.lower())
    for name in ("SETTINGS", "WORKSPACES"):
        env[f"JUPYTERLAB_{name}_DIR"] = str(settings / name.lower())
    env["IPYTHONDIR"] = str(settings / "ipython")
    for plugin, values in QUIET.items():
        place = settings / "settings" / plugin.split(":")[0] / f"{plugin.split(':')[1]}.jupyterlab-settings"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(values))
    # An extension that some package brought must not ask for a build on top of the page.
    page_config = settings / "config" / "labconfig" / "page_config.json"
    page_config.parent.mkdir(parents=True)
    page_config.write_text(json.dumps({"buildCheck": False, "buildAvailable": False}))
    port = _free_port()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
        f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={folder}", "--ServerApp.terminals_enabled=False",
        "--LabApp.news_url=", "--LabApp.extension_manager=readonly",
    ]  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    with open(settings / "server.log", "w") as log:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log)
        try:
            _wait_for(address, process, settings / "server.log")
            yield address
        finally:
            process.terminate()  # the server shuts its kernels down
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def page(address: str, width: int = 1360, height: int = 1000, scheme: str = "light") -> Iterator[Lab]:
    """A tab of a Chromium of its own; closing it leaves the kernel alone."""
    with sync_playwright() as playwright:
        chromium = _launch(playwright)
        try:
            context = chromium.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
            )
            yield Lab(context.new_page(), address)
        finally:
            chromium.close()


def copy_notebook(source: Path, target: Path, **values: Any) -> None:
    """A notebook with other values in its parameters cell."""
    notebook = nbformat.read(source, as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    missing = set(values)
    lines = []
    for line in cell.source.splitlines():
        name = line.partition(" = ")[0]
        missing.discard(name)
        lines.append(f"{name} = {values[name]!r}" if name in values else line)
    assert not missing, f"the parameters cell has no {missing}"
    cell.source = "\n".join(lines)
    nbformat.write(notebook, target)


def kernels(address: str) -> list[dict[str, Any]]:
    """The kernels that the server has."""
    with urllib.request.urlopen(f"{address}/api/kernels?token={TOKEN}", timeout=10) as answer:
        return json.load(answer)


def shut_kernels_down(address: str) -> None:
    """End all kernels of the server, and what runs in them."""
    for kernel in kernels(address):
        request = urllib.request.Request(
            f"{address}/api/kernels/{kernel['id']}?token={TOKEN}", method="DELETE"
        )
        with contextlib.suppress(urllib.error.HTTPError):  # it has gone by itself
            urllib.request.urlopen(request, timeout=20).close()


def _wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            kernels(address)
            return
        time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
