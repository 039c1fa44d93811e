"""Sightings: where a frame was found, one record a place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pymongo import ASCENDING, IndexModel
from pymongo.errors import BulkWriteError

from infra.database import Db, is_only_duplicates
from selection.fleet.frames import ID_LENGTH, FrameId, batched

INDEXES = {"sightings": [IndexModel([("frame_id", ASCENDING)])]}


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """One place a frame was found at.

    Attributes:
        uri: Where the file was, for example `file:///...`.
        seen_at: UTC, when it was first found there.
    """

    frame_id: FrameId
    site: str | None
    uri: str
    seen_at: datetime


def add(db: Db, sightings: Sequence[Sighting]) -> int:
    """Records where frames were found; a place that is known already stays as it is.

    Returns:
        How many were new.
    """
    found = {_key(one): one for one in sightings}
    known = {one["_id"] for one in db.sightings.find({"_id": {"$in": list(found)}}, {"_id": 1})}
    new = [{"_id": key, **vars(one)} for key, one in found.items() if key not in known]
    if not new:
        return 0
    try:
        return len(db.sightings.insert_many(new, ordered=False).inserted_ids)
    except BulkWriteError as error:
        # Another process that records the same sighting at the same moment is not a failure: it is there.
        if not is_only_duplicates(error):
            raise
        return int(error.details["nInserted"])


def of_frame(db: Db, frame_id: FrameId) -> list[Sighting]:
    """Where a frame was found, first find first."""
    found = db.sightings.find({"frame_id": frame_id}, {"_id": 0}).sort([("seen_at", ASCENDING), ("_id", ASCENDING)])
    sightings = [Sighting(**document) for document in found]
    # A frame registered in place says itself where it is: a record of its own for each would halve the speed of registering.
    frame = db.frames.find_one({"_id": frame_id}, {"object_uri": 1, "site": 1, "ingested_at": 1}) or {}
    if uri := frame.get("object_uri"):
        first = Sighting(frame_id=frame_id, site=frame["site"], uri=uri, seen_at=frame["ingested_at"])
        sightings = [first, *(one for one in sightings if (one.site, one.uri) != (first.site, uri))]
    return sightings


def uris(db: Db, ids: Iterable[FrameId]) -> Iterator[tuple[FrameId, str]]:
    """Frame and address of every sighting of frames; in-place originals are in their records, see `of_frame`."""
    for batch in batched(dict.fromkeys(ids)):
        for document in db.sightings.find({"frame_id": {"$in": batch}}, {"_id": 0, "frame_id": 1, "uri": 1}):
            yield document["frame_id"], document["uri"]


def _key(sighting: Sighting) -> str:
    # Addresses can be longer than an index key may be.
    text = "\0".join((sighting.frame_id, sighting.site or "", sighting.uri))
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]
