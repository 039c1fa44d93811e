"""The lines of a `metadata.jsonl`, wherever it lies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from infra.errors import InvalidInput
from selection.fleet import metadata
from selection.fleet.metadata import FrameMetadata
from selection.ingest.rejects import Reject


def read(lines: Iterable[bytes], *, shown: str) -> Iterator[tuple[int, FrameMetadata | Reject]]:
    """What each line says, with its number; a bad one is a reject that names it.

    Args:
        shown: The list's own name.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            # Editors on some systems put a byte order mark in front.
            yield number, metadata.parse_line(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
        except InvalidInput as exc:
            yield number, Reject(source=f"{shown}:{number}", reason=f"bad metadata line {number}: {exc.message}")
