"""The floor: the same work in plain NumPy, FAISS, hashlib and Pillow, in memory, with no product around it."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def flat_index(blocks: Any, *, dimension: int, half: bool = False) -> Any:
    """FAISS's exact index over blocks of vectors, in float32, or in float16 where float32 would not fit beside the rest."""
    import faiss

    metric = faiss.METRIC_INNER_PRODUCT
    index = (
        faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, metric)
        if half
        else faiss.IndexFlatIP(dimension)
    )
    for block in blocks:
        index.add(np.ascontiguousarray(block, dtype=np.float32))
    return index


def nearest(
    index: Any, query: NDArray[np.float32], *, k: int, mask: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Rows of the nearest vectors within a mask."""
    import faiss

    if mask is None:
        return np.asarray(index.search(query[np.newaxis], k)[1][0])
    bitmap = np.packbits(mask, bitorder="little")
    parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bitmap))
    return np.asarray(index.search(query[np.newaxis], k, params=parameters)[1][0])


def exact_scores(
    blocks: Any, queries_QD: NDArray[np.float32], *, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k nearest rows of each query over blocks of vectors, exactly, holding one block at a time."""
    best_scores = np.full((len(queries_QD), 0), -np.inf, dtype=np.float32)
    best_rows = np.zeros((len(queries_QD), 0), dtype=np.int64)
    start = 0
    for block in blocks:
        scores = queries_QD @ block.astype(np.float32).T
        keep = min(k, scores.shape[1])
        rows = np.argpartition(-scores, keep - 1, axis=1)[:, :keep]
        best_scores = np.concatenate([best_scores, np.take_along_axis(scores, rows, axis=1)], axis=1)
        best_rows = np.concatenate([best_rows, rows + start], axis=1)
        order = np.argsort(-best_scores, axis=1, kind="stable")[:, :k]
        best_scores, best_rows = (np.take_along_axis(a, order, axis=1) for a in (best_scores, best_rows))
        start += len(block)
    return best_scores, best_rows


def recall(found: Sequence[Sequence[int]], exact_rows_QK: NDArray[np.int64]) -> float:
    """The share of the exact answers that was found."""
    hits = [len(set(got) & set(exact.tolist())) / len(exact) for got, exact in zip(found, exact_rows_QK, strict=True)]
    return float(np.mean(hits))


def greedy(pool_emb: NDArray[np.float32], *, budget: int) -> NDArray[np.int64]:
    """k-center greedy as a few lines of NumPy, from the row nearest to the mean; ties go to the lower row."""
    picks = [int(np.argmax(pool_emb @ pool_emb.mean(axis=0)))]
    nearest_N = pool_emb @ pool_emb[picks[0]]
    nearest_N[picks[0]] = np.inf
    while len(picks) < budget:
        picks.append(int(np.argmin(nearest_N)))
        np.maximum(nearest_N, pool_emb @ pool_emb[picks[-1]], out=nearest_N)
        nearest_N[picks[-1]] = np.inf
    return np.array(picks)


def pairs_above(emb_ND: NDArray[np.float32], threshold: float, *, block: int = 2048) -> NDArray[np.int64]:
    """All pairs of rows whose cosine similarity is at least the threshold, shape (P, 2), the lower row first; a block at a time."""
    found = []
    for start in range(0, len(emb_ND), block):
        similar = emb_ND[start : start + block] @ emb_ND[start:].T
        first, second = np.nonzero(similar >= threshold)
        later = second > first
        found.append(np.stack([first[later] + start, second[later] + start], axis=1))
    return np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)


def decode_and_hash(paths: Sequence[Path], *, short_side: int | None) -> None:
    """Reads, hashes and decodes files on all cores; with a short side, at the smallest scale of the codec that is not below it."""
    from PIL import Image

    def one(path: Path) -> str:
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        with Image.open(io.BytesIO(data)) as image:
            if short_side is not None:
                scale = short_side / min(image.size)
                image.draft("RGB", (int(image.width * scale), int(image.height * scale)))
            image.load()
        return digest

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        list(pool.map(one, paths))
