"""Several sources read at once."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from queue import Full, Queue
from typing import TypeVar

AT_ONCE = 16
AHEAD = 16  # Items of archives and videos hold their bytes.

_LOOK_AGAIN_S = 0.1

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Ended:
    problem: BaseException | None


def interleaved(sources: Sequence[Iterable[T]]) -> Iterator[T]:
    """The items of all sources as they come, those of one source in their order.

    Up to sixteen sources are read at once, each by a thread of its own, so that a slow one holds up none of the others. One source is read by
    the caller's thread. What a source raises is raised here and ends them all.
    """
    if len(sources) < 2:
        for source in sources:
            yield from source
        return
    come: Queue[T | _Ended] = Queue(AHEAD)
    stopped = threading.Event()
    with ThreadPoolExecutor(min(len(sources), AT_ONCE), thread_name_prefix="source") as pool:
        try:
            for source in sources:
                pool.submit(_read, source, come, stopped)
            running = len(sources)
            while running:
                item = come.get()
                if not isinstance(item, _Ended):
                    yield item
                    continue
                running -= 1
                if item.problem is not None:
                    raise item.problem
        finally:
            stopped.set()


def _read(source: Iterable[T], come: Queue[T | _Ended], stopped: threading.Event) -> None:
    if stopped.is_set():
        return
    problem: BaseException | None = None
    try:
        # Here and now: whoever made the source may hold it for long, and with it its files and threads.
        with closing(source) if isinstance(source, Generator) else nullcontext():
            for item in source:
                if not _put(come, item, stopped):
                    return
    except BaseException as exc:
        problem = exc
    _put(come, _Ended(problem=problem), stopped)


def _put(come: Queue[T | _Ended], item: T | _Ended, stopped: threading.Event) -> bool:
    """False where nobody takes items any more."""
    while not stopped.is_set():
        try:
            come.put(item, timeout=_LOOK_AGAIN_S)
        except Full:
            continue
        return True
    return False
