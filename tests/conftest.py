"""Fixtures for every room: settings, a real mongod shared by the session, a fresh database and object store per test,
no network.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from infra import mongod
from infra.database import Db, connect
from infra.objects import ObjectStore, open_objects
from infra.platform import Platform
from infra.settings import ENV_PREFIX, Settings

pytest_plugins = ["tests.label_studio"]

# What Amazon DocumentDB 5.0 has, of the operators that may appear in queries, projections, updates and pipelines.
# Source: awslabs amazon-documentdb-tools, compat-tool/compat.py (2024-03-21). Only what MLPL might want is listed; add
# from there when in need.
_OPERATOR_NAMES = """
    $eq $ne $gt $gte $lt $lte $in $nin $and $or $nor $not $exists $type $mod $regex $options $all $elemMatch $size $expr
    $jsonSchema $bitsAllClear $bitsAllSet $bitsAnyClear $bitsAnySet $slice $meta $text $search $comment $set $unset $inc
    $mul $min $max $rename $currentDate $setOnInsert $push $pull $pullAll $pop $addToSet $each $position $sort $bit
    $match $project $group $limit $skip $unwind $lookup $addFields $count $sample $redact $replaceRoot $out $indexStats
    $geoNear $cond $ifNull $filter $map $reduce $mergeObjects $arrayToObject $objectToArray $zip $dateToString $dateAdd
    $dateSubtract $convert $toString $toInt $toLong $toDouble $toDecimal $toDate $toObjectId $toBool $first $last $sum
    $avg $concat $concatArrays $arrayElemAt $indexOfArray $isArray $range $reverseArray $setUnion $setIntersection
    $setDifference $setEquals $setIsSubset $anyElementTrue $allElementsTrue $add $subtract $multiply $divide $abs $ceil
    $floor $sqrt $exp $ln $log $log10 $cmp $strcasecmp $strLenBytes $strLenCP $substr $substrBytes $substrCP $split
    $toLower $toUpper $indexOfBytes $indexOfCP $literal $year $month $dayOfMonth $dayOfWeek $dayOfYear $hour $minute
    $second $millisecond $week $isoWeek $isoDayOfWeek $isoWeekYear $dateFromString
"""
DOCUMENTDB_OPERATORS = frozenset(_OPERATOR_NAMES.split())
_BANNED_VARIABLES = ("$$REMOVE", "$$CURRENT")
_QUERY_FIELDS = (
    "filter",
    "query",
    "projection",
    "fields",
    "sort",
    "pipeline",
    "update",
    "arrayFilters",
    "partialFilterExpression",
)


class DocumentDbGuard(CommandListener):
    """Listens to the commands sent and keeps those that DocumentDB 5.0 would refuse."""

    def __init__(self) -> None:
        self.violations: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.violations += [f"{event.command_name}: {problem}" for problem in documentdb_problems(event.command)]

    def succeeded(self, event: CommandSucceededEvent) -> None: ...

    def failed(self, event: CommandFailedEvent) -> None: ...


def documentdb_problems(command: Mapping[str, Any]) -> list[str]:
    """What in a command DocumentDB 5.0 lacks; stored documents and the driver's own fields are not looked at."""
    problems: list[str] = []
    for field in _QUERY_FIELDS:
        problems += _walk(command.get(field))
    for statement in (*command.get("updates", ()), *command.get("deletes", ())):
        for field in ("q", "u", "arrayFilters", "sort"):
            problems += _walk(statement.get(field))
    for index in command.get("indexes", ()):
        problems += _walk(index.get("partialFilterExpression"))
        problems += [f"index option {option}" for option in ("collation", "wildcardProjection") if option in index]
        problems += ["wildcard index" for key in index.get("key", {}) if "$**" in key]
    changes = [command.get("update"), *(statement.get("u") for statement in command.get("updates", ()))]
    if any(isinstance(change, Sequence) and not isinstance(change, str) for change in changes):
        problems.append("an update by pipeline")
    for stage in command.get("pipeline", ()):
        if {"pipeline", "let"} & set(stage.get("$lookup", {})):
            problems.append("$lookup with pipeline or let")
    if "collation" in command:
        problems.append("collation")
    return problems


def _walk(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        own = [key for key in value if key.startswith("$") and key not in DOCUMENTDB_OPERATORS]
        return own + [problem for child in value.values() for problem in _walk(child)]
    if isinstance(value, str):
        return [name for name in _BANNED_VARIABLES if value.startswith(name)]
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [problem for child in value for problem in _walk(child)]
    return []


@pytest.fixture(scope="session", autouse=True)
def _no_mlpl_environment() -> Iterator[None]:
    """The settings of whoever runs the tests must not reach them."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(ENV_PREFIX)}
    yield
    os.environ.update(kept)


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Connections leave this machine only by mistake; loopback and Unix sockets are open."""
    real_connect, real_connect_ex = socket.socket.connect, socket.socket.connect_ex

    def check(sock: socket.socket, address: Any) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(str(address[0])):
            raise PermissionError(f"tests have no network: {address[0]}:{address[1]} refused")

    def connect(sock: socket.socket, address: Any) -> None:
        check(sock, address)
        real_connect(sock, address)

    def connect_ex(sock: socket.socket, address: Any) -> int:
        check(sock, address)
        return real_connect_ex(sock, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", connect)
    patch.setattr(socket.socket, "connect_ex", connect_ex)
    yield
    patch.undo()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a home of the test's own; nothing is started under it unless the test does so."""
    return Settings(home=tmp_path / "home")


@pytest.fixture(scope="session")
def mongod_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Home of a real mongod that runs for the session. Other processes may share it: `Settings(home=mongod_home,
    database=...)`.
    """
    home = tmp_path_factory.mktemp("mongod-home")
    with mongod.embedded(home):
        yield home
    mongod.wait_stopped(home)


@pytest.fixture(scope="session")
def mongod_uri(mongod_home: Path) -> Iterator[str]:
    """URI of the session's mongod, for processes that must not manage it."""
    with mongod.embedded(mongod_home) as uri:
        yield uri


@pytest.fixture
def documentdb_problems_of() -> Callable[[Mapping[str, Any]], list[str]]:
    """What in a command DocumentDB 5.0 lacks."""
    return documentdb_problems


@pytest.fixture
def database(mongod_uri: str, request: pytest.FixtureRequest) -> Iterator[Db]:
    """A fresh database, dropped afterwards. The test fails if it sent anything that DocumentDB 5.0 lacks."""
    guard = DocumentDbGuard()
    where = Settings(home=Path("unused"), mongodb_uri=SecretStr(mongod_uri), database=f"t_{uuid.uuid4().hex[:16]}")
    with connect(where, event_listeners=[guard]) as db:
        yield db
        db.client.drop_database(db.name)
    if guard.violations:
        pytest.fail(
            f"{request.node.name} uses what DocumentDB 5.0 lacks: {sorted(set(guard.violations))}", pytrace=False
        )


@pytest.fixture
def objects(settings: Settings) -> ObjectStore:
    """An empty local object store."""
    return open_objects(settings)


@pytest.fixture
def platform(settings: Settings, mongod_uri: str, database: Db, objects: ObjectStore) -> Platform:
    """Database and objects of this test. A process started with `platform.settings.as_environment()` sees the same."""
    shared = settings.model_copy(update={"mongodb_uri": SecretStr(mongod_uri), "database": database.name})
    return Platform(settings=shared, database=database, objects=objects)


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    """A lease or watcher that a test forgot would disturb the ones after it."""
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("lease ")]
    assert not left, f"threads left running: {left}"
