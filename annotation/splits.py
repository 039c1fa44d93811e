"""Which frames train a task's models and which only judge them.

Frames of one drive are near-duplicates in time, so whole drives are held out. A fleet with too few drives for that is cut into contiguous
blocks of time instead, with a gap of unused frames where the split changes. Either way the decision for a drive is made once, stored, and
holds for every later dataset version: new drives are added, old ones never move.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError

from infra.database import Db, Document, retrying

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from selection.fleet.columns import Columns

Split = Literal["train", "test", "gap"]
SPLITS: tuple[Split, ...] = get_args(Split)
SplitUnit = Literal["drive", "block"]

TEST_SHARE = 0.25
MIN_DRIVES = 5
NO_DRIVE = "(none)"

INDEXES: dict[str, list[IndexModel]] = {"splits": [IndexModel([("task_id", 1)])]}


@dataclass(frozen=True, kw_only=True)
class Segment:
    """From the frame with this order key on (up to the next segment's key), frames of the drive belong to `split`."""

    start_key: str
    split: Split


@dataclass(frozen=True, kw_only=True)
class DriveSplit:
    """The decision for one drive: one segment when the whole drive has one split, several when it was cut into blocks of time."""

    drive: str
    unit: SplitUnit
    segments: tuple[Segment, ...]

    def split_of(self, order_key: str) -> Split:
        """The split of the frame with this order key; frames before the first segment belong to it."""
        split = self.segments[0].split
        for segment in self.segments:
            if segment.start_key > order_key:
                break
            split = segment.split
        return split


def order_key(*, captured_at: datetime | None, source: str) -> str:
    """A string that sorts the frames of a drive by time; by the natural order of their names where there is no time."""
    if captured_at is not None:
        return captured_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return re.sub(r"\d+", lambda digits: digits.group().zfill(12), source)


def cut_into_blocks(order_keys: Sequence[str], *, seed: str) -> tuple[Segment, ...]:
    """Cuts a drive into contiguous blocks of time, every fourth of them for testing, with a gap before and after each of those.

    Args:
        order_keys: Order keys of the drive's frames, sorted, at least one. Frames with the same key (several cameras at one moment)
            count once: no cut and no gap falls between them.
        seed: Decides which block of the first four is the first test block.

    Returns:
        Segments in order. A gap is a tenth of a block, at least one moment, taken from the training side.
    """
    moments = list(dict.fromkeys(order_keys))
    count = len(moments)
    blocks = max(4, min(24, round(count / 20)))
    if count < 3 * blocks:
        blocks = max(2, count // 3)
    edges = [round(block * count / blocks) for block in range(blocks + 1)]
    phase = _draw(seed, modulus=min(4, blocks))
    splits: list[Split] = ["train"] * count
    for block, (start, stop) in enumerate(pairwise(edges)):
        if block % 4 == phase:
            splits[start:stop] = ["test"] * (stop - start)
    gap = max(1, count // blocks // 10)
    for position in [i for i in range(1, count) if splits[i] != splits[i - 1]]:
        train_side = range(position, position + gap) if splits[position] == "train" else range(position - gap, position)
        for i in train_side:
            if 0 <= i < count and splits[i] == "train":
                splits[i] = "gap"
    changes = [i for i in range(count) if i == 0 or splits[i] != splits[i - 1]]
    return tuple(Segment(start_key=moments[i], split=splits[i]) for i in changes)


def hold_out_drives(frames_by_drive: Mapping[str, int], *, held: Mapping[str, bool], seed: str) -> dict[str, bool]:
    """Chooses which of the drives not decided yet are held out for testing.

    Drives are taken in an order drawn from the seed; each is held out while that brings the share of held-out frames closer to
    `TEST_SHARE`. At least one drive is held out over all.

    Args:
        frames_by_drive: Frames of every drive, decided or not.
        held: Decision for the drives that have one.

    Returns:
        The decision for the others.
    """
    open_drives = sorted((d for d in frames_by_drive if d not in held), key=lambda d: _digest(f"{seed}/{d}"))
    total = sum(frames_by_drive.values())
    tested = sum(frames_by_drive.get(drive, 0) for drive, out in held.items() if out)
    chosen: dict[str, bool] = {}
    for drive in open_drives:
        count = frames_by_drive[drive]
        chosen[drive] = tested + count / 2 <= TEST_SHARE * total
        tested += count if chosen[drive] else 0
    if open_drives and not any(held.values()) and not any(chosen.values()):
        chosen[min(open_drives, key=lambda d: abs(frames_by_drive[d] - TEST_SHARE * total))] = True
    return chosen


def decide(db: Db, *, task_id: str, columns: Columns) -> list[DriveSplit]:
    """The split of every drive of the fleet, deciding now for drives that have none yet.

    Deciding twice at once is harmless: a drive's first stored decision stands, and both callers read that one.

    Args:
        columns: Refreshed filter columns of the fleet.
    """
    import numpy as np

    codes, names = columns.codes("drive")
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    frames_by_drive = {str(name): int(count) for name, count in zip(names, counts, strict=True) if count}
    without = int((codes < 0).sum())
    if without:
        frames_by_drive[NO_DRIVE] = without
    stored = {split.drive: split for split in _stored(db, task_id)}
    undecided = [drive for drive in frames_by_drive if drive not in stored]
    if not undecided:
        return list(stored.values())
    if len([drive for drive in {*frames_by_drive, *stored} if drive != NO_DRIVE]) >= MIN_DRIVES:
        held = {drive: split.segments[0].split == "test" for drive, split in stored.items() if split.unit == "drive"}
        whole = {drive: count for drive, count in frames_by_drive.items() if drive not in stored or drive in held}
        out = hold_out_drives(whole, held=held, seed=task_id)
        fresh = [
            DriveSplit(drive=d, unit="drive", segments=(Segment(start_key="", split="test" if out[d] else "train"),))
            for d in undecided
        ]
    else:
        fresh = [
            DriveSplit(
                drive=drive,
                unit="block",
                segments=cut_into_blocks(sorted(key for _, key in _order_keys(db, drive)), seed=f"{task_id}/{drive}"),
            )
            for drive in undecided
        ]
    for split in fresh:
        _store(db, task_id, split)
    return _stored(db, task_id)


def masks(db: Db, *, task_id: str, columns: Columns) -> dict[Split, NDArray[np.bool_]]:
    """Which rows of the fleet belong to which split.

    Returns:
        For each split shape (rows,), aligned by row; every row is in exactly one.
    """
    import numpy as np

    decisions = decide(db, task_id=task_id, columns=columns)
    codes, names = columns.codes("drive")
    place = {split: number for number, split in enumerate(SPLITS)}
    whole = {d.drive: place[d.segments[0].split] for d in decisions if d.unit == "drive"}
    # A drive that came after the decisions were read waits in the gap. Code -1, no drive, takes the last entry.
    by_code = [whole.get(str(name), place["gap"]) for name in names] + [whole.get(NO_DRIVE, place["gap"])]
    split_of_row = np.array(by_code, dtype=np.int8)[codes]
    for decision in decisions:
        if decision.unit == "block":
            for row, key in _order_keys(db, decision.drive):
                if row < len(split_of_row):
                    split_of_row[row] = place[decision.split_of(key)]
    return {split: split_of_row == number for split, number in place.items()}


def describe(decisions: Sequence[DriveSplit]) -> str:
    """One sentence on how the frames were split, kept with each dataset version."""
    blocks = [decision.drive for decision in decisions if decision.unit == "block"]
    drives = [decision.drive for decision in decisions if decision.unit == "drive"]
    if not blocks:
        return f"split by drive: {len(drives)} drives, none of them in two splits"
    note = (
        f"too few drives ({len(blocks)}) to hold out whole ones: "
        "contiguous blocks of time with a gap of unused frames between the splits"
    )
    return note if not drives else f"{note}; the {len(drives)} drives that came later are split whole"


def _order_keys(db: Db, drive: str) -> Iterator[tuple[int, str]]:
    documents = db.frames.find(
        {"drive": None if drive == NO_DRIVE else drive}, {"row": 1, "captured_at": 1, "source": 1}
    )
    for document in documents:
        yield int(document["row"]), order_key(captured_at=document.get("captured_at"), source=document["source"])


def _store(db: Db, task_id: str, split: DriveSplit) -> None:
    """Writes a decision unless there is one already."""

    def attempt() -> None:
        with suppress(DuplicateKeyError):  # Another process decided on this drive at the same moment.
            db.splits.update_one(
                {"_id": f"{task_id}/{split.drive}"}, {"$setOnInsert": _to_document(task_id, split)}, upsert=True
            )

    retrying(attempt)


def _stored(db: Db, task_id: str) -> list[DriveSplit]:
    return [
        DriveSplit(
            drive=document["drive"],
            unit=document["unit"],
            segments=tuple(Segment(start_key=s["start_key"], split=s["split"]) for s in document["segments"]),
        )
        for document in db.splits.find({"task_id": task_id}).sort("_id", 1)
    ]


def _to_document(task_id: str, split: DriveSplit) -> Document:
    return {
        "task_id": task_id,
        "drive": split.drive,
        "unit": split.unit,
        "segments": [{"start_key": s.start_key, "split": s.split} for s in split.segments],
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _draw(seed: str, *, modulus: int) -> int:
    return int(_digest(seed)[:8], 16) % modulus
