"""Which code and which environment a workflow ran with."""

from __future__ import annotations

import hashlib
import platform as host
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class CodeState:
    """The code that ran.

    Attributes:
        version: Release of this distribution.
        commit: Git commit of the checkout, None when it was installed from a package.
        clean: False when files differed from the commit, so that the commit alone does not tell what ran.
        tag: Git's description of the commit by the nearest tag, when there is one.
    """

    version: str
    commit: str | None
    clean: bool | None
    tag: str | None


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The software and machine around the code.

    Attributes:
        packages: Version of every installed distribution.
        lock_digest: SHA-256 of the checkout's uv.lock, None without one.
    """

    python: str
    machine: str
    system: str
    packages: Mapping[str, str]
    lock_digest: str | None


def version() -> str:
    """Release of this distribution."""
    return metadata.version("mlpl")


def code_state(root: Path = _ROOT) -> CodeState:
    """Asks git about the checkout that this package runs from."""
    if not (root / ".git").exists() or (commit := _git(root, "rev-parse", "HEAD")) is None:
        return CodeState(version=version(), commit=None, clean=None, tag=None)
    return CodeState(
        version=version(),
        commit=commit,
        clean=_git(root, "status", "--porcelain") == "",
        tag=_git(root, "describe", "--tags", "--always"),
    )


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Reads the installed distributions once a process."""
    lock = _ROOT / "uv.lock"
    packages = {dist.metadata["Name"]: dist.version for dist in metadata.distributions() if dist.metadata["Name"]}
    return Environment(
        python=host.python_version(),
        machine=host.machine(),
        system=host.platform(),
        packages=dict(sorted(packages.items(), key=lambda item: item[0].lower())),
        lock_digest=hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else None,
    )


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
