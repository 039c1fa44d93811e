"""The filter language."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import InvalidInput
from selection.fleet.filters import TimeTerm, ValueTerm, parse_filter


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
