"""Selection plans: from a pool to ranked frames, each with its score and the reason it was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from infra.platform import Platform
from selection.fleet import frames
from selection.fleet.frames import FrameId
from selection.ranking.acquisition import SCORES
from selection.ranking.diversity import k_center_greedy_with_distances
from selection.ranking.predictions import Predictions

if TYPE_CHECKING:
    from selection.embedding.index import VectorIndex

RANDOM = "random"
DIVERSITIES = ("k_center_greedy",)
COLD_START_SAMPLE = 20_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to choose.

    Attributes:
        budget: Frames to choose.
        acquisition: Name of a score in `SCORES`, or `random`.
        diversity: `k_center_greedy` picks among the best `overselect * budget` by score; None takes the best. A random draw stays random.
        overselect: How many candidates for each place.
    """

    budget: int
    acquisition: str = "entropy"
    diversity: str | None = "k_center_greedy"
    seed: int = 0
    overselect: int = 5

    def __post_init__(self) -> None:
        """Checks the names and numbers.

        Raises:
            InvalidInput: Names what cannot be.
        """
        if self.budget < 1 or self.overselect < 1:
            raise InvalidInput(
                f"a plan needs a budget and an overselect of at least 1, not {self.budget} and {self.overselect}"
            )
        if self.acquisition not in (*SCORES, RANDOM):
            raise InvalidInput(
                f"there is no acquisition function {self.acquisition!r}: choose {', '.join(SCORES)} or {RANDOM}"
            )
        if self.diversity is not None and self.diversity not in DIVERSITIES:
            raise InvalidInput(f"there is no diversity {self.diversity!r}: choose {', '.join(DIVERSITIES)} or none")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One chosen frame.

    Attributes:
        rank: 0 for the first pick.
        score: Acquisition score, None when it was drawn at random.
    """

    frame_id: FrameId
    row: int
    rank: int
    score: float | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class _Candidates:
    """Rows in the order they would be taken.

    Attributes:
        scores: NaN where a row has none.
        scored: How many have a score; they come first.
        why: What the score is, or why there is none.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    scored: int
    why: str

    def reason(self, place: int) -> str:
        """Why the row at a place (0 for the first) stands there."""
        if place < self.scored:
            return f"{self.why} {self.scores[place]:.2f} (rank {place + 1} of {self.scored})"
        return "drawn at random, not seen by the model yet" if self.scored else self.why


def select(
    platform: Platform,
    plan: Plan,
    *,
    pool: NDArray[np.bool_],
    labelled_rows: NDArray[np.int64],
    model_id: str | None,
    index: VectorIndex | None,
) -> list[Choice]:
    """Chooses up to `plan.budget` frames. The same inputs give the same answer.

    Args:
        pool: Shape (rows,): which rows may be chosen.
        labelled_rows: Rows that diversity keeps away from.
        model_id: The model whose predictions rank the pool. None is a cold start: diversity alone, on a random sample.
        index: Vectors of the fleet, refreshed; needed for diversity.
    Returns:
        At most `plan.budget` choices, fewer when the pool is smaller.
    """
    rows = np.flatnonzero(pool).astype(np.int64)
    if not len(rows):
        return []
    candidates = _ranked(platform, plan, rows, model_id=model_id)
    if plan.diversity is None or index is None or plan.acquisition == RANDOM:
        places = np.arange(min(plan.budget, len(candidates.rows)))
        return _choices(platform, candidates, places, [candidates.reason(place) for place in places.tolist()])
    return _diverse(platform, plan, candidates, labelled_rows=labelled_rows, index=index)


def _ranked(platform: Platform, plan: Plan, rows: NDArray[np.int64], *, model_id: str | None) -> _Candidates:
    shuffled = np.random.default_rng(plan.seed).permutation(rows)
    unscored = np.full(len(rows), np.nan, dtype=np.float32)
    if plan.acquisition == RANDOM:
        return _Candidates(rows=shuffled, scores=unscored, scored=0, why="drawn at random")
    if model_id is None:
        return _Candidates(rows=shuffled, scores=unscored, scored=0, why="no model yet, so drawn at random")
    predictions = Predictions(platform, model_id)
    predictions.refresh()
    known = predictions.known(shuffled)
    seen, unseen = shuffled[known], shuffled[~known]
    if not len(seen):
        raise InvalidInput(
            f"model {model_id} has no predictions for these frames yet; run `mlpl predict --task TASK`, or leave `mlpl serve` running"
        )
    scores = predictions.score(plan.acquisition, seen)
    order = np.argsort(-scores, kind="stable")  # Equal scores keep the drawn order.
    filler = unseen[: max(0, plan.budget - len(seen))]  # Frames too new for a prediction only fill up.
    return _Candidates(
        rows=np.concatenate([seen[order], filler]),
        scores=np.concatenate([scores[order], np.full(len(filler), np.nan, dtype=np.float32)]),
        scored=len(seen),
        why=plan.acquisition,
    )


def _diverse(
    platform: Platform,
    plan: Plan,
    candidates: _Candidates,
    *,
    labelled_rows: NDArray[np.int64],
    index: VectorIndex,
) -> list[Choice]:
    most = plan.budget * plan.overselect if candidates.scored else COLD_START_SAMPLE
    embedded = index.has(candidates.rows[:most])
    places = np.flatnonzero(embedded)
    if not len(places):
        raise InvalidInput("none of these frames has a vector yet; run `mlpl embed` first, or choose --diversity none")
    known = labelled_rows[index.has(labelled_rows)]
    picks, distances = k_center_greedy_with_distances(
        index.vectors(candidates.rows[places]), index.vectors(known), budget=min(plan.budget, len(places))
    )
    taken = places[picks]
    reasons = [
        candidates.reason(place)
        + (f", then k-center distance {distance:.2f}" if np.isfinite(distance) else ", then nearest the pool's centre")
        for place, distance in zip(taken.tolist(), distances.tolist(), strict=True)
    ]
    filler = np.flatnonzero(~embedded)[: plan.budget - len(taken)]  # Frames without a vector only fill up.
    reasons += [f"{candidates.reason(place)}, no vector yet" for place in filler.tolist()]
    return _choices(platform, candidates, np.concatenate([taken, filler]), reasons)


def _choices(
    platform: Platform, candidates: _Candidates, places: NDArray[np.int64], reasons: list[str]
) -> list[Choice]:
    chosen = frames.by_rows(platform.database, candidates.rows[places].tolist())
    scores = candidates.scores[places].tolist()
    return [
        Choice(
            frame_id=frame.frame_id,
            row=frame.row,
            rank=rank,
            score=None if np.isnan(score) else score,
            reason=reason,
        )
        for rank, (frame, score, reason) in enumerate(zip(chosen, scores, reasons, strict=True))
    ]
