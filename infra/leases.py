"""Leases: who may work on a piece of the difference now. Kept in MongoDB, renewed by a thread, taken over when their
holder is gone.

Times are the callers' own clocks (`clock`, by default `time.time`): machines that share a database must agree on the
time to well within a lease's length. What a lease protects must still commit once (unique key, conditional update): a
lease saves work, the commit decides.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymongo
from pymongo import ReturnDocument
from pymongo import errors as mongo

from infra.database import Db, Document, retrying
from infra.errors import Conflict
from infra.logs import get_logger

COLLECTION = "leases"
_LOOK_AGAIN_S = 0.1
_log = get_logger(__name__)


class Lease:
    """A held lease. Ask `lost` (or call `check`) before committing what it protects.

    Attributes:
        name: What is leased.
        owner: Who holds it, unique to this holding.
        token: Fencing token: grows by at least one each time the name is leased, by anyone.
    """

    def __init__(self, *, name: str, owner: str, token: int, ttl_s: float, held_since: float) -> None:
        """Made by `hold` and `try_hold`; `held_since` is monotonic time from before the database was asked."""
        self.name = name
        self.owner = owner
        self.token = token
        self._ttl_s = ttl_s
        self._good_until = held_since + ttl_s
        self._taken = False

    def __repr__(self) -> str:
        return f"Lease({self.name!r}, token={self.token})"

    @property
    def lost(self) -> bool:
        """Whether someone else may hold it now: it was taken over, or could not be renewed in time."""
        return self._taken or time.monotonic() >= self._good_until

    def check(self) -> None:
        """Raises Conflict if the lease is lost."""
        if self.lost:
            raise Conflict(
                f"the lease {self.name} was lost to another process; what it protected is left to that one",
                lease=self.name,
            )

    def _renewed(self, asked_at: float) -> None:
        self._good_until = asked_at + self._ttl_s

    def _lose(self) -> None:
        self._taken = True


@contextmanager
def hold(
    db: Db,
    name: str,
    *,
    owner: str | None = None,
    ttl_s: float = 60.0,
    patience_s: float = 0.0,
    clock: Callable[[], float] = time.time,
) -> Iterator[Lease]:
    """Holds the lease `name` for the length of the block.

    Args:
        owner: A word for logs and messages; the process and a random part are added.
        ttl_s: A holder that vanished without trace is overruled after this time; one that died on this machine at once.
        patience_s: How long to wait for whoever holds it now.
        clock: Unix seconds.
    Raises:
        Conflict: Someone else holds it.
    """
    deadline = time.monotonic() + patience_s
    while True:
        with try_hold(db, name, owner=owner, ttl_s=ttl_s, clock=clock) as lease:
            if lease is not None:
                yield lease
                return
        if time.monotonic() >= deadline:
            holder = retrying(lambda: db[COLLECTION].find_one({"_id": name})) or {}
            raise Conflict(f"{name} is being worked on by {_public(holder)}; try again later", lease=name)
        time.sleep(_LOOK_AGAIN_S)


@contextmanager
def try_hold(
    db: Db, name: str, *, owner: str | None = None, ttl_s: float = 60.0, clock: Callable[[], float] = time.time
) -> Iterator[Lease | None]:
    """Like `hold`, but yields None when someone else holds the lease."""
    lease = _acquire(db, name=name, label=owner, ttl_s=ttl_s, clock=clock)
    if lease is None:
        yield None
        return
    stop = threading.Event()
    renewer = threading.Thread(target=_renew, args=(db, lease, ttl_s, clock, stop), name=f"lease {name}", daemon=True)
    renewer.start()
    try:
        yield lease
    finally:
        stop.set()
        renewer.join()
        _release(db, lease)


def _acquire(db: Db, *, name: str, label: str | None, ttl_s: float, clock: Callable[[], float]) -> Lease | None:
    me = f"{label or 'mlpl'}@{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"

    def attempt(free: Document) -> Lease | None:
        asked_at, now = time.monotonic(), clock()
        change = {
            "$set": {
                "owner": me,
                "process": _this_process(),
                "acquired_at": _utc(now),
                "expires_at": _utc(now + ttl_s),
            },
            "$inc": {"token": 1},
        }
        try:
            found = db[COLLECTION].find_one_and_update(
                {"_id": name, "$or": [free, {"owner": me}]}, change, upsert=True, return_document=ReturnDocument.AFTER
            )
        except mongo.DuplicateKeyError:
            return None  # It exists and is not free, so the upsert tried to insert a second one.
        assert found is not None  # An upsert always leaves a document.
        return Lease(name=name, owner=me, token=int(found["token"]), ttl_s=ttl_s, held_since=asked_at)

    # An attempt whose answer was lost is recognised by our own owner name, so asking again is harmless.
    lease = retrying(lambda: attempt({"expires_at": {"$lte": _utc(clock())}}))
    if lease is not None:
        return lease
    holder = retrying(lambda: db[COLLECTION].find_one({"_id": name}))
    if holder is None or not _is_dead(holder.get("process")):
        return None
    _log.info("lease_taken_over", lease=name, from_owner=holder["owner"])
    return retrying(lambda: attempt({"owner": holder["owner"], "token": holder["token"]}))


def _renew(db: Db, lease: Lease, ttl_s: float, clock: Callable[[], float], stop: threading.Event) -> None:
    pause_s = ttl_s / 3
    while not stop.wait(pause_s):
        asked_at = time.monotonic()
        try:
            with pymongo.timeout(max(ttl_s / 3, 1.0)):
                found = db[COLLECTION].update_one(
                    {"_id": lease.name, "owner": lease.owner}, {"$set": {"expires_at": _utc(clock() + ttl_s)}}
                )
        except mongo.PyMongoError as exc:
            # Keep asking: the lease is ours until it has run out, and longer if nobody else wanted it.
            _log.warning("lease_not_renewed", lease=lease.name, error=str(exc).partition("\n")[0])
            pause_s = min(1.0, ttl_s / 10)
            continue
        pause_s = ttl_s / 3
        if found.matched_count == 0:
            lease._lose()
            _log.warning("lease_lost", lease=lease.name)
            return
        lease._renewed(asked_at)


def _release(db: Db, lease: Lease) -> None:
    # The record stays, so that the token keeps growing; only its expiry goes.
    try:
        with pymongo.timeout(3.0):
            db[COLLECTION].update_one(
                {"_id": lease.name, "owner": lease.owner}, {"$set": {"expires_at": _utc(0), "process": None}}
            )
    except mongo.PyMongoError as exc:
        _log.warning("lease_not_released", lease=lease.name, error=str(exc).partition("\n")[0])


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)


def _public(holder: Document) -> str:
    return str(holder.get("owner", "another process")).rpartition(":")[0]


def _this_process() -> Document | None:
    """What identifies this process among all that share a kernel and a process table; None where that cannot be told."""
    return _identify(os.getpid())


def _identify(pid: int) -> Document | None:
    try:
        # Field 3 of stat is the state, 22 the start time; the name in field 2 may hold spaces, so count from its bracket.
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        started = rest[18]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        table = Path("/proc/self/ns/pid").readlink()
    except (OSError, ValueError, IndexError):
        return None
    if state in "ZX":
        return None  # Dead, only not yet collected by its parent.
    return {"pid": pid, "started": started, "boot": boot, "table": str(table)}


def _is_dead(process: Any) -> bool:
    """Whether the holder was a process of this very machine and process table, and is gone."""
    me = _this_process()
    if me is None or not isinstance(process, dict):
        return False
    if (process.get("boot"), process.get("table")) != (me["boot"], me["table"]):
        return False
    return _identify(int(process["pid"])) != process
