"""Spreading a batch: the methods of diversity behind one call, and those that `selection.ranking.diversity` does not hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.planning.plan import Method
from selection.ranking.diversity import k_center_greedy_with_distances

MOST_CLUSTERS = 500
NEIGHBOURS = 20
_ITERATIONS = 20


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Picked rows.

    Attributes:
        picks: Positions in the pool, in picking order.
        reasons: Why each was picked, to be read after its score.
    """

    picks: NDArray[np.int64]
    reasons: list[str]


def spread(
    method: Method,
    pool_emb: NDArray[np.float32],
    labelled_emb: NDArray[np.float32],
    *,
    weight_N: NDArray[np.float32],
    budget: int,
    seed: int,
) -> Spread:
    """Picks by one of the methods but `none`.

    Args:
        method: Its name.
        pool_emb: Shape (N, D), unit length, the best by score first.
        labelled_emb: Shape (L, D); L may be 0.
        weight_N: Shape (N,): the score, for methods that use it beside the place.
        budget: 1 <= budget <= N.
        seed: For methods that draw.
    Raises:
        InvalidInput: As the methods do, or there is no such method.
    """
    if method == "k_center_greedy":
        picks, distances = k_center_greedy_with_distances(pool_emb, labelled_emb, budget=budget)
        reasons = [
            f"k-center distance {distance:.2f}" if np.isfinite(distance) else "nearest the pool's centre"
            for distance in distances.tolist()
        ]
        return Spread(picks=picks, reasons=reasons)
    if method == "k_means_plus_plus":
        picks, chances = k_means_plus_plus(pool_emb, weight_N, budget=budget, seed=seed)
        return Spread(picks=picks, reasons=[f"k-means++ distance {distance:.2f}" for distance in chances.tolist()])
    if method == "typicality":
        picks, sizes = typicality(pool_emb, labelled_emb, budget=budget, seed=seed)
        return Spread(picks=picks, reasons=[f"the most typical of {size} alike" for size in sizes.tolist()])
    raise InvalidInput(f"there is no diversity {method!r} to spread by")


def k_means_plus_plus(
    pool_emb: NDArray[np.float32], weight_N: NDArray[np.float32], *, budget: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Draws rows that are uncertain and unlike one another: k-means++ seeding of embeddings scaled by their uncertainty.

    The last layer's gradient is (p - y) h', long where the model is unsure; BADGE seeds k-means with it. Here the score stands for the
    length of (p - y) and the encoder's embedding for the features h, so a row needs no gradient and any score serves. The first pick is
    the longest row, as there; each further one is drawn with a chance proportional to its squared distance from the picks so far.

    Source: Ash et al., "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds", ICLR 2020, Algorithm 1; the seeding is
    Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA 2007. Time O(N * D * budget), memory O(N * D).

    Args:
        pool_emb: Shape (N, D), unit length.
        weight_N: Shape (N,), not negative.
        budget: 1 <= budget <= N.
        seed: Of the draws.
    Returns:
        Positions, shape (budget,), in picking order; and how far each was from the picks before it (the first: its length), not negative.
        Where all that is left lies on a pick, the lowest positions follow.
    Raises:
        InvalidInput: Shapes that disagree, negative weights, a budget out of range.
    """
    _check(pool_emb, budget=budget)
    weight = np.asarray(weight_N, dtype=np.float64)
    if weight.shape != pool_emb.shape[:1] or not bool(np.all(weight >= 0.0)):
        raise InvalidInput(f"there must be one weight, not negative, for each of {len(pool_emb)} frames")
    scaled = pool_emb * weight[:, np.newaxis].astype(np.float32)
    squared_N = np.einsum("nd,nd->n", scaled, scaled).astype(np.float64)
    nearest_N = squared_N.copy()
    rng = np.random.default_rng(seed)
    picks = np.empty(budget, dtype=np.int64)
    distances = np.empty(budget, dtype=np.float32)
    free_N = np.ones(len(pool_emb), dtype=bool)
    for i in range(budget):
        total = float(nearest_N.sum())
        if i == 0:
            pick = int(np.argmax(nearest_N))
        elif total > 0.0:
            pick = int(np.searchsorted(np.cumsum(nearest_N), rng.random() * total, side="right"))
            pick = min(pick, len(nearest_N) - 1)
            if not free_N[pick] or nearest_N[pick] <= 0.0:  # Rounding at the edge of a stretch of no length.
                pick = int(np.argmax(nearest_N))
        else:
            pick = int(np.argmax(free_N))
        picks[i], distances[i] = pick, np.sqrt(nearest_N[pick])
        free_N[pick] = False
        away_N = np.maximum(squared_N + squared_N[pick] - 2.0 * (scaled @ scaled[pick]), 0.0)
        away_N[away_N < 1e-6 * (squared_N + squared_N[pick])] = 0.0  # What single precision leaves of equal rows.
        np.minimum(nearest_N, away_N, out=nearest_N)
        nearest_N[~free_N] = 0.0
    return picks, distances


def typicality(
    pool_emb: NDArray[np.float32], labelled_emb: NDArray[np.float32], *, budget: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Picks the most typical row of each of the largest groups that nothing labelled belongs to: for budgets of a few labels a class.

    Pool and labelled rows are parted into as many clusters as there will be labels (at most 500). Clusters are taken in turn, those with
    the fewest labelled rows first and among them the largest; from each the row with the smallest mean distance to its 20 nearest
    neighbours within the cluster. A cluster that was picked from counts as having one more label.

    Source: Hacohen, Dekel and Weinshall, "Active Learning on a Budget: Opposite Strategies Suit High and Low Budgets", ICML 2022,
    section 3.2 (TPC_RP, with k-means); clusters of fewer than 5 rows are left to the end, as there.

    Args:
        pool_emb: Shape (N, D), unit length.
        labelled_emb: Shape (L, D), unit length; L may be 0.
        budget: 1 <= budget <= N.
        seed: Of the clustering.
    Returns:
        Positions in the pool, shape (budget,), in picking order; and how many pool rows the cluster of each has.
    Raises:
        InvalidInput: Shapes that disagree, a budget out of range.
    """
    _check(pool_emb, budget=budget)
    count = len(pool_emb)
    both = np.concatenate([pool_emb, labelled_emb.reshape(-1, pool_emb.shape[1])]).astype(np.float32)
    clusters = min(len(labelled_emb) + budget, MOST_CLUSTERS, len(both))
    cluster_of = _clustered(both, clusters=clusters, seed=seed)
    labels_C = np.bincount(cluster_of[count:], minlength=clusters)
    members = [np.flatnonzero(cluster_of[:count] == cluster) for cluster in range(clusters)]
    sizes_C = np.array([len(rows) for rows in members], dtype=np.int64)
    orders: dict[int, list[int]] = {}
    picks = np.empty(budget, dtype=np.int64)
    sizes = np.empty(budget, dtype=np.int64)
    left_C = sizes_C.copy()
    for i in range(budget):
        open_clusters = np.flatnonzero(left_C > 0)
        small = sizes_C[open_clusters] < 5
        order = np.lexsort((open_clusters, -sizes_C[open_clusters], labels_C[open_clusters], small))
        cluster = int(open_clusters[order[0]])
        if cluster not in orders:
            orders[cluster] = _most_typical_last(pool_emb, members[cluster])
        picks[i], sizes[i] = orders[cluster].pop(), sizes_C[cluster]
        labels_C[cluster] += 1
        left_C[cluster] -= 1
    return picks, sizes


def _clustered(emb: NDArray[np.float32], *, clusters: int, seed: int) -> NDArray[np.int64]:
    """K-means by FAISS: for each row its cluster."""
    import faiss

    rows = np.ascontiguousarray(emb)
    if clusters >= len(rows):
        return np.arange(len(rows), dtype=np.int64)
    fitted = faiss.Kmeans(
        rows.shape[1],
        clusters,
        niter=_ITERATIONS,
        seed=seed % 2**31,
        min_points_per_centroid=1,
        max_points_per_centroid=max(1, -(-len(rows) // clusters)),
        gpu=False,
    )
    fitted.train(rows)
    nearest: NDArray[np.int64] = fitted.index.search(rows, 1)[1][:, 0]
    return nearest


def _most_typical_last(pool_emb: NDArray[np.float32], rows: NDArray[np.int64]) -> list[int]:
    if len(rows) == 1:
        return [int(rows[0])]
    neighbours = min(NEIGHBOURS, len(rows) - 1)
    emb = pool_emb[rows]
    spread_N = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), 2048):  # Never all pairs at once.
        alike = emb[start : start + 2048] @ emb.T
        alike[np.arange(len(alike)), np.arange(start, start + len(alike))] = -np.inf
        nearest = np.partition(alike, len(rows) - neighbours, axis=1)[:, -neighbours:]
        spread_N[start : start + 2048] = np.sqrt(np.maximum(2.0 - 2.0 * nearest, 0.0)).mean(axis=1)
    order = np.lexsort((-rows, -spread_N))  # Equal ones by position, the lowest last: it is popped first.
    return [int(row) for row in rows[order]]


def _check(pool_emb: NDArray[np.float32], *, budget: int) -> None:
    if pool_emb.ndim != 2 or not 1 <= budget <= len(pool_emb):
        raise InvalidInput(f"cannot pick {budget} of frames with embeddings of shape {pool_emb.shape}")
