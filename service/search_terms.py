"""Search terms about what later rooms know of frames: labels, batches, and what the current models think.

- `has:label`, `has:prediction`, `has:batch`; `label:car` and `label:TASK/car` for frames whose label holds a class
- `in:BATCH` for the frames of a batch (a trailing star takes several)
- `model:wrong` and `model:right`: labelled frames that the task's current model would label otherwise, or the same
- `concept:NAME` for frames that more likely belong to a concept than not, see `selection.concepts`; `sort=-concept:NAME` likeliest first
- `uncertain:>0.8`: entropy of the current model's prediction, of several tasks the highest; `entropy`, `margin` and `least_confidence` likewise
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from annotation import batches, tasks
from infra.errors import InvalidInput, NotFound
from infra.platform import Platform
from selection import shards
from selection.columnar.recent import Recent
from selection.concepts import concepts
from training import models

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from selection.embedding.index import VectorIndex
    from selection.ranking.predictions import Predictions

SCORE_KEYS = {"uncertain": "entropy", "entropy": "entropy", "margin": "margin", "least_confidence": "least_confidence"}
FRESH_FOR_S = 0.5
SETTLED_AFTER_S = 3.0
"""Labels are stored a moment before their batch says so; what was read within this time of a change is read again."""


class LineTerms:
    """A provider of search terms, see `selection.fleet.columns.Provider`. Safe to share between threads."""

    provides: Sequence[str] = ("has", "in", "label", "model", *SCORE_KEYS)

    def __init__(self, platform: Platform, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads nothing yet.

        Args:
            platform: Where the line lives.
            clock: Seconds, for how long an answer is fresh.
        """
        self._platform = platform
        self._clock = clock
        self._lock = threading.Lock()
        self._states: dict[str, tuple[float, Hashable]] = {}
        self._changed_at: dict[str, float] = {}
        self._answers: Recent[Any] = Recent(64)
        self._predictions: dict[str, Predictions] = {}
        self._watches: dict[str, shards.Watch] = {}

    def version(self, key: str) -> Hashable:
        """The state of what a key is about; looked up at most twice a second."""
        if key in ("in", "label"):
            return self._state("labels")
        if key in SCORE_KEYS:
            return self._state("models")
        return self._state("labels"), self._state("models")

    def matches(self, key: str, value: str, *, is_prefix: bool, rows: int) -> NDArray[np.bool_] | None:
        """Which rows have a value, shape (rows,)."""
        if key == "has" and value not in ("label", "batch", "prediction"):
            return None
        if key == "in":
            return self._in_batch(value, is_prefix=is_prefix, rows=rows)
        if key == "model" and value not in ("wrong", "right"):
            raise InvalidInput(f"model: is wrong or right, not {value!r}")
        if key in SCORE_KEYS:
            raise InvalidInput(f"{key}: takes numbers from 0 to 1, for example {key}:>0.8")
        question = (key, value, is_prefix, rows, self.version(key))
        found: NDArray[np.bool_] = self._answers.get(
            question, lambda: self._work_out(key, value, is_prefix=is_prefix, rows=rows)
        )
        return found

    def numbers(self, key: str, *, rows: int) -> NDArray[np.float64] | None:
        """A score of the current models for each row, of several tasks the highest."""
        if key not in SCORE_KEYS:
            return None
        found: NDArray[np.float64] = self._answers.get(
            (key, rows, self.version(key)), lambda: self._scores(SCORE_KEYS[key], rows=rows)
        )
        return found

    def _work_out(self, key: str, value: str, *, is_prefix: bool, rows: int) -> NDArray[np.bool_]:
        import numpy as np

        if key == "model":
            return self._judged(rows=rows, right=value == "right")
        if value == "prediction" and key == "has":
            return ~np.isnan(self._scores("entropy", rows=rows))
        query = {"released": {"$ne": True}} if value == "batch" and key == "has" else {"state": "labelled"}
        listed = self._platform.database.batch_frames.find(query, {"_id": 0, "row": 1, "task_id": 1, "value": 1})
        if key == "label":
            task, slash, name = value.rpartition("/")
            fits: Callable[[str], bool] = (
                (lambda one: one.casefold().startswith(name)) if is_prefix else (lambda one: one.casefold() == name)
            )
            chosen = [
                one["row"]
                for one in listed
                if (not slash or one["task_id"].casefold() == task) and any(fits(label) for label in one["value"])
            ]
        else:
            chosen = [one["row"] for one in listed]
        return _mask(chosen, rows=rows)

    def _in_batch(self, value: str, *, is_prefix: bool, rows: int) -> NDArray[np.bool_]:
        """A batch keeps its frames for good, so they are read once."""
        db = self._platform.database
        listed = [batch.batch_id for batch in batches.list_all(db)]
        fits = [one for one in listed if one.casefold() == value or (is_prefix and one.casefold().startswith(value))]
        if not fits:
            near = ", ".join(listed[:3]) or "none yet"
            raise InvalidInput(f"there is no batch {value!r}; the newest are {near}")

        def read(batch_id: str) -> list[int]:
            return [one["row"] for one in db.batch_frames.find({"batch_id": batch_id}, {"_id": 0, "row": 1})]

        kept = [self._answers.get(("in", one), functools.partial(read, one)) for one in fits]
        return _mask([row for batch_rows in kept for row in batch_rows], rows=rows)

    def _judged(self, *, rows: int, right: bool) -> NDArray[np.bool_]:
        """Labelled frames by whether the current model of their task agrees with the label."""
        from selection.ranking.predictions import Predictions

        db = self._platform.database
        chosen: list[int] = []
        for task in tasks.list_all(db):
            model = models.current(db, task.task_id)
            if model is None or task.kind not in ("classification", "multilabel"):
                continue
            labelled = {
                one["row"]: frozenset(one["value"])
                for one in db.batch_frames.find(
                    {"task_id": task.task_id, "state": "labelled"}, {"_id": 0, "row": 1, "value": 1}
                )
            }
            thought = Predictions(self._platform, model.model_id).probabilities_by_row(list(labelled))
            for row, probabilities in thought.items():
                if task.kind == "multilabel":
                    said = frozenset(name for name, p in zip(model.classes, probabilities, strict=True) if p >= 0.5)
                else:
                    said = frozenset({model.classes[int(probabilities.argmax())]})
                if (said == labelled[row]) == right:
                    chosen.append(row)
        return _mask(chosen, rows=rows)

    def _scores(self, name: str, *, rows: int) -> NDArray[np.float64]:
        import numpy as np

        from selection.ranking.predictions import Predictions

        db = self._platform.database
        highest = np.full(rows, np.nan)
        with self._lock:
            for task in tasks.list_all(db):
                model = models.current(db, task.task_id)
                if model is None:
                    continue
                known = self._predictions.get(task.task_id)
                if known is None or known.model_id != model.model_id:
                    known = self._predictions[task.task_id] = Predictions(self._platform, model.model_id)
                known.refresh()
                every = np.arange(rows)
                seen = every[known.known(every)]
                highest[seen] = np.fmax(highest[seen], known.score(name, seen))
        highest.flags.writeable = False
        return highest

    def _state(self, what: str) -> Hashable:
        now = self._clock()
        with self._lock:
            looked_at, state = self._states.get(what, (-FRESH_FOR_S, None))
        if now - looked_at < FRESH_FOR_S:
            return state
        fresh = self._read_state(what)
        if state is None or fresh != (state[0] if isinstance(state, tuple) else None):
            self._changed_at[what] = now
        # While a change is fresh, every look counts as another state.
        settling = now - self._changed_at.get(what, now) < SETTLED_AFTER_S
        with self._lock:
            self._states[what] = (now, (fresh, now if settling else None))
            return self._states[what][1]

    def _read_state(self, what: str) -> Hashable:
        db = self._platform.database
        if what == "labels":
            return db.labels.estimated_document_count(), db.batch_frames.estimated_document_count()
        current = [
            (task.task_id, model.model_id)
            for task in tasks.list_all(db)
            if (model := models.current(db, task.task_id)) is not None
        ]
        watches: dict[str, shards.Watch] = {
            model_id: self._watches.get(model_id) or shards.Watch("predictions", model_id, clock=self._clock)
            for _, model_id in current
        }
        self._watches = watches
        return tuple((*one, watches[one[1]].extent(db)) for one in current)


class ConceptTerms:
    """The provider of `concept:NAME`. Safe to share between threads."""

    provides: Sequence[str] = ("concept",)

    def __init__(self, platform: Platform, *, index: Callable[[], VectorIndex]) -> None:
        """Reads nothing yet.

        Args:
            platform: Where the concepts are kept.
            index: Gives the vectors as of now.
        """
        self._platform = platform
        self._index = index
        self._kept: Recent[NDArray[np.float32]] = Recent(4)

    def version(self, key: str) -> Hashable:
        """Marks and vectors: either changes who belongs to a concept."""
        del key
        changed = self._platform.database.concepts.find({}, {"changed_at": 1}).sort("_id", 1)
        return tuple((one["_id"], one["changed_at"]) for one in changed), self._index().size

    def matches(self, key: str, value: str, *, is_prefix: bool, rows: int) -> NDArray[np.bool_] | None:
        """Which rows belong to the concept, shape (rows,)."""
        del key
        if is_prefix:
            raise InvalidInput("concept: takes a whole name; `mlpl concept list` shows them")
        belongs: NDArray[np.bool_] = self._likely(value, rows=rows) > 0.5  # False where there is no vector.
        return belongs

    def numbers(self, key: str, *, rows: int) -> NDArray[np.float64] | None:
        """How probable it is that a row belongs to the concept that `concept:NAME` names; None when no concept is named."""
        import numpy as np

        _, named, name = key.partition(":")
        return self._likely(name, rows=rows).astype(np.float64) if named else None

    def _likely(self, name: str, *, rows: int) -> NDArray[np.float32]:
        import numpy as np

        def work_out() -> NDArray[np.float32]:
            return concepts.scores(self._platform, name, np.arange(rows), index=self._index())

        try:
            return self._kept.get((name, rows, self.version("concept")), work_out)
        except NotFound as exc:
            raise InvalidInput(exc.message, key=f"concept:{name}") from exc


def _mask(chosen: Sequence[int], *, rows: int) -> NDArray[np.bool_]:
    import numpy as np

    mask = np.zeros(rows, dtype=bool)
    listed = np.array(chosen, dtype=np.int64)
    mask[listed[listed < rows]] = True
    return mask
