"""Strategies by name: each is a selection plan of the product, nothing of its own.

`random`, an acquisition function (`entropy`), a diversity function (`k_center_greedy`), both joined by a plus
(`margin+k_center_greedy`), or `default`, which is what `mlpl batch create` does when it is told nothing.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from infra.errors import InvalidInput
from selection.planning.plan import METHODS, RANDOM, Plan, short_form
from selection.ranking.acquisition import SCORES
from service.data_line import BatchRequest

DEFAULT = "default"
DIVERSITIES = tuple(method for method in METHODS if method != "none")
NAMES = (RANDOM, DEFAULT, *SCORES, *DIVERSITIES)


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A way to choose.

    Attributes:
        asks_model: Whether the newest model's predictions rank the pool. Without, each round is a cold start: diversity alone.
    """

    name: str
    acquisition: str
    diversity: str | None
    asks_model: bool

    def plan(self, *, budget: int, seed: int) -> Plan:
        """The plan of one round."""
        return short_form(budget=budget, acquisition=self.acquisition, diversity=self.diversity, seed=seed)


def parse(text: str) -> list[Strategy]:
    """Reads names separated by commas.

    Raises:
        InvalidInput: A name is unknown, given twice, or joined in a way that means nothing.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise InvalidInput(f"--strategies {text!r} must name strategies, each once; known are {', '.join(NAMES)}")
    return [_one(name) for name in names]


def _one(name: str) -> Strategy:
    if name == DEFAULT:
        usual = BatchRequest(task_id="")
        return Strategy(
            name=name, acquisition=usual.acquisition, diversity=usual.diversity, asks_model=usual.acquisition != RANDOM
        )
    parts = name.split("+")
    if name == RANDOM:
        return Strategy(name=name, acquisition=RANDOM, diversity=None, asks_model=False)
    acquisition, diversity = _only(parts, SCORES), _only(parts, DIVERSITIES)
    if len(parts) != (acquisition is not None) + (diversity is not None):
        raise InvalidInput(
            f"there is no strategy {name!r}; known are {', '.join(NAMES)}, and an acquisition function joined with a "
            f"diversity by a plus, as in entropy+{DIVERSITIES[0]}"
        )
    return Strategy(
        name=name,
        acquisition=acquisition or next(iter(SCORES)),
        diversity=diversity,
        asks_model=acquisition is not None,
    )


def _only(parts: Sequence[str], known: Container[str]) -> str | None:
    found = [part for part in parts if part in known]
    return found[0] if len(found) == 1 else None
