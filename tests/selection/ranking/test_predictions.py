"""Predictions by row and as scores, from shards that may be damaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.ranking.predictions import Predictions


def _ramp(count: int) -> NDArray[np.float64]:
    """Two classes; the later the row, the less sure the model."""
    return np.stack([np.linspace(0.0, 0.5, count)] * 2, axis=1)


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
