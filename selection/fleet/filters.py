"""The language of the search box, the same in search, selection plans, the command line and the curator page.

    night crossing timeofday:dusk,night -weather:rain speed_kph:>40 near:35.0,137.1,5km after:2026-03-01 -"a tunnel"

Words go to the encoder, all of them as one text. `+word` or `+"some words"` is a further text to be near to, `-word` or `-"some words"` a text
to be far from. Double quotes keep what would be read as a term: `"stop: now"`.

Everything of the form `key:value` is a filter. Terms are joined by "and"; values after one key, parted by commas, by "or"; a minus in front
turns a term around. A value with spaces or commas stands in double quotes, a trailing star stands for any ending, and `key:*` means that the
key is there at all. Values are compared without regard to case. Numbers: `>40`, `>=40`, `<40`, `<=40`, and `30..50` with both ends included;
either end may be left out. Numbers are kept as doubles: whole ones beyond 2^53 are told apart only as far as those go. `after:` (from that
moment on) and `before:` take ISO 8601 times, UTC where no offset is given; `hour:7..9` asks for the hour of the day, in UTC.
`near:LATITUDE,LONGITUDE,RADIUS` takes degrees and a distance such as `500m` or `5km`. `has:location`, `has:time` and `has:KEY` ask whether
something is known at all. What later rooms know of a frame has keys too (`has:label`, `in:BATCH`), see `selection.fleet.columns.Provider`;
an attribute of such a name is reached by `attributes.NAME`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from infra.errors import InvalidInput
from selection.fleet import metadata

RESERVED_KEYS = frozenset({"after", "before", "near", "has"})
"""Keys with a meaning of their own; an attribute of that name is reached by `attributes.NAME`."""

_KEY = re.compile(r'(-?)([^\s:",*+-][^\s:",]*):')
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_BARE = re.compile(r'[^\s,"]+')
_WORD = re.compile(r"\S+")
_COMPARED = re.compile(r"(>=|<=|>|<)(.*)", re.DOTALL)
_SPANNED = re.compile(r"(.*?)\.\.(.*)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_DISTANCE = re.compile(r"(\d+\.?\d*|\.\d+)(km|m)", re.IGNORECASE)
_WORD_IS_SAFE = re.compile(r'[^\s:"+-][^\s:"]*')


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers between two ends."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False


@dataclass(frozen=True, kw_only=True)
class ValueTerm:
    """A key that must (or must not) have one of some values.

    Attributes:
        values: Case-folded; one that ends in an unquoted star is kept in `prefixes` instead, without it.
        ranges: Numbers that will do as well.
        position: Where the term begins in the text, 1 for the first character.
        origin: What the text is called in messages, `filter` or `query`.
    """

    key: str
    values: tuple[str, ...]
    prefixes: tuple[str, ...] = ()
    ranges: tuple[Range, ...] = ()
    negated: bool = False
    position: int = field(default=1, compare=False)
    origin: str = field(default="filter", compare=False)


@dataclass(frozen=True, kw_only=True)
class TimeTerm:
    """Captured at or after `moment`, or before it; frames without a time match neither."""

    is_after: bool
    moment: datetime


@dataclass(frozen=True, kw_only=True)
class NearTerm:
    """Captured within a distance of a place on the earth; or not, which frames without a location match too."""

    latitude_deg: float
    longitude_deg: float
    radius_m: float
    negated: bool = False


Term = ValueTerm | TimeTerm | NearTerm


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A parsed filter; no terms let every frame through."""

    text: str
    terms: tuple[Term, ...]


@dataclass(frozen=True, kw_only=True)
class Query:
    """All that a search box holds.

    Attributes:
        words: The text to be near to, empty without one.
        further: Further texts to be near to.
        without: Texts to be far from.
        filter: The terms among it.
    """

    words: str
    further: tuple[str, ...]
    without: tuple[str, ...]
    filter: Filter

    @property
    def texts(self) -> tuple[str, ...]:
        """Everything to be near to."""
        return (self.words, *self.further) if self.words else self.further

    def written_words(self) -> str:
        """The part that is no filter, in the language of the box."""
        plain = [word if _WORD_IS_SAFE.fullmatch(word) else _in_quotes(word) for word in self.words.split()]
        further = [f"+{_in_quotes(text)}" for text in self.further]
        return " ".join([*plain, *further, *(f"-{_in_quotes(text)}" for text in self.without)])


def parse_filter(text: str) -> Filter:
    """Reads terms alone. Whether their keys exist is for the fleet to say, see `Columns.mask`.

    Raises:
        InvalidInput: It cannot be understood, or holds words; the message names the character.
    """
    terms: list[Term] = []
    reader = _Reader(text, origin="filter")
    while reader.skip_space():
        key = _KEY.match(text, reader.at)
        if key is None:
            raise reader.refused(reader.at, f"expected key:value, found {reader.word()[:40]!r}")
        terms.append(reader.term(key))
    return Filter(text=text.strip(), terms=tuple(terms))


def parse_query(text: str) -> Query:
    """Reads what was typed into a search box: words and terms in any order.

    Raises:
        InvalidInput: It cannot be understood; the message names the character.
    """
    words: list[str] = []
    further: list[str] = []
    without: list[str] = []
    terms: list[Term] = []
    written: list[str] = []
    reader = _Reader(text, origin="query")
    while reader.skip_space():
        start = reader.at
        key = _KEY.match(text, start)
        # The time of day in "at 12:30" is no key.
        if key is not None and not key[2].isdigit():
            terms.append(reader.term(key))
            written.append(text[start : reader.at])
            continue
        sign = text[start] if text[start] in "+-" and text[start + 1 : start + 2].strip() else ""
        reader.at += len(sign)
        {"": words, "+": further, "-": without}[sign].append(reader.phrase())
    return Query(
        words=" ".join(" ".join(words).split()),
        further=tuple(further),
        without=tuple(without),
        filter=Filter(text=" ".join(written), terms=tuple(terms)),
    )


def joined(filters: Iterable[Filter]) -> Filter:
    """One filter of several, all of which must let a frame through; each term keeps the place it had in its own text."""
    listed = [one for one in filters if one.terms]
    return Filter(text=" ".join(one.text for one in listed), terms=tuple(term for one in listed for term in one.terms))


def term_text(term: Term) -> str:
    """A term as the language writes it."""
    if isinstance(term, TimeTerm):
        moment = term.moment.isoformat().replace("+00:00", "Z")
        return f"{'after' if term.is_after else 'before'}:{moment}"
    sign = "-" if term.negated else ""
    if isinstance(term, NearTerm):
        return f"{sign}near:{term.latitude_deg!r},{term.longitude_deg!r},{number_text(term.radius_m)}m"
    return f"{sign}{term.key}:{','.join(value_texts(term))}"


def value_texts(term: ValueTerm) -> list[str]:
    """Each of a term's alternatives as the language writes it."""
    prefixes = [f"{_quoted(prefix)}*" if prefix else "*" for prefix in term.prefixes]
    return [*map(_quoted, term.values), *prefixes, *map(range_text, term.ranges)]


@lru_cache(maxsize=10_000)
def value_text(value: str) -> str:
    """A value that frames have, as a term that asks for it writes it."""
    return _quoted(value.casefold())


def range_text(span: Range) -> str:
    """A range as the language writes it."""
    if span.low_open or span.high_open:
        sign, bound = (">", span.low) if span.low_open else ("<", span.high)
        return f"{sign}{number_text(bound)}"
    low, high = ("" if math.isinf(end) else number_text(end) for end in (span.low, span.high))
    return f"{low}..{high}"


def number_text(number: float) -> str:
    """The shortest writing of a number, whole ones without a point."""
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


class _Reader:
    """A place in a text, and what can be read from there on."""

    def __init__(self, text: str, *, origin: str) -> None:
        self.text = text
        self.at = 0
        self._origin = origin

    def skip_space(self) -> bool:
        """Moves on to what is next; False at the end."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.at < len(self.text)

    def word(self) -> str:
        """What stands here up to the next space, empty at the end; does not move on."""
        found = _WORD.match(self.text, self.at)
        return found[0] if found else ""

    def phrase(self) -> str:
        """A word, or what stands in quotes."""
        if self.text[self.at] == '"':
            start, quoted = self.at, self._quoted()
            if self.at < len(self.text) and not self.text[self.at].isspace():
                raise self.refused(self.at, f"expected a space after the quotation, found {self.text[self.at]!r}")
            if not quoted.strip():
                raise self.refused(start, "there are no words between these quotation marks")
            return " ".join(quoted.split())
        word = self.word()
        self.at += len(word)
        return word

    def term(self, key: re.Match[str]) -> Term:
        """Moves past a term whose key was found here."""
        start, self.at = self.at, key.end()
        negated, name = key[1] == "-", key[2]
        if name in ("after", "before"):
            return self._time(name, negated=negated, start=start)
        if name == "near":
            return self._near(negated=negated, start=start)
        values: list[str] = []
        prefixes: list[str] = []
        ranges: list[Range] = []
        for at, text, is_quoted, is_starred in self._values():
            if is_starred:
                prefixes.append(text.casefold())
            elif not is_quoted and (span := self._range(text, at=at)) is not None:
                ranges.append(span)
            else:
                values.append(text.casefold())
        return ValueTerm(
            key=name,
            values=tuple(values),
            prefixes=tuple(prefixes),
            ranges=tuple(ranges),
            negated=negated,
            position=start + 1,
            origin=self._origin,
        )

    def refused(self, at: int, problem: str) -> InvalidInput:
        """The error that points at a place in the text, counted from 0."""
        return refused(self._origin, at + 1, problem)

    def _values(self) -> list[tuple[int, str, bool, bool]]:
        """Values up to the next space: where each begins, its text, whether it stood in quotes, whether a star follows."""
        found: list[tuple[int, str, bool, bool]] = []
        while True:
            found.append(self._value())
            if self.at >= len(self.text) or self.text[self.at] != ",":
                break
            self.at += 1
        if self.at < len(self.text) and not self.text[self.at].isspace():
            raise self.refused(self.at, f"expected a space or a comma, found {self.text[self.at]!r}")
        return found

    def _value(self) -> tuple[int, str, bool, bool]:
        start = self.at
        if self.text[start : start + 1] == '"':
            value = self._quoted()
            is_starred = self.text[self.at : self.at + 1] == "*"
            self.at += is_starred
            return start, value, True, is_starred
        bare = _BARE.match(self.text, start)
        if bare is None:
            raise self.refused(start, "a value is missing")
        self.at = bare.end()
        return start, bare[0].removesuffix("*"), False, bare[0].endswith("*")

    def _quoted(self) -> str:
        quoted = _QUOTED.match(self.text, self.at)
        if quoted is None:
            raise self.refused(self.at, "this quotation mark is not closed")
        self.at = quoted.end()
        return re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL)

    def _range(self, text: str, *, at: int) -> Range | None:
        """The numbers that a value stands for; None when it is a plain text."""
        if compared := _COMPARED.fullmatch(text):
            sign, bound = compared[1], self._number(compared[2], at=at + len(compared[1]))
            if sign[0] == ">":
                return Range(low=bound, low_open=sign == ">")
            return Range(high=bound, high_open=sign == "<")
        spanned = _SPANNED.fullmatch(text)
        if spanned is None or not any(spanned.groups()) or not all(not e or _is_number(e) for e in spanned.groups()):
            return None  # Names of files and places may hold two points.
        low = float(spanned[1]) if spanned[1] else -math.inf
        high = float(spanned[2]) if spanned[2] else math.inf
        if low > high:
            raise self.refused(at, f"{text} runs backwards; write {spanned[2]}..{spanned[1]}")
        return Range(low=low, high=high)

    def _number(self, text: str, *, at: int) -> float:
        if not _is_number(text):
            raise self.refused(at, f"expected a number, found {text[:40]!r}" if text else "a number is missing")
        return float(text)

    def _time(self, name: str, *, negated: bool, start: int) -> TimeTerm:
        values = self._values()
        if negated:
            other = "before" if name == "after" else "after"
            raise self.refused(start, f"{name}: cannot be turned around, use {other}:")
        if len(values) != 1 or values[0][3]:
            raise self.refused(start, f"{name}: takes one time")
        try:
            return TimeTerm(is_after=name == "after", moment=metadata.parse_moment(values[0][1]))
        except InvalidInput as exc:
            raise self.refused(start, exc.message) from exc

    def _near(self, *, negated: bool, start: int) -> NearTerm:
        values = self._values()
        if len(values) != 3 or any(is_starred for *_, is_starred in values):
            raise self.refused(start, "near: takes latitude, longitude and distance, such as near:35.0,137.1,5km")
        (lat_at, lat, *_), (lon_at, lon, *_), (radius_at, radius, *_) = values
        latitude, longitude = self._number(lat, at=lat_at), self._number(lon, at=lon_at)
        if not -90 <= latitude <= 90:
            raise self.refused(lat_at, f"a latitude lies between -90 and 90 degrees, not {lat}")
        if not -180 <= longitude <= 180:
            raise self.refused(lon_at, f"a longitude lies between -180 and 180 degrees, not {lon}")
        distance = _DISTANCE.fullmatch(radius)
        if distance is None:
            raise self.refused(radius_at, f"expected a distance such as 500m or 5km, found {radius[:40]!r}")
        radius_m = float(distance[1]) * (1000 if distance[2].lower() == "km" else 1)
        return NearTerm(latitude_deg=latitude, longitude_deg=longitude, radius_m=radius_m, negated=negated)


def refused(origin: str, position: int, problem: str) -> InvalidInput:
    """The error of a text that cannot be used, at a character (1 is the first) of the filter or the query."""
    return InvalidInput(f"{origin}, character {position}: {problem}", position=position, origin=origin)


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and math.isfinite(float(text))


def _quoted(value: str) -> str:
    """A value, in quotes where it would otherwise be read as something else."""
    if re.fullmatch(r"[^\s\",*\\<>]+", value) and ".." not in value:
        return value
    return _in_quotes(value)


def _in_quotes(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
