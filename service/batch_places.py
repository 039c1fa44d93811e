"""The places of all frames in batches, in memory: what is labelled, and as what.

They are read once and followed from there on: what changed by the time of its change, which the database writes with its own clock, and new
batches by their ids. So an answer costs what has changed, not what is labelled.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from annotation import batches
from annotation.batches import Standing
from infra.database import Db
from selection.growing_array import GrowingArray

FRESH_FOR_S = 0.5
SETTLED = timedelta(seconds=5)
"""A change may become visible so much after the time that it bears; what is no older is looked at again."""

_TICK = timedelta(seconds=1)
"""Servers of one database may disagree so much about the time."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_NOT_LABELLED = -1
_READ_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class LabelledRows:
    """Labelled rows of one task, each once.

    Attributes:
        rows: Ascending.
        code_N: Position of each one's value in `values`.
        values: The classes of a label.
    """

    rows: NDArray[np.int64]
    code_N: NDArray[np.int32]
    values: Sequence[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class _View:
    """One state of the places; readers keep the one they began with."""

    version: int
    rows: NDArray[np.int64]
    task_of: NDArray[np.int32]
    code_of: NDArray[np.int32]
    released: NDArray[np.bool_]
    tasks: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    batches: dict[str, slice]


class BatchPlaces:
    """Looks for what is new at most twice a second. Safe to share between threads."""

    def __init__(self, db: Db, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads nothing yet.

        Args:
            db: Where the batches are.
            clock: Seconds, for how long an answer is fresh.
        """
        self._db, self._clock = db, clock
        self._lock = threading.Lock()
        self._looked_at = -FRESH_FOR_S
        self._held = _Held()
        self._view = self._held.show(version=0)

    def version(self) -> int:
        """Changes whenever a place has come or changed."""
        return self._look().version

    def labelled(self, *, rows: int, task_id: str | None = None) -> NDArray[np.bool_]:
        """Which rows have a label of a task, or of any task; shape (rows,)."""
        view = self._look()
        chosen = view.code_of != _NOT_LABELLED
        if task_id is not None:
            chosen &= view.task_of == _position(view.tasks, task_id)
        return _mask(view.rows[chosen], rows=rows)

    def labelled_as(self, fits: Callable[[str, tuple[str, ...]], bool], *, rows: int) -> NDArray[np.bool_]:
        """Which rows have a label that fits, asked by task id and classes, once for all labels alike; shape (rows,)."""
        view = self._look()
        table = np.array([[fits(task, value) for value in (*view.values, ())] for task in view.tasks], dtype=bool)
        if not table.size:
            return np.zeros(rows, dtype=bool)
        chosen = table[view.task_of, view.code_of] & (view.code_of != _NOT_LABELLED)
        return _mask(view.rows[chosen], rows=rows)

    def labels_of(self, task_id: str) -> LabelledRows:
        """The labelled rows of a task."""
        view = self._look()
        chosen = (view.code_of != _NOT_LABELLED) & (view.task_of == _position(view.tasks, task_id))
        found, first = np.unique(view.rows[chosen], return_index=True)
        return LabelledRows(rows=found, code_N=view.code_of[chosen][first], values=view.values)

    def held(self, *, rows: int) -> NDArray[np.bool_]:
        """Which rows a batch holds or held; cancelled batches give back what nobody had answered. Shape (rows,)."""
        view = self._look()
        return _mask(view.rows[~view.released], rows=rows)

    def of_batches(self, batch_ids: Iterable[str], *, rows: int) -> NDArray[np.bool_]:
        """Which rows have a place in one of the batches; shape (rows,)."""
        batch_ids = list(batch_ids)
        view = self._look()
        if any(one not in view.batches for one in batch_ids):
            view = self._look(at_once=True)  # Who has just made a batch looks into it next.
        parts = [view.rows[view.batches[one]] for one in batch_ids if one in view.batches]
        return _mask(np.concatenate(parts) if parts else view.rows[:0], rows=rows)

    def _look(self, *, at_once: bool = False) -> _View:
        with self._lock:
            now = self._clock()
            if at_once or now - self._looked_at >= FRESH_FOR_S:
                try:
                    self._held.follow(self._db, now=now, at_once=at_once)
                except BaseException:
                    self._held.forget()
                    raise
                if self._held.has_news:
                    self._view = self._held.show(version=self._view.version + 1)
                self._looked_at = now
            return self._view


class _Held:
    """The places as they grow, batch by batch, those of a batch by rank. For one thread at a time."""

    def __init__(self) -> None:
        self._uncounted = 0
        self._differed: tuple[float, int] | None = None
        self._listed_at = -SETTLED.total_seconds()
        self._until = EPOCH
        self._moved_at = self._looked_at = 0.0
        self._clock = EPOCH
        self.has_news = False
        """Whether anything has come or changed since the last `show`."""
        self._empty()

    def follow(self, db: Db, *, now: float, at_once: bool = False) -> None:
        """Takes in what has come or changed since.

        The count of places may hold some whose transaction is not committed yet, so it only says when to look for new batches; when it goes on
        to differ from what is held, everything is read again.

        Args:
            now: Seconds.
            at_once: There is a new batch, whatever the count says.
        """
        count = batches.place_count(db)
        self._take_changes(db, now=now)
        differs = count != len(self._rows) + self._uncounted
        if not differs and not at_once and now - self._listed_at < SETTLED.total_seconds():
            self._differed = None
            return
        if not self._batches:
            self._read_all(db, now=now)
            return
        self._listed_at = now
        new = [one for one in batches.ids(db) if one not in self._batches]
        for batch_id in new:
            self._take(batches.standings(db, batch_id=batch_id))
        if new or not differs:
            self._differed = None
        elif self._differed is None or self._differed[1] != count:
            self._differed = (now, count)
        elif now - self._differed[0] > SETTLED.total_seconds():
            self._read_all(db, now=now)
            self._uncounted = count - len(self._rows)  # After a crash of the database its count may be off.

    def forget(self) -> None:
        """Leaves nothing half done: everything is read again."""
        self._empty()
        self._uncounted, self.has_news = 0, True

    def show(self, *, version: int) -> _View:
        """What readers may keep: nothing of it changes any more."""
        self.has_news = False
        return _View(
            version=version,
            rows=self._rows.all,
            task_of=self._tasks_of.all,
            code_of=self._codes.all.copy(),
            released=self._released.all.copy(),
            tasks=tuple(self._tasks),
            values=tuple(self._values),
            batches=dict(self._batches),
        )

    def _empty(self) -> None:
        self._rows = GrowingArray(np.int64, default=0)
        self._ranks = GrowingArray(np.int64, default=0)
        self._tasks_of = GrowingArray(np.int32, default=0)
        self._codes = GrowingArray(np.int32, default=_NOT_LABELLED)
        self._released = GrowingArray(np.bool_, default=False)
        self._tasks: dict[str, int] = {}
        self._values: dict[tuple[str, ...], int] = {}
        self._batches: dict[str, slice] = {}

    def _read_all(self, db: Db, *, now: float) -> None:
        self._empty()
        # Before what is read, so that none is missed; not beyond the times that changes get from now on.
        self._until = min(batches.last_change(db) or EPOCH, batches.database_clock(db))
        self._moved_at = now
        for _, of_batch in itertools.groupby(batches.standings(db), key=lambda one: one.batch_id):
            self._take(of_batch)

    def _take(self, of_batch: Iterable[Standing]) -> None:
        """Appends the places of one batch, by rank."""
        start = len(self._rows)
        for chunk in _chunks(of_batch):
            self.has_news = True
            self._rows.extend([one.row for one in chunk])
            self._ranks.extend([one.rank for one in chunk])
            self._tasks_of.extend([self._tasks.setdefault(one.task_id, len(self._tasks)) for one in chunk])
            self._codes.extend([self._code(one) for one in chunk])
            self._released.extend([one.released for one in chunk])
            self._batches[chunk[0].batch_id] = slice(start, len(self._rows))

    def _take_changes(self, db: Db, *, now: float) -> None:
        """What changed again or before it could be seen is looked at until it is settled; of what is as it was nothing is said."""
        clock, before = batches.database_clock(db), self._clock
        self._clock = clock
        if self._batches and before - clock > _TICK:
            # The clock was put back: changes may have come at times that were passed already.
            self._read_all(db, now=now)
        is_settled = self._looked_at - self._moved_at > SETTLED.total_seconds()
        since = self._until if is_settled else max(EPOCH, self._until - SETTLED)
        for one in batches.changed_standings(db, since=since):
            if one.changed_at is not None and min(one.changed_at, clock) > self._until:
                self._until, self._moved_at = min(one.changed_at, clock), now
            here = self._batches.get(one.batch_id)
            if here is None:
                continue  # Of a batch that is about to be read as it is.
            place = here.start + int(np.searchsorted(self._ranks.all[here], one.rank))
            if place == here.stop or self._ranks.all[place] != one.rank:
                continue  # It came past its batch; by their count the places are read again.
            code = self._code(one)
            if (self._codes.all[place], self._released.all[place]) != (code, one.released):
                self._codes.all[place], self._released.all[place] = code, one.released
                self.has_news = True
        self._looked_at = now

    def _code(self, one: Standing) -> int:
        return self._values.setdefault(one.value, len(self._values)) if one.state == "labelled" else _NOT_LABELLED


def _chunks(listed: Iterable[Standing]) -> Iterator[list[Standing]]:
    waiting = iter(listed)
    while chunk := list(itertools.islice(waiting, _READ_AT_ONCE)):
        yield chunk


def _position(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else -1


def _mask(chosen: NDArray[np.int64], *, rows: int) -> NDArray[np.bool_]:
    mask = np.zeros(rows, dtype=bool)
    mask[chosen[chosen < rows]] = True
    return mask
