"""Several sites in one command, and how far it is."""

from __future__ import annotations

import itertools
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from infra import database as documents
from infra.errors import InvalidInput
from infra.platform import Platform
from selection.fleet import frames
from selection.ingest import ingest as ingesting
from selection.ingest import registration
from selection.ingest.ingest import ingest
from selection.ingest.sources import opening
from selection.ingest.sources.interleaving import interleaved
from selection.ingest.sources.meter import Meter, expected_items


@pytest.fixture
def stores(platform: Platform) -> Platform:
    documents.ensure_indexes(platform.database, frames.INDEXES | ingesting.INDEXES)
    return platform


def _fill(folder: Path, count: int, *, level: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (16, 8), (level, i, 0)).save(folder / f"{i:03d}.png")
    return folder


def test_each_source_has_its_site_and_running_again_adds_nothing(stores: Platform, tmp_path: Path) -> None:
    a, b, c = (_fill(tmp_path / name, 2, level=i) for i, name in enumerate("abc"))
    given = [f"nagoya={a}", f"detroit={b}/*.png", str(c)]
    assert ingest(stores, given, site="ulm").added == 6
    found = frames.by_rows(stores.database, range(6))
    assert sorted(str(one.site) for one in found) == ["detroit"] * 2 + ["nagoya"] * 2 + ["ulm"] * 2
    again = ingest(stores, given, site="ulm")
    assert (again.added, again.already_present, again.sightings_added) == (0, 6, 0)


def test_a_name_with_an_equals_sign_is_a_file_if_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _fill(tmp_path / "drive=3", 1)
    assert opening.read_source("drive=3", site=None) == opening.Named(given="drive=3", site=None)
    _fill(tmp_path / "drive=4", 1)
    for glob in ("drive=*/*.png", "drive=*/**"):
        assert opening.read_source(glob, site="d") == opening.Named(given=glob, site="d")
    assert opening.read_source("ulm=drive=*/*.png", site="d") == opening.Named(given="drive=*/*.png", site="ulm")
    assert opening.read_source("a-b.c=s3://x/y=z", site="d") == opening.Named(given="s3://x/y=z", site="a-b.c")
    assert opening.read_source("/data/x=y", site="d") == opening.Named(given="/data/x=y", site="d")


def test_a_site_whose_folder_does_not_exist_is_named_before_anything_is_done(stores: Platform, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nowhere does not exist"):
        ingest(stores, [f"a={_fill(tmp_path / 'a', 1)}", f"b={tmp_path}/nowhere"])
    assert frames.row_count(stores.database) == 0


def test_totals_are_counted_or_extrapolated() -> None:
    ended = Meter(unit="byte", size=100, position=100, items=7, finished=True)
    half = Meter(unit="byte", size=100, position=50, items=10)
    waiting = Meter(unit="byte", size=300)
    folder = Meter(unit="file", size=9)
    assert expected_items([ended, half]) == 27
    assert expected_items([half, waiting]) == 20 + 60
    assert expected_items([folder, Meter(unit="byte", size=5)]) == 9
    assert expected_items([Meter(unit="file", size=1, position=1, items=600)]) == 600


@pytest.mark.parametrize("kind", ["folder", "tar", "jsonl", "csv", "parquet", "in place"])
def test_the_total_is_near_the_truth_from_the_first_batch_on(
    stores: Platform, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingesting, "BATCH_FILES", 10)
    monkeypatch.setattr(registration, "BATCH_ENTRIES", 10)
    source = _source(tmp_path, kind, count=60)
    told: list[tuple[int, int]] = []
    ingest(stores, [str(source)], in_place=kind == "in place", progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == [10, 20, 30, 40, 50, 60]
    assert all(45 <= total <= 75 for _, total in told[1:]), told
    assert told[-1] == (60, 60)


def _source(folder: Path, kind: str, *, count: int) -> Path:
    images = _fill(folder / "in", count)
    names = [f"in/{i:03d}.png" for i in range(count)]
    match kind:
        case "folder":
            return images
        case "tar":
            with tarfile.open(folder / "x.tar", "w") as tar:
                tar.add(images, arcname="in")
            return folder / "x.tar"
        case "parquet":
            import pyarrow as pa
            from pyarrow import parquet

            parquet.write_table(pa.table({"uri": names}), folder / "x.parquet")
            return folder / "x.parquet"
        case "csv":
            path = folder / "x.csv"
            path.write_text("uri,note\n" + "".join(f"{name},{'x' * 1000}\n" for name in names))
            return path
        case _:
            digest = {i: f', "digest": "{i:064x}"' if kind == "in place" else "" for i in range(count)}
            path = folder / "x.jsonl"
            path.write_text("".join(f'{{"uri": "{name}"{digest[i]}}}\n' for i, name in enumerate(names)))
            return path


def test_a_slow_source_does_not_hold_up_the_others() -> None:
    others_are_done = threading.Event()

    def slow() -> Iterator[str]:
        assert others_are_done.wait(60)
        yield "slow"

    found = []
    for item in interleaved([slow(), "abc"]):
        found.append(item)
        if item == "c":
            others_are_done.set()
    assert found == ["a", "b", "c", "slow"]


def test_what_one_of_several_sources_raises_ends_them_all_and_leaves_no_thread() -> None:
    def fails() -> Iterator[int]:
        yield -1
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(interleaved([fails(), itertools.count()]))
    endless = interleaved([itertools.count(), itertools.count()])
    next(endless)
    endless.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("source")]


def test_sources_that_are_not_read_to_their_end_let_go_of_what_they_hold() -> None:
    left: list[str] = []

    def holds(name: str) -> Iterator[str]:
        try:
            while True:
                yield name
        finally:
            left.append(name)

    sources = [holds("a"), holds("b")]
    items = interleaved(sources)
    seen: set[str] = set()
    while len(seen) < len(sources):
        seen.add(next(items))
    items.close()
    assert sorted(left) == ["a", "b"]


def test_kinds_of_sources_together_are_taken_in_whole_and_again(stores: Platform, tmp_path: Path) -> None:
    given = [str(_source(tmp_path / kind, kind, count=5)) for kind in ("folder", "tar", "csv", "parquet")]
    given.append(f"lab={_fill(tmp_path / 'lab', 5, level=9)}")
    report = ingest(stores, given)
    assert (report.added, report.already_present, report.sightings_added) == (10, 15, 25)
    again = ingest(stores, given)
    assert (again.added, again.already_present, again.sightings_added) == (0, 25, 0)
