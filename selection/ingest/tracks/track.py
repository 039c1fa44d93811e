"""A track in memory: values over time, looked up between its points. Nothing here knows of files or frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOCATION, SPEED, YAW_RATE = "location", "speed_kph", "yaw_rate_dps"


@dataclass(frozen=True, kw_only=True)
class Series:
    """One quantity over time.

    Attributes:
        times_us: Microseconds since 1970 UTC, ascending, no two alike, shape (N,).
        values: Finite, shape (N, K): K is 2 for a location (latitude and longitude in degrees), else 1.
    """

    times_us: NDArray[np.int64]
    values: NDArray[np.float64]

    def at(self, time_us: int, *, tolerance_us: int) -> NDArray[np.float64] | None:
        """The value at a time, linear between the points around it; None where the nearest point is further away than the tolerance."""
        right = int(np.searchsorted(self.times_us, time_us))
        near = [i for i in (right - 1, right) if 0 <= i < len(self.times_us)]
        if not near or min(abs(int(self.times_us[i]) - time_us) for i in near) > tolerance_us:
            return None
        if len(near) == 1:
            only: NDArray[np.float64] = self.values[near[0]]
            return only
        before, after = self.values[near[0]], self.values[near[1]]
        start, stop = (int(self.times_us[i]) for i in near)
        step = after - before
        if len(step) == 2:
            step[1] = (step[1] + 180.0) % 360.0 - 180.0  # The short way round, also over the date line.
        found: NDArray[np.float64] = before + step * ((time_us - start) / (stop - start))
        if len(step) == 2:
            found[1] = (found[1] + 180.0) % 360.0 - 180.0
        return found


@dataclass(frozen=True, kw_only=True)
class Track:
    """What is known of one vehicle over time.

    Attributes:
        source: The file it was read from, as a URI.
        series: By quantity: `location`, `speed_kph`, `yaw_rate_dps`.
    """

    source: str
    series: Mapping[str, Series]

    def at(self, time_us: int, *, tolerance_us: int) -> dict[str, float | tuple[float, float]]:
        """What it knows of a time; quantities without a point near enough are left out."""
        found: dict[str, float | tuple[float, float]] = {}
        for name, series in self.series.items():
            value = series.at(time_us, tolerance_us=tolerance_us)
            if value is not None:
                single = len(value) == 1
                found[name] = (
                    round(float(value[0]), 3) if single else (round(float(value[0]), 7), round(float(value[1]), 7))
                )
        return found
