"""Selection: budget kept, repeatable, each choice with its reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.embedding.index import VectorIndex
from selection.ranking import plans
from selection.ranking.plans import Choice, Plan
from selection.ranking.predictions import Predictions

NONE = np.empty(0, dtype=np.int64)


def _vectors(count: int, dimension: int = 8) -> NDArray[np.float64]:
    values = np.random.default_rng(3).standard_normal((count, dimension))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def _ramp(count: int) -> NDArray[np.float64]:
    """Two classes; the later the row, the less sure the model."""
    return np.stack([np.linspace(0.0, 0.5, count)] * 2, axis=1)


@pytest.fixture
def ready(fleet: Any) -> Any:
    """Sixty rows with vectors and predictions."""
    fleet.add(60)
    fleet.embed(0, _vectors(60))
    fleet.predict(0, _ramp(60))
    return fleet


def _select(
    fleet: Any,
    plan: Plan,
    *,
    pool: NDArray[np.bool_] | None = None,
    model_id: str | None = "model-1",
    labelled: NDArray[np.int64] = NONE,
) -> list[Choice]:
    index = VectorIndex(fleet.platform, "enc-1")
    index.refresh()
    whole = np.ones(60, dtype=bool) if pool is None else pool
    return plans.select(fleet.platform, plan, pool=whole, labelled_rows=labelled, model_id=model_id, index=index)


def test_without_diversity_the_least_sure_come_first_with_score_and_rank(ready: Any) -> None:
    chosen = _select(ready, Plan(budget=3, diversity=None))
    assert [choice.row for choice in chosen] == [59, 58, 57]
    assert [choice.rank for choice in chosen] == [0, 1, 2]
    assert chosen[0].reason == "entropy 1.00 (rank 1 of 60)"
    assert chosen[0].score == pytest.approx(1.0)
    assert chosen[1].score is not None
    assert chosen[1].score < 1.0


def test_diversity_picks_among_the_best_and_says_how_far(ready: Any) -> None:
    chosen = _select(ready, Plan(budget=4, acquisition="margin", overselect=3), labelled=np.array([0, 1]))
    rows = [choice.row for choice in chosen]
    assert len(set(rows)) == 4
    assert min(rows) >= 48, "among the best 12 of 60"
    assert all(choice.score is not None for choice in chosen)
    assert "margin" in chosen[0].reason
    assert "of 60), then k-center distance " in chosen[0].reason


@pytest.mark.parametrize("acquisition", ["entropy", "random"])
@pytest.mark.parametrize("diversity", ["k_center_greedy", None])
@pytest.mark.parametrize("model_id", ["model-1", None])
def test_the_same_seed_gives_the_same_choice(
    ready: Any, acquisition: str, diversity: str | None, model_id: str | None
) -> None:
    plan = Plan(budget=5, acquisition=acquisition, diversity=diversity, seed=7)
    chosen = _select(ready, plan, model_id=model_id)
    assert chosen == _select(ready, plan, model_id=model_id)
    assert len({choice.frame_id for choice in chosen}) == 5


def test_another_seed_draws_others(ready: Any) -> None:
    drawn = [{c.row for c in _select(ready, Plan(budget=5, acquisition="random", seed=seed))} for seed in range(3)]
    assert drawn[0] != drawn[1] != drawn[2]


def test_a_cold_start_is_diverse_and_says_so(ready: Any) -> None:
    chosen = _select(ready, Plan(budget=3), model_id=None)
    assert [choice.score for choice in chosen] == [None] * 3
    assert chosen[0].reason == "no model yet, so drawn at random, then nearest the pool's centre"
    assert chosen[1].reason.startswith("no model yet, so drawn at random, then k-center distance ")


def test_only_the_pool_is_chosen_from_and_a_small_one_gives_what_it_has(ready: Any) -> None:
    pool = np.zeros(60, dtype=bool)
    pool[[3, 5]] = True
    assert {choice.row for choice in _select(ready, Plan(budget=9), pool=pool)} == {3, 5}
    assert _select(ready, Plan(budget=9), pool=np.zeros(60, dtype=bool)) == []


def test_frames_too_new_for_predictions_or_vectors_only_fill_up(fleet: Any) -> None:
    fleet.add(60)
    fleet.predict(0, _ramp(10), valid=np.arange(10) != 9)
    fleet.embed(0, _vectors(8))
    few = _select(fleet, Plan(budget=4, overselect=1, diversity=None))
    assert [choice.row for choice in few] == [8, 7, 6, 5], "row 9 could not be read by the model"
    many = _select(fleet, Plan(budget=12))
    assert {choice.row for choice in many[:8]} == set(range(8))
    assert "no vector yet" in many[8].reason
    assert many[8].row == 8
    assert "not seen by the model yet" in many[9].reason
    assert len(many) == 12


def test_what_is_missing_is_said(fleet: Any) -> None:
    fleet.add(60)
    with pytest.raises(InvalidInput, match="no predictions"):
        _select(fleet, Plan(budget=3))
    with pytest.raises(InvalidInput, match="vector"):
        _select(fleet, Plan(budget=3), model_id=None)


@pytest.mark.parametrize(
    "fields",
    [
        {"budget": 0},
        {"budget": 1, "overselect": 0},
        {"budget": 1, "acquisition": "bald"},
        {"budget": 1, "diversity": "dpp"},
    ],
)
def test_a_plan_that_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Plan(**fields)


def test_predictions_by_row_and_as_scores(fleet: Any) -> None:
    fleet.add(30)
    fleet.predict(0, _ramp(10), valid=np.arange(10) != 4)
    fleet.predict(20, _ramp(10))
    predictions = Predictions(fleet.platform, "model-1")
    found = predictions.probabilities_by_row([3, 4, 15, 21, 29, 3, 99])
    assert sorted(found) == [3, 21, 29]
    assert found[29] == pytest.approx([0.5, 0.5])
    predictions.refresh()
    rows = np.array([0, 4, 15, 29, 99])
    assert predictions.known(rows).tolist() == [True, False, False, True, False]
    assert predictions.score("entropy", np.array([0, 29])) == pytest.approx([0.0, 1.0])
    with pytest.raises(InvalidInput, match="bald"):
        predictions.score("bald", rows)
    fleet.predict(10, _ramp(10))
    predictions.refresh()
    assert predictions.known(np.array([15])).all()


def test_a_corrupt_prediction_shard_is_left_out(fleet: Any) -> None:
    fleet.add(20)
    fleet.predict(0, _ramp(10))
    fleet.predict(10, _ramp(10))
    key = next(iter(fleet.platform.objects.list("shards/predictions")))
    fleet.platform.objects.put(key, b"broken")
    predictions = Predictions(fleet.platform, "model-1")
    assert len(predictions.probabilities_by_row([5, 15])) == 1
    fleet.platform.database.shards.delete_many({})
    fleet.predict(0, _ramp(10))
    fleet.predict(10, _ramp(10))
    fleet.platform.objects.put(next(iter(fleet.platform.objects.list("shards/predictions"))), b"broken")
    predictions.refresh()
    known = predictions.known(np.arange(20))
    assert int(known.sum()) == 10
    fleet.predict(0 if not known[0] else 10, _ramp(10))
    predictions.refresh()
    assert predictions.known(np.arange(20)).all(), "the replacement is noticed"
