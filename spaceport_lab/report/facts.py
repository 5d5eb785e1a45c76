"""What the report says in words and numbers, from the run card and the stages' files."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaceport_lab.params import SCHEMAS, STAGES
from spaceport_lab.params.describe import changes_in_words
from spaceport_lab.workspace import folder_name

PURPOSE = {
    "ingest": "photographs checked",
    "sfm": "cameras and points",
    "train": "Gaussians",
    "compress": "a small file",
    "inspect": "a close look",
}
"""What each stage is for, in a few words."""


LABELS = {
    "n_photos": "photographs",
    "n_used": "usable",
    "n_images": "photographs",
    "n_registered": "registered",
    "n_points": "points",
    "n_gaussians": "Gaussians",
    "reprojection_error_px": "reprojection error [px]",
    "gps_rmse_m": "GPS error, RMSE [m]",
    "pose_rmse_m": "pose error, RMSE [m]",
    "psnr_heldout": "held-out PSNR [dB]",
    "cc_psnr_heldout": "held-out cc-PSNR, colours matched [dB]",
    "psnr_validation": "validation PSNR [dB]",
    "ssim_heldout": "held-out SSIM",
    "psnr_train": "training PSNR [dB]",
    "best_step": "best step",
    "bytes": ".sog [bytes]",
    "ply_bytes": "PLY [bytes]",
    "changes": "changed while it trained",
    "thin_share": "shown by fewer than 3 photographs [share]",
}
"""Names of metrics for people, with units; others are shown as they are."""

ELSEWHERE = ("verdicts", "report_bytes")
"""Metrics not shown among the others: sentences, and the size of the page itself."""


@dataclass(frozen=True)
class Tile:
    """A headline number.

    Attributes:
        label: what it is.
        value: with its unit.
        note: a few words below.
    """

    label: str
    value: str
    note: str = ""


def tiles(card: Mapping[str, Any]) -> list[Tile]:
    """The headline numbers that this run has."""
    metrics = {stage: card["stages"].get(stage, {}).get("metrics") or {} for stage in STAGES}
    ingest, sfm, training, packed, seen = (metrics[stage] for stage in STAGES)
    found = [
        _tile("held-out PSNR", seen.get("psnr_heldout"), "{:.2f} dB", _before(training, packed)),
        _tile("held-out SSIM", seen.get("ssim_heldout"), "{:.3f}", "1 is the same"),
        _tile("photographs registered", sfm.get("n_registered"), "{:,}", _of(sfm.get("n_images"))),
        _tile("reprojection error", sfm.get("reprojection_error_px"), "{:.2f} px", _points(sfm)),
        _tile("GPS error", sfm.get("gps_rmse_m"), "{:.2f} m", "RMSE of the cameras"),
        _tile("pose error", sfm.get("pose_rmse_m"), "{:.3f} m", "RMSE against ground truth"),
        _tile("Gaussians", packed.get("n_gaussians"), "{:,}", _steps(training)),
        _tile("compressed", packed.get("ratio"), "{:.1f} ×", _sizes(packed)),
    ]
    if not sfm:
        found.append(_tile("photographs usable", ingest.get("n_used"), "{:,}", _of(ingest.get("n_photos"))))
    shown = [tile for tile in found if tile is not None]
    expected = card.get("estimate") or {}
    cores = f"on {card['host'].get('cores', '?')} cores"
    shown.append(
        Tile("time", duration(total_seconds(card)), cores + _expected(expected.get("seconds"), duration))
    )
    if card.get("cost") is not None:
        price = f"at ${card['usd_per_hour']:g} an hour"
        if date := (card.get("price") or {}).get("date"):
            price += f" ({date})"
        shown.append(
            Tile("cost", f"${card['cost']:.2f}", price + _expected(expected.get("usd"), "${:.2f}".format))
        )
    return shown


def _expected(between: Mapping[str, Any] | None, show: Callable[[float], str]) -> str:
    """What earlier runs had said, to stand beside what came."""
    return f", {show(between['low'])} to {show(between['high'])} expected" if between else ""


def stage_rows(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every stage of the card, in order: status, time and its share of the whole, memory, warnings."""
    total = total_seconds(card) or 1.0
    rows = []
    for stage in STAGES:
        entry = card["stages"].get(stage)
        if entry is None:
            continue
        seconds = entry.get("seconds")
        memory = entry.get("peak_rss_mb")
        rows.append(
            {
                "stage": stage,
                "name": entry.get("name", stage),
                "purpose": PURPOSE[stage],
                "status": entry.get("status", "unknown"),
                "time": duration(seconds) if seconds is not None else "–",
                "share": 100 * (seconds or 0) / total,
                "memory": f"{memory / 1000:,.2f} GB" if memory else "–",
                "warnings": entry.get("warnings") or [],
                "error": entry.get("error") or "",
                "metrics": metric_rows(entry.get("metrics") or {}),
            }
        )
    return rows


def metric_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of every metric that has one."""
    return [
        (
            LABELS.get(name, name.replace("_", " ")),
            "; ".join(changes_in_words(value)) if name == "changes" else number(value),
        )
        for name, value in metrics.items()
        if value is not None and name not in ELSEWHERE
    ]


def verdicts(card: Mapping[str, Any]) -> list[str]:
    """What training had to say about itself."""
    return list((card["stages"].get("train", {}).get("metrics") or {}).get("verdicts") or [])


def warnings(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every stage's warnings, with the stage."""
    found = [
        (stage, text) for stage in STAGES for text in card["stages"].get(stage, {}).get("warnings") or []
    ]
    if trouble := (card.get("mlflow") or {}).get("warning"):
        found.append(("mlflow", trouble))
    return found


def param_rows(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per stage of the card: parameters away from their default, and the others, with origin and help."""
    rows = []
    for stage, entries in card.get("params", {}).items():
        if stage not in card["stages"]:
            continue
        fields = SCHEMAS[stage].model_fields if stage in SCHEMAS else {}
        lines = [
            {
                "name": name,
                "value": json.dumps(entry["value"], ensure_ascii=False),
                "origin": entry["origin"],
                "help": (fields[name].description or "") if name in fields else "",
            }
            for name, entry in entries.items()
        ]
        changed = [line for line in lines if line["origin"] != "default"]
        rows.append(
            {"stage": stage, "changed": changed, "default": [x for x in lines if x["origin"] == "default"]}
        )
    return rows


def environment_rows(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The machine, the versions, the commit."""
    host, git = card.get("host", {}), card.get("git")
    rows = [
        ("processor", f"{host.get('processor', 'unknown')}, {host.get('cores', '?')} cores"),
        ("memory", f"{host['memory_bytes'] / 1e9:.1f} GB" if host.get("memory_bytes") else "unknown"),
        ("system", f"{host.get('system', 'unknown')} on {host.get('machine', '?')}"),
    ]
    if host.get("gpu"):
        rows.append(("GPU", str(host["gpu"])))
    if git:
        rows.append(("commit", git["commit"][:12] + (" with changes" if git.get("dirty") else "")))
    rows += [(name, version or "not installed") for name, version in card.get("versions", {}).items()]
    return rows


def request_rows(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was asked for, as it was asked."""
    asked = card.get("request") or {}
    rows = [("job", card["job"]), ("scene", card["scene"])]
    for name in ("steps", "presets", "overrides"):
        if asked.get(name):
            value = asked[name]
            rows.append((name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    rows += [(name, when(card[name])) for name in ("created", "ended") if card.get(name)]
    return rows


def compression(root: Path) -> dict[str, Any] | None:
    """compression_report.json with sizes as texts; None where the stage did not run."""
    path = root / folder_name("compress") / "compression_report.json"
    if not path.exists():
        return None
    report = json.loads(path.read_text())
    fields = [
        {
            "name": name,
            "before": size(f["ply_bytes"]),
            "after": size(f["sog_bytes"]) if f["sog_bytes"] else "dropped" if f["ply_bytes"] else "–",
            "ratio": f"{f['ply_bytes'] / f['sog_bytes']:.1f} ×" if f["sog_bytes"] and f["ply_bytes"] else "–",
        }
        for name, f in report["fields"].items()
    ]
    total = {
        "name": "file",
        "before": size(report["input"]["bytes"]),
        "after": size(report["output"]["bytes"]),
        "ratio": f"{report['ratio']:.1f} ×",
    }
    errors = [
        {
            "name": name.replace("_", " "),
            **{k: f"{e[k]:.3g}" for k in ("mean", "rms", "max")},
            "unit": e["unit"],
        }
        for name, e in report["errors"].items()
    ]
    heldout = report["heldout"]
    return {"fields": fields, "total": total, "errors": errors, "loss": heldout["loss"], "heldout": heldout}


def total_seconds(card: Mapping[str, Any]) -> float:
    """Seconds all stages took together."""
    return float(sum(entry.get("seconds") or 0 for entry in card["stages"].values()))


def duration(seconds: float) -> str:
    """`83.2` → `1 min 23 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(n: float) -> str:
    """`1818980` → `1.82 MB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= factor:
            return f"{n / factor:.3g} {unit}"
    return f"{n:.0f} B"


def number(value: Any) -> str:
    """A metric as text: whole numbers with thousands separated, others with three digits that count."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{int(value):,}" if value.is_integer() and abs(value) < 1e15 else f"{value:,.4g}"
    if isinstance(value, (list, tuple)):
        return "; ".join(map(number, value))
    return str(value)


def when(text: str) -> str:
    """ISO 8601 → `20 November 2026, 14:52 UTC`; anything else unchanged."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment.day} {moment:%B %Y, %H:%M %Z}".strip()


def _tile(label: str, value: Any, form: str, note: str = "") -> Tile | None:
    return None if value is None else Tile(label, form.format(value), note)


def _of(n: int | None) -> str:
    return f"of {n:,}" if n is not None else ""


def _points(sfm: Mapping[str, Any]) -> str:
    return f"{sfm['n_points']:,} points" if sfm.get("n_points") is not None else ""


def _steps(training: Mapping[str, Any]) -> str:
    return f"{training['steps']:,} steps" if training.get("steps") is not None else ""


def _sizes(packed: Mapping[str, Any]) -> str:
    if packed.get("ply_bytes") is None or packed.get("bytes") is None:
        return ""
    return f"{size(packed['ply_bytes'])} to {size(packed['bytes'])}"


def _before(training: Mapping[str, Any], packed: Mapping[str, Any]) -> str:
    before, matched = training.get("psnr_heldout"), training.get("cc_psnr_heldout")
    if before is None:
        return "of the compressed splat"
    cc = f", cc-PSNR {matched:.2f} dB" if matched is not None else ""
    return f"of the compressed splat; {before:.2f} dB before{cc}"
