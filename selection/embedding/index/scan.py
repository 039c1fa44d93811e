"""Two-stage search on the CPU: a scan of short int8 codes names candidates, their float16 vectors decide.

Vectors are centred, rotated to their principal directions and cut to the first P of them; a random rotation then spreads what is left
evenly over the P components, and each is rounded to int8. A score from codes is off by three errors that are known in size: what was cut
off, and the rounding of row and query. All rows whose score from codes comes within a margin of the k-th best are scored again from their
vectors. The margin follows the query (one that lies outside the directions of the fleet, as a text does, gets a wider one) and is
calibrated on measured errors, so recall is a figure that was chosen and not one that happens.

Source for rotating before scalar quantisation: Ge et al., "Optimized Product Quantization", TPAMI 2014, section 4 (balanced variance).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from selection.devices import on_all_cores, torch_if_loaded
from selection.embedding.index.exact import nearest_of

DIRECT_ROWS = 4096
"""So few allowed rows are scored from their vectors at once."""
_NUMPY_ROWS = 16_384
_TRIALS = 4
_TRIAL_SHAPE = (2**17, 256)
"""So much that a processor shared with other work, which stalls a parallel product for milliseconds, does not decide between kernels."""
_HIDDEN = np.iinfo(np.int32).min

Int8Products = Callable[[NDArray[np.int8], NDArray[np.int8]], NDArray[np.int32]]


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

    def encode(self, vectors_ND: NDArray[np.float32]) -> NDArray[np.int8]:
        """Codes, shape (N, P)."""
        rotated_NP = (vectors_ND - self.mean_D) @ self.basis_PD.T
        rotated_NP *= 1.0 / self.step
        codes: NDArray[np.int8] = np.clip(np.rint(rotated_NP, out=rotated_NP), -127, 127).astype(np.int8)
        return codes

    def encode_query(self, query_D: NDArray[np.float32]) -> tuple[NDArray[np.int8], float, float]:
        """A query as codes.

        Returns:
            Codes of shape (P,); what one unit of their product with a row's code is worth; the standard deviation of a score from codes,
            in those units.
        """
        rotated_P = self.basis_PD @ query_D
        query_step = max(float(np.abs(rotated_P).max()) / 127.0, 1e-12)
        codes_P = np.rint(rotated_P / query_step).astype(np.int8)
        outside_D = query_D - rotated_P @ self.basis_PD
        cut = float(outside_D @ self.covariance_DD @ outside_D)
        rounding = float(rotated_P @ rotated_P) * self.step**2 / 12 + query_step**2 / 12 * self.inside_variance
        unit = self.step * query_step
        return codes_P, unit, float(np.sqrt(max(cut, 0.0) + rounding)) / unit


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
    codes_NP: NDArray[np.int8],
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
        query_P, unit, deviation = coder.encode_query(query_D)
        rough = int8_products(codes_NP, query_P)
        if open_M is not None:  # Hiding the others instead would leave many equal values, which selection is slow at.
            rough = rough.take(open_M)
        bound = candidates_from(rough, k=k, slack=margin * deviation)
        if above > -np.inf:
            reached = (above - float(coder.mean_D @ query_D)) / unit - margin * deviation
            bound = max(bound, int(np.clip(np.floor(reached), _HIDDEN, -_HIDDEN - 1)))
        positions = np.flatnonzero(rough >= bound)
        positions = positions if open_M is None else open_M[positions]
    scores, found = nearest_of(vectors_ND, positions, query_D, k=k)
    return scores, found, len(positions)


def shortfall(
    codes_MP: NDArray[np.int8], coder: Coder, query_D: NDArray[np.float32], scores_M: NDArray[np.float32]
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
    query_P, unit, _ = coder.encode_query(query_D)
    rough_M = int8_products(codes_MP, query_P) * unit + float(coder.mean_D @ query_D)
    return max(0.0, float(np.quantile(scores_M - rough_M, 0.9)))


def candidates_from(rough_N: NDArray[np.int32], *, k: int, slack: float) -> int:
    """The score from codes at which candidates begin: the k-th best, less the slack."""
    kth = int(np.partition(rough_N, len(rough_N) - k)[len(rough_N) - k])
    return max(kth - int(np.ceil(slack)), _HIDDEN + 1)


def int8_products(codes_NP: NDArray[np.int8], query_P: NDArray[np.int8]) -> NDArray[np.int32]:
    """The product of each code with a query's, shape (N,), exact; by the fastest means this process has at hand."""
    return (_products_by_numpy if torch_if_loaded() is None else _measured_kernel())(codes_NP, query_P)


def _products_by_torch(codes_NP: NDArray[np.int8], query_P: NDArray[np.int8]) -> NDArray[np.int32]:
    import torch

    def multiply() -> NDArray[np.int32]:
        with torch.inference_mode():
            products = torch._int_mm(torch.from_numpy(query_P).reshape(1, -1), torch.from_numpy(codes_NP).t())
        found: NDArray[np.int32] = products.reshape(-1).numpy()
        return found

    return multiply() if torch.get_num_threads() == 1 else on_all_cores(multiply)


def _products_by_numpy(codes_NP: NDArray[np.int8], query_P: NDArray[np.int8]) -> NDArray[np.int32]:
    # Sums of a thousand products of two int8 stay below 2^24, so single precision holds them exactly.
    query, products_N = query_P.astype(np.float32), np.empty(len(codes_NP), dtype=np.int32)
    for start in range(0, len(codes_NP), _NUMPY_ROWS):
        piece = slice(start, start + _NUMPY_ROWS)
        products_N[piece] = codes_NP[piece].astype(np.float32) @ query
    return products_N


@cache
def _measured_kernel() -> Int8Products:
    """Torch's int8 product where this processor computes it exactly (some saturate) and faster than NumPy, else NumPy's."""
    import time

    rows, length = _TRIAL_SHAPE
    values = np.random.default_rng(0).integers(-127, 128, (rows + 1, length), dtype=np.int8)
    codes_NP, query_P = values[1:], values[0]
    if not np.array_equal(_products_by_torch(codes_NP, query_P), _products_by_numpy(codes_NP, query_P)):
        return _products_by_numpy
    took_s: dict[Int8Products, float] = {_products_by_torch: np.inf, _products_by_numpy: np.inf}
    for _ in range(_TRIALS):  # The best of several, in turns: the choice is for the life of the process.
        for kernel in took_s:
            began = time.perf_counter()
            kernel(codes_NP, query_P)
            took_s[kernel] = min(took_s[kernel], time.perf_counter() - began)
    return min(took_s, key=lambda kernel: took_s[kernel])
