"""How long a run will take and what it will cost, from the cards of earlier ones on the same kind of machine.

Each stage's seconds follow a power of its work. Slope and level are found robustly in logarithms (Theil 1950,
Sen 1968: the median of the slopes of all pairs), so that a run that was interrupted or slowed down hardly
matters, and the range comes from the residuals. With few earlier runs the nearest is scaled and the range is
wide; with none the answer is None, "unknown". Nothing is carried over from one kind of machine to another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from spaceport_lab.costs.prices import UsdPerHour, instances, load, price_of
from spaceport_lab.costs.work import Work, machine_of, work_of
from spaceport_lab.params import STAGES

ENOUGH = 5
"""Earlier runs from which a stage is fitted; below, the nearest one is scaled."""

CONFIDENCE = 0.9
"""Share of runs that should lie in the range, if residuals are as they were."""

LEAST_DOUBT = 0.05
"""Scatter, in logarithms, that is assumed where earlier runs agree better than that by chance."""

FEW_DOUBT = math.log(2.0)
"""Half the range, in logarithms, with few earlier runs: half or double."""

FAR_DOUBT = 0.5
"""What the range grows by, in logarithms, for each factor e by which the work lies outside what was seen."""

SPREAD = math.log(1.25)
"""Below this difference of work no slope can be found: time is taken as proportional to work."""


class Range(NamedTuple):
    """A figure with its doubt: low ≤ mid ≤ high."""

    low: float
    mid: float
    high: float

    def times(self, low: float, mid: float, high: float) -> Range:
        """Each figure times a factor of its own."""
        return Range(self.low * low, self.mid * mid, self.high * high)


@dataclass(frozen=True)
class Estimate:
    """What a run is expected to take.

    Attributes:
        instance: the kind of machine.
        seconds: of all stages together.
        usd: at the price on demand; None where the price is not known.
        usd_spot: at what spot capacity usually costs; None likewise.
        n_runs: earlier runs it rests on, of the stage with the fewest.
        method: `fitted`, or `nearest` when a stage had fewer than `ENOUGH`.
        stages: stage → seconds.
        price: the price that was used, with its date.
    """

    instance: str
    seconds: Range
    usd: Range | None
    usd_spot: Range | None
    n_runs: int
    method: str
    stages: dict[str, Range] = field(default_factory=dict)
    price: UsdPerHour | None = None

    def as_dict(self) -> dict[str, Any]:
        """For a run card: plain numbers, rounded."""

        def rounded(one: Range | None, digits: int) -> dict[str, float] | None:
            return None if one is None else {k: round(v, digits) for k, v in one._asdict().items()}

        return {
            "instance": self.instance,
            "seconds": rounded(self.seconds, 1),
            "usd": rounded(self.usd, 4),
            "usd_spot": rounded(self.usd_spot, 4),
            "n_runs": self.n_runs,
            "method": self.method,
        }


def estimate(
    cards: Sequence[Mapping[str, Any]],
    n_photos: int,
    megapixels: float,
    steps: int,
    instance: str,
    *,
    region: str = "",
    usd_per_hour: float = 0.0,
    stages: Iterable[str] = STAGES,
    prices: Path | None = None,
) -> Estimate | None:
    """Time and cost of a run, from earlier ones on the same machine.

    Args:
        cards: run cards, as `read_cards` gives them.
        n_photos: photographs.
        megapixels: of one photograph, on average.
        steps: of training.
        instance: kind of machine, as `machine_of` names it.
        region: for the price.
        usd_per_hour: what the machine costs, where somebody knows better than the price file.
        stages: the ones that will run.
        prices: a price file; None takes the usual one.

    Returns:
        The estimate; None, which is "unknown", when a stage was never run on such a machine.
    """
    if n_photos < 1 or not megapixels > 0:
        return None
    asked = Work(n_photos, megapixels, steps)
    found: dict[str, tuple[Range, int]] = {}
    for stage in stages:
        size = size_of(asked, stage)
        samples = list(_samples(cards, stage, instance))
        if size is None or not samples:
            return None
        found[stage] = _predict(samples, math.log(size)), len(samples)
    if not found:
        return None
    ranges = [one for one, _ in found.values()]
    seconds = Range(*(sum(values) for values in zip(*ranges, strict=True)))
    fewest = min(n for _, n in found.values())
    price = price_of(instance, region, prices)
    hourly = usd_per_hour or (price.usd_per_hour if price else 0.0)
    usd = seconds.times(*[hourly / 3600] * 3) if hourly else None
    spot = load(prices).spot
    return Estimate(
        instance,
        seconds,
        usd,
        usd.times(spot.low, spot.share, spot.high) if usd and spot else None,
        fewest,
        "fitted" if fewest >= ENOUGH else "nearest",
        {stage: one for stage, (one, _) in found.items()},
        None if usd_per_hour else price,
    )


def estimates(
    cards: Sequence[Mapping[str, Any]],
    n_photos: int,
    megapixels: float,
    steps: int,
    region: str,
    **options: Any,
) -> dict[str, Estimate | None]:
    """One estimate for each machine that has a price in the region or has run before; None is "unknown"."""
    names = [*instances(region, options.get("prices")), *sorted({machine_of(card) for card in cards})]
    return {
        name: estimate(cards, n_photos, megapixels, steps, name, region=region, **options)
        for name in dict.fromkeys(names)
    }


def against(card: Mapping[str, Any], expected: Estimate) -> dict[str, Any]:
    """What was estimated beside what came.

    Of seconds and dollars: `ratio` is actual over estimated, `within` whether it lay in the range.
    """
    result: dict[str, Any] = expected.as_dict()
    actual = {"seconds": card.get("seconds"), "usd": card.get("cost")}
    ranges = {"seconds": expected.seconds, "usd": expected.usd}
    for name, value in actual.items():
        one = ranges[name]
        if one is None or not isinstance(value, int | float) or value < 0:
            continue
        result[name] |= {
            "actual": value,
            "ratio": round(value / one.mid, 3) if one.mid else None,
            "within": one.low <= value <= one.high,
        }
    return result


def size_of(work: Work, stage: str) -> float | None:
    """What a stage's time grows with: megapixels of all photographs, and for training those of all steps."""
    size = work.megapixels * (work.steps if stage == "train" else work.n_photos)
    return size if size > 0 else None


def _samples(cards: Iterable[Mapping[str, Any]], stage: str, instance: str) -> Iterable[tuple[float, float]]:
    """Logarithms of work and seconds of each run on that machine in which the stage ran to its end."""
    for card in cards:
        work = work_of(card)
        entry = (card.get("stages") or {}).get(stage) or {}
        seconds = entry.get("seconds")
        if work is None or machine_of(card) != instance or entry.get("status") != "succeeded":
            continue
        size = size_of(work, stage)
        if (
            entry.get("reused_from")
            or size is None
            or not isinstance(seconds, int | float)
            or not seconds > 0
        ):
            continue
        yield math.log(size), math.log(seconds)


def _predict(samples: Sequence[tuple[float, float]], x: float) -> Range:
    """Seconds at work e**x."""
    xs, ys = np.array(sorted(samples)).T
    outside = max(0.0, x - xs[-1], xs[0] - x)
    if len(xs) < ENOUGH:
        nearest = np.flatnonzero(np.isclose(np.abs(xs - x), np.abs(xs - x).min()))
        middle = float(np.median(ys[nearest] + x - xs[nearest]))
        return _around(middle, FEW_DOUBT + FAR_DOUBT * outside)
    slope = 1.0
    if xs[-1] - xs[0] >= SPREAD:
        # More photographs never take less time, and hardly more than the square of their number.
        with np.errstate(invalid="ignore"):  # in an interval of its own, which is not used
            slope = float(np.clip(stats.theilslopes(ys, xs).slope, 0.0, 2.0))
    level = float(np.median(ys - slope * xs))
    scatter = max(1.4826 * float(np.median(np.abs(ys - slope * xs - level))), LEAST_DOUBT)
    quantile = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(xs) - 2))
    half = quantile * scatter * math.sqrt(1 + 1 / len(xs)) + FAR_DOUBT * outside
    return _around(level + slope * x, half)


def _around(middle: float, half: float) -> Range:
    return Range(*(math.exp(min(middle + side * half, 700.0)) for side in (-1, 0, 1)))
