"""Frames on which a label would be wasted: pictures of nothing, and pictures that resemble no other frame.

Such frames are far from everything, so methods of diversity reach for them first, and a model is seldom sure of them. Selection does not
drop them, it sets them back: they are chosen when nothing else is left.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BLANK_SHARE = 0.9
"""Of pixels without any light, or with too much. Of 1,131 real frames of eight sources, by day and night, none comes above 0.70."""
BLANK_SHARPNESS = 5.0
"""Variance of the Laplacian; the blurriest of those frames has 36, one colour has 0."""
COMPANY = 3
"""Frames of a scene that lasts, however rare it is, have so many others like them."""
LEAST_SAMPLE = 100
ONE_IN = 50
"""One row in so many is set back for being lone, at most."""
_SAMPLE = 1024
_BESIDE = 2
_BLOCK = 512


class Vectors(Protocol):
    """The fleet's vectors by row."""

    def embedded(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows have a vector."""

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of rows that are `embedded`, unit length, shape (len(rows), D)."""


def blank(
    sharpness_N: NDArray[np.float64], underexposed_N: NDArray[np.float64], overexposed_N: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which frames show nothing: black, white, or one colour all over.

    Args:
        sharpness_N: As in `selection.pixels.statistics`, NaN where it is not known, shape (N,); so are the others.
        underexposed_N: Share of the pixels, 0 to 1.
        overexposed_N: Share of the pixels, 0 to 1.
    Returns:
        Shape (N,); False where nothing is known.
    """
    found: NDArray[np.bool_] = (
        (sharpness_N < BLANK_SHARPNESS) | (underexposed_N >= BLANK_SHARE) | (overexposed_N >= BLANK_SHARE)
    )
    return found


def lone(rows_N: NDArray[np.int64], pool: NDArray[np.int64], fleet: Vectors, *, seed: int) -> NDArray[np.bool_]:
    """Which rows resemble no other: test patterns, noise, garbage of broken files.

    A row is lone when its third nearest neighbour is out of reach: among a sample of the pool, among `rows_N`, and beside it in the fleet,
    where the next frames of its drive are. The reach is what is unusual in this pool: three interquartile ranges above the upper quartile
    of the sample's distances to their third neighbours, and no less than the median distance of two frames drawn at random. Of
    fifty rows one is lone at most, the farthest: where there are more, they are what this fleet looks like.

    Source: Tukey, "Exploratory Data Analysis", 1977, section 2D ("far out" values). Time O(N * D) for a sample of fixed size.

    Args:
        rows_N: Rows to judge, embedded, without repeats, shape (N,).
        pool: What is usual: rows of which some are drawn.
        fleet: Vectors.
        seed: Of the sample.
    Returns:
        Shape (N,); all False where the pool has fewer than a hundred vectors: that does not tell what is usual.
    """
    found = np.zeros(len(rows_N), dtype=bool)
    sample = pool if len(pool) <= _SAMPLE else np.random.default_rng(seed).choice(pool, size=_SAMPLE, replace=False)
    sample = sample[fleet.embedded(sample)]
    if len(sample) < LEAST_SAMPLE:
        return found
    emb_ND, sample_MD = fleet.vectors(rows_N), fleet.vectors(sample)
    reach = _reach(sample_MD)
    suspects = np.flatnonzero(_to_company(emb_ND, rows_N, sample_MD, sample) > reach)
    beside = (rows_N[suspects, np.newaxis] + np.arange(-_BESIDE, _BESIDE + 1)).ravel()
    around = np.unique(np.concatenate([sample, rows_N, beside[beside >= 0]]))
    around = around[fleet.embedded(around)]
    distance_S = _to_company(emb_ND[suspects], rows_N[suspects], fleet.vectors(around), around)
    farthest = np.argsort(-distance_S, kind="stable")[: -(-len(rows_N) // ONE_IN)]
    found[suspects[farthest]] = distance_S[farthest] > reach
    return found


def _reach(sample_MD: NDArray[np.float32]) -> float:
    """The cosine distance beyond which a third neighbour is unusually far."""
    rows = np.arange(len(sample_MD))
    first, second = np.triu_indices(len(rows), k=1)
    usual = float(np.median((1.0 - sample_MD @ sample_MD.T)[first, second]))
    low, high = np.quantile(_to_company(sample_MD, rows, sample_MD, rows), [0.25, 0.75])
    return max(usual, float(high + 3.0 * (high - low)))


def _to_company(
    emb_ND: NDArray[np.float32],
    rows_N: NDArray[np.int64],
    other_MD: NDArray[np.float32],
    other_rows_M: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Each row's cosine distance to its third nearest among the others that are not itself, shape (N,); M is above 3."""
    distance_N = np.empty(len(rows_N), dtype=np.float32)
    for start in range(0, len(rows_N), _BLOCK):
        some = slice(start, start + _BLOCK)
        near_NM = emb_ND[some] @ other_MD.T
        near_NM[rows_N[some, np.newaxis] == other_rows_M] = -1.0
        distance_N[some] = 1.0 - np.partition(near_NM, -COMPANY, axis=1)[:, -COMPANY]
    return distance_N
