"""Columns: filters, facets and codes by row, kept up to date row by row."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from infra import database as documents
from infra.database import Db
from infra.errors import InvalidInput
from selection.fleet import frames, loading
from selection.fleet.columns import Columns, parse_filter
from selection.fleet.frames import FrameFacts


@pytest.fixture
def db(database: Db) -> Db:
    documents.ensure_indexes(database, frames.INDEXES)
    return database


def _add(db: Db, *rows: dict[str, Any]) -> None:
    start = frames.row_count(db)
    facts = []
    for i, row in enumerate(rows):
        digest = hashlib.sha256(str(start + i).encode()).hexdigest()
        facts.append(
            FrameFacts(
                frame_id=frames.id_of(digest),
                digest=digest,
                width=1,
                height=1,
                format="JPEG",
                size_bytes=1,
                source="x",
                object_key="o",
                preview_key="p",
                ingested_at=datetime(2026, 1, 1, tzinfo=UTC),
                **row,
            )
        )
    frames.register(db, facts)


@pytest.fixture
def columns(db: Db) -> Columns:
    _add(
        db,
        {"site": "Ulm", "drive": "d1", "attributes": {"weather": "rain", "lanes": 2, "wet": True, "boxes": [1]}},
        {"site": "ulm", "drive": "d2", "attributes": {"weather": "Clear", "site": "tunnel"}},
        {"drive": "d2", "captured_at": datetime(2026, 3, 1, 7, tzinfo=UTC), "attributes": {"weather": "rain"}},
        {"captured_at": datetime(1969, 12, 31, tzinfo=UTC)},
    )
    made = Columns(db)
    assert made.refresh() == 4
    return made


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("", [0, 1, 2, 3]),
        ("weather:rain", [0, 2]),
        ("weather:RAIN,clear", [0, 1, 2]),
        ("-weather:rain", [1, 3]),
        ("weather:rain -drive:d2", [0]),
        ("site:ulm", [0, 1]),
        ("weather:r*", [0, 2]),
        ("weather:*", [0, 1, 2]),
        ("-weather:*", [3]),
        ("lanes:2", [0]),
        ("wet:true", [0]),
        ("weather:snow", []),
        ("attributes.weather:clear", [1]),
        ("attributes.site:tunnel", [1]),
        ("after:2026-03-01T07:00:00", [2]),
        ("before:2026-03-01T07:00:00", [3]),
        ("before:2026-03-02", [2, 3]),
        ("after:1900-01-01", [2, 3]),
    ],
)
def test_filters(columns: Columns, where: str, rows: list[int]) -> None:
    assert np.flatnonzero(columns.mask(where)).tolist() == rows
    assert columns.count(where) == len(rows)


def test_an_unknown_key_is_named_with_its_place_and_the_known_ones(columns: Columns) -> None:
    with pytest.raises(InvalidInput, match=r"character 14: there is no key 'wether'; did you mean weather or wet\?"):
        columns.mask("weather:rain wether:rain")
    with pytest.raises(InvalidInput, match=r"no key 'boxes'; the fleet has .*weather"):
        columns.mask("boxes:1")


class OddRows:
    """Provides `odd:yes` and no numbers."""

    provides = ("odd",)

    def version(self, key: str) -> int:
        return 0

    def matches(self, key: str, value: str, *, is_prefix: bool, rows: int) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = np.arange(rows) % 2 == 1
        return found

    def numbers(self, key: str, *, rows: int) -> NDArray[np.float64] | None:
        return None


class GrowingFleet(OddRows):
    """Provides `grown` of all rows; the fleet has grown, and the columns too, whenever it is asked."""

    provides = ("grown",)

    def __init__(self, grow: Callable[[], object]) -> None:
        self._grow = grow

    def matches(self, key: str, value: str, *, is_prefix: bool, rows: int) -> NDArray[np.bool_]:
        self._grow()
        return np.zeros(rows, dtype=bool)

    def numbers(self, key: str, *, rows: int) -> NDArray[np.float64]:
        return np.ones(rows)


def test_a_refresh_in_the_middle_of_a_question_changes_nothing_about_its_answer(db: Db, columns: Columns) -> None:
    def grow() -> None:
        _add(db, {"drive": "d3"})
        columns.refresh()

    columns.provide(GrowingFleet(grow))
    assert columns.mask("grown:yes,>0").tolist() == [True] * 4
    assert columns.rows == 5


def test_what_only_has_names_cannot_be_compared(columns: Columns) -> None:
    columns.provide(OddRows())
    assert columns.mask("odd:yes").sum() == 2
    with pytest.raises(InvalidInput, match="character 1: 'odd' has no numbers"):
        columns.mask("odd:>3")
    with pytest.raises(InvalidInput, match="'odd' has no numbers"):
        columns.numbers("odd")
    with pytest.raises(InvalidInput, match="character 14: has: takes names"):
        columns.mask("weather:rain has:>1")


def test_an_attribute_named_like_a_term_goes_by_its_full_name(db: Db, columns: Columns) -> None:
    _add(db, *({"attributes": {"odd": "left", "depth": i / 7}} for i in range(30)))
    columns.refresh()
    assert columns.facets()["odd"] == {"left": 30}
    columns.provide(OddRows())
    depths = type("Depths", (OddRows,), {"provides": ("depth",)})()
    columns.provide(depths)
    assert columns.facets()["attributes.odd"] == {"left": 30}
    assert columns.facets(["attributes.odd"], where="attributes.odd:left") == {"attributes.odd": {"left": 30}}
    assert columns.count("attributes.odd:left") == columns.count("has:attributes.odd") == 30
    assert "attributes.odd" in columns.keys
    assert "odd" not in {*columns.keys, *columns.facets()}
    assert [key for key in columns.histograms() if "depth" in key] == ["attributes.depth"]
    assert columns.numbers("attributes.depth")[-1] == 29 / 7
    for where, key in {
        "odd:yes": None,
        "attributes.odd:left": "attributes.odd",
        "attributes.weather:rain": "weather",
        "site:ulm": "site",
        "attributes.site:tunnel": "attributes.site",
        "hour:7": None,
        "has:odd": None,
        "after:2026-01-01": None,
    }.items():
        assert columns.key_of(parse_filter(where).terms[0]) == key, where


def test_a_text_and_a_number_of_one_writing_are_one_value(db: Db, columns: Columns) -> None:
    _add(db, *({"attributes": {"gear": gear}} for gear in ["2", "R", "2", 2, 2.0, 3, "2.0"]))
    columns.refresh()
    assert columns.values("gear") == ("2", "R", "2.0", "3")
    assert columns.facets(["gear"]) == {"gear": {"2": 4, "R": 1, "2.0": 1, "3": 1}}
    assert columns.count("gear:2") == 4
    assert columns.codes("gear")[0][4:].tolist() == [0, 1, 0, 0, 0, 3, 2]
    assert columns.count("gear:2*") == 5


def test_whole_numbers_that_no_double_holds_are_not_asked_for(db: Db, columns: Columns) -> None:
    _add(db, *({"attributes": {"t_ns": 1772000000000000000 + i, "serial": str(2**53 + i)}} for i in range(3)))
    columns.refresh()
    assert columns.count("t_ns:1772000000000000000") == 3
    with pytest.raises(
        InvalidInput, match=r"t_ns: whole numbers beyond 2\^53 are kept rounded, 1772000000000000001 as"
    ):
        columns.count("t_ns:1772000000000000001")
    assert columns.count("t_ns:1772000000000000000..1772000000000001000") == 3
    assert columns.count(f"serial:{2**53 + 1}") == 1
    assert columns.count("lanes:-3,1" + "0" * 5000) == 0


def test_having_a_key_is_asked_of_all_its_writings(db: Db, columns: Columns) -> None:
    _add(db, {"attributes": {"Weather": "fog"}}, {"attributes": {"Site": "bridge"}})
    columns.refresh()
    for where, rows in {
        "has:weather": [0, 1, 2, 4],
        "-has:WEATHER": [3, 5],
        "has:attributes.weather": [0, 1, 2, 4],
        "has:site": [0, 1, 5],
        "has:attributes.site": [1, 5],
    }.items():
        assert np.flatnonzero(columns.mask(where)).tolist() == rows, where


def test_a_term_is_not_taken_for_a_column(columns: Columns) -> None:
    columns.provide(OddRows())
    for name in ("odd", "odd:yes", "hour", "near"):
        with pytest.raises(InvalidInput, match=f"'{name.partition(':')[0]}' is a search term, not a column"):
            columns.codes(name)
    with pytest.raises(InvalidInput, match=r"there is no key 'od'; did you mean odd\?"):
        columns.codes("od")


def test_a_mask_is_the_callers_own(columns: Columns) -> None:
    columns.mask("")[:] = False
    assert columns.mask("").all()


def test_codes_values_and_times(columns: Columns) -> None:
    codes, values = columns.codes("drive")
    assert codes.dtype == np.int32
    assert ([values[code] if code >= 0 else None for code in codes], values) == (["d1", "d2", "d2", None], ("d1", "d2"))
    assert columns.values("weather") == ("rain", "Clear")
    assert columns.captured_ms.tolist()[:2] == [loading.NO_TIME_MS] * 2
    assert columns.captured_ms[3] == -86_400_000


def test_facets_count_what_matches_most_frequent_first(columns: Columns) -> None:
    facets = columns.facets()
    assert facets["weather"] == {"rain": 2, "Clear": 1}
    assert list(facets["drive"]) == ["d2", "d1"]
    assert columns.facets(["weather", "lanes"], columns.mask("drive:d2")) == {"weather": {"rain": 1, "Clear": 1}}
    assert columns.facets(["weather"], np.array([True])) == {"weather": {"rain": 1}}


def test_an_empty_fleet_matches_nothing_and_knows_no_mistakes(db: Db) -> None:
    columns = Columns(db)
    assert columns.refresh() == 0
    assert columns.mask("weather:rain after:2026-01-01").tolist() == []
    assert columns.facets() == {}
    assert columns.codes("drive")[1] == ()


def test_refresh_reads_only_new_rows_and_old_results_keep_their_length(db: Db, columns: Columns) -> None:
    codes, _ = columns.codes("drive")
    before = codes.tolist()
    _add(db, *({"drive": f"d{i}", "attributes": {"fresh": i % 3}} for i in range(3000)))
    assert columns.refresh() == 3000
    assert columns.refresh() == 0
    assert codes.tolist() == before
    assert columns.rows == 3004
    assert columns.count("fresh:1") == 1000
    assert columns.count("-fresh:*") == 4
    assert columns.count("drive:d2") == 3


def test_an_attribute_that_names_single_frames_is_left_out(db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "MOST_VALUES", 3)
    columns = Columns(db)
    _add(db, *({"drive": f"d{i}", "attributes": {"file": f"f{i}", "weather": "rain"}} for i in range(5)))
    columns.refresh()
    _add(db, {"drive": "d9", "attributes": {"file": "f9"}})
    columns.refresh()
    assert "file" not in columns.keys
    assert len(columns.values("drive")) == 6
    with pytest.raises(InvalidInput, match="'file' has more than 3"):
        columns.mask("file:f1")


def test_threads_may_refresh_and_read_at_once(db: Db) -> None:
    columns = Columns(db)
    problems: list[str] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            rows = columns.rows
            mask = columns.mask("drive:*")
            if len(mask) < rows or not mask.all():
                problems.append(f"{rows} rows, {mask.sum()} of {len(mask)} in the mask")
            columns.refresh()

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for i in range(20):
        _add(db, *({"drive": f"d{i}"} for _ in range(50)))
    stop.set()
    for reader in readers:
        reader.join()
    columns.refresh()
    assert (problems, columns.rows) == ([], 1000)


def test_the_hour_of_capture_is_a_key_where_no_attribute_has_its_name(db: Db, columns: Columns) -> None:
    assert columns.mask("hour:7").nonzero()[0].tolist() == columns.mask("hour:07,23").nonzero()[0].tolist() == [2]
    assert columns.mask("hour:<=7").nonzero()[0].tolist() == columns.mask("has:hour").nonzero()[0].tolist() == [2, 3]
    assert columns.mask("hour:*").nonzero()[0].tolist() == [2, 3]
    assert columns.numbers("hour")[2:].tolist() == [7.0, 0.0]
    for wrong in ("hour:24", "hour:dusk", "hour:1*", "hour:" + "1" * 5000):
        with pytest.raises(
            InvalidInput, match=r"filter, character 1: hour: takes hours of the day in UTC from 0 to 23"
        ):
            columns.mask(wrong)
    _add(db, {"attributes": {"hour": "rush"}, "captured_at": datetime(2026, 3, 1, 9, tzinfo=UTC)})
    columns.refresh()
    assert columns.mask("hour:rush").nonzero()[0].tolist() == columns.mask("has:hour").nonzero()[0].tolist() == [4]
    assert columns.count("hour:9") == 0
