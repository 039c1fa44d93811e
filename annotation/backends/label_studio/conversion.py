"""Between our records and Label Studio's JSON. Pure: no network, no clock.

How an annotator says what:

- `classification`: one radio button, required.
- `multilabel`: any number of check boxes, none required. Submitting with no box ticked is an answer and means that the frame shows none
  of the classes; "Skip" means that the annotator does not answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast, get_args
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree as ET

from annotation.backends.protocol import Annotation, TicketFrame
from annotation.tasks import Task, TaskKind
from infra.errors import InvalidInput

Json = dict[str, Any]

CONTROL = "label"
IMAGE = "image"
QUESTIONS: Mapping[TaskKind, str] = {
    "classification": "What is this? Choose one.",
    "multilabel": "Tick everything that can be seen; submit with nothing ticked if none of it is there.",
}

_MARK = "MLPL "
_TITLE_LENGTH = range(3, 51)
_SHOWN_FROM_PROBABILITY = 0.5


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the people of a project are asked, as the last line of its description keeps it.

    It is both how the project of a task is found again and what answers are checked against, whatever became of the task since.

    Attributes:
        owner: Who made the project; several installations of MLPL may share a server.
    """

    owner: str
    task_id: str
    kind: TaskKind
    classes: tuple[str, ...]
    version: int


# -- to Label Studio ---------------------------------------------------------------------------------------------------------


def question_of(task: Task, *, owner: str) -> Question:
    """What a task asks.

    Raises:
        InvalidInput: Label Studio is not used for tasks of this kind yet.
    """
    if task.kind not in QUESTIONS:
        raise InvalidInput(
            f"task {task.task_id} is of kind {task.kind}, which cannot be sent to Label Studio yet; "
            f"served are {' and '.join(QUESTIONS)}",
            task_id=task.task_id,
        )
    return Question(owner=owner, task_id=task.task_id, kind=task.kind, classes=task.classes, version=task.version)


def label_config(question: Question) -> str:
    """The labelling screen, in Label Studio's XML."""
    view = ET.Element("View")
    ET.SubElement(view, "Header", value=QUESTIONS[question.kind])
    ET.SubElement(view, "Image", name=IMAGE, value=f"${IMAGE}", zoom="true", zoomControl="true")
    single = question.kind == "classification"
    choices = ET.SubElement(
        view,
        "Choices",
        name=CONTROL,
        toName=IMAGE,
        choice="single-radio" if single else "multiple",
        required="true" if single else "false",
        showInline="true",
    )
    for name in question.classes:
        ET.SubElement(choices, "Choice", value=name)
    ET.indent(view)
    return ET.tostring(view, encoding="unicode")


def project_title(question: Question) -> str:
    """Title of the task's project, within the length that Label Studio takes."""
    title = f"MLPL {question.task_id}"
    return title[: _TITLE_LENGTH[-1]]


def project_description(question: Question) -> str:
    """Description of the task's project; `read_question` reads it back."""
    mark = {
        "owner": question.owner,
        "task": question.task_id,
        "kind": question.kind,
        "classes": list(question.classes),
        "version": question.version,
    }
    return (
        f"Made by MLPL, which finds this project by the next line: please leave it as it is.\n{_MARK}{json.dumps(mark)}"
    )


def task_json(frame: TicketFrame, *, batch_id: str, question: Question, model_version: str | None) -> Json:
    """A Label Studio task for a frame. Both `data` (can be filtered) and `meta` (not shown) carry the ids."""
    ids = {"frame_id": str(frame.frame_id), "batch_id": batch_id}
    made: Json = {"data": {IMAGE: frame.image_url, **ids, "rank": frame.rank}, "meta": ids}
    if frame.prediction is not None and model_version is not None:
        made["predictions"] = [prediction_json(frame.prediction, question=question, model_version=model_version)]
    return made


def prediction_json(probabilities: Mapping[str, float], *, question: Question, model_version: str) -> Json:
    """A pre-annotation: the classes that the model would choose, and how sure it is of the whole answer.

    `score` is a confidence in [0, 1]: the probability of the chosen class, or for `multilabel` the mean over the classes of the
    probability of what was decided about each.

    Raises:
        InvalidInput: A probability for something that is no class of the task, or outside [0, 1].
    """
    unknown = sorted(set(probabilities) - set(question.classes))
    if unknown:
        raise InvalidInput(f"the model predicts {unknown[0]!r}, which is no class of task {question.task_id}")
    known = {name: float(probabilities[name]) for name in question.classes if name in probabilities}
    if not known or not all(0.0 <= value <= 1.0 for value in known.values()):
        raise InvalidInput(f"predictions for task {question.task_id} must be probabilities between 0 and 1")
    if question.kind == "classification":
        best = max(known, key=lambda name: known[name])
        chosen, confidence = [best], known[best]
    else:
        chosen = [name for name, value in known.items() if value >= _SHOWN_FROM_PROBABILITY]
        confidence = sum(max(value, 1.0 - value) for value in known.values()) / len(known)
    return {"model_version": model_version, "score": round(confidence, 6), "result": choices_json(chosen)}


def choices_json(names: Sequence[str]) -> list[Json]:
    """The `result` of an annotation or prediction that chooses these classes."""
    if not names:
        return []
    return [{"from_name": CONTROL, "to_name": IMAGE, "type": "choices", "value": {"choices": list(names)}}]


def batch_filter(batch_id: str) -> Json:
    """Filter for the tasks of a batch."""
    return {"filter": "filter:tasks:data.batch_id", "operator": "equal", "type": "String", "value": batch_id}


def unanswered_filters() -> list[Json]:
    """Filters for tasks with neither an answer nor a skip."""
    return [_number("total_annotations", "equal", 0), _number("cancelled_annotations", "equal", 0)]


def answered_filters() -> list[Json]:
    """Filters for tasks with an answer."""
    return [_number("total_annotations", "greater", 0)]


def skipped_filters() -> list[Json]:
    """Filters for tasks that were skipped and not answered."""
    return [_number("total_annotations", "equal", 0), _number("cancelled_annotations", "greater", 0)]


def after_filter(task_id: int) -> Json:
    """Filter for tasks with a larger id."""
    return _number("id", "greater", task_id)


def updated_filter(since: datetime) -> Json:
    """Filter for tasks whose answers changed after a time."""
    value = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"filter": "filter:tasks:updated_at", "operator": "greater", "type": "Datetime", "value": value}


def query(filters: Sequence[Json]) -> str:
    """The query for a list of tasks that satisfy all filters, in the order of their ids."""
    return json.dumps({"filters": {"conjunction": "and", "items": list(filters)}, "ordering": ["tasks:id"]})


def _number(column: str, operator: str, value: int) -> Json:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": "Number", "value": value}


# -- from Label Studio -------------------------------------------------------------------------------------------------------


def read_question(description: str | None) -> Question | None:
    """What a project asks, from its description; None for a project that is not ours or whose line somebody changed."""
    for line in reversed((description or "").splitlines()):
        if line.startswith(_MARK):
            try:
                mark = json.loads(line.removeprefix(_MARK))
                question = Question(
                    owner=str(mark["owner"]),
                    task_id=str(mark["task"]),
                    kind=mark["kind"],
                    classes=tuple(map(str, mark["classes"])),
                    version=int(mark["version"]),
                )
            except (ValueError, KeyError, TypeError):
                return None
            return question if question.kind in get_args(TaskKind) else None
    return None


def read_annotation(raw: Mapping[str, Any], *, question: Question, people: Mapping[int, str]) -> Annotation:
    """One annotation as the REST API gives it. Whatever cannot be read exactly is a `problem`, never a guess.

    Args:
        people: Address of each user id.
    """
    skipped = bool(raw.get("was_cancelled"))
    value, problem = ((), None) if skipped else _read_choices(raw.get("result"), question=question)
    lead_time = raw.get("lead_time")
    return Annotation(
        external_id=str(raw["id"]),
        annotator=_read_person(raw.get("completed_by"), people=people),
        state="skipped" if skipped else "labelled",
        value=value,
        updated_at=read_time(raw["updated_at"]),
        problem=problem,
        lead_time_s=float(lead_time) if isinstance(lead_time, int | float) else None,
    )


def read_time(value: str | datetime) -> datetime:
    """A time of Label Studio's, in UTC."""
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _read_choices(result: object, *, question: Question) -> tuple[tuple[str, ...], str | None]:
    if not isinstance(result, list):
        return (), "the annotation has no list of results"
    names: list[str] = []
    for item in result:
        if not isinstance(item, Mapping):
            return (), f"the annotation has a result that is no object: {str(item)[:80]}"
        if item.get("from_name") != CONTROL or item.get("type") != "choices":
            return tuple(names), f"the answer comes from control {item.get('from_name')!r}, which MLPL did not make"
        chosen = item["value"].get("choices") if isinstance(item.get("value"), Mapping) else None
        if not isinstance(chosen, list) or not all(isinstance(name, str) for name in chosen):
            return tuple(names), "the answer has no list of choices"
        names += cast(list[str], chosen)
    unique = tuple(dict.fromkeys(names))
    unknown = [name for name in unique if name not in question.classes]
    if unknown:
        return unique, f"{unknown[0]!r} is no class of task {question.task_id}"
    if question.kind == "classification" and len(unique) != 1:
        return (
            unique,
            "no class was chosen" if not unique else f"{len(unique)} classes were chosen where one is asked for",
        )
    return tuple(name for name in question.classes if name in unique), None


def _read_person(completed_by: object, *, people: Mapping[int, str]) -> str:
    if isinstance(completed_by, Mapping):
        return str(completed_by.get("email") or f"user {completed_by.get('id')}")
    if isinstance(completed_by, int):
        return people.get(completed_by, f"user {completed_by}")
    return "unknown"


def annotator_ids(raw_annotations: Sequence[Mapping[str, Any]]) -> set[int]:
    """User ids for which `read_annotation` wants an address."""
    return {by for raw in raw_annotations if isinstance(by := raw.get("completed_by"), int)}


# -- references and image URLs -----------------------------------------------------------------------------------------------


def ref_of(*, project_id: int, batch_id: str) -> str:
    """The reference to a batch that callers keep."""
    return f"{project_id}/{batch_id}"


def read_ref(ref: str) -> tuple[int, str]:
    """Project id and batch id of a reference.

    Raises:
        InvalidInput: It is none of ours.
    """
    project, _, batch_id = ref.partition("/")
    if not project.isdecimal() or not batch_id:
        raise InvalidInput(f"{ref!r} is no reference to a batch in Label Studio")
    return int(project), batch_id


def is_stale(old_url: str, new_url: str, *, now: datetime) -> bool:
    """Whether a task's image URL should be replaced: it leads elsewhere, or has less than half of the life that a new one has."""
    old, new = urlsplit(old_url), urlsplit(new_url)
    if (old.scheme, old.netloc, old.path) != (new.scheme, new.netloc, new.path):
        return True
    old_end, new_end = _expiry(old.query), _expiry(new.query)
    if old_end is None or new_end is None:
        return old_url != new_url
    return old_end - now.timestamp() < (new_end - now.timestamp()) / 2


def _expiry(query_string: str) -> float | None:
    values = parse_qs(query_string).get("expires", [])
    return float(values[0]) if values and values[0].isdecimal() else None
