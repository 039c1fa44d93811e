"""What was worked out beforehand about the fleet's structure, held in memory for requests: they read columns and compute nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.platform import Platform
from selection.columnar.recent import Recent
from selection.structure import novelty, projection, survey
from selection.structure.projection import Projection
from selection.structure.row_values import RowValues
from selection.structure.survey import Survey

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


@dataclass(frozen=True, kw_only=True)
class SurveyedFleet:
    """The current survey and every row's values."""

    survey: Survey
    values: RowValues

    def keepers(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each one's keeper; a row that is not surveyed yet is its own."""
        keeper_N = self.values.at("keeper", rows)
        return np.where(keeper_N < 0, rows, keeper_N)

    def slice_number(self, name: str) -> int | None:
        """The number of the slice that is called so, or has this number."""
        names = [one.name for one in self.survey.slices]
        if name in names:
            return names.index(name)
        return int(name) if name.isdecimal() and len(name) < 10 and int(name) < len(names) else None


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
        self._survey: SurveyedFleet | None = None
        self._novelty: RowValues | None = None
        self._ranks: Recent[NDArray[np.float64]] = Recent(4)

    def map(self) -> Map | None:
        """The newest map, None while there is none."""
        self._look()
        return self._map

    def survey(self) -> SurveyedFleet | None:
        """The newest survey, None while there is none."""
        self._look()
        return self._survey

    def novelty(self) -> RowValues | None:
        """Distances to what is labelled, None while nothing is."""
        self._look()
        return self._novelty

    def version(self) -> Hashable:
        """Changes whenever anything here does."""
        self._look()
        return (
            self._map.values.version if self._map else None,
            self._survey.values.version if self._survey else None,
            self._novelty.version if self._novelty else None,
        )

    def rarity_rank(self, *, rows: int) -> NDArray[np.float64]:
        """Share of the fleet that is less rare, in [0, 1], NaN where that is not known; shape (rows,)."""
        found = self.survey()
        return self._rank(found.values if found else None, "rarity", rows=rows)

    def novelty_rank(self, *, rows: int) -> NDArray[np.float64]:
        """Share of the fleet that is nearer to what is labelled, in [0, 1], NaN where that is not known; shape (rows,)."""
        return self._rank(self.novelty(), "novelty", rows=rows)

    def _rank(self, values: RowValues | None, name: str, *, rows: int) -> NDArray[np.float64]:
        if values is None:
            return np.full(rows, np.nan)

        def work_out() -> NDArray[np.float64]:
            column = values.padded(name, rows)
            known = np.sort(column[~np.isnan(column)])
            rank = np.searchsorted(known, column, side="left") / max(1, len(known) - 1)
            rank[np.isnan(column)] = np.nan
            return rank

        return self._ranks.get((values.version, name, rows), work_out)

    def _look(self) -> None:
        with self._lock:
            now = self._clock()
            if now - self._looked_at < FRESH_FOR_S:
                return
            encoder_id = self._encoder_id()
            self._look_for_survey(encoder_id)
            self._look_for_novelty(encoder_id)
            newest = projection.current(self._platform.database, encoder_id)
            if newest is None:
                self._map = None
            elif self._map is None or self._map.projection != newest:
                self._map = Map(projection=newest, values=projection.kept(self._platform, newest))
            if self._map is not None:
                self._map.values.refresh()
            self._looked_at = now

    def _look_for_survey(self, encoder_id: str) -> None:
        newest = survey.current(self._platform.database, encoder_id)
        if newest is None:
            self._survey = None
        elif self._survey is None or self._survey.survey != newest:
            self._survey = SurveyedFleet(survey=newest, values=survey.kept(self._platform, newest))
        if self._survey is not None:
            self._survey.values.refresh()

    def _look_for_novelty(self, encoder_id: str) -> None:
        producer = novelty.current(self._platform.database, encoder_id)
        if producer is None:
            self._novelty = None
        elif self._novelty is None or self._novelty.producer != producer:
            self._novelty = novelty.kept(self._platform, producer)
        if self._novelty is not None:
            self._novelty.refresh()
