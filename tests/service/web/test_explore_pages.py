"""Map, slices, near-duplicates and coverage in a real browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from infra.platform import Platform
from selection.fleet.frames import Frame
from service.cli.main import app
from tests.service.web.conftest import has_no_side_scroll

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTHS = (1400, 1000, 420)


def run_cli(platform: Platform, command: str) -> None:
    run = CliRunner().invoke(app, [command], env=platform.settings.as_environment())
    assert run.exit_code == 0, run.output


@pytest.mark.parametrize("width", WIDTHS)
def test_slices_lead_to_a_search_of_what_they_hold(
    page: Page, address: str, small_platform: Platform, width: int
) -> None:
    from playwright.sync_api import expect

    run_cli(small_platform, "survey")
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{address}/explore/slices")
    cards = page.locator(".slice")
    expect(cards.first).to_contain_text("0 labelled (0%)")
    expect(cards.first.locator(".shot img").first).to_be_visible()
    assert has_no_side_scroll(page)
    cards.first.get_by_role("link", name="Unlabelled").click()
    expect(page).to_have_url(re.compile(r"where=slice%3A.+-has%3Alabel$"))
    expect(page.locator(".cell img").first).to_be_visible()


def test_groups_of_near_duplicates_mark_the_keeper(page: Page, address: str, fleet: list[Frame]) -> None:
    from playwright.sync_api import expect

    page.goto(f"{address}/explore/duplicates?threshold=0.5")
    expect(page.locator("#sum")).to_contain_text(f"in {len(fleet)} frames")
    expect(page.locator("#sum")).to_contain_text("alike from 0.5")
    group = page.locator(".group").first
    expect(group.locator(".keeper")).to_have_count(1)
    expect(group.locator(".keeper .badge")).to_have_text("keep")
    page.get_by_label("Likeness from which").fill("0.9")
    page.get_by_label("Likeness from which").press("Enter")
    expect(page).to_have_url(re.compile(r"threshold=0\.9$"))
    # A refusal is said where the groups would be.
    page.get_by_role("searchbox", name="Filter").fill("wether:rain")
    page.get_by_role("searchbox", name="Filter").press("Enter")
    expect(page.locator(".empty")).to_contain_text("there is no key 'wether'")


@pytest.mark.parametrize("width", WIDTHS)
def test_coverage_leads_to_the_unlabelled_frames_of_a_cell(page: Page, address: str, width: int) -> None:
    from playwright.sync_api import expect

    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{address}/explore/coverage")
    heat = page.locator(".heat")
    expect(heat.locator("tbody tr")).to_have_count(3)
    expect(page.get_by_label("Rows")).to_have_value("timeofday")
    assert has_no_side_scroll(page)
    page.get_by_label("Columns").select_option("site")
    expect(page).to_have_url(re.compile(r"by=timeofday%2Csite"))
    expect(heat.locator("thead th")).to_contain_text(["timeofday", "north", "south yard"], use_inner_text=True)
    heat.locator("tr", has_text="dusk").locator("a").last.click()
    expect(page.locator(".chip").first).to_contain_text("timeofday: dusk")
    expect(page.locator("#total")).to_have_text(re.compile(r"^\d frames?$"))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_map_colours_opens_and_lassoes(
    page: Page, address: str, fleet: list[Frame], small_platform: Platform, width: int
) -> None:
    from playwright.sync_api import expect

    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{address}/explore")
    expect(page.locator(".blank")).to_contain_text("mlpl map")
    run_cli(small_platform, "map")  # The page looks again by itself.
    expect(page.locator("#points")).to_have_text(f"{len(fleet)} frames")
    expect(page.locator(".entry")).to_have_count(3)
    expect(page.get_by_label("Colour by")).to_have_value("timeofday")
    assert has_no_side_scroll(page)
    page.locator(".entry", has_text="dusk").click()
    expect(page.locator(".entry.off")).to_have_count(1)
    page.get_by_label("Colour by").select_option("brightness")
    expect(page.locator(".ramp")).to_be_visible()
    page.get_by_label("Colour by").select_option("has:label")
    expect(page.locator(".entry", has_text="not labelled")).to_contain_text(str(len(fleet)))

    # Around everything.
    page.get_by_role("button", name="Lasso").click()
    box = page.locator("canvas").bounding_box()
    assert box is not None
    corners = [(0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99)]
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    for x, y in [*corners, corners[0]]:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=8)
    page.mouse.up()
    expect(page.locator("#inside")).to_have_text(f"{len(fleet)} frames inside")
    expect(page.locator(".inside .shot")).to_have_count(len(fleet))
    page.get_by_role("link", name="Search these").click()
    expect(page.locator("#total")).to_have_text(f"{len(fleet)} frames")
    expect(page.locator(".chip").first).to_contain_text("drawn on the map")


def test_a_frame_on_the_map_opens_by_key(
    page: Page, address: str, fleet: list[Frame], small_platform: Platform
) -> None:
    from playwright.sync_api import expect

    run_cli(small_platform, "map")
    page.goto(f"{address}/explore")
    expect(page.locator("#points")).to_have_text(f"{len(fleet)} frames")
    place = page.request.get(f"{address}/api/v1/map").json()
    at = page.locator("canvas").bounding_box()
    assert at is not None
    scale = 0.92 * min(at["width"], at["height"]) / 2
    x = at["x"] + at["width"] / 2 + place["x"][0] * scale
    y = at["y"] + at["height"] / 2 - place["y"][0] * scale
    page.mouse.move(x, y)
    expect(page.locator(".peek img")).to_be_visible()
    page.mouse.click(x, y)
    expect(page.locator(".detail")).to_contain_text("drive-")
    page.keyboard.press("Escape")
    expect(page.locator(".detail")).to_have_count(0)
    page.locator("canvas").focus()
    page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("0")
    expect(page.locator("#points")).to_have_text(f"{len(fleet)} frames")
