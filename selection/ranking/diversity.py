"""Diversity: picking rows that differ from one another and from what is labelled."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput

Vectors: TypeAlias = NDArray[np.float32] | NDArray[np.float16]

_ROUND_ROWS = 1024
_CATCH_UP_ROWS = 512
_COMPARED_IN_FULL = 2048
_SETTLED_ROWS = 64
_BLOCK_ELEMENTS = 2**23  # 32 MB of similarities at a time.


def k_center_greedy(pool_emb: Vectors, labelled_emb: Vectors, *, budget: int) -> NDArray[np.int64]:
    """Picks pool rows that cover the embedding space left uncovered by the labelled rows.

    N pool frames, L labelled frames, D embedding size; rows are unit length (those in half precision are brought back to it). The answer
    is that of the plain algorithm in double precision, whatever the machine: a row's distance only shrinks as centres come, so only
    rows that could be the farthest are brought up to date, in blocks of single precision, and what rounding leaves open is settled in
    double. Time O(N * (L + budget)) at worst, in practice a few times less; memory O(N * D).
    Sources: Sener and Savarese, "Active Learning for CNNs: A Core-Set Approach", ICLR 2018, Algorithm 1; Minoux, "Accelerated greedy
    algorithms for maximizing submodular set functions", 1978, for the lazy updates.

    Args:
        pool_emb: Shape (N, D).
        labelled_emb: Shape (L, D); L may be 0, then the first pick is the row nearest the pool mean.
        budget: Rows to pick, 1 <= budget <= N.
    Returns:
        Positions into pool_emb, shape (budget,), in picking order. Ties go to the lower position; rows nearer to a centre than rounding
        can tell (a cosine distance of about 2e-5) all tie.
    Raises:
        InvalidInput: The shapes disagree or the budget is out of range.
    """
    return k_center_greedy_with_distances(pool_emb, labelled_emb, budget=budget)[0]


def k_center_greedy_with_distances(
    pool_emb: Vectors, labelled_emb: Vectors, *, budget: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Like `k_center_greedy`, and how far each pick was from everything labelled or picked before it.

    Returns:
        Positions, shape (budget,), and cosine distances in [0, 2], shape (budget,); the first distance is infinite when nothing is
        labelled.
    """
    _check(pool_emb, labelled_emb, budget=budget)
    search = _LazyGreedy(_single(pool_emb), _single(labelled_emb), budget=budget)
    search.run()
    return search.picks, search.distances


class _LazyGreedy:
    """The state of one run: what is known of each row's similarity to its nearest centre, and up to which centre.

    `near_N` is never above the true value by more than rounding, and equal to it but for rounding where `seen_N` is the number of
    centres, unless the row is `unsure`: not yet compared with all that are labelled. `exact_N` is the same in double
    precision, as of the first `exact_seen_N` centres.
    """

    def __init__(self, pool: NDArray[np.float32], labelled: NDArray[np.float32], *, budget: int) -> None:
        count, dimension = pool.shape
        self.picks = np.empty(budget, dtype=np.int64)
        self.distances = np.empty(budget, dtype=np.float32)
        self._taken = 0
        self._pool = pool
        self._centres = np.empty((len(labelled) + budget, dimension), dtype=np.float32)
        self._centres[: len(labelled)] = labelled.reshape(len(labelled), dimension)
        self._labelled = self._count = len(labelled)
        self._near_N: NDArray[np.float32] = np.full(count, -np.inf, dtype=np.float32)
        self._seen_N = np.zeros(count, dtype=np.int64)
        self._unsure_N = np.zeros(count, dtype=bool)
        self._exact_N = np.full(count, -np.inf, dtype=np.float64)
        self._exact_seen_N = np.zeros(count, dtype=np.int64)
        # Rounding errors of a sum of D products of unit rows grow with sqrt(D); four times that holds but for one row in thousands of
        # millions: Higham and Mary, "A New Approach to Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput. 2019.
        self._slack = 4.0 * max(4.0, float(np.sqrt(dimension))) * 2.0**-24

    def run(self) -> None:
        """Picks until the budget is spent."""
        if self._count:
            self._near_N = _similarity_bound(self._pool, self._centres[: self._labelled])
            self._seen_N[:] = self._labelled
            self._unsure_N[:] = self._labelled > _COMPARED_IN_FULL
        else:
            self._take(self._nearest_to_the_mean(), distance=np.inf)
            np.matmul(self._pool, self._centres[0], out=self._near_N)
            self._near_N[self.picks[0]] = np.inf
            self._seen_N[:] = 1
        while self._taken < len(self.picks):
            self._round()

    def _round(self) -> None:
        """Brings the rows that may be the farthest up to date and picks among them, as long as no other row can be farther."""
        rows, bound = self._worst()
        self._catch_up(rows, bound)
        rows = rows[self._near_N[rows] <= bound]
        block, near = self._pool[rows], self._near_N[rows]
        while self._taken < len(self.picks) and len(rows):
            place = int(np.argmin(near))
            least = float(near[place])
            if least > bound - 2 * self._slack:
                break
            if least >= 1.0 - 4 * self._slack:
                self._take_the_rest()
                return
            rivals = np.flatnonzero(near <= least + 2 * self._slack)
            if len(rivals) > 1:
                place, least = self._settled(rows, rivals, near)
            self._take(int(rows[place]), distance=1.0 - least)
            np.maximum(near, block @ block[place], out=near)
            near[place] = np.inf  # Picked once; duplicates of it are merely very near.
            self._near_N[rows], self._seen_N[rows] = near, self._count
            still = near <= bound
            if 2 * np.count_nonzero(still) < len(rows):
                rows, block, near = rows[still], block[still], near[still]

    def _worst(self) -> tuple[NDArray[np.int64], float]:
        """Rows that may be the farthest, ascending, and the similarity that all others exceed but for rounding."""
        if self._near_N.size <= _ROUND_ROWS:
            return np.flatnonzero(np.isfinite(self._near_N) | (self._near_N < 0)), np.inf
        bound = float(np.partition(self._near_N, _ROUND_ROWS)[_ROUND_ROWS]) + 4 * self._slack
        return np.flatnonzero(self._near_N <= bound), bound

    def _catch_up(self, rows: NDArray[np.int64], bound: float) -> None:
        """Compares rows with the picks that they have not seen, and those that are still within the bound with everything labelled."""
        behind = rows[self._seen_N[rows] < self._count]
        behind = behind[np.argsort(self._seen_N[behind], kind="stable")]
        for start in range(0, len(behind), _CATCH_UP_ROWS):
            some = behind[start : start + _CATCH_UP_ROWS]
            self._compare(some, self._centres[self._seen_N[some[0]] : self._count])
        self._seen_N[behind] = self._count
        # The labelled are many and the picks few: whatever lies near to a pick never has to be compared with them.
        unsure = rows[self._unsure_N[rows] & (self._near_N[rows] <= bound)]
        self._compare(unsure, self._centres[: self._labelled])
        self._unsure_N[unsure] = False

    def _compare(self, rows: NDArray[np.int64], centres: NDArray[np.float32]) -> None:
        self._near_N[rows] = np.maximum(self._near_N[rows], nearest_similarity(self._pool[rows], centres))

    def _settled(
        self, rows: NDArray[np.int64], rivals: NDArray[np.int64], near: NDArray[np.float32]
    ) -> tuple[int, float]:
        """Which of the rivals is the farthest in double precision, and its similarity; the lowest position where they tie."""
        if (self._exact_seen_N[rows[rivals]] == 0).any():
            # Whoever is nearly the farthest now will be a rival soon, and many together cost little more than one.
            soon = np.argpartition(near, _SETTLED_ROWS)[:_SETTLED_ROWS] if len(near) > _SETTLED_ROWS else rivals
            every = rows[np.union1d(rivals, soon)]
            self._settle(every[self._exact_seen_N[every] == 0])
        asked = rows[rivals]
        self._settle(asked[self._exact_seen_N[asked] < self._count])
        exact = self._exact_N[asked]
        best = int(np.argmin(exact))
        return int(rivals[best]), float(exact[best])

    def _settle(self, rows: NDArray[np.int64]) -> None:
        """Brings rows up to date in double precision."""
        if not len(rows):
            return
        centres = self._centres[int(self._exact_seen_N[rows].min()) : self._count]
        step = max(1, _BLOCK_ELEMENTS // len(centres))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            exact = _exactly_nearest(self._pool[some], centres, slack=self._slack)
            self._exact_N[some] = np.maximum(self._exact_N[some], exact)
        self._exact_seen_N[rows] = self._count

    def _nearest_to_the_mean(self) -> int:
        count = len(self._pool)
        total = np.zeros(self._pool.shape[1], dtype=np.float64)
        for start in range(0, count, 4096):
            total += self._pool[start : start + 4096].sum(axis=0, dtype=np.float64)
        mean = total / count
        close = self._pool @ mean.astype(np.float32)
        rivals = np.flatnonzero(close >= close.max() - 2 * self._slack)
        exact = np.array([(self._pool[row].astype(np.float64) * mean).sum() for row in rivals.tolist()])
        return int(rivals[int(np.argmax(exact))])

    def _take(self, row: int, *, distance: float) -> None:
        self.picks[self._taken], self.distances[self._taken] = row, distance
        self._centres[self._count] = self._pool[row]
        self._taken += 1
        self._count += 1

    def _take_the_rest(self) -> None:
        """Everything left lies on a centre as far as rounding can tell."""
        left = np.ones(len(self._pool), dtype=bool)
        left[self.picks[: self._taken]] = False
        self.picks[self._taken :] = np.flatnonzero(left)[: len(self.picks) - self._taken]
        self.distances[self._taken :] = 0.0
        self._taken = len(self.picks)


def _similarity_bound(pool: NDArray[np.float32], labelled: NDArray[np.float32]) -> NDArray[np.float32]:
    """A lower bound on each pool row's largest similarity to a labelled row; exact for `_COMPARED_IN_FULL` labelled rows or fewer.

    With more, each row is compared with every so-manieth of them, and with all that lie nearest to the same of those: that finds most
    rows a neighbour near enough to never look at them again.
    """
    if len(labelled) <= _COMPARED_IN_FULL:
        return nearest_similarity(pool, labelled)
    pivots = labelled[:: -(-len(labelled) // 256)]
    bound_N = np.empty(len(pool), dtype=np.float32)
    pool_cell_N = np.empty(len(pool), dtype=np.int64)
    step = _BLOCK_ELEMENTS // len(pivots)
    for start in range(0, len(pool), step):
        near = pool[start : start + step] @ pivots.T
        pool_cell_N[start : start + step] = near.argmax(axis=1)
        bound_N[start : start + step] = near.max(axis=1)
    cells = np.concatenate(
        [(labelled[start : start + step] @ pivots.T).argmax(axis=1) for start in range(0, len(labelled), step)]
    )
    members, rows = _by_cell(cells, len(pivots)), _by_cell(pool_cell_N, len(pivots))
    for ours, theirs in zip(rows, members, strict=True):
        if len(ours) and len(theirs):
            bound_N[ours] = np.maximum(bound_N[ours], nearest_similarity(pool[ours], labelled[theirs]))
    return bound_N


def _by_cell(cell_N: NDArray[np.int64], cells: int) -> list[NDArray[np.int64]]:
    order = np.argsort(cell_N, kind="stable")
    return np.split(order, np.cumsum(np.bincount(cell_N, minlength=cells))[:-1])


def nearest_similarity(rows_ND: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row's largest similarity to a centre, -inf where there is no centre; in blocks."""
    near_N = np.full(len(rows_ND), -np.inf, dtype=np.float32)
    wide = min(len(centres), 4096)
    step = max(1, _BLOCK_ELEMENTS // max(1, wide))
    for start in range(0, len(rows_ND), step):
        for first in range(0, len(centres), wide):
            near = (rows_ND[start : start + step] @ centres[first : first + wide].T).max(axis=1)
            np.maximum(near_N[start : start + step], near, out=near_N[start : start + step])
    return near_N


def _exactly_nearest(
    rows_ND: NDArray[np.float32], centres: NDArray[np.float32], *, slack: float
) -> NDArray[np.float64]:
    """Each row's largest similarity to a centre in double precision, in which products of single ones are exact."""
    near_NC = rows_ND @ centres.T
    row_of, centre_of = np.nonzero(near_NC >= near_NC.max(axis=1, keepdims=True) - 2 * slack)
    exact_N = np.full(len(rows_ND), -np.inf)
    for start in range(0, len(row_of), 4096):
        ours, theirs = row_of[start : start + 4096], centre_of[start : start + 4096]
        # A sum along the last axis goes the same way for every row, so equal rows come out equal; a matrix product's need not.
        products = (rows_ND[ours].astype(np.float64) * centres[theirs]).sum(axis=1)
        np.maximum.at(exact_N, ours, products)
    return exact_N


def _single(emb: Vectors) -> NDArray[np.float32]:
    """Single precision; what came in half precision has unit length only roughly and gets it back."""
    single = np.ascontiguousarray(emb, dtype=np.float32)
    if emb.dtype != np.float16 or not len(emb):
        return single
    lengths = np.sqrt(np.einsum("nd,nd->n", single, single))[:, np.newaxis]
    unit: NDArray[np.float32] = single / np.maximum(lengths, np.float32(1e-12))
    return unit


def _check(pool_emb: Vectors, labelled_emb: Vectors, *, budget: int) -> None:
    if (
        pool_emb.ndim != 2
        or labelled_emb.ndim != 2
        or (len(labelled_emb) and pool_emb.shape[1] != labelled_emb.shape[1])
    ):
        raise InvalidInput(f"embeddings of shapes {pool_emb.shape} and {labelled_emb.shape} do not belong together")
    if not 1 <= budget <= len(pool_emb):
        raise InvalidInput(f"cannot pick {budget} of {len(pool_emb)} frames")
