"""How the benchmarks reach MLPL: the one place to change when MLPL's own calls change."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray

from infra.errors import BackendUnavailable
from infra.platform import Platform
from infra.settings import Settings
from selection import shards
from selection.fleet import frames
from selection.fleet.frames import FrameFacts
from selection.ingest import ingest as ingesting
from tests.benchmarks import fleet, measuring

ROOT = Path(__file__).parents[2]
READY_S = 600.0

_COLD_START = """
import json, sys, time
began = time.perf_counter()
from infra.settings import load
from selection.ranking import search  # What the product imports for a search anyhow.
from service.curator import Curator
from service.production_line import open_line
with open_line(load()) as platform:
    ready = time.perf_counter()
    curator = Curator(platform)
    found = curator.search(like=sys.argv[1], k=50)
    first = time.perf_counter()
    curator.search(like=sys.argv[1], k=50, where=sys.argv[2])
    print(json.dumps({"imports_and_database_s": ready - began, "first_answer_s": first - ready,
                      "filtered_s": time.perf_counter() - first, "hits": len(found.hits)}))
"""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running `mlpl serve`, asked over one connection that stays open."""

    pid: int
    mongod_pid: int | None
    connection: http.client.HTTPConnection

    def get(self, path: str, **parameters: Any) -> bytes:
        """The body of an answer.

        Raises:
            BackendUnavailable: The server did not answer 200; the text says what it said.
        """
        return self._answer("GET", f"{path}?{urlencode(parameters)}" if parameters else path)

    def post(self, path: str, body: Any) -> bytes:
        """The answer to a body of JSON; errors as `get`."""
        return self._answer("POST", path, body=json.dumps(body), headers={"Content-Type": "application/json"})

    def _answer(self, method: str, path: str, **request: Any) -> bytes:
        try:
            self.connection.request(method, path, **request)
            answer = self.connection.getresponse()
        except http.client.RemoteDisconnected:  # The server closes connections that were idle for seconds.
            self.connection.close()
            self.connection.request(method, path, **request)
            answer = self.connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise BackendUnavailable(f"{method} {path}: {answer.status} {body[:300]!r}")
        return body

    def rows(self, **parameters: Any) -> list[int]:
        """The rows that a search finds, best first."""
        return [hit["row"] for hit in json.loads(self.get("/api/v1/search", **parameters))["hits"]]

    def memory_mb(self) -> dict[str, float | None]:
        """The most that server and database have held resident."""
        return {
            "server_peak_mb": measuring.peak_memory_mb(self.pid),
            "mongod_peak_mb": measuring.peak_memory_mb(self.mongod_pid) if self.mongod_pid else None,
        }


@contextmanager
def serving(settings: Settings) -> Iterator[Server]:
    """Runs `mlpl serve` in a process of its own, without reconcilers, until the block ends."""
    environment = os.environ | settings.as_environment() | {"MLPL_PORT": "0", "MLPL_LOG_FORMAT": "json"}
    log = settings.home / "benchmark-serve.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve", "--no-reconcile"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert process.stdout is not None
        address = next((line for line in process.stdout if "http://" in line), None)
        if address is None:
            raise BackendUnavailable(f"mlpl serve did not start; see {log}")
        port = int(address.split("http://")[1].split()[0].rpartition(":")[2])
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=READY_S)) as connection:
            yield Server(pid=process.pid, mongod_pid=_mongod_pid(settings.home), connection=connection)
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def register(platform: Platform, facts: Sequence[FrameFacts], *, batch: int = 4096) -> None:
    """Takes in frames whose digests are known, without reading a pixel."""
    for start in range(0, len(facts), batch):
        frames.register(platform.database, facts[start : start + batch])


def ingest_manifest(platform: Platform, manifest: Path, *, expected: int) -> None:
    """Takes in what a manifest lists, in place, from opening the file to the last commit."""
    report = ingesting.ingest(platform, [str(manifest)], in_place=True)
    if report.added != expected:
        raise AssertionError(f"{report.added} of {expected} frames were added: {report.rejected[:3]}")


def store_vectors(platform: Platform, vectors_ND: NDArray[np.float16], *, producer: str) -> None:
    """Commits vectors that somebody computed."""
    for start in range(0, len(vectors_ND), shards.BLOCK_ROWS):
        fleet.write_vectors(platform, vectors_ND[start : start + shards.BLOCK_ROWS], producer=producer, start=start)


def first_hit(platform: Platform, query: NDArray[np.float32], *, producer: str) -> int:
    """Opens the index and searches once."""
    from selection.embedding.index import VectorIndex

    index = VectorIndex(platform, producer)
    index.refresh()
    return int(index.search(query[np.newaxis], k=1)[1][0, 0])


def build_index(platform: Platform, *, producer: str) -> None:
    """Builds the index files that the reconcilers of `mlpl serve` would build; nothing when they are there."""
    from selection.embedding.index import VectorIndex

    index = VectorIndex(platform, producer)
    index.refresh()
    index.build()


def project(platform: Platform, *, producer: str) -> int:
    """Fits a map and places every row on it; returns how many have a place."""
    from selection.embedding.index import VectorIndex
    from selection.structure import projection

    index = VectorIndex(platform, producer)
    index.refresh()
    fitted = projection.fit(platform, index, rows=index.rows())
    projection.project_missing(platform, fitted, index)
    return len(projection.places(platform, fitted)[0])


def cold_start(settings: Settings, *, like: str, where: str) -> dict[str, float]:
    """A process that has nothing yet searches once; seconds of its parts."""
    began = time.perf_counter()
    environment = os.environ | settings.as_environment()
    done = subprocess.run(
        [sys.executable, "-c", _COLD_START, like, where],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=READY_S,
    )
    parts: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return parts | {"whole_process_s": time.perf_counter() - began}


def greedy(pool_emb: NDArray[np.float32], *, budget: int) -> NDArray[np.int64]:
    """The most diverse rows."""
    from selection.ranking.diversity import k_center_greedy

    return k_center_greedy(pool_emb, np.empty((0, pool_emb.shape[1]), dtype=np.float32), budget=budget)


def duplicate_keepers(emb_ND: NDArray[np.float32], *, threshold: float) -> NDArray[np.int64]:
    """For each row the row that is kept in its place, itself when it is one."""
    from selection.near_duplicates.duplicates import near_duplicate_groups

    keepers: NDArray[np.int64] = near_duplicate_groups(emb_ND, threshold=threshold).keeper_N
    return keepers


def duplicate_pairs(emb_ND: NDArray[np.float32], *, threshold: float) -> NDArray[np.int64]:
    """Every pair of near-duplicates that is found, shape (P, 2), the lower row first."""
    from selection.near_duplicates.pairs import near_duplicate_pairs

    pieces = [
        np.stack([piece.first_P, piece.second_P], axis=1) for piece in near_duplicate_pairs(emb_ND, threshold=threshold)
    ]
    return np.concatenate(pieces) if pieces else np.empty((0, 2), dtype=np.int64)


def _mongod_pid(home: Path) -> int | None:
    endpoint = home / "mongod" / "endpoint.json"
    return int(json.loads(endpoint.read_text())["mongod"]) if endpoint.is_file() else None
