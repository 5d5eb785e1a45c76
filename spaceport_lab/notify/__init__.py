"""Telling people how their job ended: mail and signed webhooks, out of the queue's outbox."""

from spaceport_lab.notify.deliver import deliver_due, loop, make_senders
from spaceport_lab.notify.messages import Message, compose, payload
from spaceport_lab.notify.outcome import Outcome, Sender
from spaceport_lab.notify.settings import NotifySettings, load

__all__ = [
    "Message",
    "NotifySettings",
    "Outcome",
    "Sender",
    "compose",
    "deliver_due",
    "load",
    "loop",
    "make_senders",
    "payload",
]
