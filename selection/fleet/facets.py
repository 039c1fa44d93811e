"""Facets: how often each value occurs among some rows, how numbers are spread, and which keys are worth showing either way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.fleet.loading import BASE_KEYS, TAKEN
from selection.fleet.view import View

MOST_FACET_KEY_VALUES = 200
MOST_FACET_VALUES = 100
MOST_FACET_NUMBERS = 20
PLACE_KEYS = ("latitude", "longitude")
"""Numbers that a map shows better than a list or a histogram."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How often numbers occur.

    Attributes:
        edges: One more than there are counts, ascending.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def low(self) -> float:
        """The smallest of all numbers of the fleet."""
        return self.edges[0]

    @property
    def high(self) -> float:
        """The largest."""
        return self.edges[-1]


def keys_of_values(view: View) -> list[str]:
    """Keys whose values are few enough to choose from, and site, vehicle, drive and camera."""
    texts = [key for key, values in view.values.items() if key in BASE_KEYS or len(values) <= MOST_FACET_KEY_VALUES]
    few = [key for key in view.numbers if key not in texts and key not in TAKEN and _is_few(view, key)]
    return [key for key in texts if key not in view.numbers or _is_few(view, key)] + few


def keys_of_numbers(view: View) -> list[str]:
    """Keys with more than a few different numbers."""
    return [key for key in view.numbers if key not in PLACE_KEYS and (key in TAKEN or not _is_few(view, key))]


def count(codes: NDArray[np.int32], values: tuple[str, ...], rows: NDArray[np.int64] | None) -> dict[str, int]:
    """How often each value occurs among some rows, most frequent first, at most a hundred.

    Args:
        codes: For each row of the fleet the position of its value, -1 where it has none.
        values: The key's values.
        rows: Count these; None for all of them.
    """
    chosen = codes if rows is None else codes[rows]
    counts = np.bincount(chosen + 1, minlength=len(values) + 1)[1:]
    order = np.argsort(-counts, kind="stable")[:MOST_FACET_VALUES]
    return {values[i]: int(counts[i]) for i in order.tolist() if counts[i]}


def _is_few(view: View, key: str) -> bool:
    """Whether a key's numbers are whole and few enough to choose from one by one."""
    sample = view.numbers[key][:1000]  # Settles nearly all that are many without looking at the rest.
    sample = sample[~np.isnan(sample)]
    if len(np.unique(sample)) > MOST_FACET_NUMBERS or (np.mod(sample, 1) != 0).any():
        return False
    try:
        return len(view.column(key)[1]) <= MOST_FACET_NUMBERS
    except InvalidInput:
        return False
