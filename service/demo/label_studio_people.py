"""Simulated people who answer in a real Label Studio, through its own API, as a labelling tool of somebody else's would.

Nothing else of MLPL writes answers to Label Studio. Each answer carries an id made from what it answers, and Label Studio takes an id
once: killed at any point and run again, every frame ends with exactly one answer.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx

from annotation.backends.label_studio import conversion
from infra.errors import BackendUnavailable
from selection.fleet.frames import FrameId

Answer = Callable[[FrameId], Sequence[str] | None]

_NAMESPACE = uuid.UUID("5a2f0d3e-7b1c-4c55-9d0a-8a4f3f6f2c11")
_PAGE = 100
_TIMEOUT_S = 60.0


def answer_open_tasks(url: str, token: str, answer: Answer, *, batch_id: str, limit: int | None = None) -> int:
    """Answers the unanswered tasks of a batch in order, and returns how many answers were given.

    Args:
        url: Where Label Studio is.
        token: A legacy token, such as the one of the server that MLPL starts.
        answer: The names of the classes that a frame shows, or None to skip it.
        limit: Answers to give at most.

    Raises:
        BackendUnavailable: Label Studio does not answer; calling again goes on where this ended.
    """
    given = 0
    with httpx.Client(
        base_url=url, headers={"Authorization": f"Token {token}"}, timeout=_TIMEOUT_S, trust_env=False
    ) as client:
        try:
            for project_id in _projects(client):
                for task in _open_tasks(client, project_id, batch_id):
                    if limit is not None and given >= limit:
                        return given
                    given += _post(client, project_id, task, answer(FrameId(task["data"]["frame_id"])))
        except httpx.HTTPError as exc:
            raise BackendUnavailable(f"simulated people cannot answer in Label Studio at {url}: {exc}") from exc
    return given


def _projects(client: httpx.Client) -> Iterator[int]:
    """Projects of MLPL's."""
    path: str | None = "/api/projects/?page_size=100&include=id,description"
    while path:
        page = client.get(path).raise_for_status().json()
        for project in page["results"]:
            if conversion.read_question(project.get("description")) is not None:
                yield int(project["id"])
        path = page.get("next")


def _open_tasks(client: httpx.Client, project_id: int, batch_id: str) -> Iterator[dict[str, Any]]:
    last = 0
    while True:
        filters = [
            conversion.batch_filter(batch_id),
            *conversion.unanswered_filters(),
            conversion.after_filter(last),
        ]
        params: dict[str, str | int] = {"project": project_id, "query": conversion.query(filters)}
        params |= {"fields": "task_only", "include": "id,data", "page": 1, "page_size": _PAGE}
        page = client.get("/api/tasks/", params=params).raise_for_status().json()["tasks"]
        yield from page
        if len(page) < _PAGE:
            return
        last = int(page[-1]["id"])


def _post(client: httpx.Client, project_id: int, task: dict[str, Any], names: Sequence[str] | None) -> bool:
    seed = f"{project_id}/{task['data']['batch_id']}/{task['data']['frame_id']}"
    body = {
        "unique_id": str(uuid.uuid5(_NAMESPACE, seed)),
        "was_cancelled": names is None,
        "result": conversion.choices_json(names or ()),
    }
    response = client.post(f"/api/tasks/{task['id']}/annotations/", json=body)
    # Conflict: somebody, perhaps we before a crash, gave this answer already. Not found: the task was withdrawn meanwhile.
    if response.status_code in (httpx.codes.CONFLICT, httpx.codes.NOT_FOUND):
        return False
    response.raise_for_status()
    return True
