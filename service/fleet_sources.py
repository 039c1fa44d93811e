"""What the fleet itself answers to a selection plan: vectors, attributes, near-duplicates, and scores that need no model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.errors import InvalidInput
from infra.platform import Platform
from selection.planning.plan import COLUMN, CONCEPT, KNOWN_SCORES, NearDuplicates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from selection.embedding.index import VectorIndex
    from service.curator import Curator

SURVEYED_ENOUGH = 0.9


class FleetSources:
    """What a plan may ask about any fleet, see `selection.planning.selecting.Sources`."""

    def __init__(self, platform: Platform, curator: Curator) -> None:
        """Loads nothing yet."""
        self._platform = platform
        self._curator = curator
        self._index: VectorIndex | None = None

    def scores(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.floating] | None:
        """A column's numbers or a concept's; models' scores come on top."""
        if name.startswith(COLUMN):
            return self._curator.columns().numbers_of(name.removeprefix(COLUMN), rows)
        if name.startswith(CONCEPT):
            from selection.concepts import concepts

            return concepts.scores(self._platform, name.removeprefix(CONCEPT), rows, index=self._vectors())
        raise InvalidInput(f"there is no score {name!r}: choose {', '.join(KNOWN_SCORES)}")

    def embedded(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows have a vector."""
        return self._vectors().has(rows)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of rows."""
        return self._vectors().vectors(rows)

    def codes(self, key: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """An attribute, or the slice, by row."""
        if key == "slice":
            from service.structure import slice_codes

            return slice_codes(self._curator)
        return self._curator.columns().codes(key)

    def likeness(self) -> float:
        """The survey's, or calibrated now."""
        from service.structure import likeness

        return likeness(self._curator).threshold

    def surveyed_groups(
        self, rows: NDArray[np.int64], how: NearDuplicates, *, threshold: float
    ) -> NDArray[np.int64] | None:
        """The keeper of each row as surveyed, a row that came since its own; None where the survey's thresholds are others, or many came since."""
        found = self._curator.structure().survey()
        if found is None or (found.survey.threshold, found.survey.max_hamming) != (threshold, how.max_hamming):
            return None
        surveyed = (found.values.at("keeper", rows) >= 0).mean() if len(rows) else 1.0
        return found.keepers(rows) if surveyed >= SURVEYED_ENOUGH else None

    def groups(self, rows: NDArray[np.int64], how: NearDuplicates, *, threshold: float) -> NDArray[np.int64]:
        """The keeper's position among the rows, which are compared now."""
        import numpy as np

        from selection.near_duplicates.duplicates import near_duplicate_groups
        from selection.near_duplicates.of_fleet import HalfVectors, hashes_of

        order = np.argsort(rows, kind="stable")
        hashes_N = np.zeros(len(rows), dtype=np.uint64)
        if how.max_hamming is not None:
            hashes_N[order] = hashes_of(self._platform, rows[order])
        return near_duplicate_groups(
            HalfVectors(self._vectors(), rows) if self.embedded(rows).any() else None,
            threshold=threshold,
            hashes_N=hashes_N,
            max_hamming=how.max_hamming or 0,
            priority_N=self.preference(rows),
        ).keeper_N

    def preference(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sharpest and best exposed first."""
        from selection.near_duplicates.of_fleet import quality_order

        return quality_order(self._curator.columns(), rows, index=self._vectors())

    def blank(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """By the statistics of the pixels; none of those whose pixels were not measured."""
        from selection.planning import outliers

        columns = self._curator.columns()
        return outliers.blank(*(columns.measured(key, rows) for key in ("sharpness", "underexposed", "overexposed")))

    def _vectors(self) -> VectorIndex:
        if self._index is None:
            self._index = self._curator.index()
        return self._index
