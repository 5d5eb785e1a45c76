"""One line for each scene of a batch, read from its run card."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaceport_lab import runcard
from spaceport_lab.jobs.model import Failure
from spaceport_lab.params import STAGES

STATES = ("waiting", "running", "succeeded", "failed", "interrupted")


@dataclass(frozen=True)
class Row:
    """How a scene stands.

    Attributes:
        scene, job, run_dir: what it is called, and where it is run.
        state: one of STATES.
        before: whether it had succeeded before this batch was started, and nothing was run.
        stage: the last one at work, or the one that failed.
        progress: of the whole run, 0 to 1.
        message: what is being done, a few words.
        code, reason, log: of its failure; empty otherwise.
        psnr: of held-out views, of the compressed splat where there is one [dB].
        size: of the .sog [bytes].
        seconds: of all stages.
        attempts: how many were begun, ever.
    """

    scene: str
    job: str
    run_dir: str
    state: str = "waiting"
    before: bool = False
    stage: str = ""
    progress: float = 0.0
    message: str = ""
    code: str = ""
    reason: str = ""
    log: str = ""
    psnr: float | None = None
    size: int | None = None
    seconds: float | None = None
    attempts: int = 0

    def with_facts(self, found: Mapping[str, Any], **values: Any) -> Row:
        """This row with what a card says (see `facts`), and with `values`."""
        return dataclasses.replace(self, **{**found, **values})

    def failed(self, failure: Failure) -> Row:
        """This row, failed."""
        return dataclasses.replace(
            self,
            state="failed",
            stage=failure.stage or self.stage,
            code=failure.code,
            reason=failure.message.removesuffix("."),
            log=failure.log,
            message="",
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)


def facts(root: Path | None) -> dict[str, Any]:
    """Fields stage, psnr, size, seconds and attempts of a row, as far as the run card knows them."""
    card: Any = None
    with contextlib.suppress(OSError, ValueError):
        card = runcard.read(root) if root else None
    if not isinstance(card, dict):
        return {}
    stages = card.get("stages") or {}
    begun = [s for s in STAGES if stages.get(s, {}).get("status", "pending") != "pending"]

    def metric(stage: str, name: str) -> Any:
        return (stages.get(stage, {}).get("metrics") or {}).get(name)

    psnr = next((p for s in ("compress", "inspect", "train") if (p := metric(s, "psnr_heldout"))), None)
    return {
        "stage": begun[-1] if begun else "",
        "psnr": psnr,
        "size": metric("compress", "bytes"),
        "seconds": round(sum(s.get("seconds") or 0 for s in stages.values()), 2) if begun else None,
        "attempts": len(card.get("attempts") or ()),
    }


def at_work(root: Path | None) -> bool:
    """Whether the card says that an attempt is at work in the run folder."""
    with contextlib.suppress(OSError, ValueError):
        attempts = ((runcard.read(root) if root else None) or {}).get("attempts") or [{}]
        return attempts[-1].get("state") == "running"
    return False
