"""A limit on how fast bytes are read, shared by all threads of an ingest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from infra.errors import InvalidInput


class Throttle:
    """Lets bytes through at a steady rate; nothing is saved up while nobody reads."""

    def __init__(
        self,
        max_mbps: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Sets the rate.

        Args:
            max_mbps: Megabits (1,000,000 bits) a second; None for no limit.
            clock: Seconds.
            sleep: Waits so many seconds.
        Raises:
            InvalidInput: The rate is not above 0.
        """
        if max_mbps is not None and not max_mbps > 0:
            raise InvalidInput(f"--max-mbps {max_mbps} must be above 0")
        self._bytes_per_s = None if max_mbps is None else max_mbps * 1e6 / 8
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._free_at = clock()

    def take(self, count_bytes: int) -> None:
        """Waits until these bytes may be read."""
        if self._bytes_per_s is None:
            return
        with self._lock:
            now = self._clock()
            starts = max(now, self._free_at)
            self._free_at = starts + count_bytes / self._bytes_per_s
        if starts > now:
            self._sleep(starts - now)
