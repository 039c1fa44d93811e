"""One state of a fleet's columns: what its rows have under each key, and which of them a term of a filter means."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.columnar import distance
from selection.columnar.recent import Recent
from selection.fleet import filters, loading
from selection.fleet.filters import RESERVED_KEYS, NearTerm, Range, TimeTerm, ValueTerm
from selection.fleet.loading import ATTRIBUTE_PREFIX, NO_TIME_MS, TAKEN, Loaded, to_ms

_KEYS_TOLD = 12


@dataclass(frozen=True, kw_only=True)
class View:
    """One state of the columns; readers keep the one they began with. Safe to share between threads.

    Attributes:
        version: Higher than that of the states before.
        rows: How many rows there are, withdrawn ones among them.
        codes: By key, for each row the position of its text among `values`, -1 where it has none.
        numbers: By key, NaN where a row has none. A key may have texts and numbers.
        captured_ms: Milliseconds since 1970 UTC; `NO_TIME_MS` where the time is not known.
        present: Which rows are not withdrawn; None when none is.
        keys: All keys of texts and numbers.
        too_varied: Keys that were left out because they have too many values.
    """

    version: int
    rows: int
    codes: Mapping[str, NDArray[np.int32]]
    values: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, NDArray[np.float64]]
    captured_ms: NDArray[np.int64]
    present: NDArray[np.bool_] | None
    keys: tuple[str, ...]
    too_varied: frozenset[str]
    _coded: Recent[tuple[NDArray[np.int32], tuple[str, ...]]] = field(default_factory=lambda: Recent(64), repr=False)

    def find(self, name: str) -> str | None:
        """The key of the column behind a name, None without; an attribute may be given with or without `attributes.` in front."""
        plain = name.removeprefix(ATTRIBUTE_PREFIX)
        full = ATTRIBUTE_PREFIX + plain
        for key in (full,) if plain != name else (name, full):
            if key in self.codes or key in self.numbers:
                return key
        # A base key's namesake among the attributes has its full name as column, all others their plain one.
        if plain != name and (plain in self.codes or plain in self.numbers) and plain not in TAKEN:
            return plain
        return None

    def known(self, name: str, *, provided: Iterable[str] = ()) -> str:
        """The key of the column behind a name, as `find` does.

        Args:
            name: What was asked for.
            provided: Keys that others answer for, to name when there is no such key.
        Raises:
            InvalidInput: There is no such key.
        """
        if (key := self.find(name)) is not None:
            return key
        plain = name.removeprefix(ATTRIBUTE_PREFIX)
        if plain in self.too_varied or ATTRIBUTE_PREFIX + plain in self.too_varied:
            raise InvalidInput(
                f"{name!r} has more than {loading.MOST_VALUES} different values and cannot be filtered by"
            )
        terms = set(provided)
        if (term := name.partition(":")[0]) in terms | RESERVED_KEYS:
            raise InvalidInput(
                f"{term!r} is a search term, not a column: filters take it, but frames have no values of it to group or count by",
                key=name,
            )
        known = [*sorted(self.keys), *sorted(terms.difference(self.keys))]
        near = difflib.get_close_matches(plain, known, n=3)
        some = ", ".join(known[:_KEYS_TOLD]) + (
            f" and {len(known) - _KEYS_TOLD} more" if len(known) > _KEYS_TOLD else ""
        )
        hint = f"did you mean {' or '.join(near)}?" if near else f"the fleet has {some}"
        raise InvalidInput(f"there is no key {name!r}; {hint}", key=name)

    def column(self, key: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """A key's values and for each row the position of its own, -1 where it has none; see `Columns.codes`."""
        if key not in self.numbers:
            return self.codes[key], self.values[key]
        return self._coded.get(key, lambda: self._codes_of_numbers(key))

    def numbers_of(self, key: str) -> NDArray[np.float64]:
        """A key's numbers, those that are written as texts among them; NaN where there is none, shape (rows,).

        Raises:
            InvalidInput: Nothing under the key is a number.
        """
        if key in self.codes and (read := [_as_number(value) for value in self.values[key]]):
            table = np.array([*read, np.nan])
            if not np.isnan(table).all():
                from_texts: NDArray[np.float64] = table[self.codes[key]]
                return np.fmax(self.numbers[key], from_texts) if key in self.numbers else from_texts
        if key in self.numbers:
            return self.numbers[key]
        raise InvalidInput(f"{key!r} has no numbers to compare or sort by")

    def value_of(self, key: str, row: int) -> str | None:
        """What one row has under a key, as text; None without."""
        if key in self.numbers and not np.isnan(self.numbers[key][row]):
            return filters.number_text(float(self.numbers[key][row]))
        code = self.codes[key][row] if key in self.codes else -1
        return self.values[key][code] if code >= 0 else None

    def having(self, key: str, term: ValueTerm) -> NDArray[np.bool_]:
        """Which rows have one of a term's values or prefixes under a key, shape (rows,).

        Raises:
            InvalidInput: A prefix is asked of numbers that are too many different ones, or a number that no column can hold.
        """
        found = np.zeros(self.rows, dtype=bool)
        if key in self.codes and (term.values or term.prefixes):
            wanted = [
                folded in term.values or folded.startswith(term.prefixes)
                for folded in (value.casefold() for value in self.values[key])
            ]
            if any(wanted):
                table = np.array([*wanted, False], dtype=bool)  # Code -1, no value, takes the last entry.
                found |= table[self.codes[key]]
        if key in self.numbers:
            numbers = self.numbers[key]
            for value in term.values:
                if not math.isnan(number := _as_number(value)):
                    if _is_rounded(value, number) and value not in self.values.get(key, ()):
                        raise InvalidInput(
                            f"{key}: whole numbers beyond 2^53 are kept rounded, {value} as {int(number)}; ask for that or a range"
                        )
                    found |= numbers == number
            if "" in term.prefixes:
                found |= ~np.isnan(numbers)
            elif term.prefixes:
                codes, texts = self.column(key)
                found |= np.array([*(text.startswith(term.prefixes) for text in texts), False], dtype=bool)[codes]
        return found

    def in_time(self, term: TimeTerm) -> NDArray[np.bool_]:
        """Which rows were captured before or after a moment, shape (rows,)."""
        bound = to_ms(term.moment)
        if term.is_after:
            late: NDArray[np.bool_] = self.captured_ms >= bound
            return late
        early: NDArray[np.bool_] = (self.captured_ms < bound) & (self.captured_ms != NO_TIME_MS)
        return early

    def nearby(self, term: NearTerm) -> NDArray[np.bool_]:
        """Which rows lie around a place, shape (rows,)."""
        if "latitude" not in self.numbers:
            return np.zeros(self.rows, dtype=bool)
        return distance.within(
            self.numbers["latitude"],
            self.numbers["longitude"],
            latitude_deg=term.latitude_deg,
            longitude_deg=term.longitude_deg,
            radius_m=term.radius_m,
        )

    def distance_m(self, term: NearTerm, row: int) -> float | None:
        """How far a row is from the place that a term names."""
        if "latitude" not in self.numbers:
            return None
        metres = distance.distances_m(
            self.numbers["latitude"][row : row + 1],
            self.numbers["longitude"][row : row + 1],
            latitude_deg=term.latitude_deg,
            longitude_deg=term.longitude_deg,
        )[0]
        return None if np.isnan(metres) else float(metres)

    def _codes_of_numbers(self, key: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        numbers = self.numbers[key]
        is_number = ~np.isnan(numbers)
        distinct, places = np.unique(numbers[is_number], return_inverse=True)
        if len(distinct) > loading.MOST_VALUES:
            raise InvalidInput(
                f"{key!r} has more than {loading.MOST_VALUES} different numbers; ask for a range, {key}:LOW..HIGH"
            )
        codes = self.codes[key].copy() if key in self.codes else np.full(self.rows, -1, dtype=np.int32)
        # A number written like a text of other rows has that text's code: one value, however a row keeps it.
        known = {text: code for code, text in enumerate(self.values.get(key, ()))}
        written = [filters.number_text(number) for number in distinct.tolist()]
        table = np.array([known.setdefault(text, len(known)) for text in written], dtype=np.int32)
        codes[is_number] = table[places]
        codes.flags.writeable = False
        return codes, tuple(known)


def view_of(growing: Loaded, *, version: int) -> View:
    """The state of the columns as they are loaded now."""
    texts = {key: column.shown() for key, column in growing.texts.items()}
    numbers = {key: column.shown() for key, column in growing.numbers.items()}
    captured = growing.captured.all
    captured.flags.writeable = False
    withdrawn = growing.withdrawn.all
    return View(
        version=version,
        rows=len(captured),
        codes={key: codes for key, (codes, _) in texts.items()},
        values={key: values for key, (_, values) in texts.items()},
        numbers=numbers,
        captured_ms=captured,
        present=~withdrawn if withdrawn.any() else None,
        keys=tuple(dict.fromkeys([*texts, *numbers])),
        too_varied=frozenset(growing.too_varied),
    )


def in_ranges(numbers: NDArray[np.float64], ranges: Sequence[Range]) -> NDArray[np.bool_]:
    """Which numbers lie in one of the ranges; NaN in none. Shape as the numbers."""
    found = np.zeros(len(numbers), dtype=bool)
    for span in ranges:
        above = numbers > span.low if span.low_open else numbers >= span.low
        below = numbers < span.high if span.high_open else numbers <= span.high
        found |= above & below
    return found


def _is_rounded(text: str, number: float) -> bool:
    """Whether a text is a whole number that no double is equal to."""
    digits = text.lstrip("+-").lstrip("0")  # Python reads numbers of any length only on request.
    return digits.isdecimal() and int(digits) != abs(int(number))


def _as_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) and "_" not in text else math.nan
