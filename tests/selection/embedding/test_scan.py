"""Codes of several segments: what one segment found must not hide a query's neighbours in the next."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from selection.embedding.index import calibration, scan

ROWS, DIMENSION, K = 8192, 64, 50


def _clustered(seed: int) -> NDArray[np.float16]:
    """Many small clusters in all directions, so that short codes cut off much of what neighbours have in common."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((64, DIMENSION)) * np.linspace(2.0, 0.7, DIMENSION)
    vectors = centres[random.integers(0, len(centres), ROWS)] + 0.6 * random.standard_normal((ROWS, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_what_neighbours_have_in_common_and_codes_cut_off_is_made_up_for() -> None:
    first, second = _clustered(1), _clustered(2)
    queries = _clustered(3)[:64].astype(np.float32)
    coders = [scan.principal(part.astype(np.float32)).coder(16, part.astype(np.float32)) for part in (first, second)]
    codes = [coder.encode(part.astype(np.float32)) for coder, part in zip(coders, (first, second), strict=True)]
    held = calibration.halves(calibration.held_out(second, far=False, seed=4))[0]
    margin = calibration.margin_for(codes[1], coders[1], [held])
    recall, recall_without, shortfalls = [], [], []
    for query in queries:
        scores, positions, _ = scan.search(codes[0], first, coders[0], query, k=K, margin=margin)
        best = float(scores.min())
        short = scan.shortfall(codes[0][positions], coders[0], query, scores)
        shortfalls.append(short)
        exact = np.concatenate([first, second]).astype(np.float32) @ query
        wanted = np.argsort(-exact)[:K]
        for above, found in ((best - short, recall), (best, recall_without)):
            _, there, _ = scan.search(codes[1], second, coders[1], query, k=K, margin=margin, above=above)
            found.append(np.isin(wanted, np.concatenate([positions, ROWS + there])).mean())
    assert min(shortfalls) > 0.0
    assert np.mean(recall) >= 0.99
    assert np.mean(recall_without) < np.mean(recall)


def test_nothing_found_falls_short_of_nothing() -> None:
    part = _clustered(1)
    coder = scan.principal(part.astype(np.float32)).coder(16, part.astype(np.float32))
    none = np.empty((0, 16), dtype=np.uint8)
    assert scan.shortfall(none, coder, part[0].astype(np.float32), np.empty(0, dtype=np.float32)) == 0.0
