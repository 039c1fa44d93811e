"""Ten million vectors in compressed form: streamed into the product's own index, and searched within the memory of one machine."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from infra.platform import Platform
from infra.settings import Settings
from selection import shards
from selection.embedding.index import VectorIndex
from selection.embedding.index.vector_index import SEGMENT_ROWS
from service.production_line import open_line
from tests.benchmarks import fleet, floor, measuring
from tests.benchmarks.bench import CLIP_LIKE, Bench
from tests.benchmarks.measuring import Row
from tests.benchmarks.vectors import ClipLike

K = 50
QUERIES = 100
_BYTES_A_ROW = 2 * 1024 + 512  # As a shard, as the index keeps it, and its code.


def ten_million(bench: Bench) -> list[Row]:
    """Build, memory, latency and recall of an index that flat float32 vectors would not fit in memory for."""
    vectors = ClipLike(rows=bench.huge_rows, seed=bench.seed)
    home = bench.home / f"vectors-{bench.huge_rows}"
    _check_space(home, bench.huge_rows)
    with open_line(Settings(home=home, encoder=f"benchmark/{CLIP_LIKE}", device="cpu")) as platform:
        queries = vectors.unseen(QUERIES)
        exact_rows, filled_s, build_s = _filled(platform, vectors, queries)
        began = time.perf_counter()
        index = VectorIndex(platform, CLIP_LIKE)
        index.refresh()
        opened_s = time.perf_counter() - began
        return _measured(index, queries, exact_rows, seconds={"fill": filled_s, "build": build_s, "open": opened_s})


def _check_space(home: Path, rows: int) -> None:
    home.mkdir(parents=True, exist_ok=True)
    held = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
    missing = rows * _BYTES_A_ROW - held - shutil.disk_usage(home).free
    if missing > 0:
        raise InvalidInput(f"{rows:,} rows need {missing / 1e9:.0f} GB more disk under {home}; give another --home")


def _filled(
    platform: Platform, vectors: ClipLike, queries: NDArray[np.float32]
) -> tuple[NDArray[np.int64], float, float]:
    """Commits what is missing and builds a segment whenever one is full, as `mlpl serve` does while it embeds.

    Returns:
        The exact nearest rows of the queries, found as the vectors pass by; seconds to commit and seconds to build.
    """
    began, build_s, start = time.perf_counter(), 0.0, 0
    done = shards.row_total(platform.database, "vectors", CLIP_LIKE)
    index = VectorIndex(platform, CLIP_LIKE)

    def passing() -> Iterator[NDArray[Any]]:
        nonlocal start, build_s
        for block in vectors.blocks(dtype=np.float16, block_rows=shards.BLOCK_ROWS):
            if start + len(block) > done:
                fleet.write_vectors(platform, block, producer=CLIP_LIKE, start=start)
            start += len(block)
            if start > done and (start % SEGMENT_ROWS == 0 or start == vectors.rows):
                build_began = time.perf_counter()
                index.refresh()
                index.build()
                build_s += time.perf_counter() - build_began
            yield block

    exact_rows = floor.exact_scores(passing(), queries, k=K)[1]
    return exact_rows, time.perf_counter() - began - build_s, build_s


def _measured(
    index: VectorIndex, queries: NDArray[np.float32], exact_rows: NDArray[np.int64], *, seconds: dict[str, float]
) -> list[Row]:
    import torch  # noqa: F401  # As in `mlpl serve`.

    rows = index.size
    found = [index.search(query[np.newaxis], k=K)[1][0].tolist() for query in queries]
    taken = measuring.samples_ms(lambda i: index.search(queries[i][np.newaxis], k=K), repeats=len(queries))
    segments = index.status().segments
    codes = sum(one["rows"] * one["code_bytes"] for one in segments)
    what = f"{rows:,} vectors"
    return [
        Row(key="ten_million.p50", work=f"nearest {K} of {what}, p50", mlpl=measuring.median(taken), unit="ms"),
        Row(key="ten_million.p95", work=f"nearest {K} of {what}, p95", mlpl=measuring.p95(taken), unit="ms"),
        Row(
            key="ten_million.recall",
            work=f"recall@{K} of {what}",
            mlpl=floor.recall(found, exact_rows),
            unit="share",
            target=0.99,
            sense="at_least",
            details={"measured_at_the_builds": index.status().recall},
        ),
        Row(
            key="ten_million.memory",
            work=f"peak memory of the process that built and searches {what}",
            mlpl=_memory_mb("VmHWM"),
            unit="MB",
            target=24_000,
            details={
                "own_mb": _memory_mb("RssAnon"),
                "of_files_mb": _memory_mb("RssFile"),
                "codes_bytes_a_row": codes / max(1, rows),
                "note": "pages of mapped files count while they are in memory; the system takes them back when it needs to",
            },
        ),
        Row(
            key="ten_million.build",
            work=f"build of {what}, while they come",
            mlpl=seconds["build"],
            unit="s",
            details={"generate_and_commit_s": seconds["fill"]},
        ),
        Row(key="ten_million.open", work=f"open {what}, every file checked", mlpl=seconds["open"], unit="s"),
    ]


def _memory_mb(name: str) -> float | None:
    try:
        found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return round(int(found[1]) / 1000, 1) if found else None
