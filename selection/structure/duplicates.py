"""Near-duplicates: groups of frames that show the same, by embedding and by perceptual hash, with one frame to keep of each.

All pairs are never held, nor looked at. Rows are sorted into cells around rows drawn from the fleet itself, so dense regions get many
cells, and each row is compared with the rows of the few cells nearest to it (the inverted file of Jegou et al., "Product Quantization for
Nearest Neighbor Search", PAMI 2011, with the probing of several lists). A pair so close that it counts as duplicate lies in cells that
are near to both, so next to none is missed. Hashes are compared where one of `max_hamming + 1` bands of bits agrees: of two
hashes that differ in `max_hamming` bits, one band must (Norouzi et al., "Fast Search in Hamming Space with Multi-Index Hashing", CVPR 2012),
so of those pairs none is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput

Linkage = Literal["keeper", "chain"]
Progress = Callable[[int, int], None]

DEFAULT_THRESHOLD = 0.95
DEFAULT_HAMMING = 4
MOST_HAMMING = 12
WORKING_MEMORY_BYTES = 512 * 2**20
"""What grouping 100,000 rows may take beside its arguments; a test holds it to that."""

_PROBES = 3
_CELL_ROWS = 200
_MOST_CELLS = 2048
_TILE = 2**21
_PENDING = 2**18
_COVER_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class DuplicateGroups:
    """Who stands for whom.

    Attributes:
        keeper_N: Position of each row's keeper, its own where it is one.
        cluster_N: Lowest position of all rows that a row is connected to through pairs of duplicates, its own where it has none.
    """

    keeper_N: NDArray[np.int64]
    cluster_N: NDArray[np.int64]

    @property
    def keepers(self) -> NDArray[np.int64]:
        """Positions that remain when duplicates go, ascending."""
        return np.flatnonzero(self.keeper_N == np.arange(len(self.keeper_N)))

    def groups(self) -> list[NDArray[np.int64]]:
        """Positions of each group of two and more, its keeper first and the others ascending; larger groups first, then by keeper."""
        order = np.argsort(self.keeper_N, kind="stable")
        sizes = np.bincount(self.keeper_N, minlength=len(self.keeper_N))
        parts = np.split(order, np.cumsum(sizes)[:-1]) if len(order) else []
        found = [np.concatenate([[keeper], part[part != keeper]]) for keeper, part in enumerate(parts) if len(part) > 1]
        return sorted(found, key=lambda group: (-len(group), int(group[0])))


def near_duplicate_groups(
    emb_ND: NDArray[np.floating] | None,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    hashes_N: NDArray[np.uint64] | None = None,
    max_hamming: int = DEFAULT_HAMMING,
    priority_N: NDArray[np.int64] | None = None,
    within_N: NDArray[np.integer] | None = None,
    linkage: Linkage = "keeper",
    seed: int = 0,
    progress: Progress | None = None,
) -> DuplicateGroups:
    """Groups rows that are near-duplicates by embedding or by hash.

    Args:
        emb_ND: Shape (N, D), unit length; a row of zeros has no vector. None: by hash alone.
        threshold: Cosine similarity from which two rows are duplicates.
        hashes_N: 64-bit perceptual hashes, shape (N,); 0 is none (it is the hash of a picture without features). None: by embedding alone.
        max_hamming: Bits in which the hashes of duplicates may differ.
        priority_N: Whom to keep first, the lowest number before all others; equal numbers by position. None: by position.
        within_N: Only rows with the same number here, for example of the same drive, are compared. None: all.
        linkage: `keeper`: every row is a duplicate of its keeper itself, so nothing is dropped that its keeper does not show; a
            cluster may then have several keepers. `chain`: one keeper for all that are connected, however far apart the ends are.
        progress: Called with cells done and cells to do.
    Returns:
        The same for the same arguments, and for embeddings at least 99 % of the pairs.
    Raises:
        InvalidInput: Shapes disagree, or a threshold is out of range.
    """
    count = _check(emb_ND, threshold, hashes_N, max_hamming, priority_N, within_N)
    union = _Union(count)
    if emb_ND is not None:
        for first, second in near_pairs(emb_ND, threshold=threshold, within_N=within_N, seed=seed, progress=progress):
            union.add(first, second)
    if hashes_N is not None:
        for first, second in near_hash_pairs(hashes_N, max_hamming=max_hamming, within_N=within_N):
            union.add(first, second)
    cluster_N = union.labels()
    rank_N = _rank(priority_N, count)
    alike = _Alike(
        emb_ND,
        threshold=threshold,
        hashes_N=hashes_N,
        max_hamming=max_hamming,
        within_N=within_N,
    )
    keeper_N = np.arange(count)
    for members in _clusters(cluster_N):
        ordered = members[np.argsort(rank_N[members], kind="stable")]
        if linkage == "chain" or len(ordered) == 2:
            keeper_N[ordered] = ordered[0]
        else:
            _cover(ordered, alike, keeper_N)
    return DuplicateGroups(keeper_N=keeper_N, cluster_N=cluster_N)


def near_pairs(
    emb_ND: NDArray[np.floating],
    *,
    threshold: float,
    within_N: NDArray[np.integer] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of rows with a cosine similarity of `threshold` and more, in pieces; a pair may come twice, in either order.

    Finds at least 99 % of them; exact up to a few hundred rows.
    """
    rows = np.flatnonzero(np.einsum("nd,nd->n", emb_ND, emb_ND) > 0.25)
    if len(rows) < 2:
        return
    probes_NP, cells = _probes(emb_ND, rows, seed=seed)
    probing = _by_cell(probes_NP.ravel(), cells)
    home = _by_cell(probes_NP[:, 0], cells)
    width = probes_NP.shape[1]
    for cell in range(cells):
        stored, asking = rows[home[cell]], rows[probing[cell] // width]
        if len(stored):
            stored_SD = np.asarray(emb_ND[stored], dtype=np.float32)
            step = max(1, _TILE // len(stored))
            for start in range(0, len(asking), step):
                part = asking[start : start + step]
                close = np.asarray(emb_ND[part], dtype=np.float32) @ stored_SD.T >= threshold
                if within_N is not None:
                    close &= within_N[part][:, np.newaxis] == within_N[stored]
                ours, theirs = np.nonzero(close)
                other = part[ours] != stored[theirs]
                if other.any():
                    yield part[ours[other]], stored[theirs[other]]
        if progress is not None:
            progress(cell + 1, cells)


def near_hash_pairs(
    hashes_N: NDArray[np.uint64], *, max_hamming: int, within_N: NDArray[np.integer] | None = None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of rows whose hashes differ in `max_hamming` bits or fewer, in pieces, all of them or connected through equal hashes."""
    rows = np.flatnonzero(hashes_N)
    # Equal hashes of the same group are one; what they are connected to, all of them are.
    keys = np.stack([hashes_N[rows].astype(np.uint64), _group_of(within_N, rows)])
    unique, first, inverse = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    twin = first[inverse] != np.arange(len(rows))
    yield rows[first[inverse[twin]]], rows[twin]
    values, groups, owner = unique[0], unique[1], rows[first]
    edges = np.linspace(0, 64, max_hamming + 2).astype(int)
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        band = (values >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1)
        order = np.lexsort((band, groups))
        same = (band[order][1:] == band[order][:-1]) & (groups[order][1:] == groups[order][:-1])
        run = np.concatenate([[0], np.cumsum(~same)])
        at, apart = np.flatnonzero(same), 1
        while len(at):  # Each place with the one `apart` places on, as long as they are in the same run.
            here, there = order[at], order[at + apart]
            close = np.bitwise_count(values[here] ^ values[there]) <= max_hamming
            if close.any():
                yield owner[here[close]], owner[there[close]]
            apart += 1
            at = at[at + apart < len(order)]
            at = at[run[at] == run[at + apart]]


class _Alike:
    """Which of some rows are duplicates of which others."""

    def __init__(
        self,
        emb_ND: NDArray[np.floating] | None,
        *,
        threshold: float,
        hashes_N: NDArray[np.uint64] | None,
        max_hamming: int,
        within_N: NDArray[np.integer] | None,
    ) -> None:
        self._emb_ND, self._threshold = emb_ND, threshold
        self._hashes_N, self._max_hamming = hashes_N, max_hamming
        self._within_N = within_N

    def __call__(self, rows: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Shape (rows, others)."""
        close = np.zeros((len(rows), len(others)), dtype=bool)
        if self._emb_ND is not None:
            ours = np.asarray(self._emb_ND[rows], dtype=np.float32)
            theirs = ours if others is rows else np.asarray(self._emb_ND[others], dtype=np.float32)
            close |= ours @ theirs.T >= self._threshold
        if self._hashes_N is not None:
            ours_H, theirs_H = self._hashes_N[rows][:, np.newaxis], self._hashes_N[others]
            near = np.bitwise_count(ours_H ^ theirs_H) <= self._max_hamming
            close |= near & (ours_H != 0) & (theirs_H != 0)
        if self._within_N is not None:
            close &= self._within_N[rows][:, np.newaxis] == self._within_N[others]
        return close


class _Union:
    """Connected components of edges that come in pieces; memory is that of the labels and of one piece."""

    def __init__(self, count: int) -> None:
        self._label_N = np.arange(count)
        self._pending: list[NDArray[np.int64]] = []
        self._size = 0

    def add(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> None:
        new = (
            self._label_N[first] != self._label_N[second]
        )  # In a crowd of duplicates nearly all pairs say nothing new.
        if new.any():
            self._pending.append(np.stack([first[new], second[new]]))
            self._size += int(new.sum())
        if self._size >= _PENDING:
            self._merge()

    def labels(self) -> NDArray[np.int64]:
        """Lowest member of each one's component."""
        self._merge()
        return self._label_N

    def _merge(self) -> None:
        if not self._pending:
            return
        label_N = self._label_N
        edges = np.concatenate(self._pending, axis=1)
        self._pending, self._size = [], 0
        while True:
            first, second = label_N[edges]
            low, high = np.minimum(first, second), np.maximum(first, second)
            open_ = low != high
            if not open_.any():
                return
            edges, low, high = edges[:, open_], low[open_], high[open_]
            np.minimum.at(label_N, high, low)  # Labels are roots here, so this hooks whole components.
            while True:
                up = label_N[label_N]
                if (up == label_N).all():
                    break
                label_N[:] = up


def _probes(emb_ND: NDArray[np.floating], rows: NDArray[np.int64], *, seed: int) -> tuple[NDArray[np.int64], int]:
    """For each row the cells nearest to it, nearest first, shape (rows, probes), and how many cells there are."""
    cells = min(_MOST_CELLS, max(1, len(rows) // _CELL_ROWS))
    drawn = np.sort(np.random.default_rng(seed).choice(rows, size=cells, replace=False))
    pivots = np.asarray(emb_ND[drawn], dtype=np.float32)
    width = min(_PROBES, cells)
    probes_NP = np.empty((len(rows), width), dtype=np.int64)
    step = max(1, _TILE // cells)
    for start in range(0, len(rows), step):
        near = np.asarray(emb_ND[rows[start : start + step]], dtype=np.float32) @ pivots.T
        lines = np.arange(len(near))
        for place in range(width):
            best = near.argmax(axis=1)
            probes_NP[start : start + step, place] = best
            near[lines, best] = -np.inf
    return probes_NP, cells


def _cover(ordered: NDArray[np.int64], alike: _Alike, keeper_N: NDArray[np.int64]) -> None:
    """Goes through a cluster in order: whoever no keeper covers becomes one, and covers its duplicates."""
    left = ordered
    while len(left):
        block, later = left[:_COVER_ROWS], left[_COVER_ROWS:]
        close = alike(block, block)
        open_ = np.ones(len(block), dtype=bool)
        keepers: list[int] = []
        for place in range(len(block)):
            if open_[place]:
                covered = close[place] & open_
                covered[place] = True
                keeper_N[block[covered]] = block[place]
                open_ &= ~covered
                keepers.append(place)
        left = later
        step = max(1, _TILE // len(keepers))
        kept = block[keepers]
        remaining = []
        for start in range(0, len(later), step):
            part = later[start : start + step]
            covers = alike(kept, part)
            hit = covers.any(axis=0)
            keeper_N[part[hit]] = kept[covers.argmax(axis=0)[hit]]
            remaining.append(part[~hit])
        left = np.concatenate(remaining) if remaining else later


def _clusters(cluster_N: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    sizes = np.bincount(cluster_N, minlength=len(cluster_N)) if len(cluster_N) else np.empty(0, dtype=np.int64)
    inside = np.flatnonzero(sizes[cluster_N] > 1)
    order = inside[np.argsort(cluster_N[inside], kind="stable")]
    yield from np.split(order, np.flatnonzero(np.diff(cluster_N[order])) + 1) if len(order) else ()


def _by_cell(cell_N: NDArray[np.int64], cells: int) -> list[NDArray[np.int64]]:
    order = np.argsort(cell_N, kind="stable")
    return np.split(order, np.cumsum(np.bincount(cell_N, minlength=cells))[:-1])


def _group_of(within_N: NDArray[np.integer] | None, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    return np.zeros(len(rows), dtype=np.uint64) if within_N is None else within_N[rows].astype(np.int64).view(np.uint64)


def _rank(priority_N: NDArray[np.int64] | None, count: int) -> NDArray[np.int64]:
    return np.arange(count) if priority_N is None else np.asarray(priority_N)


def _check(
    emb_ND: NDArray[np.floating] | None,
    threshold: float,
    hashes_N: NDArray[np.uint64] | None,
    max_hamming: int,
    priority_N: NDArray[np.int64] | None,
    within_N: NDArray[np.integer] | None,
) -> int:
    if emb_ND is None and hashes_N is None:
        raise InvalidInput("near-duplicates need embeddings or perceptual hashes to compare")
    if emb_ND is not None and emb_ND.ndim != 2:
        raise InvalidInput(f"embeddings must have shape (rows, dimensions), not {emb_ND.shape}")
    if not 0.5 <= threshold <= 1.0:
        raise InvalidInput(f"a similarity threshold for duplicates lies between 0.5 and 1, not at {threshold}")
    if not 0 <= max_hamming <= MOST_HAMMING:
        raise InvalidInput(f"hashes of duplicates may differ in 0 to {MOST_HAMMING} bits, not in {max_hamming}")
    lengths = {len(one) for one in (emb_ND, hashes_N, priority_N, within_N) if one is not None}
    if len(lengths) != 1:
        raise InvalidInput(f"embeddings, hashes, priorities and groups are of different length: {sorted(lengths)}")
    return lengths.pop()
