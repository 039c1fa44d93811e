"""The search page in a real browser, and the way from it to a batch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from infra.platform import Platform
from selection.fleet.frames import Frame
from tests.service.conftest import let_all_drives_train

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_curating_with_mouse_and_keys(page: Page, address: str, fleet: list[Frame]) -> None:
    from playwright.sync_api import expect

    total, cells = page.locator("#total"), page.locator(".cell img")
    page.goto(address)
    expect(total).to_have_text("12 frames")
    expect(cells).to_have_count(12)

    # A facet is a filter, then its opposite, then nothing; the address follows and so does the back button.
    dusk = page.locator('[data-key="timeofday"] .value', has_text="dusk")
    expect(dusk.locator(".count")).to_have_text("4")
    dusk.click()
    expect(total).to_have_text("4 frames")
    expect(page).to_have_url(re.compile(r"where=timeofday%3Adusk$"))
    dusk.click()
    expect(total).to_have_text("8 frames")
    expect(page.locator(".chip.not")).to_contain_text("not timeofday: dusk")
    page.go_back()
    expect(total).to_have_text("4 frames")

    # One box: words rank, terms filter.
    page.keyboard.press("/")
    page.keyboard.type("a wet street site:north")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"q=a\+wet\+street"))
    expect(page.locator(".chip")).to_have_count(2)
    expect(page.locator(".bar")).to_contain_text("nearest first")
    expect(total).to_have_text("3 frames")
    page.reload()
    expect(total).to_have_text("3 frames")
    expect(page.get_by_role("searchbox")).to_have_value("a wet street")

    # The large view, and on to its neighbours by key.
    page.locator(".cell").first.click()
    expect(page.locator(".side .where")).to_have_text("1 of 3")
    first = page.url
    page.keyboard.press("ArrowRight")
    expect(page.locator(".side .where")).to_have_text("2 of 3")
    assert page.url != first
    page.keyboard.press("m")
    expect(page.locator(".detail")).to_have_count(0)
    expect(page.locator(".chip.seed")).to_contain_text("like this")

    # Selecting by key and by range.
    page.goto(address)
    expect(cells).to_have_count(12)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("x")
    page.locator(".cell").nth(3).click(modifiers=["Shift"])
    expect(page.locator(".chosen b")).to_have_text("4 selected")
    page.keyboard.press("Escape")
    expect(page.locator(".chosen")).to_be_hidden()

    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.goto(f"{address}/?frame={fleet[5].frame_id}")
    expect(page.locator(".detail")).to_contain_text("drive-1")


def test_examples_groups_numbers_and_mistakes(page: Page, address: str, fleet: list[Frame], platform: Platform) -> None:
    from playwright.sync_api import expect

    for frame in fleet:  # As if a track had been joined later: numbers that frames did not have before.
        platform.database.frames.update_one(
            {"_id": frame.frame_id},
            {"$set": {"attributes.speed_kph": 1.5 * frame.row**2, "changed_at": frame.ingested_at}},
        )
    total, cells = page.locator("#total"), page.locator(".cell img")
    page.goto(address)
    expect(total).to_have_text("12 frames")

    # Numbers: a histogram with a field for each end, and a range to sort by.
    speed = page.locator('[data-key="speed_kph"]')
    expect(speed.locator(".bars i")).not_to_have_count(0)
    speed.get_by_label("speed_kph from").fill("50")
    speed.get_by_label("speed_kph from").press("Enter")
    expect(page).to_have_url(re.compile(r"where=speed_kph%3A50\.\."))
    expect(total).to_have_text("6 frames")
    page.get_by_label("Sort").select_option("speed_kph")
    expect(page).to_have_url(re.compile(r"sort=speed_kph"))
    expect(page.locator(".cell").first).to_have_attribute("data-frame", fleet[6].frame_id)

    # One frame a drive, with the number of further ones.
    page.goto(address)
    expect(cells).to_have_count(12)
    page.get_by_label("One a drive").click()
    expect(total).to_have_text("3 drives")
    expect(page.locator(".further").first).to_have_text("+3")
    expect(page).to_have_url(re.compile(r"group=drive"))

    # More like one, less like another, and why.
    page.goto(f"{address}/?frame={fleet[5].frame_id}")
    page.get_by_role("button", name="More like this").click()
    expect(page.locator(".chip.seed")).to_have_count(1)
    expect(cells).to_have_count(11)
    page.locator(".cell").first.click()
    expect(page.locator(".why")).to_contain_text(f"like frame {fleet[5].frame_id[:8]}")
    page.get_by_role("button", name="Less like this").click()
    expect(page.locator(".chip.seed.not")).to_have_count(1)
    expect(total).to_have_text("10 frames")

    # A part of a frame.
    page.goto(f"{address}/?frame={fleet[5].frame_id}")
    expect(page.locator(".stage img[alt^=Frame]")).to_be_visible()
    page.get_by_role("button", name="Part…").click()
    box = page.locator(".cropper").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.6)
    page.mouse.up()
    expect(page).to_have_url(re.compile(rf"like={fleet[5].frame_id}%40\d+%2C"))
    expect(page.locator(".chip.seed")).to_contain_text("like a part of this")
    expect(total).to_have_text("12 frames")

    # Words to be far from stay in the box.
    page.keyboard.press("/")
    page.keyboard.type('a street -"a dark night"')
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"q=a\+street\+-%22a\+dark\+night%22"))
    expect(total).to_have_text("12 frames")


def test_facets_of_values_that_need_quotes_or_folding(
    page: Page, address: str, fleet: list[Frame], platform: Platform
) -> None:
    from playwright.sync_api import expect

    values = ["<10m", "30..50", "STOP*", "Hauptstraße", "heavy rain", "Heavy Rail"]
    for frame in fleet:
        change = {"attributes.sign": values[frame.row % 6], "attributes.label": ["car", "bus"][frame.row % 2]}
        change |= {"changed_at": frame.ingested_at}
        platform.database.frames.update_one({"_id": frame.frame_id}, {"$set": change})
    total, facet = page.locator("#total"), page.locator('[data-key="sign"]')
    page.goto(address)
    expect(total).to_have_text("12 frames")

    # Each is a filter, then its opposite, then nothing.
    for name in values[:4]:
        value = facet.locator(".value", has=page.get_by_text(name, exact=True))
        value.click()
        expect(total).to_have_text("2 frames")
        expect(value).to_have_attribute("aria-pressed", "true")
        value.click()
        expect(total).to_have_text("10 frames")
        expect(value.locator(".count")).to_have_text("−2")
        value.click()
        expect(total).to_have_text("12 frames")

    # A prefix stays one beside what is added and taken away.
    page.goto(f"{address}/?where=sign:%22heavy%20ra%22*")
    expect(total).to_have_text("4 frames")
    facet.locator(".value", has_text="STOP*").click()
    expect(total).to_have_text("6 frames")
    expect(page).to_have_url(re.compile(r"where=sign%3A%22heavy\+ra%22\*%2C%22stop\*%22$"))

    # An attribute of a term's name is asked for by its full one.
    page.goto(address)
    page.locator('[data-key="attributes.label"] .value', has_text="car").click()
    expect(page).to_have_url(re.compile(r"where=attributes\.label%3Acar$"))
    expect(total).to_have_text("6 frames")


def test_a_mistake_in_the_box_is_marked(page: Page, address: str) -> None:
    from playwright.sync_api import expect

    with page.expect_response(lambda answer: "/search" in answer.url):
        page.goto(address)
    page.keyboard.press("/")
    page.keyboard.type("wet wether:rain")
    page.keyboard.press("Enter")
    expect(page.locator(".mistake mark")).to_have_text("w")
    expect(page.locator(".mistake")).to_contain_text("character 5: there is no key 'wether'")
    expect(page.locator(".empty")).to_contain_text("The box above shows what is wrong")
    expect(page.locator("#total")).to_have_text("–")


def test_from_selection_to_a_batch_and_its_trace(
    page: Page, address: str, fleet: list[Frame], platform: Platform
) -> None:
    from playwright.sync_api import expect

    assert fleet
    page.goto(f"{address}/models")
    expect(page.locator(".empty pre")).to_contain_text("mlpl task create")
    task = {"name": "road-users", "kind": "multilabel", "classes": ["car", "person"]}
    page.request.post(f"{address}/api/v1/tasks", data=task)
    let_all_drives_train(platform.database, task_id="road-users")
    page.goto(address)
    expect(page.locator(".cell img")).to_have_count(12)
    for i in (0, 1):
        page.locator(".cell .tick").nth(i).click()
    page.get_by_role("button", name="Add to batch").click()
    expect(page.get_by_role("tab", name="These 2 frames")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("tab", name="Let the model choose")).to_have_attribute("aria-selected", "false")
    page.get_by_role("button", name="Create batch of 2").click()
    expect(page).to_have_url(re.compile(r"/batches/road-users-"))
    expect(page.locator(".ftile")).to_have_count(2)
    expect(page.locator(".ftile").first).to_contain_text("picked by hand")
    page.get_by_role("link", name="Trace").click()
    expect(page.locator(".node.k-batch.centre")).to_have_count(1)
    expect(page.locator(".node.k-frame")).to_contain_text("2 frames")
    page.get_by_role("link", name="Batches").click()
    expect(page.locator("article")).to_contain_text("2 pending of 2")
    page.goto(f"{address}/docs")
    expect(page.locator(".op .path", has_text="/api/v1/search/image")).to_be_visible()


def test_refused_frames_are_left_out_by_one_click(
    page: Page, address: str, fleet: list[Frame], platform: Platform
) -> None:
    from playwright.sync_api import expect

    task = {"name": "road-users", "kind": "multilabel", "classes": ["car", "person"]}
    page.request.post(f"{address}/api/v1/tasks", data=task)
    let_all_drives_train(platform.database, task_id="road-users")
    taken = {"task": "road-users", "frame_ids": [fleet[-1].frame_id]}
    assert page.request.post(f"{address}/api/v1/batches", data=taken).status == 201
    page.goto(address)
    expect(page.locator(".cell img")).to_have_count(12)
    for i in range(3):  # The grid shows the newest first, so the taken frame is among these.
        page.locator(".cell .tick").nth(i).click()
    page.get_by_role("button", name="Add to batch").click()
    page.get_by_role("button", name="Create batch of 3").click()
    expect(page.get_by_role("alert")).to_contain_text(fleet[-1].frame_id)
    page.get_by_role("button", name="Leave out 1, go on with 2").click()
    expect(page).to_have_url(re.compile(r"/batches/road-users-"))
    expect(page.locator(".ftile")).to_have_count(2)


def test_a_server_that_is_away_and_comes_back(page: Page, address: str, fleet: list[Frame]) -> None:
    from playwright.sync_api import expect

    page.goto(address)
    expect(page.locator(".cell img")).to_have_count(len(fleet))
    page.evaluate("window.kept = window.fetch; window.fetch = () => Promise.reject(new TypeError('away')); 0")
    page.get_by_role("link", name="Concepts").click()
    expect(page.locator(".empty")).to_contain_text("The server does not answer")
    page.evaluate("window.fetch = window.kept; 0")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".empty")).to_contain_text("No concepts yet")


def test_an_address_that_is_no_page(page: Page, address: str, fleet: list[Frame]) -> None:
    from playwright.sync_api import expect

    assert fleet
    page.goto(address)
    page.evaluate("history.pushState(null, '', '/trace/%ff%/nowhere'); dispatchEvent(new PopStateEvent('popstate'))")
    expect(page.locator(".empty")).to_contain_text("No such page")
    page.get_by_role("link", name="Go to the search").click()
    expect(page.locator(".cell img")).to_have_count(len(fleet))
