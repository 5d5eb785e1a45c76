"""A job as strangers may see it: its row of the store and its run card, without the machine's paths."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

from spaceport_lab.jobs.model import Job
from spaceport_lab.logs import redact
from spaceport_lab.naming import STEPS
from spaceport_lab.params import STAGES
from spaceport_lab.serve import results
from spaceport_lab.serve.model import FailureView, JobView, StageView

LONGEST = 2000
"""Characters of a message that are passed on."""

_PATH = re.compile(r"(?<![\w/:.~-])(?:file:/{0,2})?~?(?:/[^\s/'\"<>()\[\]{},;:|]+)+/?")


def scrub(text: str, data: Path) -> str:
    """`text` without secrets, its paths relative to the data folder; of others only the last name is left."""
    root = str(data.resolve())

    def relative(found: re.Match[str]) -> str:
        path = found[0].rstrip("/")
        if path == root or path.startswith(root + "/"):
            return path[len(root) :].lstrip("/") or "."
        return "…/" + path.rpartition("/")[2]

    # A folder's name may hold spaces, which end a path for the pattern: the data folder's goes first.
    return _PATH.sub(relative, redact(text).replace(root + "/", ""))[:LONGEST]


def scrubbed(value: Any, data: Path) -> Any:
    """`scrub` for all texts in something JSON-like."""
    if isinstance(value, str):
        return scrub(value, data)
    if isinstance(value, dict):
        return {str(key): scrubbed(item, data) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrubbed(item, data) for item in value]
    return value


class Cards:
    """Run cards, read again only when they have changed: a list of jobs is asked for every few seconds."""

    def __init__(self, size: int = 500) -> None:
        self.size = size
        self._kept: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def read(self, root: Path | None) -> dict[str, Any]:
        """The run card of a run folder; empty where there is none, or a damaged one."""
        if root is None:
            return {}
        path = root / "run.json"
        try:
            state = path.stat()
            mark = (state.st_mtime_ns, state.st_size)
            with self._lock:
                kept = self._kept.get(path)
            if kept is not None and kept[0] == mark:
                return kept[1]
            card = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return {}
        if not isinstance(card, dict) or not isinstance(card.get("stages"), dict):
            return {}
        with self._lock:
            if len(self._kept) >= self.size:
                self._kept.clear()
            self._kept[path] = (mark, card)
        return card


def job_view(job: Job, data: Path, cards: Cards) -> JobView:
    """The job with what its run card says of it.

    Args:
        job: from the store.
        data: folder of the scenes.
        cards: where run cards are read.
    """
    root = results.run_folder(job, data)
    card = cards.read(root)
    ask = job.ask
    failure = job.failure and FailureView(
        code=job.failure.code,
        stage=job.failure.stage,
        message=scrub(job.failure.message, data),
        hint=scrub(job.failure.hint, data),
    )
    return JobView(
        jobId=job.name,
        name=job.name,
        state=job.state,
        pipelineStep=ask.steps,
        source=scrub(ask.source, data),
        presets=list(ask.presets),
        priority=ask.priority,
        stage=job.stage,
        progress=1.0 if job.state == "succeeded" else min(max(float(job.progress or 0), 0.0), 1.0),
        message=scrub(job.message or "", data),
        attempt=job.attempt,
        maxAttempts=job.max_attempts,
        cancelRequested=job.cancel_requested,
        created=job.created,
        started=job.started,
        ended=job.ended,
        stages=_stages(job, card),
        cost=_number(card.get("cost")),
        warnings=[scrub(w, data) for w in _warnings(card)],
        failure=failure,
        files=results.links(job, root) if job.has_ended else {},
    )


def _stages(job: Job, card: dict[str, Any]) -> list[StageView]:
    entries = card.get("stages", {})
    names = [s for s in STAGES if s in entries] or list(STEPS.get(job.ask.steps, STAGES))
    views = []
    for name in names:
        entry = entries.get(name) if isinstance(entries.get(name), dict) else {}
        status = str(entry.get("status") or "pending")
        if job.state == "running" and status != "succeeded":
            # The card is of the attempt before until this one has come to the stage.
            status = "running" if job.stage == name else "pending"
        elif job.has_ended and status == "running":
            status = "interrupted"
        elif job.state == "succeeded":
            status = "succeeded"  # also when its folder has been tidied away
        elif job.state == "queued" and status != "succeeded":
            status = "pending"
        seconds, cost = _number(entry.get("seconds")), _number(entry.get("cost"))
        views.append(StageView(name=name, status=status, seconds=seconds, cost=cost))
    return views


def _warnings(card: dict[str, Any]) -> list[str]:
    found = []
    for stage, entry in card.get("stages", {}).items():
        if isinstance(entry, dict) and isinstance(entry.get("warnings"), list):
            found += [f"{stage}: {text}" for text in entry["warnings"]]
    return found[:50]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
