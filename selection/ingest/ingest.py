"""Ingest: images from folders into the fleet, each once.

A batch of files goes through in this order: read and hash; ask which are new; decode those once and put original and preview into the
object store; then one transaction gives the new frames their rows. Killed anywhere, the next run finds the rest still to be done and
adds nothing twice, since frame ids and object keys come from the content.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from pymongo import DESCENDING, IndexModel, UpdateOne
from pymongo.errors import BulkWriteError

from infra.database import Db, retrying
from infra.errors import Denied, InvalidInput, NotFound
from infra.lake import local_path
from infra.logs import get_logger
from infra.platform import Platform
from selection.fleet import frames
from selection.fleet.frames import Frame, FrameFacts, FrameId, Sighting
from selection.fleet.metadata import FrameMetadata
from selection.ingest import archives, manifests, registration
from selection.ingest.manifests import ManifestEntry
from selection.ingest.sources import Reject, SourceFile, Sources
from selection.ingest.throttle import Throttle
from selection.pixels import images, statistics

INDEXES: dict[str, list[IndexModel]] = {"rejects": [IndexModel([("seen_at", DESCENDING)])]}
BATCH_FILES = 256
BATCH_BYTES = 256 * 1024 * 1024
LARGEST_FILE_BYTES = 256 * 1024 * 1024

T = TypeVar("T")

_REPORTED_REJECTS = 1000
_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What an ingest did.

    Attributes:
        added: New frames.
        already_present: Files whose image is in the fleet already, from this run or an earlier one.
        sightings_added: Places at which a frame was found for the first time.
        metadata_kept: Of the files already present, those that said something else this time; what was said first stays.
        repaired: Frames whose file in the object store was lost or cut short and was put back.
        ignored: Files beside listed images that their `metadata.jsonl` does not list.
        rejected_count: Files and metadata lines that could not be used; all of them are kept in the rejects list.
        rejected: The first thousand of them.
        seconds: Wall time.
    """

    added: int
    already_present: int
    sightings_added: int
    metadata_kept: int
    repaired: int
    ignored: int
    rejected_count: int
    rejected: tuple[Reject, ...]
    seconds: float

    def summary(self) -> str:
        """One line for people, and one more for each thing they might not expect."""
        rate = (self.added + self.already_present) / self.seconds if self.seconds > 0 else 0.0
        lines = [
            f"{self.added} added, {self.already_present} already present, {self.sightings_added} new sightings, "
            f"{self.rejected_count} rejected, {self.ignored} ignored in {self.seconds:.1f} s ({rate:.0f} files/s)"
        ]
        if self.metadata_kept:
            lines.append(f"{self.metadata_kept} frames came with other metadata than before: the first metadata stays")
        if self.repaired:
            lines.append(f"{self.repaired} frames whose stored file was lost or cut short have it again")
        if self.ignored:
            lines.append(f"{self.ignored} files were ignored because the metadata.jsonl beside them does not list them")
        lines += [f"rejected {one.source}: {one.reason}" for one in self.rejected[:5]]
        if self.rejected_count > 5:
            lines.append(f"... and {self.rejected_count - 5} more; `mlpl rejects` lists them")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        return asdict(self) | {"rejected": [asdict(one) for one in self.rejected]}


@dataclass(kw_only=True)
class _Tally:
    added: int = 0
    already_present: int = 0
    sightings_added: int = 0
    metadata_kept: int = 0
    repaired: int = 0
    rejected_count: int = 0
    rejected: list[Reject] = field(default_factory=list)

    def reject(self, rejects: Sequence[Reject]) -> None:
        self.rejected_count += len(rejects)
        self.rejected += rejects[: max(0, _REPORTED_REJECTS - len(self.rejected))]


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A file in memory, known by its content."""

    file: SourceFile
    data: bytes
    digest: str

    @property
    def frame_id(self) -> FrameId:
        return frames.id_of(self.digest)


def ingest(
    platform: Platform,
    sources: Sequence[str],
    *,
    site: str | None = None,
    metadata: Path | None = None,
    in_place: bool = False,
    max_mbps: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> IngestReport:
    """Takes images into the fleet. Running it again adds nothing; several may run at once, also on the same folder.

    Args:
        platform: Where the fleet lives.
        sources: Folders, globs and single images, see `selection.ingest.sources`, S3 prefixes, tar files, and
            manifests, see `selection.ingest.manifests`.
        in_place: Leave the originals where they are. Manifest lines that carry their digest are registered without reading a byte.
        site: Where the images come from, for those whose metadata does not say.
        metadata: A metadata list to use instead of those beside the images.
        max_mbps: Read at most so many megabits a second.
        progress: Called with (files done, files in all).
    Raises:
        InvalidInput: A source or the metadata file does not exist.
        StorageFull, BackendUnavailable: What was committed before stays; run it again to go on.
    """
    started = time.monotonic()
    # Where we keep our own copies may lie below what was given, for example when that is the working directory.
    lists = [Path(source).expanduser() for source in sources if manifests.is_manifest(source)]
    tars = [Path(source).expanduser() for source in sources if archives.is_archive(source)]
    if tars and in_place:
        raise InvalidInput(f"what is inside {tars[0]} cannot stay in place; leave out --in-place", source=str(tars[0]))
    prefixes = [source for source in sources if source.startswith("s3://")]
    special = {*prefixes, *(s for s in sources if manifests.is_manifest(s) or archives.is_archive(s))}
    others = [source for source in sources if source not in special]
    walk: Iterable[SourceFile | Reject] = ()
    if others or not special:
        walk = Sources(others, metadata_file=metadata, excluded=_own_folders(platform))
    total = sum(1 for _ in walk) if progress is not None else 0
    tally, done, throttle = _Tally(), 0, Throttle(max_mbps)

    def registered(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, max(done, total))

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="ingest") as pool:
        try:
            remote = (item for prefix in prefixes for item in _remote(platform, prefix))
            packed = (item for archive in tars for item in archives.read(archive))
            listed = (
                item
                for manifest in lists
                for item in _listed(platform, manifest, site=site, in_place=in_place, tally=tally, report=registered)
            )
            for batch in _batches(chain(walk, remote, packed, listed)):
                _take_in(platform, batch, site=site, in_place=in_place, throttle=throttle, pool=pool, tally=tally)
                done += len(batch)
                if progress is not None:
                    progress(done, max(done, total))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    report = IngestReport(
        added=tally.added,
        already_present=tally.already_present,
        sightings_added=tally.sightings_added,
        metadata_kept=tally.metadata_kept,
        repaired=tally.repaired,
        ignored=walk.ignored if isinstance(walk, Sources) else 0,
        rejected_count=tally.rejected_count,
        rejected=tuple(tally.rejected),
        seconds=time.monotonic() - started,
    )
    _log.info("ingested", added=report.added, already_present=report.already_present, rejected=report.rejected_count)
    return report


def list_rejects(db: Db, *, offset: int = 0, limit: int = 100) -> list[Reject]:
    """Files and lines that could not be used and have not been taken in since, newest first."""
    found = db.rejects.find().sort([("seen_at", DESCENDING), ("_id", DESCENDING)]).skip(offset).limit(limit)
    return [Reject(source=document["source"], reason=document["reason"]) for document in found]


def reject_count(db: Db) -> int:
    """How many rejects there are."""
    return int(db.rejects.estimated_document_count())


def _own_folders(platform: Platform) -> list[Path]:
    """Where we keep our own copies and records, which may lie below what was given, for example the working directory.

    What people put into the home themselves (the demo's frames, say) is like any other source.
    """
    home = platform.settings.home
    objects = platform.objects.local_path("frames")
    own = [home / name for name in ("objects", "mongod", "jobs", "label-studio", "encoders")]
    return own if objects is None else [*own, objects.parent]


def _batches(items: Iterable[SourceFile | Reject]) -> Iterator[list[SourceFile | Reject]]:
    """Cuts by number and by bytes: a batch is in memory at once."""
    batch: list[SourceFile | Reject] = []
    size = 0
    for item in items:
        item_bytes = item.size_bytes if isinstance(item, SourceFile) else 0
        if batch and (len(batch) == BATCH_FILES or size + item_bytes > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item_bytes
    if batch:
        yield batch


def _remote(platform: Platform, prefix: str) -> Iterator[SourceFile]:
    """The objects under an S3 prefix. One that vanishes between listing and reading becomes a reject."""
    for uri, size_bytes in platform.objects.lake.list(prefix):
        name = uri.removeprefix(prefix).lstrip("/") or uri.rpartition("/")[2]
        if not name.rpartition("/")[2].startswith("."):
            yield SourceFile(path=uri, name=name, size_bytes=size_bytes, said=FrameMetadata())


def _listed(
    platform: Platform,
    manifest: Path,
    *,
    site: str | None,
    in_place: bool,
    tally: _Tally,
    report: Callable[[int], None],
) -> Iterator[SourceFile | Reject]:
    """Registers the entries of a manifest that need not be read, and yields the others as files."""
    waiting: list[ManifestEntry] = []
    # One batch is parsed while the database takes the one before; one writer keeps rows in the manifest's order.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="register") as writer:
        writing: Future[registration.Registered] | None = None

        def send() -> Future[registration.Registered]:
            now = frames.to_the_millisecond(datetime.now(UTC))
            return writer.submit(registration.register, platform, list(waiting), site=site, now=now)

        def wait() -> None:
            if writing is not None:
                done = writing.result()
                tally.added += done.added
                tally.already_present += done.already_present
                tally.sightings_added += done.sightings_added
                report(done.added + done.already_present)

        for item in manifests.read(manifest):
            if isinstance(item, Reject):
                yield item
            elif in_place and item.digest is not None:
                waiting.append(item)
                if len(waiting) == registration.BATCH_ENTRIES:
                    wait()
                    writing = send()
                    waiting.clear()
            else:
                local = local_path(item.uri)
                path = item.uri if local is None else str(local)
                yield SourceFile(
                    path=path, name=item.name, size_bytes=item.size_bytes, said=item.said, digest=item.digest
                )
        wait()
        writing = send() if waiting else None
        wait()


def _take_in(
    platform: Platform,
    batch: Sequence[SourceFile | Reject],
    *,
    site: str | None,
    in_place: bool,
    throttle: Throttle,
    pool: ThreadPoolExecutor,
    tally: _Tally,
) -> None:
    db, now = platform.database, frames.to_the_millisecond(datetime.now(UTC))
    files = [item for item in batch if isinstance(item, SourceFile)]
    rejects = [item for item in batch if isinstance(item, Reject)]

    def read_one(file: SourceFile) -> _Read | Reject:
        throttle.take(file.size_bytes)
        return _read(platform, file)

    read = _split(pool.map(read_one, files), rejects)
    present = retrying(lambda: frames.known(db, [one.frame_id for one in read]))

    tally.repaired += _repair(platform, {one.frame_id: one for one in read if one.frame_id in present}, pool=pool)
    unseen: dict[FrameId, _Read] = {}
    for one in read:
        if one.frame_id not in present:
            unseen.setdefault(one.frame_id, one)
    stored = _split(
        pool.map(lambda one: _store(platform, one, site=site, now=now, in_place=in_place), unseen.values()), rejects
    )
    added = frames.register(db, stored)

    bad = unseen.keys() - {facts.frame_id for facts in stored}
    # The same damaged image under a second name is a reject under that name too.
    reasons = {reject.source: reject.reason for reject in rejects}
    accepted = []
    for one in read:
        if one.frame_id not in bad:
            accepted.append(one)
        elif one is not unseen[one.frame_id]:
            rejects.append(Reject(source=one.file.shown, reason=reasons[unseen[one.frame_id].file.shown]))
    sightings = [
        Sighting(frame_id=one.frame_id, site=one.file.said.site or site, uri=one.file.uri, seen_at=now)
        for one in accepted
    ]
    tally.sightings_added += retrying(lambda: frames.add_sightings(db, sightings))
    tally.added += len(added)
    tally.already_present += len(accepted) - len(added)
    tally.metadata_kept += sum(
        1 for one in accepted if one.frame_id in present and _differs(one.file.said, present[one.frame_id], site=site)
    )
    tally.reject(rejects)
    keep_rejects(db, rejects, resolved=[one.file.shown for one in accepted], now=now)


def _split(results: Iterable[T | Reject], rejects: list[Reject]) -> list[T]:
    """Moves what was refused to `rejects` and returns the rest."""
    good: list[T] = []
    for result in results:
        if isinstance(result, Reject):
            rejects.append(result)
        else:
            good.append(result)
    return good


def _read(platform: Platform, file: SourceFile) -> _Read | Reject:
    if file.size_bytes > LARGEST_FILE_BYTES:
        return Reject(source=file.shown, reason=f"the file is larger than {LARGEST_FILE_BYTES >> 20} MiB")
    try:
        data = file.data if file.data is not None else _bytes_of(platform, file.path)
    except OSError as exc:
        return Reject(source=file.shown, reason=f"cannot be read: {exc.strerror}")
    except (NotFound, Denied) as exc:
        return Reject(source=file.shown, reason=exc.message)
    if not data:
        return Reject(source=file.shown, reason="the file is empty")
    digest = hashlib.sha256(data).hexdigest()
    if file.digest is not None and digest != file.digest:
        reason = f"its bytes have the digest {digest}, but the manifest announces {file.digest}"
        return Reject(source=file.shown, reason=reason)
    return _Read(file=file, data=data, digest=digest)


def _bytes_of(platform: Platform, path: str) -> bytes:
    return platform.objects.lake.read(path) if path.startswith("s3://") else Path(path).read_bytes()


def _store(platform: Platform, one: _Read, *, site: str | None, now: datetime, in_place: bool) -> FrameFacts | Reject:
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
    if not in_place:
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
        site=said.site or site,
        vehicle=said.vehicle,
        drive=said.drive,
        camera=said.camera,
        location=said.location or image.location,
        attributes=said.attributes,
        source=one.file.name,
        object_key=object_key,
        preview_key=preview_key,
        ingested_at=now,
        object_uri=one.file.uri if in_place else None,
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


def _differs(said: FrameMetadata, stored: dict[str, Any], *, site: str | None) -> bool:
    """Whether a file says something about its frame that is not what is kept."""
    new = asdict(said) | {"site": said.site or site, "location": list(said.location) if said.location else None}
    return any(new[name] and new[name] != stored.get(name) for name in stored)


def keep_rejects(db: Db, rejects: Sequence[Reject], *, resolved: Sequence[str], now: datetime) -> None:
    """Adds rejects to the list, each source once, and takes those off it that could be used this time."""
    if resolved and reject_count(db):
        gone = [_reject_id(path) for path in resolved]
        retrying(lambda: db.rejects.delete_many({"_id": {"$in": gone}}))
    if rejects:
        changes = [
            UpdateOne(
                {"_id": _reject_id(one.source)},
                {"$set": {"source": one.source, "reason": one.reason, "seen_at": now}},
                upsert=True,
            )
            for one in rejects
        ]
        try:
            retrying(lambda: db.rejects.bulk_write(changes, ordered=False))
        except BulkWriteError as exc:
            # Another ingest of the same folder writing the same reject at this moment is as good.
            if any(one.get("code") != 11000 for one in dict(exc.details or {})["writeErrors"]):
                raise


def _reject_id(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:32]
