"""Filters on columns give what a plain look at each record gives, for any fleet, any filter, and any changes in between."""

from __future__ import annotations

import hashlib
import itertools
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra import database as documents
from infra.database import Db
from selection.fleet import frames
from selection.fleet.columns import Columns
from selection.fleet.filters import NearTerm, TimeTerm, ValueTerm, parse_filter, term_text
from selection.fleet.frames import FrameFacts

START = datetime(2026, 1, 1, tzinfo=UTC)
WORDS = ("rain", "Rain", "clear", "heavy rain", "a,b", '5" pipe', "40", "2..3")
numbers = st.sampled_from([-1.5, 0.0, 2.0, 2.5, 30.0, 40.0, 41.0, 1e6])

records = st.fixed_dictionaries(
    {},
    optional={
        "site": st.sampled_from(["north", "south yard"]),
        "drive": st.sampled_from(["d1", "d2", "d10"]),
        "captured_at": st.integers(0, 5).map(lambda day: START + timedelta(days=day)),
        "location": st.tuples(
            st.sampled_from([35.0, 35.01, 35.2, -35.0]), st.sampled_from([137.1, 137.11, 179.9, -179.9])
        ),
        "attributes": st.dictionaries(
            st.sampled_from(["weather", "speed", "mixed", "site"]),
            st.one_of(st.sampled_from(WORDS), numbers, st.booleans(), st.just([1])),
        ),
    },
)


def _quoted(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


spans = st.one_of(
    st.tuples(st.sampled_from([">", ">=", "<", "<="]), numbers).map(lambda one: f"{one[0]}{one[1]!r}"),
    st.tuples(numbers, numbers).map(lambda two: f"{min(two)!r}..{max(two)!r}"),
    numbers.map(lambda low: f"{low!r}.."),
    numbers.map(lambda high: f"..{high!r}"),
)
texts = st.one_of(
    st.sampled_from(WORDS).map(_quoted), st.sampled_from(["r*", "*", "4*", "d1*", "d1", "2", "2.5", "true"])
)


@st.composite
def terms(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["value", "number", "time", "near", "has"]))
    sign = draw(st.sampled_from(["", "-"]))
    if kind == "time":
        return f"{draw(st.sampled_from(['after', 'before']))}:2026-01-0{draw(st.integers(1, 7))}"
    if kind == "near":
        place = draw(st.sampled_from(["35,137.1", "-35.0,179.95"]))
        return f"{sign}near:{place},{draw(st.sampled_from(['10m', '1.5km', '30km', '20000km']))}"
    if kind == "has":
        return f"{sign}has:{draw(st.sampled_from(['location', 'time', 'site', 'drive']))}"
    if kind == "number":
        return f"{sign}speed:{','.join(draw(st.lists(spans, min_size=1, max_size=2)))}"
    key = draw(st.sampled_from(["weather", "site", "drive", "mixed", "attributes.site"]))
    return f"{sign}{key}:{','.join(draw(st.lists(texts, min_size=1, max_size=3)))}"


def _number_in(value: Any) -> float:
    try:
        return float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        return math.nan


def _expected(record: dict[str, Any], term: Any) -> bool:
    """What the language's description says of one record, without any array."""
    if isinstance(term, TimeTerm):
        when = record.get("captured_at")
        return when is not None and (when >= term.moment if term.is_after else when < term.moment)
    if isinstance(term, NearTerm):
        place = record.get("location")
        near = place is not None and _metres(place, (term.latitude_deg, term.longitude_deg)) <= term.radius_m
        return near != term.negated
    if term.key == "has":
        name = {"time": "captured_at"}.get(term.values[0], term.values[0])
        return (record.get(name) is not None) != term.negated
    attributes = record.get("attributes", {})
    plain = term.key.removeprefix("attributes.")
    value = record.get(plain) if plain in ("site", "drive") and plain == term.key else attributes.get(plain)
    if value is None or isinstance(value, list):
        return term.negated
    number = _number_in(value)
    text = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else str(value)
    if isinstance(value, float):
        text = str(int(value)) if value.is_integer() else str(value)
    folded = str(text).casefold()
    found = folded in term.values or any(folded.startswith(prefix) for prefix in term.prefixes)
    if isinstance(value, float):
        found = found or any(_number_in(wanted) == value for wanted in term.values)
    for span in term.ranges:
        above = number > span.low if span.low_open else number >= span.low
        below = number < span.high if span.high_open else number <= span.high
        found = found or (above and below)
    return found != term.negated


def _metres(a: tuple[float, float], b: tuple[float, float]) -> float:
    (lat_a, lon_a), (lat_b, lon_b) = ((math.radians(x) for x in place) for place in (a, b))
    chord = math.sin((lat_a - lat_b) / 2) ** 2 + math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_a - lon_b) / 2) ** 2
    return 2 * 6_371_008.8 * math.asin(math.sqrt(chord))


def _facts(number: int, record: dict[str, Any]) -> FrameFacts:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return FrameFacts(
        frame_id=frames.id_of(digest),
        digest=digest,
        width=1,
        height=1,
        format="JPEG",
        size_bytes=1,
        source="x",
        object_key="o",
        preview_key="p",
        ingested_at=START,
        **record,
    )


EVERY_KEY = {"site": "north", "drive": "d1", "captured_at": START, "location": (0.0, 0.0)} | {
    "attributes": {"weather": "fog", "speed": 7.0, "mixed": "x", "site": "tunnel"}
}


@pytest.fixture
def db(database: Db) -> Db:
    documents.ensure_indexes(database, frames.INDEXES)
    return database


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fleet=st.lists(records, min_size=1, max_size=25),
    asked=st.lists(st.lists(terms(), max_size=3).map(" ".join), min_size=1, max_size=6),
    withdrawn=st.sets(st.integers(0, 25), max_size=4),
    changed=st.dictionaries(st.integers(0, 24), records, max_size=3),
)
def test_filters_against_a_plain_look_at_each_record(
    db: Db, fleet: list[dict[str, Any]], asked: list[str], withdrawn: set[int], changed: dict[int, dict[str, Any]]
) -> None:
    db.frames.delete_many({})
    db.counters.delete_many({})
    fleet = [EVERY_KEY, *fleet]
    facts = [_facts(i, record) for i, record in enumerate(fleet)]
    frames.register(db, facts[:10])
    columns = Columns(db)
    columns.refresh()
    frames.register(db, facts[10:])
    columns.refresh()
    early = columns.mask("")

    now = datetime(2026, 2, 1, tzinfo=UTC)
    gone = {row for row in withdrawn if row < len(fleet)}
    frames.withdraw(db, [facts[row].frame_id for row in gone], now)
    for row, record in changed.items():
        if 0 < row < len(fleet):
            fleet[row] = record
            fields = {"site": None, "drive": None, "captured_at": None, "location": None, "attributes": {}} | record
            db.frames.update_one({"row": row}, {"$set": fields | {"changed_at": now + timedelta(seconds=row)}})
    columns.refresh()

    assert early.all()
    for text in asked:
        parsed = parse_filter(text)
        wanted = [
            row
            for row, record in enumerate(fleet)
            if row not in gone and all(_expected(record, term) for term in parsed.terms)
        ]
        assert np.flatnonzero(columns.mask(text)).tolist() == wanted
        assert columns.count(text) == len(wanted)
        assert columns.matching(text).tolist() == wanted
        again = " ".join(term_text(term) for term in parsed.terms)
        assert np.flatnonzero(columns.mask(again)).tolist() == wanted, again
        sites = [fleet[row].get("site") for row in wanted]
        assert columns.facets(["site"], where=text).get("site", {}) == {
            site: len(list(group)) for site, group in itertools.groupby(sorted(filter(None, sites)))
        }
        assert all(isinstance(term, ValueTerm | TimeTerm | NearTerm) for term in parsed.terms)
