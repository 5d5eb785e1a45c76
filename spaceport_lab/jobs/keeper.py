"""Between a worker and a job's process: `python keeper.py COMMAND…` runs COMMAND and leaves nothing behind.

Standard input is a pipe from the worker. When it closes, the worker is dead, however that came about, and
all that COMMAND started is killed: also what was started in sessions of its own or lost its parent, which on
Linux falls to this process (PR_SET_CHILD_SUBREAPER). SIGTERM is passed on to COMMAND. When COMMAND ends, what
it left running is killed as well, and its exit code is this one's (128 + n after signal n).

Run as a file, so that nothing of the package is loaded: this must be up before anything can go wrong.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import select
import signal
import subprocess
import sys
import time

SWEEP_SECONDS = 10.0
"""What is killed is waited for this long."""


def main(command: list[str]) -> int:
    """Run the command until it ends or the worker is gone; returns the exit code."""
    _adopt_orphans()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    asked: list[int] = []
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: asked.append(got))
    os.environ["SPACEPORT_KEEPER"] = str(os.getpid())
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    worker_lives = True
    while worker_lives and process.poll() is None:
        # The timeout is for a signal between the poll and the select; nothing else needs it.
        ready, _, _ = select.select([0, woken], [], [], 1.0)
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
        if 0 in ready:
            worker_lives = os.read(0, 1) != b""
        while asked:
            process.send_signal(asked.pop())
    code = process.returncode if process.returncode is not None else -signal.SIGKILL
    _sweep()
    return code if code >= 0 else 128 - code


def end(process: subprocess.Popen[bytes]) -> int:
    """From outside: end a keeper and all it keeps, unless it has ended; returns its exit code."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()  # to the keeper this is the death of its worker
    try:
        return process.wait(SWEEP_SECONDS + 2)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def _adopt_orphans() -> None:
    if platform.system() == "Linux":
        pr_set_child_subreaper = 36
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def _sweep() -> None:
    """Kill all that descends from this process, until nothing does."""
    import psutil  # late: it is needed at the end only, and loading it takes time

    end = time.monotonic() + SWEEP_SECONDS
    while time.monotonic() < end:
        family = psutil.Process().children(recursive=True)
        for one in family:
            with contextlib.suppress(psutil.Error):
                one.kill()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not family:
            return
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
