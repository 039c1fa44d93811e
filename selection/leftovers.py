"""What killed writers leave behind, for all producers of shards, found by two signs that must come together: it is old, and nobody recorded it.

- Shards of a survey or of novelties that never came to be: their record is written last, and a fleet that has grown meanwhile begins another.
- Files whose record was never inserted: of shards, surveys and maps. A file is written just before its record, so one that is a day old and
  has none will get none. Only files that this database announced are looked at (`selection.written_files`): others in the same object store
  may be another database's, or a person's.
- Maps in whose place another one has been for a day.

A writer that goes on after such a time announces the same file anew, which makes it young again. Should the two meet within a moment, the record
says that its file is missing, is removed by whoever reads it, and the rows are worked out again, as for any damaged shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from infra import leases
from infra.database import Db, Document
from infra.logs import get_logger
from infra.platform import Platform
from selection import shards, written_files
from selection.shards import ShardKind
from selection.structure import projection

AGE = timedelta(days=1)
"""No writer lets so much time pass between a file and its record, nor rests so long between two shards of a survey."""

_WHOLES: tuple[tuple[ShardKind, str], ...] = (("surveys", "survey"), ("novelties", "novelty"))
"""Kinds of shards whose producer is recorded after them, and the lease that whoever writes them holds."""
_COLLECTIONS = ("shards", "surveys", "projections")
"""Whose records name files."""
_ASKED_AT_ONCE = 1000
_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What was removed.

    Attributes:
        shards: Shards of what was never recorded, or of maps that were replaced.
        files: Files without a record.
    """

    shards: int = 0
    files: int = 0


def sweep(platform: Platform, *, now: datetime, age: timedelta = AGE) -> Swept:
    """Removes what is left over; nothing when another process is at it. Safe beside any number of writers.

    Args:
        now: UTC.
        age: What is younger stays.
    """
    with leases.try_hold(platform.database, "sweep") as lease:
        if lease is None:
            return Swept()
        before = now - age
        removed = sum(_remove_unrecorded(platform, kind, work, before=before) for kind, work in _WHOLES)
        removed += _remove_replaced_maps(platform, before=before)
        files = _remove_files(platform, before=before)
    if removed or files:
        _log.info("leftovers_swept", shards=removed, files=files)
    return Swept(shards=removed, files=files)


def _remove_unrecorded(platform: Platform, kind: ShardKind, work: str, *, before: datetime) -> int:
    removed = 0
    for producer in _unrecorded(platform.database, kind, before=before):
        encoder_id = producer.rpartition("+")[0]
        with leases.try_hold(platform.database, f"{work}/{encoder_id}") as lease:
            # Whoever held the lease until now may have gone on with this very producer.
            if lease is not None and producer in _unrecorded(platform.database, kind, before=before):
                removed += shards.remove(platform, kind, producer)
    return removed


def _unrecorded(db: Db, kind: ShardKind, *, before: datetime) -> list[str]:
    """Producers of old shards that nothing else is known of."""
    pipeline: list[Document] = [
        {"$match": {"kind": kind}},
        {"$group": {"_id": "$producer", "newest": {"$max": "$created_at"}}},
    ]
    old = [group["_id"] for group in db.shards.aggregate(pipeline) if group["newest"] < before]
    recorded = {document["_id"] for document in db[kind].find({"_id": {"$in": old}}, {"_id": 1})}
    return [producer for producer in old if producer not in recorded]


def _remove_replaced_maps(platform: Platform, *, before: datetime) -> int:
    db, removed = platform.database, 0
    for encoder_id in db.projections.distinct("encoder_id"):
        newest = projection.current(db, encoder_id)
        if newest is None or newest.fitted_at >= before:
            continue
        wanted = {"encoder_id": encoder_id, "fitted_at": {"$lt": newest.fitted_at}}
        for old in list(db.projections.find(wanted, {"fitted_at": 1})):
            # By its time too: the same fit may have become the current one again.
            if db.projections.delete_one({"_id": old["_id"], "fitted_at": old["fitted_at"]}).deleted_count:
                removed += shards.remove(platform, "projections", old["_id"])
    return removed


def _remove_files(platform: Platform, *, before: datetime) -> int:
    """Files that were announced and never recorded; of those with a record only the announcement goes."""
    db, removed = platform.database, 0
    waiting = written_files.announced(db, before=before)
    while keys := list(islice(waiting, _ASKED_AT_ONCE)):
        recorded = _recorded(db, keys)
        for key in keys:
            if written_files.forget(db, key, before=before) and key not in recorded:
                platform.objects.delete(key)
                removed += 1
    return removed


def _recorded(db: Db, keys: Sequence[str]) -> set[str]:
    """Those of the keys that a record names."""
    wanted = {"object_key": {"$in": keys}}
    return {one["object_key"] for name in _COLLECTIONS for one in db[name].find(wanted, {"_id": 0, "object_key": 1})}
