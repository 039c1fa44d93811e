"""The frames that are kept of near-duplicates so far, and which of them shows what another frame shows.

Every frame is compared with keepers only, never with all frames: those in the few cells nearest to it, around keepers drawn as pivots (the
inverted file of Jegou et al., "Product Quantization for Nearest Neighbor Search", PAMI 2011, with the probing of several lists). Hashes are
compared where two of `max_hamming + 2` bands of bits agree: of two hashes that differ in `max_hamming` bits, two bands must (Norouzi et
al., "Fast Search in Hamming Space with Multi-Index Hashing", CVPR 2012), so of those none is missed.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PROBES = 6
_COMPARED_IN_FULL = 512
_MOST_CELLS = 2048
_TILE = 2**22
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What is known of some rows.

    Attributes:
        ids: How they are called, shape (N,), for example their row.
        emb_ND: Shape (N, D), unit length, zeros for a row without a vector; None: all are without.
        hashes_N: 64-bit perceptual hashes, 0 for a row without.
        groups_N: Only rows of the same group are compared.
    """

    ids: NDArray[np.int64]
    emb_ND: NDArray[np.floating] | None
    hashes_N: NDArray[np.uint64]
    groups_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> Rows:
        """Some of them."""
        return Rows(
            ids=self.ids[places],
            emb_ND=None if self.emb_ND is None else self.emb_ND[places],
            hashes_N=self.hashes_N[places],
            groups_N=self.groups_N[places],
        )


class Keepers:
    """Grows by keepers, and finds the keeper of a row."""

    def __init__(self, *, threshold: float, max_hamming: int, seed: int = 0) -> None:
        """None yet.

        Args:
            threshold: Cosine similarity from which two rows are duplicates.
            max_hamming: Bits in which the hashes of duplicates may differ.
            seed: Draws the pivots.
        """
        self._threshold, self._max_hamming, self._seed = threshold, max_hamming, seed
        self._vectors = _Cells(seed=seed)
        self._hashes = [_Bands(max_hamming), _Bands(max_hamming)]
        self._ids: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._groups: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, rows: Rows) -> None:
        """Takes in keepers."""
        first = len(self._ids)
        self._ids = np.concatenate([self._ids, rows.ids])
        self._groups = np.concatenate([self._groups, rows.groups_N])
        if rows.emb_ND is not None:
            there = np.flatnonzero(_has_vector(rows.emb_ND))
            self._vectors.add(rows.emb_ND[there], first + there, rows.groups_N[there])
        hashed = np.flatnonzero(rows.hashes_N)
        self._hashes[1].add(rows.hashes_N[hashed], first + hashed, rows.groups_N[hashed])
        if len(self._hashes[1]) > len(self._hashes[0]) // 2:  # Few are sorted in often, all of them seldom.
            self._hashes[0].merge(self._hashes[1])
            self._hashes[1] = _Bands(self._max_hamming)

    def find(self, rows: Rows) -> NDArray[np.int64]:
        """The id of each row's keeper, of several the one it is most like, by hash the first; -1 where it has none. Shape (N,)."""
        number = np.full(len(rows), -1, dtype=np.int64)
        if rows.emb_ND is not None:
            likeness, nearest = self._vectors.nearest(np.asarray(rows.emb_ND, dtype=np.float32), rows.groups_N)
            close = likeness >= self._threshold
            number[close] = nearest[close]
        for bands in self._hashes:
            open_ = np.flatnonzero((number < 0) & (rows.hashes_N != 0))
            if len(open_) and len(bands):
                number[open_] = bands.first(rows.hashes_N[open_], rows.groups_N[open_])
        return np.where(number < 0, -1, self._ids[number]) if len(self._ids) else number


class Likeness:
    """Which rows are duplicates of which others, all with all."""

    def __init__(self, *, threshold: float, max_hamming: int) -> None:
        """See `Keepers`."""
        self._threshold, self._max_hamming = threshold, max_hamming

    def __call__(self, rows: Rows, others: Rows) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Whether they are, and their cosine similarity (0 without vectors), both of shape (rows, others)."""
        near: NDArray[np.float32] = np.zeros((len(rows), len(others)), dtype=np.float32)
        if rows.emb_ND is not None and others.emb_ND is not None:
            near = np.asarray(rows.emb_ND, dtype=np.float32) @ np.asarray(others.emb_ND, dtype=np.float32).T
        alike = near >= self._threshold
        if rows.hashes_N.any() and others.hashes_N.any():
            ours, theirs = rows.hashes_N[:, np.newaxis], others.hashes_N
            alike |= (np.bitwise_count(ours ^ theirs) <= self._max_hamming) & (ours != 0) & (theirs != 0)
        if (rows.groups_N != rows.groups_N[:1]).any() or (others.groups_N != rows.groups_N[:1]).any():
            alike &= rows.groups_N[:, np.newaxis] == others.groups_N
        return alike, near


class _Cells:
    """Vectors by cell; the last ones that came are in no cell yet and compared one by one."""

    def __init__(self, *, seed: int) -> None:
        self._seed = seed
        self._emb: NDArray[np.floating] | None = None
        self._numbers: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._groups: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._count = self._sorted = self._drawn_of = 0
        self._pivots: NDArray[np.float32] = np.empty((0, 0), dtype=np.float32)
        self._starts: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        self._cell_of: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def add(self, emb_ND: NDArray[np.floating], numbers: NDArray[np.int64], groups: NDArray[np.int64]) -> None:
        """Takes vectors with the number and the group of each."""
        if not len(emb_ND):
            return
        room = 0 if self._emb is None else len(self._emb)
        if self._emb is None or self._count + len(emb_ND) > room:
            larger = np.empty(
                (max(1024, 3 * room // 2, self._count + len(emb_ND)), emb_ND.shape[1]), dtype=emb_ND.dtype
            )
            if self._emb is not None:
                larger[: self._count] = self._emb[: self._count]
            self._emb = larger
        self._emb[self._count : self._count + len(emb_ND)] = emb_ND
        self._numbers = np.concatenate([self._numbers, numbers])
        self._groups = np.concatenate([self._groups, groups])
        self._count += len(emb_ND)
        if self._count - self._sorted > max(_COMPARED_IN_FULL, self._sorted // 8):
            self._sort()

    def nearest(
        self, emb_ND: NDArray[np.float32], groups_N: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Likeness to, and number of, the most similar one, -inf and -1 where there is none."""
        best = np.full(len(emb_ND), -np.inf, dtype=np.float32)
        number = np.full(len(emb_ND), -1, dtype=np.int64)
        if self._emb is None:
            return best, number
        everyone = np.arange(len(emb_ND))
        for start in range(self._sorted, self._count, _COMPARED_IN_FULL):
            self._compare(emb_ND, groups_N, everyone, start, min(self._count, start + _COMPARED_IN_FULL), best, number)
        if self._sorted:
            probes = _nearest_pivots(emb_ND, self._pivots, width=min(_PROBES, len(self._pivots)))
            asking = np.argsort(probes.ravel(), kind="stable")
            bounds = np.searchsorted(probes.ravel()[asking], np.arange(len(self._pivots) + 1))
            asking //= probes.shape[1]
            for cell in np.flatnonzero((np.diff(bounds) > 0) & (np.diff(self._starts) > 0)).tolist():
                rows = asking[bounds[cell] : bounds[cell + 1]]
                self._compare(
                    emb_ND, groups_N, rows, int(self._starts[cell]), int(self._starts[cell + 1]), best, number
                )
        return best, number

    def _compare(
        self,
        emb_ND: NDArray[np.float32],
        groups_N: NDArray[np.int64],
        rows: NDArray[np.int64],
        start: int,
        stop: int,
        best: NDArray[np.float32],
        number: NDArray[np.int64],
    ) -> None:
        """Compares rows with the vectors in `[start, stop)` and notes where one is nearer than the best so far."""
        assert self._emb is not None
        theirs = np.asarray(self._emb[start:stop], dtype=np.float32)
        step = max(1, _TILE // len(theirs))
        for first in range(0, len(rows), step):
            some = rows[first : first + step]
            near = emb_ND[some] @ theirs.T
            if (self._groups[start:stop] != groups_N[0]).any() or (groups_N[some] != groups_N[0]).any():
                near[groups_N[some][:, np.newaxis] != self._groups[start:stop]] = -np.inf
            place = near.argmax(axis=1)
            value = near[np.arange(len(some)), place]
            nearer = value > best[some]
            best[some[nearer]] = value[nearer]
            number[some[nearer]] = self._numbers[start + place[nearer]]

    def _sort(self) -> None:
        """Puts all vectors into cells, with fresh pivots when there are twice as many as when they were drawn."""
        assert self._emb is not None
        emb = self._emb[: self._count]
        if self._count >= 2 * self._drawn_of:
            cells = int(np.clip(2 * self._count**0.5, 1, _MOST_CELLS))
            drawn = np.sort(np.random.default_rng(self._seed).choice(self._count, size=cells, replace=False))
            self._pivots, self._drawn_of, self._sorted = np.asarray(emb[drawn], dtype=np.float32), self._count, 0
            self._cell_of = np.empty(0, dtype=np.int64)
        fresh = [
            _nearest_pivots(np.asarray(emb[start : start + 8192], dtype=np.float32), self._pivots, width=1)[:, 0]
            for start in range(self._sorted, self._count, 8192)
        ]
        cell_of = np.concatenate([self._cell_of, *fresh])
        order = np.argsort(cell_of, kind="stable")
        for start in range(0, emb.shape[1], 64):  # By columns: a second copy of everything would be too much.
            emb[:, start : start + 64] = emb[order, start : start + 64]
        self._numbers, self._groups, self._cell_of = self._numbers[order], self._groups[order], cell_of[order]
        self._starts = np.searchsorted(self._cell_of, np.arange(len(self._pivots) + 1))
        self._sorted = self._count


class _Bands:
    """Hashes, sorted by each choice of two bands of their bits."""

    def __init__(self, max_hamming: int) -> None:
        self._max_hamming = max_hamming
        edges = np.linspace(0, 64, max_hamming + 3).astype(int).tolist()
        bands = [sum(1 << bit for bit in range(low, high)) for low, high in itertools.pairwise(edges)]
        self._masks = [np.uint64(one | other) for one, other in itertools.combinations(bands, 2)]
        self._hashes: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self._numbers: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._groups: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._tables: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] | None = None

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, hashes: NDArray[np.uint64], numbers: NDArray[np.int64], groups: NDArray[np.int64]) -> None:
        """Takes hashes with the number and the group of each."""
        self._hashes = np.concatenate([self._hashes, hashes])
        self._numbers = np.concatenate([self._numbers, numbers])
        self._groups = np.concatenate([self._groups, groups])
        self._tables = None

    def merge(self, other: _Bands) -> None:
        """Takes all that another one holds."""
        self.add(other._hashes, other._numbers, other._groups)

    def first(self, hashes_N: NDArray[np.uint64], groups_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each hash the lowest number of those that differ in `max_hamming` bits or fewer, -1 without one."""
        if self._tables is None:
            self._tables = [self._table(mask) for mask in self._masks]
        none = np.iinfo(np.int64).max
        found = np.full(len(hashes_N), none, dtype=np.int64)
        for mask, (keys, order) in zip(self._masks, self._tables, strict=True):
            asked = _keys(hashes_N, groups_N, mask)
            low, high = np.searchsorted(keys, asked, side="left"), np.searchsorted(keys, asked, side="right")
            for start, stop in _pieces(high - low):
                counts = (high - low)[start:stop]
                asker = np.repeat(np.arange(start, stop), counts)
                within = np.arange(len(asker)) - np.repeat(np.cumsum(counts) - counts, counts)
                candidate = order[low[asker] + within]
                close = np.bitwise_count(hashes_N[asker] ^ self._hashes[candidate]) <= self._max_hamming
                close &= groups_N[asker] == self._groups[candidate]
                np.minimum.at(found, asker[close], self._numbers[candidate[close]])
        return np.where(found == none, -1, found)

    def _table(self, mask: np.uint64) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        keys = _keys(self._hashes, self._groups, mask)
        order = np.argsort(keys, kind="stable")
        return keys[order], order


def _keys(hashes: NDArray[np.uint64], groups: NDArray[np.int64], mask: np.uint64) -> NDArray[np.uint64]:
    """The bits of a mask, mixed with the group, so that different groups seldom share a key."""
    keys: NDArray[np.uint64] = (hashes & mask) ^ (groups.view(np.uint64) * _MIX)
    return keys


def _pieces(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Runs whose counts add up to about a tile at most."""
    ends = np.cumsum(counts)
    if not len(ends) or not ends[-1]:
        return []
    cuts = np.unique(np.searchsorted(ends, np.arange(0, int(ends[-1]) + _TILE, _TILE), side="right"))
    bounds = np.unique(np.concatenate([[0], cuts, [len(counts)]])).tolist()
    return list(itertools.pairwise(bounds))


def _nearest_pivots(emb_ND: NDArray[np.float32], pivots: NDArray[np.float32], *, width: int) -> NDArray[np.int64]:
    """For each row the cells nearest to it, shape (N, width)."""
    near = emb_ND @ pivots.T
    if width == 1:
        nearest: NDArray[np.int64] = near.argmax(axis=1)[:, np.newaxis]
        return nearest
    if width >= near.shape[1]:
        return np.tile(np.arange(near.shape[1]), (len(near), 1))
    return np.argpartition(near, -width, axis=1)[:, -width:]


def _has_vector(emb_ND: NDArray[np.floating]) -> NDArray[np.bool_]:
    there: NDArray[np.bool_] = np.any(emb_ND != 0, axis=1)
    return there
