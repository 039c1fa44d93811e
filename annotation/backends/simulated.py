"""A labelling backend in process: simulated people who answer from a function. For demos and tests, never for training data.

It keeps the promises that Label Studio keeps: work and answers are in the database and survive any crash, corrections and deletions
show up in `collect`, and each frame is answered once however many processes work at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from pymongo import ASCENDING, IndexModel
from pymongo.errors import BulkWriteError, DuplicateKeyError

from annotation.backends.protocol import Annotation, BackendStatus, FrameAnswers, Ticket
from infra.database import Db, Document, is_only_duplicates, retrying
from infra.errors import InvalidInput, NotFound
from selection.fleet.frames import FrameId

Answer = Callable[[FrameId], Sequence[str] | None]

INDEXES: dict[str, list[IndexModel]] = {
    "simulated_tickets": [],
    "simulated_answers": [
        IndexModel([("batch_id", ASCENDING), ("state", ASCENDING), ("rank", ASCENDING)]),
        IndexModel([("batch_id", ASCENDING), ("updated_at", ASCENDING)]),
    ],
}

SERVED_KINDS = ("classification", "multilabel")
# A time is taken before its answer is written, and the clocks of several machines differ a little.
_OVERLAP = timedelta(seconds=10)


class SimulatedBackend:
    """A labelling backend (see `annotation.backends.protocol`) whose people answer when `work` is called."""

    def __init__(
        self,
        db: Db,
        *,
        answer: Answer,
        annotator: str = "simulated",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Makes a backend over what is in the database already.

        Args:
            answer: The names of the classes that a frame shows, or None to skip it. Called by `work` alone.
        """
        self._tickets = db["simulated_tickets"]
        self._answers = db["simulated_answers"]
        self._answer = answer
        self._annotator = annotator
        self._clock = clock

    @property
    def name(self) -> str:
        """Stable name, kept with each label."""
        return "simulated"

    def open(self, ticket: Ticket) -> str:
        """Puts the batch before the simulated people."""
        if ticket.task.kind not in SERVED_KINDS:
            raise InvalidInput(
                f"task {ticket.task.task_id} is of kind {ticket.task.kind}, which simulated people cannot answer yet",
                task_id=ticket.task.task_id,
            )
        now = self._clock()
        self._put({"_id": ticket.batch_id, "task_id": ticket.task.task_id, "opened_at": now})
        places: list[Document] = [
            {
                "_id": _key(ticket.batch_id, frame.frame_id),
                "batch_id": ticket.batch_id,
                "frame_id": frame.frame_id,
                "rank": frame.rank,
                "state": "open",
                "value": [],
                "answers_given": 0,
                "updated_at": now,
            }
            for frame in ticket.frames
        ]
        retrying(lambda: self._insert_missing(places))
        return ticket.batch_id

    def status(self, ref: str) -> BackendStatus:
        """Counts of the batch."""
        self._require(ref)
        counts = {
            state: retrying(lambda state=state: self._answers.count_documents({"batch_id": ref, "state": state}))  # type: ignore[misc]
            for state in ("open", "labelled", "skipped")
        }
        return BackendStatus(total=sum(counts.values()), labelled=counts["labelled"], skipped=counts["skipped"])

    def collect(self, ref: str, since: datetime | None) -> Iterator[FrameAnswers]:
        """Frames with their answer: those that changed since `since`, or every frame of the batch."""
        self._require(ref)
        query: Document = {"batch_id": ref}
        if since is not None:
            query["updated_at"] = {"$gte": since - _OVERLAP}
        for document in self._answers.find(query).sort("updated_at", ASCENDING):
            annotations = () if document["state"] == "open" else (self._annotation(document),)
            yield FrameAnswers(frame_id=FrameId(document["frame_id"]), annotations=annotations)

    def server_now(self) -> datetime:
        """The clock that answers are stamped with."""
        return self._clock()

    def cancel(self, ref: str) -> None:
        """Withdraws what nobody has answered yet."""
        retrying(lambda: self._answers.delete_many({"batch_id": ref, "state": "open"}))

    # -- the people --------------------------------------------------------------------------------------------------

    def work(self, limit: int | None = None, *, batch_id: str | None = None) -> int:
        """Answers open frames in the order of their batch, and returns how many were answered or skipped.

        Args:
            limit: Frames to answer at most.
            batch_id: Only this batch.
        """
        query: Document = {"state": "open"} | ({"batch_id": batch_id} if batch_id else {})
        found = self._answers.find(query).sort([("batch_id", ASCENDING), ("rank", ASCENDING)])
        if limit is not None:
            if limit <= 0:
                return 0
            found = found.limit(limit)
        places = [(document["batch_id"], FrameId(document["frame_id"])) for document in found]
        return sum(self._give(batch, frame_id, self._answer(frame_id)) for batch, frame_id in places)

    def correct(self, ref: str, frame_id: FrameId, value: Sequence[str]) -> None:
        """A person changes an answer that was given."""
        self._change(ref, frame_id, {"state": "labelled", "value": list(value)}, given=True)

    def retract(self, ref: str, frame_id: FrameId) -> None:
        """A person deletes an answer that was given; the frame is open again."""
        self._change(ref, frame_id, {"state": "open", "value": []}, given=True)

    def _give(self, batch_id: str, frame_id: FrameId, value: Sequence[str] | None) -> bool:
        change = {"state": "skipped" if value is None else "labelled", "value": list(value or ())}
        return self._change(batch_id, frame_id, change, given=False)

    def _change(self, batch_id: str, frame_id: FrameId, change: Document, *, given: bool) -> bool:
        """Changes the answer of a frame that is (not) answered yet. Only one of several who try at once gets it done."""
        key = _key(batch_id, frame_id)
        before = retrying(lambda: self._answers.find_one({"_id": key}))
        if before is None:
            raise NotFound(f"frame {frame_id} is not in simulated batch {batch_id}", batch_id=batch_id)
        if (before["state"] != "open") != given:
            if given:
                raise NotFound(f"frame {frame_id} of batch {batch_id} has no answer", batch_id=batch_id)
            return False
        change |= {
            # A corrected answer is told from the one before by its time, which the database keeps to the millisecond.
            "updated_at": max(self._clock(), before["updated_at"] + timedelta(milliseconds=1)),
            "answers_given": before["answers_given"] + (0 if given else 1),
        }
        expected = {"_id": key, "state": before["state"], "updated_at": before["updated_at"]}
        result = retrying(lambda: self._answers.update_one(expected, {"$set": change}))
        return result.modified_count == 1

    def _annotation(self, document: Document) -> Annotation:
        return Annotation(
            external_id=f"{document['_id']}/{document['answers_given']}",
            annotator=self._annotator,
            state=document["state"],
            value=tuple(document["value"]),
            updated_at=document["updated_at"],
        )

    # -- the database ------------------------------------------------------------------------------------------------

    def _put(self, ticket: Document) -> None:
        try:
            retrying(lambda: self._tickets.insert_one(ticket))
        except DuplicateKeyError:
            return

    def _insert_missing(self, places: list[Document]) -> None:
        if not places:
            return
        try:
            self._answers.insert_many(places, ordered=False)
        except BulkWriteError as exc:
            if not is_only_duplicates(exc):
                raise

    def _require(self, ref: str) -> None:
        if retrying(lambda: self._tickets.find_one({"_id": ref}, {"_id": 1})) is None:
            raise NotFound(f"no batch {ref} was given to simulated people", batch_id=ref)


def _key(batch_id: str, frame_id: FrameId) -> str:
    return f"{batch_id}/{frame_id}"
