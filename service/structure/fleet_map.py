"""The map of a fleet: drawing it, the places of frames on it, what to colour them by, and what a lasso holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import Conflict, InvalidInput
from infra.platform import Platform
from selection.fleet import frames
from selection.structure import lasso, projection
from service.structure.matching import nothing_embedded
from service.structure.scenes import slice_codes

if TYPE_CHECKING:
    from selection.fleet.columns import Columns
    from selection.structure.projection import Projection
    from service.curator import Curator

Progress = Callable[[int, int], None]


def draw_map(
    platform: Platform,
    curator: Curator,
    *,
    seed: int = 0,
    fit_again: bool = False,
    progress: Progress | None = None,
) -> tuple[Projection, int]:
    """Brings the map up to date: fits it when there is none, and places the rows that are new since.

    Returns:
        The projection, and how many rows were placed now.
    Raises:
        InvalidInput: Too few frames have a vector.
    """
    index = curator.index()
    current = None if fit_again else projection.current(platform.database, index.encoder_id)
    if current is None:
        every = np.arange(frames.row_count(platform.database), dtype=np.int64)
        rows = every[index.has(every)]
        if not len(rows):
            raise nothing_embedded("")
        current = projection.fit(platform, index, rows=rows, seed=seed)
    return current, projection.project_missing(platform, current, index, progress=progress)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Frames on the current map.

    Attributes:
        rows: Ascending.
        xy: Their places, about -1 to 1, shape (rows, 2).
        total: Frames on the map that match, those left out included.
        waiting: Frames of the fleet that have no place yet.
    """

    projection: Projection
    rows: NDArray[np.int64]
    xy: NDArray[np.float32]
    total: int
    waiting: int


def places(
    curator: Curator, *, where: str = "", box: Sequence[float] | None = None, most: int = 50_000
) -> Places | None:
    """The current map's rows that match a filter; None when there is no map yet.

    Args:
        box: Only places within x0, y0, x1, y1.
        most: Of more, so many are shown, see `lasso.thinned`.
    Raises:
        InvalidInput: A bad filter or box.
    """
    current = curator.structure().map()
    if current is None:
        return None
    xy = current.xy()
    shown = np.isfinite(xy[:, 0])
    mask = curator.mask(where)[: len(xy)]
    shown[: len(mask)] &= mask
    shown[len(mask) :] = False
    waiting = max(0, curator.columns().rows - current.filled)
    if box is not None:
        if len(box) != 4 or not np.isfinite(box).all():
            raise InvalidInput("box: takes four numbers, x0,y0,x1,y1")
        shown &= ((xy >= np.minimum(box[:2], box[2:])) & (xy <= np.maximum(box[:2], box[2:]))).all(axis=1)
    rows = np.flatnonzero(shown)
    chosen = rows[lasso.thinned(rows, most)]
    return Places(projection=current.projection, rows=chosen, xy=xy[chosen], total=len(rows), waiting=waiting)


@dataclass(frozen=True, kw_only=True)
class Colour:
    """What to colour rows by: values that are few, or numbers.

    Attributes:
        codes: For each row the position of its value, -1 where it has none.
        values: Most frequent first.
        counts: How often each occurs among the rows.
        numbers: NaN where there is none.
    """

    key: str
    codes: NDArray[np.int64] | None = None
    values: list[str] | None = None
    counts: list[int] | None = None
    numbers: NDArray[np.float64] | None = None


def colour(curator: Curator, key: str, rows: NDArray[np.int64], *, most: int = 30) -> Colour:
    """A key's values of rows; beyond the `most` frequent ones they count as none.

    Raises:
        InvalidInput: There is no such key.
    """
    columns = curator.columns()
    try:
        column, values = slice_codes(curator) if key == "slice" else columns.codes(key)
    except InvalidInput:
        numbers = columns.numbers(key)  # A key of numbers only, or of more numbers than one tells apart.
        return Colour(key=key, numbers=_at(numbers, rows, np.nan))
    codes = _at(column, rows, -1)
    if len(values) > most and not np.isnan(numbers := _numbers_or_none(columns, key, rows)).all():
        return Colour(key=key, numbers=numbers)
    counts = np.bincount(codes[codes >= 0], minlength=len(values))
    order = np.argsort(-counts, kind="stable")[:most]
    order = order[counts[order] > 0]
    place_of = np.full(len(values) + 1, -1, dtype=np.int64)  # Code -1 takes the last.
    place_of[order] = np.arange(len(order))
    return Colour(
        key=key,
        codes=place_of[codes],
        values=[values[code] for code in order.tolist()],
        counts=counts[order].tolist(),
    )


@dataclass(frozen=True, kw_only=True)
class Lassoed:
    """What lies inside a polygon on the map.

    Attributes:
        rows: Ascending.
        where: The search term that finds the same frames, as long as the map is not made anew.
    """

    rows: NDArray[np.int64]
    where: str


def lassoed(curator: Curator, corners: Sequence[Sequence[float]], *, where: str = "") -> Lassoed:
    """The frames whose places lie inside a polygon and that match a filter.

    Raises:
        Conflict: There is no map yet.
        InvalidInput: A bad polygon or filter.
    """
    current = curator.structure().map()
    if current is None:
        raise Conflict("there is no map yet; `mlpl map` makes one, or leave `mlpl serve` running")
    term = current.term(lasso.checked(corners))
    mask = curator.mask(f"{term} {where}")
    return Lassoed(rows=np.flatnonzero(mask), where=term)


def _numbers_or_none(columns: Columns, key: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    try:
        return _at(columns.numbers(key), rows, np.nan)
    except InvalidInput:
        return np.full(len(rows), np.nan)


def _at(column: NDArray[Any], rows: NDArray[np.int64], missing: float) -> NDArray[Any]:
    """Values of rows, some of which may have come after the column was read."""
    found = np.full(len(rows), missing, dtype=column.dtype)
    inside = rows < len(column)
    found[inside] = column[rows[inside]]
    return found
