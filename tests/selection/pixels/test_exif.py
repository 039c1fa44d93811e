"""What cameras write into their images, and what they write when they know nothing."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from selection.pixels import images


def _open(taken: dict[int, object], gps: dict[int, object]) -> images.DecodedImage:
    exif = Image.Exif()
    exif.get_ifd(0x8769).update(taken)
    exif.get_ifd(0x8825).update(gps)
    file = io.BytesIO()
    Image.new("RGB", (16, 8)).save(file, format="JPEG", exif=exif)
    return images.open_image(file.getvalue(), max_pixels=1000)


def _dms(degrees: int, minutes: int, seconds: float) -> tuple[IFDRational, ...]:
    return (IFDRational(degrees), IFDRational(minutes), IFDRational(int(seconds * 1000), 1000))


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ({0x9003: "2026:03:01 07:30:00"}, datetime(2026, 3, 1, 7, 30, tzinfo=UTC)),
        ({0x9003: "2026:03:01 07:30:00", 0x9011: "+09:00"}, datetime(2026, 2, 28, 22, 30, tzinfo=UTC)),
        ({0x9003: "2026:03:01 07:30:00", 0x9011: "   :  "}, datetime(2026, 3, 1, 7, 30, tzinfo=UTC)),
        ({0x9003: "2026:03:01 07:30:00", 0x9291: "5"}, datetime(2026, 3, 1, 7, 30, 0, 500_000, tzinfo=UTC)),
        ({0x9003: "0000:00:00 00:00:00"}, None),
        ({0x9003: "1970:01:01 00:00:00"}, None),
        ({0x9003: "yesterday"}, None),
        ({}, None),
    ],
)
def test_the_time_of_capture(taken: dict[int, object], expected: datetime | None) -> None:
    assert _open(taken, {}).captured_at == expected


@pytest.mark.parametrize(
    ("offset", "date", "time", "expected"),
    [
        (None, "2026:03:01", (7, 30, 0), datetime(2026, 3, 1, 7, 30, 0, 250_000, tzinfo=UTC)),
        ("   :  ", "2026:03:01\0", (7, 30, 1), datetime(2026, 3, 1, 7, 30, 0, 250_000, tzinfo=UTC)),
        (None, "2026:03:01", (7, 41, 5.5), datetime(2026, 3, 1, 7, 41, 5, 500_000, tzinfo=UTC)),
        (None, "2026:02:28", (21, 0, 0), datetime(2026, 2, 28, 21, 0, 0, 250_000, tzinfo=UTC)),
        ("+02:00", "2026:03:01", (7, 30, 0), datetime(2026, 3, 1, 14, 30, 0, 250_000, tzinfo=UTC)),
        (None, "1980:01:06", (0, 0, 0), datetime(2026, 3, 1, 16, 30, 0, 250_000, tzinfo=UTC)),
        (None, "", (7, 30, 0), datetime(2026, 3, 1, 16, 30, 0, 250_000, tzinfo=UTC)),
    ],
)
def test_a_clock_of_unknown_zone_is_set_by_gps(
    offset: str | None, date: str, time: tuple[int, int, float], expected: datetime
) -> None:
    taken: dict[int, object] = {0x9003: "2026:03:01 16:30:00", 0x9291: "25"} | ({0x9011: offset} if offset else {})
    assert _open(taken, {7: _dms(*time), 29: date}).captured_at == expected


def test_the_place_of_capture() -> None:
    south_west = {1: "S", 2: _dms(33, 30, 36), 3: "W", 4: _dms(70, 15, 0)}
    assert _open({}, south_west).location == pytest.approx((-33.51, -70.25))
    lower_case = _open({}, south_west | {1: "s", 3: "w"})
    assert lower_case.location == pytest.approx((-33.51, -70.25))
    assert _open({}, {1: "N", 2: _dms(0, 0, 0), 3: "E", 4: _dms(0, 0, 0)}).location is None
    assert _open({}, {1: "N", 2: _dms(120, 0, 0), 3: "E", 4: _dms(1, 0, 0)}).location is None
    assert _open({}, {}).location is None
