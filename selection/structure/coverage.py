"""Dataset coverage: how the fleet spreads over chosen attributes, and how much of each part is labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.fleet.columns import Columns
from selection.fleet.hour import HOUR, hours_of_day

_MOST_KEYS = 6


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Frames that share a value of each key.

    Attributes:
        values: One for each key, None where frames have none.
        fleet: Frames.
        share: Of the frames looked at.
        labelled: Of them labelled.
        labelled_share: Of the labelled frames looked at; 0 when there are none.
        hole: Frames that lack a label so that the labelled frames spread as the fleet does; negative where more than that have one.
            Counts all frames when nothing is labelled.
    """

    values: tuple[str | None, ...]
    fleet: int
    share: float
    labelled: int
    labelled_share: float
    hole: float


def coverage(
    columns: Columns,
    by: Sequence[str],
    *,
    labelled: NDArray[np.bool_],
    within: NDArray[np.bool_] | None = None,
) -> list[Cell]:
    """All combinations of values that occur, biggest holes first, then by frames.

    Args:
        columns: Refreshed by the caller.
        by: Keys of the columns, or `hour`, see `selection.fleet.hour`.
        labelled: Shape (rows,) or shorter; rows beyond its end are not.
        within: Shape (rows,) or shorter: look at these rows only. None: all.
    Raises:
        InvalidInput: No such key, too many, or one twice.
    """
    keys = list(by)
    if not 1 <= len(keys) <= _MOST_KEYS or len(set(keys)) != len(keys):
        raise InvalidInput(f"coverage takes one to {_MOST_KEYS} different keys, not {', '.join(keys) or 'none'}")
    rows = columns.rows
    columns_of = [_column(columns, key, rows=rows) for key in keys]
    inside = np.ones(rows, dtype=bool) if within is None else _padded(within, rows)
    cell_N: NDArray[np.int64] = np.zeros(rows, dtype=np.int64)
    for codes, values in columns_of:
        if rows and int(cell_N.max()) > 2**62 // (len(values) + 1):
            raise InvalidInput(f"{', '.join(keys)} have too many combinations; choose fewer or coarser keys")
        cell_N = cell_N * (len(values) + 1) + codes + 1
    found, first, inverse = np.unique(cell_N[inside], return_index=True, return_inverse=True)
    fleet = np.bincount(inverse, minlength=len(found))
    known = np.bincount(inverse[_padded(labelled, rows)[inside]], minlength=len(found))
    where = np.flatnonzero(inside)[first]
    share = fleet / max(1, int(fleet.sum()))
    total = int(known.sum())
    hole = share * total - known if total else fleet.astype(float)
    order = np.lexsort((found, -fleet, -hole))
    return [
        Cell(
            values=tuple(None if codes[where[i]] < 0 else values[codes[where[i]]] for codes, values in columns_of),
            fleet=int(fleet[i]),
            share=float(share[i]),
            labelled=int(known[i]),
            labelled_share=float(known[i] / total) if total else 0.0,
            hole=float(hole[i]),
        )
        for i in order.tolist()
    ]


def _column(columns: Columns, key: str, *, rows: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if key == HOUR and HOUR not in columns.keys:
        return hours_of_day(columns.captured_ms[:rows]), tuple(f"{hour:02d}" for hour in range(24))
    codes, values = columns.codes(key)
    return codes[:rows].astype(np.int64), values


def _padded(mask: NDArray[np.bool_], rows: int) -> NDArray[np.bool_]:
    padded = np.zeros(rows, dtype=bool)
    padded[: min(rows, len(mask))] = mask[:rows]
    return padded
