"""What kinds of scene a fleet holds, and how much of each is labelled: slices, and coverage over attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from annotation import tasks
from infra.errors import InvalidInput
from infra.platform import Platform
from selection.structure.coverage import Cell, coverage
from service.structure.matching import empty_fleet, matching

if TYPE_CHECKING:
    from selection.structure.slices import Trait
    from service.curator import Curator


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


def find_slices(
    platform: Platform, curator: Curator, *, where: str = "", task_id: str | None = None, examples: int = 12
) -> list[SliceOfFleet]:
    """The kinds of scene among the frames that match a filter, as surveyed, largest first.

    Raises:
        NotFound: No such task.
        InvalidInput: A bad filter, or the fleet was not surveyed yet.
    """
    labelled = labelled_mask(platform, curator, task_id, rows=curator.columns().rows)
    found = curator.structure().survey()
    if found is None:
        matching(curator, where)
        raise InvalidInput("the fleet has not been surveyed yet; run `mlpl survey`, or leave `mlpl serve` running")
    rows = matching(curator, where)
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


def slice_codes(curator: Curator) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Each row's slice, as `Columns.codes` gives an attribute.

    Raises:
        InvalidInput: The fleet was not surveyed yet.
    """
    found = curator.structure().survey()
    if found is None:
        raise InvalidInput("the fleet has not been surveyed yet; run `mlpl survey`, or leave `mlpl serve` running")
    return found.values.padded("slice", curator.columns().rows), tuple(one.name for one in found.survey.slices)


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
        raise empty_fleet()
    labelled = labelled_mask(platform, curator, task_id, rows=columns.rows)
    return coverage(columns, by, labelled=labelled, within=columns.mask(where))


def labelled_mask(platform: Platform, curator: Curator, task_id: str | None = None, *, rows: int) -> NDArray[np.bool_]:
    """Which rows have a label of a task, or of any task; shape (rows,).

    Raises:
        NotFound: No such task.
    """
    if task_id is not None:
        task_id = tasks.get(platform.database, task_id).task_id
    return curator.places().labelled(rows=rows, task_id=task_id)
