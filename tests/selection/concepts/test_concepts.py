"""The few-shot finder: probes against scikit-learn, concepts against a fleet with known answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.errors import InvalidInput, NotFound
from selection.concepts import concepts, probe
from selection.embedding.index import VectorIndex
from selection.fleet import frames

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _rows(count: int, dimension: int = 16, *, toward: int | None = None, seed: int = 0) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_normal((count, dimension))
    if toward is not None:
        values[:, toward] += 6.0
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def test_a_probe_is_penalised_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    yes, no = _rows(7, toward=0), _rows(7, seed=1)
    fitted = probe.fit(yes, no, pull=0.5)
    peer = LogisticRegression(C=2.0, tol=1e-10, max_iter=10_000)
    # Both sides weigh as much as there are marks in all, half of which is each side's number here.
    peer.fit(np.concatenate([yes, no]), [1] * 7 + [0] * 7, sample_weight=np.full(14, 2.0))
    assert fitted.weights_D == pytest.approx(peer.coef_[0], abs=2e-3)
    assert fitted.bias == pytest.approx(peer.intercept_[0], abs=2e-3)
    shuffled = probe.fit(yes[::-1], no[::-1], pull=0.5)
    assert shuffled.weights_D == pytest.approx(fitted.weights_D, abs=1e-5)


def test_half_precision_in_blocks_scores_like_one_product() -> None:
    fitted = probe.fit(_rows(5, toward=0), _rows(5, seed=1))
    many = _rows(40_000, seed=2)
    expected = 1 / (1 + np.exp(-(many @ fitted.weights_D + fitted.bias)))
    assert probe.scores(fitted, many) == pytest.approx(expected, abs=1e-5)
    assert probe.scores(fitted, many.astype(np.float16)) == pytest.approx(expected, abs=5e-3)
    assert probe.scores(fitted, many[:0]).shape == (0,)
    with pytest.raises(InvalidInput, match="does not fit"):
        probe.scores(fitted, many[:, :3])


def test_what_to_mark_next_is_what_is_in_doubt() -> None:
    scored = np.array([0.9, 0.5, np.nan, 0.45, 0.0])
    assert probe.most_informative(scored, k=2).tolist() == [1, 3]
    assert probe.most_informative(scored, k=9, marked=[1]).tolist() == [3, 0, 4]


def test_marks_that_teach_nothing_are_refused() -> None:
    with pytest.raises(InvalidInput, match="marked yes"):
        probe.fit(_rows(0), _rows(3))
    with pytest.raises(InvalidInput, match="marked no"):
        probe.fit(_rows(3), _rows(0))


@pytest.fixture
def marked(fleet: Any) -> tuple[Any, VectorIndex, list[str]]:
    """Forty rows, the first ten of which show the concept."""
    fleet.add(40)
    fleet.embed(0, np.concatenate([_rows(10, toward=0), _rows(25, toward=1, seed=1)]))
    index = VectorIndex(fleet.platform, "enc-1")
    index.refresh()
    return fleet, index, [frame.frame_id for frame in frames.by_rows(fleet.platform.database, range(40))]


def test_a_handful_of_marks_ranks_the_fleet(marked: tuple[Any, VectorIndex, list[str]]) -> None:
    fleet, index, ids = marked
    made = concepts.mark(fleet.platform, "trams", yes=ids[:2], no=ids[20:22], index=index, now=NOW)
    assert (made.encoder_id, len(made.yes), len(made.no)) == ("enc-1", 2, 2)
    assert made.weights_digest == concepts.fit(fleet.platform, made, index=index).digest
    scored = concepts.scores(fleet.platform, "trams", np.arange(40), index=index)
    assert np.isnan(scored[35:]).all(), "no vector, no score"
    assert np.nanmin(scored[:10]) > np.nanmax(scored[10:35])
    assert np.all((scored[:35] >= 0) & (scored[:35] <= 1))


def test_the_whole_fleet_is_scored_as_single_rows_are(
    marked: tuple[Any, VectorIndex, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, index, ids = marked
    concepts.mark(fleet.platform, "trams", yes=ids[:2], no=ids[20:22], index=index, now=NOW)
    few = concepts.scores(fleet.platform, "trams", np.arange(40), index=index)
    monkeypatch.setattr(concepts, "_FEW_ROWS", 1)
    many = concepts.scores(fleet.platform, "trams", np.arange(40), index=index)
    assert np.isnan(many).tolist() == np.isnan(few).tolist() == [False] * 35 + [True] * 5
    assert many[:35] == pytest.approx(few[:35], abs=2e-3)


def test_yes_alone_is_told_from_the_fleet(marked: tuple[Any, VectorIndex, list[str]]) -> None:
    fleet, index, ids = marked
    concepts.mark(fleet.platform, "trams", yes=ids[:2], index=index, now=NOW)
    scored = concepts.scores(fleet.platform, "trams", np.arange(35), index=index)
    assert set(np.argsort(-scored)[:10].tolist()) == set(range(10))


def test_the_background_is_drawn_from_the_whole_fleet(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.add(60)
    fleet.embed(0, np.eye(60, dtype=np.float32))
    index = VectorIndex(fleet.platform, "enc-1")
    index.refresh()
    monkeypatch.setattr(concepts, "BACKGROUND", 20)
    drawn: list[int] = []
    plain = probe.fit

    def watched(*given: Any, background_emb: NDArray[np.float32], **named: Any) -> probe.Probe:
        drawn.extend(background_emb.argmax(axis=1).tolist())
        return plain(*given, background_emb=background_emb, **named)

    monkeypatch.setattr(probe, "fit", watched)
    (one,) = frames.by_rows(fleet.platform.database, [30])
    concepts.mark(fleet.platform, "trams", yes=[one.frame_id], index=index, now=NOW)
    expected = [row for row in np.random.default_rng(0).permutation(60)[:40].tolist() if row != 30][:20]
    assert drawn == expected


def test_marks_add_up_and_change_sides(marked: tuple[Any, VectorIndex, list[str]]) -> None:
    fleet, index, ids = marked
    db = fleet.platform.database
    concepts.mark(fleet.platform, "trams", yes=ids[:3], index=index, now=NOW)
    made = concepts.mark(fleet.platform, "trams", yes=[ids[4][:12]], no=[ids[1]], index=index, now=NOW)
    assert made.yes == (ids[0], ids[2], ids[4])
    assert made.no == (ids[1],)
    assert [one.name for one in concepts.list_all(db)] == ["trams"]
    concepts.delete(db, "trams")
    for call in (concepts.get, concepts.delete):
        with pytest.raises(NotFound, match="trams"):
            call(db, "trams")


def test_marks_are_taken_back(marked: tuple[Any, VectorIndex, list[str]]) -> None:
    fleet, index, ids = marked
    first = concepts.mark(fleet.platform, "trams", yes=ids[:2], no=ids[20:21], index=index, now=NOW)
    concepts.mark(fleet.platform, "trams", yes=ids[2:3], no=ids[21:22], index=index, now=NOW)
    again = concepts.mark(fleet.platform, "trams", neither=[ids[2], ids[21][:10], ids[30]], index=index, now=NOW)
    assert (again.yes, again.no, again.weights_digest) == (first.yes, first.no, first.weights_digest)
    with pytest.raises(InvalidInput, match="at least one frame marked yes; delete it"):
        concepts.mark(fleet.platform, "trams", neither=ids[:2], index=index, now=NOW)
    with pytest.raises(InvalidInput, match="no and neither"):
        concepts.mark(fleet.platform, "trams", no=ids[:1], neither=ids[:1], index=index, now=NOW)
    with pytest.raises(NotFound, match="buses"):
        concepts.mark(fleet.platform, "buses", neither=ids[:1], index=index, now=NOW)
    assert concepts.get(fleet.platform.database, "trams") == again


def test_marks_made_at_once_all_count(marked: tuple[Any, VectorIndex, list[str]]) -> None:
    fleet, index, ids = marked
    with ThreadPoolExecutor(6) as pool:
        list(
            pool.map(
                lambda one: concepts.mark(fleet.platform, "trams", yes=[one], index=index, now=NOW),
                ids[:6],
            )
        )
    assert set(concepts.get(fleet.platform.database, "trams").yes) == set(ids[:6])


@pytest.mark.parametrize(
    ("name", "yes", "no", "message"),
    [
        ("Trams", [0], [], "name"),
        ("trams", [], [1], "marked yes"),
        ("trams", [0], [0], "yes and no"),
        ("trams", [38], [], "no frame that concept trams marks yes has a vector"),
    ],
)
def test_marks_that_cannot_be_are_refused(
    marked: tuple[Any, VectorIndex, list[str]], name: str, yes: list[int], no: list[int], message: str
) -> None:
    fleet, index, ids = marked
    with pytest.raises(InvalidInput, match=message):
        concepts.mark(fleet.platform, name, yes=[ids[i] for i in yes], no=[ids[i] for i in no], index=index, now=NOW)
    assert concepts.list_all(fleet.platform.database) == []
