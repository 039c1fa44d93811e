"""Building a segment: its vectors, codes and description written beside the others and renamed into place when whole.

One process builds at a time. A killed build leaves nothing that is ever opened, and the next one sweeps up after it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import StorageFull
from selection.embedding.index import built, calibration, scan
from selection.embedding.index.built import Description, Segment, Source
from selection.embedding.index.calibration import Recall
from selection.embedding.index.scan import Coder

_CHUNK = 2**15


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether this process may build now: one at a time does, and what a killed one left is swept up. Ends with the process, however."""
    with _full_disk_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock:
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
    """Writes a segment and measures it. Call within `alone`.

    Args:
        folder: See `built.home_of`.
        number: Which run of rows.
        sources: The shards that the parts come from.
        parts: Rows, ascending, and vectors; read one after the other, so that memory holds one.
    Returns:
        The segment, or None when there is not one vector.
    Raises:
        StorageFull: The disk is full; nothing was left behind.
    """
    began = time.monotonic()
    with _full_disk_named(folder):
        partial = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
    try:
        with _full_disk_named(folder):
            description, digests = _written(
                partial, number=number, sources=tuple(sorted(sources)), parts=parts, began=began
            )
            if description is None:
                return None
            built.describe(partial, description, digests)
            place = built.place_of(folder, description)
            built.remove(place)
            partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for older in folder.glob(f"segment-{number:06d}-*"):
        if older != place:
            built.remove(older)
    return built.open_segment(place)


@contextmanager
def _full_disk_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no space left to build the index in {folder}; free some and run again") from exc
        raise


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
        """Adds values behind those that are there; the first ones say what shape and type all have."""
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
