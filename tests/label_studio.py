"""A real Label Studio for the session, as fixtures: one server, started once from a folder whose database is set up already."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from annotation.backends.label_studio import server
from annotation.backends.label_studio.server import Server


@pytest.fixture(scope="session")
def label_studio_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a Label Studio of its own that was never started, with an empty database."""
    if shutil.which("uv") is None and shutil.which("uvx") is None:
        pytest.skip("Label Studio is run by uv, which is not here")
    home = tmp_path_factory.mktemp("label-studio-home")
    template = _template()
    folder = home / "label-studio"
    shutil.copytree(template / "label-studio" / "data", folder / "data")
    # The token and the password are in the database; the name and the port must be this copy's own.
    state = json.loads((template / "label-studio" / "server.json").read_text())
    state |= {"instance": secrets.token_hex(4), "port": None}
    (folder / "server.json").write_text(json.dumps(state))
    return home


@pytest.fixture(scope="session")
def label_studio_server(label_studio_home: Path) -> Iterator[Server]:
    """A Label Studio that runs for the session. Shared: take task names and batch ids that nobody else takes."""
    try:
        yield server.start(label_studio_home, timeout_s=280)
    finally:
        server.stop(label_studio_home)


def _template() -> Path:
    """A home whose database is set up, kept from one session to the next: setting it up takes 40 s, a start from it 8 s."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mlpl-tests"
    cache.mkdir(parents=True, exist_ok=True)
    template = cache / f"label-studio-{server.VERSION}"
    with (cache / "label-studio.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.is_dir():
            making = cache / f"label-studio-{server.VERSION}.new"
            server.stop(making)  # Of a session that was killed here.
            shutil.rmtree(making, ignore_errors=True)
            try:
                server.start(making, timeout_s=280)
            finally:
                server.stop(making)
            making.rename(template)
    return template
