"""Columns straight from BSON: many documents at once, without a Python object for each value.

The documents of a fleet have nearly the same keys in nearly the same order, so they are walked in step: the element that the document
furthest behind has next is looked for in all others, and whichever have it next too are read together, as arrays.

Source: the BSON specification, version 1.1, https://bsonspec.org/spec.html.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DOUBLE, _STRING, _DOCUMENT, _ARRAY, _ID, _BOOL, _TIME, _NULL, _INT32, _INT64 = 1, 2, 3, 4, 7, 8, 9, 10, 16, 18
_SIZES = {_DOUBLE: 8, _ID: 12, _BOOL: 1, _TIME: 8, _NULL: 0, _INT32: 4, _INT64: 8}
_NUMBERS = {_DOUBLE: "<f8", _TIME: "<i8", _INT32: "<i4", _INT64: "<i8"}
_LARGEST_STEPS = 1000


class TooVaried(Exception):
    """The documents have too little in common, or hold values of an unusual type, and are better read one by one."""


@dataclass(frozen=True, kw_only=True)
class Values:
    """What some documents have under one key, of one type.

    Attributes:
        path: The key; within a nested document the keys of both.
        kind: `number` (double or integer), `time` (milliseconds since 1970), `text`, `bool`, `pair` (an array of two doubles) or `other`
            (another array or a document, unread).
        places: Which documents, ascending, shape (M,).
        numbers: Shape (M,), for a pair (M, 2); for texts codes into `texts`.
        texts: The different texts, in order of appearance.
    """

    path: tuple[str, ...]
    kind: str
    places: NDArray[np.int64]
    numbers: NDArray[np.generic]
    texts: Sequence[str] = ()


def read(data: bytes, *, within: Sequence[str] = ()) -> tuple[int, list[Values]]:
    """All plain values of documents that lie one behind the other; nulls and ids are left out.

    Args:
        data: The documents.
        within: Keys whose documents are read as well, one level deep.
    Returns:
        The number of documents, and their values.
    Raises:
        TooVaried: Read them one by one.
    """
    starts = np.fromiter(_starts(data), dtype=np.int64)
    return len(starts), list(_values(data, starts, nested=frozenset(within))) if len(starts) else []


def _starts(data: bytes) -> Iterator[int]:
    at, unpack = 0, struct.Struct("<i").unpack_from
    while at < len(data):
        yield at
        at += unpack(data, at)[0]


def _values(data: bytes, starts: NDArray[np.int64], *, nested: frozenset[str]) -> Iterator[Values]:
    buffer = np.frombuffer(data, dtype=np.uint8)
    at, steps = starts + 4, np.zeros(len(starts), dtype=np.int64)
    inside = np.full(len(starts), -1, dtype=np.int64)  # Position in `parents` of the nested document a walk is in.
    parents: list[str] = []
    open_N = np.arange(len(starts))
    for _ in range(_LARGEST_STEPS):
        if not len(open_N):
            return
        leader = int(open_N[np.argmin(steps[open_N])])
        first = int(at[leader])
        kind = data[first]
        header = data[first : data.index(0, first + 1) + 1] if kind else b"\0"
        alike = _alike(buffer, at, open_N, header) & (inside[open_N] == inside[leader])
        places = open_N[alike]
        steps[places] += 1
        at[places] += len(header)
        if not kind:  # The end of a document.
            ended = inside[leader] < 0
            inside[places] = -1
            open_N = open_N[~alike] if ended else open_N
            continue
        key = header[1:-1].decode()
        parent = parents[inside[leader]] if inside[leader] >= 0 else None
        if kind == _DOCUMENT and parent is None and key in nested:
            at[places] += 4
            parents += [] if key in parents else [key]
            inside[places] = parents.index(key)
            continue
        found, sizes = _taken(buffer, at[places], kind)
        at[places] += sizes
        if found is not None:
            what, numbers, texts = found
            path = (key,) if parent is None else (parent, key)
            yield Values(path=path, kind=what, places=places, numbers=numbers, texts=texts)
    raise TooVaried


def _alike(
    buffer: NDArray[np.uint8], at: NDArray[np.int64], open_N: NDArray[np.int64], header: bytes
) -> NDArray[np.bool_]:
    """Which walks have this type and key next."""
    wanted = np.frombuffer(header, dtype=np.uint8)
    alike: NDArray[np.bool_] = buffer[at[open_N]] == wanted[0]
    fits = np.flatnonzero(alike & (at[open_N] + len(wanted) <= len(buffer)))
    alike[:] = False
    alike[fits] = (buffer[at[open_N[fits], np.newaxis] + np.arange(len(wanted))] == wanted).all(axis=1)
    return alike


def _taken(
    buffer: NDArray[np.uint8], at: NDArray[np.int64], kind: int
) -> tuple[tuple[str, NDArray[np.generic], Sequence[str]] | None, NDArray[np.int64] | int]:
    """Kind, numbers and texts at some places, None where they are of no interest; and how long each is."""
    if kind in _NUMBERS:
        values = _gathered(buffer, at, _NUMBERS[kind])
        return ("time" if kind == _TIME else "number", values, ()), _SIZES[kind]
    if kind == _BOOL:
        return ("bool", buffer[at], ()), 1
    if kind in _SIZES:
        return None, _SIZES[kind]
    if kind not in (_STRING, _DOCUMENT, _ARRAY):
        raise TooVaried
    lengths = _gathered(buffer, at, "<i4").astype(np.int64)
    if kind == _STRING:
        codes, texts = _texts(buffer, at + 4, lengths - 1)
        return ("text", codes, texts), lengths + 4
    if kind == _ARRAY and (lengths == 27).all():
        pairs = [_gathered(buffer, at + 7, "<f8"), _gathered(buffer, at + 18, "<f8")]
        if (buffer[at + 4] == _DOUBLE).all() and (buffer[at + 15] == _DOUBLE).all():
            return ("pair", np.stack(pairs, axis=1), ()), lengths
    return ("other", lengths, ()), lengths


def _gathered(buffer: NDArray[np.uint8], at: NDArray[np.int64], dtype: str) -> NDArray[np.generic]:
    bytes_NB = buffer[at[:, np.newaxis] + np.arange(np.dtype(dtype).itemsize)]
    return np.ascontiguousarray(bytes_NB).view(dtype)[:, 0]


def _texts(
    buffer: NDArray[np.uint8], at: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int32], list[str]]:
    """Each text's code, and the different texts."""
    import pyarrow as pa

    ends = np.cumsum(lengths)
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    joined = buffer[np.repeat(at - offsets[:-1], lengths) + np.arange(ends[-1])]
    array = pa.StringArray.from_buffers(len(at), pa.py_buffer(offsets), pa.py_buffer(joined))
    coded = array.dictionary_encode()
    codes: NDArray[np.int32] = coded.indices.to_numpy(zero_copy_only=False)
    return codes, coded.dictionary.to_pylist()
