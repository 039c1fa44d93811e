"""Files of records that others bring: JSON Lines, CSV and Parquet, streamed line by line; a bad line is told, and the rest goes on."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import InvalidInput

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".parquet")
_PARQUET_ROWS = 2000


@dataclass(frozen=True, kw_only=True)
class Line:
    """One record.

    Attributes:
        number: From 1; in a Parquet file the row.
        record: None where the line cannot be read.
        problem: Why not.
    """

    number: int
    record: dict[str, Any] | None = None
    problem: str = ""


def read(path: Path) -> Iterator[Line]:
    """Streams the records of a file, in order.

    Raises:
        InvalidInput: The file cannot be read as what its name says.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidInput(f"{path} is none of {', '.join(SUFFIXES)}; rename it after what it holds")
    try:
        yield from {".parquet": _parquet, ".csv": _csv}.get(suffix, _json_lines)(path)
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise InvalidInput(f"cannot read {path}: {reason}") from exc


def _json_lines(path: Path) -> Iterator[Line]:
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                record = json.loads(text.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as exc:
                yield Line(number=number, problem=f"not JSON ({str(exc).partition(': line')[0]})")
                continue
            if isinstance(record, dict):
                yield Line(number=number, record=record)
            else:
                yield Line(number=number, problem="not a JSON object")


def _csv(path: Path) -> Iterator[Line]:
    """Cells stay text; empty ones are left out."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            header = next(reader, [])
        except csv.Error as exc:
            raise InvalidInput(f"{path} is not CSV that can be read: {exc}") from exc
        if twice := [name for name in header if header.count(name) > 1]:
            raise InvalidInput(f"{path}: the column {twice[0]!r} is there twice")
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as exc:
                yield Line(number=reader.line_num, problem=str(exc))
                continue
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(header):
                yield Line(number=reader.line_num, problem=f"{len(cells)} values for {len(header)} columns")
                continue
            record = {key: cell for key, cell in zip(header, cells, strict=True) if cell != ""}
            yield Line(number=reader.line_num, record=record)


def _parquet(path: Path) -> Iterator[Line]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for record in batch.to_pylist():
                    number += 1
                    yield Line(number=number, record={k: value for k, value in record.items() if value is not None})
    except pa.ArrowException as exc:
        raise InvalidInput(f"{path} is not Parquet that can be read: {exc}") from exc
