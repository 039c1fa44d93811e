"""Pairs of near-duplicates: every two frames that are alike by embedding, all of them, without comparing all with all.

Groups (`selection.near_duplicates.duplicates`) say what may be put aside; pairs say which frames are near-duplicates of which. They follow from the
groups: each frame is within the threshold's angle of its keeper, so two frames within that angle of one another have keepers within
three times the angle (triangle inequality on the sphere), and only frames of such groups are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selection.near_duplicates.duplicates import Progress, Vectors, near_duplicate_groups

_TILE = 2**22
_ROUNDING = 1e-3
"""How far the product of two half-precision vectors may lie from the cosine of their angle."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Some pairs of near-duplicates, P of them.

    Attributes:
        first_P: Position of one.
        second_P: Position of the other, which is higher.
        cosine_P: Their similarity.
    """

    first_P: NDArray[np.int64]
    second_P: NDArray[np.int64]
    cosine_P: NDArray[np.float32]

    def __len__(self) -> int:
        """P."""
        return len(self.first_P)


def near_duplicate_pairs(
    emb_ND: Vectors,
    *,
    threshold: float,
    within_N: NDArray[np.integer] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Iterator[Pairs]:
    """Every pair of rows with a cosine similarity of `threshold` or more, once each, in pieces as they are found.

    N rows, K keepers, D embedding size. Beside the grouping time O(K * K * D) and what near groups take among themselves; memory
    O(N + K * D) and a piece.

    Args:
        emb_ND: Vectors, read in blocks; a row of zeros has none.
        threshold: Cosine similarity from which two rows are near-duplicates.
        within_N: Only rows with the same number here are compared. None: all.
        seed: For the grouping; the pairs are the same with any.
        progress: Called with rows grouped and rows to group.
    Raises:
        InvalidInput: Shapes disagree, or the threshold is out of range.
    """
    found = near_duplicate_groups(emb_ND, threshold=threshold, within_N=within_N, seed=seed, progress=progress)
    keepers = found.keepers
    order = np.argsort(found.keeper_N, kind="stable")
    starts = np.searchsorted(found.keeper_N[order], np.append(keepers, len(order)))
    for place, near in _near_groups(emb_ND, keepers, threshold=threshold, within_N=within_N):
        ours = order[starts[place] : starts[place + 1]]
        theirs = np.concatenate([order[starts[other] : starts[other + 1]] for other in near.tolist()])
        ours_MD = np.asarray(emb_ND[ours], dtype=np.float32)
        step = max(1, _TILE // len(ours))
        for start in range(0, len(theirs), step):
            part = theirs[start : start + step]
            cosine = ours_MD @ np.asarray(emb_ND[part], dtype=np.float32).T
            one, other = np.nonzero(cosine >= threshold)
            once = one < start + other  # The group itself comes first of those that are near.
            one, other = one[once], other[once]
            if len(one):
                pair = np.sort(np.stack([ours[one], part[other]]), axis=0)
                yield Pairs(first_P=pair[0], second_P=pair[1], cosine_P=cosine[one, other])


def _near_groups(
    emb_ND: Vectors, keepers: NDArray[np.int64], *, threshold: float, within_N: NDArray[np.integer] | None
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """For each keeper's place the places from it on, itself first, of those whose groups may hold near-duplicates of its group."""
    angle = min(np.pi, 3 * float(np.arccos(threshold - _ROUNDING)))
    least = float(np.cos(angle)) - _ROUNDING
    step = max(1, _TILE // max(1, len(keepers)))
    emb_KD = np.concatenate([emb_ND[keepers[start : start + 8192]] for start in range(0, max(1, len(keepers)), 8192)])
    for start in range(0, len(keepers), step):
        cosine = _cosines(emb_KD[start : start + step], emb_KD[start:])
        for line, place in enumerate(range(start, min(start + step, len(keepers)))):
            near = cosine[line, line + 1 :] >= least
            if within_N is not None:
                near &= within_N[keepers[place + 1 :]] == within_N[keepers[place]]
            yield place, np.append(place, place + 1 + np.flatnonzero(near))


def _cosines(emb_MD: NDArray[np.floating], emb_KD: NDArray[np.floating]) -> NDArray[np.float32]:
    """All with all, in single precision, of which the right side is made piece by piece."""
    ours = np.asarray(emb_MD, dtype=np.float32)
    pieces = [
        ours @ np.asarray(emb_KD[start : start + 8192], dtype=np.float32).T for start in range(0, len(emb_KD), 8192)
    ]
    return np.concatenate(pieces, axis=1)
