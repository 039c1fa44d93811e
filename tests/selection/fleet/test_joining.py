"""Files of others joined with frames: by id, digest, name, address and content; and columns of numbers from them."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from infra.errors import InvalidInput, NotFound
from selection.fleet import frames, joining, sightings, tabular, user_columns
from selection.fleet.columns import Columns
from selection.fleet.joining import Joining, Unmatched
from selection.fleet.sightings import Sighting


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Matched:
    """What came of a join: the numbers of the records by row, and what found no row."""

    rows: dict[int, list[str]]
    unknown: Unmatched
    ambiguous: Unmatched


def _matched(fleet: Any, records: list[dict[str, Any]], *, images: Path | None = None) -> Matched:
    with Joining(fleet.platform.database) as joined:
        for number, record in enumerate(records):
            joined.add(joining.reference_of(record, images=images), str(number).encode())
        joined.match()
        rows = {row: [one.decode() for one in payloads] for row, payloads in joined.rows(0, 10**6)}
        assert joined.count == len(rows)
        return Matched(rows=rows, unknown=joined.unknown, ambiguous=joined.ambiguous)


@pytest.fixture
def named(fleet: Any) -> Any:
    """Four frames of two drives whose images have the same names, one of them in a bucket."""
    fleet.add(
        4,
        source=["a/0001.jpg", "b/0001.jpg", "a/0002.jpg", "c/0003.png"],
        object_uri=[None, None, None, "s3://lake/c/0003.png"],
    )
    ids = [frame.frame_id for frame in frames.by_rows(fleet.platform.database, range(4))]
    found = [Sighting(frame_id=ids[2], site="x", uri="file:///data/a%20b/other.jpg", seen_at=_now())]
    sightings.add(fleet.platform.database, found)
    return fleet


def test_frames_are_found_by_whatever_names_them(named: Any, tmp_path: Path) -> None:
    first = frames.by_rows(named.platform.database, [0])[0]
    records: list[dict[str, Any]] = [
        {"frame_id": first.frame_id},
        {"digest": f"sha256:{first.digest.upper()}"},
        {"file": "a/0001.jpg"},
        {"uri": "file:///data/a%20b/other.jpg"},
        {"file_name": "other.jpg"},
        {"source-ref": "s3://lake/c/0003.png"},
        {"path": ".\\c\\0003.png"},
        {"file": "0003.*"},
    ]
    assert _matched(named, records).rows == {0: ["0", "1", "2"], 2: ["3", "4"], 3: ["5", "6", "7"]}


def test_unknown_and_ambiguous_names_are_told_apart(named: Any) -> None:
    missing = "0" * 32
    found = _matched(
        named, [{"file": "0001.jpg"}, {"file": "nowhere.jpg"}, {"frame_id": missing}, {"file": "0001.jpg"}]
    )
    unknown, ambiguous = found.unknown, found.ambiguous
    assert found.rows == {}
    assert (unknown.count, set(unknown.examples)) == (2, {"nowhere.jpg", missing})
    assert (ambiguous.count, ambiguous.examples) == (1, ("0001.jpg",))


def test_an_image_at_hand_is_joined_by_its_content(named: Any, tmp_path: Path) -> None:
    (tmp_path / "renamed.jpg").write_bytes(b"frame 1")  # The bytes whose digest the fixture gives to row 1.
    assert hashlib.sha256(b"frame 1").hexdigest() == frames.by_rows(named.platform.database, [1])[0].digest
    assert _matched(named, [{"file": "renamed.jpg"}], images=tmp_path).rows == {1: ["0"]}


@pytest.mark.parametrize("record", [{}, {"frame_id": "xyz"}, {"digest": "ab"}, {"file": 7}, {"frame_id": ""}])
def test_records_without_a_frame_are_refused(record: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        joining.reference_of(record)


def _write(path: Path, records: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(records), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_numbers_become_a_column(named: Any, tmp_path: Path, suffix: str) -> None:
    ids = [frame.frame_id for frame in frames.by_rows(named.platform.database, range(4))]
    columns = Columns(named.platform.database)
    columns.refresh()
    records = [{"frame_id": ids[i], "risk": [0.5, 2.0, None, 7.0][i], "stops": i} for i in range(4)]
    path = _write(tmp_path / f"numbers{suffix}", records)
    report = user_columns.import_columns(named.platform, path, clock=_now)
    assert (report.columns, report.changed, report.unchanged, report.broken) == (["risk", "stops"], 4, 0, 0)
    columns.refresh()
    assert columns.matching("risk:>1").tolist() == [1, 3]
    assert columns.numbers("stops").tolist() == [0, 1, 2, 3]
    again = user_columns.import_columns(named.platform, path, clock=_now)
    assert (again.changed, again.unchanged) == (0, 4)
    assert again.summary() == "set risk, stops of 0 frames, 4 had the same already"


def test_bad_lines_of_numbers_are_told_and_the_rest_is_taken(named: Any, tmp_path: Path) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text(
        "file,risk\na/0002.jpg,0.5\nb/0001.jpg,high\nb/0001.jpg\nnowhere.jpg,1\n0001.jpg,1\nb/0001.jpg,inf\n"
    )
    report = user_columns.import_columns(named.platform, path, clock=_now)
    assert (report.changed, report.unknown.count, report.ambiguous.count, report.broken) == (1, 1, 1, 3)
    assert report.broken_examples[0] == "line 3: 'high' in column 'risk' is not a number"
    assert "nowhere.jpg" in report.summary()


@pytest.mark.parametrize("name", ["width", "site", "latitude", "a.b", "a b", "-x", "entropy"])
def test_names_that_mean_something_else_are_refused(named: Any, tmp_path: Path, name: str) -> None:
    path = _write(tmp_path / "numbers.csv", [{"file": "0003.png", name: 1}])
    with pytest.raises(InvalidInput, match="cannot be named"):
        user_columns.import_columns(named.platform, path, clock=_now, reserved=("entropy",))


def test_files_that_cannot_be_read_are_named(named: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none\.csv"):
        user_columns.import_columns(named.platform, tmp_path / "none.csv", clock=_now)
    for name, content, said in (
        ("numbers.parquet", b"nonsense", "not Parquet"),
        ("numbers.csv", b"\xff\xfe\x00", "UTF-8"),
        ("numbers.csv", b"a,a\n1,2\n", "twice"),
        ("numbers.txt", b"", "none of"),
        ("numbers.jsonl", b"", "it is empty"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidInput, match=said):
            user_columns.import_columns(named.platform, tmp_path / name, clock=_now)


def test_bad_json_lines_keep_their_number(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\nnot json\n[1]\n{"b": \xff}\n' + b"[" * 100_000 + b'\n{"c": 2}\n')
    lines = list(tabular.read(path))
    assert [line.number for line in lines if line.record is not None] == [1, 7]
    assert [line.number for line in lines if line.problem] == [3, 4, 5, 6]


def test_a_walk_over_many_frames_in_several_blocks(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_WALKED", 7)
    monkeypatch.setattr(joining, "_BUFFERED", 5)
    fleet.add(40)
    found = _matched(fleet, [{"file": f"{row:06d}.jpg"} for row in reversed(range(40))])
    assert found.rows == {row: [str(39 - row)] for row in range(40)}
