"""Every row's novelty, kept as shards of kind `novelties`: the cosine distance to the nearest labelled row, null where there is no vector.

The producer's id holds a digest of the labelled rows. When labels come, distances to the new ones alone are worked out and the shards written
anew under another producer, whose record is the commit point; rows that come are added to the shards that are there.
"""

from __future__ import annotations

import hashlib
import zlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pymongo import DESCENDING, IndexModel

from infra import leases
from infra.database import Db, Document, retrying
from infra.platform import Platform
from selection import shards
from selection.fleet import frames
from selection.ranking.diversity import nearest_similarity
from selection.structure.row_values import Column, RowValues

if TYPE_CHECKING:
    from selection.embedding.index import VectorIndex

INDEXES: dict[str, list[IndexModel]] = {"novelties": [IndexModel([("encoder_id", 1), ("made_at", DESCENDING)])]}
_BLOCK_ROWS = 2**16
_READ_ROWS = 8192


def current(db: Db, encoder_id: str) -> str | None:
    """The producer of the newest novelties; None while nothing is labelled."""
    found = _newest(db, encoder_id)
    return found["_id"] if found else None


def kept(platform: Platform, producer: str) -> RowValues:
    """Novelties by row, column `novelty`; call `refresh` before asking."""
    return RowValues(platform, "novelties", producer, {"novelty": Column(dtype=np.float32, missing=np.nan)})


def is_current(db: Db, encoder_id: str, *, state: str, rows: int) -> bool:
    """Whether the novelties of the first `rows` rows were brought up to date with labels in this state."""
    found = _newest(db, encoder_id)
    return found is not None and found["state"] == state and shards.row_total(db, "novelties", found["_id"]) >= rows


def update(platform: Platform, index: VectorIndex, labelled: NDArray[np.int64], *, rows: int, state: str = "") -> int:
    """Brings the novelties of the first `rows` rows up to date with what is labelled.

    Args:
        index: Refreshed; rows that it has not reached wait.
        labelled: Rows, ascending.
        state: Of the labels, to ask `is_current` by.
    Returns:
        Rows that were written; 0 when nothing has changed, or another process is at it.
    """
    db, rows = platform.database, min(rows, index.reached)
    known = labelled[index.has(labelled)]
    old = _newest(db, index.encoder_id)
    if not len(known) or not rows:
        if old is not None and not len(labelled):
            _remove(platform, old["_id"])
        return 0
    producer = f"{index.encoder_id}+novelty-{hashlib.sha256(known.tobytes()).hexdigest()[:12]}"
    waiting = shards.gaps(db, "novelties", producer, rows, block=_BLOCK_ROWS)
    if old is not None and old["_id"] == producer and not waiting:
        retrying(lambda: db.novelties.update_one({"_id": producer}, {"$set": {"state": state}}))
        return 0
    with leases.try_hold(db, f"novelty/{index.encoder_id}") as lease:
        if lease is None:
            return 0
        before, before_known = _before(platform, old, known)
        for start, stop in waiting:
            near_N = np.full(stop - start, -np.inf, dtype=np.float32)
            had = before[start:stop]
            near_N[: len(had)] = np.where(np.isnan(had), -np.inf, 1.0 - had)
            new_N = np.isneginf(near_N)
            _raise_to(near_N, index, start, np.setdiff1d(known, before_known))
            _raise_to(near_N, index, start, before_known, among_N=new_N)
            _write(platform, producer, start, near_N)
        record: Document = {
            "encoder_id": index.encoder_id,
            "state": state,
            "labelled": zlib.compress(known.tobytes(), 1),
            "made_at": frames.to_the_millisecond(datetime.now(UTC)),
        }
        retrying(lambda: db.novelties.replace_one({"_id": producer}, record, upsert=True))
        if old is not None and old["_id"] != producer:
            _remove(platform, old["_id"])
    return sum(stop - start for start, stop in waiting)


def _newest(db: Db, encoder_id: str) -> Document | None:
    return db.novelties.find_one({"encoder_id": encoder_id}, sort=[("made_at", DESCENDING)])


def _before(
    platform: Platform, old: Document | None, known: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Novelties to go on from, and the labelled rows they are about; none when a label was taken back since."""
    nothing = np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
    if old is None:
        return nothing
    had = np.frombuffer(zlib.decompress(old["labelled"]), dtype=np.int64)
    if not np.isin(had, known).all():
        return nothing
    values = kept(platform, old["_id"])
    values.refresh()
    return values.all("novelty"), had


def _raise_to(
    near_N: NDArray[np.float32],
    index: VectorIndex,
    start: int,
    labelled: NDArray[np.int64],
    *,
    among_N: NDArray[np.bool_] | None = None,
) -> None:
    """Takes labelled rows into account for the rows from `start` on (of them `among_N`); those without a vector stay at -inf."""
    rows = np.arange(start, start + len(near_N), dtype=np.int64)
    wanted_N = index.has(rows) if among_N is None else index.has(rows) & among_N
    if not len(labelled) or not wanted_N.any():
        return
    labelled_LD = index.vectors(labelled)
    places = np.flatnonzero(wanted_N)
    for first in range(0, len(places), _READ_ROWS):
        part = places[first : first + _READ_ROWS]
        near_N[part] = np.maximum(near_N[part], nearest_similarity(index.vectors(rows[part]), labelled_LD))


def _write(platform: Platform, producer: str, start: int, near_N: NDArray[np.float32]) -> None:
    import pyarrow as pa

    novelty = np.where(np.isinf(near_N), np.nan, np.clip(1.0 - near_N, 0.0, 2.0)).astype(np.float32)
    rows = np.arange(start, start + len(near_N), dtype=np.int64)
    table = pa.table({"row": rows, "novelty": pa.array(novelty, from_pandas=True)})
    shards.write(platform, "novelties", producer, start, start + len(near_N), table)


def _remove(platform: Platform, producer: str) -> None:
    platform.database.novelties.delete_one({"_id": producer})
    shards.remove(platform, "novelties", producer)
