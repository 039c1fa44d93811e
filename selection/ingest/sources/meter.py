"""How far sources have been read, and how many files they will have given in the end, as far as can be told without reading them twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(kw_only=True)
class Meter:
    """One source's.

    Attributes:
        unit: What position and size count: `byte`, `row` or `file`.
        size: All there is, as far as it is known by now.
        position: How much of it has been read.
        items: How many files it has given so far.
        finished: Whether it has given all.
    """

    unit: str
    size: int = 0
    position: float = 0
    items: int = 0
    finished: bool = False


def expected_items(meters: Sequence[Meter]) -> int:
    """How many files all of them will give: counted where they have ended, else extrapolated from what was read of them."""
    return round(sum(_expected(meter, meters) for meter in meters))


def _expected(meter: Meter, meters: Iterable[Meter]) -> float:
    if meter.finished:
        return meter.items
    if meter.position > 0:
        return max(meter.items, meter.items * meter.size / meter.position)
    alike = [one for one in meters if one.unit == meter.unit and one.position > 0]
    if alike:
        return meter.size * sum(one.items for one in alike) / sum(one.position for one in alike)
    return meter.size if meter.unit in ("file", "row") else 0
