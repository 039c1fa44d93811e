"""One file that should become a frame, whatever kind of source it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from selection.fleet import metadata
from selection.fleet.metadata import FrameMetadata


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file that should be a frame.

    Attributes:
        path: Absolute, or an `s3://` URI; of a file inside an archive or video, that one's URI with the place in it as fragment.
        name: As its dataset calls it, relative; orders frames that have no time.
        said: What the metadata says about it; empty when there is none.
        digest: SHA-256 that its bytes must have, where a manifest says so.
        data: The bytes, of a file that cannot be read again from its path; whoever made them has seen to the throttle.
        container: The archive or video it is in, as it is shown.
        track: The track that lies beside it, if any: see `selection.ingest.tracks`.
    """

    path: str
    name: str
    size_bytes: int
    said: FrameMetadata
    digest: str | None = None
    data: bytes | None = field(default=None, repr=False)
    container: str | None = None
    track: str | None = None

    @property
    def uri(self) -> str:
        """Where it is, for its sighting."""
        return self.path if self.path.startswith(("s3://", "file://")) else Path(self.path).as_uri()

    @property
    def shown(self) -> str:
        """The path as it can be stored and printed."""
        return metadata.valid_text(self.path)
