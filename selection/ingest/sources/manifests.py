"""Manifests: JSON Lines, CSV or Parquet that name images by URI, each with what is known about it.

    {"uri": "s3://lake/site/0001.jpg", "digest": "<sha256>", "width": 1920, "height": 1080, "drive": "d17", "speed_kph": 42}

`uri` (or `source-ref`, or `file`) is a path, absolute or relative to the manifest, `file://...` or `s3://...`. All else may be missing;
beside `digest` (or `sha256`), `width`, `height`, `format` and `size_bytes` the keys are those of `selection.fleet.metadata`, and `lat` and
`lon` beside one another are a location.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from infra.errors import InvalidInput
from infra.lake import local_path, s3_parts
from selection.fleet import metadata
from selection.fleet.metadata import METADATA_NAME, FrameMetadata
from selection.ingest.rejects import Reject
from selection.ingest.sources.meter import Meter
from selection.ingest.tracks.reading import TRACK_NAMES

SUFFIXES = (".jsonl", ".csv", ".parquet")

_URI_KEYS = ("uri", "source-ref", "file")
_OWN_KEYS = frozenset({*_URI_KEYS, "digest", "sha256", "width", "height", "format", "size_bytes"})
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})(\.\d+)?([eE][+-]?\d{1,3})?")
_PARQUET_ROWS = 10_000
_LONGEST_SIDE = 1_000_000
_UNREADABLE = object()
_SCALARS = (str, int, float)  # As a tuple: a union would be made anew for every value.


@dataclass(frozen=True, kw_only=True)
class ManifestEntry:
    """One line.

    Attributes:
        uri: `file://` or `s3://`.
        name: As the manifest writes it.
        digest: SHA-256 in hex, if the manifest says so.
        width: Pixels; 0 where the manifest is silent.
        height: Likewise.
        format: As the decoder names it; empty where the manifest is silent.
        size_bytes: 0 where the manifest is silent.
    """

    uri: str
    name: str
    digest: str | None
    width: int
    height: int
    format: str
    size_bytes: int
    said: FrameMetadata


def is_manifest(source: str) -> bool:
    """Whether a source that was named is a manifest; a `metadata.jsonl` means the dataset it lies in, and a
    `track.csv` describes the images beside it.
    """
    path = Path(source).expanduser()
    return path.suffix.lower() in SUFFIXES and path.name not in (METADATA_NAME, *TRACK_NAMES) and path.is_file()


def read(manifest: Path, *, meter: Meter | None = None) -> Iterator[ManifestEntry | Reject]:
    """Streams the entries, in order; a bad line is a reject that names its number, and the rest goes on.

    Raises:
        InvalidInput: The file cannot be read as what its name says.
    """
    home = f"{Path(os.path.abspath(manifest)).parent.as_uri()}/"  # Links in it are part of what was named.
    folder = os.path.dirname(os.path.abspath(manifest))
    for number, entry in _entries(manifest, meter or Meter(unit="byte")):
        if isinstance(entry, Reject):
            yield entry
            continue
        try:
            yield _read_entry(entry, home=home, folder=folder)
        except InvalidInput as exc:
            yield _bad_line(manifest, number, exc.message)


def _entries(manifest: Path, meter: Meter) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
    try:
        meter.size = manifest.stat().st_size
        match manifest.suffix.lower():
            case ".parquet":
                yield from _parquet(manifest, meter)
            case ".csv":
                yield from _csv(manifest, meter)
            case _:
                yield from _json_lines(manifest, meter)
    except (OSError, UnicodeError, csv.Error) as exc:
        raise InvalidInput(f"cannot read the manifest {manifest}: {exc}") from exc


def _json_lines(manifest: Path, meter: Meter) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
    with manifest.open("rb") as file:
        for number, line in enumerate(file, start=1):
            meter.position += len(line)
            if not line.strip():
                continue
            try:
                found = metadata.parse_object(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
                yield number, _with_location(found)
            except InvalidInput as exc:
                yield number, _bad_line(manifest, number, exc.message)


def _csv(manifest: Path, meter: Meter) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
    # One line in another encoding must not end the rest; what it names will be found missing.
    with manifest.open("rb") as packed, TextIOWrapper(packed, "utf-8-sig", errors="replace") as file:
        header = next(csv.reader([file.readline()], strict=True), [])
        if not set(header) & set(_URI_KEYS):
            raise InvalidInput(f"the manifest {manifest} has no column `uri`; its first line must name the columns")
        # Each line by itself: a quote that is not closed would take all that follows for one cell.
        for number, line in enumerate(file, start=2):
            meter.position = packed.tell()
            try:
                cells = next(csv.reader([line], strict=True))
            except csv.Error as exc:
                yield number, _bad_line(manifest, number, f"{exc}; each image needs a line of its own")
                continue
            if not cells:
                continue
            if len(cells) != len(header):
                yield number, _bad_line(manifest, number, f"{len(cells)} values for {len(header)} columns")
                continue
            found = {key: _typed(key, cell) for key, cell in zip(header, cells, strict=True) if cell != ""}
            yield number, _with_location(found)


def _parquet(manifest: Path, meter: Meter) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(manifest) as file:
            meter.unit, meter.size = "row", file.metadata.num_rows
            number = 0
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                names = batch.schema.names
                for values in zip(*(_values(column) for column in batch.columns), strict=True):
                    number += 1
                    meter.position = number
                    if _UNREADABLE in values:
                        key = names[values.index(_UNREADABLE)]
                        yield number, _bad_line(manifest, number, f"the value of `{key}` is none that can be read")
                        continue
                    found = {key: value for key, value in zip(names, values, strict=True) if value is not None}
                    yield number, _with_location(found)
    except pa.ArrowException as exc:
        raise InvalidInput(f"the manifest {manifest} is not Parquet that can be read: {exc}") from exc


def _read_entry(entry: Mapping[str, Any], *, home: str, folder: str) -> ManifestEntry:
    written = next((entry[key] for key in _URI_KEYS if entry.get(key)), None)
    written = metadata.file_name(written, key="uri")
    digest = entry.get("digest") or entry.get("sha256")
    if digest is not None:
        digest = str(digest).lower().removeprefix("sha256:")
        if not _DIGEST.fullmatch(digest):
            raise InvalidInput("`digest` is not a SHA-256 of 64 hex digits")
    described = {key: value for key, value in entry.items() if key not in _OWN_KEYS}
    described["file"] = written
    return ManifestEntry(
        uri=_uri(written, home=home, folder=folder),
        name=metadata.valid_text(written),
        digest=digest,
        width=_count(entry, "width", largest=_LONGEST_SIDE),
        height=_count(entry, "height", largest=_LONGEST_SIDE),
        format=str(entry.get("format") or "").upper()[:20],
        size_bytes=_count(entry, "size_bytes", largest=2**50),
        said=metadata.read_entry(described),
    )


def _uri(written: str, *, home: str, folder: str) -> str:
    if written.startswith("s3://"):
        s3_parts(written)
        return _valid_uri(written)
    if written.startswith("file://"):
        if "\0" in str(local_path(written)):
            raise InvalidInput("`uri` holds a NUL character")
        return _valid_uri(written)
    if "://" in written:
        raise InvalidInput(f"`uri` {written[:80]!r} is neither a path, file:// nor s3://")
    if written.isascii() and re.fullmatch(r"[A-Za-z0-9_/.-]+", written) and ".." not in written:
        return f"file://{written}" if written.startswith("/") else home + written.removeprefix("./")
    return Path(os.path.normpath(os.path.join(folder, written))).as_uri()


def _valid_uri(written: str) -> str:
    if metadata.valid_text(written) != written:
        raise InvalidInput("`uri` is not UTF-8")
    return written


def _count(entry: Mapping[str, Any], key: str, *, largest: int) -> int:
    value = metadata.whole(entry.get(key))
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= largest:
        raise InvalidInput(f"`{key}` is not a whole number above 0")
    return value


def _typed(key: str, cell: str) -> Any:
    """A CSV cell as number or truth value where it is written as one; names stay text."""
    if key in ("site", "vehicle", "drive", "sequence", "camera", "captured_at", "digest", "sha256", *_URI_KEYS):
        return cell
    if found := _NUMBER.fullmatch(cell):
        return float(cell) if found[2] or found[3] else int(cell)
    return {"true": True, "false": False}.get(cell.lower(), cell)


def _values(column: Any) -> list[Any]:
    """The values of a Parquet column as JSON would hold them; None where there is none."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":  # Python's own times end at microseconds.
        column = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False)
    try:
        found: list[Any] = column.to_pylist()
    except (OverflowError, ValueError):  # Times beyond the year 9999, text that is not UTF-8.
        found = [_scalar(one) for one in column]
    if pa.types.is_string(column.type) or pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        return found  # Most columns; asking value by value would take a fifth of the time of reading a manifest.
    return [None if _absent(value) else _plain(value) for value in found]


def _scalar(value: Any) -> Any:
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        return _UNREADABLE


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)  # Some writers say "nothing" as NaN.


def _plain(value: Any) -> Any:
    """A Parquet value as JSON would hold it."""
    if value is None or value is _UNREADABLE or isinstance(value, _SCALARS):
        return value
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else str(value)


def _with_location(found: dict[str, Any]) -> dict[str, Any]:
    """Columns have no objects: `lat` and `lon` beside one another are a location."""
    if found.get("location") is None and found.get("lat") is not None and found.get("lon") is not None:
        found["location"] = [found.pop("lat"), found.pop("lon")]
    return found


def _bad_line(manifest: Path, number: int, reason: str) -> Reject:
    return Reject(source=f"{manifest}:{number}", reason=f"bad manifest line {number}: {reason}")
