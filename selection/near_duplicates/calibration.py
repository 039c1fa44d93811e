"""From which similarity frames are near-duplicates, for the encoder at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEFAULT_THRESHOLD = 0.95
"""Cosine similarity from which frames are near-duplicates at least, see `calibrated_threshold`."""
MOST_THRESHOLD = 0.999
"""Beyond it half precision tells nothing apart."""
CHANCE_PAIRS = 10_000
CALIBRATION_ROWS = 4096
FAR_APART_MS = 3_600_000
FAR_APART_ROWS = 100
"""And at least a tenth of all."""

_CALIBRATION_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """From which cosine similarity frames are near-duplicates, and why from there."""

    threshold: float
    basis: str


def calibrated_threshold(
    emb_SD: NDArray[np.floating],
    *,
    drive_S: NDArray[np.integer],
    captured_ms_S: NDArray[np.int64],
    row_S: NDArray[np.int64] | None = None,
) -> Calibration:
    """The similarity that frames have by chance in one of 10,000 pairs, and at least 0.95.

    Encoders differ in how alike all their vectors are: in some, any two roads reach 0.95, which says nothing there. Frames of different drives
    are hardly ever the same picture, so how alike those are shows what likeness says. Where too few name their drive, frames an hour apart
    stand in for them; where too few have a time, frames far apart in the order in which they came. S sampled rows, D embedding size; time
    O(S * S * D), memory O(S * block) beside the similarities above 0.95.

    Args:
        emb_SD: Unit length; some thousand rows of the fleet drawn at random.
        drive_S: Number of each row's drive, negative where it has none, shape (S,).
        captured_ms_S: Milliseconds since 1970, negative where the time is not known, shape (S,).
        row_S: Rows of the fleet, shape (S,). None: their order says nothing.
    Returns:
        0.95 where there are fewer than 10,000 pairs of any of these kinds to judge by; never above 0.999.
    """
    best: Calibration | None = None
    for which, known, value_S, least in _ways(drive_S, captured_ms_S, row_S):
        pairs, alike = _pairs_apart(emb_SD[known].astype(np.float32), value_S[known], least=least)
        if pairs >= CHANCE_PAIRS:
            return _reached(alike, pairs=pairs, which=which)
        basis = f"not calibrated: there are only {pairs} pairs of frames of {which}"
        best = best or Calibration(threshold=DEFAULT_THRESHOLD, basis=basis)
    assert best is not None
    return best


def _ways(
    drive_S: NDArray[np.integer], captured_ms_S: NDArray[np.int64], row_S: NDArray[np.int64] | None
) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.int64], int]]:
    """Ways to tell frames that are hardly ever the same picture, best first: what it is called, whose value is known, the values, and by how
    much they must differ.
    """
    yield "different drives", drive_S >= 0, drive_S.astype(np.int64), 1
    yield "different hours", captured_ms_S >= 0, captured_ms_S, FAR_APART_MS
    if row_S is not None and len(row_S):
        span = int(np.ptp(row_S)) + 1
        yield "far parts of the fleet", np.ones(len(row_S), dtype=bool), row_S, max(FAR_APART_ROWS, span // 10)


def _pairs_apart(
    emb_ND: NDArray[np.float32], value_N: NDArray[np.int64], *, least: int
) -> tuple[int, NDArray[np.float32]]:
    """How many pairs have values that differ by `least`, and the similarities of those of them that are above the default threshold."""
    alike: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)]
    pairs = 0
    for start in range(0, len(emb_ND), _CALIBRATION_BLOCK):
        stop = start + _CALIBRATION_BLOCK
        apart = np.abs(value_N[start:stop, np.newaxis] - value_N[np.newaxis, start:]) >= least
        apart = np.triu(apart, k=1)
        near = emb_ND[start:stop] @ emb_ND[start:].T
        pairs += int(apart.sum())
        alike.append(near[apart & (near > DEFAULT_THRESHOLD)])
    return pairs, np.concatenate(alike)


def _reached(alike: NDArray[np.float32], *, pairs: int, which: str) -> Calibration:
    above, rank = np.sort(alike)[::-1], pairs // CHANCE_PAIRS
    if len(above) <= rank:
        basis = f"fewer than 1 in {CHANCE_PAIRS:,} pairs of frames of {which} reach it"
        return Calibration(threshold=DEFAULT_THRESHOLD, basis=basis)
    basis = f"1 in {CHANCE_PAIRS:,} pairs of frames of {which} reaches it"
    return Calibration(threshold=min(MOST_THRESHOLD, round(float(above[rank]), 4)), basis=basis)
