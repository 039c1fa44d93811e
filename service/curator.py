"""What searching and choosing need in memory: the encoder, the vector index and the filter columns, shared by all threads of a process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from infra.errors import InvalidInput
from infra.logs import get_logger
from infra.platform import Platform
from selection.columnar.recent import Recent
from selection.embedding import encoders
from selection.fleet import filters
from selection.fleet.filters import Filter, Term, parse_filter
from service.batch_places import BatchPlaces
from service.structure.kept import KeptStructure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from selection.embedding.encoder import Encoder
    from selection.embedding.encoders import EncoderChoice
    from selection.embedding.index import VectorIndex
    from selection.fleet.columns import Columns, Histogram
    from selection.ranking.examples import Example
    from selection.ranking.search import Hit

log = get_logger(__name__)

LOOKS_EVERY_S = 0.25
KEPT_TEXTS = 2000


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found.

    Attributes:
        hits: One page, nearest first, or last ingested first when nothing but a filter was given.
        total: Hits on all pages.
        rows: Size of the fleet that was looked at; given back as `as_of`, the next page continues this one.
        missing: Frames that have no vector yet, so that a search for likeness cannot have found them.
        took_ms: Milliseconds.
        notice: One line for people when the small encoder stands in.
        next_cursor: For the page after this one, None at the end.
        keys: For each term of the filter which facet or histogram it chooses from, None where that is none of them.
    """

    hits: Sequence[Hit]
    total: int
    rows: int
    missing: int
    took_ms: float
    notice: str | None
    next_cursor: str | None
    keys: tuple[str | None, ...]


@dataclass(frozen=True, kw_only=True)
class Facets:
    """How many frames there are of each value.

    Attributes:
        counts: Values by key, most frequent first. A key that the filter itself names is counted as if it did not, so that the other
            choices stay in sight.
        histograms: The same for numbers, in bins.
        total: Frames that match the filter.
        terms: The filter, taken apart.
        keys: For each term which facet or histogram it chooses from, None where that is none of them.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    total: int
    terms: tuple[Term, ...]
    keys: tuple[str | None, ...]


class Curator:
    """Loads each part when it is first asked for and refreshes it whenever it is asked for, or, while it is `kept_fresh`, from a thread of
    its own every quarter of a second. Safe to share between threads.
    """

    def __init__(self, platform: Platform) -> None:
        """Loads nothing."""
        self._platform = platform
        # One lock a part: whoever filters does not wait while the encoder is being loaded.
        self._columns_lock, self._index_lock, self._encoder_lock, self._encoding = (threading.Lock() for _ in range(4))
        self._columns: Columns | None = None
        self._index: VectorIndex | None = None
        self._encoder: Encoder | None = None
        self._places = BatchPlaces(platform.database)
        self._structure = KeptStructure(platform, encoder_id=self.encoder_id)
        self._texts: Recent[NDArray[np.float32]] = Recent(KEPT_TEXTS)
        self._is_kept_fresh = False
        self._kept_choice: EncoderChoice | None = None
        self._kept_missing: int | None = None

    @contextmanager
    def kept_fresh(self) -> Iterator[None]:
        """While it lasts, a thread looks for changes, so that no search waits for the database to say that there are none."""
        stop = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(stop,), name="curator", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            self._is_kept_fresh = False
            watcher.join(timeout=10)

    def _watch(self, stop: threading.Event) -> None:
        self.warm_up()
        while not stop.is_set():
            try:
                self.refresh()
                self._is_kept_fresh = True
            except Exception as exc:
                self._is_kept_fresh = False  # Each search then looks for itself, and says what is wrong.
                log.debug("refresh_failed", reason=str(exc))
            stop.wait(LOOKS_EVERY_S)

    def refresh(self) -> None:
        """Takes in what has changed since the last time, of those parts that are loaded."""
        self._kept_choice = encoders.chosen(self._platform)
        columns, index = self._columns, self._index
        if columns is not None:
            columns.refresh()
        if index is not None:
            index.refresh()
            self._kept_missing = self._count_missing(index)

    def warm_up(self) -> None:
        """Loads what the first search would wait for, if the fleet has something to search. Failing is for that search to report."""
        try:
            self.columns()
            self._places.version()
            if encoders.current_encoder_id(self._platform) is not None:
                import torch  # noqa: F401  # Scans of the index are several times faster with it, and a frame looked for needs no encoder.

                self._search_once()
                self._text_vector("a road")
        except Exception as exc:
            log.warning("warm_up_failed", reason=str(exc))

    def _search_once(self) -> None:
        """So that the index's codes are in memory and its kernels chosen before somebody waits for it."""
        from selection.fleet import frames

        index = self.index()
        rows = index.rows()[-1:]
        if len(rows):
            index.search(index.vectors(rows), k=50)
            frames.by_rows(self._platform.database, rows.tolist())

    def columns(self) -> Columns:
        """The filter columns as of now."""
        from selection.fleet.columns import Columns
        from service.search_terms import ConceptTerms, LineTerms
        from service.structure.terms import StructureTerms

        with self._columns_lock:
            is_new = self._columns is None
            if self._columns is None:
                settings = self._platform.settings
                self._columns = Columns(
                    self._platform.database, cache=settings.home / "columns" / f"{self._platform.database.name}.npz"
                )
                self._columns.provide(LineTerms(self._platform, places=self._places))
                self._columns.provide(ConceptTerms(self._platform, index=self.index))
                self._columns.provide(StructureTerms(self._structure, self._columns))
            columns = self._columns
        if is_new or not columns.rows or not self._is_kept_fresh:
            columns.refresh()
        return columns

    def places(self) -> BatchPlaces:
        """What is labelled, and which frames batches hold."""
        return self._places

    def structure(self) -> KeptStructure:
        """What was worked out beforehand about the fleet's structure: the map."""
        return self._structure

    def mask(self, where: str) -> NDArray[np.bool_]:
        """Which rows match a filter, shape (rows,); the caller's own to change.

        Raises:
            InvalidInput: The filter cannot be understood.
        """
        return self.columns().mask(where)

    def encoder_id(self) -> str:
        """The id of the fleet's encoder. Loads the encoder only when the fleet has not settled on one yet."""
        return self._chosen() or self.encoder().encoder_id

    def encoder(self) -> Encoder:
        """The encoder; loading it takes seconds.

        Raises:
            BackendUnavailable: The weights that the fleet uses cannot be had on this machine.
        """
        with self._encoder_lock:
            current = self._chosen()
            if self._encoder is None or current not in (None, self._encoder.encoder_id):
                self._encoder = encoders.load_encoder(self._platform)
            return self._encoder

    def index(self) -> VectorIndex:
        """The vector index as of now."""
        from selection.embedding.index import VectorIndex

        encoder_id = self.encoder_id()
        with self._index_lock:
            is_new = self._index is None or self._index.encoder_id != encoder_id
            if self._index is None or is_new:
                self._index = VectorIndex(self._platform, encoder_id)
            index = self._index
        if is_new or not index.size or not self._is_kept_fresh:
            index.refresh()
        return index

    def search(
        self,
        *,
        text: str | None = None,
        like: str | None = None,
        image: bytes | None = None,
        examples: Sequence[Example] = (),
        where: Filter | str = "",
        sort: str | None = None,
        group: str | None = None,
        k: int = 20,
        offset: int = 0,
        as_of: int | None = None,
        cursor: str | None = None,
    ) -> Found:
        """One page of the frames nearest to words, frames or images, within a filter; without those, of all that match it.

        Args:
            text: Words, as one would caption a picture.
            like: A frame's id, or a unique beginning of it, or a part of a frame as `ID@x0,y0,x1,y1`.
            image: The bytes of an image file.
            examples: Further things to be near to or far from.
            where: The filter, see `selection.fleet.filters`.
            sort: See `selection.ranking.search.Request`.
            group: A key, such as `drive`: of the frames with one value only the first is a hit.
            k: Hits on a page.
            offset: Hits to leave out.
            as_of: `rows` of an earlier page: frames that came later do not push the ones on the next page down.
            cursor: `next_cursor` of the page before.

        Raises:
            InvalidInput: A bad filter, image, box, sort key or cursor.
            NotFound: `like` is no frame.
            Conflict: `like` has no vector yet.
        """
        from selection.ranking import search
        from selection.ranking.examples import Example, frame_example

        began = time.monotonic()
        asked = [Example(kind="text", value=text)] if text is not None and text.strip() else []
        asked += [frame_example(like)] if like is not None else []
        asked += [Example(kind="image", value="image", image=image)] if image is not None else []
        request = search.Request(
            examples=(*asked, *examples),
            where=parse_filter(where) if isinstance(where, str) else where,
            sort=sort,
            group=group,
            k=k,
            offset=offset,
            as_of=as_of,
            cursor=cursor,
        )
        columns = self.columns()
        index = self.index() if request.examples else None
        encoder = self.encoder() if any(one.needs_encoder for one in request.examples) else None
        page = search.find(
            self._platform, request, columns=columns, index=index, encoder=encoder, text_vector=self._text_vector
        )
        return Found(
            hits=page.hits,
            total=page.total,
            rows=page.rows,
            missing=0 if index is None else self._missing(index),
            took_ms=(time.monotonic() - began) * 1000,
            notice=self._notice() if encoder is not None else None,
            next_cursor=page.next_cursor,
            keys=tuple(map(columns.key_of, request.where.terms)),
        )

    def _chosen(self) -> str | None:
        """The id of the encoder that the fleet has settled on, one for index and encoder alike."""
        choice = self._kept_choice if self._is_kept_fresh else None
        return choice.encoder_id if choice else encoders.current_encoder_id(self._platform)

    def _text_vector(self, words: str) -> NDArray[np.float32]:
        encoder = self.encoder()
        question = (encoder.encoder_id, words)
        known = self._texts.kept(question)
        if known is not None:
            return known
        # One at a time: a model that has all cores is not faster for being asked twice at once, and who asks the same finds it kept.
        with self._encoding:
            return self._texts.get(question, lambda: encoder.encode_texts([words])[0])

    def _missing(self, index: VectorIndex) -> int:
        kept = self._kept_missing if self._is_kept_fresh else None
        return self._count_missing(index) if kept is None else kept

    def _count_missing(self, index: VectorIndex) -> int:
        # Shards rather than vectors are counted: a frame that cannot be read any more waits for nothing.
        return max(0, (self._columns.rows if self._columns is not None else 0) - index.covered)

    def _notice(self) -> str | None:
        choice = self._kept_choice if self._is_kept_fresh else encoders.chosen(self._platform)
        return choice.notice if choice else None

    def facets(self, where: Filter | str = "") -> Facets:
        """Counts for the filters beside the grid.

        Raises:
            InvalidInput: A bad filter.
        """
        from selection.fleet.facets import PLACE_KEYS

        columns = self.columns()
        asked = parse_filter(where) if isinstance(where, str) else where
        total = columns.count(asked)
        counts = columns.facets(where=asked)
        histograms = columns.histograms(asked)
        keys = tuple(map(columns.key_of, asked.terms))
        for key in {key for key in keys if key is not None and key not in PLACE_KEYS}:
            others = tuple(term for term, its_key in zip(asked.terms, keys, strict=True) if its_key != key)
            without = Filter(text="", terms=others)
            if key in histograms:
                histograms |= columns.histograms(without, names=[key])
                continue
            # Numbers may be too many to count one by one.
            with suppress(InvalidInput):
                counts |= columns.facets([key], where=without)
        return Facets(counts=counts, histograms=histograms, total=total, terms=asked.terms, keys=keys)


def parse_box(query: str, *, where: str = "") -> tuple[filters.Query, Filter]:
    """What was typed into the one box, and the filter that it makes together with one given beside it.

    Raises:
        InvalidInput: One of them cannot be understood; the message names which, and the character.
    """
    read = filters.parse_query(query)
    return read, filters.joined([parse_filter(where), read.filter])
