"""One batch of files into the fleet.

It goes through in this order: read and hash; ask which are new; decode those once and put original and preview into the object store; then
one transaction gives the new frames their rows. Killed anywhere, the next run finds the rest still to be done and adds nothing twice, since
frame ids and object keys come from the content. From the decoding on, the next batch is on its way already: it is looked for, taken out of
archives and videos, and read, so that no core waits.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from infra.database import retrying
from infra.errors import BackendUnavailable, Denied, InvalidInput, NotFound
from infra.platform import Platform
from selection.fleet import frames, originals, sightings
from selection.fleet.frames import Frame, FrameFacts, FrameId
from selection.fleet.metadata import FrameMetadata
from selection.fleet.originals import Patience
from selection.fleet.sightings import Sighting
from selection.ingest import rejects
from selection.ingest.rejects import Reject
from selection.ingest.report import Tally
from selection.ingest.sources.files import SourceFile, is_text
from selection.ingest.throttle import Throttle
from selection.ingest.tracks.joining import Joiner
from selection.pixels import images, statistics

LARGEST_FILE_BYTES = 256 * 1024 * 1024

T = TypeVar("T")


class Recorder:
    """One thread that sees one batch after the other to its end, in their order; a batch is handed over when the one before is recorded."""

    def __init__(self) -> None:
        """Nothing is under way yet."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="record")
        self._ids: frozenset[FrameId] = frozenset()
        self._under_way: Future[None] | None = None
        self.rows = threading.Lock()  # Two transactions that hand out rows at once make one of them start again.

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)

    def settle(self, ids: Iterable[FrameId] | None = None) -> None:
        """Waits for the batch under way, if it holds one of `ids`; without `ids` in any case.

        Raises:
            MlplError: Why it could not be recorded.
        """
        if self._under_way is not None and (ids is None or not self._ids.isdisjoint(ids)):
            under_way, self._under_way = self._under_way, None
            under_way.result()

    def hand_over(self, work: Callable[[], None], *, ids: Iterable[FrameId]) -> None:
        """Has these frames recorded; errors as `settle`, of the batch before."""
        self.settle()
        self._ids = frozenset(ids)
        self._under_way = self._thread.submit(work)


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a batch is taken in with.

    Attributes:
        in_place: Leave the originals where they are.
        pool: Reads, decodes and writes files.
        recorder: Writes records.
        report: Called with the number of items that are done.
        patience: With files that cannot be read now.
    """

    platform: Platform
    in_place: bool
    throttle: Throttle
    pool: ThreadPoolExecutor
    recorder: Recorder
    tally: Tally
    joiner: Joiner
    report: Callable[[int], None]
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A file in memory, known by its content."""

    file: SourceFile
    data: bytes
    digest: str

    @property
    def frame_id(self) -> FrameId:
        return frames.id_of(self.digest)


@dataclass(frozen=True, kw_only=True)
class _Looked:
    """A batch that was read, and whose new images are being decoded and stored.

    Attributes:
        read: Every file that could be read.
        present: What the records of those that are in the fleet already say.
        unseen: The others, each image once.
        storing: What becomes of `unseen`, in its order, each when it is done.
        bad: What could not be read.
        others: What evidently is no image and need not be one.
        repaired: How many files were put back.
        now: When they were read, UTC.
    """

    read: Sequence[_Read]
    present: Mapping[FrameId, Mapping[str, Any]]
    unseen: Mapping[FrameId, _Read]
    storing: Iterator[FrameFacts | Reject]
    bad: Sequence[Reject]
    others: Sequence[SourceFile]
    repaired: int
    now: datetime


def take_in(means: Means, batch: Sequence[SourceFile | Reject]) -> None:
    """Makes frames of files, and keeps what is wrong with the others. What is read is decoded and recorded while the next batch is read."""
    now = frames.to_the_millisecond(datetime.now(UTC))
    files = [item for item in batch if isinstance(item, SourceFile)]
    bad = [item for item in batch if isinstance(item, Reject)]

    looked_at = list(means.pool.map(partial(_read, means), files))
    others = [file for file, result in zip(files, looked_at, strict=True) if result is None]
    read = _split((result for result in looked_at if result is not None), bad)
    del looked_at
    ids = [one.frame_id for one in read]
    means.recorder.settle(ids)  # The same image again, a batch later, is known by then.
    present = retrying(lambda: frames.known(means.platform.database, ids))
    repaired = _repair(means, {one.frame_id: one for one in read if one.frame_id in present})
    unseen: dict[FrameId, _Read] = {}
    for one in read:
        if one.frame_id not in present:
            unseen.setdefault(one.frame_id, one)
    store = partial(_store, means.platform, now=now, in_place=means.in_place)
    looked = _Looked(
        read=read,
        present=present,
        unseen=unseen,
        storing=means.pool.map(store, unseen.values()),
        bad=bad,
        others=others,
        repaired=repaired,
        now=now,
    )
    means.recorder.hand_over(partial(_record, means, looked), ids=ids)


def _record(means: Means, looked: _Looked) -> None:
    """Gives frames their rows as soon as they are stored, and writes down where all were found and what could not be used."""
    db, present, now = means.platform.database, looked.present, looked.now
    bad = list(looked.bad)
    stored = _split(looked.storing, bad)
    accepted = _accepted(looked.read, looked.unseen, stored={facts.frame_id for facts in stored}, bad=bad)
    facts = [means.joiner.fill(one, beside=looked.unseen[one.frame_id].file.track) for one in stored]
    with means.recorder.rows:
        added = frames.register(db, facts)
    left: list[str] = []
    finds = [
        Sighting(frame_id=one.frame_id, site=one.file.said.site, uri=one.file.uri, seen_at=now) for one in accepted
    ]
    if present:
        places = retrying(lambda: frames.places(db, present))
        # What was taken out of an archive or video cannot be read again from its address.
        lasting = [find for find, one in zip(finds, accepted, strict=True) if one.file.container is None]
        left = originals.follow(db, means.platform.objects, lasting, places=places, now=now)
        finds = [one for one in finds if (one.site, one.uri) != places.get(one.frame_id, ())[:2]]
    sightings_added = retrying(lambda: sightings.add(db, finds))
    again = {one.frame_id: one.file.track for one in accepted if one.frame_id in present}
    means.joiner.update(db, again, known=present, now=now)
    resolved = [*left, *(name for one in accepted for name in _names(one.file))]
    resolved += [file.shown for file in looked.others]
    rejects.keep_rejects(db, bad, resolved=resolved, now=now)
    means.tally.reject(bad)
    means.tally.count(
        added=len(added),
        already_present=len(accepted) - len(added),
        sightings_added=sightings_added,
        metadata_kept=sum(
            one.frame_id in present and _differs(one.file.said, present[one.frame_id]) for one in accepted
        ),
        repaired=looked.repaired,
        other_files=len(looked.others),
    )
    means.report(len(accepted) + len(bad) + len(looked.others))


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


def _read(means: Means, file: SourceFile) -> _Read | Reject | None:
    """None for what evidently is no image and was not named as one."""
    try:
        data = _bytes_of(means.platform, file, throttle=means.throttle)
    except _TooLarge:
        if file.is_other:
            return None
        return Reject(source=file.shown, reason=f"the file is larger than {LARGEST_FILE_BYTES >> 20} MiB")
    except FileNotFoundError:
        return Reject(source=file.shown, reason="the file is not there", kind="missing")
    except OSError as exc:
        return Reject(source=file.shown, reason=f"cannot be read: {exc.strerror}")
    except ValueError as exc:
        return Reject(source=file.shown, reason=f"cannot be read: {exc}")
    except BackendUnavailable as exc:
        means.patience.failed(file.path, exc)
        means.patience.check()
        return rejects.refused(file.shown, exc)
    except (NotFound, Denied, InvalidInput) as exc:
        means.patience.answered(file.path)
        return rejects.refused(file.shown, exc)
    means.patience.answered(file.path)
    if (file.is_other or (file.may_be_note and is_text(data))) and not images.may_be_image(data):
        return None
    if not data:
        return Reject(source=file.shown, reason="the file is empty")
    digest = hashlib.sha256(data).hexdigest()
    if file.digest is not None and digest != file.digest:
        reason = f"its bytes have the digest {digest}, but the manifest announces {file.digest}"
        return Reject(source=file.shown, reason=reason)
    return _Read(file=file, data=data, digest=digest)


class _TooLarge(Exception):
    """A file that nobody should have in memory."""


def _bytes_of(platform: Platform, file: SourceFile, *, throttle: Throttle) -> bytes:
    """The content of a file that is no larger than allowed, whatever a list says of its size."""
    far = file.path.startswith("s3://")
    size_bytes = file.size_bytes if file.data is not None or far else _size(file.path)
    if max(size_bytes, file.size_bytes) > LARGEST_FILE_BYTES:
        raise _TooLarge
    if file.data is not None:
        return file.data
    throttle.take(file.size_bytes)
    lake = platform.objects.lake
    data = lake.read(file.path, max_bytes=LARGEST_FILE_BYTES) if far else Path(file.path).read_bytes()
    throttle.take(max(0, len(data) - file.size_bytes))  # A list may say nothing of the size, and a file may have grown.
    return data


def _size(path: str) -> int:
    """In bytes; opening a pipe or device would wait for ever."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise InvalidInput("it is not a file")
    return found.st_size


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


def _repair(means: Means, present: Mapping[FrameId, _Read]) -> int:
    """Puts the files of known frames back where the object store has lost them or cut them short; returns how many.

    Those of frames in place are copied, unless this ingest leaves files where they are.
    """
    platform = means.platform

    def put_back(frame: Frame) -> bool:
        if frame.object_uri is not None and means.in_place:
            return False
        data = present[frame.frame_id].data
        try:
            whole = platform.objects.size(frame.object_key) == len(data)
        except NotFound:
            whole = False
        if not whole:
            platform.objects.put(frame.object_key, data)
        return not whole and frame.object_uri is None

    known = retrying(lambda: frames.get_many(platform.database, list(present)))
    return sum(means.pool.map(put_back, known.values()))


def _differs(said: FrameMetadata, stored: Mapping[str, Any]) -> bool:
    """Whether a file says something about its frame that is not what is kept."""
    new = asdict(said) | {"location": list(said.location) if said.location else None}
    kept = stored["attributes"] or {}
    if any(kept.get(key) != value for key, value in new.pop("attributes").items()):
        return True
    return any(new[name] and new[name] != stored.get(name) for name in stored if name in new)
