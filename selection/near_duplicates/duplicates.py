"""Near-duplicates: groups of frames that show the same, by embedding and by perceptual hash, with one frame to keep of each.

What a group is follows from what it is for: putting frames aside without losing anything. So every frame that is put aside is itself a
duplicate of its keeper (cosine similarity or hash), its keeper is at least as good as it is, and no two keepers are duplicates of one
another. Groups of all that hangs together through pairs (connected components) would be larger and need fewer keepers, but along a drive each
frame is like the next one, and the ends of such a chain show different places.

That is the greedy cover of the fleet by its best frames: in order of preference, whoever no keeper shows becomes one. It is carried out in
blocks: a block is compared with the keepers so far (`selection.near_duplicates.keepers`), and what is left of it with itself. So all pairs are
never held, nor looked at, vectors are only read in blocks, and rows that come later join the keepers that are there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.near_duplicates.calibration import DEFAULT_THRESHOLD
from selection.near_duplicates.keepers import Keepers, Likeness, Rows

Progress = Callable[[int, int], None]

DEFAULT_HAMMING = 4
MOST_HAMMING = 12
WORKING_MEMORY_BYTES = 512 * 2**20
"""What grouping 100,000 rows may take beside its arguments; a test holds it to that."""

_BLOCK_ROWS = 8192
_COVER_ROWS = 256


class Vectors(Protocol):
    """Vectors by position; an array is one."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, positions: NDArray[np.int64], /) -> NDArray[np.floating]:
        """Shape (len(positions), D), unit length; zeros where there is none."""


@dataclass(frozen=True, kw_only=True)
class DuplicateGroups:
    """Who stands for whom.

    Attributes:
        keeper_N: Position of each row's keeper, its own where it is one.
    """

    keeper_N: NDArray[np.int64]

    @property
    def keepers(self) -> NDArray[np.int64]:
        """Positions that remain when duplicates go, ascending."""
        return np.flatnonzero(self.keeper_N == np.arange(len(self.keeper_N)))

    def groups(self) -> list[NDArray[np.int64]]:
        """Positions of each group of two and more, its keeper first and the others ascending; larger groups first, then by keeper."""
        return groups_of(np.arange(len(self.keeper_N)), self.keeper_N)


def groups_of(rows: NDArray[np.int64], keeper_N: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Groups of two and more of some rows, ascending, by their keepers, which need not be among them.

    Returns:
        The keeper first where it is among the rows, the others ascending; larger groups first, then by keeper.
    """
    order = np.lexsort((rows, rows != keeper_N, keeper_N))
    starts = np.flatnonzero(np.diff(keeper_N[order], prepend=-1))
    sizes = np.diff(np.append(starts, len(order)))
    chosen = np.flatnonzero(sizes > 1)
    chosen = chosen[np.argsort(-sizes[chosen], kind="stable")]
    return [rows[order[starts[i] : starts[i] + sizes[i]]] for i in chosen.tolist()]


def near_duplicate_groups(
    emb_ND: Vectors | None,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    hashes_N: NDArray[np.uint64] | None = None,
    max_hamming: int = DEFAULT_HAMMING,
    priority_N: NDArray[np.int64] | None = None,
    within_N: NDArray[np.integer] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> DuplicateGroups:
    """Groups rows that are near-duplicates by embedding or by hash.

    N rows, K keepers, D embedding size. Time O(N * sqrt(K) * D) beside what comparing a block with itself takes, memory O(N + K * D) in the
    precision that the vectors come in.

    Args:
        emb_ND: Vectors, read in blocks; a row of zeros has no vector. None: by hash alone.
        threshold: Cosine similarity from which two rows are duplicates.
        hashes_N: 64-bit perceptual hashes, shape (N,); 0 is none (it is the hash of a picture without features). None: by embedding alone.
        max_hamming: Bits in which the hashes of duplicates may differ.
        priority_N: Whom to keep first, the lowest number before all others; equal numbers by position. None: by position.
        within_N: Only rows with the same number here, for example of the same drive, are compared. None: all.
        seed: Draws the cells.
        progress: Called with rows done and rows to do.
    Returns:
        The same for the same arguments. Up to about five hundred keepers the greedy cover exactly; beyond, a keeper in a far cell may be
        missed, so that of a hundred pairs of duplicates fewer than one is kept twice.
    Raises:
        InvalidInput: Shapes disagree, or a threshold is out of range.
    """
    count = _check(emb_ND, threshold, hashes_N, max_hamming, priority_N, within_N)
    hashes = np.zeros(count, dtype=np.uint64) if hashes_N is None else hashes_N.astype(np.uint64)
    groups = np.zeros(count, dtype=np.int64) if within_N is None else within_N.astype(np.int64)

    def read(positions: NDArray[np.int64]) -> Rows:
        emb = None if emb_ND is None else emb_ND[positions]
        return Rows(ids=positions, emb_ND=emb, hashes_N=hashes[positions], groups_N=groups[positions])

    keepers = Keepers(threshold=threshold, max_hamming=max_hamming, seed=seed)
    order = np.arange(count) if priority_N is None else np.argsort(priority_N, kind="stable")
    likeness = Likeness(threshold=threshold, max_hamming=max_hamming)
    return DuplicateGroups(keeper_N=joined(keepers, order, read=read, likeness=likeness, progress=progress))


def joined(
    keepers: Keepers,
    order: NDArray[np.int64],
    *,
    read: Callable[[NDArray[np.int64]], Rows],
    likeness: Likeness,
    progress: Progress | None = None,
) -> NDArray[np.int64]:
    """Gives every row a keeper: one that is there, or one of the rows, which then is there for those that follow.

    Args:
        keepers: Grows.
        order: Positions `0 .. N - 1` in order of preference.
        read: What is known of the rows at some positions.
        likeness: As that of the keepers.
        progress: Called with rows done and rows to do.
    Returns:
        Ids of keepers by position, shape (N,).
    """
    keeper_N = np.empty(len(order), dtype=np.int64)
    for start in range(0, len(order), _BLOCK_ROWS):
        positions = order[start : start + _BLOCK_ROWS]
        rows = read(positions)
        found = keepers.find(rows)
        left = np.flatnonzero(found < 0)
        if len(left):
            open_ = rows.take(left)
            places = _cover(open_, likeness)
            found[left] = open_.ids[places]
            keepers.add(open_.take(np.flatnonzero(places == np.arange(len(places)))))
        keeper_N[positions] = found
        if progress is not None:
            progress(min(start + _BLOCK_ROWS, len(order)), len(order))
    return keeper_N


def _cover(rows: Rows, likeness: Likeness) -> NDArray[np.int64]:
    """The greedy cover of rows that come in order of preference: for each the place of its keeper."""
    keeper = np.full(len(rows), -1, dtype=np.int64)
    left: NDArray[np.int64] = np.arange(len(rows))
    while len(left):
        block, later = left[:_COVER_ROWS], left[_COVER_ROWS:]
        ours = rows.take(block)
        alike, near = likeness(ours, ours)
        own = np.zeros(len(block), dtype=bool)
        shown = np.zeros(len(block), dtype=bool)
        for place in range(len(block)):
            if not shown[place]:
                own[place] = True
                shown |= alike[place]
        keeper[block] = block[_most_alike(alike, near, own, before=np.arange(len(block)))]
        kept = block[own]
        theirs = rows.take(kept)
        remaining = []
        for start in range(0, len(later), 32 * _COVER_ROWS):
            part = later[start : start + 32 * _COVER_ROWS]
            alike, near = likeness(rows.take(part), theirs)
            hit = alike.any(axis=1)
            keeper[part[hit]] = kept[np.where(alike[hit], near[hit], -np.inf).argmax(axis=1)]
            remaining.append(part[~hit])
        left = np.concatenate([*remaining, later[:0]])
    return keeper


def _most_alike(
    alike: NDArray[np.bool_], near: NDArray[np.float32], own: NDArray[np.bool_], *, before: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each row of a block the keeper that it is most like among those before it; a keeper is its own."""
    allowed = alike & own & (before[np.newaxis, :] < before[:, np.newaxis])
    nearest = np.where(allowed, near, -np.inf).argmax(axis=1)
    return np.where(own, before, nearest)


def _check(
    emb_ND: Vectors | None,
    threshold: float,
    hashes_N: NDArray[np.uint64] | None,
    max_hamming: int,
    priority_N: NDArray[np.int64] | None,
    within_N: NDArray[np.integer] | None,
) -> int:
    if emb_ND is None and hashes_N is None:
        raise InvalidInput("near-duplicates need embeddings or perceptual hashes to compare")
    if isinstance(emb_ND, np.ndarray) and emb_ND.ndim != 2:
        raise InvalidInput(f"embeddings must have shape (rows, dimensions), not {emb_ND.shape}")
    if not 0.5 <= threshold <= 1.0:
        raise InvalidInput(f"a similarity threshold for duplicates lies between 0.5 and 1, not at {threshold}")
    if not 0 <= max_hamming <= MOST_HAMMING:
        raise InvalidInput(f"hashes of duplicates may differ in 0 to {MOST_HAMMING} bits, not in {max_hamming}")
    lengths = {len(one) for one in (emb_ND, hashes_N, priority_N, within_N) if one is not None}
    if len(lengths) != 1:
        raise InvalidInput(f"embeddings, hashes, priorities and groups are of different length: {sorted(lengths)}")
    return lengths.pop()
