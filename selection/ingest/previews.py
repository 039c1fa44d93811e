"""Previews and statistics of frames that were registered in place: the difference between rows registered and rows seen."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from infra import leases
from infra.errors import BackendUnavailable, InvalidInput, MlplError
from infra.logs import get_logger
from infra.platform import Platform
from selection.fleet import frames, originals, unseen
from selection.fleet.frames import Frame, FrameId
from selection.fleet.originals import Patience
from selection.ingest import rejects
from selection.ingest.rejects import Reject
from selection.pixels import images, statistics

_PROBED = 8
_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a call did.

    Attributes:
        frames: Frames that have preview and statistics now.
        broken: Frames whose original is not what was announced or cannot be decoded; they are in the rejects list.
        waiting: Frames whose original is not there or cannot be read now; they are in that list too, and the next call takes them.
    """

    frames: int
    broken: int
    waiting: int


@dataclass(frozen=True, kw_only=True)
class _Refused:
    """A frame that could not be seen; `may_come` when that may change by itself."""

    frame: Frame
    reject: Reject
    may_come: bool


def see_missing(
    platform: Platform,
    *,
    progress: Callable[[int, int], None] | None = None,
    tried_before: datetime | None = None,
) -> Seen:
    """Reads the originals of all rows that nobody has seen yet, range by range, and adds what they say to the records.

    Ranges that another process is at are left to it. A killed call loses at most the range it was at. Of originals that cannot be read,
    the rows stay, and only those: a lake may be away for an hour.

    Args:
        platform: Where the frames are.
        progress: Called with rows done and rows to do.
        tried_before: Leave out rows whose originals could not be read after this moment; for whoever calls again and again.

    Raises:
        BackendUnavailable: A bucket does not answer; it is told when all else was seen, and what is missing stays so for the next call.
    """
    db = platform.database
    ranges = unseen.ranges(db, tried_before=tried_before)
    total = sum(len(one.wanted) for one in ranges)
    done, seen = 0, Seen(frames=0, broken=0, waiting=0)
    patience = Patience()
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="see") as pool:
        for one in ranges:
            with leases.try_hold(db, f"see/{one.start}") as lease:
                if lease is not None:
                    found = _see_range(platform, one.start, pool=pool, patience=patience, lease=lease)
                    seen = Seen(
                        frames=seen.frames + found.frames,
                        broken=seen.broken + found.broken,
                        waiting=seen.waiting + found.waiting,
                    )
            done += len(one.wanted)
            if progress is not None:
                progress(done, total)
    if seen.frames or seen.broken:
        _log.info("frames_seen", frames=seen.frames, broken=seen.broken)
    if seen.waiting:
        _log.warning("originals_missing", frames=seen.waiting, what_next="they are looked for again next time")
    patience.check()
    return seen


def _see_range(
    platform: Platform, start: int, *, pool: ThreadPoolExecutor, patience: Patience, lease: leases.Lease
) -> Seen:
    """What is left of the range that begins at a row, now that it is ours."""
    db = platform.database
    left = unseen.beginning_at(db, start)
    if left is None:
        return Seen(frames=0, broken=0, waiting=0)
    pending = [
        frame
        for frame in frames.by_rows(db, left.wanted)
        if frame.object_uri is not None and frame.perceptual_hash is None
    ]
    if left.rows is not None and len(pending) > _PROBED:
        # A lake that is away for days is not asked for each file every time.
        probes = list(pool.map(partial(_see, platform, patience=patience), random.sample(pending, _PROBED)))
        if all(isinstance(one, _Refused) and one.may_come for one in probes):
            unseen.strike(db, left, waiting=left.rows, now=frames.to_the_millisecond(datetime.now(UTC)))
            return Seen(frames=0, broken=0, waiting=len(pending))
    outcomes = list(pool.map(partial(_see, platform, patience=patience), pending))
    # After all is read: whoever follows changes by their time would not look so far back.
    now = frames.to_the_millisecond(datetime.now(UTC))
    seen: dict[FrameId, dict[str, Any]] = {}
    refused: list[_Refused] = []
    for frame, outcome in zip(pending, outcomes, strict=True):
        if isinstance(outcome, _Refused):
            refused.append(outcome)
        else:
            seen[frame.frame_id] = outcome
    resolved = [frame.object_uri or "" for frame in pending if frame.frame_id in seen]
    rejects.keep_rejects(db, [one.reject for one in refused], resolved=resolved, now=now)
    lease.check()
    waiting = [one.frame.row for one in refused if one.may_come]
    frames.note_pixels(db, seen, now=now)
    unseen.strike(db, left, waiting=waiting, now=now)
    return Seen(frames=len(seen), broken=len(refused) - len(waiting), waiting=len(waiting))


def _unanswered(uri: str) -> Reject:
    return Reject(source=uri, reason="nothing answers where it is")


def _see(platform: Platform, frame: Frame, *, patience: Patience) -> dict[str, Any] | _Refused:
    """Makes the preview and returns what the record lacks."""
    uri = frame.object_uri or ""
    if patience.is_away(uri):
        return _Refused(frame=frame, reject=_unanswered(uri), may_come=True)
    try:
        data = originals.read(platform.objects, object_key=frame.object_key, object_uri=uri)
    except BackendUnavailable as exc:
        patience.failed(uri, exc)
        return _Refused(frame=frame, reject=rejects.refused(uri, exc), may_come=True)
    except MlplError as exc:
        patience.answered(uri)
        return _Refused(frame=frame, reject=rejects.refused(uri, exc), may_come=not isinstance(exc, InvalidInput))
    except (OSError, ValueError) as exc:
        reject = Reject(source=uri, reason=f"cannot be read: {exc}")
        return _Refused(frame=frame, reject=reject, may_come=True)
    patience.answered(uri)
    try:
        originals.check_digest(data, expected=frame.digest, uri=uri)
        image = images.open_image(data, max_pixels=platform.settings.max_image_pixels)
        small = images.shrink(image.pixels)
        preview = images.encode_preview(small)
    except InvalidInput as exc:
        return _Refused(frame=frame, reject=rejects.refused(uri, exc), may_come=False)
    platform.objects.put(frame.preview_key, preview)
    found = {
        **statistics.measure(small).as_fields(),
        "width": image.width,
        "height": image.height,
        "format": image.format,
        "size_bytes": len(data),
    }
    # What the list said of time and place stays.
    if frame.captured_at is None and image.captured_at is not None:
        found["captured_at"] = image.captured_at
    if frame.location is None and image.location is not None:
        found["location"] = list(image.location)
    return found
