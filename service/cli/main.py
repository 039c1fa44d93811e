"""The `mlpl` command: its groups of commands, and the one place where an error becomes a line and an exit status.

Exit status: 0 done, 1 an error of ours (one line on stderr, which says what to do next), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import errno
import sys
from typing import Annotated

import typer

from service.cli import (
    data,
    demo,
    finding,
    labelling,
    model_line,
    planning,
    predictions,
    serving,
    simulating,
    structure,
    tracing,
)
from service.cli.context import debug_switch

_INTERRUPTED = 130

app = typer.Typer(
    name="mlpl",
    help="Machine Learning Production Line for fleet camera images: choose what to label, label it, train on it, trace it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (
    data,
    finding,
    structure,
    labelling,
    planning,
    model_line,
    predictions,
    tracing,
    serving,
    demo,
    simulating,
):
    group.add_to(app)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug logs.")] = False,
) -> None:
    debug_switch.on = debug


@app.command()
def version() -> None:
    """Shows the version, and the commit when run from a checkout."""
    from training.provenance import code_state

    code = code_state()
    commit = f" ({code.commit[:12]}{'' if code.clean else ', changed files'})" if code.commit else ""
    typer.echo(f"mlpl {code.version}{commit}")


def main() -> None:
    """Runs the command line and ends the process."""
    try:
        status = app(standalone_mode=False)
        if status == _INTERRUPTED:  # The command line library turns Ctrl+C into this status and says nothing.
            raise KeyboardInterrupt
    except Exception as exc:
        status = _report(exc)
    except KeyboardInterrupt:
        typer.echo("interrupted; what was finished is kept, run the command again to go on", err=True)
        status = _INTERRUPTED
    sys.exit(status if isinstance(status, int) else 0)


def _report(exc: Exception) -> int:
    from infra.errors import MlplError

    show, exit_code = getattr(exc, "show", None), getattr(exc, "exit_code", None)
    if callable(show) and isinstance(exit_code, int):  # Wrong usage, reported in the command line library's own words.
        show()
        return exit_code
    if type(exc).__name__ == "Abort":
        return _INTERRUPTED
    message = exc.message if isinstance(exc, MlplError) else _known_trouble(exc)
    if message is None or debug_switch.on:
        raise exc
    typer.echo(f"mlpl: {message}", err=True)
    return 1


def _known_trouble(exc: Exception) -> str | None:
    """What to say about errors that are nobody's bug; None for those that are ours."""
    if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk of {exc.filename or 'the home'}; free some and run the same command again"
    if type(exc).__module__.startswith("pymongo"):
        from infra.database import as_trouble

        if (trouble := as_trouble(exc)) is not None:
            return f"{trouble.message}; what was acknowledged is kept, run the same command again"
    return None
