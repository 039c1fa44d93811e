"""Acquisition functions against hand-computed cases and what must hold for any probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.ranking import acquisition
from selection.ranking.acquisition import ProbabilityKind

SOFTMAX = np.array([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]])
SIGMOID = np.array([[1.0, 0.0], [0.5, 0.5], [0.5, 1.0]])

any_probabilities = npst.arrays(
    np.float64, st.tuples(st.integers(0, 8), st.integers(1, 6)), elements=st.floats(0, 1, width=32)
)


def test_classification_scores() -> None:
    assert acquisition.least_confidence(SOFTMAX, kind="classification") == pytest.approx([0.0, 1.0, 0.75])
    assert acquisition.margin(SOFTMAX, kind="classification") == pytest.approx([0.0, 1.0, 1.0])
    assert acquisition.entropy(SOFTMAX, kind="classification") == pytest.approx([0.0, 1.0, np.log(2) / np.log(3)])


def test_multilabel_scores() -> None:
    assert acquisition.least_confidence(SIGMOID, kind="multilabel") == pytest.approx([0.0, 1.0, 2 * (1 - 0.5**0.5)])
    assert acquisition.margin(SIGMOID, kind="multilabel") == pytest.approx([0.0, 1.0, 1.0])
    assert acquisition.entropy(SIGMOID, kind="multilabel") == pytest.approx([0.0, 1.0, 0.5])


@pytest.mark.parametrize("name", acquisition.SCORES)
@pytest.mark.parametrize("kind", ["classification", "multilabel"])
@given(weights=any_probabilities)
def test_scores_are_float32_in_the_unit_interval(
    name: str, kind: ProbabilityKind, weights: NDArray[np.float64]
) -> None:
    values = weights
    if kind == "classification":
        values = (weights + 1e-3) / (weights + 1e-3).sum(axis=1, keepdims=True)
    score = acquisition.SCORES[name](values, kind=kind)
    assert score.dtype == np.float32
    assert score.shape == (len(values),)
    assert np.all((score >= 0) & (score <= 1))


@pytest.mark.parametrize("name", acquisition.SCORES)
@given(values=any_probabilities)
def test_multilabel_scores_do_not_mind_which_answer_is_called_positive(name: str, values: NDArray[np.float64]) -> None:
    score = acquisition.SCORES[name]
    assert score(values, kind="multilabel") == pytest.approx(score(1 - values, kind="multilabel"), abs=1e-6)


@pytest.mark.parametrize("name", acquisition.SCORES)
def test_a_single_class_leaves_nothing_to_doubt(name: str) -> None:
    assert acquisition.SCORES[name](np.ones((2, 1)), kind="classification") == pytest.approx([0.0, 0.0])


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (np.ones(3), "multilabel", "shape"),
        (np.ones((3, 0)), "multilabel", "shape"),
        (np.array([[0.5, np.nan]]), "multilabel", "between 0 and 1"),
        (np.array([[1.5, 0.0]]), "multilabel", "between 0 and 1"),
        (np.array([[0.5, 0.1]]), "classification", "sum to 1"),
        (np.array([[0.5, 0.5]]), "detection", "detection"),
    ],
)
def test_what_is_not_a_probability_is_refused(values: NDArray[np.float64], kind: ProbabilityKind, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        acquisition.entropy(values, kind=kind)
