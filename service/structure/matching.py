"""The rows that match a filter, and what is said where there are none yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput

if TYPE_CHECKING:
    from service.curator import Curator


def matching(curator: Curator, where: str) -> NDArray[np.int64]:
    """The rows that match, ascending.

    Raises:
        InvalidInput: The filter cannot be understood, or there is no frame at all yet.
    """
    mask = curator.mask(where)
    if not len(mask):
        raise empty_fleet()
    return np.flatnonzero(mask)


def empty_fleet() -> InvalidInput:
    """What to do when there is no frame."""
    return InvalidInput("the fleet has no frames yet; `mlpl ingest` takes them in")


def nothing_embedded(where: str) -> InvalidInput:
    """What to do when no frame that matches has a vector."""
    which = f"no frame that matches {where!r}" if where else "no frame"
    return InvalidInput(f"{which} has a vector yet; run `mlpl embed`, or leave `mlpl serve` running")
