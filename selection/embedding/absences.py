"""Rows whose frame could not be read when their shard was made: a lake that was away, a file that is lost.

The shard holds a null for each, as for frames that cannot be decoded; but these are tried again, and what came back is filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from infra.database import Db, Document, retrying
from selection.fleet import frames


def note(db: Db, encoder_id: str, rows: Sequence[int], *, start: int, stop: int, now: datetime) -> None:
    """Adds rows of the shard with this range; to be called before it is committed, so that none is forgotten."""
    if not rows:
        return
    change: Document = {
        "$addToSet": {"rows": {"$each": list(rows)}},
        "$max": {"stop": stop},
        "$set": {"encoder_id": encoder_id, "start": start, "tried_at": frames.to_the_millisecond(now)},
    }
    retrying(lambda: db.absences.update_one({"_id": _id(encoder_id, start)}, change, upsert=True))


def settle(db: Db, encoder_id: str, rows: Sequence[int], *, start: int, now: datetime) -> None:
    """Strikes rows that are absent no more, and notes that the others of the shard were tried."""
    mine = {"_id": _id(encoder_id, start)}
    change: Document = {"$set": {"tried_at": frames.to_the_millisecond(now)}}
    if rows:
        change["$pullAll"] = {"rows": list(rows)}
    retrying(lambda: db.absences.update_one(mine, change))
    retrying(lambda: db.absences.delete_one(mine | {"rows": []}))


def ranges(db: Db, encoder_id: str, *, tried_before: datetime | None = None) -> list[tuple[int, int]]:
    """The shards `(start, stop)` with absent rows that were not tried since, ascending."""
    wanted: Document = {"encoder_id": encoder_id}
    if tried_before is not None:
        wanted["tried_at"] = {"$lt": tried_before}
    return sorted((int(one["start"]), int(one["stop"])) for one in db.absences.find(wanted, {"start": 1, "stop": 1}))


def rows_of(db: Db, encoder_id: str, start: int) -> list[int]:
    """The absent rows of the shard that begins at a row, ascending."""
    found = db.absences.find_one({"_id": _id(encoder_id, start)}, {"rows": 1})
    return sorted(int(row) for row in found["rows"]) if found else []


def _id(encoder_id: str, start: int) -> str:
    return f"{encoder_id}:{start:012d}"
