"""The fleet's descriptive columns in memory, aligned by row: what filters, facets, sorting and splits are computed from.

Texts are kept once and referred to by code, numbers as they are, so a row costs four bytes a text key and eight a number key. New rows are
read when they appear, and rows whose record changed when its `changed_at` is newer than what was seen; the database stays the truth. What
one state of the columns says by itself is in `view`, what is counted of it in `facets`; here are the keys of later rooms and the answers kept.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Container, Hashable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from infra.database import Db
from infra.errors import InvalidInput
from selection.columnar.bins import Bins, bins_of
from selection.columnar.recent import Recent
from selection.fleet import facets
from selection.fleet.facets import Histogram
from selection.fleet.filters import Filter, NearTerm, Term, TimeTerm, ValueTerm, parse_filter
from selection.fleet.hour import HourOfCapture
from selection.fleet.loading import ATTRIBUTE_PREFIX, BASE_KEYS, NO_TIME_MS, TAKEN, Loader
from selection.fleet.view import View, in_ranges, view_of

__all__ = ["BASE_KEYS", "NO_TIME_MS", "Columns", "Filter", "Histogram", "Provider", "parse_filter"]


class Provider(Protocol):
    """What later rooms know of frames, under keys of their own. Asked with each filter that names one, so it keeps its answers."""

    @property
    def provides(self) -> Sequence[str]:
        """The keys it answers for; `has` means that it knows some values of `has:`."""

    def version(self, key: str) -> Hashable:
        """Changes whenever the answers for a key may have changed."""

    def matches(self, key: str, value: str, *, is_prefix: bool, rows: int) -> NDArray[np.bool_] | None:
        """Which rows have a value (case-folded), shape (rows,); None where it does not know the value, for others to try.

        Raises:
            InvalidInput: There is no such value; the message says which there are.
        """

    def numbers(self, key: str, *, rows: int) -> NDArray[np.float64] | None:
        """A number a row, NaN where there is none, shape (rows,); None for a key without numbers.

        Args:
            key: One of its keys, or `KEY:VALUE` where each value has numbers of its own.
        """


class Columns:
    """Filter columns of a fleet. Safe to share between threads: a refresh swaps in a new state as a whole."""

    def __init__(self, db: Db, *, cache: Path | None = None) -> None:
        """Loads nothing yet: call `refresh`.

        Args:
            db: Where the frames are.
            cache: A file of this machine that keeps a copy of the columns between processes.
        """
        self._loader = Loader(db, cache=cache)
        self._lock = threading.Lock()
        self._hour = HourOfCapture(self)
        self._providers: list[Provider] = [self._hour]
        self._taken: frozenset[str] = frozenset()
        self._masks: Recent[NDArray[np.bool_]] = Recent(32)
        self._rows_of: Recent[NDArray[np.int64]] = Recent(8)
        self._counts: Recent[dict[str, int]] = Recent(512)
        self._bins: Recent[Bins | None] = Recent(256)
        self._view = view_of(self._loader.loaded, version=0)

    @property
    def rows(self) -> int:
        """How many rows are loaded, withdrawn ones among them."""
        return self._view.rows

    @property
    def version(self) -> int:
        """Changes with every refresh that found something."""
        return self._view.version

    @property
    def keys(self) -> tuple[str, ...]:
        """Everything of the frames themselves that a filter may name, but the reserved keys.

        An attribute whose name is a provider's goes by its full name, such as `attributes.label`: the plain one asks the provider.
        """
        return tuple(map(self._written, self._view.keys))

    @property
    def captured_ms(self) -> NDArray[np.int64]:
        """Milliseconds since 1970 UTC, shape (rows,); `NO_TIME_MS` where the time is not known."""
        return self._view.captured_ms

    @property
    def has_withdrawn(self) -> bool:
        """Whether any row was withdrawn, so that even the empty filter lets not every row through."""
        return self._view.present is not None

    def provide(self, provider: Provider) -> None:
        """Adds keys that the frames' own records do not hold."""
        self._providers.append(provider)
        self._taken |= frozenset(provider.provides)

    def refresh(self) -> int:
        """Reads the rows that were added since the last time, and those that were changed.

        Returns:
            How many were added.
        """
        with self._lock:
            added, changed = self._loader.refresh()
            if added or changed or self._view.rows != self._loader.loaded.rows:
                self._view = view_of(self._loader.loaded, version=self._view.version + 1)
            return added

    def mask(self, where: Filter | str) -> NDArray[np.bool_]:
        """Which rows match, withdrawn ones never.

        Returns:
            Shape (rows,); the caller's own to change.
        Raises:
            InvalidInput: The filter cannot be understood or names an unknown key.
        """
        return self._mask(self._view, _parsed(where)).copy()

    def count(self, where: Filter | str) -> int:
        """How many rows match."""
        view, chosen = self._view, _parsed(where)
        if not chosen.terms and view.present is None:
            return view.rows
        return len(self._matching_rows(view, chosen))

    def matching(self, where: Filter | str) -> NDArray[np.int64]:
        """The rows that match, ascending; not to be written to."""
        return self._matching_rows(self._view, _parsed(where))

    def key_of(self, term: Term) -> str | None:
        """Which of `keys` a term looks at; None where that is none of them."""
        if not isinstance(term, ValueTerm) or term.key == "has":
            return None
        if any(term.key in provider.provides for provider in self._providers):
            return None
        key = self._view.find(term.key)
        return None if key is None else self._written(key)

    def values(self, name: str) -> tuple[str, ...]:
        """The values a key has in the fleet, in order of appearance; of numbers, in ascending order.

        Raises:
            InvalidInput: There is no such key.
        """
        return self.codes(name)[1]

    def codes(self, name: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """A key's column.

        Returns:
            For each row the position of its value in the second result, -1 where it has none; and the values.
        Raises:
            InvalidInput: There is no such key, or its numbers are too many different ones.
        """
        view = self._view
        return view.column(self._known(view, name))

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A key's numbers; texts that are written like a number count as one. `captured` is the time, in ms since 1970. A provider of terms may
        have numbers for a key with a name, such as `concept:NAME`.

        Returns:
            Shape (rows,), NaN where there is none; not to be written to.
        Raises:
            InvalidInput: There is no such key, or nothing under it is a number.
        """
        return self._numbers(self._view, name)

    def numbers_of(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """A key's numbers of some rows, shape (len(rows),), NaN where there is none.

        Raises:
            InvalidInput: As in `numbers`.
        """
        found, column = np.full(len(rows), np.nan), self.numbers(name)
        inside = rows < len(column)
        found[inside] = column[rows[inside]]
        return found

    def measured(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """What ingest measured of some rows' pixels (`sharpness`, ...), NaN where it has not, be it of the whole fleet."""
        return self.numbers_of(name, rows) if name in self.keys else np.full(len(rows), np.nan)

    def facets(
        self,
        names: Sequence[str] | None = None,
        mask: NDArray[np.bool_] | None = None,
        *,
        where: Filter | str | None = None,
    ) -> dict[str, dict[str, int]]:
        """How often each value occurs, most frequent first, at most a hundred values a key.

        Args:
            names: The keys; None takes those whose values are few enough to choose from, and site, vehicle, drive and camera.
            mask: Count these rows only; rows beyond its end do not count.
            where: Count the rows that match; such counts are kept until the fleet changes.
        Raises:
            InvalidInput: There is no such key.
        """
        view = self._view
        names = [self._written(key) for key in facets.keys_of_values(view)] if names is None else names
        question = None if mask is not None else self._question(view, _parsed(where or ""))
        rows = self._rows_to_count(view, mask=mask, where=_parsed(where or ""))
        found: dict[str, dict[str, int]] = {}
        for name in names:
            if question is None:
                found[name] = self._count(view, name, rows)
            else:
                found[name] = self._counts.get((question, name), lambda name=name: self._count(view, name, rows))  # type: ignore[misc]
        return {name: dict(counts) for name, counts in found.items() if counts}

    def histograms(self, where: Filter | str = "", *, names: Container[str] | None = None) -> dict[str, Histogram]:
        """How the numbers of the rows that match are spread, for each key, or each of `names`, that has more than a few different ones."""
        view, chosen = self._view, _parsed(where)
        found: dict[str, Histogram] = {}
        rows = self._rows_to_count(view, mask=None, where=chosen)
        for key in facets.keys_of_numbers(view):
            name = self._written(key)
            bins = self._bins_of(view, key) if names is None or name in names else None
            if bins is not None:
                found[name] = Histogram(edges=bins.edges, counts=tuple(bins.count(rows)))
        return found

    def value_of(self, name: str, row: int) -> str | None:
        """What one row has under a key, as text; None without."""
        view = self._view
        return view.value_of(self._known(view, name), row)

    def explain(self, term: Term, row: int) -> str | None:
        """What it is about a row that a term asks for: the value it has, or how far away it lies; None where there is nothing to add."""
        if isinstance(term, TimeTerm):
            return None
        if isinstance(term, NearTerm):
            metres = self._view.distance_m(term, row)
            return None if metres is None else f"{metres / 1000:.1f} km" if metres >= 1000 else f"{metres:.0f} m"
        if term.key == "has":
            return None
        if any(term.key in provider.provides for provider in self._providers):
            if not term.ranges:
                return None
            number = float(self.numbers(term.key)[row])
            return None if math.isnan(number) else f"{number:.3g}"
        return self.value_of(term.key, row)

    # ---- answering

    def _mask(self, view: View, chosen: Filter) -> NDArray[np.bool_]:
        return self._masks.get(self._question(view, chosen), lambda: self._work_out(view, chosen))

    def _question(self, view: View, chosen: Filter) -> Hashable:
        """What an answer depends on: the state of the columns, the terms, and the state of what later rooms know."""
        keys = {term.key for term in chosen.terms if isinstance(term, ValueTerm)}
        provided = [(key, one.version(key)) for one in self._providers for key in one.provides if key in keys]
        return view.version, chosen.terms, tuple(provided)

    def _work_out(self, view: View, chosen: Filter) -> NDArray[np.bool_]:
        mask = np.ones(view.rows, dtype=bool) if view.present is None else view.present.copy()
        for term in chosen.terms:
            if isinstance(term, TimeTerm):
                mask &= view.in_time(term)
            elif isinstance(term, NearTerm):
                mask &= view.nearby(term) ^ term.negated
            else:
                mask &= self._matches(view, term)
        mask.flags.writeable = False
        return mask

    def _matching_rows(self, view: View, chosen: Filter) -> NDArray[np.int64]:
        def work_out() -> NDArray[np.int64]:
            rows = np.flatnonzero(self._mask(view, chosen))
            rows.flags.writeable = False
            return rows

        return self._rows_of.get(self._question(view, chosen), work_out)

    def _rows_to_count(self, view: View, *, mask: NDArray[np.bool_] | None, where: Filter) -> NDArray[np.int64] | None:
        """None for all of them."""
        if mask is not None:
            rows = np.flatnonzero(mask[: view.rows])
            return rows if view.present is None else rows[view.present[rows]]
        return None if not where.terms and view.present is None else self._matching_rows(view, where)

    def _matches(self, view: View, term: ValueTerm) -> NDArray[np.bool_]:
        if not view.rows:
            return np.zeros(0, dtype=bool)  # An empty fleet has no keys; that is no mistake in the filter.
        found = np.zeros(view.rows, dtype=bool)
        place = f"{term.origin}, character {term.position}: "
        values = [(value, False) for value in term.values] + [(prefix, True) for prefix in term.prefixes]
        try:
            provider = next((one for one in self._providers if term.key in one.provides), None)
            if provider is not None and term.key != "has":
                for value, is_prefix in values:
                    matches = provider.matches(term.key, value, is_prefix=is_prefix, rows=view.rows)
                    if matches is None:
                        raise InvalidInput(f"{term.key}: does not know {value!r}")
                    found |= matches
                if term.ranges:
                    found |= in_ranges(self._numbers(view, term.key), term.ranges)
            elif term.key == "has":
                if term.ranges:
                    raise InvalidInput("has: takes names, such as has:location, not numbers")
                for value, _ in values:
                    found |= self._has(view, value, provider)
            else:
                key = self._known(view, term.key)
                found |= view.having(key, term)
                if term.ranges:
                    found |= in_ranges(view.numbers_of(key), term.ranges)
        except InvalidInput as exc:
            details = {"position": term.position, "origin": term.origin, "key": term.key}
            raise InvalidInput(place + exc.message, **details | exc.details) from exc
        return found ^ term.negated

    def _has(self, view: View, value: str, provider: Provider | None) -> NDArray[np.bool_]:
        if provider is not None:
            known = provider.matches("has", value, is_prefix=False, rows=view.rows)
            if known is not None:
                return known
        if value == "time" or value in self._hour.provides:
            timed: NDArray[np.bool_] = view.captured_ms != NO_TIME_MS
            return timed
        if value == "location":
            return ~np.isnan(view.numbers.get("latitude", np.full(view.rows, np.nan)))
        plain = value.removeprefix(ATTRIBUTE_PREFIX)
        keys = [key for key in view.keys if key.casefold() == value]  # Frames may differ in how they write a key.
        keys += [key for key in view.keys if plain != value and key.casefold() == plain and key not in TAKEN]
        found = np.zeros(view.rows, dtype=bool)
        for key in keys or [self._known(view, value)]:
            found |= view.having(key, ValueTerm(key=key, values=(), prefixes=("",)))
        return found

    def _numbers(self, view: View, name: str) -> NDArray[np.float64]:
        if name == "captured":
            times = view.captured_ms.astype(np.float64)
            times[view.captured_ms == NO_TIME_MS] = np.nan
            return times
        for provider in self._providers:
            if (
                name.partition(":")[0] in provider.provides
                and (found := provider.numbers(name, rows=view.rows)) is not None
            ):
                return found
        key = name.partition(":")[0]
        if any(key in provider.provides for provider in self._providers) and key not in view.keys:
            raise InvalidInput(f"{key!r} has no numbers to compare or sort by")
        return view.numbers_of(self._known(view, name))

    def _count(self, view: View, name: str, rows: NDArray[np.int64] | None) -> dict[str, int]:
        return facets.count(*view.column(self._known(view, name)), rows)

    def _bins_of(self, view: View, key: str) -> Bins | None:
        return self._bins.get((view.version, key), lambda: bins_of(view.numbers[key]))

    def _written(self, key: str) -> str:
        """How a filter names a column."""
        return ATTRIBUTE_PREFIX + key if key in self._taken else key

    def _known(self, view: View, name: str) -> str:
        """The column behind a name; whoever asks for none is told of the providers' keys too."""
        return view.known(name, provided=(key for one in self._providers for key in one.provides))


def _parsed(where: Filter | str) -> Filter:
    return parse_filter(where) if isinstance(where, str) else where
