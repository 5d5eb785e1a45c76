"""A run folder and its prefix: sent after each stage, brought back so that finished stages are not run again.

    <output>/<job>/run.json, report.html, notebooks/, 01_ingest/ … 05_inspect/    as in the run folder
    <output>/<job>/_SUCCESS.json                                                  once the run is complete

A stage's stage.json is sent after all its other files, so a prefix that broke off says of no stage that it is
done when it is not. Copies and checkpoints are tagged (`is_intermediate`), for the lifecycle rule.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

from spaceport_lab import files
from spaceport_lab.aws import marker as markers
from spaceport_lab.aws.address import Address
from spaceport_lab.aws.client import clear_errors, client
from spaceport_lab.aws.downloading import download
from spaceport_lab.aws.store import Memory, Report, encryption, listing
from spaceport_lab.aws.uploading import upload
from spaceport_lab.params import STAGES
from spaceport_lab.workspace import Progress, folder_name, read_manifest

KMS_KEY = "SPACEPORT_KMS_KEY"
"""Environment variable with the id, ARN or alias of the key that encrypts what is sent; unset: SSE-S3."""
LAST = ("stage.json", "report.html", "run.json")
"""Sent and fetched after all others, in this order."""
PROBE = "_access.json"

_INTERMEDIATE = re.compile(
    r"01_ingest/(images|masks|thumbnails)/.*"
    r"|02_sfm/(images|masks)/.*|02_sfm/.*\.db"
    r"|03_train/(checkpoint\.pt|timelapse/.*|tensorboard/.*)"
)
_NEVER = re.compile(r"progress\.json|0\d_[a-z]+/work/.*|0\d_[a-z]+/spec\.json")

R = TypeVar("R")


def is_intermediate(name: str) -> bool:
    """Whether a file of a run only serves later stages or a resume, and may expire in the store."""
    return bool(_INTERMEDIATE.fullmatch(name))


def drain(steps: Generator[Progress, None, R], show: Callable[[Progress], None] | None = None) -> R:
    """Run a generator of Progress to its end and give what it returns; `show` sees each state."""
    while True:
        try:
            state = next(steps)
        except StopIteration as done:
            return done.value
        if show is not None:
            show(state)


class RunStore:
    """Where one run is kept in S3; remembers what is there, so that each stage asks only for what is new.

    Args:
        output: the prefix of all runs, s3://bucket/runs.
        job: the job's name.
        kms_key: of the encryption; None takes SPACEPORT_KMS_KEY, empty is SSE-S3.

    Raises:
        InputError: `output` is no address in S3.
    """

    def __init__(self, output: str, job: str, kms_key: str | None = None) -> None:
        self.address = Address.parse(output) / job
        self.kms_key = os.environ.get(KMS_KEY, "") if kms_key is None else kms_key
        self._memory: Memory = {}

    def check(self) -> None:
        """Find out now whether runs can be written there, rather than after hours.

        Raises:
            StoreError: by its kind.
        """
        store, probe = client("s3"), {"Bucket": self.address.bucket, "Key": self.address.key(PROBE)}
        with clear_errors(f"cannot write to {self.address}"):
            store.put_object(**probe, Body=b"{}\n", **encryption(self.kms_key))
        with clear_errors(f"cannot remove from {self.address}"):
            store.delete_object(**probe)

    def sync(self, root: Path, complete: bool = False) -> Generator[Progress, None, Report]:
        """Send what changed in the run folder `root`; `complete` ends with the marker.

        What a finished stage no longer has is removed from the prefix.

        Raises:
            WorkspaceError, FencedError, StoreError
        """
        root = Path(root)
        stages = [folder_name(stage) for stage in STAGES]
        finished = [folder for folder in stages if (root / folder / "stage.json").is_file()]
        return (
            yield from upload(
                root,
                self.address,
                lambda name: not _NEVER.fullmatch(name),
                kms_key=self.kms_key,
                marker=complete,
                intermediate=is_intermediate,
                last=LAST,
                prune=finished,
                memory=self._memory,
            )
        )

    def restore(self, root: Path) -> Generator[Progress, None, Report]:
        """Bring back into `root` what the prefix has and the folder has not.

        A stage that is finished in the store and not here comes as it is there. Of all else only what is
        missing comes. Stages that do not agree with their stage.json afterwards count as not finished.

        Returns:
            The report; `n` is 0 where there is nothing to bring back. `left_out` names the stages, too.

        Raises:
            WorkspaceError: it does not fit on the disk.
            StoreError: by its kind; what came is whole, and the next call goes on.
        """
        root, report = Path(root), Report(str(self.address))
        yield Progress(0, None, f"looking for {self.address}")
        there = listing(client("s3"), self.address)
        there.pop(PROBE, None)
        if not set(there) - {markers.NAME}:
            return report
        done_there = {name.partition("/")[0] for name in there if name.endswith("/stage.json")}
        stages = {folder_name(stage) for stage in STAGES}
        done_here = {folder for folder in stages if (root / folder / "stage.json").is_file()}

        def missing(name: str) -> bool:
            top = name.partition("/")[0]
            if top in done_here or name == PROBE:
                return False
            return (top in stages and top in done_there) or not (root / name).exists()

        report = yield from download(self.address, root, missing, last=LAST)
        for stage, why in check_stages(root).items():
            report.left_out[stage] = why
        return report


def check_stages(root: Path) -> dict[str, str]:
    """Take stage.json from stages whose outputs are not what it says; folder → what is wrong, with them.

    For a run folder that came from elsewhere, where the copy of a stage may have broken off in the middle.

    Raises:
        WorkspaceError: the folder cannot be read or written.
    """
    dropped = {}
    for stage in STAGES:
        folder = Path(root) / folder_name(stage)
        seal = folder / "stage.json"
        if not seal.is_file():
            continue
        with files.clear_os_errors(folder):
            fault = _fault(folder)
            if fault:
                seal.unlink()
                dropped[folder.name] = fault
    return dropped


def _fault(folder: Path) -> str:
    try:
        outputs = dict((read_manifest(folder) or {})["outputs"])
    except (KeyError, TypeError, ValueError):
        return "stage.json cannot be understood"
    for name, digest in outputs.items():
        path = folder / name
        if digest == files.hash_json({}) and not path.exists() and not path.suffix:
            path.mkdir(parents=True)  # an empty folder; the store has files only
        if not path.exists():
            return f"{name} is missing, so the stage runs again"
        if files.hash_path(path) != digest:
            return f"{name} is not what stage.json says, so the stage runs again"
    return ""


def read_complete(output: str, job: str) -> list[str] | None:
    """Names of the files of a complete run in the store; None while it is not complete.

    Raises:
        StoreError: by its kind.
    """
    listed = markers.read(client("s3"), Address.parse(output) / job)
    return None if listed is None else sorted(listed)


def card_of(root: Path) -> dict[str, object]:
    """The run card in `root`; empty when it has none, or a torn one."""
    try:
        card = json.loads((Path(root) / "run.json").read_text())
        return card if isinstance(card, dict) else {}
    except (OSError, ValueError):
        return {}
