"""Commands of the few-shot finder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from service.cli.context import Json, platform, show, table

concept_app = typer.Typer(help="Concepts: mark a few frames, rank the fleet.", no_args_is_help=True)

ConceptName = Annotated[str, typer.Argument(help="Name of the concept.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Adds the group of this module."""
    app.add_typer(concept_app, name="concept")


@concept_app.command("create")
def create(
    name: ConceptName,
    yes: Annotated[list[str] | None, typer.Option("--yes", help="A frame that shows it; may be repeated.")] = None,
    no: Annotated[list[str] | None, typer.Option("--no", help="A frame that does not; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Makes a concept from marked frames, or adds marks to it; a frame that is marked again changes sides."""
    _mark(name, as_json=as_json, yes=yes or (), no=no or ())


@concept_app.command("unmark")
def unmark(
    name: ConceptName,
    frames: Annotated[
        list[str],
        typer.Argument(metavar="FRAME...", help="Frames, by id or a unique beginning of it.", show_default=False),
    ],
    as_json: Json = False,
) -> None:
    """Takes marks back, yes or no, as if the frames had never been marked."""
    _mark(name, as_json=as_json, neither=frames)


@concept_app.command("list")
def list_concepts(as_json: Json = False) -> None:
    """Lists the concepts."""
    from selection.concepts import concepts

    with platform() as opened:
        found = [asdict(one) for one in concepts.list_all(opened.database)]
    rows = [[one["name"], len(one["yes"]), len(one["no"]), one["encoder_id"]] for one in found]
    show(found, as_json=as_json, text=lambda: table(["concept", "yes", "no", "encoder"], rows))


@concept_app.command("show")
def show_concept(name: ConceptName, as_json: Json = False) -> None:
    """Shows the marks of a concept."""
    from selection.concepts import concepts

    with platform() as opened:
        found = asdict(concepts.get(opened.database, name))
    rows = [[side, one] for side in ("yes", "no") for one in found[side]]
    show(found, as_json=as_json, text=lambda: table(["mark", "frame"], rows))


@concept_app.command("delete")
def delete(name: ConceptName, as_json: Json = False) -> None:
    """Forgets a concept."""
    from selection.concepts import concepts

    with platform() as opened:
        concepts.delete(opened.database, name)
    show({"deleted": name}, as_json=as_json, text=lambda: f"concept {name} is forgotten")


@concept_app.command("rank")
def rank(
    name: ConceptName,
    k: Annotated[int, typer.Option("--limit", "-k", "-n", min=1, max=100_000, help="How many frames.")] = 50,
    where: Annotated[str, typer.Option(help="Only frames that match this filter.")] = "",
    ask: Annotated[
        bool, typer.Option("--ask", help="The frames whose mark would teach most, instead of the best.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ranks the fleet by a concept."""
    from service import concepts
    from service.curator import Curator

    with platform() as opened:
        ranked = concepts.rank(opened, Curator(opened), name, k=k, where=where, order="informative" if ask else "best")
    found = [{"frame_id": one.frame.frame_id, "score": one.score, "drive": one.frame.drive} for one in ranked]
    rows = [
        [place, one.frame.frame_id, round(one.score, 4), one.frame.drive] for place, one in enumerate(ranked, start=1)
    ]
    show(found, as_json=as_json, text=lambda: table(["#", "frame", "score", "drive"], rows))


def _mark(name: str, *, as_json: bool, **sides: Sequence[str]) -> None:
    from selection.concepts import concepts
    from service.curator import Curator
    from service.reconcile import now_utc

    with platform() as opened:
        made = concepts.mark(opened, name, **sides, index=Curator(opened).index(), now=now_utc())
    show(
        asdict(made),
        as_json=as_json,
        text=lambda: (
            f"concept {made.name}: {len(made.yes)} yes, {len(made.no)} no; next: mlpl concept rank {made.name}"
        ),
    )
