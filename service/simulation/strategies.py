"""Strategies by name: each is a selection plan of the product, nothing of its own.

`random`, an acquisition function (`entropy`), a diversity function (`k_center_greedy`), both joined by a plus
(`margin+k_center_greedy`), a plan file (`rare.yaml`), or `default`, which is what `mlpl batch create` does when it is told nothing.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.errors import InvalidInput
from selection.planning import plan as plans
from selection.planning.plan import COLUMN, METHODS, RANDOM, Plan
from selection.ranking.acquisition import SCORES
from service.data_line import BatchRequest

DEFAULT = "default"
DIVERSITIES = tuple(method for method in METHODS if method != "none")
NAMES = (RANDOM, DEFAULT, *SCORES, *DIVERSITIES)
PLAN_FILES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A way to choose.

    Attributes:
        usual: The plan, but for budget and seed, which are the round's.
        asks_model: Whether the newest model's predictions rank the pool. Without, each round is a cold start: diversity alone.
    """

    name: str
    usual: Plan
    asks_model: bool

    def plan(self, *, budget: int, seed: int) -> Plan:
        """The plan of one round."""
        return self.usual.model_copy(update={"budget": budget, "seed": seed})


def parse(text: str) -> list[Strategy]:
    """Reads names separated by commas.

    Raises:
        InvalidInput: A name is unknown, given twice, or joined in a way that means nothing; a plan cannot be read or simulated.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise InvalidInput(f"--strategies {text!r} must name strategies, each once; known are {', '.join(NAMES)}")
    return [_one(name) for name in names]


def _one(name: str) -> Strategy:
    if name == DEFAULT:
        return _of_plan(name, BatchRequest(task_id="").as_plan())
    if name.endswith(PLAN_FILES):
        return _of_plan(name, plans.read_file(Path(name)))
    if name == RANDOM:
        return _of_plan(name, plans.short_form(acquisition=RANDOM, diversity=None))
    parts = name.split("+")
    acquisition, diversity = _only(parts, SCORES), _only(parts, DIVERSITIES)
    if len(parts) != (acquisition is not None) + (diversity is not None):
        raise InvalidInput(
            f"there is no strategy {name!r}; known are {', '.join(NAMES)}, an acquisition function joined with a "
            f"diversity by a plus, as in entropy+{DIVERSITIES[0]}, and plan files ({', '.join(PLAN_FILES)})"
        )
    usual = plans.short_form(acquisition=acquisition or next(iter(SCORES)), diversity=diversity)
    return Strategy(name=name, usual=usual, asks_model=acquisition is not None)


def _of_plan(name: str, plan: Plan) -> Strategy:
    scores = [term.score for term in plan.scores]
    if unknown := [score for score in scores if score not in (*SCORES, RANDOM) and not score.startswith(COLUMN)]:
        raise InvalidInput(
            f"{name}: a simulation has no score {unknown[0]!r}; use {', '.join(SCORES)}, {RANDOM} or {COLUMN}NAME in plans to simulate"
        )
    if plan.pool != "unlabelled":
        raise InvalidInput(f"{name}: pool: {plan.pool} cannot be simulated, only unlabelled frames are chosen")
    return Strategy(name=name, usual=plan, asks_model=any(score in SCORES for score in scores))


def _only(parts: Sequence[str], known: Container[str]) -> str | None:
    found = [part for part in parts if part in known]
    return found[0] if len(found) == 1 else None
