"""Search terms about the structure of the fleet.

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

    from service.kept_structure import KeptStructure, Map


class StructureTerms:
    """A provider of search terms, see `selection.fleet.columns.Provider`. Safe to share between threads."""

    provides: Sequence[str] = ("map",)

    def __init__(self, kept: KeptStructure) -> None:
        """Reads nothing yet."""
        self._kept = kept
        self._inside: Recent[NDArray[np.bool_]] = Recent(16)

    def version(self, key: str) -> Hashable:
        """The state of the map."""
        del key
        current = self._kept.map()
        return current.values.version if current is not None else None

    def matches(self, key: str, value: str, *, is_prefix: bool, rows: int) -> NDArray[np.bool_] | None:
        """Which rows have a value, shape (rows,)."""
        del key
        current = self._kept.map()
        if is_prefix:
            raise InvalidInput("map: takes a whole polygon")
        if current is None:
            raise InvalidInput("map: there is no map yet; `mlpl map` makes one, or leave `mlpl serve` running")
        question = (current.values.version, value, rows)
        return self._inside.get(question, lambda: _inside(current, value, rows=rows))

    def numbers(self, key: str, *, rows: int) -> NDArray[np.float64] | None:
        """None: there are none."""
        del key, rows
        return None


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
