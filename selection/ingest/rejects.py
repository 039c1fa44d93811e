"""What could not become a frame: named with its reason, and kept until it can be used."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pymongo import DESCENDING, IndexModel, UpdateOne
from pymongo.errors import BulkWriteError

from infra.database import Db, is_only_duplicates, retrying
from infra.errors import MlplError, NotFound
from selection.fleet import metadata

INDEXES: dict[str, list[IndexModel]] = {"rejects": [IndexModel([("seen_at", DESCENDING)])]}

Kind = Literal["broken", "missing"]


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A file or line that cannot become a frame.

    Attributes:
        source: Where it is.
        reason: Why it cannot be used.
        kind: `missing`: a list names it, or it was there a moment ago, but it is not there. `broken`: all else.
    """

    source: str
    reason: str
    kind: Kind = "broken"

    def __post_init__(self) -> None:
        """Makes both texts such as can be stored and printed: they may hold names of files that are no UTF-8."""
        object.__setattr__(self, "source", metadata.valid_text(self.source))
        object.__setattr__(self, "reason", metadata.valid_text(self.reason))


def refused(source: str, exc: MlplError) -> Reject:
    """The reject that an error gives."""
    return Reject(source=source, reason=exc.message, kind="missing" if isinstance(exc, NotFound) else "broken")


def list_rejects(db: Db, *, offset: int = 0, limit: int = 100) -> list[Reject]:
    """Files and lines that could not be used and have not been taken in since, newest first."""
    found = db.rejects.find().sort([("seen_at", DESCENDING), ("_id", DESCENDING)]).skip(offset).limit(limit)
    return [Reject(source=one["source"], reason=one["reason"], kind=one.get("kind", "broken")) for one in found]


def reject_count(db: Db) -> int:
    """How many rejects there are."""
    return int(db.rejects.estimated_document_count())


def keep_rejects(db: Db, rejects: Sequence[Reject], *, resolved: Sequence[str], now: datetime) -> None:
    """Adds rejects to the list, each source once, and takes those off it that could be used this time."""
    if resolved and reject_count(db):
        gone = [_reject_id(path) for path in dict.fromkeys(resolved)]
        retrying(lambda: db.rejects.delete_many({"_id": {"$in": gone}}))
    if rejects:
        changes = [
            UpdateOne(
                {"_id": _reject_id(one.source)},
                {"$set": {"source": one.source, "reason": one.reason, "kind": one.kind, "seen_at": now}},
                upsert=True,
            )
            for one in rejects
        ]
        try:
            retrying(lambda: db.rejects.bulk_write(changes, ordered=False))
        except BulkWriteError as exc:
            # Another ingest of the same folder writing the same reject at this moment is as good.
            if not is_only_duplicates(exc):
                raise


def forget_lines(db: Db, path: str, *, before: datetime) -> None:
    """Takes lines of a list off that were kept before it was read again to its end: they are mended, or gone."""
    line = {"$regex": f"^{re.escape(metadata.valid_text(path))}:[0-9]+$"}
    retrying(lambda: db.rejects.delete_many({"source": line, "seen_at": {"$lt": before}}))


def _reject_id(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:32]
