"""Registering frames in place from entries that carry their digests: no byte of an image is read.

Previews and statistics are a difference that `selection.ingest.previews` closes afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from infra.database import retrying
from infra.errors import InvalidInput
from infra.platform import Platform
from selection.fleet import frames
from selection.fleet.frames import FrameFacts, Sighting
from selection.ingest.manifests import ManifestEntry
from selection.pixels import images

BATCH_ENTRIES = 10_000
"""Frames of one transaction: about 6 MB of the 32 MB that DocumentDB allows, and well below its minute."""


@dataclass(frozen=True, kw_only=True)
class Registered:
    """What one batch did."""

    added: int
    already_present: int
    sightings_added: int


def register(platform: Platform, entries: Sequence[ManifestEntry], *, site: str | None, now: datetime) -> Registered:
    """Gives the entries, all of which have a digest, rows and records; those that are in the fleet already gain a sighting."""
    facts = [facts_of(entry, site=site, now=now) for entry in entries]
    added = frames.register(platform.database, facts)
    remaining = set(added)
    sightings = []
    for one in facts:
        # The first place of a new frame is in its record.
        if one.frame_id in remaining:
            remaining.discard(one.frame_id)
        else:
            sightings.append(Sighting(frame_id=one.frame_id, site=one.site, uri=one.object_uri or "", seen_at=now))
    if sightings:
        known = retrying(lambda: frames.places(platform.database, [one.frame_id for one in sightings]))
        sightings = [one for one in sightings if known.get(one.frame_id) != (one.site, one.uri)]
    return Registered(
        added=len(added),
        already_present=len(facts) - len(added),
        sightings_added=len(added) + retrying(lambda: frames.add_sightings(platform.database, sightings)),
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
