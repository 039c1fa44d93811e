"""The embedded mongod against a real one: who starts it, who stops it, and what survives which death."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import PyMongoError

from infra import mongod
from infra import mongod_keeper as keeper
from infra.database import Db, open_client, retrying
from infra.errors import BackendUnavailable, InvalidInput, MlplError, StorageFull, UnsupportedPlatform

LINGER_S = 0.2
USER = """
import sys
from pathlib import Path
from infra import mongod
from infra.database import open_client, retrying
home, name = Path(sys.argv[1]), sys.argv[2]
with mongod.embedded(home, linger_s=0.2) as uri, open_client(uri) as client:
    retrying(lambda: client["t"]["users"].update_one({"_id": name}, {"$set": {"here": True}}, upsert=True))
    print("ready", client.admin.command("serverStatus")["pid"], flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home whose mongod is gone at the end, or the test fails."""
    path = tmp_path / "home"
    yield path
    mongod.wait_stopped(path)
    assert not running_processes(path)


@pytest.fixture
def start_user(home: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a process that uses the database until a line is written to it; all are killed at the end."""
    users: list[subprocess.Popen[str]] = []

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", USER, str(home), name]
        users.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return users[-1]

    yield start
    for user in users:
        user.kill()
        user.communicate()


def ready(user: subprocess.Popen[str]) -> int:
    """Waits for a user to be served and gives the pid of the mongod that served it."""
    assert user.stdout is not None
    word, _, pid = user.stdout.readline().partition(" ")
    assert word == "ready"
    return int(pid)


def running_processes(home: Path) -> list[int]:
    """Keepers and mongods of this home."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if (
                state != "Z"
                and str(home / "mongod") in command
                and ("mongod_keeper" in command or "--dbpath" in command)
            ):
                found.append(int(entry.name))
    return found


def endpoint(home: Path) -> dict[str, Any]:
    """What the running keeper says about itself."""
    value: dict[str, Any] = json.loads((home / "mongod" / keeper.ENDPOINT).read_text())
    return value


def served_by_another(home: Path, old: dict[str, Any]) -> dict[str, Any]:
    """Waits until a mongod other than the old one answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            now = endpoint(home)
        except (OSError, ValueError):
            now = old
        if now["mongod"] != old["mongod"]:
            return now
        time.sleep(0.05)
    raise AssertionError("no new mongod")


@contextmanager
def stranger(port: int) -> Iterator[None]:
    """A program that is not a database listens on the port, and hangs up on everybody."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", port), socketserver.BaseRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def names(db: Db) -> set[str]:
    return {document["_id"] for document in retrying(lambda: list(db["users"].find({})))}


def test_data_and_port_stay_from_one_use_to_the_next(home: Path) -> None:
    ports = []
    for round_number in range(2):
        with mongod.embedded(home, linger_s=LINGER_S) as uri, open_client(uri) as client:
            client["t"]["users"].insert_one({"_id": str(round_number)})
            ports.append(endpoint(home)["port"])
        mongod.wait_stopped(home)
    with mongod.embedded(home, linger_s=LINGER_S) as uri, open_client(uri) as client:
        assert names(client["t"]) == {"0", "1"}
    assert ports[0] == ports[1]


def test_a_relative_home_means_the_directory_at_the_start(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with mongod.embedded(Path("home"), linger_s=LINGER_S) as uri, open_client(uri) as client:
        monkeypatch.chdir("/")
        client["t"]["users"].insert_one({"_id": "x"})
    assert (home / "mongod" / "mongod.log").stat().st_size > 0
    assert (home / "mongod" / "keeper.log").stat().st_size > 0


def test_processes_starting_at_the_same_instant_share_one_mongod(
    home: Path, start_user: Callable[[str], subprocess.Popen[str]]
) -> None:
    users = [start_user(f"u{number}") for number in range(6)]
    assert len({ready(user) for user in users}) == 1
    assert len(running_processes(home)) == 2
    for user in users[:3]:
        user.kill()
    for user in users[3:5]:
        user.communicate("\n")
        assert user.returncode == 0
    time.sleep(4 * LINGER_S)
    assert len(running_processes(home)) == 2, "mongod stopped under its last user"
    with mongod.embedded(home, linger_s=LINGER_S) as uri, open_client(uri) as client:
        assert names(client["t"]) == {f"u{number}" for number in range(6)}


def test_users_coming_and_going_always_find_a_database(home: Path) -> None:
    # Each joins when the one before is leaving, so that joins meet every stage of a stopping keeper.
    for number in range(6):
        with mongod.embedded(home, linger_s=0.0) as uri, open_client(uri) as client:
            client["t"]["users"].insert_one({"_id": number})
            assert client["t"]["users"].count_documents({}) == number + 1
        time.sleep(0.1 * number)


@pytest.mark.parametrize("victim", ["mongod", "keeper", "both"])
def test_kill_of_its_processes_is_survived_by_the_users(home: Path, victim: str) -> None:
    with mongod.embedded(home, linger_s=LINGER_S) as uri, open_client(uri) as client:
        db = client["t"]
        db["users"].insert_one({"_id": "before"})
        old = endpoint(home)
        for name in ("keeper", "mongod"):
            if victim in (name, "both"):
                os.kill(old[name], signal.SIGKILL)
        new = served_by_another(home, old)
        retrying(lambda: db["users"].update_one({"_id": "after"}, {"$set": {"here": True}}, upsert=True), deadline_s=60)
        assert names(db) == {"before", "after"}
        assert new["port"] == old["port"]
        assert len(running_processes(home)) == 2


def test_kill_of_everything_at_once_loses_nothing_acknowledged(
    home: Path, start_user: Callable[[str], subprocess.Popen[str]]
) -> None:
    for number in range(3):
        user = start_user(f"u{number}")
        ready(user)
        for pid in [user.pid, *running_processes(home)]:
            os.kill(pid, signal.SIGKILL)
    with mongod.embedded(home, linger_s=LINGER_S) as uri, open_client(uri) as client:
        assert names(client["t"]) == {"u0", "u1", "u2"}


def test_a_killed_last_user_stops_mongod(home: Path, start_user: Callable[[str], subprocess.Popen[str]]) -> None:
    user = start_user("u")
    ready(user)
    user.kill()
    mongod.wait_stopped(home)
    assert not (home / "mongod" / keeper.ENDPOINT).exists()
    assert "stopped with status 0" in (home / "mongod" / keeper.KEEPER_LOG).read_text()


def test_another_port_is_taken_when_the_remembered_one_is_in_use(home: Path) -> None:
    with mongod.embedded(home, linger_s=LINGER_S) as uri, open_client(uri) as client:
        client["t"]["users"].insert_one({"_id": "before"})
        port = endpoint(home)["port"]
    mongod.wait_stopped(home)
    with stranger(port):
        with mongod.embedded(home, linger_s=LINGER_S) as uri, open_client(uri) as client:
            assert endpoint(home)["port"] != port
            client["t"]["users"].insert_one({"_id": "after"})
            assert names(client["t"]) == {"before", "after"}
        mongod.wait_stopped(home)


def test_leftovers_of_a_crash_do_not_matter(home: Path) -> None:
    directory = home / "mongod"
    directory.mkdir(parents=True)
    (directory / keeper.ENDPOINT).write_text('{"port": 1, "replica_set": "x", "keeper": 1, "mongod": 1}')
    (directory / keeper.FAILURE).write_text('{"code": "storage_full", "message": "long ago"}')
    (directory / keeper.INSTANCE).write_text("torn")
    with mongod.embedded(home, linger_s=LINGER_S) as uri, open_client(uri) as client:
        assert client.admin.command("ping")["ok"] == 1


@pytest.mark.parametrize("left", ["torn", None])
def test_data_are_found_again_without_the_file_that_names_them(home: Path, left: str | None) -> None:
    with mongod.embedded(home, linger_s=LINGER_S) as uri, open_client(uri) as client:
        client["t"]["users"].insert_one({"_id": "before"})
    mongod.wait_stopped(home)
    instance = home / "mongod" / keeper.INSTANCE
    instance.unlink()
    if left is not None:
        instance.write_text(left)
    with mongod.embedded(home, linger_s=LINGER_S) as uri, open_client(uri) as client:
        assert names(client["t"]) == {"before"}
    mongod.wait_stopped(home)

    instance.write_text("torn")
    (home / "mongod" / keeper.REPLICA_SET).unlink()
    with (
        pytest.raises(BackendUnavailable, match=r"instance\.json is lost or damaged.* \"replSet\""),
        mongod.embedded(home, linger_s=LINGER_S),
    ):
        pass


def test_a_stranger_on_the_port_is_never_written_to(mongod_uri: str) -> None:
    stranger = mongod_uri.replace("replicaSet=mlpl-", "replicaSet=mlpl-other-")
    with open_client(stranger, server_selection_timeout_s=0.5) as client, pytest.raises(Exception, match="replica set"):
        client["t"]["users"].insert_one({"_id": "x"})


def test_wait_stopped_says_that_it_is_still_in_use(mongod_home: Path, mongod_uri: str) -> None:
    assert mongod_uri
    with pytest.raises(BackendUnavailable, match="still in use"):
        mongod.wait_stopped(mongod_home, timeout_s=0.0)


def test_a_mongod_that_cannot_run_is_reported_with_its_logs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongod, "find_binary", lambda: Path("/bin/false"))
    with pytest.raises(BackendUnavailable, match=r"status 1; see .*/mongod\.log and .*/keeper\.log"):
        enter(home)


def test_a_missing_system_library_is_named(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "mongod"
    script.write_text(
        "#!/bin/sh\necho 'mongod: error while loading shared libraries: libcurl.so.4: no file' >&2\nexit 127\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(mongod, "find_binary", lambda: script)
    with pytest.raises(UnsupportedPlatform, match=r"libcurl\.so\.4.*MLPL_MONGODB_URI"):
        enter(home)


@pytest.mark.parametrize("size", ["16m", "16k"])
def test_a_full_disk_is_one_line(tmp_path: Path, size: str) -> None:
    with small_disk(tmp_path / "small", size) as small:
        if size == "16k":
            (small / "filler").write_bytes(bytes(4096 * 3))
        with pytest.raises(StorageFull, match=f"no space left under {small}") as raised:
            enter(small / "home")
        assert "\n" not in raised.value.message
        mongod.wait_stopped(small / "home")


def test_a_disk_that_fills_up_loses_nothing_acknowledged(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "640m") as small:
        home, kept = small / "home", []
        with (
            mongod.embedded(home, linger_s=LINGER_S) as uri,
            open_client(uri, server_selection_timeout_s=1.0) as client,
        ):
            client["t"]["users"].insert_one({"_id": -1})
            with (small / "filler").open("wb") as filler:
                while shutil.disk_usage(small).free > 30 * 2**20:
                    filler.write(bytes(2**20))
                    filler.flush()
            with suppress(PyMongoError):
                for number in range(10_000):
                    client["t"]["users"].insert_one({"_id": number, "noise": os.urandom(100_000)})
                    kept.append(number)
        assert 0 < len(kept) < 10_000
        mongod.wait_stopped(home)
        (small / "filler").unlink()
        with mongod.embedded(home, linger_s=LINGER_S) as uri, open_client(uri) as client:
            there = {document["_id"] for document in client["t"]["users"].find({}, {"_id": 1})}
        mongod.wait_stopped(home)
    assert set(kept) <= there


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of that size; the test is skipped where we may not mount one."""
    path.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"file/home/mongod: Not a directory; .*MLPL_HOME"):
        enter(tmp_path / "file" / "home")


def test_a_platform_without_mongod_is_told_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UnsupportedPlatform, match="MLPL_MONGODB_URI"):
        enter(tmp_path / "home")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("status", "said", "stderr", "code"),
    [
        (48, b"", b"", "port_taken"),
        (100, b'"id":20574,"attr":{"error":"DBPathInUse: Unable to lock"}', b"", "data_in_use"),
        (100, b"No space left on device", b"", "storage_full"),
        (14, b'"No space left on device"', b"", "storage_full"),
        (127, b"", b"libcrypto.so.3: error while loading shared libraries", "missing_library"),
        (14, b"", b"", "failed"),
        (-9, b"", b"", "failed"),
    ],
)
def test_diagnosis_of_a_failed_start(status: int, said: bytes, stderr: bytes, code: str) -> None:
    assert keeper.diagnose(status, said, stderr).code == code


def test_logs_are_bounded(tmp_path: Path) -> None:
    log = tmp_path / "mongod.log"
    with log.open("wb") as file:
        file.truncate(keeper.MAX_LOG_BYTES + 1)
    keeper.rotate(log)
    assert not log.exists()
    assert (tmp_path / "mongod.log.1").stat().st_size == keeper.MAX_LOG_BYTES + 1


def test_tail_reads_what_came_after_a_position(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"old new")
    assert keeper.tail(log, 4) == b"new"
    assert keeper.tail(log, None) == b"old new"
    assert keeper.tail(tmp_path / "missing", 0) == b""


def enter(home: Path) -> MlplError | None:
    with mongod.embedded(home, timeout_s=60, linger_s=LINGER_S):
        return None
