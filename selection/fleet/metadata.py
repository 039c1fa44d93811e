"""What a fleet says about its images: one JSON object a line, in a file named `metadata.jsonl` beside them.

    {"file": "images/0001.jpg", "captured_at": "2026-03-01T07:30:00Z", "drive": "d17", "camera": "front",
     "location": {"lat": 48.1, "lon": 11.6}, "attributes": {"weather": "rain"}}

`file` is relative to the metadata's folder. All else may be missing. `sequence` is another name for `drive`. Unknown keys become
attributes. Keys that hold answers (`LABEL_KEYS`) are dropped at every depth before anything is made of a line: ingest must not know them.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from infra.errors import InvalidInput
from selection.fleet import frames

METADATA_NAME = "metadata.jsonl"
LABEL_KEYS = frozenset({"classes", "objects", "mask", "class_fractions", "ignore_regions_xyxy_px"})

_TEXT_KEYS = ("site", "vehicle", "drive", "camera")
# Width and height are measured by ingest itself, so what the metadata says of them is not kept.
_KNOWN_KEYS = frozenset({*_TEXT_KEYS, "file", "sequence", "captured_at", "location", "attributes", "width", "height"})
_LONGEST_TEXT = 500
_LARGEST_ATTRIBUTES = 64 * 1024
_DEEPEST = 20
# As tuples: a union would be made anew for every value of a million lines.
_NUMBERS = (int, float)
_NESTED = (list, dict)
_LARGEST_INTEGER = 2**63 - 1
_ZERO_DATE = re.compile(r"\s*0000\D?00\D?00")


@dataclass(frozen=True, kw_only=True)
class FrameMetadata:
    """What is said about one file.

    Attributes:
        file: As written, relative to the metadata's folder; empty for a file nothing is said about.
        captured_at: UTC, aware; a time without an offset is taken as UTC.
        location: Latitude and longitude in degrees.
    """

    file: str = ""
    captured_at: datetime | None = None
    site: str | None = None
    vehicle: str | None = None
    drive: str | None = None
    camera: str | None = None
    location: tuple[float, float] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


def parse_line(line: str | bytes) -> FrameMetadata:
    """Reads one line.

    Raises:
        InvalidInput: What is wrong with it, without the line number.
    """
    return read_entry(parse_object(line))


def parse_object(line: str | bytes) -> dict[str, Any]:
    """One line of JSON as an object without answers.

    Raises:
        InvalidInput: It is none.
    """
    try:
        entry = _DECODER.decode(line.decode() if isinstance(line, bytes) else line)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"not JSON ({str(exc).partition(': line')[0]})") from exc
    if not isinstance(entry, dict):
        raise InvalidInput("not a JSON object")
    return entry


def read_entry(entry: Mapping[str, Any]) -> FrameMetadata:
    """What a line's object says about its file.

    Raises:
        InvalidInput: What is wrong with it.
    """
    file = file_name(entry.get("file"), key="file")
    attributes = entry.get("attributes") or {}
    if not isinstance(attributes, dict):
        raise InvalidInput("`attributes` is not an object")
    unknown = {key: value for key, value in entry.items() if key not in _KNOWN_KEYS}
    drive = entry["drive"] if entry.get("drive") is not None else entry.get("sequence")
    return FrameMetadata(
        file=file,
        captured_at=_moment(entry.get("captured_at")),
        site=_text("site", entry.get("site")),
        vehicle=_text("vehicle", entry.get("vehicle")),
        drive=_text("drive", drive),
        camera=_text("camera", entry.get("camera")),
        location=_location(entry.get("location")),
        attributes=_attributes(unknown | attributes),
    )


def file_name(value: Any, *, key: str) -> str:
    """A value that is the name of a file.

    Raises:
        InvalidInput: It is none, or holds what no file system can.
    """
    if not isinstance(value, str) or not value or "\0" in value:
        raise InvalidInput(f"`{key}` is missing")
    if not value.isascii():
        try:
            os.fsencode(value)
        except UnicodeEncodeError as exc:
            raise InvalidInput(f"`{key}` holds characters that no name can have") from exc
    return value


def parse_moment(text: str) -> datetime:
    """An ISO 8601 date or time as UTC, to the millisecond; without an offset it is taken as UTC.

    Raises:
        InvalidInput: It is neither.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
        if moment.tzinfo is not UTC:
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise InvalidInput(f"{text[:60]!r} is not a time in ISO 8601, such as 2026-03-01T07:30:00Z") from exc
    return frames.to_the_millisecond(moment)


def valid_text(text: str) -> str:
    """Replaces what cannot be written in UTF-8 by question marks."""
    # Lone surrogates are legal in JSON and in file names, not in UTF-8.
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def whole(value: Any) -> Any:
    """A float without a fraction as the integer it was: tables with gaps turn one into the other."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _moment(value: Any) -> datetime | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise InvalidInput("`captured_at` is not a text in ISO 8601, such as 2026-03-01T07:30:00Z")
    if _ZERO_DATE.match(value):
        return None
    try:
        moment = parse_moment(value)
    except InvalidInput as exc:
        raise InvalidInput(f"`captured_at`: {exc.message}") from exc
    return moment if moment.year > 1970 else None  # A clock that was never set begins there.


def _text(key: str, value: Any) -> str | None:
    if value is None or value == "":
        return None
    value = whole(value)
    if not isinstance(value, str) and (isinstance(value, bool) or not isinstance(value, int)):
        raise InvalidInput(f"`{key}` is not a text")
    text = valid_text(str(value))
    if len(text) > _LONGEST_TEXT:
        raise InvalidInput(f"`{key}` is longer than {_LONGEST_TEXT} characters")
    return text


def _location(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    if isinstance(value, dict):
        value = [value.get("lat", value.get("latitude")), value.get("lon", value.get("longitude", value.get("lng")))]
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(isinstance(one, _NUMBERS) and not isinstance(one, bool) and math.isfinite(one) for one in value)
        or not (-90 <= value[0] <= 90 and -180 <= value[1] <= 180)
    ):
        raise InvalidInput("`location` is neither [lat, lon] nor {lat, lon} in degrees")
    if value[0] == value[1] == 0:
        return None  # What receivers without a fix write.
    return float(value[0]), float(value[1])


def _attributes(found: dict[str, Any]) -> dict[str, Any]:
    if not found:
        return {}
    attributes: dict[str, Any] = _storable(found)
    # Dumping costs more than all the rest, so the usual few short values are not measured.
    small = len(attributes) <= 40 and all(
        len(v) < 300 if isinstance(v, str) else not isinstance(v, _NESTED) for v in attributes.values()
    )
    if not small and len(json.dumps(attributes)) > _LARGEST_ATTRIBUTES:
        raise InvalidInput(f"the attributes are larger than {_LARGEST_ATTRIBUTES // 1024} KiB")
    return attributes


def _storable(value: Any, depth: int = 0) -> Any:
    """Turns JSON into what every document database keeps, without answers: field names without dots or dollars, integers of 64 bits, valid text."""
    if isinstance(value, str):
        return valid_text(value)
    if depth > _DEEPEST:
        raise InvalidInput(f"the attributes are nested deeper than {_DEEPEST} levels")
    if isinstance(value, dict):
        return {_field_name(key): _storable(one, depth + 1) for key, one in value.items() if key not in LABEL_KEYS}
    if isinstance(value, list):
        return [_storable(one, depth + 1) for one in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST_INTEGER:
        return str(value)
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


@functools.lru_cache(maxsize=4096)
def _field_name(key: str) -> str:
    return re.sub(r"[.$\0:\s]+", "_", valid_text(key)).strip("_") or "_"
