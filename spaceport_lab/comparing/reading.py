"""Run folders read for comparison: figures, parameters, curves, pictures, whatever state they are in.

Nothing here fails because of one folder: what cannot be read is named with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from spaceport_lab.params import STAGES
from spaceport_lab.train import stream
from spaceport_lab.workspace import folder_name, read_manifest

T = TypeVar("T")

UNFIT = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""What a file that is missing, damaged or of another shape than expected makes Python say."""

HOUSEKEEPING = ("run_dir", "interactive", "log_every")
"""Parameters that are about where a run lies and what it prints: never a difference worth a line."""


@dataclass(frozen=True)
class View:
    """A held-out view that a run's inspect stage kept: PSNR in dB of the compressed splat, two pictures."""

    psnr: float | None
    photo: Path
    render: Path


@dataclass(frozen=True)
class Run:
    """One run as far as it got.

    Attributes:
        root: its folder.
        name: of the job, with the scene or a number in front or behind where two would be the same.
        scene: its scene's name.
        created: ISO 8601; empty where unknown.
        status: as on the run card; "no card" where there is none.
        reason: why it is not finished; empty where it is.
        figures: name → value, of those that exist; see `table.COLUMNS`.
        params: `train.max_steps` → value, of the stages it ran.
        changes: `train.means_lr` → (step, value) for each time it was changed while training ran.
        curve: (seconds of training, step, PSNR in dB) of every evaluation.
        views: name of the photograph → pictures.
        verdicts: what training said about itself.
        notes: what of it could not be read.
    """

    root: Path
    name: str
    scene: str
    created: str = ""
    status: str = "no card"
    reason: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, list[tuple[int, Any]]] = field(default_factory=dict)
    curve: Sequence[tuple[float, int, float]] = ()
    views: Mapping[str, View] = field(default_factory=dict)
    verdicts: Sequence[str] = ()
    notes: Sequence[str] = ()


def is_run(folder: Path) -> bool:
    """Whether a folder looks like a run: it has a card or the folder of a stage."""
    return (folder / "run.json").exists() or any((folder / folder_name(stage)).is_dir() for stage in STAGES)


def read_run(root: Path) -> Run:
    """Read one run folder.

    Raises:
        ValueError, OSError: its run card cannot be read.
    """
    root = Path(root).resolve()
    card = _read_card(root)
    notes: list[str] = []

    def attempt(what: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except UNFIT as error:
            notes.append(f"{what}: {_short(error)}")
            return otherwise

    metrics = attempt("figures", lambda: _metrics(root, card), {})
    return Run(
        root,
        name=root.name,
        scene=str(card.get("scene") or root.parent.parent.name),
        created=str(card.get("created") or ""),
        status=str(card.get("status") or "no card"),
        reason=attempt("state", lambda: _reason(root, card), "its state cannot be read"),
        figures=attempt("figures", lambda: _figures(card, metrics), {}),
        params=attempt("parameters", lambda: _params(card), {}),
        changes=attempt("changes", lambda: _changes(metrics), {}),
        curve=attempt("curve", lambda: _curve(root), []),
        views=attempt("pictures", lambda: _views(root), {}),
        verdicts=attempt("verdicts", lambda: _texts(metrics.get("train", {}).get("verdicts")), []),
        notes=notes,
    )


def _read_card(root: Path) -> dict[str, Any]:
    try:
        card = json.loads((root / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"run.json is damaged: {_short(error)}") from error
    if not isinstance(card, dict) or not isinstance(card.get("stages", {}), dict):
        raise ValueError("run.json is no run card")
    return card


def _metrics(root: Path, card: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Metrics of every stage, from the card, else from the stage's own manifest."""
    found = {}
    for stage in STAGES:
        entry = card.get("stages", {}).get(stage) or {}
        manifest = read_manifest(root / folder_name(stage)) or {}
        found[stage] = dict(entry.get("metrics") or manifest.get("metrics") or {})
    return found


def _reason(root: Path, card: Mapping[str, Any]) -> str:
    """Why this run is not finished, in one line."""
    stages = card.get("stages", {})
    for stage, entry in stages.items():
        if entry.get("error"):
            return f"{stage}: {str(entry['error']).strip().splitlines()[0]}"
    if card.get("error"):
        return str(card["error"]).strip().splitlines()[0]
    if not card:
        done = [stage for stage in STAGES if read_manifest(root / folder_name(stage))]
        return f"no run card; finished: {', '.join(done) or 'no stage'}"
    if card.get("status") == "succeeded":
        return ""
    unfinished = [
        f"{stage} {e.get('status')}" for stage, e in stages.items() if e.get("status") != "succeeded"
    ]
    return ", ".join(unfinished)


def _figures(card: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    stages = card.get("stages", {})
    train, packed, seen = metrics["train"], metrics["compress"], metrics["inspect"]
    seconds = {f"seconds_{stage}": (stages.get(stage) or {}).get("seconds") for stage in STAGES}
    memory = [entry["peak_rss_mb"] for entry in stages.values() if entry.get("peak_rss_mb")]
    spent = [value for value in seconds.values() if value is not None]
    costs = [entry["cost"] for entry in stages.values() if isinstance(entry.get("cost"), int | float)]
    found = {
        "psnr": train.get("psnr_heldout"),
        "ssim": train.get("ssim_heldout"),
        "cc_psnr": train.get("cc_psnr_heldout"),
        "psnr_sog": seen.get("psnr_heldout", packed.get("psnr_heldout")),
        "n_gaussians": packed.get("n_gaussians", train.get("n_gaussians")),
        "ply_bytes": packed.get("ply_bytes"),
        "sog_bytes": packed.get("bytes"),
        "ratio": packed.get("ratio"),
        "steps": train.get("steps"),
        "stopped_by": train.get("stopped_by"),
        **seconds,
        "seconds": sum(spent) if spent else None,
        "peak_rss_mb": max(memory, default=None),
        "cost": card["cost"] if isinstance(card.get("cost"), int | float) else sum(costs) if costs else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _params(card: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{stage}.{name}": entry["value"]
        for stage, entries in card.get("params", {}).items()
        for name, entry in entries.items()
        if stage in card["stages"] and name not in HOUSEKEEPING
    }


def _changes(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, list[tuple[int, Any]]]:
    found: dict[str, list[tuple[int, Any]]] = {}
    for change in metrics["train"].get("changes") or []:
        for name, value in change["values"].items():
            found.setdefault(f"train.{name}", []).append((int(change["step"]), value))
    return found


def _curve(root: Path) -> list[tuple[float, int, float]]:
    records = stream.read(root / folder_name("train") / "metrics.jsonl")
    evaluations = [(r, r.get("psnr") or r.get("psnr_validation")) for r in records if r["kind"] == "eval"]
    return [(float(r["seconds"]), int(r["step"]), float(psnr)) for r, psnr in evaluations if psnr]


def _views(root: Path) -> dict[str, View]:
    stage = root / folder_name("inspect")
    if not (stage / "views.json").exists():
        return {}
    entries = json.loads((stage / "views.json").read_text(encoding="utf-8"))["views"]
    found = {}
    for entry in entries:
        if entry["pictures"]:
            photo, render = (stage / entry["pictures"][kind] for kind in ("photo", "render"))
            if photo.is_file() and render.is_file():
                found[entry["name"]] = View(entry["psnr"], photo, render)
    return found


def _texts(values: Any) -> list[str]:
    return [str(value) for value in values or []]


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return (
        lines[0][:160]
        if isinstance(error, ValueError | OSError)
        else f"{type(error).__name__} {lines[0][:120]}"
    )
