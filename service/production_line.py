"""Opens everything a process of the production line works with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pymongo import IndexModel

from annotation import batches, datasets, labels, splits
from annotation.backends import simulated
from infra.database import Db, ensure_indexes
from infra.platform import Platform, open_platform
from infra.settings import Settings
from selection import shards, written_files
from selection.concepts import concepts
from selection.embedding import encoders
from selection.fleet import frames, sightings
from selection.ingest import ingest
from selection.planning import saved_plans
from selection.structure import novelty, projection, survey
from training import models, workflows
from training.importing import importing

_OWNERS = (
    frames,
    sightings,
    ingest,
    encoders,
    shards,
    written_files,
    projection,
    survey,
    novelty,
    saved_plans,
    concepts,
    labels,
    batches,
    splits,
    datasets,
    models,
    workflows,
    importing,
    simulated,
)


@contextmanager
def open_line(settings: Settings) -> Iterator[Platform]:
    """Opens the stores and puts every collection's indexes in place."""
    with open_platform(settings) as platform:
        prepare(platform.database)
        yield platform


def prepare(db: Db) -> None:
    """Creates the indexes that the rooms declare; those that are there already cost nothing."""
    wanted: dict[str, list[IndexModel]] = {}
    for owner in _OWNERS:
        for collection, indexes in owner.INDEXES.items():
            wanted.setdefault(collection, []).extend(indexes)
    ensure_indexes(db, wanted)
