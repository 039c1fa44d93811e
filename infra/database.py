"""MongoDB connections. Embedded, MongoDB and DocumentDB differ in the connection only; queries keep to what DocumentDB
5.0 has.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pymongo
from pymongo import errors as mongo
from pymongo.database import Database
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from infra.errors import BackendUnavailable, Conflict, Denied, InvalidInput, StorageFull, UnsupportedPlatform

if TYPE_CHECKING:
    from pymongo import IndexModel, MongoClient
    from pymongo.client_session import ClientSession
    from pymongo.monitoring import CommandListener

    from infra.settings import Settings

Document = dict[str, Any]
Db = Database[Document]
T = TypeVar("T")

# Server answers that mean "not now": elections, shutdowns, network inside the cluster.
_PASSING_CODES = frozenset({6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436})
_NAMESPACE_EXISTS = 48
_NO_SPACE = 14031
_DUPLICATE_KEY = 11000


@contextmanager
def connect(settings: Settings, *, event_listeners: Sequence[CommandListener] = ()) -> Iterator[Db]:
    """Connects to the configured database, or starts and shares the embedded one under the home.

    Writes are acknowledged by a majority and journalled; reads go to the primary. The driver's own retrying of writes
    is off, because DocumentDB lacks it: code that must survive a fail-over uses `retrying` or `transaction`.

    Raises:
        BackendUnavailable: The server does not answer.
        Denied: It refused the credentials.
        InvalidInput: `MLPL_MONGODB_URI` cannot be read, or the home cannot be written.
        StorageFull, UnsupportedPlatform: The embedded server cannot run here.
    """
    if settings.mongodb_uri is not None:
        with _external_client(settings.mongodb_uri.get_secret_value(), event_listeners) as client:
            yield client[settings.database]
        return
    try:
        from infra import mongod  # Needs Unix file locks, which an external database does not.
    except ImportError as exc:
        raise UnsupportedPlatform("there is no embedded MongoDB for this system; set MLPL_MONGODB_URI") from exc
    with mongod.embedded(settings.home) as uri, open_client(uri, event_listeners=event_listeners) as client:
        yield client[settings.database]


def open_client(
    uri: str, *, event_listeners: Sequence[CommandListener] = (), server_selection_timeout_s: float = 15.0
) -> MongoClient[Document]:
    """A client with MLPL's guarantees (see `connect`); it connects when first used and is closed by `with`."""
    timeouts: dict[str, Any] = {
        "serverSelectionTimeoutMS": int(server_selection_timeout_s * 1000),
        "connectTimeoutMS": 5000,
    }
    # Arguments overrule the URI; of these two the URI may say otherwise.
    timeouts = {name: value for name, value in timeouts.items() if name.lower() not in uri.lower()}
    return pymongo.MongoClient(
        uri,
        appname="mlpl",
        tz_aware=True,
        uuidRepresentation="standard",
        w="majority",
        journal=True,
        retryWrites=False,
        readPreference="primary",
        event_listeners=list(event_listeners),
        **timeouts,
    )


def ensure_indexes(db: Db, indexes: Mapping[str, Sequence[IndexModel]]) -> None:
    """Creates missing collections and indexes; what exists stays. Done at start-up, since transactions may not create
    collections.

    Args:
        indexes: Per collection its indexes; an empty list only creates the collection.
    Raises:
        Conflict: An index of that name exists with other keys or options.
    """
    existing = set(retrying(db.list_collection_names))
    for name, models in indexes.items():
        if name not in existing:
            retrying(functools.partial(_create_collection, db, name))
        try:
            for model in models:  # One at a time: DocumentDB builds one index of a collection at once.
                retrying(functools.partial(db[name].create_indexes, [model]))
        except mongo.OperationFailure as exc:
            raise Conflict(
                f"an index of collection {name} differs from the one this version needs: {exc}", collection=name
            ) from exc


def retrying(operation: Callable[[], T], *, deadline_s: float = 30.0, sleep: Callable[[float], None] = time.sleep) -> T:
    """Runs an idempotent operation, again and again while the server is away or between primaries.

    It must be harmless to run twice: an attempt that seemed to fail may have been carried out (a plain insert then
    raises DuplicateKeyError, which here means "done").

    Raises:
        BackendUnavailable: It did not succeed within `deadline_s`.
        StorageFull: The server has no disk space left.
    """
    started = time.monotonic()
    pause_s = 0.05
    while True:
        try:
            return operation()
        except mongo.PyMongoError as exc:
            trouble = as_trouble(exc)
            if isinstance(trouble, StorageFull):
                raise trouble from exc
            if trouble is None:
                raise
            if time.monotonic() - started + pause_s > deadline_s:
                raise BackendUnavailable(
                    f"the database has not answered for {deadline_s:.0f} s: {_first_line(exc)}"
                ) from exc
        sleep(pause_s * random.uniform(0.5, 1.0))
        pause_s = min(pause_s * 2, 2.0)


def transaction(db: Db, body: Callable[[ClientSession], T]) -> T:
    """Runs `body` in a transaction and commits it; on a transient conflict or fail-over the whole body runs again.

    Keep it short (DocumentDB: one minute, 32 MB) and pass the session to every operation. The body must not have
    effects outside the database. Collections must exist.

    Raises:
        BackendUnavailable: The server stayed away.
    """
    try:
        with db.client.start_session() as session:
            return session.with_transaction(
                body, write_concern=WriteConcern(w="majority", j=True), read_preference=ReadPreference.PRIMARY
            )
    except mongo.PyMongoError as exc:
        if (trouble := as_trouble(exc)) is not None:
            raise trouble from exc
        raise


def as_trouble(exc: BaseException) -> BackendUnavailable | None:
    """What a failure of the server means to whoever called: it has no room, or is away for now. None for one that is our bug."""
    if is_out_of_space(exc):
        return StorageFull("the database has no disk space left; free some and run again")
    if is_passing(exc):
        return BackendUnavailable(f"the database does not answer: {_first_line(exc)}")
    return None


def is_passing(exc: BaseException) -> bool:
    """Whether the same idempotent operation may succeed a little later."""
    if isinstance(exc, mongo.ConnectionFailure):
        return True
    return isinstance(exc, mongo.OperationFailure) and exc.code in _PASSING_CODES


def is_out_of_space(exc: BaseException) -> bool:
    """Whether the server said that its disk is full."""
    return isinstance(exc, mongo.OperationFailure) and (exc.code == _NO_SPACE or "No space left on device" in str(exc))


def is_only_duplicates(exc: mongo.BulkWriteError) -> bool:
    """Whether a bulk write failed for nothing but documents that are there already: another process wrote the same at the same moment."""
    details: Document = dict(exc.details or {})
    failed = [one.get("code") for one in details.get("writeErrors", [])]
    return set(failed) == {_DUPLICATE_KEY} and not details.get("writeConcernErrors")


@contextmanager
def _external_client(uri: str, event_listeners: Sequence[CommandListener]) -> Iterator[MongoClient[Document]]:
    try:
        client = open_client(uri, event_listeners=event_listeners)
    except (mongo.ConfigurationError, mongo.InvalidURI, ValueError) as exc:
        raise InvalidInput(f"MLPL_MONGODB_URI cannot be used: {_first_line(exc)}") from exc
    with client:
        try:
            hello = client.admin.command("hello")
        except mongo.ConnectionFailure as exc:
            where = ", ".join(
                f"{host}:{port}" for host, port in sorted(client.topology_description.server_descriptions())
            )
            raise BackendUnavailable(
                f"MongoDB{' at ' if where else ''}{where} does not answer; check MLPL_MONGODB_URI: {_first_line(exc)}"
            ) from exc
        except mongo.OperationFailure as exc:
            raise Denied(f"MongoDB refused the credentials of MLPL_MONGODB_URI: {_first_line(exc)}") from exc
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise InvalidInput(
                "the MongoDB of MLPL_MONGODB_URI is not a replica set, which transactions need; "
                "start it with --replSet and initiate it (one node is enough)"
            )
        yield client


def _create_collection(db: Db, name: str) -> None:
    try:
        db.create_collection(name, check_exists=False)
    except mongo.OperationFailure as exc:
        if exc.code != _NAMESPACE_EXISTS:
            raise


def _first_line(exc: BaseException) -> str:
    text = str(exc).partition("\n")[0].partition(", full error:")[0].partition(", Timeout:")[0]
    return text.partition(" (configured timeouts:")[0]
