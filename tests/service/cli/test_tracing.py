from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from service.cli.tracing import trace_text


def frame(number: int, *, drive: str | None) -> dict[str, Any]:
    return {"id": f"frame-{number}", "kind": "frame", "drive": drive}


def dataset(number: int) -> dict[str, Any]:
    made_at = datetime(2026, 3, number, tzinfo=UTC)
    node = {"id": f"ds-{number}", "kind": "dataset", "created_at": made_at}
    return node | {"counts": {"train": number, "test": 1}, "split_note": "by drive"}


def text_of(*nodes: dict[str, Any]) -> str:
    return trace_text({"id": "x", "kind": "model", "nodes": list(nodes), "edges": [], "frames_left_out": 0})


def test_things_are_told_in_the_order_they_were_made() -> None:
    lines = text_of(dataset(3), dataset(1), dataset(2)).splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["ds-1:", "ds-2:", "ds-3:"]


def test_frames_of_no_drive_are_not_said_to_be_of_one() -> None:
    assert text_of(*(frame(i, drive=None) for i in range(2))).splitlines()[1] == "  frames    2, of no known drive"
    mixed = text_of(frame(1, drive="d1"), frame(2, drive="d1"), frame(3, drive=None))
    assert "frames    3 from 1 drive, most from d1 (1 of no known drive)" in mixed
