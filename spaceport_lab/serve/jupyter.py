"""The door in a notebook server: `spaceport/` beside JupyterLab, behind its own login, XSRF and Host check.

Nothing is read, made or loaded before somebody asks, unless there is a queue already: the extension is there
for everybody who has the package, and most never start a job.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.iostream import StreamClosedError

from spaceport_lab.serve import guard, page
from spaceport_lab.serve.settings import load

if TYPE_CHECKING:
    from spaceport_lab.serve.core import Answer, Service
    from spaceport_lab.serve.events import Streams
    from spaceport_lab.serve.results import Content

KEY = "spaceport_door"

PAGE_POLICY = guard.PAGE_POLICY.replace("frame-ancestors 'none'", "frame-ancestors 'self'")
"""JupyterLab may show the page."""


class Door:
    """Service and streams, made when they are first asked for.

    Args:
        folder: the notebook server's; scenes are in `data` below it where SPACEPORT_DATA says nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: tuple[Service, Streams] | None = None
        self._lock = threading.Lock()

    def environment(self) -> dict[str, str]:
        """The environment, with the data folder in it."""
        return {"SPACEPORT_DATA": str(self.folder / "data"), **os.environ}

    def open(self) -> tuple[Service, Streams]:
        """The service and its streams.

        Raises:
            ParamsError: a setting is wrong.
            QueueError, WorkspaceError: the queue cannot be opened.
        """
        with self._lock:
            if self._opened is None:
                from spaceport_lab.jobs.store import Store
                from spaceport_lab.serve.core import Service, warm
                from spaceport_lab.serve.events import Streams

                warm()
                settings = load(environment=self.environment())
                service = Service(Store(self.queue(), settings.queue_limit), settings)
                self._opened = service, Streams(service)
            return self._opened

    def queue(self) -> Path:
        """Where the queue is, or would be."""
        from spaceport_lab.jobs.store import store_path

        return store_path(load(environment=self.environment()).data)


class _Handler(APIHandler):
    """What the API's handlers share."""

    auth_resource = "spaceport"
    _track_activity = False  # an open page that looks how jobs stand is nobody at work

    @property
    def door(self) -> Door:
        return self.settings[KEY]

    async def do(self, method: str, *arguments: Any) -> None:
        """Call a method of the service in a thread, and send what it gives."""

        def call() -> Answer | Content:
            from spaceport_lab.serve.core import refusal

            try:
                service = self.door.open()[0]
            except Exception as error:
                return refusal(error, self.door.folder)
            return getattr(service, method)(*arguments)

        found = await asyncio.to_thread(call)
        if hasattr(found, "chunks"):
            await self.send(found)
        else:
            self.answer(found)

    def answer(self, answer: Answer) -> None:
        """Send an answer."""
        self.set_status(answer.status)
        for name, value in answer.headers.items():
            self.set_header(name, value)
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(answer.body) if answer.status != 204 else None)

    async def send(self, content: Content) -> None:
        """Send a file, a piece at a time."""
        self.set_status(content.status)
        self.set_header("Cache-Control", "no-store")
        for name, value in content.headers.items():
            self.set_header(name, value)
        pieces = content.chunks()
        with contextlib.suppress(StreamClosedError):
            while piece := await asyncio.to_thread(next, pieces, b""):
                self.write(piece)
                await self.flush()
            self.finish(set_content_type=content.headers.get("Content-Type", "application/octet-stream"))


class StartHandler(_Handler):
    """Start a job."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        who = getattr(self.current_user, "username", "") or "notebook"
        await self.do("start", self.request.body, self.request.headers.get("Idempotency-Key", ""), who)


class JobsHandler(_Handler):
    """Jobs, newest first."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        limit = self.get_query_argument("limit", "100")
        number = int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 6 else 0
        await self.do("jobs", self.get_query_arguments("state"), number)


class JobHandler(_Handler):
    """One job."""

    @web.authenticated
    @authorized
    async def get(self, name: str) -> None:
        await self.do("job", name)


class CancelHandler(_Handler):
    """Stop a job."""

    @web.authenticated
    @authorized
    async def post(self, name: str) -> None:
        await self.do("cancel", name)


class AboutHandler(_Handler):
    """What the page has to know."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        await self.do("about")


class EventsHandler(_Handler):
    """Follow a job."""

    task: asyncio.Task[Any] | None = None

    @web.authenticated
    @authorized
    async def get(self, name: str) -> None:
        from spaceport_lab.serve.core import Answer, refusal
        from spaceport_lab.serve.events import HEADERS

        try:
            streams = (await asyncio.to_thread(self.door.open))[1]
        except Exception as error:
            self.answer(refusal(error, self.door.folder))
            return
        found = await asyncio.to_thread(streams.follow, name, self.request.headers.get("Last-Event-ID", ""))
        if isinstance(found, Answer):
            self.answer(found)
            return
        for header, value in HEADERS.items():
            self.set_header(header, value)
        self.task = asyncio.current_task()
        async with contextlib.aclosing(found) as chunks:
            # The reader has gone: there is nobody to tell.
            with contextlib.suppress(StreamClosedError, asyncio.CancelledError):
                async for chunk in chunks:
                    self.write(chunk)
                    await self.flush()
        self.task = None
        with contextlib.suppress(StreamClosedError):
            self.finish(set_content_type=HEADERS["Content-Type"])

    def on_connection_close(self) -> None:
        if self.task is not None:
            self.task.cancel()
        super().on_connection_close()


class FileHandler(_Handler):
    """Report, viewer and .sog of a job that has ended."""

    @web.authenticated
    @authorized
    async def get(self, name: str, kind: str) -> None:
        await self.do("content", name, kind, self.request.headers.get("Range", ""))


class PageHandler(JupyterHandler):
    """The page, and the files it asks for."""

    auth_resource = "spaceport"

    @property
    def content_security_policy(self) -> str:
        return PAGE_POLICY

    @web.authenticated
    @authorized
    async def get(self, name: str = "") -> None:
        if self.request.path.endswith("/spaceport"):
            self.redirect(self.request.path + "/")  # what the page asks for is relative to it
            return
        if name:
            path, media_type = page.FILES[name]
            self.set_header("Content-Type", media_type)
            self.finish(path.read_bytes())
            return
        _ = self.xsrf_token  # sets the cookie that the page shows when it starts or stops a job
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(page.index("jupyter"))


def handlers(base_url: str) -> list[tuple[Any, ...]]:
    """Paths below the notebook server's own, and who handles them."""

    def at(pattern: str) -> str:
        return url_path_join(base_url, "spaceport") + pattern

    files = "|".join(name.replace(".", r"\.") for name in page.FILES)
    return [
        (at("/?"), PageHandler),
        (at(f"/({files})"), PageHandler),
        (at("/start-job"), StartHandler),
        (at("/about"), AboutHandler),
        (at("/jobs"), JobsHandler),
        (at(r"/jobs/([^/]+)"), JobHandler),
        (at(r"/jobs/([^/]+)/cancel"), CancelHandler),
        (at(r"/jobs/([^/]+)/events"), EventsHandler),
        (at(r"/jobs/([^/]+)/(report|viewer|splat\.sog)"), FileHandler),
    ]


def _load_jupyter_server_extension(server: Any) -> None:
    """Called by Jupyter Server when it starts."""
    door = Door(Path(server.root_dir))
    server.web_app.settings[KEY] = door
    server.web_app.add_handlers(".*$", handlers(server.web_app.settings["base_url"]))
    with contextlib.suppress(Exception):  # a wrong setting is said to who asks, and stops no notebook server
        if door.queue().exists():
            threading.Thread(target=_warm, args=(door,), daemon=True).start()


def _warm(door: Door) -> None:
    with contextlib.suppress(Exception):
        door.open()
