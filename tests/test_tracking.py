"""Runs in MLflow: read back through its own client, and what happens where it cannot be."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from spaceport_lab import runcard, tracking
from spaceport_lab.errors import StageError
from spaceport_lab.params import resolve
from spaceport_lab.pipeline import make_request, run_pipeline


def make_run(data: Path, job: str = "job-1") -> Path:
    """A run as the pipeline leaves it, as far as MLflow gets to see it."""
    root = data / "mound" / "runs" / job
    metrics = {"psnr_heldout": 25.5, "psnr_validation": None, "stopped_by": "max_steps", "steps": 3000}

    def fill(card: dict) -> None:
        card.update(params=resolve((), ["train.seed=7"]).card(), status="succeeded", ended=runcard.now())
        card["stages"] = {"train": {"status": "succeeded", "seconds": 12.5, "metrics": metrics}}

    runcard.update(root, fill)
    (root / "03_train").mkdir()
    records = [{"kind": "step", "step": s, "seconds": s / 100, "loss": 1 / s, "n_gaussians": s} for s in
               range(10, 30_010, 10)]  # fmt: skip
    records.append({"kind": "eval", "step": 500, "seconds": 5.0, "psnr": 22.5, "ssim": None})
    records.append({"kind": "start", "step": 0})
    (root / "03_train" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (root / "report.html").write_text("<p>report</p>")
    return root


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that was logged twice to the local store, and what was said."""
    root = make_run(tmp_path_factory.mktemp("data"))
    first = tracking.log_run(root, "local")
    return root, first + tracking.log_run(root, "local")


def client(root: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=tracking.tracking_uri(root, "local"))


def test_the_local_store_lies_beside_the_scenes_and_has_the_run_once(logged: tuple[Path, str]) -> None:
    root, said = logged
    assert said == ""
    assert (root.parents[2] / "mlflow.db").exists()
    there = client(root)
    experiment = there.get_experiment_by_name("mound")
    (run,) = there.search_runs([experiment.experiment_id])
    assert run.info.run_id == runcard.read(root)["mlflow"]["run"]
    assert (run.info.run_name, run.info.status) == ("job-1", "FINISHED")
    assert run.data.params["train.seed"] == "7"
    assert run.data.tags["spaceport.run_dir"] == str(root)
    assert "sfm.train_size" not in run.data.params, "the run did not do that stage"


def test_metrics_over_the_steps(logged: tuple[Path, str]) -> None:
    root, _ = logged
    run_id, there = runcard.read(root)["mlflow"]["run"], client(root)
    (psnr,) = there.get_metric_history(run_id, "train/psnr")
    assert (psnr.value, psnr.step) == (22.5, 500)
    loss = there.get_metric_history(run_id, "train/loss")
    assert 500 < len(loss) <= tracking.MOST_STEPS
    assert all(m.value == pytest.approx(1 / m.step) for m in loss)
    assert psnr.timestamp - loss[0].timestamp == pytest.approx(5000 - 10 * loss[0].step, abs=1)
    final = there.get_run(run_id).data.metrics
    assert (final["train.psnr_heldout"], final["train.seconds"]) == (25.5, 12.5)
    assert "train.psnr_validation" not in final


def test_artifacts(logged: tuple[Path, str]) -> None:
    root, _ = logged
    run_id, there = runcard.read(root)["mlflow"]["run"], client(root)
    assert {artifact.path for artifact in there.list_artifacts(run_id)} == {"run.json", "report.html"}
    run = there.get_run(run_id)
    assert run.info.artifact_uri.startswith((root.parents[2] / "mlflow").as_uri())
    fetched = Path(there.download_artifacts(run_id, "report.html"))
    assert fetched.read_text() == "<p>report</p>"


@pytest.mark.parametrize("store", ["http://127.0.0.1:9", "nonsense://x"])
def test_a_store_that_cannot_be_reached_is_a_warning_on_the_card(tmp_path: Path, store: str) -> None:
    root = make_run(tmp_path)
    said = tracking.log_run(root, store)
    assert said.startswith(f"not logged to MLflow ({store})")
    assert runcard.read(root)["mlflow"]["warning"] == said


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_run(tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    said = tracking.log_run(root, "local")
    assert "pip install 'spaceport-lab[mlflow]'" in said
    assert not (tmp_path / "mlflow.db").exists()


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    assert "no run card" in tracking.log_run(tmp_path, "local")


class Nowhere:
    """A client that takes everything."""

    def __getattr__(self, name: str):
        return lambda *a, **k: SimpleNamespace(experiment_id="1", info=SimpleNamespace(run_id="r"))


def test_a_damaged_stream_is_a_warning_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_run(tmp_path)
    (root / "03_train" / "metrics.jsonl").write_text("{no json\n")
    monkeypatch.setattr(tracking, "_client", lambda uri: Nowhere())
    assert "JSONDecodeError" in tracking.log_run(root, "local")


def test_the_pipeline_logs_a_run_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty" / "images").mkdir(parents=True)
    told: list[tuple[str, str]] = []

    def log(root: Path, store: str) -> str:
        told.append((runcard.read(root)["status"], store))
        return "not logged"

    def breaks(*_: object) -> bool:
        raise StageError("ingest failed")

    monkeypatch.setattr(tracking, "log_run", log)
    monkeypatch.setattr("spaceport_lab.pipeline.run._run_stage", breaks)
    request = make_request(tmp_path / "empty", "full", tmp_path)
    with pytest.raises(StageError, match="ingest failed"):
        run_pipeline(request, mlflow="local")
    assert told == [("failed", "local")]
