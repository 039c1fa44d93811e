"""Commands about selection plans."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.context import Json, platform, show, table

if TYPE_CHECKING:
    from infra.platform import Platform
    from selection.planning.plan import Plan

plan_app = typer.Typer(help="Selection plans: how frames are chosen, as files.", no_args_is_help=True)

PlanSource = Annotated[
    str, typer.Argument(help="A YAML or JSON file, or the name of a saved plan.", show_default=False)
]
TaskName = Annotated[str, typer.Option(help="The task.")]


def add_to(app: typer.Typer) -> None:
    """Adds the group of this module."""
    app.add_typer(plan_app, name="plan")


@plan_app.command("run")
def run(
    source: PlanSource,
    task: TaskName,
    push: Annotated[bool, typer.Option("--push", help="Push the batch to Label Studio at once.")] = False,
    as_json: Json = False,
) -> None:
    """Makes a batch as a plan says."""
    from service.cli.labelling import make_batch
    from service.data_line import BatchRequest

    with platform() as opened:
        make_batch(opened, BatchRequest(task_id=task, plan=_load(opened, source)), push=push, as_json=as_json)


@plan_app.command("preview")
def preview(
    source: PlanSource,
    task: TaskName,
    shown: Annotated[int, typer.Option("--show", min=0, help="How many of the chosen frames to print as text.")] = 20,
    as_json: Json = False,
) -> None:
    """Shows what a plan would choose and what is left after each stage; makes no batch."""
    from annotation import tasks
    from service import selecting
    from service.curator import Curator
    from training import models

    with platform() as opened:
        plan = _load(opened, source)
        wanted = tasks.get(opened.database, task)
        model = models.current(opened.database, task)
        found = asdict(selecting.carry_out(opened, Curator(opened), plan, task=wanted, model=model))
    found["model_id"] = model.model_id if model else None
    show(found, as_json=as_json, text=lambda: _preview_text(found, shown=shown))


@plan_app.command("save")
def save(
    path: Annotated[Path, typer.Argument(help="A YAML or JSON file with a `name`.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Keeps a plan under its name; earlier revisions stay."""
    from selection.planning import plan as plans
    from selection.planning import saved_plans
    from service.reconcile import now_utc

    plan = plans.read_file(path)
    with platform() as opened:
        saved = saved_plans.save(opened.database, plan, now=now_utc())
    found = {"name": saved.name, "revision": saved.revision, "plan": saved.plan.document()}
    show(found, as_json=as_json, text=lambda: f"plan {saved.name} is saved, revision {saved.revision}")


@plan_app.command("show")
def show_plan(source: PlanSource, as_json: Json = False) -> None:
    """Shows a plan as it was understood, without what is at its default."""
    from selection.planning import plan as plans

    with platform() as opened:
        plan = _load(opened, source)
    show(plan.document(), as_json=as_json, text=lambda: plans.render(plan).rstrip())


@plan_app.command("list")
def list_plans(as_json: Json = False) -> None:
    """Lists the saved plans."""
    from selection.planning import saved_plans

    with platform() as opened:
        found = [
            {"name": one.name, "revision": one.revision, "saved_at": one.saved_at, "description": one.plan.description}
            for one in saved_plans.list_all(opened.database)
        ]
    rows = [[one["name"], one["revision"], one["description"]] for one in found]
    show(found, as_json=as_json, text=lambda: table(["plan", "revision", "description"], rows))


def _load(opened: Platform, source: str) -> Plan:
    from selection.planning import plan as plans
    from selection.planning import saved_plans

    path = Path(source)
    if path.is_file() or path.suffix in (".yaml", ".yml", ".json"):
        return plans.read_file(path)
    return saved_plans.get(opened.database, source).plan


def _preview_text(found: dict[str, Any], *, shown: int) -> str:
    stages = table(
        ["stage", "frames", "note"], [[stage["name"], stage["frames"], stage["note"]] for stage in found["stages"]]
    )
    rows = [
        [rank, place["frame_id"], place["purpose"], place["reason"]]
        for rank, place in enumerate(found["places"][:shown], start=1)
    ]
    lines = [stages, "", table(["#", "frame", "for", "reason"], rows)] if rows else [stages]
    return "\n".join([*lines, f"{len(found['places'])} frames would be chosen; no batch was made"])
