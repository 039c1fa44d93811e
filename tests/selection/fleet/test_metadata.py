"""Metadata lines: what is kept, what is dropped, what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import InvalidInput
from selection.fleet import metadata
from selection.fleet.metadata import FrameMetadata

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def _line(**entry: Any) -> str:
    return json.dumps({"file": "a.jpg"} | entry)


def test_a_full_line() -> None:
    line = _line(
        captured_at="2026-03-01T08:30:00.1239+01:00",
        site="berlin",
        vehicle=7,
        drive="d1",
        camera="front",
        location={"lat": 52.5, "lon": 13},
        attributes={"weather": "rain"},
        width=10,
        height=20,
        speed_mps=3.5,
    )
    assert metadata.parse_line(line) == FrameMetadata(
        file="a.jpg",
        captured_at=datetime(2026, 3, 1, 7, 30, 0, 123000, tzinfo=UTC),
        site="berlin",
        vehicle="7",
        drive="d1",
        camera="front",
        location=(52.5, 13.0),
        attributes={"weather": "rain", "speed_mps": 3.5},
    )


def test_answers_are_dropped_at_every_depth() -> None:
    answers = {key: ["Pedestrian"] for key in metadata.LABEL_KEYS}
    found = metadata.parse_line(
        _line(**answers, attributes={"weather": "rain", **answers}, extra={"deep": 1, **answers})
    )
    assert found.attributes == {"weather": "rain", "extra": {"deep": 1}}


def test_sequence_is_another_name_for_drive() -> None:
    assert metadata.parse_line(_line(sequence="s1")).drive == "s1"
    assert metadata.parse_line(_line(sequence="s1", drive="d1")).drive == "d1"
    assert metadata.parse_line(_line(sequence="s1")).attributes == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T07:30:00", datetime(2026, 3, 1, 7, 30, tzinfo=UTC)),
        ("2026-03-01T07:30:00Z", datetime(2026, 3, 1, 7, 30, tzinfo=UTC)),
        ("2026-03-01T07:30:00-02:00", datetime(2026, 3, 1, 9, 30, tzinfo=UTC)),
    ],
)
def test_a_time_without_offset_is_utc(text: str, expected: datetime) -> None:
    assert metadata.parse_moment(text) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (b"\xff\xfe\xfd", "not JSON"),
        ('{"file": "a", "x": NaN}', "not JSON"),
        ("[1]", "not a JSON object"),
        ("{}", "`file` is missing"),
        ('{"file": 3}', "`file` is missing"),
        (_line(captured_at="yesterday"), "`captured_at`"),
        (_line(captured_at="0001-01-01T00:00:00+14:00"), "`captured_at`"),
        (_line(captured_at=1700000000), "`captured_at`"),
        (_line(location=[200, 0]), "`location`"),
        (_line(location="here"), "`location`"),
        (_line(location={"lat": 1}), "`location`"),
        (_line(drive=["d"]), "`drive` is not a text"),
        (_line(site="x" * 501), "`site` is longer"),
        (_line(attributes=["a"]), "`attributes` is not an object"),
        ('{"file": "a", "x": ' + "[" * 40 + "]" * 40 + "}", "nested"),
        (_line(note="x" * 70_000), "larger than"),
    ],
)
def test_a_bad_line_says_what_is_wrong(line: str | bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        metadata.parse_line(line)


def test_field_names_suit_every_document_database() -> None:
    found = metadata.parse_line(_line(attributes={"a.b": 1, "$c": 2, "d e:f": 3, "": 4, "n": 2**70, "bad": "\ud800"}))
    assert found.attributes == {"a_b": 1, "c": 2, "d_e_f": 3, "_": 4, "n": str(2**70), "bad": "?"}


@given(entry=st.dictionaries(st.text(max_size=10), json_values, max_size=5))
def test_any_accepted_line_can_be_stored(entry: dict[str, Any]) -> None:
    try:
        found = metadata.parse_line(json.dumps({**entry, "file": "a.jpg"}))
    except InvalidInput:
        return
    assert bson.decode(bson.encode({"attributes": dict(found.attributes)}))["attributes"] == found.attributes


@pytest.mark.parametrize(
    "text", ["1970-01-01T00:00:00Z", "1970-01-01", "0000-00-00T00:00:00", "0000:00:00 00:00:00", "1904-01-01T00:00:00Z"]
)
def test_a_clock_that_was_never_set_gives_no_time(text: str) -> None:
    assert metadata.parse_line(_line(captured_at=text)).captured_at is None


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no name can have"):
        metadata.parse_line(_line(file="\ud800.jpg"))
    assert metadata.parse_line(_line(file="\udcff.jpg")).file == "\udcff.jpg", (
        "how Python writes the byte 0xFF of a name"
    )


def test_a_whole_number_may_have_become_a_float() -> None:
    assert metadata.parse_line(_line(drive=17.0)).drive == "17"
    with pytest.raises(InvalidInput, match="`drive`"):
        metadata.parse_line(_line(drive=17.5))
