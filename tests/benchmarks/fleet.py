"""Synthetic fleets in a real mongod and object store: records without pixels, vectors as shards; kept under a home and used again.

A million frames through `frames.register` would take minutes that say nothing new, so records are inserted in bulk; they are made from a
document that the product makes itself, and a test compares the two. Whoever interrupts a fill goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from bson import encode
from bson.raw_bson import RawBSONDocument
from pymongo.write_concern import WriteConcern

from infra.errors import Conflict
from infra.platform import Platform
from selection import shards
from selection.embedding.encoders import EncoderChoice
from selection.embedding.vector_table import vector_table
from selection.fleet import frames
from selection.fleet.frames import FrameFacts
from tests.benchmarks.descriptions import Description, described
from tests.benchmarks.vectors import ClipLike, Isotropic

INSERT_ROWS = 5000
NOW = datetime(2026, 11, 1, tzinfo=UTC)


def facts(row: int, description: Description, *, seed: int = 0) -> FrameFacts:
    """A frame of the synthetic fleet as ingest would hand it over."""
    digest = digest_of(row, seed=seed)
    return FrameFacts(
        frame_id=frames.id_of(digest),
        digest=digest,
        width=1920,
        height=1080,
        format="JPEG",
        size_bytes=400_000,
        captured_at=description.captured_at,
        site=description.site,
        vehicle=description.vehicle,
        drive=description.drive,
        camera=description.camera,
        location=description.location,
        attributes=description.attributes,
        source=f"{description.drive}/{row:08d}.jpg",
        object_key=f"frames/{digest[:2]}/{digest[:32]}.jpg",
        preview_key=f"previews/{digest[:2]}/{digest[:32]}.jpg",
        ingested_at=NOW,
    )


def all_facts(rows: int, *, seed: int = 0) -> Iterator[FrameFacts]:
    """The frames of a fleet in order of rows."""
    fleet = ClipLike(rows=rows, seed=seed)
    for row, description in enumerate(described(fleet.drives(), seed=seed)):
        yield facts(row, description, seed=seed)


def write_manifest(listed: Sequence[FrameFacts], path: Path) -> None:
    """A Parquet manifest of frames that lie in a bucket, with what is known of each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "uri": [f"s3://fleet/{one.drive}/{one.frame_id}.jpg" for one in listed],
            "digest": [one.digest for one in listed],
            "width": [one.width for one in listed],
            "height": [one.height for one in listed],
            "format": [one.format for one in listed],
            "size_bytes": [one.size_bytes for one in listed],
            "captured_at": [one.captured_at.isoformat() if one.captured_at else None for one in listed],
            "site": [one.site for one in listed],
            "vehicle": [one.vehicle for one in listed],
            "drive": [one.drive for one in listed],
            "camera": [one.camera for one in listed],
            "location": [list(one.location) if one.location else None for one in listed],
            "attributes": [dict(one.attributes) for one in listed],
        }
    )
    pq.write_table(table, path)


def digest_of(row: int, *, seed: int = 0) -> str:
    """The digest of the frame with a row, 64 hex digits."""
    return hashlib.sha256(f"benchmark frame {seed}/{row}".encode()).hexdigest()


def frame_id_of(row: int, *, seed: int = 0) -> str:
    """The id of the frame with a row."""
    return frames.id_of(digest_of(row, seed=seed))


def fill(platform: Platform, rows: int, *, seed: int = 0) -> None:
    """Makes the fleet have exactly `rows` frames.

    Raises:
        Conflict: The fleet is another one: larger, or with other frames.
    """
    db = platform.database
    present = frames.row_count(db)
    first = db.frames.find_one({"row": 0}, {"_id": 1})
    if present > rows or (first is not None and first["_id"] != frame_id_of(0, seed=seed)):
        raise Conflict(f"{platform.settings.home} holds another fleet ({present} frames); give another --home")
    db.frames.delete_many(
        {"row": {"$gte": present}}
    )  # Of a fill that was interrupted between the records and the counter.
    insert_into = db.frames.with_options(write_concern=WriteConcern(w=1))
    for start, documents in _document_batches(rows, skip=present, seed=seed):
        insert_into.insert_many(documents, ordered=False)
        db.counters.update_one({"_id": frames._ROW_COUNTER}, {"$set": {"next": start + len(documents)}}, upsert=True)


def embed(platform: Platform, vectors: ClipLike | Isotropic, *, producer: str) -> None:
    """Commits the vectors as shards of `producer`, as embedding does, where they are missing."""
    done = shards.row_total(platform.database, "vectors", producer)
    start = 0
    for block in vectors.blocks(dtype=np.float16, block_rows=shards.BLOCK_ROWS):
        stop = start + len(block)
        if stop > done:
            write_vectors(platform, block, producer=producer, start=start)
        start = stop


def write_vectors(platform: Platform, block: Any, *, producer: str, start: int) -> None:
    """One shard of vectors that begins at row `start`."""
    table = vector_table(block, valid_N=np.ones(len(block), dtype=bool), start=start)
    shards.write(platform, "vectors", producer, start, start + len(block), table)


def choose_encoder(platform: Platform, encoder_id: str) -> None:
    """Settles the fleet's encoder on one whose weights nobody will load: searches by a frame need none."""
    configured = platform.settings.encoder
    choice = EncoderChoice(configured=configured, encoder_id=encoder_id, kind="configured", notice=None, chosen_at=NOW)
    platform.database.encoders.replace_one({"_id": configured}, asdict(choice), upsert=True)


def _document_batches(rows: int, *, skip: int, seed: int) -> Iterator[tuple[int, list[Any]]]:
    fleet = described(ClipLike(rows=rows, seed=seed).drives(), seed=seed)
    numbered = islice(enumerate(fleet), skip, None)
    template: dict[str, Any] | None = None
    while batch := list(islice(numbered, INSERT_ROWS)):
        documents = []
        for row, one in batch:
            if template is None:  # Whatever else the product stores for a frame comes from here.
                template = frames._to_document(facts(row, one, seed=seed), row=row)
            documents.append(RawBSONDocument(encode(_document(template, row, one, seed=seed))))
        yield batch[0][0], documents


def _document(template: dict[str, Any], row: int, one: Description, *, seed: int) -> dict[str, Any]:
    digest = digest_of(row, seed=seed)
    frame_id = digest[:32]
    return {
        **template,
        "_id": frame_id,
        "digest": digest,
        "captured_at": one.captured_at,
        "site": one.site,
        "vehicle": one.vehicle,
        "drive": one.drive,
        "camera": one.camera,
        "location": list(one.location),
        "attributes": one.attributes,
        "source": f"{one.drive}/{row:08d}.jpg",
        "object_key": f"frames/{frame_id[:2]}/{frame_id}.jpg",
        "preview_key": f"previews/{frame_id[:2]}/{frame_id}.jpg",
        "row": row,
    }
