"""The last few answers, by question."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Keeps the answers that were asked for last. Safe to share between threads; two that ask the same at once may both work it out."""

    def __init__(self, most: int) -> None:
        """Keeps at most `most` of them."""
        self._most = most
        self._lock = threading.Lock()
        self._answers: OrderedDict[Hashable, T] = OrderedDict()

    def kept(self, question: Hashable) -> T | None:
        """The kept answer, None when there is none."""
        with self._lock:
            return self._answers.get(question)

    def get(self, question: Hashable, work_out: Callable[[], T]) -> T:
        """The kept answer, or the one that `work_out` finds now."""
        with self._lock:
            if question in self._answers:
                self._answers.move_to_end(question)
                return self._answers[question]
        answer = work_out()
        with self._lock:
            self._answers[question] = answer
            while len(self._answers) > self._most:
                self._answers.popitem(last=False)
        return answer
