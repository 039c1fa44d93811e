"""What an ingest did: counted while it runs, told at its end."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from selection.ingest.rejects import Kind, Reject
from selection.ingest.tracks.joining import TrackOutcome

REPORTED_REJECTS = 1000
EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What an ingest did.

    Attributes:
        added: New frames.
        already_present: Files whose image is in the fleet already, from this run or an earlier one.
        missing: Files that a list names, or that were there a moment ago, but that are not there.
        broken: Files, lines and sources that are there but could not be used, or not to their end.
        examples: The first three of each of these two; the rejects list keeps all.
        sightings_added: Places at which a frame was found for the first time.
        metadata_kept: Of the files already present, those that said something else this time; what was said first stays.
        repaired: Frames whose file in the object store was lost or cut short and was put back.
        ignored: Files beside listed images that their `metadata.jsonl` does not list.
        other_files: Files met in folders, archives and buckets that are no images by their name and content.
        rejected_count: Missing and broken together.
        rejected: The first thousand of them.
        failed: Sources that could not be read to their end, while others could.
        tracks: What became of the tracks; None without any.
        seconds: Wall time.
    """

    added: int
    already_present: int
    missing: int
    broken: int
    examples: dict[Kind, tuple[Reject, ...]]
    sightings_added: int
    metadata_kept: int
    repaired: int
    ignored: int
    other_files: int
    rejected_count: int
    rejected: tuple[Reject, ...]
    failed: tuple[str, ...]
    tracks: TrackOutcome | None
    seconds: float

    def summary(self) -> str:
        """One line for people, and one more for each thing they might not expect."""
        rate = (self.added + self.already_present) / self.seconds if self.seconds > 0 else 0.0
        lines = [
            f"{self.added} added, {self.already_present} already present, {self.missing} missing, {self.broken} broken "
            f"in {self.seconds:.1f} s ({rate:.0f} files/s)"
        ]
        if not (self.added or self.already_present or self.missing or self.broken or self.ignored):
            lines.append("nothing to take in was found there: no image, video or line of a list")
        counts: dict[Kind, int] = {"missing": self.missing, "broken": self.broken}
        for kind, count in counts.items():
            shown = self.examples.get(kind, ())
            lines += [f"{kind} {one.source}: {one.reason}" for one in shown]
            if count > len(shown):
                lines.append(f"... and {count - len(shown)} more {kind}; `mlpl rejects` lists them")
        if (elsewhere := self.sightings_added - self.added) > 0:
            lines.append(f"{elsewhere} more places where frames of the fleet were found")
        if self.metadata_kept:
            lines.append(f"{self.metadata_kept} frames came with other metadata than before: the first metadata stays")
        if self.repaired:
            lines.append(f"{self.repaired} frames whose stored file was lost or cut short have it again")
        if self.other_files:
            lines.append(f"{self.other_files} other files were passed over: no images, by name and content")
        if self.ignored:
            lines.append(
                f"{self.ignored} files were passed over: no sound line of the metadata.jsonl beside them names them"
            )
        return "\n".join([*lines, *(self.tracks.lines() if self.tracks else ())])

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        return asdict(self)


@dataclass(kw_only=True)
class Tally:
    """The counts of an ingest under way. Safe to share between threads."""

    added: int = 0
    already_present: int = 0
    sightings_added: int = 0
    metadata_kept: int = 0
    repaired: int = 0
    ignored: int = 0
    other_files: int = 0
    counts: dict[Kind, int] = field(default_factory=lambda: {"missing": 0, "broken": 0})
    examples: dict[Kind, list[Reject]] = field(default_factory=lambda: {"missing": [], "broken": []})
    rejected: list[Reject] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(
        self,
        *,
        added: int = 0,
        already_present: int = 0,
        sightings_added: int = 0,
        metadata_kept: int = 0,
        repaired: int = 0,
        ignored: int = 0,
        other_files: int = 0,
    ) -> None:
        """Adds to what was counted so far."""
        with self._lock:
            self.added += added
            self.already_present += already_present
            self.sightings_added += sightings_added
            self.metadata_kept += metadata_kept
            self.repaired += repaired
            self.ignored += ignored
            self.other_files += other_files

    def reject(self, rejects: Sequence[Reject]) -> None:
        """Counts what could not be used."""
        with self._lock:
            for one in rejects:
                self.counts[one.kind] += 1
                if len(self.examples[one.kind]) < EXAMPLES:
                    self.examples[one.kind].append(one)
            self.rejected += rejects[: max(0, REPORTED_REJECTS - len(self.rejected))]

    def report(self, *, seconds: float, tracks: TrackOutcome | None) -> IngestReport:
        """What there is to tell."""
        return IngestReport(
            added=self.added,
            already_present=self.already_present,
            missing=self.counts["missing"],
            broken=self.counts["broken"],
            examples={kind: tuple(found) for kind, found in self.examples.items()},
            sightings_added=self.sightings_added,
            metadata_kept=self.metadata_kept,
            repaired=self.repaired,
            ignored=self.ignored,
            other_files=self.other_files,
            rejected_count=sum(self.counts.values()),
            rejected=tuple(self.rejected),
            failed=tuple(self.failed),
            tracks=tracks,
            seconds=seconds,
        )
