"""Atomic writes and content hashes: the only way files of a run are made."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spaceport_lab import fence
from spaceport_lab.errors import WorkspaceError


@contextlib.contextmanager
def clear_os_errors(path: Path) -> Iterator[None]:
    """Turn the disk's own complaints about `path` into a WorkspaceError that says what to do."""
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOSPC: "free some space or choose another folder with --data, then run again",
            errno.EDQUOT: "free some of your quota or choose another folder with --data",
            errno.EACCES: "make the folder writable or choose another one with --data",
            errno.EPERM: "make the folder writable or choose another one with --data",
            errno.EEXIST: "a file lies where a folder is needed: move it or choose another --data",
            errno.ENOTDIR: "a file lies where a folder is needed: move it or choose another --data",
            errno.EROFS: "the file system is read-only: choose another folder with --data",
        }
        if error.errno not in hints:
            raise
        raise WorkspaceError(
            f"cannot write {path}",
            got=os.strerror(error.errno),
            expected="a writable folder with free space; what was there before is untouched",
            hint=hints[error.errno],
        ) from error


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success it replaces `path`, on failure it is removed.

    The file is flushed to the disk before the rename, so a power cut leaves the old file or the new one.

    Raises:
        WorkspaceError: the disk is full or the folder is not writable.
        FencedError: the folder was given to somebody else.
    """
    path = Path(path)
    fence.check(path)
    with clear_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix is kept because writers such as Pillow choose the format by it.
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o666 & ~_umask())
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            fence.check(path)  # what took long to write may have been taken away meanwhile
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` atomically, as UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` atomically; numpy numbers become plain ones, NaN and Inf become null."""
    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def plain(value: Any) -> Any:
    """`value` with numpy scalars, arrays, paths and tuples turned into what JSON knows."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def check_space(target: Path, needed: int, what: str) -> None:
    """Make the folder `target`, and refuse where `needed` bytes of `what` do not fit on its disk.

    Raises:
        WorkspaceError: they do not, or the folder cannot be made.
    """
    with clear_os_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target).free
    if needed > free:
        raise WorkspaceError(
            f"{what} does not fit on the disk of {target}",
            got=f"{free / 1e9:.3f} GB free",
            expected=f"{needed / 1e9:.3f} GB",
            hint="free some space or choose another folder with --data",
        )


def link_or_copy(source: Path, target: Path) -> None:
    """Put `source` at `target` without a second copy where the file system allows it.

    Raises:
        WorkspaceError: the disk is full or the folder is not writable.
    """
    with clear_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(os.path.realpath(source), target)
        except OSError:
            shutil.copyfile(source, target)


def hash_file(path: Path) -> str:
    """The first 32 hexadecimal digits of the file's SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def hash_path(path: Path) -> str:
    """Hash of a file's content, or of a folder's names and contents (sorted, hidden files left out)."""
    path = Path(path)
    if not path.is_dir():
        return hash_file(path)
    entries = {
        file.relative_to(path).as_posix(): hash_file(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(path).parts)
    }
    return hash_json(entries)


def hash_json(content: Any) -> str:
    """Hash of a JSON-like value, independent of the order of its keys."""
    text = json.dumps(plain(content), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
