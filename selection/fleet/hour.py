"""The hour of the day at which frames were captured, as a key of the fleet where no attribute has this name."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.fleet.loading import NO_TIME_MS

if TYPE_CHECKING:
    from selection.fleet.columns import Columns

HOUR = "hour"
_MS_PER_HOUR = 3_600_000
_HOURS_PER_DAY = 24


class HourOfCapture:
    """A provider of terms, see `selection.fleet.columns.Provider`: `hour:7`, `hour:22,23`, `hour:7..9`, `hour:>=18`, in UTC."""

    def __init__(self, columns: Columns) -> None:
        """Answers from the times of these columns."""
        self._columns = columns

    @property
    def provides(self) -> Sequence[str]:
        """The hour, or nothing where frames have an attribute of that name."""
        return () if HOUR in self._columns.keys else (HOUR,)

    def version(self, key: str) -> Hashable:
        """That of the columns."""
        del key
        return self._columns.version

    def matches(self, key: str, value: str, *, is_prefix: bool, rows: int) -> NDArray[np.bool_]:
        """Which rows were captured in an hour, shape (rows,); `hour:*` in any."""
        hours = self._hours(rows)
        if is_prefix and not value:
            return hours >= 0
        if is_prefix or not value.isdecimal() or len(value) > 2 or int(value) >= _HOURS_PER_DAY:
            raise InvalidInput(f"{key}: takes hours of the day in UTC from 0 to 23, for example {key}:7..9")
        asked: NDArray[np.bool_] = hours == int(value)
        return asked

    def numbers(self, key: str, *, rows: int) -> NDArray[np.float64] | None:
        """The hour of each row, NaN where its time is not known, shape (rows,)."""
        if key != HOUR:
            return None
        hours = self._hours(rows)
        numbers = hours.astype(np.float64)
        numbers[hours < 0] = np.nan
        return numbers

    def _hours(self, rows: int) -> NDArray[np.int64]:
        """-1 where the time is not known; rows that were loaded since the question count as such."""
        hours = np.full(rows, -1, dtype=np.int64)
        known = hours_of_day(self._columns.captured_ms[:rows])
        hours[: len(known)] = known
        return hours


def hours_of_day(captured_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Hours from 0 to 23 in UTC of times in milliseconds since 1970, -1 for `NO_TIME_MS`; shape as the times."""
    return np.where(captured_ms == NO_TIME_MS, -1, captured_ms // _MS_PER_HOUR % _HOURS_PER_DAY)
