"""What a run costs: dated prices, an estimate from earlier run cards, and the two side by side afterwards."""

from spaceport_lab.costs.estimates import Estimate, Range, against, estimate, estimates
from spaceport_lab.costs.noting import note, size_up
from spaceport_lab.costs.prices import UsdPerHour, instances, price_of
from spaceport_lab.costs.work import Work, machine_of, read_cards, this_instance, work_of

__all__ = [
    "Estimate",
    "Range",
    "UsdPerHour",
    "Work",
    "against",
    "estimate",
    "estimates",
    "instances",
    "machine_of",
    "note",
    "price_of",
    "read_cards",
    "size_up",
    "this_instance",
    "work_of",
]
