"""Rows that were registered in place and whose pixels nobody has seen yet, as ranges; the difference that `selection.ingest.previews` closes."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pymongo import ASCENDING, IndexModel
from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError

from infra.database import Db, Document, retrying

INDEXES: dict[str, list[IndexModel]] = {"unseen": [IndexModel([("looked_at", ASCENDING)])]}
RANGE_ROWS = 512
"""How many rows a range has at most: what a killed process may have to see again."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Rows `[start, stop)`, some of which are to be seen.

    Attributes:
        rows: Those that are left of them, None for all; the originals of what is left could not be read.
        looked_at: When that was found.
        reopened_at: When rows were last added, None for never.
    """

    start: int
    stop: int
    rows: tuple[int, ...] | None = None
    looked_at: datetime | None = None
    reopened_at: datetime | None = None

    @property
    def wanted(self) -> Sequence[int]:
        """The rows to look at."""
        return range(self.start, self.stop) if self.rows is None else self.rows


def add(db: Db, rows: Sequence[int], *, session: ClientSession) -> None:
    """Notes new rows, ascending; whatever lies between them is in the ranges, too."""
    if not rows:
        return
    stop = rows[-1] + 1
    starts = range(rows[0], stop, RANGE_ROWS)
    db.unseen.insert_many([{"_id": start, "stop": min(start + RANGE_ROWS, stop)} for start in starts], session=session)


def ranges(
    db: Db, *, first: int | None = None, last: int | None = None, tried_before: datetime | None = None
) -> list[Range]:
    """What is to be seen, ascending; on request what may hold rows `first` to `last`, or was not tried since."""
    wanted: Document = {}
    if first is not None and last is not None:
        wanted["_id"] = {"$gt": first - RANGE_ROWS, "$lte": last}
    if tried_before is not None:
        wanted["$or"] = [{"looked_at": None}, {"looked_at": {"$lt": tried_before}}]
    return [_range_of(one) for one in db.unseen.find(wanted).sort("_id", ASCENDING)]


def beginning_at(db: Db, start: int) -> Range | None:
    """The range that begins at a row, None where there is none any more."""
    found = db.unseen.find_one({"_id": start})
    return _range_of(found) if found else None


def strike(db: Db, one: Range, *, waiting: Sequence[int] = (), now: datetime) -> None:
    """Takes a range off, but for the `waiting` rows. One that rows were added to meanwhile stays as it is."""
    same = {"_id": one.start, "reopened_at": one.reopened_at}
    if waiting:
        left = {"$set": {"rows": list(waiting), "looked_at": now}}
        retrying(lambda: db.unseen.update_one(same, left))
    else:
        retrying(lambda: db.unseen.delete_one(same))


def look_soon(db: Db, rows: Sequence[int]) -> None:
    """Has the ranges that hold these rows looked at as if nobody had tried yet."""
    held = {"_id": {"$gt": min(rows) - RANGE_ROWS, "$lte": max(rows)}}
    retrying(lambda: db.unseen.update_many(held, {"$unset": {"looked_at": ""}}))


def reopen(db: Db, rows: Iterable[int], *, now: datetime) -> None:
    """Has rows looked at again that were struck; `now` to the millisecond."""
    for some in _near(rows):
        start, stop = some[0], some[-1] + 1
        added: Document = {"$max": {"stop": stop}, "$set": {"reopened_at": now}}
        listed = {"_id": start, "rows": {"$exists": True}}
        adding = functools.partial(db.unseen.update_one, listed, added | {"$addToSet": {"rows": {"$each": some}}})
        if retrying(adding).matched_count:
            continue
        try:
            db.unseen.insert_one({"_id": start, "stop": stop, "rows": some, "reopened_at": now})
        except DuplicateKeyError:  # All rows of the range that begins there are still to be seen.
            retrying(functools.partial(db.unseen.update_one, {"_id": start}, added))


def _range_of(document: Document) -> Range:
    rows = document.get("rows")
    return Range(
        start=int(document["_id"]),
        stop=int(document["stop"]),
        rows=None if rows is None else tuple(sorted(rows)),
        looked_at=document.get("looked_at"),
        reopened_at=document.get("reopened_at"),
    )


def _near(rows: Iterable[int]) -> Iterator[list[int]]:
    """The rows, ascending, in lists that each lie within the length of a range."""
    some: list[int] = []
    for row in sorted(set(rows)):
        if some and row >= some[0] + RANGE_ROWS:
            yield some
            some = []
        some.append(row)
    if some:
        yield some
