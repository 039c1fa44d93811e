"""The structure of a fleet, as people ask for it: near-duplicates, slices, coverage and the map, within a filter and against a task's labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from annotation import labels, tasks
from infra.errors import Conflict, InvalidInput
from infra.platform import Platform
from selection.fleet import frames
from selection.structure import duplicates, lasso, projection
from selection.structure.coverage import Cell, coverage
from selection.structure.novelty import Novelty, rarity

if TYPE_CHECKING:
    from selection.fleet.columns import Columns
    from selection.structure.projection import Projection
    from selection.structure.slices import Slice
    from service.curator import Curator

Progress = Callable[[int, int], None]

_CHUNK = 1000


@dataclass(frozen=True, kw_only=True)
class FoundDuplicates:
    """Groups of rows, each with its keeper first; larger groups first.

    Attributes:
        frames: Rows that were looked at.
        skipped: Rows with neither a vector nor a hash.
        kept: Rows that remain when all but the keepers go, those without a duplicate included.
    """

    groups: list[NDArray[np.int64]]
    frames: int
    skipped: int
    kept: int


@dataclass(frozen=True, kw_only=True)
class SliceOfFleet:
    """A slice, and how much of it is labelled.

    Attributes:
        novelty: Mean distance of its rows to what is labelled, None when nothing is.
        rarity: Mean distance of its rows to their neighbours in the fleet.
    """

    slice: Slice
    labelled: int
    novelty: float | None
    rarity: float


def find_duplicates(
    platform: Platform,
    curator: Curator,
    *,
    where: str = "",
    threshold: float = duplicates.DEFAULT_THRESHOLD,
    max_hamming: int = duplicates.DEFAULT_HAMMING,
    within_drives: bool = False,
    progress: Progress | None = None,
) -> FoundDuplicates:
    """Groups the frames that match a filter; the sharpest of a group is kept, of equally sharp ones the earliest.

    Raises:
        InvalidInput: A bad filter or threshold, or frames have neither vectors nor hashes yet.
    """
    index, columns = curator.index(), curator.columns()
    rows = _matching(curator, where)
    hashes_N, sharpness_N = _pixels_facts(platform, rows)
    embedded_N = index.has(rows)
    if not embedded_N.any() and not hashes_N.any():
        raise _nothing_embedded(where)
    emb_ND = _vectors(curator, rows, embedded_N)
    captured_N = columns.captured_ms[rows]
    priority_N = np.empty(len(rows), dtype=np.int64)
    priority_N[np.lexsort((rows, captured_N, -sharpness_N))] = np.arange(len(rows))
    drive_N = columns.codes("drive")[0][rows] if within_drives else None
    if drive_N is not None:  # Frames of no drive have nobody to be compared with.
        drive_N = np.where(drive_N < 0, -1 - np.arange(len(rows)), drive_N)
    found = duplicates.near_duplicate_groups(
        emb_ND,
        threshold=threshold,
        hashes_N=hashes_N,
        max_hamming=max_hamming,
        priority_N=priority_N,
        within_N=drive_N,
        progress=progress,
    )
    return FoundDuplicates(
        groups=[rows[group] for group in found.groups()],
        frames=len(rows),
        skipped=int((~embedded_N & (hashes_N == 0)).sum()),
        kept=len(found.keepers),
    )


def find_slices(
    platform: Platform, curator: Curator, *, count: int = 20, where: str = "", task_id: str | None = None, seed: int = 0
) -> list[SliceOfFleet]:
    """The kinds of scene among the frames that match a filter, largest first.

    Raises:
        NotFound: No such task.
        InvalidInput: A bad filter or count, or nothing has a vector yet.
    """
    from selection.structure import slices

    index = curator.index()
    rows = _matching(curator, where)
    rows = rows[index.has(rows)]
    if not len(rows):
        raise _nothing_embedded(where)
    emb_ND = index.vectors(rows)
    encoder = curator.encoder()
    found = slices.slices(
        emb_ND,
        rows,
        count=count,
        columns=curator.columns(),
        text_emb=encoder.encode_texts(slices.prompts()),
        seed=seed,
    )
    labelled = labelled_mask(platform, task_id, rows=curator.columns().rows)
    novelty = Novelty(emb_ND)
    novelty.add(emb_ND[labelled[rows]])
    rare_N = rarity(emb_ND, seed=seed)
    described = []
    for one in found:
        places = np.searchsorted(rows, one.rows)
        described.append(
            SliceOfFleet(
                slice=one,
                labelled=int(labelled[one.rows].sum()),
                novelty=float(novelty.score_N[places].mean()) if labelled[rows].any() else None,
                rarity=float(rare_N[places].mean()),
            )
        )
    return described


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
        column, values = columns.codes(key)
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


def _vectors(curator: Curator, rows: NDArray[np.int64], embedded_N: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """Shape (rows, D), zeros where there is no vector; None when there is none at all."""
    if embedded_N.all():
        return curator.index().vectors(rows)
    known_ND = curator.index().vectors(rows[embedded_N])
    if not len(known_ND):
        return None
    emb_ND = np.zeros((len(rows), known_ND.shape[1]), dtype=np.float32)
    emb_ND[embedded_N] = known_ND
    return emb_ND


def _pixels_facts(platform: Platform, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    """Perceptual hashes (0 where unknown) and sharpness (-1 where unknown) of rows, ascending."""
    hashes_N, sharpness_N = np.zeros(len(rows), dtype=np.uint64), np.full(len(rows), -1.0)
    if not len(rows):
        return hashes_N, sharpness_N
    bounds = {"start": int(rows[0]), "stop": int(rows[-1]) + 1}
    wanted = np.zeros(bounds["stop"], dtype=bool)
    wanted[rows] = True
    place_of = np.cumsum(wanted) - 1
    for document in frames.documents(platform.database, **bounds, fields=("row", "perceptual_hash", "sharpness")):
        if wanted[document["row"]]:
            place = place_of[document["row"]]
            hashes_N[place] = int(document.get("perceptual_hash") or "0", 16)
            sharpness = document.get("sharpness")
            sharpness_N[place] = -1.0 if sharpness is None else sharpness
    return hashes_N, sharpness_N


def _empty_fleet() -> InvalidInput:
    return InvalidInput("the fleet has no frames yet; `mlpl ingest` takes them in")


def _nothing_embedded(where: str) -> InvalidInput:
    which = f"no frame that matches {where!r}" if where else "no frame"
    return InvalidInput(f"{which} has a vector yet; run `mlpl embed`, or leave `mlpl serve` running")
