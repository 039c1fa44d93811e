"""Embedding: gives every row a vector from an encoder, in pieces that are committed once.

A piece is a range of rows, `shards.gaps` cuts the difference into them. Two are under way at a time, so that the models have the next
piece's frames while the shard of the last one is written. Batches begin at multiples of the batch size within a piece, so on one machine
the same rows always meet the same model in the same company and get the same bits, whoever embeds them and however often it was killed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infra import leases
from infra.logs import get_logger
from infra.platform import Platform
from selection import shards
from selection.devices import processors
from selection.embedding import absences, replica
from selection.embedding.inputs import FrameReader, Source
from selection.embedding.replicas import Encoded, OneEncoder, Replicas, Worker
from selection.embedding.vector_table import filled, vector_table
from selection.fleet import frames
from selection.shards import CorruptShard, Shard

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_FRAMES = 64
"""For an encoder that does not say how many images it takes."""
PIECES_AT_ONCE = 2
BATCHES_AHEAD = 2

_REST = timedelta(minutes=1)

log = get_logger(__name__)


class ImageEncoder(Protocol):
    """What embedding needs of an encoder."""

    @property
    def encoder_id(self) -> str:
        """Producer of the shards."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Unit vectors, shape (N, D)."""
        ...


@runtime_checkable
class ReplicatedEncoder(ImageEncoder, Protocol):
    """An encoder that has a model on each of several devices, and whose preparation of an image runs in threads beside them."""

    @property
    def sees_more_than_previews(self) -> bool:
        """Whether its model takes more pixels than a preview has."""
        ...

    def prepare(self, image: Image.Image) -> Any:
        """What the models take of one image."""
        ...

    def workers(self, *, rows: int) -> Sequence[Worker]:
        """The models, made ready for so many rows."""
        ...


def embed_missing(
    platform: Platform,
    encoder: ImageEncoder,
    *,
    progress: Callable[[int, int], None] | None = None,
    on_unreadable: Callable[[str], None] = lambda _where: None,
    tried_before: datetime | None = None,
) -> int:
    """Embeds every row that has no vector of this encoder yet.

    Pieces that another process is at are left to it. A killed call loses the pieces it was at, and a piece that was begun before and not
    finished is made in half: so a worker that is killed again and again, or by the piece itself, still comes to an end. A frame that is
    not there, or cannot be read now, keeps nobody waiting; a later call fills its vector in.

    Args:
        progress: Called with rows done and rows to do after every batch.
        on_unreadable: Called with where a frame should be that cannot be read; it gets no vector, and the rest goes on.
        tried_before: Leave out frames that were not there after this moment; for whoever calls again and again.

    Returns:
        Rows that this call gave a vector.
    """
    done, tried = 0, tried_before or datetime.now(UTC)
    pieces = missing_pieces(platform, encoder.encoder_id, tried_before=tried)
    while pieces:
        before = done

        def report(rows: int, total: int, before: int = before) -> None:
            if progress is not None:
                progress(before + rows, before + total)

        found = embed_pieces(platform, encoder, pieces, progress=report, on_unreadable=on_unreadable)
        done += found
        left = missing_pieces(platform, encoder.encoder_id, tried_before=tried)
        if found == 0 and set(pieces) <= set(left):
            break
        pieces = left
    if done:
        log.info("rows_embedded", encoder_id=encoder.encoder_id, rows=done)
    return done


def missing_pieces(
    platform: Platform, encoder_id: str, *, tried_before: datetime | None = None
) -> list[tuple[int, int]]:
    """The rows without a vector, as pieces `(start, stop)`; then the shards with frames that were not there, if not tried since.

    Args:
        tried_before: As in `embed_missing`; None: a minute ago, so that one run does not try them twice.
    """
    db, tried_before = platform.database, tried_before or datetime.now(UTC) - _REST
    gaps = shards.gaps(db, "vectors", encoder_id, frames.row_count(db))
    incomplete = absences.ranges(db, encoder_id, tried_before=tried_before)
    return gaps + [one for one in incomplete if shards.find(db, "vectors", encoder_id, one[0])]


def embed_pieces(
    platform: Platform,
    encoder: ImageEncoder,
    pieces: Sequence[tuple[int, int]],
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    on_unreadable: Callable[[str], None] = lambda _where: None,
) -> int:
    """Embeds those of the pieces that nobody else is at or has committed.

    Args:
        progress: Called with rows done and rows of all pieces after every batch.
        on_unreadable: As in `embed_missing`.

    Returns:
        Rows that got a vector.
    Raises:
        BackendUnavailable: A lake does not answer; all else is committed by then.
    """
    total = sum(stop - start for start, stop in pieces)
    with Embedding(
        platform,
        encoder,
        rows=total,
        progress=lambda done: progress(done, total),
        on_unreadable=on_unreadable,
    ) as embedding:
        pool = ThreadPoolExecutor(max_workers=PIECES_AT_ONCE, thread_name_prefix="piece")
        try:
            given = sum(pool.map(lambda piece: embedding.commit(*piece), pieces))
        except BaseException as exc:
            # No further piece begins; what the models are at fails, and with it the pieces under way.
            pool.shutdown(wait=False, cancel_futures=True)
            embedding.abort(exc)
            raise
        finally:
            pool.shutdown(wait=True)
        embedding.check()
    return given


def embed_rows(platform: Platform, encoder: ImageEncoder, *, start: int, stop: int) -> pa.Table:
    """Embeds rows `[start, stop)` and commits nothing; see `Embedding.table`."""
    with Embedding(platform, encoder, rows=stop - start) as embedding:
        return embedding.table(start=start, stop=stop)


class Embedding:
    """The line from frames to vectors, open while the block lasts: threads that read and decode, and an encoder's models fed from a queue."""

    def __init__(
        self,
        platform: Platform,
        encoder: ImageEncoder,
        *,
        rows: int,
        whole: bool | None = None,
        progress: Callable[[int], None] = lambda _done: None,
        on_unreadable: Callable[[str], None] = lambda _where: None,
    ) -> None:
        """Starts the threads.

        Args:
            platform: Where frames and shards are.
            encoder: Gives the vectors.
            rows: How many are to come: a GPU is tuned only where that pays.
            whole: Read originals instead of previews; None: where the encoder sees more than a preview shows.
            progress: Called with rows done after every batch.
            on_unreadable: As in `embed_missing`.
        """
        self._platform, self._encoder, self._progress = platform, encoder, progress
        if isinstance(encoder, ReplicatedEncoder):
            workers, prepare = encoder.workers(rows=rows), encoder.prepare
            whole = encoder.sees_more_than_previews if whole is None else whole
        else:
            workers, prepare = [OneEncoder(encoder, batch_frames=BATCH_FRAMES)], lambda image: image
        self._reader = FrameReader(
            platform,
            prepare,
            whole=bool(whole),
            encoded=all(getattr(one, "decodes", False) for one in workers),
            on_unreadable=on_unreadable,
        )
        self._readers = ThreadPoolExecutor(
            max_workers=min(32, max(2, processors())), thread_name_prefix="decode", initializer=replica.alone
        )
        self._replicas = Replicas(workers)
        self._room = threading.Semaphore(self._replicas.feeders + BATCHES_AHEAD)
        self._turn, self._count_lock, self._done = threading.Lock(), threading.Lock(), 0

    def __enter__(self) -> Embedding:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._readers.shutdown(wait=False, cancel_futures=exc is not None)
        self._replicas.__exit__(kind, exc, trace)
        self._readers.shutdown(wait=True)

    def abort(self, exc: BaseException) -> None:
        """Fails what is under way."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._replicas.abort(exc)

    def commit(self, start: int, stop: int) -> int:
        """Embeds a piece and commits its shard, unless another process is at it or was faster.

        Of a shard that is there, the frames are tried again that were not there when it was made.

        Returns:
            Rows that got a vector.
        """
        platform, encoder_id = self._platform, self._encoder.encoder_id
        there = shards.find(platform.database, "vectors", encoder_id, start)
        if there is not None:
            return self._fill(there)
        with leases.try_hold(platform.database, f"embed/{encoder_id}/{start}") as lease:
            # Asked again, now that the piece is ours: its last holder may just have committed it.
            if lease is None or shards.find(platform.database, "vectors", encoder_id, start):
                return 0
            stop = _shortened(start, stop, attempt=lease.token, batch=self._replicas.batch_frames)
            table, absent = self._embedded(start=start, stop=stop)
            if lease.lost:
                return 0
            now = datetime.now(UTC)
            absences.note(platform.database, encoder_id, absent, start=start, stop=stop, now=now)
            if shards.write(platform, "vectors", encoder_id, start, stop, table) is None:
                return 0
        return int(stop - start - table.column("vector").null_count)

    def _fill(self, shard: Shard) -> int:
        """Gives the frames that were not there when a shard was made their vectors, if they are there now."""
        platform, encoder_id = self._platform, self._encoder.encoder_id
        db = platform.database
        # Not the lease of a piece: how often that was taken says how often the piece was begun.
        with leases.try_hold(db, f"fill/{encoder_id}/{shard.start}") as lease:
            noted = absences.rows_of(db, encoder_id, shard.start)
            # A killed attempt at a longer shard may have noted more.
            rows = [row for row in noted if shard.start <= row < shard.stop]
            if lease is None:
                return 0
            if not rows:
                absences.settle(db, encoder_id, noted, start=shard.start, now=datetime.now(UTC))
                return 0
            sources = self._reader.sources(start=rows[0], stop=rows[-1] + 1)
            vectors_ND, valid_N = self._vectors([sources[row - rows[0]] for row in rows], read=self._reader.read_again)
            absent = self._absent(rows)
            self._advance(shard.rows - len(rows))
            count = 0
            if valid_N.any():
                try:
                    table, count = filled(shards.read(platform, shard), np.array(rows)[valid_N], vectors_ND[valid_N])
                except CorruptShard:
                    return 0  # All of its rows are a gap again.
                if lease.lost or shards.replace(platform, shard, table) is None:
                    return 0
            absences.settle(db, encoder_id, sorted(set(noted) - set(absent)), start=shard.start, now=datetime.now(UTC))
        return count

    def check(self) -> None:
        """Tells of a lake that did not answer; raises as `FrameReader.check`."""
        self._reader.check()

    def table(self, *, start: int, stop: int) -> pa.Table:
        """Embeds rows `[start, stop)`.

        Returns:
            Columns `row` and `vector` (float16 of unit length); null where neither preview nor original can be read.
        """
        return self._embedded(start=start, stop=stop)[0]

    def _embedded(self, *, start: int, stop: int) -> tuple[pa.Table, list[int]]:
        """The table, and which of its rows are null because their frame is not there now."""
        vectors_ND, valid_N = self._vectors(self._reader.sources(start=start, stop=stop), read=self._reader.read)
        return vector_table(vectors_ND, valid_N=valid_N, start=start), self._absent(range(start, stop))

    def _absent(self, rows: Sequence[int]) -> list[int]:
        found = self._reader.take_absent(rows)
        if found:
            log.warning(
                "frames_absent", frames=len(found), first_row=found[0], what_next="they are tried again next time"
            )
        return found

    def _vectors(
        self, sources: Sequence[Source | None], *, read: Callable[[Source | None], Any]
    ) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
        """Vectors, shape (N, D), and which of them there are, shape (N,)."""
        size = self._replicas.batch_frames
        waiting: list[tuple[int, Future[Encoded]]] = []
        with self._turn:  # A piece is handed out whole before the next one, so that a kill costs little more than one.
            for first in range(0, len(sources), size):
                self._room.acquire()
                batch = sources[first : first + size]
                waiting.append((first, self._queued(batch, read)))
        vectors_ND = np.zeros((len(sources), self._encoder.dimension), dtype=np.float16)
        valid_N = np.zeros(len(sources), dtype=np.bool_)
        for first, future in waiting:
            found_VD, found_N = future.result()
            valid_N[first : first + len(found_N)] = found_N
            if found_VD is not None:
                vectors_ND[first + np.flatnonzero(found_N)] = found_VD
        finite_N = np.isfinite(vectors_ND).all(axis=1)
        if not finite_N.all():  # One such vector would spoil every search.
            log.warning("vectors_not_finite", encoder_id=self._encoder.encoder_id, frames=int((~finite_N).sum()))
            vectors_ND[~finite_N] = 0
            valid_N &= finite_N
        return vectors_ND, valid_N

    def _queued(self, batch: Sequence[Any], read: Callable[[Source | None], Any]) -> Future[Encoded]:
        try:
            future = self._replicas.encode([self._readers.submit(read, source) for source in batch])
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(lambda done: self._release(len(batch), ended_well=done.exception() is None))
        return future

    def _release(self, count: int, *, ended_well: bool) -> None:
        self._room.release()
        if ended_well:
            self._advance(count)

    def _advance(self, count: int) -> None:
        with self._count_lock:
            self._done += count
            self._progress(self._done)


def _shortened(start: int, stop: int, *, attempt: int, batch: int) -> int:
    """Where a piece ends that is begun for the `attempt`th time: half as far each time, after whole batches, never before one."""
    rows = (stop - start) >> min(attempt - 1, 32)
    return min(stop, start + max(1, -(-rows // batch)) * batch)
