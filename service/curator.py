"""What searching and choosing need in memory: the encoder, the vector index and the filter columns, shared by all threads of a process."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from infra.errors import InvalidInput
from infra.logs import get_logger
from infra.platform import Platform
from selection import shards
from selection.embedding import encoders
from selection.fleet.filters import Filter, Term, TimeTerm, ValueTerm, parse_filter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from selection.embedding.encoders import Encoder
    from selection.embedding.index import VectorIndex
    from selection.fleet.columns import Columns
    from selection.ranking.search import Hit

log = get_logger(__name__)

_TERM = re.compile(
    r"""-?[^\s:",*-][^\s:",]*:              # key, maybe turned around
        (?:"(?:[^"\\]|\\.)*"\*?|[^\s",]+)   # value
        (?:,(?:"(?:[^"\\]|\\.)*"\*?|[^\s",]+))*(?!\S)""",
    re.VERBOSE,
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found.

    Attributes:
        hits: One page, nearest first, or last ingested first when nothing but a filter was given.
        total: Frames on all pages.
        rows: Size of the fleet that was looked at; given back as `as_of`, the next page continues this one.
        missing: Frames that have no vector yet, so that a search for likeness cannot have found them.
        took_ms: Milliseconds.
        notice: One line for people when the small encoder stands in.
    """

    hits: Sequence[Hit]
    total: int
    rows: int
    missing: int
    took_ms: float
    notice: str | None


@dataclass(frozen=True, kw_only=True)
class Facets:
    """How many frames there are of each value.

    Attributes:
        counts: Values by key, most frequent first. A key that the filter itself names is counted as if it did not, so that the other
            choices stay in sight.
        total: Frames that match the filter.
        terms: The filter, taken apart.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    total: int
    terms: tuple[Term, ...]


class Curator:
    """Loads each part when it is first asked for and refreshes it whenever it is asked for. Safe to share between threads.

    A refresh that finds nothing new costs one small query, so nothing here is ever older than the question.
    """

    def __init__(self, platform: Platform) -> None:
        """Loads nothing."""
        self._platform = platform
        # One lock a part: whoever filters does not wait while the encoder is being loaded.
        self._columns_lock, self._index_lock, self._encoder_lock = (threading.Lock() for _ in range(3))
        self._columns: Columns | None = None
        self._index: VectorIndex | None = None
        self._encoder: Encoder | None = None

    def warm_up(self) -> None:
        """Loads what the first search would wait for, if the fleet has something to search. Failing is for that search to report."""
        try:
            self.columns()
            if encoders.current_encoder_id(self._platform) is not None:
                self.index()
                self.encoder()
        except Exception as exc:
            log.warning("warm_up_failed", reason=str(exc))

    def columns(self) -> Columns:
        """The filter columns as of now."""
        from selection.fleet.columns import Columns

        with self._columns_lock:
            if self._columns is None:
                self._columns = Columns(self._platform.database)
            columns = self._columns
        columns.refresh()
        return columns

    def mask(self, where: str) -> NDArray[np.bool_]:
        """Which rows match a filter, shape (rows,); the caller's own to change.

        Raises:
            InvalidInput: The filter cannot be understood.
        """
        return self.columns().mask(where)

    def encoder_id(self) -> str:
        """The id of the fleet's encoder. Loads the encoder only when the fleet has not settled on one yet."""
        return encoders.current_encoder_id(self._platform) or self.encoder().encoder_id

    def encoder(self) -> Encoder:
        """The encoder; loading it takes seconds.

        Raises:
            BackendUnavailable: The weights that the fleet uses cannot be had on this machine.
        """
        with self._encoder_lock:
            current = encoders.current_encoder_id(self._platform)
            if self._encoder is None or current not in (None, self._encoder.encoder_id):
                self._encoder = encoders.load_encoder(self._platform)
            return self._encoder

    def index(self) -> VectorIndex:
        """The vector index as of now."""
        from selection.embedding.index import VectorIndex

        encoder_id = self.encoder_id()
        with self._index_lock:
            if self._index is None or self._index.encoder_id != encoder_id:
                self._index = VectorIndex(self._platform, encoder_id)
            index = self._index
        index.refresh()
        return index

    def search(
        self,
        *,
        text: str | None = None,
        like: str | None = None,
        image: bytes | None = None,
        where: str = "",
        k: int = 20,
        offset: int = 0,
        as_of: int | None = None,
    ) -> Found:
        """One page of the frames nearest to words, a frame or an image, within a filter; without those three, of all that match it.

        Args:
            text: Words, as one would caption a picture.
            like: A frame's id, or a unique beginning of it.
            image: The bytes of an image file.
            where: The filter, see `selection.fleet.filters`.
            k: Hits on a page.
            offset: Hits to leave out.
            as_of: `rows` of an earlier page: frames that came later do not push the ones on the next page down.

        Raises:
            InvalidInput: A bad filter or image, or several things to look for.
            NotFound: `like` is no frame.
            Conflict: `like` has no vector yet.
        """
        began = time.monotonic()
        text = text.strip() or None if text is not None else None
        columns = self.columns()
        missing = 0
        if text is None and like is None and image is None:
            hits, total = self._browse(columns, where=where, k=k, offset=offset, as_of=as_of)
        else:
            hits, total = self._rank(columns, text=text, like=like, image=image, where=where, k=k, offset=offset)
            # Shards rather than vectors are counted: a frame that cannot be read any more waits for nothing.
            missing = max(0, columns.rows - shards.row_total(self._platform.database, "vectors", self.encoder_id()))
        choice = encoders.chosen(self._platform) if text is not None or image is not None else None
        return Found(
            hits=hits,
            total=total,
            rows=columns.rows,
            missing=missing,
            took_ms=(time.monotonic() - began) * 1000,
            notice=choice.notice if choice else None,
        )

    def facets(self, where: str = "") -> Facets:
        """Counts for the filters beside the grid.

        Raises:
            InvalidInput: A bad filter.
        """
        columns = self.columns()
        asked = parse_filter(where)
        mask = columns.mask(asked)
        counts = columns.facets(mask=mask)
        for key in {_plain(term.key) for term in asked.terms if isinstance(term, ValueTerm)}:
            others = tuple(t for t in asked.terms if not (isinstance(t, ValueTerm) and _plain(t.key) == key))
            without = columns.mask(Filter(text="", terms=others))
            for name in (name for name in columns.keys if _plain(name) == key):
                counts |= columns.facets([name], mask=without)
        return Facets(counts=counts, total=int(mask.sum()), terms=asked.terms)

    def _browse(
        self, columns: Columns, *, where: str, k: int, offset: int, as_of: int | None
    ) -> tuple[Sequence[Hit], int]:
        from selection.ranking import search

        chosen = parse_filter(where)
        if chosen.terms:
            mask = columns.mask(chosen)
            total = int(mask.sum())
            later = int(mask[as_of:].sum()) if as_of is not None else 0
        else:
            total = columns.rows
            later = max(0, total - as_of) if as_of is not None else 0
        hits = search.browse(self._platform, where=chosen, k=k, offset=offset + later, columns=columns)
        return hits, total - later

    def _rank(
        self,
        columns: Columns,
        *,
        text: str | None,
        like: str | None,
        image: bytes | None,
        where: str,
        k: int,
        offset: int,
    ) -> tuple[Sequence[Hit], int]:
        import numpy as np

        from selection.ranking import search

        if sum(given is not None for given in (text, like, image)) > 1:
            raise InvalidInput("give words, an image or a frame to look for, not several of them")
        chosen = parse_filter(where)
        encoder = self.encoder() if like is None else None
        index = self.index()
        hits = search.search(
            self._platform,
            text=text,
            like=like,
            image=image,
            where=chosen,
            k=k,
            offset=offset,
            encoder=encoder,
            index=index,
            columns=columns,
        )
        total = int(index.has(np.flatnonzero(columns.mask(chosen))).sum()) if chosen.terms else index.size
        return hits, total


def split_query(query: str) -> tuple[str, str]:
    """Takes apart what was typed into one box: words for the encoder, and `key:value` terms for the filter.

    >>> split_query('night crossing timeofday:dusk -site:"north yard"')
    ('night crossing', 'timeofday:dusk -site:"north yard"')
    """
    terms: list[str] = []

    def take(found: re.Match[str]) -> str:
        if found.start() and not query[found.start() - 1].isspace():
            return found[0]
        terms.append(found[0])
        return " "

    words = _TERM.sub(take, query)
    return " ".join(words.split()), " ".join(terms)


def term_text(term: Term) -> str:
    """A term as the filter language writes it."""
    if isinstance(term, TimeTerm):
        moment = term.moment.isoformat().replace("+00:00", "Z")
        return f"{'after' if term.is_after else 'before'}:{moment}"
    values = [_quoted(value) for value in term.values] + [f"{_quoted(prefix)}*" for prefix in term.prefixes]
    return f"{'-' if term.negated else ''}{term.key}:{','.join(values)}"


def _quoted(value: str) -> str:
    if re.fullmatch(r"[^\s\",*\\]+", value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _plain(key: str) -> str:
    return key.removeprefix("attributes.")
