"""Bearer tokens: in a file that only its owner may read, compared in constant time, never in a log."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import time
from pathlib import Path

from spaceport_lab import files
from spaceport_lab.errors import NotAllowedError

SHORTEST = 20
"""Characters of a token; what is made here has 43."""

READER_SECONDS = 12 * 3600
"""How long a browser may open reports after its page has shown a token."""


class Tokens:
    """The tokens that open a service.

    Args:
        tokens: at least one.
    """

    def __init__(self, tokens: tuple[str, ...]) -> None:
        self._digests = tuple(_digest(token) for token in tokens)
        self._key = hashlib.sha256(b"reader" + b"".join(self._digests)).digest()

    def who(self, shown: str) -> str:
        """`token 1` for the first token; empty for one that is not known. Takes as long either way."""
        digest = _digest(shown)
        found = ""
        for number, known in enumerate(self._digests, 1):
            if hmac.compare_digest(digest, known):
                found = f"token {number}"
        return found

    @property
    def cookie(self) -> str:
        """Name of the readers' cookie: services on other ports of this host have other ones."""
        return f"spaceport_reader_{hashlib.sha256(self._key).hexdigest()[:8]}"

    def reader(self, now: float | None = None) -> str:
        """A cookie's value that lets a browser open reports for some hours, and do nothing else."""
        ends = str(int((time.time() if now is None else now) + READER_SECONDS))
        return f"{ends}.{self._sign(ends)}"

    def is_reader(self, value: str, now: float | None = None) -> bool:
        """Whether a cookie's value is one of `reader`, and still good."""
        ends, _, signature = value.partition(".")
        now = time.time() if now is None else now
        right = hmac.compare_digest(signature.encode(), self._sign(ends).encode())
        return right and ends.isascii() and ends.isdigit() and int(ends) > now

    def _sign(self, ends: str) -> str:
        return hmac.new(self._key, ends.encode(), hashlib.sha256).hexdigest()


def read_or_make(path: Path) -> tuple[Tokens, bool]:
    """The tokens of a file, one a line, `#` for remarks; a file with a new one is made where there is none.

    Returns:
        The tokens, and whether the file was made.

    Raises:
        NotAllowedError: others may read the file, or it holds no token, or one that can be guessed.
        WorkspaceError: the file cannot be made.
    """
    made = False
    with files.clear_os_errors(path):
        if not path.exists():
            made = _make(path)
        state = path.stat()
        if not stat.S_ISREG(state.st_mode) or state.st_mode & 0o077 or state.st_uid != os.getuid():
            raise NotAllowedError(
                f"others than you may read or change the token file {path}",
                expected="an ordinary file of yours with mode 600",
                hint=f"chmod 600 {path}, and put a new token into it",
            )
        lines = path.read_text(errors="replace").splitlines()
    tokens = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not tokens or any(len(token) < SHORTEST for token in tokens):
        raise NotAllowedError(
            f"the token file {path} has no token that is safe",
            expected=f"one a line, {SHORTEST} characters or more",
            hint="delete the file, and one is made at the next start",
        )
    return Tokens(tokens), made


def _make(path: Path) -> bool:
    """Write a new token; False when somebody else was quicker, whose token then counts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)  # unlike a rename it never takes another's place
            return True
        return False
    finally:
        temporary.unlink()


def _digest(token: str) -> bytes:
    # All of one length, so that comparing tells nothing of a token's length either.
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
