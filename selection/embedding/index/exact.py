"""Exact search of float16 vectors that lie in memory, on the CPU or on a GPU.

A scan in half precision gives every row a score that is off by less than `HALF_MARGIN`; the rows that may still be among the nearest are
then scored in single precision. The answer is the exact one, and no float32 copy of the vectors is ever made.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

HALF_MARGIN = 4e-3
"""Twice the largest error of a score of at most one whose query and sum were rounded to half precision (7e-4), with room for split sums."""
_NUMPY_ROWS = 8192


class ExactBlock:
    """Some rows' vectors. Safe to share between threads."""

    def __init__(self, vectors_ND: NDArray[np.float16], *, device: torch.device | None = None) -> None:
        """Takes the vectors as they are, or copies them to a GPU.

        Args:
            vectors_ND: Shape (N, D), unit length; kept, not copied, when there is no GPU to hold them.
            device: The GPU, or None for the CPU.
        """
        self._vectors = vectors_ND
        self._resident: torch.Tensor | None = None
        if device is not None:
            self._resident = _to_gpu(vectors_ND, device)
            self._vectors = vectors_ND[:0]

    def search(
        self, query_D: NDArray[np.float32], *, k: int, allowed_N: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k nearest of the allowed rows, in no particular order.

        Returns:
            Scores and positions, both of shape (min(k, allowed rows),).
        """
        if self._resident is None and torch_if_loaded() is None:
            scores_N = scores_of(self._vectors, None, query_D)
            if allowed_N is not None:
                scores_N[~allowed_N] = -np.inf
            return best(scores_N, np.arange(len(scores_N)), k=k)
        return self._search_with_torch(query_D, k=k, allowed_N=allowed_N)

    def vectors(self, positions_M: NDArray[np.int64]) -> NDArray[np.float16]:
        """The vectors at these positions."""
        if self._resident is None:
            return self._vectors[positions_M]
        import torch

        chosen = self._resident.index_select(0, torch.from_numpy(positions_M).to(self._resident.device))
        found: NDArray[np.float16] = chosen.cpu().numpy()
        return found

    def _search_with_torch(
        self, query_D: NDArray[np.float32], *, k: int, allowed_N: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        import torch

        with torch.inference_mode():
            vectors = torch.from_numpy(self._vectors) if self._resident is None else self._resident
            query = torch.from_numpy(query_D).to(vectors.device)
            rough = torch.mv(vectors, query.half())
            if allowed_N is not None:
                rough[torch.from_numpy(~allowed_N).to(vectors.device)] = -torch.inf
            wanted = min(k, len(rough))
            bound = torch.topk(rough, wanted).values[-1].float()
            positions = torch.nonzero((rough >= bound - HALF_MARGIN) & (rough > -torch.inf)).reshape(-1)
            scores = torch.mv(vectors.index_select(0, positions).float(), query)
            return best(scores.cpu().numpy(), positions.cpu().numpy(), k=k)


def scores_of(
    vectors_ND: NDArray[np.float16], positions_M: NDArray[np.int64] | None, query_D: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Products of a query with the vectors at some positions (None: all) in single precision, a few thousand rows at a time."""
    torch = torch_if_loaded()
    count = len(vectors_ND) if positions_M is None else len(positions_M)
    scores_M = np.empty(count, dtype=np.float32)
    if torch is not None:
        with torch.inference_mode():
            whole, query, into = torch.from_numpy(vectors_ND), torch.from_numpy(query_D), torch.from_numpy(scores_M)
            chosen = None if positions_M is None else torch.from_numpy(positions_M)
            for start in range(0, count, _NUMPY_ROWS):
                piece = slice(start, start + _NUMPY_ROWS)
                part = whole[piece] if chosen is None else whole.index_select(0, chosen[piece])
                torch.mv(part.float(), query, out=into[piece])
        return scores_M
    for start in range(0, count, _NUMPY_ROWS):
        piece = slice(start, start + _NUMPY_ROWS)
        rows = vectors_ND[piece] if positions_M is None else vectors_ND[positions_M[piece]]
        np.dot(rows.astype(np.float32), query_D, out=scores_M[piece])
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


def torch_if_loaded() -> Any:
    """Torch where the process has it in memory already, else None: loading it takes longer than searching a million rows without it."""
    module = sys.modules.get("torch")
    return module if getattr(module, "_int_mm", None) is not None and hasattr(module, "inference_mode") else None


def _to_gpu(vectors_ND: NDArray[np.float16], device: torch.device) -> torch.Tensor:
    import torch

    resident = torch.empty(vectors_ND.shape, dtype=torch.float16, device=device)
    for start in range(0, len(vectors_ND), 2**16):
        piece = slice(start, start + 2**16)
        resident[piece] = torch.from_numpy(np.array(vectors_ND[piece]))
    return resident
