"""Selection plans: what a batch is chosen by, as a file that people write, keep and compare.

    version: 1
    where: "timeofday:night -weather:fog"         # the pool: unlabelled frames that match
    exclude: ["site:testtrack"]                   # matches leave the pool
    near_duplicates: {}                           # one frame of each group stays; or {threshold: 0.97}
    scores:                                       # acquisition; several are weighed by rank
      - entropy
      - {score: "concept:crossing", weight: 2}
      - {score: "column:speed_kph", weight: 0.5, order: lowest}
    diversity: {method: k_center_greedy, candidates: 10}
    quotas: {weather: {rain: 0.3, snow: 10}}      # at least: a share (0.3, 30%, 1.0, 100%) of the frames for training, or a count
    caps: {drive: 20}                             # of those at most, for each value
    budget: 200
    seed: 7

Everything but `version` has a default. Unknown keys are refused, by path. Frames that show nothing or resemble no other are chosen last, unless
a column or a concept ranks (`selection.planning.outliers`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationError,
    model_validator,
)

from infra.errors import InvalidInput
from selection.fleet.filters import parse_filter
from selection.ranking.acquisition import MODEL_SCORES

RANDOM = "random"
COLUMN = "column:"
CONCEPT = "concept:"
RARITY = COLUMN + "rarity"
SURVEYED = (RARITY, COLUMN + "novelty")
"""Columns that the survey of the fleet fills."""
LABEL_ERRORS = ("label_error", "disagreement")
"""Two names of one score: how little the model believes the label."""
NEIGHBOUR_ERROR = "neighbour_error"
KNOWN_SCORES = (*MODEL_SCORES, *LABEL_ERRORS, NEIGHBOUR_ERROR, RANDOM)
Method = Literal["none", "k_center_greedy", "k_means_plus_plus", "typicality"]
METHODS: tuple[Method, ...] = get_args(Method)
NAME_PATTERN = re.compile(r"[a-z0-9](?:-?[a-z0-9]){0,47}")
_PERCENT = re.compile(r"\s*(\d{1,3}(?:\.\d*)?)\s*%\s*")
MOST_BUDGET = 100_000
MOST_TERMS = 20

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
PlanName = Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN.pattern}$")]


def _filter(text: object) -> object:
    if isinstance(text, str):
        try:
            parse_filter(text)
        except InvalidInput as exc:
            raise ValueError(exc.message) from exc
    return text


def _term(value: object) -> object:
    return {"score": value} if isinstance(value, str) else value


def _score(name: object) -> object:
    if isinstance(name, str) and name not in KNOWN_SCORES and not name.startswith((COLUMN, CONCEPT)):
        raise ValueError(f"there is no score {name!r}: choose {', '.join(KNOWN_SCORES)}, column:KEY or concept:NAME")
    return name


def _terms(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _method(value: object) -> object:
    return {"method": value} if isinstance(value, str) else value


def _quota(value: object) -> object:
    percent = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    return float(percent[1]) / 100 if percent else value


def _quota_text(quota: float) -> int | float | str:
    return "100%" if isinstance(quota, float) and quota == 1.0 else quota  # Many readers of JSON take 1.0 for 1.


FilterText = Annotated[str, BeforeValidator(_filter)]
Quota = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0.0, le=1.0)],
    BeforeValidator(_quota),
    PlainSerializer(_quota_text, when_used="json"),
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ScoreTerm(_Part):
    """One score and how much it counts.

    Attributes:
        score: A score of the model's predictions (`entropy`, `bald`, ...; for boxes also `entropy_mean` and `entropy_sum`, for pixels
            `entropy_top`), `label_error` (model against label) and `neighbour_error` (label against those of the frames around it), both for
            `pool: labelled`, `column:KEY` (any numeric column), `concept:NAME` (a saved concept), or `random`.
        weight: Against the other terms.
        order: Which end of the score is wanted.
    """

    score: Annotated[Name, BeforeValidator(_score)]
    weight: float = Field(default=1.0, gt=0.0, le=1e6)
    order: Literal["highest", "lowest"] = "highest"


class NearDuplicates(_Part):
    """How alike two frames must be for one of them to leave: of each group of the pool the sharpest and best exposed stays.

    The fleet's survey answers for its own thresholds (the defaults here); for others the frames of the pool are compared anew.

    Attributes:
        threshold: Cosine similarity from which two frames are the same scene. None: the survey's, or what the encoder's vectors say
            (`selection.near_duplicates.calibration.calibrated_threshold`).
        max_hamming: Bits in which the perceptual hashes of two frames of the same scene may differ. None: embeddings alone count.
        among: When frames are compared anew, so many of the pool are, drawn at random; the others leave. Bounds the time.
        of_labelled: Groups of which a frame is labelled or in a batch leave, too.
    """

    threshold: float | None = Field(default=None, ge=0.5, le=1.0)
    max_hamming: int | None = Field(default=4, ge=0, le=12)
    among: int = Field(default=100_000, ge=1, le=5_000_000)
    of_labelled: bool = True


class Diversity(_Part):
    """How a batch is spread over the embedding space.

    Attributes:
        candidates: The method picks among so many of the best frames for each place.
    """

    method: Method = "k_center_greedy"
    candidates: int = Field(default=10, ge=1, le=10_000)


class Plan(_Part):
    """A selection plan.

    Attributes:
        version: Of this schema.
        pool: `unlabelled` frames, or `labelled` ones, to have doubtful labels looked at again.
        exclude_frames: Their ids, or unique beginnings of them.
        evaluation: How many of the budget are drawn at random from the drives held out for testing. None: the Data Line's habit.
        quotas: For each attribute and value, how many frames at least: a share (0.3, 1.0, "100%") or a count (10, 1). Quotas and caps are
            for the training part of the batch: evaluation frames are drawn by chance alone, else they would not speak for the fleet.
        caps: For each attribute, how many frames of one value at most.
    """

    version: Literal[1]
    name: PlanName | None = None
    description: str = Field(default="", max_length=2000)
    pool: Literal["unlabelled", "labelled"] = "unlabelled"
    where: FilterText = ""
    exclude: list[FilterText] = Field(default_factory=list, max_length=100)
    exclude_frames: list[Name] = Field(default_factory=list, max_length=MOST_BUDGET)
    near_duplicates: NearDuplicates | None = None
    scores: Annotated[
        list[Annotated[ScoreTerm, BeforeValidator(_term)]],
        BeforeValidator(_terms),
        Field(min_length=1, max_length=MOST_TERMS),
    ] = [ScoreTerm(score="entropy")]
    diversity: Annotated[Diversity, BeforeValidator(_method)] = Diversity()
    quotas: dict[Name, dict[Name, Quota]] = Field(default_factory=dict, max_length=20)
    caps: dict[Name, Annotated[int, Field(ge=1)]] = Field(default_factory=dict, max_length=20)
    budget: int = Field(default=100, ge=1, le=MOST_BUDGET)
    evaluation: int | None = Field(default=None, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _check(self) -> Plan:
        names = [term.score for term in self.scores]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"scores: {twice[0]!r} is given twice")
        for key, wanted in self.quotas.items():
            if (shares := sum(share for share in wanted.values() if isinstance(share, float))) > 1.0 + 1e-9:
                raise ValueError(f"quotas.{key}: the shares add up to {shares:g}, more than the whole budget")
            if (counts := sum(count for count in wanted.values() if isinstance(count, int))) > self.budget:
                raise ValueError(f"quotas.{key}: {counts} frames are asked for, the budget is {self.budget}")
        if self.evaluation is not None and self.evaluation > self.budget:
            raise ValueError(f"evaluation: of {self.budget} frames, {self.evaluation} cannot be for evaluation")
        if self.pool == "unlabelled" and (
            about_labels := [name for name in names if name in (*LABEL_ERRORS, NEIGHBOUR_ERROR)]
        ):
            raise ValueError(f"scores: {about_labels[0]} is about labels that are there; it needs `pool: labelled`")
        if self.pool == "labelled" and self.evaluation:
            raise ValueError("evaluation: frames that are labelled already are not drawn for evaluation")
        return self

    @property
    def is_random(self) -> bool:
        """Nothing but chance decides, so nothing is spread either."""
        return [term.score for term in self.scores] == [RANDOM]

    def document(self) -> dict[str, Any]:
        """As plain values; `parse` reads them back."""
        return self.model_dump(mode="json")


def parse(value: object, *, source: str = "plan") -> Plan:
    """Checks a plan given as plain values.

    Args:
        value: What JSON or YAML held.
        source: Named in the message.
    Raises:
        InvalidInput: Names the path of the first wrong field, and all of them in its details.
    """
    if isinstance(value, Plan):
        return value
    if not isinstance(value, dict):
        raise InvalidInput(f"{source} is no mapping of keys to values; it begins with `version: 1`")
    if "version" not in value:
        raise InvalidInput(f"{source}: version is missing; this release reads `version: 1`")
    try:
        return Plan.model_validate(value)
    except ValidationError as exc:
        problems = [{"where": _path(one["loc"]), "problem": _said(one)} for one in exc.errors(include_url=False)]
        raise InvalidInput(f"{source}: {_line(problems[0])}" + _more(problems), problems=problems) from exc


def read(text: str, *, source: str = "plan") -> Plan:
    """Reads the text of a plan file: YAML, of which JSON is a part.

    Raises:
        InvalidInput: As in `parse`, or the text is not YAML; the message names the line.
    """
    import yaml

    try:
        value = _json_or_yaml(text)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InvalidInput(f"{source} is not YAML: {where}{getattr(exc, 'problem', None) or exc}") from exc
    except RecursionError as exc:
        raise InvalidInput(f"{source} is nested too deep for a plan") from exc
    except (ValueError, LookupError, AttributeError) as exc:
        # YAML knows dates and binary numbers, and its reader stumbles over `2026-02-30` and `0b_`.
        raise InvalidInput(f"{source} is not YAML: a value cannot be read ({exc}); put texts in quotes") from exc
    return parse(value, source=source)


def _json_or_yaml(text: str) -> object:
    import yaml

    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)  # Not all JSON is YAML as YAML 1.1 has it: tabs, 1e-3.
        except json.JSONDecodeError:
            pass  # A mapping of YAML may begin so too.
    return yaml.safe_load(text)


def read_file(path: Path) -> Plan:
    """Reads a plan file.

    Raises:
        InvalidInput: It cannot be read, or as in `read`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise InvalidInput(f"cannot read plan {path}: {reason}") from exc
    return read(text, source=str(path))


def render(plan: Plan) -> str:
    """A plan as YAML, without what is at its default."""
    import yaml

    shown = {"version": plan.version} | plan.model_dump(mode="json", exclude_defaults=True)
    text: str = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    return text


def short_form(
    *,
    budget: int = 100,
    acquisition: str = "entropy",
    diversity: str | None = "k_center_greedy",
    where: str = "",
    seed: int = 0,
    evaluation: int | None = None,
    candidates: int = 10,
) -> Plan:
    """The plan behind `mlpl batch create`: one score (or several, joined by commas) and one diversity.

    Raises:
        InvalidInput: As in `parse`.
    """
    fields: dict[str, Any] = {
        "version": 1,
        "budget": budget,
        "scores": [name.strip() for name in acquisition.split(",")],
        "diversity": {"method": diversity or "none", "candidates": candidates},
        "where": where,
        "seed": seed,
        "evaluation": evaluation,
    }
    return parse(fields)


def _path(location: tuple[int | str, ...]) -> str:
    """`scores.1.weight`, as one would point into the file; pydantic's names for the branches of a union are left out."""
    parts = [
        str(part) for part in location if not (isinstance(part, str) and part.startswith(("constrained-", "function-")))
    ]
    while parts and parts[-1] in ("int", "float"):
        parts.pop()
    return ".".join(parts)


def _said(problem: Any) -> str:
    message: str = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return "there is no such key"
    return message[:1].lower() + message[1:]


def _line(problem: dict[str, str]) -> str:
    return f"{problem['where']}: {problem['problem']}" if problem["where"] else problem["problem"]


def _more(problems: list[dict[str, str]]) -> str:
    others = len({problem["where"] for problem in problems}) - 1
    return f" (and {others} more)" if others > 0 else ""
