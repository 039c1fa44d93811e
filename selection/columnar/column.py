"""Columns that grow by rows: texts referred to by code, and numbers.

Readers keep the arrays they were given: appending never writes into rows that were shown, and a change to such a row is made in a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selection.growing_array import GrowingArray


class TextColumn:
    """Codes by row, -1 where there is no text, and the texts behind them in order of appearance."""

    def __init__(self, codes: NDArray[np.int32] | None = None, values: Iterable[str] = ()) -> None:
        """An empty column, or one of values that are there already."""
        self._codes = GrowingArray(np.int32, default=-1)
        self._values = {value: code for code, value in enumerate(values)}
        self._tuple: tuple[str, ...] = tuple(self._values)
        if codes is not None:
            self._codes.extend(codes)

    @property
    def distinct(self) -> int:
        """How many different texts there are."""
        return len(self._values)

    def put(self, rows: Sequence[int], values: Sequence[str]) -> None:
        """Writes rows that no reader has seen."""
        if not rows:
            return
        known = self._values
        self._codes.pad(max(rows) + 1)
        self._codes.all[rows] = [known.setdefault(value, len(known)) for value in values]

    def put_coded(self, rows: NDArray[np.int64], codes: NDArray[Any], texts: Sequence[str]) -> None:
        """Writes rows that no reader has seen, each with the text that its code is the position of."""
        known = self._values
        table = np.array([known.setdefault(text, len(known)) for text in texts], dtype=np.int32)
        self._codes.pad(int(rows[-1]) + 1)
        self._codes.all[rows] = table[codes]

    def change(self, rows: Sequence[int], values: Sequence[str | None]) -> None:
        """Writes rows that readers may hold; None takes a text away."""
        known = self._values
        codes = [-1 if value is None else known.setdefault(value, len(known)) for value in values]
        if (self._codes.all[rows] != codes).any():
            self._codes.detach()
            self._codes.all[rows] = codes

    def fill(self, rows: int) -> None:
        """Grows to `rows`."""
        self._codes.pad(rows)

    def shown(self) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """Codes and texts, not to be written to."""
        if len(self._tuple) != len(self._values):
            self._tuple = tuple(self._values)
        return _read_only(self._codes), self._tuple


class NumberColumn:
    """Numbers by row, NaN where there is none."""

    def __init__(self, numbers: NDArray[np.float64] | None = None) -> None:
        """An empty column, or one of numbers that are there already."""
        self._numbers = GrowingArray(np.float64, default=np.nan)
        if numbers is not None:
            self._numbers.extend(numbers)

    def put(self, rows: Sequence[int] | NDArray[np.int64], numbers: Sequence[float] | NDArray[Any]) -> None:
        """Writes rows, ascending, that no reader has seen."""
        if len(rows):
            self._numbers.pad(int(rows[-1]) + 1)
            self._numbers.all[rows] = numbers

    def change(self, rows: Sequence[int], numbers: Sequence[float | None]) -> None:
        """Writes rows that readers may hold; None takes a number away."""
        new = np.array([np.nan if number is None else number for number in numbers], dtype=np.float64)
        if not np.array_equal(self._numbers.all[rows], new, equal_nan=True):
            self._numbers.detach()
            self._numbers.all[rows] = new

    def fill(self, rows: int) -> None:
        """Grows to `rows`."""
        self._numbers.pad(rows)

    def shown(self) -> NDArray[np.float64]:
        """The numbers, not to be written to."""
        return _read_only(self._numbers)


def _read_only(column: GrowingArray[Any]) -> NDArray[Any]:
    shown = column.all
    shown.flags.writeable = False
    return shown
