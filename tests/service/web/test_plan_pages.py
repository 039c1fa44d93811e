"""Plans in a real browser: written, looked at before they are run, kept, and made into a batch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from infra.platform import Platform
from selection.fleet.frames import Frame
from tests.service.conftest import let_all_drives_train
from tests.service.web.conftest import has_no_side_scroll

if TYPE_CHECKING:
    from playwright.sync_api import Page

TASK = {"name": "road-users", "kind": "multilabel", "classes": ["car", "person"]}


def test_a_plan_from_the_form_to_a_batch(page: Page, address: str, fleet: list[Frame], platform: Platform) -> None:
    from playwright.sync_api import expect

    assert fleet
    page.goto(f"{address}/plans")
    page.get_by_role("link", name="New plan").first.click()
    expect(page.locator(".outcome")).to_contain_text("mlpl task create")
    page.request.post(f"{address}/api/v1/tasks", data=TASK)
    let_all_drives_train(platform.database, task_id="road-users")
    page.reload()

    def fill(name: str, text: str) -> None:
        page.locator(f'[data-field="{name}"]').fill(text)
        page.locator(f'[data-field="{name}"]').dispatch_event("change")

    fill("name", "clear-days")
    fill("budget", "5")
    fill("where", "-timeofday:night")
    fill("score.0", "random")
    fill("quotas", "timeofday: dusk 40%")
    fill("caps", "drive: 2")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("heading", name=re.compile(r"^5 frames would be chosen"))).to_be_visible()
    expect(page.locator(".funnel li").first).to_contain_text("fleet")
    expect(page.locator(".funnel li", has_text="where")).to_contain_text("8")
    expect(page.locator(".outcome .shot")).to_have_count(5)

    # The text has what the form said, and what it says goes into the form; mistakes are said where they are made.
    page.get_by_role("tab", name="YAML").click()
    text = page.get_by_label("The plan as YAML")
    expect(text).to_have_value(re.compile(r"quotas:\n  timeofday:\n    dusk: 0\.4\ncaps:\n  drive: 2\nbudget: 5"))
    text.fill(text.input_value() + "seeed: 3\n")
    page.get_by_role("tab", name="Form").click()
    expect(page.get_by_role("alert")).to_contain_text("seeed: there is no such key")
    text.fill(text.input_value().replace("seeed: 3", "seed: 3"))
    page.get_by_role("tab", name="Form").click()
    expect(page.locator('[data-field="seed"]')).to_have_value("3")
    fill("caps", "drive")
    expect(page.get_by_role("alert")).to_contain_text("is not “key: number”")
    for written, kept in {
        "timeofday: dusk 100%": r"dusk: (1\.0|100%|'100%')\n",
        "timeofday: dusk 1": r"dusk: 1\n",
    }.items():
        page.get_by_role("tab", name="Form").click()
        fill("quotas", written)
        page.get_by_role("tab", name="YAML").click()
        expect(text).to_have_value(re.compile(kept))
    page.get_by_role("tab", name="Form").click()
    expect(page.locator('[data-field="quotas"]')).to_have_value("timeofday: dusk 1")
    fill("quotas", "timeofday: dusk 40%")
    fill("caps", "drive: 2")

    # Near-duplicates leave from the calibrated likeness, unless the plan names one.
    likeness = page.locator('[data-field="near_duplicates.threshold"]')
    expect(likeness).to_be_disabled()
    page.locator('[data-field="near_duplicates"]').select_option("one")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator(".funnel li", has_text="near duplicates")).to_contain_text("from likeness 0.95")
    fill("near_duplicates.threshold", "0.97")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator(".funnel li", has_text="near duplicates")).to_contain_text("from likeness 0.97")
    page.locator('[data-field="near_duplicates"]').select_option("")
    expect(likeness).to_be_disabled()
    for width in (1400, 1000, 420):
        page.set_viewport_size({"width": width, "height": 800})
        assert has_no_side_scroll(page)
    page.set_viewport_size({"width": 1400, "height": 800})

    page.get_by_role("button", name="Save").click()
    expect(page).to_have_url(re.compile(r"/plans/clear-days$"))
    expect(page.locator(".title").first).to_contain_text("revision 1")
    page.get_by_role("link", name="Plans", exact=True).first.click()
    expect(page.locator('[data-plan="clear-days"]')).to_contain_text("caps on drive")

    # And by its name, where batches are made.
    page.goto(f"{address}/batches")
    page.get_by_role("button", name="New batch").click()
    page.get_by_role("tab", name="Use a saved plan").click()
    page.get_by_role("button", name="Choose frames").click()
    expect(page).to_have_url(re.compile(r"/batches/road-users-"))
    expect(page.locator(".ftile")).to_have_count(5)
    page.goto(f"{address}/plans/clear-days")
    expect(page.locator(".funnel li", has_text="not in a batch")).to_contain_text("3")
