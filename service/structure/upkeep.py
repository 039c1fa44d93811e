"""Keeping what is known about the structure of a fleet up to date: the survey, the map, and how new frames are against what is labelled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from pymongo import DESCENDING

from infra.database import Db
from infra.errors import Conflict
from infra.platform import Platform
from selection import shards
from selection.structure import novelty, projection, slices, survey
from service.structure.fleet_map import draw_map
from service.structure.matching import nothing_embedded
from service.structure.scenes import labelled_mask

if TYPE_CHECKING:
    from selection.structure.survey import Survey
    from service.curator import Curator

Progress = Callable[[int, int], None]

_WAIT_FOR_MORE = timedelta(seconds=60)


def survey_fleet(
    platform: Platform, curator: Curator, *, again: bool = False, progress: Progress | None = None
) -> tuple[Survey, int]:
    """Brings the survey up to date, or makes another one.

    Returns:
        The survey, and how many rows were surveyed now.
    Raises:
        InvalidInput: Nothing has a vector yet.
        Conflict: Another process is at it.
    """
    index, columns = curator.index(), curator.columns()
    current = survey.current(platform.database, index.encoder_id)
    rows = min(survey.surveyable(platform, index.encoder_id), index.reached)
    if current is not None and not again and not survey.is_due(platform, current, rows=rows):
        return current, survey.join(platform, current, index, columns, progress=progress)
    if not rows or not index.size:
        raise nothing_embedded("")
    text_emb = curator.encoder().encode_texts(slices.prompts())
    made = survey.make(platform, index, columns, text_emb=text_emb, progress=progress)
    if made is None:
        raise Conflict("another process surveys the fleet right now; look again in a while")
    return made, made.rows


def keep_up(platform: Platform, curator: Curator) -> bool:
    """Surveys, places on the map and measures the novelty of what has come; whether anything had."""
    db, encoder_id = platform.database, curator.encoder_id()
    rows = survey.surveyable(platform, encoder_id)
    if not rows:
        return False
    index = curator.index()
    # What was committed a moment ago may not have come to the index yet; it is not to be taken for rows without a vector.
    rows, embedded = min(rows, index.reached), index.size
    if not embedded:
        return False
    current = survey.current(db, encoder_id)
    changed = False
    waiting = rows - (shards.row_total(db, "surveys", current.survey_id) if current else 0)
    if survey.is_due(platform, current, rows=rows) or _worth(
        db, "surveys", current.survey_id if current else None, waiting, rows
    ):
        try:
            changed = survey_fleet(platform, curator)[1] > 0
        except Conflict:
            return False
    drawn = projection.current(db, encoder_id)
    if embedded >= projection.LEAST_ROWS:
        refit = drawn is None or embedded > drawn.fleet_rows * (1 + projection.GROWTH)
        waiting = rows - (shards.row_total(db, "projections", drawn.projection_id) if drawn else 0)
        if refit or _worth(db, "projections", drawn.projection_id if drawn else None, waiting, rows):
            changed = draw_map(platform, curator, fit_again=refit)[1] > 0 or changed
    labelled = np.flatnonzero(labelled_mask(platform, curator, rows=rows))
    state = hashlib.sha256(labelled.tobytes()).hexdigest()[:16]
    if novelty.is_current(db, encoder_id, state=state, rows=rows):
        return changed
    return novelty.update(platform, index, labelled, rows=rows, state=state) > 0 or changed


def _worth(db: Db, kind: shards.ShardKind, producer: str | None, waiting: int, rows: int) -> bool:
    """Whether so many rows wait that a shard of them is worth while, or the last one is a while ago."""
    if waiting <= 0 or producer is None:
        return False
    newest = db.shards.find_one({"kind": kind, "producer": producer}, sort=[("start", DESCENDING)])
    return waiting * 100 >= rows or newest is None or datetime.now(UTC) - newest["created_at"] > _WAIT_FOR_MORE
