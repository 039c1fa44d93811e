"""The fleet's descriptive columns in memory, aligned by row: what filters, facets and splits are computed from.

Texts are kept once and referred to by code, so a row costs four bytes a key. New rows are read when they appear; what a frame's record
says never changes, so old rows are never read again.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.database import Db, Document
from infra.errors import InvalidInput
from selection.fleet import frames
from selection.fleet.filters import Filter, TimeTerm, ValueTerm, parse_filter
from selection.growing_array import GrowingArray

__all__ = ["BASE_KEYS", "NO_TIME_MS", "Columns", "Filter", "parse_filter"]

BASE_KEYS = ("site", "vehicle", "drive", "camera")
NO_TIME_MS = np.iinfo(np.int64).min
MOST_VALUES = 10_000
"""An attribute with more values than this (a file name, a serial number) describes single frames; it is left out of the columns."""
MOST_FACET_KEY_VALUES = 200
MOST_FACET_VALUES = 100

_ATTRIBUTE_PREFIX = "attributes."
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIELDS = ("row", "captured_at", *BASE_KEYS, "attributes")
_REFRESH_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class _View:
    """One state of the columns; readers keep the one they began with."""

    rows: int
    codes: Mapping[str, NDArray[np.int32]]
    values: Mapping[str, tuple[str, ...]]
    captured_ms: NDArray[np.int64]


class Columns:
    """Filter columns of a fleet. Safe to share between threads: a refresh swaps in a new state as a whole."""

    def __init__(self, db: Db) -> None:
        """Loads nothing yet: call `refresh`."""
        self._db = db
        self._lock = threading.Lock()
        self._columns: dict[str, _Column] = {key: _Column() for key in BASE_KEYS}
        self._captured = GrowingArray(np.int64, default=NO_TIME_MS)
        self._too_varied: set[str] = set()
        self._view = _View(
            rows=0,
            codes={key: np.empty(0, np.int32) for key in BASE_KEYS},
            values=dict.fromkeys(BASE_KEYS, ()),
            captured_ms=np.empty(0, np.int64),
        )

    @property
    def rows(self) -> int:
        """How many rows are loaded."""
        return self._view.rows

    @property
    def keys(self) -> tuple[str, ...]:
        """Everything a filter may name, but `after` and `before`."""
        return tuple(self._view.codes)

    @property
    def captured_ms(self) -> NDArray[np.int64]:
        """Milliseconds since 1970 UTC, shape (rows,); `NO_TIME_MS` where the time is not known."""
        return self._view.captured_ms

    def refresh(self) -> int:
        """Reads the rows that were added since the last time.

        Returns:
            How many.
        """
        with self._lock:
            start = self._view.rows
            stop = frames.row_count(self._db)
            pending: list[Document] = []
            if stop > start:
                for document in frames.documents(self._db, start=start, stop=stop, fields=_FIELDS):
                    pending.append(document)
                    if len(pending) == _REFRESH_ROWS:
                        self._append(pending)
                        pending = []
                self._append(pending)
                self._publish()
            return self._view.rows - start

    def mask(self, where: Filter | str) -> NDArray[np.bool_]:
        """Which rows match.

        Returns:
            Shape (rows,); the caller's own to change.
        Raises:
            InvalidInput: The filter cannot be understood or names an unknown key.
        """
        view = self._view
        chosen = parse_filter(where) if isinstance(where, str) else where
        mask = np.ones(view.rows, dtype=bool)
        for term in chosen.terms:
            mask &= self._times(view, term) if isinstance(term, TimeTerm) else self._matches(view, term)
        return mask

    def count(self, where: Filter | str) -> int:
        """How many rows match."""
        return int(np.count_nonzero(self.mask(where)))

    def values(self, name: str) -> tuple[str, ...]:
        """The values a key has in the fleet, in order of appearance.

        Raises:
            InvalidInput: There is no such key.
        """
        return self.codes(name)[1]

    def codes(self, name: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """A key's column.

        Returns:
            For each row the position of its value in the second result, -1 where it has none; and the values.
        Raises:
            InvalidInput: There is no such key.
        """
        view = self._view
        key = self._known(view, name)
        return view.codes[key], view.values[key]

    def facets(
        self, names: Sequence[str] | None = None, mask: NDArray[np.bool_] | None = None
    ) -> dict[str, dict[str, int]]:
        """How often each value occurs, most frequent first, at most a hundred values a key.

        Args:
            names: The keys; None takes those whose values are few enough to choose from, and site, vehicle, drive and camera.
            mask: Count these rows only; rows beyond its end do not count.
        Raises:
            InvalidInput: There is no such key.
        """
        view = self._view
        if names is None:
            names = [
                key for key, values in view.values.items() if key in BASE_KEYS or len(values) <= MOST_FACET_KEY_VALUES
            ]
        found: dict[str, dict[str, int]] = {}
        for name in names:
            key = self._known(view, name)
            codes, values = view.codes[key], view.values[key]
            if mask is not None:
                shared = min(len(mask), len(codes))
                codes = codes[:shared][mask[:shared]]
            counts = np.bincount(codes[codes >= 0], minlength=len(values))
            order = np.argsort(-counts, kind="stable")[:MOST_FACET_VALUES]
            found[name] = {values[i]: int(counts[i]) for i in order.tolist() if counts[i]}
        return {name: counts_by_value for name, counts_by_value in found.items() if counts_by_value}

    def _known(self, view: _View, name: str, *, where: str = "") -> str:
        """The column behind a name; an attribute may be given with or without `attributes.` in front."""
        plain = name.removeprefix(_ATTRIBUTE_PREFIX)
        full = _ATTRIBUTE_PREFIX + plain
        for key in (full,) if plain != name else (name, full):
            if key in view.codes:
                return key
        # A base key's namesake among the attributes has its full name as column, all others their plain one.
        if plain != name and plain in view.codes and plain not in BASE_KEYS:
            return plain
        if plain in self._too_varied or full in self._too_varied:
            raise InvalidInput(
                f"{where}{name!r} has more than {MOST_VALUES} different values and cannot be filtered by"
            )
        known = ", ".join(sorted(view.codes))
        raise InvalidInput(f"{where}there is no key {name!r}; the fleet has {known}, and after: and before:", key=name)

    def _matches(self, view: _View, term: ValueTerm) -> NDArray[np.bool_]:
        if not view.rows:
            return np.zeros(0, dtype=bool)  # An empty fleet has no keys; that is no mistake in the filter.
        key = self._known(view, term.key, where=f"filter, character {term.position}: ")
        wanted = [
            folded in term.values or folded.startswith(term.prefixes)
            for folded in (value.casefold() for value in view.values[key])
        ]
        table = np.array([*wanted, False], dtype=bool) ^ term.negated  # Code -1, no value, takes the last entry.
        matches: NDArray[np.bool_] = table[view.codes[key]]
        return matches

    def _times(self, view: _View, term: TimeTerm) -> NDArray[np.bool_]:
        bound = _to_ms(term.moment)
        if term.is_after:
            late: NDArray[np.bool_] = view.captured_ms >= bound
            return late
        early: NDArray[np.bool_] = (view.captured_ms < bound) & (view.captured_ms != NO_TIME_MS)
        return early

    def _append(self, documents: Sequence[Document]) -> None:
        start = len(self._captured)
        columns = self._columns
        self._captured.extend([_to_ms(one.get("captured_at")) for one in documents])
        for i, document in enumerate(documents):
            for key, value in _described(document):
                if key in self._too_varied:
                    continue
                if key not in columns:
                    columns[key] = _Column()
                columns[key].put(start + i, value)
        for key in [
            key for key, column in columns.items() if len(column.values) > MOST_VALUES and key not in BASE_KEYS
        ]:
            del columns[key]
            self._too_varied.add(key)
        for column in columns.values():
            column.fill(len(self._captured))

    def _publish(self) -> None:
        rows = len(self._captured)
        self._view = _View(
            rows=rows,
            codes={key: _read_only(column.codes) for key, column in self._columns.items()},
            values={key: column.as_tuple() for key, column in self._columns.items()},
            captured_ms=_read_only(self._captured),
        )


class _Column:
    """Codes by row, and the values behind them."""

    def __init__(self) -> None:
        self.codes = GrowingArray(np.int32, default=-1)
        self.values: dict[str, int] = {}
        self._tuple: tuple[str, ...] = ()

    def put(self, row: int, value: str) -> None:
        self.codes.pad(row + 1)
        self.codes.all[row] = self.values.setdefault(value, len(self.values))

    def fill(self, rows: int) -> None:
        self.codes.pad(rows)

    def as_tuple(self) -> tuple[str, ...]:
        if len(self._tuple) != len(self.values):
            self._tuple = tuple(self.values)
        return self._tuple


def _read_only(column: GrowingArray[Any]) -> NDArray[Any]:
    # Rows that are there are never written again, so readers may keep this while the column grows.
    shown = column.all
    shown.flags.writeable = False
    return shown


def _described(document: Document) -> list[tuple[str, str]]:
    """Keys and values of one frame, as text; lists and nested objects are not for filtering."""
    found = [(key, str(document[key])) for key in BASE_KEYS if document.get(key) is not None]
    for key, value in (document.get("attributes") or {}).items():
        name = _ATTRIBUTE_PREFIX + key if key in (*BASE_KEYS, "after", "before") else key
        if isinstance(value, bool):
            found.append((name, "true" if value else "false"))
        elif isinstance(value, str | int | float):
            found.append((name, str(value)))
    return found


def _to_ms(moment: datetime | None) -> int:
    return NO_TIME_MS if moment is None else (moment - _EPOCH) // timedelta(milliseconds=1)
