"""Teaching a concept in a real browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from selection.fleet.frames import Frame
from tests.service.web.conftest import has_no_side_scroll

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_from_the_first_mark_to_a_search_term(page: Page, address: str, fleet: list[Frame]) -> None:
    from playwright.sync_api import expect

    page.goto(f"{address}/concepts")
    expect(page.locator(".empty")).to_contain_text("mlpl concept create")

    # The first y asks for a name; a name that does not fit is refused before it is sent.
    page.goto(address)
    expect(page.locator(".cell img")).to_have_count(len(fleet))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("y")
    dialog = page.get_by_role("dialog", name="Concept")
    dialog.get_by_label("Name").fill("Wet Road")
    dialog.get_by_role("button", name="Mark").click()
    expect(dialog).to_be_visible()
    dialog.get_by_label("Name").fill("wet-road")
    dialog.get_by_label("Name").press("Enter")
    expect(page.locator("#notes")).to_contain_text("Yes for wet-road: 1 yes, 0 no")
    expect(page.locator(".chip.taught")).to_contain_text("wet-road")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("n")
    expect(page.locator("#notes")).to_contain_text("1 yes, 1 no")
    page.keyboard.press("u")
    expect(page.locator("#notes")).to_contain_text("No mark for wet-road: 1 yes, 0 no")
    page.keyboard.press("n")
    expect(page.locator("#notes")).to_contain_text("No for wet-road: 1 yes, 1 no")

    # The ranking follows each mark at once.
    page.locator("#notes").get_by_role("link", name="Ranking").click()
    expect(page).to_have_url(re.compile(r"/concepts/wet-road$"))
    expect(page.locator(".judged")).to_have_count(len(fleet) - 2)
    first = page.locator(".judged").first.get_attribute("data-frame")
    page.keyboard.press("y")
    expect(page.locator('[data-side="yes"] .shot')).to_have_count(2)
    expect(page.locator(f'.judged[data-frame="{first}"]')).to_have_count(0)
    page.get_by_role("tab", name="Ask me").click()
    expect(page).to_have_url(re.compile(r"order=informative"))
    page.locator(".judged").nth(1).get_by_role("button", name="no: frame").click()
    expect(page.locator('[data-side="no"] .shot')).to_have_count(2)
    expect(page.locator(".judged")).to_have_count(len(fleet) - 4)
    page.locator('[data-side="no"] .shot').first.click()
    expect(page.locator('[data-side="yes"] .shot')).to_have_count(3)
    page.keyboard.press("u")
    expect(page.locator('[data-side="yes"] .shot')).to_have_count(2)
    page.locator('[data-side="no"] .kept').get_by_role("button", name="Take back").click()
    expect(page.locator('[data-side="no"]')).to_have_count(0)
    expect(page.locator(".judged")).to_have_count(len(fleet) - 2)
    for width in (1400, 1000, 420):
        page.set_viewport_size({"width": width, "height": 800})
        assert has_no_side_scroll(page)
    page.set_viewport_size({"width": 1400, "height": 800})

    page.get_by_role("link", name="Use in search").click()
    expect(page.locator(".chip").first).to_contain_text("concept: wet-road")
    expect(page.get_by_label("Sort")).to_have_value("-concept:wet-road")

    page.get_by_role("link", name="Concepts").click()
    page.on("dialog", lambda asked: asked.accept())
    page.locator('[data-concept="wet-road"]').get_by_role("button", name="Delete").click()
    expect(page.locator(".empty")).to_contain_text("No concepts yet")
