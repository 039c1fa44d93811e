from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.job import fitting


@given(seed=st.integers(0, 1000), batch_size=st.integers(2, 9), frames=st.integers(1, 20), first=st.integers(0, 50))
def test_steps_walk_through_whole_epochs(seed: int, batch_size: int, frames: int, first: int) -> None:
    def at(step: int) -> list[int]:
        found = fitting.batch_positions(seed=seed, step=step, batch_size=batch_size, frames=frames)
        assert len(found) == batch_size
        return [int(position) for position in found]

    # `frames` steps end where an epoch ends, so every frame was seen `batch_size` times.
    assert Counter(chain.from_iterable(at(step) for step in range(frames))) == dict.fromkeys(range(frames), batch_size)
    assert at(first) == at(first)


def test_few_frames_get_more_epochs(kit: Any) -> None:
    parameters = kit.hyperparameters(epochs=10, min_steps=50, batch_size=8)
    assert fitting.total_steps(parameters, frames=8) == 50
    assert fitting.total_steps(parameters, frames=81) == 102


def test_learning_rate_rises_and_falls() -> None:
    factors = [fitting.learning_rate_factor(step=step, steps=100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == 1.0
    assert factors[-1] < 0.01
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert fitting.learning_rate_factor(step=0, steps=1) == 1.0


def test_class_weights() -> None:
    targets_NC = np.zeros((100, 5), dtype=np.float32)
    for index, count in enumerate((50, 20, 1, 0, 100)):
        targets_NC[:count, index] = 1
    assert fitting.class_weights(targets_NC, kind="multilabel").tolist() == [1, 4, 10, 1, 1]
    one_of_NC = np.eye(3, dtype=np.float32)[[0] * 6 + [1] * 2]
    assert fitting.class_weights(one_of_NC, kind="classification").tolist() == pytest.approx([8 / 12, 2, 1])
