"""Search terms about the structure of the fleet.

- `is:keeper` for frames that stay when near-duplicates go, `is:duplicate` for the others; the best frame left of a group stands in for a
  keeper that was withdrawn since the survey
- `slice:NAME` for the frames of a slice, by its name or number; a trailing star takes several
- `rarity:>0.9`: rarer than nine tenths of the fleet; `novelty:>0.5`: farther from what is labelled than half of it
- `map:"NAME x,y x,y x,y ..."`: frames whose places lie inside this polygon on the map of that name, as the lasso writes it
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from infra.errors import InvalidInput
from selection.columnar.recent import Recent
from selection.structure import lasso

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from selection.fleet.columns import Columns
    from service.structure.kept import KeptStructure, Map, SurveyedFleet


class StructureTerms:
    """A provider of search terms, see `selection.fleet.columns.Provider`. Safe to share between threads."""

    provides: Sequence[str] = ("is", "slice", "rarity", "novelty", "map")

    def __init__(self, kept: KeptStructure, columns: Columns | None = None) -> None:
        """Reads nothing yet.

        Args:
            kept: What is known of the structure.
            columns: Tell which frames were withdrawn, and which of the others are best. None: nobody was withdrawn.
        """
        self._kept, self._columns = kept, columns
        self._inside: Recent[NDArray[np.bool_]] = Recent(16)

    def version(self, key: str) -> Hashable:
        """The state of what is kept."""
        del key
        return self._kept.version()

    def matches(self, key: str, value: str, *, is_prefix: bool, rows: int) -> NDArray[np.bool_] | None:
        """Which rows have a value, shape (rows,)."""
        if key == "map":
            return self._on_map(value, is_prefix=is_prefix, rows=rows)
        if key in ("rarity", "novelty"):
            raise InvalidInput(f"{key}: takes numbers from 0 to 1, for example {key}:>0.9")
        found = self._kept.survey()
        if found is None:
            raise InvalidInput(
                f"{key}: the fleet has not been surveyed yet; run `mlpl survey`, or leave `mlpl serve` running"
            )
        if key == "is":
            return _is(found, value, columns=self._columns, rows=rows)
        names = [one.name for one in found.survey.slices]
        chosen = [number for number, name in enumerate(names) if is_prefix and name.startswith(value)]
        exact = found.slice_number(value) if not is_prefix else None
        chosen += [exact] if exact is not None else []
        if not chosen:
            raise InvalidInput(f"there is no slice {value!r}; there are {', '.join(names[:20])}")
        import numpy as np

        return np.isin(found.values.padded("slice", rows), chosen)

    def numbers(self, key: str, *, rows: int) -> NDArray[np.float64] | None:
        """Rarity and novelty as ranks, see `KeptStructure`."""
        if key == "rarity":
            return self._kept.rarity_rank(rows=rows)
        return self._kept.novelty_rank(rows=rows) if key == "novelty" else None

    def _on_map(self, value: str, *, is_prefix: bool, rows: int) -> NDArray[np.bool_]:
        current = self._kept.map()
        if is_prefix:
            raise InvalidInput("map: takes a whole polygon")
        if current is None:
            raise InvalidInput("map: there is no map yet; `mlpl map` makes one, or leave `mlpl serve` running")
        question = (current.values.version, value, rows)
        return self._inside.get(question, lambda: _inside(current, value, rows=rows))


def _is(found: SurveyedFleet, value: str, *, columns: Columns | None, rows: int) -> NDArray[np.bool_]:
    import numpy as np

    if value not in ("keeper", "duplicate"):
        raise InvalidInput(f"is: takes keeper or duplicate, not {value!r}")
    every = np.arange(rows, dtype=np.int64)
    keeper_N = found.keepers(every)
    is_keeper: NDArray[np.bool_] = keeper_N == every
    if columns is not None and columns.has_withdrawn:
        is_keeper[_stand_ins(keeper_N, columns)] = True
    return is_keeper if value == "keeper" else ~is_keeper


def _stand_ins(keeper_N: NDArray[np.int64], columns: Columns) -> NDArray[np.int64]:
    """Of each group whose keeper was withdrawn the best row that is left, of equally good ones the lowest."""
    import numpy as np

    from selection.near_duplicates.of_fleet import quality_order

    # The survey may be newer than the rows that are asked for, and have keepers beyond them.
    present = np.ones(max(len(keeper_N), int(keeper_N.max(initial=-1)) + 1), dtype=bool)
    mask = columns.mask("")[: len(present)]
    present[: len(mask)] = mask
    left = np.flatnonzero(present[: len(keeper_N)] & ~present[keeper_N])
    if not len(left):
        return left
    best_first = left[np.argsort(quality_order(columns, left), kind="stable")]
    return best_first[np.unique(keeper_N[best_first], return_index=True)[1]]


def _inside(current: Map, value: str, *, rows: int) -> NDArray[np.bool_]:
    import numpy as np

    name, _, written = value.partition(" ")
    if name != current.name:
        raise InvalidInput("map: the map was made anew since this polygon was drawn; draw it again")
    try:
        corners = lasso.checked([[float(part) for part in corner.split(",")] for corner in written.split()])
    except ValueError as exc:
        raise InvalidInput('map: takes a polygon as map:"NAME x,y x,y x,y", as the lasso writes it') from exc
    found = np.zeros(rows, dtype=bool)
    lassoed = lasso.inside(current.xy()[:rows], corners)
    found[: len(lassoed)] = lassoed
    return found
