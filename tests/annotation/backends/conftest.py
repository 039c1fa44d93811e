"""Desks: a labelling backend together with people who work at it, one for each backend, so that one suite runs over all."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import httpx
import pytest

from annotation.backends.label_studio import conversion
from annotation.backends.label_studio.backend import LabelStudioBackend
from annotation.backends.label_studio.server import Server
from annotation.backends.protocol import LabellingBackend, Ticket, TicketFrame
from annotation.backends.simulated import SimulatedBackend
from annotation.tasks import Task, TaskId, TaskKind
from infra.database import Db
from selection.fleet.frames import FrameId

CLASSES = ("car", "person & dog", '<"traffic" sign>')


class Desk(Protocol):
    """A backend and its people."""

    backend: LabellingBackend

    def again(self) -> LabellingBackend:
        """The backend as another process would have it."""

    def answer(self, ref: str, frame_id: FrameId, value: Sequence[str] | None) -> None:
        """A person answers, or skips for None."""

    def correct(self, ref: str, frame_id: FrameId, value: Sequence[str]) -> None: ...

    def retract(self, ref: str, frame_id: FrameId) -> None: ...

    def offered(self, ref: str) -> list[FrameId]:
        """All frames of the batch in the order in which people get them, with repeats if there are any."""


class SimulatedDesk:
    """Simulated people."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._told: dict[FrameId, Sequence[str] | None] = {}
        self.backend = self.again()

    def again(self) -> SimulatedBackend:
        return SimulatedBackend(self._db, answer=self._told.__getitem__)

    def answer(self, ref: str, frame_id: FrameId, value: Sequence[str] | None) -> None:
        self.backend._give(ref, frame_id, value)

    def correct(self, ref: str, frame_id: FrameId, value: Sequence[str]) -> None:
        self.backend.correct(ref, frame_id, value)

    def retract(self, ref: str, frame_id: FrameId) -> None:
        self.backend.retract(ref, frame_id)

    def offered(self, ref: str) -> list[FrameId]:
        return [d["frame_id"] for d in self._db.simulated_answers.find({"batch_id": ref}).sort("rank", 1)]


class LabelStudioDesk:
    """People at a real Label Studio, who use nothing of ours but its REST API."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Token {token}"}, timeout=60, trust_env=False)
        self.backend = self.again()

    def again(self) -> LabelStudioBackend:
        return LabelStudioBackend(url=self._url, token=self._token)

    def answer(self, ref: str, frame_id: FrameId, value: Sequence[str] | None) -> None:
        task = self.tasks(ref, frame_id)[0]
        self.submit(task["id"], [] if value is None else conversion.choices_json(value), skip=value is None)

    def correct(self, ref: str, frame_id: FrameId, value: Sequence[str]) -> None:
        annotation = self.tasks(ref, frame_id)[0]["annotations"][0]
        body = {"result": conversion.choices_json(value)}
        self.http.patch(f"/api/annotations/{annotation['id']}/", json=body).raise_for_status()

    def retract(self, ref: str, frame_id: FrameId) -> None:
        annotation = self.tasks(ref, frame_id)[0]["annotations"][0]
        self.http.delete(f"/api/annotations/{annotation['id']}/").raise_for_status()

    def offered(self, ref: str) -> list[FrameId]:
        return [FrameId(task["data"]["frame_id"]) for task in self.tasks(ref)]

    def submit(self, task_id: int, result: list[dict[str, Any]], *, skip: bool = False) -> None:
        body = {"result": result, "was_cancelled": skip}
        self.http.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()

    def tasks(self, ref: str, frame_id: FrameId | None = None) -> list[dict[str, Any]]:
        """The tasks of a batch as Label Studio has them, in its order."""
        project, batch_id = conversion.read_ref(ref)
        query = conversion.query([conversion.batch_filter(batch_id)])
        params: dict[str, Any] = {"project": project, "query": query, "fields": "all", "page": 1, "page_size": 1000}
        found: list[dict[str, Any]] = self.http.get("/api/tasks/", params=params).raise_for_status().json()["tasks"]
        return [task for task in found if frame_id in (None, task["data"]["frame_id"])]

    def project(self, ref: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/api/projects/{conversion.read_ref(ref)[0]}/").raise_for_status().json()
        return found


@pytest.fixture(params=["simulated", "label_studio"])
def desk(request: pytest.FixtureRequest) -> Desk:
    """Each backend with its people in turn."""
    if request.param == "simulated":
        return SimulatedDesk(request.getfixturevalue("database"))
    found: LabelStudioDesk = request.getfixturevalue("label_studio_desk")
    return found


@pytest.fixture
def label_studio_desk(label_studio_server: Server) -> Iterator[LabelStudioDesk]:
    """People at the session's Label Studio."""
    desk = LabelStudioDesk(label_studio_server.url, label_studio_server.token)
    with desk.http:
        yield desk


@pytest.fixture
def new_ticket() -> Callable[..., Ticket]:
    """Makes tickets: `new_ticket(5, kind="multilabel")`, each for a batch and (unless given) a task of its own."""

    def make(
        count: int,
        *,
        kind: TaskKind = "multilabel",
        task: Task | None = None,
        model_id: str | None = None,
        probabilities: Callable[[int], dict[str, float] | None] = lambda _rank: None,
        expires: int = 4_000_000_000,
    ) -> Ticket:
        unique = uuid.uuid4().hex[:8]
        frames = [
            TicketFrame(
                frame_id=(frame_id := FrameId(hashlib.sha256(f"{unique}{rank}".encode()).hexdigest()[:32])),
                row=1000 - rank,
                width=640,
                height=480,
                image_url=f"http://127.0.0.1:8000/images/{frame_id}?expires={expires}&signature=abc",
                rank=rank,
                prediction=probabilities(rank),
            )
            for rank in range(count)
        ]
        return Ticket(
            batch_id=f"batch-{unique}",
            task=task or Task(task_id=TaskId(f"t{unique}"), kind=kind, classes=CLASSES),
            # In no order: what counts is the rank.
            frames=sorted(frames, key=lambda frame: frame.frame_id),
            model_id=model_id,
        )

    return make
