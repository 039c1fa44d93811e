"""The web server process: API, web UI and reconcilers on one address."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace

from infra.errors import Conflict, InvalidInput
from infra.logs import get_logger
from infra.platform import Platform
from infra.settings import Settings

log = get_logger(__name__)


def check(settings: Settings) -> None:
    """Refuses what could not be served, before anything is started.

    Raises:
        Denied: The address is not loopback and no access token is set.
        Conflict: The port is taken.
        InvalidInput: The address is not one of this machine.
    """
    from service.access import check_binding

    check_binding(settings)
    bind(settings).close()


def bind(settings: Settings) -> socket.socket:
    """A listening socket on the configured address; port 0 takes a free one.

    Raises:
        Conflict: The port is taken.
        InvalidInput: The address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named as TCP, because asyncio turns Nagle's algorithm off for such sockets only: with it, each answer waits 40 ms for the caller's
    # delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(128)
    except PermissionError as exc:
        listener.close()
        raise InvalidInput(f"port {settings.port} needs more rights; choose one above 1023 with --port") from exc
    except OSError as exc:
        listener.close()
        if isinstance(exc, socket.gaierror) or exc.errno == 99:
            raise InvalidInput(
                f"{settings.host} is not an address of this machine; choose another with --host"
            ) from exc
        raise Conflict(
            f"port {settings.port} on {settings.host} is taken; choose another with --port (or MLPL_PORT)",
            port=settings.port,
        ) from exc
    return listener


def run(platform: Platform, *, reconcile: bool = True) -> None:
    """Serves until interrupted."""
    import uvicorn

    from service.app import create_app
    from service.curator import Curator
    from service.model_line import executor_of
    from service.reconcile import Reconcilers

    with contextlib.closing(bind(platform.settings)) as listener:
        host, port = listener.getsockname()[:2]
        platform = replace(platform, settings=platform.settings.model_copy(update={"port": port}))
        curator = Curator(platform)
        reconcilers = Reconcilers(platform, curator, executor_of(platform)) if reconcile else None
        app = create_app(platform, curator=curator, reconcilers=reconcilers)
        shown = f"[{host}]" if ":" in host else host
        print(f"MLPL is on http://{shown}:{port} (Ctrl+C stops it)", flush=True)
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
        if reconcilers is not None:
            reconcilers.start()
        try:
            with curator.kept_fresh():
                uvicorn.Server(config).run(sockets=[listener])
        finally:
            if reconcilers is not None:
                reconcilers.stop()
