"""The vector index: nearest frames by cosine similarity, from an encoder's vector shards."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import NotFound
from infra.platform import Platform
from selection import shards
from selection.growing_array import GrowingArray

if TYPE_CHECKING:
    import pyarrow as pa

SEGMENT_ROWS = 2**18


class VectorIndex:
    """All vectors of one encoder in memory, searched exactly by FAISS. Safe to share between threads.

    Vectors stay in half precision, as the shards hold them: 2 bytes a dimension and row, 28 GB for 27 million of 512. They lie in segments,
    so that growing moves no more than one segment. New shards are added without a rebuild, and in any order.
    """

    def __init__(self, platform: Platform, encoder_id: str) -> None:
        """Loads nothing yet: call `refresh`."""
        self.encoder_id = encoder_id
        self._platform = platform
        self._refreshing = threading.Lock()
        self._lock = threading.Lock()  # Held while vectors are added or searched: FAISS allows the two not at once.
        self._extent = (0, 0)
        self._seen: set[tuple[str, str]] = set()
        self._segments: list[Any] = []
        self._row_at = GrowingArray(np.int64, default=-1)  # Position in the segments, taken one after the other -> row.
        self._position_of = GrowingArray(np.int64, default=-1)  # Row -> that position, -1 where there is no vector.
        self._in_row_order = True

    @property
    def size(self) -> int:
        """Rows that can be found."""
        return len(self._row_at)

    def refresh(self) -> int:
        """Takes in shards that were committed since the last time; a corrupt one is left out until it was made again.

        Returns:
            Rows that were added.
        """
        with self._refreshing:
            database, before = self._platform.database, self.size
            if shards.extent(database, "vectors", self.encoder_id) == self._extent:
                return 0
            taken: list[shards.Shard] = []
            for record in shards.records(database, "vectors", self.encoder_id):
                if (record.shard_id, record.digest) in self._seen:
                    taken.append(record)
                    continue
                try:
                    table = shards.read(self._platform, record)
                except shards.CorruptShard:
                    continue
                self._add(*_unpack(table))
                self._seen.add((record.shard_id, record.digest))
                taken.append(record)
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
        with self._lock:
            wanted = min(k, self.size)
            scores: list[NDArray[np.float32]] = [np.full((len(queries), wanted), -np.inf, dtype=np.float32)]
            rows: list[NDArray[np.int64]] = [np.full((len(queries), wanted), -1, dtype=np.int64)]
            for number, segment in enumerate(self._segments):
                row_at = self._row_at.all[number * SEGMENT_ROWS : number * SEGMENT_ROWS + segment.ntotal]
                allowed = None if mask is None else self._allowed(mask, row_at)
                if allowed is not None and not allowed.any():
                    continue
                found_scores, positions = _nearest(segment, queries, k=min(wanted, segment.ntotal), allowed=allowed)
                scores.append(np.where(positions >= 0, found_scores, -np.inf).astype(np.float32))
                rows.append(np.where(positions >= 0, row_at[positions], -1))
        return _best(np.concatenate(scores, axis=1), np.concatenate(rows, axis=1), k=wanted)

    def has(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows have a vector; shape as `rows`."""
        with self._lock:
            return self._positions(np.asarray(rows, dtype=np.int64)) >= 0

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of rows that the index `has`.

        Returns:
            Shape (len(rows), D), unit length; (0, 0) when nothing is indexed.
        """
        with self._lock:
            if not self._segments:
                return np.empty((0, 0), dtype=np.float32)
            positions = self._positions(np.asarray(rows, dtype=np.int64))
            if (positions < 0).any():
                raise NotFound(f"row {int(np.asarray(rows)[positions < 0][0])} has no vector yet")
            vectors_ND = np.empty((len(positions), self._segments[0].d), dtype=np.float32)
            for number, segment in enumerate(self._segments):
                here = positions // SEGMENT_ROWS == number
                if here.any():
                    vectors_ND[here] = segment.reconstruct_batch(positions[here] % SEGMENT_ROWS)
        lengths = np.linalg.norm(vectors_ND, axis=1, keepdims=True)  # Half precision keeps them at one only roughly.
        unit_ND: NDArray[np.float32] = vectors_ND / np.maximum(lengths, 1e-12)
        return unit_ND

    def _positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        known = self._position_of.all
        positions = np.full(len(rows), -1, dtype=np.int64)
        inside = (rows >= 0) & (rows < len(known))
        positions[inside] = known[rows[inside]]
        return positions

    def _allowed(self, mask: NDArray[np.bool_], row_at: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The mask in the order of a segment's positions."""
        if not len(row_at):
            return np.zeros(0, dtype=bool)
        if self._in_row_order:  # The usual case needs no gathering.
            part = mask[row_at[0] : row_at[-1] + 1]
            return part if len(part) == len(row_at) else np.pad(part, (0, len(row_at) - len(part)))
        allowed = np.zeros(len(row_at), dtype=bool)
        inside = row_at < len(mask)
        allowed[inside] = mask[row_at[inside]]
        return allowed

    def _add(self, rows: NDArray[np.int64], vectors_ND: NDArray[np.float32]) -> None:
        with self._lock:
            # Shards may overlap when one was made again with other bounds; the first vector of a row is as good as the second.
            new = self._positions(rows) < 0
            rows, vectors_ND = rows[new], vectors_ND[new]
            first = len(self._row_at)
            self._in_row_order = self._in_row_order and bool((rows == np.arange(first, first + len(rows))).all())
            for start in range(0, len(rows), SEGMENT_ROWS):
                self._add_to_segments(vectors_ND[start : start + SEGMENT_ROWS])
            self._row_at.extend(rows)
            if len(rows):
                self._position_of.pad(int(rows.max()) + 1)
                self._position_of.all[rows] = np.arange(first, first + len(rows))

    def _add_to_segments(self, vectors_ND: NDArray[np.float32]) -> None:
        faiss = _faiss()
        while len(vectors_ND):
            if not self._segments or self._segments[-1].ntotal == SEGMENT_ROWS:
                kind, metric = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
                self._segments.append(faiss.IndexScalarQuantizer(vectors_ND.shape[1], kind, metric))
            room = SEGMENT_ROWS - self._segments[-1].ntotal
            self._segments[-1].add(np.ascontiguousarray(vectors_ND[:room]))
            vectors_ND = vectors_ND[room:]


def _faiss() -> Any:
    import faiss

    return faiss


def _nearest(
    segment: Any, queries_QD: NDArray[np.float32], *, k: int, allowed: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    faiss = _faiss()
    if allowed is None:
        scores, positions = segment.search(queries_QD, k)
        return scores, positions
    bitmap = np.packbits(allowed, bitorder="little")
    scores, positions = segment.search(queries_QD, k, params=faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bitmap)))
    return scores, positions


def _best(
    scores_QK: NDArray[np.float32], rows_QK: NDArray[np.int64], *, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    order = np.lexsort((rows_QK, -scores_QK), axis=1)[:, :k]
    return np.take_along_axis(scores_QK, order, axis=1), np.take_along_axis(rows_QK, order, axis=1)


def _unpack(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows that have a vector, and the vectors."""
    column = table.column("vector").combine_chunks()
    valid = np.asarray(column.is_valid())
    rows: NDArray[np.int64] = table.column("row").to_numpy()[valid]
    dense = column.drop_null().flatten().to_numpy(zero_copy_only=False)
    return rows, dense.reshape(len(rows), column.type.list_size).astype(np.float32)
