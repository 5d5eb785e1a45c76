"""A run folder kept in S3 while it is worked in: brought back, sent after each stage, sealed at the end."""

from __future__ import annotations

import contextlib
from pathlib import Path

from spaceport_lab import runcard
from spaceport_lab.aws.runs import RunStore, drain
from spaceport_lab.errors import SpaceportError, StoreError
from spaceport_lab.pipeline.display import Display


class Sent:
    """Where a run goes; with an empty `output` nowhere, and nothing here does anything.

    Args:
        root: the run folder.
        output: prefix in S3, or empty.
        display: gets the warnings.

    Raises:
        InputError: `output` is no address in S3.
    """

    def __init__(self, root: Path, output: str, display: Display) -> None:
        self.root, self.display = root, display
        self.store = RunStore(output, root.name) if output else None

    def begin(self) -> None:
        """See that it can be written to, and bring back what is there.

        Raises:
            StoreError: by its kind.
            InputError: the package for S3 is not installed.
            WorkspaceError: it does not fit on the disk.
        """
        if self.store is None:
            return
        self.store.check()
        for name, why in drain(self.store.restore(self.root)).left_out.items():
            self.display.warn(f"{name} of {self.store.address}: {why}")

    def sync(self) -> None:
        """Send what a stage changed.

        Raises:
            StoreError: by its kind; the run goes on from here when it is started again.
        """
        if self.store is not None:
            drain(self.store.sync(self.root))

    def complete(self) -> None:
        """Send the rest and the marker. When that fails the run is not done: the card says so.

        Raises:
            StoreError: by its kind.
        """
        if self.store is None:
            return
        try:
            drain(self.store.sync(self.root, complete=True))
        except StoreError as error:
            message = str(error)
            runcard.update(self.root, lambda card: card.update(status="failed", error=message))
            raise

    def abandon(self, error: BaseException) -> None:
        """Send what there is of a failed or stopped run, unless sending is what failed; never raises."""
        if self.store is not None and not isinstance(error, StoreError):
            with contextlib.suppress(SpaceportError, OSError):
                drain(self.store.sync(self.root))
