"""The Data Line's moves: choose a batch, put it before people, bring their answers home.

Each joins rooms that do not know one another: ranking and splits, predictions and labelling backends, labels and batches.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from annotation import batches, labels, splits, tasks
from annotation.backends.protocol import FrameAnswers, LabellingBackend, Ticket, TicketFrame
from annotation.batches import Batch, BatchFrame, BatchId, Progress
from annotation.tasks import Task
from infra import leases
from infra.errors import Conflict, InvalidInput
from infra.logs import get_logger
from infra.platform import Platform
from selection.fleet import frames
from selection.planning import plan as plans
from selection.planning.plan import Plan
from service import labelling, selecting
from training import models
from training.models import Model

if TYPE_CHECKING:
    from service.curator import Curator

log = get_logger(__name__)

PATIENCE_S = 10.0
_CHUNK = 500


class NothingLeft(InvalidInput):
    """The pool has no frame left that was asked for."""


@dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """What a person asks for when they ask for a batch.

    Attributes:
        budget: Frames to choose; ignored when `frame_ids` are given.
        acquisition: Name of the acquisition function, or `random`.
        diversity: `k_center_greedy`, or None to take the highest scores alone.
        where: Pool filter, for example `timeofday:night -weather:rain`.
        evaluation: How many of the frames to draw at random from the drives held out for testing. None: a fifth, until the task has
            enough to judge a model by.
        frame_ids: Frames picked by hand.
        batch_id: Given by callers that may have to repeat the request.
        plan: A whole selection plan; then only `task_id` and `batch_id` are looked at beside it.
    """

    task_id: str
    budget: int = 100
    acquisition: str = "entropy"
    diversity: str | None = "k_center_greedy"
    where: str = ""
    seed: int = 0
    evaluation: int | None = None
    frame_ids: Sequence[str] | None = None
    batch_id: str | None = None
    plan: Plan | None = None

    def as_plan(self) -> Plan:
        """The plan that was given, or the one that the short form stands for.

        Raises:
            InvalidInput: It cannot be.
        """
        return self.plan or plans.short_form(
            budget=self.budget,
            acquisition=self.acquisition,
            diversity=self.diversity,
            where=self.where,
            seed=self.seed,
            evaluation=self.evaluation,
        )


def create_batch(platform: Platform, curator: Curator, request: BatchRequest, *, now: datetime) -> Batch:
    """Chooses the frames of a new batch and stores them with the reason for each.

    Raises:
        NotFound: No such task, or a hand-picked frame does not exist.
        InvalidInput: Nothing is left to choose from, or the request cannot be understood.
        Conflict: A batch for the task is being chosen by someone else at this moment.
    """
    db = platform.database
    task = tasks.get(db, request.task_id)
    whole = request.as_plan() if request.frame_ids is None else None  # Checked before anybody waits for the lease.
    with leases.hold(db, f"select/{task.task_id}") as lease:
        batch_id = BatchId(request.batch_id or _new_batch_id(task, now=now))
        model = models.current(db, task.task_id)
        plan: dict[str, Any]
        if whole is None:
            chosen = _hand_picked(platform, curator, request, batch_id=batch_id)
            plan = {"hand_picked": True, "budget": len(chosen), "where": request.where, "seed": request.seed}
        else:
            chosen, plan = _ranked(platform, curator, whole, task=task, batch_id=batch_id, model=model)
        ranked_by = model if any(place.score is not None for place in chosen) else None
        batch = Batch(
            batch_id=batch_id,
            task_id=task.task_id,
            state="planned",
            created_at=now,
            plan=plan,
            model_id=ranked_by.model_id if ranked_by else None,
            encoder_id=curator.encoder_id() if plan.get("embedded") else None,
            trains=any(place.purpose == "train" for place in chosen),
        )
        lease.check()  # Whoever has it now may be taking the same frames.
        batches.insert(db, batch, chosen)
    log.info("batch_created", batch_id=batch_id, task_id=task.task_id, frames=len(chosen), model_id=batch.model_id)
    return batches.get(db, batch_id)


def push_batch(platform: Platform, batch_id: str, *, backend: LabellingBackend, now: datetime) -> Batch:
    """Puts a batch before people. Repeating it sends nothing twice and renews what has gone stale.

    Raises:
        Conflict: The batch was cancelled or is complete.
        BackendUnavailable: The labelling server does not answer; the batch stays planned.
    """
    db = platform.database
    with leases.hold(db, f"push/{batch_id}"):
        batch = batches.get(db, batch_id)
        if batch.state not in ("planned", "open"):
            raise Conflict(
                f"batch {batch_id} is {batch.state}; only a planned or open batch can be pushed", batch_id=batch_id
            )
        if batch.state == "open" and batch.backend != backend.name:
            raise Conflict(f"batch {batch_id} is open in {batch.backend}, not in {backend.name}", batch_id=batch_id)
        ref = backend.open(_ticket(platform, batch, now=now))
        labelling.ask_to_ring(platform, backend, ref)
        queue_url = backend.status(ref).queue_url
        batch = batches.mark_open(db, batch_id, backend=backend.name, ref=ref, queue_url=queue_url, now=now)
    log.info("batch_pushed", batch_id=batch_id, backend=backend.name)
    return batch


def sync_batch(
    platform: Platform,
    batch_id: str,
    *,
    backend: LabellingBackend,
    clock: Callable[[], datetime],
    full: bool = False,
    patience_s: float = PATIENCE_S,
) -> Progress:
    """Collects what people answered since the last time, stores it, and closes the batch when nothing is missing.

    Args:
        full: Compare every answer of the batch, not only recent ones.
        patience_s: How long to wait while someone else is collecting it, as `mlpl serve` does again and again.

    Raises:
        Conflict: The batch is not with a backend, or someone else went on collecting it.
        BackendUnavailable: The labelling server does not answer; nothing is lost, ask again.
    """
    db = platform.database
    with leases.hold(db, f"collect/{batch_id}", patience_s=patience_s):
        batch = batches.get(db, batch_id)
        if batch.ref is None:
            raise Conflict(f"batch {batch_id} was not pushed yet; `mlpl batch push {batch_id}`", batch_id=batch_id)
        task = tasks.get(db, batch.task_id)
        asked_at = backend.server_now()
        answers = backend.collect(batch.ref, None if full else batch.collected_at)
        while chunk := list(islice(answers, _CHUNK)):
            _store_answers(platform, batch, task, backend.name, chunk, now=clock())
        batches.record_collected(db, batch, collected_at=asked_at)
        if batches.complete_if_done(db, batch_id, now=clock()):
            log.info("batch_complete", batch_id=batch_id)
    return batches.progress(db, batch_id)


def cancel_batch(
    platform: Platform, batch_id: str, *, backend: LabellingBackend | None, clock: Callable[[], datetime]
) -> Batch:
    """Withdraws a batch that is not complete; answers that were given are brought home first and stay.

    Raises:
        Conflict: The batch is complete, or someone else is pushing or collecting it at this moment.
        BackendUnavailable: The labelling server does not answer; the batch stays as it is.
    """
    db = platform.database
    with leases.hold(db, f"push/{batch_id}", patience_s=PATIENCE_S):
        batch = batches.get(db, batch_id)
        if batch.state == "open" and batch.ref is not None and backend is not None:
            backend.cancel(batch.ref)
            sync_batch(platform, batch_id, backend=backend, clock=clock, full=True)
        batches.cancel(db, batch_id)
    return batches.get(db, batch_id)


def _store_answers(
    platform: Platform,
    batch: Batch,
    task: Task,
    backend_name: str,
    answers: Sequence[FrameAnswers],
    *,
    now: datetime,
) -> None:
    db = platform.database
    places = batches.places(db, [(batch.batch_id, answer.frame_id) for answer in answers])
    known = frames.get_many(db, [place.frame_id for place in places])
    if strangers := [answer.frame_id for answer in answers if answer.frame_id not in known]:
        log.warning("answers_to_strangers", batch_id=batch.batch_id, count=len(strangers), first=strangers[0])
    outcomes = labels.store_answers(
        db,
        task=task,
        batch_id=batch.batch_id,
        backend=backend_name,
        answers=[answer for answer in answers if answer.frame_id in known],
        frames=known,
        now=now,
    )
    batches.record_outcomes(db, batch.batch_id, outcomes)


def _ranked(
    platform: Platform, curator: Curator, plan: Plan, *, task: Task, batch_id: BatchId, model: Model | None
) -> tuple[list[BatchFrame], dict[str, Any]]:
    found = selecting.carry_out(platform, curator, plan, task=task, model=model)
    if not found.places:
        raise NothingLeft(
            f"no frame is left to label for task {task.task_id}"
            + (f" among those that match {plan.where!r}" if plan.where else "; ingest more")
        )
    places = [
        BatchFrame(
            batch_id=batch_id,
            task_id=task.task_id,
            frame_id=one.frame_id,
            row=one.row,
            rank=rank,
            score=one.score,
            reason=one.reason,
            purpose=one.purpose,
        )
        for rank, one in enumerate(found.places)
    ]
    return places, {
        "budget": plan.budget,
        "where": plan.where,
        "seed": plan.seed,
        "acquisition": " + ".join(term.score for term in plan.scores),
        "diversity": plan.diversity.method if found.spread else None,
        "evaluation": found.evaluation,
        "embedded": found.spread or plan.near_duplicates is not None,
        "file": plans.render(plan),
        "stages": [{"name": stage.name, "frames": stage.frames, "note": stage.note} for stage in found.stages],
    }


def _hand_picked(platform: Platform, curator: Curator, request: BatchRequest, *, batch_id: BatchId) -> list[BatchFrame]:
    """Frames picked by hand keep the split of their drive; those in a gap between splits or already taken are refused by name."""
    db, task_id = platform.database, request.task_id
    wanted = [frames.FrameId(frame_id) for frame_id in dict.fromkeys(request.frame_ids or ())]
    known = frames.get_many(db, wanted)
    found = [known.get(frame_id) or frames.get(db, frame_id) for frame_id in wanted]
    picked = list({frame.frame_id: frame for frame in found}.values())
    if not picked:
        raise InvalidInput("no frames were picked")
    taken = set(batches.taken_rows(db, task_id=task_id))
    if twice := [frame for frame in picked if frame.row in taken]:
        raise Conflict(
            f"{len(twice)} of the {len(picked)} frames are in a batch of task {task_id} already, "
            f"the first of them is {twice[0].frame_id}; leave them out",
            frame_ids=[frame.frame_id for frame in twice],
        )
    by_split = splits.masks(db, task_id=task_id, columns=curator.columns())
    if between := [frame for frame in picked if by_split["gap"][frame.row]]:
        raise InvalidInput(
            f"{len(between)} of the {len(picked)} frames lie in a gap between training and evaluation and are used for "
            f"neither, the first of them is {between[0].frame_id}; leave them out",
            frame_ids=[frame.frame_id for frame in between],
        )
    return [
        BatchFrame(
            batch_id=batch_id,
            task_id=tasks.TaskId(task_id),
            frame_id=frame.frame_id,
            row=frame.row,
            rank=rank,
            score=None,
            reason="picked by hand",
            purpose="test" if by_split["test"][frame.row] else "train",
        )
        for rank, frame in enumerate(picked)
    ]


def _ticket(platform: Platform, batch: Batch, *, now: datetime) -> Ticket:
    from service.access import signed_image_url

    db = platform.database
    task = tasks.get(db, batch.task_id)
    places = batches.frames_of(db, batch.batch_id)
    known = frames.get_many(db, [place.frame_id for place in places])
    if unseen := [frame.frame_id for frame in known.values() if not frame.width]:
        raise Conflict(
            f"{len(unseen)} frames of batch {batch.batch_id} were registered in place and not looked at yet, the first is "
            f"{unseen[0]}; run `mlpl embed` or leave `mlpl serve` running, then push it",
            batch_id=batch.batch_id,
        )
    model = models.current(db, task.task_id)
    predictions = _predictions(platform, model, [place.row for place in places]) if model else {}
    return Ticket(
        batch_id=batch.batch_id,
        task=task,
        model_id=model.model_id if model else None,
        frames=[
            TicketFrame(
                frame_id=place.frame_id,
                row=place.row,
                width=known[place.frame_id].width,
                height=known[place.frame_id].height,
                image_url=signed_image_url(platform, place.frame_id, now=now),
                rank=place.rank,
                prediction=predictions.get(place.row),
            )
            for place in places
        ],
    )


def _predictions(platform: Platform, model: Model, rows: Sequence[int]) -> dict[int, dict[str, float]]:
    """What a model thinks of these frames, for those it has seen."""
    from selection.ranking.predictions import Predictions

    found = Predictions(platform, model.model_id).probabilities_by_row(rows)
    return {row: dict(zip(model.classes, map(float, values), strict=True)) for row, values in found.items()}


def _new_batch_id(task: Task, *, now: datetime) -> str:
    return f"{task.task_id}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
