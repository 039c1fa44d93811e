"""Near-duplicates, slices, coverage and map of an embedded fleet: over HTTP, and on the command line."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from infra.errors import InvalidInput
from infra.platform import Platform
from selection.embedding.embed import embed_missing
from selection.fleet import frames
from selection.fleet.frames import Frame
from selection.near_duplicates import of_fleet
from service import reconcile, structure
from service.app import create_app
from service.cli.main import app
from service.curator import Curator
from service.production_line import prepare
from service.structure import map_picture
from service.structure.kept import FRESH_FOR_S, KeptStructure
from service.structure.terms import StructureTerms
from tests.service.conftest import ADDRESS


@pytest.fixture
def embedded(small_platform: Platform, fleet: list[Frame]) -> Platform:
    """The platform with the fleet of twelve, all embedded."""
    assert embed_missing(small_platform, Curator(small_platform).encoder()) == len(fleet)
    return small_platform


@pytest.fixture
def small_client(embedded: Platform) -> Iterator[TestClient]:
    """The API over it."""
    with TestClient(create_app(embedded), base_url=ADDRESS) as opened:
        yield opened


def test_the_structure_of_a_fleet_over_http(small_client: TestClient, fleet: list[Frame]) -> None:
    found = small_client.get("/api/v1/duplicates", params={"threshold": 0.9, "max_hamming": 0}).json()
    grouped = [frame_id for group in found["groups"] for frame_id in (group["keep"], *group["duplicates"])]
    assert len(grouped) == len(set(grouped))
    assert found["frames"] == len(fleet)
    assert found["kept"] == len(fleet) - len(grouped) + found["total"]
    inside = small_client.get("/api/v1/duplicates", params={"threshold": 0.5, "within_drives": True}).json()
    drive_of = {frame.frame_id: frame.drive for frame in fleet}
    assert inside["groups"]
    assert all(drive_of[one] == drive_of[group["keep"]] for group in inside["groups"] for one in group["duplicates"])

    unsurveyed = small_client.get("/api/v1/slices")
    assert unsurveyed.status_code == 422
    assert "mlpl survey" in unsurveyed.json()["message"]

    covered = small_client.get("/api/v1/coverage", params={"by": "timeofday,weather"}).json()
    assert {tuple(cell["values"]): (cell["frames"], cell["labelled"]) for cell in covered["cells"]} == {
        ("day", "clear"): (4, 0),
        ("dusk", "clear"): (4, 0),
        ("night", "rain"): (4, 0),
    }
    assert small_client.get("/api/v1/coverage", params={"by": "nonsense"}).status_code == 422
    assert small_client.get("/api/v1/slices", params={"task": "nothing"}).status_code == 404


def test_pairs_of_the_fleet_and_of_a_frame(embedded: Platform, small_client: TestClient, fleet: list[Frame]) -> None:
    index = Curator(embedded).index()
    rows = np.array([frame.row for frame in fleet])
    cosine = index.vectors(rows) @ index.vectors(rows).T
    threshold = float(np.sort(cosine[np.triu_indices(12, k=1)])[-6]) - 1e-3
    alike = {
        frozenset((fleet[i].frame_id, fleet[j].frame_id))
        for i, j in zip(*np.nonzero(np.triu(cosine, k=1) >= threshold), strict=True)
    }
    environment = embedded.settings.as_environment()
    found = CliRunner().invoke(app, ["duplicates", "--pairs", "--threshold", str(threshold), "--json"], env=environment)
    value = json.loads(found.stdout)
    assert {frozenset(one["frames"]) for one in value["pairs"]} == alike
    assert value["pairs_total"] == len(alike)
    similar = [one["cosine"] for one in value["pairs"]]
    assert similar == sorted(similar, reverse=True)
    few = ["duplicates", "--pairs", "--threshold", str(threshold), "--limit", "2", "--within-drives"]
    assert "pairs among 12 frames" in CliRunner().invoke(app, few, env=environment).stdout

    for frame in fleet:
        listed = small_client.get(
            "/api/v1/duplicates/pairs", params={"frame": frame.frame_id, "threshold": threshold}
        ).json()
        assert {frozenset((frame.frame_id, one["frame_id"])) for one in listed} == {
            pair for pair in alike if frame.frame_id in pair
        }
    one = CliRunner().invoke(
        app, ["duplicates", "--frame", fleet[0].frame_id[:8], "--threshold", "0.5"], env=environment
    )
    assert f"near-duplicates of {fleet[0].frame_id}" in one.stdout
    assert small_client.get("/api/v1/duplicates/pairs", params={"frame": "0" * 32}).status_code == 404
    assert CliRunner().invoke(app, ["duplicates", "--pairs", "--max-hamming", "1"], env=environment).exit_code == 2


def test_a_survey_answers_requests_and_search_terms(
    embedded: Platform, small_client: TestClient, fleet: list[Frame]
) -> None:
    curator = Curator(embedded)
    assert reconcile.survey(embedded, curator)
    assert not reconcile.survey(embedded, curator)
    time.sleep(2 * FRESH_FOR_S)
    slices = small_client.get("/api/v1/slices").json()
    assert sum(one["frames"] for one in slices) == len(fleet)
    assert all(len(one["words"]) == 3 and one["novelty"] is None for one in slices)
    for one in slices:
        found = small_client.get("/api/v1/search", params={"where": f"slice:{one['name']}", "k": 50}).json()
        assert found["total"] == one["frames"]
        assert set(one["examples"]) <= {hit["frame_id"] for hit in found["hits"]}
    anew = structure.find_duplicates(embedded, curator)
    kept = small_client.get("/api/v1/duplicates").json()
    assert (kept["frames"], kept["kept"], kept["waiting"]) == (12, anew.kept, 0)
    assert [[fleet[row].frame_id for row in group] for group in anew.groups] == [
        [group["keep"], *group["duplicates"]] for group in kept["groups"]
    ]
    assert (kept["threshold"], kept["threshold_basis"]) == (anew.threshold, anew.threshold_basis)
    assert kept["threshold"] == 0.95
    assert "not calibrated" in kept["threshold_basis"]
    made = curator.structure().survey()
    assert made is not None
    embedded.database.surveys.update_one({"_id": made.survey.survey_id}, {"$set": {"threshold": 0.5}})
    lowered = Curator(embedded)
    assert structure.likeness(lowered).threshold == structure.find_duplicates(embedded, lowered).threshold == 0.5
    embedded.database.surveys.update_one({"_id": made.survey.survey_id}, {"$set": {"threshold": 0.95}})
    counted = {
        where: small_client.get("/api/v1/search", params={"where": where}).json()["total"]
        for where in ("is:keeper", "is:duplicate", "rarity:>0.5", "novelty:>0.5", "rarity:0..1")
    }
    assert counted["is:keeper"] == anew.kept
    assert counted["is:duplicate"] == 12 - anew.kept
    assert 0 < counted["rarity:>0.5"] < 12
    assert (counted["novelty:>0.5"], counted["rarity:0..1"]) == (0, 12)
    for where, said in (
        ("is:nice", "keeper or duplicate"),
        ("slice:none", "there is no slice"),
        ("rarity:high", "0 to 1"),
    ):
        refused = small_client.get("/api/v1/search", params={"where": where})
        assert refused.status_code == 422
        assert said in refused.json()["message"]
    assert small_client.get("/api/v1/map").json()["total"] == 12
    coloured = small_client.get("/api/v1/map", params={"color": "slice"}).json()["color"]
    assert sum(coloured["counts"]) == 12


def test_another_of_its_group_stands_in_for_a_withdrawn_keeper(embedded: Platform, fleet: list[Frame]) -> None:
    curator = Curator(embedded)
    structure.survey_fleet(embedded, curator)
    kept = KeptStructure(embedded, encoder_id=curator.encoder_id)
    surveyed, columns = kept.survey(), curator.columns()
    assert surveyed is not None
    keeper_N = surveyed.keepers(np.arange(12))
    groups = {row: np.flatnonzero(keeper_N == row) for row in set(keeper_N.tolist())}
    keeper = max(groups, key=lambda row: len(groups[row]))
    left = groups[keeper][groups[keeper] != keeper]
    assert len(left) > 1
    terms = StructureTerms(kept, columns)

    def found(value: str) -> set[int]:
        mask = terms.matches("is", value, is_prefix=False, rows=12)
        assert mask is not None
        return set(np.flatnonzero(mask & columns.mask("")).tolist())

    assert found("keeper") == set(groups)
    frames.withdraw(embedded.database, [fleet[keeper].frame_id], datetime.now(UTC))
    columns.refresh()
    best = int(left[np.argmin(of_fleet.quality_order(columns, left))])
    assert found("keeper") == set(groups) - {keeper} | {best}
    assert found("duplicate") == set(range(12)) - found("keeper") - {keeper}
    for rows in range(12):
        terms.matches("is", "keeper", is_prefix=False, rows=rows)


def test_the_map_is_made_once_and_filtered(
    embedded: Platform, small_client: TestClient, fleet: list[Frame], tmp_path: Path
) -> None:
    nothing = small_client.get("/api/v1/map").json()
    assert (nothing["projection_id"], nothing["rows"], nothing["total"]) == (None, [], 0)
    refused = small_client.post("/api/v1/map/select", json={"polygon": [[0, 0], [1, 0], [1, 1]]})
    assert refused.status_code == 409
    assert "mlpl map" in refused.json()["message"]
    png = tmp_path / "map.png"
    run = CliRunner().invoke(
        app, ["map", "--png", str(png), "--color", "timeofday", "--json"], env=embedded.settings.as_environment()
    )
    assert run.exit_code == 0, run.output
    made = json.loads(run.stdout)
    assert (made["placed"], made["rows"]) == (len(fleet), len(fleet))
    with Image.open(png) as picture:
        assert picture.width > picture.height == map_picture.SIDE_PX
    assert structure.draw_map(embedded, Curator(embedded))[1] == 0
    time.sleep(2 * FRESH_FOR_S)
    shown = small_client.get("/api/v1/map", params={"where": "timeofday:night"}).json()
    assert shown["projection_id"] == made["projection_id"]
    assert shown["rows"] == [frame.row for frame in fleet if frame.attributes["timeofday"] == "night"]
    assert len(shown["x"]) == len(shown["y"]) == shown["total"] == 4


def test_a_lasso_finds_what_lies_inside_and_is_a_search_term(
    embedded: Platform, small_client: TestClient, fleet: list[Frame]
) -> None:
    structure.draw_map(embedded, Curator(embedded))
    time.sleep(2 * FRESH_FOR_S)
    every = small_client.get("/api/v1/map", params={"color": "timeofday"}).json()
    assert every["waiting"] == 0
    assert every["color"]["counts"] == [4, 4, 4]
    assert [every["color"]["values"][code] for code in every["color"]["codes"]] == [
        fleet[row].attributes["timeofday"] for row in every["rows"]
    ]
    few = small_client.get("/api/v1/map", params={"limit": 5, "color": "row_sharpness"})
    assert few.status_code == 422
    few = small_client.get("/api/v1/map", params={"limit": 5, "color": "sharpness"}).json()
    assert (few["total"], len(few["rows"]), len(few["color"]["numbers"] or few["color"]["codes"])) == (12, 5, 5)
    x, y = every["x"][3], every["y"][3]
    left = {row for row, at in zip(every["rows"], every["x"], strict=True) if at < x + 1e-3}
    polygon = [[-2, -2], [x + 1e-3, -2], [x + 1e-3, 2], [-2, 2]]
    found = small_client.post("/api/v1/map/select", json={"polygon": polygon, "frames": 2}).json()
    assert set(found["rows"]) == left
    assert found["total"] == len(left)
    assert found["frame_ids"] == [fleet[row].frame_id for row in sorted(left)[:2]]
    searched = small_client.get("/api/v1/search", params={"where": found["where"] + " weather:rain", "k": 50}).json()
    rainy = {row for row in left if fleet[row].attributes["weather"] == "rain"}
    assert {hit["frame_id"] for hit in searched["hits"]} == {fleet[row].frame_id for row in rainy}
    inside_box = small_client.get("/api/v1/map", params={"box": f"{x - 1e-3},{y - 1e-3},{x + 1e-3},{y + 1e-3}"}).json()
    assert inside_box["rows"] == [every["rows"][3]]
    ids = small_client.get("/api/v1/map/frames", params={"rows": "3,99,0"}).json()
    assert ids == [fleet[3].frame_id, None, fleet[0].frame_id]
    for bad in ({"polygon": [[0, 0], [1, 1]]}, {"polygon": [[0, 0], [1], [2, 2]]}, {"polygon": []}):
        assert small_client.post("/api/v1/map/select", json=bad).status_code == 422
    stale = small_client.get("/api/v1/search", params={"where": 'map:"000000000000 0,0 1,0 1,1"'})
    assert stale.status_code == 422
    assert "made anew" in stale.json()["message"]


def test_commands_print_tables_and_json(embedded: Platform) -> None:
    environment = embedded.settings.as_environment()
    for arguments, words in (
        (["duplicates", "--threshold", "0.9"], "12 frames"),
        (["slices", "-n", "2"], "words"),
        (["coverage", "--by", "timeofday,weather"], "night"),
        (["coverage", "--by", "timeofday", "--by", "weather"], "timeofday  weather"),
    ):
        text = CliRunner().invoke(app, arguments, env=environment)
        assert text.exit_code == 0, text.output
        assert words in text.stdout
        assert json.loads(CliRunner().invoke(app, [*arguments, "--json"], env=environment).stdout)


def test_an_empty_fleet_is_told_what_to_do(small_platform: Platform) -> None:
    prepare(small_platform.database)
    curator = Curator(small_platform)
    with pytest.raises(InvalidInput, match="mlpl ingest"):
        structure.find_coverage(small_platform, curator, ["site"])
    with pytest.raises(InvalidInput, match="mlpl ingest"):
        structure.find_duplicates(small_platform, curator)
    with pytest.raises(InvalidInput, match="mlpl embed"):
        structure.draw_map(small_platform, curator)


def test_a_picture_has_the_colour_of_each_value_where_its_frames_lie() -> None:
    xy = np.array([[-1, 1], [1, -1]], dtype=np.float32)
    data = map_picture.draw(xy, codes=np.array([0, -1], dtype=np.int32), values=("rain",))
    with Image.open(io.BytesIO(data)) as picture:
        upper_left, lower_right = picture.getpixel((10, 10)), picture.getpixel((map_picture.SIDE_PX - 11,) * 2)
    assert upper_left == map_picture._colour(0)
    assert lower_right == map_picture._OTHERS
