"""Cursors: where a page of hits ended, as an opaque text that the next page is asked for with.

A cursor holds the place of the last hit in the order, not a number of hits to skip, so frames that arrive or are withdrawn in between neither
push others down nor pull them up.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from dataclasses import dataclass

import numpy as np

from infra.errors import InvalidInput

LONGEST_TEXT = 48 * 1024
"""A request whose head is longer than 64 KiB reaches no search."""
_LONGEST = 4 * 1024 * 1024
_LARGEST = 2**48


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """A place in the order of one search.

    Attributes:
        search: Digest of the search it belongs to.
        key: Sort key of the last hit; ascending.
        row: Its row, which decides between equal keys; ascending.
        seen: Hits before this place.
        as_of: Rows the fleet had when the search began; later ones are left out.
        group_rows: One row of each group that was shown. The place alone does not tell them, since the row that was shown for a group may
            have been withdrawn.
    """

    search: str
    key: float
    row: int
    seen: int
    as_of: int
    group_rows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            ValueError: One of them cannot be.
        """
        numbers = (self.row, self.seen, self.as_of)
        if self.key != self.key or min(numbers) < 0 or max(numbers) > _LARGEST:
            raise ValueError("a number of the cursor is out of range")
        if self.group_rows and not 0 <= min(self.group_rows) <= max(self.group_rows) < self.as_of:
            raise ValueError("a group of the cursor is out of range")


def write(cursor: Cursor) -> str:
    """The cursor as a text that an address can hold; `read` says so if too many groups were shown for that."""
    text = _packed(cursor, groups=_folded(cursor.group_rows))
    return text if len(text) <= LONGEST_TEXT and 4 * len(cursor.group_rows) + 1024 <= _LONGEST else _packed(cursor)


def read(text: str, *, search: str) -> Cursor:
    """The cursor that a text holds.

    Raises:
        InvalidInput: It is none, or one of another search, or more groups were shown than one holds.
    """
    try:
        unpacker = zlib.decompressobj()
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        head, newline, groups = unpacker.decompress(packed, _LONGEST).partition(b"\n")
        if not newline or not unpacker.eof:
            raise ValueError("a part of the cursor is missing")
        of_search, key, row, seen, as_of, fits = json.loads(head)
        cursor = Cursor(
            search=str(of_search),
            key=float(key),
            row=int(row),
            seen=int(seen),
            as_of=int(as_of),
            group_rows=_unfolded(groups),
        )
    except (binascii.Error, zlib.error, ValueError, TypeError, OverflowError, RecursionError) as exc:
        raise InvalidInput("this cursor cannot be read; begin again without one") from exc
    if cursor.search != search:
        raise InvalidInput("this cursor belongs to another search; begin again without one")
    if not fits:
        raise InvalidInput(
            f"{cursor.seen} groups were shown, more than a cursor holds; narrow the filter to see the others"
        )
    return cursor


def _packed(cursor: Cursor, *, groups: bytes | None = None) -> str:
    head = json.dumps([cursor.search, cursor.key, cursor.row, cursor.seen, cursor.as_of, groups is not None])
    whole = head.encode() + b"\n" + (groups or b"")
    return base64.urlsafe_b64encode(zlib.compress(whole, 9)).decode().rstrip("=")


def _folded(rows: tuple[int, ...]) -> bytes:
    """The gaps between the rows, all their lowest bytes first: most others are zero and pack to nothing."""
    gaps = np.diff(np.unique(np.array(rows, dtype=np.int64)), prepend=0)
    return gaps.astype("<u4").view(np.uint8).reshape(-1, 4).T.tobytes()


def _unfolded(data: bytes) -> tuple[int, ...]:
    gaps = np.frombuffer(data, dtype=np.uint8).reshape(4, -1).T.copy().view("<u4")
    return tuple(np.cumsum(gaps, dtype=np.int64).tolist())
