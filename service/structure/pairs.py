"""Pairs of near-duplicates by embedding, as people ask for them: all of the fleet, most alike first, and those of one frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from infra.platform import Platform
from selection.fleet import frames
from selection.near_duplicates import pairs
from selection.near_duplicates.duplicates import Progress
from selection.near_duplicates.of_fleet import HalfVectors
from service.structure.near_duplicates import likeness

if TYPE_CHECKING:
    from service.curator import Curator


@dataclass(frozen=True, kw_only=True)
class FoundPairs:
    """The most alike pairs.

    Attributes:
        rows_P2: Their rows, the lower one first, shape (P, 2); most alike first, then by row.
        cosine_P: Their similarity.
        total: Pairs there are, those left out included.
        frames: Rows that were compared.
        threshold: Their least similarity.
    """

    rows_P2: NDArray[np.int64]
    cosine_P: NDArray[np.float32]
    total: int
    frames: int
    threshold: float


def pairs_of_fleet(
    curator: Curator,
    *,
    where: str = "",
    threshold: float | None = None,
    within_drives: bool = False,
    most: int,
    progress: Progress | None = None,
) -> FoundPairs:
    """The pairs among the frames that match a filter; all are found, `most` of them are held.

    Args:
        threshold: None: as `near_duplicates.likeness`.
    Raises:
        InvalidInput: A bad filter or threshold, or no frame that matches has a vector yet.
    """
    index, rows = curator.index(), np.flatnonzero(curator.mask(where))
    rows = rows[index.has(rows)]
    if not len(rows):
        raise InvalidInput("no frame that matches has a vector yet; run `mlpl embed`, or leave `mlpl serve` running")
    drive_N = curator.columns().codes("drive")[0][rows] if within_drives else None
    if drive_N is not None:  # Frames of no drive have nobody to be compared with.
        drive_N = np.where(drive_N < 0, -1 - np.arange(len(rows)), drive_N)
    least = likeness(curator).threshold if threshold is None else threshold
    best_P2: NDArray[np.int64] = np.empty((0, 2), dtype=np.int64)
    cosine_P: NDArray[np.float32] = np.empty(0, dtype=np.float32)
    total = 0
    for piece in pairs.near_duplicate_pairs(
        HalfVectors(index, rows), threshold=least, within_N=drive_N, progress=progress
    ):
        total += len(piece)
        best_P2 = np.concatenate([best_P2, np.stack([rows[piece.first_P], rows[piece.second_P]], axis=1)])
        cosine_P = np.concatenate([cosine_P, piece.cosine_P])
        order = np.lexsort((best_P2[:, 1], best_P2[:, 0], -cosine_P))[:most]
        best_P2, cosine_P = best_P2[order], cosine_P[order]
    return FoundPairs(
        rows_P2=best_P2, cosine_P=np.minimum(cosine_P, 1.0), total=total, frames=len(rows), threshold=least
    )


def duplicates_of_frame(
    platform: Platform,
    curator: Curator,
    frame_id: str,
    *,
    where: str = "",
    threshold: float | None = None,
    most: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows that are near-duplicates of a frame, most alike first, and their similarity, as the index finds them.

    Args:
        threshold: None: as `near_duplicates.likeness`.
    Raises:
        NotFound: No such frame.
        InvalidInput: A bad filter, or the frame has no vector yet.
    """
    row = frames.get(platform.database, frame_id).row
    index = curator.index()
    if not index.has(np.array([row])).all():
        raise InvalidInput(f"frame {frame_id} has no vector yet; run `mlpl embed`, or leave `mlpl serve` running")
    least = likeness(curator).threshold if threshold is None else threshold
    mask = curator.mask(where)
    scores_1K, rows_1K = index.search(index.vectors(np.array([row])), k=most + 1, mask=mask)
    alike = (scores_1K[0] >= least) & (rows_1K[0] >= 0) & (rows_1K[0] != row)
    return rows_1K[0][alike][:most], np.minimum(scores_1K[0][alike][:most], 1.0)
