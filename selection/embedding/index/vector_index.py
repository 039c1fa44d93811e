"""The vector index of one encoder: what is built, and a tail of what came since."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from infra.errors import NotFound
from infra.logs import get_logger
from infra.platform import Platform
from selection import shards
from selection.embedding.index import built
from selection.embedding.index.built import Source
from selection.embedding.index.exact import ExactBlock
from selection.growing_array import GrowingArray
from selection.shards import Shard

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

SEGMENT_ROWS = 2**20
BUILD_ROWS = 2**14
"""A tail is built when it has so many rows, and an eighth of what is built of its segment."""
TAIL_BLOCK_ROWS = 2**16

_Hits = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Scores and rows."""
_log = get_logger(__name__)


class _Searchable(Protocol):
    def search(
        self, query_D: NDArray[np.float32], *, k: int, allowed_N: NDArray[np.bool_] | None, above: float = -np.inf
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...

    def shortfall(
        self, query_D: NDArray[np.float32], positions_M: NDArray[np.int64], scores_M: NDArray[np.float32]
    ) -> float: ...

    def products(self, query_D: NDArray[np.float32]) -> NDArray[np.float32]: ...

    def vectors(self, positions_M: NDArray[np.int64]) -> NDArray[np.float16]: ...


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Some rows and where their vectors are searched; positions are the order of `rows_N`."""

    rows_N: NDArray[np.int64]
    block: _Searchable
    order_N: NDArray[np.int64] | None
    on: str

    @classmethod
    def of(cls, rows_N: NDArray[np.int64], block: _Searchable, *, on: str = "cpu") -> _Part:
        ascending = len(rows_N) < 2 or bool((rows_N[1:] > rows_N[:-1]).all())
        return cls(rows_N=rows_N, block=block, order_N=None if ascending else np.argsort(rows_N), on=on)

    def positions(self, rows_M: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the rows are, -1 where they are not."""
        count = len(self.rows_N)
        if not count:
            return np.full(len(rows_M), -1, dtype=np.int64)
        if self.order_N is None and self.rows_N[-1] - self.rows_N[0] == count - 1:
            positions = rows_M - self.rows_N[0]
            return np.where((positions >= 0) & (positions < count), positions, -1)
        at = np.minimum(np.searchsorted(self.rows_N, rows_M, sorter=self.order_N), count - 1)
        at = at if self.order_N is None else self.order_N[at]
        return np.where(self.rows_N[at] == rows_M, at, -1)

    def allowed(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The mask in the order of positions; rows beyond its end are not allowed."""
        count = len(self.rows_N)
        if not count:
            return np.zeros(0, dtype=bool)
        first, last = int(self.rows_N[0]), int(self.rows_N[-1])
        if self.order_N is None and last - first == count - 1:  # The usual case needs no gathering.
            part = mask[first : last + 1]
            return part if len(part) == count else np.pad(part, (0, count - len(part)))
        allowed = np.zeros(count, dtype=bool)
        inside = self.rows_N < len(mask)
        allowed[inside] = mask[self.rows_N[inside]]
        return allowed


@dataclass(frozen=True, kw_only=True)
class IndexStatus:
    """How an index searches.

    Attributes:
        rows: Rows that can be found.
        tail_rows: Of them, those that are not built yet and are searched exactly, one by one.
        kind: `exact` (every search reads all vectors), `exact on GPU`, or `two-stage` (codes, then vectors). Segment by segment, the build
            chooses what is quicker, see `calibration.choose_coder`.
        recall: The lowest recall@50 measured at the builds, by kind of query; None when nothing is built.
        segments: What is built.
    """

    encoder_id: str
    rows: int
    tail_rows: int
    kind: str
    recall: dict[str, float] | None
    segments: Sequence[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """For the API."""
        return asdict(self)


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
        self._folder: Path = built.home_of(platform.settings.home, encoder_id)
        self._refreshing = threading.RLock()
        self._watch = shards.Watch("vectors", encoder_id)
        self._extent = (0, 0)
        self._seen: set[Source] = set()
        self._segments: dict[int, built.Segment] = {}
        self._opened = False
        self._built_parts: dict[int, _Part] = {}
        self._tail = _Tail()
        self._parts: tuple[_Part, ...] = ()
        self._devices: list[torch.device] | None = None

    @property
    def size(self) -> int:
        """Rows that can be found."""
        return sum(len(part.rows_N) for part in self._parts)

    @property
    def covered(self) -> int:
        """Rows of all shards that were taken in, with those that have no vector because their frame cannot be encoded."""
        return self._extent[1]

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
            if self._watch.extent(database) == self._extent:
                return 0
            records = shards.records(database, "vectors", self.encoder_id)
            if not self._opened:
                self._open(frozenset(_source(record) for record in records))
            taken = [record for record in records if _source(record) in self._seen or self._take(record)]
            self._publish()
            # A corrupt one does not count, so that its replacement is noticed.
            self._extent = (len(taken), sum(record.rows for record in taken))
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
            scores, rows = _found(open_parts, query_D, k=wanted)
            order = np.lexsort((rows, -scores))[:wanted]
            scores_QK[number, : len(order)] = scores[order]
            rows_QK[number, : len(order)] = rows[order]
        return scores_QK, rows_QK

    def has(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows have a vector; shape as `rows`."""
        wanted = np.asarray(rows, dtype=np.int64)
        found = np.zeros(len(wanted), dtype=bool)
        for part in self._parts:
            found |= part.positions(wanted) >= 0
        return found

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
        with built.building(self._folder) as may:
            if not may:
                return 0
            for number, records in due.items():
                segment = built.build(
                    self._folder,
                    number=number,
                    sources=[_source(record) for record in records],
                    parts=_readable(self._platform, records),
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
            return _status(
                self.encoder_id,
                [segment.description for segment in self._segments.values()],
                rows=self.size,
                tail_rows=len(self._tail),
                on_gpu=bool(self._gpus()) if self._opened else False,
            )

    def _open(self, present: frozenset[Source]) -> None:
        for segment in built.open_segments(self._folder, present=present):
            self._segments[segment.description.number] = segment
            self._built_parts[segment.description.number] = self._part_of(segment)
            self._seen.update(segment.description.sources)
        self._opened = True
        self._publish()

    def _take(self, record: Shard) -> bool:
        try:
            rows_N, vectors_ND = _unpack(shards.read(self._platform, record))
        except shards.CorruptShard:
            return False
        # Shards may overlap when one was made again with other bounds; the first vector of a row is as good as the second.
        new = ~(self.has(rows_N) | self._tail.has(rows_N))
        self._tail.add(record, rows_N[new], vectors_ND[new], device=self._next_device())
        self._seen.add(_source(record))
        return True

    def _adopt(self, segment: built.Segment) -> None:
        """Puts a fresh segment in the place of the tail it was made from."""
        with self._refreshing:
            number = segment.description.number
            inside = frozenset(segment.description.sources)
            waiting = [record for source, record in self._tail.records.items() if source not in inside]
            self._segments[number] = segment
            self._built_parts[number] = self._part_of(segment)
            old_parts, self._tail = self._parts, _Tail()
            self._parts = tuple(self._built_parts.values())
            try:
                for record in waiting:
                    self._take_again(record, old_parts)
            finally:
                self._publish()

    def _take_again(self, record: Shard, parts: Sequence[_Part]) -> None:
        """Keeps a waiting shard's rows, from memory: its file may be gone by now."""
        rows_N = np.arange(record.start, record.stop)
        for part in parts:
            if isinstance(part.block, built.Segment):
                continue
            positions = part.positions(rows_N)
            here = positions >= 0
            here &= ~self.has(rows_N) & ~self._tail.has(rows_N)
            self._tail.add(record, rows_N[here], part.block.vectors(positions[here]), device=self._next_device())

    def _part_of(self, segment: built.Segment) -> _Part:
        device = self._next_device()
        if device is None:
            return _Part.of(segment.rows_N, segment)
        return _Part.of(segment.rows_N, ExactBlock(segment.vectors_ND, device=device), on=str(device))

    def _publish(self) -> None:
        self._parts = (*self._built_parts.values(), *self._tail.parts())

    def _due(self) -> dict[int, list[Shard]]:
        """Segments to build, with all shards that will be in each."""
        waiting: dict[int, int] = defaultdict(int)
        for record in self._tail.records.values():
            waiting[record.start // SEGMENT_ROWS] += record.rows
        due = {
            number: rows
            for number, rows in waiting.items()
            if rows >= max(BUILD_ROWS, self._segments[number].description.rows // 8 if number in self._segments else 0)
        }
        if not due:
            return {}
        found: dict[int, list[Shard]] = {number: [] for number in due}
        for record in shards.records(self._platform.database, "vectors", self.encoder_id):
            if record.start // SEGMENT_ROWS in due and _source(record) in self._seen:
                found[record.start // SEGMENT_ROWS].append(record)
        return found

    def _gpus(self) -> list[torch.device]:
        if self._devices is None:
            self._devices = _gpus(self._platform.settings.device)
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


class _Tail:
    """Shards that are in no segment yet, in memory, in blocks."""

    def __init__(self) -> None:
        self.records: dict[Source, Shard] = {}
        self._known = GrowingArray(np.bool_, default=False)
        self._count = 0
        self._blocks: list[_Block] = []

    def __len__(self) -> int:
        return self._count

    def add(
        self, record: Shard, rows_N: NDArray[np.int64], vectors_ND: NDArray[np.float16], *, device: torch.device | None
    ) -> None:
        self.records[_source(record)] = record
        self._count += len(rows_N)
        if len(rows_N):
            self._known.pad(int(rows_N.max()) + 1)
            self._known.all[rows_N] = True
        while len(rows_N):
            if not self._blocks or self._blocks[-1].room == 0:
                self._blocks.append(_Block(vectors_ND.shape[1]))
            taken = self._blocks[-1].add(rows_N, vectors_ND, device=device)
            rows_N, vectors_ND = rows_N[taken:], vectors_ND[taken:]

    def has(self, rows_N: NDArray[np.int64]) -> NDArray[np.bool_]:
        found = np.zeros(len(rows_N), dtype=bool)
        inside = rows_N < len(self._known)
        found[inside] = self._known.all[rows_N[inside]]
        return found

    def parts(self) -> list[_Part]:
        return [block.part() for block in self._blocks]


class _Block:
    """Room for some rows of the tail. What was handed out stays as it is when more is added behind it."""

    def __init__(self, dimension: int) -> None:
        self._rows_N = np.empty(TAIL_BLOCK_ROWS, dtype=np.int64)
        self._vectors_ND = np.empty((TAIL_BLOCK_ROWS, dimension), dtype=np.float16)
        self._count = 0
        self._device: torch.device | None = None
        self._part: _Part | None = None

    @property
    def room(self) -> int:
        return len(self._rows_N) - self._count

    def add(self, rows_N: NDArray[np.int64], vectors_ND: NDArray[np.float16], *, device: torch.device | None) -> int:
        count = min(self.room, len(rows_N))
        place = slice(self._count, self._count + count)
        self._rows_N[place], self._vectors_ND[place] = rows_N[:count], vectors_ND[:count]
        self._count, self._device, self._part = self._count + count, self._device or device, None
        return count

    def part(self) -> _Part:
        if self._part is None:
            block = ExactBlock(self._vectors_ND[: self._count], device=self._device)
            on = "cpu" if self._device is None else str(self._device)
            self._part = _Part.of(self._rows_N[: self._count], block, on=on)
        return self._part


def built_status(platform: Platform, encoder_id: str) -> IndexStatus:
    """What is built on this machine, from descriptions alone: opens no index."""
    found = built.descriptions(built.home_of(platform.settings.home, encoder_id))
    built_from = {source for one in found for source in one.sources}
    present = shards.sources(platform.database, "vectors", encoder_id)
    tail_rows = sum(rows for source, rows in present.items() if source not in built_from)
    return _status(
        encoder_id, found, rows=sum(present.values()), tail_rows=tail_rows, on_gpu=bool(_gpus(platform.settings.device))
    )


def _status(
    encoder_id: str, found: Sequence[built.Description], *, rows: int, tail_rows: int, on_gpu: bool
) -> IndexStatus:
    lowest = (
        {name: min(getattr(one.recall, name) for one in found) for name in ("near", "far", "filtered")}
        if found
        else None
    )
    return IndexStatus(
        encoder_id=encoder_id,
        rows=rows,
        tail_rows=tail_rows,
        kind="exact on GPU" if on_gpu else "two-stage" if any(one.components for one in found) else "exact",
        recall=lowest,
        segments=[
            {
                "number": one.number,
                "rows": one.rows,
                "kind": one.kind,
                "code_bytes": one.components,
                "candidates": one.recall.candidates,
                "recall": {"near": one.recall.near, "far": one.recall.far, "filtered": one.recall.filtered},
                "build_s": one.build_s,
            }
            for one in found
        ],
    )


def _found(parts: Sequence[tuple[_Part, NDArray[np.bool_] | None]], query_D: NDArray[np.float32], *, k: int) -> _Hits:
    """The best of every part, those of different GPUs at the same time."""

    def of(some: Sequence[tuple[_Part, NDArray[np.bool_] | None]]) -> list[_Hits]:
        """What the first parts found spares the later ones most of their candidates."""
        hits: list[_Hits] = []
        best_K: NDArray[np.float32] = np.empty(0, dtype=np.float32)
        shortfall = 0.0
        for number, (part, allowed_N) in enumerate(some, start=1):
            above = float(best_K[0]) - shortfall if len(best_K) == k else -np.inf
            scores, positions = part.block.search(query_D, k=k, allowed_N=allowed_N, above=above)
            hits.append((scores, part.rows_N[positions]))
            best_K = np.sort(np.concatenate([best_K, scores]))[-k:]
            if number < len(some) and len(best_K) == k:
                best = scores >= best_K[0]
                shortfall = max(shortfall, part.block.shortfall(query_D, positions[best], scores[best]))
        return hits

    devices = sorted({part.on for part, _ in parts})
    if len(devices) > 1:
        with ThreadPoolExecutor(len(devices)) as pool:
            groups = pool.map(lambda on: of([one for one in parts if one[0].on == on]), devices)
            found = [one for group in groups for one in group]
    else:
        found = of(parts)
    if not found:
        return np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
    return np.concatenate([scores for scores, _ in found]), np.concatenate([rows for _, rows in found])


def _readable(platform: Platform, records: Sequence[Shard]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
    """Rows and vectors of shards, each row once, ascending."""
    reached = -1
    for record in sorted(records, key=lambda one: one.start):
        rows_N, vectors_ND = _unpack(shards.read(platform, record))
        new = rows_N > reached
        if new.any():
            reached = int(rows_N[-1])
            yield rows_N[new], vectors_ND[new]


def _source(record: Shard) -> Source:
    return (record.shard_id, record.digest)


def _gpus(wanted: str) -> list[torch.device]:
    """The GPUs that the setting means. Torch takes seconds to load, so it is asked only where there may be one."""
    if wanted == "cpu" or (
        wanted == "auto" and not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists()
    ):
        return []
    import torch

    from selection.devices import torch_device

    if wanted == "auto":
        return (
            [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
            if torch.cuda.is_available()
            else []
        )
    return [torch_device(wanted)]


def _unpack(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """Rows that have a vector, and the vectors, without a copy where all have one."""
    column = table.column("vector").combine_chunks()
    rows: NDArray[np.int64] = table.column("row").to_numpy()
    if column.null_count:
        rows = rows[np.asarray(column.is_valid())]
        column = column.drop_null()
    dense: NDArray[np.float16] = column.flatten().to_numpy(zero_copy_only=False)
    return rows, dense.reshape(len(rows), column.type.list_size)
