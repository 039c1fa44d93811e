"""Reconcilers: long work as the difference between what is and what should be.

Each function here closes one difference as far as it can now and says whether it changed anything. `Reconcilers` runs them beside the API,
each in its own thread. What a killed process leaves behind is simply a difference that the next one finds.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, TypeVar

from annotation import batches, tasks
from annotation.batches import Batch
from annotation.tasks import Task
from infra.database import as_trouble
from infra.errors import BackendUnavailable, Conflict, MlplError
from infra.logs import get_logger
from infra.platform import Platform
from service import data_line, labelling, model_line
from training import models, workflows
from training.executors.protocol import Executor

if TYPE_CHECKING:
    from service.curator import Curator

log = get_logger(__name__)

CORRECTIONS_FOR = timedelta(days=7)
CORRECTIONS_EVERY = timedelta(seconds=60)
SWEPT_EVERY_S = 6 * 3600.0
ABSENT_AGAIN_AFTER = timedelta(minutes=10)
"""A lake that is away comes back; until then, its originals are looked for this seldom."""

T = TypeVar("T")
ReconcilerState = Literal["idle", "working", "waiting", "stopped"]


def see(platform: Platform, *, clock: Callable[[], datetime]) -> bool:
    """Gives every frame that was registered in place its preview and statistics."""
    from selection.ingest import previews

    done = previews.see_missing(platform, tried_before=clock() - ABSENT_AGAIN_AFTER)
    return done.frames + done.broken > 0


def embed(platform: Platform, curator: Curator, *, clock: Callable[[], datetime]) -> bool:
    """Gives every row a vector from the current encoder, then from the one that the fleet is being switched to."""
    from selection.embedding import embed as embedding

    encoder_id, tried = curator.encoder_id(), clock() - ABSENT_AGAIN_AFTER
    changed = False
    if embedding.missing_pieces(platform, encoder_id, tried_before=tried):
        changed = embedding.embed_missing(platform, curator.encoder(), tried_before=tried) > 0
    return switch_encoder(platform, tried_before=tried) or changed


def switch_encoder(
    platform: Platform,
    *,
    progress: Callable[[int, int], None] | None = None,
    tried_before: datetime | None = None,
) -> bool:
    """Embeds the fleet with the wanted encoder while the old one serves, builds its index, and then lets it serve."""
    from selection.embedding import embed as embedding
    from selection.embedding import switching
    from selection.embedding.index import VectorIndex

    name = switching.wanted(platform)
    if name is None:
        return False
    encoder = switching.load_wanted(platform, name)
    rows = embedding.embed_missing(platform, encoder, progress=progress, tried_before=tried_before)
    index = VectorIndex(platform, encoder.encoder_id)
    index.refresh()
    index.build()
    return switching.finish(platform, name, encoder.encoder_id) or rows > 0


def index(platform: Platform, curator: Curator) -> bool:
    """Builds the index files of this machine for shards that came since the last time; searching goes on meanwhile."""
    from selection.embedding import encoders

    if encoders.current_encoder_id(platform) is None:
        return False
    return curator.index().build() > 0


def survey(platform: Platform, curator: Curator) -> bool:
    """Keeps the survey, the novelties and the map of the fleet up to date; rows that drip in are waited for until they are worth a shard."""
    from selection.embedding import encoders
    from service import structure

    if encoders.current_encoder_id(platform) is None:
        return False
    return structure.keep_up(platform, curator)


def sweep(platform: Platform, *, now: datetime) -> bool:
    """Removes what killed writers left in the object store, see `selection.leftovers`; nobody waits for it."""
    from selection import leftovers

    leftovers.sweep(platform, now=now)
    return False


def predict(platform: Platform) -> bool:
    """Gives every row predictions from each task's current model; those of an imported one come with its files."""
    from selection import shards
    from selection.fleet import frames

    db = platform.database

    def of_task(task: Task) -> bool:
        model = models.current(db, task.task_id)
        if model is None or model.origin == "imported":
            return False
        if not shards.gaps(db, "predictions", model.model_id, frames.row_count(db)):
            return False
        from training import prediction

        return prediction.predict_with(platform, model) > 0

    return _each(tasks.list_all(db), of_task)


def annotate(platform: Platform, *, clock: Callable[[], datetime]) -> bool:
    """Brings home the answers of open batches, and corrections to complete ones."""
    db = platform.database

    def of_batch(batch: Batch) -> bool:
        if batch.state == "complete" and not _wants_corrections(batch, now=clock()):
            return False
        try:
            backend = labelling.backend_of(platform, batch)
            before = batches.progress(db, batch.batch_id)
            return before != data_line.sync_batch(platform, batch.batch_id, backend=backend, clock=clock, patience_s=0)
        except Conflict as exc:
            log.debug("batch_busy", batch_id=batch.batch_id, reason=exc.message)
        except MlplError as exc:
            # Nobody waits for corrections to a complete batch; an open one is work that stands still.
            if batch.state == "open":
                raise
            log.debug("corrections_wait", batch_id=batch.batch_id, reason=exc.message)
        return False

    return _each(batches.to_collect(db, completed_after=clock() - CORRECTIONS_FOR), of_batch)


def trigger(platform: Platform, *, clock: Callable[[], datetime]) -> bool:
    """Starts the workflow of each batch that is complete. Its id is made from the batch's, so that one batch starts one workflow, ever."""
    db = platform.database

    def of_batch(batch: Batch) -> bool:
        workflow = workflows.start(
            db,
            workflow_id=f"wf-{batch.batch_id}",
            task_id=batch.task_id,
            cause={"kind": "batch", "batch_id": batch.batch_id},
            hyperparameters=tasks.get(db, batch.task_id).training,
            now=clock(),
        )
        batches.mark_triggered(db, batch.batch_id, workflow_id=workflow.workflow_id)
        log.info("training_triggered", batch_id=batch.batch_id, workflow_id=workflow.workflow_id)
        return True

    return _each(batches.untriggered(db), of_batch)


def advance_workflows(
    platform: Platform, curator: Curator, *, executor: Executor, clock: Callable[[], datetime]
) -> bool:
    """Takes the workflow further whose turn it is in each task."""

    def of_task(task_id: str) -> bool:
        return model_line.advance_task(platform, task_id, executor=executor, columns=curator.columns(), clock=clock)

    return _each(workflows.unfinished_tasks(platform.database), of_task)


@dataclass(frozen=True, kw_only=True)
class ReconcilerStatus:
    """How a reconciler is doing, for the status page.

    Attributes:
        last_error: The last thing that went wrong, None after a round that went well.
    """

    name: str
    state: ReconcilerState = "idle"
    last_run_at: datetime | None = None
    last_error: str | None = None


class Reconcilers:
    """Runs all reconcilers in threads of this process until stopped."""

    def __init__(self, platform: Platform, curator: Curator, executor: Executor) -> None:
        """Starts nothing yet.

        Args:
            platform: Shared by all threads.
            curator: Holder of the encoder, the index and the filter columns.
            executor: Runs training jobs.
        """
        clock = now_utc
        self._rounds: dict[str, Callable[[], bool]] = {
            "see": lambda: see(platform, clock=clock),
            "embed": lambda: embed(platform, curator, clock=clock),
            "index": lambda: index(platform, curator),
            "survey": lambda: survey(platform, curator),
            "sweep": _seldom(lambda: sweep(platform, now=clock()), every_s=SWEPT_EVERY_S),
            "predict": lambda: predict(platform),
            "annotate": lambda: annotate(platform, clock=clock),
            "trigger": lambda: trigger(platform, clock=clock),
            "workflow": lambda: advance_workflows(platform, curator, executor=executor, clock=clock),
        }
        self._interval_s = platform.settings.poll_interval_s
        self._statuses = {name: ReconcilerStatus(name=name) for name in self._rounds}
        self._stopping = threading.Event()
        self._woken = {name: threading.Event() for name in self._rounds}
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Starts the threads."""
        for name in self._rounds:
            thread = threading.Thread(target=self._run, args=(name,), name=f"reconcile-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """Asks the threads to end after the piece they are at. What they leave is found by the next process."""
        self._stopping.set()
        self.wake()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def wake(self) -> None:
        """Something changed: look now rather than at the next round."""
        for event in self._woken.values():
            event.set()

    def states(self) -> list[ReconcilerStatus]:
        """How each is doing."""
        return list(self._statuses.values())

    def _run(self, name: str) -> None:
        while not self._stopping.is_set():
            self._woken[name].clear()
            self._note(name, state="working")
            changed, wait_s, error = False, self._interval_s, None
            try:
                changed = self._rounds[name]()
            except BackendUnavailable as exc:
                wait_s, error = max(exc.retry_after_s, self._interval_s), exc.message
                log.warning("reconciler_waits", reconciler=name, reason=exc.message)
            except MlplError as exc:
                error = exc.message
                log.warning("reconciler_failed", reconciler=name, reason=exc.message)
            except Exception as exc:
                trouble = as_trouble(exc)
                if trouble is not None:
                    error = trouble.message
                    log.warning("reconciler_waits", reconciler=name, reason=error)
                else:
                    error = repr(exc)
                    log.exception("reconciler_crashed", reconciler=name)
            self._note(name, state="waiting" if error else "idle", last_run_at=now_utc(), last_error=error)
            if changed and not error:
                self.wake()  # One's work is often the next one's difference.
            self._woken[name].wait(wait_s)
        self._note(name, state="stopped")

    def _note(self, name: str, **changes: object) -> None:
        self._statuses[name] = replace(self._statuses[name], **changes)  # type: ignore[arg-type]


@contextmanager
def running(platform: Platform, curator: Curator, executor: Executor) -> Iterator[Reconcilers]:
    """Reconcilers that run while the block does."""
    reconcilers = Reconcilers(platform, curator, executor)
    reconcilers.start()
    try:
        yield reconcilers
    finally:
        reconcilers.stop()


def now_utc() -> datetime:
    """The clock of this process."""
    return datetime.now(UTC)


def _each(pieces: Iterable[T], close: Callable[[T], bool]) -> bool:
    """Closes every piece of a difference: what is wrong with one must not keep the others waiting, so it is raised at the end."""
    changed, trouble = False, None
    for piece in pieces:
        try:
            changed = close(piece) or changed
        except MlplError as exc:
            trouble = trouble or exc
    if trouble is not None:
        raise trouble
    return changed


def _seldom(close: Callable[[], bool], *, every_s: float) -> Callable[[], bool]:
    """The same at the first round, and then only when so much time has passed since it last went well."""
    done_at = -math.inf

    def one_round() -> bool:
        nonlocal done_at
        now = time.monotonic()
        if now - done_at < every_s:
            return False
        changed = close()
        done_at = now
        return changed

    return one_round


def _wants_corrections(batch: Batch, *, now: datetime) -> bool:
    return batch.rang_at is not None or batch.collected_at is None or now - batch.collected_at > CORRECTIONS_EVERY
