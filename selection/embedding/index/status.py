"""How an index searches, for people: what is built and with which recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.platform import Platform
from selection import shards
from selection.embedding.index import built

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class IndexStatus:
    """How an index searches.

    Attributes:
        rows: Rows that can be found.
        tail_rows: Of them, those that are not built yet and are searched exactly, one by one.
        kind: `exact` (every search reads all vectors), `exact on GPU`, or `two-stage` (codes, then vectors). Segment by segment, the build
            chooses what is quicker, see `calibration.choose_coder`.
        recall: The lowest recall@50 measured at the builds, by kind of query; None when nothing is built.
        segments: What is built.
    """

    encoder_id: str
    rows: int
    tail_rows: int
    kind: str
    recall: dict[str, float] | None
    segments: Sequence[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """For the API."""
        return asdict(self)


def built_status(platform: Platform, encoder_id: str) -> IndexStatus:
    """What is built on this machine, from descriptions alone: opens no index."""
    folder = built.home_of(platform.settings.home, encoder_id, database=platform.database.name)
    found = built.descriptions(folder)
    built_from = {source for one in found for source in one.sources}
    present = shards.sources(platform.database, "vectors", encoder_id)
    # A segment stands for shards that have got more vectors since, too; those few rows are not counted here.
    tail_rows = sum(valued for sources, valued in present if built_from.isdisjoint(sources))
    return status_of(
        encoder_id,
        found,
        rows=sum(valued for _, valued in present),
        tail_rows=tail_rows,
        on_gpu=bool(gpus(platform.settings.device)),
    )


def status_of(
    encoder_id: str, found: Sequence[built.Description], *, rows: int, tail_rows: int, on_gpu: bool
) -> IndexStatus:
    """The status of an index with these segments."""
    lowest = (
        {name: min(getattr(one.recall, name) for one in found) for name in ("near", "far", "filtered")}
        if found
        else None
    )
    return IndexStatus(
        encoder_id=encoder_id,
        rows=rows,
        tail_rows=tail_rows,
        kind="exact on GPU" if on_gpu else "two-stage" if any(one.components for one in found) else "exact",
        recall=lowest,
        segments=[
            {
                "number": one.number,
                "rows": one.rows,
                "kind": one.kind,
                "code_bytes": one.components,
                "candidates": one.recall.candidates,
                "recall": {"near": one.recall.near, "far": one.recall.far, "filtered": one.recall.filtered},
                "build_s": one.build_s,
            }
            for one in found
        ],
    )


def gpus(wanted: str) -> list[torch.device]:
    """The GPUs that the setting means. Torch takes seconds to load, so it is asked only where there may be one."""
    if wanted == "cpu" or (
        wanted == "auto" and not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists()
    ):
        return []
    import torch

    from selection.devices import torch_device

    if wanted == "auto":
        return (
            [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
            if torch.cuda.is_available()
            else []
        )
    return [torch_device(wanted)]
