"""What a person may do to a training that runs: pause it, take single steps, change parameters, stop it.

A `Control` belongs to one training. Buttons and sliders call it from any thread; the loop reads it between
two steps, so that nothing is ever changed within one.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spaceport_lab.errors import ParamsError
from spaceport_lab.params import TrainParams, validate_stage
from spaceport_lab.params.describe import live_names
from spaceport_lab.params.resolve import check_name

LOOK_SECONDS = 0.4
"""A training that waits looks this often for an interrupt."""


@dataclass(frozen=True)
class Change:
    """Parameters that a person changed.

    Attributes:
        step: finished steps when they changed: they are in force from the step after.
        values: name → the new value.
    """

    step: int
    values: dict[str, Any]


class Control:
    """What a person may do to a training that runs; safe from any thread; read by the loop between two steps.

    Args:
        params: of the training that will run; the loop says them anyway when it begins.

    Attributes:
        changes: taken so far, oldest first, those before an interruption included.
        wanted: whether the loop has anything to look at; a plain attribute, all that an undisturbed step
            reads.
    """

    def __init__(self, params: TrainParams | None = None) -> None:
        self.changes: list[Change] = []
        self.wanted = False
        self._params = params or TrainParams()
        self._asked: dict[str, Any] = {}
        self._steps_left: int | None = None  # None: as many as there are; 0: waits
        self._keep = self._kept = self._waiting = self._stop = self._ended = False
        self._changed = threading.Condition()

    def pause(self) -> None:
        """Wait before the next step, after writing a checkpoint."""
        with self._changed:
            self._keep, self._steps_left = not self._kept, 0
            self._wake()

    def resume(self) -> None:
        """Go on."""
        with self._changed:
            self._steps_left, self._keep = None, False
            self._wake()

    def advance(self, steps: int = 1) -> None:
        """Take so many steps, then wait (again).

        Raises:
            ParamsError: fewer than one.
        """
        if steps < 1:
            raise ParamsError("a training advances by whole steps", got=steps, expected="at least 1")
        with self._changed:
            self._steps_left = (self._steps_left or 0) + steps
            self._wake()

    def stop(self) -> None:
        """End before the next step, and keep what there is as after the last one."""
        with self._changed:
            self._stop = True
            self._wake()

    def change(self, **values: Any) -> None:
        """Change parameters from the next step on: all of them at once, or none where one is refused.

        Raises:
            ParamsError: there is no such parameter (with the nearest name), it cannot change while training
                runs, the value is of the wrong type or out of range, or training has ended.
        """
        for name in values:
            check_name("train", name, where="change")
            if name not in live_names(TrainParams):
                raise ParamsError(f"train.{name} cannot change while training runs; set it before")
        with self._changed:
            if self._ended:
                raise ParamsError(
                    "training has ended, nothing can change any more",
                    got=", ".join(sorted(values)),
                    hint="set it before a new training",
                )
            asked = _validated({**self._params.model_dump(), **self._asked, **values})
            now = self._params.model_dump()
            self._asked = {name: value for name, value in asked.items() if value != now[name]}
            self._wake()

    @property
    def params(self) -> TrainParams:
        """As in force, with what waits for the next step."""
        with self._changed:
            return self._params.model_copy(update=self._asked)

    @property
    def paused(self) -> bool:
        """Whether training waits, or will before the next step or at the end of an advance."""
        return self._steps_left is not None and not self._ended

    @property
    def waiting(self) -> bool:
        """Whether training stands still at this moment."""
        return self._waiting

    @property
    def stopping(self) -> bool:
        """Whether training was asked to stop."""
        return self._stop

    # What follows is for the loop.

    def begin(self, params: TrainParams, changes: Sequence[Change]) -> None:
        """Training begins or goes on with these parameters, and with what was changed before."""
        with self._changed:
            self._params, self.changes, self._ended = params, list(changes), False
            now = params.model_dump()
            self._asked = {name: value for name, value in self._asked.items() if value != now[name]}
            self._wake()

    def end(self) -> None:
        """Training has ended, for whatever reason."""
        with self._changed:
            self._ended, self._waiting, self._asked = True, False, {}

    def must_wait(self) -> tuple[bool, bool]:
        """Whether training is to wait now, and whether that wants a checkpoint."""
        with self._changed:
            keep, waits = self._keep, self._steps_left == 0 and not self._stop
            if waits and keep:
                self._keep, self._kept = False, True
            return waits, waits and keep

    def wait(self) -> None:
        """Sleep until the next step may come or training is to stop."""
        with self._changed:
            self._waiting = True
            try:
                # With a time limit, as not every system lets an interrupt through to a wait without one.
                while not self._changed.wait_for(self._has_something_to_do, timeout=LOOK_SECONDS):
                    pass
            finally:
                self._waiting = False

    def take(self, step: int) -> dict[str, Any]:
        """What changes before the next step, of `step` finished ones; counts that step of an advance."""
        with self._changed:
            asked, self._asked = self._asked, {}
            if asked:
                self._params = self._params.model_copy(update=asked)
                self.changes.append(Change(step, asked))
            self._kept = False
            if self._steps_left:
                self._steps_left -= 1
            self.wanted = self._steps_left is not None or self._stop
            return asked

    def _has_something_to_do(self) -> bool:
        return self._steps_left != 0 or self._stop or self._keep

    def _wake(self) -> None:
        self.wanted = bool(self._asked) or self._stop or self._steps_left is not None
        self._changed.notify_all()


def _validated(values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return validate_stage("train", values).model_dump()
    except ParamsError as error:
        got = str(error.got).replace(" (from the notebook)", "")
        raise ParamsError("a parameter cannot change to that", got=got) from error


def in_force(p: TrainParams, changes: Sequence[Change]) -> TrainParams:
    """The parameters after all these changes."""
    for change in changes:
        p = p.model_copy(update=change.values)
    return p


def decisive(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """The changes that decide what is trained, as a stage's key takes them; step and values."""
    fields = TrainParams.model_fields
    kept = []
    for change in changes:
        values = {
            name: value
            for name, value in change.values.items()
            if (fields[name].json_schema_extra or {}).get("key", True)
        }
        if values:
            kept.append({"step": change.step, "values": values})
    return kept
