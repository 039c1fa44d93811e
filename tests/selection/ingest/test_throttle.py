"""The rate holds on a clock of the test's own."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from PIL import Image

from infra import database as documents
from infra.errors import InvalidInput
from infra.platform import Platform
from selection.fleet import frames
from selection.ingest import ingest as ingesting
from selection.ingest.throttle import Throttle


def test_bytes_pass_at_the_rate_given() -> None:
    now, waits = [0.0], []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    throttle = Throttle(8.0, clock=lambda: now[0], sleep=sleep)
    for _ in range(11):
        throttle.take(500_000)
    assert waits == pytest.approx([0.5] * 10), "8 Mbit/s are a million bytes a second"
    now[0] += 100.0
    throttle.take(500_000)
    throttle.take(500_000)
    assert waits[-1] == pytest.approx(0.5), "an idle time is not made up for"


def test_without_a_limit_nothing_waits() -> None:
    Throttle(None, sleep=lambda _: pytest.fail("waited")).take(10**12)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_must_be_above_nothing(rate: float) -> None:
    with pytest.raises(InvalidInput, match="max-mbps"):
        Throttle(rate)


def test_bytes_that_no_list_announces_count_too(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents.ensure_indexes(platform.database, frames.INDEXES | ingesting.INDEXES)
    Image.effect_noise((400, 300), 90).save(tmp_path / "a.png")
    (tmp_path / "list.jsonl").write_text('{"uri": "a.png"}')
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "a.png", arcname="a.png")
    taken: list[int] = []
    monkeypatch.setattr(Throttle, "take", lambda _, count: taken.append(count))
    for name in ("a.png", "list.jsonl", "a.tar"):
        taken.clear()
        ingesting.ingest(platform, [str(tmp_path / name)])
        size = (tmp_path / "a.png").stat().st_size
        assert size <= sum(taken) <= size + 20_000, f"{name}: {taken}"
