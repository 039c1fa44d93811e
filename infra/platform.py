"""The two stores everything else is handed: documents and objects, as the settings choose them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from infra.database import Db, connect
from infra.objects import ObjectStore, open_objects
from infra.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Platform:
    """Where this process runs. Safe to share between threads; a child process opens its own."""

    settings: Settings
    database: Db
    objects: ObjectStore


@contextmanager
def open_platform(settings: Settings) -> Iterator[Platform]:
    """Opens both stores, starting the embedded database if that is what the settings mean, and lets go of them at the
    end.

    Raises:
        BackendUnavailable, Denied, InvalidInput, StorageFull, UnsupportedPlatform: As `connect` and `open_objects` do.
    """
    objects = open_objects(settings)
    with connect(settings) as database:
        yield Platform(settings=settings, database=database, objects=objects)
