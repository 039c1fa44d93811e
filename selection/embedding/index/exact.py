"""Exact search of float16 vectors that lie in memory or are mapped, on the CPU or on a GPU.

On the CPU FAISS's kernel widens each vector to single precision as it reads it, straight from where the vectors lie. On a GPU a scan in half
precision gives every row a score that is off by less than `HALF_MARGIN`; the rows that may still be among the nearest are then scored in
single precision. Either way the answer is the exact one, and no float32 copy of the vectors is ever made.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from infra.logs import get_logger
from selection.devices import on_all_cores, processors, torch_if_loaded

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")
_log = get_logger(__name__)

HALF_MARGIN = 4e-3
"""Twice the largest error of a score of at most one whose query and sum were rounded to half precision (7e-4), with room for split sums."""
_BLOCK_ROWS = 8192
_HEAP = 1024
_THREAD_ROWS = 2**15
"""Fewer rows than this are not worth another thread."""


class ExactBlock:
    """Some rows' vectors. Safe to share between threads."""

    def __init__(self, vectors_ND: NDArray[np.float16], *, device: torch.device | None = None) -> None:
        """Takes the vectors as they are, or copies them to a GPU that has room for them.

        Args:
            vectors_ND: Shape (N, D), unit length; kept, not copied, when there is no GPU to hold them.
            device: The GPU, or None for the CPU.
        """
        self._vectors = vectors_ND
        self._resident: torch.Tensor | None = None
        if device is not None:
            self._resident = _to_gpu(vectors_ND, device)
        if self._resident is not None:
            self._vectors = vectors_ND[:0]

    def search(
        self, query_D: NDArray[np.float32], *, k: int, allowed_N: NDArray[np.bool_] | None, above: float = -np.inf
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k nearest of the allowed rows, in no particular order; those below a score that others reached need not be among them.

        Returns:
            Scores and positions, both of shape (min(k, allowed rows),).
        """
        del above
        if self._resident is None:
            return nearest(self._vectors, query_D, k=k, allowed_N=allowed_N)
        return self._search_on_gpu(self._resident, query_D, k=k, allowed_N=allowed_N)

    def shortfall(
        self, query_D: NDArray[np.float32], positions_M: NDArray[np.int64], scores_M: NDArray[np.float32]
    ) -> float:
        """None: every score is exact."""
        del query_D, positions_M, scores_M
        return 0.0

    def products(self, query_D: NDArray[np.float32]) -> NDArray[np.float32]:
        """The product of a query with every row, shape (N,), in single precision."""
        if self._resident is None:
            return scores_of(self._vectors, None, query_D)
        import torch

        with torch.inference_mode():
            query = torch.from_numpy(query_D).to(self._resident.device)
            starts = range(0, len(self._resident), 2**20)
            parts = [torch.mv(self._resident[start : start + 2**20].float(), query) for start in starts]
            found: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
        return found

    def vectors(self, positions_M: NDArray[np.int64]) -> NDArray[np.float16]:
        """The vectors at these positions."""
        if self._resident is None:
            return self._vectors[positions_M]
        import torch

        chosen = self._resident.index_select(0, torch.from_numpy(positions_M).to(self._resident.device))
        found: NDArray[np.float16] = chosen.cpu().numpy()
        return found

    def _search_on_gpu(
        self, vectors: torch.Tensor, query_D: NDArray[np.float32], *, k: int, allowed_N: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        import torch

        with torch.inference_mode():
            query = torch.from_numpy(query_D).to(vectors.device)
            rough = torch.mv(vectors, query.half())
            if allowed_N is not None:
                rough.masked_fill_(torch.from_numpy(~allowed_N).to(vectors.device), -torch.inf)
            wanted = min(k, len(rough))
            bound = torch.topk(rough, wanted).values[-1].float()
            positions = torch.nonzero((rough >= bound - HALF_MARGIN) & (rough > -torch.inf)).reshape(-1)
            scores = torch.mv(vectors.index_select(0, positions).float(), query)
            return best(scores.cpu().numpy(), positions.cpu().numpy(), k=k)


def nearest(
    vectors_ND: NDArray[np.float16], query_D: NDArray[np.float32], *, k: int, allowed_N: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k nearest of the allowed rows on the CPU, in no particular order; equal ones by position.

    Returns:
        Exact scores and positions, both of shape (min(k, allowed rows),).
    """
    count = len(vectors_ND)
    if not may_scan(count, k=k):
        scores_N = scores_of(vectors_ND, None, query_D)
        if allowed_N is not None:
            scores_N[~allowed_N] = -np.inf
        return best(scores_N, np.arange(len(scores_N)), k=k)

    def of(start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        allowed = None if allowed_N is None else allowed_N[start:stop]
        scores, positions = _scanned(vectors_ND[start:stop], query_D, k=k, allowed_N=allowed)
        return scores, positions + start

    return best_of_pieces(in_pieces(count, of, thread_rows=_THREAD_ROWS), k=k)


def in_pieces(count: int, of: Callable[[int, int], Result], *, thread_rows: int) -> list[Result]:
    """What comes of each piece of some rows, one piece a thread; FAISS leaves other threads the interpreter.

    Args:
        count: How many rows.
        of: Takes where a piece starts and stops.
        thread_rows: Fewer than this are not worth another thread.
    """
    pieces = max(1, min(processors(), count // thread_rows))
    bounds = [count * piece // pieces for piece in range(pieces + 1)]
    if pieces == 1:
        return [of(0, count)]
    with ThreadPoolExecutor(pieces - 1) as pool:
        others = [pool.submit(of, *ends) for ends in itertools.pairwise(bounds[1:])]
        return [of(*bounds[:2]), *(one.result() for one in others)]


def best_of_pieces(
    found: list[tuple[NDArray[np.float32], NDArray[np.int64]]], *, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The best of what pieces found, as `best`."""
    if len(found) == 1:
        return found[0]
    return best(np.concatenate([scores for scores, _ in found]), np.concatenate([places for _, places in found]), k=k)


def nearest_of(
    vectors_ND: NDArray[np.float16], positions_M: NDArray[np.int64], query_D: NDArray[np.float32], *, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k nearest of the rows at some ascending positions, as `nearest`; on one thread, so that no other work on this machine stalls it."""
    if not may_scan(len(positions_M), k=k) or len(positions_M) > _THREAD_ROWS:
        return best(scores_of(vectors_ND, positions_M, query_D), positions_M, k=k)
    scores, places = _scanned(vectors_ND[positions_M], query_D, k=k, allowed_N=None)
    return scores, positions_M[places]


def may_scan(count: int, *, k: int) -> bool:
    """Whether FAISS is to find the k best: whoever has no such library in memory has no time to load one; and a heap is no way to sort everything."""
    return (torch_if_loaded() is not None or "faiss" in sys.modules) and k <= max(_HEAP, count // 16)


def faiss_kernels() -> Any:
    """FAISS, whose types do not know what is generated; loaded when it is first needed."""
    import faiss

    return faiss


@contextmanager
def faiss_scanner(
    quantizer: Any, query_D: NDArray[np.float32], *, store_pairs: bool = False, selector: Any = None
) -> Iterator[Any]:
    """One of FAISS's scanners of codes, for a query of single precision that lies contiguously."""
    kernels = faiss_kernels()
    scanner = quantizer.select_InvertedListScanner(kernels.METRIC_INNER_PRODUCT, None, store_pairs, selector, False)
    try:
        scanner.set_query(kernels.swig_ptr(query_D))
        yield scanner
    finally:
        # FAISS hands it over, but its Python types do not take it: it would stay in memory.
        kernels.InvertedListScanner.__swig_destroy__(scanner)


def _scanned(
    vectors_ND: NDArray[np.float16], query_D: NDArray[np.float32], *, k: int, allowed_N: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """FAISS's scan of half-precision codes, which our vectors are bit for bit, where they lie. It leaves other threads the interpreter."""
    kernels = faiss_kernels()
    count, dimension = vectors_ND.shape
    # Its heap drops the lowest number among equals first; counting from the end, that is the last row.
    ids_N, selector = _descending(_power_of_two(count))[-count:] if count else np.empty(0, np.int64), None
    if allowed_N is not None:
        bitmap = np.packbits(allowed_N[::-1], bitorder="little")
        selector = kernels.IDSelectorBitmap(bitmap)
    quantizer = kernels.ScalarQuantizer(dimension, kernels.ScalarQuantizer.QT_fp16)
    codes_ND = np.ascontiguousarray(vectors_ND).view(np.uint8)
    query_D = np.ascontiguousarray(query_D, dtype=np.float32)
    scores_K, found_K = np.full(k, -np.inf, dtype=np.float32), np.full(k, -1, dtype=np.int64)
    pointers = (kernels.swig_ptr(one) for one in (codes_ND, ids_N, scores_K, found_K))
    with faiss_scanner(quantizer, query_D, selector=selector) as scanner:
        scanner.set_list(0, 0.0)
        scanner.scan_codes(count, *pointers, k)
    real = found_K >= 0
    return scores_K[real], count - 1 - found_K[real]


def _power_of_two(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


@cache
def _descending(count: int) -> NDArray[np.int64]:
    """Numbers down to zero, kept because every search needs the same."""
    return np.arange(count - 1, -1, -1, dtype=np.int64)


def scores_of(
    vectors_ND: NDArray[np.float16], positions_M: NDArray[np.int64] | None, query_D: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Products of a query with the vectors at some positions (None: all) in single precision, a few thousand rows at a time."""
    if torch_if_loaded() is not None:
        return on_all_cores(lambda: _scores_by_torch(vectors_ND, positions_M, query_D))
    count = len(vectors_ND) if positions_M is None else len(positions_M)
    scores_M = np.empty(count, dtype=np.float32)
    for start in range(0, count, _BLOCK_ROWS):
        piece = slice(start, start + _BLOCK_ROWS)
        rows = vectors_ND[piece] if positions_M is None else vectors_ND[positions_M[piece]]
        np.dot(rows.astype(np.float32), query_D, out=scores_M[piece])
    return scores_M


def _scores_by_torch(
    vectors_ND: NDArray[np.float16], positions_M: NDArray[np.int64] | None, query_D: NDArray[np.float32]
) -> NDArray[np.float32]:
    import torch

    scores_M = np.empty(len(vectors_ND) if positions_M is None else len(positions_M), dtype=np.float32)
    with torch.inference_mode():
        whole, query, into = torch.from_numpy(vectors_ND), torch.from_numpy(query_D), torch.from_numpy(scores_M)
        chosen = None if positions_M is None else torch.from_numpy(positions_M)
        for start in range(0, len(scores_M), _BLOCK_ROWS):
            piece = slice(start, start + _BLOCK_ROWS)
            part = whole[piece] if chosen is None else whole.index_select(0, chosen[piece])
            torch.mv(part.float(), query, out=into[piece])
    return scores_M


def best(
    scores_N: NDArray[np.float32], positions_N: NDArray[np.int64], *, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k highest scores above -inf with their positions, equal ones by position; in no particular order."""
    if len(scores_N) > k:
        bound = np.partition(scores_N, len(scores_N) - k)[len(scores_N) - k]
        kept = np.flatnonzero(scores_N >= bound)
        if len(kept) > k:  # Ties at the bound.
            kept = kept[np.lexsort((positions_N[kept], -scores_N[kept]))[:k]]
        scores_N, positions_N = scores_N[kept], positions_N[kept]
    finite = scores_N > -np.inf
    return scores_N[finite], positions_N[finite]


def _to_gpu(vectors_ND: NDArray[np.float16], device: torch.device) -> torch.Tensor | None:
    """The vectors on a GPU; None, with a line in the log, where its memory does not suffice."""
    import torch

    try:
        resident = torch.empty(vectors_ND.shape, dtype=torch.float16, device=device)
    except torch.OutOfMemoryError:
        _log.warning("vectors_stay_on_cpu", device=str(device), rows=len(vectors_ND), reason="the GPU's memory is full")
        return None
    for start in range(0, len(vectors_ND), 2**16):
        piece = slice(start, start + 2**16)
        resident[piece] = torch.from_numpy(np.array(vectors_ND[piece]))
    return resident
