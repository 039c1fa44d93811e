"""What was worked out beforehand about the fleet's structure, held in memory for requests: they read columns and compute nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.platform import Platform
from selection.structure import projection
from selection.structure.projection import Projection
from selection.structure.row_values import RowValues

FRESH_FOR_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Map:
    """The current map and every row's place on it."""

    projection: Projection
    values: RowValues

    @property
    def filled(self) -> int:
        """Rows that were placed, or have no vector to be placed by."""
        return self.values.filled

    @property
    def name(self) -> str:
        """Short, and another one for each fit."""
        return self.projection.digest[:12]

    def xy(self) -> NDArray[np.float32]:
        """Shape (rows, 2), NaN where a row has no place."""
        return np.stack([self.values.all("x"), self.values.all("y")], axis=1)

    def term(self, corners: NDArray[np.float64]) -> str:
        """The search term for what lies inside a polygon on this map."""
        return f'map:"{self.name} {" ".join(f"{x:.5g},{y:.5g}" for x, y in corners.tolist())}"'


class KeptStructure:
    """Looks for what is new at most twice a second. Safe to share between threads."""

    def __init__(
        self, platform: Platform, *, encoder_id: Callable[[], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Reads nothing yet.

        Args:
            platform: Where it is kept.
            encoder_id: Gives the fleet's encoder.
            clock: Seconds.
        """
        self._platform, self._encoder_id, self._clock = platform, encoder_id, clock
        self._lock = threading.Lock()
        self._looked_at = -FRESH_FOR_S
        self._map: Map | None = None

    def map(self) -> Map | None:
        """The newest map, None while there is none."""
        self._look()
        return self._map

    def _look(self) -> None:
        with self._lock:
            now = self._clock()
            if now - self._looked_at < FRESH_FOR_S:
                return
            newest = projection.current(self._platform.database, self._encoder_id())
            if newest is None:
                self._map = None
            elif self._map is None or self._map.projection != newest:
                self._map = Map(projection=newest, values=projection.kept(self._platform, newest))
            if self._map is not None:
                self._map.values.refresh()
            self._looked_at = now
