"""Columns read from bytes against columns read document by document, over random documents."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import bson
import numpy as np
import pytest
from bson.codec_options import CodecOptions
from bson.int64 import Int64

from infra.database import Document
from selection.columnar import documents
from selection.fleet import loading

OPTIONS: CodecOptions[Document] = CodecOptions(tz_aware=True)
ATTRIBUTES = ("weather", "speed", "wet", "note", "site", "latitude", "größe", "list", "nested", "x" * 300, "")


def _value(draw: random.Random) -> Any:
    return draw.choice(
        [
            draw.choice(["rain", "dry", "", "snö\0w", "a" * 200, "雨"]),
            draw.random() * 100,
            draw.randrange(-5, 5),
            Int64(draw.randrange(2**40)),
            draw.random() < 0.5,
            float("nan"),
            float("inf"),
            None,
            [1.0, 2.0],
            ["a", 1],
            {"deep": {"er": 1}, "text": "x"},
            datetime(2026, 1, 1),
            bson.ObjectId("0" * 24),
        ]
    )


def _document(row: int, draw: random.Random) -> Document:
    document: Document = {"row": row}
    if draw.random() < 0.9:
        moment = datetime(1960, 1, 1) + timedelta(milliseconds=draw.randrange(10**13))
        document["captured_at"] = draw.choice([moment, None])
    for key in loading.BASE_KEYS:
        if draw.random() < 0.8:
            document[key] = draw.choice([None, "", "north", "south yard", f"{key}-{draw.randrange(30)}"])
    for key in loading.MEASURED_KEYS:
        if draw.random() < 0.8:
            document[key] = draw.choice([None, draw.randrange(5000), draw.random(), Int64(2**33)])
    if draw.random() < 0.7:
        document["location"] = draw.choice([None, [draw.uniform(-90, 90), draw.uniform(-180, 180)]])
    if draw.random() < 0.2:
        document |= {"withdrawn_at": draw.choice([None, datetime(2026, 2, 2)]), "changed_at": datetime(2026, 2, 2)}
    if draw.random() < 0.9:
        chosen = draw.sample(ATTRIBUTES, draw.randrange(len(ATTRIBUTES)))
        document["attributes"] = draw.choice([{}, {key: _value(draw) for key in chosen}])
    if draw.random() < 0.1:
        items = list(document.items())
        draw.shuffle(items)
        document = dict(items)
    return document


def _columns(loaded: loading.Loaded) -> dict[str, list[Any]]:
    shown: dict[str, list[Any]] = {
        "captured": loaded.captured.all.tolist(),
        "withdrawn": loaded.withdrawn.all.tolist(),
    }
    for key, column in loaded.texts.items():
        codes, values = column.shown()
        shown[f"text {key}"] = [values[code] if code >= 0 else None for code in codes.tolist()]
    for key, numbers in loaded.numbers.items():
        shown[f"number {key}"] = [None if np.isnan(one) else one for one in numbers.shown().tolist()]
    return {key: values for key, values in shown.items() if any(value is not None for value in values)}


@pytest.mark.parametrize("seed", range(12))
def test_bytes_say_what_the_documents_say(seed: int) -> None:
    draw = random.Random(seed)
    one_by_one, at_once = loading.Loaded(), loading.Loaded()
    for count in (1, 40, 3):
        data = b"".join(bson.encode(_document(row, draw)) for row in range(count))
        loading._append(one_by_one, bson.decode_all(data, OPTIONS))
        found, values = documents.read(data, within=("attributes",))
        named = [loading._named(one) for one in values]
        loading._append_values(at_once, [one for one in named if one is not None], count=found)
    assert at_once.rows == one_by_one.rows == 44
    assert _columns(at_once) == _columns(one_by_one)


@pytest.mark.parametrize(
    "document",
    [{"site": 7}, {"width": "wide"}, {"location": [35, 137]}, {"captured_at": "noon"}, {"attributes": {"raw": b"\0"}}],
)
def test_what_is_unusual_is_left_to_reading_one_by_one(document: Document) -> None:
    data = bson.encode({"row": 0, **document})
    with pytest.raises(documents.TooVaried):
        [loading._named(one) for one in documents.read(data, within=("attributes",))[1]]


def test_documents_without_anything_in_common_are_given_up_on() -> None:
    data = b"".join(bson.encode({f"key{i}": 1}) for i in range(3 * documents._LARGEST_STEPS))
    with pytest.raises(documents.TooVaried):
        documents.read(data)
    assert documents.read(b"") == (0, [])
    assert documents.read(bson.encode({})) == (1, [])
