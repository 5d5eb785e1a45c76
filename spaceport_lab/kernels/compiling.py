"""How kernels are compiled, and where the machine code is kept.

numba's own cache watches only the file a kernel stands in: an edit to a helper that was inlined into it would
leave stale machine code behind. Here the folder's name holds a hash of every file of this package and the
versions of the compiler, so any edit starts afresh, and a read-only install works because the folder lies in
the user's cache directory (`SPACEPORT_KERNEL_CACHE` names another one).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite
import numba
from filelock import FileLock
from numba.core import config, event

logger = logging.getLogger(__name__)

PACKAGE = __package__.partition(".")[0]
UNUSED_SECONDS = 30 * 24 * 3600

# Additions and multiplications may be fused and the sign of zero ignored. NaN and Inf keep their meaning
# (values are clamped before they become integers) and sums keep their order (results must not depend on the
# compiler's mood).
FAST = frozenset({"contract", "nsz"})


def kernel(*, inline: bool = False) -> Callable[[Callable], Any]:
    """Compile a function with numba: no GIL, no Python errors for division by zero, cached on disk.

    Args:
        inline: for small helpers that are only called by kernels; not cached on their own.
    """

    def decorate(function: Callable) -> Any:
        with _cache_folder() as cache:
            use_cache = cache is not None and not inline
            # A helper that LLVM leaves as a function of its own exists once per kernel, and the process that
            # compiled may call another kernel's copy than the cached code does: with multiplications and
            # additions fused elsewhere, the last bit would differ. So helpers are always inlined.
            dispatcher = numba.njit(
                function,
                fastmath=set(FAST),
                nogil=True,
                error_model="numpy",
                cache=use_cache,
                forceinline=inline,
            )
        if use_cache:
            _lock_cache(dispatcher, cache)
        return dispatcher

    return decorate


def source_hash() -> str:
    """Hash of every source file of this package, the compiler's versions and the bounds-checking switch."""
    digest = hashlib.sha256()
    for name in (numba.__version__, llvmlite.__version__, sys.version, str(config.BOUNDSCHECK)):
        digest.update(name.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path | None:
    """The folder of this version's machine code, made if needed; None where nothing can be written."""
    for parent in _candidates():
        folder = parent / f"kernels-{source_hash()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            os.utime(folder)
            _forget_unused(parent)
            return folder
        except OSError:
            continue
    logger.warning("No folder can be written for compiled kernels: they are compiled again in every process")
    return None


def _forget_unused(parent: Path) -> None:
    """Remove the machine code of versions that nobody has loaded for a month."""
    for folder in parent.glob("kernels-*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > UNUSED_SECONDS:
                shutil.rmtree(folder)


def _candidates() -> Iterator[Path]:
    if named := os.environ.get("SPACEPORT_KERNEL_CACHE"):
        yield Path(named)
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        yield Path(local) / "spaceport-lab"
    elif xdg := os.environ.get("XDG_CACHE_HOME"):
        yield Path(xdg) / "spaceport-lab"
    with contextlib.suppress(RuntimeError):
        yield Path.home() / ".cache" / "spaceport-lab"
    yield Path(tempfile.gettempdir()) / f"spaceport-lab-{_user()}"


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "user"


_FOLDER = cache_folder()


@contextlib.contextmanager
def _cache_folder() -> Iterator[Path | None]:
    """Point numba's cache to our folder while one kernel is declared; other packages' kernels keep theirs."""
    if _FOLDER is None:
        yield None
        return
    before = config.CACHE_DIR
    config.CACHE_DIR = str(_FOLDER)
    try:
        yield _FOLDER
    finally:
        config.CACHE_DIR = before


def _lock_cache(dispatcher: Any, folder: Path) -> None:
    """Let one process at a time touch a kernel's cache.

    numba writes an index and a data file, each atomically but not both: two processes that compile different
    variants at once could end with an index that names the other's machine code.
    """
    lock = FileLock(folder / ".lock")

    def locked(method: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            with lock:
                return method(*args, **kwargs)

        return call

    cache = dispatcher._cache
    cache.load_overload, cache.save_overload = locked(cache.load_overload), locked(cache.save_overload)


class _Announcer(event.Listener):
    """Says once per process that kernels are being compiled; what comes from the cache is not."""

    said = False

    def on_start(self, event: Any) -> None:
        module = event.data["dispatcher"].py_func.__module__
        if not self.said and module.startswith(PACKAGE):
            self.said = True
            logger.warning("Compiling kernels for this machine: once, up to half a minute")

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announcer())
