"""Imports: what others computed, brought as files: predictions of a model, and numbers for columns."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile
from pydantic import BaseModel, Field

from annotation import tasks
from infra.errors import InvalidInput, MlplError
from selection.fleet import user_columns
from selection.fleet.joining import Leftovers
from service.api.errors import RESPONSES
from service.api.line import OneLine
from service.reconcile import now_utc
from service.search_terms import RESERVED_NAMES
from training.importing import importing

router = APIRouter(tags=["imports"], responses={409: RESPONSES[409], 413: RESPONSES[413], 422: RESPONSES[422]})

_LONGEST_NAME = 200
"""Bytes; file systems take 255."""


class UnmatchedOut(BaseModel):
    """Names of frames in the file that belong to no frame, or to several."""

    count: int
    examples: list[str]


class LeftoversOut(BaseModel):
    """What of a file could not be used; the rest was."""

    summary: str = Field(description="All of it in one line, as the command prints it.")
    unknown: UnmatchedOut = Field(description="Names of frames that are not in the fleet.")
    ambiguous: UnmatchedOut = Field(description="Names that several frames answer to.")
    broken: int = Field(description="Lines that could not be read or understood.")
    broken_examples: list[str]


class PredictionsImported(LeftoversOut):
    """What came of an import of predictions."""

    model_id: str
    imported: int = Field(description="Frames that have their prediction from this file now.")
    already: int = Field(description="Frames that had one of this model before; those stay as they are.")
    current: bool = Field(description="Whether the model ranks the task's frames now.")


class ColumnsImported(LeftoversOut):
    """What came of an import of columns."""

    columns: list[str]
    changed: int = Field(description="Frames whose numbers are others now.")
    unchanged: int = Field(description="Frames that had the same already.")


@router.post("/tasks/{task_id}/predictions", responses={404: RESPONSES[404]})
def import_predictions(
    task_id: str,
    line: OneLine,
    file: Annotated[UploadFile, File(description="JSON Lines, CSV, Parquet, or COCO results (.json).")],
    model: Annotated[
        str, Form(description="Name of the model. The same name adds frames to it; a retrained model gets another.")
    ],
    dataset: Annotated[
        UploadFile | None, File(description="COCO dataset file that names the images and categories of results.")
    ] = None,
    cut: Annotated[
        float | None,
        Form(
            description="Confidence from which the detector reports boxes. Default: the lowest in the file, at most 0.5."
        ),
    ] = None,
    current: Annotated[bool, Form(description="Rank the task's frames by this model from now on.")] = True,
) -> PredictionsImported:
    """Brings predictions of a model you have, so that frames are ranked, searched and checked by them.

    The same file again adds nothing. Segmentation maps are files beside their list: `mlpl predictions import` brings those.
    """
    task = tasks.get(line.platform.database, task_id)
    if task.kind == "segmentation":
        # A list names its maps by path, and what is uploaded must not make the server read files of its own.
        raise InvalidInput(
            f"task {task_id} is of kind segmentation, whose maps are files of their own; bring them with `mlpl predictions import`",
            task_id=task_id,
        )
    with _kept(file, dataset) as (source, dataset_path):
        report = importing.import_predictions(
            line.platform,
            task=task,
            name=model,
            source=source,
            source_name=source.name,
            now=now_utc(),
            dataset=dataset_path,
            cut=cut,
            make_current=current,
        )
    line.wake()
    return PredictionsImported.model_validate(_told(report, summary=report.summary()))


@router.post("/columns")
def import_columns(
    line: OneLine,
    file: Annotated[
        UploadFile,
        File(description="CSV, Parquet or JSON Lines: frame_id, digest, uri or file, and columns of numbers."),
    ],
) -> ColumnsImported:
    """Gives frames numbers of your own: to filter and sort by, and as scores in plans (`column:NAME`)."""
    with _kept(file) as (source, _):
        report = user_columns.import_columns(line.platform, source, clock=now_utc, reserved=RESERVED_NAMES)
    return ColumnsImported.model_validate(_told(report, summary=report.summary()))


@contextmanager
def _kept(file: UploadFile, second: UploadFile | None = None) -> Iterator[tuple[Path, Path | None]]:
    """Uploads as files in a folder that goes afterwards; errors name the files as they were sent, not the folder."""
    with tempfile.TemporaryDirectory(prefix="mlpl-upload-") as made:
        folder = Path(made)
        try:
            yield _written(folder / "1", file), _written(folder / "2", second) if second is not None else None
        except MlplError as exc:
            exc.message = re.sub(re.escape(made) + "/[12]/", "", exc.message)
            exc.args = (exc.message,)
            raise


def _written(folder: Path, file: UploadFile) -> Path:
    folder.mkdir()
    # Only the last part of the name, since it comes from outside; its ending says what the file holds.
    name = re.sub(r"[^\w. -]", "_", re.split(r"[/\\]", file.filename or "")[-1]).encode()[-_LONGEST_NAME:]
    path = folder / (name.decode(errors="ignore").strip(". ") or "upload")
    with path.open("wb") as target:
        shutil.copyfileobj(file.file, target, 1024 * 1024)
    return path


def _told(report: Leftovers, *, summary: str) -> dict[str, object]:
    return asdict(report) | {"summary": summary}
