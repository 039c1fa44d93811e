"""What the shipped encoder claims to know, on real frames that nothing was trained on. They are not part of the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.platform import Platform
from selection.embedding.embed import embed_missing
from selection.ingest.ingest import ingest
from service.curator import Curator
from service.production_line import prepare

REAL_FRAMES = Path(__file__).parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not REAL_FRAMES.is_dir(), reason="the real frames are not beside this checkout")


@pytest.fixture
def small(platform: Platform) -> Platform:
    """The test's platform with the shipped encoder asked for by name."""
    prepare(platform.database)
    return Platform(
        settings=platform.settings.model_copy(update={"encoder": "small"}),
        database=platform.database,
        objects=platform.objects,
    )


@pytest.mark.parametrize(
    ("folder", "query", "attribute", "value", "first", "least"),
    [
        ("bdd100k_samples", "a road at night", "timeofday", "night", 5, 4),
        ("camvid", "a road at dusk", "timeofday", "dusk", 10, 5),
    ],
)
def test_hours_are_found(
    small: Platform, folder: str, query: str, attribute: str, value: str, first: int, least: int
) -> None:
    taken = ingest(small, [str(REAL_FRAMES / folder)])
    assert taken.rejected_count == 0
    curator = Curator(small)
    embed_missing(small, curator.encoder())
    hits = curator.search(text=query, k=first).hits
    assert sum(hit.frame.attributes[attribute] == value for hit in hits) >= least
    within = curator.search(text=query, where=f"{attribute}:{value}", k=first)
    assert all(hit.frame.attributes[attribute] == value for hit in within.hits)
    like = curator.search(like=hits[0].frame.frame_id, k=3).hits
    assert hits[0].frame.frame_id not in {hit.frame.frame_id for hit in like}
