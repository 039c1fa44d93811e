"""Built segments: a run of shards as files that are mapped into memory, made once and checked before every use.

A segment is a folder under the home. Its `built.json` names the shards it was made from and the SHA-256 of each file. It is written under
another name and renamed when it is whole, so a killed build leaves nothing that is ever opened; what is damaged, or was made from shards
that are no longer the fleet's, is removed and built again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import StorageFull
from infra.logs import get_logger
from selection.embedding.index import calibration, exact, scan
from selection.embedding.index.calibration import Recall
from selection.embedding.index.scan import Coder

FORMAT = 2
_DESCRIPTION = "built.json"
_ALWAYS = ("rows", "vectors")
_OF_CODES = ("codes", "mean", "basis", "covariance")
_CHUNK = 2**15
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
        """Made by `open_segments` and `build`."""
        self.folder = folder
        self.description = description
        self.rows_N: NDArray[np.int64] = files["rows"]
        self.vectors_ND: NDArray[np.float16] = files["vectors"]
        self._coder: Coder | None = None
        if description.components:
            self._codes_NP: NDArray[np.int8] = files["codes"]
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


def home_of(home: Path, encoder_id: str) -> Path:
    """The folder of an encoder's built segments."""
    return home / "index" / re.sub(r"[^A-Za-z0-9._-]", "_", encoder_id)


def descriptions(folder: Path) -> list[Description]:
    """What is built, without opening it; for showing."""
    found = (_described(path) for path in sorted(folder.glob("segment-*")))
    return [one[0] for one in found if one is not None]


def open_segments(folder: Path, *, present: frozenset[Source]) -> list[Segment]:
    """Opens and checks every segment made from shards that are all present; the newest of each number. Others are removed.

    Args:
        folder: See `home_of`.
        present: All shards of the encoder.
    """
    chosen: dict[int, Segment] = {}
    for path in sorted(folder.glob("segment-*")):
        described = _described(path)
        segment = None
        if described is not None and present.issuperset(described[0].sources):
            segment = _opened(path, *described)
        if segment is None:
            _log.warning(
                "index_segment_discarded", path=str(path), reason="damaged" if described is None else "stale or damaged"
            )
            _remove(path)
            continue
        number = segment.description.number
        other = chosen.get(number)
        if other is None or len(other.description.sources) < len(segment.description.sources):
            chosen[number] = segment
            if other is not None:
                _remove(other.folder)
        else:
            _remove(path)
    return [chosen[number] for number in sorted(chosen)]


@contextmanager
def building(folder: Path) -> Iterator[bool]:
    """Whether this process may build now: one at a time does, and what a killed one left is swept up. Ends with the process, however."""
    _made(folder)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        for left in folder.glob(".building-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield True


def build(
    folder: Path,
    *,
    number: int,
    sources: Sequence[Source],
    parts: Iterable[tuple[NDArray[np.int64], NDArray[np.float16]]],
) -> Segment | None:
    """Writes a segment and measures it. Call within `building`.

    Args:
        folder: See `home_of`.
        number: Which run of rows.
        sources: The shards that the parts come from.
        parts: Rows, ascending, and vectors; read one after the other, so that memory holds one.
    Returns:
        The segment, or None when there is not one vector.
    Raises:
        StorageFull: The disk is full; nothing was left behind.
    """
    began = time.monotonic()
    partial = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
    try:
        description, digests = _written(
            partial, number=number, sources=tuple(sorted(sources)), parts=parts, began=began
        )
        if description is None:
            return None
        name = f"segment-{number:06d}-{_fingerprint(description.sources)}"
        body = json.dumps({"format": FORMAT, **asdict(description), "files": digests}, sort_keys=True)
        (partial / _DESCRIPTION).write_text(json.dumps({"digest": _sha256(body.encode()), "body": body}))
        _remove(folder / name)
        partial.rename(folder / name)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no space left to build the index in {folder}; free some and run again") from exc
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for older in folder.glob(f"segment-{number:06d}-*"):
        if older.name != name:
            _remove(older)
    described = _described(folder / name)
    return None if described is None else _opened(folder / name, *described)


def _written(
    partial: Path,
    *,
    number: int,
    sources: tuple[Source, ...],
    parts: Iterable[tuple[NDArray[np.int64], NDArray[np.float16]]],
    began: float,
) -> tuple[Description | None, dict[str, str]]:
    digests: dict[str, str] = {}
    rows: list[NDArray[np.int64]] = []
    with _ArrayFile(partial / "vectors.npy") as file:
        for part_rows, vectors_ND in parts:
            rows.append(part_rows)
            file.append(vectors_ND)
    rows_N = np.concatenate(rows) if rows else np.empty(0, np.int64)
    if not len(rows_N):
        return None, {}
    digests["vectors"] = file.digest
    vectors_ND = np.load(partial / "vectors.npy", mmap_mode="c")
    sample_ND = calibration.sample(vectors_ND, calibration.SAMPLE_ROWS)
    coder = calibration.choose_coder(vectors_ND, scan.principal(sample_ND), sample_ND)
    small: dict[str, NDArray[Any]] = {"rows": rows_N}
    margin, recall = 0.0, Recall(near=1.0, far=1.0, filtered=1.0, candidates=len(rows_N), queries=0)
    if coder is not None:
        digests["codes"] = _write_codes(partial, vectors_ND, coder)
        margin, recall = _calibrated(partial, vectors_ND, coder)
        small |= {"mean": coder.mean_D, "basis": coder.basis_PD, "covariance": coder.covariance_DD}
    for name, values in small.items():
        with _ArrayFile(partial / f"{name}.npy") as file:
            file.append(values)
        digests[name] = file.digest
    description = Description(
        number=number,
        sources=sources,
        rows=len(rows_N),
        dimension=int(vectors_ND.shape[1]),
        components=coder.components if coder is not None else 0,
        step=coder.step if coder is not None else 0.0,
        inside_variance=coder.inside_variance if coder is not None else 0.0,
        margin=margin,
        recall=recall,
        build_s=round(time.monotonic() - began, 3),
    )
    return description, digests


def _write_codes(partial: Path, vectors_ND: NDArray[np.float16], coder: Coder) -> str:
    with _ArrayFile(partial / "codes.npy") as file:
        for start in range(0, len(vectors_ND), _CHUNK):
            file.append(coder.encode(np.asarray(vectors_ND[start : start + _CHUNK], dtype=np.float32)))
    return file.digest


def _calibrated(partial: Path, vectors_ND: NDArray[np.float16], coder: Coder) -> tuple[float, Recall]:
    """The margin, and the recall it gives on other queries."""
    codes_NP = np.load(partial / "codes.npy", mmap_mode="c")
    near, far = (calibration.halves(calibration.held_out(vectors_ND, far=far, seed=2)) for far in (False, True))
    margin = calibration.margin_for(codes_NP, coder, [near[0], far[0]])
    return margin, calibration.measure(codes_NP, vectors_ND, coder, margin=margin, near=near[1], far=far[1], seed=3)


class _ArrayFile:
    """A .npy file that is written piece by piece along the first axis, with its digest. Writing, unlike mapping, reports a full disk."""

    _HEADER_BYTES = 128

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("w+b")
        self._rows = 0
        self._like: NDArray[Any] | None = None
        self.digest = ""

    def __enter__(self) -> _ArrayFile:
        self._file.write(b"\0" * self._HEADER_BYTES)
        return self

    def append(self, values: NDArray[Any]) -> None:
        self._like = values if self._like is None else self._like
        self._rows += len(values)
        self._file.write(np.ascontiguousarray(values).data.cast("B") if values.size else b"")

    def __exit__(self, *failed: object) -> None:
        with self._file as file:
            if self._like is None or failed[0] is not None:
                return
            shape = (self._rows, *self._like.shape[1:])
            text = repr({"descr": self._like.dtype.str, "fortran_order": False, "shape": shape})
            text = text.ljust(self._HEADER_BYTES - 11) + "\n"
            file.seek(0)
            file.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("ascii"))
            file.seek(0)
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


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


def _fingerprint(sources: tuple[Source, ...]) -> str:
    return _sha256(json.dumps([FORMAT, sources]).encode())[:16]


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no space left to build the index in {folder}; free some and run again") from exc
        raise


def _remove(path: Path) -> None:
    """Out of sight at once, so that nobody opens a half-removed one; whoever has it mapped keeps it."""
    if path.exists():
        hidden = path.with_name(f".building-removed-{os.getpid()}-{time.monotonic_ns()}")
        try:
            path.rename(hidden)
        except FileNotFoundError:
            return
        shutil.rmtree(hidden, ignore_errors=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
