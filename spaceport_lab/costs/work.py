"""What a run had to do and on which machine, read from its run card.

A card knows how long each stage took; how large the photographs were it knows only once `note` has written it
there, and until then it is read from what the ingest stage left.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from spaceport_lab import runcard
from spaceport_lab.workspace import folder_name

INSTANCE, REGION = "SPACEPORT_INSTANCE", "SPACEPORT_REGION"
"""Variables that say which machine this is, where it does not say so itself."""

RESOURCES = Path("/opt/ml/input/config/resourceconfig.json")
"""Where SageMaker tells a training job what it runs on."""


class Work(NamedTuple):
    """How much a run had to do: photographs that were used, their mean megapixels, steps of training."""

    n_photos: int
    megapixels: float
    steps: int


def work_of(card: Mapping[str, Any]) -> Work | None:
    """What the run had to do; None when the card does not say how many photographs of which size."""
    n_photos = _metric(card, "ingest", "n_used") or _metric(card, "sfm", "n_images")
    noted = card.get("work")
    megapixels = noted.get("megapixels") if isinstance(noted, Mapping) else None
    if not n_photos or not _positive(megapixels):
        return None
    return Work(int(n_photos), float(megapixels), int(_metric(card, "train", "steps") or 0))


def machine_of(card: Mapping[str, Any]) -> str:
    """The machine of a run: the instance's kind where it is known, else processor and cores."""
    if card.get("instance"):
        return str(card["instance"])
    host = card.get("host") or {}
    parts = [str(host.get("processor") or "unknown"), f"{host.get('cores') or '?'} cores"]
    return " · ".join(parts + ([str(host["gpu"])] if host.get("gpu") else []))


def this_instance(environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """Kind and region of the machine this runs on, as far as it is told; empty where not. Asks no network."""
    kind = environment.get(INSTANCE) or environment.get("SM_CURRENT_INSTANCE_TYPE") or ""
    if not kind:
        try:
            kind = str(json.loads(RESOURCES.read_text())["current_instance_type"])
        except (OSError, ValueError, KeyError, TypeError):
            kind = ""
    region = environment.get(REGION) or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    return kind, region or ""


def read_cards(data_dir: Path) -> list[dict[str, Any]]:
    """The run cards of all scenes in a data folder, each with the size of its photographs where it is known.

    The cards on the disk are not changed. Torn and foreign ones are passed over.
    """
    cards = []
    for path in sorted(Path(data_dir).glob("*/runs/*/run.json")):
        card = runcard.read(path.parent)
        if isinstance(card, dict) and isinstance(card.get("stages"), dict):
            cards.append(with_size(card, path.parent))
    return cards


def with_size(card: dict[str, Any], root: Path) -> dict[str, Any]:
    """The card, with the mean megapixels of the photographs its ingest stage used, where they are known."""
    if card.get("work"):
        return card
    try:
        listed = json.loads((root / folder_name("ingest") / "photos.json").read_text())["photos"]
        sizes = list(_megapixels(listed))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sizes = []
    return {**card, "work": {"megapixels": round(statistics.fmean(sizes), 3)}} if sizes else card


def _megapixels(photos: Iterable[Mapping[str, Any]]) -> Iterable[float]:
    for photo in photos:
        if photo.get("status") == "used" and _positive(photo.get("width")) and _positive(photo.get("height")):
            yield photo["width"] * photo["height"] / 1e6


def _metric(card: Mapping[str, Any], stage: str, name: str) -> float:
    entry = (card.get("stages") or {}).get(stage) or {}
    value = (entry.get("metrics") or {}).get(name)
    return float(value) if _positive(value) else 0.0


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
