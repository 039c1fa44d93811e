"""One file that should become a frame, whatever kind of source it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from selection.fleet import metadata
from selection.fleet.metadata import FrameMetadata

OTHER_SUFFIXES = (
    *(
        ".csv",
        ".tsv",
        ".json",
        ".jsonl",
        ".parquet",
        ".txt",
        ".md",
        ".xml",
        ".yaml",
        ".yml",
        ".toml",
        ".html",
        ".pdf",
        ".log",
    ),
    *(".db", ".ini", ".ds_store", ".npy", ".npz", ".pcd", ".bin", ".zip", ".gz", ".sha256", ".md5"),
)
"""What lies beside images and is none: lists, notes, `Thumbs.db`, `desktop.ini`, point clouds."""


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
        met: Whether it was merely met in a folder, archive or bucket; neither a person nor a list named it.
    """

    path: str
    name: str
    size_bytes: int
    said: FrameMetadata
    digest: str | None = None
    data: bytes | None = field(default=None, repr=False)
    container: str | None = None
    track: str | None = None
    met: bool = False

    @property
    def is_other(self) -> bool:
        """Whether its name says that it is no image and nobody said that it is one."""
        return self.met and self.name.lower().endswith(OTHER_SUFFIXES)

    @property
    def uri(self) -> str:
        """Where it is, for its sighting."""
        return self.path if self.path.startswith(("s3://", "file://")) else Path(self.path).as_uri()

    @property
    def shown(self) -> str:
        """The path as it can be stored and printed."""
        return metadata.valid_text(self.path)
