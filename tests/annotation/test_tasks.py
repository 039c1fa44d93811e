from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation import tasks
from annotation.tasks import Task, TaskId
from infra.database import Db
from infra.errors import Conflict, InvalidInput, NotFound
from tests.annotation.conftest import NOW


def test_create_twice_is_one_task(db: Db) -> None:
    first = tasks.create(db, name="weather", kind="classification", classes=["dry", "wet"], now=NOW)
    assert tasks.create(db, name="weather", kind="classification", classes=["dry", "wet"], now=NOW) == first
    assert tasks.list_all(db) == [first]


def test_create_with_another_definition_is_refused(db: Db) -> None:
    tasks.create(db, name="weather", kind="classification", classes=["dry", "wet"], now=NOW)
    with pytest.raises(Conflict, match="weather exists already"):
        tasks.create(db, name="weather", kind="classification", classes=["dry", "snow"], now=NOW)


@pytest.mark.parametrize("kind", tasks.KINDS)
def test_a_task_of_any_kind_can_be_created(db: Db, kind: str) -> None:
    assert tasks.create(db, name="things", kind=kind, classes=["car", "bus"], now=NOW).kind == kind


@pytest.mark.parametrize(
    ("name", "kind", "classes", "message"),
    [
        ("Bad Name", "multilabel", ["car"], "does not fit"),
        ("ok", "guessing", ["car"], "is unknown"),
        ("ok", "classification", ["car"], "2 to 500 classes"),
        ("ok", "multilabel", ["car", "car"], "given twice"),
        ("ok", "multilabel", [""], "does not fit"),
        ("ok", "multilabel", [], "1 to 500 classes"),
    ],
)
def test_bad_definitions_are_named(db: Db, name: str, kind: str, classes: list[str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        tasks.create(db, name=name, kind=kind, classes=classes, now=NOW)


def test_missing_task_says_how_to_see_the_others(db: Db) -> None:
    with pytest.raises(NotFound, match="mlpl task list"):
        tasks.get(db, "nothing")


CLASSES = ("car", "pedestrian", "cyclist", "truck")
MULTILABEL = Task(task_id=TaskId("road-users"), kind="multilabel", classes=CLASSES)


@given(st.lists(st.sampled_from(CLASSES)))
def test_value_is_canonical(names: list[str]) -> None:
    value = MULTILABEL.value_of(names)
    assert set(value) == set(names)
    assert list(value) == sorted(value, key=CLASSES.index)
    assert MULTILABEL.value_of(value) == value


def test_value_refuses_unknown_classes_and_wrong_counts() -> None:
    with pytest.raises(InvalidInput, match="'tram' is not a class of task road-users"):
        MULTILABEL.value_of(["car", "tram"])
    single = Task(task_id=TaskId("hour"), kind="classification", classes=("day", "night"))
    for names in ([], ["day", "night"]):
        with pytest.raises(InvalidInput, match="exactly one class"):
            single.value_of(names)
