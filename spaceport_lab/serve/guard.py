"""What every request to `spaceport-lab serve` goes through: Host check, security headers, a log line."""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Any

from spaceport_lab.errors import NotAllowedError
from spaceport_lab.serve.settings import ServeSettings

logger = logging.getLogger(__name__)

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy of the start page: its own files and its own service, nothing inline."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Sent with every answer that does not say otherwise itself."""

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9.-]+))(?::[0-9]{1,5})?")


class Guard:
    """ASGI middleware, outermost: nothing else sees a request that was sent to another host's name.

    A page elsewhere can make a browser's requests to its own name arrive here, by letting the name point here
    (DNS rebinding); the `Host` header then still has that name.
    """

    def __init__(self, app: Any, settings: ServeSettings) -> None:
        self.app, self.hosts = app, settings.allowed_hosts

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def send_with_headers(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                there = {name.lower() for name, _ in message["headers"]}
                more = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message["headers"] = [*message["headers"], *(h for h in more if h[0] not in there)]
            await send(message)

        try:
            if self._is_ours(scope):
                await self.app(scope, receive, send_with_headers)
            else:
                await _refuse(send_with_headers)
        finally:
            # Without the query: somebody's mistake must not bring a token into the log.
            path = scope.get("raw_path", b"").decode("ascii", "replace").partition("?")[0][:200]
            seconds = time.monotonic() - started
            # Pages look every few seconds how jobs stand, which would drown the rest.
            level = logging.DEBUG if scope["method"] == "GET" and status < 400 else logging.INFO
            logger.log(level, "%s %s %s %.3f s", scope["method"], path, status, seconds)

    def _is_ours(self, scope: dict[str, Any]) -> bool:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        found = _HOST.fullmatch(hosts[0].decode("latin-1").lower()) if len(hosts) == 1 else None
        return found is not None and (found[1] or found[2]) in self.hosts


async def _refuse(send: Any) -> None:
    problem = {
        "code": NotAllowedError.code,
        "message": "this service is not called by that name",
        "hint": "use 127.0.0.1, or put the name into the setting hosts",
    }
    body = json.dumps(problem).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 421, "headers": headers})
    await send({"type": "http.response.body", "body": body})
