"""Search: by words, by image, by frame, within a filter; on colours, where the right answer is plain."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from infra.errors import Conflict, InvalidInput, NotFound
from selection.embedding.index import VectorIndex
from selection.fleet import frames
from selection.fleet.columns import Columns
from selection.ranking import search as searching
from selection.ranking.search import Hit

COLOURS = ("red", "green", "blue")


class ColourEncoder:
    """Words and pictures in one space, of three colours."""

    encoder_id = "enc-1"
    dimension = 3

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.eye(3, dtype=np.float32)[[COLOURS.index(text) for text in texts]]

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        colours = np.stack([np.asarray(image).mean(axis=(0, 1)) for image in images]).astype(np.float32)
        return colours / np.linalg.norm(colours, axis=1, keepdims=True)


class Searcher:
    """The fleet and what searching it takes."""

    def __init__(self, fleet: Any) -> None:
        self.fleet = fleet
        self.index = VectorIndex(fleet.platform, "enc-1")
        self.columns = Columns(fleet.platform.database)

    def refresh(self) -> None:
        self.index.refresh()
        self.columns.refresh()

    def __call__(self, **asked: Any) -> list[Hit]:
        asked = {"encoder": ColourEncoder(), **asked}
        return searching.search(self.fleet.platform, index=self.index, columns=self.columns, **asked)

    def rows(self, **asked: Any) -> list[int]:
        return [hit.frame.row for hit in self(**asked)]

    def frame_id(self, row: int) -> str:
        return frames.by_rows(self.fleet.platform.database, [row])[0].frame_id


@pytest.fixture
def search(fleet: Any) -> Searcher:
    """Thirty rows: the colour is row modulo three, purest at the lowest row; drives of ten rows."""
    fleet.add(30, drive=[f"d{row // 10}" for row in range(30)])
    vectors = np.eye(3)[np.arange(30) % 3] + np.arange(30)[:, None] * 0.004
    fleet.embed(0, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    made = Searcher(fleet)
    made.refresh()
    return made


def test_words(search: Searcher) -> None:
    hits = search(text=" green ", k=3)
    assert [hit.frame.row for hit in hits] == [1, 4, 7]
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, key=lambda score: -(score or 0))
    assert scores[0] == pytest.approx(1.0, abs=5e-3)


def test_pages_follow_one_another(search: Searcher) -> None:
    assert search.rows(text="green", k=2, offset=2) == [7, 10]
    assert search.rows(text="green", k=30, offset=29) == search.rows(text="green", k=30)[29:]
    assert search.rows(text="green", k=5, offset=100) == []


def test_a_filter_narrows_before_ranking(search: Searcher) -> None:
    assert search.rows(text="green", where="drive:d2", k=2) == [22, 25]
    assert search.rows(text="green", where="drive:d9") == []
    with pytest.raises(InvalidInput, match="no key"):
        search(text="green", where="colour:green")


def test_like_leaves_out_the_frame_itself(search: Searcher) -> None:
    assert search.rows(like=search.frame_id(4), k=3, encoder=None) == [1, 7, 10]
    assert search.rows(like=search.frame_id(4)[:12], k=2, offset=1, encoder=None) == [7, 10]
    assert search.rows(like=search.frame_id(4), where="drive:d1", k=1, encoder=None) == [10]


def test_an_image_goes_the_way_of_the_fleets_frames(search: Searcher) -> None:
    file = io.BytesIO()
    Image.new("RGB", (1000, 800), (0, 0, 255)).save(file, format="PNG")
    assert search.rows(image=file.getvalue(), k=2) == [2, 5]
    with pytest.raises(InvalidInput, match="not an image"):
        search(image=b"text")
    with pytest.raises(InvalidInput, match="empty"):
        search(image=b"")


@pytest.mark.parametrize(
    "asked",
    [{}, {"text": "red", "like": "0" * 32}, {"text": "  "}, {"text": "red", "k": 0}, {"text": "red", "offset": -1}],
)
def test_a_question_that_is_none_is_refused(search: Searcher, asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        search(**asked)


def test_a_frame_without_a_vector_and_a_foreign_encoder_are_conflicts(search: Searcher) -> None:
    search.fleet.add(1)
    with pytest.raises(Conflict, match="no vector yet"):
        search(like=search.frame_id(30), encoder=None)
    with pytest.raises(NotFound):
        search(like="f" * 32, encoder=None)
    search.index.encoder_id = "enc-2"
    with pytest.raises(Conflict, match="enc-2"):
        search(text="red")


def test_an_empty_fleet_finds_nothing(fleet: Any) -> None:
    search = Searcher(fleet)
    search.refresh()
    assert search(text="red") == []


def test_browsing_shows_the_newest_first(search: Searcher) -> None:
    def rows(**asked: Any) -> list[int]:
        hits = searching.browse(search.fleet.platform, columns=search.columns, **asked)
        assert all(hit.score is None for hit in hits)
        return [hit.frame.row for hit in hits]

    assert rows(k=3) == [29, 28, 27]
    assert rows(k=3, offset=28) == [1, 0]
    assert rows(k=3, offset=40) == []
    assert rows(where="drive:d0", k=2, offset=1) == [8, 7]
