"""Tar files as sources: read once from front to back, nothing is unpacked."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import quote

from selection.fleet import metadata
from selection.fleet.metadata import METADATA_NAME, FrameMetadata
from selection.ingest.rejects import Reject
from selection.ingest.sources import lists
from selection.ingest.sources.files import SourceFile
from selection.ingest.sources.meter import Meter
from selection.ingest.throttle import Throttle

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LARGEST_MEMBER_BYTES = 256 * 1024 * 1024

_LARGEST_LIST_BYTES = 256 * 1024 * 1024


def is_archive(source: str) -> bool:
    """Whether a source that was named is a tar file."""
    path = Path(source).expanduser()
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def read(
    archive: Path, *, meter: Meter | None = None, throttle: Throttle | None = None
) -> Iterator[SourceFile | Reject]:
    """Streams the files in it, in their order. A `metadata.jsonl` speaks for the files that come after it.

    Members that point outside the archive, links and devices are rejects; so is the rest of an archive that is cut short.
    """
    meter, throttle = meter or Meter(unit="byte"), throttle or Throttle(None)
    base = archive.absolute().as_uri()
    said: dict[str, FrameMetadata] = {}
    try:
        with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r|*") as tar:
            meter.size = archive.stat().st_size
            for member in _passing(tar, file, meter=meter, throttle=throttle):
                shown = metadata.valid_text(f"{archive}!{member.name}")
                path = PurePosixPath(member.name)
                if member.isdir() or path.name.startswith("."):
                    continue
                if path.is_absolute() or ".." in path.parts:
                    yield Reject(source=shown, reason="its name points outside the archive")
                elif not member.isfile():
                    yield Reject(source=shown, reason="a link or device, not a file")
                elif path.name == METADATA_NAME and member.size <= _LARGEST_LIST_BYTES:
                    yield from _take_list(_bytes(tar, member), said, folder=path.parent, shown=shown)
                elif member.size > LARGEST_MEMBER_BYTES:
                    yield Reject(source=shown, reason=f"the file is larger than {LARGEST_MEMBER_BYTES >> 20} MiB")
                else:
                    name = metadata.valid_text(str(path))
                    yield SourceFile(
                        path=f"{base}#{quote(str(path), errors='replace')}",
                        name=name,
                        size_bytes=member.size,
                        said=said.get(name, FrameMetadata()),
                        data=_bytes(tar, member),
                        container=metadata.valid_text(str(archive)),
                        met=name not in said,
                    )
    except (tarfile.TarError, EOFError, OSError) as exc:
        yield Reject(source=metadata.valid_text(str(archive)), reason=f"the archive is damaged or cut short: {exc}")


def _passing(tar: tarfile.TarFile, file: BinaryIO, *, meter: Meter, throttle: Throttle) -> Iterator[tarfile.TarInfo]:
    """The members; of a packed archive the bytes count that were read of it, not those that come out."""

    def count() -> None:
        throttle.take(int(file.tell() - meter.position))
        meter.position = file.tell()

    for member in tar:
        count()
        yield member
    count()


def _take_list(data: bytes, said: dict[str, FrameMetadata], *, folder: PurePosixPath, shown: str) -> Iterator[Reject]:
    for _, entry in lists.read(data.splitlines(), shown=shown):
        if isinstance(entry, Reject):
            yield entry
        else:
            said[str(folder / entry.file)] = entry


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = file.read() if file is not None else b""
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name} ends after {len(data)} of {member.size} bytes")
    return data
