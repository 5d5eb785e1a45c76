"""Text of unknown origin made fit for a database, a log and a mail: readable, short, without secrets."""

from __future__ import annotations

import re

from spaceport_lab.logs import redact

LIMIT = 4096
"""[bytes] What is longer loses its middle: how an error began and how it ended says most."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u2028\u2029]")


def tidy(value: object, limit: int = LIMIT) -> str:
    """`value` as text that can be stored and sent: valid UTF-8, no control characters, no secrets, cut.

    Never raises, whatever `value` does when it is turned into text.
    """
    # Cut first, roughly: a megabyte is not searched for what will not be kept of it.
    return shorten(redact(shorten(_text(value), 4 * max(limit, LIMIT))), limit)


def shorten(text: str, limit: int = LIMIT) -> str:
    """`text` in at most `limit` bytes of UTF-8: what is too much is taken out of the middle, saying so."""
    raw = text.encode()
    if len(raw) <= limit:
        return text
    note = f"\n… {len(raw) - limit:,} bytes left out …\n".encode()
    if limit <= 2 * len(note):
        return raw[:limit].decode(errors="ignore")
    head = (limit - len(note)) // 2
    tail = limit - len(note) - head
    return (raw[:head].decode(errors="ignore") + note.decode() + raw[-tail:].decode(errors="ignore")).strip()


def _text(value: object) -> str:
    try:
        raw = value.decode(errors="replace") if isinstance(value, (bytes, bytearray)) else str(value)
    except Exception:  # somebody's __str__ is broken, which must not hide that there was an error
        raw = f"<{type(value).__name__} that cannot be written as text>"
    raw = raw.replace("\r\n", "\n").replace("\r", "\n")
    # What came from the file system may hold surrogates, which are no UTF-8.
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", raw.encode(errors="replace").decode())
