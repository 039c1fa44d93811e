"""Coverage, novelty and slices of small fleets with known answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from infra.errors import InvalidInput
from selection.fleet import loading
from selection.fleet.columns import Columns
from selection.structure import slices
from selection.structure.coverage import coverage
from selection.structure.rarity import neighbour_distance
from tests.selection.conftest import Fleet


def _columns(fleet: Fleet) -> Columns:
    columns = Columns(fleet.platform.database)
    columns.refresh()
    return columns


def _weather(fleet: Fleet, values: list[str | None]) -> Columns:
    attributes = [{} if value is None else {"weather": value} for value in values]
    moments = [datetime(2026, 1, 1, 22 + i % 2, tzinfo=UTC) for i in range(len(values))]
    places = [(35.0, 137.1) if value == "snow" else (35.0, 139.7) for value in values]
    fleet.add(len(values), attributes=attributes, captured_at=moments, location=places)
    return _columns(fleet)


def test_the_biggest_hole_comes_first(fleet: Fleet) -> None:
    columns = _weather(fleet, ["clear"] * 6 + ["rain"] * 3 + [None])
    labelled = np.zeros(10, dtype=bool)
    labelled[:2] = True
    found = coverage(columns, ["weather"], labelled=labelled)
    assert [(cell.values, cell.fleet, cell.labelled) for cell in found] == [
        (("rain",), 3, 0),
        ((None,), 1, 0),
        (("clear",), 6, 2),
    ]
    assert found[0].hole == pytest.approx(0.6)
    assert sum(cell.hole for cell in found) == pytest.approx(0)
    assert sum(cell.share for cell in found) == pytest.approx(1)


def test_keys_are_crossed_with_the_hour_and_counts_keep_to_the_filter(fleet: Fleet) -> None:
    columns = _weather(fleet, ["clear"] * 6 + ["rain"] * 3 + [None])
    found = coverage(columns, ["weather", "hour"], labelled=np.zeros(0, dtype=bool), within=columns.mask("weather:*"))
    assert {cell.values: cell.fleet for cell in found} == {
        ("clear", "22"): 3,
        ("clear", "23"): 3,
        ("rain", "22"): 2,
        ("rain", "23"): 1,
    }
    # Each cell is found by the terms it stands for.
    for cell in found:
        weather, hour = cell.values
        assert columns.count(f"weather:{weather} hour:{hour}") == cell.fleet
    for keys in ([], ["weather", "weather"], ["nothing"]):
        with pytest.raises(InvalidInput):
            coverage(columns, keys, labelled=np.zeros(0, dtype=bool))


def test_an_empty_fleet_has_no_cells(fleet: Fleet) -> None:
    assert coverage(_columns(fleet), ["site"], labelled=np.zeros(0, dtype=bool)) == []


def test_what_the_fleet_has_once_is_rare() -> None:
    emb = np.repeat(np.eye(4, dtype=np.float32), [50, 50, 50, 1], axis=0)
    rare = neighbour_distance(emb, emb, neighbours=3)
    assert int(np.argmax(rare)) == 150
    assert rare[:150].max() < 1e-5
    assert neighbour_distance(emb[:1], emb[:1]).tolist() == [0.0]


def test_slices_are_the_clusters_with_their_words_and_attributes(fleet: Fleet) -> None:
    random = np.random.default_rng(0)
    kind = np.repeat([0, 1, 2], [60, 30, 10])
    emb = np.eye(8, dtype=np.float32)[kind] + 0.05 * random.standard_normal((100, 8)).astype(np.float32)
    emb /= np.linalg.norm(emb, axis=1, keepdims=True)
    columns = _weather(fleet, [("clear", "rain", "snow")[one] for one in kind])
    rows = np.arange(100)
    found = slices.slices(
        emb,
        rows,
        count=3,
        columns=columns,
        vocabulary=("sun", "umbrellas", "sledges"),
        text_emb=np.eye(3, 8, dtype=np.float32),
    )
    assert [sorted(one.rows.tolist()) for one in found] == [rows[kind == i].tolist() for i in range(3)]
    assert [one.words[0] for one in found] == ["sun", "umbrellas", "sledges"]
    assert [(t.key, t.value, t.share) for t in found[2].traits] == [("weather", "snow", 1.0)]
    # Called by the weather where most have the same, else by words, and each once.
    assert [one.name for one in slices.described(found)] == ["clear", "rain", "snow"]
    twice = slices.described([replace(one, traits=(), words=("a Wet road", "fog")) for one in found])
    assert [one.name for one in twice] == ["a-wet-road-fog", "a-wet-road-fog-1", "a-wet-road-fog-2"]
    day = slices.Trait(key="timeofday", value="day", share=0.9, fleet_share=0.3)
    doubted = slices.described([replace(found[0], traits=(day,), words=("at dusk", "in daylight", "trees"))])
    assert doubted[0].words == ("in daylight", "trees")
    again = slices.slices(emb, rows, count=3)
    assert [one.rows.tolist() for one in again] == [one.rows.tolist() for one in found]
    assert again[0].words == ()


def test_numbers_of_too_many_kinds_are_no_trait(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "MOST_VALUES", 10)
    fleet.add(40, attributes=[{"speed_kph": i * 0.01, "weather": "rain" if i < 20 else "fog"} for i in range(40)])
    columns = _columns(fleet)
    with pytest.raises(InvalidInput, match="more than 10 different numbers"):
        columns.codes("speed_kph")
    emb = np.repeat(np.eye(2, 8, dtype=np.float32), 20, axis=0)
    found = slices.slices(emb, np.arange(40), count=2, columns=columns)
    assert {trait.key for one in found for trait in one.traits} == {"weather"}


def test_nothing_to_slice_is_said(fleet: Fleet) -> None:
    with pytest.raises(InvalidInput, match="mlpl embed"):
        slices.slices(np.empty((0, 8), dtype=np.float32), np.empty(0, dtype=np.int64), count=3)
    with pytest.raises(InvalidInput, match="slices"):
        slices.slices(np.eye(2, dtype=np.float32), np.arange(2), count=0)
