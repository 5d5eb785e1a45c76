"""A finished run written into MLflow: parameters, metrics over steps, run card and report.

Which store is an option of a run and no parameter of a stage: it changes nothing that is made, it holds for
all stages, and runs that failed in any of them are to be found there too. Without a server the store is an
SQLite file: MLflow no longer develops its folders of files.
"""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spaceport_lab import runcard
from spaceport_lab.train import stream
from spaceport_lab.workspace import folder_name

LOCAL = "local"
"""The store that needs no server: mlflow.db and mlflow/ beside the scenes."""

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""In force unless a person set them: nothing is told to strangers, a server that is away costs seconds."""

BATCH_METRICS, BATCH_PARAMS = 1000, 100
"""As many as MLflow takes at once."""

MOST_STEPS = 1000
"""Records of single steps that are logged, evenly spaced; evaluations and densifications are logged all."""

STATES = {"succeeded": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "pruned": "KILLED"}
"""Status on the run card → MLflow's."""

FIGURES = {
    "step": ("loss", "n_gaussians"),
    "eval": ("psnr", "ssim", "psnr_validation"),
    "refine": ("cloned", "split", "added", "pruned", "threshold"),
}
"""Kind of record → what of it is logged over the steps, as train/NAME."""


def log_run(root: Path, store: str, *, with_sog: bool = False) -> str:
    """Write a run into a store, in place of what was written of it before.

    Whatever goes wrong (package missing, server away, disk full) fails no run: it becomes a warning on the
    card.

    Args:
        root: the run folder, finished or failed.
        store: `local`, or MLflow's tracking URI: sqlite:///…, http://…
        with_sog: keep the .sog as an artifact of its own; the report holds it anyway.

    Returns:
        The warning; empty when all went well.
    """
    root = Path(root).resolve()
    card = runcard.read(root)
    if card is None:
        return f"{root} has no run card, and was not logged to MLflow"
    before = card.get("mlflow") or {}
    try:
        noted = {"store": store, "run": _log(root, card, store, with_sog, before)}
        warning = ""
    except Exception as error:  # mlflow, sqlalchemy and requests have errors of their own
        lines = str(error).strip().splitlines() or [""]
        warning = f"not logged to MLflow ({store}): {type(error).__name__}: {lines[0][:200]}"
        if isinstance(error, ImportError):
            warning += "; pip install 'spaceport-lab[mlflow]'"
        noted = {**before, "warning": warning}
    runcard.update(root, lambda new: new.update(mlflow=noted))
    return warning


def tracking_uri(root: Path, store: str) -> str:
    """The store as MLflow wants it; `local` lies in the folder of the scenes."""
    if store != LOCAL:
        return store
    return f"sqlite:///{_data_dir(root) / 'mlflow.db'}"


def _log(root: Path, card: Mapping[str, Any], store: str, with_sog: bool, before: Mapping[str, Any]) -> str:
    client = _client(tracking_uri(root, store))
    experiment = _experiment(client, str(card["scene"]), root, store)
    began = _milliseconds(card.get("created"))
    run = client.create_run(experiment, start_time=began, run_name=str(card["job"]), tags=_tags(root, card))
    _write(client, run.info.run_id, root, card, began, with_sog)
    state = STATES.get(str(card.get("status")), "RUNNING")
    client.set_terminated(run.info.run_id, state, _milliseconds(card.get("ended")))
    if before.get("store") == store and before.get("run"):
        client.delete_run(before["run"])
    return run.info.run_id


def _client(uri: str) -> Any:
    """MLflow's client, which says nothing but what is wrong."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # MLflow sets up its own logging when it is imported
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _write(client: Any, run_id: str, root: Path, card: Mapping[str, Any], began: int, with_sog: bool) -> None:
    from mlflow.entities import Metric, Param

    params = [Param(name, value) for name, value in _params(card)]
    metrics = [Metric(name, value, began + after, step) for name, value, after, step in _metrics(root, card)]
    for i in range(0, len(params), BATCH_PARAMS):
        client.log_batch(run_id, params=params[i : i + BATCH_PARAMS])
    for i in range(0, len(metrics), BATCH_METRICS):
        client.log_batch(run_id, metrics=metrics[i : i + BATCH_METRICS])
    sog = root / folder_name("compress") / "splat.sog"
    for path in (root / "run.json", root / "report.html", *([sog] if with_sog else [])):
        if path.is_file():
            client.log_artifact(run_id, str(path))


def _experiment(client: Any, scene: str, root: Path, store: str) -> str:
    """The scene's experiment, made when missing."""
    found = client.get_experiment_by_name(scene)
    if found is not None:
        return found.experiment_id
    # MLflow's own choice without a server is the folder somebody happens to work in.
    served = store.startswith(("http:", "https:", "databricks"))
    place = None if served else (_data_dir(root) / "mlflow" / scene).as_uri()
    return client.create_experiment(scene, artifact_location=place)


def _data_dir(root: Path) -> Path:
    """`data` of data/SCENE/runs/JOB."""
    return root.parents[2]


def _tags(root: Path, card: Mapping[str, Any]) -> dict[str, str]:
    host, git = card.get("host") or {}, card.get("git") or {}
    tags = {
        "run_dir": str(root),
        "status": card.get("status"),
        "error": (str(card.get("error") or "").splitlines() or [""])[0],
        "processor": host.get("processor"),
        "gpu": host.get("gpu"),
        "commit": git.get("commit"),
        "version": (card.get("versions") or {}).get("spaceport-lab"),
    }
    return {f"spaceport.{name}": str(value)[:5000] for name, value in tags.items() if value}


def _params(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for stage, entries in (card.get("params") or {}).items():
        if stage in card["stages"]:
            for name, entry in entries.items():
                yield f"{stage}.{name}", str(entry["value"])[:5000]


def _metrics(root: Path, card: Mapping[str, Any]) -> Iterator[tuple[str, float, int, int]]:
    """Name, value, milliseconds after the start, step: of training over its steps, then of every stage."""
    for kind, record in _thinned(stream.read(root / folder_name("train") / "metrics.jsonl")):
        after = round(1000 * float(record.get("seconds") or 0))
        for name in FIGURES[kind]:
            if _is_number(record.get(name)):
                yield f"train/{name}", float(record[name]), after, int(record["step"])
    for stage, entry in card["stages"].items():
        figures = {**(entry.get("metrics") or {}), **{k: entry.get(k) for k in ("seconds", "peak_rss_mb")}}
        for name, value in figures.items():
            if _is_number(value):
                yield f"{stage}.{name}", float(value), 0, 0


def _thinned(records: Sequence[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    every = 1 + sum(record["kind"] == "step" for record in records) // MOST_STEPS
    steps = 0
    for record in records:
        kind = record["kind"]
        steps += kind == "step"
        if kind in FIGURES and (kind != "step" or steps % every == 0):
            yield kind, record


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _milliseconds(text: Any) -> int:
    """ISO 8601 as milliseconds since 1970; now where there is none."""
    try:
        moment = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        moment = datetime.datetime.now(datetime.UTC)
    return round(1000 * moment.timestamp())
