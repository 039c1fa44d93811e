"""The fleet's descriptive columns in memory, aligned by row: what filters, facets, sorting and splits are computed from.

Texts are kept once and referred to by code, numbers as they are, so a row costs four bytes a text key and eight a number key. New rows are
read when they appear, and rows whose record changed when its `changed_at` is newer than what was seen; the database stays the truth.
"""

from __future__ import annotations

import difflib
import math
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from infra.database import Db
from infra.errors import InvalidInput
from selection.columnar import distance
from selection.columnar.bins import Bins, bins_of
from selection.columnar.recent import Recent
from selection.fleet import filters, loading
from selection.fleet.filters import Filter, NearTerm, Range, Term, TimeTerm, ValueTerm, parse_filter
from selection.fleet.hour import HourOfCapture
from selection.fleet.loading import ATTRIBUTE_PREFIX, BASE_KEYS, NO_TIME_MS, TAKEN, Loaded, Loader, to_ms

__all__ = ["BASE_KEYS", "NO_TIME_MS", "Columns", "Filter", "Provider", "parse_filter"]

MOST_FACET_KEY_VALUES = 200
MOST_FACET_VALUES = 100
MOST_FACET_NUMBERS = 20
_KEYS_TOLD = 12


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


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How often numbers occur.

    Attributes:
        edges: One more than there are counts, ascending.
        low: The smallest of all numbers of the fleet.
        high: The largest.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def low(self) -> float:
        return self.edges[0]

    @property
    def high(self) -> float:
        return self.edges[-1]


@dataclass(frozen=True, kw_only=True)
class _View:
    """One state of the columns; readers keep the one they began with."""

    version: int
    rows: int
    codes: Mapping[str, NDArray[np.int32]]
    values: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, NDArray[np.float64]]
    captured_ms: NDArray[np.int64]
    present: NDArray[np.bool_] | None  # None: no row was withdrawn.
    keys: tuple[str, ...]


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
        self._masks: Recent[NDArray[np.bool_]] = Recent(32)
        self._rows_of: Recent[NDArray[np.int64]] = Recent(8)
        self._counts: Recent[dict[str, int]] = Recent(512)
        self._bins: Recent[Bins | None] = Recent(256)
        self._coded: Recent[tuple[NDArray[np.int32], tuple[str, ...]]] = Recent(64)
        self._view = _view(self._loader.loaded, version=0)

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
        """Everything of the frames themselves that a filter may name, but the reserved keys."""
        return self._view.keys

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

    def refresh(self) -> int:
        """Reads the rows that were added since the last time, and those that were changed.

        Returns:
            How many were added.
        """
        with self._lock:
            added, changed = self._loader.refresh()
            if added or changed or self._view.rows != self._loader.loaded.rows:
                self._view = _view(self._loader.loaded, version=self._view.version + 1)
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
        key = self._known(view, name)
        if key not in view.numbers:
            return view.codes[key], view.values[key]
        return self._coded.get((view.version, key), lambda: self._codes_of_numbers(view, key))

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A key's numbers; texts that are written like a number count as one. `captured` is the time, in ms since 1970. A provider of terms may
        have numbers for a key with a name, such as `concept:NAME`.

        Returns:
            Shape (rows,), NaN where there is none; not to be written to.
        Raises:
            InvalidInput: There is no such key, or nothing under it is a number.
        """
        view = self._view
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
        return self._numbers(view, self._known(view, name))

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
        names = self._facet_keys(view) if names is None else names
        question = None if mask is not None else self._question(view, _parsed(where or ""))
        rows = self._rows_to_count(view, mask=mask, where=_parsed(where or ""))
        found: dict[str, dict[str, int]] = {}
        for name in names:
            if question is None:
                found[name] = self._count(name, rows)
            else:
                found[name] = self._counts.get((question, name), lambda name=name: self._count(name, rows))  # type: ignore[misc]
        return {name: dict(counts) for name, counts in found.items() if counts}

    def histograms(self, where: Filter | str = "") -> dict[str, Histogram]:
        """How the numbers of the rows that match are spread, for each key that has more than a few different ones."""
        view, chosen = self._view, _parsed(where)
        found: dict[str, Histogram] = {}
        rows = self._rows_to_count(view, mask=None, where=chosen)
        for key in self._histogram_keys(view):
            bins = self._bins_of(view, key)
            if bins is not None:
                found[key] = Histogram(edges=bins.edges, counts=tuple(bins.count(rows)))
        return found

    def value_of(self, name: str, row: int) -> str | None:
        """What one row has under a key, as text; None without."""
        view = self._view
        key = self._known(view, name)
        if key in view.numbers and not np.isnan(view.numbers[key][row]):
            return filters.number_text(float(view.numbers[key][row]))
        code = view.codes[key][row] if key in view.codes else -1
        return view.values[key][code] if code >= 0 else None

    def explain(self, term: Term, row: int) -> str | None:
        """What it is about a row that a term asks for: the value it has, or how far away it lies; None where there is nothing to add."""
        if isinstance(term, TimeTerm):
            return None
        if isinstance(term, NearTerm):
            metres = self.distance_m(term, row)
            return None if metres is None else f"{metres / 1000:.1f} km" if metres >= 1000 else f"{metres:.0f} m"
        if term.key == "has":
            return None
        if any(term.key in provider.provides for provider in self._providers):
            if not term.ranges:
                return None
            number = float(self.numbers(term.key)[row])
            return None if math.isnan(number) else f"{number:.3g}"
        return self.value_of(term.key, row)

    def distance_m(self, term: NearTerm, row: int) -> float | None:
        """How far a row is from the place that a term names."""
        view = self._view
        if "latitude" not in view.numbers:
            return None
        metres = distance.distances_m(
            view.numbers["latitude"][row : row + 1],
            view.numbers["longitude"][row : row + 1],
            latitude_deg=term.latitude_deg,
            longitude_deg=term.longitude_deg,
        )[0]
        return None if np.isnan(metres) else float(metres)

    # ---- answering

    def _mask(self, view: _View, chosen: Filter) -> NDArray[np.bool_]:
        return self._masks.get(self._question(view, chosen), lambda: self._work_out(view, chosen))

    def _question(self, view: _View, chosen: Filter) -> Hashable:
        """What an answer depends on: the state of the columns, the terms, and the state of what later rooms know."""
        keys = {term.key for term in chosen.terms if isinstance(term, ValueTerm)}
        provided = [(key, one.version(key)) for one in self._providers for key in one.provides if key in keys]
        return view.version, chosen.terms, tuple(provided)

    def _work_out(self, view: _View, chosen: Filter) -> NDArray[np.bool_]:
        mask = np.ones(view.rows, dtype=bool) if view.present is None else view.present.copy()
        for term in chosen.terms:
            if isinstance(term, TimeTerm):
                mask &= _times(view, term)
            elif isinstance(term, NearTerm):
                mask &= _near(view, term) ^ term.negated
            else:
                mask &= self._matches(view, term)
        mask.flags.writeable = False
        return mask

    def _matching_rows(self, view: _View, chosen: Filter) -> NDArray[np.int64]:
        def work_out() -> NDArray[np.int64]:
            rows = np.flatnonzero(self._mask(view, chosen))
            rows.flags.writeable = False
            return rows

        return self._rows_of.get(self._question(view, chosen), work_out)

    def _rows_to_count(self, view: _View, *, mask: NDArray[np.bool_] | None, where: Filter) -> NDArray[np.int64] | None:
        """None for all of them."""
        if mask is not None:
            rows = np.flatnonzero(mask[: view.rows])
            return rows if view.present is None else rows[view.present[rows]]
        return None if not where.terms and view.present is None else self._matching_rows(view, where)

    def _count(self, name: str, rows: NDArray[np.int64] | None) -> dict[str, int]:
        codes, values = self.codes(name)
        chosen = codes if rows is None else codes[rows]
        counts = np.bincount(chosen + 1, minlength=len(values) + 1)[1:]
        order = np.argsort(-counts, kind="stable")[:MOST_FACET_VALUES]
        return {values[i]: int(counts[i]) for i in order.tolist() if counts[i]}

    def _facet_keys(self, view: _View) -> list[str]:
        texts = [key for key, values in view.values.items() if key in BASE_KEYS or len(values) <= MOST_FACET_KEY_VALUES]
        few = [key for key in view.numbers if key not in texts and key not in TAKEN and self._is_few(view, key)]
        return [key for key in texts if key not in view.numbers or self._is_few(view, key)] + few

    def _histogram_keys(self, view: _View) -> list[str]:
        return [
            key
            for key in view.numbers
            if key not in ("latitude", "longitude") and (key in TAKEN or not self._is_few(view, key))
        ]

    def _is_few(self, view: _View, key: str) -> bool:
        """Whether a key's numbers are whole and few enough to choose from one by one."""
        sample = view.numbers[key][:1000]  # Settles nearly all that are many without looking at the rest.
        sample = sample[~np.isnan(sample)]
        if len(np.unique(sample)) > MOST_FACET_NUMBERS or (np.mod(sample, 1) != 0).any():
            return False
        try:
            return len(self.codes(key)[1]) <= MOST_FACET_NUMBERS
        except InvalidInput:
            return False

    def _bins_of(self, view: _View, key: str) -> Bins | None:
        return self._bins.get((view.version, key), lambda: bins_of(view.numbers[key]))

    def _codes_of_numbers(self, view: _View, key: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        numbers = view.numbers[key]
        is_number = ~np.isnan(numbers)
        distinct, places = np.unique(numbers[is_number], return_inverse=True)
        if len(distinct) > loading.MOST_VALUES:
            raise InvalidInput(
                f"{key!r} has more than {loading.MOST_VALUES} different numbers; ask for a range, {key}:LOW..HIGH"
            )
        codes = view.codes[key].copy() if key in view.codes else np.full(view.rows, -1, dtype=np.int32)
        texts = view.values.get(key, ())
        codes[is_number] = places + len(texts)
        codes.flags.writeable = False
        return codes, (*texts, *map(filters.number_text, distinct.tolist()))

    def _numbers(self, view: _View, key: str, *, place: str = "") -> NDArray[np.float64]:
        if key in view.codes and (read := [_as_number(value) for value in view.values[key]]):
            table = np.array([*read, np.nan])
            if not np.isnan(table).all():
                from_texts: NDArray[np.float64] = table[view.codes[key]]
                return np.fmax(view.numbers[key], from_texts) if key in view.numbers else from_texts
        if key in view.numbers:
            return view.numbers[key]
        raise InvalidInput(f"{place}{key!r} has no numbers to compare or sort by")

    def _matches(self, view: _View, term: ValueTerm) -> NDArray[np.bool_]:
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
                found |= self._in_ranges(lambda: self.numbers(term.key), term.ranges, rows=view.rows)
            elif term.key == "has":
                if term.ranges:
                    raise InvalidInput("has: takes names, such as has:location, not numbers")
                for value, _ in values:
                    found |= self._has(view, value, provider)
            else:
                key = self._known(view, term.key)
                found |= self._has_value(view, key, term)
                found |= self._in_ranges(lambda: self._numbers(view, key), term.ranges, rows=view.rows)
        except InvalidInput as exc:
            details = {"position": term.position, "origin": term.origin, "key": term.key}
            raise InvalidInput(place + exc.message, **details | exc.details) from exc
        return found ^ term.negated

    def _has(self, view: _View, value: str, provider: Provider | None) -> NDArray[np.bool_]:
        if provider is not None:
            known = provider.matches("has", value, is_prefix=False, rows=view.rows)
            if known is not None:
                return known
        if value == "time" or value in self._hour.provides:
            timed: NDArray[np.bool_] = view.captured_ms != NO_TIME_MS
            return timed
        if value == "location":
            return ~np.isnan(view.numbers.get("latitude", np.full(view.rows, np.nan)))
        key = next((key for key in view.keys if key.casefold() == value), value)
        return self._has_value(view, self._known(view, key), ValueTerm(key=key, values=(), prefixes=("",)))

    def _has_value(self, view: _View, key: str, term: ValueTerm) -> NDArray[np.bool_]:
        found = np.zeros(view.rows, dtype=bool)
        if key in view.codes and (term.values or term.prefixes):
            wanted = [
                folded in term.values or folded.startswith(term.prefixes)
                for folded in (value.casefold() for value in view.values[key])
            ]
            if any(wanted):
                table = np.array([*wanted, False], dtype=bool)  # Code -1, no value, takes the last entry.
                found |= table[view.codes[key]]
        if key in view.numbers:
            numbers = view.numbers[key]
            for value in term.values:
                if not math.isnan(number := _as_number(value)):
                    found |= numbers == number
            if "" in term.prefixes:
                found |= ~np.isnan(numbers)
            elif term.prefixes:
                codes, texts = self.codes(key)
                found |= np.array([*(text.startswith(term.prefixes) for text in texts), False], dtype=bool)[codes]
        return found

    def _in_ranges(
        self, numbers: Callable[[], NDArray[np.float64]], ranges: Sequence[Range], *, rows: int
    ) -> NDArray[np.bool_]:
        found = np.zeros(rows, dtype=bool)
        for span in ranges:
            column = numbers()
            above = column > span.low if span.low_open else column >= span.low
            below = column < span.high if span.high_open else column <= span.high
            found |= above & below
        return found

    def _known(self, view: _View, name: str) -> str:
        """The column behind a name; an attribute may be given with or without `attributes.` in front."""
        plain = name.removeprefix(ATTRIBUTE_PREFIX)
        full = ATTRIBUTE_PREFIX + plain
        for key in (full,) if plain != name else (name, full):
            if key in view.codes or key in view.numbers:
                return key
        # A base key's namesake among the attributes has its full name as column, all others their plain one.
        if plain != name and (plain in view.codes or plain in view.numbers) and plain not in TAKEN:
            return plain
        varied = self._loader.loaded.too_varied
        if plain in varied or full in varied:
            raise InvalidInput(
                f"{name!r} has more than {loading.MOST_VALUES} different values and cannot be filtered by"
            )
        own = {key for provider in self._providers for key in provider.provides}
        known = [*sorted(view.keys), *sorted(own.difference(view.keys))]
        near = difflib.get_close_matches(plain, known, n=3)
        some = ", ".join(known[:_KEYS_TOLD]) + (
            f" and {len(known) - _KEYS_TOLD} more" if len(known) > _KEYS_TOLD else ""
        )
        hint = f"did you mean {' or '.join(near)}?" if near else f"the fleet has {some}"
        raise InvalidInput(f"there is no key {name!r}; {hint}", key=name)


def _parsed(where: Filter | str) -> Filter:
    return parse_filter(where) if isinstance(where, str) else where


def _view(growing: Loaded, *, version: int) -> _View:
    texts = {key: column.shown() for key, column in growing.texts.items()}
    numbers = {key: column.shown() for key, column in growing.numbers.items()}
    captured = growing.captured.all
    captured.flags.writeable = False
    withdrawn = growing.withdrawn.all
    return _View(
        version=version,
        rows=len(captured),
        codes={key: codes for key, (codes, _) in texts.items()},
        values={key: values for key, (_, values) in texts.items()},
        numbers=numbers,
        captured_ms=captured,
        present=~withdrawn if withdrawn.any() else None,
        keys=tuple(dict.fromkeys([*texts, *numbers])),
    )


def _times(view: _View, term: TimeTerm) -> NDArray[np.bool_]:
    bound = to_ms(term.moment)
    if term.is_after:
        late: NDArray[np.bool_] = view.captured_ms >= bound
        return late
    early: NDArray[np.bool_] = (view.captured_ms < bound) & (view.captured_ms != NO_TIME_MS)
    return early


def _near(view: _View, term: NearTerm) -> NDArray[np.bool_]:
    if "latitude" not in view.numbers:
        return np.zeros(view.rows, dtype=bool)
    return distance.within(
        view.numbers["latitude"],
        view.numbers["longitude"],
        latitude_deg=term.latitude_deg,
        longitude_deg=term.longitude_deg,
        radius_m=term.radius_m,
    )


def _as_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) and "_" not in text else math.nan
