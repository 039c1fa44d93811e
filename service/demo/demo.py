"""The main job in one command: frames in, a few rounds of select, label, freeze, train and predict, and the trace of the last model.

Every step is the product's own; only the labellers are simulated. Batches have fixed ids, so a demo that was killed goes on where it was
when it is started again on the same home.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotation import batches, tasks
from annotation.batches import Batch
from infra.errors import Conflict, InvalidInput, NotFound
from infra.platform import Platform
from selection.embedding import encoders
from selection.embedding.embed import embed_missing
from selection.fleet.frames import Frame
from selection.ingest.ingest import ingest
from selection.ingest.report import IngestReport
from selection.planning import plan as plans
from service import data_line, lineage, model_line, reconcile
from service.curator import Curator
from service.demo import answers
from service.demo.answers import AnswerKey
from service.demo.people import People
from training import models, workflows
from training.workflows import Workflow

TASK_NAME = "demo"
SIMULATED_FRAMES = 480
SIMULATED_FRAMES_PER_DRIVE = 8
SIMULATED_CLASSES = ("pedestrian", "cyclist", "truck", "traffic_light")
SIMULATED_QUERIES = ("a street at night", "people walking across the road", "driving in the rain")
EVALUATION_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `mlpl demo` was asked for.

    Attributes:
        frames: Folder with images and `metadata.jsonl`; None for the simulated fleet.
        classes: Classes of the multilabel task; None chooses those that some frames show and some do not.
        batch: Frames labelled in each round.
        label_studio: The labellers work through a real Label Studio.
        training: Hyperparameters that differ from the defaults.
    """

    frames: Path | None = None
    classes: Sequence[str] | None = None
    rounds: int = 3
    batch: int = 40
    acquisition: str = "entropy"
    label_studio: bool = False
    seed: int = 0
    training: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reporter:
    """Where the demo tells what happens.

    Attributes:
        say: One line for people.
        progress: Called with a description, what is done and the total.
    """

    say: Callable[[str], None]
    progress: Callable[[str, int, int], None]


def run(platform: Platform, options: Options, report: Reporter) -> dict[str, Any]:
    """Runs the whole loop.

    Returns:
        What the tables show, for `--json`.

    Raises:
        InvalidInput: The frames or classes cannot be used, or a workflow failed.
    """
    began = time.monotonic()
    plans.short_form(
        budget=options.batch, acquisition=options.acquisition
    )  # Refused here rather than after the searches.
    curator = Curator(platform)
    directory = options.frames or _simulate(platform, options, report)
    classes = options.classes or (SIMULATED_CLASSES if options.frames is None else None)
    taken = _ingest(platform, directory, report)
    key = answers.read(directory, classes=classes)
    searches = _embed_and_search(platform, curator, key, options, report)

    task = _task(platform, key, options)
    people = People(platform, key, label_studio=options.label_studio, say=report.say)
    evaluation = _evaluation(platform, curator, people, task, options, report)
    rounds = []
    for number in range(1, options.rounds + 1):
        try:
            rounds.append(_round(platform, curator, people, task, options, report, number=number))
        except data_line.NothingLeft as exc:
            if not rounds:
                raise
            report.say(f"  {exc.message}, so the rounds end here")
            break
        report.say(_round_line(rounds[-1]))
    last = rounds[-1] if rounds else {}
    if people.url and platform.settings.label_studio_url is None:
        home = platform.settings.home
        report.say(f"Label Studio goes on running on {people.url}; `MLPL_HOME={home} mlpl label-studio stop` ends it")
    return {
        "home": str(platform.settings.home),
        "frames": taken.added + taken.already_present,
        "rejects": taken.rejected_count,
        "encoder_id": curator.encoder_id(),
        "classes": list(key.classes),
        "queries": searches,
        "evaluation_labels": batches.progress(platform.database, evaluation.batch_id).labelled,
        "rounds": rounds,
        "dataset_id": last.get("dataset_id"),
        "workflow_id": last.get("workflow_id"),
        "model_id": last.get("model_id"),
        "trace": _trace_counts(platform, last.get("model_id")),
        "labelling_url": people.url,
        "seconds": round(time.monotonic() - began, 1),
    }


def _simulate(platform: Platform, options: Options, report: Reporter) -> Path:
    from service.demo.simulated_fleet import generate

    directory = platform.settings.home / "demo" / f"simulated-{options.seed}"
    if not (directory / "metadata.jsonl").exists():
        report.say(
            f"making a simulated fleet of {SIMULATED_FRAMES} frames in {directory} (synthetic scenes, not photographs)"
        )
        generate(
            directory,
            frames=SIMULATED_FRAMES,
            frames_per_drive=SIMULATED_FRAMES_PER_DRIVE,
            seed=options.seed,
            progress=lambda done, total: report.progress("rendering", done, total),
        )
    return directory


def _ingest(platform: Platform, directory: Path, report: Reporter) -> IngestReport:
    taken = ingest(
        platform,
        [str(directory)],
        site=None,
        metadata=None,
        progress=lambda done, total: report.progress("ingesting", done, total),
    )
    report.say(taken.summary())
    if not taken.added + taken.already_present:
        raise InvalidInput(f"there is no image in {directory} that can be read")
    return taken


def _embed_and_search(
    platform: Platform, curator: Curator, key: AnswerKey, options: Options, report: Reporter
) -> list[dict[str, Any]]:
    with encoders.choice_announced(platform, report.say):
        encoder = curator.encoder()
    embed_missing(platform, encoder, progress=lambda done, total: report.progress("embedding", done, total))
    queries = (
        SIMULATED_QUERIES
        if options.frames is None
        else tuple(f"a photo of a {_words(name)}" for name in key.classes[:3])
    )
    found = []
    for query in queries:
        hits = curator.search(text=query, k=5).hits
        report.say(f'search "{query}"')
        for hit in hits:
            report.say(f"  {hit.frame.frame_id[:12]}  {hit.score:.3f}  {_about(hit.frame)}")
        found.append({"text": query, "hits": [{"frame_id": hit.frame.frame_id, "score": hit.score} for hit in hits]})
    return found


def _task(platform: Platform, key: AnswerKey, options: Options) -> tasks.Task:
    try:
        return tasks.create(
            platform.database,
            name=TASK_NAME,
            kind="multilabel",
            classes=key.classes,
            training=options.training,
            now=reconcile.now_utc(),
        )
    except Conflict as exc:
        raise Conflict(f"{exc.message}: this home holds a demo of another task; give --home another folder") from exc


def _evaluation(
    platform: Platform, curator: Curator, people: People, task: tasks.Task, options: Options, report: Reporter
) -> Batch:
    """Labels the fixed evaluation set, once: frames drawn at random from drives that no model trains on."""
    total = int(curator.mask("").sum())
    budget = max(20, round(total * EVALUATION_SHARE))
    request = data_line.BatchRequest(
        task_id=task.task_id,
        budget=budget,
        evaluation=budget,
        acquisition="random",
        seed=options.seed,
        batch_id=f"{task.task_id}-evaluation",
    )
    batch = _labelled_batch(platform, curator, people, request)
    done = batches.progress(platform.database, batch.batch_id)
    report.say(f"evaluation set: {done.labelled} frames labelled once, from drives or times that no model trains on")
    return batch


def _round(
    platform: Platform,
    curator: Curator,
    people: People,
    task: tasks.Task,
    options: Options,
    report: Reporter,
    *,
    number: int,
) -> dict[str, Any]:
    report.say(f"round {number}: select, label, freeze, train, predict")
    request = data_line.BatchRequest(
        task_id=task.task_id,
        budget=options.batch,
        evaluation=0,
        acquisition=options.acquisition,
        seed=options.seed + number,
        batch_id=f"{task.task_id}-round-{number}",
    )
    batch = _labelled_batch(platform, curator, people, request)
    workflow = _trained(platform, curator, batch, report)
    model = models.get(platform.database, workflow.model_id or "")
    counts = workflow.step("freeze").outputs["counts"]
    return {
        "round": number,
        "batch_id": batch.batch_id,
        "labels": counts["train"],
        "metric": model.metric,
        "metric_name": model.metric_name,
        "test_frames": counts["test"],
        "promoted": model.promotion.promoted,
        "baseline": model.promotion.baseline,
        "dataset_id": workflow.dataset_id,
        "workflow_id": workflow.workflow_id,
        "model_id": model.model_id,
        "seconds": round(((workflow.ended_at or batch.created_at) - batch.created_at).total_seconds(), 1),
    }


def _labelled_batch(platform: Platform, curator: Curator, people: People, request: data_line.BatchRequest) -> Batch:
    """A batch from choice to its last label; whatever an earlier run had done is found done."""
    batch_id = request.batch_id or ""
    try:
        batch = batches.get(platform.database, batch_id)
    except NotFound:
        batch = data_line.create_batch(platform, curator, request, now=reconcile.now_utc())
    if batch.state == "planned":
        batch = data_line.push_batch(platform, batch_id, backend=people.backend, now=reconcile.now_utc())
    while batch.state == "open":
        people.answer(batch)
        data_line.sync_batch(platform, batch_id, backend=people.backend, clock=reconcile.now_utc)
        batch = batches.get(platform.database, batch_id)
        if batch.state == "open":
            time.sleep(0.2)  # The labelling server shows an answer a moment after it took it.
    return batch


def _trained(platform: Platform, curator: Curator, batch: Batch, report: Reporter) -> Workflow:
    """Waits for the workflow that the batch's completion starts, doing whatever no other process does for it."""
    executor = model_line.executor_of(platform)
    reconcile.trigger(platform, clock=reconcile.now_utc)
    workflow_id = batches.get(platform.database, batch.batch_id).workflow_id or ""
    shown = None
    while not (workflow := workflows.get(platform.database, workflow_id)).is_over:
        step = next((step for step in workflow.steps if step.state != "completed"), None)
        if step is not None and step.name != shown:
            shown = step.name
            report.progress(f"{workflow_id}: {step.name}", workflow.steps.index(step), len(workflow.steps))
        if not model_line.advance_task(
            platform, batch.task_id, executor=executor, columns=curator.columns(), clock=reconcile.now_utc
        ):
            time.sleep(0.3)
    if workflow.state == "failed":
        raise InvalidInput(f"workflow {workflow_id} failed: {workflow.error}; see `mlpl workflow logs {workflow_id}`")
    return workflow


def _round_line(done: dict[str, Any]) -> str:
    figure = "no figure" if done["metric"] is None else f"{done['metric']:.3f}"
    verdict = "now current" if done["promoted"] else "kept the earlier model"
    return f"  {done['labels']} labels, {done['metric_name']} {figure} on {done['test_frames']} frames, {verdict} ({done['seconds']:.0f} s)"


def _about(frame: Frame) -> str:
    """What distinguishes a frame, on one line: its drive, and attributes short enough to be values rather than notes."""
    short = {name: value for name, value in frame.attributes.items() if isinstance(value, str) and len(value) <= 12}
    return " ".join([f"drive:{frame.drive}"] * (frame.drive is not None) + [f"{k}:{v}" for k, v in short.items()])[:100]


def _words(name: str) -> str:
    """A class name as one would say it: `SignSymbol` and `traffic_light` become words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", name).lower()


def _trace_counts(platform: Platform, model_id: str | None) -> dict[str, int]:
    if model_id is None:
        return {}
    found = lineage.trace(platform.database, model_id)
    return {"nodes": len(found["nodes"]), "edges": len(found["edges"])}
