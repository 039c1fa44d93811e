"""Groups of near-duplicates, as people ask for them: as surveyed, or compared anew with thresholds of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from infra.platform import Platform
from selection.near_duplicates import duplicates, of_fleet
from selection.near_duplicates.calibration import Calibration
from service.structure.matching import matching, nothing_embedded

if TYPE_CHECKING:
    from service.curator import Curator

Progress = Callable[[int, int], None]

MOST_ON_REQUEST = 20_000
"""A request that asks for more frames to be compared anew is sent to the command line."""


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


def likeness(curator: Curator) -> Calibration:
    """From which cosine similarity frames are near-duplicates when nobody says so: as surveyed, or calibrated now."""
    found = curator.structure().survey()
    if found is not None:
        return Calibration(threshold=found.survey.threshold, basis=found.survey.threshold_basis)
    return of_fleet.calibrated(curator.index(), curator.columns())


def kept_duplicates(curator: Curator, *, where: str = "") -> FoundDuplicates | None:
    """Groups of the frames that match a filter, as surveyed; None where the survey does not answer for all but a few of them.

    Raises:
        InvalidInput: A bad filter.
    """
    found = curator.structure().survey()
    if found is None:
        return None
    rows = matching(curator, where)
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
    index, columns = curator.index(), curator.columns()
    rows = matching(curator, where)
    if most is not None and len(rows) > most:
        raise InvalidInput(
            f"comparing {len(rows)} frames takes too long for a request; narrow the filter, run `mlpl duplicates`, "
            "or take the thresholds of the survey"
        )
    hashes_N = of_fleet.hashes_of(platform, rows)
    embedded_N = index.has(rows)
    if not embedded_N.any() and not hashes_N.any():
        raise nothing_embedded(where)
    drive_N = columns.codes("drive")[0][rows] if within_drives else None
    if drive_N is not None:  # Frames of no drive have nobody to be compared with.
        drive_N = np.where(drive_N < 0, -1 - np.arange(len(rows)), drive_N)
    start = Calibration(threshold=threshold, basis="as asked") if threshold is not None else likeness(curator)
    found = duplicates.near_duplicate_groups(
        of_fleet.HalfVectors(index, rows) if embedded_N.any() else None,
        threshold=start.threshold,
        hashes_N=hashes_N,
        max_hamming=max_hamming,
        priority_N=of_fleet.quality_order(columns, rows, index=index),
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
