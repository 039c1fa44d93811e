"""Which of several near-duplicates to keep."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ODD_FACTOR = 1.5
_ROUNDING = 1e-3
"""Vectors in half precision tell nothing apart that is nearer."""


def preference(
    sharpness_N: NDArray[np.float64],
    underexposed_N: NDArray[np.float64],
    overexposed_N: NDArray[np.float64],
    *,
    limit_N: NDArray[np.float64] | None = None,
    odd_N: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Whom to keep first: the sharpest, of which parts that are too dark or too bright are taken off; unknown ones last, equal ones by position.

    What is much sharper than the frames around it, or unlike the frames just before and after it, is often the garbage of a broken file or
    noise, which must not stand for good frames.

    Args:
        sharpness_N: NaN where it is not known, shape (N,); so are the others.
        underexposed_N: Share of the pixels, 0 to 1.
        overexposed_N: Share of the pixels, 0 to 1.
        limit_N: What is sharper comes after all others, shape (N,), see `sharpness_limits`. None: no limit.
        odd_N: These come after all others, too, shape (N,), see `unlike_both`. None: there are none.
    Returns:
        0 for the best, shape (N,).
    """
    exposed = np.clip(1.0 - np.nan_to_num(underexposed_N) - np.nan_to_num(overexposed_N), 0.0, 1.0)
    quality = np.nan_to_num(sharpness_N * exposed, nan=-1.0)
    place = np.empty(len(quality), dtype=np.int64)
    beyond = np.zeros(len(quality), dtype=bool) if limit_N is None else sharpness_N > limit_N
    beyond = beyond if odd_N is None else beyond | odd_N
    place[np.lexsort((-quality, beyond))] = np.arange(len(quality))
    return place


def unlike_both(
    before_ND: NDArray[np.float32], emb_ND: NDArray[np.float32], after_ND: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Which frames are unlike their neighbours in time although those are like one another, as a picture is of which half is destroyed.

    A camera that moves from one place to the next passes through what lies between, so a good frame is seldom farther from both than they are
    apart.

    Args:
        before_ND: Vector of the frame before each, unit length, shape (N, D).
        emb_ND: Of the frames, likewise.
        after_ND: Of the frame after each, likewise.
    Returns:
        Shape (N,).
    """
    apart_N = 1.0 - np.einsum("nd,nd->n", before_ND, after_ND)
    nearer_N = 1.0 - np.maximum(np.einsum("nd,nd->n", emb_ND, before_ND), np.einsum("nd,nd->n", emb_ND, after_ND))
    odd_N: NDArray[np.bool_] = nearer_N > np.maximum(_ODD_FACTOR * apart_N, _ROUNDING)
    return odd_N


def sharpness_limits(sharpness_N: NDArray[np.float64], drive_N: NDArray[np.integer]) -> NDArray[np.float64]:
    """For each row the sharpness that one frame in twenty of its drive exceeds.

    Args:
        sharpness_N: NaN where it is not known, shape (N,).
        drive_N: Number of the drive, negative where there is none, shape (N,).
    Returns:
        Shape (N,). Frames of drives with fewer than a hundred known ones are looked at together; infinite where even those are fewer.
    """
    known = ~np.isnan(sharpness_N)
    group = np.maximum(drive_N.astype(np.int64) + 1, 0)  # 0: those that are looked at together.
    groups = int(group.max(initial=0)) + 1
    group[np.bincount(group[known], minlength=groups)[group] < 100] = 0
    sizes, counts = np.bincount(group, minlength=groups), np.bincount(group[known], minlength=groups)
    order = np.lexsort((sharpness_N, group))  # Unknown ones come last in their group.
    enough = np.flatnonzero(counts >= 100)
    starts = np.cumsum(sizes) - sizes
    limits: NDArray[np.float64] = np.full(groups, np.inf)
    limits[enough] = sharpness_N[order[starts[enough] + (counts[enough] - 1) * 95 // 100]]
    per_row: NDArray[np.float64] = limits[group]
    return per_row
