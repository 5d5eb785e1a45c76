"""Scenes of a batch on the nodes of a Ray cluster, one task for each.

The driver passes paths and words, never data. A task runs the scene in a process of its own under a keeper,
so that nothing outlives it. When a node dies, Ray begins the task again on another one. When only the node's
raylet dies, Ray lets the task go on, on a node that counts as dead: the task notices, and ends itself with
all it started. Where it cannot, because its machine hangs, another attempt may begin beside it. Each has a
greater number, under which it takes the run folder: what an older one still wants to write is refused (see
`fence`), and the folder's lock keeps the later one waiting until the older one has let go.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from spaceport_lab.batch.attempt import GRACE_SECONDS, Result, Work, attempt
from spaceport_lab.errors import BackendError, StageError
from spaceport_lab.jobs.model import Failure
from spaceport_lab.jobs.text import tidy

MOST_RETRIES = 5
"""A scene is begun again so often: its node died, or its failure may pass. Spot machines die a lot."""


class Again(Exception):
    """A scene failed in a way that may pass; Ray tries those again and no others."""

    def __init__(self, result: Result) -> None:
        super().__init__(result)
        self.result = result


class OnRay:
    """Runs scenes as tasks of a Ray cluster.

    A task takes as many cores as the smallest node has, so that each node runs one scene at a time, and one
    GPU where there are any, unless its backend is the CPU.

    Args:
        address: `ray`: the cluster this machine is a node of (RAY_ADDRESS, or the one started here);
            `ray://HOST:10001`: a cluster elsewhere, through its client server.
        retries: see MOST_RETRIES.
        cpus: cores for a scene; 0: see above.
    """

    def __init__(self, address: str = "ray", retries: int = MOST_RETRIES, cpus: int = 0) -> None:
        self.address, self.retries, self.cpus = address, retries, cpus
        self._left: dict[Any, str] = {}

    def __enter__(self) -> OnRay:
        """Connect.

        Raises:
            ParamsError: the address is none, or the package for clusters is not installed.
            StageError: nobody answers there, or the token is wrong.
        """
        from spaceport_lab.sweep.ray import connect  # late: a task has no use for what comes with it

        connect(self.address)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        ray.shutdown()  # whatever is still at work for us ends with it

    def begin(self, works: Sequence[Work]) -> None:
        """Hand all to the cluster.

        Raises:
            BackendError: one asks for CUDA, and no node has a GPU; none is begun.
        """
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = any(node.get("GPU") for node in nodes)
        if not gpus and any(work.backend == "cuda" for work in works):
            raise BackendError(
                "train.backend=cuda was asked for, and no node of the cluster has a GPU",
                got=f"{len(nodes)} nodes",
                hint="start a node with a GPU first, or leave train.backend at auto",
            )
        smallest = min((int(n["CPU"]) for n in nodes if n.get("CPU")), default=1)
        cpus = max(1, min(self.cpus or smallest, smallest))
        for work in works:
            task = ray.remote(_scene).options(
                name=work.job,
                num_cpus=cpus,
                num_gpus=1 if gpus and work.backend != "cpu" else 0,
                max_retries=self.retries,
                retry_exceptions=[Again],
                scheduling_strategy="SPREAD",
            )
            self._left[task.remote(dataclasses.replace(work, threads=cpus))] = work.job

    def poll(self, seconds: float) -> list[tuple[str, Result]]:
        """Jobs that have ended since the last call, waiting so long for one."""
        import ray

        if not self._left:
            return []
        ready, _ = ray.wait(list(self._left), num_returns=1, timeout=seconds)
        if ready:
            ready, _ = ray.wait(list(self._left), num_returns=len(self._left), timeout=0)
        return [(self._left.pop(one), _result(one)) for one in ready]

    def stop(self) -> list[tuple[str, Result]]:
        """Stop all within the grace time, at once on a second interrupt."""
        import ray

        ended: list[tuple[str, Result]] = []
        with contextlib.suppress(KeyboardInterrupt):
            for one in self._left:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.cancel(one, force=False, recursive=False)
            left = list(self._left)
            ready, _ = ray.wait(left, num_returns=len(left), timeout=GRACE_SECONDS + 5)
            ended = [(self._left.pop(one), _result(one)) for one in ready]
        return [(job, result) for job, result in ended if result.state != "waiting"]


def _scene(work: Work) -> Result:
    """The task: one attempt at a scene, on a node."""
    import ray

    node = ray.get_runtime_context().get_node_id()[:12]
    with _stopping() as hurry:
        result = attempt(work, hurry, node)
    if result.again:
        raise Again(result)
    return result


def _result(reference: Any) -> Result:
    """What came of a task."""
    import ray

    try:
        return ray.get(reference)
    except Again as error:
        return error.result
    except ray.exceptions.TaskCancelledError:
        return Result("waiting")
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, Again):
            return cause.result
        return _broken(cause or error, "see the log of the node")
    except ray.exceptions.RayError as error:
        return _broken(error, "the same command goes on from the last checkpoint")


def _broken(error: BaseException, hint: str) -> Result:
    lines = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {lines[0] if lines else ''}"
    message = tidy(f"the task ended with its node or worker: {said}", 1000)
    return Result("failed", failure=Failure(code=StageError.code, message=message, hint=hint))


@contextlib.contextmanager
def _stopping() -> Iterator[Callable[[], int]]:
    """A count of wishes to stop: `ray.cancel` comes as SIGINT, the end of a node as SIGTERM."""
    asked: list[int] = []
    before: dict[signal.Signals, Any] = {}
    raylet = os.getppid()

    def hurry() -> int:
        if os.getppid() != raylet:
            os._exit(1)  # the keeper, which sees our end, kills the rest; to the driver we are a dead worker
        return min(2, len(asked))

    with contextlib.suppress(ValueError):  # not in the main thread
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda got, _: asked.append(got))
    try:
        yield hurry
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
