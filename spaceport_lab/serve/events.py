"""A job's events as a stream (server-sent events): resumable, with a heartbeat, ending with the job.

`event: state|stage|progress|warning|attempt` with an id each; `event: job`, without one, has the whole job
whenever it has changed; `event: end`, last, too. `Last-Event-ID` goes on after that event; after the end's
own there is nothing to come (204), which ends the reconnecting of a browser's EventSource.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

from spaceport_lab.errors import QueueFullError
from spaceport_lab.serve.core import Answer, Service, refusal
from spaceport_lab.serve.views import scrubbed

POLL_SECONDS = 0.5
BEAT_SECONDS = 15.0
"""A silent stream says so this often, so that nobody on the way takes it for dead."""

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would keep it back
}

_ID = re.compile(r"([0-9]{1,15})(-end)?")


class Streams:
    """The streams of one door; so many at a time."""

    def __init__(self, service: Service) -> None:
        self.service, self.open, self.closing = service, 0, False

    def follow(self, name: str, last_id: str = "") -> Answer | AsyncIterator[bytes]:
        """A job's events after `last_id`; an answer instead when there are none to come, or with why not."""
        try:
            self.service.find(name)
            if self.open >= self.service.settings.streams:
                raise QueueFullError("too many follow events already", hint="ask for the job itself instead")
        except Exception as error:
            return refusal(error, self.service.settings.data)
        found = _ID.fullmatch(last_id.strip())
        if found and found[2]:
            return Answer(204, {})
        return self._events(name, int(found[1]) if found else 0)

    async def _events(self, name: str, after: int) -> AsyncIterator[bytes]:
        self.open += 1
        try:
            shown: dict[str, Any] = {}
            silent = 0.0
            yield b"retry: 2000\n\n"
            while not self.closing:
                # The job first: when it has ended, all its events are there to be read.
                view, ended, events = await asyncio.to_thread(self._look, name, after)
                for event in events:
                    after = event.seq
                    values = {"seq": event.seq, "time": event.time, "kind": event.kind}
                    data = scrubbed(event.data, self.service.settings.data)
                    yield message(event.kind, {**data, **values}, str(after))
                if events:
                    silent = 0.0
                elif ended:
                    yield message("end", view, f"{after}-end")
                    return
                if view != shown:
                    shown, silent = view, 0.0
                    yield message("job", view)
                if silent >= BEAT_SECONDS:
                    silent = 0.0
                    yield b": still here\n\n"
                if not events:
                    await asyncio.sleep(POLL_SECONDS)
                    silent += POLL_SECONDS
        finally:
            self.open -= 1

    def _look(self, name: str, after: int) -> tuple[dict[str, Any], bool, list[Any]]:
        job = self.service.store.get(name)
        return self.service.view(job), job.has_ended, self.service.store.events(name, after)


def message(kind: str, data: dict[str, Any], number: str = "") -> bytes:
    """One server-sent event; JSON has no line breaks, so one data line does."""
    head = f"id: {number}\n" if number else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
