"""What every command needs: settings, open stores, and output as text or JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from infra.platform import Platform
    from infra.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Hyperparameters = Annotated[
    list[str] | None,
    typer.Option("--set", help="A hyperparameter, as name=value; may be repeated.", show_default=False),
]
AnsweredFrames = Annotated[
    Path | None,
    typer.Option(
        "--frames", help="Folder with images and metadata.jsonl; the simulated fleet without it.", show_default=False
    ),
]
TaskClasses = Annotated[
    str | None, typer.Option("--task-classes", help="Classes of the task, separated by commas.", show_default=False)
]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds of choosing, labelling and training.")]
RoundBatch = Annotated[int, typer.Option("--batch", min=1, help="Frames labelled in each round.")]


class QueryCommand(TyperCommand):
    """A command whose argument is a query, which may begin with a minus: `mlpl search '-weather:rain'`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Sets a query that looks like an option apart from the options, `-kN` and values of options excepted."""
        valued = {name for one in self.params if not getattr(one, "is_flag", False) for name in one.opts}
        for place, text in enumerate(args):
            if text == "--":
                break
            if re.match(r"-(?!-|k\d*$).", text) and (place == 0 or args[place - 1] not in valued):
                args = [*args[:place], *args[place + 1 :], "--", text]
                break
        return super().parse_args(ctx, args)


@dataclass
class _DebugSwitch:
    on: bool = False


debug_switch = _DebugSwitch()


def settings(*, quiet: bool = True, **overrides: Any) -> Settings:
    """Reads the settings and sets up logging: quiet for commands that a person runs, not for servers."""
    from infra import logs
    from infra.settings import load

    loaded = load(**overrides)
    logs.configure(loaded, debug=debug_switch.on, quiet=quiet)
    return loaded


@contextmanager
def platform(*, quiet: bool = True, **overrides: Any) -> Iterator[Platform]:
    """Opens the stores, with every collection's indexes in place."""
    from service.production_line import open_line

    with open_line(settings(quiet=quiet, **overrides)) as opened:
        yield opened


def show(value: Any, *, as_json: bool, text: Callable[[], str]) -> None:
    """Prints `value` as JSON or the text for people."""
    typer.echo(json.dumps(value, default=_plain, ensure_ascii=False, indent=2) if as_json else text())


def hyperparameters(texts: Sequence[str] | None) -> dict[str, str]:
    """Reads the `name=value` texts of `--set`.

    Raises:
        InvalidInput: One of them is not of that form, or no training would take it.
    """
    from infra.errors import InvalidInput
    from training.workflows import check_hyperparameters

    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidInput(f"--set {text!r} is not name=value")
        found[name] = value
    check_hyperparameters(found)
    return found


def answered_frames(folder: Path | None, task_classes: str | None) -> dict[str, Any]:
    """What `--frames` and `--task-classes` say, as the fields `frames` and `classes` of the options of a demo or a simulation.

    Raises:
        InvalidInput: There is no such folder.
    """
    from infra.errors import InvalidInput

    if folder is not None and not folder.is_dir():
        raise InvalidInput(f"--frames {folder} is not a folder")
    return {"frames": folder, "classes": [name.strip() for name in task_classes.split(",")] if task_classes else None}


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns padded to their widest cell; numbers to the right."""
    cells = [[("-" if cell is None else str(cell)) for cell in row] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in cells)) if cells else len(name) for i, name in enumerate(header)]
    right = [bool(rows) and all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), *(line(row) for row in cells)])


@contextmanager
def progress_bar(description: str, *, rate_of: str | None = None) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr with the time that is left, shown on a terminal only. Yields a function of (done, total).

    Args:
        description: What goes on.
        rate_of: The things whose number a second is shown, for example frames.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:,.{0 if task.speed >= 10 else 1}f} {rate_of}/s")

    console = Console(stderr=True)
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [Rate()] if rate_of else []
    columns.append(TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    return str(value)
