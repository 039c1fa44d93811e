"""Commands of the Data Line's first half: ingest, embed, search, status."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.context import Json, platform, progress_bar, show, table


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command()(ingest)
    app.command()(embed)
    app.command()(search)
    app.command()(rejects)
    app.command()(status)


def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Folders, globs, images, tar files, s3:// prefixes or manifests (.jsonl, .csv, .parquet).",
            show_default=False,
        ),
    ],
    site: Annotated[
        str | None, typer.Option(help="Where the images come from, for those whose metadata does not say.")
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(help="metadata.jsonl to use instead of the one beside the images.")
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Leave the originals where they are instead of copying them.")
    ] = False,
    max_mbps: Annotated[
        float | None, typer.Option("--max-mbps", help="Read at most so many megabits a second.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Takes images into the fleet; running it again adds nothing."""
    from selection.fleet.ingest import ingest as take_in

    with platform() as opened, progress_bar("ingesting") as progress:
        report = take_in(
            opened,
            sources,
            site=site,
            metadata=metadata,
            in_place=in_place,
            max_mbps=max_mbps,
            progress=progress,
        )
    show(report.as_json(), as_json=as_json, text=report.summary)


def embed(
    choose_again: Annotated[
        bool,
        typer.Option("--choose-again", help="Try the configured weights again, for example with a network at last."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Gives every frame a vector from the current encoder; resumes where it was stopped."""
    from selection.embedding import encoders
    from selection.embedding.embed import embed_missing
    from selection.ingest.previews import see_missing
    from service.curator import Curator

    with platform() as opened, progress_bar("embedding") as progress:
        if choose_again:
            encoders.forget_choice(opened)
        encoder = Curator(opened).encoder()
        if encoder.notice:
            typer.echo(encoder.notice, err=True)
        see_missing(opened)
        rows = embed_missing(opened, encoder, progress=progress)
    show(
        {"embedded": rows, "encoder_id": encoder.encoder_id},
        as_json=as_json,
        text=lambda: f"embedded {rows} frames with {encoder.encoder_id}",
    )


def search(
    text: Annotated[str | None, typer.Argument(help="What to look for, in words.", show_default=False)] = None,
    image: Annotated[Path | None, typer.Option(help="Look for frames like this image file.")] = None,
    like: Annotated[str | None, typer.Option(help="Look for frames like this frame (its id).")] = None,
    where: Annotated[
        str, typer.Option(help="Only frames that match, for example 'timeofday:dusk -weather:rain'.")
    ] = "",
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="How many frames.")] = 20,
    as_json: Json = False,
) -> None:
    """Finds frames by words, by an image or by another frame."""
    from infra.errors import InvalidInput
    from service.curator import Curator

    if sum(given is not None for given in (text, image, like)) > 1:
        raise InvalidInput("give words, --image or --like, not several of them")
    try:
        data = image.read_bytes() if image is not None else None
    except OSError as exc:
        raise InvalidInput(f"cannot read {image}: {exc.strerror}") from exc
    with platform() as opened:
        found = Curator(opened).search(text=text, image=data, like=like, where=where, k=k)
    if found.notice and not as_json:
        typer.echo(found.notice, err=True)
    if not found.rows:
        typer.echo("the fleet has no frames yet; `mlpl ingest` takes them in", err=True)
    elif found.missing:
        typer.echo(
            f"{found.missing} of {found.rows} frames have no vector yet and were not looked at: "
            "run `mlpl embed`, or leave `mlpl serve` running",
            err=True,
        )
    hits = [_hit(rank, hit) for rank, hit in enumerate(found.hits, start=1)]
    show(
        {"total": found.total, "missing": found.missing, "notice": found.notice, "hits": hits},
        as_json=as_json,
        text=lambda: _hits_text(hits, total=found.total),
    )


def rejects(
    limit: Annotated[int, typer.Option(min=1, help="How many to show.")] = 50,
    as_json: Json = False,
) -> None:
    """Lists files that could not be taken in, newest first, with the reason."""
    from selection.fleet.ingest import list_rejects

    with platform() as opened:
        found = [{"source": r.source, "reason": r.reason} for r in list_rejects(opened.database, limit=limit)]
    show(found, as_json=as_json, text=lambda: table(["source", "reason"], [list(r.values()) for r in found]))


def status(as_json: Json = False) -> None:
    """Shows how much there is and how far the work has come."""
    from service.overview import overview

    with platform() as opened:
        found = overview(opened)
    show(found, as_json=as_json, text=lambda: _status_text(found))


def _hit(rank: int, hit: Any) -> dict[str, Any]:
    frame = hit.frame
    return {
        "rank": rank,
        "frame_id": frame.frame_id,
        "score": None if hit.score is None else round(float(hit.score), 4),
        "site": frame.site,
        "drive": frame.drive,
        "captured_at": frame.captured_at,
        "attributes": frame.attributes,
        "source": frame.source,
    }


def _hits_text(hits: list[dict[str, Any]], *, total: int) -> str:
    rows = [
        [
            h["rank"],
            h["frame_id"],
            h["score"],
            h["drive"],
            " ".join(f"{k}:{v}" for k, v in h["attributes"].items())[:60],
        ]
        for h in hits
    ]
    return table(["#", "frame", "score", "drive", "attributes"], rows) + f"\n{len(hits)} of {total} frames"


def _status_text(found: dict[str, Any]) -> str:
    encoder = found["encoder"]
    lines = [
        f"frames    {found['frames']} ({found['rejects']} files rejected)",
        f"embedded  {found['embedded']} with {encoder['id'] or 'no encoder yet; run `mlpl embed`'}",
    ]
    lines += [encoder["notice"]] if encoder["notice"] else []
    for task in found["tasks"]:
        model = task["current_model"] or "no model yet"
        lines.append(
            f"task      {task['task_id']} ({task['kind']}): {task['labels']} labels, {model}, {task['predicted']} predicted"
        )
    return "\n".join(lines)
