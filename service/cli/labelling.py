"""Commands of the Data Line's second half: tasks, batches, the labelling server."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.context import Hyperparameters, Json, hyperparameters, platform, settings, show, table

if TYPE_CHECKING:
    from annotation.batches import Batch, Progress
    from infra.platform import Platform
    from service.data_line import BatchRequest

task_app = typer.Typer(help="What is to be recognised.", no_args_is_help=True)
batch_app = typer.Typer(help="Frames chosen for labelling.", no_args_is_help=True)
label_studio_app = typer.Typer(help="The embedded Label Studio.", no_args_is_help=True)

BatchName = Annotated[str, typer.Argument(help="Id of the batch.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Adds the groups of this module."""
    app.add_typer(task_app, name="task")
    app.add_typer(batch_app, name="batch")
    app.add_typer(label_studio_app, name="label-studio")


@task_app.command("create")
def create_task(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits and hyphens.", show_default=False)],
    kind: Annotated[str, typer.Option(help="classification, multilabel, detection or segmentation.")],
    classes: Annotated[str, typer.Option(help="Class names, separated by commas.")],
    set_: Hyperparameters = None,
    as_json: Json = False,
) -> None:
    """Defines a task."""
    from annotation import tasks
    from service.reconcile import now_utc

    with platform() as opened:
        task = tasks.create(
            opened.database,
            name=name,
            kind=kind,
            classes=classes.split(","),
            training=hyperparameters(set_),
            now=now_utc(),
        )
    show(asdict(task), as_json=as_json, text=lambda: f"task {task.task_id}: {task.kind} of {', '.join(task.classes)}")


@task_app.command("set")
def set_training(
    name: Annotated[str, typer.Argument(help="The task.", show_default=False)],
    set_: Hyperparameters = None,
    as_json: Json = False,
) -> None:
    """Changes the hyperparameters of the task's coming trainings."""
    from annotation import tasks

    with platform() as opened:
        task = tasks.set_training(opened.database, name, hyperparameters(set_))
    shown = ", ".join(f"{key}={value}" for key, value in task.training.items()) or "the defaults"
    show(asdict(task), as_json=as_json, text=lambda: f"task {task.task_id} trains with {shown}")


@task_app.command("list")
def list_tasks(as_json: Json = False) -> None:
    """Lists the tasks."""
    from annotation import tasks

    with platform() as opened:
        found = [asdict(task) for task in tasks.list_all(opened.database)]
    rows = [[t["task_id"], t["kind"], ", ".join(t["classes"])] for t in found]
    show(found, as_json=as_json, text=lambda: table(["task", "kind", "classes"], rows))


@batch_app.command("create")
def create_batch(
    task: Annotated[str, typer.Option(help="The task.")],
    budget: Annotated[int, typer.Option(min=1, help="How many frames.")] = 100,
    acquisition: Annotated[
        str,
        typer.Option(
            help="Scores, joined by commas: entropy, margin, least_confidence, bald, expected_gradient_length, column:KEY, or random."
        ),
    ] = "entropy",
    diversity: Annotated[
        str, typer.Option(help="k_center_greedy, k_means_plus_plus, typicality or none.")
    ] = "k_center_greedy",
    where: Annotated[str, typer.Option(help="Only frames that match, for example 'timeofday:night'.")] = "",
    evaluation: Annotated[
        int | None,
        typer.Option(
            min=0, help="How many of them only judge models. Default: a fifth, until there are 50.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="For every random draw.")] = 0,
    push: Annotated[bool, typer.Option("--push", help="Push it to Label Studio at once.")] = False,
    as_json: Json = False,
) -> None:
    """Chooses the frames that are worth labelling next."""
    from service import data_line

    request = data_line.BatchRequest(
        task_id=task,
        budget=budget,
        acquisition=acquisition,
        diversity=None if diversity == "none" else diversity,
        where=where,
        seed=seed,
        evaluation=evaluation,
    )
    with platform() as opened:
        make_batch(opened, request, push=push, as_json=as_json)


def make_batch(opened: Platform, request: BatchRequest, *, push: bool, as_json: bool) -> None:
    """Makes a batch, pushes it if asked to, and prints it."""
    from annotation import tasks
    from infra.errors import MlplError
    from service import data_line
    from service.curator import Curator
    from service.labelling import check_kind, default_backend
    from service.reconcile import now_utc

    if push:
        check_kind(tasks.get(opened.database, request.task_id))
    backend = default_backend(opened) if push else None
    if backend is not None:
        backend.server_now()  # Asked first: with nowhere to push to, nothing is chosen, however often this is repeated.
    batch = data_line.create_batch(opened, Curator(opened), request, now=now_utc())
    if backend is not None:
        try:
            batch = data_line.push_batch(opened, batch.batch_id, backend=backend, now=now_utc())
        except MlplError as exc:
            exc.message += f"; the batch is kept, push it then with `mlpl batch push {batch.batch_id}`"
            raise
    found = _batch_json(opened, batch)
    show(found, as_json=as_json, text=lambda: _batch_text(found))


@batch_app.command("push")
def push_batch(batch_id: BatchName, as_json: Json = False) -> None:
    """Puts a batch before the labellers; repeating it sends nothing twice."""
    from annotation import batches
    from service import data_line
    from service.labelling import backend_of
    from service.reconcile import now_utc

    with platform() as opened:
        backend = backend_of(opened, batches.get(opened.database, batch_id))
        batch = data_line.push_batch(opened, batch_id, backend=backend, now=now_utc())
        found = _batch_json(opened, batch)
    show(found, as_json=as_json, text=lambda: _batch_text(found))


@batch_app.command("sync")
def sync_batch(
    batch_id: BatchName,
    full: Annotated[bool, typer.Option("--full", help="Compare every answer, not only recent ones.")] = False,
    as_json: Json = False,
) -> None:
    """Collects the labels of a batch now."""
    from annotation import batches
    from service import data_line
    from service.labelling import backend_of
    from service.reconcile import now_utc

    with platform() as opened:
        backend = backend_of(opened, batches.get(opened.database, batch_id))
        data_line.sync_batch(opened, batch_id, backend=backend, clock=now_utc, full=full)
        found = _batch_json(opened, batches.get(opened.database, batch_id))
    show(found, as_json=as_json, text=lambda: _batch_text(found))


@batch_app.command("list")
def list_batches(
    task: Annotated[str | None, typer.Option(help="Only batches of this task.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Batches to show.")] = 50,
    as_json: Json = False,
) -> None:
    """Lists the batches, newest first, each with how far people have come."""
    from annotation import tasks

    with platform() as opened:
        if task is not None:
            tasks.get(opened.database, task)
        found = _listed(opened, task, limit)
    show(found, as_json=as_json, text=lambda: _batches_text(found))


@batch_app.command("cancel")
def cancel_batch(batch_id: BatchName, as_json: Json = False) -> None:
    """Withdraws a batch; answers that were given stay, the other frames return to the pool."""
    from annotation import batches
    from service import data_line
    from service.labelling import backend_of
    from service.reconcile import now_utc

    with platform() as opened:
        batch = batches.get(opened.database, batch_id)
        backend = backend_of(opened, batch) if batch.ref else None
        found = _batch_json(opened, data_line.cancel_batch(opened, batch_id, backend=backend, clock=now_utc))
    show(found, as_json=as_json, text=lambda: _batch_text(found))


@batch_app.command("status")
def batch_status(
    batch_id: Annotated[
        str | None, typer.Argument(help="Id of the batch; all batches without it.", show_default=False)
    ] = None,
    task: Annotated[str | None, typer.Option(help="Only batches of this task.")] = None,
    as_json: Json = False,
) -> None:
    """Shows how far people have come."""
    from annotation import batches

    with platform() as opened:
        if batch_id is None:
            found: Any = _listed(opened, task)
        else:
            found = _batch_json(opened, batches.get(opened.database, batch_id))
            invalid = [f for f in batches.frames_of(opened.database, batch_id) if f.state == "invalid"]
            found["invalid"] = [{"frame_id": f.frame_id, "problem": f.problem} for f in invalid]
    show(found, as_json=as_json, text=lambda: _batch_text(found) if batch_id else _batches_text(found))


@label_studio_app.command("start")
def start_label_studio(
    port: Annotated[int | None, typer.Option(help="Port; a free one without it.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Starts a real Label Studio in its own environment (the first start takes a minute or two)."""
    from annotation.backends.label_studio import server

    running = server.start(settings().home, port=port, progress=lambda line: typer.echo(line, err=True))
    found = {"url": running.url, "pid": running.pid, "username": running.username, "password": running.password}
    show(
        found,
        as_json=as_json,
        text=lambda: (
            f"Label Studio runs on {running.url}; sign in as {running.username} with password {running.password}"
        ),
    )


@label_studio_app.command("stop")
def stop_label_studio(as_json: Json = False) -> None:
    """Stops the embedded Label Studio; its projects stay."""
    from annotation.backends.label_studio import server

    stopped = server.stop(settings().home)
    show({"stopped": stopped}, as_json=as_json, text=lambda: "stopped" if stopped else "no Label Studio was running")


@label_studio_app.command("status")
def label_studio_status(as_json: Json = False) -> None:
    """Shows whether the embedded Label Studio runs."""
    from annotation.backends.label_studio import server

    running = server.running(settings().home)
    found = {"running": running is not None, "url": running.url if running else None}
    show(
        found,
        as_json=as_json,
        text=lambda: f"Label Studio runs on {running.url}" if running else "Label Studio is not running",
    )


def _listed(opened: Platform, task: str | None, limit: int | None = None) -> list[dict[str, Any]]:
    from annotation import batches
    from annotation.batches import Progress

    found = batches.list_all(opened.database, task_id=task)[:limit]
    progress = batches.progress_of_many(opened.database, [batch.batch_id for batch in found])
    return [_as_json(batch, progress.get(batch.batch_id, Progress())) for batch in found]


def _batch_json(opened: Platform, batch: Batch) -> dict[str, Any]:
    from annotation import batches

    return _as_json(batch, batches.progress(opened.database, batch.batch_id))


def _as_json(batch: Batch, progress: Progress) -> dict[str, Any]:
    return asdict(batch) | {"counts": asdict(progress)}


def _batch_text(found: dict[str, Any]) -> str:
    counts = found["counts"]
    lines = [
        f"batch {found['batch_id']} is {found['state']}: "
        + ", ".join(f"{counts[name]} {name}" for name in ("labelled", "skipped", "invalid", "pending"))
        + f" of {counts['total']}"
    ]
    if found["state"] == "planned":
        lines.append(f"next: mlpl batch push {found['batch_id']}")
    elif found["queue_url"] and found["state"] == "open":
        lines.append(f"people label it at {found['queue_url']}")
    lines += [f"  {frame['frame_id']}: {frame['problem']}" for frame in found.get("invalid", [])]
    return "\n".join(lines)


def _batches_text(found: list[dict[str, Any]]) -> str:
    rows = [
        [
            b["batch_id"],
            b["task_id"],
            b["state"],
            *(b["counts"][n] for n in ("total", "labelled", "skipped", "pending", "invalid")),
        ]
        for b in found
    ]
    return table(["batch", "task", "state", "frames", "labelled", "skipped", "pending", "invalid"], rows)
