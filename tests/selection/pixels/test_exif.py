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
        ({0x9003: "2026:03:01 07:30:00", 0x9291: "5"}, datetime(2026, 3, 1, 7, 30, 0, 500_000, tzinfo=UTC)),
        ({0x9003: "0000:00:00 00:00:00"}, None),
        ({0x9003: "1970:01:01 00:00:00"}, None),
        ({0x9003: "yesterday"}, None),
        ({}, None),
    ],
)
def test_the_time_of_capture(taken: dict[int, object], expected: datetime | None) -> None:
    assert _open(taken, {}).captured_at == expected


def test_the_place_of_capture() -> None:
    south_west = {1: "S", 2: _dms(33, 30, 36), 3: "W", 4: _dms(70, 15, 0)}
    assert _open({}, south_west).location == pytest.approx((-33.51, -70.25))
    assert _open({}, {1: "N", 2: _dms(0, 0, 0), 3: "E", 4: _dms(0, 0, 0)}).location is None
    assert _open({}, {1: "N", 2: _dms(120, 0, 0), 3: "E", 4: _dms(1, 0, 0)}).location is None
    assert _open({}, {}).location is None
