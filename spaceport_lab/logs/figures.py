"""Figures for dashboards: CloudWatch's embedded metric format, and Prometheus.

In CloudWatch each different set of dimension values is a metric that is paid for, so the dimensions are stage
and preset and nothing else; the job's name is a property, by which lines are found but not counted.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Protocol

from spaceport_lab import runcard
from spaceport_lab.errors import InputError, ParamsError

NAMESPACE = "SpaceportLab"
DIMENSIONS = ("stage", "preset")
MOST_METRICS = 100
"""As many as CloudWatch takes in one line."""

_SIZES = ["Bytes", "Bits"] + [
    big + small for big in ("Kilo", "Mega", "Giga", "Tera") for small in ("bytes", "bits")
]
_OTHERS = ["Seconds", "Microseconds", "Milliseconds", "Percent", "Count", "None"]
UNITS = frozenset([*_OTHERS, *_SIZES, *(f"{unit}/Second" for unit in [*_SIZES, "Count"])])
"""Units that CloudWatch knows."""

FIGURES = {
    "n_used": ("Photographs", "Count"),
    "n_registered": ("Registered", "Count"),
    "reprojection_error_px": ("ReprojectionError", "None"),
    "n_gaussians": ("Gaussians", "Count"),
    "psnr_heldout": ("HeldOutPSNR", "None"),
    "ssim_heldout": ("HeldOutSSIM", "None"),
    "bytes": ("SogSize", "Bytes"),
}
"""Metric of a stage on the run card → name and unit in CloudWatch."""

BUCKETS = (1, 3, 10, 30, 60, 180, 600, 1800, 3600, 7200, 14400, 43200)
"""Upper bounds of a stage's seconds in Prometheus."""

MOST_JOBS = 5000
"""Ended jobs whose run cards are counted."""


class Queue(Protocol):
    """What is asked of the queue of jobs."""

    def counts(self) -> dict[str, float]: ...

    def list(self, states: Sequence[str] = (), limit: int = 100) -> Sequence[Any]: ...


def emf(
    metrics: Mapping[str, tuple[float, str]],
    dimensions: Mapping[str, str],
    properties: Mapping[str, Any] | None = None,
    *,
    namespace: str = NAMESPACE,
    now: float | None = None,
) -> str:
    """One log line from which CloudWatch makes metrics; it ends without a newline.

    Args:
        metrics: name → value and unit. CloudWatch refuses what is not finite: it is left out, and named in
            the property `left_out`.
        dimensions: values of `stage` and `preset`, or of one of them.
        properties: what else is on the line, such as the job.
        namespace: where the metrics lie in CloudWatch.
        now: Unix seconds; None for now.

    Raises:
        ParamsError: a dimension, unit or name that CloudWatch or this project does not know.
    """
    _check(metrics, dimensions, properties or {})
    usable = {name: (value, unit) for name, (value, unit) in metrics.items() if math.isfinite(value)}
    directive = {
        "Namespace": namespace,
        "Dimensions": [[name for name in DIMENSIONS if name in dimensions]],
        "Metrics": [{"Name": name, "Unit": unit} for name, (_, unit) in usable.items()],
    }
    line: dict[str, Any] = {
        "_aws": {
            "Timestamp": round(1000 * (time.time() if now is None else now)),
            "CloudWatchMetrics": [directive] if usable else [],
        },
        **{name: value[:1024] for name, value in dimensions.items()},
        **{name: value for name, (value, _) in usable.items()},
        **(properties or {}),
    }
    if left_out := sorted(set(metrics) - set(usable)):
        line["left_out"] = left_out
    return json.dumps(line, allow_nan=False)


def run_metrics(card: Mapping[str, Any], now: float | None = None) -> list[str]:
    """A finished run as EMF lines: one for each stage that ran, one for all of it with `stage` = run."""
    preset = preset_of(card)
    properties = {"job": str(card.get("job", "")), "scene": str(card.get("scene", ""))}
    lines = []
    for stage, entry in (card.get("stages") or {}).items():
        if found := dict(_stage_figures(entry)):
            lines.append(emf(found, {"stage": stage, "preset": preset}, properties, now=now))
    whole = {"Failed": (float(card.get("status") != "succeeded"), "Count")}
    whole |= dict(_numbers(card, {"seconds": ("Seconds", "Seconds"), "cost": ("Cost", "None")}))
    lines.append(emf(whole, {"stage": "run", "preset": preset}, properties, now=now))
    return lines


def preset_of(card: Mapping[str, Any]) -> str:
    """Presets of a run as one word; a preset from a file is known by the file's name."""
    presets = (card.get("request") or {}).get("presets") or ()
    return "+".join(PurePath(str(name)).stem for name in presets) or "default"


def prometheus_text(store: Queue) -> bytes:
    """The queue and the seconds of each stage for Prometheus, in its text format.

    Raises:
        InputError: prometheus_client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
    except ImportError as error:
        raise InputError(
            "metrics for Prometheus need prometheus_client", hint="pip install 'spaceport-lab[serve]'"
        ) from error
    counts = store.counts()
    jobs = GaugeMetricFamily("spaceport_jobs", "Jobs by state.", labels=["state"])
    for state, n in counts.items():
        if state != "oldest_queued_s":
            jobs.add_metric([state], n)
    oldest = GaugeMetricFamily(
        "spaceport_oldest_queued_seconds", "How long the first job in the queue has waited.",
        value=counts.get("oldest_queued_s") or 0,
    )  # fmt: skip
    stages = HistogramMetricFamily(
        "spaceport_stage_seconds", "Seconds of stages that ran to their end.", labels=["stage"]
    )
    for stage, seconds in sorted(_stage_seconds(store.list(("succeeded", "failed"), MOST_JOBS)).items()):
        stages.add_metric([stage], _buckets(seconds), sum(seconds))

    class Families:
        def collect(self) -> Iterable[Any]:
            return jobs, oldest, stages

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Families())
    return generate_latest(registry)


def _check(
    metrics: Mapping[str, tuple[float, str]], dimensions: Mapping[str, str], properties: Mapping[str, Any]
) -> None:
    if unknown := set(dimensions) - set(DIMENSIONS):
        raise ParamsError(
            "each dimension of CloudWatch costs money",
            got=", ".join(sorted(unknown)),
            expected=" and ".join(DIMENSIONS),
            hint="give it as a property",
        )
    if unknown := {unit for _, unit in metrics.values()} - UNITS:
        raise ParamsError("CloudWatch knows no such unit", got=", ".join(sorted(unknown)))
    if empty := [name for name, value in dimensions.items() if not value.strip()]:
        raise ParamsError("a dimension is empty", got=", ".join(empty))
    if not 0 < len(metrics) <= MOST_METRICS:
        raise ParamsError("CloudWatch takes 1 to 100 metrics a line", got=len(metrics))
    names = Counter([*metrics, *dimensions, *properties, "_aws", "left_out"])
    if twice := [name for name, n in names.items() if n > 1]:
        raise ParamsError("a name is used twice in one line", got=", ".join(sorted(twice)))
    if bad := [name for name in metrics if not 0 < len(name) <= 1024]:
        raise ParamsError("a metric's name has 1 to 1024 characters", got=bad)


def _stage_figures(entry: Mapping[str, Any]) -> Iterator[tuple[str, tuple[float, str]]]:
    if entry.get("status") in (None, "pending", "running") or entry.get("reused_from"):
        return
    yield "Failed", (float(entry["status"] == "failed"), "Count")
    known = {
        "seconds": ("Seconds", "Seconds"),
        "peak_rss_mb": ("PeakMemory", "Megabytes"),
        "cost": ("Cost", "None"),
    }
    yield from _numbers(entry, known)
    yield from _numbers(entry.get("metrics") or {}, FIGURES)


def _numbers(
    values: Mapping[str, Any], names: Mapping[str, tuple[str, str]]
) -> Iterator[tuple[str, tuple[float, str]]]:
    for key, (name, unit) in names.items():
        value = values.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, (value, unit)


_known: dict[str, tuple[int, dict[str, float]]] = {}
"""Run folder → when its card was changed, seconds by stage: a scrape reads only what is new."""


def _stage_seconds(jobs: Iterable[Any]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for job in jobs:
        for stage, seconds in _card_seconds(job.run_dir).items():
            found.setdefault(stage, []).append(seconds)
    return found


def _card_seconds(run_dir: str) -> dict[str, float]:
    if not run_dir:
        return {}
    try:
        changed = (Path(run_dir) / "run.json").stat().st_mtime_ns
    except (OSError, ValueError):  # ValueError: a path with NUL
        return {}
    if (before := _known.get(run_dir)) and before[0] == changed:
        return before[1]
    stages = (runcard.read(Path(run_dir)) or {}).get("stages") or {}
    ran = {s: e for s, e in stages.items() if e.get("status") == "succeeded" and not e.get("reused_from")}
    seconds = {s: float(e["seconds"]) for s, e in ran.items() if isinstance(e.get("seconds"), int | float)}
    if len(_known) > 2 * MOST_JOBS:
        _known.clear()
    _known[run_dir] = changed, seconds
    return seconds


def _buckets(seconds: Sequence[float]) -> list[tuple[str, float]]:
    return [
        ("+Inf" if math.isinf(bound) else str(float(bound)), sum(s <= bound for s in seconds))
        for bound in (*BUCKETS, math.inf)
    ]
