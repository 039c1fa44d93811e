"""Several copies of a model fed from one queue: whichever is free takes the next batch, and the batch of a lost one goes to the others."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from infra.errors import BackendUnavailable
from infra.logs import get_logger
from selection.embedding.replica import DeviceLost

Encoded = tuple[NDArray[np.float32] | None, NDArray[np.bool_]]
"""Vectors, shape (V, D), of the V inputs that could be read (None when V is 0), and which those were, shape (N,)."""

log = get_logger(__name__)


class Worker(Protocol):
    """A model on a device, as the queue sees it."""

    batch_frames: int

    @property
    def feeders(self) -> int:
        """Threads that keep it busy."""
        ...

    def thread(self) -> AbstractContextManager[None]:
        """Readies the calling thread to be one of them."""
        ...

    def ready(self, inputs: Sequence[Any]) -> list[Any]:
        """What `encode` takes, None for what cannot be read."""
        ...

    def encode(self, pixels: Sequence[Any]) -> NDArray[np.float32]:
        """Unit vectors, shape (N, D); raises `DeviceLost` when it can do no more."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Batch:
    inputs: Sequence[Future[Any]]
    done: Future[Encoded] = field(default_factory=Future)


class Replicas:
    """Threads that feed the copies of a model, for as long as the block lasts."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        """Starts the threads.

        Args:
            workers: At least one; different devices, or fakes of them.
        """
        self.batch_frames = max(1, min(worker.batch_frames for worker in workers))
        self._queue: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._broken: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._feed, args=(worker,), name=f"feed {number}", daemon=True)
            for number, worker in enumerate(one for one in workers for _ in range(one.feeders))
        ]
        self._alive = len(self._threads)
        for thread in self._threads:
            thread.start()

    @property
    def feeders(self) -> int:
        """Batches that are worked on at the same time."""
        return len(self._threads)

    def __enter__(self) -> Replicas:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if exc is not None:
            self.abort(exc)
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def encode(self, inputs: Sequence[Future[Any]]) -> Future[Encoded]:
        """Queues a batch whose inputs are still being read."""
        batch = _Batch(inputs=inputs)
        self._put(batch)
        return batch.done

    def abort(self, exc: BaseException) -> None:
        """Fails what is queued and what comes; the batches being computed end as they do."""
        with self._lock:
            self._broken = self._broken or exc
            while not self._queue.empty():
                batch = self._queue.get()
                if batch is not None:
                    batch.done.set_exception(self._broken)

    def _put(self, batch: _Batch) -> None:
        with self._lock:
            if self._broken is None:
                self._queue.put(batch)
                return
        batch.done.set_exception(self._broken)

    def _feed(self, worker: Worker) -> None:
        try:
            with worker.thread():
                self._encode_queued(worker)
        except BaseException as exc:  # The thread could not be readied; whoever waits must hear of it.
            self._retire(exc)

    def _encode_queued(self, worker: Worker) -> None:
        while (batch := self._queue.get()) is not None:
            try:
                batch.done.set_result(_encoded(worker, batch))
            except DeviceLost as exc:
                self._retire(exc)
                self._put(batch)
                return
            except BaseException as exc:
                batch.done.set_exception(exc)

    def _retire(self, exc: BaseException) -> None:
        """One thread less; with the last one goes the hope for what is queued."""
        with self._lock:
            self._alive -= 1
            left = self._alive
        if left == 0:
            self.abort(exc)
        else:
            log.warning("device_lost", reason=str(exc), feeders_left=left)


class OneEncoder:
    """An encoder that knows neither devices nor batches, as a worker."""

    feeders = 1

    def __init__(self, encoder: Any, *, batch_frames: int) -> None:
        """Wraps `encode_images`."""
        self.batch_frames = batch_frames
        self._encoder = encoder

    def thread(self) -> AbstractContextManager[None]:
        """Nothing to be readied."""
        from contextlib import nullcontext

        return nullcontext()

    def ready(self, inputs: Sequence[Any]) -> list[Any]:
        """Images as they are."""
        return list(inputs)

    def encode(self, pixels: Sequence[Any]) -> NDArray[np.float32]:
        """Unit vectors, shape (N, D)."""
        vectors_ND: NDArray[np.float32] = self._encoder.encode_images(pixels)
        return vectors_ND


def _encoded(worker: Worker, batch: _Batch) -> Encoded:
    ready = worker.ready([one.result() for one in batch.inputs])
    valid_N = np.array([one is not None for one in ready], dtype=np.bool_)
    usable = [one for one in ready if one is not None]
    if not usable:
        return None, valid_N
    vectors_VD = worker.encode(usable)
    if len(vectors_VD) != len(usable):
        raise BackendUnavailable(f"the encoder gave {len(vectors_VD)} vectors for {len(usable)} images")
    return vectors_VD, valid_N
