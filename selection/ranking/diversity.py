"""Diversity: picking rows that differ from one another and from what is labelled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput


def k_center_greedy(
    pool_emb: NDArray[np.float32], labelled_emb: NDArray[np.float32], *, budget: int
) -> NDArray[np.int64]:
    """Picks pool rows that cover the embedding space left uncovered by the labelled rows.

    N pool frames, L labelled frames, D embedding size; rows are unit length. Time O(N * (L + budget)), memory O(N).
    Source: Sener and Savarese, "Active Learning for CNNs: A Core-Set Approach", ICLR 2018, Algorithm 1.

    Args:
        pool_emb: Shape (N, D).
        labelled_emb: Shape (L, D); L may be 0, then the first pick is the row nearest the pool mean.
        budget: Rows to pick, 1 <= budget <= N.
    Returns:
        Positions into pool_emb, shape (budget,), in picking order. Ties go to the lower position.
    Raises:
        InvalidInput: The shapes disagree or the budget is out of range.
    """
    return k_center_greedy_with_distances(pool_emb, labelled_emb, budget=budget)[0]


def k_center_greedy_with_distances(
    pool_emb: NDArray[np.float32], labelled_emb: NDArray[np.float32], *, budget: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Like `k_center_greedy`, and how far each pick was from everything labelled or picked before it.

    Returns:
        Positions, shape (budget,), and cosine distances in [0, 2], shape (budget,); the first distance is infinite when nothing is
        labelled.
    """
    _check(pool_emb, labelled_emb, budget=budget)
    nearest_N = _similarity_to_labelled(pool_emb, labelled_emb)
    picks = np.empty(budget, dtype=np.int64)
    distances = np.empty(budget, dtype=np.float32)
    for i in range(budget):
        if i == 0 and not len(labelled_emb):
            picks[i], distances[i] = int(np.argmax(pool_emb @ pool_emb.mean(axis=0))), np.inf
        else:
            picks[i] = int(np.argmin(nearest_N))
            distances[i] = 1.0 - nearest_N[picks[i]]
        np.maximum(nearest_N, pool_emb @ pool_emb[picks[i]], out=nearest_N)
        nearest_N[picks[: i + 1]] = np.inf  # Picked once; duplicates of it are merely very near.
    return picks, distances


def _similarity_to_labelled(
    pool_emb: NDArray[np.float32], labelled_emb: NDArray[np.float32], *, block: int = 1024
) -> NDArray[np.float32]:
    """For each pool row its largest cosine similarity to a labelled row; in blocks, so that memory stays O(N)."""
    nearest_N = np.full(len(pool_emb), -np.inf, dtype=np.float32)
    for start in range(0, len(labelled_emb), block):
        np.maximum(nearest_N, (pool_emb @ labelled_emb[start : start + block].T).max(axis=1), out=nearest_N)
    return nearest_N


def _check(pool_emb: NDArray[np.float32], labelled_emb: NDArray[np.float32], *, budget: int) -> None:
    if (
        pool_emb.ndim != 2
        or labelled_emb.ndim != 2
        or (len(labelled_emb) and pool_emb.shape[1] != labelled_emb.shape[1])
    ):
        raise InvalidInput(f"embeddings of shapes {pool_emb.shape} and {labelled_emb.shape} do not belong together")
    if not 1 <= budget <= len(pool_emb):
        raise InvalidInput(f"cannot pick {budget} of {len(pool_emb)} frames")
