"""Search state: the query box, filters, facets, pages."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from infra.errors import Conflict, InvalidInput
from infra.platform import Platform
from selection.embedding import embed
from selection.fleet import loading
from selection.fleet.frames import Frame
from selection.ingest.ingest import ingest
from service.curator import Curator

NOW = datetime(2026, 4, 1, tzinfo=UTC)


def test_browsing_shows_the_last_ingested_first(platform: Platform, fleet: list[Frame]) -> None:
    found = Curator(platform).search(k=5)
    assert [hit.frame.row for hit in found.hits] == [11, 10, 9, 8, 7]
    assert found.total == len(fleet)
    assert found.notice is None


def test_pages_hold_still_while_frames_arrive(platform: Platform, fleet: list[Frame], tmp_path: Path) -> None:
    curator = Curator(platform)
    first = curator.search(where="timeofday:dusk", k=2)
    source = tmp_path / "later"
    source.mkdir()
    (source / "one.png").write_bytes(platform.objects.get(fleet[0].object_key) + b"\0")
    (source / "metadata.jsonl").write_text('{"file": "one.png", "attributes": {"timeofday": "dusk"}}\n')
    ingest(platform, [str(source)], site=None, metadata=None)
    second = curator.search(where="timeofday:dusk", k=2, offset=2, as_of=first.rows)
    rows = [hit.frame.row for hit in (*first.hits, *second.hits)]
    assert rows == [10, 7, 4, 1]
    assert second.total == first.total == 4
    assert curator.search(where="timeofday:dusk", k=1).total == 5


@pytest.mark.usefixtures("fleet")
def test_facets_keep_the_other_choices_in_sight(platform: Platform) -> None:
    found = Curator(platform).facets("timeofday:dusk -site:north")
    assert found.total == 1
    assert found.counts["timeofday"] == {"day": 1, "dusk": 1, "night": 2}
    assert found.counts["site"] == {"north": 3, "south yard": 1}
    assert found.counts["weather"] == {"clear": 1}


@pytest.mark.usefixtures("fleet")
def test_facets_of_keys_that_are_not_counted(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "MOST_VALUES", 5)
    for row in range(12):
        change = {
            "location": [35 + row / 100, 137.0],
            "attributes.t": float(row) if row % 2 else "?",
            "changed_at": NOW,
        }
        platform.database.frames.update_one({"row": row}, {"$set": change})
    curator = Curator(platform)
    assert curator.facets("latitude:35..35.05 -longitude:5").total == 6
    found = curator.facets("t:1..5")
    assert (found.total, found.keys) == (3, ("t",))
    assert "latitude" not in found.counts | found.histograms


@pytest.mark.usefixtures("fleet")
def test_facets_tell_a_key_from_its_namesakes(platform: Platform) -> None:
    change = {"attributes.site": "tunnel", "attributes.label": "car", "changed_at": NOW}
    platform.database.frames.update_one({"row": 0}, {"$set": change})
    curator = Curator(platform)
    found = curator.facets("attributes.site:tunnel")
    assert (found.total, found.keys) == (1, ("attributes.site",))
    assert found.counts["site"] == {"north": 1}
    assert found.counts["attributes.label"] == {"car": 1}
    other = curator.facets("label:car")
    assert (other.total, other.keys) == (0, (None,))
    assert "attributes.label" not in other.counts
    assert curator.search(where="attributes.label:car label:car").keys == ("attributes.label", None)


def test_what_cannot_be_asked(platform: Platform, fleet: list[Frame]) -> None:
    curator = Curator(platform)
    with pytest.raises(InvalidInput, match="has no numbers"):
        curator.search(sort="weather")
    with pytest.raises(InvalidInput, match="cursor"):
        curator.search(cursor="nonsense")
    with pytest.raises(InvalidInput, match="character 1"):
        curator.search(where="wether:rain")


def test_search_by_words_image_and_frame(small_platform: Platform, fleet: list[Frame]) -> None:
    curator = Curator(small_platform)
    encoder = curator.encoder()
    with pytest.raises(Conflict, match="no vector yet"):
        curator.search(like=fleet[0].frame_id)
    before = curator.search(text="a street at night")
    assert (before.total, before.missing) == (0, len(fleet))
    embed.embed_missing(small_platform, encoder)
    words = curator.search(text="a street at night", where="timeofday:night", k=10)
    assert {hit.frame.attributes["timeofday"] for hit in words.hits} == {"night"}
    assert words.total == len(words.hits) == 4
    assert words.missing == 0
    assert words.notice
    pages = [curator.search(text="a street at night", k=5, offset=at).hits for at in (0, 5, 10)]
    assert len({hit.frame.row for page in pages for hit in page}) == len(fleet)
    image = curator.search(image=small_platform.objects.get(fleet[3].object_key), k=3)
    assert image.hits[0].frame.row == 3
    assert image.hits[0].score == pytest.approx(1.0, abs=0.01)
    like = curator.search(like=fleet[3].frame_id[:12], k=20)
    assert 3 not in [hit.frame.row for hit in like.hits]
    assert like.hits[0].frame.row == image.hits[1].frame.row


@pytest.mark.usefixtures("fleet")
def test_browsing_imports_no_model_library(platform: Platform) -> None:
    script = """
import sys
from fastapi.testclient import TestClient
from infra.settings import load
from service.app import create_app
from service.production_line import open_line
with open_line(load()) as platform:
    client = TestClient(create_app(platform), base_url="http://127.0.0.1")
    for path in ("search?where=timeofday:dusk", "facets", "status", "batches", "models"):
        assert client.get(f"/api/v1/{path}").status_code == 200, path
print(sorted({"torch", "faiss", "open_clip", "torchvision", "sklearn"} & set(sys.modules)))
"""
    environment = {"PATH": "/usr/bin:/bin", **platform.settings.as_environment()}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_same_words_asked_at_once_are_encoded_once(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        encoder_id = "enc-1"
        asked: ClassVar[list[str]] = []

        def encode_texts(self, texts: list[str]) -> Any:
            self.asked.extend(texts)
            time.sleep(0.05)
            return np.ones((len(texts), 4), dtype=np.float32)

    curator = Curator(platform)
    monkeypatch.setattr(curator, "encoder", Slow)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(curator._text_vector, ["a tram", "a tram", "a tram", "rain", "a tram", "rain"]))
    assert len(found) == 6
    assert sorted(Slow.asked) == ["a tram", "rain"]
