"""The vector index against plain arithmetic, in every order shards may come, built or not, whole or damaged."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.errors import NotFound, StorageFull
from selection.embedding.index import (
    VectorIndex,
    building,
    built,
    built_status,
    calibration,
    exact,
    scan,
    tail,
    vector_index,
)
from selection.embedding.vector_table import vector_table


def _unit(count: int, *, seed: int = 0, dimension: int = 16) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


VECTORS = _unit(100)
QUERIES = _unit(3, seed=1)


def _check(index: VectorIndex, *, there: NDArray[np.bool_], mask: NDArray[np.bool_] | None = None, k: int = 7) -> None:
    scores, rows = index.search(QUERIES, k=k, mask=mask)
    allowed = there.copy()
    if mask is not None:
        allowed &= np.pad(mask, (0, max(0, len(there) - len(mask))))[: len(there)]
        assert index.count(mask) == allowed.sum()
    halved = VECTORS.astype(np.float16).astype(np.float32)
    for query, query_scores, query_rows in zip(QUERIES, scores, rows, strict=True):
        right = np.where(allowed, halved @ query, -np.inf)
        count = min(int(allowed.sum()), query_rows.size)
        assert query_rows[:count].tolist() == np.argsort(-right, kind="stable")[:count].tolist()
        assert query_scores[:count] == pytest.approx(np.sort(right)[::-1][:count], abs=1e-5)
        assert np.all(query_rows[count:] == -1)
        assert np.all(np.isneginf(query_scores[count:]))


@pytest.fixture(params=["torch", "numpy"])
def _kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch, and so FAISS, in memory and without."""
    if request.param == "torch":
        import torch  # noqa: F401
    else:
        _with_numpy_alone(monkeypatch)


def _with_numpy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "torch_if_loaded", lambda: None)
    monkeypatch.setattr(exact, "may_scan", lambda _count, **_: False)


@pytest.fixture(params=[2**16, 16], ids=["one block", "many blocks"])
def fleet_index(
    request: pytest.FixtureRequest, fleet: Any, monkeypatch: pytest.MonkeyPatch, _kernel: None
) -> tuple[Any, VectorIndex]:
    monkeypatch.setattr(tail, "TAIL_BLOCK_ROWS", request.param)
    return fleet, VectorIndex(fleet.platform, "enc-1")


@pytest.fixture
def small_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of forty rows, built as soon as there are five, with codes although so few rows without structure would do without."""
    monkeypatch.setattr(calibration, "_PAYS_BELOW", np.inf)
    monkeypatch.setattr(vector_index, "SEGMENT_ROWS", 40)
    monkeypatch.setattr(vector_index, "BUILD_ROWS", 5)
    monkeypatch.setattr(scan, "DIRECT_ROWS", 2)


@pytest.mark.parametrize("order", [[0, 40, 70], [70, 0, 40]])
def test_search_is_exact_in_whatever_order_shards_come(fleet_index: tuple[Any, VectorIndex], order: list[int]) -> None:
    fleet, index = fleet_index
    assert index.search(QUERIES, k=5)[1].shape == (3, 0)
    there = np.zeros(100, dtype=bool)
    for start in order:
        stop = {0: 40, 40: 70, 70: 100}[start]
        fleet.embed(start, VECTORS[start:stop])
        assert index.refresh() == stop - start
        there[start:stop] = True
        _check_all(index, there=there)
    assert index.refresh() == 0
    assert index.size == 100
    _check_vectors(index)


@pytest.mark.usefixtures("small_builds")
@pytest.mark.parametrize("order", [[0, 40, 70], [70, 0, 40]])
def test_building_changes_no_answer_and_a_new_process_opens_what_was_built(
    fleet_index: tuple[Any, VectorIndex], order: list[int]
) -> None:
    fleet, index = fleet_index
    there = np.zeros(100, dtype=bool)
    for start in order:
        stop = {0: 40, 40: 70, 70: 100}[start]
        fleet.embed(start, VECTORS[start:stop])
        index.refresh()
        there[start:stop] = True
        assert index.build_due()
        index.build()
        assert not index.build_due()
        assert index.status().tail_rows == 0
        _check_all(index, there=there)
        again = VectorIndex(fleet.platform, "enc-1")
        assert again.refresh() == index.size
        assert again.status().kind == "two-stage"
        _check_all(again, there=there)
    _check_vectors(index)
    status = built_status(fleet.platform, "enc-1")
    assert (status.rows, status.tail_rows, len(status.segments)) == (100, 0, 2)
    assert status.recall is not None
    assert min(status.recall.values()) >= 0.99


def _check_all(index: VectorIndex, *, there: NDArray[np.bool_]) -> None:
    _check(index, there=there)
    _check(index, there=there, mask=np.arange(100) % 3 == 0)
    _check(index, there=there, mask=np.ones(55, dtype=bool))
    _check(index, there=there, mask=np.zeros(100, dtype=bool))
    _check(index, there=there, k=500)
    assert index.rows().tolist() == np.flatnonzero(there).tolist()


def _check_vectors(index: VectorIndex) -> None:
    picked = np.array([99, 0, 41, 0])
    assert index.vectors(picked) == pytest.approx(VECTORS[picked], abs=2e-3)
    assert np.linalg.norm(index.vectors(picked), axis=1) == pytest.approx(np.ones(4), abs=1e-6)


@pytest.mark.parametrize("build", [False, True])
@pytest.mark.usefixtures("small_builds")
def test_rows_without_a_vector_are_never_found(fleet: Any, build: bool) -> None:
    valid = np.arange(100) % 10 != 3
    fleet.embed(0, VECTORS, valid=valid)
    index = VectorIndex(fleet.platform, "enc-1")
    index.refresh()
    if build:
        index.build()
    assert index.size == 90
    _check(index, there=valid, k=100)
    _check(index, there=valid, mask=np.arange(77) % 2 == 0)
    assert index.has(np.array([2, 3, 99, 100])).tolist() == [True, False, True, False]
    with pytest.raises(NotFound, match="row 3"):
        index.vectors(np.array([2, 3]))


def test_a_corrupt_shard_is_left_out_until_it_is_made_again(fleet: Any) -> None:
    fleet.embed(0, VECTORS[:50])
    (key,) = fleet.platform.objects.list("shards")
    fleet.embed(50, VECTORS[50:])
    fleet.platform.objects.put(key, b"broken")
    index = VectorIndex(fleet.platform, "enc-1")
    assert index.refresh() == 50
    _check(index, there=np.arange(100) >= 50)
    assert index.refresh() == 0
    fleet.embed(0, VECTORS[:50])
    assert index.refresh() == 50
    _check(index, there=np.ones(100, dtype=bool))


def test_a_shard_made_again_with_other_bounds_adds_only_what_is_new(fleet: Any) -> None:
    index = VectorIndex(fleet.platform, "enc-1")
    fleet.embed(0, VECTORS[:30])
    assert index.refresh() == 30
    fleet.platform.database.shards.delete_many({})
    fleet.embed(0, VECTORS)
    assert index.refresh() == 70
    _check(index, there=np.ones(100, dtype=bool))


@pytest.mark.usefixtures("small_builds")
@pytest.mark.parametrize("noticed", [False, True])
def test_a_shard_made_again_is_built_once(fleet: Any, noticed: bool) -> None:
    index = VectorIndex(fleet.platform, "enc-1")
    fleet.embed(0, VECTORS[:30])
    assert index.refresh() == 30
    fleet.platform.database.shards.delete_many({})
    if noticed:
        index.refresh()
    fleet.embed(0, VECTORS[30:60])
    index.refresh()
    assert index.build_due()
    assert index.build() == 30
    assert not index.build_due()
    assert index.size == 30
    assert index.vectors(np.array([0]))[0] == pytest.approx(VECTORS[30], abs=2e-3)


@pytest.mark.usefixtures("small_builds")
def test_vectors_that_are_filled_in_do_not_make_a_segment_stale(fleet: Any) -> None:
    valid = np.arange(30) != 7
    fleet.embed(0, VECTORS[:30], valid=valid)
    index = VectorIndex(fleet.platform, "enc-1")
    index.refresh()
    assert index.build() == 30
    (old,) = vector_index.shards.records(fleet.platform.database, "vectors", "enc-1")
    whole = vector_table(VECTORS[:30].astype(np.float16), valid_N=np.ones(30, dtype=bool), start=0)
    assert vector_index.shards.replace(fleet.platform, old, whole)
    assert index.refresh() == 1
    again = VectorIndex(fleet.platform, "enc-1")
    assert again.refresh() == 30
    assert (again.status().tail_rows, len(again.status().segments)) == (1, 1)
    assert built_status(fleet.platform, "enc-1").rows == 30
    for one in (index, again):
        assert not one.build_due()
        _check(one, there=np.arange(100) < 30)


@pytest.mark.usefixtures("small_builds")
def test_rows_of_which_none_has_a_vector_are_not_built_for_ever(fleet: Any) -> None:
    index = VectorIndex(fleet.platform, "enc-1")
    fleet.embed(0, VECTORS[:20], valid=np.zeros(20, dtype=bool))
    index.refresh()
    assert (index.size, index.covered, index.reached) == (0, 20, 20)
    assert not index.build_due()
    fleet.embed(30, VECTORS[30:40])
    index.refresh()
    assert (index.size, index.covered, index.reached) == (10, 30, 20)
    assert index.build() == 30
    assert not index.build_due()
    status = built_status(fleet.platform, "enc-1")
    assert (status.rows, status.tail_rows) == (10, 0)


@pytest.mark.usefixtures("small_builds")
def test_what_waits_is_found_while_a_segment_takes_its_place(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    index = VectorIndex(fleet.platform, "enc-1")
    for start in (0, 50, 70):
        fleet.embed(start, VECTORS[start : start + 3 if start else 20])
    index.refresh()
    rows, sizes, seen = index.rows(), [], []
    add = tail.Tail.add

    def looked_at(self: tail.Tail, *given: Any, **also: Any) -> None:
        sizes.append(index.size)
        seen.append(bool(index.has(rows).all()))
        add(self, *given, **also)

    monkeypatch.setattr(tail.Tail, "add", looked_at)
    assert index.build() == 26
    assert seen
    assert all(seen)
    assert min(sizes) == 26
    assert index.rows().tolist() == rows.tolist()


@pytest.mark.usefixtures("small_builds")
def test_opening_removes_nothing_that_others_built(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.embed(0, VECTORS[:10])
    fleet.embed(10, VECTORS[10:20])
    index, late = VectorIndex(fleet.platform, "enc-1"), VectorIndex(fleet.platform, "enc-1")
    records = vector_index.shards.records

    def overtaken(*asked: Any) -> Any:
        found = records(*asked)
        monkeypatch.setattr(vector_index.shards, "records", records)
        index.refresh()  # Shards that `late` does not know of yet are built before it opens the folder.
        assert index.build() == 20
        return found[:1]

    monkeypatch.setattr(vector_index.shards, "records", overtaken)
    assert late.refresh() == 10
    assert len(list(_folder(fleet).glob("segment-*"))) == 1
    assert late.refresh() == 10


@pytest.mark.usefixtures("small_builds")
def test_a_home_that_cannot_be_written_is_searched_all_the_same(
    fleet: Any, built_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.platform.database.shards.delete_many({"start": 60})
    fleet.embed(60, VECTORS[::-1][:40])

    def refused(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "rename", refused)
    index = VectorIndex(fleet.platform, "enc-1")
    assert index.refresh() == 100


def test_a_scan_keeps_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    scanners = []
    kernels = exact.faiss_kernels()
    destroy = kernels.InvertedListScanner.__swig_destroy__

    def counted(scanner: Any) -> None:
        scanners.append(scanner)
        destroy(scanner)

    monkeypatch.setattr(kernels.InvertedListScanner, "__swig_destroy__", counted)
    exact._scanned(VECTORS.astype(np.float16), QUERIES[0], k=3, allowed_N=None)
    assert len(scanners) == 1


def test_an_empty_index(fleet: Any) -> None:
    index = VectorIndex(fleet.platform, "enc-1")
    assert index.refresh() == 0
    assert index.vectors(np.empty(0, dtype=np.int64)).shape == (0, 0)
    assert not index.has(np.array([0])).any()
    assert index.rows().shape == (0,)
    assert index.build() == 0


@pytest.fixture
def built_folder(fleet: Any, small_builds: None) -> Path:
    """A fleet whose hundred rows are built in three shards."""
    for start in (0, 30, 60):
        fleet.embed(start, VECTORS[start : start + 40 if start == 60 else start + 30])
    index = VectorIndex(fleet.platform, "enc-1")
    index.refresh()
    assert index.build() == 100
    return _folder(fleet)


def _folder(fleet: Any) -> Path:
    return built.home_of(fleet.platform.settings.home, "enc-1", database=fleet.platform.database.name)


@pytest.mark.parametrize("name", ["vectors.npy", "codes.npy", "rows.npy", "basis.npy", "built.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_file_is_never_used_and_built_again(fleet: Any, built_folder: Path, name: str, damage: str) -> None:
    path = sorted(built_folder.glob("segment-*"))[0] / name
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        data[-20] ^= 0x11
        path.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    index = VectorIndex(fleet.platform, "enc-1")
    assert index.refresh() == 100
    assert index.status().tail_rows == 60, "the rows of the damaged segment come from their shards"
    _check(index, there=np.ones(100, dtype=bool))
    index.build()
    assert index.status().tail_rows == 0
    _check(index, there=np.ones(100, dtype=bool))


def test_a_stale_file_is_never_used(fleet: Any, built_folder: Path) -> None:
    fleet.platform.database.shards.delete_many({"start": 60})
    fleet.embed(60, VECTORS[::-1][:40])
    index = VectorIndex(fleet.platform, "enc-1")
    index.refresh()
    assert index.vectors(np.array([60]))[0] == pytest.approx(VECTORS[99], abs=2e-3)
    assert len(list(built_folder.glob("segment-*"))) == 1


def test_what_a_killed_build_left_is_swept_up_and_one_process_builds_at_a_time(fleet: Any, built_folder: Path) -> None:
    (built_folder / ".building-killed").mkdir()
    (built_folder / ".building-killed" / "vectors.npy").write_bytes(b"half")
    fleet.embed(100, _unit(30, seed=5))
    index = VectorIndex(fleet.platform, "enc-1")
    index.refresh()
    with building.alone(built_folder) as first:
        assert first
        assert index.build() == 0, "someone else is at it"
    assert index.build() > 0
    assert not list(built_folder.glob(".building-*"))


def test_a_full_disk_is_named_and_leaves_nothing(
    fleet: Any, built_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.embed(100, _unit(30, seed=5))
    index = VectorIndex(fleet.platform, "enc-1")
    index.refresh()

    def full(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(building._ArrayFile, "append", full)
        with pytest.raises(StorageFull, match="no space left to build the index"):
            index.build()
    with monkeypatch.context() as patch:
        patch.setattr(building.tempfile, "mkdtemp", full)
        with pytest.raises(StorageFull, match="no space left to build the index"):
            index.build()
    assert not list(built_folder.glob(".building-*"))
    assert index.size == 130
    assert index.build() > 0


def test_killing_a_build_leaves_no_half_file_in_use(fleet: Any, small_builds: None, tmp_path: Path) -> None:
    fleet.embed(0, VECTORS[:40])
    script = textwrap.dedent(
        """
        import os, signal, sys
        from infra.platform import open_platform
        from infra.settings import load
        from selection.embedding.index import VectorIndex, calibration, vector_index
        vector_index.SEGMENT_ROWS, vector_index.BUILD_ROWS = 40, 5
        calibration.choose_coder = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        with open_platform(load()) as platform:
            index = VectorIndex(platform, "enc-1")
            index.refresh()
            index.build()
        """
    )
    environment = {**os.environ, **fleet.platform.settings.as_environment()}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, cwd=Path.cwd(), check=False)
    assert killed.returncode == -signal.SIGKILL
    folder = _folder(fleet)
    assert list(folder.glob(".building-*"))
    index = VectorIndex(fleet.platform, "enc-1")
    assert index.refresh() == 40
    assert index.status().kind == "exact"
    assert index.build() == 40
    assert not list(folder.glob(".building-*"))
    there = np.arange(100) < 40
    _check(index, there=there)


def test_searches_go_on_while_rows_come_and_segments_are_built(fleet: Any, small_builds: None) -> None:
    import threading

    index = VectorIndex(fleet.platform, "enc-1")
    fleet.embed(0, VECTORS[:10])
    index.refresh()
    stop, wrong = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            before = index.size
            rows = index.search(VECTORS[:1], k=3)[1][0]
            if rows[0] != 0 or index.size < before:
                wrong.append(rows)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for start in range(10, 100, 10):
            fleet.embed(start, VECTORS[start : start + 10])
            index.refresh()
            index.build()
    finally:
        stop.set()
        thread.join()
    assert not wrong
    _check(index, there=np.ones(100, dtype=bool))


@pytest.mark.usefixtures("_kernel")
@pytest.mark.parametrize("shape", ["clustered", "isotropic"])
def test_two_stage_recall_is_what_was_measured(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_PAYS_BELOW", np.inf)
    draw = np.random.default_rng(3)
    count, dimension = 20_000, 128
    vectors = draw.standard_normal((count, dimension)).astype(np.float32)
    if shape == "clustered":
        latent = draw.standard_normal((60, 16))[draw.integers(0, 60, count)] + 0.3 * draw.standard_normal((count, 16))
        vectors = (latent @ draw.standard_normal((16, dimension)) + 0.3 * vectors).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    half = vectors.astype(np.float16)
    found = scan.principal(vectors)
    coder = calibration.choose_coder(half, found, vectors)
    assert coder is not None
    assert coder.components <= dimension
    codes = coder.encode(vectors)
    near, far = (calibration.halves(calibration.held_out(half, far=far, seed=2)) for far in (False, True))
    margin = calibration.margin_for(codes, coder, [near[0], far[0]])
    recall = calibration.measure(codes, half, coder, margin=margin, near=near[1], far=far[1], seed=3)
    assert min(recall.near, recall.far, recall.filtered) >= 0.99
    assert recall.candidates < count / 4, "the codes must spare most of the rows"
    none = calibration.measure(codes[:, :], half, coder, margin=-1e9, near=near[1], far=far[1], seed=3)
    assert none.near < 0.5, "a measurement that cannot fail measures nothing"


@pytest.mark.parametrize("shape", ["clustered", "isotropic", "all alike"])
def test_codes_are_used_only_where_they_pay(shape: str) -> None:
    draw = np.random.default_rng(4)
    vectors = draw.standard_normal((20_000, 256)).astype(np.float32)
    if shape == "clustered":
        vectors = (draw.standard_normal((20_000, 16)) @ draw.standard_normal((16, 256)) + 0.1 * vectors).astype(
            np.float32
        )
    if shape == "all alike":  # A camera that stands still: more rows than codes could tell apart are the nearest.
        vectors = np.repeat(vectors[:10], 2000, axis=0) + 1e-3 * vectors
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    coder = calibration.choose_coder(vectors.astype(np.float16), scan.principal(vectors), vectors)
    assert (coder is not None) == (shape == "clustered")


@pytest.mark.parametrize("rows", [1, 2])
def test_so_few_rows_have_no_codes(rows: int) -> None:
    vectors = _unit(rows, dimension=64)
    assert calibration.choose_coder(vectors.astype(np.float16), scan.principal(vectors), vectors) is None


@pytest.mark.usefixtures("_kernel")
def test_a_segment_without_codes_is_searched_exactly_and_says_so(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "SEGMENT_ROWS", 40)
    monkeypatch.setattr(vector_index, "BUILD_ROWS", 5)
    monkeypatch.setattr(scan, "DIRECT_ROWS", 2)
    monkeypatch.setattr(calibration, "_PAYS_BELOW", 0.0)
    fleet.embed(0, VECTORS)
    index = VectorIndex(fleet.platform, "enc-1")
    index.refresh()
    index.build()
    _check_all(index, there=np.ones(100, dtype=bool))
    again = VectorIndex(fleet.platform, "enc-1")
    assert again.refresh() == 100
    status = again.status()
    assert (status.kind, {one["kind"] for one in status.segments}) == ("exact", {"exact"})
    assert status.recall == {"near": 1.0, "far": 1.0, "filtered": 1.0}
    _check_all(again, there=np.ones(100, dtype=bool))
    assert not list(again._folder.glob("segment-*/codes.npy"))


@pytest.mark.parametrize("count", [1, 40, 300, 2000])
@pytest.mark.parametrize("threaded", [False, True])
def test_exact_search_prefers_earlier_rows_among_equals(
    count: int, threaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch  # noqa: F401

    if threaded:
        monkeypatch.setattr(exact, "_THREAD_ROWS", 16)
        monkeypatch.setattr(exact, "processors", lambda: 3)
    draw = np.random.default_rng(count)
    vectors = _unit(7, dimension=32)[draw.integers(0, 7, count)].astype(np.float16)
    query = _unit(1, seed=5, dimension=32)[0]
    right = np.round(vectors.astype(np.float32) @ query, 5)
    for allowed in (None, draw.random(count) < 0.5):
        order = np.argsort(-right, kind="stable")
        order = order if allowed is None else order[allowed[order]]
        scores, positions = exact.nearest(vectors, query, k=30, allowed_N=allowed)
        assert sorted(positions.tolist()) == sorted(order[:30].tolist())
        assert np.sort(scores) == pytest.approx(np.sort(right[order[:30]]), abs=1e-5)


def test_products_are_those_of_every_row_that_has_a_vector(fleet: Any, small_builds: None) -> None:
    fleet.embed(0, VECTORS[:40])
    index = VectorIndex(fleet.platform, "enc-1")
    index.refresh()
    index.build()
    fleet.embed(40, VECTORS[40:], valid=np.arange(60) != 7)
    index.refresh()
    found = index.products(3 * QUERIES[0], rows=120)
    there = np.arange(100) != 47
    assert np.isnan(found).tolist() == [*~there, *[True] * 20]
    assert found[:100][there] == pytest.approx(3 * (VECTORS @ QUERIES[0])[there], abs=1e-2)
    assert np.array_equal(index.products(QUERIES[0], rows=30), index.products(QUERIES[0], rows=120)[:30])


@pytest.mark.parametrize("components", [16, 64, 100])
@pytest.mark.parametrize("filtered", [False, True])
def test_candidates_are_all_rows_within_the_margin(
    components: int, filtered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found in one pass and in two, in blocks and pieces, with FAISS and with NumPy."""
    import torch  # noqa: F401

    draw = np.random.default_rng(components)
    vectors = _unit(6000, dimension=128)
    coder = scan.principal(vectors).coder(components, vectors)
    codes = coder.encode(vectors)
    query = _unit(1, seed=9, dimension=128)[0]
    open_positions = np.flatnonzero(draw.random(6000) < 0.7) if filtered else None
    asked, unit, deviation = coder.encode_query(query)
    common = float(coder.mean_D @ query)
    scores = (codes.astype(np.int64) - 128) @ asked.astype(np.int64)
    assert np.array_equal(scan.products(codes, asked), scores)
    assert np.array_equal(asked, np.rint(asked))
    there = np.arange(6000) if open_positions is None else open_positions
    monkeypatch.setattr(scan, "_BLOCK_ROWS", 700)
    for thread_rows in (10_000, 1300):
        monkeypatch.setattr(scan, "_THREAD_ROWS", thread_rows)
        monkeypatch.setattr(scan, "_THREAD_GATHERED_ROWS", thread_rows)
        monkeypatch.setattr(exact, "processors", lambda: 3)
        for margin in (0.0, 0.3, 2.0, 100.0):
            kth = np.sort(scores[there])[-50]
            for above in (-np.inf, kth * unit + common + 0.05):
                bound = max(kth, (above - common) / unit) - margin * deviation
                right = there[scores[there] >= bound]
                for loaded in (True, False):
                    with monkeypatch.context() as context:
                        if not loaded:
                            _with_numpy_alone(context)
                        found = scan.candidates(
                            codes, coder, query, k=50, margin=margin, open_M=open_positions, above=above
                        )
                        assert found.tolist() == right.tolist(), (margin, above, loaded)


def test_a_block_on_a_device_answers_like_one_in_memory() -> None:
    import torch

    vectors = _unit(500, dimension=64).astype(np.float16)
    query = _unit(1, seed=9, dimension=64)[0]
    here, there = exact.ExactBlock(vectors), exact.ExactBlock(vectors, device=torch.device("cpu"))
    for allowed in (None, np.arange(500) % 7 == 0):
        one, other = (block.search(query, k=20, allowed_N=allowed) for block in (here, there))
        assert sorted(one[1].tolist()) == sorted(other[1].tolist())
    assert np.array_equal(there.vectors(np.array([3, 1])), vectors[[3, 1]])


def test_vectors_that_a_gpu_has_no_room_for_are_searched_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from selection.embedding.index import exact

    vectors = np.eye(4, 8, dtype=np.float16)

    def full(*_shape: object, **_options: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", full)
    block = exact.ExactBlock(vectors, device=torch.device("cpu"))
    scores, positions = block.search(vectors[2].astype(np.float32), k=1, allowed_N=None)
    assert (scores.tolist(), positions.tolist()) == ([1.0], [2])
