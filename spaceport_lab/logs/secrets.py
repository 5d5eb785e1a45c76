"""Secrets taken out of text before anybody reads it: tokens, passwords, keys of AWS.

Better too much is hidden than too little: what follows a word such as `token=` goes, whatever it is. A secret
that nothing announces, such as a password alone on a line, cannot be known for one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
DEPTH = 8
"""Dicts and lists nested deeper are shown as text."""

_IS = r"""\\?["']?\s{0,3}[:=]\s{0,3}"""
_VALUE = r"""(?:(?P<quote>["'])(?:\\.|(?!(?P=quote))[^\\])*(?P=quote)|[^\s&]+)"""
_WORDS = (
    r"pass(?:word|wd|phrase)|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credentials?|signature"
)
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # user:password@ of an address; a password may hold @, a host cannot.
    (re.compile(r"(?i)([a-z][a-z0-9+.-]{0,20}://)[^\s/?#]+@"), rf"\1{MASK}@"),
    (re.compile(rf"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie)({_IS})[^\r\n]+"), rf"\1\2{MASK}"),
    (re.compile(r"(?i)\b(bearer)\s+[^\s\"',;]+"), rf"\1 {MASK}"),
    # The word may be part of a longer name: SMTP_PASSWORD, X-Amz-Security-Token, secretAccessKey.
    (re.compile(rf"(?i)((?:{_WORDS})[\w-]{{0,40}}{_IS}){_VALUE}"), rf"\1\g<quote>{MASK}\g<quote>"),
    (re.compile(r"whsec_[^\s\"',;&]+"), MASK),
    (re.compile(r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{12,}"), MASK),
)
_FIELD = re.compile(rf"(?i)(?:{_WORDS}|authorization|cookie)s?$")
_PLAIN = (bool, int, float, type(None))


def redact(text: str) -> str:
    """The text with what looks like a secret replaced by `***`; doing it twice changes nothing more."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def without_secrets(value: Any, depth: int = DEPTH) -> Any:
    """A value of a log line, made of what JSON knows; secrets are masked by their field's name and by look.

    Whatever JSON does not know becomes text first, so that nothing is written that was not looked at.
    """
    if isinstance(value, _PLAIN):
        return value
    if depth and isinstance(value, Mapping):
        return {redact(str(k)): _field(str(k), v, depth - 1) for k, v in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [without_secrets(item, depth - 1) for item in value]
    return redact(_text(value))


def _field(name: str, value: Any, depth: int) -> Any:
    # A number is no secret: the fencing token of a run folder is one that people look for.
    if isinstance(value, str | bytes) and value and _FIELD.search(name):
        return MASK
    return without_secrets(value, depth)


def _text(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", errors="replace")
    try:
        return str(value)
    except Exception as error:  # somebody else's __str__; a log line must come out all the same
        return f"<{type(value).__name__} without text: {type(error).__name__}>"
