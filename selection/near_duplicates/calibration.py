"""From which similarity frames are near-duplicates, for the encoder at hand."""

from __future__ import annotations

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

_CALIBRATION_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """From which cosine similarity frames are near-duplicates, and why from there."""

    threshold: float
    basis: str


def calibrated_threshold(
    emb_SD: NDArray[np.floating], *, drive_S: NDArray[np.integer], captured_ms_S: NDArray[np.int64]
) -> Calibration:
    """The similarity that frames have by chance in one of 10,000 pairs, and at least 0.95.

    Encoders differ in how alike all their vectors are: in some, any two roads reach 0.95, which says nothing there. Frames of different drives
    are hardly ever the same picture, so how alike those are shows what likeness says. Where there is one drive or none, frames an hour apart
    stand in for them. S sampled rows, D embedding size; time O(S * S * D), memory O(S * block) beside the similarities above 0.95.

    Args:
        emb_SD: Unit length; some thousand rows of the fleet drawn at random.
        drive_S: Number of each row's drive, negative where it has none, shape (S,).
        captured_ms_S: Milliseconds since 1970, negative where the time is not known, shape (S,).
    Returns:
        0.95 where there are fewer than 10,000 such pairs to judge by; never above 0.999.
    """
    drives = drive_S >= 0
    if len(np.unique(drive_S[drives])) > 1:
        which, known, value_S, least = "different drives", drives, drive_S.astype(np.int64), 1
    else:
        which, known, value_S, least = "different hours", captured_ms_S >= 0, captured_ms_S, FAR_APART_MS
    emb, value = emb_SD[known].astype(np.float32), value_S[known]
    alike: list[NDArray[np.float32]] = []
    pairs = 0
    for start in range(0, len(emb), _CALIBRATION_BLOCK):
        stop = start + _CALIBRATION_BLOCK
        apart = np.abs(value[start:stop, np.newaxis] - value[np.newaxis, start:]) >= least
        apart = np.triu(apart, k=1)
        near = emb[start:stop] @ emb[start:].T
        pairs += int(apart.sum())
        alike.append(near[apart & (near > DEFAULT_THRESHOLD)])
    if pairs < CHANCE_PAIRS:
        return Calibration(
            threshold=DEFAULT_THRESHOLD, basis=f"not calibrated: there are only {pairs} pairs of frames of {which}"
        )
    above, rank = np.sort(np.concatenate(alike))[::-1], pairs // CHANCE_PAIRS
    if len(above) <= rank:
        basis = f"fewer than 1 in {CHANCE_PAIRS:,} pairs of frames of {which} reach it"
        return Calibration(threshold=DEFAULT_THRESHOLD, basis=basis)
    basis = f"1 in {CHANCE_PAIRS:,} pairs of frames of {which} reaches it"
    return Calibration(threshold=min(MOST_THRESHOLD, round(float(above[rank]), 4)), basis=basis)
