"""Prices of machines: a file with a date and a source at every figure, `prices.yaml` or one's own."""

from __future__ import annotations

import datetime
import functools
import os
from pathlib import Path

import pydantic
import yaml

from spaceport_lab.errors import ParamsError

VARIABLE = "SPACEPORT_PRICES"
"""Names a price file that is used instead of the one of the package."""

_SHIPPED = Path(__file__).with_name("prices.yaml")


class UsdPerHour(pydantic.BaseModel, frozen=True, extra="forbid", populate_by_name=True):
    """What an hour of one kind of machine costs in one region, on demand.

    Attributes:
        instance: the machine's kind, such as ml.g5.xlarge.
        region: such as us-west-2.
        usd_per_hour: US dollars, before tax.
        date: when the figure held.
        source: where it was found.
    """

    instance: str
    region: str
    usd_per_hour: float = pydantic.Field(gt=0, le=10_000, allow_inf_nan=False)
    date: datetime.date
    source: str = pydantic.Field(alias="from", min_length=1)

    def __float__(self) -> float:
        return self.usd_per_hour


class Spot(pydantic.BaseModel, frozen=True, extra="forbid", populate_by_name=True):
    """What spot capacity usually costs, as shares of the price on demand: low ≤ share ≤ high."""

    low: float = pydantic.Field(gt=0, le=1)
    share: float = pydantic.Field(gt=0, le=1)
    high: float = pydantic.Field(gt=0, le=1)
    date: datetime.date
    source: str = pydantic.Field(alias="from", min_length=1)

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> Spot:
        if not self.low <= self.share <= self.high:
            raise ValueError("low ≤ share ≤ high")
        return self


class Prices(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A whole price file."""

    currency: str = pydantic.Field(pattern="^USD$")
    spot: Spot | None = None
    prices: tuple[UsdPerHour, ...]

    @pydantic.model_validator(mode="after")
    def _each_once(self) -> Prices:
        pairs = [(price.instance, price.region) for price in self.prices]
        if twice := {f"{i} in {r}" for i, r in pairs if pairs.count((i, r)) > 1}:
            raise ValueError(f"priced twice: {', '.join(sorted(twice))}")
        return self


def price_of(instance: str, region: str, path: Path | None = None) -> UsdPerHour | None:
    """The price of a machine, with its date; None where it is not known, which is never the same as free.

    Args:
        instance: such as ml.g5.xlarge.
        region: such as us-west-2.
        path: a price file; None takes SPACEPORT_PRICES, else the one of the package.

    Raises:
        ParamsError: the price file cannot be used.
    """
    known = load(path).prices
    return next((p for p in known if (p.instance, p.region) == (instance, region)), None)


def instances(region: str, path: Path | None = None) -> list[str]:
    """The machines that have a price in a region, the cheapest first."""
    known = sorted(load(path).prices, key=float)
    return [price.instance for price in known if price.region == region]


def load(path: Path | None = None) -> Prices:
    """Read and check a price file.

    Raises:
        ParamsError: it is missing, is no YAML, or a figure lacks its date or source.
    """
    chosen = Path(path or os.environ.get(VARIABLE) or _SHIPPED)
    try:
        changed = chosen.stat().st_mtime_ns
    except OSError as error:
        raise ParamsError(
            "the price file cannot be read", got=chosen, hint=f"check {VARIABLE}, or leave it empty"
        ) from error
    return _load(chosen, changed)


@functools.lru_cache(maxsize=8)
def _load(path: Path, _changed: int) -> Prices:
    try:
        return Prices.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, pydantic.ValidationError) as error:
        raise ParamsError(
            "the price file cannot be used",
            got=f"{path}: {error}",
            expected="currency USD, and prices with instance, region, usd_per_hour, date and from",
            hint=f"start from a copy of {_SHIPPED}",
        ) from error
