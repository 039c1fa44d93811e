from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from training.job import evaluation


@given(st.data())
def test_average_precision_is_scikit_learns(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 40))
    # Few distinct scores, so that ties are common.
    score_N = data.draw(hnp.arrays(np.float32, count, elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])))
    positive_N = data.draw(hnp.arrays(np.bool_, count))
    ours = evaluation.average_precision(score_N, positive_N)
    if positive_N.all() or not positive_N.any():
        assert ours is None
    else:
        assert ours == pytest.approx(average_precision_score(positive_N, score_N))


def test_multilabel_figures() -> None:
    probability_NC = np.array([[0.9, 0.2, 0.6], [0.8, 0.7, 0.1], [0.3, 0.6, 0.2]], dtype=np.float32)
    target_NC = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0]], dtype=np.float32)
    found = evaluation.evaluate(
        probability_NC, target_NC, kind="multilabel", classes=("a", "b", "c"), train_positives=(5, 6, 0)
    )
    assert found["metric"] == pytest.approx(1.0)
    assert found["classes_counted"] == 2
    assert found["per_class"]["a"] == {
        "positives": 1,
        "train_positives": 5,
        "average_precision": 1.0,
        "recall": 1.0,
        "precision": 0.5,
    }
    assert found["per_class"]["c"]["average_precision"] is None
    assert found["per_class"]["c"]["recall"] is None


def test_classification_metric_is_balanced_accuracy() -> None:
    random = np.random.default_rng(0)
    truth_N = random.integers(0, 3, size=50)
    probability_NC = random.dirichlet(np.ones(4), size=50).astype(np.float32)
    probability_NC[:, 3] = 0
    target_NC = np.eye(4, dtype=np.float32)[truth_N]
    found = evaluation.evaluate(
        probability_NC, target_NC, kind="classification", classes="abcd", train_positives=[1] * 4
    )
    assert found["metric"] == pytest.approx(balanced_accuracy_score(truth_N, probability_NC.argmax(axis=1)))
    assert found["classes_counted"] == 3


def test_no_frames_no_metric() -> None:
    nothing = np.zeros((0, 2), dtype=np.float32)
    found = evaluation.evaluate(nothing, nothing, kind="multilabel", classes="ab", train_positives=[1, 1])
    assert found["metric"] is None
    assert found["loss"] is None
    assert found["frames"] == 0
