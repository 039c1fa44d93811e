"""Selecting: from a pool of rows to ranked choices, stage by stage as the plan says, each with the reason it was made.

Filters → near-duplicates → scores → caps and quotas → diversity → budget. Frames that show nothing, or resemble no other (`outliers`), come
last where the model ranks or there is none yet; a column or a concept may be after just those. Only computes: what it must know of
the fleet comes through `Sources`. The same plan, pool and sources give the same choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from selection.planning import constraints, outliers
from selection.planning.plan import COLUMN, CONCEPT, RANDOM, RARITY, SURVEYED, NearDuplicates, Plan
from selection.planning.spreading import spread
from selection.scores import calibration

COLD_START_SAMPLE = 20_000


class Sources(Protocol):
    """What a selection knows of the fleet, aligned by row."""

    def scores(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.floating] | None:
        """A score of rows, NaN where there is none; None while there is no model to give it.

        Raises:
            InvalidInput: There is no score of that name.
        """

    def embedded(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows have a vector."""

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of rows that are `embedded`, unit length, shape (len(rows), D)."""

    def codes(self, key: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """An attribute by row: the position of its value in the second result, -1 where it has none.

        Raises:
            InvalidInput: There is no such attribute.
        """

    def likeness(self) -> float:
        """Cosine similarity from which frames are near-duplicates when the plan does not say."""

    def surveyed_groups(
        self, rows: NDArray[np.int64], how: NearDuplicates, *, threshold: float
    ) -> NDArray[np.int64] | None:
        """For each row a number that its near-duplicates share, worked out beforehand; None where that was not done by these thresholds."""

    def groups(self, rows: NDArray[np.int64], how: NearDuplicates, *, threshold: float) -> NDArray[np.int64]:
        """For each row a number that its near-duplicates among these rows share; the rows are compared now."""

    def preference(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each row its place when one of a group is kept: 0 for the best picture of all, each place once."""

    def blank(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows show nothing, see `outliers.blank`."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How many frames were left after a step, and what there is to say about it."""

    name: str
    frames: int
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One chosen row.

    Attributes:
        score: The plan's score in [0, 1]; None when the row was drawn at random.
        terms: The single scores, as they were before they were put on one scale.
    """

    row: int
    score: float | None
    reason: str
    terms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a plan comes to.

    Attributes:
        stages: From the pool to the choice.
        spread: Whether embeddings had a say.
    """

    choices: list[Choice]
    stages: list[Stage]
    spread: bool = False


@dataclass(frozen=True, kw_only=True)
class _Ordered:
    """Rows in the order they would be taken.

    Attributes:
        scores: NaN where a row has none; those come last.
        scored: How many have one.
        terms: The single scores by name, in the same order.
        why: What it means that a row has no score, or is drawn.
        blank: Which show nothing; those are taken when no others are left.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    scored: int
    terms: dict[str, NDArray[np.floating]]
    why: str
    blank: NDArray[np.bool_]

    def keep(self, places: NDArray[np.int64]) -> _Ordered:
        """Only the rows at these places, in the order given."""
        scores = self.scores[places]
        return _Ordered(
            rows=self.rows[places],
            scores=scores,
            scored=int((~np.isnan(scores)).sum()),
            terms={name: values[places] for name, values in self.terms.items()},
            why=self.why,
            blank=self.blank[places],
        )

    def reason(self, place: int, *, rank: int, of: int) -> str:
        """Why the row at a place is taken, for people."""
        if np.isnan(self.scores[place]):
            return self.why
        parts = ", ".join(
            f"{name} {values[place]:.2f}" for name, values in self.terms.items() if not np.isnan(values[place])
        )
        told = parts if len(self.terms) == 1 else f"{parts}, together {self.scores[place]:.2f}"
        return f"{told} (rank {rank} of {of})"


def select(
    plan: Plan, *, pool: NDArray[np.int64], taken: NDArray[np.int64], sources: Sources, budget: int | None = None
) -> Selection:
    """Chooses rows.

    Args:
        plan: Its filters, pool and evaluation are the caller's business: `pool` is what they left.
        pool: Rows to choose from, without repeats.
        taken: Rows that are labelled or in a batch; diversity keeps away from them.
        sources: The fleet.
        budget: Rows to choose; None takes the plan's.
    Returns:
        At most `budget` choices, fewer when the pool is smaller or the caps leave no more.
    Raises:
        InvalidInput: The plan names a score, attribute or value that the fleet does not have, or nothing in the pool has a vector.
    """
    wanted = plan.budget if budget is None else budget
    stages = [Stage(name="pool", frames=len(pool))]
    if not len(pool) or wanted < 1:
        return Selection(choices=[], stages=stages)
    _check_values(plan, sources)
    if plan.near_duplicates is not None:
        pool, note = _without_near_duplicates(plan, pool, taken=taken, sources=sources)
        stages.append(Stage(name="near_duplicates", frames=len(pool), note=note))
        if not len(pool):
            return Selection(choices=[], stages=stages)
    ordered = _order(plan, pool, sources=sources)
    stages.append(_scored(ordered))
    return _Choosing(plan, ordered, taken=taken, sources=sources, budget=wanted, stages=stages).run()


def _order(plan: Plan, pool: NDArray[np.int64], *, sources: Sources) -> _Ordered:
    rng = np.random.default_rng(plan.seed)
    rows = rng.permutation(np.sort(pool))
    nothing = np.full(len(rows), np.nan, dtype=np.float32)
    blank = sources.blank(rows) if _sets_back(plan) else np.zeros(len(rows), dtype=bool)
    if plan.is_random:
        return _Ordered(rows=rows, scores=nothing, scored=0, terms={}, why="drawn at random", blank=blank)
    terms: dict[str, NDArray[np.floating]] = {}
    for term in plan.scores:
        values = rng.random(len(rows)) if term.score == RANDOM else sources.scores(term.score, rows)
        if values is not None:
            # As precise as it came, or seconds since 1970 would tie.
            terms[term.score] = np.asarray(values)
    if not set(terms) - {RANDOM}:
        why = "no model yet, so drawn at random"
        return _Ordered(rows=rows, scores=nothing, scored=0, terms={}, why=why, blank=blank)
    known = np.any([~np.isnan(values) for name, values in terms.items() if name != RANDOM], axis=0)
    if not known.any():
        raise InvalidInput(f"none of the {len(rows)} frames has a score of {', '.join(terms)} yet; {_remedy(terms)}")
    combined = _combined(plan, terms)
    combined[~known] = np.nan
    # The sort is stable and puts NaN last, so that equal scores and frames without one keep the drawn order.
    order = np.argsort(-combined, kind="stable")
    why = "drawn at random, not seen by the model yet"
    return _Ordered(rows=rows, scores=combined, scored=0, terms=terms, why=why, blank=blank).keep(order)


def _remedy(names: Iterable[str]) -> str:
    """What to do so that frames get the first of these scores."""
    first = next(name for name in names if name != RANDOM)
    if first.startswith(COLUMN) and first not in SURVEYED:
        return f"choose frames that have {first.removeprefix(COLUMN)}"
    if first in SURVEYED:
        command = "`mlpl survey`" if first == RARITY else "`mlpl survey` once some are labelled"
    else:
        command = "`mlpl embed`" if first.startswith(CONCEPT) else "`mlpl predict --task TASK`"
    return f"run {command}, or leave `mlpl serve` running"


def _scored(ordered: _Ordered) -> Stage:
    notes = [] if ordered.scored else [ordered.why]
    if ordered.blank.any():
        notes.append(f"{int(ordered.blank.sum())} show nothing and come last")
    return Stage(name="scored", frames=ordered.scored, note="; ".join(notes))


def _sets_back(plan: Plan) -> bool:
    """Whether frames that show nothing or resemble no other come last: not by chance, nor where somebody may be after just those."""
    asked = any(term.score.startswith((COLUMN, CONCEPT)) for term in plan.scores)
    return plan.pool == "unlabelled" and not plan.is_random and not asked


def _combined(plan: Plan, terms: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float32]:
    used = [term for term in plan.scores if term.score in terms]
    only = used[0]
    if len(used) == 1 and only.order == "highest" and not only.score.startswith(COLUMN):
        return terms[only.score].astype(np.float32)  # One score of the unit interval says more as it is.
    parts = [calibration.ranks(terms[term.score], lowest_first=term.order == "lowest") for term in used]
    return calibration.weighted_mean(parts, [term.weight for term in used])


def _without_near_duplicates(
    plan: Plan, pool: NDArray[np.int64], *, taken: NDArray[np.int64], sources: Sources
) -> tuple[NDArray[np.int64], str]:
    """The best picture of each group of near-duplicates, and none of a group that a taken row is in; ascending."""
    how = plan.near_duplicates
    assert how is not None
    threshold = sources.likeness() if how.threshold is None else how.threshold
    pool = np.sort(pool)
    known = taken if how.of_labelled else taken[:0]
    both = np.concatenate([known, pool])
    beyond = ""
    group = sources.surveyed_groups(both, how, threshold=threshold)
    if group is None:
        if len(pool) > how.among:
            drawn = np.sort(np.random.default_rng(plan.seed).choice(len(pool), size=how.among, replace=False))
            beyond = f"; {len(pool) - how.among} others were not looked at"
            pool = pool[drawn]
            both = np.concatenate([known, pool])
        group = sources.groups(both, how, threshold=threshold)
    taken_groups, group = group[: len(known)], group[len(known) :]
    place = sources.preference(pool)
    order = np.lexsort((place, group))
    first = np.ones(len(order), dtype=bool)
    first[1:] = group[order][1:] != group[order][:-1]
    best = np.sort(order[first])
    kept = best[~np.isin(group[best], taken_groups)]
    note = f"from likeness {threshold:g}: {len(pool) - len(best)} were near another" + (
        f", {len(best) - len(kept)} near one that is taken" if len(known) else ""
    )
    return pool[kept], note + beyond


def _check_values(plan: Plan, sources: Sources) -> None:
    for key, wanted in plan.quotas.items():
        values = sources.codes(key)[1]
        if strange := [value for value in wanted if value not in values]:
            shown = ", ".join(values[:20]) or "none"
            raise InvalidInput(f"quotas.{key}.{strange[0]}: the fleet has no such value; it has {shown}")
    for key in plan.caps:
        sources.codes(key)


class _Choosing:
    """Fills the places: first what the quotas ask for, then the rest."""

    def __init__(
        self,
        plan: Plan,
        ordered: _Ordered,
        *,
        taken: NDArray[np.int64],
        sources: Sources,
        budget: int,
        stages: list[Stage],
    ) -> None:
        self._plan = plan
        self._ordered = ordered
        self._sources = sources
        self._budget = budget
        self._stages = stages
        self._codes = {
            key: _padded(sources.codes(key)[0], ordered.rows) for key in dict.fromkeys((*plan.quotas, *plan.caps))
        }
        self._chosen: NDArray[np.int64] = np.empty(0, dtype=np.int64)  # Positions in the order.
        self._reasons: list[str] = []
        self._lone = 0
        self._sets_back = _sets_back(plan)
        self._spreads = plan.diversity.method != "none" and not plan.is_random
        self._embedded = sources.embedded(ordered.rows) if self._spreads else np.zeros(0, dtype=bool)
        if self._spreads and not self._embedded.any():
            raise InvalidInput(
                "none of these frames has a vector yet; run `mlpl embed` first, or choose --diversity none"
            )
        self._known = taken[sources.embedded(taken)] if self._spreads else taken[:0]

    def run(self) -> Selection:
        """Fills the quotas, then what is left of the budget."""
        for need in constraints.needs(self._plan, budget=self._budget):
            values = self._sources.codes(need.key)[1]
            matching = self._codes[need.key] == values.index(need.value)
            have = int(matching[self._chosen].sum())
            places = min(need.count - have, self._budget - len(self._chosen))
            found = self._fill(np.flatnonzero(matching), places, because=f", for the quota {need.name}")
            short = need.count - have - found
            note = f"{need.count} wanted, {short} missing" if short > 0 else f"{need.count} wanted"
            self._stages.append(Stage(name=f"quota {need.name}", frames=have + found, note=note))
        everything = np.arange(len(self._ordered.rows))
        self._fill(everything, self._budget - len(self._chosen), because="")
        note = f"{self._lone} that resemble no other frame were set back" if self._lone else ""
        self._stages.append(Stage(name="chosen", frames=len(self._chosen), note=note))
        return Selection(choices=self._choices(), stages=self._stages, spread=self._spreads)

    def _fill(self, eligible: NDArray[np.int64], places: int, *, because: str) -> int:
        """Takes up to so many of the eligible positions, those that show nothing last; how many it were."""
        blank = self._ordered.blank[eligible]
        found = self._take(eligible[~blank], places, because=because)
        return found + self._take(eligible[blank], places - found, because=because + ", though it shows nothing")

    def _take(self, eligible: NDArray[np.int64], places: int, *, because: str) -> int:
        free = eligible[~np.isin(eligible, self._chosen)]
        free = constraints.within_caps(self._codes, self._plan.caps, taken=self._chosen, order=free)
        places = min(places, len(free))
        if places < 1:
            return 0
        picked, reasons = self._spread(free, places) if self._spreads else (free[:places], [""] * places)
        of = self._ordered.scored
        self._reasons += [
            self._ordered.reason(place, rank=place + 1, of=of) + because + told
            for place, told in zip(picked.tolist(), reasons, strict=True)
        ]
        self._chosen = np.concatenate([self._chosen, picked])
        return len(picked)

    def _spread(self, free: NDArray[np.int64], places: int) -> tuple[NDArray[np.int64], list[str]]:
        diversity, ordered = self._plan.diversity, self._ordered
        most = places * diversity.candidates if ordered.scored else max(COLD_START_SAMPLE, places)
        scored = ~np.isnan(ordered.scores[free])
        few = int(scored.sum()) < places
        # Frames without a score only fill up, as do those without a vector.
        usable = free if few else free[scored]
        candidates = self._in_company(usable[self._embedded[usable]][:most], places)
        picked: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        if few:  # There is nothing to choose among those with a score, so only the places they leave are spread.
            set_back = self._embedded[free] & ~np.isin(free, candidates)
            picked = free[scored & ~set_back]
            candidates = candidates[np.isnan(ordered.scores[candidates])]
        reasons = [""] * len(picked)
        if len(candidates) and len(picked) < places:
            before = np.concatenate([self._chosen, picked])
            near = np.concatenate([self._known, ordered.rows[before][self._embedded[before]]])
            found = spread(
                diversity.method,
                self._sources.vectors(ordered.rows[candidates]),
                self._vectors(near, like=ordered.rows[candidates[:1]]),
                weight_N=_ones(candidates) if few else ordered.scores[candidates],
                budget=min(places - len(picked), len(candidates)),
                seed=self._plan.seed,
            )
            picked = np.concatenate([picked, candidates[found.picks].astype(np.int64)])
            reasons += [f", then {told}" for told in found.reasons]
        filler = free[~np.isin(free, picked) & ~self._embedded[free]][: places - len(picked)]
        return np.concatenate([picked, filler]), reasons + [", no vector yet"] * len(filler)

    def _in_company(self, candidates: NDArray[np.int64], places: int) -> NDArray[np.int64]:
        """The candidates but those that resemble no other frame, if that leaves enough."""
        if not self._sets_back:
            return candidates
        rows = self._ordered.rows
        lone = outliers.lone(rows[candidates], rows, self._sources, seed=self._plan.seed)
        if int((~lone).sum()) < places:
            return candidates
        self._lone += int(lone.sum())
        return candidates[~lone]

    def _vectors(self, rows: NDArray[np.int64], *, like: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of rows; of the right width when there are none."""
        return self._sources.vectors(rows) if len(rows) else self._sources.vectors(like)[:0]

    def _choices(self) -> list[Choice]:
        ordered = self._ordered
        return [
            Choice(
                row=int(ordered.rows[place]),
                score=None if np.isnan(ordered.scores[place]) else float(ordered.scores[place]),
                reason=reason,
                terms={
                    name: round(float(values[place]), 6)
                    for name, values in ordered.terms.items()
                    if not np.isnan(values[place])
                },
            )
            for place, reason in zip(self._chosen.tolist(), self._reasons, strict=True)
        ]


def _padded(codes: NDArray[np.int32], rows: NDArray[np.int64]) -> NDArray[np.int32]:
    """The codes of rows, -1 for rows that came after the column was read."""
    found = np.full(len(rows), -1, dtype=np.int32)
    inside = rows < len(codes)
    found[inside] = codes[rows[inside]]
    return found


def _ones(places: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
    return np.ones(len(places), dtype=np.float32)
