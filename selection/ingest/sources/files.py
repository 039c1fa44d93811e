"""One file that should become a frame, whatever kind of source it comes from."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from selection.fleet import metadata
from selection.fleet.metadata import FrameMetadata

_PICTURE_SUFFIX = re.compile(
    r"(\.(jpe?g|jpe|jfif|mpo|a?png|webp|avif|gif|tiff?|bmp|dib|p[bgnp]m|jp2|j2[ck]|jp[cfx]|hei[cf]|hif|jxl|dng|raw|cr[23]|nef|arw|rw2|orf|raf"
    r"|mp4|m4v|mkv|webm|avi|mov|mpe?g|m?ts|m2ts|wmv|flv|h26[45]|hevc|\d+))?"
)
"""Of pictures and videos, those included that cannot be read: a camera may well write them, so people must hear of it. So do names without
a suffix or with a mere number, as images often have."""


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
        """Whether nobody said that it is an image, nor does its name: a list, a note, `Thumbs.db`, a recording of other sensors."""
        return self.met and not _PICTURE_SUFFIX.fullmatch(PurePosixPath(self.name).suffix.lower())

    @property
    def may_be_note(self) -> bool:
        """Whether nobody said that it is an image or video, and its name does not tell: licences and notes have none, and TypeScript is `.ts`."""
        suffix = PurePosixPath(self.name).suffix.lower()
        return self.met and (suffix == ".ts" or not suffix.lstrip(".").strip("0123456789"))

    @property
    def uri(self) -> str:
        """Where it is, for its sighting."""
        return self.path if self.path.startswith(("s3://", "file://")) else Path(self.path).as_uri()

    @property
    def shown(self) -> str:
        """The path as it can be stored and printed."""
        return metadata.valid_text(self.path)


def is_text(data: bytes) -> bool:
    """Whether bytes begin as something that people write."""
    try:
        head = codecs.getincrementaldecoder("utf-8")().decode(data[:4096])
    except UnicodeDecodeError:
        return False
    return bool(head) and all(one.isprintable() or one.isspace() for one in head)
