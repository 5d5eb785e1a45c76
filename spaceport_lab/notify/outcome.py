"""How a try to deliver a letter ended, which every sender says in the same words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from spaceport_lab.jobs.model import Letter


@dataclass(frozen=True)
class Outcome:
    """How a try ended.

    Attributes:
        state: sent; later: it may work another time; never: it will not.
        reason: why not.
        after_s: [s] the receiver asked us to wait.
    """

    state: Literal["sent", "later", "never"]
    reason: str = ""
    after_s: float = 0.0


Sender = Callable[[Letter], Outcome]
