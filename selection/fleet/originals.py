"""Where a frame's bytes are: in the object store, or, for one registered in place, where its fleet keeps it."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from infra.database import Db, retrying
from infra.errors import BackendUnavailable, InvalidInput, MlplError, NotFound
from infra.lake import local_path
from infra.objects import ObjectStore
from selection.fleet import frames, sightings, unseen
from selection.fleet.frames import FrameFacts, FrameId, Place
from selection.fleet.sightings import Sighting
from selection.pixels import images

UNANSWERED_IN_A_ROW = 16
"""As many files that cannot be read now, and none between them that can, are no longer a matter of these files."""

_SAMPLED = 8


class Patience:
    """Tells files that cannot be read now from a bucket or disk that does not answer at all. Safe to share between threads."""

    def __init__(self, *, limit: int | None = None) -> None:
        """Nothing went wrong yet."""
        self._limit = limit or UNANSWERED_IN_A_ROW
        self._in_a_row: Counter[str] = Counter()
        self._away: dict[str, BackendUnavailable] = {}
        self._lock = threading.Lock()

    def answered(self, uri: str) -> None:
        """A file was read, or it was said why it cannot be."""
        with self._lock:
            del self._in_a_row[_place(uri)]

    def failed(self, uri: str, exc: BackendUnavailable) -> None:
        """A file cannot be read now; so many in a row from one place mean the place."""
        with self._lock:
            place = _place(uri)
            self._in_a_row[place] += 1
            if self._in_a_row[place] >= self._limit:
                self._away.setdefault(place, exc)

    def is_away(self, uri: str) -> bool:
        """Whether the place of a file is one that does not answer: others need not wait for it to say so again."""
        return _place(uri) in self._away

    def check(self) -> None:
        """To be called when a place that is away shall end the work, or when all else is done.

        Raises:
            BackendUnavailable: What a place that does not answer said first beyond the limit.
        """
        if self._away:
            raise next(iter(self._away.values()))


def _place(uri: str) -> str:
    """The bucket, or this machine."""
    return "/".join(uri.split("/", 3)[:3]) if uri.startswith("s3://") else ""


def read(objects: ObjectStore, *, object_key: str, object_uri: str | None) -> bytes:
    """The original bytes.

    Raises:
        NotFound: They are gone.
        Denied, BackendUnavailable: They cannot be read, or not now.
        InvalidInput: What is there is no file, and never was.
    """
    if object_uri is None:
        return objects.get(object_key)
    try:
        return objects.get(object_key)  # A copy was made when the frame was pinned.
    except NotFound:
        return _in_lake(objects, object_uri)


def path(objects: ObjectStore, frame: FrameFacts) -> Path | None:
    """The file on this machine that holds the original, None where there is none."""
    found = objects.local_path(frame.object_key)
    if found is not None and found.is_file():
        return found
    found = local_path(frame.object_uri) if frame.object_uri else None
    if found is None or not found.is_file() or (frame.size_bytes and found.stat().st_size != frame.size_bytes):
        return None
    return found


def pin(objects: ObjectStore, frame: FrameFacts) -> str:
    """Makes sure that the object store itself holds the original, for whatever must outlive the lake; returns its key.

    Raises:
        NotFound: The original is gone.
        InvalidInput: It is not the file any more that was registered.
    """
    if frame.object_uri is not None and not objects.exists(frame.object_key):
        data = _in_lake(objects, frame.object_uri)
        check_digest(data, expected=frame.digest, uri=frame.object_uri)
        objects.put(frame.object_key, data)
    return frame.object_key


def make_preview(
    objects: ObjectStore,
    *,
    preview_key: str,
    object_key: str,
    object_uri: str | None,
    max_pixels: int,
    digest: str,
) -> bytes:
    """Makes the preview's JPEG from the original, keeps and returns it.

    Args:
        max_pixels: Nobody may have checked the size of an original in place yet.
        digest: The frame's; another file may lie in the original's place by now.

    Raises:
        NotFound: The original is gone.
        InvalidInput: The original cannot be decoded, is larger than `max_pixels`, or is another file than the one with this digest.
        Denied, BackendUnavailable: The original cannot be read, or not now.
    """
    data = read(objects, object_key=object_key, object_uri=object_uri)
    check_digest(data, expected=digest, uri=object_uri or object_key)
    made = images.preview(images.open_image(data, max_pixels=max_pixels).pixels)
    objects.put(preview_key, made)
    return made


def check_digest(data: bytes, *, expected: str, uri: str) -> None:
    """Compares bytes with the digest they were announced under.

    Raises:
        InvalidInput: They differ; the message names both.
    """
    actual = hashlib.sha256(data).hexdigest()
    if actual != expected:
        raise InvalidInput(f"{uri} has the digest {actual}, but {expected} was announced", uri=uri)


def follow(
    db: Db, objects: ObjectStore, finds: Sequence[Sighting], *, places: Mapping[FrameId, Place], now: datetime
) -> list[str]:
    """Leads the records of frames in place to their originals again, now that these were found.

    Where the original is gone from the place in the record, the record takes the new place, and the old one becomes a sighting. Those
    that nobody could see at the old place are to be looked at again.

    Args:
        finds: Where frames of the fleet were found.
        places: What their records say, at least of those in place.
        now: UTC.
    Returns:
        The places that records were led away from.
    """
    here = {one.frame_id: one.uri for one in finds if one.frame_id in places and places[one.frame_id].uri is not None}
    waiting = _struck(db, {one: places[one].row for one in here if not places[one].is_seen})
    elsewhere = {one: uri for one, uri in here.items() if uri != places[one].uri}
    lost = _gone(objects, {str(places[one].uri) for one in elsewhere})
    moved = {one: uri for one, uri in elsewhere.items() if one in waiting or places[one].uri in lost}
    absent = _gone(objects, set(moved.values()))
    moved = {one: uri for one, uri in moved.items() if uri not in absent}
    if moved:
        known = frames.get_many(db, moved)
        before = [
            Sighting(frame_id=one.frame_id, site=one.site, uri=one.object_uri or "", seen_at=one.ingested_at)
            for one in known.values()
        ]
        retrying(lambda: sightings.add(db, before))
        frames.move(db, moved, now=now)
        unseen.look_soon(db, [places[one].row for one in moved])
    unseen.reopen(db, waiting.values(), now=frames.to_the_millisecond(now))
    return [str(places[one].uri) for one in moved]


def _in_lake(objects: ObjectStore, uri: str) -> bytes:
    path = local_path(uri)
    with suppress(OSError, ValueError):  # Whatever is wrong with the path, reading says it better.
        if path is not None and not stat.S_ISREG(os.stat(path).st_mode):
            raise InvalidInput(f"{uri[:200]} is not a file", uri=uri)  # A pipe would be waited for.
    return objects.lake.read(uri)


def _struck(db: Db, rows: Mapping[FrameId, int]) -> dict[FrameId, int]:
    """Those of frames nobody has seen that nobody would look at any more either."""
    if not rows:
        return {}
    first, last = min(rows.values()), max(rows.values())
    awaited = {row for one in unseen.ranges(db, first=first, last=last) for row in one.wanted}
    return {one: row for one, row in rows.items() if row not in awaited}


def _gone(objects: ObjectStore, uris: Collection[str]) -> set[str]:
    """Those behind which nothing is. Of objects in buckets a few are asked for: with one of them, all are gone."""
    far = [uri for uri in uris if not uri.startswith("file://")]
    gone = {uri for uri in uris if uri.startswith("file://") and not _is_file(uri)}
    if any(_is_gone(objects, uri) for uri in far[:: -(-len(far) // _SAMPLED) or 1]):
        gone.update(far)
    return gone


def _is_file(uri: str) -> bool:
    try:
        path = local_path(uri)
        return path is not None and path.is_file()
    except (InvalidInput, OSError, ValueError):
        return False


def _is_gone(objects: ObjectStore, uri: str) -> bool:
    try:
        return not objects.lake.exists(uri)
    except MlplError:
        return False
