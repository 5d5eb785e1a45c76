"""Letters out of the queue's outbox, each to its end: sent, tried again later, or buried with the reason.

A letter is made in the transaction that ends its job, and settled only here, so a mail server that is down
never changes what a job is. Between sending and settling lies a moment in which a crash would send a letter
again: its id is the same each time (Message-ID, webhook-id), by which a receiver can know it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from spaceport_lab.errors import SpaceportError
from spaceport_lab.jobs.model import Letter
from spaceport_lab.logs import redact
from spaceport_lab.notify import mail, webhooks
from spaceport_lab.notify.outcome import Outcome, Sender
from spaceport_lab.notify.settings import NotifySettings

logger = logging.getLogger(__name__)

FIRST_DELAY_S, LONGEST_DELAY_S = 60.0, 6 * 3600.0
"""A second try comes after the first of these; each later one after twice as long, up to the second."""

EVERY_S = 5.0
"""The outbox is looked into this often."""

DEADLINE_S, LAST_S = 60.0, 10.0
"""A try is given up after so long; after so long when the program ends. Far less than a letter's lease."""

AT_ONCE = 8
"""Letters on their way at a time: a server that hangs must not hold up the others."""

NOT_SET_UP, SET_UP_S = "nothing is set up", 900.0
"""Why a channel without a sender sends nothing, and how many seconds it is waited for at the most."""

REASON = 500  # characters


class Outbox(Protocol):
    """What is needed of the store of jobs."""

    def letters(self, limit: int = 20) -> Sequence[Letter]: ...

    def sent(self, letter: Letter) -> object: ...

    def postpone(self, letter: Letter, error: str, delay_s: float) -> object: ...

    def bury(self, letter: Letter, error: str) -> object: ...


def make_senders(settings: NotifySettings, resolve: Callable[[str], str] | None = None) -> dict[str, Sender]:
    """A sender for each channel that is set up.

    Args:
        settings: from `settings.load`.
        resolve: gives the IP address to connect to for a webhook's URL, or raises NotAllowedError; without it
            no webhook is called.

    Raises:
        InputError: what is asked for needs a package that is not installed.
    """
    senders: dict[str, Sender] = {}
    if settings.mail != "none":
        senders["email"] = mail.make_sender(settings)
    if resolve is not None and settings.webhook_secret.get_secret_value():
        senders["webhook"] = webhooks.make_sender(settings, resolve)
    return senders


def deliver_due(
    store: Outbox,
    senders: Mapping[str, Sender],
    now: float | None = None,
    *,
    give_up_days: float = 3.0,
    deadline_s: float = DEADLINE_S,
    limit: int = AT_ONCE,
) -> Counter[str]:
    """Send what is due and settle it.

    Args:
        store: the queue.
        senders: by channel. A channel without one keeps its letters, until it is set up or they are too old.
        now: Unix seconds; None for now.
        give_up_days: [days] after its job's end a letter that still cannot be sent is buried.
        deadline_s: [s] after which a try counts as failed, whatever it is still doing.
        limit: letters at a time.

    Returns:
        How many were `sent`, `postponed` and `buried`.
    """
    now = time.time() if now is None else now
    letters = list(store.letters(limit))
    until = time.monotonic() + deadline_s
    tries = [(letter, _begin(senders.get(letter.channel), letter)) for letter in letters]
    counts: Counter[str] = Counter()
    for letter, future in tries:
        outcome = _outcome(future, until - time.monotonic(), deadline_s)
        try:
            counts[_settle(store, letter, outcome, now, give_up_days)] += 1
        except SpaceportError as error:  # the letter comes again when its lease is over
            logger.error("letter %d could not be settled: %s", letter.id, error.what)
    return counts


def loop(
    store: Outbox,
    senders: Mapping[str, Sender],
    stop: threading.Event,
    *,
    every_s: float = EVERY_S,
    give_up_days: float = 3.0,
) -> None:
    """Deliver until `stop` is set, and once more then: for a thread beside a worker.

    Nothing that goes wrong in it ends it.
    """
    last = False
    while not last:
        last = stop.is_set()  # what the last job left is still sent
        try:
            deadline = LAST_S if last else DEADLINE_S
            counts = deliver_due(store, senders, give_up_days=give_up_days, deadline_s=deadline)
            busy = counts.total() >= AT_ONCE
        except Exception:  # a full disk or a locked database passes; the thread must still be there then
            logger.exception("the outbox could not be read")
            busy = False
        if not last:
            stop.wait(0 if busy else every_s)


def delay(attempts: int) -> float:
    """[s] until the next try after `attempts` failed before this one: 1, 2, 4 minutes … 6 hours."""
    return min(FIRST_DELAY_S * 2.0 ** min(attempts, 30), LONGEST_DELAY_S)


def _begin(sender: Sender | None, letter: Letter) -> Future[Outcome]:
    """Start a try in a thread of its own, which may hang without holding up the end of the process."""
    future: Future[Outcome] = Future()
    if sender is None:
        future.set_result(Outcome("later", f"{NOT_SET_UP} for {letter.channel}"))
        return future

    def work() -> None:
        try:
            future.set_result(sender(letter))
        except Exception as error:
            logger.exception("letter %d: not foreseen", letter.id)
            future.set_result(Outcome("later", f"{type(error).__name__}: {error}"))

    threading.Thread(target=work, name=f"letter-{letter.id}", daemon=True).start()
    return future


def _outcome(future: Future[Outcome], left_s: float, deadline_s: float) -> Outcome:
    try:
        return future.result(max(0.0, left_s))
    except TimeoutError:
        return Outcome("later", f"no end after {deadline_s:g} s")


def _settle(store: Outbox, letter: Letter, outcome: Outcome, now: float, give_up_days: float) -> str:
    said = f"letter {letter.id} ({letter.channel}, {letter.job.name} {letter.kind})"
    if outcome.state == "sent":
        store.sent(letter)
        logger.info("%s sent", said)
        return "sent"
    reason = " ".join(redact(outcome.reason).split())[:REASON]
    too_old = now - (letter.job.ended or now) > 86400 * give_up_days
    if outcome.state == "never" or too_old:
        if outcome.state == "later":
            reason = f"given up after {give_up_days:g} days: {reason}"
        store.bury(letter, reason)
        logger.error("%s is a dead letter: %s", said, _impersonal(reason, letter))
        return "buried"
    wait = max(delay(letter.attempts), min(outcome.after_s, LONGEST_DELAY_S))
    if reason.startswith(NOT_SET_UP):
        wait = min(wait, SET_UP_S)  # who sets it up now does not want to wait for hours
    store.postpone(letter, reason, wait)
    logger.warning("%s not sent, again in %.0f s: %s", said, wait, _impersonal(reason, letter))
    return "postponed"


def _impersonal(reason: str, letter: Letter) -> str:
    """Logs go further than the queue does: who a letter was for stays there."""
    return reason.replace(letter.address, "…") if letter.address else reason
