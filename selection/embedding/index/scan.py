"""Two-stage search on the CPU: a scan of short codes names candidates, their float16 vectors decide.

Vectors are centred, rotated to their principal directions and cut to the first P of them; a random rotation then spreads what is left
evenly over the P components, and each is rounded to a byte. A score from codes is off by three errors that are known in size: what was cut
off, and the rounding of row and query. All rows whose score from codes comes within a margin of the k-th best are scored again from their
vectors. The margin follows the query (one that lies outside the directions of the fleet, as a text does, gets a wider one) and is
calibrated on measured errors, so recall is a figure that was chosen and not one that happens.

Codes are laid out as FAISS's `QT_8bit_direct_signed` wants them, so that its kernel, which there is for every kind of processor, reads them
where they lie.

Source for rotating before scalar quantisation: Ge et al., "Optimized Product Quantization", TPAMI 2014, section 4 (balanced variance).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selection.embedding.index import exact
from selection.embedding.index.exact import Result

DIRECT_ROWS = 4096
"""So few allowed rows are scored from their vectors at once."""
_ZERO = 128
"""The byte that stands for a component of nothing."""
_HEAP = 1024
"""So many of the best rows one pass keeps; usually all candidates are among them, else a second pass finds the others."""
_BLOCK_ROWS = 2**15
"""Rows whose codes are gathered at a time where a filter leaves gaps."""
_THREAD_ROWS, _THREAD_GATHERED_ROWS = 2**18, 2**16
"""Fewer rows than this, which take a millisecond or two, are not worth another thread."""
_PLAIN_ROWS = 1024
"""Rows that NumPy widens at a time, few enough for a processor's own cache."""


@dataclass(frozen=True, kw_only=True)
class Coder:
    """How vectors become codes, and how far scores from codes may be off.

    Attributes:
        mean_D: What is subtracted before rotating. It moves all scores of a query by the same amount, so rankings do not feel it.
        basis_PD: Rows are orthonormal: principal directions, mixed.
        covariance_DD: Of the vectors, for the error of what is cut off.
        inside_variance: Of what is kept, summed over the components, for the error of rounding a query.
        step: One unit of a code.
    """

    mean_D: NDArray[np.float32]
    basis_PD: NDArray[np.float32]
    covariance_DD: NDArray[np.float32]
    inside_variance: float
    step: float

    @property
    def components(self) -> int:
        """P, bytes a row."""
        return len(self.basis_PD)

    def encode(self, vectors_ND: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Codes, shape (N, P): 1 to 255, where 128 is nothing."""
        rotated_NP = (vectors_ND - self.mean_D) @ self.basis_PD.T
        rotated_NP *= 1.0 / self.step
        codes: NDArray[np.uint8] = (np.clip(np.rint(rotated_NP, out=rotated_NP), -127, 127) + _ZERO).astype(np.uint8)
        return codes

    def encode_query(self, query_D: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, float]:
        """A query as codes are asked with: whole numbers, which FAISS's kernel takes them for.

        Returns:
            What a unit of each component counts for, shape (P,), -127 to 127; what one unit of the score is worth; the standard deviation of a
            score from codes, in those units.
        """
        rotated_P = self.basis_PD @ query_D
        query_step = max(float(np.abs(rotated_P).max()) / 127.0, 1e-12)
        asked_P: NDArray[np.float32] = np.rint(rotated_P / query_step).astype(np.float32)
        outside_D = query_D - rotated_P @ self.basis_PD
        cut = float(outside_D @ self.covariance_DD @ outside_D)
        rounding = float(rotated_P @ rotated_P) * self.step**2 / 12 + query_step**2 / 12 * self.inside_variance
        unit = self.step * query_step
        return asked_P, unit, float(np.sqrt(max(cut, 0.0) + rounding)) / unit


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Principal directions of a sample, from which coders of any length are cut."""

    mean_D: NDArray[np.float32]
    directions_DD: NDArray[np.float32]
    variances_D: NDArray[np.float32]
    covariance_DD: NDArray[np.float32]

    def coder(self, components: int, sample_ND: NDArray[np.float32]) -> Coder:
        """A coder with that many components; the sample sets the size of a step."""
        normal = np.random.default_rng(components).standard_normal((components, components))
        mixing, _ = np.linalg.qr(normal)
        basis_PD = (mixing @ self.directions_DD[:components]).astype(np.float32)
        largest = float(np.abs((sample_ND - self.mean_D) @ basis_PD.T).max())
        return Coder(
            mean_D=self.mean_D,
            basis_PD=np.ascontiguousarray(basis_PD),
            covariance_DD=self.covariance_DD,
            inside_variance=float(self.variances_D[:components].sum()),
            step=max(largest, 1e-6) / 127.0,
        )


def principal(sample_ND: NDArray[np.float32]) -> Principal:
    """Principal directions, those of the largest variance first. Time O(N D^2 + D^3)."""
    mean_D = sample_ND.mean(axis=0)
    centred_ND = sample_ND - mean_D
    covariance_DD = (centred_ND.T @ centred_ND) / max(1, len(sample_ND))
    variances_D, vectors_DD = np.linalg.eigh(covariance_DD.astype(np.float64))
    return Principal(
        mean_D=mean_D.astype(np.float32),
        directions_DD=np.ascontiguousarray(vectors_DD[:, ::-1].T).astype(np.float32),
        variances_D=variances_D[::-1].astype(np.float32),
        covariance_DD=covariance_DD.astype(np.float32),
    )


def search(
    codes_NP: NDArray[np.uint8],
    vectors_ND: NDArray[np.float16],
    coder: Coder,
    query_D: NDArray[np.float32],
    *,
    k: int,
    margin: float,
    allowed_N: NDArray[np.bool_] | None = None,
    above: float = -np.inf,
) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    """The k nearest of the allowed rows, in no particular order.

    Args:
        codes_NP: Codes of the rows.
        vectors_ND: Their vectors, perhaps on disk: only candidates are read.
        coder: What made the codes.
        query_D: Unit length.
        k: At least 1.
        margin: In standard deviations of a score from codes.
        allowed_N: Which rows may be found; None: all.
        above: What k other rows have reached already, less their `shortfall`, so that fewer candidates need to be read.
    Returns:
        Exact scores and positions, both of shape (min(k, allowed),); and how many rows were scored from their vectors.
    """
    open_M = None if allowed_N is None else np.flatnonzero(allowed_N)
    if open_M is not None and len(open_M) <= max(DIRECT_ROWS, k):
        positions = open_M
    elif len(codes_NP) <= k:
        positions = np.arange(len(codes_NP))
    else:
        positions = candidates(codes_NP, coder, query_D, k=k, margin=margin, open_M=open_M, above=above)
    scores, found = exact.nearest_of(vectors_ND, positions, query_D, k=k)
    return scores, found, len(positions)


def candidates(
    codes_NP: NDArray[np.uint8],
    coder: Coder,
    query_D: NDArray[np.float32],
    *,
    k: int,
    margin: float,
    open_M: NDArray[np.int64] | None = None,
    above: float = -np.inf,
) -> NDArray[np.int64]:
    """Positions, ascending, of the rows that may be among the k nearest, see `search`.

    Args:
        codes_NP: Codes of more than k rows.
        coder: What made them.
        query_D: Unit length.
        k: At least 1.
        margin: See `search`.
        open_M: Positions that may be found, more than k, ascending; None: all.
        above: See `search`.
    """
    asked_P, unit, deviation = coder.encode_query(query_D)
    reached = (above - float(coder.mean_D @ query_D)) / unit
    count = len(codes_NP) if open_M is None else len(open_M)

    def bound(scores: NDArray[np.float32]) -> float:
        kth = float(np.partition(scores, len(scores) - k)[len(scores) - k])
        return max(kth, reached) - margin * deviation

    heap = max(_HEAP, 4 * k)
    if not exact.may_scan(count, k=heap):
        scores_M = products(codes_NP if open_M is None else codes_NP[open_M], asked_P)
        found = np.flatnonzero(scores_M >= bound(scores_M))
        return found if open_M is None else open_M[found]
    pieces = _highest(codes_NP, asked_P, k=heap, open_M=open_M)
    least = bound(np.concatenate([scores for scores, _ in pieces]))
    if any(len(scores) == heap and scores.min() >= least for scores, _ in pieces):  # There may be more of them.
        return _reaching(codes_NP, asked_P, least=least, open_M=open_M)
    return np.sort(np.concatenate([positions[scores >= least] for scores, positions in pieces]))


def highest(
    codes_NP: NDArray[np.uint8], asked_P: NDArray[np.float32], *, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k highest scores from codes with their positions, in no particular order."""
    if not exact.may_scan(len(codes_NP), k=k):
        return exact.best(products(codes_NP, asked_P), np.arange(len(codes_NP)), k=k)
    pieces = _highest(codes_NP, asked_P, k=k, open_M=None)
    return exact.best_of_pieces(pieces, k=k)


def shortfall(
    codes_MP: NDArray[np.uint8], coder: Coder, query_D: NDArray[np.float32], scores_M: NDArray[np.float32]
) -> float:
    """How much lower than their exact scores a query's neighbours come out from codes, but for a tenth of them; never below 0.

    A query and its neighbours have in common what codes cut off, which random rows have not, so the error of their scores has another mean.
    Within one scan that moves the k-th best as well and is of no account; against an exact score from elsewhere it is.

    Args:
        codes_MP: Codes of the neighbours.
        coder: What made them.
        query_D: Unit length.
        scores_M: Their exact scores, shape (M,).
    """
    if not len(codes_MP):
        return 0.0
    asked_P, unit, _ = coder.encode_query(query_D)
    rough_M = products(codes_MP, asked_P) * unit + float(coder.mean_D @ query_D)
    return max(0.0, float(np.quantile(scores_M - rough_M, 0.9)))


def products(codes_NP: NDArray[np.uint8], asked_P: NDArray[np.float32]) -> NDArray[np.float32]:
    """The score of each code, shape (N,), by NumPy alone: for few rows, or where loading FAISS would take longer.

    Sums of a thousand products of two signed bytes stay below 2^24, so single precision holds them exactly, in whatever order.
    """
    scores_N = np.empty(len(codes_NP), dtype=np.float32)
    for start in range(0, len(codes_NP), _PLAIN_ROWS):
        piece = slice(start, start + _PLAIN_ROWS)
        signed_NP = codes_NP[piece].astype(np.float32)
        signed_NP -= _ZERO
        np.dot(signed_NP, asked_P, out=scores_N[piece])
    return scores_N


def _highest(
    codes_NP: NDArray[np.uint8], asked_P: NDArray[np.float32], *, k: int, open_M: NDArray[np.int64] | None
) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """The k highest scores and their positions of each piece of the rows."""

    def of(blocks: _Blocks) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        kernels = exact.faiss_kernels()
        scores_K, found_K = np.full(k, -np.inf, dtype=np.float32), np.full(k, -1, dtype=np.int64)
        into = (kernels.swig_ptr(scores_K), kernels.swig_ptr(found_K))
        with _scanner(asked_P) as scanner:
            for number, block_MP in blocks.numbered():
                scanner.set_list(number, 0.0)
                scanner.scan_codes(len(block_MP), kernels.swig_ptr(block_MP), None, *into, k)
        real = found_K >= 0
        return scores_K[real], blocks.positions(found_K[real])

    return _of_pieces(codes_NP, open_M, of)


def _reaching(
    codes_NP: NDArray[np.uint8], asked_P: NDArray[np.float32], *, least: float, open_M: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Positions, ascending, of all rows whose score from codes is at least so high."""
    below = float(np.nextafter(np.float32(least), np.float32(-np.inf)))  # FAISS leaves out what only equals its bound.

    def of(blocks: _Blocks) -> NDArray[np.int64]:
        kernels = exact.faiss_kernels()
        found = kernels.RangeSearchResult(1)
        partial = kernels.RangeSearchPartialResult(found)
        into = partial.new_result(0)
        with _scanner(asked_P) as scanner:
            for number, block_MP in blocks.numbered():
                scanner.set_list(number, 0.0)
                scanner.scan_codes_range(len(block_MP), kernels.swig_ptr(block_MP), None, below, into)
        partial.finalize()
        count = int(kernels.rev_swig_ptr(found.lims, 2)[1])
        return blocks.positions(kernels.rev_swig_ptr(found.labels, count) if count else np.empty(0, dtype=np.int64))

    return np.sort(np.concatenate(_of_pieces(codes_NP, open_M, of)))


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """Some rows' codes, a block at a time; FAISS names a row by the number of its block and its place there."""

    codes_NP: NDArray[np.uint8]
    open_M: NDArray[np.int64] | None
    start: int
    stop: int

    def numbered(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Blocks of contiguous codes with their numbers; each is gone with the next one."""
        gathered = None if self.open_M is None else np.empty((_BLOCK_ROWS, self.codes_NP.shape[1]), dtype=np.uint8)
        for number, start in enumerate(range(self.start, self.stop, _BLOCK_ROWS)):
            stop = min(start + _BLOCK_ROWS, self.stop)
            if gathered is None or self.open_M is None:
                yield number, self.codes_NP[start:stop]
            else:
                # Other than asking for every row whether it is allowed, this gives a processor nothing to guess.
                yield (
                    number,
                    self.codes_NP.take(self.open_M[start:stop], axis=0, out=gathered[: stop - start], mode="clip"),
                )

    def positions(self, names_M: NDArray[np.int64]) -> NDArray[np.int64]:
        """The positions of rows that FAISS has named."""
        at_M = self.start + (names_M >> 32) * _BLOCK_ROWS + (names_M & 0xFFFFFFFF)
        return at_M if self.open_M is None else self.open_M[at_M]


def _of_pieces(
    codes_NP: NDArray[np.uint8], open_M: NDArray[np.int64] | None, of: Callable[[_Blocks], Result]
) -> list[Result]:
    return exact.in_pieces(
        len(codes_NP) if open_M is None else len(open_M),
        lambda start, stop: of(_Blocks(codes_NP=codes_NP, open_M=open_M, start=start, stop=stop)),
        thread_rows=_THREAD_ROWS if open_M is None else _THREAD_GATHERED_ROWS,
    )


def _scanner(asked_P: NDArray[np.float32]) -> AbstractContextManager[Any]:
    return exact.faiss_scanner(_quantizer(len(asked_P)), asked_P, store_pairs=True)


@cache
def _quantizer(components: int) -> Any:
    kernels = exact.faiss_kernels()
    return kernels.ScalarQuantizer(components, kernels.ScalarQuantizer.QT_8bit_direct_signed)
