"""The vector index of one encoder: what is built, and a tail of what came since."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.errors import NotFound
from infra.logs import get_logger
from infra.platform import Platform
from selection import shards
from selection.embedding.index import building, built
from selection.embedding.index.built import Source
from selection.embedding.index.exact import ExactBlock
from selection.embedding.index.parts import Part, best_of
from selection.embedding.index.status import IndexStatus, gpus, status_of
from selection.embedding.index.tail import Tail, readable, source_of, sources_of
from selection.embedding.vector_table import vectors_in
from selection.shards import Shard

if TYPE_CHECKING:
    import torch

SEGMENT_ROWS = 2**20
BUILD_ROWS = 2**14
"""A tail is built when it has so many rows, and an eighth of what is built of its segment."""

_log = get_logger(__name__)


class VectorIndex:
    """All vectors of one encoder, searched by cosine similarity. Safe to share between threads.

    New shards are searched as soon as `refresh` saw them: exactly, in half precision, in memory. `build` turns them into segments of up to a
    million rows: files under the home that are mapped, not loaded, and searched in two stages with a measured recall above 0.99 (on a GPU:
    exactly). A search works on the state it began with and waits for nobody.
    """

    def __init__(self, platform: Platform, encoder_id: str) -> None:
        """Loads nothing yet: call `refresh`."""
        self.encoder_id = encoder_id
        self._platform = platform
        self._folder: Path = built.home_of(platform.settings.home, encoder_id, database=platform.database.name)
        self._refreshing = threading.RLock()
        self._watch = shards.Watch("vectors", encoder_id)
        self._taken: tuple[int, int, datetime | None] = (0, 0, None)
        self._reached = 0
        self._seen: set[Source] = set()
        self._segments: dict[int, built.Segment] = {}
        self._opened = False
        self._built_parts: dict[int, Part] = {}
        self._tail = Tail()
        self._parts: tuple[Part, ...] = ()
        self._devices: list[torch.device] | None = None

    @property
    def size(self) -> int:
        """Rows that can be found."""
        return sum(len(part.rows_N) for part in self._parts)

    @property
    def covered(self) -> int:
        """Rows of all shards that were taken in, with those that have no vector because their frame cannot be encoded."""
        return self._taken[1]

    @property
    def reached(self) -> int:
        """The first row that no shard taken in has answered for: below it, a row that the index has not has no vector."""
        return self._reached

    def rows(self) -> NDArray[np.int64]:
        """The rows that have a vector, ascending, shape (size,)."""
        parts = [part.rows_N for part in self._parts]
        return np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)

    def refresh(self) -> int:
        """Takes in shards that were committed since the last time; a corrupt one is left out until it was made again.

        Returns:
            Rows that were added.
        """
        with self._refreshing:
            database, before = self._platform.database, self.size
            if self._watch.state(database) == self._taken:
                return 0
            found = [] if self._opened else built.listed(self._folder)  # Before the records: newer ones are not stale.
            records = shards.records(database, "vectors", self.encoder_id)
            if not self._opened:
                self._open(found, frozenset(source for record in records for source in sources_of(record)))
            taken = [record for record in records if source_of(record) in self._seen or self._take(record)]
            self._publish()
            # A corrupt one does not count, so that its replacement is noticed.
            newest = max((record.created_at for record in taken), default=None)
            self._taken = (len(taken), sum(record.rows for record in taken), newest)
            self._reached = shards.reached(taken)
            return self.size - before

    def search(
        self, queries_QD: NDArray[np.float32], *, k: int, mask: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k nearest rows for each query, nearest first, equally near ones by row.

        Args:
            queries_QD: Shape (Q, D), unit length.
            k: At least 1.
            mask: Shape (rows,): which rows may be found; rows beyond its end may not. None: all.
        Returns:
            Cosine similarities and rows, both of shape (Q, K) with K = min(k, size); where fewer rows may be found, the rest is filled
            with -inf and row -1.
        """
        queries = np.ascontiguousarray(queries_QD, dtype=np.float32)
        parts = self._parts
        wanted = min(k, sum(len(part.rows_N) for part in parts))
        scores_QK = np.full((len(queries), wanted), -np.inf, dtype=np.float32)
        rows_QK = np.full((len(queries), wanted), -1, dtype=np.int64)
        limits = [None if mask is None else part.allowed(mask) for part in parts]
        open_parts = [
            (part, limit) for part, limit in zip(parts, limits, strict=True) if limit is None or bool(limit.any())
        ]
        for number, query_D in enumerate(queries):
            scores, rows = best_of(open_parts, query_D, k=wanted)
            order = np.lexsort((rows, -scores))[:wanted]
            scores_QK[number, : len(order)] = scores[order]
            rows_QK[number, : len(order)] = rows[order]
        return scores_QK, rows_QK

    def has(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows have a vector; shape as `rows`."""
        return _in_any(self._parts, np.asarray(rows, dtype=np.int64))

    def count(self, mask: NDArray[np.bool_]) -> int:
        """How many of the rows of a mask have a vector."""
        return sum(int(np.count_nonzero(part.allowed(mask))) for part in self._parts)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of rows that the index `has`.

        Returns:
            Shape (len(rows), D), unit length; (0, 0) when nothing is indexed.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        vectors_ND: NDArray[np.float32] = np.empty((0, 0), dtype=np.float32)
        missing = np.ones(len(wanted), dtype=bool)
        for part in self._parts:
            positions = part.positions(wanted)
            here = positions >= 0
            found = part.block.vectors(positions[here])
            if not vectors_ND.shape[1]:
                vectors_ND = np.empty((len(wanted), found.shape[1]), dtype=np.float32)
            vectors_ND[here] = found
            missing &= ~here
        if missing.any() and self._parts:
            raise NotFound(f"row {int(wanted[missing][0])} has no vector yet")
        # Half precision keeps their length at one only roughly.
        vectors_ND /= np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)
        return vectors_ND

    def products(self, query_D: NDArray[np.float32], *, rows: int) -> NDArray[np.float32]:
        """The product of a query, of any length, with the vector of each row, from the vectors themselves.

        Returns:
            Shape (rows,), NaN where a row has no vector.
        """
        query = np.ascontiguousarray(query_D, dtype=np.float32)
        found = np.full(rows, np.nan, dtype=np.float32)
        for part in self._parts:
            inside = part.rows_N < rows
            found[part.rows_N[inside]] = part.block.products(query)[inside]
        return found

    def build_due(self) -> bool:
        """Whether the tail has grown so long that building is worth while."""
        with self._refreshing:
            return bool(self._due())

    def build(self, *, progress: Callable[[int, int], None] | None = None) -> int:
        """Builds what is due; meanwhile searches go on with what there was. Another process that builds is left to it.

        Args:
            progress: Called with rows built and rows to build.
        Returns:
            Rows in the segments that were built.
        Raises:
            StorageFull: The disk is full; searching goes on.
        """
        with self._refreshing:
            due = self._due()
        if not due:
            return 0
        total, done = sum(record.rows for records in due.values() for record in records), 0
        with building.alone(self._folder) as may:
            if not may:
                return 0
            for number, records in due.items():
                segment = building.build(
                    self._folder,
                    number=number,
                    sources=[source_of(record) for record in records],
                    parts=readable(self._platform, records),
                )
                if segment is not None:
                    self._adopt(segment)
                    _log.info(
                        "index_segment_built",
                        encoder_id=self.encoder_id,
                        segment=number,
                        rows=segment.description.rows,
                        components=segment.description.components,
                        recall=round(segment.description.recall.near, 4),
                        build_s=segment.description.build_s,
                    )
                done += sum(record.rows for record in records)
                if progress is not None:
                    progress(done, total)
        return done

    def status(self) -> IndexStatus:
        """How this index searches, for people."""
        with self._refreshing:
            return status_of(
                self.encoder_id,
                [segment.description for segment in self._segments.values()],
                rows=self.size,
                tail_rows=len(self._tail),
                on_gpu=bool(self._gpus()) if self._opened else False,
            )

    def _open(self, found: list[Path], present: frozenset[Source]) -> None:
        for segment in built.open_segments(found, present=present):
            self._segments[segment.description.number] = segment
            self._built_parts[segment.description.number] = self._part_of(segment)
            self._seen.update(segment.description.sources)
        self._opened = True
        self._publish()

    def _take(self, record: Shard) -> bool:
        try:
            rows_N, vectors_ND = vectors_in(shards.read(self._platform, record))
        except shards.CorruptShard:
            return False
        # Shards may overlap when one was made again with other bounds; the first vector of a row is as good as the second.
        new = ~(self.has(rows_N) | self._tail.has(rows_N))
        self._tail.add(record, rows_N[new], vectors_ND[new], device=self._next_device())
        self._seen.add(source_of(record))
        return True

    def _adopt(self, segment: built.Segment) -> None:
        """Puts a fresh segment in the place of the tail it was made from."""
        with self._refreshing:
            number = segment.description.number
            inside = frozenset(segment.description.sources)
            waiting = [record for source, record in self._tail.records.items() if source not in inside]
            self._segments[number] = segment
            self._built_parts[number] = self._part_of(segment)
            old, self._tail = self._tail, Tail()
            try:  # Until the end, searches find what they found before.
                for record in waiting:
                    self._take_again(record, old)
            finally:
                self._publish()

    def _take_again(self, record: Shard, old: Tail) -> None:
        """Keeps a waiting shard's rows, from memory: its file may be gone by now."""
        rows_N = np.arange(record.start, record.stop)
        for part in old.parts():
            positions = part.positions(rows_N)
            here = positions >= 0
            here &= ~_in_any(self._built_parts.values(), rows_N) & ~self._tail.has(rows_N)
            self._tail.add(record, rows_N[here], part.block.vectors(positions[here]), device=self._next_device())

    def _part_of(self, segment: built.Segment) -> Part:
        device = self._next_device()
        if device is None:
            return Part.of(segment.rows_N, segment)
        return Part.of(segment.rows_N, ExactBlock(segment.vectors_ND, device=device), on=str(device))

    def _publish(self) -> None:
        self._parts = (*self._built_parts.values(), *self._tail.parts())

    def _due(self) -> dict[int, list[Shard]]:
        """Segments to build, with all shards that will be in each."""
        waiting: dict[int, int] = defaultdict(int)
        for source, record in self._tail.records.items():
            waiting[record.start // SEGMENT_ROWS] += self._tail.held[source]
        due = {
            number: rows
            for number, rows in waiting.items()
            if rows >= max(BUILD_ROWS, self._segments[number].description.rows // 8 if number in self._segments else 0)
        }
        if not due:
            return {}
        found: dict[int, list[Shard]] = {number: [] for number in due}
        for record in shards.records(self._platform.database, "vectors", self.encoder_id):
            if record.start // SEGMENT_ROWS in due and source_of(record) in self._seen:
                found[record.start // SEGMENT_ROWS].append(record)
        # What the tail holds of a shard that is gone cannot be built: it waits for the shard to be made again.
        return {number: shards_of for number, shards_of in found.items() if self._adds(number, shards_of)}

    def _adds(self, number: int, records: list[Shard]) -> bool:
        inside = set(self._segments[number].description.sources) if number in self._segments else set()
        return any(source_of(record) not in inside for record in records)

    def _gpus(self) -> list[torch.device]:
        if self._devices is None:
            self._devices = gpus(self._platform.settings.device)
        return self._devices

    def _next_device(self) -> torch.device | None:
        """The GPU that holds the fewest rows; None on a machine without."""
        devices = self._gpus()
        if not devices:
            return None
        held = {str(device): 0 for device in devices}
        for part in (*self._built_parts.values(), *self._tail.parts()):
            if part.on in held:
                held[part.on] += len(part.rows_N)
        return min(devices, key=lambda device: held[str(device)])


def _in_any(parts: Iterable[Part], rows_N: NDArray[np.int64]) -> NDArray[np.bool_]:
    found = np.zeros(len(rows_N), dtype=bool)
    for part in parts:
        found |= part.positions(rows_N) >= 0
    return found
