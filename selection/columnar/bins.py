"""Bins of round width for a column of numbers, so that a histogram of any part of it is one count over small codes."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_BINS = 24
NO_BIN = 255
_SAMPLE = 100_000
_LARGEST = sys.float_info.max
_NARROWEST = 1e-300


@dataclass(frozen=True, kw_only=True)
class Bins:
    """Where each row falls.

    Attributes:
        edges: B + 1 of them, ascending; bin b holds `edges[b] <= number < edges[b + 1]`, the last one its upper edge too.
        bin_N: Shape (rows,), uint8; `NO_BIN` where there is no number.
    """

    edges: tuple[float, ...]
    bin_N: NDArray[np.uint8]

    def count(self, rows: NDArray[np.int64] | None) -> list[int]:
        """Numbers in each bin, of some rows or of all."""
        chosen = self.bin_N if rows is None else self.bin_N[rows]
        counts: list[int] = np.bincount(chosen, minlength=NO_BIN + 1)[: len(self.edges) - 1].tolist()
        return counts


def bins_of(numbers_N: NDArray[np.float64]) -> Bins | None:
    """At most 24 bins, whose widths are 1, 2 or 5 times a power of ten; None for a column without a finite number.

    The bulk of the numbers decides on the width: one value gone astray must not squeeze all others into one bin, so the first and the last
    bin reach out to the smallest and the largest number.
    """
    finite = numbers_N[np.isfinite(numbers_N)]
    if not len(finite):
        return None
    low, high = float(finite.min()), float(finite.max())
    bulk = finite[:: max(1, len(finite) // _SAMPLE)]
    # Between the smallest and the largest double lies more than a double holds; a quarter of it fits.
    bulk_low, bulk_high = (float(q) * 4 for q in np.quantile(bulk / 4, (0.005, 0.995)))
    width = _round_width(bulk_high / MOST_BINS - bulk_low / MOST_BINS if bulk_high > bulk_low else abs(low) or 1.0)
    first = math.floor(bulk_low / width)
    last = max(first + 1, math.ceil(bulk_high / width + 1e-9))
    if last - first > MOST_BINS:  # Both ends were rounded outwards.
        width = _round_width(width * 1.01)
        first, last = (
            math.floor(bulk_low / width),
            max(math.floor(bulk_low / width) + 1, math.ceil(bulk_high / width + 1e-9)),
        )
    digits = max(12, 3 - math.floor(math.log10(width)))
    inner = [round(i * width, digits) for i in range(first, last + 1)]
    edges = np.unique(np.clip([min(low, inner[0]), *inner[1:-1], max(high, inner[-1])], -_LARGEST, _LARGEST))
    where = np.full(len(numbers_N), NO_BIN, dtype=np.uint8)
    is_number = np.isfinite(numbers_N)
    found = np.searchsorted(edges[1:-1], numbers_N[is_number], side="right")
    where[is_number] = found.astype(np.uint8)
    return Bins(edges=tuple(edges.tolist()), bin_N=where)


def _round_width(at_least: float) -> float:
    """The next of 1, 2 and 5 times a power of ten, as far as that can be written and divided by."""
    power = 10.0 ** math.floor(math.log10(max(at_least, _NARROWEST)))
    widths = (step * power for step in (1, 2, 5, 10) if step * power >= at_least * (1 - 1e-9))
    return min(next(widths), 1e308)
