"""Built segments: a run of shards as files that are mapped into memory, made once (see `building`) and checked before every use.

A segment is a folder under the home. Its `built.json` names the shards it was made from and the SHA-256 of each file. It is written under
another name and renamed when it is whole, so a killed build leaves nothing that is ever opened; what is damaged, or was made from shards
that are no longer the fleet's, is removed and built again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.logs import get_logger
from selection.embedding.index import exact, scan
from selection.embedding.index.calibration import Recall
from selection.embedding.index.scan import Coder

FORMAT = 3
_DESCRIPTION = "built.json"
_ALWAYS = ("rows", "vectors")
_OF_CODES = ("codes", "mean", "basis", "covariance")
_log = get_logger(__name__)

Source = tuple[str, str]
"""Id and digest of a shard."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a segment's `built.json` says.

    Attributes:
        number: Which run of rows.
        sources: The shards it was made from, sorted.
        rows: Vectors.
        components: Bytes of a code, P; 0 where codes do not pay and every search reads all vectors, exactly.
        margin: See `scan.search`.
        recall: Measured when it was built.
        build_s: How long building took, in seconds.
    """

    number: int
    sources: tuple[Source, ...]
    rows: int
    dimension: int
    components: int
    step: float
    inside_variance: float
    margin: float
    recall: Recall
    build_s: float

    @property
    def kind(self) -> str:
        """How it is searched: `exact` or `two-stage`."""
        return "two-stage" if self.components else "exact"

    @property
    def files(self) -> tuple[str, ...]:
        """The arrays it consists of."""
        return (*_ALWAYS, *_OF_CODES) if self.components else _ALWAYS


class Segment:
    """A built segment, mapped. Safe to share between threads."""

    def __init__(self, folder: Path, description: Description, files: dict[str, NDArray[Any]]) -> None:
        """Made by `open_segments` and `open_segment`."""
        self.folder = folder
        self.description = description
        self.rows_N: NDArray[np.int64] = files["rows"]
        self.vectors_ND: NDArray[np.float16] = files["vectors"]
        self._coder: Coder | None = None
        if description.components:
            self._codes_NP: NDArray[np.uint8] = files["codes"]
            self._coder = Coder(
                mean_D=files["mean"],
                basis_PD=files["basis"],
                covariance_DD=files["covariance"],
                inside_variance=description.inside_variance,
                step=description.step,
            )

    def search(
        self, query_D: NDArray[np.float32], *, k: int, allowed_N: NDArray[np.bool_] | None, above: float = -np.inf
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k nearest of the allowed rows: scores and positions, in no particular order; see `scan.search`."""
        if self._coder is None:
            if allowed_N is None or np.count_nonzero(allowed_N) > scan.DIRECT_ROWS:
                return exact.nearest(self.vectors_ND, query_D, k=k, allowed_N=allowed_N)
            few = np.flatnonzero(allowed_N)
            return exact.nearest_of(self.vectors_ND, few, query_D, k=k)
        margin = self.description.margin
        scores, positions, _ = scan.search(
            self._codes_NP, self.vectors_ND, self._coder, query_D, k=k, margin=margin, allowed_N=allowed_N, above=above
        )
        return scores, positions

    def shortfall(
        self, query_D: NDArray[np.float32], positions_M: NDArray[np.int64], scores_M: NDArray[np.float32]
    ) -> float:
        """By how much codes say less than the vectors at these positions do, see `scan.shortfall`."""
        if self._coder is None:
            return 0.0
        return scan.shortfall(self._codes_NP[positions_M], self._coder, query_D, scores_M)

    def products(self, query_D: NDArray[np.float32]) -> NDArray[np.float32]:
        """The product of a query with every row, shape (N,), from the vectors."""
        return exact.scores_of(self.vectors_ND, None, query_D)

    def vectors(self, positions_M: NDArray[np.int64]) -> NDArray[np.float16]:
        """The vectors at these positions."""
        return self.vectors_ND[positions_M]


def home_of(home: Path, encoder_id: str, *, database: str) -> Path:
    """The folder of an encoder's built segments; databases may share a home, and an encoder."""
    return home / "index" / database / re.sub(r"[^A-Za-z0-9._-]", "_", encoder_id)


def listed(folder: Path) -> list[Path]:
    """The segments that lie in a folder, whole or not."""
    return sorted(folder.glob("segment-*"))


def descriptions(folder: Path) -> list[Description]:
    """What is built, without opening it; for showing."""
    found = (_described(path) for path in listed(folder))
    return [one[0] for one in found if one is not None]


def open_segments(found: Sequence[Path], *, present: frozenset[Source]) -> list[Segment]:
    """Opens and checks every segment made from shards that are all present; the newest of each number. Others are removed.

    Args:
        found: What was `listed`, before it was asked which shards there are: others may be building.
        present: All shards of the encoder.
    """
    chosen: dict[int, Segment] = {}
    for path in found:
        described = _described(path)
        segment = None
        if described is not None and present.issuperset(described[0].sources):
            segment = _opened(path, *described)
        if segment is None:
            _log.warning(
                "index_segment_discarded",
                path=str(path),
                reason="damaged, or of another version" if described is None else "stale or damaged",
            )
            remove(path)
            continue
        number = segment.description.number
        other = chosen.get(number)
        if other is None or len(other.description.sources) < len(segment.description.sources):
            chosen[number] = segment
            if other is not None:
                remove(other.folder)
        else:
            remove(path)
    return [chosen[number] for number in sorted(chosen)]


def open_segment(path: Path) -> Segment | None:
    """Opens and checks one segment; None where it is damaged."""
    described = _described(path)
    return None if described is None else _opened(path, *described)


def place_of(folder: Path, description: Description) -> Path:
    """The folder of a segment: other shards, or another format, make another place."""
    made_from = _sha256(json.dumps([FORMAT, description.sources]).encode())[:16]
    return folder / f"segment-{description.number:06d}-{made_from}"


def describe(path: Path, description: Description, digests: Mapping[str, str]) -> None:
    """Writes a segment's `built.json`, the last of its files.

    Args:
        path: The segment's folder.
        description: What it says.
        digests: SHA-256 in hex of each array's file.
    """
    body = json.dumps({"format": FORMAT, **asdict(description), "files": dict(digests)}, sort_keys=True)
    (path / _DESCRIPTION).write_text(json.dumps({"digest": _sha256(body.encode()), "body": body}))


def remove(path: Path) -> None:
    """Out of sight at once, so that nobody opens a half-removed one; whoever has it mapped keeps it. Where nothing can be written, it stays."""
    if path.exists():
        hidden = path.with_name(f".building-removed-{os.getpid()}-{time.monotonic_ns()}")
        try:
            path.rename(hidden)
        except FileNotFoundError:
            return
        except OSError as exc:
            _log.warning("index_segment_stays", path=str(path), reason=exc.strerror)
            return
        shutil.rmtree(hidden, ignore_errors=True)


def _described(path: Path) -> tuple[Description, dict[str, str]] | None:
    try:
        outer = json.loads((path / _DESCRIPTION).read_bytes())
        if outer["digest"] != _sha256(outer["body"].encode()):
            return None
        body = json.loads(outer["body"])
        if body.pop("format") != FORMAT:
            return None
        digests = body.pop("files")
        body["sources"] = tuple((name, digest) for name, digest in body["sources"])
        body["recall"] = Recall(**body["recall"])
        return Description(**body), digests
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _opened(path: Path, description: Description, digests: dict[str, str]) -> Segment | None:
    def checked(name: str) -> NDArray[Any] | None:
        try:
            with (path / f"{name}.npy").open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digests.get(name):
                    return None
            # Copy-on-write, which torch accepts without complaint; nothing ever writes.
            return np.asarray(np.load(path / f"{name}.npy", mmap_mode="c"))
        except (OSError, ValueError):
            return None

    names = description.files
    with ThreadPoolExecutor(max_workers=min(len(names), os.cpu_count() or 1)) as pool:
        files = dict(zip(names, pool.map(checked, names), strict=True))
    whole = {name: values for name, values in files.items() if values is not None}
    return Segment(path, description, whole) if len(whole) == len(names) else None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
