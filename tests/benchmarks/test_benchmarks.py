"""The benchmark runs, its floor is right, and its synthetic fleet is what the product itself would have stored. No times are asserted."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest

from infra.errors import Conflict, InvalidInput
from infra.platform import Platform
from selection import shards
from selection.embedding.index import VectorIndex
from selection.fleet import frames
from service import production_line
from tests.benchmarks import fleet, floor, report, rows, survey
from tests.benchmarks.__main__ import main
from tests.benchmarks.measuring import Row, interleaved_ms
from tests.benchmarks.peers import runner
from tests.benchmarks.vectors import ClipLike

FLEET = 300


@pytest.fixture
def filled(platform: Platform) -> Platform:
    production_line.prepare(platform.database)
    fleet.fill(platform, FLEET)
    return platform


def test_frames_inserted_in_bulk_are_those_that_register_stores(filled: Platform) -> None:
    inserted = list(filled.database.frames.find().sort("row"))
    filled.database.frames.delete_many({})
    filled.database.counters.delete_many({})
    frames.register(filled.database, list(fleet.all_facts(FLEET)))

    assert inserted == list(filled.database.frames.find().sort("row"))
    assert frames.row_count(filled.database) == FLEET


def test_a_fill_goes_on_where_it_was_interrupted_and_refuses_another_fleet(filled: Platform) -> None:
    before = list(filled.database.frames.find().sort("row"))
    filled.database.counters.update_one({}, {"$set": {"next": 120}})  # As if killed before the counter moved.
    fleet.fill(filled, FLEET)

    assert list(filled.database.frames.find().sort("row")) == before
    with pytest.raises(Conflict, match="another fleet"):
        fleet.fill(filled, FLEET, seed=1)
    with pytest.raises(Conflict, match="another fleet"):
        fleet.fill(filled, FLEET - 1)


def test_vectors_are_committed_once_and_found(filled: Platform) -> None:
    vectors = ClipLike(rows=FLEET, dimension=32)
    for _ in range(2):
        fleet.embed(filled, vectors, producer="enc")
    index = VectorIndex(filled, "enc")
    index.refresh()

    assert shards.row_total(filled.database, "vectors", "enc") == FLEET
    assert index.search(vectors.all()[[7]], k=1)[1][0, 0] == 7


def test_the_floor_is_exact() -> None:
    vectors = ClipLike(rows=700, dimension=32).all()
    similar = vectors @ vectors.T
    expected = np.argsort(-similar[:5], axis=1, kind="stable")[:, :10]
    blocks = [vectors[:300], vectors[300:]]

    scores, found = floor.exact_scores(blocks, vectors[:5], k=10)
    np.testing.assert_allclose(scores, np.take_along_axis(similar[:5], expected, axis=1), atol=1e-5)
    assert floor.recall(found.tolist(), expected) > 0.95  # Near ties may swap in the last place.
    assert floor.recall([[1, 2]], np.array([[2, 3]])) == 0.5
    np.fill_diagonal(similar, 0)
    pairs = {tuple(pair) for pair in floor.pairs_above(vectors, 0.9, block=128).tolist()}
    assert pairs == {(a, b) for a, b in np.argwhere(similar >= 0.9).tolist() if a < b}


def test_a_row_knows_whether_its_target_is_reached_and_how_it_compares() -> None:
    fast = Row(key="a", work="a", mlpl=2.0, unit="ms", target=5.0, floor=1.0, peers={"Other": 8.0})
    slow = Row(key="b", work="b", mlpl=2.0, unit="frames/s", target=5.0, sense="at_least", floor=4.0)

    assert (fast.reached, slow.reached) == (True, False)
    assert (fast.times_better_than(fast.floor), slow.times_better_than(slow.floor)) == (0.5, 0.5)
    assert fast.times_better_than(fast.peers["Other"]) == 4.0
    assert Row(key="c", work="c", mlpl=None, unit="s", target=1.0).reached is False
    assert Row(key="d", work="d", mlpl=1.0, unit="s").reached is None
    text = report.table([fast, slow])
    assert "yes" in text
    assert "NO" in text
    assert "Other" in text


def test_works_take_turns() -> None:
    order: list[str] = []
    samples = interleaved_ms(
        {"a": lambda i: order.append(f"a{i}"), "b": lambda i: order.append(f"b{i}")}, repeats=4, turn=2
    )

    assert order[-8:] == ["a0", "a1", "b0", "b1", "a2", "a3", "b2", "b3"]
    assert [len(found) for found in samples.values()] == [4, 4]


@pytest.mark.parametrize("peer", runner.PEERS, ids=lambda peer: peer.name)
def test_a_peers_script_compiles_and_has_every_step(peer: runner.Peer) -> None:
    tree = ast.parse(peer.script.read_text(), filename=str(peer.script))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}

    compile(tree, str(peer.script), "exec")
    assert set(peer.steps) <= functions
    assert set(peer.needs) <= set(peer.steps)


def test_what_an_earlier_run_measured_says_so(tmp_path: Path) -> None:
    peer = runner.PEERS[1]
    kept = {
        "register": {"figures": {"register": 5.0}, "notes": {"register": "no digests"}},
        "store": {"figures": {"store": 2.0}, "notes": {}},
    }
    (tmp_path / "figures.json").write_text(json.dumps(kept))

    figures, notes = runner.run(peer, ["register", "store"], inputs={}, folder=tmp_path, timeout_s=1)

    assert figures == {"register": 5.0, "store": 2.0}
    assert notes["register"].startswith("no digests; measured in the earlier run")
    assert notes["store"].startswith("measured in the earlier run")


def test_unknown_rows_are_named() -> None:
    with pytest.raises(InvalidInput, match="no rows 'nonsense'"):
        rows.chosen(["nonsense"])
    assert list(rows.chosen(["diverse", "register"])) == ["register", "diverse"]


@pytest.mark.timeout(1200)
def test_the_quick_run_measures_every_row(tmp_path: Path) -> None:
    status = main(["--quick", "--json", str(tmp_path / "b.json"), "--png", str(tmp_path / "b.png")])
    found = json.loads((tmp_path / "b.json").read_text())
    by_key = {row["key"]: row for row in found["rows"]}

    assert status == 0, [row["note"] for row in found["rows"] if row["note"]]
    assert {key.partition(".")[0] for key in by_key} == (set(rows.GROUPS) - {"search"}) | {"nearest", "facets"}
    assert all(row["mlpl"] is not None for row in found["rows"] if "not in this version" not in row["note"])
    assert {"work", "mlpl", "unit", "target", "reached", "floor", "peers"} <= set(found["rows"][0])
    assert by_key["large.clustered.recall"]["mlpl"] >= 0.99
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_the_survey_of_a_fleet_is_measured_part_by_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    survey.main(6000, tmp_path)
    lines = {line.get("what", "found"): line for line in map(json.loads, capsys.readouterr().out.splitlines())}

    assert lines["survey"]["rows"] == 6000
    assert lines["survey, 1 % more rows"]["rows"] == 60
    assert 0 < lines["found"]["kept"] <= 6000
