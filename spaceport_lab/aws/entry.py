"""What the container starts: one run of the pipeline, told by its environment, that never fails silently.

    restore    /opt/ml/checkpoints is there again after an interruption; stages that came back torn run again
    run        `spaceport-lab run` as a child, so that even a killed one is seen
    keep       the run folder goes where SageMaker keeps it, without copies and checkpoints
    end        0 only when the run card says succeeded; else the reason is in /opt/ml/output/failure

SIGTERM, which SageMaker sends two minutes before it takes a spot machine or stops a job, is passed on: the
pipeline ends as interrupted and goes on from there next time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spaceport_lab import files
from spaceport_lab.aws import s3
from spaceport_lab.aws.address import Address
from spaceport_lab.aws.environment import OPT_ML, Container, failure_path, read_container
from spaceport_lab.aws.runs import card_of, check_stages, drain, is_intermediate
from spaceport_lab.errors import SpaceportError, StageError

logger = logging.getLogger(__name__)

GRACE_SECONDS = 100.0
"""SageMaker kills two minutes after SIGTERM; the pipeline has this long, the rest is for what is kept."""
FAILURE_BYTES = 1024
"""SageMaker shows so much of the reason."""
INTERRUPTED = 143
USER = "SPACEPORT_USER"
"""Environment variable: the user to run the pipeline as, where the container starts as root."""
_TAIL = 4096  # bytes of the child's last words


def main(
    environment: Mapping[str, str] = os.environ,
    opt_ml: Path = OPT_ML,
    command: Sequence[str] = (sys.executable, "-m", "spaceport_lab.cli", "run"),
    configure: Callable[[], object] = lambda: None,
) -> int:
    """Run what the environment asks for; returns the exit code and writes the reason where it is not 0.

    Args:
        environment: as `read_container` knows it.
        opt_ml: where SageMaker puts and expects everything.
        command: of the run, without its arguments.
        configure: sets up the log; called in here, so that a level that is not known fails as all else does.
    """
    failure = failure_path(environment, opt_ml)

    def interrupt(_signal: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        with _handling(interrupt):
            configure()
            return _begin(failure, environment, opt_ml, list(command))
    except (Exception, KeyboardInterrupt) as error:
        own = isinstance(error, SpaceportError)
        logger.log(logging.ERROR, "%s", error, exc_info=None if own else error)
        _note(failure, str(error) if own else f"{type(error).__name__}: {error}")
        return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


def _begin(failure: Path, environment: Mapping[str, str], opt_ml: Path, command: list[str]) -> int:
    failure.unlink(missing_ok=True)
    container = read_container(environment, opt_ml)
    logging.getLogger("spaceport_lab").setLevel(container.log_level)  # not botocore's, which drowns all else
    if not container.first:
        logger.info("%s has nothing to do: a run needs one machine", container.host)
        return 0
    return _run(container, command)


def _run(container: Container, command: list[str]) -> int:
    before = _run_folder(container)
    for stage, why in (check_stages(before) if before else {}).items():
        logger.warning("%s came back torn: %s", stage, why)
    with _user(container) as identity:
        code, tail = _child(arguments(container, command), identity)
    root = _run_folder(container)
    card = card_of(root) if root else {}
    if root is not None:
        keep(root, container.results / root.name)
    if code == 0 and card.get("status") == "succeeded":
        return 0
    reason = str(card.get("error") or "") or tail.strip()
    if code == INTERRUPTED:
        reason = f"interrupted by SIGTERM; the same job goes on from what it finished. {reason}".strip()
    elif code == 0:
        reason = f"the run ended without an error, and its card says {card.get('status')!r}. {reason}".strip()
    _note(container.failure, reason or f"the pipeline ended with exit code {code} and no word")
    return code or 1


def arguments(container: Container, command: Sequence[str]) -> list[str]:
    """The command line of the run; what lies in S3 is fetched first, so that it has all its files.

    Raises:
        StoreError, WorkspaceError: the input cannot be fetched.
    """
    source = container.source
    if source.startswith("s3://"):
        address = Address.parse(source)
        folder = container.checkpoints.parent / "fetched" / (address.prefix.rpartition("/")[2] or "input")
        report = drain(s3.download(address, folder))
        logger.info("%d files, %d bytes from %s", report.n, report.bytes, address)
        for name, why in report.left_out.items():
            logger.warning("%s was left out: %s", name, why)
        here = [path for path in folder.iterdir() if not path.name.startswith(".")]
        # One object in place of a prefix: a zip, a video, a PLY.
        source = str(here[0] if len(here) == 1 and here[0].is_file() else folder)
    options = ["--steps", container.steps, "--job", container.job, "--data", str(container.checkpoints)]
    options += ["--output", container.output] if container.output else []
    options += ["--scene", container.scene] if container.scene else []
    options += [word for preset in container.presets for word in ("--preset", preset)]
    options += [word for override in container.overrides for word in ("--set", override)]
    return [*command, source, *options]


def _child(command: list[str], identity: dict[str, Any]) -> tuple[int, str]:
    """Run the pipeline, its words on ours; returns exit code and last words. SIGTERM is passed on, once.

    It gets SIGTERM alone: the pipeline stops its own children, and in order.
    """
    logger.info("%s", " ".join(command))
    asked = threading.Event()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, **identity,
    )  # fmt: skip

    def stop(_signal: int, _frame: Any) -> None:
        if not asked.is_set():
            asked.set()
            process.terminate()
            killer.start()

    killer = threading.Timer(GRACE_SECONDS, _kill, (process,))
    killer.daemon = True
    tail: list[bytes] = [b""]
    # In a thread: somebody may outlive the child and hold the other end of its words.
    reader = threading.Thread(target=_repeat, args=(process.stdout, tail), daemon=True)
    try:
        with _handling(stop):
            reader.start()
            code = process.wait()
    finally:
        killer.cancel()
        _kill(process)  # and what it may have left behind
        reader.join(5)
    text = tail[0].decode(errors="replace")
    if asked.is_set() and code:
        return INTERRUPTED, text
    return (128 - code if code < 0 else code), text if code >= 0 else f"{text}\nkilled by signal {-code}"


def _repeat(source: Any, tail: list[bytes]) -> None:
    while chunk := source.read1(65536):
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.buffer.write(chunk)
            sys.stdout.flush()
        tail[0] = (tail[0] + chunk)[-_TAIL:]


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _handling(stop: Callable[[int, Any], None]) -> Iterator[None]:
    before = {kind: signal.signal(kind, stop) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextlib.contextmanager
def _user(container: Container) -> Iterator[dict[str, Any]]:
    """How the child is started: as SPACEPORT_USER where we are root, with the folders it writes made its own.

    SageMaker mounts its folders for root, so the container has to start as root; the pipeline does not.
    """
    name = os.environ.get(USER, "")
    if not name or os.geteuid() != 0:
        yield {}
        return
    import pwd

    try:
        person = pwd.getpwnam(name)
    except KeyError as error:
        raise StageError(f"there is no user {name!r}", expected=f"the one that {USER} names") from error
    with files.clear_os_errors(container.checkpoints):
        container.checkpoints.mkdir(parents=True, exist_ok=True)
        for folder in (container.checkpoints, *container.checkpoints.rglob("*")):
            os.chown(folder, person.pw_uid, person.pw_gid, follow_symlinks=False)
    home = {**os.environ, "HOME": person.pw_dir, "USER": name, "LOGNAME": name}
    yield {"user": person.pw_uid, "group": person.pw_gid, "extra_groups": [person.pw_gid], "env": home}


def keep(root: Path, target: Path) -> int:
    """Put a run where it is kept, without what only a resume needs; returns the number of files.

    Raises:
        WorkspaceError: it does not fit.
    """
    with files.clear_os_errors(target):
        shutil.rmtree(target, ignore_errors=True)
    n = 0
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if path.is_file() and not path.is_symlink() and not hidden and not is_intermediate(name):
            files.link_or_copy(path, target / name)
            n += 1
    return n


def _run_folder(container: Container) -> Path | None:
    found = sorted(container.checkpoints.glob(f"*/runs/{container.job}"))
    return found[0] if found else None


def _note(failure: Path, reason: str) -> None:
    """Write the reason of a failure, cut in the middle where it is long: its end often says most."""
    text = reason.encode(errors="replace")
    if len(text) > FAILURE_BYTES:
        half = (FAILURE_BYTES - 8) // 2
        text = text[:half] + b" [...] " + text[-half:]
    try:
        files.write_text(failure, text.decode(errors="ignore"))
    except (SpaceportError, OSError) as error:
        logger.error("the reason of the failure cannot be written: %s", error)
