"""Importing predictions: the lines of a file, each joined with its frame, become prediction shards of a model known by its name.

What a model said of a frame is a fact: a later file of the same model adds frames and changes none, and the same file again adds nothing.
A retrained model gets another name. Shards are committed one by one and the model is registered last, so that a killed import is taken
further by repeating it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError

from annotation.tasks import Task
from infra import leases
from infra.database import Db, retrying
from infra.errors import InvalidInput, NotFound
from infra.logs import get_logger
from infra.platform import Platform
from selection import shards
from selection.fleet import frames, joining, tabular
from selection.fleet.joining import Joining, Leftovers
from selection.fleet.tabular import Line
from selection.shards import Shard
from training import models
from training.importing import coco, forms, pixel_maps
from training.importing.forms import Boxes, Form
from training.models import Model, ModelId, Promotion

if TYPE_CHECKING:
    import pyarrow as pa

INDEXES: dict[str, list[IndexModel]] = {"prediction_imports": [IndexModel([("model_id", 1)])]}

NAME_PATTERN = re.compile(r"[a-z0-9](?:[._-]?[a-z0-9]){0,47}")

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class PredictionImport:
    """One file that predictions came from.

    Attributes:
        import_id: Digest of model and file.
        source: The file's name, as it was given.
        digest: SHA-256 of the file; of a folder, of its files' names and digests.
        frames: How many frames of the fleet it speaks of.
        cut: Confidence from which the detector reports boxes, None for other kinds.
        imported_at: UTC.
    """

    import_id: str
    model_id: str
    task_id: str
    source: str
    digest: str
    frames: int
    cut: float | None
    imported_at: datetime


@dataclass(kw_only=True)
class Report(Leftovers):
    """What came of an import.

    Attributes:
        imported: Frames that have their prediction from this file now.
        already: Frames that had one of this model before; those stay as they are.
        current: Whether the model ranks the task's frames now.
    """

    model_id: str
    imported: int = 0
    already: int = 0
    current: bool = False

    def summary(self) -> str:
        """One line."""
        parts = [f"imported predictions of {self.imported} frames as {self.model_id}"]
        parts += [f"{self.already} frames had one already"] if self.already else []
        return ", ".join(parts + self.told())


def import_predictions(
    platform: Platform,
    *,
    task: Task,
    name: str,
    source: Path,
    source_name: str | None = None,
    now: datetime,
    images: Path | None = None,
    dataset: Path | None = None,
    cut: float | None = None,
    make_current: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Brings the predictions in a file or folder.

    Args:
        platform: Where to.
        task: What is predicted; class names are its.
        name: Of the model; the same name adds to the same model.
        source: JSON Lines, CSV or Parquet, COCO results as `.json`, a folder of those or (segmentation) of maps.
        source_name: What the record calls the source; None: its path.
        now: UTC.
        images: Folder that paths in the file are relative to; images there are joined by their content.
        dataset: COCO dataset file that names images and categories.
        cut: Confidence from which a detector reports boxes; None takes the lowest in the file.
        make_current: Rank the task's frames by this model from now on.
        progress: Called with rows done and rows to do.
    Raises:
        InvalidInput: Nothing of the file can be used, or it cannot be read at all.
        NotFound: There is no such file.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidInput(
            f"model name {name!r} does not fit: use 1 to 48 lower-case letters, digits and single dots, hyphens or underscores"
        )
    if cut is not None and not 0.0 <= cut <= 1.0:
        raise InvalidInput(f"the confidence from which boxes are reported lies between 0 and 1, not at {cut}")
    if not source.exists():
        raise NotFound(f"there is no file or folder {source}")
    model_id = ModelId(f"imported-{task.task_id}-{name}")
    _check_classes(platform.database, model_id, task)
    base = source if source.is_dir() else source.parent
    form = forms.form_of(task.kind, task.classes, base=base, objects=platform.objects, cut=cut)
    report = Report(model_id=model_id)
    with leases.hold(platform.database, f"import/{model_id}"), Joining(platform.database) as joined:
        for line in _lines(source, task=task, dataset=dataset):
            _take(line, form=form, joined=joined, images=images, report=report)
        joined.match()
        report.unknown, report.ambiguous = joined.unknown, joined.ambiguous
        _check_any(joined, report, source=source)
        _write(platform, joined, form=form, report=report, progress=progress)
        _record(
            platform.database,
            report,
            task=task,
            name=name,
            source=source,
            source_name=source_name or str(source),
            form=form,
            now=now,
            promote=make_current,
        )
    log.info("predictions_imported", model_id=model_id, frames=report.imported, broken=report.broken)
    return report


def imports_of(db: Db, model_id: str) -> list[PredictionImport]:
    """The files that a model's predictions came from, oldest first."""
    found = db.prediction_imports.find({"model_id": model_id}).sort([("imported_at", 1), ("_id", 1)])
    return [PredictionImport(import_id=one.pop("_id"), **one) for one in found]


def _check_classes(db: Db, model_id: ModelId, task: Task) -> None:
    try:
        before = models.get(db, model_id).classes
    except NotFound:
        return
    if before != task.classes:
        raise InvalidInput(
            f"{model_id} predicts {', '.join(before)}, but task {task.task_id} has other classes now; give the model another name"
        )


def _lines(source: Path, *, task: Task, dataset: Path | None) -> Iterator[Line]:
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in tabular.SUFFIXES)
        if task.kind == "segmentation" and not files:
            yield from pixel_maps.in_folder(source)
        elif not files:
            raise InvalidInput(f"{source} holds no {', '.join(tabular.SUFFIXES)}")
        for path in files:
            yield from tabular.read(path)
    elif source.suffix.lower() == ".json":
        if task.kind != "detection":
            raise InvalidInput(
                f"{source} is read as COCO results, which are detections, but task {task.task_id} is of kind {task.kind}; bring JSON Lines"
            )
        yield from coco.read(source, dataset=dataset)
    else:
        yield from tabular.read(source)


def _take(line: Line, *, form: Form, joined: Joining, images: Path | None, report: Report) -> None:
    problem = line.problem
    if line.record is not None:
        try:
            reference, payload = joining.reference_of(line.record, images=images), form.encode(line.record)
        except InvalidInput as exc:
            problem = exc.message
        else:
            joined.add(reference, payload)
            return
    report.note_broken(line.number, problem)


def _check_any(joined: Joining, report: Report, *, source: Path) -> None:
    if joined.count:
        return
    reasons = [f"broken {one}" for one in report.broken_examples[:1]]
    for found, what in ((report.unknown, "not in the fleet"), (report.ambiguous, "names of several frames")):
        reasons += [f"{found.count} frames are {what}, {found.examples[0]} for example"] if found.count else []
    raise InvalidInput(f"nothing in {source} could be used: {'; '.join(reasons) or 'it is empty'}")


def _write(
    platform: Platform, joined: Joining, *, form: Form, report: Report, progress: Callable[[int, int], None] | None
) -> None:
    """Brings every row that waits into a shard, piece by piece."""
    db, done, total = platform.database, 0, joined.count
    committed: list[tuple[int, int, Shard | None]] = [
        (one.start, one.stop, one) for one in shards.records(db, "predictions", report.model_id)
    ]
    gaps = shards.gaps(db, "predictions", report.model_id, frames.row_count(db))
    pieces = sorted([*committed, *((start, stop, None) for start, stop in gaps)], key=lambda piece: piece[:2])
    for start, stop, there in pieces:
        waiting = dict(joined.rows(start, stop))
        if not waiting:
            continue
        added = _add(platform, waiting, start=start, stop=stop, there=there, form=form, model_id=report.model_id)
        report.imported += added
        report.already += len(waiting) - added
        done += len(waiting)
        if progress is not None:
            progress(done, total)


def _add(
    platform: Platform,
    waiting: Mapping[int, Sequence[bytes]],
    *,
    start: int,
    stop: int,
    there: Shard | None,
    form: Form,
    model_id: str,
) -> int:
    """Brings rows into their shard; how many were new."""
    if there is not None:
        try:
            old = shards.read(platform, there)
        except shards.CorruptShard:
            there = None
        else:
            known = np.asarray(old.column("probability").is_valid())
            new = {row: payloads for row, payloads in waiting.items() if not known[row - start]}
            if new:
                merged = _merged(old, form.table(start, stop, new), [row - start for row in new])
                shards.replace(platform, there, merged)
            return len(new)
    shards.write(platform, "predictions", model_id, start, stop, form.table(start, stop, waiting))
    return len(waiting)


def _merged(old: pa.Table, new: pa.Table, places: Sequence[int]) -> pa.Table:
    """The old table with some lines from the new one; columns that only one has are null in the lines of the other."""
    import pyarrow as pa

    chosen = np.arange(old.num_rows)
    chosen[list(places)] += old.num_rows
    both = pa.concat_tables([old, new.replace_schema_metadata(old.schema.metadata)], promote_options="default")
    return both.take(pa.array(chosen)).combine_chunks()


def _record(
    db: Db,
    report: Report,
    *,
    task: Task,
    name: str,
    source: Path,
    source_name: str,
    form: Form,
    now: datetime,
    promote: bool,
) -> None:
    """Notes the file, then registers the model: with that the import has happened."""
    digest = _digest(source)
    moment = frames.to_the_millisecond(now)
    one = PredictionImport(
        import_id=hashlib.sha256(f"{report.model_id}\0{digest}".encode()).hexdigest()[:32],
        model_id=report.model_id,
        task_id=task.task_id,
        source=source_name,
        digest=digest,
        frames=report.imported + report.already,
        cut=form.cut if isinstance(form, Boxes) else None,
        imported_at=moment,
    )
    document = asdict(one)
    document["_id"] = document.pop("import_id")
    try:
        retrying(lambda: db.prediction_imports.insert_one(document))
    except DuplicateKeyError:
        log.debug("file_imported_before", model_id=report.model_id, digest=digest)
    reason = "its predictions were imported"
    models.register(
        db,
        Model(
            model_id=ModelId(report.model_id),
            task_id=task.task_id,
            origin="imported",
            architecture=name,
            classes=task.classes,
            promotion=Promotion(
                promoted=promote,
                metric_name=None,
                candidate=None,
                baseline=None,
                baseline_model_id=None,
                reason=reason if promote else f"{reason}, not to rank by",
            ),
            created_at=moment,
        ),
    )
    if promote:
        models.make_current(db, report.model_id, now=moment)
    current = models.current(db, task.task_id)
    report.current = current is not None and current.model_id == report.model_id


def _digest(source: Path) -> str:
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.is_file())
        listed = "".join(f"{path.relative_to(source)}\0{_digest(path)}\n" for path in files)
        return hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
