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

from infra.errors import InvalidInput

_LONGEST = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """A place in the order of one search.

    Attributes:
        search: Digest of the search it belongs to.
        key: Sort key of the last hit; ascending.
        row: Its row, which decides between equal keys; ascending.
        seen: Hits before this place.
        as_of: Rows the fleet had when the search began; later ones are left out.
        group_rows: One row of each group that was shown.
    """

    search: str
    key: float
    row: int
    seen: int
    as_of: int
    group_rows: tuple[int, ...] = ()


def write(cursor: Cursor) -> str:
    """The cursor as a text that an address can hold."""
    fields = [cursor.search, cursor.key, cursor.row, cursor.seen, cursor.as_of, list(cursor.group_rows)]
    return base64.urlsafe_b64encode(zlib.compress(json.dumps(fields).encode(), 9)).decode().rstrip("=")


def read(text: str, *, search: str) -> Cursor:
    """The cursor that a text holds.

    Raises:
        InvalidInput: It is none, or one of another search.
    """
    try:
        unpacker = zlib.decompressobj()
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        of_search, key, row, seen, as_of, group_rows = json.loads(unpacker.decompress(packed, _LONGEST))
        cursor = Cursor(
            search=str(of_search),
            key=float(key),
            row=int(row),
            seen=int(seen),
            as_of=int(as_of),
            group_rows=tuple(int(one) for one in group_rows),
        )
    except (binascii.Error, zlib.error, ValueError, TypeError) as exc:
        raise InvalidInput("this cursor cannot be read; begin again without one") from exc
    if cursor.search != search:
        raise InvalidInput("this cursor belongs to another search; begin again without one")
    return cursor
