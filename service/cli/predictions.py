"""Commands that bring in what others computed: predictions of a model, and numbers for columns."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from service.cli.context import Json, platform, progress_bar, show

predictions_app = typer.Typer(help="Predictions of models that were not trained here.", no_args_is_help=True)
columns_app = typer.Typer(help="Numbers of your own for each frame.", no_args_is_help=True)

ImagesOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder that file names are relative to: images there are found by their content, whatever they were called.",
        exists=True,
        file_okay=False,
        show_default=False,
    ),
]


def add_to(app: typer.Typer) -> None:
    """Adds the groups of this module."""
    app.add_typer(predictions_app, name="predictions")
    app.add_typer(columns_app, name="columns")


@predictions_app.command("import")
def import_predictions(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="JSON Lines, CSV, Parquet, COCO results (.json), or a folder of them or of segmentation maps.",
            show_default=False,
        ),
    ],
    task: Annotated[str, typer.Option(help="The task.")],
    model: Annotated[
        str, typer.Option(help="Name of the model. The same name adds frames to it; a retrained model gets another.")
    ],
    images: ImagesOption = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            help="COCO dataset file that names the images and categories of results.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    cut: Annotated[
        float | None,
        typer.Option(
            help="Confidence from which the detector reports boxes. Default: the lowest in the file, at most 0.5.",
            show_default=False,
        ),
    ] = None,
    current: Annotated[
        bool, typer.Option("--current/--not-current", help="Rank the task's frames by this model from now on.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Brings predictions of a model you have, so that frames are ranked, searched and checked by them."""
    from annotation import tasks
    from service.reconcile import now_utc
    from training.importing import importing

    with platform() as opened, progress_bar("importing") as progress:
        report = importing.import_predictions(
            opened,
            task=tasks.get(opened.database, task),
            name=model,
            source=source,
            now=now_utc(),
            images=images,
            dataset=dataset,
            cut=cut,
            make_current=current,
            progress=progress,
        )
    show(asdict(report), as_json=as_json, text=report.summary)


@columns_app.command("import")
def import_columns(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV, Parquet or JSON Lines: frame_id, digest, uri or file, and columns of numbers.",
            show_default=False,
        ),
    ],
    images: ImagesOption = None,
    as_json: Json = False,
) -> None:
    """Gives frames numbers of your own: to filter and sort by, and as scores in plans (column:NAME)."""
    from selection.fleet import user_columns
    from service.reconcile import now_utc
    from service.search_terms import RESERVED_NAMES

    with platform() as opened, progress_bar("importing") as progress:
        report = user_columns.import_columns(
            opened,
            source,
            clock=now_utc,
            reserved=RESERVED_NAMES,
            images=images,
            progress=progress,
        )
    show(asdict(report), as_json=as_json, text=report.summary)
