"""The filter language of search, selection and the curator page: `timeofday:dusk,night -weather:rain after:2026-03-01`.

Terms are joined by "and"; values after one key, parted by commas, by "or"; a minus in front turns a term around. A value with spaces or
commas stands in double quotes, a trailing star stands for any ending, and `key:*` means that the key is there at all. `after:` (from that
moment on) and `before:` take ISO 8601 times, UTC where no offset is given. Values are compared without regard to case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from infra.errors import InvalidInput
from selection.fleet import metadata

_KEY = re.compile(r'(-?)([^\s:",*-][^\s:",]*):')
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"(\*?)')
_BARE = re.compile(r'[^\s,"]+')
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, kw_only=True)
class ValueTerm:
    """A key that must (or must not) have one of some values.

    Attributes:
        values: Case-folded; one that ends in an unquoted star is kept in `prefixes` instead, without it.
        position: Where the term begins in the text, 1 for the first character.
    """

    key: str
    values: tuple[str, ...]
    prefixes: tuple[str, ...]
    negated: bool
    position: int


@dataclass(frozen=True, kw_only=True)
class TimeTerm:
    """Captured at or after `moment`, or before it; frames without a time match neither."""

    is_after: bool
    moment: datetime


Term = ValueTerm | TimeTerm


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A parsed filter; no terms let every frame through."""

    text: str
    terms: tuple[Term, ...]


def parse_filter(text: str) -> Filter:
    """Reads a filter. Whether its keys exist is for the fleet to say, see `Columns.mask`.

    Raises:
        InvalidInput: It cannot be understood; the message names the character.
    """
    terms: list[Term] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        term, at = _term(text, at)
        terms.append(term)
    return Filter(text=text.strip(), terms=tuple(terms))


def _term(text: str, start: int) -> tuple[Term, int]:
    key = _KEY.match(text, start)
    if key is None:
        word = _WORD.match(text, start)
        raise _refused(start, f"expected key:value, found {word[0][:40] if word else ''!r}")
    values: list[str] = []
    prefixes: list[str] = []
    at = key.end()
    while True:
        value, starred, at = _value(text, at)
        (prefixes if starred else values).append(value)
        if at >= len(text) or text[at] != ",":
            break
        at += 1
    if at < len(text) and not text[at].isspace():
        raise _refused(at, f"expected a space or a comma, found {text[at]!r}")
    negated, name = key[1] == "-", key[2]
    if name in ("after", "before"):
        return _time(name, values, prefixes, negated=negated, position=start), at
    folded = ValueTerm(
        key=name,
        values=tuple(value.casefold() for value in values),
        prefixes=tuple(prefix.casefold() for prefix in prefixes),
        negated=negated,
        position=start + 1,
    )
    return folded, at


def _value(text: str, at: int) -> tuple[str, bool, int]:
    """One value, whether a star follows it, and where it ends."""
    if at < len(text) and text[at] == '"':
        quoted = _QUOTED.match(text, at)
        if quoted is None:
            raise _refused(at, "this quotation mark is not closed")
        return re.sub(r"\\(.)", r"\1", quoted[1]), bool(quoted[2]), quoted.end()
    bare = _BARE.match(text, at)
    if bare is None:
        raise _refused(at, "a value is missing")
    starred = bare[0].endswith("*")
    return bare[0].removesuffix("*"), starred, bare.end()


def _time(name: str, values: list[str], prefixes: list[str], *, negated: bool, position: int) -> TimeTerm:
    if negated:
        other = "before" if name == "after" else "after"
        raise _refused(position, f"{name}: cannot be turned around, use {other}:")
    if len(values) != 1 or prefixes:
        raise _refused(position, f"{name}: takes one time")
    try:
        return TimeTerm(is_after=name == "after", moment=metadata.parse_moment(values[0]))
    except InvalidInput as exc:
        raise _refused(position, exc.message) from exc


def _refused(at: int, problem: str) -> InvalidInput:
    return InvalidInput(f"filter, character {at + 1}: {problem}", position=at + 1)
