"""The structure of a fleet, as people ask for it: near-duplicates, slices, coverage and the map, within a filter and against a task's labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pymongo import DESCENDING

from annotation import labels, tasks
from infra.database import Db
from infra.errors import Conflict, InvalidInput
from infra.platform import Platform
from selection import shards
from selection.fleet import frames
from selection.structure import duplicates, lasso, projection
from selection.structure.coverage import Cell, coverage
from selection.structure.duplicates import Calibration

if TYPE_CHECKING:
    from selection.fleet.columns import Columns
    from selection.structure.projection import Projection
    from selection.structure.slices import Trait
    from selection.structure.survey import Survey
    from service.curator import Curator

Progress = Callable[[int, int], None]

_CHUNK = 1000
_WAIT_FOR_MORE = timedelta(seconds=60)


@dataclass(frozen=True, kw_only=True)
class FoundDuplicates:
    """Groups of rows, each with its keeper first; larger groups first.

    Attributes:
        frames: Rows that were looked at.
        skipped: Rows with neither a vector nor a hash.
        kept: Rows that remain when all but the keepers go, those without a duplicate included.
        waiting: Rows that the survey has not come to yet.
        threshold: Cosine similarity from which they count as near-duplicates.
        threshold_basis: Why from there.
    """

    groups: list[NDArray[np.int64]]
    frames: int
    skipped: int
    kept: int
    threshold: float
    threshold_basis: str
    waiting: int = 0


@dataclass(frozen=True, kw_only=True)
class SliceOfFleet:
    """A slice, and how much of it is labelled.

    Attributes:
        name: See `selection.structure.slices.Described`; `slice:NAME` finds its frames.
        number: As surveyed.
        frames: Of those looked at.
        novelty: Mean distance of its rows to what is labelled, for any task; None when nothing is.
        rarity: Mean distance of its rows to their neighbours in the fleet.
        examples: Rows nearest to its centre.
    """

    name: str
    number: int
    words: tuple[str, ...]
    traits: tuple[Trait, ...]
    frames: int
    labelled: int
    novelty: float | None
    rarity: float
    examples: NDArray[np.int64]


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
    from selection.structure import slices, survey

    index, columns = curator.index(), curator.columns()
    current = survey.current(platform.database, index.encoder_id)
    rows = survey.surveyable(platform, index.encoder_id)
    if current is not None and not again and not survey.is_due(platform, current, rows=rows):
        return current, survey.join(platform, current, index, columns, progress=progress)
    if not rows or not index.size:
        raise _nothing_embedded("")
    text_emb = curator.encoder().encode_texts(slices.prompts())
    made = survey.make(platform, index, columns, text_emb=text_emb, progress=progress)
    if made is None:
        raise Conflict("another process surveys the fleet right now; look again in a while")
    return made, made.rows


def keep_up(platform: Platform, curator: Curator) -> bool:
    """Surveys, places on the map and measures the novelty of what has come; whether anything had."""
    from selection.structure import novelty, survey

    db, encoder_id = platform.database, curator.encoder_id()
    rows = survey.surveyable(platform, encoder_id)
    current = survey.current(db, encoder_id)
    embedded = curator.index().size if rows else 0
    if not embedded:
        return False
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
        refit = drawn is None or rows > drawn.fleet_rows * (1 + projection.GROWTH)
        waiting = rows - (shards.row_total(db, "projections", drawn.projection_id) if drawn else 0)
        if refit or _worth(db, "projections", drawn.projection_id if drawn else None, waiting, rows):
            changed = draw_map(platform, curator, fit_again=refit)[1] > 0 or changed
    state = str(db.labels.estimated_document_count())
    if state == "0" or novelty.is_current(db, encoder_id, state=state, rows=rows):
        return changed
    labelled = np.flatnonzero(labelled_mask(platform, None, rows=rows))
    return novelty.update(platform, curator.index(), labelled, rows=rows, state=state) > 0 or changed


def _worth(db: Db, kind: shards.ShardKind, producer: str | None, waiting: int, rows: int) -> bool:
    """Whether so many rows wait that a shard of them is worth while, or the last one is a while ago."""
    if waiting <= 0 or producer is None:
        return False
    newest = db.shards.find_one({"kind": kind, "producer": producer}, sort=[("start", DESCENDING)])
    return waiting * 100 >= rows or newest is None or datetime.now(UTC) - newest["created_at"] > _WAIT_FOR_MORE


MOST_ON_REQUEST = 20_000
"""A request that asks for more frames to be compared anew is sent to the command line."""


def likeness(curator: Curator) -> Calibration:
    """From which cosine similarity frames are near-duplicates when nobody says so: as surveyed, or calibrated now."""
    from selection.structure import survey

    found = curator.structure().survey()
    if found is not None:
        return Calibration(threshold=found.survey.threshold, basis=found.survey.threshold_basis)
    return survey.calibrated(curator.index(), curator.columns())


def kept_duplicates(curator: Curator, *, where: str = "") -> FoundDuplicates | None:
    """Groups of the frames that match a filter, as surveyed; None where the survey does not answer for all but a few of them.

    Raises:
        InvalidInput: A bad filter.
    """
    found = curator.structure().survey()
    if found is None:
        return None
    rows = _matching(curator, where)
    keeper_N = found.values.at("keeper", rows)
    surveyed = keeper_N >= 0
    if len(rows) and surveyed.mean() < 0.5:
        return None
    rows, keeper_N = rows[surveyed], keeper_N[surveyed]
    groups = duplicates.groups_of(rows, keeper_N)
    bare = np.isnan(found.values.at("likeness", rows)) & (found.values.at("hash", rows) == 0)
    return FoundDuplicates(
        groups=groups,
        frames=len(rows),
        skipped=int(bare.sum()),
        kept=len(rows) - sum(len(group) - 1 for group in groups),
        threshold=found.survey.threshold,
        threshold_basis=found.survey.threshold_basis,
        waiting=int((~surveyed).sum()),
    )


def find_duplicates(
    platform: Platform,
    curator: Curator,
    *,
    where: str = "",
    threshold: float | None = None,
    max_hamming: int = duplicates.DEFAULT_HAMMING,
    within_drives: bool = False,
    progress: Progress | None = None,
    most: int | None = None,
) -> FoundDuplicates:
    """Groups the frames that match a filter; the sharpest and best exposed of a group is kept, of equally good ones the first.

    Args:
        threshold: None: as `likeness`.
        most: Refuses to compare more frames than that.
    Raises:
        InvalidInput: A bad filter or threshold, too many frames, or frames have neither vectors nor hashes yet.
    """
    from selection.structure import survey

    index, columns = curator.index(), curator.columns()
    rows = _matching(curator, where)
    if most is not None and len(rows) > most:
        raise InvalidInput(
            f"comparing {len(rows)} frames takes too long for a request; narrow the filter, run `mlpl duplicates`, "
            "or take the thresholds of the survey"
        )
    hashes_N = survey.hashes_of(platform, rows)
    embedded_N = index.has(rows)
    if not embedded_N.any() and not hashes_N.any():
        raise _nothing_embedded(where)
    drive_N = columns.codes("drive")[0][rows] if within_drives else None
    if drive_N is not None:  # Frames of no drive have nobody to be compared with.
        drive_N = np.where(drive_N < 0, -1 - np.arange(len(rows)), drive_N)
    start = Calibration(threshold=threshold, basis="as asked") if threshold is not None else likeness(curator)
    found = duplicates.near_duplicate_groups(
        survey.HalfVectors(index, rows) if embedded_N.any() else None,
        threshold=start.threshold,
        hashes_N=hashes_N,
        max_hamming=max_hamming,
        priority_N=survey.quality_order(columns, rows),
        within_N=drive_N,
        progress=progress,
    )
    return FoundDuplicates(
        groups=[rows[group] for group in found.groups()],
        frames=len(rows),
        skipped=int((~embedded_N & (hashes_N == 0)).sum()),
        kept=len(found.keepers),
        threshold=start.threshold,
        threshold_basis=start.basis,
    )


def find_slices(
    platform: Platform, curator: Curator, *, where: str = "", task_id: str | None = None, examples: int = 12
) -> list[SliceOfFleet]:
    """The kinds of scene among the frames that match a filter, as surveyed, largest first.

    Raises:
        NotFound: No such task.
        InvalidInput: A bad filter, or the fleet was not surveyed yet.
    """
    labelled = labelled_mask(platform, task_id, rows=curator.columns().rows)
    found = curator.structure().survey()
    if found is None:
        _matching(curator, where)
        raise InvalidInput("the fleet has not been surveyed yet; run `mlpl survey`, or leave `mlpl serve` running")
    rows = _matching(curator, where)
    slice_N = found.values.at("slice", rows)
    rows, slice_N = rows[slice_N >= 0], slice_N[slice_N >= 0]
    rarity_N, likeness_N = found.values.at("rarity", rows), found.values.at("likeness", rows)
    novelty = curator.structure().novelty()
    novelty_N = novelty.at("novelty", rows) if novelty is not None else None
    described = []
    for number, one in enumerate(found.survey.slices):
        inside = np.flatnonzero(slice_N == number)
        if len(inside):
            nearest = inside[np.argsort(-likeness_N[inside], kind="stable")[:examples]]
            known = novelty_N[inside][~np.isnan(novelty_N[inside])] if novelty_N is not None else inside[:0]
            described.append(
                SliceOfFleet(
                    name=one.name,
                    number=number,
                    words=one.words,
                    traits=one.traits,
                    frames=len(inside),
                    labelled=int(labelled[rows[inside]].sum()),
                    novelty=float(known.mean()) if len(known) else None,
                    rarity=float(np.nanmean(rarity_N[inside])),
                    examples=rows[nearest],
                )
            )
    return sorted(described, key=lambda one: (-one.frames, one.number))


def find_coverage(
    platform: Platform, curator: Curator, by: Sequence[str], *, where: str = "", task_id: str | None = None
) -> list[Cell]:
    """Frames and labelled frames for each combination of values, biggest holes first.

    Raises:
        NotFound: No such task.
        InvalidInput: A bad filter or key.
    """
    columns = curator.columns()
    if not columns.rows:
        raise _empty_fleet()
    labelled = labelled_mask(platform, task_id, rows=columns.rows)
    return coverage(columns, by, labelled=labelled, within=columns.mask(where))


def draw_map(
    platform: Platform,
    curator: Curator,
    *,
    seed: int = 0,
    fit_again: bool = False,
    progress: Progress | None = None,
) -> tuple[Projection, int]:
    """Brings the map up to date: fits it when there is none, and places the rows that are new since.

    Returns:
        The projection, and how many rows were placed now.
    Raises:
        InvalidInput: Too few frames have a vector.
    """
    index = curator.index()
    current = None if fit_again else projection.current(platform.database, index.encoder_id)
    if current is None:
        every = np.arange(frames.row_count(platform.database), dtype=np.int64)
        rows = every[index.has(every)]
        if not len(rows):
            raise _nothing_embedded("")
        current = projection.fit(platform, index, rows=rows, seed=seed)
    return current, projection.project_missing(platform, current, index, progress=progress)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Frames on the current map.

    Attributes:
        rows: Ascending.
        xy: Their places, about -1 to 1, shape (rows, 2).
        total: Frames on the map that match, those left out included.
        waiting: Frames of the fleet that have no place yet.
    """

    projection: Projection
    rows: NDArray[np.int64]
    xy: NDArray[np.float32]
    total: int
    waiting: int


def places(
    curator: Curator, *, where: str = "", box: Sequence[float] | None = None, most: int = 50_000
) -> Places | None:
    """The current map's rows that match a filter; None when there is no map yet.

    Args:
        box: Only places within x0, y0, x1, y1.
        most: Of more, so many are shown, see `lasso.thinned`.
    Raises:
        InvalidInput: A bad filter or box.
    """
    current = curator.structure().map()
    if current is None:
        return None
    xy = current.xy()
    shown = np.isfinite(xy[:, 0])
    mask = curator.mask(where)[: len(xy)]
    shown[: len(mask)] &= mask
    shown[len(mask) :] = False
    waiting = max(0, curator.columns().rows - current.filled)
    if box is not None:
        if len(box) != 4 or not np.isfinite(box).all():
            raise InvalidInput("box: takes four numbers, x0,y0,x1,y1")
        shown &= ((xy >= np.minimum(box[:2], box[2:])) & (xy <= np.maximum(box[:2], box[2:]))).all(axis=1)
    rows = np.flatnonzero(shown)
    chosen = rows[lasso.thinned(rows, most)]
    return Places(projection=current.projection, rows=chosen, xy=xy[chosen], total=len(rows), waiting=waiting)


@dataclass(frozen=True, kw_only=True)
class Colour:
    """What to colour rows by: values that are few, or numbers.

    Attributes:
        codes: For each row the position of its value, -1 where it has none.
        values: Most frequent first.
        counts: How often each occurs among the rows.
        numbers: NaN where there is none.
    """

    key: str
    codes: NDArray[np.int64] | None = None
    values: list[str] | None = None
    counts: list[int] | None = None
    numbers: NDArray[np.float64] | None = None


def colour(curator: Curator, key: str, rows: NDArray[np.int64], *, most: int = 30) -> Colour:
    """A key's values of rows; beyond the `most` frequent ones they count as none.

    Raises:
        InvalidInput: There is no such key.
    """
    columns = curator.columns()
    try:
        column, values = slice_codes(curator) if key == "slice" else columns.codes(key)
    except InvalidInput:
        numbers = columns.numbers(key)  # A key of numbers only, or of more numbers than one tells apart.
        return Colour(key=key, numbers=_at(numbers, rows, np.nan))
    codes = _at(column, rows, -1)
    if len(values) > most and not np.isnan(numbers := _numbers_or_none(columns, key, rows)).all():
        return Colour(key=key, numbers=numbers)
    counts = np.bincount(codes[codes >= 0], minlength=len(values))
    order = np.argsort(-counts, kind="stable")[:most]
    order = order[counts[order] > 0]
    place_of = np.full(len(values) + 1, -1, dtype=np.int64)  # Code -1 takes the last.
    place_of[order] = np.arange(len(order))
    return Colour(
        key=key,
        codes=place_of[codes],
        values=[values[code] for code in order.tolist()],
        counts=counts[order].tolist(),
    )


def slice_codes(curator: Curator) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Each row's slice, as `Columns.codes` gives an attribute.

    Raises:
        InvalidInput: The fleet was not surveyed yet.
    """
    found = curator.structure().survey()
    if found is None:
        raise InvalidInput("the fleet has not been surveyed yet; run `mlpl survey`, or leave `mlpl serve` running")
    return found.values.padded("slice", curator.columns().rows), tuple(one.name for one in found.survey.slices)


def _numbers_or_none(columns: Columns, key: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    try:
        return _at(columns.numbers(key), rows, np.nan)
    except InvalidInput:
        return np.full(len(rows), np.nan)


def _at(column: NDArray[Any], rows: NDArray[np.int64], missing: float) -> NDArray[Any]:
    """Values of rows, some of which may have come after the column was read."""
    found = np.full(len(rows), missing, dtype=column.dtype)
    inside = rows < len(column)
    found[inside] = column[rows[inside]]
    return found


@dataclass(frozen=True, kw_only=True)
class Lassoed:
    """What lies inside a polygon on the map.

    Attributes:
        rows: Ascending.
        where: The search term that finds the same frames, as long as the map is not made anew.
    """

    rows: NDArray[np.int64]
    where: str


def lassoed(curator: Curator, corners: Sequence[Sequence[float]], *, where: str = "") -> Lassoed:
    """The frames whose places lie inside a polygon and that match a filter.

    Raises:
        Conflict: There is no map yet.
        InvalidInput: A bad polygon or filter.
    """
    current = curator.structure().map()
    if current is None:
        raise Conflict("there is no map yet; `mlpl map` makes one, or leave `mlpl serve` running")
    term = current.term(lasso.checked(corners))
    mask = curator.mask(f"{term} {where}")
    return Lassoed(rows=np.flatnonzero(mask), where=term)


def labelled_mask(platform: Platform, task_id: str | None, *, rows: int) -> NDArray[np.bool_]:
    """Which rows have a label of a task, or of any task.

    Raises:
        NotFound: No such task.
    """
    db = platform.database
    wanted = [tasks.get(db, task_id)] if task_id is not None else tasks.list_all(db)
    mask = np.zeros(rows, dtype=bool)
    for task in wanted:
        labelled = [label.frame_id for label in labels.current(db, task_id=task.task_id)]
        for start in range(0, len(labelled), _CHUNK):
            for document in db.frames.find({"_id": {"$in": labelled[start : start + _CHUNK]}}, {"_id": 0, "row": 1}):
                if document["row"] < rows:
                    mask[document["row"]] = True
    return mask


def _matching(curator: Curator, where: str) -> NDArray[np.int64]:
    mask = curator.mask(where)
    if not len(mask):
        raise _empty_fleet()
    return np.flatnonzero(mask)


def _empty_fleet() -> InvalidInput:
    return InvalidInput("the fleet has no frames yet; `mlpl ingest` takes them in")


def _nothing_embedded(where: str) -> InvalidInput:
    which = f"no frame that matches {where!r}" if where else "no frame"
    return InvalidInput(f"{which} has a vector yet; run `mlpl embed`, or leave `mlpl serve` running")
