"""Previews and statistics of frames that were registered in place: the difference between rows registered and rows seen."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from infra import leases
from infra.errors import Denied, InvalidInput, NotFound
from infra.logs import get_logger
from infra.platform import Platform
from selection.fleet import frames, originals
from selection.fleet.frames import Frame
from selection.ingest import rejects
from selection.ingest.rejects import Reject
from selection.pixels import images, statistics

_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a call did.

    Attributes:
        frames: Frames that have preview and statistics now.
        broken: Frames whose original is gone, is not what was announced, or cannot be decoded; they are in the rejects list.
    """

    frames: int
    broken: int


def see_missing(platform: Platform, *, progress: Callable[[int, int], None] | None = None) -> Seen:
    """Reads the originals of all rows that nobody has seen yet, range by range, and adds what they say to the records.

    Ranges that another process is at are left to it. A killed call loses at most the range it was at.

    Raises:
        BackendUnavailable: A bucket does not answer; what is missing stays missing for the next call.
    """
    db = platform.database
    ranges = frames.unseen_ranges(db)
    total = sum(stop - start for start, stop in ranges)
    done = good = bad = 0
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="see") as pool:
        for start, stop in ranges:
            with leases.try_hold(db, f"see/{start}") as lease:
                if lease is not None and (start, stop) in frames.unseen_ranges(db):
                    pending = [
                        frame
                        for frame in frames.by_rows(db, range(start, stop))
                        if frame.object_uri is not None and frame.perceptual_hash is None
                    ]
                    now = frames.to_the_millisecond(datetime.now(UTC))
                    outcomes = list(zip(pending, pool.map(lambda one: _see(platform, one), pending), strict=True))
                    seen = {frame.frame_id: found for frame, found in outcomes if isinstance(found, dict)}
                    refused = [found for _, found in outcomes if isinstance(found, Reject)]
                    resolved = [frame.object_uri or "" for frame, found in outcomes if isinstance(found, dict)]
                    rejects.keep_rejects(db, refused, resolved=resolved, now=now)
                    lease.check()
                    frames.note_seen(db, seen, start=start, now=now)
                    good, bad = good + len(seen), bad + len(refused)
            done += stop - start
            if progress is not None:
                progress(done, total)
    if good or bad:
        _log.info("frames_seen", frames=good, broken=bad)
    return Seen(frames=good, broken=bad)


def _see(platform: Platform, frame: Frame) -> dict[str, Any] | Reject:
    """Makes the preview and returns what the record lacks."""
    uri = frame.object_uri or ""
    try:
        data = originals.read(platform.objects, object_key=frame.object_key, object_uri=uri)
        originals.check_digest(data, expected=frame.digest, uri=uri)
        image = images.open_image(data, max_pixels=platform.settings.max_image_pixels)
        small = images.shrink(image.pixels)
        preview = images.encode_preview(small)
    except (NotFound, Denied, InvalidInput) as exc:
        return rejects.refused(uri, exc)
    platform.objects.put(frame.preview_key, preview)
    return {
        **statistics.measure(small).as_fields(),
        "width": image.width,
        "height": image.height,
        "format": image.format,
        "size_bytes": len(data),
    }
