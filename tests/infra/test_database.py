from __future__ import annotations

import datetime as dt
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import SecretStr
from pymongo import IndexModel
from pymongo import errors as mongo
from pymongo.client_session import ClientSession
from pymongo.synchronous.database import Database

from infra import database as module
from infra.database import Db, connect, ensure_indexes, retrying, transaction
from infra.errors import BackendUnavailable, Conflict, InvalidInput, StorageFull
from infra.settings import Settings

ProblemsOf = Callable[[Mapping[str, Any]], list[str]]


def test_times_come_back_aware(database: Db) -> None:
    now = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)
    database["t"].insert_one({"_id": 1, "at": now})
    found = database["t"].find_one({"_id": 1})
    assert found is not None
    assert found["at"] == now
    assert found["at"].tzinfo is not None


def test_writes_are_journalled_by_a_majority_and_not_retried_by_the_driver(database: Db) -> None:
    assert database.write_concern.document == {"w": "majority", "j": True}
    assert database.client.options.retry_writes is False


def test_a_server_without_transactions_is_refused_at_once(
    mongod_uri: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Database, "command", lambda *_: {"ok": 1.0, "isWritablePrimary": True})
    with (
        pytest.raises(InvalidInput, match="not a replica set"),
        connect(settings.model_copy(update={"mongodb_uri": SecretStr(mongod_uri)})),
    ):
        pass


def test_the_given_uri_cannot_weaken_that(mongod_uri: str, settings: Settings) -> None:
    uri = f"{mongod_uri}&retryWrites=true&readPreference=secondaryPreferred&w=1"
    with connect(settings.model_copy(update={"mongodb_uri": SecretStr(uri)})) as db:
        assert db.write_concern.document["w"] == "majority"
        assert db.client.options.retry_writes is False
        assert db.read_preference.name == "Primary"


def test_an_unreachable_server_is_one_line(settings: Settings) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"mongodb://user:hunter2@127.0.0.1:{unused.getsockname()[1]}/?serverSelectionTimeoutMS=300"
        where = settings.model_copy(update={"mongodb_uri": SecretStr(uri)})
        with (
            pytest.raises(BackendUnavailable, match=r"MongoDB at 127\.0\.0\.1:\d+ does not answer") as raised,
            connect(where),
        ):
            pass
    assert "hunter2" not in raised.value.message
    assert "\n" not in raised.value.message


def test_a_uri_that_is_none_is_refused(settings: Settings) -> None:
    where = settings.model_copy(update={"mongodb_uri": SecretStr("postgres://x")})
    with pytest.raises(InvalidInput, match="MLPL_MONGODB_URI"), connect(where):
        pass


def test_indexes_are_made_once_and_a_different_one_is_a_conflict(database: Db) -> None:
    wanted = {"frames": [IndexModel([("row", 1)], unique=True, name="row")], "empty": []}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ensure_indexes(database, wanted), range(4)))
    assert set(database.list_collection_names()) == {"frames", "empty"}
    assert database["frames"].index_information()["row"]["unique"] is True
    with pytest.raises(Conflict, match="collection frames"):
        ensure_indexes(database, {"frames": [IndexModel([("row", 1)], name="row")]})


def test_retrying_runs_until_it_works() -> None:
    failures = [mongo.AutoReconnect("away"), mongo.NotPrimaryError("election"), mongo.OperationFailure("x", code=11600)]
    pauses: list[float] = []

    def operation() -> str:
        if failures:
            raise failures.pop(0)
        return "done"

    assert retrying(operation, sleep=pauses.append) == "done"
    assert len(pauses) == 3
    assert pauses == sorted(pauses) or max(pauses) <= 2.0


def test_retrying_gives_up_in_our_words() -> None:
    def operation() -> None:
        raise mongo.AutoReconnect("away")

    with pytest.raises(BackendUnavailable, match="has not answered for 0 s: away"):
        retrying(operation, deadline_s=0.0, sleep=lambda _: None)


@pytest.mark.parametrize(
    "error", [mongo.DuplicateKeyError("there"), mongo.OperationFailure("no", code=13), ValueError("bug")]
)
def test_retrying_does_not_repeat_what_cannot_help(error: Exception) -> None:
    calls = []

    def operation() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        retrying(operation)
    assert len(calls) == 1


def test_a_full_disk_of_the_server_is_told_apart() -> None:
    def operation() -> None:
        raise mongo.OperationFailure("available disk space is low", code=14031)

    with pytest.raises(StorageFull):
        retrying(operation)


def test_a_transaction_is_all_or_nothing_over_collections(database: Db) -> None:
    ensure_indexes(database, {"a": [], "b": []})

    def both(session: ClientSession) -> int:
        database["a"].insert_one({"_id": 1}, session=session)
        database["b"].insert_one({"_id": 1}, session=session)
        return 7

    assert transaction(database, both) == 7

    def half(session: ClientSession) -> None:
        database["a"].insert_one({"_id": 2}, session=session)
        database["b"].insert_one({"_id": 1}, session=session)

    with pytest.raises(mongo.DuplicateKeyError):
        transaction(database, half)
    assert database["a"].count_documents({}) == 1


def test_transactions_on_one_counter_leave_no_hole_and_no_double(database: Db) -> None:
    ensure_indexes(database, {"counters": [], "rows": []})
    database["counters"].insert_one({"_id": "row", "next": 0})

    def add(session: ClientSession) -> None:
        before = database["counters"].find_one_and_update({"_id": "row"}, {"$inc": {"next": 1}}, session=session)
        assert before is not None
        database["rows"].insert_one({"_id": before["next"]}, session=session)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: transaction(database, add), range(60)))
    assert sorted(row["_id"] for row in database["rows"].find({})) == list(range(60))


def test_passing_errors_are_told_from_final_ones() -> None:
    assert module.is_passing(mongo.ServerSelectionTimeoutError("x"))
    assert not module.is_passing(mongo.DuplicateKeyError("x"))


@pytest.mark.parametrize(
    "command",
    [
        {"find": "t", "filter": {"$where": "1"}},
        {"aggregate": "t", "pipeline": [{"$facet": {}}]},
        {"aggregate": "t", "pipeline": [{"$project": {"x": {"$let": {}}}}]},
        {"aggregate": "t", "pipeline": [{"$project": {"x": "$$REMOVE"}}]},
        {"aggregate": "t", "pipeline": [{"$lookup": {"from": "o", "pipeline": [], "as": "x"}}]},
        {"update": "t", "updates": [{"q": {}, "u": [{"$set": {"a": 1}}]}]},
        {"update": "t", "updates": [{"q": {"a": {"$near": 1}}, "u": {"$set": {"a": 1}}}]},
        {"findAndModify": "t", "query": {}, "update": {"$pow": 1}},
        {"find": "t", "filter": {}, "collation": {"locale": "de"}},
        {"createIndexes": "t", "indexes": [{"key": {"$**": 1}, "name": "all"}]},
    ],
)
def test_the_guard_finds_what_documentdb_lacks(command: dict[str, Any], documentdb_problems_of: ProblemsOf) -> None:
    assert documentdb_problems_of(command)


@pytest.mark.parametrize(
    "command",
    [
        {"find": "t", "filter": {"a": {"$in": [1], "$gte": 2}}, "$db": "x", "$clusterTime": {}},
        {"aggregate": "t", "pipeline": [{"$match": {}}, {"$group": {"_id": "$a", "n": {"$sum": 1}}}]},
        {"insert": "t", "documents": [{"text": "$where"}]},
        {"findAndModify": "t", "query": {"_id": 1}, "update": {"$inc": {"n": 1}, "$setOnInsert": {"a": 1}}},
    ],
)
def test_the_guard_lets_the_common_subset_pass(command: dict[str, Any], documentdb_problems_of: ProblemsOf) -> None:
    assert documentdb_problems_of(command) == []


def test_tests_have_no_network() -> None:
    with socket.socket() as sock, pytest.raises(PermissionError, match="no network"):
        sock.connect(("192.0.2.1", 80))
