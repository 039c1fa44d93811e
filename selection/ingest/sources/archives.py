"""Tar files as sources: read once from front to back, nothing is unpacked."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Self
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

    Members that point outside the archive, links and devices are rejects; so are the rest of an archive that is cut short, and what a list
    names in vain. Hidden names that no list names are left out.
    """
    meter, throttle = meter or Meter(unit="byte"), throttle or Throttle(None)
    base = archive.absolute().as_uri()
    said: dict[str, FrameMetadata] = {}
    met: set[str] = set()
    try:
        with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r|*", tarinfo=_Header) as tar:
            meter.size = archive.stat().st_size
            for member in _passing(tar, file, meter=meter, throttle=throttle):
                shown = f"{archive}!{member.name}"
                path = PurePosixPath(member.name)
                name = str(path)
                if member.isdir():
                    continue
                if name in said:
                    met.add(name)
                if path.is_absolute() or ".." in path.parts:
                    yield Reject(source=shown, reason="its name points outside the archive")
                elif name not in said and any(part.startswith(".") for part in path.parts):
                    continue
                elif not member.isfile():
                    yield Reject(source=shown, reason="a link or device, not a file")
                elif path.name == METADATA_NAME and member.size <= _LARGEST_LIST_BYTES:
                    yield from _take_list(_bytes(tar, member), said, folder=path.parent, shown=shown)
                elif member.size > LARGEST_MEMBER_BYTES:
                    yield Reject(source=shown, reason=f"the file is larger than {LARGEST_MEMBER_BYTES >> 20} MiB")
                else:
                    yield SourceFile(
                        path=_uri(base, name),
                        name=metadata.valid_text(name),
                        size_bytes=member.size,
                        said=said.get(name, FrameMetadata()),
                        data=_bytes(tar, member),
                        container=metadata.valid_text(str(archive)),
                        met=name not in said,
                    )
        for name in (name for name in said if name not in met):
            reason = "listed, but not in the archive, or before its list"
            yield Reject(source=_uri(base, name), reason=reason, kind="missing")
    except (tarfile.TarError, EOFError, OSError) as exc:
        yield Reject(source=str(archive), reason=f"the archive is damaged or cut short: {exc}")


class _Header(tarfile.TarInfo):
    """One that is damaged or cut off is an error; `tarfile` takes it for the end wherever it comes."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError as exc:  # type: ignore[attr-defined]
            raise tarfile.ReadError("it has no end mark") from exc
        except tarfile.HeaderError as exc:
            raise tarfile.ReadError(str(exc)) from exc


def _uri(base: str, name: str) -> str:
    return f"{base}#{quote(name, errors='replace')}"


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
    for number, entry in lists.read(data.splitlines(), shown=shown):
        if isinstance(entry, Reject):
            yield entry
        elif (name := posixpath.normpath(str(folder / entry.file))).startswith(("../", "/")):
            yield Reject(source=f"{shown}:{number}", reason=f"{entry.file} points outside the archive")
        else:
            said[name] = entry


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = file.read() if file is not None else b""
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name} ends after {len(data)} of {member.size} bytes")
    return data
