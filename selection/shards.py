"""Shards: immutable files with values for a range of rows from one producer, in Arrow IPC.

A shard exists when its record is inserted, and not before: the file is written first, under a name that holds its digest, so a killed
writer leaves a file that nobody reads and two writers never overwrite one another. Readers check the digest; a file that does not fit
its record loses the record, and so its rows are a gap again that the reconcilers fill.

Kinds: `vectors` (producer: an encoder) with `row: int64` and `vector: fixed_size_list<float16>[d]` of unit length, null where a frame
cannot be encoded; `predictions` (producer: a model) with `row`, `probability: fixed_size_list<float32>[classes]`, one float32 column an
acquisition score and what else the task's kind has, see `selection.scores.tables`; `projections` (producer: an encoder and a way of
projecting) with `row`, `x` and `y`, float32, null where there is no vector; `surveys` and `novelties`
with `row` and the columns that `selection.structure.survey` and `.novelty` name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, get_args

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from infra.database import Db, Document, retrying
from infra.errors import InvalidInput, MlplError, NotFound
from infra.logs import get_logger
from infra.platform import Platform
from selection import written_files
from selection.fleet import frames

if TYPE_CHECKING:
    import pyarrow as pa

ShardKind = Literal["vectors", "predictions", "projections", "surveys", "novelties"]

FORMAT_VERSION = 1
BLOCK_ROWS = 4096
FULL_LOOK_S = 2.0
_MOST_EXTENDED = 16
"""Imports in small pieces replace a shard again and again; what was built from one that long ago is built anew."""
INDEXES: dict[str, list[IndexModel]] = {
    "shards": [
        IndexModel([("kind", ASCENDING), ("producer", ASCENDING), ("start", ASCENDING)], unique=True),
        # Holds all that `extent` asks for, so that no record is read.
        IndexModel([("kind", ASCENDING), ("producer", ASCENDING), ("rows", ASCENDING)]),
        IndexModel([("created_at", DESCENDING)]),
    ]
}

_log = get_logger(__name__)


class CorruptShard(MlplError):
    """A shard's file is missing or is not what was written; its record is gone, so it will be made again."""

    code = "corrupt_shard"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The record of one shard.

    Attributes:
        producer: The encoder id or model id the values come from.
        start: First row.
        stop: One past the last row.
        digest: SHA-256 of the file, 64 hex digits.
        rows: `stop - start`.
        valued: How many of them have a value that is not null; None in records that do not say.
        extends: Digests of the last files before, of which this one has all values and more.
    """

    kind: ShardKind
    producer: str
    start: int
    stop: int
    rows: int
    object_key: str
    digest: str
    created_at: datetime
    format_version: int = FORMAT_VERSION
    valued: int | None = None
    extends: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """The database gives lists."""
        object.__setattr__(self, "extends", tuple(self.extends))

    @property
    def shard_id(self) -> str:
        """What the record is stored under: one shard begins at a row, never two."""
        return f"{self.kind}:{self.producer}:{self.start:012d}"


def gaps(db: Db, kind: ShardKind, producer: str, row_count: int, *, block: int = BLOCK_ROWS) -> list[tuple[int, int]]:
    """The rows below `row_count` that no shard of this producer covers, in pieces that do not cross a multiple of `block`.

    Returns:
        Pieces `(start, stop)`, ascending. Two processes that see the fleet at different sizes may get pieces of different length, but
        with the same start, so only one of them can be committed.
    """
    query = {"kind": kind, "producer": producer}
    covered = db.shards.find(query, {"_id": 0, "start": 1, "stop": 1}).sort("start", ASCENDING)
    missing: list[tuple[int, int]] = []
    reached = 0
    for shard in covered:
        _cut(missing, start=reached, stop=min(int(shard["start"]), row_count), block=block)
        reached = max(reached, int(shard["stop"]))
    _cut(missing, start=reached, stop=row_count, block=block)
    return missing


def reached(records: Sequence[Shard]) -> int:
    """The first row that none of these shards, by first row, covers."""
    row = 0
    for record in records:
        if record.start > row:
            break
        row = max(row, record.stop)
    return row


def records(db: Db, kind: ShardKind, producer: str) -> list[Shard]:
    """All shards of a producer, by first row."""
    found = db.shards.find({"kind": kind, "producer": producer}, {"_id": 0}).sort("start", ASCENDING)
    return [Shard(**document) for document in found]


def extent(db: Db, kind: ShardKind, producer: str) -> tuple[int, int]:
    """How many shards a producer has, and how many rows they hold."""
    return state(db, kind, producer)[:2]


def state(db: Db, kind: ShardKind, producer: str) -> tuple[int, int, datetime | None]:
    """Changes whenever a shard of a producer comes, goes or is replaced: shards, rows, and when the newest was made."""
    pipeline: list[Document] = [
        {"$match": {"kind": kind, "producer": producer}},
        {
            "$group": {
                "_id": None,
                "shards": {"$sum": 1},
                "rows": {"$sum": "$rows"},
                "newest": {"$max": "$created_at"},
            }
        },
    ]
    for group in db.shards.aggregate(pipeline):
        return int(group["shards"]), int(group["rows"]), group["newest"]
    return 0, 0, None


class Watch:
    """The state of a producer's shards for whoever asks several times a second. Safe to share between threads.

    Usually all that is asked of the database is how many records the collection has and which is the newest, whatever the size of the fleet.
    Clocks of several machines may disagree about the newest, so a full look follows every few seconds.
    """

    def __init__(self, kind: ShardKind, producer: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Looks at nothing yet."""
        self._kind: ShardKind = kind
        self._producer = producer
        self._clock = clock
        self._seen: tuple[object, float, tuple[int, int, datetime | None]] | None = None

    def state(self, db: Db) -> tuple[int, int, datetime | None]:
        """See `state`."""
        newest = db.shards.find_one({}, {"created_at": 1}, sort=[("created_at", DESCENDING)])
        mark, now, seen = (db.shards.estimated_document_count(), newest), self._clock(), self._seen
        if seen is None or seen[0] != mark or now - seen[1] >= FULL_LOOK_S:
            seen = self._seen = (mark, now, state(db, self._kind, self._producer))
        return seen[2]


def sources(db: Db, kind: ShardKind, producer: str) -> list[tuple[list[tuple[str, str]], int]]:
    """For each shard of a producer its id with its digest and with those that it extends, and how many of its rows have a value; all where
    that is not known.
    """
    fields = ("digest", "rows", "valued", "extends")
    found = db.shards.find({"kind": kind, "producer": producer}, dict.fromkeys(fields, 1))
    return [
        (
            [(one["_id"], digest) for digest in (one["digest"], *one.get("extends", ()))],
            int(one["rows"] if one.get("valued") is None else one["valued"]),
        )
        for one in found
    ]


def row_total(db: Db, kind: ShardKind, producer: str) -> int:
    """How many rows a producer has values for."""
    return extent(db, kind, producer)[1]


def valued_total(db: Db, kind: ShardKind, producer: str) -> int:
    """How many rows a producer has values for that are not null; shards of which this is not known count whole."""
    valued: Document = {"$sum": {"$ifNull": ["$valued", "$rows"]}}
    pipeline: list[Document] = [
        {"$match": {"kind": kind, "producer": producer}},
        {"$group": {"_id": None, "valued": valued}},
    ]
    return sum(int(group["valued"]) for group in db.shards.aggregate(pipeline))


def find(db: Db, kind: ShardKind, producer: str, start: int) -> Shard | None:
    """The shard that begins at this row, None while it is not committed: rows that were a gap stay one until then."""
    found = db.shards.find_one({"kind": kind, "producer": producer, "start": start}, {"_id": 0})
    return Shard(**found) if found else None


def write(platform: Platform, kind: ShardKind, producer: str, start: int, stop: int, table: pa.Table) -> Shard | None:
    """Writes the file, then commits it by inserting its record.

    Args:
        platform: Where to write.
        kind: What the values are.
        producer: Who made them.
        start: First row.
        stop: One past the last row.
        table: One line a row, with a column `row` holding `start .. stop - 1` in order.
    Returns:
        The record, or None when someone else had committed a shard with this start before: ours is discarded.
    Raises:
        InvalidInput: The table does not cover exactly the range.
    """
    shard = _store(platform, kind, producer, start, stop, table)
    if _insert(platform.database, shard):
        return shard
    # The winner may have written the very same bytes under the very same name; those are its to keep.
    winner = platform.database.shards.find_one({"_id": shard.shard_id})
    if winner is not None and winner["object_key"] != shard.object_key:
        written_files.remove(platform, shard.object_key)
    return None


def replace(platform: Platform, old: Shard, table: pa.Table) -> Shard | None:
    """Puts a table in the place of a shard whose rows have got values they lacked.

    Readers see the old values or the new ones; a killed call leaves the old ones.

    Returns:
        The new record, or None when the old one was replaced or removed by someone else before: ours is discarded.
    Raises:
        InvalidInput: The table does not cover exactly the old one's range.
    """
    new = _store(platform, old.kind, old.producer, old.start, old.stop, table)
    if new.digest == old.digest:
        return old
    changes: Document = {
        name: value for name, value in asdict(new).items() if name in ("object_key", "digest", "created_at", "valued")
    }
    changes["extends"] = (*old.extends, old.digest)[-_MOST_EXTENDED:]
    wanted = {"_id": old.shard_id, "digest": {"$in": [old.digest, new.digest]}}
    found = retrying(lambda: platform.database.shards.update_one(wanted, {"$set": changes}))
    written_files.remove(platform, old.object_key if found.matched_count else new.object_key)
    return dataclasses.replace(new, extends=changes["extends"]) if found.matched_count else None


def read(platform: Platform, shard: Shard) -> pa.Table:
    """The values of a shard.

    Raises:
        CorruptShard: The file is gone, damaged, or of a format this version does not know. Its record was removed.
        InvalidInput: The file is not there because this is another store.
    """
    try:
        data = platform.objects.get(shard.object_key)
    except NotFound:
        written_files.check_store(platform)
        raise _condemned(platform.database, shard, reason="its file is missing") from None
    if hashlib.sha256(data).hexdigest() != shard.digest:
        raise _condemned(platform.database, shard, reason="its file is damaged")
    if shard.format_version != FORMAT_VERSION:
        raise _condemned(platform.database, shard, reason=f"format {shard.format_version} is not readable here")
    import pyarrow as pa

    with pa.ipc.open_file(pa.BufferReader(data)) as reader:
        return reader.read_all()


def remove(platform: Platform, kind: ShardKind, producer: str) -> int:
    """Forgets all shards of a producer: the records first, so that nobody finds a file that is about to go.

    Returns:
        How many.
    """
    found = records(platform.database, kind, producer)
    for shard in found:
        platform.database.shards.delete_one({"_id": shard.shard_id, "digest": shard.digest})
        written_files.remove(platform, shard.object_key)
    return len(found)


def _store(platform: Platform, kind: ShardKind, producer: str, start: int, stop: int, table: pa.Table) -> Shard:
    """Writes the file; nobody finds it before its record is there."""
    _check(table, kind=kind, start=start, stop=stop)
    data = _to_bytes(table, {"kind": kind, "producer": producer, "format_version": str(FORMAT_VERSION)})
    digest = hashlib.sha256(data).hexdigest()
    shard = Shard(
        kind=kind,
        producer=producer,
        start=start,
        stop=stop,
        rows=stop - start,
        object_key=f"shards/{kind}/{_as_folder(producer)}/{start:012d}-{stop:012d}-{digest[:16]}.arrow",
        digest=digest,
        created_at=frames.to_the_millisecond(datetime.now(UTC)),
        valued=table.num_rows - table.column(1).null_count,
    )
    written_files.put(platform, shard.object_key, data)
    return shard


def _insert(db: Db, shard: Shard) -> bool:
    def attempt() -> bool:
        try:
            db.shards.insert_one({"_id": shard.shard_id, **asdict(shard)})
        except DuplicateKeyError:
            # Ours, when the answer to an earlier attempt was lost on the way.
            mine = {"_id": shard.shard_id, "digest": shard.digest, "created_at": shard.created_at}
            return db.shards.find_one(mine) is not None
        return True

    return retrying(attempt)


def _condemned(db: Db, shard: Shard, *, reason: str) -> CorruptShard:
    # By digest too: another process may have replaced the record already.
    db.shards.delete_one({"_id": shard.shard_id, "digest": shard.digest})
    _log.warning("shard_corrupt", shard_id=shard.shard_id, object_key=shard.object_key, reason=reason)
    return CorruptShard(f"shard {shard.shard_id} is unusable: {reason}; it will be made again", shard_id=shard.shard_id)


def _check(table: pa.Table, *, kind: str, start: int, stop: int) -> None:
    if kind not in get_args(ShardKind):
        raise InvalidInput(f"there is no kind of shard named {kind!r}")
    rows = table.column("row").to_numpy()
    if (
        not 0 <= start < stop
        or len(rows) != stop - start
        or rows[0] != start
        or bool((rows[1:] != rows[:-1] + 1).any())
    ):
        raise InvalidInput(f"the table does not hold rows {start} to {stop - 1} in order")


def _to_bytes(table: pa.Table, metadata: Mapping[str, str]) -> bytes:
    import pyarrow as pa

    said = table.schema.metadata or {}
    described = table.replace_schema_metadata(said | {key.encode(): value.encode() for key, value in metadata.items()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, described.schema) as writer:
        writer.write_table(described)
    data: Any = sink.getvalue().to_pybytes()
    return bytes(data)


def _cut(pieces: list[tuple[int, int]], *, start: int, stop: int, block: int) -> None:
    while start < stop:
        end = min(stop, (start // block + 1) * block)
        pieces.append((start, end))
        start = end


def _as_folder(producer: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=@+-]", "_", producer)
