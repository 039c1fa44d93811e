"""Joins tracks to frames by time: place, speed and yaw rate at the moment of each.

What a frame says of itself stays; a track fills what is missing, and what an earlier track has filled. Of several tracks the first that knows
a quantity gives it. The attribute `joined_track` keeps which file filled what.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from infra.database import Db
from infra.errors import InvalidInput
from selection.fleet import frames
from selection.fleet.frames import FrameFacts, FrameId
from selection.ingest.tracks import reading
from selection.ingest.tracks.reading import Key, Problems, SpeedUnit
from selection.ingest.tracks.track import LOCATION, Track

TOLERANCE_S = 1.0

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOTE = "joined_track"
_KEPT_POINTS = 4_000_000
"""Of tracks beside images, at about 45 bytes each; those of the folder that was asked for last stay longest."""
_LEAST_POINTS = 1000
_FAILED_TOLD = 5


@dataclass(frozen=True, kw_only=True)
class TrackOptions:
    """Which tracks to join, and how.

    Attributes:
        files: CSV or Parquet, for all frames of this ingest; those beside the images are found by themselves.
        tolerance_s: Frames further than this from every point of their track get nothing of it.
        speed_unit: Of speeds whose column does not say.
    """

    files: tuple[Path, ...] = ()
    tolerance_s: float = TOLERANCE_S
    speed_unit: SpeedUnit = "mps"


@dataclass(frozen=True, kw_only=True)
class TrackOutcome:
    """What became of the tracks.

    Attributes:
        joined: Files whose frame lies on a track.
        without_time: Those that do not say when they were taken.
        without_track: Those whose drive and vehicle no track names.
        too_far: Those taken further than the tolerance from every point of their track.
        notes: What was odd about the tracks themselves.
    """

    joined: int
    without_time: int
    without_track: int
    too_far: int
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people."""
        counts = [
            (self.without_time, "without a time"),
            (self.without_track, "of drives without a track"),
            (self.too_far, "too far from every point"),
        ]
        rest = "".join(f", {count} {what}" for count, what in counts if count)
        return [f"tracks: {self.joined} frames joined{rest}", *self.notes]


class Joiner:
    """The tracks of one ingest. Safe to share between threads."""

    def __init__(self, options: TrackOptions) -> None:
        """Reads the tracks that were named.

        Raises:
            InvalidInput: One is not there or not a track, or the tolerance is negative.
        """
        if not 0 <= options.tolerance_s < 1e6:
            raise InvalidInput(f"--track-tolerance {options.tolerance_s} must be 0 or more seconds")
        self._speed_unit: SpeedUnit = options.speed_unit
        self._tolerance_us = round(options.tolerance_s * 1e6)
        self._lock = threading.Lock()
        self._problems = Problems()
        self._failed: list[str] = []
        self._counts = {"joined": 0, "without_time": 0, "without_track": 0, "too_far": 0}
        self._beside: OrderedDict[str, dict[Key, Track]] = OrderedDict()
        self._beside_points = 0
        self._were_read: set[str] = set()
        self._used = bool(options.files)
        self._given = [
            reading.read(path.expanduser(), speed_unit=options.speed_unit, problems=self._problems)
            for path in options.files
        ]

    @property
    def active(self) -> bool:
        """Whether there are tracks for frames that have none beside them."""
        return bool(self._given)

    def fill(self, facts: FrameFacts, *, beside: str | None = None) -> FrameFacts:
        """A new frame's facts with what the tracks add.

        Args:
            beside: The track file beside it, if any.
        """
        if not self._given and beside is None:
            return facts
        found = self._added(facts.__dict__, beside=beside)
        if not found:
            return facts
        location = found.pop(LOCATION, facts.location)
        return replace(facts, location=location, attributes={**facts.attributes, **found})

    def update(
        self,
        db: Db,
        beside: Mapping[FrameId, str | None],
        *,
        known: Mapping[FrameId, Mapping[str, Any]],
        now: datetime,
        is_counted: bool = False,
    ) -> None:
        """Adds to the records of frames of earlier ingests what the tracks know of them.

        Args:
            beside: The frames, each with the track file beside it.
            known: Their descriptive parts.
            is_counted: Whether their files were counted by `fill` already.
        """
        changes: dict[FrameId, dict[str, Any]] = {}
        for frame_id, path in beside.items():
            if self._given or path is not None:
                found = self._added(known[frame_id], beside=path, is_counted=is_counted)
                changed = _changed(found, known[frame_id])
                if changed:
                    changes[frame_id] = changed
        frames.describe(db, changes, now=now)

    def outcome(self) -> TrackOutcome | None:
        """What became of the tracks; None where there were none."""
        if not self._used:
            return None
        failed = reading.shortened(self._failed, most=_FAILED_TOLD, what="tracks that cannot be used")
        return TrackOutcome(**self._counts, notes=(*failed, *self._problems.lines()))

    def _added(self, known: Mapping[str, Any], *, beside: str | None, is_counted: bool = False) -> dict[str, Any]:
        """What the tracks know of a frame and it does not say itself, with the note of where that is from."""
        with self._lock:
            self._used = True
            candidates = list(self._candidates(known, beside))
            step = 0 if is_counted else 1
            if known["captured_at"] is None or not candidates:
                self._counts["without_track" if not candidates else "without_time"] += step
                return {}
            time_us = (known["captured_at"] - _EPOCH) // timedelta(microseconds=1)
            found: dict[str, Any] = {}
            sources: dict[str, str] = {}
            for one in candidates:
                for key, value in one.at(time_us, tolerance_us=self._tolerance_us).items():
                    if key not in found:
                        found[key], sources[key] = value, one.source
            self._counts["joined" if found else "too_far"] += step
        attributes = known["attributes"] or {}
        filled = _filled(attributes.get(_NOTE))
        said = {*attributes, *((LOCATION,) if known["location"] else ())} - set(filled)
        new = {key: value for key, value in found.items() if key not in said}
        if new:
            new[_NOTE] = _note({**filled, **{key: sources[key] for key in new}})
        return new

    def _candidates(self, known: Mapping[str, Any], beside: str | None) -> Iterator[Track]:
        keys: tuple[Key, ...] = (
            ("drive", reading.name_of(known["drive"] or "")),
            ("vehicle", reading.name_of(known["vehicle"] or "")),
            ("any", ""),
        )
        for tracks in [*self._given, *([self._read_beside(beside)] if beside else [])]:
            yield from (tracks[key] for key in keys if key in tracks)

    def _read_beside(self, path: str) -> dict[Key, Track]:
        """A track that lies beside images; one that cannot be used is named, and the images go on without."""
        if path in self._beside:
            self._beside.move_to_end(path)
            return self._beside[path]
        is_new = path not in self._were_read
        self._were_read.add(path)
        problems = self._problems if is_new else Problems()
        found: dict[Key, Track] = {}
        try:
            found = reading.read(Path(path), speed_unit=self._speed_unit, problems=problems)
        except InvalidInput as exc:
            if is_new:
                self._failed.append(exc.message)
        self._beside[path] = found
        self._beside_points += _size(found)
        while self._beside_points > _KEPT_POINTS and len(self._beside) > 1:
            self._beside_points -= _size(self._beside.popitem(last=False)[1])
        return found


def _size(tracks: Mapping[Key, Track]) -> int:
    """Points of a file's tracks; small files count as if they had more, as each takes some room of its own."""
    return max(
        _LEAST_POINTS,
        sum(max(len(one.times_us) for one in track.series.values()) for track in tracks.values() if track.series),
    )


def _filled(note: Any) -> dict[str, str]:
    """The quantities that tracks filled, each with its file, of the note on that."""
    if not isinstance(note, Mapping):
        return {}
    sources = note.get("sources")
    by_key = sources if isinstance(sources, Mapping) else {}
    return {key: str(by_key.get(key, note.get("source", ""))) for key in note.get("keys", ())}


def _note(filled: Mapping[str, str]) -> dict[str, Any]:
    """The note on which file filled what: `source` where it is one, `sources` by quantity where they are several."""
    keys, sources = sorted(filled), set(filled.values())
    if len(sources) == 1:
        return {"source": sources.pop(), "keys": keys}
    return {"sources": {key: filled[key] for key in keys}, "keys": keys}


def _changed(found: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values found that differ from the record, under their names in it."""
    changed = {}
    for key, value in found.items():
        if key == LOCATION:
            if list(value) != known["location"]:
                changed[key] = list(value)
        elif (known["attributes"] or {}).get(key) != value:
            changed[f"attributes.{key}"] = value
    return changed
