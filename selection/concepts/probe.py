"""A linear probe: from a handful of frames marked yes or no to a score of every frame."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput

PULL = 1.0
"""How strongly the weights are drawn to zero; with unit vectors and few marks more matters than less."""
_STEPS = 100
_BLOCK_ROWS = 16_384


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A plane in embedding space: the logit of a unit vector x is `weights · x + bias`.

    Attributes:
        weights_D: Shape (D,), float32.
    """

    weights_D: NDArray[np.float32]
    bias: float

    @property
    def digest(self) -> str:
        """SHA-256 of the numbers, 64 hex digits."""
        return hashlib.sha256(self.weights_D.tobytes() + np.float64(self.bias).tobytes()).hexdigest()


def fit(
    yes_emb: NDArray[np.floating],
    no_emb: NDArray[np.floating],
    *,
    background_emb: NDArray[np.floating] | None = None,
    pull: float = PULL,
) -> Probe:
    """Logistic regression with a quadratic penalty, both sides weighing the same whatever their number; solved by Newton's method.

    The problem is solved in the space that the marked rows span, so a few hundred marks take milliseconds at any dimension.
    Marks of yes alone need something to differ from: `background_emb`, rows drawn from the fleet, which then stand for no. Where people
    marked both, they are believed and the background is not used: in a small or uniform fleet many of its rows are yes.

    Source: Bishop, "Pattern Recognition and Machine Learning", 2006, section 4.3.3 (iterative reweighted least squares); the span of the
    data suffices by the representer theorem (Schoelkopf, Herbrich and Smola, COLT 2001).

    Args:
        yes_emb: Shape (Y, D), unit length, Y >= 1.
        no_emb: Shape (N, D); N may be 0 when there is a background.
        background_emb: Shape (B, D).
        pull: Strength of the penalty, above 0.
    Returns:
        The same for the same rows in any order, to rounding.
    Raises:
        InvalidInput: Nothing is marked yes, or there is nothing to tell it from.
    """
    if not len(yes_emb):
        raise InvalidInput("a concept needs at least one frame marked yes")
    parts = [(yes_emb, 1.0, 1.0)]
    if len(no_emb):
        parts.append((no_emb, 0.0, 1.0))
    elif background_emb is not None and len(background_emb):
        parts.append((background_emb, 0.0, 1.0))
    if len(parts) < 2:
        raise InvalidInput("a concept needs at least one frame marked no, or a fleet to tell it from")
    rows = np.concatenate([np.asarray(part, dtype=np.float64) for part, _, _ in parts])
    target_M = np.concatenate([np.full(len(part), value) for part, value, _ in parts])
    share_M = np.concatenate([np.full(len(part), weight / len(part)) for part, _, weight in parts])
    share_M *= len(yes_emb) + len(no_emb)
    mean_D = rows.mean(axis=0)
    basis_RD = _span(rows - mean_D)
    design = np.concatenate([(rows - mean_D) @ basis_RD.T, np.ones((len(rows), 1))], axis=1)
    penalty = np.full(design.shape[1], pull)
    penalty[-1] = 1e-6  # The bias is free.
    solution = _newton(design, target_M, share_M, penalty)
    weights_D = basis_RD.T @ solution[:-1]
    return Probe(weights_D=weights_D.astype(np.float32), bias=float(solution[-1] - weights_D @ mean_D))


def scores(probe: Probe, emb_ND: NDArray[np.floating]) -> NDArray[np.float32]:
    """How probable it is that a row belongs to the concept, both sides taken as equally frequent.

    One product of a matrix and a vector; rows in half precision are widened block by block, so that nothing of their size is copied.

    Args:
        probe: The plane.
        emb_ND: Shape (N, D), float16 or float32, unit length.
    Returns:
        Shape (N,), in [0, 1].
    """
    if emb_ND.shape[1:] != probe.weights_D.shape:
        raise InvalidInput(f"a probe of {len(probe.weights_D)} dimensions does not fit rows of shape {emb_ND.shape}")
    blocks = (emb_ND[start : start + _BLOCK_ROWS] for start in range(0, len(emb_ND), _BLOCK_ROWS))
    parts = list(_in_blocks(probe, blocks))
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)


def probabilities(probe: Probe, product_N: NDArray[np.floating]) -> NDArray[np.float32]:
    """How probable it is that rows belong to the concept, from the products of their vectors with its weights; NaN stays NaN."""
    return _sigmoid(product_N + np.float32(probe.bias)).astype(np.float32)


def most_informative(score_N: NDArray[np.floating], *, k: int, marked: Iterable[int] = ()) -> NDArray[np.int64]:
    """The rows that would teach the probe most if they were marked: those nearest to one half, ties to the lower position.

    Source: Lewis and Gale, "A Sequential Algorithm for Training Text Classifiers", SIGIR 1994 (uncertainty sampling).

    Args:
        score_N: Shape (N,); NaN where a row has no vector.
        k: At most so many.
        marked: Positions that are marked already.
    """
    doubt_N = 1.0 - 2.0 * np.abs(np.asarray(score_N, dtype=np.float64) - 0.5)
    doubt_N[np.isnan(doubt_N)] = -np.inf
    doubt_N[np.fromiter(marked, dtype=np.int64)] = -np.inf
    order = np.argsort(-doubt_N, kind="stable")[:k]
    chosen: NDArray[np.int64] = order[np.isfinite(doubt_N[order])].astype(np.int64)
    return chosen


def _in_blocks(probe: Probe, blocks: Iterable[NDArray[np.floating]]) -> Iterator[NDArray[np.float32]]:
    import torch  # Its widening of half precision is several times as fast as NumPy's.

    weights = torch.from_numpy(probe.weights_D)
    for block in blocks:
        yield probabilities(probe, (torch.from_numpy(np.ascontiguousarray(block)).float() @ weights).numpy())


def _span(centred_MD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal directions that the rows span, shape (R, D): M marks give at most M of them. From the smaller of the two squares of the
    matrix, a third of the time of decomposing the matrix itself; directions too short for that weigh nothing against the penalty.
    """
    count, dimension = centred_MD.shape
    wide = count <= dimension
    squares, vectors = np.linalg.eigh(centred_MD @ centred_MD.T if wide else centred_MD.T @ centred_MD)
    kept = squares > 1e-12 * max(1.0, float(squares[-1]))
    if not wide:
        return np.asarray(vectors[:, kept].T)
    return np.asarray((vectors[:, kept] / np.sqrt(squares[kept])).T @ centred_MD)


def _newton(
    design: NDArray[np.float64],
    target_M: NDArray[np.float64],
    share_M: NDArray[np.float64],
    penalty: NDArray[np.float64],
) -> NDArray[np.float64]:
    solution: NDArray[np.float64] = np.zeros(design.shape[1])
    value = _loss(solution, design, target_M, share_M, penalty)
    for _ in range(_STEPS):
        p_M = _sigmoid(design @ solution)
        gradient = design.T @ (share_M * (p_M - target_M)) + penalty * solution
        curvature = (design.T * (share_M * p_M * (1.0 - p_M))) @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        length = 1.0
        while length > 1e-6:  # Newton's step may be too long far from the solution.
            tried = solution - length * step
            new = _loss(tried, design, target_M, share_M, penalty)
            if new <= value:
                break
            length /= 2.0
        else:
            break
        solution, gained, value = tried, value - new, new
        if gained < 1e-12:
            break
    return solution


def _loss(
    solution: NDArray[np.float64],
    design: NDArray[np.float64],
    target_M: NDArray[np.float64],
    share_M: NDArray[np.float64],
    penalty: NDArray[np.float64],
) -> float:
    logit_M = design @ solution
    return float(
        (share_M * (np.logaddexp(0.0, logit_M) - target_M * logit_M)).sum() + (penalty * solution**2).sum() / 2
    )


def _sigmoid(logit: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logit)))
