"""The few-shot finder over the whole fleet: ranking by a concept, and asking for the marks that would teach it most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from infra.platform import Platform
from selection.concepts import concepts, probe
from selection.fleet import frames
from selection.fleet.frames import Frame

if TYPE_CHECKING:
    from service.curator import Curator


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A frame with the probability that it belongs to the concept."""

    frame: Frame
    score: float


def rank(
    platform: Platform,
    curator: Curator,
    name: str,
    *,
    k: int,
    offset: int = 0,
    where: str = "",
    order: Literal["best", "informative"] = "best",
) -> list[Ranked]:
    """Frames that are not marked, the likeliest first, or those first whose mark would teach most.

    Raises:
        NotFound: There is no such concept.
        InvalidInput: A bad filter.
    """
    import numpy as np

    concept = concepts.get(platform.database, name)
    marked = frames.get_many(platform.database, [*concept.yes, *concept.no])
    mask = curator.mask(where)
    mask[[frame.row for frame in marked.values() if frame.row < len(mask)]] = False
    index = curator.index()
    if order == "best":
        # The plane's normal as a query: the index finds the highest logits without touching every vector in Python.
        plane = concepts.fit(platform, concept, index=index)
        length = float(np.linalg.norm(plane.weights_D))
        if not index.size or not length:
            return []
        likeness, rows_1K = index.search(plane.weights_D[np.newaxis] / length, k=offset + k, mask=mask)
        rows = rows_1K[0][rows_1K[0] >= 0][offset:]
        score_N = 1.0 / (1.0 + np.exp(-(likeness[0][rows_1K[0] >= 0][offset:] * length + plane.bias)))
    else:
        every = np.flatnonzero(mask)
        all_scores_N = concepts.scores(platform, name, every, index=index)
        places = probe.most_informative(all_scores_N, k=offset + k)[offset:]
        rows, score_N = every[places], all_scores_N[places]
    found = frames.by_rows(platform.database, rows.tolist())
    return [Ranked(frame=one, score=score) for one, score in zip(found, score_N.tolist(), strict=True)]
