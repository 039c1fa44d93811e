"""The process that keeps one embedded mongod: `python mongod_keeper.py DIRECTORY MONGOD LINGER_S LOCK_FD`. Started by `infra.mongod`,
never by hand.

Standard library only, so that it is small and starts at once. Who lives and who dies is told by file locks alone, which
the kernel drops however a process ends:

- Every process that uses the database holds a shared lock on `users.lock`. The keeper tries for the exclusive one; it
  gets it exactly when nobody is left, keeps it while it stops mongod, and exits.
- `keeper.lock` is taken exclusively by the user that found it free and handed on to the keeper it starts, so there is
  never a gap and never a second keeper. mongod inherits it too: the lock is free only when keeper and mongod are both
  gone.
- mongod asks the kernel for SIGTERM when its keeper dies. It then stops cleanly, and a user starts a new keeper.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

USERS_LOCK = "users.lock"
KEEPER_LOCK = "keeper.lock"
INSTANCE = "instance.json"  # Port and replica-set name, kept for the life of the data.
REPLICA_SET = "db/mlpl-replica-set"  # The name once more, where the data are: they cannot be opened under another.
ENDPOINT = "endpoint.json"  # Where mongod answers now; written by a running keeper, removed before the next one.
FAILURE = "failure.json"  # Why the last keeper gave up.
KEEPER_LOG = "keeper.log"
MONGOD_LOG = "mongod.log"

LINGER_S = 2.0  # Commands that follow one another in a script find the database still running.
POLL_S = 0.2
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
MAX_FAILED_STARTS = 4
MIN_FREE_BYTES = 128 * 1024 * 1024
MIN_FREE_BYTES_NEW = 512 * 1024 * 1024  # The journal alone takes 300 MB at once.
MAX_LOG_BYTES = 16 * 1024 * 1024
PORTS = range(20000, 30000)  # Below the ports Linux hands to outgoing connections.
EXIT_PORT_TAKEN = 48
EXIT_DATA_IN_USE = 100
_PR_SET_PDEATHSIG = 1


class StartFailed(Exception):
    """mongod did not come up; `code` is `port_taken`, `data_in_use`, `storage_full`, `missing_library`,
    `name_lost` or `failed`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def main(directory: Path, binary: str, linger_s: float, lock_fd: int) -> int:
    """Keeps mongod until the last user has left.

    Args:
        directory: Absolute path of `<home>/mongod`.
        binary: Path of the mongod to run.
        linger_s: How long mongod stays after the last user.
        lock_fd: Open file with the exclusive lock on `keeper.lock`.
    """
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    keeper = Keeper(directory, binary, linger_s, lock_fd)
    try:
        keeper.run()
    except StartFailed as exc:
        keeper.log(f"gave up: {exc.code}: {exc.message}")
        with contextlib.suppress(OSError):
            write_json(directory / FAILURE, {"code": exc.code, "message": exc.message})
        return 1
    except OSError as exc:
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        keeper.log(f"gave up: {exc}")
        with contextlib.suppress(OSError):
            write_json(directory / FAILURE, {"code": "storage_full" if full else "failed", "message": str(exc)})
        return 1
    finally:
        keeper.stop()
    return 0


class Keeper:
    """One mongod and the lock that says when it is no longer needed."""

    def __init__(self, directory: Path, binary: str, linger_s: float, lock_fd: int) -> None:
        """Starts nothing yet."""
        self.directory = directory
        self.binary = binary
        self.linger_s = linger_s
        self.lock_fd = lock_fd
        self.mongod: subprocess.Popen[bytes] | None = None
        self.users_fd = -1

    def run(self) -> None:
        """Starts mongod, restarts it when it dies, and returns once nobody uses it (holding `users.lock`, so that
        nobody comes).
        """
        self.users_fd = os.open(self.directory / USERS_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.start(patience_s=0.0)
        failed_starts = 0
        free_since: float | None = None
        while True:
            time.sleep(POLL_S)
            if self.mongod is not None and self.mongod.poll() is not None:
                self.log(f"mongod ended by itself with status {self.mongod.returncode}")
                self.mongod = None
            if not self.is_free():
                free_since = None
            elif free_since is None:
                free_since = time.monotonic()
            if free_since is not None and (self.mongod is None or time.monotonic() - free_since >= self.linger_s):
                # Between the look above and this line a user may have come: then the lock is refused and life goes on.
                if self.take_users_lock():
                    self.log("the last user has left")
                    return
                free_since = None
            if self.mongod is None:
                try:
                    # Users are connected to this port: give whoever took it the time to go before moving away.
                    self.start(patience_s=10.0)
                    failed_starts = 0
                except StartFailed as exc:
                    failed_starts += 1
                    self.log(f"restart failed ({failed_starts}): {exc.code}: {exc.message}")
                    if failed_starts >= MAX_FAILED_STARTS:
                        raise
                    time.sleep(min(2.0**failed_starts, 10.0))

    def start(self, *, patience_s: float) -> None:
        """Starts mongod on the remembered port and says where it answers; after `patience_s` on another if it is taken.

        Raises:
            StartFailed: It cannot run.
        """
        instance = self.read_instance()
        started, attempts = time.monotonic(), 0
        while True:
            attempts += 1
            try:
                self.start_once(instance["port"], instance["replica_set"])
                break
            except StartFailed as exc:
                self.log(f"start on port {instance['port']} failed: {exc.code}: {exc.message}")
                waited_s = time.monotonic() - started
                if exc.code == "port_taken" and waited_s >= patience_s and attempts < 20:
                    instance["port"] = free_port()
                    write_json(self.directory / INSTANCE, instance)
                elif exc.code in ("port_taken", "data_in_use") and waited_s < 15.0:
                    time.sleep(0.5)  # A mongod that was told to stop needs a moment.
                elif exc.code == "failed" and attempts < 3:
                    time.sleep(0.5)  # It may have been killed, like its predecessor.
                else:
                    raise
        assert self.mongod is not None
        with contextlib.suppress(OSError):
            (self.directory / REPLICA_SET).write_text(instance["replica_set"])
        write_json(self.directory / ENDPOINT, {**instance, "keeper": os.getpid(), "mongod": self.mongod.pid})

    def read_instance(self) -> dict[str, Any]:
        """The remembered port and replica-set name; made at the first start. The name is random, so no other mongod is
        taken for ours.

        Raises:
            StartFailed: There are data, and nothing tells their name any more.
        """
        path = self.directory / INSTANCE
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(path.read_text())
            return {"port": int(known["port"]), "replica_set": str(known["replica_set"])}
        try:
            name = (self.directory / REPLICA_SET).read_text().strip()
        except (OSError, ValueError):
            name = ""
        if not name and (self.directory / "db/WiredTiger").exists():
            raise StartFailed("name_lost", f"{path} is lost or damaged")
        instance = {"port": free_port(), "replica_set": name or f"mlpl-{secrets.token_hex(6)}"}
        write_json(path, instance)
        return instance

    def start_once(self, port: int, replica_set: str) -> None:
        """Runs mongod and returns when it accepts connections.

        Raises:
            StartFailed: It ended before that, or took too long.
        """
        data = self.directory / "db"
        needed = MIN_FREE_BYTES if data.exists() else MIN_FREE_BYTES_NEW
        if shutil.disk_usage(self.directory).free < needed:
            # With less it would start, and abort at its first checkpoint.
            raise StartFailed("storage_full", f"less than {needed // 2**20} MiB free")
        data.mkdir(exist_ok=True)
        log_path = self.directory / MONGOD_LOG
        rotate(log_path)
        log_start = log_path.stat().st_size if log_path.exists() else 0
        command = [
            self.binary, "--dbpath", str(data), "--logpath", str(log_path), "--logappend", "--bind_ip", "127.0.0.1",
            "--port", str(port), "--replSet", replica_set, "--oplogSize", "64", "--wiredTigerCacheSizeGB", cache_size_gb(), "--nounixsocket",
        ]  # fmt: skip
        keeper_pid = os.getpid()

        def die_with_keeper() -> None:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != keeper_pid:
                os._exit(1)

        self.mongod = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), stderr=sys.stderr.fileno(), cwd=self.directory,
            preexec_fn=die_with_keeper, pass_fds=(self.lock_fd,), start_new_session=True,
        )  # fmt: skip
        self.log(f"mongod {self.mongod.pid} started on port {port}")
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            ended = self.mongod.poll()
            said = tail(log_path, log_start)
            if ended is not None:
                self.mongod = None
                raise diagnose(ended, said, tail(self.directory / KEEPER_LOG, None))
            if b"Waiting for connections" in said:
                return
            time.sleep(0.02)
        self.stop()
        raise StartFailed("failed", f"mongod did not accept connections within {START_TIMEOUT_S:.0f} s")

    def stop(self) -> None:
        """Stops mongod cleanly, by force if it takes too long, and withdraws the endpoint."""
        with contextlib.suppress(OSError):
            (self.directory / ENDPOINT).unlink(missing_ok=True)
        mongod, self.mongod = self.mongod, None
        if mongod is None or mongod.poll() is not None:
            return
        mongod.terminate()
        try:
            mongod.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.log("mongod did not stop in time and was killed")
            mongod.kill()
            mongod.wait()
        self.log(f"mongod {mongod.pid} stopped with status {mongod.returncode}")

    def is_free(self) -> bool:
        """Whether no user holds the database at this moment. Leaves the lock as it was."""
        if not self.take_users_lock():
            return False
        fcntl.flock(self.users_fd, fcntl.LOCK_UN)
        return True

    def take_users_lock(self) -> bool:
        """Takes the exclusive lock on `users.lock` if nobody holds a shared one."""
        try:
            fcntl.flock(self.users_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def log(self, message: str) -> None:
        """One line to `keeper.log`; a full disk must not stop the keeper from stopping mongod."""
        with contextlib.suppress(OSError):
            print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), os.getpid(), message, file=sys.stderr, flush=True)


def diagnose(status: int, said: bytes, stderr: bytes) -> StartFailed:
    """What a mongod that ended during its start died of, from its exit status and what it wrote."""
    if status == EXIT_PORT_TAKEN:
        return StartFailed("port_taken", "the port is taken by another program")
    if b"No space left on device" in said or b"No space left on device" in stderr[-4000:]:
        return StartFailed("storage_full", "no space left on device")
    if status == EXIT_DATA_IN_USE and (b"DBPathInUse" in said or b"Unable to lock" in said):
        return StartFailed("data_in_use", "the data directory is in use by another mongod")
    if status == 127:
        line = next(
            (line for line in reversed(stderr.splitlines()) if b"shared librar" in line), b"a system library is missing"
        )
        return StartFailed("missing_library", line.decode(errors="replace").strip())
    return StartFailed("failed", f"mongod ended with status {status}")


def cache_size_gb() -> str:
    """A twentieth of the memory, at most 2 GiB; mongod accepts no less than 0.25."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return f"{min(max(memory_gb / 20, 0.25), 2.0):.2f}"


def free_port() -> int:
    """A loopback port nobody listens on now."""
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise StartFailed("port_taken", f"no free port on 127.0.0.1 in {PORTS.start}-{PORTS.stop - 1}")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replaces a small file so that readers see the old or the new one, also after a power cut."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def tail(path: Path, start: int | None) -> bytes:
    """What was written to a log since `start`, at most its last 256 KiB; with None its last 64 KiB."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 65536) if start is None else max(start, end - 262144))
            return file.read()
    except OSError:
        return b""


def rotate(path: Path) -> None:
    """Keeps a log and its predecessor, each of bounded size."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))


if __name__ == "__main__":
    # The user that started us waits for this process: leave it at once, and live on as a child of init.
    if os.fork() > 0:
        os._exit(0)
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])))
