"""What the structure of a fleet costs: diversity, near-duplicates, slices and map, beside the plain way where there is one.

`python -m tests.benchmarks.structure [ROWS]` prints one JSON line a measurement.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selection.ranking.diversity import k_center_greedy
from selection.structure import duplicates, projection, slices
from tests.benchmarks.vectors import ClipLike

DUPLICATES_THRESHOLD = 0.95


def measure_k_center(emb_ND: NDArray[np.float32], *, budget: int = 1000) -> dict[str, Any]:
    """Seconds of the product and of plain NumPy, and how many picks agree."""
    began = time.perf_counter()
    picks = k_center_greedy(emb_ND, emb_ND[:0], budget=budget)
    product_s, began = time.perf_counter() - began, time.perf_counter()
    plain = plain_k_center(emb_ND, budget=budget)
    plain_s = time.perf_counter() - began
    return {"seconds": product_s, "plain_seconds": plain_s, "same_picks": int((picks == plain).sum()), "budget": budget}


def plain_k_center(emb_ND: NDArray[np.float32], *, budget: int) -> NDArray[np.int64]:
    """The algorithm as one would write it in NumPy."""
    picks = np.empty(budget, dtype=np.int64)
    picks[0] = np.argmax(emb_ND @ emb_ND.mean(axis=0))
    near_N = emb_ND @ emb_ND[picks[0]]
    for i in range(1, budget):
        near_N[picks[:i]] = np.inf
        picks[i] = np.argmin(near_N)
        np.maximum(near_N, emb_ND @ emb_ND[picks[i]], out=near_N)
    return picks


def measure_near_duplicates(emb_ND: NDArray[np.float32], *, threshold: float = DUPLICATES_THRESHOLD) -> dict[str, Any]:
    """Seconds of the product and of all pairs in blocks, and how well the groups fit the exact pairs.

    A group is a keeper and what it shows, not all that hangs together through pairs: see `selection.near_duplicates.duplicates`.

    Returns:
        `kept_twice`: share of the exact pairs of which both frames stay. `in_one_group`: share of them with the same keeper; the others are
        each shown by a keeper of their own. `beyond_keeper`: share of the frames put aside that are less like their keeper than the
        threshold. `merged_too_far`: share of the pairs within groups whose similarity is below what two duplicates of one frame can have.
    """
    began = time.perf_counter()
    groups = duplicates.near_duplicate_groups(emb_ND, threshold=threshold)
    product_s, began = time.perf_counter() - began, time.perf_counter()
    keeper_N = groups.keeper_N
    kept = keeper_N == np.arange(len(keeper_N))
    pairs = twice = together = 0
    for start in range(0, len(emb_ND), 2048):
        first, second = np.nonzero(emb_ND[start : start + 2048] @ emb_ND[start:].T >= threshold)
        later = second > first
        first, second = first[later] + start, second[later] + start
        pairs += len(first)
        twice += int((kept[first] & kept[second]).sum())
        together += int((keeper_N[first] == keeper_N[second]).sum())
    return {
        "seconds": product_s,
        "all_pairs_seconds": time.perf_counter() - began,
        "pairs": pairs,
        "kept": int(kept.sum()),
        "kept_twice": twice / max(1, pairs),
        "in_one_group": together / max(1, pairs),
    } | _merged(emb_ND, groups, threshold=threshold)


def _merged(emb_ND: NDArray[np.float32], groups: duplicates.DuplicateGroups, *, threshold: float) -> dict[str, float]:
    aside = np.flatnonzero(groups.keeper_N != np.arange(len(emb_ND)))
    to_keeper = np.einsum("nd,nd->n", emb_ND[aside], emb_ND[groups.keeper_N[aside]])
    inside = far = 0
    for group in groups.groups():
        near = emb_ND[group] @ emb_ND[group].T
        inside += len(group) * (len(group) - 1)
        far += int((near < 2 * threshold**2 - 1 - 1e-3).sum())  # Twice the angle of the threshold.
    return {"beyond_keeper": float((to_keeper < threshold - 1e-3).mean()), "merged_too_far": far / max(1, inside)}


def measure_slices(emb_ND: NDArray[np.float32], *, count: int = 20) -> dict[str, Any]:
    """Seconds to part the fleet into slices."""
    began = time.perf_counter()
    found = slices.slices(emb_ND, np.arange(len(emb_ND)), count=count)
    return {"seconds": time.perf_counter() - began, "slices": len(found)}


def measure_map(emb_ND: NDArray[np.float32]) -> dict[str, Any]:
    """Seconds to fit the map on a sample and to place every row."""
    began = time.perf_counter()
    drawn = np.sort(np.random.default_rng(0).choice(len(emb_ND), min(projection.SAMPLE, len(emb_ND)), replace=False))
    plane = projection.fit_plane(emb_ND[drawn])
    fit_s, began = time.perf_counter() - began, time.perf_counter()
    projection.place(emb_ND, emb_ND[drawn], plane)
    return {"fit_seconds": fit_s, "place_seconds": time.perf_counter() - began}


def main(rows: int) -> None:
    """Measures all of them on one fleet."""
    emb_ND = ClipLike(rows=rows).all()
    for measure in (measure_k_center, measure_slices, measure_map, measure_near_duplicates):
        print(json.dumps({"what": measure.__name__, "rows": rows, **measure(emb_ND)}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
