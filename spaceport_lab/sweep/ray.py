"""A sweep's workers on the nodes of a Ray cluster; also how this program becomes a driver of one.

A worker there is the worker that runs here, `python -m spaceport_lab.sweep.worker`. Ray tries nothing again
(`max_retries=0`): a trial whose worker died is taken up by another one, from its checkpoint, as everywhere
else (`study.claim`). For that the nodes share the scene's folder, and locks work on it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spaceport_lab import runcard
from spaceport_lab.errors import BackendError, ParamsError, StageError, WorkspaceError
from spaceport_lab.sweep.study import Sweep

LOOK_SECONDS = 0.5
GRACE_SECONDS = 5.0
"""A worker gets this long to end before it is killed; its trial is taken up again either way."""


def connect(address: str) -> None:
    """Become a driver of a cluster.

    Args:
        address: `ray`: the cluster this machine is a node of (RAY_ADDRESS, or the one started here);
            `ray://HOST:10001`: a cluster elsewhere, through its client server.

    Raises:
        ParamsError: the address is none, or the package for clusters is not installed.
        StageError: nobody answers there, or the token is wrong.
    """
    if address != "ray" and not address.startswith("ray://"):
        raise ParamsError(f"{address!r} is no cluster", expected="ray, or ray://HOST:10001")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ParamsError(
            "the package for clusters is not installed", hint="pip install 'spaceport-lab[cluster]'"
        ) from error
    place = os.environ.get("RAY_ADDRESS", "auto") if address == "ray" else address
    try:
        ray.init(place, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # its own errors, those of gRPC, RuntimeError, ValueError
        lines = str(error).strip().splitlines() or [""]
        raise StageError(
            "the Ray cluster cannot be reached",
            got=f"{place}: {type(error).__name__}: {lines[0][:300]}",
            expected="a cluster started with ray start, and its token in RAY_AUTH_TOKEN",
            hint="docs/ray-cluster.md has the commands",
        ) from error


def work_on_cluster(
    sweep: Sweep,
    n_trials: int,
    workers: int,
    address: str,
    look: Callable[[], None] = lambda: None,
) -> None:
    """Run the missing trials with so many workers; one whose node died is replaced.

    Args:
        sweep: saved already.
        n_trials: of the whole sweep.
        workers: at a time.
        address: see `connect`.
        look: called about twice a second.

    Raises:
        ParamsError, StageError: from `connect`.
        BackendError: CUDA was asked for, and no node has a GPU.
        StageError: a worker failed, or too many died.
        WorkspaceError: the storage is SQLite, and the nodes are several machines.
    """
    connect(address)
    import ray

    try:
        options = _options(sweep)
        task = ray.remote(_worker).options(max_retries=0, scheduling_strategy="SPREAD", **options)
        work = (str(sweep.folder), n_trials, options["num_cpus"])
        left = [task.remote(number, *work) for number in range(workers)]
        begun = workers
        try:
            while left:
                ready, left = ray.wait(left, timeout=LOOK_SECONDS)
                look()
                for one in ready:
                    if _ended(one):
                        continue
                    if begun >= 3 * workers:
                        raise StageError(
                            f"{begun - workers + 1} workers died with their nodes",
                            hint="the same command goes on from here",
                        )
                    left.append(task.remote(begun, *work))
                    begun += 1
        finally:
            for one in left:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.cancel(one, force=False, recursive=False)
            if left:
                ray.wait(left, num_returns=len(left), timeout=GRACE_SECONDS + 3)
    finally:
        ray.shutdown()


def _options(sweep: Sweep) -> dict[str, Any]:
    """What a worker gets: the cores of the smallest node, and a GPU where it is to have one."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    hosts = {node["NodeManagerHostname"] for node in nodes}
    if sweep.storage.startswith("sqlite:") and len(hosts) > 1:
        raise WorkspaceError(
            f"{len(hosts)} machines cannot share a study in SQLite",
            got=sweep.storage,
            hint="--storage postgresql://HOST/NAME",
        )
    backend = sweep.resolved({}).params["train"].model_dump()["backend"]
    gpus = any(node["Resources"].get("GPU") for node in nodes)
    if backend == "cuda" and not gpus:
        raise BackendError(
            "train.backend=cuda was asked for, and no node of the cluster has a GPU",
            hint="start a node with a GPU first, or leave train.backend at auto",
        )
    cores = [int(node["Resources"]["CPU"]) for node in nodes if node["Resources"].get("CPU")]
    return {"num_cpus": max(1, min(cores, default=1)), "num_gpus": 1 if gpus and backend != "cpu" else 0}


def _ended(reference: Any) -> bool:
    """Whether a worker has done its work; False where it died.

    Raises:
        StageError: it failed, and said why.
    """
    import ray

    try:
        code, said, log = ray.get(reference)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError:
        return False
    if code < 0:
        return False
    if code:
        raise StageError("a worker died", got=said, hint="the same command goes on from here", see=log)
    return True


def _worker(number: int, folder: str, n_trials: int, threads: int) -> tuple[int, str, str]:
    """The task: a worker process that dies with this one; its exit code, last words and log."""
    log = Path(folder) / f"worker-{number}.log"
    raylet = os.getppid()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "spaceport_lab.sweep.worker", folder, str(n_trials)]
    with open(log, "wb") as opened:
        opened.write(f"{runcard.now()} {os.uname().nodename}\n".encode())
        opened.flush()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=opened, stderr=opened, env=environment,
            start_new_session=True,
        )  # fmt: skip
    try:
        while process.poll() is None:
            if os.getppid() != raylet:
                process.kill()  # the node is dead to the cluster: its trial must be free for others
                os._exit(1)
            time.sleep(0.1)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
            process.kill()
            process.wait()
    said = log.read_text(errors="replace").strip().splitlines()[-3:]
    return process.returncode, " / ".join(said), str(log)
