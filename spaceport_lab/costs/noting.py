"""Before a run: how large is what it is given? After it: what did it cost, and what was to be expected?"""

from __future__ import annotations

import statistics
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from PIL import Image

from spaceport_lab import runcard
from spaceport_lab.costs.estimates import against, estimate
from spaceport_lab.costs.prices import price_of
from spaceport_lab.costs.work import machine_of, this_instance, with_size, work_of
from spaceport_lab.params import STAGES

LOOKED_AT = 20
"""Photographs whose size is looked at, evenly spaced; the others are taken to be like them."""


def size_up(source: Path) -> tuple[int, float] | None:
    """How many photographs there are at a path, and their mean megapixels, from the headers of a few.

    Args:
        source: a folder, a scene with `images/`, or a zip.

    Returns:
        None where that cannot be seen without fetching or decoding it all: addresses, videos, splats.
    """
    from spaceport_lab.ingest.sources import PHOTO_ENDINGS

    try:
        if source.is_dir():
            folder = source / "images" if (source / "images").is_dir() else source
            paths = sorted(
                p for p in folder.rglob("*") if p.suffix.lower() in PHOTO_ENDINGS and _counts(p, folder)
            )
            sizes = list(_megapixels(path.open("rb") for path in _some(paths)))
            return (len(paths), statistics.fmean(sizes)) if sizes else None
        if source.suffix.lower() != ".zip":
            return None
        with zipfile.ZipFile(source) as archive:
            names = [n for n in sorted(archive.namelist()) if Path(n).suffix.lower() in PHOTO_ENDINGS]
            sizes = list(_megapixels(archive.open(name) for name in _some(names)))
            return (len(names), statistics.fmean(sizes)) if sizes else None
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def note(
    card: dict[str, Any],
    root: Path | None = None,
    *,
    instance: str = "",
    region: str = "",
    usd_per_hour: float = 0.0,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write onto a card what the run cost, what was to be expected, and what later estimates need.

    For use inside `runcard.update` when a run has ended.

    Args:
        card: changed in place: `work`, `instance`, `region`; with a price also `price` and `cost`; with
            earlier runs on the same machine `estimate`, see `against`.
        root: the run folder, for the size of the photographs.
        instance: the machine's kind; empty: what this machine is told it is.
        region: likewise.
        usd_per_hour: what somebody said the machine costs; it wins over the price file. 0: not said.
        earlier: cards of other runs, as `read_cards` gives them.

    Raises:
        ParamsError: SPACEPORT_PRICES names a file that cannot be used.
    """
    told = this_instance()
    card |= {k: v for k, v in {"instance": instance or told[0], "region": region or told[1]}.items() if v}
    if root is not None:
        card |= {k: v for k, v in with_size(card, Path(root)).items() if k == "work"}
    price = None if usd_per_hour else price_of(card.get("instance", ""), card.get("region", ""))
    if usd_per_hour:
        card["price"] = {
            "usd_per_hour": usd_per_hour,
            "date": runcard.now()[:10],
            "from": "as given for this run",
        }
    elif price:
        card["price"] = price.model_dump(mode="json", by_alias=True)
    if hourly := usd_per_hour or (price.usd_per_hour if price else 0.0):
        runcard.price(card, hourly)
    _hindsight(card, earlier, hourly)


def _hindsight(card: dict[str, Any], earlier: Sequence[Mapping[str, Any]], hourly: float) -> None:
    """What earlier runs would have said of this one, beside what came."""
    work = work_of(card)
    entries = {stage: card["stages"].get(stage) or {} for stage in STAGES}
    ran = [s for s, e in entries.items() if e.get("status") == "succeeded" and not e.get("reused_from")]
    others = [other for other in earlier if other.get("job") != card.get("job")]
    if work is None or not ran or not others:
        return
    expected = estimate(others, *work, machine_of(card), usd_per_hour=hourly, stages=ran)
    if expected is not None:
        seconds = sum(entries[stage].get("seconds") or 0.0 for stage in ran)
        actual = {"seconds": round(seconds, 2), "cost": round(seconds / 3600 * hourly, 4) if hourly else None}
        card["estimate"] = {**against(actual, expected), "stages": ran}


def _counts(path: Path, folder: Path) -> bool:
    inner = path.relative_to(folder).parts
    return path.is_file() and "masks" not in inner and not any(part.startswith(".") for part in inner)


def _some(items: Sequence[Any]) -> Sequence[Any]:
    return items[:: max(1, -(-len(items) // LOOKED_AT))]


def _megapixels(files: Iterable[IO[bytes]]) -> Iterator[float]:
    for file in files:
        with file:
            try:
                with Image.open(file) as image:
                    yield image.width * image.height / 1e6
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                continue  # the ingest stage names it; the size of the others will do
