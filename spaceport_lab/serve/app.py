"""The door of `spaceport-lab serve`: FastAPI, a bearer token, loopback unless told otherwise."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Callable
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException

from spaceport_lab import __version__
from spaceport_lab.errors import InputError, NotAllowedError, ParamsError
from spaceport_lab.jobs.store import Store, store_path
from spaceport_lab.logs import prometheus_text
from spaceport_lab.serve import page
from spaceport_lab.serve.core import BODY_BYTES, Answer, Service, refusal, warm
from spaceport_lab.serve.events import HEADERS, Streams
from spaceport_lab.serve.guard import PAGE_POLICY, Guard
from spaceport_lab.serve.model import About, JobList, JobView, Problem, Started, StartJob
from spaceport_lab.serve.results import NEEDS, Content
from spaceport_lab.serve.settings import LOOPBACK, ServeSettings
from spaceport_lab.serve.tokens import READER_SECONDS, Tokens, read_or_make

logger = logging.getLogger(__name__)

DRAINED_BYTES = 64 << 20
"""What is too large is still read up to here, unseen: who sends before reading would miss the answer else."""

_WORDS = {401: "a token is needed", 404: "there is nothing here", 405: "that cannot be done here"}
_BEARER = HTTPBearer(auto_error=False, description="the token in the service's token file")


def create_app(settings: ServeSettings, store: Store, tokens: Tokens | None = None) -> FastAPI:
    """The API as an ASGI application.

    Args:
        settings: what is allowed.
        store: the queue.
        tokens: that open it; None: those of the settings' token file, made when missing.

    Raises:
        NotAllowedError: the token file is not safe.
    """
    app = FastAPI(
        title="Spaceport Lab",
        version=__version__,
        description="Start jobs from drone photographs to compressed 3D Gaussian splats, and follow them.",
        docs_url=None,  # it would load its script from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    warm()
    service = Service(store, settings)
    app.state.service, app.state.streams = service, Streams(service)
    app.state.tokens = tokens or read_or_make(settings.token_path)[0]
    _add_errors(app, settings)
    _add_page(app)
    _add_jobs(app)
    _add_files(app)
    _add_health(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
            expose_headers=["Location", "Retry-After"],
        )
    app.add_middleware(Guard, settings=settings)
    return app


def _who(request: Request, shown: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]) -> str:
    """Who asks, by the token in the Authorization header."""
    who = request.app.state.tokens.who(shown.credentials) if shown else ""
    if not who:
        raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})
    return who


def _reader(
    request: Request, shown: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]
) -> str:
    """Who asks for a file: by token, or by the cookie that the page got for its links."""
    tokens = request.app.state.tokens
    if not shown and tokens.is_reader(request.cookies.get(tokens.cookie, "")):
        return "reader"
    return _who(request, shown)


Who = Annotated[str, Depends(_who)]
_REFUSED: dict[int | str, dict[str, Any]] = {401: {"model": Problem, "description": _WORDS[401]}}
_NO_JOB = {**_REFUSED, 404: {"model": Problem, "description": "no such job"}}
_START = {
    **_REFUSED,
    400: {"model": Problem, "description": "the body is not JSON"},
    409: {"model": Problem, "description": "the name, or the key with another request, is taken"},
    413: {"model": Problem, "description": f"more than {BODY_BYTES // 1024} kB"},
    422: {"model": Problem, "description": "a rule of this service is broken, or it could not run"},
    429: {"model": Problem, "description": "the queue is full, or too many at once; see Retry-After"},
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": StartJob.model_json_schema()}},
    },
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "the same key and body give the same job, however often they are sent",
            "schema": {"type": "string", "maxLength": 200},
            "example": "5f0c2c1e-flight-12",
        }
    ],
}


def _add_jobs(app: FastAPI) -> None:
    service: Service = app.state.service

    @app.post(
        "/start-job", status_code=202, response_model=Started, responses=_START, openapi_extra=_BODY,
        summary="Start a job",
    )  # fmt: skip
    async def start_job(request: Request, who: Who) -> Response:
        body = await _read_body(request)
        key = request.headers.get("Idempotency-Key", "")
        return _send(await run_in_threadpool(service.start, body, key, who))

    @app.get("/jobs", response_model=JobList, responses=_REFUSED, summary="Jobs, newest first")
    def list_jobs(
        who: Who,
        state: Annotated[list[str] | None, Query(description="only these states")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Response:
        return _send(service.jobs(state or (), limit))

    @app.get("/jobs/{name}", response_model=JobView, responses=_NO_JOB, summary="How a job stands")
    def one_job(name: str, who: Who) -> Response:
        return _send(service.job(name))

    @app.post("/jobs/{name}/cancel", response_model=JobView, responses=_NO_JOB, summary="Stop a job")
    def cancel(name: str, who: Who) -> Response:
        return _send(service.cancel(name))

    stream = {200: {"description": "server-sent events", "content": {"text/event-stream": {}}}}

    @app.get(
        "/jobs/{name}/events", response_class=Response, responses={**_NO_JOB, **stream},
        summary="Follow a job; Last-Event-ID goes on after an event",
    )  # fmt: skip
    def follow(name: str, who: Who, request: Request) -> Response:
        found = app.state.streams.follow(name, request.headers.get("Last-Event-ID", ""))
        return _send(found) if isinstance(found, Answer) else EventStream(found, headers=HEADERS)

    @app.get("/about", response_model=About, responses=_REFUSED, summary="Presets and what is allowed")
    def about(who: Who) -> Response:
        return _send(service.about())


def _add_files(app: FastAPI) -> None:
    service: Service = app.state.service

    @app.post("/session", status_code=204, responses=_REFUSED, summary="Let this browser open reports")
    def session(who: Who, request: Request) -> Response:
        tokens, answer = app.state.tokens, Response(status_code=204)
        # No path: the browser takes the folder that it sees, also behind a proxy that adds one.
        answer.set_cookie(
            tokens.cookie, tokens.reader(), max_age=READER_SECONDS, path=None, httponly=True,
            samesite="strict", secure=request.url.scheme == "https",
        )  # fmt: skip
        return answer

    def add(kind: str, what: str) -> None:
        @app.get(
            f"/jobs/{{name}}/{kind}", response_class=Response, responses=_NO_JOB, summary=what,
            operation_id=f"file_{kind.replace('.', '_')}",
        )  # fmt: skip
        def file(name: str, reader: Annotated[str, Depends(_reader)], request: Request) -> Response:
            return _send(service.content(name, kind, request.headers.get("Range", "")))

    summaries = {"report": "The report", "viewer": "The splat, to be turned", "splat.sog": "The splat"}
    for kind in NEEDS:
        add(kind, summaries[kind])


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def index() -> Response:
        policy = {"Content-Security-Policy": PAGE_POLICY}
        return Response(page.index("token"), media_type="text/html; charset=utf-8", headers=policy)

    def add(name: str) -> None:
        @app.get(f"/{name}", include_in_schema=False)
        def file() -> Response:
            path, media_type = page.FILES[name]
            return Response(path.read_bytes(), headers={"Content-Type": media_type})

    for name in page.FILES:
        add(name)


def _add_health(app: FastAPI) -> None:
    @app.get("/healthz", summary="Whether the service and its queue answer; needs no token")
    def health() -> Response:
        try:
            app.state.service.store.counts()
        except Exception:
            logger.exception("the queue does not answer")
            return JSONResponse({"status": "the queue does not answer"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", include_in_schema=False)
    def metrics(who: Who) -> Response:
        try:
            text = prometheus_text(app.state.service.store)
        except InputError as error:
            raise HTTPException(501, error.what) from error
        return Response(text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _add_errors(app: FastAPI, settings: ServeSettings) -> None:
    @app.exception_handler(StarletteHTTPException)
    def http(_: Request, error: StarletteHTTPException) -> Response:
        message = _WORDS.get(error.status_code, str(error.detail))
        problem = Problem(code=NotAllowedError.code, message=message)
        return JSONResponse(problem.model_dump(), error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    def query(_: Request, error: RequestValidationError) -> Response:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))[:60]}: {e['msg']}" for e in error.errors()[:5])
        return _send(refusal(ParamsError("the request cannot be used", got=faults), settings.data))

    @app.exception_handler(Exception)
    def anything(_: Request, error: Exception) -> Response:
        return _send(refusal(error, settings.data))


async def _read_body(request: Request) -> bytes:
    """The body, or so much of it that it is seen to be too large."""
    body, total = b"", 0
    async for chunk in request.stream():
        total += len(chunk)
        body += chunk[: BODY_BYTES + 1 - len(body)]
        if total > DRAINED_BYTES:
            break
    return body


def _send(answer: Answer | Content) -> Response:
    if isinstance(answer, Answer):
        if answer.status == 204:
            return Response(status_code=204, headers=answer.headers)
        return JSONResponse(answer.body, answer.status, headers=answer.headers)
    if answer.path is None:
        return Response(answer.body, answer.status, headers=answer.headers)
    return StreamingResponse(answer.chunks(), answer.status, headers=answer.headers)


class EventStream(StreamingResponse):
    """A stream that is closed at once when its reader has gone, and not when memory is tidied."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with contextlib.suppress(RuntimeError):  # it is at work, and ends by being cancelled
                await self.body_iterator.aclose()


class _Server(uvicorn.Server):
    """A server whose streams end when it does: they would hold it up."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.streams.closing = True
        await super().shutdown(sockets)


def serve(settings: ServeSettings, say: Callable[[str], None] = print) -> None:
    """Listen until SIGTERM or Ctrl-C.

    Args:
        settings: what is allowed, and where to listen.
        say: takes the lines a person should see.

    Raises:
        InputError: the address cannot be listened at.
        NotAllowedError: the token file is not safe.
    """
    tokens, made = read_or_make(settings.token_path)
    app = create_app(settings, Store(store_path(settings.data), settings.queue_limit), tokens)
    listener = _listen(settings.host, settings.port)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    say(f"http://{host}:{listener.getsockname()[1]}/")
    say(f"token: {'made, ' if made else ''}in {settings.token_path}")
    if settings.host not in LOOPBACK:
        say("others can reach this address, and the token travels as it is: put HTTPS in front of it")
    with listener, contextlib.suppress(KeyboardInterrupt):
        _Server(_config(app)).run(sockets=[listener])


def _config(app: Any) -> uvicorn.Config:
    # No access log of uvicorn's: it writes whole addresses, with whatever somebody put into them.
    logging.getLogger("uvicorn.access").disabled = True
    return uvicorn.Config(
        app, access_log=False, log_config=None, server_header=False, proxy_headers=False,
        timeout_graceful_shutdown=5,
    )  # fmt: skip


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=256)
        # asyncio does so for sockets it made itself only; without, answers wait 40 ms for the caller's ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise InputError(
            f"cannot listen at {host}, port {port}",
            got=error.strerror,
            hint="--port 0 takes a free one" if error.errno == errno.EADDRINUSE else "check --host",
        ) from error
