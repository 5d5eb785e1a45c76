"""How far a run is, read from its card and its progress file while another process writes them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spaceport_lab import runcard
from spaceport_lab.jobs.text import tidy
from spaceport_lab.naming import STEPS
from spaceport_lab.params import STAGES

WEIGHTS = {"ingest": 5.0, "sfm": 25.0, "train": 55.0, "compress": 10.0, "inspect": 5.0}
"""A stage's usual part of a run's time; only for the bar."""

DONE = ("succeeded", "reused")


class Watcher:
    """What happens in a run folder, as columns and events of a job.

    Args:
        root: the run folder; need not exist.
        steps: which were asked for.
        known: entries of the card, by stage, that earlier attempts have told.
    """

    def __init__(self, root: Path, steps: str, known: object = None) -> None:
        self.root = Path(root)
        self._share = 0.0
        self._stages = STEPS[steps]
        self._told = {stage: _mark(entry) for stage, entry in _entries(known).items()}

    def look(self) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
        """Columns stage, progress and message as far as they are known, and events since the last look."""
        entries = stage_entries(self.root)
        columns: dict[str, Any] = {}
        running = [stage for stage in self._stages if _status(entries, stage) == "running"]
        state = self._state() if running else {}
        self._share = max(self._share, _share(self._stages, entries, state))
        if entries:
            columns["progress"] = self._share
        if running:
            columns["stage"] = running[-1]
            columns["message"] = tidy(state.get("message", ""), 200)
        return columns, self._news(entries)

    def progress(self) -> dict[str, Any] | None:
        """The running stage's newest state, as the data of an event; None when there is none."""
        entries = stage_entries(self.root)
        running = [stage for stage in self._stages if _status(entries, stage) == "running"]
        state = self._state()
        if not running or not state:
            return None
        numbers = {
            tidy(name, 60): value
            for name, value in (state.get("values") or {}).items()
            if isinstance(value, (int, float))
        }
        return {
            "stage": running[-1],
            "progress": round(self._share, 4),
            "step": state.get("step"),
            "total": state.get("total"),
            "message": tidy(state.get("message", ""), 200),
            "values": numbers,
        }

    def _news(self, entries: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
        news: list[tuple[str, dict[str, Any]]] = []
        for stage, entry in entries.items():
            mark = _mark(entry)
            if self._told.get(stage) == mark:
                continue
            self._told[stage] = mark
            status = _status(entries, stage)
            if status == "pending":
                continue
            seconds = entry.get("seconds") if status in DONE else None
            news.append(("stage", {"stage": stage, "status": status, "seconds": seconds}))
            if status in DONE:
                warnings = entry.get("warnings") or []
                news += [("warning", {"stage": stage, "message": tidy(text, 1000)}) for text in warnings]
        return news

    def _state(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((self.root / "progress.json").read_text())
            return found if isinstance(found, dict) else {}
        return {}


def stage_entries(root: Path) -> dict[str, dict[str, Any]]:
    """Stage → its entry on the run card; of a card that is missing, damaged or odd nothing."""
    card: Any = None
    with contextlib.suppress(OSError, ValueError):
        card = runcard.read(root)
    return _entries(card.get("stages") if isinstance(card, dict) else None)


def _entries(found: object) -> dict[str, dict[str, Any]]:
    if not isinstance(found, dict):
        return {}
    return {stage: found[stage] for stage in STAGES if isinstance(found.get(stage), dict)}


def _status(entries: dict[str, dict[str, Any]], stage: str) -> str:
    return str(entries.get(stage, {}).get("status", "pending"))


def _mark(entry: dict[str, Any]) -> tuple[Any, Any]:
    """A stage begun anew has a new start, even where its status is what it was when it was killed."""
    return entry.get("status"), entry.get("started")


def _share(stages: Sequence[str], entries: dict[str, dict[str, Any]], state: dict[str, Any]) -> float:
    """Part of the whole run that is done, 0 to 1: finished stages, and the running one as far as it is."""
    done = sum(WEIGHTS[stage] for stage in stages if _status(entries, stage) in DONE)
    step, total = state.get("step"), state.get("total")
    if isinstance(step, (int, float)) and isinstance(total, (int, float)) and total > 0:
        running = [WEIGHTS[stage] for stage in stages if _status(entries, stage) == "running"]
        done += max(running, default=0.0) * min(1.0, max(0.0, step / total))
    return min(1.0, done / sum(WEIGHTS[stage] for stage in stages))
