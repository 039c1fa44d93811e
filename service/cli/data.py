"""Commands of the Data Line's first half: ingest, embed, search, status."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service.cli.context import Json, QueryCommand, platform, progress_bar, show, table

if TYPE_CHECKING:
    from infra.platform import Platform

SpeedUnit = Literal["mps", "kph", "mph"]

_LONGEST_SHOWN = 16
_UNREADABLE_SHOWN = 3


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command()(ingest)
    app.command()(embed)
    app.command(cls=QueryCommand)(search)
    app.command()(withdraw)
    app.command()(rejects)
    app.command()(status)
    encoder = typer.Typer(help="The encoders of this fleet.", no_args_is_help=True)
    encoder.command("use")(use_encoder)
    encoder.command("list")(list_encoders)
    app.add_typer(encoder, name="encoder")


def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Folders, globs, images, videos, tar files, s3:// prefixes or manifests (.jsonl, .csv, .parquet). "
            "SITE=SOURCE says where each comes from.",
            show_default=False,
        ),
    ],
    site: Annotated[
        str | None, typer.Option(help="Where the images come from, for those whose source or metadata does not say.")
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
    fps: Annotated[float, typer.Option(help="Of videos, frames a second to take.")] = 1.0,
    keyframes: Annotated[
        bool, typer.Option("--keyframes", help="Of videos, only key frames, at most --fps a second: many times faster.")
    ] = False,
    start: Annotated[
        str | None,
        typer.Option(help="When the one video given begins (ISO 8601), if it does not say.", show_default=False),
    ] = None,
    track: Annotated[
        list[Path] | None,
        typer.Option(
            help="CSV or Parquet with time, lat, lon, speed, yaw rate, and drive or vehicle if it has several. Repeatable. "
            "A track.csv beside the images is found by itself.",
            show_default=False,
        ),
    ] = None,
    track_tolerance: Annotated[
        float, typer.Option(help="Seconds that a frame may be away from its track's nearest point.")
    ] = 1.0,
    speed_unit: Annotated[SpeedUnit, typer.Option(help="Of a track's speed whose column does not say.")] = "mps",
    as_json: Json = False,
) -> None:
    """Takes images into the fleet; running it again adds nothing, and joins tracks to what is there."""
    from infra.errors import InvalidInput
    from selection.fleet import metadata as described
    from selection.ingest.ingest import ingest as take_in
    from selection.ingest.sources import videos
    from selection.ingest.tracks.joining import TrackOptions

    if start is not None and (len(sources) != 1 or not videos.is_video(sources[0])):
        raise InvalidInput("--start belongs to one video; give that video alone, or captured_at in a metadata.jsonl")
    video = videos.VideoOptions(
        fps=fps, keyframes=keyframes, start=described.parse_moment(start) if start is not None else None
    )
    tracks = TrackOptions(files=tuple(track or ()), tolerance_s=track_tolerance, speed_unit=speed_unit)

    with platform() as opened, progress_bar("ingesting") as progress:
        report = take_in(
            opened,
            sources,
            site=site,
            metadata=metadata,
            in_place=in_place,
            max_mbps=max_mbps,
            video=video,
            tracks=tracks,
            progress=progress,
        )
    show(report.as_json(), as_json=as_json, text=report.summary)
    if report.failed:
        raise typer.Exit(1)


def embed(
    choose_again: Annotated[
        bool,
        typer.Option("--choose-again", help="Try the configured weights again, for example with a network at last."),
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Embed on all hosts of the Ray cluster with this head (host:port); `local`: one of this machine alone.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Gives every frame a vector from the current encoder; resumes where it was stopped."""
    from selection.embedding import cluster as clusters
    from selection.embedding import encoders
    from selection.embedding.embed import embed_missing
    from selection.ingest.previews import see_missing

    unreadable: list[str] = []
    with platform() as opened, progress_bar("embedding", rate_of="frames") as progress:
        if choose_again:
            encoders.forget_choice(opened)
        with encoders.choice_announced(opened, partial(typer.echo, err=True)):
            if cluster is None or encoders.chosen(opened) is None:
                encoder = encoders.load_encoder(opened)
        see_missing(opened, progress=progress)
        if cluster is None:
            rows = embed_missing(opened, encoder, progress=progress, on_unreadable=unreadable.append)
        else:
            rows = clusters.embed_missing(opened, address=cluster, progress=progress, on_unreadable=unreadable.append)
        encoder_id = str(encoders.current_encoder_id(opened))
        _build_index(opened, encoder_id)
    if unreadable:
        some = ", ".join(unreadable[:_UNREADABLE_SHOWN])
        typer.echo(f"{len(unreadable)} frames cannot be read and have no vector, such as {some}", err=True)
    show(
        {"embedded": rows, "encoder_id": encoder_id, "unreadable": unreadable},
        as_json=as_json,
        text=lambda: f"embedded {rows} frames with {encoder_id}",
    )


def _build_index(opened: Platform, encoder_id: str) -> None:
    from selection.embedding.index import VectorIndex

    index = VectorIndex(opened, encoder_id)
    index.refresh()
    if index.build_due():
        typer.echo("building the index", err=True)
        index.build()


def search(
    query: Annotated[
        str | None,
        typer.Argument(
            help="The search box: words, and terms such as weather:rain speed_kph:>40 -site:north near:35.0,137.1,5km.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Look for frames like this image file.")] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(
            help="Look for frames like this frame, or a part of it: ID@x0,y0,x1,y1. May be repeated.",
            show_default=False,
        ),
    ] = None,
    unlike: Annotated[
        list[str] | None, typer.Option(help="Look away from this frame. May be repeated.", show_default=False)
    ] = None,
    where: Annotated[
        str, typer.Option(help="Only frames that match, for example 'timeofday:dusk -weather:rain'.")
    ] = "",
    sort: Annotated[
        str | None,
        typer.Option(
            help="similarity, captured, row or a key with numbers; descending with a minus, as --sort=-captured."
        ),
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="A key, such as drive: of the frames with one value show only the first.")
    ] = None,
    k: Annotated[int, typer.Option("--limit", "-k", min=1, max=10_000, help="How many frames.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="next_cursor of the page before (see --json).")] = None,
    as_json: Json = False,
) -> None:
    """Finds frames by words, filters, an image, frames or parts of them."""
    from infra.errors import InvalidInput
    from selection.embedding import encoders
    from selection.ranking.examples import Example, frame_example
    from service.curator import Curator, parse_box

    try:
        data = image.read_bytes() if image is not None else None
    except OSError as exc:
        raise InvalidInput(f"cannot read {image}: {exc.strerror}") from exc
    typed, full = parse_box(query or "", where=where)
    examples = [Example(kind="text", value=text) for text in typed.texts]
    examples += [Example(kind="text", value=text, negative=True) for text in typed.without]
    examples += [frame_example(one) for one in like or ()]
    examples += [frame_example(one, negative=True) for one in unlike or ()]
    with platform() as opened:
        if data is not None:
            _check_image(opened, data, name=str(image))
        with encoders.choice_announced(opened, partial(typer.echo, err=True)):
            found = Curator(opened).search(
                image=data, examples=examples, where=full, sort=sort, group=group, k=k, cursor=cursor
            )
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
        {
            "total": found.total,
            "missing": found.missing,
            "notice": found.notice,
            "next_cursor": found.next_cursor,
            "hits": hits,
        },
        as_json=as_json,
        text=lambda: _hits_text(hits, total=found.total, sort=sort, group=group),
    )


def withdraw(
    frame_ids: Annotated[
        list[str], typer.Argument(help="Frame ids, or unique beginnings of them.", show_default=False)
    ],
    undo: Annotated[bool, typer.Option("--undo", help="Take them back into the fleet.")] = False,
    as_json: Json = False,
) -> None:
    """Takes frames out of the fleet: no search, count or selection holds them any more; labels and lineage stay."""
    from datetime import UTC, datetime

    from selection.fleet import frames

    with platform() as opened:
        turn = frames.restore if undo else frames.withdraw
        changed = turn(opened.database, frame_ids, datetime.now(UTC))
    verb = "taken back" if undo else "withdrawn"
    show(
        {"changed": changed, "withdrawn": not undo},
        as_json=as_json,
        text=lambda: (
            f"{len(changed)} frames {verb}"
            + (f", {len(frame_ids) - len(changed)} were already" if len(changed) < len(frame_ids) else "")
        ),
    )


def rejects(
    limit: Annotated[int, typer.Option(min=1, help="How many to show.")] = 50,
    as_json: Json = False,
) -> None:
    """Lists files that could not be taken in, newest first, with the reason."""
    from selection.ingest.rejects import list_rejects, reject_count

    with platform() as opened:
        found = [
            {"kind": r.kind, "source": r.source, "reason": r.reason} for r in list_rejects(opened.database, limit=limit)
        ]
        further = reject_count(opened.database) - len(found)
    text = table(["kind", "source", "reason"], [list(r.values()) for r in found])
    if further > 0:
        text += f"\n... and {further} more; --limit shows them"
    show(found, as_json=as_json, text=lambda: text)


def use_encoder(
    name: Annotated[
        str, typer.Argument(help="As in MLPL_ENCODER: architecture/weights, a checkpoint directory or small.")
    ],
    wait: Annotated[
        bool, typer.Option("--wait", help="Embed the fleet here and now instead of leaving it to `mlpl serve`.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Switches the fleet to another encoder; the old one serves until every frame is embedded again."""
    from selection.embedding import encoders, switching
    from service.reconcile import switch_encoder

    with platform() as opened:
        with encoders.choice_announced(opened, partial(typer.echo, err=True)):
            encoder = switching.use(opened, name)
        if wait:
            with progress_bar("embedding", rate_of="frames") as progress:
                switch_encoder(opened, progress=progress)
        serves = encoders.current_encoder_id(opened) == encoder.encoder_id
    how = (
        "serves"
        if serves
        else "serves when every frame is embedded; `mlpl serve` sees to it, `mlpl encoder list` shows it"
    )
    show(
        {"encoder_id": encoder.encoder_id, "serving": serves},
        as_json=as_json,
        text=lambda: f"{encoder.encoder_id} {how}",
    )


def list_encoders(as_json: Json = False) -> None:
    """Lists the encoders that the fleet has vectors of."""
    from dataclasses import asdict

    from selection.embedding import encoders, switching
    from selection.fleet import frames

    with platform() as opened:
        found = [asdict(one) for one in switching.known(opened)]
        total = frames.row_count(opened.database)
        choice = encoders.chosen(opened)
    header = ["encoder", "role", "embedded", "name"]
    lines = [[e["encoder_id"], e["role"], f"{e['embedded']} of {total}", e["name"]] for e in found]
    notice = f"\n{choice.notice}" if choice is not None and choice.notice else ""
    show(found, as_json=as_json, text=lambda: table(header, lines) + notice)


def status(as_json: Json = False) -> None:
    """Shows how much there is and how far the work has come."""
    from service.overview import overview

    with platform() as opened:
        found = overview(opened)
    show(found, as_json=as_json, text=lambda: _status_text(found))


def _check_image(opened: Platform, data: bytes, *, name: str) -> None:
    """Refuses what is no image before the encoder is loaded for it, and says which file it was."""
    from infra.errors import InvalidInput
    from selection.pixels.images import open_image

    try:
        open_image(data, max_pixels=opened.settings.max_image_pixels)
    except InvalidInput as exc:
        raise InvalidInput(f"{name}: {exc.message}") from exc


def _index_text(index: dict[str, Any]) -> str:
    waiting = f", {index['tail_rows']} of them not built yet" if index["segments"] and index["tail_rows"] else ""
    recall = index["recall"]
    measured = (
        f"; recall@50 {recall['near']:.4f} for frames, {recall['far']:.4f} for far queries such as texts, "
        f"{recall['filtered']:.4f} within filters"
        if recall
        else ""
    )
    without = sum(one["rows"] for one in index["segments"] if one["kind"] == "exact")
    partly = f" ({without} of them exactly)" if without and index["kind"] == "two-stage" else ""
    return f"index     {index['kind']}, {index['rows']} rows{partly}{waiting}{measured}"


def _hit(rank: int, hit: Any) -> dict[str, Any]:
    frame = hit.frame
    return {
        "rank": rank,
        "frame_id": frame.frame_id,
        "score": None if hit.score is None else round(float(hit.score), 4),
        "sort_value": hit.sort_value,
        "further": hit.further,
        "why": {
            "nearest": hit.reason.nearest.written() if hit.reason.nearest else None,
            "similarity": None if hit.reason.similarity is None else round(hit.reason.similarity, 4),
            "terms": [{"text": text, "value": value} for text, value in hit.reason.terms],
        },
        "site": frame.site,
        "drive": frame.drive,
        "captured_at": frame.captured_at,
        "attributes": frame.attributes,
        "source": frame.source,
    }


def _in_a_word(attributes: dict[str, Any]) -> str:
    """The attributes that distinguish a frame at a glance: values, not notes; the rest is in the JSON."""
    short = {key: value for key, value in attributes.items() if not isinstance(value, list | dict)}
    return " ".join(f"{key}:{value}" for key, value in short.items() if len(str(value)) <= _LONGEST_SHOWN)


def _hits_text(hits: list[dict[str, Any]], *, total: int, sort: str | None, group: str | None) -> str:
    """A line for each hit, with its similarity or, where a key sorts, the key's value; of several examples, with the one it is most like."""
    key = (sort or "").lstrip("-")
    shown = "score" if key in ("", "similarity", "captured", "row") else key
    header = ["#", "frame", shown, "site", "drive", "attributes"]
    rows = []
    for h in hits:
        figure = h["score"] if shown == "score" else h["sort_value"]
        figure = None if figure is None else round(figure, 4)
        rows.append([h["rank"], h["frame_id"], figure, h["site"], h["drive"], _in_a_word(h["attributes"])[:60]])
    nearest = [h["why"]["nearest"] for h in hits]
    if len(set(nearest)) > 1:
        header.append("most like")
        rows = [[*row, one] for row, one in zip(rows, nearest, strict=True)]
    if group is not None:
        header.append("further")
        rows = [[*row, h["further"]] for row, h in zip(rows, hits, strict=True)]
    told = f", one frame a {group}" if group is not None else " frames"
    return table(header, rows) + f"\n{len(hits)} of {total}{told}"


def _status_text(found: dict[str, Any]) -> str:
    encoder = found["encoder"]
    lines = [
        f"frames    {found['frames']} ({found['rejects']} files rejected)",
        f"embedded  {found['embedded']} with {encoder['id'] or 'no encoder yet; run `mlpl embed`'}",
        f"surveyed  {found['surveyed']} for near-duplicates and slices",
    ]
    lines += [encoder["notice"]] if encoder["notice"] else []
    lines += [
        f"switching to {e['encoder_id']}: {e['embedded']} of {found['frames']} embedded"
        for e in found["encoders"]
        if e["role"] == "wanted"
    ]
    if found["index"] is not None:
        lines.append(_index_text(found["index"]))
    for task in found["tasks"]:
        model = task["current_model"] or "no model yet"
        lines.append(
            f"task      {task['task_id']} ({task['kind']}): {task['labels']} labels, {model}, {task['predicted']} predicted"
        )
    return "\n".join(lines)
