"""Cursors: what is written is read back; what was not written by us is refused, whatever it holds."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest

from infra.errors import InvalidInput
from selection.ranking import cursors
from selection.ranking.cursors import Cursor


def _forged(head: str, groups: bytes = b"") -> str:
    return base64.urlsafe_b64encode(zlib.compress(head.encode() + b"\n" + groups)).decode().rstrip("=")


def _cursor(groups: int, *, of: int = 1_000_000) -> Cursor:
    rows = np.sort(np.random.default_rng(0).permutation(of)[:groups])
    return Cursor(search="s", key=-0.25, row=7, seen=groups, as_of=of, group_rows=tuple(rows.tolist()))


@pytest.mark.parametrize("groups", [0, 1, 2, 30_000])
def test_what_is_written_is_read_back(groups: int) -> None:
    text = cursors.write(_cursor(groups))
    assert len(text) <= cursors.LONGEST_TEXT
    assert cursors.read(text, search="s") == _cursor(groups)
    without_a_value = Cursor(search="s", key=float("inf"), row=0, seen=1, as_of=1)
    assert cursors.read(cursors.write(without_a_value), search="s") == without_a_value


def test_more_groups_than_an_address_holds_are_refused_in_so_many_words() -> None:
    for many in (_cursor(200_000), _cursor(1_100_000, of=1_100_000)):
        text = cursors.write(many)
        assert len(text) < 200
        with pytest.raises(InvalidInput, match=f"{many.seen} groups were shown.*narrow the filter"):
            cursors.read(text, search="s")


@pytest.mark.parametrize(
    ("head", "groups"),
    [
        ('["s", 1.0, Infinity, 0, 9, true]', b""),
        ('["s", NaN, 1, 0, 9, true]', b""),
        ('["s", 1.0, 1, 0, -5, true]', b""),
        ('["s", 1.0, -1, 0, 9, true]', b""),
        ('["s", 1.0, 99999999999999999999, 0, 9, true]', b""),
        ('["s", 1.0, 1, 0, 5, true]', b"\x07\0\0\0"),
        ('["s", 1.0, 1, 0, 5, true]', b"\x03\0\0"),
        ('["s", 1.0, 1, 0, 5]', b""),
        ('{"s": 1}', b""),
        pytest.param("[" * 30_000, b"", id="deep"),
    ],
)
def test_a_forged_cursor_cannot_be_read(head: str, groups: bytes) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        cursors.read(_forged(head, groups), search="s")


def test_a_cursor_that_was_cut_short_cannot_be_read() -> None:
    text = cursors.write(_cursor(100))
    for end in range(0, len(text) - 1, 7):
        with pytest.raises(InvalidInput, match="cannot be read"):
            cursors.read(text[:end], search="s")
