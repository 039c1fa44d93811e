"""The simulate command on a few frames: whole, resumed, and with names it does not know."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from infra.errors import InvalidInput
from infra.platform import Platform
from service.production_line import prepare
from service.simulation import replay, report, strategies
from service.simulation.replay import Options, Reporter

QUIET = Reporter(say=lambda _line: None, progress=lambda _done, _total: None)


def _frames(folder: Path) -> Path:
    """Sixty frames of six drives; some are dark, some show a light square."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for i in range(60):
        shown = [name for name, every in (("dark", 3), ("square", 4)) if i % every == 0]
        image = Image.new("RGB", (96, 64), (20 if "dark" in shown else 150, 60 + i, 80))
        if "square" in shown:
            ImageDraw.Draw(image).rectangle((10 + i % 7, 10, 60, 50), fill=(250, 240, 90))
        image.save(folder / "images" / f"{i:03d}.png")
        lines.append({"file": f"images/{i:03d}.png", "drive": f"drive-{i // 10}", "classes": shown})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(
        out=tmp_path / "out",
        strategies=strategies.parse("random,default,margin"),
        frames=_frames(tmp_path / "frames"),
        rounds=3,
        batch=5,
        seeds=2,
    )


@pytest.fixture
def small(small_platform: Platform) -> Platform:
    prepare(small_platform.database)
    return small_platform


def test_it_replays_reports_and_goes_on_after_a_kill(
    small: Platform, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = replay.run(small, options, QUIET)
    played = [one for one in found.rounds if one.round]
    assert len(played) == 3 * 3 * 2
    for strategy in options.strategies:
        for seed in range(2):
            mine = [one for one in played if (one.strategy, one.seed) == (strategy.name, seed)]
            assert [one.labels for one in mine] == [5, 10, 15]
            rows = [row for one in mine for row in one.rows]
            assert len(set(rows)) == 15, "no frame is bought twice"
    summary = report.summarise(found, options)
    png, page = (path.read_bytes() for path in report.write(summary, options.out)[1:])
    assert png.startswith(b"\x89PNG")
    assert b"http" not in page.replace(b"http-equiv", b""), "the page works offline"
    assert json.loads((options.out / "simulation.json").read_text()) == summary
    by_name = {one["name"]: one for one in summary["strategies"]}
    assert by_name["random"]["curve"][0]["labels"] == 0
    assert by_name["default"]["seeds"] == 2

    # A kill leaves the first lines and a part of the next.
    results = options.out / replay.RESULTS
    lines = results.read_text().splitlines(keepends=True)
    results.write_text("".join(lines[:9]) + lines[9][:20])
    again = replay.run(small, options, QUIET)
    assert again.rounds == found.rounds
    assert small.database.shards.count_documents({"kind": "predictions"}) == 0

    def refuse(*_arguments: object, **_named: object) -> None:
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr("service.simulation.learners.Probe.probabilities", refuse)
    assert replay.run(small, options, QUIET).rounds == found.rounds, "all of it is read back"


def test_more_rounds_and_strategies_are_added_to_what_is_there(small: Platform, options: Options) -> None:
    replay.run(small, replace(options, strategies=strategies.parse("random"), rounds=1, seeds=1), QUIET)
    before = (options.out / replay.RESULTS).read_text()
    found = replay.run(small, replace(options, rounds=20, seeds=1), QUIET)
    assert (options.out / replay.RESULTS).read_text().startswith(before)
    last = [one for one in found.rounds if one.strategy == "random"][-1]
    everything = next(one for one in found.rounds if one.strategy == replay.ALL_LABELS)
    assert last.labels == everything.labels, "the last round takes what is left"
    assert last.metric == pytest.approx(everything.metric, abs=0.02), "the same labels teach the same"


def test_the_training_job_can_be_the_learner(small: Platform, options: Options, torch_state: None) -> None:
    quick = {"min_steps": "2", "epochs": "1", "input_size": "32", "threads": "1"}
    found = replay.run(
        small,
        replace(
            options, learner="cnn", training=quick, strategies=strategies.parse("entropy"), rounds=2, batch=8, seeds=1
        ),
        QUIET,
    )
    assert [one.labels for one in found.rounds if one.strategy == "entropy"] == [8, 16]
    assert all(0.0 < one.metric <= 1.0 for one in found.rounds)


@pytest.mark.parametrize("text", ["", "random,random", "nonsense", "entropy+margin", "entropy+", "random+entropy"])
def test_strategies_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"strateg"):
        strategies.parse(text)


def test_a_strategy_is_a_plan_of_the_product() -> None:
    default, joined, spread = strategies.parse("default,margin+k_center_greedy,k_center_greedy")
    assert joined.plan(budget=3, seed=1).scores[0].score == "margin"
    assert joined.plan(budget=3, seed=1).diversity.method == "k_center_greedy"
    assert default.asks_model
    assert not spread.asks_model


def test_a_plan_file_is_a_strategy_and_keeps_to_its_filters(small: Platform, options: Options, tmp_path: Path) -> None:
    plan = tmp_path / "one-drive.yaml"
    plan.write_text(
        "version: 1\nwhere: drive:drive-1,drive-2\nexclude: [drive:drive-2]\nscores: [margin]\ndiversity: none\n"
    )
    (strategy,) = strategies.parse(str(plan))
    assert strategy.asks_model
    assert strategy.plan(budget=7, seed=3).budget == 7
    found = replay.run(small, replace(options, strategies=[strategy], rounds=5, seeds=1), QUIET)
    rows = [row for one in found.rounds if one.strategy == strategy.name for row in one.rows]
    assert len(rows) == len(set(rows))
    kept = {document["drive"] for document in small.database.frames.find({"row": {"$in": rows}})}
    assert kept <= {"drive-1"}


def test_a_column_of_the_frames_can_rank_a_simulation(small: Platform, options: Options, tmp_path: Path) -> None:
    plan = tmp_path / "bright.yaml"
    plan.write_text("version: 1\nscores: ['column:brightness']\ndiversity: none\n")
    (strategy,) = strategies.parse(str(plan))
    assert not strategy.asks_model
    found = replay.run(small, replace(options, strategies=[strategy], rounds=2, seeds=1), QUIET)
    first, second = ([*one.rows] for one in found.rounds if one.strategy == strategy.name)
    brightness = {one["row"]: one["brightness"] for one in small.database.frames.find()}
    assert min(brightness[row] for row in first) >= max(brightness[row] for row in second)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scores: [bald]", r"has no score 'bald'"),
        ("scores: ['concept:crossing']", r"has no score 'concept:crossing'"),
        ("pool: labelled\nscores: [entropy]", r"pool: labelled cannot be simulated"),
        ("scores: [nonsense]", r"there is no score 'nonsense'"),
    ],
)
def test_plans_that_cannot_be_simulated_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plan.yaml").write_text(f"version: 1\n{text}\n")
    with pytest.raises(InvalidInput, match=message):
        strategies.parse(str(tmp_path / "plan.yaml"))


def test_a_simulation_stays_out_of_the_fleet(platform: Platform, tmp_path: Path) -> None:
    own = replay.home_settings(platform.settings, tmp_path / "out")
    assert own.home == tmp_path / "out" / "home"
    assert own.database != platform.settings.database
    assert own.object_store is None
