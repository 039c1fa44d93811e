"""What near-duplicates of a fleet are found by: vectors in half precision, perceptual hashes, how good each frame is, and the threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.platform import Platform
from selection.fleet import frames
from selection.near_duplicates import calibration, preference
from selection.near_duplicates.calibration import Calibration

if TYPE_CHECKING:
    from selection.embedding.index import VectorIndex
    from selection.fleet.columns import Columns

_READ_ROWS = 8192


@dataclass(frozen=True)
class HalfVectors:
    """The vectors of some rows, read in half precision as they are asked for, see `duplicates.Vectors`."""

    index: VectorIndex
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    def __getitem__(self, positions: NDArray[np.int64]) -> NDArray[np.float16]:
        """Shape (len(positions), D), zeros where there is none."""
        found = half_vectors(self.index, self.rows[positions])
        if found is not None:
            return found
        return np.zeros((len(positions), self.index.vectors(self.index.rows()[:1]).shape[1]), dtype=np.float16)


def half_vectors(index: VectorIndex, rows: NDArray[np.int64]) -> NDArray[np.float16] | None:
    """Vectors of rows in half precision, zeros where there is none; None when none of them has one."""
    known = index.has(rows)
    if not known.any():
        return None
    vectors = index.vectors(rows[known]).astype(np.float16)
    if known.all():
        return vectors
    emb_ND = np.zeros((len(rows), vectors.shape[1]), dtype=np.float16)
    emb_ND[known] = vectors
    return emb_ND


def hashes_of(platform: Platform, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Perceptual hashes of rows, ascending, 0 where there is none."""
    hashes_N = np.zeros(len(rows), dtype=np.uint64)
    if not len(rows):
        return hashes_N
    start, stop = int(rows[0]), int(rows[-1]) + 1
    place_of = np.full(stop - start, -1, dtype=np.int64)
    place_of[rows - start] = np.arange(len(rows))
    for document in frames.documents(platform.database, start=start, stop=stop, fields=("row", "perceptual_hash")):
        place = place_of[document["row"] - start]
        if place >= 0:
            hashes_N[place] = int(document.get("perceptual_hash") or "0", 16)
    return hashes_N


def quality_order(columns: Columns, rows: NDArray[np.int64], *, index: VectorIndex | None = None) -> NDArray[np.int64]:
    """Whom to keep first of rows, see `preference.preference`.

    Args:
        index: Tells which frames are unlike those before and after them. None: that is not asked.
    """
    sharpness_N = columns.measured("sharpness", rows)
    limit_N = preference.sharpness_limits(sharpness_N, drives_of(columns, rows))
    odd_N = None if index is None else _odd_ones(index, columns, rows)
    return preference.preference(
        sharpness_N,
        columns.measured("underexposed", rows),
        columns.measured("overexposed", rows),
        limit_N=limit_N,
        odd_N=odd_N,
    )


def calibrated(index: VectorIndex, columns: Columns, *, seed: int = 0) -> Calibration:
    """From which similarity frames are near-duplicates in this fleet, see `calibration.calibrated_threshold`."""
    rows = index.rows()
    rows = rows[rows < columns.rows]
    drawn = np.random.default_rng(seed).choice(
        len(rows), size=min(calibration.CALIBRATION_ROWS, len(rows)), replace=False
    )
    sample = rows[np.sort(drawn)]
    if not len(sample):
        return Calibration(threshold=calibration.DEFAULT_THRESHOLD, basis="not calibrated: no frame has a vector yet")
    return calibration.calibrated_threshold(
        index.vectors(sample),
        drive_S=drives_of(columns, sample),
        captured_ms_S=columns.captured_ms[sample],
        row_S=sample,
    )


def _odd_ones(index: VectorIndex, columns: Columns, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows are unlike both their neighbours of the same drive, shape as `rows`; never those at its ends or without vectors."""
    odd_N = np.zeros(len(rows), dtype=bool)
    drive_N = drives_of(columns, rows)
    asked = (drive_N >= 0) & index.has(rows)
    for step in (-1, 1):
        beside = rows + step
        asked &= (drives_of(columns, beside) == drive_N) & index.has(beside)
    places = np.flatnonzero(asked)
    for start in range(0, len(places), _READ_ROWS):
        part = places[start : start + _READ_ROWS]
        wanted, at = np.unique(rows[part][:, np.newaxis] + np.array([-1, 0, 1]), return_inverse=True)
        emb = index.vectors(wanted)
        before, here, after = at.reshape(-1, 3).T
        odd_N[part] = preference.unlike_both(emb[before], emb[here], emb[after])
    return odd_N


def drives_of(columns: Columns, rows: NDArray[np.int64]) -> NDArray[np.int32]:
    """Number of each row's drive, -1 where there is none."""
    drive_N = np.full(len(rows), -1, dtype=np.int32)
    if "drive" in columns.keys:
        column = columns.codes("drive")[0]
        inside = (rows >= 0) & (rows < len(column))
        drive_N[inside] = column[rows[inside]]
    return drive_N
