"""Loading the fleet's columns: from the database, from the copy on this disk, and whatever was added or changed since.

A first load reads the records as the bytes they are, see `selection.columnar.documents`; the few that change later are read one by one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import numpy as np
from numpy.typing import NDArray

from infra.database import Db, Document
from selection.columnar import documents, snapshot
from selection.columnar.column import NumberColumn, TextColumn
from selection.columnar.documents import Values
from selection.fleet import frames
from selection.fleet.filters import RESERVED_KEYS
from selection.growing_array import GrowingArray

BASE_KEYS = ("site", "vehicle", "drive", "camera")
MEASURED_KEYS = ("width", "height", "size_bytes", "brightness", "sharpness", "underexposed", "overexposed")
NO_TIME_MS = np.iinfo(np.int64).min
MOST_VALUES = 10_000
"""A text attribute with more values than this (a file name, a serial number) describes single frames; it is left out of the columns."""
ATTRIBUTE_PREFIX = "attributes."
TAKEN = frozenset({*BASE_KEYS, *MEASURED_KEYS, "latitude", "longitude", *RESERVED_KEYS})
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_FIELDS = ("row", "captured_at", "location", "withdrawn_at", "changed_at", *BASE_KEYS, *MEASURED_KEYS, "attributes")
_REFRESH_ROWS = 4096
_CLOCKS_APART = timedelta(seconds=5)
"""How far the clocks of two machines that change records may be apart without a change being overlooked."""
_SAVED_AFTER_ROWS = 20_000
_SAVED_AFTER_SHARE = 0.05
_IGNORED = frozenset({"row", "changed_at"})


@dataclass(kw_only=True)
class Loaded:
    """The columns as they grow. What readers were shown of them never changes."""

    texts: dict[str, TextColumn] = field(default_factory=lambda: {key: TextColumn() for key in BASE_KEYS})
    numbers: dict[str, NumberColumn] = field(default_factory=dict)
    captured: GrowingArray[np.int64] = field(default_factory=lambda: GrowingArray(np.int64, default=NO_TIME_MS))
    withdrawn: GrowingArray[np.bool_] = field(default_factory=lambda: GrowingArray(np.bool_, default=False))
    too_varied: set[str] = field(default_factory=set)
    changed_until: datetime = EPOCH
    seen_changes: set[tuple[int, datetime]] = field(default_factory=set)
    unsaved: int = 0

    @property
    def rows(self) -> int:
        """How many rows are loaded, withdrawn ones among them."""
        return len(self.captured)


class Loader:
    """Keeps columns up with the database. For one thread at a time."""

    def __init__(self, db: Db, *, cache: Path | None = None) -> None:
        """Loads nothing yet.

        Args:
            db: Where the frames are.
            cache: A file of this machine that keeps a copy of the columns between processes.
        """
        self._db = db
        self._cache = cache
        self._is_new = True
        self.loaded = Loaded()

    def refresh(self) -> tuple[int, int]:
        """Reads the rows that were added since the last time, and those that were changed.

        Returns:
            How many were added and how many changed; rows that came from the copy on this disk are neither.
        """
        if self._is_new:
            self.loaded, self._is_new = self._load() or Loaded(), False
        start = self.loaded.rows
        changed = self._take_changes()
        stop = frames.row_count(self._db)
        if stop > start:
            self._take_rows(start=start, stop=stop)
        added = self.loaded.rows - start
        self.loaded.unsaved += changed + added
        if changed or added:
            self._save()
        return added, changed

    def _take_rows(self, *, start: int, stop: int) -> None:
        for data in frames.raw_documents(self._db, start=start, stop=stop, fields=_FIELDS):
            try:
                count, values = documents.read(data, within=("attributes",))
                named = [_named(one) for one in values]
            except documents.TooVaried:
                options = self._db.codec_options
                for batch in _batches(list(bson.decode_all(data, options))):
                    _append(self.loaded, batch)
            else:
                _append_values(self.loaded, [one for one in named if one is not None], count=count)

    def _take_changes(self) -> int:
        """Reads the rows that changed again; returns how many did. Rows not loaded yet come as they are anyway."""
        growing = self.loaded
        rows = len(growing.captured)
        if not rows:  # All rows are about to be read as they are, so only what changes from here on matters.
            growing.changed_until = frames.last_change(self._db) or EPOCH
            return 0
        since = max(EPOCH, growing.changed_until - _CLOCKS_APART)
        changes = [
            one for one in frames.changed_since(self._db, since, below_row=rows) if one not in growing.seen_changes
        ]
        for batch in range(0, len(changes), _REFRESH_ROWS):
            wanted = [row for row, _ in changes[batch : batch + _REFRESH_ROWS]]
            projection = {"_id": 0} | dict.fromkeys(_FIELDS, 1)
            _change(growing, list(self._db.frames.find({"row": {"$in": wanted}}, projection)))
        if changes:
            growing.changed_until = max(growing.changed_until, changes[-1][1])
            recent = growing.changed_until - _CLOCKS_APART
            growing.seen_changes = {one for one in {*growing.seen_changes, *changes} if one[1] > recent}
        return len(changes)

    def _load(self) -> Loaded | None:
        kept = snapshot.load(self._cache) if self._cache is not None else None
        if kept is None:
            return None
        arrays, facts = kept
        ends = {document["row"]: document["_id"] for document in self._ends(int(facts["rows"]))}
        if ends != {int(row): frame_id for row, frame_id in facts["ends"]}:
            return None  # Of another fleet that had the same name.
        growing = Loaded(
            texts={
                key: TextColumn(arrays[f"text_{i}"], values) for i, (key, values) in enumerate(facts["texts"].items())
            },
            numbers={key: NumberColumn(arrays[f"number_{i}"]) for i, key in enumerate(facts["numbers"])},
            too_varied=set(facts["too_varied"]),
            changed_until=EPOCH + timedelta(milliseconds=facts["changed_until_ms"]),
        )
        growing.captured.extend(arrays["captured_ms"])
        growing.withdrawn.extend(arrays["withdrawn"])
        return growing

    def _save(self) -> None:
        growing = self.loaded
        rows = len(growing.captured)
        if self._cache is None or growing.unsaved < max(_SAVED_AFTER_ROWS, _SAVED_AFTER_SHARE * rows):
            return
        texts = {key: column.shown() for key, column in growing.texts.items()}
        arrays: dict[str, NDArray[Any]] = {f"text_{i}": codes for i, (codes, _) in enumerate(texts.values())}
        arrays |= {f"number_{i}": column.shown() for i, column in enumerate(growing.numbers.values())}
        snapshot.save(
            self._cache,
            arrays=arrays | {"captured_ms": growing.captured.all, "withdrawn": growing.withdrawn.all},
            facts={
                "rows": rows,
                "ends": [(document["row"], document["_id"]) for document in self._ends(rows)],
                "texts": {key: values for key, (_, values) in texts.items()},
                "numbers": list(growing.numbers),
                "too_varied": sorted(growing.too_varied),
                "changed_until_ms": to_ms(growing.changed_until),
            },
        )
        growing.unsaved = 0

    def _ends(self, rows: int) -> list[Document]:
        return list(self._db.frames.find({"row": {"$in": [0, rows - 1]}}, {"row": 1}))


def to_ms(moment: datetime | None) -> int:
    """Milliseconds since 1970 UTC; `NO_TIME_MS` for none."""
    return NO_TIME_MS if moment is None else (moment - EPOCH) // timedelta(milliseconds=1)


def _batches(listed: list[Document]) -> Iterator[list[Document]]:
    for start in range(0, len(listed), _REFRESH_ROWS):
        yield listed[start : start + _REFRESH_ROWS]


def _named(one: Values) -> tuple[str, Values] | None:
    """The column that values belong in, as `_described` would say; None for what is not for filtering.

    Raises:
        TooVaried: A value of a type that only reading one by one makes sense of.
    """
    key = one.path[-1]
    if len(one.path) == 2:
        name = ATTRIBUTE_PREFIX + key if key in TAKEN else key
        return (name, one) if one.kind in ("text", "number", "bool") else None
    expected = {"captured_at": "time", "withdrawn_at": "time", "location": "pair"}
    expected |= dict.fromkeys(BASE_KEYS, "text") | dict.fromkeys(MEASURED_KEYS, "number")
    if key in _IGNORED:
        return None
    if one.kind != expected.get(key):
        raise documents.TooVaried
    return key, one


def _append_values(growing: Loaded, named: Sequence[tuple[str, Values]], *, count: int) -> None:
    start = growing.rows
    growing.captured.extend(np.full(count, NO_TIME_MS))
    growing.withdrawn.extend(np.zeros(count, dtype=bool))
    for key, one in named:
        rows = start + one.places
        if len(one.path) == 1 and one.kind == "time":
            if key == "captured_at":
                growing.captured.all[rows] = one.numbers
            else:
                growing.withdrawn.all[rows] = True
        elif one.kind == "pair":
            for name, numbers in zip(("latitude", "longitude"), one.numbers.T, strict=True):
                growing.numbers.setdefault(name, NumberColumn()).put(rows, numbers)
        elif one.kind == "number":
            finite = np.isfinite(one.numbers) if len(one.path) == 2 else np.ones(len(rows), dtype=bool)
            if finite.any():
                growing.numbers.setdefault(key, NumberColumn()).put(rows[finite], one.numbers[finite])
        elif key not in growing.too_varied:
            codes, texts = (one.numbers, one.texts) if one.kind == "text" else _as_texts(one.numbers)
            growing.texts.setdefault(key, TextColumn()).put_coded(rows, codes, texts)
    _drop_too_varied(growing)
    _fill(growing)


def _as_texts(booleans: NDArray[Any]) -> tuple[NDArray[np.int64], list[str]]:
    values, codes = np.unique(booleans, return_inverse=True)
    return codes, ["true" if value else "false" for value in values]


def _append(growing: Loaded, documents: Sequence[Document]) -> None:
    start = len(growing.captured)
    growing.captured.extend([to_ms(one.get("captured_at")) for one in documents])
    growing.withdrawn.extend([one.get("withdrawn_at") is not None for one in documents])
    texts: defaultdict[str, tuple[list[int], list[str]]] = defaultdict(lambda: ([], []))
    numbers: defaultdict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    for row, document in enumerate(documents, start=start):
        for key, value in _described(document):
            if isinstance(value, str):
                text_rows, found_texts = texts[key]
                text_rows.append(row)
                found_texts.append(value)
            else:
                number_rows, found_numbers = numbers[key]
                number_rows.append(row)
                found_numbers.append(value)
    for key, (text_rows, found_texts) in texts.items():
        if key not in growing.too_varied:
            growing.texts.setdefault(key, TextColumn()).put(text_rows, found_texts)
    for key, (number_rows, found_numbers) in numbers.items():
        growing.numbers.setdefault(key, NumberColumn()).put(number_rows, found_numbers)
    _drop_too_varied(growing)
    _fill(growing)


def _change(growing: Loaded, documents: Sequence[Document]) -> None:
    rows = [document["row"] for document in documents]
    growing.captured.detach()
    growing.captured.all[rows] = [to_ms(one.get("captured_at")) for one in documents]
    growing.withdrawn.detach()
    growing.withdrawn.all[rows] = [one.get("withdrawn_at") is not None for one in documents]
    described = [dict(_described(one)) for one in documents]
    for key, value in ((key, value) for one in described for key, value in one.items()):
        if not isinstance(value, str):
            growing.numbers.setdefault(key, NumberColumn())
        elif key not in growing.too_varied:
            growing.texts.setdefault(key, TextColumn())
    _fill(growing)
    for key, column in growing.texts.items():
        values = [one.get(key) for one in described]
        column.change(rows, [value if isinstance(value, str) else None for value in values])
    for key, number_column in growing.numbers.items():
        values = [one.get(key) for one in described]
        number_column.change(rows, [None if isinstance(value, str) else value for value in values])
    _drop_too_varied(growing)


def _drop_too_varied(growing: Loaded) -> None:
    varied = [key for key, column in growing.texts.items() if column.distinct > MOST_VALUES and key not in BASE_KEYS]
    for key in varied:
        del growing.texts[key]
    growing.too_varied.update(varied)


def _fill(growing: Loaded) -> None:
    for text_column in growing.texts.values():
        text_column.fill(len(growing.captured))
    for number_column in growing.numbers.values():
        number_column.fill(len(growing.captured))


def _described(document: Document) -> list[tuple[str, str | float]]:
    """Keys and values of one frame, as texts and numbers; lists and nested objects are not for filtering."""
    found: list[tuple[str, str | float]] = [
        (key, str(document[key])) for key in BASE_KEYS if document.get(key) is not None
    ]
    found += [(key, float(document[key])) for key in MEASURED_KEYS if document.get(key) is not None]
    if location := document.get("location"):
        found += [("latitude", float(location[0])), ("longitude", float(location[1]))]
    for key, value in (document.get("attributes") or {}).items():
        name = ATTRIBUTE_PREFIX + key if key in TAKEN else key
        if isinstance(value, bool):
            found.append((name, "true" if value else "false"))
        elif isinstance(value, str):
            found.append((name, value))
        elif isinstance(value, int | float) and math.isfinite(value):
            found.append((name, float(value)))
    return found
