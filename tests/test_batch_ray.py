"""Two nodes of a real Ray cluster on loopback: a node dies, a raylet alone dies, a driver is interrupted."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import psutil
import pytest
import yaml
from batching import make_scenes, stub, times_run
from ray_cluster import Cluster
from waiting import until

from spaceport_lab import runcard
from spaceport_lab.batch.attempt import Work
from spaceport_lab.batch.on_ray import Again, OnRay
from spaceport_lab.errors import BackendError, ParamsError

DRIVER = """
import sys
from pathlib import Path
from spaceport_lab.batch import make_batch, run_batch
from spaceport_lab.batch.on_ray import OnRay
from spaceport_lab.errors import SpaceportError
folder = Path(sys.argv[1])
try:
    outcome = run_batch(make_batch(folder / "may.yaml", folder / "data"), OnRay(), command=sys.argv[2:])
except SpaceportError as error:
    sys.exit(f"{type(error).__name__}: {error}")
sys.exit(outcome.exit_code)
"""


class Batch:
    """Scenes in a folder, and a driver that runs them on the cluster."""

    def __init__(self, folder: Path, cluster: Cluster, n: int, **defaults: Any) -> None:
        self.folder, self.cluster = folder, cluster
        self.places = make_scenes(folder / "sites", n)
        defaults = {"overrides": ["train.backend=cpu"]} | defaults
        (folder / "may.yaml").write_text(yaml.safe_dump({"scenes": ["sites/*"], "defaults": defaults}))
        self.command = stub(folder)

    def start(self, **environment: str) -> subprocess.Popen[str]:
        self.driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(self.folder), *self.command],
            stderr=subprocess.PIPE, text=True, env={**self.cluster.environment, **environment},
        )  # fmt: skip
        return self.driver

    def end(self, code: int, seconds: float = 240) -> str:
        """Wait for the driver's end; returns what it complained about."""
        said = self.driver.communicate(timeout=seconds)[1]
        assert self.driver.returncode == code, said
        return said

    def hold(self, *numbers: int) -> None:
        for number in numbers:
            (self.places[number] / "wait.txt").touch()

    def let_go(self, *numbers: int) -> None:
        for number in numbers:
            (self.places[number] / "wait.txt").unlink()

    def root(self, number: int) -> Path:
        name = self.places[number].name
        return self.folder / "data" / name / "runs" / f"may-{name}"

    def attempts(self, number: int) -> list[dict[str, Any]]:
        return (runcard.read(self.root(number)) or {}).get("attempts") or []

    def writes(self, number: int) -> list[int]:
        """Attempts that wrote, in the order they did."""
        log = self.root(number) / "writes.txt"
        return [int(line.split()[0]) for line in log.read_text().splitlines()] if log.exists() else []

    def at_work(self, number: int) -> bool:
        return bool(self.writes(number) and self.attempts(number))

    def process(self, number: int) -> psutil.Process:
        """The process of the first attempt."""
        return psutil.Process(int((self.places[number] / "ran.txt").read_text().split()[1]))

    def rows(self) -> list[dict[str, Any]]:
        return json.loads((self.folder / "data/.batches/may/batch.json").read_text())["scenes"]

    def states(self) -> list[str]:
        return [row["state"] for row in self.rows()]

    def times(self) -> list[int]:
        return [times_run(place) for place in self.places]


@pytest.fixture
def batch(tmp_path: Path, cluster: Cluster) -> Iterator[Callable[..., Batch]]:
    made: list[Batch] = []

    def make(n: int, **defaults: Any) -> Batch:
        made.append(Batch(tmp_path, cluster, n, **defaults))
        return made[-1]

    yield make
    for one in made:
        one.driver.kill()
        one.driver.communicate()


def test_a_dead_node_gives_its_scene_to_another(cluster: Cluster, batch: Callable[..., Batch]) -> None:
    four = batch(4)
    four.hold(0, 1)
    (four.places[2] / "busy.txt").touch()
    (four.places[3] / "bad.txt").touch()
    four.start()
    until(lambda: four.at_work(0) and four.at_work(1))
    nodes = [four.attempts(number)[0]["node"] for number in (0, 1)]
    assert nodes[0] != nodes[1], "two scenes, two nodes"
    cluster.kill(nodes[0])
    four.let_go(1)  # the other node has room now
    until(lambda: 2 in four.writes(0) and len(four.attempts(0)) == 2)
    four.let_go(0)
    four.end(1)
    first, second = four.attempts(0)
    assert (first["number"], first["state"], first["node"]) == (1, "lost", nodes[0])
    assert (second["number"], second["state"], second["node"]) == (2, "succeeded", nodes[1])
    assert four.states() == ["succeeded", "succeeded", "succeeded", "failed"]
    assert four.times() == [2, 1, 2, 1], "what may pass is tried again, what is bad is not"
    rows = four.rows()
    assert (rows[0]["attempts"], rows[0]["psnr"], rows[3]["code"]) == (2, 30.0, "SL-200")


def test_a_gpu_for_who_asks(cluster: Cluster, batch: Callable[..., Batch]) -> None:
    node = cluster.add(gpus=1)  # Ray believes it; nothing here uses it
    one = batch(1, overrides=["train.backend=cuda"])
    one.start()
    one.end(0)
    assert node.startswith(one.attempts(0)[0]["node"])
    assert (one.places[0] / "ran.txt").read_text().split()[2:] == ["1", "0"], "one thread, GPU number 0"


def test_a_dead_raylet_alone_is_noticed_by_its_scene(cluster: Cluster, batch: Callable[..., Batch]) -> None:
    one = batch(1)
    one.hold(0)
    one.start()
    until(lambda: one.at_work(0))
    scene = one.process(0)
    cluster.raylet(one.attempts(0)[0]["node"]).kill()
    until(lambda: 2 in one.writes(0))
    assert not psutil.wait_procs([scene], timeout=20)[1]
    one.let_go(0)
    one.end(0)
    assert one.writes(0) == sorted(one.writes(0)), "the older one wrote after the later one"
    assert [(a["number"], a["state"]) for a in one.attempts(0)] == [(1, "lost"), (2, "succeeded")]
    cluster.add()


def test_two_at_work_on_one_scene_are_never_two_writers(
    cluster: Cluster, batch: Callable[..., Batch]
) -> None:
    one = batch(1)
    one.hold(0)
    driver = one.start()
    until(lambda: one.at_work(0))
    scene = one.process(0)
    keeper = scene.parent()
    assert keeper is not None
    task = keeper.parent()
    assert task is not None
    # Whoever could end the scene is asleep, as on a machine in trouble: it outlives raylet and driver.
    for process in (keeper, task):
        process.suspend()
    try:
        cluster.raylet(one.attempts(0)[0]["node"]).kill()
        driver.kill()
        one.end(-signal.SIGKILL)
        one.start()
        until(lambda: 2 in one.writes(0))
        refused = one.places[0] / "refused.txt"
        until(refused.exists)
        assert refused.read_text() == "1"
        written = one.writes(0)
        assert written == sorted(written), "the older one wrote after the later one"
    finally:
        for process in (keeper, task):
            with contextlib.suppress(psutil.NoSuchProcess):  # Ray kills what it still finds of a dead driver
                process.resume()
        cluster.add()  # for the tests that come
    one.let_go(0)
    one.end(0)
    assert [(a["number"], a["state"]) for a in one.attempts(0)] == [(1, "lost"), (2, "succeeded")]
    assert not psutil.wait_procs([scene, keeper, task], timeout=20)[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_driver_leaves_nothing_at_work(
    number: signal.Signals, batch: Callable[..., Batch]
) -> None:
    three = batch(3)
    three.hold(0, 1, 2)
    driver = three.start()
    until(lambda: sum(three.at_work(n) for n in range(3)) == 2)
    running = [n for n in range(3) if three.at_work(n)]
    family = [three.process(n) for n in running]
    driver.send_signal(number)
    three.end(130 if number == signal.SIGINT else -number)
    assert not psutil.wait_procs(family, timeout=30)[1], "orphans"
    if number == signal.SIGINT:
        assert sorted(three.states()) == ["interrupted", "interrupted", "waiting"]
        assert {three.attempts(n)[0]["state"] for n in running} == {"interrupted"}


def test_a_wrong_token_is_refused(batch: Callable[..., Batch]) -> None:
    one = batch(1)
    one.start(RAY_AUTH_TOKEN="f" * 64, RAY_NUM_REDIS_GET_RETRIES="1")
    assert "StageError: the Ray cluster cannot be reached" in one.end(1)
    assert one.times() == [0]


@pytest.mark.parametrize(
    ("backend", "gpus", "given"),
    [("auto", 0, (2, 0)), ("auto", 1, (2, 1)), ("cpu", 1, (2, 0)), ("cuda", 1, (2, 1)), ("cuda", 0, None)],
)
def test_what_a_task_is_given(
    backend: str, gpus: int, given: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = MagicMock()
    fake.nodes.return_value = [
        {"Alive": True, "Resources": {"memory": 1.0}},  # a head that works on nothing
        {"Alive": True, "Resources": {"CPU": 8.0}},
        {"Alive": True, "Resources": {"CPU": 2.0, "GPU": float(gpus)}},
        {"Alive": False, "Resources": {"CPU": 1.0, "GPU": 1.0}},
    ]
    monkeypatch.setitem(sys.modules, "ray", fake)
    work = Work("job", {}, "data", "run", "folder", backend=backend)
    if given is None:
        with pytest.raises(BackendError, match="no node of the cluster has a GPU"):
            OnRay().begin([work])
        assert not fake.remote.called
        return
    OnRay(retries=4).begin([work])
    options = fake.remote.return_value.options.call_args.kwargs
    assert (options["num_cpus"], options["num_gpus"]) == given
    assert (options["max_retries"], options["retry_exceptions"]) == (4, [Again])


def test_addresses_and_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParamsError, match="is no cluster"), OnRay("10.0.0.1"):
        pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ParamsError, match=r"spaceport-lab\[cluster\]"), OnRay():
        pass
