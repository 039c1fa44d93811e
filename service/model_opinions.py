"""What models think of the rows that are labelled, kept in memory, so that each prediction is read once and not with every label that comes."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from infra.platform import Platform
from selection.ranking.predictions import Predictions


@dataclass
class _Known:
    """Of one model; what is missing is asked for again when there are other predictions than before."""

    state: Hashable = None
    found: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    missing: set[int] = field(default_factory=set)


class ModelOpinions:
    """Probabilities by model and row. A model never changes its mind about a row. Safe to share between threads."""

    def __init__(self, platform: Platform) -> None:
        """Reads nothing yet."""
        self._platform = platform
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}

    def of(self, model_id: str, rows: Sequence[int], *, state: Hashable) -> dict[int, NDArray[np.float32]]:
        """Probabilities, shape (C,), for those of the rows that the model has seen and could read.

        Args:
            state: Of the model's predictions; changes when there are others.
        """
        with self._lock:
            known = self._known.setdefault(model_id, _Known())
            if known.state != state:
                known.state = state
                known.missing.clear()
            unknown = [row for row in rows if row not in known.found and row not in known.missing]
            if unknown:
                found = Predictions(self._platform, model_id).probabilities_by_row(unknown)
                known.found |= found
                known.missing.update(row for row in unknown if row not in found)
            return {row: known.found[row] for row in rows if row in known.found}

    def forget_all_but(self, model_ids: Iterable[str]) -> None:
        """Of models that are no longer asked nothing is kept."""
        wanted = set(model_ids)
        with self._lock:
            self._known = {model_id: known for model_id, known in self._known.items() if model_id in wanted}
