"""One batch of files into the fleet.

It goes through in this order: read and hash; ask which are new; decode those once and put original and preview into the object store; then
one transaction gives the new frames their rows. Killed anywhere, the next run finds the rest still to be done and adds nothing twice, since
frame ids and object keys come from the content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from infra.database import retrying
from infra.errors import Denied, InvalidInput, NotFound
from infra.platform import Platform
from selection.fleet import frames
from selection.fleet.frames import Frame, FrameFacts, FrameId, Sighting
from selection.fleet.metadata import FrameMetadata
from selection.ingest import rejects
from selection.ingest.rejects import Reject
from selection.ingest.report import Tally
from selection.ingest.sources.files import SourceFile
from selection.ingest.throttle import Throttle
from selection.ingest.tracks.joining import Joiner
from selection.pixels import images, statistics

LARGEST_FILE_BYTES = 256 * 1024 * 1024

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a batch is taken in with.

    Attributes:
        in_place: Leave the originals where they are.
        pool: Reads, decodes and writes.
    """

    platform: Platform
    in_place: bool
    throttle: Throttle
    pool: ThreadPoolExecutor
    tally: Tally
    joiner: Joiner


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A file in memory, known by its content."""

    file: SourceFile
    data: bytes
    digest: str

    @property
    def frame_id(self) -> FrameId:
        return frames.id_of(self.digest)


def take_in(means: Means, batch: Sequence[SourceFile | Reject]) -> None:
    """Makes frames of files, and keeps what is wrong with the others."""
    platform, pool, tally = means.platform, means.pool, means.tally
    db, now = platform.database, frames.to_the_millisecond(datetime.now(UTC))
    files = [item for item in batch if isinstance(item, SourceFile)]
    bad = [item for item in batch if isinstance(item, Reject)]

    read = _split(pool.map(lambda file: _read(platform, file, throttle=means.throttle), files), bad)
    present = retrying(lambda: frames.known(db, [one.frame_id for one in read]))
    tally.repaired += _repair(platform, {one.frame_id: one for one in read if one.frame_id in present}, pool=pool)
    unseen: dict[FrameId, _Read] = {}
    for one in read:
        if one.frame_id not in present:
            unseen.setdefault(one.frame_id, one)
    stored = _split(pool.map(lambda one: _store(platform, one, now=now, in_place=means.in_place), unseen.values()), bad)
    stored = [means.joiner.fill(facts, beside=unseen[facts.frame_id].file.track) for facts in stored]
    added = frames.register(db, stored)
    accepted = _accepted(read, unseen, stored={facts.frame_id for facts in stored}, bad=bad)
    sightings = [
        Sighting(frame_id=one.frame_id, site=one.file.said.site, uri=one.file.uri, seen_at=now) for one in accepted
    ]
    tally.sightings_added += retrying(lambda: frames.add_sightings(db, sightings))
    again = [one for one in accepted if one.frame_id in present]
    means.joiner.update(db, {one.frame_id: one.file.track for one in again}, known=present, now=now)
    tally.added += len(added)
    tally.already_present += len(accepted) - len(added)
    tally.metadata_kept += sum(1 for one in again if _differs(one.file.said, present[one.frame_id]))
    tally.reject(bad)
    rejects.keep_rejects(db, bad, resolved=[name for one in accepted for name in _names(one.file)], now=now)


def _accepted(
    read: Sequence[_Read], unseen: Mapping[FrameId, _Read], *, stored: set[FrameId], bad: list[Reject]
) -> list[_Read]:
    """Those whose image could be used. The same damaged image under a second name becomes a reject under that name too."""
    reasons = {reject.source: reject.reason for reject in bad}
    accepted = []
    for one in read:
        if one.frame_id not in unseen or one.frame_id in stored:
            accepted.append(one)
        elif one is not unseen[one.frame_id]:
            bad.append(Reject(source=one.file.shown, reason=reasons[unseen[one.frame_id].file.shown]))
    return accepted


def _names(file: SourceFile) -> list[str]:
    """What may be on the rejects list on account of this file: itself, and the archive or video it is in."""
    return [file.shown] if file.container is None else [file.shown, file.container]


def _split(results: Iterable[T | Reject], rejects: list[Reject]) -> list[T]:
    """Moves what was refused to `rejects` and returns the rest."""
    good: list[T] = []
    for result in results:
        if isinstance(result, Reject):
            rejects.append(result)
        else:
            good.append(result)
    return good


def _read(platform: Platform, file: SourceFile, *, throttle: Throttle) -> _Read | Reject:
    if file.size_bytes > LARGEST_FILE_BYTES:
        return Reject(source=file.shown, reason=f"the file is larger than {LARGEST_FILE_BYTES >> 20} MiB")
    try:
        data = file.data if file.data is not None else _bytes_of(platform, file, throttle=throttle)
    except FileNotFoundError:
        return Reject(source=file.shown, reason="the file is not there", kind="missing")
    except OSError as exc:
        return Reject(source=file.shown, reason=f"cannot be read: {exc.strerror}")
    except (NotFound, Denied) as exc:
        return rejects.refused(file.shown, exc)
    if not data:
        return Reject(source=file.shown, reason="the file is empty")
    digest = hashlib.sha256(data).hexdigest()
    if file.digest is not None and digest != file.digest:
        reason = f"its bytes have the digest {digest}, but the manifest announces {file.digest}"
        return Reject(source=file.shown, reason=reason)
    return _Read(file=file, data=data, digest=digest)


def _bytes_of(platform: Platform, file: SourceFile, *, throttle: Throttle) -> bytes:
    throttle.take(file.size_bytes)
    data = platform.objects.lake.read(file.path) if file.path.startswith("s3://") else Path(file.path).read_bytes()
    throttle.take(max(0, len(data) - file.size_bytes))  # A list may say nothing of the size, and a file may have grown.
    return data


def _store(platform: Platform, one: _Read, *, now: datetime, in_place: bool) -> FrameFacts | Reject:
    """Puts a new frame's files into the object store; its record comes later."""
    try:
        image = images.open_image(one.data, max_pixels=platform.settings.max_image_pixels)
        pixels = images.shrink(image.pixels)
        small = images.encode_preview(pixels)
    except InvalidInput as exc:
        return Reject(source=one.file.shown, reason=exc.message)
    said = one.file.said
    # Two digits of the id as folder keep local directories small enough to list.
    object_key = f"frames/{one.frame_id[:2]}/{one.frame_id}{images.EXTENSIONS[image.format]}"
    preview_key = f"previews/{one.frame_id[:2]}/{one.frame_id}.jpg"
    stays = in_place and one.file.container is None  # What was taken out of a video lies nowhere yet.
    if not stays:
        platform.objects.put(object_key, one.data)
    platform.objects.put(preview_key, small)
    return FrameFacts(
        frame_id=one.frame_id,
        digest=one.digest,
        width=image.width,
        height=image.height,
        format=image.format,
        size_bytes=len(one.data),
        captured_at=said.captured_at or image.captured_at,
        site=said.site,
        vehicle=said.vehicle,
        drive=said.drive,
        camera=said.camera,
        location=said.location or image.location,
        attributes=said.attributes,
        source=one.file.name,
        object_key=object_key,
        preview_key=preview_key,
        ingested_at=now,
        object_uri=one.file.uri if stays else None,
        **statistics.measure(pixels).as_fields(),
    )


def _repair(platform: Platform, present: Mapping[FrameId, _Read], *, pool: ThreadPoolExecutor) -> int:
    """Puts the files of known frames back where the object store has lost them or cut them short; returns how many."""

    def put_back(frame: Frame) -> bool:
        if frame.object_uri is not None:
            return False  # Registered in place: nothing of it was ever here.
        data = present[frame.frame_id].data
        try:
            whole = platform.objects.size(frame.object_key) == len(data)
        except NotFound:
            whole = False
        if not whole:
            platform.objects.put(frame.object_key, data)
        return not whole

    known = retrying(lambda: frames.get_many(platform.database, list(present)))
    return sum(pool.map(put_back, known.values()))


def _differs(said: FrameMetadata, stored: Mapping[str, Any]) -> bool:
    """Whether a file says something about its frame that is not what is kept."""
    new = asdict(said) | {"location": list(said.location) if said.location else None}
    kept = stored["attributes"] or {}
    if any(kept.get(key) != value for key, value in new.pop("attributes").items()):
        return True
    return any(new[name] and new[name] != stored.get(name) for name in stored if name in new)
