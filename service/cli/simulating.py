"""The simulate command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.context import (
    AnsweredFrames,
    Hyperparameters,
    Json,
    RoundBatch,
    Rounds,
    TaskClasses,
    answered_frames,
    hyperparameters,
    progress_bar,
    settings,
    show,
    table,
)


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    app.command()(simulate)


def simulate(
    out: Annotated[Path, typer.Option(help="Folder for results; the same folder again goes on where it was.")],
    frames: AnsweredFrames = None,
    task_classes: TaskClasses = None,
    strategies: Annotated[
        str,
        typer.Option(help="random, default, acquisition functions, diversities, both joined by a plus, or plan files."),
    ] = "random,default,entropy,margin,k_center_greedy",
    rounds: Rounds = 10,
    batch: RoundBatch = 20,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions with other held-out drives and other draws.")] = 5,
    learner: Annotated[
        str, typer.Option(help="probe: a linear head on the embeddings, fast; cnn: the real training job.")
    ] = "probe",
    fleet_seed: Annotated[int, typer.Option(min=0, help="Of the simulated fleet.")] = 0,
    set_: Hyperparameters = None,
    as_json: Json = False,
) -> None:
    """Replays labelling on frames whose labels are known, and tells how many labels each strategy needs."""
    from service.simulation import replay, report
    from service.simulation.strategies import parse

    options = replay.Options(
        out=out,
        strategies=parse(strategies),
        **answered_frames(frames, task_classes),
        rounds=rounds,
        batch=batch,
        seeds=seeds,
        learner=learner,
        fleet_seed=fleet_seed,
        training=hyperparameters(set_),
    )

    with (
        replay.opened(replay.home_settings(settings(home=out / "home"), out)) as opened,
        progress_bar("simulate") as advance,
    ):
        found = replay.run(
            opened, options, replay.Reporter(say=lambda line: typer.echo(line, err=True), progress=advance)
        )
    summary = report.summarise(found, options)
    paths = report.write(summary, out)
    shown = [report.sentence(summary), "", table(report.table_header(), report.table_rows(summary)), ""]
    shown.append("written: " + ", ".join(str(path) for path in paths))
    show(summary, as_json=as_json, text=lambda: "\n".join(shown))
