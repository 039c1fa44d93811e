"""Chooses whether codes pay, how short they may be and how wide the margin must be, by measuring recall on queries that were held out.

Two kinds of queries are asked. Near ones are frames of the fleet, themselves left out of the answer. Far ones point mostly away from all
frames, as a text's vector does (images and texts lie in two separate cones: Liang et al., "Mind the Gap", NeurIPS 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selection.embedding.index import scan
from selection.embedding.index.scan import Coder, Principal

K = 50
QUERIES = 128
TARGET = 0.998
"""Share of true neighbours that the calibrated margin keeps; measured recall then stays above 0.99 on other queries too."""
PILOT_ROWS = 2**17
SAMPLE_ROWS = 2**15

_LENGTHS = (64, 128, 192, 256, 384, 512, 768, 1024)
_SCAN_BYTES_PER_S = 40e9
_CANDIDATE_S = 0.25e-6
_PAYS_BELOW = 0.5
"""Codes that save less than half of an exact scan's time are not worth their memory, nor that recall is then less than one."""
_CHUNK = 2**15


@dataclass(frozen=True, kw_only=True)
class Recall:
    """What was measured at the build: the share of the exact nearest 50 that a search finds.

    Attributes:
        near: For frames as queries.
        far: For queries that point away from all frames, as texts do.
        filtered: For frames as queries within filters that leave a tenth of the rows: some at random, some a run of neighbours.
        candidates: Rows scored from their vectors, on average over near queries.
        queries: How many were asked of each kind.
    """

    near: float
    far: float
    filtered: float
    candidates: int
    queries: int


@dataclass(frozen=True, kw_only=True)
class Held:
    """Queries with their exact answers.

    Attributes:
        queries_QD: Unit length.
        own_Q: Position of the row that the query is, -1 for none; it does not count.
        nearest_QK: Positions of the exact nearest, shape (Q, K).
    """

    queries_QD: NDArray[np.float32]
    own_Q: NDArray[np.int64]
    nearest_QK: NDArray[np.int64]


def sample(vectors_ND: NDArray[np.float16], count: int) -> NDArray[np.float32]:
    """About `count` rows in single precision, evenly spread, in short runs so that reading them from a disk is quick."""
    if len(vectors_ND) <= count:
        return np.asarray(vectors_ND, dtype=np.float32)
    run = 16
    starts = np.linspace(0, len(vectors_ND) - run, count // run).astype(np.int64)
    return np.asarray(vectors_ND[(starts[:, np.newaxis] + np.arange(run)).reshape(-1)], dtype=np.float32)


def held_out(vectors_ND: NDArray[np.float16], *, far: bool, seed: int) -> Held:
    """Draws queries and answers them exactly."""
    draw = np.random.default_rng(seed)
    count = min(2 * QUERIES, len(vectors_ND))
    own_Q = np.sort(draw.choice(len(vectors_ND), count, replace=False))
    queries_QD = np.asarray(vectors_ND[own_Q], dtype=np.float32)
    if far:
        away_QD = draw.standard_normal(queries_QD.shape).astype(np.float32)
        away_QD /= np.linalg.norm(away_QD, axis=1, keepdims=True)
        queries_QD, own_Q = 0.3 * queries_QD + 0.95 * away_QD, np.full(count, -1)
    queries_QD = queries_QD / np.maximum(np.linalg.norm(queries_QD, axis=1, keepdims=True), 1e-12)
    return Held(queries_QD=queries_QD, own_Q=own_Q, nearest_QK=_exact(vectors_ND, queries_QD, own_Q))


def halves(held: Held) -> tuple[Held, Held]:
    """Queries to calibrate with, and others to measure with."""
    return tuple(  # type: ignore[return-value]
        Held(queries_QD=held.queries_QD[i::2], own_Q=held.own_Q[i::2], nearest_QK=held.nearest_QK[i::2]) for i in (0, 1)
    )


def choose_coder(vectors_ND: NDArray[np.float16], found: Principal, sample_ND: NDArray[np.float32]) -> Coder | None:
    """The coder whose scan and candidates together take the least time, by trying each length on a part of the rows.

    Returns:
        None when codes save too little: vectors without structure need codes as long as they are, and where very many rows are about equally
        near every code leaves too many candidates. Reading all vectors is better then.
    """
    total, dimension = vectors_ND.shape
    if total < 2:
        return None  # A lone row has no neighbours to measure with.
    pilot_ND = np.ascontiguousarray(sample(vectors_ND, PILOT_ROWS).astype(np.float16))
    kinds = [halves(held_out(pilot_ND, far=far, seed=1))[0] for far in (False, True)]
    # What a scan of all vectors would take: they are as quick to read as codes, and need no candidates.
    best_coder, best_s = None, _PAYS_BELOW * vectors_ND.nbytes / _SCAN_BYTES_PER_S
    for length in (*(one for one in _LENGTHS if one < dimension), dimension):
        if total * length / _SCAN_BYTES_PER_S >= best_s:
            break  # Longer codes cost more than they can save.
        coder = found.coder(length, sample_ND)
        codes_NP = _encoded(pilot_ND, coder)
        counts = [_candidates(codes_NP, coder, held, margin=margin_for(codes_NP, coder, [held])) for held in kinds]
        candidates = float(np.mean(counts)) * total / len(pilot_ND)
        took_s = total * length / _SCAN_BYTES_PER_S + candidates * _CANDIDATE_S
        if took_s < best_s:
            best_coder, best_s = coder, took_s
    return best_coder


def margin_for(codes_NP: NDArray[np.uint8], coder: Coder, kinds: list[Held]) -> float:
    """The margin, in standard deviations, that keeps the target share of each kind's true neighbours."""
    margins = []
    for held in kinds:
        short_by = []
        for query_D, own, nearest_K in zip(held.queries_QD, held.own_Q, held.nearest_QK, strict=True):
            asked_P, _, deviation = coder.encode_query(query_D)
            scores, positions = scan.highest(codes_NP, asked_P, k=len(nearest_K) + int(own >= 0))
            kth = float(np.sort(scores[positions != own])[-len(nearest_K)])
            theirs_K = scan.products(codes_NP[nearest_K], asked_P).astype(np.float64)
            short_by.append(np.maximum(kth - theirs_K, 0.0) / deviation)
        margins.append(float(np.quantile(np.concatenate(short_by), TARGET)) if short_by else 0.0)
    return max(0.5, *margins)


def measure(
    codes_NP: NDArray[np.uint8],
    vectors_ND: NDArray[np.float16],
    coder: Coder,
    *,
    margin: float,
    near: Held,
    far: Held,
    seed: int,
) -> Recall:
    """Recall of whole searches, on queries that had no part in the calibration."""
    draw = np.random.default_rng(seed)
    total = len(vectors_ND)

    def recall(held: Held, filters: list[NDArray[np.bool_] | None]) -> tuple[float, float]:
        shares, candidates = [], []
        for query_D, own, nearest_K, allowed_N in zip(
            held.queries_QD, held.own_Q, held.nearest_QK, filters, strict=True
        ):
            wanted = nearest_K if allowed_N is None else _exact(vectors_ND, query_D[None], own[None], allowed_N)[0]
            _, positions, read = scan.search(
                codes_NP, vectors_ND, coder, query_D, k=len(wanted) + 1, margin=margin, allowed_N=allowed_N
            )
            shares.append(np.isin(wanted, positions).mean() if len(wanted) else 1.0)
            candidates.append(read)
        return float(np.mean(shares)), float(np.mean(candidates))

    nothing: list[NDArray[np.bool_] | None] = [None] * len(near.queries_QD)
    near_recall, candidates = recall(near, nothing)
    few = min(16, len(near.queries_QD))
    some = Held(queries_QD=near.queries_QD[:few], own_Q=near.own_Q[:few], nearest_QK=near.nearest_QK[:few])
    return Recall(
        near=near_recall,
        far=recall(far, nothing)[0],
        filtered=recall(some, [_filter(draw, total, run=i % 2 == 1) for i in range(few)])[0],
        candidates=round(candidates),
        queries=len(near.queries_QD),
    )


def _filter(draw: np.random.Generator, total: int, *, run: bool) -> NDArray[np.bool_]:
    if not run:
        chosen: NDArray[np.bool_] = draw.random(total) < 0.1
        return chosen
    allowed_N = np.zeros(total, dtype=bool)
    first = int(draw.integers(0, max(1, total - total // 10)))
    allowed_N[first : first + max(1, total // 10)] = True
    return allowed_N


def _candidates(codes_NP: NDArray[np.uint8], coder: Coder, held: Held, *, margin: float) -> float:
    k = min(K, len(codes_NP) - 1)
    counts = [len(scan.candidates(codes_NP, coder, query_D, k=k, margin=margin)) for query_D in held.queries_QD]
    return float(np.mean(counts)) if counts else 0.0


def _encoded(vectors_ND: NDArray[np.float16], coder: Coder) -> NDArray[np.uint8]:
    parts = [
        coder.encode(np.asarray(vectors_ND[start : start + _CHUNK], dtype=np.float32))
        for start in range(0, len(vectors_ND), _CHUNK)
    ]
    return np.concatenate(parts)


def _exact(
    vectors_ND: NDArray[np.float16],
    queries_QD: NDArray[np.float32],
    own_Q: NDArray[np.int64],
    allowed_N: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Positions of the exact nearest, shape (Q, K), by plain products a chunk of rows at a time."""
    open_M = None if allowed_N is None else np.flatnonzero(allowed_N)
    total = len(vectors_ND) if open_M is None else len(open_M)
    k = max(0, min(K, total - 1))
    best_scores: NDArray[np.float32] = np.full((len(queries_QD), k), -np.inf, dtype=np.float32)
    best_positions: NDArray[np.int64] = np.full((len(queries_QD), k), -1, dtype=np.int64)
    for start in range(0, total, _CHUNK):
        stop = min(start + _CHUNK, total)
        positions_M = np.arange(start, stop) if open_M is None else open_M[start:stop]
        rows = vectors_ND[start:stop] if open_M is None else vectors_ND[positions_M]
        scores_QM = queries_QD @ np.asarray(rows, dtype=np.float32).T
        scores_QM[own_Q[:, np.newaxis] == positions_M] = -np.inf
        few = np.argpartition(scores_QM, -k, axis=1)[:, -k:] if 0 < k < stop - start else np.arange(stop - start)[None]
        few = np.broadcast_to(few, (len(queries_QD), few.shape[1]))
        scores = np.concatenate([best_scores, np.take_along_axis(scores_QM, few, axis=1)], axis=1)
        positions = np.concatenate([best_positions, positions_M[few]], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best_scores = np.take_along_axis(scores, order, axis=1)
        best_positions = np.take_along_axis(positions, order, axis=1)
    return best_positions
