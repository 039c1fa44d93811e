"""The probe's solver against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from service.simulation import learners


@pytest.mark.parametrize(("examples", "dimensions"), [(30, 60), (200, 8)])
def test_logistic_regression_finds_the_optimum(examples: int, dimensions: int) -> None:
    random = np.random.default_rng(examples)
    features = random.standard_normal((examples, dimensions))
    target = (features[:, 0] + random.standard_normal(examples) > 0).astype(np.float64)
    weight = np.where(target > 0, 3.0, 1.0)
    slope, offset = learners.logistic_regression(features, target, weight, penalty=0.5)
    reference = LogisticRegression(C=1 / 0.5, tol=1e-8, max_iter=10_000).fit(features, target, sample_weight=weight)
    assert slope == pytest.approx(reference.coef_[0], abs=5e-3)
    assert offset == pytest.approx(reference.intercept_[0], abs=5e-3)


def test_a_class_nobody_shows_is_unlikely_everywhere_and_one_that_separates_is_found() -> None:
    random = np.random.default_rng(1)
    vectors = random.standard_normal((40, 16)).astype(np.float32)
    target = np.stack([np.zeros(40), vectors[:, 0] > 0], axis=1).astype(np.float32)
    rows = np.arange(30)
    probability = learners.Probe(vectors).probabilities(rows, target[rows], seed=0)
    assert probability.shape == (40, 2)
    assert (probability[:, 0] == np.float32(1 / 32)).all()
    assert ((probability[rows, 1] > 0.5) == (target[rows, 1] > 0.5)).mean() > 0.95
