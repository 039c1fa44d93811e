"""Files on their way into the object store: announced in the database before they are written.

Several databases may share an object store (a trial home beside the fleet's, a demo, a database that was changed for another), and people may keep
files of their own there. So a file without a record is not yet a file that nobody needs: only what this database announced is its to remove,
see `selection.leftovers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError

from infra.database import Db, Document, retrying
from infra.platform import Platform

INDEXES: dict[str, list[IndexModel]] = {"written_files": [IndexModel([("written_at", 1)])]}
_NOW: Document = {"$currentDate": {"written_at": True}}
"""By the clock of the database, which all writers share."""


def put(platform: Platform, key: str, data: bytes) -> None:
    """Announces a file, then writes it; its record comes later, or never if the writer is killed."""

    def announce() -> None:
        try:
            platform.database.written_files.update_one({"_id": key}, _NOW, upsert=True)
        except DuplicateKeyError:  # Somebody else announced it for the first time at the same moment.
            platform.database.written_files.update_one({"_id": key}, _NOW)

    retrying(announce)
    platform.objects.put(key, data)


def remove(platform: Platform, key: str) -> None:
    """Deletes a file whose record is gone or was never written, and its announcement."""
    platform.objects.delete(key)
    retrying(lambda: platform.database.written_files.delete_one({"_id": key}))


def announced(db: Db, *, before: datetime) -> Iterator[str]:
    """Keys whose last announcement is that old, oldest first."""
    found = db.written_files.find({"written_at": {"$lt": before}}, {"_id": 1}).sort("written_at", 1)
    return (document["_id"] for document in found)


def forget(db: Db, key: str, *, before: datetime) -> bool:
    """Takes an announcement back; False where it was made again since."""
    return db.written_files.delete_one({"_id": key, "written_at": {"$lt": before}}).deleted_count > 0
