"""What MLPL asks of a labelling backend, and the records that cross that wall.

A backend turns a batch into work for people and hands their answers back. It knows frames by `frame_id` alone: answers are joined by
that id, never by position or order of arrival.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from annotation.tasks import Task
from selection.fleet.frames import FrameId

AnswerState = Literal["labelled", "skipped"]


@dataclass(frozen=True, kw_only=True)
class TicketFrame:
    """One frame of a batch as the backend gets it.

    Attributes:
        image_url: Signed, expiring URL of ours; the backend stores it, the annotator's browser follows it.
        rank: Place in the batch, 0 first; annotators should see frames in this order.
        prediction: Probability for each class by the current model, or None when there is no model yet.
    """

    frame_id: FrameId
    row: int
    width: int
    height: int
    image_url: str
    rank: int
    prediction: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """A batch to be labelled: `open` on the same `batch_id` again must add nothing that is already there."""

    batch_id: str
    task: Task
    frames: Sequence[TicketFrame]
    model_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One person's answer to one frame, as it stands in the backend now.

    Attributes:
        external_id: The backend's own id of the answer, unique within the backend and stable over corrections.
        value: Class names for an answered frame (exactly one for `classification`, any number for `multilabel`); empty when skipped.
        problem: Why the answer cannot be read (unknown control, no choice made); such an answer is reported, never stored as a label.
        updated_at: UTC; grows when the person corrects the answer.
    """

    external_id: str
    annotator: str
    state: AnswerState
    value: tuple[str, ...]
    updated_at: datetime
    problem: str | None = None
    lead_time_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class FrameAnswers:
    """All answers a frame of a batch has in the backend now; one that was seen before and is missing here was deleted by its author."""

    frame_id: FrameId
    annotations: tuple[Annotation, ...]


@dataclass(frozen=True, kw_only=True)
class BackendStatus:
    """Counts of frames as the backend sees them, and where people do the work."""

    total: int
    labelled: int
    skipped: int
    queue_url: str | None = None


class LabellingBackend(Protocol):
    """Adapter to one labelling system. Every method may raise `infra.errors.BackendUnavailable`: the caller waits and asks again."""

    @property
    def name(self) -> str:
        """Stable name of the system and instance, kept with each label, for example `label_studio:http://127.0.0.1:8080`."""
        ...

    def open(self, ticket: Ticket) -> str:
        """Puts the batch before people and returns a reference to it. Idempotent on `ticket.batch_id`, also after a crash half way."""
        ...

    def status(self, ref: str) -> BackendStatus:
        """Counts for the batch behind `ref`."""
        ...

    def collect(self, ref: str, since: datetime | None) -> Iterator[FrameAnswers]:
        """Frames of the batch whose answers changed since `since` (all frames when None, so that deletions show).

        May repeat, must not omit; a frame without any answer comes with no annotations.
        """
        ...

    def server_now(self) -> datetime:
        """The backend's own clock, UTC: what answers are stamped with, and so what `since` must be taken from."""
        ...

    def cancel(self, ref: str) -> None:
        """Withdraws what nobody has answered yet. Idempotent."""
        ...
