"""Frames: what is known of one, its preview and its original bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Header
from pydantic import BaseModel
from starlette.responses import FileResponse, Response

from annotation import batches, datasets, labels, tasks
from infra.platform import Platform
from selection.fleet import frames, originals, sightings
from selection.fleet.frames import Frame
from service.api.errors import RESPONSES
from service.api.line import OneLine
from training import models

router = APIRouter(prefix="/frames", tags=["frames"], responses={404: RESPONSES[404]})

# A frame's bytes never change under its id, so a browser need not ask again.
_FOR_EVER = "private, max-age=31536000, immutable"
_MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif", "BMP": "image/bmp"}


class SightingOut(BaseModel):
    """A place the frame was found at."""

    site: str | None
    uri: str
    seen_at: datetime


class LabelOut(BaseModel):
    """One revision of a label. `stands` marks the one that counts for its task now."""

    label_id: str
    task_id: str
    value: list[str]
    annotator: str
    backend: str
    batch_id: str
    revision: int
    tombstone: bool
    answered_at: datetime
    stands: bool


class PlaceOut(BaseModel):
    """The frame's place in a batch."""

    batch_id: str
    task_id: str
    rank: int
    score: float | None
    reason: str
    purpose: str
    state: str


class PredictionOut(BaseModel):
    """What a task's current model thinks of the frame."""

    task_id: str
    kind: str
    model_id: str
    probabilities: dict[str, float]


class WithdrawnOut(BaseModel):
    """Whether a frame is withdrawn now, and whether that is new."""

    frame_id: str
    withdrawn: bool
    changed: bool


class FrameOut(BaseModel):
    """Everything about one frame."""

    frame_id: str
    row: int
    digest: str
    width: int
    height: int
    format: str
    size_bytes: int
    captured_at: datetime | None
    site: str | None
    vehicle: str | None
    drive: str | None
    camera: str | None
    location: tuple[float, float] | None
    attributes: dict[str, Any]
    source: str
    ingested_at: datetime
    withdrawn_at: datetime | None
    sightings: list[SightingOut]
    labels: list[LabelOut]
    batches: list[PlaceOut]
    dataset_ids: list[str]
    predictions: list[PredictionOut]


@router.get("/{frame_id}")
def read_frame(frame_id: str, line: OneLine) -> FrameOut:
    """A frame by its id, or by a unique beginning of it, with its sightings, labels, batches and predictions."""
    db = line.platform.database
    frame = frames.get(db, frame_id)
    facts = {name: getattr(frame, name) for name in FrameOut.model_fields if hasattr(frame, name)}
    return FrameOut(
        **facts,
        sightings=[
            SightingOut(site=one.site, uri=one.uri, seen_at=one.seen_at)
            for one in sightings.of_frame(db, frame.frame_id)
        ],
        labels=_labels(line.platform, frame),
        batches=[
            PlaceOut(**{name: getattr(place, name) for name in PlaceOut.model_fields})
            for place in batches.places_of(db, frame.frame_id)
        ],
        dataset_ids=list(dict.fromkeys(binding["dataset_id"] for binding in datasets.of_frame(db, frame.frame_id))),
        predictions=_predictions(line.platform, frame),
    )


@router.get("/{frame_id}/preview", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
def read_preview(frame_id: str, line: OneLine, if_none_match: str | None = Header(default=None)) -> Response:
    """A small JPEG of the frame, upright, short side at most 336 pixels."""
    etag = f'"{frame_id}-preview"'
    if if_none_match == etag:
        return Response(status_code=304, headers={"etag": etag, "cache-control": _FOR_EVER})
    frame = frames.get(line.platform.database, frame_id)
    objects = line.platform.objects
    if frame.object_uri is not None and not objects.exists(frame.preview_key):
        originals.make_preview(
            objects,
            preview_key=frame.preview_key,
            object_key=frame.object_key,
            object_uri=frame.object_uri,
            max_pixels=line.platform.settings.max_image_pixels,
            digest=frame.digest,
        )
    return object_response(line.platform, frame.preview_key, media_type="image/jpeg", etag=etag)


@router.get("/{frame_id}/image", response_class=Response, responses={200: {"content": {"image/*": {}}}})
def read_image(frame_id: str, line: OneLine, if_none_match: str | None = Header(default=None)) -> Response:
    """The frame's bytes as they were ingested."""
    etag = f'"{frame_id}"'
    if if_none_match == etag:
        return Response(status_code=304, headers={"etag": etag, "cache-control": _FOR_EVER})
    return image_response(line.platform, frames.get(line.platform.database, frame_id), etag=etag)


@router.post("/{frame_id}/withdraw")
def withdraw(frame_id: str, line: OneLine, undo: bool = False) -> WithdrawnOut:
    """Takes a frame out of the fleet, or with `undo` back into it. It keeps its row, labels and lineage, but nothing finds it."""
    turn = frames.restore if undo else frames.withdraw
    changed = turn(line.platform.database, [frame_id], datetime.now(UTC))
    line.curator.refresh()
    return WithdrawnOut(frame_id=frame_id, withdrawn=not undo, changed=bool(changed))


def image_response(platform: Platform, frame: Frame, *, etag: str, headers: dict[str, str] | None = None) -> Response:
    """The original bytes of a frame as an answer."""
    media_type = _MEDIA_TYPES.get(frame.format.upper(), f"image/{frame.format.lower()}")
    if frame.object_uri is None:
        return object_response(platform, frame.object_key, media_type=media_type, etag=etag, headers=headers)
    sent = {"etag": etag, "cache-control": _FOR_EVER} | (headers or {})
    path = originals.path(platform.objects, frame)
    if path is not None:
        return FileResponse(path, media_type=media_type, headers=sent)
    data = originals.read(platform.objects, object_key=frame.object_key, object_uri=frame.object_uri)
    return Response(data, media_type=media_type, headers=sent)


def object_response(
    platform: Platform, key: str, *, media_type: str, etag: str, headers: dict[str, str] | None = None
) -> Response:
    """An object as an answer: from the disk in pieces where it lies on one, else fetched."""
    sent = {"etag": etag, "cache-control": _FOR_EVER} | (headers or {})
    path = platform.objects.local_path(key)
    if path is not None and path.is_file():
        return FileResponse(path, media_type=media_type, headers=sent)
    return Response(platform.objects.get(key), media_type=media_type, headers=sent)


def _labels(platform: Platform, frame: Frame) -> list[LabelOut]:
    revisions = labels.of_frame(platform.database, frame.frame_id)
    standing = {
        label.label_id
        for task_id in {one.task_id for one in revisions}
        if (label := labels.standing(one for one in revisions if one.task_id == task_id)) is not None
    }
    names = [name for name in LabelOut.model_fields if name not in ("value", "stands")]
    return [
        LabelOut(
            **{name: getattr(label, name) for name in names},
            value=list(label.value),
            stands=label.label_id in standing,
        )
        for label in revisions
    ]


def _predictions(platform: Platform, frame: Frame) -> list[PredictionOut]:
    from selection.ranking.predictions import Predictions

    found: list[PredictionOut] = []
    for task in tasks.list_all(platform.database):
        model = models.current(platform.database, task.task_id)
        if model is None:
            continue
        values = Predictions(platform, model.model_id).probabilities_by_row([frame.row]).get(frame.row)
        if values is not None:
            probabilities = dict(zip(model.classes, (round(float(p), 4) for p in values), strict=True))
            found.append(
                PredictionOut(
                    task_id=task.task_id, kind=task.kind, model_id=model.model_id, probabilities=probabilities
                )
            )
    return found
