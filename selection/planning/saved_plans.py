"""Plans kept under a name. Saving another plan under a name keeps the earlier revisions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from infra.database import Db, Document, retrying
from infra.errors import InvalidInput, NotFound
from selection.planning import plan as plans
from selection.planning.plan import Plan

INDEXES: dict[str, list[IndexModel]] = {
    "plans": [IndexModel([("name", ASCENDING), ("revision", DESCENDING)], unique=True)]
}


@dataclass(frozen=True, kw_only=True)
class SavedPlan:
    """One revision of a named plan; the newest counts."""

    name: str
    revision: int
    plan: Plan
    saved_at: datetime


def save(db: Db, plan: Plan, *, now: datetime) -> SavedPlan:
    """Keeps a plan under its name; the same plan again changes nothing.

    Raises:
        InvalidInput: It has no name.
    """
    if plan.name is None:
        raise InvalidInput("name: a plan is saved under its name; give it one, for example `name: rainy-nights`")
    while True:
        newest = _newest(db, plan.name)
        if newest is not None and _written(newest.plan) == _written(plan):
            return newest
        saved = SavedPlan(name=plan.name, revision=newest.revision + 1 if newest else 1, plan=plan, saved_at=now)
        document = {"name": saved.name, "revision": saved.revision, "plan": plan.document(), "saved_at": now}
        try:
            retrying(lambda kept=document: db.plans.insert_one({"_id": f"{kept['name']}/{kept['revision']}", **kept}))  # type: ignore[misc]
        except DuplicateKeyError:
            continue  # Another process saved one meanwhile.
        return saved


def get(db: Db, name: str) -> SavedPlan:
    """The newest revision of a plan.

    Raises:
        NotFound: No plan has this name.
    """
    found = _newest(db, name)
    if found is None:
        raise NotFound(f"no plan is named {name!r}; `mlpl plan list` shows those that are saved", name=name)
    return found


def list_all(db: Db) -> list[SavedPlan]:
    """The newest revision of each plan, by name."""
    newest: dict[str, SavedPlan] = {}
    for document in db.plans.find().sort([("name", ASCENDING), ("revision", ASCENDING)]):
        newest[document["name"]] = _saved(document)
    return list(newest.values())


def _written(plan: Plan) -> str:
    """What tells a plan from others: as plain values, 1 would be 1.0, but the one is a count and the other a share."""
    return json.dumps(plan.document())


def _newest(db: Db, name: str) -> SavedPlan | None:
    document = db.plans.find_one({"name": name}, sort=[("revision", DESCENDING)])
    return _saved(document) if document else None


def _saved(document: Document) -> SavedPlan:
    return SavedPlan(
        name=document["name"],
        revision=document["revision"],
        plan=plans.parse(document["plan"], source=f"saved plan {document['name']}"),
        saved_at=document["saved_at"],
    )
