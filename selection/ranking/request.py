"""What a search is asked for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from infra.errors import InvalidInput
from selection.fleet.filters import Filter, term_text
from selection.ranking.examples import Example

SIMILARITY = "similarity"
NEWEST = "-row"
NO_FILTER = Filter(text="", terms=())


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to look for.

    Attributes:
        examples: What to be near to and far from; none means everything that passes the filter.
        sort: `similarity`, or a key with numbers, `captured` or `row` (order of ingest), with a minus in front for descending. None: by
            similarity where there are examples, else last ingested first. With examples another order is that of the nearest thousand, and so are
            the groups.
        group: A key with texts: of all frames with one value only the first is a hit.
        k: Hits on a page.
        offset: Hits to leave out.
        as_of: Rows of the fleet to look at; later ones are left out. None: all.
        cursor: Where the page before ended.
    """

    examples: tuple[Example, ...] = ()
    where: Filter = NO_FILTER
    sort: str | None = None
    group: str | None = None
    k: int = 20
    offset: int = 0
    as_of: int | None = None
    cursor: str | None = None

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            InvalidInput: Names what cannot be.
        """
        if self.k < 1 or self.offset < 0:
            raise InvalidInput(f"k must be at least 1 and offset at least 0, not {self.k} and {self.offset}")
        if self.sort == SIMILARITY and not self.examples:
            raise InvalidInput("nothing was given to be similar to; give words, an image or a frame")

    @property
    def order(self) -> str:
        """What the hits are sorted by."""
        return self.sort or (SIMILARITY if self.examples else NEWEST)

    @property
    def digest(self) -> str:
        """Tells this search from others, whatever the page."""
        told = [[one.written() for one in self.examples], [term_text(term) for term in self.where.terms]]
        return hashlib.sha256(json.dumps([*told, self.order, self.group]).encode()).hexdigest()[:12]
