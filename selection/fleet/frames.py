"""Frames: one record an image, known by its content.

A frame gets a dense integer `row` when its record is inserted, once and for good. Everything columnar is aligned by it, so the rows
have no holes and become visible in order: the counter and the records move in one transaction.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple, NewType, TypeVar

from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError, DuplicateKeyError

from infra import database
from infra.database import Db, Document
from infra.errors import Conflict, InvalidInput, NotFound
from selection.fleet import unseen

FrameId = NewType("FrameId", str)
T = TypeVar("T")

INDEXES: dict[str, list[IndexModel]] = {
    "frames": [
        IndexModel([("row", ASCENDING)], unique=True),
        IndexModel([("drive", ASCENDING)]),
        IndexModel([("changed_at", ASCENDING)], sparse=True),
    ],
    "counters": [],
    **unseen.INDEXES,  # Its ranges are noted in the transaction that makes the records.
}

_STATISTICS = ("perceptual_hash", "brightness", "sharpness", "underexposed", "overexposed")
_ABSENT_WHEN_NONE = ("object_uri", *_STATISTICS, "changed_at", "withdrawn_at")
_ROW_COUNTER = "frames.row"
ID_LENGTH = 32
_SHORTEST_PREFIX = 6
_LOOKUP_BATCH = 10_000
_BEGINNINGS_BATCH = 500
_RAW_BATCH = 16_384


@dataclass(frozen=True, kw_only=True)
class FrameFacts:
    """What is known of an image before it has a row.

    Attributes:
        digest: SHA-256 of the file's bytes, 64 hex digits; the frame id is its first half.
        width: Pixels, after EXIF orientation; 0 until the pixels of a frame registered in place are seen.
        height: Likewise.
        format: As the decoder names it, for example `JPEG`.
        captured_at: UTC, aware, to the millisecond.
        drive: The recording session; frames of one drive are near-duplicates in time.
        location: Latitude and longitude in degrees (WGS 84).
        attributes: Whatever else the metadata said, by key.
        source: The path or name it was first seen under; orders the frames of a drive where `captured_at` is missing.
        object_key: The original bytes in the object store; of a frame registered in place, where a copy would be.
        preview_key: The preview (JPEG) in the object store; made when it is first needed for a frame registered in place.
        ingested_at: UTC, aware.
        object_uri: Where the original lies that was registered in place (`file://` or `s3://`), see `originals`.
        perceptual_hash: 64 bits as 16 hex digits, see `statistics`.
        brightness: Mean luma, 0..1.
        sharpness: Variance of the Laplacian of the preview's luma (0..255).
        underexposed: Share of pixels with a luma below 5.
        overexposed: Share of pixels with a luma above 250.
        changed_at: When the record last changed after it was inserted, None for one that never did.
        withdrawn_at: When the frame was taken out of the fleet: it keeps its row and its past, but nothing finds it any more.
    """

    frame_id: FrameId
    digest: str
    width: int
    height: int
    format: str
    size_bytes: int
    captured_at: datetime | None = None
    site: str | None = None
    vehicle: str | None = None
    drive: str | None = None
    camera: str | None = None
    location: tuple[float, float] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    source: str
    object_key: str
    preview_key: str
    ingested_at: datetime
    object_uri: str | None = None
    perceptual_hash: str | None = None
    brightness: float | None = None
    sharpness: float | None = None
    underexposed: float | None = None
    overexposed: float | None = None
    changed_at: datetime | None = None
    withdrawn_at: datetime | None = None

    def __post_init__(self) -> None:
        """Checks that the id is the one its content gives.

        Raises:
            InvalidInput: The id and the digest disagree, or a size is not positive.
        """
        if len(self.digest) != 64 or self.frame_id != self.digest[:ID_LENGTH]:
            raise InvalidInput(f"frame {self.frame_id} does not belong to digest {self.digest}")
        if (self.width < 1 or self.height < 1) and self.object_uri is None:
            raise InvalidInput(f"frame {self.frame_id} has no pixels ({self.width} x {self.height})")


@dataclass(frozen=True, kw_only=True)
class Frame(FrameFacts):
    """One image of the fleet.

    Attributes:
        row: Dense index, handed out once and never reused; row i of every columnar thing is this frame.
    """

    row: int


class Place(NamedTuple):
    """What the record of a frame says of where it was registered; `uri` is None for a frame that is not in place."""

    site: str | None
    uri: str | None
    row: int
    is_seen: bool


def id_of(digest: str) -> FrameId:
    """The frame id that a SHA-256 in hex gives."""
    return FrameId(digest[:ID_LENGTH])


def to_the_millisecond(moment: datetime) -> datetime:
    """Cuts what the database would cut, so that a record read back equals the one that was written."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def get(db: Db, frame_id: str) -> Frame:
    """Fetches a frame by its id or by a unique beginning of it.

    Args:
        db: The database.
        frame_id: 32 hex digits, or at least the first six.
    Raises:
        NotFound: No such frame.
        InvalidInput: The beginning is too short, or several frames share it.
    """
    wanted = frame_id.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{1,32}", wanted):
        raise NotFound(f"frame {frame_id!r} does not exist: frame ids are 32 hex digits", frame_id=frame_id)
    if len(wanted) < _SHORTEST_PREFIX:
        raise InvalidInput(
            f"frame id {frame_id!r} is too short: give at least {_SHORTEST_PREFIX} digits", frame_id=frame_id
        )
    found = list(db.frames.find(_that_begins(wanted)).limit(2))
    if not found:
        raise NotFound(f"frame {frame_id} does not exist", frame_id=frame_id)
    if len(found) > 1:
        raise InvalidInput(f"several frames begin with {frame_id}: give more digits", frame_id=frame_id)
    return from_document(found[0])


def rows_named(db: Db, names: Iterable[str]) -> dict[str, int]:
    """The rows of frames by their ids or unique beginnings of them, many looked up together.

    Raises:
        InvalidInput: No frame is or begins so, or several do; the message names the first five.
    """
    wanted = {name: name.strip().lower() for name in names}
    found: dict[str, set[int]] = {one: {row} for one, row in rows_of(db, map(FrameId, wanted.values())).items()}
    beginnings = sorted({one for one in wanted.values() if re.fullmatch(rf"[0-9a-f]{{{_SHORTEST_PREFIX},31}}", one)})
    lengths = {len(one) for one in beginnings}
    found |= {one: set() for one in beginnings}
    for start in range(0, len(beginnings), _BEGINNINGS_BATCH):
        ranges = [_that_begins(one) for one in beginnings[start : start + _BEGINNINGS_BATCH]]
        for frame in db.frames.find({"$or": ranges}, {"row": 1}):
            for one in {frame["_id"][:length] for length in lengths} & found.keys():
                found[one].add(int(frame["row"]))
    _refuse("no frame is or begins with", [name for name, one in wanted.items() if not found.get(one)])
    _refuse("several frames begin with", [name for name, one in wanted.items() if len(found[one]) > 1])
    return {name: next(iter(found[one])) for name, one in wanted.items()}


def _that_begins(digits: str) -> Document:
    # "g" follows every hex digit, so this range is exactly the ids that begin with the digits.
    return {"_id": {"$gte": digits, "$lt": digits + "g"}}


def _refuse(problem: str, names: Sequence[str]) -> None:
    if names:
        shown = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise InvalidInput(f"{problem} {shown}; give whole ids, or at least the first {_SHORTEST_PREFIX} digits")


def get_many(db: Db, ids: Iterable[FrameId]) -> dict[FrameId, Frame]:
    """Fetches frames by full id; ids that do not exist are left out."""
    found: dict[FrameId, Frame] = {}
    for batch in batched(dict.fromkeys(ids)):
        for document in db.frames.find({"_id": {"$in": batch}}):
            found[document["_id"]] = from_document(document)
    return found


def rows_of(db: Db, ids: Iterable[FrameId]) -> dict[FrameId, int]:
    """The rows of frames by full id; ids that do not exist are left out."""
    return {
        document["_id"]: int(document["row"])
        for batch in batched(dict.fromkeys(ids))
        for document in db.frames.find({"_id": {"$in": batch}}, {"row": 1})
    }


def by_rows(db: Db, rows: Iterable[int]) -> list[Frame]:
    """Fetches frames by row, in the order of the rows given.

    Raises:
        NotFound: A row that was never handed out.
    """
    wanted = [int(row) for row in rows]
    found: dict[int, Frame] = {}
    for batch in batched(dict.fromkeys(wanted)):
        for document in db.frames.find({"row": {"$in": batch}}):
            found[document["row"]] = from_document(document)
    missing = next((row for row in wanted if row not in found), None)
    if missing is not None:
        raise NotFound(f"no frame has row {missing}", row=missing)
    return [found[row] for row in wanted]


def documents(db: Db, *, start: int, stop: int | None = None, fields: Sequence[str]) -> Iterator[Document]:
    """Streams chosen fields of the frames with `start <= row < stop`, by row; `_id` comes only when named.

    For whoever walks the fleet: nothing is held but the cursor's batch.
    """
    bounds: Document = {"$gte": start} if stop is None else {"$gte": start, "$lt": stop}
    projection = {"_id": 0} | dict.fromkeys(fields, 1)
    yield from db.frames.find({"row": bounds}, projection).sort("row", ASCENDING).batch_size(2000)


def raw_documents(db: Db, *, start: int, stop: int, fields: Sequence[str]) -> Iterator[bytes]:
    """As `documents`, but in batches of BSON as the database sends it, the next of which is under way while one is looked at."""
    projection = {"_id": 0} | dict.fromkeys(fields, 1)
    query = {"row": {"$gte": start, "$lt": stop}}
    batches: Iterator[Any] = db.frames.find_raw_batches(query, projection).sort("row", ASCENDING).batch_size(_RAW_BATCH)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            if batch:
                yield batch


def row_count(db: Db) -> int:
    """How many rows were handed out: frames with rows `0 .. row_count - 1` exist and can be read."""
    counter = db.counters.find_one({"_id": _ROW_COUNTER})
    return int(counter["next"]) if counter else 0


def known(db: Db, ids: Iterable[FrameId]) -> dict[FrameId, Document]:
    """The descriptive part (drive, site, attributes and so on) of those of `ids` that exist already."""
    fields = ("captured_at", "site", "vehicle", "drive", "camera", "location", "attributes")
    return {
        document.pop("_id"): document
        for batch in batched(dict.fromkeys(ids))
        for document in db.frames.find({"_id": {"$in": batch}}, dict.fromkeys(fields, 1))
    }


def changed_since(db: Db, moment: datetime, *, below_row: int) -> list[tuple[int, datetime]]:
    """Rows whose record changed after a moment, with the time of it, in the order of their changes."""
    query: Document = {"changed_at": {"$gt": moment}}
    found = db.frames.find(query, {"_id": 0, "row": 1, "changed_at": 1}).sort("changed_at", ASCENDING)
    return [(int(one["row"]), one["changed_at"]) for one in found if one["row"] < below_row]


def last_change(db: Db) -> datetime | None:
    """When a frame's record last changed after it was inserted; None if none ever did."""
    ever = {"$gt": datetime(1970, 1, 1, tzinfo=UTC)}
    found = db.frames.find_one({"changed_at": ever}, {"changed_at": 1}, sort=[("changed_at", DESCENDING)])
    return found["changed_at"] if found else None


def withdraw(db: Db, ids: Sequence[str], now: datetime) -> list[FrameId]:
    """Takes frames out of the fleet: they keep their rows, labels and lineage, but no search, count or pool holds them.

    Args:
        ids: Full ids or unique beginnings of them.
        now: UTC.
    Returns:
        Those that were not withdrawn before.
    Raises:
        NotFound, InvalidInput: One of the ids is no frame's; nothing was changed then.
    """
    return _set_withdrawn(db, ids, withdrawn_at=to_the_millisecond(now), now=now)


def restore(db: Db, ids: Sequence[str], now: datetime) -> list[FrameId]:
    """Takes withdrawn frames back into the fleet; arguments and errors as `withdraw`.

    Returns:
        Those that had been withdrawn.
    """
    return _set_withdrawn(db, ids, withdrawn_at=None, now=now)


def _set_withdrawn(db: Db, ids: Sequence[str], *, withdrawn_at: datetime | None, now: datetime) -> list[FrameId]:
    whole = [FrameId(one) for one in dict.fromkeys(ids) if re.fullmatch(r"[0-9a-f]{32}", one)]
    known = get_many(db, whole)
    found = {frame.frame_id: frame for frame in (known.get(FrameId(one)) or get(db, one) for one in ids)}
    turned = [one.frame_id for one in found.values() if (one.withdrawn_at is None) != (withdrawn_at is None)]
    change = {"$set": {"withdrawn_at": withdrawn_at, "changed_at": to_the_millisecond(now)}}
    for batch in batched(turned):
        database.retrying(functools.partial(db.frames.update_many, {"_id": {"$in": batch}}, change))
    return turned


def describe(db: Db, changes: Mapping[FrameId, Mapping[str, Any]], *, now: datetime) -> None:
    """Sets fields of the descriptive part (`location`, `attributes.speed_kph`) of frames that exist."""
    moment = to_the_millisecond(now)
    updates = [UpdateOne({"_id": one}, {"$set": {**fields, "changed_at": moment}}) for one, fields in changes.items()]
    if updates:
        database.retrying(lambda: db.frames.bulk_write(updates, ordered=False))


def places(db: Db, ids: Iterable[FrameId]) -> dict[FrameId, Place]:
    """Where those of `ids` that exist were registered."""
    fields = {"site": 1, "object_uri": 1, "row": 1, "perceptual_hash": 1}
    return {
        document["_id"]: Place(
            document["site"], document.get("object_uri"), int(document["row"]), "perceptual_hash" in document
        )
        for batch in batched(dict.fromkeys(ids))
        for document in db.frames.find({"_id": {"$in": batch}}, fields)
    }


def move(db: Db, uris: Mapping[FrameId, str], *, now: datetime) -> None:
    """Has the records of frames in place say where their originals are now."""
    moment = to_the_millisecond(now)
    changes = [
        UpdateOne({"_id": one}, {"$set": {"object_uri": uri, "changed_at": moment}}) for one, uri in uris.items()
    ]
    if changes:
        database.retrying(lambda: db.frames.bulk_write(changes, ordered=False))


def register(db: Db, facts: Sequence[FrameFacts]) -> set[FrameId]:
    """Gives the new ones among `facts` their rows and records, all or none.

    Several processes may register the same frames at once: the first one's facts stay. Rows follow the order of `facts`. Rows whose
    pixels nobody has seen yet are noted as a range of `unseen`, in the same transaction.

    Returns:
        The ids that this call added.
    """
    first: dict[FrameId, FrameFacts] = {}
    for one in facts:
        first.setdefault(one.frame_id, one)
    unique = list(first.values())
    if not unique:
        return set()
    _make_counter(db)
    if db.frames.find_one({"_id": {"$in": [one.frame_id for one in unique[:100]]}}, {"_id": 1}) is None:
        # Most likely all are new. The insert itself finds out cheaper than a look-up of each; then nothing of it is kept.
        try:
            return database.transaction(db, lambda session: _insert(db, unique, session))
        except BulkWriteError as exc:
            if not database.is_only_duplicates(exc):
                raise
    return database.transaction(db, lambda session: _insert(db, _not_there(db, unique, session), session))


def note_pixels(db: Db, seen: Mapping[FrameId, Mapping[str, Any]], *, now: datetime) -> None:
    """Adds what the pixels of frames registered in place said to their records."""
    changes = [UpdateOne({"_id": frame_id}, {"$set": {**found, "changed_at": now}}) for frame_id, found in seen.items()]
    if changes:
        database.retrying(lambda: db.frames.bulk_write(changes, ordered=False))


def from_document(document: Mapping[str, Any]) -> Frame:
    """The frame that a stored document holds."""
    known = {name: document[name] for name in Frame.__dataclass_fields__ if name in document}
    location = tuple(document["location"]) if document.get("location") else None
    return Frame(**known | {"frame_id": FrameId(document["_id"]), "location": location})


def _to_document(facts: FrameFacts, *, row: int) -> Document:
    document = dict(facts.__dict__)  # Not `asdict`, which copies deeply and takes longer than the database.
    document["_id"] = document.pop("frame_id")
    document["location"] = list(facts.location) if facts.location else None
    document["row"] = row
    for name in _ABSENT_WHEN_NONE:
        if document[name] is None:
            del document[name]
    return document


def _not_there(db: Db, facts: Sequence[FrameFacts], session: ClientSession) -> list[FrameFacts]:
    ids = [one.frame_id for one in facts]
    present = {found["_id"] for found in db.frames.find({"_id": {"$in": ids}}, {"_id": 1}, session=session)}
    return [one for one in facts if one.frame_id not in present]


def _insert(db: Db, new: Sequence[FrameFacts], session: ClientSession) -> set[FrameId]:
    if not new:
        return set()
    # Whoever registers at the same time collides here, before anything is inserted, and starts again with a fresh view.
    counter = db.counters.find_one_and_update(
        {"_id": _ROW_COUNTER}, {"$inc": {"next": len(new)}}, return_document=ReturnDocument.AFTER, session=session
    )
    if counter is None:
        raise Conflict("the row counter is gone from the database; restore the collection `counters`")
    first_row = counter["next"] - len(new)
    db.frames.insert_many([_to_document(one, row=first_row + i) for i, one in enumerate(new)], session=session)
    unseen.add(
        db,
        [first_row + i for i, one in enumerate(new) if one.object_uri is not None and one.perceptual_hash is None],
        session=session,
    )
    return {one.frame_id for one in new}


def _make_counter(db: Db) -> None:
    # Made outside the transaction: two first transactions would otherwise race on the insert instead of colliding on the update.
    if db.counters.find_one({"_id": _ROW_COUNTER}, {"_id": 1}) is None:
        try:
            db.counters.update_one({"_id": _ROW_COUNTER}, {"$setOnInsert": {"next": 0}}, upsert=True)
        except DuplicateKeyError:
            return


def batched(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _LOOKUP_BATCH)):
        yield batch
