"""Search with several examples, in any order, grouped, page by page, while the fleet changes."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from infra.errors import InvalidInput
from selection.embedding.index import VectorIndex
from selection.fleet import frames
from selection.fleet.columns import Columns
from selection.fleet.filters import parse_filter
from selection.ranking import cursors, ordering, search
from selection.ranking.examples import Example, frame_example
from selection.ranking.search import Page, Request
from tests.selection.ranking.test_search import ColourEncoder

START = datetime(2026, 1, 1, tzinfo=UTC)
GREEN = Example(kind="text", value="green")
RED = Example(kind="text", value="red")


class Line:
    """A fleet of colours, as in the tests of single searches."""

    def __init__(self, fleet: Any) -> None:
        self.fleet = fleet
        self.index = VectorIndex(fleet.platform, "enc-1")
        self.columns = Columns(fleet.platform.database)

    def add(self, count: int, *, drive_of: int = 10, **facts: Any) -> None:
        start = frames.row_count(self.fleet.platform.database)
        rows = np.arange(start, start + count)
        facts = {
            "drive": [f"d{row // drive_of}" for row in rows],
            "captured_at": [START + timedelta(minutes=int(7 * row % 11)) for row in rows],
            "attributes": [{"speed": float(13 * row % 17)} if row % 5 else {} for row in rows],
            **facts,
        }
        self.fleet.add(count, **facts)
        vectors = np.eye(3)[rows % 3] + rows[:, None] * 0.004
        self.fleet.embed(start, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        self.refresh()

    def refresh(self) -> None:
        self.index.refresh()
        self.columns.refresh()

    def find(self, *examples: Example, where: str = "", **asked: Any) -> Page:
        request = Request(examples=examples, where=parse_filter(where), **asked)
        return search.find(
            self.fleet.platform, request, columns=self.columns, index=self.index, encoder=ColourEncoder()
        )

    def rows(self, *examples: Example, **asked: Any) -> list[int]:
        return [hit.frame.row for hit in self.find(*examples, **asked).hits]

    def ids(self, *rows: int) -> list[str]:
        return [frame.frame_id for frame in frames.by_rows(self.fleet.platform.database, rows)]

    def withdraw(self, *rows: int) -> None:
        frames.withdraw(self.fleet.platform.database, self.ids(*rows), datetime.now(UTC))
        self.columns.refresh()


@pytest.fixture
def line(fleet: Any) -> Line:
    made = Line(fleet)
    made.add(30)
    return made


def test_several_examples_and_the_nearest_of_them(line: Line) -> None:
    page = line.find(GREEN, RED, k=4)
    assert {hit.frame.row % 3 for hit in page.hits} == {0, 1}
    for hit in page.hits:
        assert hit.reason.nearest is not None
        assert hit.reason.nearest.value == {0: "red", 1: "green"}[hit.frame.row % 3]
        assert hit.reason.similarity is not None
        assert hit.score is not None
        assert hit.reason.similarity > hit.score
    assert page.total == 30


def test_words_minus_words(line: Line) -> None:
    without = line.find(GREEN, Example(kind="text", value="red", negative=True), k=30)
    scores = {hit.frame.row: hit.score for hit in without.hits}
    assert {row % 3 for row in list(scores)[:10]} == {1}
    assert {row % 3 for row in list(scores)[-10:]} == {0}
    query = np.array([-0.5, 1, 0]) / np.linalg.norm([-0.5, 1, 0])
    expected = line.index.vectors(np.array([4]))[0] @ query
    assert scores[4] == pytest.approx(expected, abs=1e-3)


def test_frames_as_examples_are_not_hits(line: Line) -> None:
    like, unlike = line.ids(4, 0)
    page = line.find(frame_example(like), frame_example(unlike, negative=True), k=40)
    found = [hit.frame.row for hit in page.hits]
    assert (len(found), page.total) == (28, 28)
    assert not {0, 4} & set(found)
    assert found[0] % 3 == 1


def test_a_part_of_a_frame(line: Line) -> None:
    image = Image.new("RGB", (64, 48), (255, 0, 0))
    image.paste((0, 0, 255), (32, 0, 64, 48))
    file = io.BytesIO()
    image.save(file, format="PNG")
    (frame,) = frames.by_rows(line.fleet.platform.database, [0])
    line.fleet.platform.objects.put(frame.object_key, file.getvalue())
    assert {row % 3 for row in line.rows(frame_example(f"{frame.frame_id}@40,4,60,40"), k=5)} == {2}
    assert {row % 3 for row in line.rows(frame_example(f"{frame.frame_id}@0,0,20,20"), k=5)} == {0}
    with pytest.raises(InvalidInput, match="64 x 48 pixels"):
        line.find(frame_example(f"{frame.frame_id}@0,0,65,20"))
    for bad in ("@5,0,5,9", "@1,2,3", "@a,b,c,d", "@-1,0,5,5"):
        with pytest.raises(InvalidInput):
            frame_example(frame.frame_id + bad)


def test_sorting_puts_frames_without_a_value_last(line: Line) -> None:
    speeds = [(hit.frame.attributes.get("speed"), hit.sort_value) for hit in line.find(sort="-speed", k=30).hits]
    known = [speed for speed, _ in speeds if speed is not None]
    assert known == sorted(known, reverse=True)
    assert [speed for speed, _ in speeds[-6:]] == [None] * 6
    assert all(speed == value for speed, value in speeds)
    times = [hit.frame.captured_at for hit in line.find(sort="captured", k=30).hits]
    assert times == sorted(filter(None, times))
    assert line.rows(sort="row", k=3) == [0, 1, 2]
    nearest = line.find(GREEN, sort="-speed", where="speed:*", k=30)
    assert [hit.sort_value for hit in nearest.hits] == known
    assert all(hit.score is not None for hit in nearest.hits)


def test_each_hit_says_which_terms_it_passes(line: Line) -> None:
    (hit,) = line.find(where="drive:d0,d1 speed:>15 -drive:d2", k=1).hits
    assert hit.reason.terms == (("drive:d0,d1", "d1"), ("speed:>15", "16"), ("-drive:d2", None))


def test_one_hit_a_drive_with_the_number_of_further_ones(line: Line) -> None:
    page = line.find(GREEN, group="drive")
    assert [(hit.frame.row, hit.further) for hit in page.hits] == [(1, 9), (10, 9), (22, 9)]
    assert page.total == 3
    newest = line.find(group="drive", where="speed:*", k=2)
    assert [(hit.frame.row, hit.further) for hit in newest.hits] == [(29, 7), (19, 7)]
    line.add(3, drive=[None, None, "d1"])
    assert line.find(group="drive").total == 5
    assert line.find(GREEN, group="drive").total == 5
    assert line.rows(group="drive") == [32, 31, 30, 29, 9]


def test_withdrawn_frames_are_nowhere(line: Line) -> None:
    before = line.rows(GREEN, k=3)
    line.withdraw(*before)
    assert not set(before) & {*line.rows(GREEN, k=30), *line.rows(k=30), *line.rows(GREEN, group="drive")}
    assert line.find(k=1).total == line.find(GREEN, k=1).total == 27
    assert line.columns.facets(["drive"])["drive"]["d0"] == 7
    frames.restore(line.fleet.platform.database, line.ids(*before), datetime.now(UTC))
    line.columns.refresh()
    assert line.rows(GREEN, k=3) == before


def test_a_cursor_is_for_its_own_search(line: Line) -> None:
    cursor = line.find(GREEN, k=2).next_cursor
    assert cursor
    with pytest.raises(InvalidInput, match="another search"):
        line.find(RED, k=2, cursor=cursor)
    with pytest.raises(InvalidInput, match="another search"):
        line.find(GREEN, k=2, cursor=cursor, where="drive:d1")
    for bad in ("", "x", cursor[:20], "é"):
        with pytest.raises(InvalidInput, match="cannot be read"):
            cursors.read(bad, search="s")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    way=st.sampled_from(["green", "newest", "-speed", "captured", "green by speed"]),
    group=st.sampled_from([None, "drive"]),
    where=st.sampled_from(["", "speed:>4", "-drive:d1"]),
    size=st.integers(1, 9),
    events=st.lists(st.tuples(st.sampled_from(["add", "withdraw", "nothing"]), st.integers(0, 29)), max_size=6),
)
def test_pages_skip_and_repeat_nothing_while_frames_come_and_go(
    fleet: Any, way: str, group: str | None, where: str, size: int, events: list[tuple[str, int]]
) -> None:
    db = fleet.platform.database
    for collection in ("frames", "counters", "shards"):
        db[collection].delete_many({})
    line = Line(fleet)
    drives = [f"d{row // 3}" if row % 7 else None for row in range(30)]
    line.add(30, drive=drives)
    asked: dict[str, Any] = {"where": where, "group": group, "k": size}
    examples = [GREEN] if way.startswith("green") else []
    if way != "green" and way != "newest":
        asked["sort"] = "speed" if way == "green by speed" else way
    whole = line.rows(*examples, **asked | {"k": 40})
    seen: list[int] = []
    gone: set[int] = set()
    cursor: str | None = None
    for number in range(40):
        page = line.find(*examples, **asked, cursor=cursor)
        seen += [hit.frame.row for hit in page.hits]
        cursor = page.next_cursor
        if cursor is None:
            break
        what, row = events[number] if number < len(events) else ("nothing", 0)
        if what == "add":
            line.add(2)
        elif what == "withdraw" and row not in gone:
            gone.add(row)
            line.withdraw(row)
    assert cursor is None
    assert len(seen) == len(set(seen))
    assert max(seen, default=0) < 30
    if group is None:
        assert [row for row in seen if row not in gone] == [row for row in whole if row not in gone]
    else:
        groups = [drives[row] or row for row in seen]
        assert len(groups) == len(set(groups))
        assert {drives[row] or row for row in whole if row not in gone} <= set(groups)


def _all_pages(line: Line, *examples: Example, **asked: Any) -> tuple[list[int], set[int]]:
    """The rows of all pages, and each total that a page gave."""
    rows, totals, cursor = [], set(), None
    for _ in range(100):
        page = line.find(*examples, **asked, cursor=cursor)
        rows += [hit.frame.row for hit in page.hits]
        totals.add(page.total)
        cursor = page.next_cursor
        if cursor is None:
            return rows, totals
    raise AssertionError("there is no end of pages")


@pytest.mark.parametrize("group", [None, "drive"])
def test_pages_of_frames_that_look_nearly_alike_are_one_long_page(fleet: Any, group: str | None) -> None:
    """A parked car: their likeness differs in the seventh digit, by which the index cuts and the order does not go."""
    line = Line(fleet)
    fleet.add(60, drive=[f"d{row % 25}" for row in range(60)])
    vectors = np.zeros((60, 16))
    vectors[:, 0] = 1
    vectors[:, 1:] = np.random.default_rng(1).normal(size=(60, 15)) * 2e-4
    fleet.embed(0, vectors)
    line.refresh()
    (like,) = line.ids(20)
    whole = line.rows(frame_example(like), k=100, group=group)
    assert len(whole) == (25 if group else 59)
    for size in (1, 3, 10):
        assert _all_pages(line, frame_example(like), k=size, group=group)[0] == whole


def test_one_look_at_the_index_is_enough_for_a_page(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    plain = line.index.search

    def counted(*given: Any, k: int, **named: Any) -> Any:
        looks.append(k)
        return plain(*given, k=k, **named)

    monkeypatch.setattr(line.index, "search", counted)
    first = line.find(GREEN, k=5)
    line.find(GREEN, k=5, cursor=first.next_cursor)
    assert len(looks) == 2


def test_the_nearest_in_another_order_are_grouped_after_they_were_chosen(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "SORTED_NEAREST", 12)
    line.add(60, drive_of=4)
    nearest = line.rows(GREEN, k=12)
    whole = line.rows(GREEN, sort="speed", group="drive", k=40)
    assert set(whole) <= set(nearest)
    for size in (1, 2, 5):
        assert _all_pages(line, GREEN, sort="speed", group="drive", k=size) == (whole, {len(whole)})


def test_pages_of_groups_end_with_a_clear_line(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursors, "LONGEST_TEXT", 10)
    page = line.find(group="drive", k=2)
    assert len(page.hits) == 2
    with pytest.raises(InvalidInput, match="2 groups were shown, more than a cursor holds"):
        line.find(group="drive", k=2, cursor=page.next_cursor)


def test_a_cursor_of_more_rows_than_there_are_finds_what_there_is(line: Line) -> None:
    request = Request(examples=(GREEN,), group="drive")
    for as_of, shown in ((2**40, 40), (31, 30)):
        forged = cursors.Cursor(search=request.digest, key=-1.0, row=0, seen=1, as_of=as_of, group_rows=(shown, 5))
        assert {row // 10 for row in line.rows(GREEN, group="drive", cursor=cursors.write(forged))} == {1, 2}
