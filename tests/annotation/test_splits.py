from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from annotation import splits
from annotation.splits import DriveSplit
from infra.database import Db
from selection.fleet.columns import Columns
from selection.fleet.frames import Frame


@given(st.integers(1, 600), st.integers(1, 6), st.text(max_size=5))
def test_blocks_leave_a_gap_wherever_the_split_changes(frames: int, cameras: int, seed: str) -> None:
    keys = [f"{i:06d}" for i in range(frames) for _ in range(cameras)]
    decision = DriveSplit(drive="d", unit="block", segments=splits.cut_into_blocks(keys, seed=seed))
    found = [decision.split_of(key) for key in keys]
    assert {("train", "test"), ("test", "train")}.isdisjoint(pairwise(found))
    if frames >= 4:
        assert {"train", "test"} <= set(found)
    if frames >= 12:
        assert 0.1 <= found.count("test") / len(keys) <= 0.45
        assert found.count("train") / len(keys) >= 0.3


@given(
    st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 50), min_size=1, max_size=40), st.text(max_size=3)
)
def test_some_drive_is_held_out_and_never_most_of_them(by_drive: dict[str, int], seed: str) -> None:
    chosen = splits.hold_out_drives(by_drive, held={}, seed=seed)
    assert set(chosen) == set(by_drive)
    assert any(chosen.values())
    tested = sum(by_drive[drive] for drive, out in chosen.items() if out)
    assert tested <= splits.TEST_SHARE * sum(by_drive.values()) + max(by_drive.values())


def test_no_drive_is_in_two_splits_and_later_drives_move_nothing(db: Db, fleet: Callable[..., list[Frame]]) -> None:
    fleet(drives=12, per_drive=6)
    columns = Columns(db)
    columns.refresh()
    before = splits.masks(db, task_id="t", columns=columns)["test"]
    assert 0 < before.sum() < len(before) / 2
    codes, _ = columns.codes("drive")
    for code in np.unique(codes):
        assert len(set(before[codes == code])) == 1

    fleet(drives=8, per_drive=6, prefix="later")
    columns.refresh()
    after = splits.masks(db, task_id="t", columns=columns)["test"]
    assert len(after) > len(before)
    assert (after[: len(before)] == before).all()


def test_few_drives_are_cut_into_blocks_and_the_note_says_so(db: Db, fleet: Callable[..., list[Frame]]) -> None:
    fleet(drives=2, per_drive=60)
    columns = Columns(db)
    columns.refresh()
    masks = splits.masks(db, task_id="t", columns=columns)
    assert all(mask.any() for mask in masks.values())
    assert (sum(mask.astype(int) for mask in masks.values()) == 1).all()
    assert "contiguous blocks of time with a gap" in splits.describe(splits.decide(db, task_id="t", columns=columns))

    fleet(drives=6, per_drive=10, prefix="later")
    columns.refresh()
    grown = splits.masks(db, task_id="t", columns=columns)["test"]
    assert (grown[:120] == masks["test"]).all()
    later = {d.drive: d.unit for d in splits.decide(db, task_id="t", columns=columns)}
    assert later["drive-0"] == "block"
    assert later["later-0"] == "drive"


def test_frames_without_times_are_ordered_by_the_numbers_in_their_names() -> None:
    names = ["a/frame_2.jpg", "a/frame_10.jpg", "a/frame_1.jpg"]
    ordered = sorted(names, key=lambda name: splits.order_key(captured_at=None, source=name))
    assert ordered == ["a/frame_1.jpg", "a/frame_2.jpg", "a/frame_10.jpg"]
