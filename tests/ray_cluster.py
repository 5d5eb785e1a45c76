"""A small Ray cluster on loopback for tests, in a process of its own: its settings are read once, on import.

`Cluster()` is what tests use. As a script this is that process: it reads `add CPUS GPUS` and `remove NODE`
from standard input and answers each with a line `NODE RAYLET_PID`, or `ok`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

TOKEN = "0123456789abcdef" * 4

HEALTH = {
    "health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 10000,
    "health_check_failure_threshold": 3,
}  # fmt: skip
"""A dead node is noticed in seconds."""

SMALL = {"object_store_memory": 80_000_000, "include_dashboard": False}


class Cluster:
    """A head that works on nothing, and nodes; all behind a token.

    Attributes:
        environment: for whoever is to be a driver.
    """

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="r")  # short: sockets lie in it
        here = str(Path(__file__).parent)
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": self.folder,
            "PYTHONPATH": f"{here}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        }
        self.environment.pop("SPACEPORT_FENCE", None)
        self.raylets: dict[str, int] = {}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        self.environment["RAY_ADDRESS"] = self._line()

    def add(self, cpus: int = 1, gpus: int = 0) -> str:
        """Start a node; returns its number."""
        node, pid = self._ask(f"add {cpus} {gpus}").split()
        self.raylets[node] = int(pid)
        return node

    def remove(self, node: str) -> None:
        """End a node in good order."""
        self._ask(f"remove {node}")

    def raylet(self, node: str) -> psutil.Process:
        """The raylet of the node whose number begins so."""
        (pid,) = [pid for number, pid in self.raylets.items() if number.startswith(node)]
        return psutil.Process(pid)

    def kill(self, node: str) -> None:
        """Kill all processes of a node, as a machine that loses its power does."""
        root = self.raylet(node)
        for one in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                one.kill()

    def close(self) -> None:
        """End all."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        for one in [psutil.Process(self.process.pid), *family]:
            with contextlib.suppress(psutil.Error):
                one.kill()
        self.process.communicate()
        psutil.wait_procs(family, timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ask(self, text: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        raise AssertionError("the cluster ended")


def main() -> None:
    """The process of the cluster."""
    from ray.cluster_utils import Cluster as Nodes

    head = {"num_cpus": 0, "_system_config": HEALTH, **SMALL}
    nodes = Nodes(initialize_head=True, head_node_args=head)
    made = {}
    print(">", nodes.address, flush=True)
    for line in sys.stdin:
        order, *rest = line.split()
        if order == "add":
            node = nodes.add_node(wait=True, num_cpus=int(rest[0]), num_gpus=int(rest[1]), **SMALL)
            made[node.node_id] = node
            print(">", node.node_id, node.all_processes["raylet"][0].process.pid, flush=True)
        else:
            nodes.remove_node(made.pop(rest[0]))
            print("> ok", flush=True)


if __name__ == "__main__":
    main()
