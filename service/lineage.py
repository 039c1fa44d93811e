"""Lineage: from any frame, label, batch, dataset version, workflow or model back to where it came from and forward to what it became.

The graph is read from the records that each step left; nothing is kept for it beside them. Edges point the way the data went:

    frame -selected-> batch -labelled-> label -bound-> dataset -input-> workflow -output-> model -ranked-> batch
    frame -shown-> label                                                model -baseline-> workflow
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Literal, TypeVar

from annotation import batches, datasets, labels
from annotation.batches import Batch, BatchFrame
from annotation.labels import Label
from infra.database import Db
from infra.errors import InvalidInput, NotFound
from selection.fleet import frames
from selection.fleet.frames import Frame
from training import models, workflows
from training.importing import importing
from training.models import Model
from training.workflows import Workflow

NodeKind = Literal["frame", "label", "batch", "dataset", "workflow", "model"]

# Frames are not among them: they have their own way of being found by a beginning, see `frames.get`.
_COLLECTIONS: dict[NodeKind, str] = {
    "label": "labels",
    "dataset": "datasets",
    "workflow": "workflows",
    "model": "models",
    "batch": "batches",
}
_CHUNK = 1000
_SHORTEST_PREFIX = 6
_Item = TypeVar("_Item")


@dataclass
class Graph:
    """Nodes by id, and edges without repeats, both in the order they were met."""

    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    edges: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)

    def add(self, kind: NodeKind, node_id: str, **carries: Any) -> None:
        """Adds a node unless it is there."""
        self.nodes.setdefault(node_id, {"id": node_id, "kind": kind, **carries})

    def link(self, source: str, target: str, kind: str, **carries: Any) -> None:
        """Adds an edge unless it is there."""
        self.edges.setdefault((source, target, kind), {"from": source, "to": target, "kind": kind, **carries})

    def as_json(self) -> dict[str, Any]:
        """`nodes` and `edges`; edges only between nodes that are in the graph."""
        edges = [edge for edge in self.edges.values() if edge["from"] in self.nodes and edge["to"] in self.nodes]
        return {"nodes": list(self.nodes.values()), "edges": edges}


def trace(db: Db, identifier: str, *, frame_limit: int | None = None) -> dict[str, Any]:
    """The lineage of one thing.

    Args:
        identifier: Id of a frame, label, batch, dataset version, workflow or model, or a beginning of six or more characters that no
            other has; or the name that a model's predictions were imported under.
        frame_limit: At most this many frames of a dataset version or batch; None for all.

    Returns:
        `id`, `kind`, `nodes`, `edges`, and `frames_left_out`, the number of frames that the limit kept out.

    Raises:
        NotFound: Nothing has this id.
        InvalidInput: Several ids begin so.
    """
    tracer = _Tracer(db=db, frame_limit=frame_limit)
    kind, node_id = _identify(db, identifier)
    getattr(tracer, f"from_{kind}")(node_id)
    return {"id": node_id, "kind": kind, "frames_left_out": tracer.left_out, **tracer.graph.as_json()}


@dataclass
class _Tracer:
    db: Db
    frame_limit: int | None
    graph: Graph = field(default_factory=Graph)
    left_out: int = 0

    def from_frame(self, frame_id: str) -> None:
        """Follows a frame to the batches, labels and dataset versions it is in, and on to models."""
        self._add_frames([frame_id])
        self._add_places(batches.places_of(self.db, frame_id))
        self._add_labels(labels.of_frame(self.db, frame_id))
        self._forward([binding["dataset_id"] for binding in self._bind(datasets.of_frame(self.db, frame_id))])

    def from_label(self, label_id: str) -> None:
        """Likewise a label, and back to its frame and batch."""
        label = labels.get(self.db, label_id)
        self._add_frames([label.frame_id])
        self._add_places(
            place for place in batches.places_of(self.db, label.frame_id) if place.batch_id == label.batch_id
        )
        self._add_labels([label])
        self._forward([binding["dataset_id"] for binding in self._bind(datasets.of_labels(self.db, [label_id]))])

    def from_batch(self, batch_id: str) -> None:
        """Likewise a batch's frames and labels, to the limit."""
        self._add_batch(batches.get(self.db, batch_id))
        places = batches.frames_of(self.db, batch_id, limit=self.frame_limit or 0)
        self.left_out += batches.progress(self.db, batch_id).total - len(places)
        dataset_ids: list[str] = []
        for chunk in _chunks(places):
            frame_ids = [place.frame_id for place in chunk]
            self._add_places(chunk)
            self._add_frames(frame_ids)
            found = labels.of_batch(self.db, batch_id, frame_ids=frame_ids)
            self._add_labels(found)
            bindings = self._bind(datasets.of_labels(self.db, [label.label_id for label in found]))
            dataset_ids += [binding["dataset_id"] for binding in bindings]
        self._forward(dataset_ids)

    def from_dataset(self, dataset_id: str) -> None:
        """Follows a dataset version back to its labels and frames, and on to models."""
        self._back_from_dataset(dataset_id)
        self._forward([dataset_id])

    def from_workflow(self, workflow_id: str) -> None:
        """Follows a workflow back to its dataset version and on to its model."""
        workflow = workflows.get(self.db, workflow_id)
        self._add_workflow(workflow)
        if workflow.dataset_id:
            self._back_from_dataset(workflow.dataset_id)
        if workflow.model_id:
            self._add_model(models.get(self.db, workflow.model_id))

    def from_model(self, model_id: str) -> None:
        """Follows a model back through its workflow; an imported one has none, only batches it ranked."""
        model = models.get(self.db, model_id)
        if model.workflow_id is not None:
            self.from_workflow(model.workflow_id)
            return
        self._add_model(model)
        for batch in batches.ranked_by(self.db, model_id):
            self._add_batch(batch)

    def _back_from_dataset(self, dataset_id: str) -> None:
        self._add_dataset(dataset_id)
        shown = 0
        for chunk in _chunks(datasets.bindings_of(self.db, dataset_id, limit=self.frame_limit or 0)):
            found = labels.get_many(self.db, [binding["label_id"] for binding in chunk])
            self._add_labels(found)
            self._add_frames([binding["frame_id"] for binding in chunk])
            self._add_places(batches.places(self.db, {(label.batch_id, label.frame_id) for label in found}))
            self._bind(chunk)
            shown += len(chunk)
        self.left_out += sum(datasets.get(self.db, dataset_id).counts.values()) - shown

    def _forward(self, dataset_ids: Iterable[str]) -> None:
        wanted = list(dict.fromkeys(dataset_ids))
        for dataset_id in wanted:
            self._add_dataset(dataset_id)
        for workflow in workflows.list_all(self.db, dataset_ids=wanted):
            self._add_workflow(workflow)
        for model in models.list_all(self.db, dataset_ids=wanted):
            self._add_model(model)

    def _bind(self, bindings: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        for binding in bindings:
            self.graph.link(binding["label_id"], binding["dataset_id"], "bound", split=binding["split"])
        return bindings

    def _add_frames(self, frame_ids: Sequence[str]) -> None:
        for frame in frames.get_many(self.db, [frames.FrameId(frame_id) for frame_id in frame_ids]).values():
            self.graph.add("frame", frame.frame_id, **_frame(frame))

    def _add_labels(self, found: Iterable[Label]) -> None:
        for label in found:
            self.graph.add("label", label.label_id, **_label(label))
            self.graph.link(label.frame_id, label.label_id, "shown")
            self.graph.link(label.batch_id, label.label_id, "labelled")

    def _add_places(self, places: Iterable[BatchFrame]) -> None:
        for place in places:
            if place.batch_id not in self.graph.nodes:
                self._add_batch(batches.get(self.db, place.batch_id))
            self.graph.link(
                place.frame_id, place.batch_id, "selected", rank=place.rank, score=place.score, reason=place.reason
            )

    def _add_batch(self, batch: Batch) -> None:
        self.graph.add("batch", batch.batch_id, **_batch(batch))
        if batch.model_id and batch.model_id not in self.graph.nodes:
            self._add_model(models.get(self.db, batch.model_id))
        if batch.model_id:
            self.graph.link(batch.model_id, batch.batch_id, "ranked")

    def _add_dataset(self, dataset_id: str) -> None:
        if dataset_id in self.graph.nodes:
            return
        version = datasets.get(self.db, dataset_id)
        carries = {k: v for k, v in asdict(version).items() if k not in ("dataset_id", "kind")}
        self.graph.add("dataset", dataset_id, task_kind=version.kind, **carries)

    def _add_workflow(self, workflow: Workflow) -> None:
        self.graph.add("workflow", workflow.workflow_id, **_workflow(workflow))
        if workflow.dataset_id:
            self._add_dataset(workflow.dataset_id)
            self.graph.link(workflow.dataset_id, workflow.workflow_id, "input")
        if workflow.baseline_model_id:
            self.graph.link(workflow.baseline_model_id, workflow.workflow_id, "baseline")

    def _add_model(self, model: Model) -> None:
        """A model brings its workflow along, so that every model in the graph tells its code and data; an imported one its files."""
        imports = [asdict(one) for one in importing.imports_of(self.db, model.model_id)]
        self.graph.add("model", model.model_id, **_model(model), imports=imports)
        if model.workflow_id is None:
            return
        self.graph.link(model.workflow_id, model.model_id, "output")
        if model.workflow_id not in self.graph.nodes:
            self._add_workflow(workflows.get(self.db, model.workflow_id))


def _identify(db: Db, identifier: str) -> tuple[NodeKind, str]:
    for kind, collection in _COLLECTIONS.items():
        if db[collection].find_one({"_id": identifier}, {"_id": 1}) is not None:
            return kind, identifier
    if re.fullmatch(r"[0-9a-f]{6,32}", identifier):
        return "frame", frames.get(db, identifier).frame_id
    named = models.imported_as(db, identifier)
    if len(named) > 1:
        raise InvalidInput(
            f"several models were imported as {identifier}; give the id of one: {', '.join(named[:3])}", id=identifier
        )
    if named:
        return "model", named[0]
    if len(identifier) >= _SHORTEST_PREFIX and (found := _beginning_with(db, identifier)):
        if len(found) > 1:
            some = ", ".join(node_id for _, node_id in found[:3])
            raise InvalidInput(
                f"several ids begin with {identifier}, {some} for example; give more of it", id=identifier
            )
        return found[0]
    raise NotFound(
        f"nothing has the id {identifier!r}; give the id of a frame, label, batch, dataset version, workflow or model",
        id=identifier,
    )


def _beginning_with(db: Db, prefix: str) -> list[tuple[NodeKind, str]]:
    """Up to a few things, other than frames, whose id begins so."""
    # "~" follows every character that an id is made of.
    query = {"_id": {"$gte": prefix, "$lt": f"{prefix}~"}}
    return [
        (kind, document["_id"])
        for kind, collection in _COLLECTIONS.items()
        for document in db[collection].find(query, {"_id": 1}).sort("_id", 1).limit(3)
    ]


def _frame(frame: Frame) -> dict[str, Any]:
    kept = (
        "row",
        "digest",
        "width",
        "height",
        "site",
        "vehicle",
        "drive",
        "camera",
        "captured_at",
        "source",
        "attributes",
    )
    return {name: getattr(frame, name) for name in kept}


def _label(label: Label) -> dict[str, Any]:
    return {k: v for k, v in asdict(label).items() if k != "label_id"}


def _batch(batch: Batch) -> dict[str, Any]:
    return {k: v for k, v in asdict(batch).items() if k not in ("batch_id", "due", "collected_at")}


def _workflow(workflow: Workflow) -> dict[str, Any]:
    return {k: v for k, v in asdict(workflow).items() if k != "workflow_id"}


def _model(model: Model) -> dict[str, Any]:
    return {k: v for k, v in asdict(model).items() if k not in ("model_id", "metrics")}


def _chunks(items: Iterable[_Item]) -> Iterator[Sequence[_Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
