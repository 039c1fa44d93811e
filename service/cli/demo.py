"""The demo command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.context import (
    AnsweredFrames,
    Hyperparameters,
    RoundBatch,
    Rounds,
    TaskClasses,
    answered_frames,
    hyperparameters,
    platform,
    progress_bar,
    settings,
    table,
)


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    app.command()(demo)


def demo(
    frames: AnsweredFrames = None,
    task_classes: TaskClasses = None,
    rounds: Rounds = 3,
    batch: RoundBatch = 40,
    acquisition: Annotated[str, typer.Option(help="entropy, margin, least_confidence or random.")] = "entropy",
    label_studio: Annotated[bool, typer.Option("--label-studio", help="Label through a real Label Studio.")] = False,
    set_: Hyperparameters = None,
    seed: Annotated[int, typer.Option(min=0, help="For the simulated fleet and every random draw.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything the tables show to this file.", show_default=False)
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Where to keep it all (MLPL_HOME).", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port of the web UI (MLPL_PORT).", show_default=False)] = None,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Leave the web UI running at the end.")] = True,
) -> None:
    """Shows the whole loop on one machine: simulated labellers, everything else real."""
    from infra.errors import InvalidInput
    from service import server

    answered = answered_frames(frames, task_classes)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise InvalidInput(f"--json {json_file}: there is no folder {json_file.parent}; make it first")
    if serve:
        server.check(settings(home=home, port=port))
    with platform(home=home, port=port) as opened:
        from service.demo import demo as loop

        options = loop.Options(
            **answered,
            rounds=rounds,
            batch=batch,
            acquisition=acquisition,
            label_studio=label_studio,
            seed=seed,
            training=hyperparameters(set_),
        )
        with progress_bar("demo") as advance:
            found = loop.run(
                opened,
                options,
                loop.Reporter(say=typer.echo, progress=lambda _what, done, total: advance(done, total)),
            )
        typer.echo("\n" + _rounds_text(found))
        typer.echo("\n" + _trace_text(opened.database, found["model_id"]))
        if json_file is not None:
            json_file.write_text(json.dumps(found, indent=2, default=str) + "\n")
        typer.echo(f"\nended after {found['seconds']:.0f} s; everything is in {opened.settings.home}")
        if serve:
            server.run(opened)


def _rounds_text(found: dict[str, Any]) -> str:
    rows = [
        [
            r["round"],
            r["labels"],
            None if r["metric"] is None else round(r["metric"], 4),
            "yes" if r["promoted"] else "no",
            r["seconds"],
        ]
        for r in found["rounds"]
    ]
    name = found["rounds"][-1]["metric_name"]
    return table(
        ["round", "labels so far", f"{name} on {found['rounds'][-1]['test_frames']} frames", "current", "s"], rows
    )


def _trace_text(database: Any, model_id: str) -> str:
    from service.cli.tracing import trace_text
    from service.lineage import trace

    return trace_text(trace(database, model_id))
