"""Ingest: images from folders, archives, buckets, manifests and videos into the fleet, each once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from infra.errors import BackendUnavailable, Denied, InvalidInput, MlplError, NotFound
from infra.logs import get_logger
from infra.platform import Platform
from selection.fleet import frames
from selection.fleet.metadata import valid_text
from selection.ingest import intake, registration, rejects
from selection.ingest.intake import Means, Recorder
from selection.ingest.rejects import Reject
from selection.ingest.report import IngestReport, Tally
from selection.ingest.sources import archives, buckets, manifests, opening, videos
from selection.ingest.sources.files import SourceFile
from selection.ingest.sources.folders import Sources
from selection.ingest.sources.interleaving import interleaved
from selection.ingest.sources.meter import Meter, expected_items
from selection.ingest.sources.videos import VideoOptions
from selection.ingest.throttle import Throttle
from selection.ingest.tracks.joining import Joiner, TrackOptions

INDEXES = rejects.INDEXES
BATCH_FILES = 256
BATCH_BYTES = 128 * 1024 * 1024

_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Stream:
    """One source, opened: nothing of it is read before its items are asked for."""

    given: str
    items: Callable[[], Iterable[SourceFile | Reject]]
    meter: Meter


@dataclass(kw_only=True)
class _Progress:
    """Tells how many files are done, and how many there will be."""

    tell: Callable[[int, int], None] | None
    meters: list[Meter] = field(default_factory=list)
    done: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int) -> None:
        with self.lock:
            self.done += count
            if self.tell is not None:
                self.tell(self.done, max(self.done, expected_items(self.meters)))


def ingest(
    platform: Platform,
    sources: Sequence[str],
    *,
    site: str | None = None,
    metadata: Path | None = None,
    in_place: bool = False,
    max_mbps: float | None = None,
    video: VideoOptions | None = None,
    tracks: TrackOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> IngestReport:
    """Takes images into the fleet. Running it again adds nothing; several may run at once, also on the same folder.

    Args:
        platform: Where the fleet lives.
        sources: Folders, globs and single images, see `sources.folders`, S3 prefixes, tar files, videos, and manifests, see
            `sources.manifests`. With `NAME=` in front, the images of the site NAME.
            Sources of different kinds and sites are read at once.
        in_place: Leave the originals where they are. Manifest lines that carry their digest are registered without reading a byte.
        site: Where the images come from, for those whose source or metadata does not say.
        metadata: A metadata list to use instead of those beside the images; for folders, globs and images only.
        max_mbps: Read at most so many megabits a second, from all sources together.
        video: How frames are taken from videos.
        tracks: Where the vehicles were.
        progress: Called with (files done, files expected in all).
    Raises:
        InvalidInput: A source, a track or the metadata file does not exist or is not what it should be; nothing was done.
        StorageFull, BackendUnavailable: What was committed before stays; run it again to go on.
        NotFound, Denied: The only source cannot be read. One of several is named in the report, and the others go on.
    """
    started, began = time.monotonic(), frames.to_the_millisecond(datetime.now(UTC))
    telling, tally = _Progress(tell=progress), Tally()
    failures: list[MlplError] = []
    video = video or VideoOptions()
    joiner = Joiner(tracks or TrackOptions())
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="ingest") as pool, Recorder() as recorder:
        means = Means(
            platform=platform,
            in_place=in_place,
            throttle=Throttle(max_mbps),
            pool=pool,
            recorder=recorder,
            tally=tally,
            joiner=joiner,
            report=telling.add,
        )
        kinds = opening.by_kind(sources, site=site, in_place=in_place)
        streams = _opened(means, kinds, metadata, is_counted=progress is not None)
        telling.meters += [stream.meter for stream in streams]
        try:
            items = [_items(means, one, video, failures, is_only=len(streams) == 1) for one in streams]
            for batch in _batches(interleaved(items)):
                intake.take_in(means, batch)
            recorder.settle()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if failures and len(streams) == 1:
        raise failures[0]
    for one in kinds.manifests:
        if one.given not in tally.failed:
            rejects.forget_lines(platform.database, str(one.path), before=began)
    report = tally.report(seconds=time.monotonic() - started, tracks=joiner.outcome())
    _log.info("ingested", added=report.added, already_present=report.already_present, rejected=report.rejected_count)
    return report


def _opened(means: Means, kinds: opening.Kinds, metadata: Path | None, *, is_counted: bool) -> list[_Stream]:
    """All sources; whatever does not exist on this machine is found here."""
    if metadata is not None:
        for one in (*kinds.archives, *kinds.prefixes, *kinds.manifests):
            raise InvalidInput(f"--metadata is for folders and images, not for {one.given}; ingest that without it")
    platform = means.platform
    streams = []
    for site, given in kinds.others.items():
        walk = Sources(given, metadata_file=metadata, excluded=_own_folders(platform))
        size = sum(1 for _ in walk) if is_counted else 0
        meter = Meter(unit="file", size=size)
        items = partial(_walked, walk, site=site, meter=meter, tally=means.tally)
        streams.append(_Stream(given=", ".join(given), items=items, meter=meter))
    for one in kinds.prefixes:
        meter = Meter(unit="file")
        read = partial(buckets.read, platform.objects.lake, one.given, meter=meter, tally=means.tally)
        streams.append(_Stream(given=one.given, items=partial(_at_site, read, one.site), meter=meter))
    for one in kinds.archives:
        meter = Meter(unit="byte", size=one.path.stat().st_size)
        read = partial(archives.read, one.path, meter=meter, throttle=means.throttle)
        streams.append(_Stream(given=one.given, items=partial(_at_site, read, one.site), meter=meter))
    for one in kinds.manifests:
        meter = Meter(unit="byte", size=one.path.stat().st_size)
        entries = partial(manifests.read, one.path, meter=meter)
        listed = partial(registration.listed, means, entries, site=one.site, meter=meter)
        streams.append(_Stream(given=one.given, items=partial(_at_site, listed, one.site), meter=meter))
    return streams


def _at_site(read: Callable[[], Iterable[SourceFile | Reject]], site: str | None) -> Iterator[SourceFile | Reject]:
    return opening.at_site(read(), site)


def _walked(walk: Sources, *, site: str | None, meter: Meter, tally: Tally) -> Iterator[SourceFile | Reject]:
    for item in opening.at_site(walk, site):
        meter.position += 1
        yield item
    tally.count(ignored=walk.ignored)


def _items(
    means: Means, stream: _Stream, video: VideoOptions, failures: list[MlplError], *, is_only: bool
) -> Iterator[SourceFile | Reject]:
    """Everything from a source, with the frames of a video in its place. A source that fails does not end what it gave before, nor the others."""
    try:
        for item in stream.items():
            for one in _expanded(means, item, video, meter=stream.meter):
                stream.meter.items += 1
                yield one
    except (NotFound, Denied, BackendUnavailable, InvalidInput) as exc:
        failures.append(exc)
        if not is_only:
            means.tally.failed.append(valid_text(stream.given))
            yield rejects.refused(stream.given, exc)
    stream.meter.finished = True


def _expanded(
    means: Means, item: SourceFile | Reject, video: VideoOptions, *, meter: Meter
) -> Iterable[SourceFile | Reject]:
    """The frames of a video, or what is none as it is."""
    if isinstance(item, Reject) or not videos.is_video(item.name) or videos.is_note(item):
        return (item,)
    return videos.read(item, means.platform.objects.lake, video, meter=meter, throttle=means.throttle)


def _own_folders(platform: Platform) -> list[Path]:
    """Where we keep our own copies and records, which may lie below what was given, for example the working directory.

    What people put into the home themselves (the demo's frames, say) is like any other source.
    """
    home = platform.settings.home
    objects = platform.objects.local_path("frames")
    own = [home / name for name in ("objects", "mongod", "jobs", "label-studio", "encoders")]
    return own if objects is None else [*own, objects.parent]


def _batches(items: Iterable[SourceFile | Reject]) -> Iterator[list[SourceFile | Reject]]:
    """Cuts by number and by bytes: two batches are in memory at once."""
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
