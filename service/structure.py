"""The structure of a fleet, as people ask for it: near-duplicates, slices, coverage and the map, within a filter and against a task's labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from annotation import labels, tasks
from infra.errors import InvalidInput
from infra.platform import Platform
from selection.fleet import frames
from selection.structure import duplicates, projection
from selection.structure.coverage import Cell, coverage
from selection.structure.novelty import Novelty, rarity

if TYPE_CHECKING:
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
    linkage: duplicates.Linkage = "keeper",
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
        linkage=linkage,
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


def places(
    platform: Platform, curator: Curator, *, where: str = ""
) -> tuple[Projection, NDArray[np.int64], NDArray[np.float32]] | None:
    """The current map's rows that match a filter, ascending, and their places; None when there is no map yet.

    Raises:
        InvalidInput: A bad filter.
    """
    current = projection.current(platform.database, curator.encoder_id())
    if current is None:
        return None
    rows, xy = projection.places(platform, current)
    mask = curator.mask(where)
    shown = rows < len(mask)
    shown[shown] = mask[rows[shown]]
    return current, rows[shown], xy[shown]


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
