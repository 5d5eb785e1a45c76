"""One SageMaker training job for one run: asked for, checked here, sent, followed, stopped, fetched.

All stages run in one container; the run folder lies in /opt/ml/checkpoints, which SageMaker keeps in S3 and
brings back after a spot interruption. Plain boto3: of SageMaker's own SDK, a gigabyte, one call would serve.
"""

from __future__ import annotations

import random
import re
import shutil
import tarfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaceport_lab import files
from spaceport_lab.aws.address import Address
from spaceport_lab.aws.client import clear_errors, client
from spaceport_lab.aws.downloading import download
from spaceport_lab.aws.request import Settings, build, read_settings
from spaceport_lab.aws.rules import Fault, validate
from spaceport_lab.aws.runs import card_of
from spaceport_lab.aws.uploading import upload
from spaceport_lab.errors import (
    InputError,
    JobConflictError,
    JobUnknownError,
    ParamsError,
    StageError,
    StoreBusyError,
    StoreError,
    StoreMissingError,
    StoreTimeoutError,
    WorkspaceError,
)
from spaceport_lab.params import preset_names, resolve
from spaceport_lab.workspace import Progress

__all__ = [
    "Settings", "Status", "build", "fetch_outputs", "follow", "last_lines", "read_settings", "refuse",
    "see_through", "send", "stage_input", "status", "stop", "submit", "validate",
]  # fmt: skip

ENDED = ("Completed", "Failed", "Stopped")
_LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 60.0  # seconds between two questions how a job is
_MISSED = 10  # questions in a row that may go unanswered
_MOST_UNPACKED = 500 * 10**9  # bytes


@dataclass(frozen=True)
class Status:
    """How a training job is.

    Attributes:
        name: the training job's.
        state: InProgress, Completed, Failed, Stopping or Stopped.
        detail: what SageMaker says it does, such as Starting, Training, Interrupted.
        message: why it ended, where it did.
        seconds: it ran; None before.
        billed_seconds: that are paid, after spot's discount in time; None before its end.
    """

    name: str
    state: str
    detail: str = ""
    message: str = ""
    seconds: float | None = None
    billed_seconds: float | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ENDED


def stage_input(source: str, settings: Settings) -> Generator[Progress, None, str]:
    """Send photographs, or one file, from this machine to `raw`; returns their s3:// prefix.

    An address is given back as it is. What was sent before is not sent again.

    Raises:
        InputError: nothing there.
        StoreError: by its kind.
    """
    address = staged_at(source, settings)
    if source.startswith("s3://"):
        return address
    path = Path(source).expanduser().resolve()
    folder = path if path.is_dir() else path.parent
    yield from upload(
        folder,
        Address.parse(address),
        lambda name: (path.is_dir() and not name.startswith("runs/")) or name == path.name,
        kms_key=_own_key(settings.kms_key),
        marker=True,
    )
    return address


def staged_at(source: str, settings: Settings) -> str:
    """Where `stage_input` puts what is at `source`; an address is its own.

    Raises:
        InputError: nothing there, or an address that is none.
    """
    if source.startswith("s3://"):
        return str(Address.parse(source))
    path = Path(source).expanduser().resolve()
    if not path.exists():
        raise InputError("there is nothing at this path", got=path, hint="check the spelling")
    scene = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem if path.is_file() else path.name).strip("-")
    return str(Address.parse(settings.raw) / (scene or "scene"))


def send(
    job: str,
    source: str,
    settings: Settings,
    steps: str = "full",
    presets: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Generator[Progress, None, str]:
    """Check everything, send the photographs, then the job; returns the training job's name.

    Args:
        job: the run's name; the same again goes on from its checkpoints.
        source: path on this machine, or an address in S3.
        settings: where and how.
        steps: full, 3dgs or compression.
        presets: names of presets that the image has, later ones win.
        overrides: `STAGE.NAME=VALUE` texts.

    Raises:
        ParamsError: a preset, an override or the request cannot be used; nothing was sent.
        InputError: nothing at `source`.
        StoreError: by its kind; the same call goes on.
    """
    strangers = sorted(set(presets) - set(preset_names()))
    if strangers:
        raise ParamsError(
            "the container has only the presets of the package",
            got=", ".join(strangers),
            expected=", ".join(preset_names()),
            hint="say with --set what differs",
        )
    resolve(presets, overrides)
    body = build(job, staged_at(source, settings), settings, steps, presets, overrides)
    refuse(validate(body))
    yield from stage_input(source, settings)
    submit(body, settings.region)
    return str(body["TrainingJobName"])


def see_through(
    name: str, data: Path, region: str = "", say: Callable[[Status], None] = lambda _: None
) -> Generator[Progress, None, Path]:
    """Follow a training job to its end and fetch what it kept; returns the run folder.

    Raises:
        StageError: it did not complete; what it kept is fetched all the same, where there is anything.
        JobUnknownError: there is none of this name.
        StoreError, WorkspaceError
    """
    last = Status(name, "InProgress")
    for last in follow(name, region):
        say(last)
        yield Progress(0, None, f"{last.detail or last.state} {last.message}".strip())
    root = None
    try:
        root = yield from fetch_outputs(name, data, region)
    except (StoreMissingError, WorkspaceError):
        if last.state == "Completed":
            raise
    if root is None or last.state != "Completed":
        lines = "\n".join(last_lines(name, region=region))
        raise StageError(
            f"training job {name} ended as {last.state}",
            got=last.message or "no reason given",
            see=root or lines or f"the log group {_LOG_GROUP} in CloudWatch",
        )
    return root


def _own_key(kms_key: str) -> str:
    """The key for our own requests; S3's managed one is asked for by no key at all."""
    return "" if kms_key == "alias/aws/s3" else kms_key


def refuse(faults: Sequence[Fault]) -> None:
    """Raise what `validate` found.

    Raises:
        ParamsError: there is a fault; all are named.
    """
    if faults:
        raise ParamsError(
            f"SageMaker would refuse or misread this job: {', '.join(sorted({f.name for f in faults}))}",
            got="\n            ".join(map(str, faults)),
            hint="correct the settings; nothing was sent",
        )


def submit(body: Mapping[str, Any], region: str = "") -> str:
    """Check a request and send it; returns the training job's ARN.

    Raises:
        ParamsError: it is faulty; nothing was sent.
        JobConflictError: there is a training job of this name.
        StoreError: AWS refused, or did not answer.
    """
    refuse(validate(body))
    sagemaker, name = client("sagemaker", region or None), body["TrainingJobName"]
    try:
        status(name, through=sagemaker)
    except JobUnknownError:
        pass
    else:
        raise JobConflictError(f"there is a training job {name} already", hint="build the request anew")
    with clear_errors(f"SageMaker did not take {name}"):
        return str(sagemaker.create_training_job(**body)["TrainingJobArn"])


def status(name: str, region: str = "", through: Any = None) -> Status:
    """How a training job is, asked through a client of SageMaker, or a new one.

    Raises:
        JobUnknownError: there is none of this name.
        StoreError: AWS refused, or did not answer.
    """
    answer = _describe(name, through or client("sagemaker", region or None))
    transitions = answer.get("SecondaryStatusTransitions") or [{}]
    return Status(
        name,
        str(answer.get("TrainingJobStatus", "InProgress")),
        str(answer.get("SecondaryStatus", "")),
        str(answer.get("FailureReason") or transitions[-1].get("StatusMessage") or ""),
        answer.get("TrainingTimeInSeconds"),
        answer.get("BillableTimeInSeconds"),
    )


def _describe(name: str, sagemaker: Any) -> dict[str, Any]:
    try:
        with clear_errors(f"cannot look at training job {name}"):
            return dict(sagemaker.describe_training_job(TrainingJobName=name))
    except StoreError as error:
        # SageMaker has no error of its own for this: it calls the name invalid.
        text = str(error.got)
        if "ValidationException" in text and any(w in text for w in ("not found", "not find", "not exist")):
            raise JobUnknownError(f"there is no training job {name}", got=error.got) from error
        raise


def follow(name: str, region: str = "", pause: Callable[[float], None] = time.sleep) -> Iterator[Status]:
    """Each new status of a training job until it has ended; asks after 5 s at first, then more seldom.

    Raises:
        JobUnknownError: there is none of this name.
        StoreError: AWS refused, or did not answer ten times in a row.
    """
    wait, last, missed, sagemaker = _FIRST_WAIT, None, 0, client("sagemaker", region or None)
    while True:
        try:
            now = status(name, through=sagemaker)
            missed = 0
        except (StoreBusyError, StoreTimeoutError):
            missed += 1
            if missed >= _MISSED:
                raise
        else:
            if now != last:
                wait = _FIRST_WAIT if last is None or now.detail != last.detail else wait
                yield now
            last = now
            if now.ended:
                return
        pause(wait * random.uniform(0.8, 1.2))  # many who wait must not ask at once
        wait = min(wait * 1.5, _LONGEST_WAIT)


def stop(name: str, region: str = "") -> None:
    """Ask a training job to stop; its container gets SIGTERM and two minutes. An ended one stays as it is.

    Raises:
        JobUnknownError: there is none of this name.
        StoreError: AWS refused, or did not answer.
    """
    sagemaker = client("sagemaker", region or None)
    if status(name, through=sagemaker).ended:
        return
    with clear_errors(f"cannot stop training job {name}"):
        sagemaker.stop_training_job(TrainingJobName=name)


def last_lines(name: str, n: int = 20, region: str = "") -> list[str]:
    """The last lines of a training job's log; none where it has not written any.

    Raises:
        StoreError: AWS refused, or did not answer.
    """
    logs = client("logs", region or None)
    try:
        with clear_errors(f"cannot read the log of {name}"):
            streams = logs.describe_log_streams(logGroupName=_LOG_GROUP, logStreamNamePrefix=f"{name}/")
            found = streams.get("logStreams") or []
            if not found:
                return []
            answer = logs.get_log_events(
                logGroupName=_LOG_GROUP, logStreamName=found[-1]["logStreamName"], limit=n
            )
    except StoreMissingError:
        return []
    return [str(event["message"]) for event in answer["events"]]


def fetch_outputs(name: str, data: Path, region: str = "") -> Generator[Progress, None, Path]:
    """Bring what a training job kept into `data/<scene>/runs/<job>`; returns that folder.

    A failed job's too, for its notebooks say why.

    Raises:
        JobUnknownError: there is none of this name.
        StoreMissingError: it has kept nothing (yet).
        WorkspaceError: it does not fit, or the archive is hostile.
        StoreError: by its kind.
    """
    answer, data = _describe(name, client("sagemaker", region or None)), Path(data)
    kept = Address.parse(answer["OutputDataConfig"]["S3OutputPath"]) / name / "output"
    work = data / f".fetched-{name}"
    yield from download(kept, work)
    unpacked = work / "unpacked"
    for archive in sorted(work.glob("**/*.tar.gz")):
        yield Progress(0, None, f"unpacking {archive.name}")
        _unpack(archive, unpacked)
    found = sorted(unpacked.glob("*/run.json"))
    if not found:
        raise WorkspaceError(
            f"training job {name} kept no run", got=kept, hint="look at its log in CloudWatch"
        )
    root = found[0].parent
    # The container knows its input by SageMaker's name for it only.
    scene = answer.get("HyperParameters", {}).get("scene") or str(card_of(root).get("scene") or "")
    target = _place(root, data, scene)
    shutil.rmtree(work, ignore_errors=True)
    return target


def _place(root: Path, data: Path, scene: str) -> Path:
    """Put a fetched run where runs lie; file replaces file, and what the folder has besides stays."""
    scene = re.sub(r"[^A-Za-z0-9_-]+", "-", scene).strip("-") or "scene"
    target = data / scene / "runs" / root.name
    for path in sorted(root.rglob("*"), key=lambda p: (p.name in ("stage.json", "run.json"), p)):
        if path.is_file():
            place = target / path.relative_to(root)
            with files.atomic_path(place) as temporary, files.clear_os_errors(place):
                path.replace(temporary)
    return target


def _unpack(archive: Path, target: Path) -> None:
    """Unpack what SageMaker packed: plain files and folders, inside `target`, not more than fits."""
    with files.clear_os_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        room = min(shutil.disk_usage(target).free, _MOST_UNPACKED)
        try:
            with tarfile.open(archive, "r:gz") as packed:
                for member in packed:
                    room -= member.size
                    if room < 0:
                        raise WorkspaceError(f"{archive.name} does not fit on the disk of {target}")
                    if member.isfile() or member.isdir():
                        packed.extract(member, target, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise WorkspaceError(
                f"{archive.name} cannot be unpacked", got=f"{type(error).__name__}: {error}"
            ) from error
