"""The Label Studio of a home: found again, shut off from the environment, back after kill -9."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import time
from pathlib import Path

import pytest

from annotation.backends.label_studio import server
from annotation.backends.label_studio.server import Server
from infra.errors import BackendUnavailable, Conflict, InvalidInput, NotFound


def test_one_that_runs_is_found_again(label_studio_home: Path, label_studio_server: Server) -> None:
    assert server.running(label_studio_home) == label_studio_server
    assert server.start(label_studio_home) == label_studio_server
    assert label_studio_server.url.startswith("http://127.0.0.1:")
    assert label_studio_server.token not in repr(label_studio_server)


def test_it_listens_on_loopback_alone_and_keeps_its_secrets(
    label_studio_home: Path, label_studio_server: Server
) -> None:
    port = int(label_studio_server.url.rpartition(":")[2])
    assert server._listening_ports(label_studio_server.pid) == {port}
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    assert f"0100007F:{port:04X}" in listening
    assert stat.S_IMODE(label_studio_server.password_file.stat().st_mode) == 0o600
    command_lines = [
        path.read_bytes()
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists() and path.parent.name != str(os.getpid())
    ]
    for secret in (label_studio_server.token, label_studio_server.password):
        assert not any(secret.encode() in line for line in command_lines)
    assert (label_studio_home / "label-studio" / "label-studio.log").stat().st_size > 0


def test_it_comes_back_after_kill_at_the_same_place(label_studio_home: Path, label_studio_server: Server) -> None:
    os.killpg(label_studio_server.pid, signal.SIGKILL)
    while server._alive(label_studio_home / "label-studio"):
        time.sleep(0.05)
    assert server.running(label_studio_home) is None

    again = server.start(label_studio_home, timeout_s=280)

    assert (again.url, again.name, again.token) == (
        label_studio_server.url,
        label_studio_server.name,
        label_studio_server.token,
    )


def test_only_what_is_needed_of_the_environment_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEBUG", "HOST", "USERNAME", "PORT", "DJANGO_DB", "AWS_SECRET_ACCESS_KEY", "LABEL_STUDIO_HOST"):
        monkeypatch.setenv(name, "stray")
    monkeypatch.setenv("UV_CACHE_DIR", "/cache")

    environment = server._environment({"username": "u", "password": "p", "token": "t"})

    assert "stray" not in environment.values()
    assert environment["UV_CACHE_DIR"] == "/cache"
    assert environment["SSRF_PROTECTION_ENABLED"] == environment["COLLECT_ANALYTICS"] == "false"


def test_without_uv_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(server.shutil, "which", lambda _name: None)
    monkeypatch.setattr(server.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setitem(server.sys.modules, "uv", None)
    with pytest.raises(NotFound, match="pip install uv"):
        server.start(tmp_path)
    assert server.running(tmp_path) is None
    assert not server.stop(tmp_path)


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(Conflict, match="taken"):
            server.start(tmp_path, port=other.getsockname()[1])


def test_a_remembered_port_that_is_taken_is_left(tmp_path: Path) -> None:
    state = server._prepare_state(tmp_path, port=None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", state["port"]))
        other.listen()
        moved = server._prepare_state(tmp_path, port=None)
    assert moved["port"] != state["port"]
    assert {**moved, "port": 0} == {**state, "port": 0}
    assert json.loads((tmp_path / "server.json").read_text()) == moved
    assert stat.S_IMODE((tmp_path / "server.json").stat().st_mode) == 0o600


def _pretend_label_studio(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(server, "_command", lambda _folder, *, port: ["/bin/sh", "-c", script])  # noqa: ARG005


def test_one_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_label_studio(monkeypatch, "echo no such package >&2; exit 1")
    with pytest.raises(BackendUnavailable, match=r"no such package.*label-studio\.log"):
        server.start(tmp_path)


def test_one_that_never_answers_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_label_studio(monkeypatch, "sleep 600 & sleep 600")
    with pytest.raises(BackendUnavailable, match="not answered"):
        server.start(tmp_path, timeout_s=0.5)
    assert not server._alive(tmp_path / "label-studio")


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="MLPL_HOME"):
        server.start(tmp_path / "file")
