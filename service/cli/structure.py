"""Commands that show the structure of a fleet: near-duplicates, slices, coverage, map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.context import Json, platform, progress_bar, show, table

if TYPE_CHECKING:
    from service.curator import Curator

Where = Annotated[str, typer.Option(help="Only frames that match, for example 'timeofday:dusk -weather:rain'.")]
TaskOption = Annotated[
    str | None, typer.Option("--task", help="Labels of this task count; of any task without it.", show_default=False)
]
Seed = Annotated[int, typer.Option(min=0, help="For every random draw.")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command()(survey)
    app.command()(duplicates)
    app.command()(slices)
    app.command()(coverage)
    app.command("map")(draw_map)


def survey(
    again: Annotated[bool, typer.Option("--again", help="Survey everything anew.")] = False, as_json: Json = False
) -> None:
    """Works out near-duplicates, slices and rarity of frames that came since the last time; `mlpl serve` does so by itself."""
    from service import structure
    from service.curator import Curator

    with platform() as opened, progress_bar("surveying") as progress:
        made, rows = structure.survey_fleet(opened, Curator(opened), again=again, progress=progress)
    value = {
        "survey_id": made.survey_id,
        "surveyed": rows,
        "threshold": made.threshold,
        "threshold_basis": made.threshold_basis,
        "slices": [one.name for one in made.slices],
    }
    show(
        value,
        as_json=as_json,
        text=lambda: (
            f"{rows} frames surveyed; {made.survey_id} knows {len(made.slices)} slices\n"
            + _threshold_text(made.threshold, made.threshold_basis)
        ),
    )


def duplicates(
    where: Where = "",
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Cosine similarity from which frames are duplicates; calibrated without it.", show_default=False
        ),
    ] = None,
    max_hamming: Annotated[
        int | None,
        typer.Option(help="Bits in which hashes of duplicates may differ; as surveyed: 4.", show_default=False),
    ] = None,
    within_drives: Annotated[
        bool, typer.Option("--within-drives", help="Compare frames of the same drive only.")
    ] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Every two frames that are alike by embedding, most alike first.")
    ] = False,
    frame: Annotated[
        str | None, typer.Option(help="The frames that are alike by embedding to this one.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Groups or pairs to show.")] = 20,
    as_json: Json = False,
) -> None:
    """Groups frames that show the same, with the one to keep of each group: as surveyed, or compared anew with thresholds of one's own."""
    from selection.near_duplicates.duplicates import DEFAULT_HAMMING

    if pairs or frame is not None:
        if max_hamming is not None or (frame is not None and (pairs or within_drives)):
            raise typer.BadParameter(
                "--pairs goes with --where, --threshold, --within-drives, --limit; --frame with --where, --threshold, --limit"
            )
        _show_pairs(where, frame, threshold=threshold, within_drives=within_drives, limit=limit, as_json=as_json)
        return
    from service import structure
    from service.curator import Curator

    with platform() as opened, progress_bar("comparing") as progress:
        curator = Curator(opened)
        found = None
        if (threshold, max_hamming, within_drives) == (None, None, False) and curator.index().size:
            structure.survey_fleet(opened, curator, progress=progress)
            found = structure.kept_duplicates(curator, where=where)
        if found is None:
            found = structure.find_duplicates(
                opened,
                curator,
                where=where,
                threshold=threshold,
                max_hamming=DEFAULT_HAMMING if max_hamming is None else max_hamming,
                within_drives=within_drives,
                progress=progress,
            )
        ids = _ids(opened, [int(row) for group in found.groups[:limit] for row in group])
    groups = [
        {"keep": ids[int(group[0])], "duplicates": [ids[int(row)] for row in group[1:]]}
        for group in found.groups[:limit]
    ]
    value = {
        "frames": found.frames,
        "kept": found.kept,
        "skipped": found.skipped,
        "threshold": found.threshold,
        "threshold_basis": found.threshold_basis,
        "groups_total": len(found.groups),
        "groups": groups,
    }

    def text() -> str:
        lines = table(
            ["keep", "duplicates", "for example"],
            [[group["keep"], len(group["duplicates"]), group["duplicates"][0]] for group in groups],
        )
        summary = f"{found.frames} frames, {found.kept} to keep, {len(found.groups)} groups of duplicates"
        summary += f"; {found.skipped} without vector and hash" if found.skipped else ""
        return f"{lines}\n{summary}\n{_threshold_text(found.threshold, found.threshold_basis)}"

    show(value, as_json=as_json, text=text)


def _show_pairs(
    where: str, frame: str | None, *, threshold: float | None, within_drives: bool, limit: int, as_json: bool
) -> None:
    from selection.fleet import frames
    from service import structure
    from service.curator import Curator

    with platform() as opened, progress_bar("comparing") as progress:
        curator = Curator(opened)
        if frame is None:
            found = structure.pairs_of_fleet(
                curator,
                where=where,
                threshold=threshold,
                within_drives=within_drives,
                most=limit,
                progress=progress,
            )
            ids = _ids(opened, found.rows_P2.ravel().tolist())
            rows = [[ids[row] for row in pair] for pair in found.rows_P2.tolist()]
            cosines, total = found.cosine_P.tolist(), found.total
            summary = f"{total} pairs among {found.frames} frames, from likeness {found.threshold:g}"
        else:
            alike, near = structure.duplicates_of_frame(
                opened, curator, frame, where=where, threshold=threshold, most=limit
            )
            ids, asked = _ids(opened, alike.tolist()), frames.get(opened.database, frame).frame_id
            rows, cosines, total = [[asked, ids[row]] for row in alike.tolist()], near.tolist(), None
            summary = f"{len(alike)} near-duplicates of {asked}" + (" and perhaps more" if len(alike) == limit else "")
    listed = [{"frames": pair, "cosine": cosine} for pair, cosine in zip(rows, cosines, strict=True)]
    value = {"pairs": listed} if total is None else {"pairs_total": total, "pairs": listed}

    def text() -> str:
        lines = [[*pair, f"{cosine:.4f}"] for pair, cosine in zip(rows, cosines, strict=True)]
        return f"{table(['frame', 'near-duplicate', 'cosine'], lines)}\n{summary}"

    show(value, as_json=as_json, text=text)


def slices(
    count: Annotated[int, typer.Option("--limit", "--count", "-n", min=1, help="Slices to show.")] = 40,
    where: Where = "",
    task: TaskOption = None,
    as_json: Json = False,
) -> None:
    """Shows the kinds of scene in the fleet, each with words and attributes that tell it apart; `slice:NAME` searches in one."""
    from service import structure
    from service.curator import Curator

    with platform() as opened, progress_bar("surveying") as progress:
        curator = Curator(opened)
        structure.survey_fleet(opened, curator, progress=progress)
        found = structure.find_slices(opened, curator, where=where, task_id=task, examples=5)[:count]
        ids = _ids(opened, [int(row) for one in found for row in one.examples])
    value: list[dict[str, Any]] = [
        {
            "name": one.name,
            "number": one.number,
            "frames": one.frames,
            "labelled": one.labelled,
            "novelty": None if one.novelty is None else round(one.novelty, 3),
            "rarity": round(one.rarity, 3),
            "words": list(one.words),
            "traits": [
                {"key": t.key, "value": t.value, "share": round(t.share, 4), "fleet_share": round(t.fleet_share, 4)}
                for t in one.traits
            ],
            "examples": [ids[int(row)] for row in one.examples],
        }
        for one in found
    ]

    def text() -> str:
        return table(
            ["slice", "frames", "labelled", "novelty", "rarity", "words", "attributes"],
            [
                [
                    *(one[key] for key in ("name", "frames", "labelled", "novelty", "rarity")),
                    ", ".join(one["words"]),
                    " ".join(f"{t['key']}:{t['value']} {t['share']:.0%}" for t in one["traits"])[:70],
                ]
                for one in value
            ],
        )

    show(value, as_json=as_json, text=text)


def coverage(
    by: Annotated[
        list[str],
        typer.Option(help="Keys to cross, for example timeofday,weather,road; `hour` is in UTC; may be repeated."),
    ],
    where: Where = "",
    task: TaskOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Combinations to show.")] = 50,
    as_json: Json = False,
) -> None:
    """Shows what the fleet has of each combination of attributes and what of it is labelled, biggest holes first."""
    from service import structure
    from service.curator import Curator

    keys = [key.strip() for keys in by for key in keys.split(",") if key.strip()]
    with platform() as opened:
        found = structure.find_coverage(opened, Curator(opened), keys, where=where, task_id=task)
    value = [
        {
            **dict(zip(keys, cell.values, strict=True)),
            "frames": cell.fleet,
            "share": round(cell.share, 4),
            "labelled": cell.labelled,
            "labelled_share": round(cell.labelled_share, 4),
            "hole": round(cell.hole, 2),
        }
        for cell in found
    ]
    header = [*keys, "frames", "share", "labelled", "labelled_share", "hole"]
    show(
        {"by": keys, "total": len(value), "cells": value[:limit]},
        as_json=as_json,
        text=lambda: table(header, [list(cell.values()) for cell in value[:limit]]),
    )


def draw_map(
    png: Annotated[Path | None, typer.Option(help="Draw the map to this file.", show_default=False)] = None,
    color: Annotated[
        str | None, typer.Option("--color", help="Attribute that colours the points.", show_default=False)
    ] = None,
    fit_again: Annotated[bool, typer.Option("--fit-again", help="Make a new map of the fleet as it is now.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Places every frame on a map where what looks alike lies together; new frames join it where they belong."""
    from infra.errors import InvalidInput
    from selection.structure import projection
    from service import structure
    from service.curator import Curator

    if png is not None and not png.absolute().parent.is_dir():
        raise InvalidInput(f"--png {png}: there is no folder {png.parent}; make it first")
    with platform() as opened, progress_bar("placing") as progress:
        curator = Curator(opened)
        current, placed = structure.draw_map(opened, curator, seed=seed, fit_again=fit_again, progress=progress)
        rows, xy = projection.places(opened, current)
        if png is not None:
            png.write_bytes(_picture(curator, rows, xy, color=color))
    value = {"projection_id": current.projection_id, "placed": placed, "rows": len(rows), "png": png}
    show(
        value,
        as_json=as_json,
        text=lambda: (
            f"{len(rows)} frames on map {current.projection_id}, {placed} of them new"
            + (f"; drawn to {png}" if png else "")
        ),
    )


def _picture(curator: Curator, rows: Any, xy: Any, *, color: str | None) -> bytes:
    from service.structure.map_picture import draw

    codes, values = curator.columns().codes(color) if color is not None else (None, ())
    return draw(xy, codes=None if codes is None else codes[rows], values=values)


def _threshold_text(threshold: float, basis: str) -> str:
    return f"frames are near-duplicates from likeness {threshold:g}" + (f" ({basis})" if basis else "")


def _ids(opened: Any, rows: list[int]) -> dict[int, str]:
    from selection.fleet import frames

    return {frame.row: frame.frame_id for frame in frames.by_rows(opened.database, rows)}
