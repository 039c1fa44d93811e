"""The queue in front of the copies of a model, when a copy cannot even begin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from selection.embedding.replicas import Replicas


class _Copy:
    batch_frames, feeders = 4, 1

    def __init__(self, *, trouble: str | None = None) -> None:
        self._trouble = trouble

    @contextmanager
    def thread(self) -> Iterator[None]:
        if self._trouble:
            raise RuntimeError(self._trouble)
        yield

    def ready(self, inputs: Sequence[Any]) -> list[Any]:
        return list(inputs)

    def encode(self, pixels: Sequence[Any]) -> NDArray[np.float32]:
        return np.ones((len(pixels), 2), dtype=np.float32)


def _read(value: int) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def test_a_copy_that_cannot_begin_is_reported() -> None:
    with Replicas([_Copy(trouble="no stream")]) as replicas, pytest.raises(RuntimeError, match="no stream"):
        replicas.encode([_read(1)]).result(timeout=10)


def test_the_other_copies_go_on_without_it() -> None:
    with Replicas([_Copy(trouble="no stream"), _Copy()]) as replicas:
        vectors, valid = replicas.encode([_read(1), _read(2)]).result(timeout=10)
    assert vectors is not None
    assert (len(vectors), valid.tolist()) == (2, [True, True])
