"""Search terms about what later rooms know of frames: labels, batches, and what the current models think.

- `has:label`, `has:prediction`, `has:batch`; `label:car` and `label:TASK/car` for frames whose label holds a class
- `in:BATCH` for the frames of a batch (a trailing star takes several)
- `model:wrong` and `model:right`: labelled frames that the task's current model would label otherwise, or the same
- `concept:NAME` for frames that more likely belong to a concept than not, see `selection.concepts`; `sort=-concept:NAME` likeliest first
- `uncertain:>0.8`: entropy of the current model's prediction, of several tasks the highest; `margin`, `bald`, `entropy_sum` and the other
  scores of `acquisition.MODEL_SCORES` likewise
- `label_error:>0.8`: how little the current model believes a frame's label, of several tasks the most; `--sort=-label_error` puts the most
  doubtful labels first
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from annotation import batches, tasks
from annotation.tasks import Task
from infra.errors import InvalidInput, NotFound
from infra.platform import Platform
from selection import shards
from selection.columnar.recent import Recent
from selection.concepts import concepts
from selection.ranking.acquisition import MODEL_SCORES
from service.batch_places import BatchPlaces
from service.model_opinions import ModelOpinions
from service.structure.terms import StructureTerms
from training import models
from training.models import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from selection.embedding.index import VectorIndex
    from selection.ranking.predictions import Predictions

SCORE_KEYS = {"uncertain": "entropy", **{name: name for name in MODEL_SCORES}}
LABEL_ERROR = "label_error"
FRESH_FOR_S = 0.5


class LineTerms:
    """A provider of search terms, see `selection.fleet.columns.Provider`. Safe to share between threads."""

    provides: Sequence[str] = ("has", "in", "label", "model", LABEL_ERROR, *SCORE_KEYS)

    def __init__(
        self,
        platform: Platform,
        *,
        places: BatchPlaces | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads nothing yet.

        Args:
            platform: Where the line lives.
            places: What is labelled; None: one of its own.
            clock: Seconds, for how long an answer is fresh.
        """
        self._platform = platform
        self._clock = clock
        self._places = places or BatchPlaces(platform.database, clock=clock)
        self._lock = threading.Lock()
        self._current: tuple[float, Hashable] = (-FRESH_FOR_S, None)
        self._answers: Recent[Any] = Recent(64)
        self._opinions = ModelOpinions(platform)
        self._predictions: dict[str, Predictions] = {}
        self._watches: dict[str, shards.Watch] = {}

    def version(self, key: str) -> Hashable:
        """The state of what a key is about; looked up at most twice a second."""
        if key in ("in", "label"):
            return self._places.version()
        if key in SCORE_KEYS:
            return self._models()
        return self._places.version(), self._models()

    def matches(self, key: str, value: str, *, is_prefix: bool, rows: int) -> NDArray[np.bool_] | None:
        """Which rows have a value, shape (rows,)."""
        if key == "has" and value not in ("label", "batch", "prediction"):
            return None
        if key == "in":
            return self._in_batch(value, is_prefix=is_prefix, rows=rows)
        if key == "model" and value not in ("wrong", "right"):
            raise InvalidInput(f"model: is wrong or right, not {value!r}")
        if key == LABEL_ERROR or key in SCORE_KEYS:
            raise InvalidInput(f"{key}: takes numbers from 0 to 1, for example {key}:>0.8")
        question = (key, value, is_prefix, rows, self.version(key))
        found: NDArray[np.bool_] = self._answers.get(
            question, lambda: self._work_out(key, value, is_prefix=is_prefix, rows=rows)
        )
        return found

    def numbers(self, key: str, *, rows: int) -> NDArray[np.float64] | None:
        """A score of the current models for each row, of several tasks the highest."""
        if key != LABEL_ERROR and key not in SCORE_KEYS:
            return None
        found: NDArray[np.float64] = self._answers.get(
            (key, rows, self.version(key)),
            lambda: self._label_errors(rows=rows) if key == LABEL_ERROR else self._scores(SCORE_KEYS[key], rows=rows),
        )
        return found

    def _work_out(self, key: str, value: str, *, is_prefix: bool, rows: int) -> NDArray[np.bool_]:
        import numpy as np

        if key == "model":
            return self._judged(rows=rows, right=value == "right")
        if value == "prediction" and key == "has":
            return ~np.isnan(self._scores("entropy", rows=rows))
        if key == "has":
            return self._places.held(rows=rows) if value == "batch" else self._places.labelled(rows=rows)
        task, slash, name = value.rpartition("/")

        def fits(task_id: str, classes: tuple[str, ...]) -> bool:
            if slash and task_id.casefold() != task:
                return False
            folded = [one.casefold() for one in classes]
            return any(one.startswith(name) for one in folded) if is_prefix else name in folded

        return self._places.labelled_as(fits, rows=rows)

    def _in_batch(self, value: str, *, is_prefix: bool, rows: int) -> NDArray[np.bool_]:
        listed = [batch.batch_id for batch in batches.list_all(self._platform.database)]
        fits = [one for one in listed if one.casefold() == value or (is_prefix and one.casefold().startswith(value))]
        if not fits:
            near = ", ".join(listed[:3]) or "none yet"
            raise InvalidInput(f"there is no batch {value!r}; the newest are {near}")

        return self._places.of_batches(fits, rows=rows)

    def _judged(self, *, rows: int, right: bool) -> NDArray[np.bool_]:
        """Labelled frames by whether the current model of their task agrees with the label."""
        chosen: list[int] = []
        for task, model, labelled, opinions in self._labelled():
            for row, probabilities in opinions.items():
                if task.kind == "classification":
                    said = frozenset({model.classes[int(probabilities.argmax())]})
                else:
                    said = frozenset(name for name, p in zip(model.classes, probabilities, strict=True) if p >= 0.5)
                if (said == labelled[row]) == right:
                    chosen.append(row)
        return _mask(chosen, rows=rows)

    def _label_errors(self, *, rows: int) -> NDArray[np.float64]:
        import numpy as np

        from service import label_errors

        highest = np.full(rows, np.nan)
        for task, model, labelled, opinions in self._labelled():
            found = label_errors.by_row(task=task, model=model, labelled=labelled, predicted=opinions)
            inside = [row for row in found if row < rows]
            highest[inside] = np.fmax(highest[inside], [found[row] for row in inside])
        highest.flags.writeable = False
        return highest

    def _labelled(
        self,
    ) -> Iterator[tuple[Task, Model, dict[int, frozenset[str]], dict[int, NDArray[np.float32]]]]:
        """The tasks that have a model, with the classes of each labelled row and what the model thinks of it."""
        db, state = self._platform.database, self._models()
        current = [(task, models.current(db, task.task_id)) for task in tasks.list_all(db)]
        self._opinions.forget_all_but(model.model_id for _, model in current if model is not None)
        for task, model in current:
            if model is not None:
                found = self._places.labels_of(task.task_id)
                values = [frozenset(value) for value in found.values]
                rows = found.rows.tolist()
                labelled = dict(zip(rows, [values[code] for code in found.code_N.tolist()], strict=True))
                yield task, model, labelled, self._opinions.of(model.model_id, rows, state=state)

    def _scores(self, name: str, *, rows: int) -> NDArray[np.float64]:
        import numpy as np

        from selection.ranking.predictions import Predictions

        db = self._platform.database
        highest = np.full(rows, np.nan)
        every, asked, held = np.arange(rows), None, False
        with self._lock:
            for task in tasks.list_all(db):
                model = models.current(db, task.task_id)
                if model is None:
                    continue
                known = self._predictions.get(task.task_id)
                if known is None or known.model_id != model.model_id:
                    known = self._predictions[task.task_id] = Predictions(self._platform, model.model_id)
                known.refresh()
                asked = known if known.names else asked
                if name in known.names:
                    held = True
                    highest = np.fmax(highest, known.score(name, every))
        if asked is not None and not held:
            asked.score(name, every)  # Says which scores there are.
        highest.flags.writeable = False
        return highest

    def _models(self) -> Hashable:
        """The current models and the state of their predictions."""
        now = self._clock()
        with self._lock:
            looked_at, state = self._current
        if now - looked_at < FRESH_FOR_S:
            return state
        state = self._read_models()
        with self._lock:
            self._current = (now, state)
        return state

    def _read_models(self) -> Hashable:
        db = self._platform.database
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
        return tuple((*one, watches[one[1]].state(db)) for one in current)


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
        """Marks and vectors, and whose they are: each changes who belongs to a concept."""
        del key
        index = self._index()
        changed = self._platform.database.concepts.find({}, {"changed_at": 1}).sort("_id", 1)
        return tuple((one["_id"], one["changed_at"]) for one in changed), index.encoder_id, index.size

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


RESERVED_NAMES = (*LineTerms.provides, *ConceptTerms.provides, *StructureTerms.provides)
"""What searches give a meaning of their own, so that no column of a user can be named so."""
