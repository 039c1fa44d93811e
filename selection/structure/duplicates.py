"""Near-duplicates: groups of frames that show the same, by embedding and by perceptual hash, with one frame to keep of each.

What a group is follows from what it is for: putting frames aside without losing anything. So every frame that is put aside is itself a
duplicate of its keeper (cosine similarity or hash), its keeper is at least as good as it is, and no two keepers are duplicates of one
another. Groups of all that hangs together through pairs (connected components) would be larger and need fewer keepers, but along a drive each
frame is like the next one, and the ends of such a chain show different places.

That is the greedy cover of the fleet by its best frames: in order of preference, whoever no keeper shows becomes one. It is carried out in
blocks: a block is compared with the keepers so far (`selection.structure.keepers`), and what is left of it with itself. So all pairs are
never held, nor looked at, vectors are only read in blocks, and rows that come later join the keepers that are there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.structure.keepers import Keepers, Likeness, Rows

Progress = Callable[[int, int], None]

DEFAULT_THRESHOLD = 0.95
"""Cosine similarity from which frames are near-duplicates at least, see `calibrated_threshold`."""
MOST_THRESHOLD = 0.999
"""Beyond it half precision tells nothing apart."""
CHANCE_PAIRS = 10_000
CALIBRATION_ROWS = 4096
FAR_APART_MS = 3_600_000
DEFAULT_HAMMING = 4
MOST_HAMMING = 12
WORKING_MEMORY_BYTES = 512 * 2**20
"""What grouping 100,000 rows may take beside its arguments; a test holds it to that."""

_CALIBRATION_BLOCK = 512
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


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """From which cosine similarity frames are near-duplicates, and why from there."""

    threshold: float
    basis: str


def calibrated_threshold(
    emb_SD: NDArray[np.floating], *, drive_S: NDArray[np.integer], captured_ms_S: NDArray[np.int64]
) -> Calibration:
    """The similarity that frames have by chance in one of 10,000 pairs, and at least 0.95.

    Encoders differ in how alike all their vectors are: in some, any two roads reach 0.95, which says nothing there. Frames of different drives
    are hardly ever the same picture, so how alike those are shows what likeness says. Where there is one drive or none, frames an hour apart
    stand in for them. S sampled rows, D embedding size; time O(S * S * D), memory O(S * block) beside the similarities above 0.95.

    Args:
        emb_SD: Unit length; some thousand rows of the fleet drawn at random.
        drive_S: Number of each row's drive, negative where it has none, shape (S,).
        captured_ms_S: Milliseconds since 1970, negative where the time is not known, shape (S,).
    Returns:
        0.95 where there are fewer than 10,000 such pairs to judge by; never above 0.999.
    """
    drives = drive_S >= 0
    if len(np.unique(drive_S[drives])) > 1:
        which, known, value_S, least = "different drives", drives, drive_S.astype(np.int64), 1
    else:
        which, known, value_S, least = "different hours", captured_ms_S >= 0, captured_ms_S, FAR_APART_MS
    emb, value = emb_SD[known].astype(np.float32), value_S[known]
    alike: list[NDArray[np.float32]] = []
    pairs = 0
    for start in range(0, len(emb), _CALIBRATION_BLOCK):
        stop = start + _CALIBRATION_BLOCK
        apart = np.abs(value[start:stop, np.newaxis] - value[np.newaxis, start:]) >= least
        apart = np.triu(apart, k=1)
        near = emb[start:stop] @ emb[start:].T
        pairs += int(apart.sum())
        alike.append(near[apart & (near > DEFAULT_THRESHOLD)])
    if pairs < CHANCE_PAIRS:
        return Calibration(
            threshold=DEFAULT_THRESHOLD, basis=f"not calibrated: there are only {pairs} pairs of frames of {which}"
        )
    above, rank = np.sort(np.concatenate(alike))[::-1], pairs // CHANCE_PAIRS
    if len(above) <= rank:
        basis = f"fewer than 1 in {CHANCE_PAIRS:,} pairs of frames of {which} reach it"
        return Calibration(threshold=DEFAULT_THRESHOLD, basis=basis)
    basis = f"1 in {CHANCE_PAIRS:,} pairs of frames of {which} reaches it"
    return Calibration(threshold=min(MOST_THRESHOLD, round(float(above[rank]), 4)), basis=basis)


def preference(
    sharpness_N: NDArray[np.float64],
    underexposed_N: NDArray[np.float64],
    overexposed_N: NDArray[np.float64],
    *,
    limit_N: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """Whom to keep first: the sharpest, of which parts that are too dark or too bright are taken off; unknown ones last, equal ones by position.

    What is much sharper than the frames around it is often the garbage of a broken file or noise, which must not stand for good frames.

    Args:
        sharpness_N: NaN where it is not known, shape (N,); so are the others.
        underexposed_N: Share of the pixels, 0 to 1.
        overexposed_N: Share of the pixels, 0 to 1.
        limit_N: What is sharper comes after all others, shape (N,), see `sharpness_limits`. None: no limit.
    Returns:
        0 for the best, shape (N,).
    """
    exposed = np.clip(1.0 - np.nan_to_num(underexposed_N) - np.nan_to_num(overexposed_N), 0.0, 1.0)
    quality = np.nan_to_num(sharpness_N * exposed, nan=-1.0)
    place = np.empty(len(quality), dtype=np.int64)
    beyond = np.zeros(len(quality), dtype=bool) if limit_N is None else sharpness_N > limit_N
    place[np.lexsort((-quality, beyond))] = np.arange(len(quality))
    return place


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
