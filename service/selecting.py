"""Carrying out a selection plan for a task: the pool from the fleet, evaluation frames by chance, and the rest as the plan says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from annotation import batches, labels, splits
from annotation.tasks import Task
from infra.errors import InvalidInput
from infra.platform import Platform
from selection.fleet import frames
from selection.fleet.frames import FrameId
from selection.planning.plan import KNOWN_SCORES, LABEL_ERRORS, NEIGHBOUR_ERROR, Plan
from service.fleet_sources import FleetSources
from training.models import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from selection.planning.selecting import Choice, Stage
    from service.curator import Curator

EVALUATION_SHARE = 0.2
EVALUATION_ENOUGH = 50
DRAWN_FOR_EVALUATION = "drawn at random from the drives held out for evaluation"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A frame that a batch of this plan would hold."""

    frame_id: FrameId
    row: int
    score: float | None
    reason: str
    purpose: Literal["train", "test"] = "train"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a plan comes to for a task.

    Attributes:
        places: Evaluation frames first.
        stages: How many frames were left after each step.
        evaluation: How many places are for evaluation alone.
        spread: Whether embeddings had a say.
    """

    places: list[Place]
    stages: list[Stage]
    evaluation: int
    spread: bool


def carry_out(platform: Platform, curator: Curator, plan: Plan, *, task: Task, model: Model | None) -> Outcome:
    """Chooses; stores nothing. Evaluation frames are always drawn at random from held-out drives, whatever the plan ranks by: its quotas and
    caps are for the frames beside them.

    Raises:
        InvalidInput: The plan names what the fleet does not have, or what it needs is missing; the message says what to do.
    """
    import numpy as np

    from selection.planning.selecting import Stage, select

    db = platform.database
    pool, stages = _pool(platform, curator, plan)
    taken = np.array(batches.taken_rows(db, task_id=task.task_id), dtype=np.int64)
    by_split = splits.masks(db, task_id=task.task_id, columns=curator.columns())
    sources = TaskSources(platform, curator, task=task, model=model)
    if plan.pool == "labelled":
        labelled = np.zeros(len(pool), dtype=bool)
        labelled[[row for row in sources.labelled_rows() if row < len(pool)]] = True
        pool &= labelled
        stages.append(Stage(name="labelled", frames=int(pool.sum())))
        found = select(plan, pool=np.flatnonzero(pool), taken=taken[:0], sources=sources)
        tested = by_split["test"]
        return Outcome(
            places=_places(platform, found.choices, tested=tested),
            stages=stages + found.stages[1:],
            evaluation=0,
            spread=found.spread,
        )
    pool[taken[taken < len(pool)]] = False
    stages.append(Stage(name="not in a batch", frames=int(pool.sum())))
    held_out, trainable = (pool & by_split[split][: len(pool)] for split in ("test", "train"))
    wanted = _evaluation_budget(platform, plan, task=task)
    test_rows = np.random.default_rng(plan.seed).permutation(np.flatnonzero(held_out))[:wanted]
    note = f"of {int(held_out.sum())} held out"
    if wanted and not held_out.any():
        note = "none is held out: the drives of this pool all train, and frames without a drive count as one"
    if len(test_rows) and (plan.quotas or plan.caps):
        note += "; drawn by chance alone, so quotas and caps count in what is for training"
    stages.append(Stage(name="for evaluation", frames=len(test_rows), note=note))
    if plan.evaluation is None:
        wanted = len(test_rows)  # Nobody asked for more of them, so places that stay free are for training.
    found = select(plan, pool=np.flatnonzero(trainable), taken=taken, sources=sources, budget=plan.budget - wanted)
    evaluation = [
        Place(frame_id=frame.frame_id, row=frame.row, score=None, reason=DRAWN_FOR_EVALUATION, purpose="test")
        for frame in frames.by_rows(db, test_rows.tolist())
    ]
    return Outcome(
        places=evaluation + _places(platform, found.choices, tested=None),
        stages=[*stages, Stage(name="for training", frames=found.stages[0].frames), *found.stages[1:]],
        evaluation=len(evaluation),
        spread=found.spread,
    )


class TaskSources(FleetSources):
    """What a plan may ask when it chooses for a task."""

    def __init__(self, platform: Platform, curator: Curator, *, task: Task, model: Model | None) -> None:
        """Loads nothing yet."""
        super().__init__(platform, curator)
        self._task = task
        self._model = model
        self._labels: dict[int, tuple[str, ...]] | None = None

    def labelled_rows(self) -> Sequence[int]:
        """Rows that have a label of the task."""
        return sorted(self._standing())

    def scores(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.floating] | None:
        """Of the fleet, the task's labels or the model's doubts."""
        if name not in KNOWN_SCORES:
            return super().scores(name, rows)
        if name == NEIGHBOUR_ERROR:
            return self._neighbour_errors(rows)
        if self._model is None:
            return None
        if name in LABEL_ERRORS:
            return self._label_errors(rows)
        from selection.ranking.predictions import Predictions

        predictions = Predictions(self._platform, self._model.model_id)
        predictions.refresh()
        if not predictions.names:
            raise InvalidInput(
                f"model {self._model.model_id} has no predictions for these frames yet; run `mlpl predict --task TASK`, or leave `mlpl serve` running"
            )
        return predictions.score(name, rows)

    def _standing(self) -> dict[int, tuple[str, ...]]:
        if self._labels is None:
            found = labels.current(self._platform.database, task_id=self._task.task_id)
            self._labels = {label.row: label.value for label in found}
        return self._labels

    def _neighbour_errors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """All labels of the task are asked, also those of rows that the plan leaves out."""
        import numpy as np

        from selection.scores import label_errors

        labelled = np.array(self.labelled_rows(), dtype=np.int64)
        labelled = labelled[self.embedded(labelled)]
        if not len(labelled):
            raise InvalidInput("none of the labelled frames has a vector yet; run `mlpl embed` first")
        label_NC = np.array(
            [[name in self._standing()[row] for name in self._task.classes] for row in labelled.tolist()]
        )
        error_L = label_errors.neighbour_error(
            self.vectors(labelled),
            label_NC,
            kind="classification" if self._task.kind == "classification" else "multilabel",
        )
        places = np.searchsorted(labelled, rows).clip(max=len(labelled) - 1)
        return np.where(labelled[places] == rows, error_L[places], np.nan).astype(np.float32)

    def _label_errors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        import numpy as np

        from selection.ranking.predictions import Predictions
        from service import label_errors

        assert self._model is not None
        standing = self._standing()
        labelled = {row: standing[row] for row in rows.tolist() if row in standing}
        predicted = Predictions(self._platform, self._model.model_id).probabilities_by_row(list(labelled))
        found = label_errors.by_row(task=self._task, model=self._model, labelled=labelled, predicted=predicted)
        return np.array([found.get(row, np.nan) for row in rows.tolist()], dtype=np.float32)


def _pool(platform: Platform, curator: Curator, plan: Plan) -> tuple[NDArray[np.bool_], list[Stage]]:
    from selection.planning.selecting import Stage

    pool = curator.mask(plan.where)
    stages = [Stage(name="fleet", frames=len(pool))]
    if plan.where:
        stages.append(Stage(name="where", frames=int(pool.sum()), note=plan.where))
    for text in plan.exclude:
        unwanted = curator.mask(text)
        shared = min(len(pool), len(unwanted))  # Frames may have come in between.
        pool[:shared] &= ~unwanted[:shared]
        stages.append(Stage(name="exclude", frames=int(pool.sum()), note=text))
    if plan.exclude_frames:
        unwanted_rows = _rows_named(platform, plan.exclude_frames)
        pool[[row for row in unwanted_rows if row < len(pool)]] = False
        stages.append(Stage(name="exclude_frames", frames=int(pool.sum())))
    return pool, stages


def _rows_named(platform: Platform, names: Sequence[str]) -> list[int]:
    try:
        return list(frames.rows_named(platform.database, names).values())
    except InvalidInput as exc:
        raise InvalidInput(f"exclude_frames: {exc.message}") from exc


def _places(platform: Platform, choices: Sequence[Choice], *, tested: NDArray[np.bool_] | None) -> list[Place]:
    found = frames.by_rows(platform.database, [choice.row for choice in choices])
    return [
        Place(
            frame_id=frame.frame_id,
            row=choice.row,
            score=choice.score,
            reason=choice.reason,
            purpose="test" if tested is not None and tested[choice.row] else "train",
        )
        for frame, choice in zip(found, choices, strict=True)
    ]


def _evaluation_budget(platform: Platform, plan: Plan, *, task: Task) -> int:
    if plan.evaluation is not None:
        return plan.evaluation
    have = batches.evaluation_count(platform.database, task_id=task.task_id)
    return 0 if have >= EVALUATION_ENOUGH else max(1, round(plan.budget * EVALUATION_SHARE))
