"""Tasks: what is to be recognised, with a versioned list of classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NewType, cast, get_args

from pymongo.errors import DuplicateKeyError

from infra.database import Db, Document, retrying
from infra.errors import Conflict, InvalidInput, NotFound

TaskId = NewType("TaskId", str)
TaskKind = Literal["classification", "multilabel", "detection", "segmentation"]
KINDS: tuple[TaskKind, ...] = get_args(TaskKind)

_NAME = re.compile(r"[a-z0-9](?:-?[a-z0-9]){1,23}")
_MAX_CLASSES = 500


@dataclass(frozen=True, kw_only=True)
class Task:
    """A recognition task.

    Attributes:
        task_id: Also the name people use; 2 to 24 lower-case letters, digits and single hyphens.
        classes: In the order that class indices in manifests and models follow.
        version: Grows when classes are added; indices of existing classes never change.
        training: Hyperparameters of its trainings that differ from the defaults, as strings; the Model Line reads them.
    """

    task_id: TaskId
    kind: TaskKind
    classes: tuple[str, ...]
    version: int = 1
    training: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the invariants.

        Raises:
            InvalidInput: A name, kind or class list that cannot work.
        """
        if not _NAME.fullmatch(self.task_id):
            raise InvalidInput(
                f"task name {self.task_id!r} does not fit: use 2 to 24 lower-case letters, digits and single hyphens"
            )
        if self.kind not in KINDS:
            raise InvalidInput(f"task kind {self.kind!r} is unknown: choose one of {', '.join(KINDS)}")
        _check_classes(self.kind, self.classes)

    def value_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """The canonical value for class names given in any order.

        Args:
            names: Class names a person chose.

        Returns:
            The names without repeats, in class order.

        Raises:
            InvalidInput: A name is not a class of this task, or the number of names does not fit the kind.
        """
        unknown = sorted(set(names) - set(self.classes))
        if unknown:
            raise InvalidInput(
                f"{', '.join(map(repr, unknown))} is not a class of task {self.task_id}; "
                f"its classes are {', '.join(self.classes)}",
                task_id=self.task_id,
            )
        value = tuple(name for name in self.classes if name in set(names))
        if self.kind == "classification" and len(value) != 1:
            raise InvalidInput(
                f"task {self.task_id} wants exactly one class for a frame, not {len(value)}", task_id=self.task_id
            )
        return value


def create(
    db: Db,
    *,
    name: str,
    kind: str,
    classes: Sequence[str],
    now: datetime,
    training: Mapping[str, str] | None = None,
) -> Task:
    """Creates a task; the same definition again returns the one that is there, with `training` changed to what is given.

    Args:
        training: Hyperparameters of its trainings; see `set_training`.

    Raises:
        InvalidInput: A definition that cannot work.
        Conflict: A task of this name exists with another definition.
    """
    task = Task(task_id=TaskId(name), kind=cast(TaskKind, kind), classes=tuple(c.strip() for c in classes))
    document = {
        "_id": task.task_id,
        "kind": task.kind,
        "classes": list(task.classes),
        "version": task.version,
        "training": dict(training or {}),
        "created_at": now,
    }
    try:
        retrying(lambda: db.tasks.insert_one(document))
    except DuplicateKeyError as exc:
        existing = get(db, task.task_id)
        if (existing.kind, existing.classes) != (task.kind, task.classes):
            raise Conflict(
                f"task {name} exists already as {existing.kind} of {', '.join(existing.classes)}; choose another name",
                task_id=name,
            ) from exc
        if training:
            set_training(db, task.task_id, training)
    return get(db, task.task_id)


def get(db: Db, task_id: str) -> Task:
    """The task of that name.

    Raises:
        NotFound: No such task.
    """
    document = db.tasks.find_one({"_id": task_id})
    if document is None:
        raise NotFound(f"task {task_id} does not exist; `mlpl task list` shows the ones that do", task_id=task_id)
    return _from_document(document)


def set_training(db: Db, task_id: str, training: Mapping[str, str]) -> Task:
    """Changes hyperparameters of the task's coming trainings; the others stay as they were.

    Raises:
        NotFound: No such task.
    """
    if training:
        changes = {f"training.{name}": value for name, value in training.items()}
        retrying(lambda: db.tasks.update_one({"_id": task_id}, {"$set": changes}))
    return get(db, task_id)


def list_all(db: Db) -> list[Task]:
    """All tasks by name."""
    return [_from_document(document) for document in db.tasks.find().sort("_id", 1)]


def _from_document(document: Document | dict[str, Any]) -> Task:
    return Task(
        task_id=TaskId(document["_id"]),
        kind=document["kind"],
        classes=tuple(document["classes"]),
        version=document["version"],
        training=document.get("training", {}),
    )


def _check_classes(kind: TaskKind, classes: tuple[str, ...]) -> None:
    least = 2 if kind == "classification" else 1
    if not least <= len(classes) <= _MAX_CLASSES:
        raise InvalidInput(f"a {kind} task needs {least} to {_MAX_CLASSES} classes, not {len(classes)}")
    if len(set(classes)) != len(classes):
        repeated = sorted({name for name in classes if classes.count(name) > 1})
        raise InvalidInput(f"class {repeated[0]!r} is given twice")
    for name in classes:
        if not name or len(name) > 256 or "\n" in name or "," in name:
            raise InvalidInput(f"class name {name!r} does not fit: 1 to 256 characters, no comma, no line break")
