"""A fencing token for a run folder, so that a worker that lost its job can write nothing there any more.

Whoever hands out jobs gives each attempt a greater number. An attempt takes the folder by writing its
number into `.fence`, and keeps it in its environment, from which its children have it. Each atomic write asks
first whether the folder still has that number (Kleppmann 2016, "How to do distributed locking": the storage,
not the lock, has the last word). Without a number nothing is asked: a person's own run has the file lock.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import filelock

from spaceport_lab.errors import FencedError

VARIABLE = "SPACEPORT_FENCE"
NAME = ".fence"


def take(root: Path, token: int) -> None:
    """Let this process and its children write into `root` as attempt number `token`.

    Raises:
        FencedError: a later attempt has taken the folder.
    """
    root = Path(root).resolve()
    root.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(root / f"{NAME}.lock", timeout=30):  # of two at once the greater number must stay
        newest = _newest(root)
        if newest > token:
            raise _refused(root, token, newest)
        temporary = root / f"{NAME}-{token}-{os.getpid()}"
        temporary.write_text(str(token))
        temporary.replace(root / NAME)
    os.environ[VARIABLE] = f"{token}:{root}"


def give_up() -> None:
    """Ask no more: what this process writes from now on is nobody's attempt."""
    os.environ.pop(VARIABLE, None)


def check(path: Path) -> None:
    """Refuse to write `path` when it lies in a folder that a later attempt has taken.

    Raises:
        FencedError: it does.
    """
    held = os.environ.get(VARIABLE)
    if not held:
        return
    token, _, folder = held.partition(":")
    root = Path(folder)
    if root not in Path(path).absolute().parents:
        return
    newest = _newest(root)
    if newest > int(token):
        raise _refused(root, int(token), newest)


def _newest(root: Path) -> int:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int((root / NAME).read_text())
    return -1


def _refused(root: Path, token: int, newest: int) -> FencedError:
    return FencedError(
        f"{root.name} was given to somebody else, and this attempt writes nothing more",
        got=f"attempt {token}",
        expected=f"attempt {newest}, which has {root}",
        hint="nothing: the later attempt goes on from what was finished",
    )
