"""A real Label Studio of our own: started once for a home, in an environment of its own, found again by every `mlpl` process.

Label Studio brings some two hundred packages, so `uvx` gives it an environment apart from ours. The server runs in its own session
and outlives the command that started it. Two locks under `<home>/label-studio/` say what is going on:

- `start.lock` is held by whoever starts or stops the server, so that two processes never start two;
- `running.lock` is inherited by the server itself and is therefore held exactly as long as any process of it lives, however it or
  its starter ended. Its process group is written to `pid` by the child before it becomes Label Studio: while the lock is held, that
  number cannot belong to anybody else.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import importlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.errors import BackendUnavailable, Conflict, InvalidInput, NotFound
from infra.logs import get_logger

VERSION = "1.23.2"
_PYTHONS = ">=3.10,<3.14"  # What that version runs on; uvx takes the first interpreter that fits.
_HOST = "127.0.0.1"
_POLL_S = 0.25
_LARGEST_LOG_BYTES = 50 * 1024 * 1024
_PATIENCE_BEFORE_A_WORD_S = 3.0
_log = get_logger(__name__)

# What uvx needs to find packages and Label Studio to find its files. Nothing else gets in: Label Studio takes any variable named like
# one of its settings (DEBUG, HOST, USERNAME, PORT, ...) for that setting.
_KEPT_VARIABLES = (
    *(
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TMPDIR",
        "TZ",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
    ),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"),
)


@dataclass(frozen=True, kw_only=True)
class Server:
    """A Label Studio that answers.

    Attributes:
        name: Stable name of this instance for the labels that come from it; it does not change with the port.
        pid: Process group of the server.
        username: With `password`, for people who log in with a browser.
        password_file: Readable by its owner alone; where the password (and the token) is kept.
        token: For programs.
    """

    url: str
    name: str
    pid: int
    username: str
    password_file: Path
    password: str = field(repr=False)
    token: str = field(repr=False)


def start(
    home: Path,
    *,
    port: int | None = None,
    timeout_s: float = 900.0,
    progress: Callable[[str], None] | None = None,
) -> Server:
    """Starts the Label Studio of this home, or finds the one that runs already.

    The first start creates its database (about 40 s) and, on a machine that never had it, downloads Label Studio.

    Args:
        port: Port to listen on; None takes the one of the last time if it is free, else any free one.
        timeout_s: How long to wait for the first answer; the server is stopped if there is none by then.
        progress: Called with a line for people when there is something to wait for.

    Raises:
        Conflict: The port is taken.
        NotFound: There is no `uv` to run it with.
        InvalidInput: The home cannot be written.
        BackendUnavailable: It did not come up; the message names its log.
    """
    say = progress or (lambda _line: None)
    folder = _folder(home)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise InvalidInput(f"{folder} cannot be written ({exc.strerror}); choose another MLPL_HOME") from exc
    with _lock(folder / "start.lock"):
        if _alive(folder):
            return _await_answer(folder, deadline=time.monotonic() + timeout_s, say=say)
        state = _prepare_state(folder, port=port)
        command = _command(folder, port=state["port"])
        _spawn(folder, command, environment=_environment(state))
        _log.info("label_studio_started", port=state["port"], log=str(folder / "label-studio.log"))
        try:
            return _await_answer(folder, deadline=time.monotonic() + timeout_s, say=say)
        except BaseException:
            _end_processes(folder)
            raise


def running(home: Path) -> Server | None:
    """The Label Studio of this home if it runs and answers now, else None."""
    folder = _folder(home)
    if not _alive(folder):
        return None
    state = _read_state(folder)
    _trim_log(folder / "label-studio.log")
    return _server(folder, state) if state and _answers(state) else None


def stop(home: Path) -> bool:
    """Stops the Label Studio of this home; says whether one was running. Its data stays."""
    folder = _folder(home)
    if not folder.is_dir():
        return False
    with _lock(folder / "start.lock"):
        was_alive = _alive(folder)
        _end_processes(folder)
    return was_alive


def _folder(home: Path) -> Path:
    return home.expanduser().absolute() / "label-studio"


# -- what is remembered ------------------------------------------------------------------------------------------------------


def _prepare_state(folder: Path, *, port: int | None) -> dict[str, Any]:
    """Names, secrets and port for a start. Kept from the first start on, because Label Studio keeps them in its database too."""
    state = _read_state(folder) or {
        "instance": secrets.token_hex(4),
        "username": "mlpl@localhost.example",
        "password": secrets.token_urlsafe(15),
        "token": secrets.token_hex(20),
        "port": None,
    }
    if port is not None:
        if not _is_free(port):
            raise Conflict(f"port {port} is taken; give --port another one, or none to take a free one", port=port)
        state["port"] = port
    elif state["port"] is None or not _is_free(state["port"]):
        state["port"] = _free_port()
    _write_state(folder, state)
    return state


def _read_state(folder: Path) -> dict[str, Any] | None:
    with contextlib.suppress(FileNotFoundError, ValueError):
        state = json.loads((folder / "server.json").read_text())
        return state if isinstance(state, dict) else None
    return None


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    temporary = folder / "server.json.new"
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(state, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / "server.json")


def _server(folder: Path, state: Mapping[str, Any]) -> Server:
    return Server(
        url=_url(state),
        name=f"label_studio:{state['instance']}",
        pid=_group(folder) or 0,
        username=state["username"],
        password_file=folder / "server.json",
        password=state["password"],
        token=state["token"],
    )


def _url(state: Mapping[str, Any]) -> str:
    return f"http://{_HOST}:{state['port']}"


# -- the process -------------------------------------------------------------------------------------------------------------


def _command(folder: Path, *, port: int) -> list[str]:
    tool = ["--python", _PYTHONS, "--from", f"label-studio=={VERSION}", "label-studio"]
    arguments = ["start", "--no-browser", "--log-level", "WARNING", "--data-dir", str(folder / "data")]
    return [*_uvx(), *tool, *arguments, "--internal-host", _HOST, "--port", str(port)]


def _uvx() -> list[str]:
    if uvx := shutil.which("uvx"):
        return [uvx]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run"]
    # Installed as a package (`pip install uv`) into an environment whose scripts are not on the path.
    with contextlib.suppress(ImportError, FileNotFoundError):
        return [str(importlib.import_module("uv").find_uv_bin()), "tool", "run"]
    beside = Path(sys.executable).with_name("uv")
    if beside.is_file():
        return [str(beside), "tool", "run"]
    raise NotFound(
        "Label Studio is run by uv, and there is no `uv` on the path: `pip install uv`, "
        "or set MLPL_LABEL_STUDIO_URL and MLPL_LABEL_STUDIO_TOKEN to one that runs elsewhere"
    )


def _environment(state: Mapping[str, Any]) -> dict[str, str]:
    """The whole environment of the server. Secrets go this way because command lines can be read by every user of a machine."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES or name.startswith("UV_")}
    return kept | {
        "NO_PROXY": "127.0.0.1,localhost",  # Webhooks go to a server of ours on this machine.
        "LABEL_STUDIO_USERNAME": state["username"],
        "LABEL_STUDIO_PASSWORD": state["password"],
        "LABEL_STUDIO_USER_TOKEN": state["token"],
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        # Only those we make can log in; a link is needed to sign up.
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        # Images and the webhook are served from loopback, which the protection would refuse.
        "SSRF_PROTECTION_ENABLED": "false",
        # Without it, predictions that cannot be shown are taken in silence.
        "fflag_feat_utc_210_prediction_validation_15082025": "true",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "PYTHONUNBUFFERED": "1",
    }


def _spawn(folder: Path, command: list[str], *, environment: dict[str, str]) -> None:
    (folder / "pid").unlink(missing_ok=True)
    with (folder / "running.lock").open("a") as lock, (folder / "label-studio.log").open("ab") as log:
        # We hold start.lock and nothing is alive: at most somebody is just looking (`_alive`), so this waits for no time.
        fcntl.flock(lock, fcntl.LOCK_EX)
        # The shell writes its own number, which is that of the process group, and then becomes the server: there is no moment at
        # which the server runs and its number is unknown, even if we are killed here.
        script = 'printf %s "$$" >"$0.new" && mv "$0.new" "$0" && exec "$@"'
        process = subprocess.Popen(
            ["/bin/sh", "-c", script, str(folder / "pid"), *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
        )
        # It is meant to outlive this object; without this, Python warns when the object goes.
        process.returncode = 0


def _alive(folder: Path) -> bool:
    """Whether any process of the server lives."""
    with (
        contextlib.suppress(FileNotFoundError),
        (folder / "running.lock").open("a" if folder.is_dir() else "r") as lock,
    ):
        try:
            # Shared, so that two processes that ask at the same time do not take each other for the server.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _group(folder: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int((folder / "pid").read_text())
    return None


def _end_processes(folder: Path, *, patience_s: float = 10.0) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + patience_s
        sent = False
        while _alive(folder):
            group = _group(folder)
            if group is not None and not sent:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, sign)
                sent = True
            _reap(group)
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        else:
            return


def _reap(group: int | None) -> None:
    """Takes the exit status of the server if it was our child, so that it does not stay as a zombie."""
    if group is not None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(group, os.WNOHANG)


def _await_answer(folder: Path, *, deadline: float, say: Callable[[str], None]) -> Server:
    log = folder / "label-studio.log"
    state = _read_state(folder)
    if state is None:
        raise BackendUnavailable(f"Label Studio runs, but {folder / 'server.json'} is gone; end it and start it again")
    began = time.monotonic()
    spoken = False
    while not _answers(state):
        _reap(_group(folder))
        if not _alive(folder):
            raise BackendUnavailable(f"Label Studio ended at once: {_last_line(log)} (log: {log})", log=str(log))
        _check_port(folder, state, log=log)
        waited_s = time.monotonic() - began
        if not spoken and waited_s > _PATIENCE_BEFORE_A_WORD_S:
            first = "" if _was_ready(folder) else "; the first time it sets up its database, which takes about 40 s"
            say(f"waiting for Label Studio{first}")
            spoken = True
        if time.monotonic() > deadline:
            raise BackendUnavailable(f"Label Studio has not answered for {waited_s:.0f} s (log: {log})", log=str(log))
        time.sleep(_POLL_S)
    (folder / "ready").touch()
    return _server(folder, state)


def _was_ready(folder: Path) -> bool:
    return (folder / "ready").exists()


def _answers(state: Mapping[str, Any]) -> bool:
    """Whether the server on the port is up and is the one with our data: only that one knows the token."""
    connection = http.client.HTTPConnection(_HOST, state["port"], timeout=10.0)
    try:
        connection.request("GET", "/api/current-user/whoami", headers={"Authorization": f"Token {state['token']}"})
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _check_port(folder: Path, state: Mapping[str, Any], *, log: Path) -> None:
    """Label Studio moves to the next port without a word to us when somebody took ours meanwhile."""
    group = _group(folder)
    ports = _listening_ports(group) if group is not None else set()
    if ports and state["port"] not in ports:
        _end_processes(folder)
        raise Conflict(
            f"port {state['port']} was taken while Label Studio started; start it again (log: {log})",
            port=state["port"],
        )


def _listening_ports(group: int) -> set[int]:
    """TCP ports on which processes of a session listen; empty where there is no /proc to read it from."""
    inodes: set[str] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # Fields after the command name in parentheses: state, parent, group, session.
            if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) != group:
                continue
            for link in (entry / "fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes.add(str(link.readlink()))
    ports: set[int] = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                    ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


# -- small things ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    with (
        socket.socket() as probe
    ):  # Somebody may listen on all addresses, which lets us bind and takes the connections.
        probe.settimeout(1.0)
        return probe.connect_ex((_HOST, port)) != 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _trim_log(log: Path) -> None:
    """Empties a log that has grown large: Label Studio writes two lines a request, and we ask every few seconds."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > _LARGEST_LOG_BYTES:
            os.truncate(log, 0)  # The server appends, so it goes on at the beginning.


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            return lines[-1][:300]
    return "no output"
