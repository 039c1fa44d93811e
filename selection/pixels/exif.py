"""Time and place that a camera wrote into its image. Source: Exif 2.32 (CIPA DC-008), sections 4.6.5 and 4.6.6."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from PIL import Image

_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_TIME_ORIGINAL, _OFFSET_ORIGINAL, _FRACTION_ORIGINAL = 0x9003, 0x9011, 0x9291
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE = 1, 2, 3, 4
_GPS_TIME, _GPS_DATE = 7, 29
_ZONES = timedelta(minutes=15)  # Offsets from UTC are multiples of it.
_AGREE = timedelta(seconds=2)


def captured_at(exif: Image.Exif) -> datetime | None:
    """When the picture was taken, UTC to the millisecond; without an offset it is as GPS says, or else the time is taken as UTC. None where
    there is no clock.
    """
    try:
        taken = exif.get_ifd(_EXIF_IFD)
        text = str(taken[_TIME_ORIGINAL]).strip(" \0")
        fraction = str(taken.get(_FRACTION_ORIGINAL, "")).strip(" \0")
        offset = str(taken.get(_OFFSET_ORIGINAL, "")).strip(" \0:")  # "   :  " is written for "unknown".
        milliseconds = f"{fraction:0<3}"[:3] if fraction.isdecimal() else "000"
        moment = datetime.strptime(f"{text}.{milliseconds} {offset or '+00:00'}", "%Y:%m:%d %H:%M:%S.%f %z")
        if moment.year <= 1970:
            return None  # A clock that was never set begins there.
        return moment.astimezone(UTC) if offset else _by_gps(exif, moment)
    except Exception:
        return None  # Broken or missing, it says nothing about the pixels.


def location(exif: Image.Exif) -> tuple[float, float] | None:
    """Latitude and longitude in degrees; None where there is none, also for 0, 0, which receivers without a fix write."""
    try:
        gps = exif.get_ifd(_GPS_IFD)
        latitude = _degrees(gps[_LATITUDE], negative=str(gps.get(_LATITUDE_REF, "N")).strip(" \0").upper() == "S")
        longitude = _degrees(gps[_LONGITUDE], negative=str(gps.get(_LONGITUDE_REF, "E")).strip(" \0").upper() == "W")
    except Exception:
        return None
    if not (math.isfinite(latitude) and math.isfinite(longitude) and abs(latitude) <= 90 and abs(longitude) <= 180):
        return None
    return None if latitude == longitude == 0.0 else (latitude, longitude)


def _by_gps(exif: Image.Exif, local: datetime) -> datetime:
    """A time of an unknown zone, by the time that the satellites said; as it is where they said none."""
    try:
        gps = exif.get_ifd(_GPS_IFD)
        day = datetime.strptime(str(gps[_GPS_DATE]).strip(" \0"), "%Y:%m:%d").replace(tzinfo=UTC)
        hours, minutes, seconds = (float(part) for part in gps[_GPS_TIME])
        said = day + timedelta(hours=hours, minutes=minutes, milliseconds=round(seconds * 1000))
    except Exception:
        return local
    if said.year <= 1980:
        return local  # A receiver that has never had a fix begins there.
    by_zone = local - round((local - said) / _ZONES) * _ZONES
    # Where the two agree but for the zone, the clock tells frames of the same second apart.
    return by_zone if abs(by_zone - said) <= _AGREE else said


def _degrees(parts: Any, *, negative: bool) -> float:
    degrees, minutes, seconds = (float(part) for part in parts)
    value = round(degrees + minutes / 60 + seconds / 3600, 7)
    return -value if negative else value
