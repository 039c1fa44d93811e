"""Label Studio's JSON: golden files, and reading back what was written. `REWRITE_GOLDEN=1 pytest ...` writes the files anew."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation.backends.label_studio import conversion
from annotation.backends.label_studio.conversion import Question
from annotation.backends.protocol import TicketFrame
from annotation.tasks import Task, TaskId
from infra.errors import InvalidInput
from selection.fleet.frames import FrameId

GOLDEN = Path(__file__).parent / "golden"
CLASSES = ("car", "person & dog", '<"traffic" sign>')
NOW = datetime(2026, 11, 23, tzinfo=UTC)
MULTILABEL = Question(owner="home", task_id="scene", kind="multilabel", classes=CLASSES, version=1)
CLASSIFICATION = Question(owner="home", task_id="scene", kind="classification", classes=CLASSES, version=3)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30).filter(
    str.strip
)


def check_golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("REWRITE_GOLDEN"):
        path.write_text(text + "\n")
    assert path.read_text() == text + "\n", f"{name} differs; look at it, then run with REWRITE_GOLDEN=1"


@pytest.mark.parametrize("question", [MULTILABEL, CLASSIFICATION], ids=lambda question: question.kind)
def test_projects_are_as_reviewed(question: Question) -> None:
    check_golden(f"label_config.{question.kind}.xml", conversion.label_config(question))
    check_golden(f"description.{question.kind}.txt", conversion.project_description(question))


@pytest.mark.parametrize("question", [MULTILABEL, CLASSIFICATION], ids=lambda question: question.kind)
def test_tasks_are_as_reviewed(question: Question) -> None:
    frame = TicketFrame(
        frame_id=FrameId("0f" * 16),
        row=7,
        width=640,
        height=480,
        image_url="https://mlpl.example/images/0f?expires=1&signature=x",
        rank=3,
        prediction={"car": 0.5, "person & dog": 0.1, '<"traffic" sign>': 0.9},
    )
    task = conversion.task_json(frame, batch_id="b1", question=question, model_version="model-1")
    check_golden(f"task.{question.kind}.json", json.dumps(task, indent=2))


@given(
    classes=st.lists(names, min_size=1, max_size=8, unique=True), kind=st.sampled_from(["multilabel", "classification"])
)
def test_any_class_names_survive_screen_and_description(classes: list[str], kind: Any) -> None:
    question = Question(owner="o", task_id="t", kind=kind, classes=tuple(classes), version=2)

    screen = ET.fromstring(conversion.label_config(question))

    assert [choice.get("value") for choice in screen.iter("Choice")] == classes
    assert conversion.read_question("Edited by hand.\n" + conversion.project_description(question)) == question


@pytest.mark.parametrize("description", [None, "", "My project", "MLPL {", "MLPL {}", "MLPL []", 'MLPL {"owner": 1}'])
def test_projects_of_others_are_not_ours(description: str | None) -> None:
    assert conversion.read_question(description) is None


def test_titles_fit() -> None:
    for task_id in ("ab", "a" * 24):
        question = Question(owner="o", task_id=task_id, kind="multilabel", classes=CLASSES, version=1)
        assert 3 <= len(conversion.project_title(question)) <= 50


@given(chosen=st.sets(st.sampled_from(CLASSES)))
def test_answers_read_back_in_class_order(chosen: set[str]) -> None:
    raw = annotation(conversion.choices_json(sorted(chosen)))
    read = conversion.read_annotation(raw, question=MULTILABEL, people={4: "ann@example.org"})
    assert (read.value, read.problem) == (tuple(name for name in CLASSES if name in chosen), None)
    assert (read.external_id, read.annotator, read.state) == ("12", "ann@example.org", "labelled")
    assert read.updated_at == datetime(2026, 11, 23, 4, 58, 23, 318345, tzinfo=UTC)


def annotation(result: object, **more: object) -> dict[str, Any]:
    """An annotation as the REST API of 1.23.2 gives it."""
    return {
        "id": 12,
        "result": result,
        "completed_by": 4,
        "was_cancelled": False,
        "updated_at": "2026-11-23T04:58:23.318345Z",
        "lead_time": None,
        **more,
    }


def test_skips_have_no_value_whatever_was_ticked() -> None:
    raw = annotation(conversion.choices_json(["car"]), was_cancelled=True, lead_time=2)
    read = conversion.read_annotation(raw, question=MULTILABEL, people={})
    assert (read.state, read.value, read.problem, read.lead_time_s) == ("skipped", (), None, 2.0)
    assert read.annotator == "user 4"


@pytest.mark.parametrize(
    ("question", "result", "value", "problem"),
    [
        (MULTILABEL, conversion.choices_json(["car", "bus"]), ("car", "bus"), "'bus' is no class of task scene"),
        (MULTILABEL, None, (), "no list of results"),
        (MULTILABEL, ["car"], (), "no object"),
        (MULTILABEL, [{**conversion.choices_json(["car"])[0], "from_name": "mood"}], (), "control 'mood'"),
        (MULTILABEL, [{**conversion.choices_json(["car"])[0], "type": "taxonomy"}], (), "control 'label'"),
        (MULTILABEL, [{**conversion.choices_json(["car"])[0], "value": {"choices": "car"}}], (), "no list of choices"),
        (MULTILABEL, [{**conversion.choices_json(["car"])[0], "value": None}], (), "no list of choices"),
        (CLASSIFICATION, [], (), "no class was chosen"),
        (CLASSIFICATION, conversion.choices_json(CLASSES[:2]), CLASSES[:2], "2 classes were chosen"),
    ],
)
def test_unreadable_answers_are_problems(
    question: Question, result: object, value: tuple[str, ...], problem: str
) -> None:
    read = conversion.read_annotation(annotation(result), question=question, people={})
    assert read.value == value
    assert problem in str(read.problem)


@given(
    probabilities=st.dictionaries(st.sampled_from(CLASSES), st.floats(0, 1), min_size=1),
    question=st.sampled_from([MULTILABEL, CLASSIFICATION]),
)
def test_predictions_are_valid_answers_with_a_confidence(probabilities: dict[str, float], question: Question) -> None:
    made = conversion.prediction_json(probabilities, question=question, model_version="m")
    assert 0.0 <= made["score"] <= 1.0
    read = conversion.read_annotation(annotation(made["result"]), question=question, people={})
    assert read.problem is None


@pytest.mark.parametrize("probabilities", [{}, {"bus": 0.5}, {"car": 1.5}, {"car": float("nan")}])
def test_predictions_that_are_none_are_refused(probabilities: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        conversion.prediction_json(probabilities, question=MULTILABEL, model_version="m")


def test_unserved_kinds_are_refused() -> None:
    with pytest.raises(InvalidInput, match="segmentation"):
        conversion.question_of(Task(task_id=TaskId("road"), kind="segmentation", classes=("road",)), owner="o")


@pytest.mark.parametrize("ref", ["", "7", "7/", "x/b", "/b", "-1/b"])
def test_foreign_references_are_refused(ref: str) -> None:
    with pytest.raises(InvalidInput):
        conversion.read_ref(ref)


def test_references_read_back() -> None:
    assert conversion.read_ref(conversion.ref_of(project_id=7, batch_id="b/1")) == (7, "b/1")


def test_stale_image_urls() -> None:
    def url(days: int | None, *, host: str = "a.example", signature: str = "s") -> str:
        expires = "" if days is None else f"expires={int((NOW + timedelta(days=days)).timestamp())}&"
        return f"https://{host}/images/0f?{expires}signature={signature}"

    assert not conversion.is_stale(url(16, signature="old"), url(30), now=NOW)
    assert conversion.is_stale(url(14), url(30), now=NOW)
    assert conversion.is_stale(url(-1), url(30), now=NOW)
    assert conversion.is_stale(url(30, host="b.example"), url(30), now=NOW)
    assert not conversion.is_stale(url(None), url(None), now=NOW)
    assert conversion.is_stale(url(None), url(30), now=NOW)
