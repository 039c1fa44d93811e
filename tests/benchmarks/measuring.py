"""One measured line of the report, and how samples become one: warm-up, enough repeats, medians and percentiles."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the report.

    Attributes:
        key: Group and metric, for example `nearest.p50`; the same at every size and in every peer's answer.
        work: What was done, for people.
        mlpl: What was measured; None when it could not be, then `note` says why.
        unit: Of `mlpl`, `target`, `floor` and `peers`.
        target: What must be reached; None when the row only informs.
        sense: Whether less or more is better.
        floor: The same work in plain NumPy or FAISS, with no product around it.
        peers: The same work through other products, by name.
        peer_notes: What a peer's figure does not cover, or why there is none.
        details: Further figures of the same measurement.
    """

    key: str
    work: str
    mlpl: float | None
    unit: str
    target: float | None = None
    sense: Literal["at_most", "at_least"] = "at_most"
    floor: float | None = None
    peers: dict[str, float] = field(default_factory=dict)
    peer_notes: dict[str, str] = field(default_factory=dict)
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None without one, False when nothing could be measured."""
        if self.target is None:
            return None
        if self.mlpl is None:
            return False
        return self.mlpl <= self.target if self.sense == "at_most" else self.mlpl >= self.target

    def times_better_than(self, other: float | None) -> float | None:
        """How many times better MLPL is than another figure of this row; below 1 when it is worse."""
        if not self.mlpl or not other:
            return None
        return other / self.mlpl if self.sense == "at_most" else self.mlpl / other


def samples_ms(work: Callable[[int], object], *, repeats: int, warm_up: int = 3) -> list[float]:
    """Milliseconds of `work(0), work(1), ...`, after some calls with the same numbers that do not count."""
    for i in range(warm_up):
        work(i)
    return [_ms(work, i) for i in range(repeats)]


def interleaved_ms(
    works: Mapping[str, Callable[[int], object]], *, repeats: int, turn: int = 10, warm_up: int = 3
) -> dict[str, list[float]]:
    """Samples of several works that take turns, so that a machine that slows down slows all of them."""
    samples: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        for i in range(min(warm_up, repeats)):
            work(i)
    for start in range(0, repeats, turn):
        for name, work in works.items():
            samples[name] += [_ms(work, i) for i in range(start, min(start + turn, repeats))]
    return samples


def settling_ms(work: Callable[[int], object], *, seconds: float) -> list[float]:
    """Calls `work` for some seconds, at least once, and returns the samples of what nobody should take for the usual state."""
    began, samples = time.perf_counter(), [_ms(work, 0)]
    while time.perf_counter() - began < seconds:
        samples.append(_ms(work, len(samples)))
    return samples


def best_s(work: Callable[[], object], *, repeats: int = 3) -> float:
    """The median of a few runs, in seconds."""
    return median([_ms(lambda _i: work(), 0) for _ in range(repeats)]) / 1000


def median(samples: list[float]) -> float:
    """The middle sample."""
    return float(np.median(samples))


def p95(samples: list[float]) -> float:
    """Of 100 samples the 95th."""
    return float(np.percentile(samples, 95))


def spread(samples: list[float]) -> dict[str, float]:
    """What the report keeps of samples in milliseconds."""
    return {
        "p50": round(median(samples), 3),
        "p95": round(p95(samples), 3),
        "p99": round(float(np.percentile(samples, 99)), 3),
        "samples": len(samples),
    }


def peak_memory_mb(pid: int) -> float | None:
    """The most memory a process has held resident, in MB; None where the system does not tell. Linux only."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return round(int(found[1]) / 1000, 1) if found else None


def _ms(work: Callable[[int], object], i: int) -> float:
    began = time.perf_counter()
    work(i)
    return (time.perf_counter() - began) * 1000
