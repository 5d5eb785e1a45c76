"""A sweep on two nodes of a real Ray cluster: the node of a trial dies, and another one goes on with it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import scenes
import yaml
from optuna.trial import TrialState
from ray_cluster import Cluster

from spaceport_lab import sweep
from spaceport_lab.errors import BackendError, WorkspaceError
from spaceport_lab.sweep import ray as on_ray

QUICK = (
    "train.max_steps=200", "train.eval_every=25", "train.checkpoint_every=10", "train.refine_every=50",
    "train.sh_degree=0", "train.backend=cpu",
)  # fmt: skip
SPACE = {"train.means_lr": {"low": 1e-5, "high": 1e-2, "log": True}}

DRIVER = """
import json, sys
from pathlib import Path
from spaceport_lab import sweep
space = sweep.parse_space(json.loads(sys.argv[2]), "test.yaml")
asked = sweep.make_sweep(Path(sys.argv[1]), space, "far", overrides=json.loads(sys.argv[3]))
found = sweep.run_sweep(asked, 4, 1, on="ray")
print(found.preset)
"""


def worker_of(cluster: Cluster) -> tuple[str, psutil.Process] | None:
    """The node that has the sweep's worker, and the worker."""
    for node in cluster.raylets:
        for process in cluster.raylet(node).children(recursive=True):
            if "spaceport_lab.sweep.worker" in process.cmdline():
                return node, process
    return None


def test_a_trial_goes_on_when_its_node_dies(cluster: Cluster, tmp_path: Path) -> None:
    scene = tmp_path / "mound"
    scenes.make_run(scene / "runs" / "a")
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(scene), json.dumps(SPACE), json.dumps(QUICK)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=cluster.environment,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 240
        while not (scene / "runs" / "far-t00" / "03_train" / "checkpoint.pt").exists():
            assert driver.poll() is None, driver.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        found = worker_of(cluster)
        assert found is not None
        node, worker = found
        cluster.kill(node)
        assert not psutil.wait_procs([worker], timeout=10)[1]
        said = driver.communicate(timeout=120)
    finally:
        driver.kill()
        driver.communicate()
    assert driver.returncode == 0, said
    asked = sweep.load(scene / "sweeps" / "far")
    trials = sweep.open_study(asked).trials
    assert len(trials) == 4, "the one that was killed is not repeated as another one"
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert [trial.user_attrs.get("attempts", 1) for trial in trials] == [2, 1, 1, 1]
    assert Path(said[0].strip().splitlines()[-1]).is_file()
    assert yaml.safe_load((scene / "sweeps" / "far" / "best.yaml").read_text()) is not None


class FakeRay:
    """The one call that is made before anything begins."""

    def __init__(self, *hosts: str, **resources: float) -> None:
        self.found = [
            {"Alive": True, "NodeManagerHostname": host, "Resources": {"CPU": 4.0 + number, **resources}}
            for number, host in enumerate(hosts)
        ]

    def nodes(self) -> list[dict]:
        return self.found


def options(monkeypatch: pytest.MonkeyPatch, scene: Path, fake: FakeRay, **more: str) -> dict:
    monkeypatch.setitem(sys.modules, "ray", fake)
    backend = more.pop("backend", "auto")
    asked = sweep.make_sweep(
        scene, sweep.parse_space(SPACE, "t"), "opts", overrides=[f"train.backend={backend}"], **more
    )
    return on_ray._options(asked)


def test_what_a_worker_gets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scene = tmp_path / "mound"
    scenes.make_run(scene / "runs" / "a")
    assert options(monkeypatch, scene, FakeRay("one", "one")) == {"num_cpus": 4, "num_gpus": 0}
    postgres = "postgresql://db/sweeps"
    two = FakeRay("one", "two", GPU=1.0)
    assert options(monkeypatch, scene, two, storage=postgres) == {"num_cpus": 4, "num_gpus": 1}
    assert options(monkeypatch, scene, two, storage=postgres, backend="cpu")["num_gpus"] == 0
    with pytest.raises(WorkspaceError, match="2 machines cannot share a study in SQLite"):
        options(monkeypatch, scene, two)
    with pytest.raises(BackendError, match="no node of the cluster has a GPU"):
        options(monkeypatch, scene, FakeRay("one"), backend="cuda")
