"""Files on their way into the object store: announced in the database before they are written.

Several databases may share an object store (a trial home beside the fleet's, a demo, a database that was changed for another), and people may keep
files of their own there. So a file without a record is not yet a file that nobody needs: only what this database announced is its to remove,
see `selection.leftovers`.

With its first file a database leaves a mark in the store. Whoever misses a file and does not find the mark either looks into another store,
and must not conclude that the fleet's files are gone.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

from pymongo import DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from infra.database import Db, Document, retrying
from infra.errors import InvalidInput
from infra.platform import Platform

INDEXES: dict[str, list[IndexModel]] = {"written_files": [IndexModel([("written_at", 1)])]}
_NOW: Document = {"$currentDate": {"written_at": True}}
"""By the clock of the database, which all writers share."""


def put(platform: Platform, key: str, data: bytes) -> None:
    """Announces a file, then writes it; its record comes later, or never if the writer is killed."""
    _mark(platform)

    def announce() -> None:
        try:
            platform.database.written_files.update_one({"_id": key}, _NOW, upsert=True)
        except DuplicateKeyError:  # Somebody else announced it for the first time at the same moment.
            platform.database.written_files.update_one({"_id": key}, _NOW)

    retrying(announce)
    platform.objects.put(key, data)


def check_store(platform: Platform) -> None:
    """To be asked before a file that is missing is given up.

    Raises:
        InvalidInput: This is not the store that the database's files were written to.
    """
    found = _mark_of(platform.database)
    if found is not None and not platform.objects.exists(found["key"]):
        raise InvalidInput(
            f"files of database {platform.database.name} are missing, and so is its mark {platform.objects.uri(found['key'])}: "
            "correct MLPL_OBJECT_STORE; or, where they are lost for good, put an empty file there and run again"
        )


def _mark_of(db: Db) -> Document | None:
    return db.object_store.find_one({"_id": "mark"})


def _mark(platform: Platform) -> None:
    db, objects = platform.database, platform.objects
    if db.name in objects.marked_for:
        return
    check_store(platform)
    if _mark_of(db) is None and _is_here(platform):
        key = f"mlpl-store/{secrets.token_hex(8)}"
        objects.put(key, b"")
        with suppress(DuplicateKeyError):  # Somebody else was a moment earlier.
            db.object_store.insert_one({"_id": "mark", "key": key})
    objects.marked_for.add(db.name)


def _is_here(platform: Platform) -> bool:
    """Whether files that are recorded lie in the store, as far as there are any: databases of earlier versions have no mark."""
    newest = platform.database.shards.find_one({}, {"object_key": 1}, sort=[("created_at", DESCENDING)])
    return newest is None or platform.objects.exists(newest["object_key"])


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
