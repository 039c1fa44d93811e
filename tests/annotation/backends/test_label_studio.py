"""What is particular to Label Studio: faults on the way, copies of tasks, pre-annotations, webhooks, tokens."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any

import httpx
import pytest

from annotation.backends.label_studio import backend as module
from annotation.backends.label_studio import conversion
from annotation.backends.label_studio.backend import LabelStudioBackend
from annotation.backends.label_studio.server import Server
from annotation.backends.protocol import Ticket
from infra.errors import BackendUnavailable, Conflict, Denied, NotFound
from selection.fleet.frames import FrameId
from service.demo.label_studio_people import answer_open_tasks

NewTicket = Callable[..., Ticket]


def frame_ids(ticket: Ticket) -> list[FrameId]:
    return [frame.frame_id for frame in sorted(ticket.frames, key=lambda frame: frame.rank)]


@contextmanager
def http_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server of ours on a free port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class Weather:
    """What happens on the way to Label Studio. Each fault happens once, to the next import."""

    def __init__(self) -> None:
        self.faults: list[str] = []


@pytest.fixture
def weather() -> Weather:
    return Weather()


@pytest.fixture
def through_the_weather(label_studio_server: Server, weather: Weather) -> Iterator[LabelStudioBackend]:
    """A backend that reaches Label Studio through a proxy that can lose what it carries."""

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = weather.faults.pop(0) if weather.faults and self.path.split("?")[0].endswith("/import") else None
            if fault != "request lost":
                headers = {
                    name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers
                }
                answer = httpx.request(
                    self.command,
                    label_studio_server.url + self.path,
                    content=body,
                    headers=headers,
                    timeout=60,
                    trust_env=False,
                )
                if fault is None:
                    self.send_response_only(answer.status_code)
                    for name in ("Content-Type", "Date"):
                        if name in answer.headers:
                            self.send_header(name, answer.headers[name])
                    self.send_header("Content-Length", str(len(answer.content)))
                    self.end_headers()
                    self.wfile.write(answer.content)
                    return
            self.close_connection = True

        do_GET = do_POST = do_PATCH = do_DELETE = pass_on  # noqa: N815

        def log_message(self, *_args: Any) -> None: ...

    with http_server(Proxy) as url:
        yield LabelStudioBackend(url=url, token=label_studio_server.token)


def test_an_import_whose_answer_was_lost_is_not_repeated(
    through_the_weather: LabelStudioBackend, weather: Weather, label_studio_desk: Any, new_ticket: NewTicket
) -> None:
    ticket = new_ticket(5)
    weather.faults = ["answer lost"]

    ref = through_the_weather.open(ticket)

    assert weather.faults == []
    assert label_studio_desk.offered(ref) == frame_ids(ticket)


def test_an_open_that_broke_off_between_chunks_goes_on(
    through_the_weather: LabelStudioBackend,
    weather: Weather,
    label_studio_desk: Any,
    new_ticket: NewTicket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "IMPORT_CHUNK", 3)
    ticket = new_ticket(8)
    weather.faults = ["answer lost", "request lost"]

    with pytest.raises(BackendUnavailable):
        through_the_weather.open(ticket)
    ref = through_the_weather.open(ticket)

    assert label_studio_desk.offered(ref) == frame_ids(ticket)


def test_two_that_open_at_once_leave_one_task_a_frame(label_studio_desk: Any, new_ticket: NewTicket) -> None:
    ticket = new_ticket(12)
    together = threading.Barrier(2)
    refs: list[str] = []

    def work() -> None:
        backend = label_studio_desk.again()
        together.wait()
        refs.append(backend.open(ticket))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(refs) == 2
    assert len(set(refs)) == 1
    list(label_studio_desk.backend.collect(refs[0], None))
    assert label_studio_desk.offered(refs[0]) == frame_ids(ticket)


def _copy_task(desk: Any, ref: str, frame_id: FrameId) -> int:
    """A second task for a frame, as an import leaves it that was still running when its sender was killed."""
    task = desk.tasks(ref, frame_id)[0]
    project, _ = conversion.read_ref(ref)
    body = [{"data": task["data"], "meta": task["meta"]}]
    desk.http.post(f"/api/projects/{project}/import?return_task_ids=true", json=body).raise_for_status()
    return int(desk.tasks(ref, frame_id)[1]["id"])


def test_unanswered_copies_go_and_answered_ones_stay(label_studio_desk: Any, new_ticket: NewTicket) -> None:
    desk = label_studio_desk
    ticket = new_ticket(3)
    second_answered, both_answered, none_answered = frame_ids(ticket)
    ref = desk.backend.open(ticket)
    copies = {frame_id: _copy_task(desk, ref, frame_id) for frame_id in frame_ids(ticket)}
    desk.submit(copies[second_answered], conversion.choices_json(["car"]))
    desk.submit(copies[both_answered], conversion.choices_json(["car"]))
    desk.submit(desk.tasks(ref, both_answered)[0]["id"], [])

    found = {answers.frame_id: answers.annotations for answers in desk.backend.collect(ref, None)}

    assert {frame_id: len(desk.tasks(ref, frame_id)) for frame_id in frame_ids(ticket)} == {
        second_answered: 1,
        both_answered: 2,
        none_answered: 1,
    }
    assert [a.value for a in found[second_answered]] == [("car",)]
    assert sorted(a.value for a in found[both_answered]) == [(), ("car",)]
    assert found[none_answered] == ()


def test_pages_are_read_to_the_end(
    label_studio_desk: Any, new_ticket: NewTicket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAGE", 2)
    ticket = new_ticket(6)
    ref = label_studio_desk.backend.open(ticket)

    assert [answers.frame_id for answers in label_studio_desk.backend.collect(ref, None)] == frame_ids(ticket)


def test_pre_annotations_of_the_newest_model_are_the_ones_shown(label_studio_desk: Any, new_ticket: NewTicket) -> None:
    desk = label_studio_desk
    ticket = new_ticket(
        2, model_id="model-1", probabilities=lambda rank: {"car": 0.9, "person & dog": 0.2} if rank else {"car": 0.1}
    )
    ref = desk.backend.open(ticket)
    newer = new_ticket(1, task=ticket.task, model_id="model-2", probabilities=lambda _rank: {"car": 1.0})
    newer_ref = desk.backend.open(newer)

    shown = [task["predictions"][0] for task in desk.tasks(ref)]
    assert [prediction["model_version"] for prediction in shown] == ["model-1"] * 2
    assert [prediction["score"] for prediction in shown] == [0.9, 0.85]
    assert [prediction["result"] for prediction in shown] == [[], conversion.choices_json(["car"])]
    assert desk.tasks(newer_ref)[0]["predictions"][0]["score"] == 1.0
    assert desk.project(ref)["model_version"] == "model-2"
    assert [a for answers in desk.backend.collect(ref, None) for a in answers.annotations] == []


def test_expired_image_urls_are_renewed(label_studio_desk: Any, new_ticket: NewTicket) -> None:
    ticket = new_ticket(2, expires=1_000_000_000)
    ref = label_studio_desk.backend.open(ticket)
    fresh = [replace(f, image_url=f.image_url.replace("1000000000", "4000000000")) for f in ticket.frames]

    label_studio_desk.backend.open(replace(ticket, frames=fresh))
    once = [task["updated_at"] for task in label_studio_desk.tasks(ref)]
    label_studio_desk.backend.open(replace(ticket, frames=fresh))

    tasks = label_studio_desk.tasks(ref)
    assert {task["data"]["image"] for task in tasks} == {frame.image_url for frame in fresh}
    assert all(task["data"]["batch_id"] == ticket.batch_id for task in tasks)
    assert [task["updated_at"] for task in tasks] == once


def test_new_classes_reach_the_annotators_and_lost_ones_are_refused(
    label_studio_desk: Any, new_ticket: NewTicket
) -> None:
    ticket = new_ticket(1)
    ref = label_studio_desk.backend.open(ticket)
    more = replace(ticket.task, classes=(*ticket.task.classes, "bus"), version=2)
    later = new_ticket(1, task=more)

    later_ref = label_studio_desk.backend.open(later)
    label_studio_desk.answer(later_ref, later.frames[0].frame_id, ["bus"])

    assert conversion.read_ref(ref)[0] == conversion.read_ref(later_ref)[0]
    (answers,) = label_studio_desk.backend.collect(later_ref, None)
    assert [(a.value, a.problem) for a in answers.annotations] == [(("bus",), None)]
    with pytest.raises(Conflict, match="lacks class 'bus'"):
        label_studio_desk.backend.open(new_ticket(1, task=ticket.task))


def test_answers_that_cannot_be_read_are_reported(label_studio_desk: Any, new_ticket: NewTicket) -> None:
    ticket = new_ticket(1)
    ref = label_studio_desk.backend.open(ticket)

    label_studio_desk.answer(ref, ticket.frames[0].frame_id, ["zebra"])

    (answers,) = label_studio_desk.backend.collect(ref, None)
    assert [(a.value, a.problem) for a in answers.annotations] == [
        (("zebra",), f"'zebra' is no class of task {ticket.task.task_id}")
    ]


def test_installations_that_share_a_server_have_projects_of_their_own(
    label_studio_server: Server, label_studio_desk: Any, new_ticket: NewTicket
) -> None:
    ticket = new_ticket(1)
    other = LabelStudioBackend(url=label_studio_server.url, token=label_studio_server.token, owner="another")
    assert other.open(ticket) != label_studio_desk.backend.open(ticket)


def test_the_webhook_rings_with_the_secret(label_studio_desk: Any, new_ticket: NewTicket) -> None:
    calls: Queue[tuple[str, str | None, dict[str, Any]]] = Queue()

    class Bell(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            calls.put((self.path, self.headers.get("Authorization"), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_args: Any) -> None: ...

    ticket = new_ticket(1)
    ref = label_studio_desk.backend.open(ticket)
    project = conversion.read_ref(ref)[0]
    with http_server(Bell) as url:
        bell = f"{url}/api/v1/webhooks/label-studio"
        label_studio_desk.backend.ensure_webhook(ref, url="http://127.0.0.1:1/api/v1/webhooks/label-studio", secret="x")
        for _ in range(2):
            label_studio_desk.again().ensure_webhook(ref, url=bell, secret="s3cret")
        hooks = label_studio_desk.http.get("/api/webhooks/", params={"project": project}).json()
        assert [hook["url"] for hook in hooks] == [bell]
        label_studio_desk.answer(ref, ticket.frames[0].frame_id, ["car"])
        path, authorization, body = calls.get(timeout=30)

    assert (path, authorization) == ("/api/v1/webhooks/label-studio", "Bearer s3cret")
    assert body["action"] == "ANNOTATION_CREATED"
    assert body["task"]["data"]["frame_id"] == ticket.frames[0].frame_id


@pytest.mark.filterwarnings("ignore:The `parse_obj` method is deprecated")  # In the SDK, when it refreshes a token.
def test_a_personal_access_token_works(
    label_studio_server: Server, label_studio_desk: Any, new_ticket: NewTicket
) -> None:
    with httpx.Client(base_url=label_studio_server.url, timeout=60, trust_env=False) as session:
        session.get("/user/login/").raise_for_status()
        form = {
            "email": label_studio_server.username,
            "password": label_studio_server.password,
            "csrfmiddlewaretoken": session.cookies["csrftoken"],
        }
        referer = {"Referer": f"{label_studio_server.url}/user/login/"}
        assert session.post("/user/login/", data=form, headers=referer).status_code == 302
        headers = {"X-CSRFToken": session.cookies["csrftoken"], **referer}
        token = session.post("/api/token/", headers=headers).raise_for_status().json()["token"]
    ticket = new_ticket(1)

    ref = LabelStudioBackend(url=label_studio_server.url, token=token).open(ticket)

    assert label_studio_desk.offered(ref) == frame_ids(ticket)


@pytest.mark.parametrize("token", ["0123456789abcdef0123456789abcdef01234567", "", "no\nheader"])
def test_wrong_tokens_are_denied(label_studio_server: Server, token: str) -> None:
    with pytest.raises(Denied, match="MLPL_LABEL_STUDIO_TOKEN"):
        LabelStudioBackend(url=label_studio_server.url, token=token).status("1/b")


def test_what_is_gone_is_not_found_and_can_be_cancelled(label_studio_desk: Any) -> None:
    with pytest.raises(NotFound, match="b7"):
        label_studio_desk.backend.status("999999/b7")
    with pytest.raises(NotFound, match="b7"):
        list(label_studio_desk.backend.collect("999999/b7", None))
    label_studio_desk.backend.cancel("999999/b7")


def test_nobody_there_is_unavailable() -> None:
    with pytest.raises(BackendUnavailable, match="MLPL_LABEL_STUDIO_URL") as caught:
        LabelStudioBackend(url="http://127.0.0.1:1", token="t").server_now()
    assert caught.value.retry_after_s > 0


@pytest.mark.parametrize("status", [200, 404, 502])
def test_something_else_on_the_address_is_unavailable(status: int, new_ticket: NewTicket) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_args: Any) -> None: ...

    with http_server(Page) as url, pytest.raises(BackendUnavailable, match=url):
        LabelStudioBackend(url=url, token="t").open(new_ticket(1))


def test_simulated_people_answer_each_frame_once(
    label_studio_server: Server, label_studio_desk: Any, new_ticket: NewTicket
) -> None:
    ticket = new_ticket(5)
    first, skipped, *_ = frame_ids(ticket)
    ref = label_studio_desk.backend.open(ticket)
    _copy_task(label_studio_desk, ref, first)  # To be answered once all the same.
    url, token = label_studio_server.url, label_studio_server.token

    def answer(frame_id: FrameId) -> list[str] | None:
        return None if frame_id == skipped else ["car"] if frame_id == first else []

    given = [answer_open_tasks(url, token, answer, batch_id=ticket.batch_id, limit=2)]
    given += [answer_open_tasks(url, token, answer, batch_id=ticket.batch_id) for _ in range(2)]

    assert given == [2, 3, 0]
    found = {answers.frame_id: answers.annotations for answers in label_studio_desk.backend.collect(ref, None)}
    assert {frame_id: [(a.state, a.value) for a in annotations] for frame_id, annotations in found.items()} == {
        frame_id: [("skipped", ()) if frame_id == skipped else ("labelled", tuple(answer(frame_id) or ()))]
        for frame_id in frame_ids(ticket)
    }
    assert answer_open_tasks(url, token, answer, batch_id=f"other-{uuid.uuid4()}") == 0
