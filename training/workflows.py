"""Workflows: runs of the Model Line, each from labels to a registered model, with a record that is written as the run goes.

A workflow is moved by `advance`, which does what can be done now and returns. Every step writes its outcome once and starts from what
the record says, so a process killed between two lines leaves a workflow that the next `advance` takes further.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, NewType

from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError

from annotation import datasets, tasks
from annotation.tasks import TaskId
from infra import errors
from infra.database import Db, Document, retrying
from infra.errors import InvalidInput, NotFound
from infra.logs import get_logger
from infra.platform import Platform
from selection.fleet.columns import Columns
from training import models, provenance
from training.contract import (
    BASELINE_CHANNEL,
    DATASET_CHANNEL,
    FRAMES_CHANNEL,
    INITIAL_CHANNEL,
    ContractError,
    Hyperparameters,
)
from training.executors.protocol import Executor, JobRef, JobSpec, JobStatus
from training.models import Model, ModelId

log = get_logger(__name__)

WorkflowId = NewType("WorkflowId", str)
WorkflowState = Literal["pending", "running", "completed", "failed"]
StepName = Literal["freeze", "train", "evaluate", "register", "predict"]
STEPS: tuple[StepName, ...] = ("freeze", "train", "evaluate", "register", "predict")

JOB_STEPS: tuple[StepName, ...] = ("train", "evaluate", "register")
"""Steps that ask the executor that has the job."""
MAX_ATTEMPTS = 10

INDEXES: dict[str, list[IndexModel]] = {
    "workflows": [
        IndexModel([("task_id", 1), ("created_at", -1)]),
        IndexModel([("state", 1)]),
        IndexModel([("dataset_id", 1)]),
    ],
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a workflow, as far as it has come."""

    name: StepName
    state: Literal["pending", "running", "completed", "failed"] = "pending"
    started_at: datetime | None = None
    ended_at: datetime | None = None
    outputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """The record of one run of the Model Line.

    Attributes:
        cause: What started it: a completed batch, or a person.
        hyperparameters: Those asked for; the whole set is among the train step's outputs.
        executor: Name of the executor that has the job.
        code: The code that ran, see `training.provenance`.
        environment: The packages and machine it ran with.
        job: The training job as submitted: name, hyperparameters, channels.
        baseline_model_id: The model that was current then, which the new one is compared with.
    """

    workflow_id: WorkflowId
    task_id: TaskId
    state: WorkflowState
    cause: Mapping[str, Any]
    hyperparameters: Mapping[str, str]
    created_at: datetime
    steps: tuple[Step, ...]
    executor: str | None = None
    code: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] | None = None
    dataset_id: str | None = None
    model_id: str | None = None
    job: Mapping[str, Any] | None = None
    baseline_model_id: str | None = None
    error: str | None = None
    ended_at: datetime | None = None

    def step(self, name: StepName) -> Step:
        """The step of that name."""
        return next(step for step in self.steps if step.name == name)

    @property
    def is_over(self) -> bool:
        """Nothing more will happen."""
        return self.state in ("completed", "failed")


def start(
    db: Db,
    *,
    workflow_id: str,
    task_id: str,
    cause: Mapping[str, Any],
    hyperparameters: Mapping[str, str],
    now: datetime,
) -> Workflow:
    """Opens a workflow record; the same id again returns the one that is there, so a cause starts one workflow, ever."""
    tasks.get(db, task_id)
    document = {
        "_id": workflow_id,
        "task_id": task_id,
        "state": "pending",
        "cause": dict(cause),
        "hyperparameters": dict(hyperparameters),
        "created_at": now,
        "steps": [asdict(Step(name=name)) for name in STEPS],
    }
    try:
        retrying(lambda: db.workflows.insert_one(document))
    except DuplicateKeyError:
        log.debug("workflow_exists", workflow_id=workflow_id)
    return get(db, workflow_id)


def get(db: Db, workflow_id: str) -> Workflow:
    """One workflow.

    Raises:
        NotFound: No such workflow.
    """
    document = db.workflows.find_one({"_id": workflow_id})
    if document is None:
        raise NotFound(
            f"workflow {workflow_id} does not exist; `mlpl workflow list` shows the ones that do",
            workflow_id=workflow_id,
        )
    return _from_document(document)


def list_all(
    db: Db, *, task_id: str | None = None, unfinished: bool = False, dataset_ids: list[str] | None = None
) -> list[Workflow]:
    """Workflows, newest first."""
    query: Document = {"task_id": task_id} if task_id else {}
    if unfinished:
        query["state"] = {"$in": ["pending", "running"]}
    if dataset_ids is not None:
        query["dataset_id"] = {"$in": dataset_ids}
    return [_from_document(document) for document in db.workflows.find(query).sort("created_at", -1)]


def unfinished_tasks(db: Db) -> list[str]:
    """Tasks that have a workflow which is not over."""
    return sorted(db.workflows.distinct("task_id", {"state": {"$in": ["pending", "running"]}}))


def in_turn(db: Db, task_id: str) -> Workflow | None:
    """The workflow of a task that is to be taken further: the one that is under way, else the oldest that waits.

    One workflow a task runs at a time, so that each model is compared with the one before.
    """
    waiting = list_all(db, task_id=task_id, unfinished=True)
    running = [workflow for workflow in waiting if workflow.state == "running"]
    return next(reversed(running or waiting), None)


def check_hyperparameters(asked: Mapping[str, str]) -> None:
    """Refuses what no training would take.

    Raises:
        InvalidInput: Names the hyperparameter.
    """
    _with_required(asked, Hyperparameters(task="t", kind="multilabel", classes=("a",), frames_uri="frames/"))


def advance(
    platform: Platform,
    workflow_id: str,
    *,
    executor: Executor,
    columns: Columns,
    clock: Callable[[], datetime],
) -> Workflow:
    """Takes a workflow as far as it goes without waiting for its job. The caller holds the lease of the workflow's task.

    Args:
        columns: Filter columns of the fleet; refreshed here before a freeze.

    Returns:
        The workflow as it stands now.

    Raises:
        BackendUnavailable: The executor or a store does not answer; ask again later.
    """
    run = _Run(platform=platform, executor=executor, columns=columns, clock=clock)
    workflow = get(platform.database, workflow_id)
    while not workflow.is_over:
        step = next((step for step in workflow.steps if step.state != "completed"), None)
        if step is None:
            return _close(platform.database, workflow_id, state="completed", now=clock())
        if step.name in JOB_STEPS and workflow.executor not in (None, executor.name):
            log.debug("job_is_elsewhere", workflow_id=workflow_id, executor=workflow.executor)
            return workflow
        try:
            _begin(platform.database, workflow, step, now=clock())
            outputs = _STEP_FUNCTIONS[step.name](run, workflow)
        except (errors.InvalidInput, errors.NotFound, errors.Conflict) as exc:
            _end(platform.database, workflow_id, step.name, state="failed", outputs={}, now=clock())
            return _close(platform.database, workflow_id, state="failed", now=clock(), error=exc.message)
        if outputs is None:
            return get(platform.database, workflow_id)
        _end(platform.database, workflow_id, step.name, state="completed", outputs=outputs, now=clock())
        workflow = get(platform.database, workflow_id)
    return workflow


@dataclass(frozen=True, kw_only=True)
class _Run:
    platform: Platform
    executor: Executor
    columns: Columns
    clock: Callable[[], datetime]


def _freeze(run: _Run, workflow: Workflow) -> Document | None:
    db = run.platform.database
    run.columns.refresh()
    version = datasets.freeze(db, run.platform.objects, task_id=workflow.task_id, columns=run.columns, now=run.clock())
    _change(db, workflow.workflow_id, {"dataset_id": version.dataset_id})
    return {
        "dataset_id": version.dataset_id,
        "manifest_key": version.manifest_key,
        "manifest_digest": version.manifest_digest,
        "counts": dict(version.counts),
        "split_note": version.split_note,
    }


def _train(run: _Run, workflow: Workflow) -> Document | None:
    db = run.platform.database
    if workflow.job is None:
        baseline = models.current_trained(db, workflow.task_id)
        spec = _job_spec(run, workflow, baseline=baseline)
        record = {
            "job": asdict(spec),
            "baseline_model_id": baseline.model_id if baseline else None,
            "executor": run.executor.name,
            "code": asdict(provenance.code_state()),
            "environment": _environment_document(),
        }
        retrying(lambda: db.workflows.update_one({"_id": workflow.workflow_id, "job": None}, {"$set": record}))
        workflow = get(db, workflow.workflow_id)
    spec = JobSpec(**(workflow.job or {}))
    ref = run.executor.submit(spec)
    status = run.executor.status(ref)
    if status.state == "interrupted":
        if len(status.attempts) >= MAX_ATTEMPTS:
            raise InvalidInput(f"job {spec.job_name} was interrupted {MAX_ATTEMPTS} times; see its log")
        return None  # The next round submits it again, and it goes on from its checkpoints.
    if status.state == "running":
        return None
    if status.state != "completed":
        raise InvalidInput(
            f"job {spec.job_name} {status.state}: {status.failure_reason or 'no reason given'}",
            workflow_id=workflow.workflow_id,
        )
    return {
        "job_ref": str(ref),
        "hyperparameters": dict(spec.hyperparameters),
        "channels": dict(spec.channels),
        "input_digests": _input_digests(run, workflow),
        "model_key": status.model_key,
        "model_digest": status.model_digest,
        "output_key": status.output_key,
        "billable_s": status.billable_s,
        "attempts": [asdict(attempt) for attempt in status.attempts],
    }


def _evaluate(run: _Run, workflow: Workflow) -> Document | None:
    metrics = _finished_job(run, workflow).metrics
    if metrics is None:
        raise InvalidInput(f"job of workflow {workflow.workflow_id} left no metrics.json")
    baseline = metrics["baseline"]
    return {
        "metric_name": metrics["metric_name"],
        "metric": metrics["metric"],
        "test_frames": metrics["test"]["frames"],
        "baseline_metric": baseline["metric"] if baseline else None,
        "baseline_model_id": workflow.baseline_model_id,
    }


def _register(run: _Run, workflow: Workflow) -> Document | None:
    db = run.platform.database
    trained = workflow.step("train").outputs
    evaluated = workflow.step("evaluate").outputs
    status = _finished_job(run, workflow)
    assert status.metrics is not None
    now_current = models.current_trained(db, workflow.task_id)
    model_id = ModelId(f"model-{workflow.workflow_id.removeprefix('wf-')}")
    hyperparameters = Hyperparameters.parse(trained["hyperparameters"])
    if now_current is not None and now_current.model_id not in (model_id, evaluated["baseline_model_id"]):
        raise errors.Conflict(
            f"model {now_current.model_id} became current while {workflow.workflow_id} trained; start the training again",
            workflow_id=workflow.workflow_id,
        )
    model = models.register(
        db,
        Model(
            model_id=model_id,
            task_id=workflow.task_id,
            workflow_id=workflow.workflow_id,
            dataset_id=datasets.DatasetId(workflow.dataset_id or ""),
            architecture=hyperparameters.architecture,
            classes=hyperparameters.classes,
            artifact_key=trained["model_key"],
            artifact_digest=trained["model_digest"],
            metric_name=evaluated["metric_name"],
            metric=evaluated["metric"],
            metrics=status.metrics,
            promotion=models.decide_promotion(
                metric_name=evaluated["metric_name"],
                candidate=evaluated["metric"],
                baseline=evaluated["baseline_metric"],
                baseline_model_id=evaluated["baseline_model_id"],
            ),
            created_at=run.clock(),
        ),
    )
    _change(db, workflow.workflow_id, {"model_id": model.model_id})
    return {"model_id": model.model_id, "promotion": asdict(model.promotion)}


def _predict(run: _Run, workflow: Workflow) -> Document | None:
    from selection import shards
    from selection.fleet import frames
    from training import prediction

    db = run.platform.database
    model = models.current(db, workflow.task_id)
    if model is None or model.model_id != workflow.model_id:
        return {"rows": 0, "note": "the model did not become current, so it predicts nothing"}
    fleet = frames.row_count(db)
    prediction.predict_with(run.platform, model)
    if shards.gaps(db, "predictions", model.model_id, fleet):
        return None  # Another process is at the rest; who chooses a batch next wants all of it.
    return {"rows": shards.row_total(db, "predictions", model.model_id)}


_STEP_FUNCTIONS: Mapping[StepName, Callable[[_Run, Workflow], Document | None]] = {
    "freeze": _freeze,
    "train": _train,
    "evaluate": _evaluate,
    "register": _register,
    "predict": _predict,
}


def _job_spec(run: _Run, workflow: Workflow, *, baseline: Model | None) -> JobSpec:
    db, objects = run.platform.database, run.platform.objects
    version = datasets.get(db, workflow.dataset_id or "")
    channels = {DATASET_CHANNEL: version.manifest_key, FRAMES_CHANNEL: "frames/"}
    asked = workflow.hyperparameters
    initial = asked.get("initial")
    architecture = asked.get("architecture", Hyperparameters.__dataclass_fields__["architecture"].default)
    if initial is None and architecture == "mobilenet_v3_small":
        channels[INITIAL_CHANNEL] = backbone_key(run.platform)
    elif initial not in (None, "none"):
        channels[INITIAL_CHANNEL] = initial if "://" not in initial else objects.key_of(initial)
    if baseline is not None and baseline.artifact_key is not None:
        channels[BASELINE_CHANNEL] = baseline.artifact_key
    required = Hyperparameters(
        task=version.task_id,
        kind=version.kind,  # type: ignore[arg-type]  # Checked by Hyperparameters itself.
        classes=version.classes,
        frames_uri=version.frames_uri,
    )
    return JobSpec(
        job_name=workflow.workflow_id,
        hyperparameters=_with_required(asked, required).to_strings(),
        channels=channels,
        output_prefix="workflows",
    )


def _with_required(asked: Mapping[str, str], required: Hyperparameters) -> Hyperparameters:
    """What was asked for on top of what the platform decides and the defaults."""
    given = {name: value for name, value in asked.items() if name != "initial"}
    strings = required.to_strings()
    free = sorted({"initial", *strings} - {"task", "kind", "classes", "frames_uri"})
    if unknown := sorted(set(given) - set(free)):
        raise InvalidInput(f"hyperparameter {unknown[0]!r} is unknown; known are {', '.join(free)}")
    try:
        return Hyperparameters.parse(strings | given)
    except ContractError as exc:
        raise InvalidInput(str(exc)) from exc


def backbone_key(platform: Platform) -> str:
    """Puts the shipped encoder's CNN into the object store once, as the tensors a new model starts from."""
    import hashlib

    from safetensors.torch import save

    from selection.embedding import backbone
    from selection.embedding.weights import SMALL_ENCODER

    data = save(backbone.backbone_state(SMALL_ENCODER))
    key = f"backbones/mobilenet_v3_small-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    if not platform.objects.exists(key):
        platform.objects.put(key, data)
    return key


def _input_digests(run: _Run, workflow: Workflow) -> Document:
    version = datasets.get(run.platform.database, workflow.dataset_id or "")
    digests: Document = {DATASET_CHANNEL: version.manifest_digest}
    if workflow.baseline_model_id is not None:
        digests[BASELINE_CHANNEL] = models.get(run.platform.database, workflow.baseline_model_id).artifact_digest
    return digests


def _finished_job(run: _Run, workflow: Workflow) -> JobStatus:
    return run.executor.status(JobRef(workflow.step("train").outputs["job_ref"]))


def _environment_document() -> Document:
    """Package names may hold dots, which field names must not, so packages are kept as a list of pairs."""
    found = asdict(provenance.environment())
    return found | {"packages": [[name, version] for name, version in found["packages"].items()]}


def _begin(db: Db, workflow: Workflow, step: Step, *, now: datetime) -> None:
    if step.state == "pending":
        position = STEPS.index(step.name)
        at = f"steps.{position}"
        _change(db, workflow.workflow_id, {"state": "running", f"{at}.state": "running", f"{at}.started_at": now})


def _end(db: Db, workflow_id: str, name: StepName, *, state: str, outputs: Document, now: datetime) -> None:
    at = f"steps.{STEPS.index(name)}"
    _change(db, workflow_id, {f"{at}.state": state, f"{at}.ended_at": now, f"{at}.outputs": outputs})


def _close(db: Db, workflow_id: str, *, state: WorkflowState, now: datetime, error: str | None = None) -> Workflow:
    _change(db, workflow_id, {"state": state, "ended_at": now, "error": error})
    log.info("workflow_ended", workflow_id=workflow_id, state=state, error=error)
    return get(db, workflow_id)


def _change(db: Db, workflow_id: str, fields: Document) -> None:
    retrying(lambda: db.workflows.update_one({"_id": workflow_id}, {"$set": fields}))


def _from_document(document: Document) -> Workflow:
    known: dict[str, Any] = {name: document.get(name) for name in Workflow.__dataclass_fields__ if name in document}
    known["steps"] = tuple(Step(**step) for step in document["steps"])
    if known.get("environment"):
        known["environment"] = known["environment"] | {"packages": dict(known["environment"]["packages"])}
    return Workflow(workflow_id=WorkflowId(document["_id"]), **known)
