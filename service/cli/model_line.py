"""Commands of the Model Line: train, datasets, workflows, models."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.context import Hyperparameters, Json, hyperparameters, platform, progress_bar, show, table

if TYPE_CHECKING:
    from training.workflows import Workflow

dataset_app = typer.Typer(help="Frozen sets of data-label bindings.", no_args_is_help=True)
workflow_app = typer.Typer(help="Runs of the Model Line.", no_args_is_help=True)
model_app = typer.Typer(help="What workflows registered or predictions were imported of.", no_args_is_help=True)

TaskOption = Annotated[str | None, typer.Option(help="Only those of this task.")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands and groups of this module."""
    app.command()(train)
    app.command()(predict)
    app.add_typer(dataset_app, name="dataset")
    app.add_typer(workflow_app, name="workflow")
    app.add_typer(model_app, name="model")


def train(
    task: Annotated[str, typer.Option(help="The task.")],
    set_: Hyperparameters = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until it has ended.")] = True,
    as_json: Json = False,
) -> None:
    """Freezes the task's labels, trains and evaluates a model on them, and registers it."""
    from selection.fleet.columns import Columns
    from service import model_line
    from service.reconcile import now_utc
    from training import workflows

    with platform() as opened:
        workflow = model_line.start_training(opened, task_id=task, hyperparameters=hyperparameters(set_))
        typer.echo(f"workflow {workflow.workflow_id}", err=True)
        executor, columns, shown = model_line.executor_of(opened), Columns(opened.database), ""
        while wait and not workflow.is_over:
            if shown != (shown := _current_step(workflow)):
                typer.echo(f"  {shown} ...", err=True)
            if not model_line.advance_task(opened, task, executor=executor, columns=columns, clock=now_utc):
                time.sleep(0.5)
            workflow = workflows.get(opened.database, workflow.workflow_id)
        found = model_line.workflow_json(workflow)
    show(found, as_json=as_json, text=lambda: _workflow_text(found))
    if workflow.state == "failed":
        typer.echo(f"mlpl: workflow {workflow.workflow_id} failed: {workflow.error}", err=True)
        raise typer.Exit(1)


def predict(
    task: Annotated[str, typer.Option(help="The task.")],
    as_json: Json = False,
) -> None:
    """Gives every frame a prediction from the task's current model; resumes where it was stopped."""
    from annotation import tasks
    from infra.errors import NotFound
    from training import models
    from training.prediction import predict_with

    with platform() as opened, progress_bar("predicting") as progress:
        model = models.current(opened.database, tasks.get(opened.database, task).task_id)
        if model is None:
            raise NotFound(f"task {task} has no model yet; `mlpl train --task {task}` makes one", task_id=task)
        rows = predict_with(opened, model, progress=progress)
    show(
        {"predicted": rows, "model_id": model.model_id},
        as_json=as_json,
        text=lambda: f"predicted {rows} frames with {model.model_id}",
    )


@dataset_app.command("list")
def list_datasets(task: TaskOption = None, as_json: Json = False) -> None:
    """Lists dataset versions, newest first."""
    from dataclasses import asdict

    from annotation import datasets

    with platform() as opened:
        found = [asdict(version) for version in datasets.list_all(opened.database, task_id=task)]
    rows = [
        [v["dataset_id"], v["task_id"], v["counts"].get("train"), v["counts"].get("test"), f"{v['created_at']:%F %T}"]
        for v in found
    ]
    show(found, as_json=as_json, text=lambda: table(["dataset version", "task", "train", "test", "frozen"], rows))


@dataset_app.command("freeze")
def freeze_dataset(task: Annotated[str, typer.Option(help="The task.")], as_json: Json = False) -> None:
    """Freezes the labels that count now; the same bindings give the same version."""
    from dataclasses import asdict

    from annotation import datasets
    from selection.fleet.columns import Columns
    from service.reconcile import now_utc

    with platform() as opened:
        columns = Columns(opened.database)
        columns.refresh()
        version = datasets.freeze(opened.database, opened.objects, task_id=task, columns=columns, now=now_utc())
        uri = opened.objects.uri(version.manifest_key)
    show(
        asdict(version) | {"manifest_uri": uri},
        as_json=as_json,
        text=lambda: f"{version.dataset_id}: {dict(version.counts)}, {version.split_note}\n{uri}",
    )


@workflow_app.command("list")
def list_workflows(task: TaskOption = None, as_json: Json = False) -> None:
    """Lists workflows, newest first."""
    from service import model_line
    from training import workflows

    with platform() as opened:
        found = [model_line.workflow_json(w) for w in workflows.list_all(opened.database, task_id=task)]
    rows = [[w["workflow_id"], w["task_id"], w["state"], w["dataset_id"], w["model_id"], w["error"]] for w in found]
    show(
        found,
        as_json=as_json,
        text=lambda: table(["workflow", "task", "state", "dataset version", "model", "error"], rows),
    )


@workflow_app.command("show")
def show_workflow(
    workflow_id: Annotated[str, typer.Argument(help="Id of the workflow.", show_default=False)], as_json: Json = False
) -> None:
    """Shows the record of a workflow."""
    from service import model_line
    from training import workflows

    with platform() as opened:
        found = model_line.workflow_json(workflows.get(opened.database, workflow_id))
    show(found, as_json=as_json, text=lambda: _workflow_text(found))


@workflow_app.command("logs")
def workflow_logs(
    workflow_id: Annotated[str, typer.Argument(help="Id of the workflow.", show_default=False)],
) -> None:
    """Prints what the workflow's training job wrote."""
    from service import model_line

    with platform() as opened:
        for line in model_line.logs(opened, workflow_id):
            typer.echo(line)


@model_app.command("list")
def list_models(task: TaskOption = None, as_json: Json = False) -> None:
    """Lists models, newest first; a star marks the current one."""
    from service import model_line

    with platform() as opened:
        found = model_line.models_json(opened.database, task_id=task)
    rows = [
        [
            "*" if m["current"] else "",
            m["model_id"],
            m["task_id"],
            m["metric_name"],
            _figure(m["metric"]),
            m["promotion"]["reason"],
        ]
        for m in found
    ]
    show(found, as_json=as_json, text=lambda: table(["", "model", "task", "metric", "value", "promotion"], rows))


@model_app.command("use")
def use_model(
    model_id: Annotated[str, typer.Argument(help="Id of the model.", show_default=False)], as_json: Json = False
) -> None:
    """Makes a model its task's current one: frames are ranked by its predictions from now on."""
    from service.reconcile import now_utc
    from training import models

    with platform() as opened:
        model = models.make_current(opened.database, model_id, now=now_utc())
    show(
        {"model_id": model.model_id, "task_id": model.task_id},
        as_json=as_json,
        text=lambda: f"{model.model_id} is the current model of task {model.task_id}",
    )


def _current_step(workflow: Workflow) -> str:
    return next((step.name for step in workflow.steps if step.state != "completed"), "done")


def _workflow_text(found: dict[str, Any]) -> str:
    lines = [f"workflow {found['workflow_id']} of task {found['task_id']}: {found['state']}"]
    for step in found["steps"]:
        took = f"{step['seconds']:.1f} s" if step["seconds"] is not None else ""
        lines.append(f"  {step['name']:<9} {step['state']:<10} {took}".rstrip())
    if found["error"]:
        lines.append(f"  {found['error']}")
    code = found["code"] or {}
    if code.get("commit"):
        lines.append(f"code      {code['commit'][:12]} ({'clean' if code['clean'] else 'with changed files'})")
    for name, value in (("dataset", found["dataset_id"]), ("model", found["model_id"])):
        if value:
            lines.append(f"{name:<9} {value}")
    evaluated: dict[str, Any] = next((s["outputs"] for s in found["steps"] if s["name"] == "evaluate"), {})
    if evaluated:
        lines.append(f"{evaluated['metric_name']} {_figure(evaluated['metric'])} on {evaluated['test_frames']} frames")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
