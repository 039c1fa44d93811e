"""Registering frames in place from entries that carry their digests: no byte of an image is read.

Previews and statistics are a difference that `selection.ingest.previews` closes afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from infra.database import retrying
from infra.errors import InvalidInput
from infra.lake import local_path
from infra.platform import Platform
from selection.fleet import frames, originals, sightings
from selection.fleet.frames import FrameFacts
from selection.fleet.sightings import Sighting
from selection.ingest import rejects
from selection.ingest.intake import Means
from selection.ingest.rejects import Reject
from selection.ingest.sources import videos
from selection.ingest.sources.files import SourceFile
from selection.ingest.sources.manifests import ManifestEntry
from selection.ingest.sources.meter import Meter
from selection.ingest.tracks.joining import Joiner
from selection.pixels import images

BATCH_ENTRIES = 10_000
"""Frames of one transaction: about 6 MB of the 32 MB that DocumentDB allows, and well below its minute."""


@dataclass(frozen=True, kw_only=True)
class Registered:
    """What one batch did."""

    added: int
    already_present: int
    sightings_added: int


def listed(
    means: Means,
    entries: Callable[[], Iterable[ManifestEntry | Reject]],
    *,
    site: str | None,
    meter: Meter,
) -> Iterator[SourceFile | Reject]:
    """Registers the entries of a manifest that need not be read, and yields the others as files."""
    waiting: list[FrameFacts] = []
    now = frames.to_the_millisecond(datetime.now(UTC))
    # One batch is parsed while the database takes the one before; one writer keeps rows in the manifest's order.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="register") as writer:
        writing: Future[Registered] | None = None

        def send() -> Future[Registered]:
            batch = list(waiting)

            def write() -> Registered:
                with means.recorder.rows:
                    return register(means.platform, batch, joiner=means.joiner)

            return writer.submit(write)

        def wait() -> None:
            if writing is not None:
                done = writing.result()
                means.tally.count(**asdict(done))
                means.report(done.added + done.already_present)

        def finish() -> None:
            nonlocal writing
            wait()
            writing = send() if waiting else None
            wait()

        try:
            for item in entries():
                if isinstance(item, Reject):
                    yield item
                elif means.in_place and item.digest is not None and not videos.is_video(item.name):
                    meter.items += 1
                    # Here, as the writer is the one that has no time.
                    waiting.append(means.joiner.fill(facts_of(item, site=site, now=now)))
                    if len(waiting) == BATCH_ENTRIES:
                        wait()
                        writing = send()
                        waiting.clear()
                        now = frames.to_the_millisecond(datetime.now(UTC))
                else:
                    yield _file(item)
        except InvalidInput:
            finish()  # What a damaged manifest lists up to there is as good as ever.
            raise
        finish()


def register(platform: Platform, facts: Sequence[FrameFacts], *, joiner: Joiner) -> Registered:
    """Gives frames registered in place rows and records; those that are in the fleet already gain a sighting."""
    db, now = platform.database, frames.to_the_millisecond(datetime.now(UTC))
    added = frames.register(db, facts)
    if joiner.active and len(added) < len(facts):
        known = frames.known(db, [one.frame_id for one in facts if one.frame_id not in added])
        joiner.update(db, dict.fromkeys(known), known=known, now=now, is_counted=True)
    remaining = set(added)
    finds = []
    for one in facts:
        # The first place of a new frame is in its record.
        if one.frame_id in remaining:
            remaining.discard(one.frame_id)
        else:
            finds.append(
                Sighting(frame_id=one.frame_id, site=one.site, uri=one.object_uri or "", seen_at=one.ingested_at)
            )
    if finds:
        places = retrying(lambda: frames.places(db, [one.frame_id for one in finds]))
        left = originals.follow(db, platform.objects, finds, places=places, now=now)
        rejects.keep_rejects(db, [], resolved=left, now=now)
        finds = [one for one in finds if (one.site, one.uri) != places.get(one.frame_id, ())[:2]]
    return Registered(
        added=len(added),
        already_present=len(facts) - len(added),
        sightings_added=len(added) + retrying(lambda: sightings.add(db, finds)),
    )


def facts_of(entry: ManifestEntry, *, site: str | None, now: datetime) -> FrameFacts:
    """The record of a frame that stays where it is.

    Raises:
        InvalidInput: The entry has no digest.
    """
    if entry.digest is None:
        raise InvalidInput(f"{entry.uri} has no digest, so it must be read", uri=entry.uri)
    said = entry.said
    frame_id = frames.id_of(entry.digest)
    ending = images.EXTENSIONS.get(entry.format, "")
    return FrameFacts(
        frame_id=frame_id,
        digest=entry.digest,
        width=entry.width,
        height=entry.height,
        format=entry.format,
        size_bytes=entry.size_bytes,
        captured_at=said.captured_at,
        site=said.site or site,
        vehicle=said.vehicle,
        drive=said.drive,
        camera=said.camera,
        location=said.location,
        attributes=said.attributes,
        source=entry.name,
        object_key=f"frames/{frame_id[:2]}/{frame_id}{ending}",
        preview_key=f"previews/{frame_id[:2]}/{frame_id}.jpg",
        ingested_at=now,
        object_uri=entry.uri,
    )


def _file(entry: ManifestEntry) -> SourceFile:
    local = local_path(entry.uri)
    path = entry.uri if local is None else str(local)
    return SourceFile(path=path, name=entry.name, size_bytes=entry.size_bytes, said=entry.said, digest=entry.digest)
