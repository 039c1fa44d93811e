"""The filter language."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import InvalidInput
from selection.fleet.filters import (
    NearTerm,
    Range,
    TimeTerm,
    ValueTerm,
    parse_filter,
    parse_query,
    term_text,
    value_text,
)


def _value(text: str) -> ValueTerm:
    (term,) = parse_filter(text).terms
    assert isinstance(term, ValueTerm)
    return term


def test_terms() -> None:
    parsed = parse_filter(
        '  timeofday:Dusk,night -weather:rain  scene:"city, street"  after:2026-03-01 before:2026-04-01T00:00:00+02:00 '
    )
    assert parsed.terms == (
        ValueTerm(key="timeofday", values=("dusk", "night"), prefixes=(), negated=False, position=3),
        ValueTerm(key="weather", values=("rain",), prefixes=(), negated=True, position=24),
        ValueTerm(key="scene", values=("city, street",), prefixes=(), negated=False, position=39),
        TimeTerm(is_after=True, moment=datetime(2026, 3, 1, tzinfo=UTC)),
        TimeTerm(is_after=False, moment=datetime(2026, 3, 31, 22, tzinfo=UTC)),
    )


def test_stars_and_quotes() -> None:
    assert _value("drive:0001*").prefixes == ("0001",)
    assert _value("drive:*").prefixes == ("",)
    assert _value('note:"a \\"b\\" \\\\ *"').values == ('a "b" \\ *',)
    assert _value('note:"a b"*').prefixes == ("a b",)
    assert _value("url:http://x:1/y").values == ("http://x:1/y",)
    assert _value("v:-1").values == ("-1",)


def test_an_empty_filter_has_no_terms() -> None:
    assert parse_filter("").terms == parse_filter("  ").terms == ()


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("rainy", 1, "expected key:value"),
        ("a:b rainy days", 5, "expected key:value"),
        ("a:", 3, "value is missing"),
        ("a:b,", 5, "value is missing"),
        ("a:,b", 3, "value is missing"),
        (":b", 1, "expected key:value"),
        ('a:"b', 3, "not closed"),
        ('a:"b"c', 6, "space or a comma"),
        ("x:1 after:yesterday", 5, "ISO 8601"),
        ("after:2026-01-01,2026-01-02", 1, "one time"),
        ("-after:2026-01-01", 1, "use before:"),
    ],
)
def test_a_mistake_is_shown_where_it_is(text: str, position: int, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        parse_filter(text)
    assert refused.value.details["position"] == position
    assert f"character {position}:" in refused.value.message


@given(text=st.text(alphabet=st.sampled_from('ab:"-*, \\'), max_size=20) | st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_filter(text)
    except InvalidInput as refused:
        assert 1 <= refused.details["position"] <= len(text) + 1  # noqa: PT017


@given(value=st.text(min_size=1, max_size=10))
def test_any_value_can_be_quoted(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    assert _value(f'key:"{quoted}"').values == (value.casefold(),)


def test_numbers_and_ranges() -> None:
    term = _value("speed:>40,<=3.5,30..50,..0,1e3..")
    assert term.ranges == (
        Range(low=40, low_open=True),
        Range(high=3.5),
        Range(low=30, high=50),
        Range(high=0),
        Range(low=1000),
    )
    assert _value('speed:">40",a..b,v1..2').values == (">40", "a..b", "v1..2")


def test_places() -> None:
    (term,) = parse_filter("-near:35.0,137.1,5km").terms
    assert term == NearTerm(latitude_deg=35.0, longitude_deg=137.1, radius_m=5000, negated=True)
    assert parse_filter("near:-35,-137.1,250m").terms == (
        NearTerm(latitude_deg=-35.0, longitude_deg=-137.1, radius_m=250),
    )


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("speed:>fast", 8, "expected a number, found 'fast'"),
        ("speed:>=", 9, "a number is missing"),
        ("speed:50..30", 7, "write 30..50"),
        ("near:35,137", 1, "latitude, longitude and distance"),
        ("near:95,137,5km", 6, "between -90 and 90"),
        ("near:35,237,5km", 9, "between -180 and 180"),
        ("near:35,137,5", 13, "distance such as 500m"),
        ("near:x,137,5km", 6, "expected a number"),
    ],
)
def test_mistakes_in_numbers_and_places(text: str, position: int, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        parse_filter(f"a:b {text}")
    assert refused.value.details["position"] == position + 4


@pytest.mark.parametrize(
    ("query", "words", "further", "without", "terms"),
    [
        ("", "", (), (), ""),
        ("night crossing with pedestrians", "night crossing with pedestrians", (), (), ""),
        ("wet -weather:rain,snow road", "wet road", (), (), "-weather:rain,snow"),
        ('bus site:"south yard" stop', "bus stop", (), (), 'site:"south yard"'),
        ("at 12:30 or 12 : 30 - late", "at 12:30 or 12 : 30 - late", (), (), ""),
        ('say "stop: now"', "say stop: now", (), (), ""),
        ('street -rain -"a  tunnel" +tram +"a bus"', "street", ("tram", "a bus"), ("rain", "a tunnel"), ""),
        ('-x:"a b" -"x: a"', "", (), ("x: a",), '-x:"a b"'),
    ],
)
def test_one_box_for_words_and_terms(
    query: str, words: str, further: tuple[str, ...], without: tuple[str, ...], terms: str
) -> None:
    parsed = parse_query(query)
    assert (parsed.words, parsed.further, parsed.without, parsed.filter.text) == (words, further, without, terms)
    again = parse_query(f"{parsed.written_words()} {parsed.filter.text}")
    assert (again.words, again.further, again.without) == (words, further, without)
    assert again.filter.terms == parsed.filter.terms


@pytest.mark.parametrize(
    ("query", "position", "message"),
    [
        ("wet road weather:", 18, "a value is missing"),
        ('wet "road', 5, "not closed"),
        ('wet -"" road', 6, "no words"),
        ('"a"b', 4, "space after the quotation"),
        ("wet after:noon", 5, "ISO 8601"),
    ],
)
def test_a_mistake_in_the_box_is_shown_where_it_is(query: str, position: int, message: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^query, character {position}: .*{message}") as refused:
        parse_query(query)
    assert (refused.value.details["position"], refused.value.details["origin"]) == (position, "query")


@given(text=st.text(alphabet=st.sampled_from('ab:"-+*, \\1.<>'), max_size=20) | st.text(max_size=20))
def test_any_query_is_read_or_refused_and_reads_the_same_written_out(text: str) -> None:
    try:
        parsed = parse_query(text)
    except InvalidInput as refused:
        assert 1 <= refused.details["position"] <= len(text) + 1  # noqa: PT017
        return
    again = parse_query(f"{parsed.written_words()} {' '.join(map(term_text, parsed.filter.terms))}")
    assert (again.texts, again.without) == (parsed.texts, parsed.without)
    assert len(again.filter.terms) == len(parsed.filter.terms)


@given(st.text())
def test_a_value_of_a_frame_is_written_so_that_it_is_asked_for(value: str) -> None:
    (term,) = parse_filter(f"key:{value_text(value)}").terms
    assert term == ValueTerm(key="key", values=(value.casefold(),))


@pytest.mark.parametrize("value", ["<10m", ">50m", "30..50", "STOP*", "Hauptstraße", "a,b", "", 'a "b" \\', "-5"])
def test_values_that_look_like_something_else(value: str) -> None:
    assert _value(f"key:{value_text(value)}").values == (value.casefold(),)
