"""Labelling by people in Label Studio, one project a task, over `label-studio-sdk`.

Label Studio does not recognise a task that it is given twice, and an answer to an import may get lost. So nothing here is sent
again on a doubt before the batch was listed, and copies that came about all the same (two processes at once, or an import that was
still running when we were killed) are found and the ones nobody answered are deleted.
"""

from __future__ import annotations

import atexit
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from annotation.backends.label_studio import conversion
from annotation.backends.label_studio.conversion import Json, Question
from annotation.backends.protocol import Annotation, BackendStatus, FrameAnswers, Ticket, TicketFrame
from infra.errors import BackendUnavailable, Conflict, Denied, InvalidInput, MlplError, NotFound
from infra.logs import get_logger
from selection.fleet.frames import FrameId

if TYPE_CHECKING:
    from label_studio_sdk import LabelStudio
    from label_studio_sdk.core.request_options import RequestOptions

# Label Studio imports about a thousand tasks a second, inside the request.
IMPORT_CHUNK = 500
_IMPORT_OPTIONS: RequestOptions = {"max_retries": 0, "timeout_in_seconds": 300}
_TIMEOUT_S = 60.0
_PAGE = 200
# Stamped by the server before its transaction ends: an answer may become visible some time after its `updated_at`.
_OVERLAP = timedelta(seconds=60)
_WEBHOOK_ACTIONS = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED")
_BUSY = (408, 425, 429)
_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Copy:
    """One Label Studio task of a frame."""

    task_id: int
    data: Json
    answered: bool


class LabelStudioBackend:
    """A labelling backend (see `annotation.backends.protocol`) on a Label Studio server.

    Safe to use from several threads, and from several processes on the same server.
    """

    def __init__(
        self,
        *,
        url: str,
        token: str,
        name: str | None = None,
        owner: str = "mlpl",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Connects to nothing yet.

        Args:
            token: A legacy token or a personal access token (refresh token).
            name: Stable name of this server, when its address may change; by default made from the address.
            owner: Separates installations of MLPL that share a server: each has projects of its own.
            clock: Now, in UTC; only for the age of image URLs.
        """
        self.url = url.rstrip("/")
        self._token = token.strip()
        self._name = name or f"label_studio:{self.url}"
        self._owner = owner
        self._clock = clock
        self._people: dict[int, str] = {}

    @property
    def name(self) -> str:
        """Stable name of the server, kept with each label."""
        return self._name

    def open(self, ticket: Ticket) -> str:
        """Puts the batch before people, in the order of rank, with pre-annotations where the model has some.

        Repeating it adds what is missing, deletes unanswered copies and renews image URLs that have expired or soon will.

        Raises:
            InvalidInput: The task is of a kind that is not served, or Label Studio refused the data.
            Conflict: The task's classes contradict those of its project.
            BackendUnavailable, Denied: The server does not answer, or refuses the token.
        """
        question = conversion.question_of(ticket.task, owner=self._owner)
        with self._translated(f"task {ticket.task.task_id}"):
            project_id = self._project_for(question)
            present = self._copies(project_id, ticket.batch_id)
            ordered = sorted(ticket.frames, key=lambda frame: frame.rank)
            missing = [frame for frame in ordered if frame.frame_id not in present]
            for begin in range(0, len(missing), IMPORT_CHUNK):
                chunk = missing[begin : begin + IMPORT_CHUNK]
                self._import(project_id, ticket=ticket, question=question, frames=chunk)
            if missing:
                present = self._copies(project_id, ticket.batch_id)
            self._delete_unanswered(project_id, ticket.batch_id, task_ids=_spare_copies(present))
            self._renew_urls(present, frames=ordered)
            if ticket.model_id is not None and any(frame.prediction for frame in ticket.frames):
                # Only predictions of this version are shown to annotators, and nothing but this call ever changes it.
                self._client.projects.update(id=project_id, model_version=ticket.model_id)
        _log.info("label_studio_batch_open", batch_id=ticket.batch_id, project=project_id, added=len(missing))
        return conversion.ref_of(project_id=project_id, batch_id=ticket.batch_id)

    def status(self, ref: str) -> BackendStatus:
        """Counts of the batch, and the page where people label."""
        project_id, batch_id = conversion.read_ref(ref)
        with self._translated(f"batch {batch_id}"):
            return BackendStatus(
                total=self._count(project_id, batch_id, []),
                labelled=self._count(project_id, batch_id, conversion.answered_filters()),
                skipped=self._count(project_id, batch_id, conversion.skipped_filters()),
                queue_url=f"{self.url}/projects/{project_id}/data?labeling=1",
            )

    def collect(self, ref: str, since: datetime | None) -> Iterator[FrameAnswers]:
        """Frames with all their answers: those that changed since `since` (by `server_now`), or every frame of the batch.

        A frame whose only answer was deleted comes with no annotation at all, and so does one that nobody answered yet. Drafts are
        no answers.

        Raises:
            NotFound: The project is gone.
            Conflict: The project no longer says what it asks.
        """
        project_id, batch_id = conversion.read_ref(ref)
        with self._translated(f"batch {batch_id}"):
            question = self._question(project_id)
            filters = [conversion.batch_filter(batch_id)]
            if since is not None:
                filters.append(conversion.updated_filter(since - _OVERLAP))
            copies: dict[FrameId, list[int]] | None = None
            for page in self._pages(project_id, filters, fields="all"):
                if copies is None:
                    copies = self._settled_copies(project_id, batch_id)
                # Each answer is complete, so the other copies of a frame come along, changed or not.
                asked = {int(task["id"]) for task in page}
                frame_ids = dict.fromkeys(_frame_id(task) for task in page)
                others = [i for frame_id in frame_ids for i in copies.get(frame_id, ()) if i not in asked]
                yield from self._answers([*page, *map(self._task, others)], question=question)

    def server_now(self) -> datetime:
        """The server's clock, to the second, as it stamps its answers."""
        with self._translated("its clock"):
            response = self._client.versions.with_raw_response.get()
            stamp = {name.lower(): value for name, value in response.headers.items()}.get("date")
        if stamp is None:
            raise BackendUnavailable(f"Label Studio at {self.url} does not say what time it is; is a proxy in between?")
        return parsedate_to_datetime(stamp).astimezone(UTC)

    def cancel(self, ref: str) -> None:
        """Deletes the tasks of the batch that nobody has answered or skipped."""
        project_id, batch_id = conversion.read_ref(ref)
        try:
            with self._translated(f"batch {batch_id}"):
                self._delete_unanswered(project_id, batch_id, task_ids=None)
        except NotFound:
            _log.info("label_studio_batch_gone", batch_id=batch_id, project=project_id)

    def ensure_webhook(self, ref: str, *, url: str, secret: str) -> None:
        """Has the project of a batch ring at `url` whenever an answer changes, with `Authorization: Bearer <secret>`.

        It is a doorbell: Label Studio sends each event once and never again, so `collect` remains what counts. A webhook of ours that
        leads to an earlier address is replaced.
        """
        project_id, _ = conversion.read_ref(ref)
        wanted: Json = {"url": url, "headers": {"Authorization": f"Bearer {secret}"}, "is_active": True}
        wanted |= {"send_payload": True, "send_for_all_actions": False, "actions": list(_WEBHOOK_ACTIONS)}
        with self._translated(f"the webhook of project {project_id}"):
            hooks = self._client.webhooks.list(project=str(project_id))
            ours = [hook for hook in hooks if urlsplit(hook.url).path == urlsplit(url).path]
            for hook in ours[1:]:
                self._client.webhooks.delete(id=_id(hook))
            if not ours:
                self._client.webhooks.create(project=project_id, **wanted)
            elif any(_plain(getattr(ours[0], name)) != value for name, value in wanted.items()):
                self._client.webhooks.update(id=_id(ours[0]), **wanted)

    # -- projects --------------------------------------------------------------------------------------------------------

    def _project_for(self, question: Question) -> int:
        found = self._find_project(question)
        if found is None:
            made = self._client.projects.create(
                title=conversion.project_title(question),
                description=conversion.project_description(question),
                label_config=conversion.label_config(question),
                sampling="Sequential sampling",
                maximum_annotations=1,
                enable_empty_annotation=question.kind == "multilabel",
                show_collab_predictions=True,
            )
            found = self._find_project(question)
            if found is None:
                raise BackendUnavailable(f"Label Studio at {self.url} does not show the project it has just made")
            if found[0] != made.id:
                # Somebody else made one at the same moment; the lower id stays, and ours is still empty.
                self._client.projects.delete(id=_id(made))
        project_id, existing = found
        if existing != question:
            self._change_question(project_id, existing, question)
        return project_id

    def _find_project(self, question: Question) -> tuple[int, Question] | None:
        found: list[tuple[int, Question]] = []
        projects: Any = self._client.projects.list(include="id,description", page_size=100)
        for project in projects:
            asked = conversion.read_question(project.description)
            if asked is not None and (asked.owner, asked.task_id) == (question.owner, question.task_id):
                found.append((_id(project), asked))
        return min(found, default=None, key=lambda pair: pair[0])

    def _change_question(self, project_id: int, existing: Question, question: Question) -> None:
        # Label Studio would take a screen that lacks classes which answers use.
        lost = [name for name in existing.classes if name not in question.classes]
        if existing.kind != question.kind or lost:
            what = f"lacks class {lost[0]!r}" if lost else f"is of kind {question.kind}, not {existing.kind}"
            raise Conflict(
                f"task {question.task_id} {what}, unlike its project {project_id} in Label Studio; "
                "delete or rename that project, or choose another task name",
                task_id=question.task_id,
            )
        self._client.projects.update(
            id=project_id,
            label_config=conversion.label_config(question),
            description=conversion.project_description(question),
        )

    def _question(self, project_id: int) -> Question:
        # Asked for each time: another process may have added classes.
        question = conversion.read_question(self._client.projects.get(id=project_id).description)
        if question is None:
            raise Conflict(
                f"project {project_id} in Label Studio no longer carries MLPL's line in its description; put it back",
                project=project_id,
            )
        return question

    # -- tasks -----------------------------------------------------------------------------------------------------------

    def _import(self, project_id: int, *, ticket: Ticket, question: Question, frames: Sequence[TicketFrame]) -> None:
        request: list[Any] = [
            conversion.task_json(frame, batch_id=ticket.batch_id, question=question, model_version=ticket.model_id)
            for frame in frames
        ]
        try:
            with self._translated(f"batch {ticket.batch_id}"):
                self._client.projects.import_tasks(
                    id=project_id, request=request, return_task_ids=False, request_options=_IMPORT_OPTIONS
                )
        except BackendUnavailable:
            # The answer may have been lost after the work was done.
            present = self._copies(project_id, ticket.batch_id)
            if not all(frame.frame_id in present for frame in frames):
                raise
            _log.info("label_studio_import_confirmed", batch_id=ticket.batch_id, count=len(frames))

    def _copies(self, project_id: int, batch_id: str) -> dict[FrameId, list[_Copy]]:
        """The tasks of each frame of the batch, lower ids first."""
        found: defaultdict[FrameId, list[_Copy]] = defaultdict(list)
        include = "id,data,total_annotations,cancelled_annotations"
        for page in self._pages(project_id, [conversion.batch_filter(batch_id)], include=include, page_size=1000):
            for task in page:
                answered = bool(task.get("total_annotations") or task.get("cancelled_annotations"))
                found[_frame_id(task)].append(_Copy(task_id=int(task["id"]), data=task["data"], answered=answered))
        return dict(found)

    def _settled_copies(self, project_id: int, batch_id: str) -> dict[FrameId, list[int]]:
        """Task ids of frames that have several tasks even after the unanswered ones among them were deleted."""
        present = self._copies(project_id, batch_id)
        if spare := _spare_copies(present):
            self._delete_unanswered(project_id, batch_id, task_ids=spare)
            present = self._copies(project_id, batch_id)
        return {frame_id: [copy.task_id for copy in copies] for frame_id, copies in present.items() if len(copies) > 1}

    def _delete_unanswered(self, project_id: int, batch_id: str, *, task_ids: Sequence[int] | None) -> None:
        """Deletes those of the tasks (all of the batch for None) that have no answer when the server looks."""
        if task_ids is not None and not task_ids:
            return
        filters = [conversion.batch_filter(batch_id), *conversion.unanswered_filters()]
        selected: Json = (
            {"all": True, "excluded": []} if task_ids is None else {"all": False, "included": list(task_ids)}
        )
        self._client.actions.create(
            id="delete_tasks",
            project=project_id,
            filters={"conjunction": "and", "items": filters},
            selected_items=selected,
        )

    def _renew_urls(self, present: Mapping[FrameId, Sequence[_Copy]], *, frames: Sequence[TicketFrame]) -> None:
        now = self._clock()
        for frame in frames:
            for copy in present.get(frame.frame_id, ()):
                if conversion.is_stale(str(copy.data.get(conversion.IMAGE, "")), frame.image_url, now=now):
                    data = {**copy.data, conversion.IMAGE: frame.image_url}
                    self._client.tasks.update(id=str(copy.task_id), data=data)

    def _count(self, project_id: int, batch_id: str, filters: Sequence[Json]) -> int:
        query = conversion.query([conversion.batch_filter(batch_id), *filters])
        pager: Any = self._client.tasks.list(
            project=project_id, query=query, fields="task_only", include="id", page=1, page_size=1
        )
        return int(pager.response.total)

    def _pages(
        self,
        project_id: int,
        filters: Sequence[Json],
        *,
        fields: str = "task_only",
        include: str | None = None,
        page_size: int = _PAGE,
    ) -> Iterator[list[Json]]:
        """Tasks in the order of their ids. Each page starts after the last id seen, so what changes meanwhile hides nothing."""
        last = 0
        while True:
            query = conversion.query([*filters, conversion.after_filter(last)])
            pager: Any = self._client.tasks.list(
                project=project_id, query=query, fields=fields, include=include, page=1, page_size=page_size
            )
            page = [_plain(task) for task in pager.items or []]
            if page:
                last = int(page[-1]["id"])
                yield page
            if len(page) < page_size:
                return

    def _task(self, task_id: int) -> Json:
        return dict(_plain(self._client.tasks.get(id=str(task_id))))

    # -- answers ---------------------------------------------------------------------------------------------------------

    def _answers(self, tasks: Sequence[Json], *, question: Question) -> Iterator[FrameAnswers]:
        by_frame: defaultdict[FrameId, list[Json]] = defaultdict(list)
        for task in tasks:
            by_frame[_frame_id(task)] += task.get("annotations") or []
        people = self._addresses(set().union(*map(conversion.annotator_ids, by_frame.values())))
        for frame_id, raw in by_frame.items():
            annotations: list[Annotation] = [
                conversion.read_annotation(one, question=question, people=people) for one in raw
            ]
            yield FrameAnswers(frame_id=frame_id, annotations=tuple(annotations))

    def _addresses(self, user_ids: set[int]) -> Mapping[int, str]:
        if not user_ids <= self._people.keys():
            try:
                with self._translated("its users"):
                    self._people |= {_id(user): str(user.email) for user in self._client.users.list() if user.email}
            except (Denied, NotFound):
                _log.info("label_studio_users_hidden", url=self.url)
            # Whoever is not listed now is not asked for again.
            self._people |= {user_id: f"user {user_id}" for user_id in user_ids - self._people.keys()}
        return self._people

    # -- the wall --------------------------------------------------------------------------------------------------------

    @property
    def _client(self) -> LabelStudio:
        if not self._token:
            raise Denied(f"Label Studio at {self.url} needs a token: set MLPL_LABEL_STUDIO_TOKEN")
        return _client(self.url, self._token)

    @contextmanager
    def _translated(self, subject: str) -> Iterator[None]:
        try:
            yield
        except MlplError:
            raise
        except Exception as exc:
            error = _translation(exc, url=self.url, subject=subject)
            if error is None:
                raise
            raise error from exc


@lru_cache(maxsize=8)
def _client(url: str, token: str) -> LabelStudio:
    """One client for all backends on a server, so that connections and access tokens are used again."""
    from label_studio_sdk import LabelStudio  # Seconds to import.

    # A server on this machine is not reached through the proxy that the environment may name.
    direct = urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
    transport = httpx.Client(timeout=_TIMEOUT_S, follow_redirects=True, trust_env=not direct)
    atexit.register(transport.close)
    # Without retries of its own: it repeats what must not be repeated, and callers wait and ask again anyway.
    client: LabelStudio = LabelStudio(  # type: ignore[no-untyped-call]
        base_url=url, api_key=token, max_retries=0, httpx_client=transport
    )
    return client


def _translation(exc: Exception, *, url: str, subject: str) -> MlplError | None:
    """Our error for one of the SDK's or of the transport below it; None for what is neither."""
    from label_studio_sdk.core.api_error import ApiError
    from label_studio_sdk.core.parse_error import ParsingError

    if isinstance(exc, httpx.LocalProtocolError | httpx.UnsupportedProtocol | httpx.InvalidURL):
        return Denied(f"{url} cannot be asked: check MLPL_LABEL_STUDIO_URL and MLPL_LABEL_STUDIO_TOKEN ({exc})")
    if isinstance(exc, httpx.TimeoutException):
        return BackendUnavailable(f"Label Studio at {url} does not answer in time", retry_after_s=15.0, url=url)
    if isinstance(exc, httpx.HTTPError):
        return BackendUnavailable(
            f"Label Studio at {url} cannot be reached ({exc}); start it, or check MLPL_LABEL_STUDIO_URL",
            retry_after_s=10.0,
            url=url,
        )
    if isinstance(exc, ParsingError | json.JSONDecodeError):
        return BackendUnavailable(f"{url} does not answer like Label Studio; check MLPL_LABEL_STUDIO_URL", url=url)
    return _translated_status(exc, url=url, subject=subject) if isinstance(exc, ApiError) else None


def _translated_status(exc: Any, *, url: str, subject: str) -> MlplError:
    status: int = exc.status_code or 0
    says = _reason(exc.body)
    if status in (401, 403):
        return Denied(
            f"Label Studio at {url} refuses the token ({says}): copy the token from Account & Settings there "
            "to MLPL_LABEL_STUDIO_TOKEN",
            url=url,
        )
    if status == 404 and isinstance(exc.body, Mapping):
        return NotFound(f"Label Studio at {url} no longer has the project or task for {subject}: {says}", url=url)
    if status == 409:
        return Conflict(f"Label Studio at {url} refuses {subject}: {says}", url=url)
    if 400 <= status < 500 and status not in (*_BUSY, 404):
        return InvalidInput(f"Label Studio at {url} refuses {subject}: {says}", url=url)
    if status >= 500 or status in _BUSY:
        return BackendUnavailable(
            f"Label Studio at {url} fails on {subject} ({status}): {says}", url=url, status=status
        )
    return BackendUnavailable(
        f"{url} does not answer like Label Studio ({status}); check MLPL_LABEL_STUDIO_URL", url=url
    )


def _reason(body: object) -> str:
    if isinstance(body, Mapping):
        errors = body.get("validation_errors")
        text = json.dumps(errors) if errors else str(body.get("detail", body))
    else:
        text = str(body)
    return " ".join(text.split())[:500]


def _spare_copies(present: Mapping[FrameId, Sequence[_Copy]]) -> list[int]:
    """Tasks that a frame has in excess: the unanswered ones if another is answered, else all but the first."""
    spare: list[int] = []
    for copies in present.values():
        unanswered = [copy.task_id for copy in copies if not copy.answered]
        spare += unanswered if len(unanswered) < len(copies) else unanswered[1:]
    return spare


def _frame_id(task: Mapping[str, Any]) -> FrameId:
    return FrameId(str(task["data"]["frame_id"]))


def _id(thing: Any) -> int:
    return int(thing.id)


def _plain(value: Any) -> Any:
    """The SDK's models as dictionaries and lists; they check nothing, so neither is lost."""
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
