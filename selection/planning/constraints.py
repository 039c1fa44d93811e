"""Quotas and caps: how many frames of a kind a batch holds at least and at most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selection.planning.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Need:
    """At least `count` frames whose attribute has this value."""

    key: str
    value: str
    count: int

    @property
    def name(self) -> str:
        """As the filter language writes it."""
        return f"{self.key}:{self.value}"


def needs(plan: Plan, *, budget: int) -> list[Need]:
    """The quotas of a plan as counts, in its order; a share is one of `budget`, rounded up."""
    return [
        Need(key=key, value=value, count=quota if isinstance(quota, int) else math.ceil(quota * budget - 1e-9))
        for key, wanted in plan.quotas.items()
        for value, quota in wanted.items()
    ]


def within_caps(
    codes_by_key: Mapping[str, NDArray[np.int32]],
    caps: Mapping[str, int],
    *,
    taken: NDArray[np.int64],
    order: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Leaves out of an order what would be too many frames of one value, first come first kept.

    Args:
        codes_by_key: For each capped attribute the value's code of every position, -1 where it has none: those are not capped.
        caps: For each attribute, at most so many frames of one value.
        taken: Positions chosen before; they count.
        order: Positions in the order they would be taken.
    Returns:
        The positions that are left, in their order. Any choice of them keeps the caps.
    """
    for key, cap in caps.items():
        codes = codes_by_key[key]
        here = codes[order]
        room = cap - np.bincount(codes[taken][codes[taken] >= 0], minlength=int(codes.max(initial=-1)) + 1)
        grouped = np.argsort(here, kind="stable")
        starts = np.flatnonzero(np.diff(here[grouped], prepend=-2) != 0)
        lengths = np.diff(np.append(starts, len(here)))
        nth = np.empty(len(here), dtype=np.int64)
        nth[grouped] = np.arange(len(here)) - np.repeat(starts, lengths)
        order = order[(here < 0) | (nth < np.append(room, 0)[here])]
    return order
