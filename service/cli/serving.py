"""The serve and worker commands."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.context import platform, settings


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command()(serve)
    app.command()(worker)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind to (MLPL_HOST).", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind to (MLPL_PORT).", show_default=False)] = None,
    reconcile: Annotated[
        bool, typer.Option("--reconcile/--no-reconcile", help="Run the reconcilers beside the API.")
    ] = True,
) -> None:
    """Runs the web UI, the HTTP API and the reconcilers."""
    from service import server

    server.check(settings(host=host, port=port))
    with platform(quiet=False, host=host, port=port) as opened:
        server.run(opened, reconcile=reconcile)


def worker() -> None:
    """Runs the reconcilers alone, for example on a GPU host."""
    import threading

    from service.curator import Curator
    from service.model_line import executor_of
    from service.reconcile import running

    with platform(quiet=False) as opened, running(opened, Curator(opened), executor_of(opened)):
        typer.echo("reconcilers run; Ctrl+C ends them", err=True)
        threading.Event().wait()
