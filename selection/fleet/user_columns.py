"""Columns of one's own: numbers for each frame, from a CSV, Parquet or JSON Lines file, kept among the frames' attributes.

    frame_id,brake_events,scene_risk
    0f3c...,2,0.71

Each becomes an attribute: a facet, a filter (`scene_risk:>0.5`), a sort key and a score in plans (`column:scene_risk`). The last file counts;
a cell without a number leaves what was there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from pymongo import UpdateOne

from infra.database import retrying
from infra.errors import InvalidInput, NotFound
from infra.platform import Platform
from selection.fleet import frames, joining, tabular
from selection.fleet.filters import RESERVED_KEYS
from selection.fleet.joining import Joining, Leftovers
from selection.fleet.loading import BASE_KEYS, MEASURED_KEYS
from selection.fleet.tabular import Line

_TAKEN = frozenset(
    {*BASE_KEYS, *MEASURED_KEYS, *RESERVED_KEYS, "latitude", "longitude", "captured", "row", "similarity"}
)
_NAME = re.compile(r'[^\s:.$",*+-][^\s:.$",]*')
_BATCH_ROWS = 2000


@dataclass(kw_only=True)
class Report(Leftovers):
    """What came of an import.

    Attributes:
        columns: The attributes that were given.
        changed: Frames whose numbers are others now.
        unchanged: Frames that had the same already.
    """

    columns: list[str] = field(default_factory=list)
    changed: int = 0
    unchanged: int = 0

    def summary(self) -> str:
        """One line."""
        parts = [f"set {', '.join(self.columns)} of {self.changed} frames"]
        parts += [f"{self.unchanged} had the same already"] if self.unchanged else []
        return ", ".join(parts + self.told())


def import_columns(
    platform: Platform,
    source: Path,
    *,
    clock: Callable[[], datetime],
    reserved: Collection[str] = (),
    images: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Sets numeric attributes of frames. Repeating it changes nothing more; a killed one is taken further so.

    Args:
        platform: Where the frames are.
        source: JSON Lines, CSV or Parquet: columns that name the frame, see `joining`, and columns of numbers.
        clock: Tells when each change was made, UTC.
        reserved: Names that columns cannot have because they mean something else in searches.
        images: Folder that paths in the file are relative to; images there are joined by their content.
        progress: Called with frames done and frames to do.
    Raises:
        InvalidInput: Nothing of the file can be used, or a column has a name that it cannot have.
        NotFound: There is no such file.
    """
    if not source.is_file():
        raise NotFound(f"there is no file {source}")
    report = Report()
    with Joining(platform.database) as joined:
        for line in tabular.read(source):
            _take(line, joined=joined, images=images, report=report, taken=_TAKEN | set(reserved))
        joined.match()
        report.unknown, report.ambiguous = joined.unknown, joined.ambiguous
        if not joined.count:
            reason = next(
                iter([*report.broken_examples, *report.unknown.examples, *report.ambiguous.examples]), "it is empty"
            )
            raise InvalidInput(f"nothing in {source} could be used, for example: {reason}")
        waiting = joined.rows(0, frames.row_count(platform.database))
        while batch := dict(islice(waiting, _BATCH_ROWS)):
            wanted = {row: _together(payloads) for row, payloads in batch.items()}
            report.changed += _set(platform, wanted, now=clock())
            report.unchanged += len(batch)
            if progress is not None:
                progress(report.unchanged, joined.count)
    report.unchanged -= report.changed
    return report


def _take(line: Line, *, joined: Joining, images: Path | None, report: Report, taken: Collection[str]) -> None:
    problem = line.problem
    if line.record is not None:
        try:
            numbers = dict(_numbers(line.record, taken=taken))
            reference = joining.reference_of(line.record, images=images)
        except InvalidInput as exc:
            problem = exc.message
        else:
            report.columns += [name for name in numbers if name not in report.columns]
            joined.add(reference, json.dumps(numbers).encode())
            return
    report.note_broken(line.number, problem)


def _numbers(record: Mapping[str, Any], *, taken: Collection[str]) -> Iterator[tuple[str, float]]:
    for key, value in record.items():
        if key in joining.REFERENCE_KEYS or value is None or value == "":
            continue
        if key in taken or not _NAME.fullmatch(key):
            raise InvalidInput(f"a column cannot be named {key!r}: choose another name, without dots, colons or spaces")
        try:
            number = float(value)
        except (TypeError, ValueError) as exc:
            raise InvalidInput(f"{str(value)[:40]!r} in column {key!r} is not a number") from exc
        if math.isinf(number):
            raise InvalidInput(f"{value} in column {key!r} is not a finite number")
        if not math.isnan(number):
            yield key, int(number) if number.is_integer() and abs(number) < 2**53 else number


def _together(payloads: list[bytes]) -> dict[str, float]:
    """The numbers of all lines about a frame; the last one counts."""
    return {name: number for payload in payloads for name, number in json.loads(payload).items()}


def _set(platform: Platform, wanted: Mapping[int, Mapping[str, float]], *, now: datetime) -> int:
    db = platform.database
    found = db.frames.find({"row": {"$in": list(wanted)}}, {"row": 1, "attributes": 1})
    changes: list[UpdateOne] = []
    for document in found:
        have = document.get("attributes") or {}
        news = {
            f"attributes.{name}": value for name, value in wanted[document["row"]].items() if have.get(name) != value
        }
        if news:
            news["changed_at"] = frames.to_the_millisecond(now)  # type: ignore[assignment]
            changes.append(UpdateOne({"_id": document["_id"]}, {"$set": news}))
    if changes:
        retrying(lambda: db.frames.bulk_write(changes, ordered=False))
    return len(changes)
